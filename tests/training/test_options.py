"""The best model, tuned thresholds, networks of PyTorch Connectomics, and what memory allows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cristae.engine import memory
from cristae.errors import ConfigError, MemoryLimitError
from cristae.networks.families.pytc.network import PytcConfig
from cristae.networks.families.table import fresh_network
from cristae.networks.model import load_model, model_network
from cristae.networks.windows import WindowRecipe
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.samples.dataset import open_samples
from cristae.segmentation.segment import segment_volume
from cristae.training import loop, step, train
from cristae.training.batches import make_batch
from cristae.training.boxes import make_levels
from cristae.training.config import TrainConfig, windows_of
from cristae.training.config_checks import check_train_config
from cristae.training.geometry import GeometryConfig
from cristae.training.losses import LossConfig, TargetLoss
from cristae.training.memory import fitting_text, step_bytes
from cristae.training.panels import example_panels
from cristae.training.sampling import prepare_source
from cristae.training.state import TrainingFiles, first_state
from cristae.training.step import (
    batch_loss,
    check_gradients,
    reduced_precision,
    run_network,
    sigmoid_logits,
)
from cristae.training.train import train_model
from cristae.training.validation import validate
from cristae.volumes.intensity import normalise, sample_intensity
from cristae.volumes.volume import array_volume

from .conftest import toy_arrays
from .test_train import SIZE, STILL, config, samples, train_killed_at  # noqa: F401  (a fixture)

PYTC_NETWORK = PytcConfig(
    channels=("mask", "contour"),
    outputs=("sigmoid", "sigmoid"),
    widths=(8, 8),
    isotropy=(False, False),
)
ALL = {
    "network": PYTC_NETWORK,
    "steps": 3,
    "validate_every": 1,
    "validate_ap_every": 1,
    "validate_ap_box": (8, 48, 48),
    "validate_ap_boxes": 1,
    "tune": True,
    "thresholds": {"min_size": 20, "min_seed_size": 4},
    "replay": 0.5,
}


@pytest.fixture(scope="module")
def base(samples, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("base") / "base.pt"
    train_model(config(steps=1, network=PYTC_NETWORK), samples, path, threads=1)
    return path


@pytest.mark.parametrize("step", [2, 3])
def test_killed_and_resumed_with_everything_on(samples, base, tmp_path, monkeypatch, step):  # noqa: F811
    """Another network, fine-tuned with replay, best by instances, thresholds tuned at the end."""
    made, paths = config(**ALL), [tmp_path / "whole.pt", tmp_path / "cut.pt"]
    train_model(made, samples, paths[0], start_from=base, threads=1)
    train_killed_at(step, monkeypatch, made, samples, paths[1], start_from=base, threads=1)
    cut = train_model(made, samples, paths[1], start_from=base, threads=1)
    for kind in ("model", "best"):
        first, second = (getattr(TrainingFiles(path), kind) for path in paths)
        assert first.exists() == second.exists()
        assert not first.exists() or first.read_bytes() == second.read_bytes()
    assert cut.card["earlier_thresholds"] == [
        {"decoder": "bc_watershed", "thresholds": {"min_size": 20, "min_seed_size": 4}}
    ]
    assert cut.thresholds["min_size"] == 20
    assert {"seed_threshold", "contour_threshold"} <= set(cut.thresholds)


def test_a_network_of_pytc_learns_and_is_predicted_in_windows(samples, tmp_path):  # noqa: F811
    made = config(
        steps=60,
        network=PYTC_NETWORK,
        learning_rate=1e-2,
        ema_decay=0.9,
        grey=STILL,
        geometry=GeometryConfig.still(),
        validate_every=60,
        checkpoint_every=60,
        thresholds={"min_size": 20, "foreground_threshold": 0.5, "seed_threshold": 0.6},
    )
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    assert float(model.card["validation_iou"]) > 0.8
    image, labels = toy_arrays(seed=1)
    prediction = predict_volume(
        array_volume(image[:, :64, :64], voxel_size_nm=SIZE, kind="image"),
        load_model(tmp_path / "model.pt"),
        tmp_path / "prediction.zarr",
        config=PredictConfig(precision="float32"),
    )
    assert prediction.attributes["windows"]["shape"] == [4, 32, 32]
    found = segment_volume(prediction, tmp_path / "instances.zarr", pyramid=False).read()
    true = labels[:, :64, :64] > 0
    assert ((found > 0) & true).sum() > 0.75 * ((found > 0) | true).sum()


def test_networks_of_pytc_are_validated_in_windows(samples, tmp_path):  # noqa: F811
    """Patches have a window's extent; a box is what prediction makes of it as a volume."""
    recipe = WindowRecipe((4, 24, 28), (3, 16, 20), (1, 6, 4), tta=4)
    made = config(steps=1, network=PYTC_NETWORK, windows=recipe)
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    image = array_volume(toy_arrays((7, 40, 50), seed=1)[0], voxel_size_nm=SIZE, kind="image")
    network = model_network(model).eval()
    grey = torch.from_numpy(normalise(image.read(), sample_intensity(image), "uint8"))
    levels = make_levels(network, made, torch.device("cpu"))(grey)
    asked = PredictConfig(precision="float32")
    assert np.array_equal(
        levels, predict_volume(image, model, tmp_path / "p.zarr", config=asked).read()
    )
    assert levels.std() > 0
    seen = []
    network.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    sources = [prepare_source(one) for one in open_samples(samples)]
    assert 0 <= validate(network, sources, made, torch.device("cpu"))["validation_iou"] <= 1
    assert set(seen) == {(1, 1, 4, 24, 28)}
    panels = example_panels(network, sources, made, torch.device("cpu"))
    assert panels[0].pictures.shape[1:] == (24, 28)


