"""What a plan proposes, from fingerprints made by hand."""

from dataclasses import replace

import pytest

from cristae.errors import MemoryLimitError
from cristae.networks.families.pytc.network import PytcConfig
from cristae.networks.families.unet.network import UNetConfig, total_stride
from cristae.networks.windows import WindowRecipe
from cristae.samples.fingerprint import Fingerprint
from cristae.training.config import TrainConfig
from cristae.training.config_checks import check_train_config
from cristae.training.proposal import Device, propose
from cristae.volumes.intensity import IntensityStatistics

GREY = IntensityStatistics(10, 240, 128, 40, 0, 255, False, 0.1, "64 boxes")
MITOEM = Fingerprint(
    name="rat",
    shape=(400, 4096, 4096),
    voxel_size_nm=(30.0, 8.0, 8.0),
    intensity=GREY,
    foreground_share=0.06,
    instances=900,
    whole=300,
    volume_um3=(0.01, 0.1, 1.0),
    across_nm=310.0,
    extent_nm=(600.0, 1000.0, 1200.0),
    sampled="12 boxes",
)
CPU = Device("cpu", "a CPU", 8 << 30)
GPU = Device("cuda", "a GPU", 80 << 30)
NOTHING = frozenset()


def voxels(config):
    return 1000 * config.batch * config.patch[0] * config.patch[1] * config.patch[2]


def proposed(prints=(MITOEM,), given=NOTHING, config=None, device=CPU, bytes_of=voxels):
    found, choices = propose(config or TrainConfig(), given, prints, device, bytes_of)
    check_train_config(found)
    return found, {choice.key: choice for choice in choices}


def test_sections_much_thicker_than_pixels():
    """30 nm beside 16 nm after the stem: none merge till pixels are 64 nm wide."""
    found, choices = proposed()
    assert found.working_voxel_size_nm == (None, None, None)  # 310 / 40 is finer than 8
    assert found.network.strides == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert found.network.z_kernel_levels == (1, 2, 3)
    assert found.patch == (30, 160, 160)  # 1.5 x 600 / 30; 1.5 x 1200 / 8 is over the bound
    assert found.batch == 2
    # a quarter of 0.01 um3, in voxels of 30 x 8 x 8 nm
    assert found.thresholds == {"min_size": 1302, "min_seed_size": 326}
    assert "bounded for a cpu" in choices["patch"].text


def test_cubic_voxels_finer_than_needed():
    fine = replace(MITOEM, voxel_size_nm=(5.0, 5.0, 5.0), across_nm=320.0)
    found, choices = proposed([fine])
    assert found.working_voxel_size_nm == (None, 8.0, 8.0)
    assert "320 nm across" in choices["working_voxel_size_nm"].why
    assert found.network.strides == ((2, 2, 2),) * 3
    assert found.network.z_kernel_levels == (0, 1, 2, 3)
    found, choices = proposed([fine, MITOEM])
    assert "pixels of 5 to 8 nm" in choices["working_voxel_size_nm"].why


def test_networks_of_pytc_get_a_patch_and_the_strides_of_their_windows():
    network = PytcConfig(widths=(4, 8, 8, 8, 8))
    found, choices = proposed(config=TrainConfig(network=network))
    assert found.network == network
    assert found.patch == (33, 161, 161)  # 30 and 160, in steps of 8 and 16, and one
    assert found.windows == WindowRecipe((33, 161, 161), (16, 80, 80), (16, 80, 80))
    assert found.batch == 2
    own = WindowRecipe((17, 97, 97), (8, 48, 48))
    config = TrainConfig(network=network, patch=(17, 97, 97), windows=own)
    found, choices = proposed(config=config, given=frozenset({"patch", "windows"}))
    assert (found.patch, found.windows) == ((17, 97, 97), own)
    assert choices["windows"].proposed == WindowRecipe((17, 97, 97), (8, 48, 48), (8, 48, 48))
    small, choices = proposed(config=config, device=replace(CPU, room_bytes=1000 * 17 * 97 * 97))
    assert "as large as" in choices["patch"].text
    assert all((n - 1) % step == 0 for n, step in zip(small.patch, (8, 16, 16), strict=True))


def test_what_is_given_stays_and_the_rest_follows_from_it():
    network = UNetConfig(widths=(8, 16), strides=((1, 4, 4),))
    config = TrainConfig(network=network, batch=3, thresholds={"min_size": 7})
    given = frozenset({"network.strides", "batch", "thresholds.min_size"})
    found, choices = proposed(config=config, given=given)
    assert (found.network.strides, found.batch, found.thresholds["min_size"]) == (
        ((1, 4, 4),),
        3,
        7,
    )
    assert all(n % step == 0 for n, step in zip(found.patch, total_stride(network), strict=True))
    assert found.network.z_kernel_levels == (1,)
    assert "given in the configuration; proposed: 2" in choices["batch"].text
    assert choices["thresholds.min_size"].proposed == 1302


def test_memory_bounds_patch_and_batch():
    found, choices = proposed(device=replace(CPU, room_bytes=1000 * 16 * 96 * 96))
    assert voxels(found) <= 1000 * 16 * 96 * 96
    assert found.batch == 1
    assert "as large as" in choices["patch"].text
    many, _ = proposed(device=GPU)
    assert many.batch > 2
    assert max(many.patch[1:]) > 160
    with pytest.raises(MemoryLimitError, match="are there on a CPU"):
        proposed(device=replace(CPU, room_bytes=1000))
    with pytest.raises(MemoryLimitError, match="patch \\(16, 128, 128\\) needs"):
        proposed(given=frozenset({"patch"}), device=replace(CPU, room_bytes=1 << 20))


def test_too_few_instances_say_nothing_of_sizes():
    unknown = replace(MITOEM, whole=3)
    assert proposed([unknown])[0].thresholds == {}
    nothing = replace(unknown, instances=0, volume_um3=None, across_nm=None, extent_nm=None)
    found, choices = proposed([nothing])
    assert found.patch == (8, 96, 96)
    assert "extent" in choices["patch"].why
