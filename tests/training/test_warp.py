"""Batches of patches are turned on the device: each as if alone, each voxel where the warp says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from cristae.training.augment import PYTC
from cristae.training.batches import make_batch
from cristae.training.config import TrainConfig
from cristae.training.copy_paste import CopyPasteConfig
from cristae.training.geometry import GeometryConfig
from cristae.training.sampling import (
    SamplingConfig,
    cut_patch,
    plan_patch,
    prepare_source,
    random_stream,
)
from cristae.training.warp import warp_patches

from .conftest import toy_arrays, toy_opened

PATCH = (6, 32, 40)
CPU = torch.device("cpu")
ALL = replace(
    PYTC.geometry, turn=0.5, scale=(0.8, 1.2), stretch=0.05, elastic=0.5, shift=0.8, shift_px=5
)
ELASTIC = replace(ALL, elastic_sigma_px=0.0)
DEVICES = [CPU, *(torch.device("cuda"),) * torch.cuda.is_available()]


@pytest.fixture(scope="module")
def sources():
    """One at the working size, one of half of it, with a mask."""
    image, labels = toy_arrays((16, 128, 128))
    mask = (labels != 3).astype(np.uint8)
    fine = toy_opened(image, labels, voxel_size_nm=(30.0, 4.0, 5.0), mask=mask)
    return [prepare_source(toy_opened(image, labels)), prepare_source(fine)]


def cuts_of(sources, geometry, count=12):
    cuts = []
    for i in range(count):
        random = random_stream(7, i, 0)
        plan = plan_patch(sources, PATCH, (None, 8.0, 8.0), SamplingConfig(), geometry, random)
        cuts.append(cut_patch(sources[plan.source], plan, PATCH, "uint8"))
    return cuts


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("geometry", [ALL, ELASTIC], ids=["field", "lattice"])
def test_patches_do_not_depend_on_their_batch(sources, geometry, device):
    """All at once, or each alone: the same bits; on a GPU those of the CPU, up to rounding."""
    cuts = cuts_of(sources, geometry)
    kinds = {(c.fine, c.known is None, c.warp.bend is None, len(c.warp.groups())) for c in cuts}
    assert len(kinds) > 4
    batch = warp_patches(cuts, PATCH, device)
    for i, cut in enumerate(cuts):
        image, ids, known = warp_patches([cut], PATCH, device)
        assert torch.equal(image[0], batch[0][i])
        assert torch.equal(ids[0], batch[1][i])
        assert torch.equal(torch.ones_like(image) if known is None else known, batch[2][i : i + 1])
    on_cpu = warp_patches(cuts, PATCH, CPU)
    torch.testing.assert_close(batch[0].cpu(), on_cpu[0], rtol=0, atol=1e-5)
    assert torch.equal(batch[1].cpu(), on_cpu[1])


@pytest.mark.parametrize("index", range(6))
def test_voxels_lie_where_the_warp_says(sources, index):
    """Section by section, by SciPy's interpolation at the places that `Warp` defines."""
    cut = cuts_of(sources, ALL)[index]
    warp, fine = cut.warp, cut.fine
    found, ids, _ = warp_patches([cut], PATCH, CPU)
    bend = np.zeros((2, *PATCH[1:])) if warp.bend is None else warp.bend
    angles = np.zeros(PATCH[0]) if warp.turns is None else warp.turns
    for section, (shift, angle) in enumerate(zip(warp.shifts, angles, strict=True)):
        if fine == 1 or warp.bend is None:  # the mean over a bent grid needs its bicubic values
            seen = [
                source_places(cut, shift, angle, bend, (y, x))
                for y in sub_places(fine)
                for x in sub_places(fine)
            ]
            grey = [ndimage.map_coordinates(cut.grey[..., section], at, order=1) for at in seen]
            np.testing.assert_allclose(found[0, section], np.mean(grey, axis=0), atol=1e-5)
        places = source_places(cut, shift, angle, bend, (0.0, 0.0))
        nearest = tuple(np.round(places).astype(int))
        assert np.array_equal(ids[0, section], cut.labels[..., section][nearest])


def sub_places(fine):
    return (np.arange(fine) + 0.5) / fine - 0.5


def source_places(cut, shift, angle, bend, inside):
    """Places (2, y, x) in the box, in voxels from the centre of its first one."""
    offsets = np.stack(np.mgrid[: PATCH[1], : PATCH[2]]) + 0.5
    offsets -= np.reshape(PATCH[1:], (2, 1, 1)) / 2
    offsets += np.reshape(shift, (2, 1, 1)) + bend + np.reshape(inside, (2, 1, 1))
    turned = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    places = np.einsum("ij,jk,kyx->iyx", cut.warp.matrix, turned, offsets)
    return places + np.reshape(np.subtract(cut.warp.centre, cut.corner) - 0.5, (2, 1, 1))


def test_ids_beyond_float32_are_exact(sources):
    """Ids that float32 cannot tell apart stay apart."""
    cuts = cuts_of(sources, ALL, 4)
    large = [replace(c, labels=c.labels + np.int32(2**30)) for c in cuts]
    ids = warp_patches(cuts, PATCH, CPU)[1]
    assert torch.equal(warp_patches(large, PATCH, CPU)[1], ids + 2**30)
    assert len(ids.unique()) > 4


@pytest.mark.parametrize("augmentation", ["own", "pytc"])
def test_batches_of_four_are_two_of_two(sources, augmentation):
    """Geometry, copies, defects and grey values: all of a patch is its own."""
    own = {"geometry": GeometryConfig(shift=0.5), "copy_paste": CopyPasteConfig(share=0.7)}
    made = TrainConfig(
        batch=4,
        patch=(4, 48, 48),
        intensity="uint8",
        augmentation=augmentation,
        **(own if augmentation == "own" else {}),
    )
    whole = make_batch(sources, made, 8, CPU)
    halves = [make_batch(sources, replace(made, batch=2), first, CPU) for first in (8, 10)]
    for name in ("image", "labels"):
        parts = torch.cat([getattr(half, name) for half in halves])
        assert torch.equal(getattr(whole, name), parts)
