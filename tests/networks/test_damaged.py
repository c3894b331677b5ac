"""Files whose bytes changed on the way: the checksums that they carry are looked at."""

import shutil
import zipfile

import h5py
import numpy as np
import pytest
import torch
import zarr
from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec

from cristae.engine.checksums import check_zip
from cristae.errors import InputError
from cristae.networks.families.pytc.checkpoint import load_pytc_model
from cristae.networks.model import load_model
from cristae.networks.shipped import named_models
from cristae.volumes.formats import open_volume


def damage(path, at):
    data = bytearray(path.read_bytes())
    place = int(at * len(data)) if isinstance(at, float) else at
    data[place] ^= 0x55
    data[place + 1] ^= 0x55
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_changed_weights_are_refused(tmp_path, at):
    path = tmp_path / "damaged.pt"
    shutil.copy(named_models()["general"], path)
    load_model(path)
    damage(path, at)
    member = zipfile.ZipFile(path).testzip()
    assert member is not None
    with pytest.raises(InputError, match=rf"damaged\.pt: damaged: {member} does not fit the che"):
        load_model(path)


def test_a_checkpoint_of_pytc_is_looked_at(tmp_path):
    path, config = tmp_path / "c.pth.tar", tmp_path / "c.yaml"
    torch.save({"state_dict": {"a": torch.arange(4000.0)}}, path)
    config.write_text(
        "MODEL: {ARCHITECTURE: unet_3d, OUT_PLANES: 1, TARGET_OPT: ['0'], BLOCK_TYPE: residual}"
    )
    damage(path, 0.5)
    with pytest.raises(InputError, match=r"c\.pth\.tar: damaged: c\.pth/data/0 does not fit"):
        load_pytc_model(path, [config])


def test_every_member_and_every_cut(tmp_path):
    whole, path = tmp_path / "a.zip", tmp_path / "b.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("one", "two"):
            archive.writestr(name, np.random.default_rng(0).bytes(3000))
    check_zip(whole)
    places = [info.header_offset + offset for info in zipfile.ZipFile(whole).infolist()
              for offset in (0, 40, 2000)]  # fmt: skip
    for place in places:
        shutil.copy(whole, path)
        damage(path, place)
        with pytest.raises(InputError, match=r"b\.zip: damaged: (one|two)"):
            check_zip(path)
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(InputError, match=r"b\.zip: damaged"):
            check_zip(path)


def test_a_file_without_checksums_is_let_through(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    check_zip(tmp_path / "a.pt")


ARRAY = np.random.default_rng(0).integers(0, 255, (4, 32, 32), dtype=np.uint8)


def test_checksums_of_hdf5_are_looked_at(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=ARRAY, chunks=(4, 32, 32), fletcher32=True)
    damage(path, 0.75)
    with pytest.raises(InputError, match=r"a\.h5.*box 0:4,0:32,0:32.*checksum"):
        open_volume(path).read()


@pytest.mark.parametrize("codec", [Crc32cCodec(), ZstdCodec(checksum=True), GzipCodec()])
def test_checksums_of_zarr_are_looked_at(tmp_path, codec):
    path = tmp_path / "a.zarr"
    made = zarr.create_array(
        str(path), shape=ARRAY.shape, chunks=ARRAY.shape, dtype="u1", compressors=[codec]
    )
    made[:] = ARRAY
    damage(path / "c" / "0" / "0" / "0", 0.5)
    with pytest.raises(InputError, match=r"a\.zarr.*box 0:4,0:32,0:32"):
        open_volume(path).read()
