"""The model file: what is written is what is read, and what is not one is refused."""

from dataclasses import replace

import pytest
import torch

from cristae.errors import InputError, SourceNotFoundError
from cristae.networks import model as model_module
from cristae.networks import shipped
from cristae.networks.average import average_models
from cristae.networks.families.unet.network import UNetConfig
from cristae.networks.model import (
    Model,
    load_model,
    model_network,
    save_model,
)
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.retune import retune_model
from cristae.networks.shipped import model_card, named_models

CONFIG = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))


@pytest.fixture
def model(random_network):
    network = random_network(CONFIG)
    return Model(
        network_config=CONFIG,
        state_dict=network.state_dict(),
        channels=CONFIG.channels,
        working_voxel_size_nm=(None, 8.0, 8.0),
        intensity="window",
        decoder="bc_watershed",
        thresholds={"foreground": 0.7},
        card={"data": ["simulated"], "scores": {"AP-75": 0.9}},
        recipe=InferenceRecipe(tta=4),
    )


def write_tree(path, **changes):
    tree = torch.load(path, weights_only=True)
    tree.update(changes)
    torch.save({key: value for key, value in tree.items() if value is not None}, path)


def test_what_is_saved_is_loaded(model, tmp_path):
    saved = save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    for name in ("network_config", "channels", "working_voxel_size_nm", "intensity", "decoder"):
        assert getattr(loaded, name) == getattr(model, name)
    assert dict(loaded.thresholds) == {"foreground": 0.7}
    assert loaded.card == model.card
    assert loaded.recipe == model.recipe == InferenceRecipe(tta=4)
    assert all(torch.equal(loaded.state_dict[n], t) for n, t in model.state_dict.items())
    assert loaded.fingerprint == saved.fingerprint == model.fingerprint
    image = torch.randn(1, 1, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(model_network(loaded)(image), model_network(model)(image))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_offsets_of_affinities_travel(random_network, tmp_path):
    """Those of another order or direction, and those of files that do not name any yet."""
    config = replace(CONFIG, channels=("affinity_x", "affinity_z2", "contour"))
    steps = ((0, 0, 1), (-2, 0, 0))
    model = Model(config, random_network(config).state_dict(), config.channels, offsets=steps)
    path = tmp_path / "model.pt"
    assert save_model(model, path).offsets == load_model(path).offsets == steps
    assert replace(model, offsets=()).fingerprint == model.fingerprint
    write_tree(path, offsets=None)
    assert load_model(path).offsets == ((0, 0, -1), (-2, 0, 0))
    write_tree(path, offsets=[[0, 1]])
    with pytest.raises(InputError, match="offsets"):
        load_model(path)
    with pytest.raises(InputError, match=r"offsets .* expected at most one a channel"):
        save_model(replace(model, offsets=steps * 2), path)


def test_half_precision_is_rounded_once(model, tmp_path):
    saved = save_model(model, tmp_path / "half.pt", stored_as="float16")
    loaded = load_model(tmp_path / "half.pt")
    assert loaded.fingerprint == saved.fingerprint != model.fingerprint
    weight, name = loaded.state_dict["first.conv.weight"], "first.norm.running_var"
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.state_dict["first.conv.weight"].half().float())
    assert torch.equal(loaded.state_dict[name], model.state_dict[name])
    again = save_model(loaded, tmp_path / "again.pt", stored_as="float16")
    assert again.fingerprint == loaded.fingerprint
    half, full = (tmp_path / "half.pt").stat().st_size, 0
    save_model(model, tmp_path / "full.pt")
    full = (tmp_path / "full.pt").stat().st_size
    assert half < full


def test_weights_beyond_half_precision_are_refused(model, tmp_path):
    state = dict(model.state_dict)
    state["head.weight"] = state["head.weight"] + 1e6
    with pytest.raises(InputError, match=r"head.weight: a weight of 1e\+06"):
        save_model(replace(model, state_dict=state), tmp_path / "m.pt", stored_as="float16")
    assert not (tmp_path / "m.pt").exists()


