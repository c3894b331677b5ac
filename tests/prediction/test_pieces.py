"""Variants, ensembles and masks together: any tiling equals one piece, killed equals unkilled."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.networks.families.unet.network import UNetConfig
from cristae.networks.model import model_network, save_model
from cristae.prediction import request as request_module
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import create_ome_zarr, open_ome_zarr
from cristae.volumes.intensity import normalise, sample_intensity

SHAPE = (5, 44, 52)
PAD = 48
"""In the plane; at least the halo of 45, and a multiple of the lattice of 8."""
COMBINE = {"mean": np.mean, "min": np.min, "max": np.max}


def in_one_piece(array, models, each_turn, tta, combine):
    """255 p by plain passes of the networks over the whole reflected volume."""
    statistics = sample_intensity(open_volume(array))
    image = normalise(array, statistics, models[0].intensity)
    pads = [(3, 3), *((PAD, PAD + -n % 8) for n in array.shape[1:])]
    for axis, along in enumerate(pads):  # what is mirrored is longer than one reflection
        image = np.pad(image, [along if a == axis else (0, 0) for a in range(3)], "reflect")
    each = []
    for network in map(model_network, models):

        def found(seen, network=network):
            with torch.no_grad():
                return torch.sigmoid(network(torch.from_numpy(seen)[None, None])[0]).numpy()

        each.append(COMBINE[combine](list(each_turn(image, found, tta)), axis=0))
    inside = tuple(slice(low, low + n) for (low, _), n in zip(pads, array.shape, strict=True))
    return 255 * COMBINE[combine](each, axis=0)[(slice(None), *inside)]


@pytest.fixture(scope="module")
def pair(make_model):
    """Two models of other networks: halo (3, 45, 45) and a smaller one."""
    small = UNetConfig(widths=(4, 5), strides=((1, 2, 2),), z_kernel_levels=(0,))
    return [make_model(), make_model(small)]


@pytest.fixture(scope="module")
def expected(pair, texture, each_turn):
    """One-piece predictions, each made once."""
    made = {}

    def make(count, tta, combine):
        key = count, tta, combine
        if key not in made:
            made[key] = in_one_piece(texture(SHAPE), pair[:count], each_turn, tta, combine)
        return made[key]

    return make


def ragged_mask():
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:, :19, 5:33] = 1
    mask[0, 40, 50] = 9
    return mask


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tta=st.sampled_from((1, 4, 8, 16)),
    combine=st.sampled_from(sorted(COMBINE)),
    count=st.integers(1, 2),
    masked=st.booleans(),
    block=st.tuples(st.integers(2, 5), st.integers(15, 60), st.integers(15, 60)),
    workers=st.integers(1, 2),
    together=st.integers(1, 3),
)
@example(tta=8, combine="mean", count=2, masked=True, block=(3, 17, 30), workers=2, together=2)
def test_pieces_equal_the_whole(tmp_path_factory, monkeypatch, pair, texture, expected, **drawn):
    """To the rounding of levels, whatever tiles, workers, and tiles computed at the same time."""
    tta, combine, count = drawn["tta"], drawn["combine"], drawn["count"]
    cpus = (torch.device("cpu"),) * drawn["together"]
    monkeypatch.setattr(request_module, "find_devices", lambda wanted: cpus)
    mask = ragged_mask() if drawn["masked"] else None
    found = predict_volume(
        open_volume(texture(SHAPE)),
        pair[:count],
        tmp_path_factory.mktemp("pieces") / "p.zarr",
        config=PredictConfig(precision="float32", tta=tta, combine=combine),
        mask=None if mask is None else open_volume(mask),
        block_shape=drawn["block"],
        resources=Resources(workers=drawn["workers"]),
    ).read()
    whole = expected(count, tta, combine)
    assert whole.std() > 3
    if mask is not None:
        assert not found[:, mask == 0].any()
        found, whole = found[:, mask > 0], whole[:, mask > 0]
    assert np.abs(found - whole).max() < 0.51


def rarely(model):
    """The model with lower logits, so that a coarse pass finds cells to leave out."""
    state = model.state_dict | {"head.bias": model.state_dict["head.bias"] - 3}
    return replace(model, state_dict=state)


KILLED = """
import os, signal, sys
from cristae.engine.executors import Resources
from cristae.networks.model import load_model
from cristae.prediction import predict, tiled
from cristae.volumes.formats import open_volume

source, mask, first, second, out, after = sys.argv[1:]
left, write = [int(after)], tiled.write_shards

def die_after_some(*arguments):
    yield from write(*arguments)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

tiled.write_shards = die_after_some
predict.predict_volume(
    open_volume(source), [load_model(first), load_model(second)], out, mask=open_volume(mask),
    config=predict.PredictConfig(precision="float32", tta=4, skip_empty=True),
    block_shape=(2, 512, 40), resources=Resources(workers=1),
)
"""


def test_killed_in_the_coarse_pass_and_again_after_it(pair, texture, tmp_path):
    """Mask, ensemble, flips and coarse pass: the bytes are those of one run."""
    pair = [rarely(model) for model in pair]
    array = texture((2, 1030, 40))  # three shards
    array[:, 300:] = array.mean()
    mask = np.ones(array.shape, np.uint8)
    mask[:, 600:, :20] = 0
    for name, kind, content in (("v", "image", array), ("k", "labels", mask)):
        stored = create_ome_zarr(
            tmp_path / f"{name}.zarr",
            shape=array.shape,
            dtype="uint8",
            kind=kind,
            voxel_size_nm=(30.0, 8.0, 8.0),
        )
        stored.write(stored.box, content)
    for name, model in zip("ab", pair, strict=True):
        save_model(model, tmp_path / f"{name}.pt")
    paths = [str(tmp_path / name) for name in ("v.zarr", "k.zarr", "a.pt", "b.pt", "p.zarr")]
    for after in ("1", "1"):  # the coarse pass has one shard, which the second run finds
        died = subprocess.run(
            [sys.executable, "-c", KILLED, *paths, after], check=False, env=dict(os.environ)
        )
        assert died.returncode == -signal.SIGKILL
    config = PredictConfig(precision="float32", tta=4, skip_empty=True)
    source, mask = (
        open_ome_zarr(tmp_path / name, str(tmp_path / name)) for name in ("v.zarr", "k.zarr")
    )
    whole, resumed = (
        predict_volume(
            source,
            pair,
            out,
            mask=mask,
            config=config,
            block_shape=(2, 512, 40),
            resources=Resources(workers=1),
        )
        for out in (tmp_path / "whole.zarr", tmp_path / "p.zarr")
    )
    found = whole.read()
    assert np.array_equal(resumed.read(), found)
    assert found.any()
    assert not found[:, :, 1000:].any()  # left out by the coarse pass
