"""Fine-tuning that replays: whose patches come how often, and what is asked of the model."""

from dataclasses import replace

import pytest

from cristae.configuration import to_plain
from cristae.errors import ConfigError, InputError
from cristae.networks.model import load_model, save_model
from cristae.renamed import recorded_names
from cristae.training.replay import replayed_samples
from cristae.training.train import train_model

from .test_train import config, samples  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def base(samples, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("base") / "base.pt"
    train_model(config(steps=1), samples, path, threads=1)
    return path


def test_shares(samples, base):  # noqa: F811
    """A quarter of the patches: own weights 1 and 3 become 1/4 and 3/4 of a third of the new 2."""
    model, train = load_model(base), samples[0]
    assert model.card["volumes"] == [recorded_names(to_plain(train))]
    other = replace(train, name="other", weight=3.0)
    model = replace(model, card={"volumes": [to_plain(train), to_plain(other)]})
    new = [replace(train, weight=2.0), samples[1]]
    own = replayed_samples(model, "base.pt", new, 0.25)
    assert [s.name for s in own] == ["replay_train", "other"]
    assert [s.weight for s in own] == pytest.approx([2 / 12, 6 / 12])
    assert {s.group for s in own} == {"train"}


def test_fine_tuning_with_replay(samples, base, tmp_path):  # noqa: F811
    made = config(steps=1, replay=0.5)
    new = [replace(samples[0], name="new"), samples[1]]
    model = train_model(made, new, tmp_path / "tuned.pt", start_from=base, threads=1)
    assert model.card["trained_on"] == "new, train"
    plain = train_model(
        replace(made, replay=0.0), new, tmp_path / "plain.pt", start_from=base, threads=1
    )
    assert plain.card["trained_on"] == "new"


def test_replay_is_checked_before_the_first_step(samples, base, tmp_path):  # noqa: F811
    made, out = config(replay=0.5), tmp_path / "out" / "model.pt"
    with pytest.raises(ConfigError, match=r"replay 0\.5: expected with a model to start from"):
        train_model(made, samples, out)
    model = load_model(base)
    with pytest.raises(ConfigError, match=r"base\.pt: its card lists no volumes"):
        replayed_samples(replace(model, card={}), "base.pt", samples, 0.5)
    gone = [replace(samples[0], name=n, image=f"{n}.tif", labels="gone.tif") for n in "ab"]
    lost = tmp_path / "lost.pt"
    save_model(replace(model, card={"volumes": [to_plain(s) for s in gone]}), lost)
    with pytest.raises(InputError, match=r"(?s)a\.tif.*b\.tif.*to be replayed.*: a, b"):
        train_model(made, samples, out, start_from=lost)
    with pytest.raises(ConfigError, match=r"replay 1.0: expected a number in \[0, 1\)"):
        train_model(config(replay=1.0), samples, out, start_from=base)
    assert not out.parent.exists()