def test_the_fingerprint_is_of_what_can_change_a_prediction(model):
    same = [{"decoder": "affinity"}, {"thresholds": {}}, {"card": {}}]
    assert {replace(model, **change).fingerprint for change in same} == {model.fingerprint}
    state = dict(model.state_dict)
    state["head.bias"] = state["head.bias"] + 1e-6
    others = [
        {"state_dict": state},
        {"intensity": "uint8"},
        {"working_voxel_size_nm": (None, None, None)},
    ]
    changed = {replace(model, **change).fingerprint for change in others}
    assert len(changed) == 3
    assert model.fingerprint not in changed


def test_an_interrupted_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    save_model(model, path)
    before = path.read_bytes()

    def fail(tree, file):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(model_module.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(replace(model, card={}), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_unknown_names_list_the_known_ones(tmp_path, monkeypatch, model):
    save_model(model, tmp_path / "fine.pt")
    (tmp_path / "fine.md").write_text("# fine\n")
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    assert list(named_models()) == ["fine"]
    assert model_card("fine") == "# fine\n"
    assert load_model("fine").fingerprint == model.fingerprint
    for call in (load_model, model_card):
        with pytest.raises(SourceNotFoundError, match=r"other.*known names: fine"):
            call("other")


def test_what_is_not_a_model_file_is_refused(model, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"model.pt: not a model file"):
        load_model(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"format None found"):
        load_model(path)
    with pytest.raises(InputError, match="a folder found"):
        load_model(tmp_path)
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"model.pt: not a model file"):
        load_model(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("gotcha",))

    torch.save({"format": "cristae model", "card": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="not a model file, or a damaged one"):
        load_model(tmp_path / "evil.pt")


def test_a_newer_format_is_refused(model, tmp_path):
    save_model(model, tmp_path / "m.pt")
    write_tree(tmp_path / "m.pt", format_version=2)
    with pytest.raises(InputError, match=r"format_version 2 found.*reads up to 1"):
        load_model(tmp_path / "m.pt")


def test_all_faults_of_a_file_are_told(model, tmp_path):
    path = tmp_path / "m.pt"
    save_model(model, path)
    state = dict(model.state_dict)
    state["head.bias"] = torch.zeros(3)
    state["extra"] = torch.zeros(1)
    state["head.weight"] = state["head.weight"] * float("nan")
    del state["first.norm.bias"]
    write_tree(path, state_dict=state, intensity="odd", working_voxel_size_nm=[None, 0.0, 8.0])
    with pytest.raises(InputError) as error:
        load_model(path)
    for part in (
        r"head.bias: shape (3,) found, expected (8,)",
        "extra: not in the network",
        "first.norm.bias: not in the file",
        "head.weight: holds values that are not finite",
        "'odd' found",
        "working_voxel_size_nm",
    ):
        assert part in str(error.value)
    write_tree(path, decoder=None)
    with pytest.raises(InputError, match="decoder: NoneType found"):
        load_model(path)


@pytest.mark.parametrize("stored_as", ["float32", "float16"])
def test_new_thresholds_leave_the_weights_and_remember_the_old(model, tmp_path, stored_as):
    path = tmp_path / "model.pt"
    saved = save_model(model, path, stored_as=stored_as)
    tensors = torch.load(path, weights_only=True)["state_dict"]
    retune_model(path, "mitoem", {"min_size": 8, "seed_threshold": 0.5})
    retune_model(path, "mitoem", {"min_size": 9, "seed_threshold": 0.5})
    retune_model(path, "mitoem", {"min_size": 9, "seed_threshold": 0.5})
    tree = torch.load(path, weights_only=True)
    assert tree["stored_as"] == stored_as
    assert all(torch.equal(tree["state_dict"][n], t) for n, t in tensors.items())
    now = load_model(path)
    assert (now.decoder, now.thresholds) == ("mitoem", {"min_size": 9, "seed_threshold": 0.5})
    assert now.card["earlier_thresholds"] == [
        {"decoder": "bc_watershed", "thresholds": {"foreground": 0.7}},
        {"decoder": "mitoem", "thresholds": {"min_size": 8, "seed_threshold": 0.5}},
    ]
    assert now.card["data"] == ["simulated"]
    assert now.fingerprint == saved.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_counts_of_voxels_keep_their_volume(model, tmp_path):
    """30x8x8 nm is 1,920 cubic nm a voxel, 5x5x5 nm 125: 15.36 times as many."""
    path = tmp_path / "model.pt"
    save_model(model, path)
    found = {"min_size": 100, "min_seed_size": 0, "seed_threshold": 0.5}
    now = retune_model(path, "mitoem", found, (30.0, 8.0, 8.0))
    assert load_model(path).threshold_voxel_size_nm == (30.0, 8.0, 8.0)
    assert now.thresholds_at((5.0, 5.0, 5.0)) == found | {"min_size": 1536}
    assert now.thresholds_at((300.0, 80.0, 80.0)) == found | {"min_size": 1}
    assert now.thresholds_at(None) == now.thresholds_at((30.0, 8.0, 8.0)) == found
    # a section of 5 nm, or four, are a slice of an instance: they count as a section of 30 nm
    assert now.thresholds_at((5.0, 5.0, 5.0), 1) == found | {"min_size": 256}
    assert now.thresholds_at((5.0, 5.0, 5.0), 4) == found | {"min_size": 1024}
    assert now.thresholds_at((5.0, 5.0, 5.0), 6) == found | {"min_size": 1536}
    assert now.thresholds_at((50.0, 8.0, 8.0), 1) == found | {"min_size": 60}
    again = retune_model(path, "mitoem", found)
    assert again.thresholds_at((5.0, 5.0, 5.0)) == found
    with pytest.raises(InputError, match="threshold_voxel_size_nm"):
        save_model(replace(model, threshold_voxel_size_nm=(30.0, 0.0, 8.0)), path)


def test_models_of_the_package_are_not_retuned(tmp_path):
    path = next(iter(named_models().values()))
    before = path.stat().st_mtime_ns
    with pytest.raises(InputError, match="copy it"):
        retune_model(path, "mitoem", {})
    with pytest.raises(SourceNotFoundError, match="no such model file"):
        retune_model(tmp_path / "none.pt", "mitoem", {})
    assert path.stat().st_mtime_ns == before


def test_the_mean_of_models_is_that_of_their_weights(model, random_network):
    other = replace(model, state_dict=random_network(CONFIG, seed=1).state_dict())
    mean = average_models([model, other])
    for name, tensor in mean.state_dict.items():
        first, second = model.state_dict[name], other.state_dict[name]
        assert tensor.dtype == second.dtype
        if tensor.is_floating_point():
            assert torch.allclose(tensor, (first + second) / 2, atol=1e-6)
    assert not all(torch.equal(mean.state_dict[n], t) for n, t in model.state_dict.items())
    assert [source["fingerprint"] for source in mean.card["mean_of"]] == [
        model.fingerprint,
        other.fingerprint,
    ]
    assert dict(mean.thresholds) == dict(model.thresholds)


def test_only_models_of_one_kind_have_a_mean(model):
    with pytest.raises(InputError, match="1 model found, expected two or more"):
        average_models([model])
    with pytest.raises(InputError, match="model 2: intensity window, the first has uint8"):
        average_models([replace(model, intensity="uint8"), model])
    wider = replace(CONFIG, widths=(4, 8))
    with pytest.raises(InputError, match=r"model 2: network .*widths=\(4, 8\), .*widths=\(4, 6\)"):
        average_models([model, replace(model, network_config=wider)])
