"""Patches are a pure function of (seed, i), and lie where they are said to lie."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cristae.training.geometry import GeometryConfig, draw_warp
from cristae.training.instance_index import index_instances
from cristae.training.sampling import (
    SamplingConfig,
    fixed_patches,
    plan_patch,
    prepare_source,
    random_stream,
    read_patch,
)
from cristae.volumes.volume import array_volume

from .conftest import toy_arrays, toy_opened

PATCH = (4, 32, 32)
WORKING = (None, 8.0, 8.0)
STILL = GeometryConfig.still()


def patch_of(source, index, *, geometry=None, seed=5, patch=PATCH, working=WORKING):
    plan = plan_patch(
        [source],
        patch,
        working,
        SamplingConfig(),
        geometry or GeometryConfig(),
        random_stream(seed, index, 0),
    )
    return read_patch(source, plan, patch, "uint8")


def test_patch_is_a_pure_function_of_seed_and_number(toy_source):
    ahead = [patch_of(toy_source, i)[0] for i in (0, 1, 2)]
    assert torch.equal(patch_of(toy_source, 2)[0], ahead[2])
    assert not torch.equal(ahead[1], ahead[2])
    assert not torch.equal(patch_of(toy_source, 2, seed=6)[0], ahead[2])


def test_unturned_patch_is_a_box_of_the_volume(toy_source):
    """At the working voxel size no value is interpolated, and labels are those of the box."""
    image, labels = toy_arrays()
    for i in range(10):
        plan = plan_patch(
            [toy_source], PATCH, WORKING, SamplingConfig(), STILL, random_stream(0, i, 0)
        )
        found, ids, mask = read_patch(toy_source, plan, PATCH, "uint8")
        y, x = (round(c - 16) for c in plan.warp.centre)
        box = np.s_[plan.sections[0] : plan.sections[0] + 4, y : y + 32, x : x + 32]
        expected = (image[box].astype(np.float32) / 255 - 0.5) / 0.5
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
        assert np.array_equal(ids.numpy(), labels[box])
        assert mask is None


def test_image_and_labels_move_together():
    """With the labels painted as the image, every turned patch shows the same in both."""
    _, labels = toy_arrays()
    painted = np.where(labels > 0, 255, 0).astype(np.uint8)
    source = prepare_source(toy_opened(painted, labels))
    geometry = GeometryConfig(turn=1.0, elastic=1.0, shift=1.0)
    agreement = []
    for i in range(12):
        image, ids, _ = patch_of(source, i, geometry=geometry)
        agreement.append(float(((image > 0) == (ids > 0)).float().mean()))
    assert min(agreement) > 0.985  # but for the rounding of border pixels


@pytest.mark.parametrize("share", ["rescale", "elastic", "shift_turns", "lost"])
def test_image_and_labels_move_together_in_every_way(share):
    """As above, for each way alone; and each does change the patch."""
    _, labels = toy_arrays()
    painted = np.where(labels > 0, 255, 0).astype(np.uint8)
    source = prepare_source(toy_opened(painted, labels))
    ways = {"rescale": 0.0, "elastic": 0.0, "shift_turns": 0.0, "lost": 0.0} | {share: 1.0}
    geometry = replace(STILL, elastic_sigma_px=4.0, shift=1.0, shift_px=8, **ways)
    still = replace(geometry, shift=0.0, **dict.fromkeys(ways, 0.0))
    differ = 0
    for i in range(8):
        image, ids, _ = patch_of(source, i, geometry=geometry)
        assert float(((image > 0) == (ids > 0)).float().mean()) > 0.985
        differ += not torch.equal(ids, patch_of(source, i, geometry=still)[1])
    assert differ >= (2 if share == "lost" else 6)  # inner sections of the toy are all alike


def test_rescaled_along_each_axis():
    """Scale 1.25 and 1.25 shows 4/5 of the extent, each voxel as wide as that says."""
    geometry = replace(STILL, rescale=1.0, rescale_range=(1.25, 1.25))
    warp = draw_warp((50.0, 50.0), (1.0, 1.0), PATCH, geometry, random_stream(0, 0, 0))
    np.testing.assert_allclose(warp.matrix, np.diag([0.8, 0.8]))
    wide = replace(geometry, rescale_range=(0.8, 1.25))
    y, x = np.diag(draw_warp((50.0, 50.0), (1.0, 1.0), PATCH, wide, random_stream(0, 0, 0)).matrix)
    assert y != x
    assert 0.8 <= y <= 1.25
    assert 0.8 <= x <= 1.25


def test_turned_sections_turn_about_the_centre():
    """Of 8 sections some are turned, alike; a corner moves by the shift at most."""
    geometry = replace(STILL, shift=1.0, shift_px=6, shift_turns=1.0)
    patch = (8, 64, 64)
    for i in range(6):
        warp = draw_warp((50.0, 50.0), (1.0, 1.0), patch, geometry, random_stream(1, i, 0))
        turned = warp.turns[warp.turns != 0]
        assert 0 < len(turned) < 8
        assert len(set(turned)) == 1
        assert not warp.shifts.any()
        corner = np.hypot(32, 32) * 2 * np.sin(abs(turned[0]) / 2)
        assert 0 < corner <= 6
        (y0, y1), (x0, x1) = warp.bounds(patch)
        reach = 32 * (np.cos(turned[0]) + abs(np.sin(turned[0])))
        assert min(50 - y0, y1 - 50, 50 - x0, x1 - 50) >= reach


def test_elastic_field_of_the_reference():
    """Uniform values of +-16, smoothed by sigma 4: each is a mean of about 201 of them."""
    geometry = replace(STILL, elastic=1.0, elastic_sigma_px=4.0, elastic_alpha_px=16.0)
    warp = draw_warp((0.0, 0.0), (1.0, 1.0), (1, 256, 256), geometry, random_stream(0, 0, 0))
    assert warp.bend.shape == (2, 256, 256)
    expected = 16 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 4)
    assert warp.bend.std() == pytest.approx(expected, rel=0.1)


def test_lost_sections():
    """A patch of 6 sections out of 8 in a row, whose first and last are kept."""
    image = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None], (24, 40, 40)) * 10
    labels = image // 10 + 1
    source = prepare_source(toy_opened(np.ascontiguousarray(image), labels))
    geometry = replace(STILL, lost=1.0, lost_sections=2)
    for i in range(6):
        found, _, _ = patch_of(source, i, geometry=geometry, patch=(6, 16, 16))
        sections = torch.round((found[:, 0, 0] + 1) / 2 * 25.5).int().tolist()
        assert sections == sorted(set(sections))
        assert sections[-1] - sections[0] == 7
    thin = prepare_source(toy_opened(np.ascontiguousarray(image[:7]), labels[:7]))
    found, _, _ = patch_of(thin, 0, geometry=geometry, patch=(6, 16, 16))
    sections = torch.round((found[:, 0, 0] + 1) / 2 * 25.5).int().tolist()
    assert sections == list(range(sections[0], sections[0] + 6))  # too few to lose any


@pytest.mark.parametrize("offset", [0, 2**27])
def test_ids_survive_exactly(offset):
    """No id is made up by interpolation, whatever its size: as many as the squares in sight."""
    image, labels = toy_arrays()
    labels = np.where(labels > 0, labels + np.uint32(offset), 0).astype(np.uint32)
    source = prepare_source(toy_opened(image, labels))
    plain = prepare_source(toy_opened(*toy_arrays()))
    geometry = GeometryConfig(turn=1.0, elastic=1.0)
    for i in range(8):
        ids = patch_of(source, i, geometry=geometry)[1]
        expected = patch_of(plain, i, geometry=geometry)[1]
        pairs = torch.stack([ids.flatten(), expected.flatten()]).unique(dim=1)
        assert pairs.shape[1] == len(ids.unique()) == len(expected.unique())
        assert bool(((ids > 0) == (expected > 0)).all())


def test_working_size_scales_objects():
    """A square of 14 x 16 voxels of 4 nm is 7 x 8 working voxels of 8 nm."""
    image, labels = toy_arrays()
    source = prepare_source(toy_opened(image, labels, voxel_size_nm=(30.0, 4.0, 4.0)))
    _, ids, _ = patch_of(source, 3, geometry=STILL)
    whole = [int((ids[2] == i).sum()) for i in ids[2].unique() if i > 0]
    assert max(whole) == 7 * 8


def test_steps_leave_sections_out():
    labels = np.zeros((32, 48, 48), np.uint16)
    labels[:] = np.arange(1, 33)[:, None, None]
    image = np.repeat(np.arange(32, dtype=np.uint8) * 8, 48 * 48).reshape(labels.shape)
    source = prepare_source(toy_opened(image, labels, z_steps=(1, 2, 8)))
    steps, phases = set(), set()
    for i in range(60):
        _, ids, _ = patch_of(source, i, geometry=STILL)
        column = ids[:, 16, 16].numpy()
        steps |= set(np.diff(column).tolist())
        phases.add(int(column[0]) % 8)
    assert steps == {1, 2, 8}
    assert len(phases) == 8


def test_thick_sections_average():
    """The mean of sections k and k + 1 around the middle one, whose labels count."""
    labels = np.ones((16, 48, 48), np.uint16)
    image = np.repeat(np.arange(16, dtype=np.uint8), 48 * 48).reshape(labels.shape)
    source = prepare_source(toy_opened(image, labels, z_steps=(2,)))
    geometry = GeometryConfig(0.0, False, (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0, 1.0)
    plan = plan_patch([source], PATCH, WORKING, SamplingConfig(), geometry, random_stream(0, 1, 0))
    found, _, _ = read_patch(source, plan, PATCH, "uint8")
    grey = (found[:, 0, 0].numpy() + 1) / 2 * 255
    below = np.maximum(plan.sections - 1, -plan.sections + 1)
    np.testing.assert_allclose(grey, (plan.sections + np.abs(below)) / 2, atol=1e-3)


def test_thin_volume_is_mirrored():
    image, labels = toy_arrays((3, 96, 96))
    labels[:] = np.arange(1, 4)[:, None, None]
    source = prepare_source(toy_opened(image, labels))
    _, ids, _ = patch_of(source, 0, geometry=STILL, patch=(8, 32, 32))
    assert (np.abs(np.diff(ids[:, 0, 0].numpy())) == 1).all()


def test_mask_comes_along():
    image, labels = toy_arrays()
    mask = (labels % 2 == 0).astype(np.uint8)
    source = prepare_source(toy_opened(image, labels, mask=mask))
    for i in range(4):
        _, ids, known = patch_of(source, i)
        assert bool(((ids % 2 == 0) == (known > 0)).all())


def test_rare_instances_are_seen_as_often_as_large_ones():
    labels = np.zeros((8, 128, 128), np.uint16)
    labels[:, :100, :100] = 1
    labels[4, 120:124, 120:124] = 2
    source = prepare_source(toy_opened(np.ones_like(labels, np.uint8), labels))
    config = SamplingConfig(uniform=0, foreground=0, instance=1)
    seen = 0
    for i in range(60):
        plan = plan_patch([source], PATCH, WORKING, config, STILL, random_stream(1, i, 0))
        seen += plan.warp.centre[0] > 90
    assert 20 <= seen <= 40


def test_contacts_are_sought():
    """Of three instances only the small two touch, in a corner that chance would rarely find."""
    labels = np.zeros((8, 128, 128), np.uint16)
    labels[:, :90, :90] = 1
    labels[4, 120:124, 120:124] = 2
    labels[4, 120:124, 124:127] = 3
    source = prepare_source(toy_opened(np.ones_like(labels, np.uint8), labels))
    index = source.index
    assert np.diff(index.first_contact).tolist() == [0, 4, 4]
    assert index.contacts.tolist() == [[4, y, x] for x in (123, 124) for y in range(120, 124)]
    config = SamplingConfig(uniform=0, foreground=0, instance=0, contact=1)
    for i in range(20):
        plan = plan_patch([source], PATCH, WORKING, config, STILL, random_stream(1, i, 0))
        assert plan.warp.centre[0] > 90


def test_no_contacts_means_anywhere():
    labels = np.zeros((8, 128, 128), np.uint16)
    labels[:, :9, :9] = 1
    source = prepare_source(toy_opened(np.ones_like(labels, np.uint8), labels))
    config = SamplingConfig(uniform=0, foreground=0, instance=0, contact=1)
    centres = [
        plan_patch([source], PATCH, WORKING, config, STILL, random_stream(1, i, 0)).warp.centre[0]
        for i in range(40)
    ]
    assert min(centres) < 50 < 80 < max(centres)


def test_weights_choose_samples(toy_source):
    rare = prepare_source(toy_opened(*toy_arrays(), weight=0.25))
    plans = [
        plan_patch(
            [toy_source, rare], PATCH, WORKING, SamplingConfig(), STILL, random_stream(2, i, 0)
        )
        for i in range(200)
    ]
    assert 25 <= sum(plan.source for plan in plans) <= 55


def test_index_counts_voxels():
    labels = np.zeros((40, 20, 20), np.uint32)
    labels[0, 0, :3] = 9
    labels[10:35] = 7
    index = index_instances(array_volume(labels))
    assert index.voxels.tolist() == [25 * 400, 3]
    assert np.diff(index.first).tolist() == [64, 3]
    assert (labels[tuple(index.points[:64].T)] == 7).all()
    assert (labels[tuple(index.points[64:].T)] == 9).all()


def test_nothing_is_sought_where_nothing_is_known():
    image, labels = toy_arrays((8, 48, 48))
    mask = np.zeros_like(labels)
    mask[:, :24, :24] = 1
    index = prepare_source(toy_opened(image, labels, mask=mask)).index
    assert len(index.voxels) == 1
    assert index.voxels[0] == np.count_nonzero(labels[:, :24, :24])
    assert (index.points[:, 1:] < 24).all()


def test_uniform_patches_cover_the_volume(toy_source):
    """Without weights, no place is preferred: 400 patches, three thirds along y."""
    where = SamplingConfig(uniform=1.0, foreground=0.0, instance=0.0)
    plans = [
        plan_patch([toy_source], (4, 8, 8), WORKING, where, STILL, random_stream(3, i, 0))
        for i in range(400)
    ]
    thirds = np.bincount([int(plan.warp.centre[0] * 3 / 96) for plan in plans], minlength=3)
    assert thirds.min() > 100
    assert {int(plan.sections[0]) for plan in plans} == set(range(12 - 4 + 1))


def test_fixed_patches_are_fixed(toy_source):
    first = fixed_patches([toy_source, toy_source], 4, PATCH, WORKING)
    again = fixed_patches([toy_source, toy_source], 4, PATCH, WORKING)
    assert [p.source for p in first] == [0] * 4 + [1] * 4
    for a, b in zip(first, again, strict=True):
        assert a.warp.centre == b.warp.centre
        assert np.array_equal(a.sections, b.sections)


def test_sections_that_nobody_labelled_are_told(caplog):
    image, labels = toy_arrays()
    labels = labels.copy()
    labels[0], labels[3] = 0, 0  # the first may really hold nothing
    with caplog.at_level("WARNING", logger="cristae"):
        source = prepare_source(toy_opened(image, labels))
    assert source.index.blank.tolist() == [3]
    assert "sections 3 " in caplog.text
    mask = np.ones_like(labels)
    mask[3] = 0
    assert not index_instances(*map(array_volume, (labels, mask))).blank.size
    mask[3, 0] = 1  # a row says nothing of its section
    assert not index_instances(*map(array_volume, (labels, mask))).blank.size
