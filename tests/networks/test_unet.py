"""The U-Net: shapes, what a logit sees, and folding."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cristae.errors import InputError
from cristae.grid import Box
from cristae.networks.families.unet.context import network_context
from cristae.networks.families.unet.inference import TileNetwork, core_work, level_regions
from cristae.networks.families.unet.network import (
    UNetConfig,
    build_network,
    fold_batch_norm,
    total_stride,
)
from cristae.networks.runner import compare_runners, make_runner

SMALL = UNetConfig(widths=(4, 6, 8), strides=((1, 2, 2), (1, 2, 2)), z_kernel_levels=(1, 2))
DEEP = UNetConfig(
    widths=(4, 6, 8), strides=((1, 2, 2), (2, 3, 2)), z_kernel_levels=(0, 1, 2), stem=1
)
CONFIGS = [
    pytest.param(SMALL, id="anisotropic"),
    pytest.param(DEEP, id="strided along z, no stem"),
    pytest.param(
        UNetConfig(widths=(4, 6), strides=((2, 2, 1),), z_kernel_levels=(), stem=2),
        id="merges sections without a kernel along z",
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_context_is_what_a_changed_voxel_reaches(config, random_network):
    """Changing one voxel changes logits as far as the context says and no farther.

    A ReLU may hide a path from one voxel at one place, so the farthest change over all voxels of a
    lattice period, and several changes, must equal the context; none may exceed it.
    """
    network, context = random_network(config), network_context(config)
    lattice, halo = context.lattice, context.halo_vx
    middle = [-(-(h + step) // step) * step for h, step in zip(halo, lattice, strict=True)]
    shape = [2 * m + step for m, step in zip(middle, lattice, strict=True)]
    generator = torch.Generator().manual_seed(1)
    farthest = np.zeros(3, int)
    with torch.no_grad():
        for trial in range(24):
            image = torch.randn(1, 1, *shape, generator=generator)
            voxel = [
                m + (trial if trial < step else 7 * trial) % step
                for m, step in zip(middle, lattice, strict=True)
            ]
            changed = image.clone()
            changed[(0, 0, *voxel)] += 30 * (-1) ** trial
            difference = (network(image) != network(changed))[0].any(0)
            places = torch.nonzero(difference).numpy()
            distances = np.abs(places - np.array(voxel)).max(0)
            farthest = np.maximum(farthest, distances)
    assert (farthest <= halo).all(), (farthest, halo)
    assert farthest.tolist() == list(halo)


def test_context_of_the_default_network():
    """Derived by hand along x for the default: stem 2, three strides of 2, two 3x3 a block.

    The logit of voxel 11 lies in position 5 of level 0. Backwards: its block reads 3..7, which
    come from 1..3 of level 1, whose block reads -1..5, from -1..2 of level 2, whose block reads
    -3..4, from -2..2 of level 3, whose block reads -4..4. Those come from -8..9 of level 2, whose
    block reads -10..11, from -20..23 of level 1, block -22..25, from -44..51 of level 0, block
    -46..53, first layer -47..54: voxels -94..109. So voxel 11 sees 105 to its left; voxel 4, which
    needs the same interval, 105 to its right. Along z five blocks join three sections each.
    """
    context = network_context(UNetConfig())
    assert context.halo_vx == (5, 105, 105)
    assert context.lattice == (1, 16, 16)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sections", [1, 3])
def test_logits_have_the_shape_of_the_image(config, sections, random_network):
    lattice = total_stride(config)
    shape = [sections * lattice[0], 2 * lattice[1], 3 * lattice[2]]
    logits = random_network(config)(torch.zeros(2, 1, *shape))
    assert logits.shape == (2, 2, *shape)
    assert logits.dtype == torch.float32


def test_a_batch_equals_its_images(random_network):
    network = random_network(DEEP)
    images = torch.randn(3, 1, 4, 12, 16)
    with torch.no_grad():
        batch = network(images)
        single = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(batch, single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_folding_keeps_the_logits(config, random_network):
    network = random_network(config)
    image = torch.randn(1, 1, *(2 * step for step in total_stride(config)))
    with torch.no_grad():
        torch.testing.assert_close(
            fold_batch_norm(network)(image), network(image), rtol=1e-4, atol=1e-4
        )
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


@pytest.mark.parametrize("config", CONFIGS)
def test_every_weight_is_used(config, random_network):
    network = random_network(config).train()
    network(torch.randn(2, 1, 4, 24, 24)).square().mean().backward()
    unused = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert unused == []


def test_fresh_networks_start_near_an_even_chance():
    torch.manual_seed(0)
    logits = build_network(UNetConfig()).train()(torch.randn(1, 1, 4, 64, 64))
    assert float(logits.detach().abs().max()) < 1


@pytest.mark.parametrize("config", CONFIGS)
def test_the_core_of_a_tile_equals_the_whole(config, random_network):
    network, context = random_network(config), network_context(config)
    core_shape = (3, 2 * context.lattice[1] + 5, 21)
    start = tuple(-(-h // s) * s for h, s in zip(context.halo_vx, context.lattice, strict=True))
    core = Box(start, start).grow((0, 0, 0), core_shape)
    shape = tuple(
        -(-(stop + h) // s) * s
        for stop, h, s in zip(core.stop, context.halo_vx, context.lattice, strict=True)
    )
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        whole = network(torch.from_numpy(image)[None, None])[0]
    expected = whole[(slice(None), *core.slices())]
    logits = TileNetwork(network, "float32").logits(image, core)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    rounded = TileNetwork(network, "bfloat16").logits(image, core)
    assert float((rounded.sigmoid() - expected.sigmoid()).abs().mean()) < 0.01


def test_slabs_of_sections_do_not_matter(random_network, monkeypatch):
    network = TileNetwork(random_network(SMALL), "float32")
    image = np.random.default_rng(0).normal(size=(9, 48, 64)).astype(np.float32)
    core = Box((3, 8, 8), (8, 40, 50))
    whole = network.logits(image, core)
    monkeypatch.setattr("cristae.networks.families.unet.inference.SLAB_BYTES", 2 * 24 * 32)
    torch.testing.assert_close(network.logits(image, core), whole, rtol=0, atol=1e-5)


def test_the_decoder_computes_less_than_the_tile():
    network, core = build_network(UNetConfig()), Box((5, 112, 112), (10, 240, 240))
    finest, middle, coarse = level_regions(network, Box.of((15, 352, 352)), core)[1]
    assert finest == Box((5, 54, 54), (10, 122, 122))  # the core in positions, and 2 around
    assert middle.shape < (15, 88, 88)
    assert coarse.shape <= (15, 44, 44)


def test_the_encoder_takes_in_less_than_the_tile():
    """Level 0 takes in the halo; from there to the core each level's layers leave some behind."""
    network, core = build_network(UNetConfig()), Box((7, 112, 112), (12, 240, 240))
    finest, *deeper = level_regions(network, Box.of((19, 352, 352)), core)[0]
    assert (finest.start[0], finest.stop[0]) == (2, 17)  # 5 sections on either side
    # along y: 56 -2, /2 -2, /2 -2, /2 -2, *2 -2, *2 -2, *2 -2, and the first layer's 1
    assert finest.start[1] == 9
    before = [n * f for n, f in zip(finest.shape, (1, 2, 2), strict=True)]
    for level, box in enumerate(deeper, start=1):
        reach = [n * f for n, f in zip(box.shape, (1, 2 << level, 2 << level), strict=True)]
        assert all(a <= b for a, b in zip(reach, before, strict=True))
        assert reach[1:] < before[1:]
        before = reach


