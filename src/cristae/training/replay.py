"""Replay: a fine-tuned model goes on seeing what it learned from, so that it does not forget it.

A model's card lists under ``volumes`` the samples it was trained on, as its configuration named
them. A share of the new run's patches comes from these, in the proportions they had.
"""

from collections.abc import Sequence
from dataclasses import replace

from cristae.configuration import from_plain
from cristae.errors import ConfigError
from cristae.networks.model import Model
from cristae.samples.dataset import Sample


def replayed_samples(
    model: Model, source: str, samples: Sequence[Sample], share: float
) -> list[Sample]:
    """A model's own samples, with weights that give them a share of all patches.

    Args:
        model: The model that is fine-tuned.
        source: Its name, for messages.
        samples: Those of the new run; a replayed one of the same name gets ``replay_`` before it.
        share: Of the patches, in (0, 1).

    Raises:
        ConfigError: A model whose card lists no volumes.
    """
    listed = model.card.get("volumes")
    if not listed:
        raise ConfigError(
            f"{source}: its card lists no volumes, expected some to replay {share:g} of the "
            "patches from; give them as samples of group train"
        )
    own = [
        from_plain(Sample, tree, f"{source}: volume {i} of its card")
        for i, tree in enumerate(listed)
    ]
    new = sum(s.weight for s in samples if s.group == "train")
    factor = new * share / (1 - share) / sum(s.weight for s in own)
    taken = {s.name for s in samples}
    return [
        replace(
            s,
            group="train",
            weight=s.weight * factor,
            name=f"replay_{s.name}" if s.name in taken else s.name,
        )
        for s in own
    ]
