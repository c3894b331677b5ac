"""The mean of the weights of models that continue one another's training."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from cristae.errors import InputError, raise_faults
from cristae.networks.ensemble import ensemble_faults
from cristae.networks.model import Model


def average_models(models: Sequence[Model]) -> Model:
    """The model whose weights are the mean of others', along one line of training.

    Fine-tuning makes a network better on what it learns and a little worse on what it knew; the
    mean of the weights before and after keeps most of both, at the cost of one network (Wortsman
    et al., Robust fine-tuning of zero-shot models, CVPR 2022). Of networks trained apart from the
    start the mean means nothing.

    Args:
        models: Two or more of one kind, each trained from an earlier one's weights.

    Returns:
        The last model with the mean of all weights; its card's ``mean_of`` names each model's
        ``trained_on``, date and fingerprint. Thresholds are the last one's: tune them anew.

    Raises:
        InputError: Fewer than two models, or models that differ in more than weights; both values
            are shown.
    """
    if len(models) < 2:
        raise InputError(f"{len(models)} model found, expected two or more")
    first, last = models[0], models[-1]
    networks = [
        f"model {number}: network {model.network_config}, the first has {first.network_config}"
        for number, model in enumerate(models[1:], start=2)
        if model.network_config != first.network_config
    ]
    raise_faults("models", [*ensemble_faults(models), *networks])
    weights = {
        name: torch.stack([model.state_dict[name].double() for model in models]).mean(0).float()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in last.state_dict.items()
    }
    sources = [
        {
            "trained_on": model.card.get("trained_on"),
            "date": model.card.get("date"),
            "fingerprint": model.fingerprint,
        }
        for model in models
    ]
    return replace(last, state_dict=weights, card={**last.card, "mean_of": sources})