def test_work_grows_with_a_core_as_the_multiplications_counted_do():
    """All that is counted beside the blocks' convolutions is small and grows likewise."""
    config, cores = UNetConfig(), [(1, 32, 32), (2, 32, 128)]
    network, counted = TileNetwork(build_network(config), "float32"), []
    for core in cores:
        tile = Box((0, 0, 0), core).grow((5, 112, 112))
        image = np.zeros(tile.shape, np.float32)
        with FlopCounterMode(display=False) as counter:
            network.logits(image, Box((5, 112, 112), (5, 112, 112)).grow((0, 0, 0), core))
        counted.append(counter.get_total_flops())
    work = core_work(config, np.array(cores, float))
    assert counted[1] / counted[0] == pytest.approx(work[1] / work[0], rel=0.03)
    assert 0.8 < 2 * work[0] / counted[0] < 1


def test_deviation_of_bfloat16_is_measured(random_network):
    image = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    make = partial(make_runner, random_network(SMALL))
    deviation = compare_runners(make, image, "bfloat16")
    assert 0 < deviation.mean < deviation.largest < 0.2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1, 2, 16, 12), r"\(2, 16, 12\).*multiples of \(1, 8, 8\)"),
        ((1, 2, 2, 16, 16), r"expected \(n, 1, z, y, x\)"),
        ((1, 16, 16), r"shape \(1, 16, 16\)"),
    ],
)
def test_images_the_network_cannot_take_are_refused(shape, expected):
    with pytest.raises(InputError, match=expected):
        build_network(SMALL)(torch.zeros(shape))


def test_all_faults_of_a_configuration_are_told():
    config = UNetConfig(channels=("a", "a"), stem=0, strides=((1, 2, 2),), z_kernel_levels=(4,))
    with pytest.raises(InputError) as error:
        build_network(config)
    for part in ("channels", "stem 0", "1 strides: expected 3", "z_kernel_levels"):
        assert part in str(error.value)