def test_a_model_sees_the_scales_that_its_configuration_says(samples, tmp_path):  # noqa: F811
    scales = (1.0, 1.3)
    made = config(steps=1, scales=scales)
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    image = array_volume(toy_arrays((7, 64, 64), seed=1)[0], voxel_size_nm=SIZE, kind="image")
    found = predict_volume(image, model, tmp_path / "p.zarr")
    assert (model.recipe.scales, found.attributes["scales"]) == (scales, list(scales))
    for wrong, said in (
        (replace(made, working_voxel_size_nm=(None,) * 3), "as nothing is resampled in the plane"),
        (replace(made, scales=(9.0,)), "expected different numbers from 0.25 to 4"),
        (
            replace(made, network=PYTC_NETWORK, patch=(5, 33, 32)),
            "the model runs on its own windows",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            check_train_config(wrong)


def test_a_model_looks_at_sections_as_far_apart_as_its_configuration_says(samples, tmp_path):  # noqa: F811
    spacing = 3 * SIZE[0]
    model = train_model(
        config(steps=1, section_spacing_nm=spacing), samples, tmp_path / "model.pt", threads=1
    )
    image = array_volume(toy_arrays((7, 64, 64), seed=1)[0], voxel_size_nm=SIZE, kind="image")
    found = predict_volume(image, model, tmp_path / "p.zarr")
    assert (model.recipe.section_spacing_nm, found.attributes["section_step"]) == (spacing, 3)
    for made, said in (
        (TrainConfig(section_spacing_nm=-3.0), "-3.0: expected more than 0"),
        (
            TrainConfig(network=PYTC_NETWORK, patch=(5, 33, 32), section_spacing_nm=30.0),
            "30.0: expected null",
        ),
    ):
        with pytest.raises(ConfigError, match=f"section_spacing_nm {said}"):
            check_train_config(made)


def test_a_model_is_validated_and_predicted_with_its_variants(samples, tmp_path):  # noqa: F811
    made = config(steps=1, tta=8)
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    assert load_model(tmp_path / "model.pt").recipe.tta == 8
    image = array_volume(toy_arrays((4, 64, 64), seed=1)[0], voxel_size_nm=SIZE, kind="image")
    asked = PredictConfig(precision="float32", grid="working")
    found = {
        tta: predict_volume(
            image, model, tmp_path / f"{tta}.zarr", config=replace(asked, tta=tta)
        ).read()
        for tta in (None, 8, 1)
    }
    assert np.array_equal(found[None], found[8])
    assert not np.array_equal(found[8], found[1])

    network, grey = model_network(model).eval(), torch.randn(4, 64, 64)
    levels = make_levels(network, made, torch.device("cpu"))(grey).astype(int)
    with torch.no_grad():
        turned = [
            torch.rot90(network(torch.rot90(one, k, (1, 2))[None, None]).sigmoid()[0], -k, (2, 3))
            for one in (grey, grey.flip(2))
            for k in range(4)
        ]
    mean = (sum(turned[:4]) + sum(turned[4:]).flip(3)) / 8
    assert np.abs(levels - (255 * mean).round().numpy()).max() <= 1
    with pytest.raises(ConfigError, match=r"tta 4: expected in windows"):
        check_train_config(TrainConfig(network=PYTC_NETWORK, patch=(5, 33, 32), tta=4))


def test_windows_and_outputs_of_pytc_networks():
    made = TrainConfig(network=PYTC_NETWORK, patch=(5, 33, 32))
    assert windows_of(made) == WindowRecipe((5, 33, 32), (2, 16, 16), (2, 16, 16))
    own = WindowRecipe((4, 32, 32), (2, 16, 16))
    assert windows_of(replace(made, windows=own)) == own
    with pytest.raises(ConfigError, match=r"windows .* expected with a network of PyTorch"):
        check_train_config(TrainConfig(windows=own))
    # (1 + tanh l) / 2 is the sigmoid of 2 l
    network = replace(PYTC_NETWORK, channels=("mask", "distance"), outputs=("sigmoid", "tanh"))
    logits = torch.tensor([0.3, -0.7]).view(1, 2, 1, 1, 1)
    found = torch.sigmoid(sigmoid_logits(logits, network)).flatten()
    expected = torch.stack([torch.sigmoid(logits[0, 0]), (1 + torch.tanh(logits[0, 1])) / 2])
    torch.testing.assert_close(found, expected.flatten())


def test_the_best_is_best_by_instances(samples, tmp_path, monkeypatch):  # noqa: F811
    """Precisions of .5, none, .7 and .6: the third is kept, whatever the foreground's IoU."""
    said = iter([0.5, None, 0.7, 0.6])
    monkeypatch.setattr(loop, "decoded_precision", lambda *_: next(said))
    made = config(steps=4, validate_every=1, validate_ap_every=1, validate_ap_box=(4, 32, 32))
    out = tmp_path / "model.pt"
    model = train_model(made, samples, out, threads=1)
    best = load_model(TrainingFiles(out).best)
    assert (best.card["steps"], best.card["validation_ap75"]) == ("3", "0.7")
    assert model.card["steps"] == "4"


def test_tuning_is_checked_before_the_first_step(samples, tmp_path):  # noqa: F811
    made = config(tune=True, validate_ap_box=(4, 32, 32), decoder="bcd_watershed")
    with pytest.raises(ConfigError, match="distance"):
        train_model(made, samples, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"validate_ap_box \(4, 30, 32\)"):
        train_model(replace(made, validate_ap_box=(4, 30, 32)), samples, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_what_would_fit_is_said(samples, tmp_path, monkeypatch):  # noqa: F811
    """Refused before the start, and where a step runs out: the batch shrinks first."""
    made = config(batch=4, patch=(8, 64, 64))
    single = step_bytes(made.network, made.patch)

    def needed(one):
        return one.batch * step_bytes(one.network, one.patch)

    assert "patch [8, 64, 64] with batch 3 fits" in fitting_text(made, 3.5 * single, needed)
    assert "patch [8, 60, 64] with batch 1 fits" in fitting_text(made, 0.98 * single, needed)
    assert "not even the smallest" in fitting_text(made, 10, needed)
    for module in (memory, train):
        monkeypatch.setattr(module, "available_memory", lambda: 120 << 20)
    with pytest.raises(MemoryLimitError, match=r"needs .* are free; patch .* with batch \d+ fits"):
        train_model(replace(made, patch=(8, 96, 96), batch=16), samples, tmp_path / "a.pt")
    monkeypatch.undo()

    monkeypatch.setattr(train.Team, "device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(train, "available_memory", lambda: 120 << 20)
    train._promise(replace(made, batch=16, cache_gib=0.0), [], 1)  # a GPU has memory of its own


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError("Unable to allocate 9 GiB"),
    ],
    ids=["cuda", "cpu", "cudnn", "numpy"],
)
def test_running_out_of_memory_says_what_would_fit(samples, tmp_path, monkeypatch, error):  # noqa: F811
    def exhausted(*_):
        raise error

    monkeypatch.setattr(loop.Run, "_update", exhausted)
    made = config(batch=4, patch=(8, 64, 64))
    told = r"out of memory on cpu at patch .* with batch 4; patch \[8, 64, 64\] with batch 3"
    with pytest.raises(MemoryLimitError, match=told):
        train_model(made, samples, tmp_path / "b.pt", threads=1)


def test_scaled_gradients_make_the_same_steps(samples, tmp_path, monkeypatch):  # noqa: F811
    """A scale of a power of two, as half precision needs, changes no bit; resumed, it goes on."""
    made = config(steps=3, validate_every=9)
    plain = train_model(made, samples, tmp_path / "plain.pt", threads=1)

    def scaled(*given):
        return first_state(*given[:3], torch.float16)

    monkeypatch.setattr(loop, "first_state", scaled)
    train_killed_at(2, monkeypatch, made, samples, tmp_path / "cut.pt", threads=1)
    cut = train_model(made, samples, tmp_path / "cut.pt", threads=1)
    assert cut.fingerprint == plain.fingerprint
    kept = torch.load(TrainingFiles(tmp_path / "cut.pt").checkpoint, weights_only=True)["scaler"]
    assert kept["scale"] == 65536.0
    assert kept["_growth_tracker"] == 3


def test_reduced_precision_gives_losses_in_float32(toy_source):
    """In bfloat16 the logits and the loss are float32, near those of float32."""
    made = config()
    network = fresh_network(made.network)
    batch = make_batch([toy_source], made, 0, torch.device("cpu"))
    losses = []
    for reduced in (None, torch.bfloat16):
        logits = run_network(network, batch.image, made, reduced)
        assert logits.dtype == torch.float32
        loss, parts = batch_loss(logits, batch, made)
        assert {loss.dtype, *(part.dtype for part in parts.values())} == {torch.float32}
        losses.append(float(loss.detach()))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.fixture
def fast_bfloat16(monkeypatch):
    monkeypatch.setattr(step, "bfloat16_is_fast", lambda: True)


def test_bfloat16_trains_on_a_cpu(samples, tmp_path, fast_bfloat16):  # noqa: F811
    """Steps of their own, near those of float32."""
    made = config(steps=6, validate_every=9)
    exact = train_model(made, samples, tmp_path / "exact.pt", threads=1)
    made = replace(made, precision="bfloat16")
    model = train_model(made, samples, tmp_path / "model.pt", threads=1)
    for name, weight in exact.state_dict.items():
        assert torch.allclose(model.state_dict[name].float(), weight.float(), atol=0.05, rtol=0.1)
    assert model.fingerprint != exact.fingerprint


def test_bfloat16_on_a_cpu_only_where_it_is_right(samples, tmp_path, monkeypatch):  # noqa: F811
    made = config(precision="bfloat16")
    monkeypatch.setattr(step, "bfloat16_is_fast", lambda: False)
    with pytest.raises(ConfigError, match="this processor does not multiply bfloat16"):
        train_model(made, samples, tmp_path / "model.pt")
    monkeypatch.setattr(step, "bfloat16_is_fast", lambda: True)
    with pytest.raises(ConfigError, match="the network has 3D convolutions"):
        reduced_precision(replace(made, network=PYTC_NETWORK), torch.device("cpu"))
    with pytest.raises(ConfigError, match="precision float16: expected float32, bfloat16 or auto"):
        train_model(config(precision="float16"), samples, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_wrong_gradients_are_found(toy_source):
    """A layer whose backward pass is wrong in bfloat16 is named."""
    made = config(precision="bfloat16")
    torch.manual_seed(0)
    network = fresh_network(made.network).train()
    batch = make_batch([toy_source], made, 0, torch.device("cpu"))
    check_gradients(network, batch, made, torch.bfloat16)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def spoil(module, given, out):
        if out.dtype == torch.bfloat16:
            out.register_hook(torch.neg)

    network.encoder[0].last.conv.register_forward_hook(spoil)
    with pytest.raises(ConfigError, match=r"gradient of encoder\.0\..* %, at most 50 % expected"):
        check_gradients(network, batch, made, torch.bfloat16)
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())


def test_panels_show_target_and_output(samples, tmp_path):  # noqa: F811
    """Image, and mask, contour and distance as they are and as found, of the validation sample."""
    made = config(
        steps=1,
        network=replace(config().network, channels=("mask", "contour", "distance")),
        loss=LossConfig(targets={"distance": TargetLoss(mse=1.0)}),
    )
    train_model(made, samples, tmp_path / "model.pt", threads=1)
    with np.load(TrainingFiles(tmp_path / "model.pt").panels) as panels:
        assert panels["titles"].tolist()[:3] == ["image", "mask, true", "mask, found"]
        assert int(panels["step"]) == 1
        shown = panels["panel_validation"]
    assert shown.shape == (7, 32, 32)
    assert set(np.unique(shown[1])) == {0, 255}
    assert (shown[5] > 127)[shown[1] > 0].mean() > 0.9  # inside, distances are above 0
