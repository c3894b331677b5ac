"""Networks, configurations and checkpoints of PyTorch Connectomics v1."""

import json
import logging
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.recipes import BASE, BC
from torch import nn

from cristae.errors import ConfigError, InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.networks.families.pytc.checkpoint import load_pytc_model
from cristae.networks.families.pytc.inference import WindowNetwork
from cristae.networks.families.pytc.network import (
    PytcConfig,
    build_pytc_network,
    pytc_probabilities,
)
from cristae.networks.families.pytc.recipe_files import read_pytc_config
from cristae.networks.model import load_model, model_network, save_model
from cristae.networks.recipe import InferenceRecipe
from cristae.networks.runner import compare_runners, make_runner
from cristae.networks.windows import (
    WindowRecipe,
    recipe_faults,
    weight_profile,
    window_axes,
    window_weight,
)

CASES = (
    "unet_3d_residual_bn_bc",
    "unet_3d_residual_se_isotropic_bn_binary",
    "unet_plus_3d_residual_se_bn_bc",
    "unet_plus_3d_residual_se_gn_bc",
)


@pytest.fixture
def recipe(tmp_path: Path):
    """Writes YAML texts and returns their paths."""

    def write(*texts: str) -> list[Path]:
        paths = [tmp_path / f"config{number}.yaml" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return paths

    return write


def golden_yaml(facts: dict) -> str:
    """The YAML that a golden checkpoint would have been trained with."""
    targets, acts = (
        (["0", "4-1-1"], ["sigmoid"] * 2) if facts["out_channel"] == 2 else (["0"], ["sigmoid"])
    )
    return json.dumps(
        {
            "MODEL": {
                "ARCHITECTURE": facts["architecture"],
                "BLOCK_TYPE": facts["block_type"],
                "FILTERS": facts["filters"],
                "NORM_MODE": facts["norm_mode"],
                "OUT_PLANES": facts["out_channel"],
                "TARGET_OPT": targets,
            },
            "DATASET": {"IS_ISOTROPIC": facts.get("is_isotropic", False)},
            "INFERENCE": {"OUTPUT_ACT": acts},
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_reference(shared: Path, recipe, case: str) -> None:
    folder = shared / "golden" / "networks"
    facts = json.loads((folder / f"{case}.json").read_text())
    model = load_pytc_model(folder / f"{case}.pth.tar", recipe(golden_yaml(facts)))
    network = model_network(model)
    assert sum(p.numel() for p in network.parameters()) == facts["parameters"]
    expected = np.load(folder / f"{case}.npz")
    with torch.no_grad():
        logits = network(torch.from_numpy(expected["input"])).numpy()
    assert np.abs(logits - expected["logits"]).max() <= 1e-4


@pytest.mark.parametrize(
    ("architecture", "block", "widths", "channels", "parameters"),
    [
        ("unet_3d", "residual", (28, 36, 48, 64, 80), 2, 923_902),
        ("unet_3d", "residual_se", (28, 36, 48, 64, 80), 1, 934_881),
        ("unet_3d", "residual_se", (32, 64, 96, 128, 160), 2, 3_543_650),
        ("unet_plus_3d", "residual_se", (32, 64, 96, 128, 160), 2, 3_647_410),
        ("unet_plus_3d", "residual_se", (32, 64, 96, 128, 160), 4, 3_649_012),
    ],
)
def test_parameters_are_as_many_as_the_reference_has(
    architecture, block, widths, channels, parameters
) -> None:
    config = PytcConfig(
        architecture=architecture,
        block=block,
        widths=widths,
        channels=tuple("abcd"[:channels]),
        outputs=("sigmoid",) * channels,
    )
    with torch.device("meta"):
        network = build_pytc_network(config)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("block", ["residual_pa", "residual_se_pa"])
@pytest.mark.parametrize("norm", ["in", "none", "gn"])
@pytest.mark.parametrize("pooling", [False, True])
def test_every_option_keeps_the_extent(block, norm, pooling) -> None:
    config = PytcConfig(block=block, norm=norm, pooling=pooling, widths=(8, 8, 8, 8, 8))
    with torch.no_grad():
        logits = build_pytc_network(config).eval()(torch.randn(1, 1, 9, 34, 40))
    assert logits.shape == (1, 1, 9, 34, 40)
    names = build_pytc_network(config).state_dict()
    inner = "down_layers.0.2.conv.0" if "se" in block else "down_layers.0.2.conv"
    assert f"{inner}.0.2.weight" in names  # before it come norm and activation


def test_pooling_means_the_largest_of_each_block() -> None:
    """With weights of a constant 1 in one place, the deeper level sees the maximum."""
    network = build_pytc_network(PytcConfig(pooling=True, widths=(4, 4), isotropy=(False, False)))
    pool = network.down_layers[1][0]
    assert isinstance(pool, nn.MaxPool3d)
    image = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    assert pool(image).flatten().tolist() == [5, 7, 13, 15]


def test_faults_of_a_network_are_told_at_once() -> None:
    config = PytcConfig(
        architecture="unet_plus_3d", norm="in", widths=(8, 8), channels=("a", "a"), in_channels=0
    )
    with pytest.raises(InputError) as error:
        build_pytc_network(config)
    for part in ("in_channels 0", "different names", "1 outputs", "norm 'in'", "isotropy"):
        assert part in str(error.value)


def test_outputs_become_probabilities() -> None:
    config = PytcConfig(channels=("mask", "distance"), outputs=("sigmoid", "tanh"))
    logits = torch.tensor([0.0, 0.5]).reshape(1, 2, 1, 1, 1)
    found = pytc_probabilities(config, logits).flatten().tolist()
    assert found == pytest.approx([0.5, (np.tanh(0.5) + 1) / 2])


def test_a_recipe_is_read_with_overrides_and_defaults(recipe) -> None:
    setup = read_pytc_config(recipe(BASE, BC, "MODEL: {NORM_MODE: gn}"))
    assert setup.network == PytcConfig(
        architecture="unet_plus_3d",
        block="residual_se",
        channels=("mask", "contour"),
        outputs=("sigmoid", "sigmoid"),
        widths=(32, 64, 96, 128, 160),
        norm="gn",
    )
    assert setup.windows == WindowRecipe(
        shape=(17, 257, 257),
        stride=(8, 128, 128),
        padding=(4, 64, 64),
        tta=4,
        chunks=(4, 8, 8),
    )
    assert setup.decoder == "bc_watershed"
    reasons = dict(line.split(": ", 1) for line in setup.not_carried)
    assert reasons["SOLVER.BASE_LR"] == "of training"
    trees = [yaml.safe_load(text) for text in (BASE, BC)]
    given = {f"{part}.{key}" for tree in trees for part in tree for key in tree[part]}
    assert set(reasons) <= given
    assert given - set(reasons) == {
        *(f"MODEL.{key}" for key in ("ARCHITECTURE", "BLOCK_TYPE", "FILTERS", "NORM_MODE")),
        *(f"MODEL.{key}" for key in ("INPUT_SIZE", "OUTPUT_SIZE", "OUT_PLANES", "TARGET_OPT")),
        *(f"DATASET.{key}" for key in ("PAD_SIZE", "DATA_CHUNK_NUM")),
        *(f"INFERENCE.{key}" for key in ("INPUT_SIZE", "OUTPUT_SIZE", "PAD_SIZE", "STRIDE")),
        *(f"INFERENCE.{key}" for key in ("AUG_MODE", "AUG_NUM", "OUTPUT_ACT")),
    }


def test_what_a_recipe_leaves_out_is_as_in_the_reference(recipe) -> None:
    setup = read_pytc_config(recipe("MODEL: {FILTERS: '(8, 8, 8, 8, 8)'}"))
    assert setup.windows == WindowRecipe(
        shape=(8, 256, 256), stride=(4, 128, 128), padding=(2, 64, 64)
    )
    assert setup.network == PytcConfig(widths=(8, 8, 8, 8, 8))
    assert setup.decoder == "binary_watershed"


@pytest.mark.parametrize(
    ("targets", "channels", "decoder"),
    [
        (["2"], ("affinity_z", "affinity_y", "affinity_x"), "affinity_connected"),
        (["2-1-8-8-v1"], ("affinity_z", "affinity_y8", "affinity_x8"), "binary_watershed"),
        (["0", "4-1-1", "6"], ("mask", "contour", "distance"), "bcd_watershed"),
        (["0", "4-1-1", "5-3d-1-0-4.0"], ("mask", "contour", "distance"), "bcd_watershed"),
    ],
)
def test_targets_name_channels_and_decoder(recipe, targets, channels, decoder) -> None:
    acts = ["sigmoid"] * (len(targets) - 1) + ["tanh"]
    tree = {
        "MODEL": {"TARGET_OPT": targets, "OUT_PLANES": len(channels)},
        "INFERENCE": {"OUTPUT_ACT": acts},
    }
    setup = read_pytc_config(recipe(json.dumps(tree)))
    assert (setup.network.channels, setup.decoder) == (channels, decoder)
    assert setup.network.outputs[-1] == "tanh"


def test_a_recipe_that_cannot_be_followed_is_refused(recipe) -> None:
    text = """
MODEL: {TARGET_OPT: ["0", "7"], OUTPUT_SIZE: [8, 9, 9]}
DATASET: {MEAN: 0.3, DATA_SCALE: [1.0, 0.5, 0.5]}
INFERENCE: {OUTPUT_ACT: [sigmoid, softmax]}
"""
    with pytest.raises(ConfigError) as error:
        read_pytc_config(recipe(text))
    for part in ("MEAN: 0.3", "DATA_SCALE", "'7'", "'softmax'", "OUTPUT_SIZE"):
        assert part in str(error.value)
    for option in ("2-1-8-8-pni", "2-8-8-v1", "2-0-8-8-v1"):
        with pytest.raises(ConfigError, match=rf"'{option}': expected 0, 2 \(or 2-z-y-x-v1\)"):
            read_pytc_config(recipe(f"MODEL: {{TARGET_OPT: ['{option}'], OUT_PLANES: 3}}"))
    with pytest.raises(ConfigError, match=r"OUTPUT_ACT \['sigmoid'\]: expected one .* target"):
        read_pytc_config(recipe("MODEL: {TARGET_OPT: ['0', '4-1-1']}"))
    with pytest.raises(ConfigError, match=r"OUT_PLANES 3: the targets .* have 1"):
        read_pytc_config(recipe("MODEL: {OUT_PLANES: 3}"))
    with pytest.raises(ConfigError, match=r"architecture.*'fpn_3d'"):
        read_pytc_config(recipe("MODEL: {ARCHITECTURE: fpn_3d}"))
    with pytest.raises(ConfigError, match="stride"):
        read_pytc_config(recipe("INFERENCE: {STRIDE: [9, 1, 1]}"))
    with pytest.raises(SourceNotFoundError, match=r"none\.yaml"):
        read_pytc_config(["none.yaml"])


def test_a_misspelt_key_is_listed(recipe) -> None:
    setup = read_pytc_config(recipe("MODEL: {FILTER: [8, 8]}"))
    assert setup.not_carried == ("MODEL.FILTER: no such key in PyTorch Connectomics v1",)


SMALL = """
MODEL: {FILTERS: [8, 8, 8, 8, 8], ARCHITECTURE: unet_plus_3d, BLOCK_TYPE: residual_se}
INFERENCE: {INPUT_SIZE: [5, 17, 17], OUTPUT_SIZE: [5, 17, 17], STRIDE: [2, 8, 8]}
SOLVER: {NAME: SGD}
"""


@pytest.fixture
def weights() -> dict:
    torch.manual_seed(0)
    config = PytcConfig(architecture="unet_plus_3d", block="residual_se", widths=(8, 8, 8, 8, 8))
    return build_pytc_network(config).state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_checkpoints_are_read_with_or_without_prefix(
    tmp_path, recipe, weights, prefix, caplog
) -> None:
    state = {prefix + name: tensor for name, tensor in weights.items()}
    schedule = {"milestones": Counter([3]), "last": np.float64(0.5)}
    torch.save(
        {"iteration": 7, "state_dict": {"n_averaged": torch.tensor(3), **state}, "lr": schedule},
        tmp_path / "c.pth.tar",
    )
    with caplog.at_level(logging.INFO, "cristae"):
        model = load_pytc_model(tmp_path / "c.pth.tar", recipe(SMALL))
    assert set(model.state_dict) == set(weights)
    assert model.working_voxel_size_nm == (None, None, None)
    assert (model.intensity, model.decoder, model.thresholds) == ("uint8", "binary_watershed", {})
    assert model.card["iteration"] == 7
    assert "not carried over: SOLVER.NAME: of training" in caplog.text


def test_what_is_no_checkpoint_of_the_recipe_is_refused(tmp_path, recipe, weights) -> None:
    path = tmp_path / "c.pth.tar"
    with pytest.raises(SourceNotFoundError, match="no such checkpoint"):
        load_pytc_model(path, recipe(SMALL))
    path.write_bytes(b"not at all")
    with pytest.raises(InputError, match="not a checkpoint that can be read safely"):
        load_pytc_model(path, recipe(SMALL))
    torch.save({"model": {}}, path)
    with pytest.raises(InputError, match=r"\['model'\] found, expected a checkpoint"):
        load_pytc_model(path, recipe(SMALL))
    torch.save({"state_dict": weights, "code": Path.home}, path)
    with pytest.raises(InputError, match="not a checkpoint that can be read safely"):
        load_pytc_model(path, recipe(SMALL))
    torch.save({"state_dict": weights}, path)
    with pytest.raises(InputError, match=r"conv_in\.0\.weight: shape .* found, expected \(16"):
        load_pytc_model(path, recipe(SMALL, "MODEL: {FILTERS: [16, 8, 8, 8, 8]}"))
    with pytest.raises(InputError, match="--pytc-config"):
        load_model(path)


def test_a_model_file_keeps_network_and_windows(tmp_path, recipe, weights) -> None:
    torch.save({"state_dict": weights}, tmp_path / "c.pth.tar")
    model = load_pytc_model(tmp_path / "c.pth.tar", recipe(SMALL))
    save_model(model, tmp_path / "m.pt")
    again = load_model(tmp_path / "m.pt")
    assert (again.network_config, again.recipe) == (model.network_config, model.recipe)
    assert again.fingerprint == model.fingerprint
    other = replace(
        model, recipe=InferenceRecipe(windows=replace(model.recipe.windows, blending="bump"))
    )
    assert other.fingerprint != model.fingerprint
    with pytest.raises(InputError, match="windows None: expected"):
        save_model(replace(model, recipe=InferenceRecipe()), tmp_path / "n.pt")


@pytest.mark.parametrize("blending", ["gaussian", "bump"])
def test_weights_equal_the_reference(shared: Path, blending) -> None:
    golden = np.load(shared / "golden" / "blending.npz")
    for name in golden.files:
        kind, *extents = name.split("_")
        if kind != blending:
            continue
        z, y, x = map(int, extents)
        weight = window_weight(WindowRecipe((z, y, x), (1, 1, 1), blending=blending))
        expected = golden[name]
        step = 16 if weight.shape != expected.shape else 1
        found = weight[:: 4 if step > 1 else 1, ::step, ::step]
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_windows_lie_as_drawn() -> None:
    """5 + 2 x 1 voxels, window 4, stride 2: windows at 0, 2, and 3 of the padded axis."""
    recipe = WindowRecipe((4, 4, 9), (2, 4, 9), padding=(1, 0, 0))
    z, y, x = window_axes(recipe, (5, 8, 3))
    assert (z.starts, y.starts, x.starts) == ((-1, 1, 2), (0, 4), (0,))
    assert [list(z.covering(v, v + 1)) for v in range(5)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [1, 2],
        [1, 2],
    ]
    profile = weight_profile(4, "gaussian")
    total, count = z.sums(2, 4)
    assert count.tolist() == [3, 2]
    assert total == pytest.approx([profile[3] + profile[1] + profile[0], profile[2] + profile[1]])


def test_a_recipe_without_sense_is_refused() -> None:
    faults = recipe_faults(WindowRecipe((4, 4, 0), (5, 1, 1), padding=(-1, 0, 0)))
    assert len(faults) == 3


OPTIONS = [
    {},
    {"block": "residual_se"},
    {"block": "residual_pa"},
    {"block": "residual_se_pa", "norm": "none"},
    {"norm": "gn", "architecture": "unet_plus_3d", "block": "residual_se"},
    {"norm": "in"},
    {"pooling": True},
    {"is_isotropic": True},
    {"padding": "zeros"},
    {"padding": "circular", "activation": "gelu"},
    {"architecture": "unet_plus_3d", "block": "residual_se"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())) or "none")
@pytest.mark.parametrize("slab_bytes", [1, 20_000, 1 << 30])
def test_a_prepared_network_answers_the_same(options, slab_bytes, monkeypatch) -> None:
    """Folded, channels-last and in slabs of any size, window after window."""
    monkeypatch.setattr("cristae.networks.families.pytc.inference.SLAB_BYTES", slab_bytes)
    torch.manual_seed(0)
    config = PytcConfig(**{"widths": (8, 8, 16, 16, 24), **options})
    network = build_pytc_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
    network.train()
    with torch.no_grad():  # statistics as training leaves them
        network(torch.randn(2, 1, 9, 33, 33))
    network.eval()
    prepared = WindowNetwork(network, "float32")
    for _ in range(2):
        image = torch.randn(1, 1, 7, 30, 37)
        with torch.no_grad():
            expected = pytc_probabilities(config, network(image.clone()))[0, :, 1:6]
        found = prepared.probabilities(image[0, 0].numpy(), Box((1, 0, 0), (6, 30, 37)))
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_is_measured(precision) -> None:
    torch.manual_seed(0)
    network = build_pytc_network(PytcConfig(widths=(8, 8, 8), isotropy=(False, False, True))).eval()
    image = np.random.default_rng(0).normal(size=(5, 33, 33)).astype(np.float32)
    deviation = compare_runners(partial(make_runner, network), image, precision)
    assert 0 < deviation.mean < deviation.largest < 0.1
