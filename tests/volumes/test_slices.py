"""Slices in files of their own against imageio and tifffile, and the paths they lie at."""

import io
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image

from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.png import SIGNATURE, decode_png

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 255, (4, 20, 27)).astype(np.uint8)


def png(array: np.ndarray, mode: str = "L", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).convert(mode).save(out, "PNG", **options)
    return out.getvalue()


def indexed(array: np.ndarray, colours: Sequence[Sequence[int]], **options: Any) -> bytes:
    """A PNG of indexed colours whose indices are the values."""
    image = Image.new("P", array.shape[::-1])
    image.putdata(array.ravel().tolist())
    image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def interlaced(array: np.ndarray, depth: int, colour: int = 0, palette: bytes = b"") -> bytes:
    """A PNG in seven passes, written by hand as the standard has it."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
    passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for y, x, down, across in passes:
        part = array[y::down, x::across]
        for row in part if part.size else []:
            if depth == 16:
                packed = row.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -depth:]
                packed = np.packbits(bits.ravel()).tobytes()
            rows += b"\0" + packed
    height, width = array.shape
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, colour, 0, 0, 1])

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4)
        return len(content).to_bytes(4) + kind + content + checksum

    middle = chunk(b"PLTE", palette) if palette else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    return SIGNATURE + chunk(b"IHDR", header) + middle + data + chunk(b"IEND", b"")


def write(folder: Path, slices: Sequence[bytes], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for z, data in enumerate(slices):
        (folder / f"s{z}.{suffix}").write_bytes(data)
    return folder


@pytest.mark.parametrize("mode", ["L", "1", "I;16"])
def test_grey_png_is_what_imageio_reads(tmp_path: Path, mode: str) -> None:
    stack = STACK.astype(np.uint16) * 250 if mode == "I;16" else STACK
    folder = write(tmp_path / "f", [png(s, "L" if mode == "1" else mode) for s in stack])
    if mode == "1":
        write(folder, [png(s > 100, "1") for s in stack])
    expected = np.array([iio.imread(folder / f"s{z}.png") for z in range(4)])
    volume = open_volume(folder)
    assert np.array_equal(volume.read(), expected)
    assert volume.dtype == (np.uint16 if mode == "I;16" else np.uint8)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_interlaced_png(depth: int) -> None:
    values = RNG.integers(0, 1 << depth, (21, 30)).astype(np.uint16)
    found = decode_png(interlaced(values, depth))
    spread = 255 // ((1 << depth) - 1) if depth in (2, 4) else 1
    assert np.array_equal(found, values * spread)
    if depth <= 8:
        palette = RNG.integers(0, 255, 3 << depth).astype(np.uint8).tobytes()
        assert np.array_equal(decode_png(interlaced(values, depth, 3, palette)), values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["labels", None])
def test_of_indexed_colours_the_index_is_the_value(tmp_path: Path, bits: int, kind: Any) -> None:
    ids = (STACK.astype(int) % (1 << bits)).astype(np.uint8)
    for name, colours in {
        "white": RNG.integers(0, 255, (1 << bits, 3)),
        "same": np.tile([[255, 0, 0]], (1 << bits, 1)),
        "grey": np.repeat(np.arange(1 << bits)[:, None], 3, 1),
    }.items():
        folder = write(
            tmp_path / name, [indexed(s, colours, bits=bits, transparency=0) for s in ids]
        )
        volume = open_volume(folder, kind=kind)
        assert volume.dtype == np.uint8
        assert np.array_equal(volume.read(), ids)


def test_indexed_tiff_slices(tmp_path: Path) -> None:
    ids = STACK % 7
    for z, plane in enumerate(ids):
        colours = RNG.integers(0, 65535, (3, 256)).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{z}.tif", plane, photometric="palette", colormap=colours)
    assert np.array_equal(open_volume(tmp_path, kind="labels").read(), ids)


STORED: list[dict[str, Any]] = [
    {},
    {"compression": "deflate", "rowsperstrip": 3},
    {"compression": "lzw", "predictor": True},
    {"tile": (16, 16)},
    {"tile": (16, 16), "compression": "zstd"},
    {"bigtiff": True},
    {"byteorder": ">"},
    {"photometric": "miniswhite"},
]
TYPES = ["u1", "u2", "i2", "u4", "f4", "f2"]
WRITTEN = [(dtype, how) for how in STORED for dtype in TYPES]
WRITTEN += [("?", how) for how in STORED if not {"tile", "predictor"} & set(how)]
"""What tifffile writes."""


@pytest.mark.parametrize(("dtype", "options"), WRITTEN)
def test_tiff_slices_are_what_tifffile_reads(
    tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    stack = STACK > 100 if dtype == "?" else (STACK.astype(np.int64) * 3 - 200).astype(dtype)
    white = options.get("photometric") == "miniswhite"
    for z, plane in enumerate(stack):
        options = {"photometric": "minisblack", **options}
        tifffile.imwrite(tmp_path / f"{z}.tif", plane, **options)
    expected = np.array([tifffile.imread(tmp_path / f"{z}.tif") for z in range(4)])
    if white and dtype == "?":
        expected = ~expected
    elif white and dtype[0] in "iu":
        most = -1 if dtype[0] == "i" else np.iinfo(dtype).max
        expected = np.subtract(most, expected, dtype=dtype)
    volume = open_volume(tmp_path)
    assert volume.dtype == (np.uint8 if dtype == "?" else np.dtype(dtype))
    assert np.array_equal(volume.read(), expected)


def test_grey_and_alpha_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 samples a pixel"):
        open_volume(write(tmp_path / "f", [png(s, "LA") for s in STACK]))


def test_a_flipped_byte_of_a_png_is_one_error(tmp_path: Path) -> None:
    for name, data in {
        "grey": png(STACK[0]),
        "palette": indexed(STACK[0] % 9, RNG.integers(0, 255, (256, 3))),
    }.items():
        folder = tmp_path / name
        for at in range(len(SIGNATURE), len(data), 7):
            damaged = bytearray(data)
            damaged[at] ^= 16
            write(folder, [bytes(damaged)])
            with pytest.raises(InputError, match=r"s0\.png"):
                open_volume(folder).read()


@pytest.mark.parametrize("form", ["png", "tif", "tif_deflate"])
def test_a_slice_cut_anywhere_is_one_error(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form[:3]}"
    if form == "png":
        path.write_bytes(png(STACK[0]))
    else:
        compression = "deflate" if form.endswith("deflate") else None
        tifffile.imwrite(path, STACK[0], compression=compression)
    whole = path.read_bytes()
    for part in range(0, len(whole) - 40, 23):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError, match=r"a\."):
            open_volume(tmp_path).read()


def test_a_name_that_lies_about_its_format(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.png", STACK[0])
    (tmp_path / "b.png").write_bytes(png(STACK[1]))
    assert np.array_equal(open_volume(tmp_path).read(), STACK[:2])
    (tmp_path / "c.png").write_text("<html>")
    (tmp_path / "d.png").mkdir()
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert "c.png: neither a PNG nor a TIFF file" in str(caught.value)
    assert "d.png: a folder, expected an image file" in str(caught.value)
    (tmp_path / "single.tif").write_bytes(png(STACK[1]))
    with pytest.raises(InputError, match="cannot be read as TIFF"):
        open_volume(tmp_path / "single.tif")


@pytest.mark.parametrize(
    "name", ["run[1]", "[a-c]", "Präparat 3", "50%", "a#b", "a b", "x*y", "q?", "~", "a:b", "²"]
)
def test_any_name_of_a_folder(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / name, [png(s) for s in STACK])
    write(tmp_path / "run1", [png(s[::2]) for s in STACK])  # what the brackets would match
    for source in (folder, f"{folder}/s*.png", f"{folder}/s[0-3].png", f"{folder}/s?.png"):
        assert np.array_equal(open_volume(source).read(), STACK), source
    assert np.array_equal(open_volume(f"{folder}/../{name}/s*.png").read(), STACK)


def test_brackets_in_names_of_files(tmp_path: Path) -> None:
    for z, plane in enumerate(STACK):
        (tmp_path / f"im[7]_{z}.PNG").write_bytes(png(plane))
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert np.array_equal(open_volume(f"{tmp_path}/im[7]_*.PNG").read(), STACK)
    assert np.array_equal(open_volume(tmp_path).read(), STACK)
    with pytest.raises(SourceNotFoundError):
        open_volume(f"{tmp_path}/im[8]_*.PNG")


def test_a_glob_over_folders_and_links(tmp_path: Path) -> None:
    for z, plane in enumerate(STACK):
        write(tmp_path / "store" / f"{z}", [png(plane)])
        (tmp_path / f"z{z}").symlink_to(tmp_path / "store" / f"{z}")
    volume = open_volume(f"{tmp_path}/z*/s0.png")
    assert np.array_equal(volume.read(), STACK)
    (tmp_path / "store" / "2" / "s0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"z2/s0\.png: empty file"):
        open_volume(f"{tmp_path}/z*/s0.png")


def test_mixed_case_of_suffixes(tmp_path: Path) -> None:
    for z, plane in enumerate(STACK):
        (tmp_path / f"{z}.{'PNG' if z % 2 else 'png'}").write_bytes(png(plane))
    assert np.array_equal(open_volume(tmp_path).read(), STACK)


def test_a_slice_that_changes_is_one_error(tmp_path: Path) -> None:
    for form in ("png", "tif"):
        folder = write(tmp_path / form, [png(s) for s in STACK])
        volume = open_volume(folder)
        volume.read(Box((0, 0, 0), (1, 20, 27)))
        for z in (0, 2):
            (folder / f"s{z}.png").write_bytes(png(255 - STACK[z]))
            os.utime(folder / f"s{z}.png", ns=(5, 5))
            with pytest.raises(InputError, match="changed since it was opened"):
                volume.read(Box((z, 0, 0), (z + 1, 20, 27)))
        assert np.array_equal(volume.read(Box((1, 0, 0), (2, 20, 27))), STACK[1:2])
        (folder / "s1.png").unlink()
        with pytest.raises(InputError, match=r"s1\.png: no such file"):
            volume.read(Box((1, 0, 0), (2, 20, 27)))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes rights away from itself")
def test_what_may_not_be_read_is_one_message(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", [png(s) for s in STACK])
    (folder / "s2.png").chmod(0)
    closed = write(tmp_path / "closed", [png(s) for s in STACK])
    closed.chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys\n"
        "from cristae.volumes.formats import open_volume\n"
        "os.seteuid(65534)\n"
        "for source in sys.argv[1:]:\n"
        "    try: open_volume(source)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    for parent in tmp_path.parents:
        if "pytest-" in str(parent) and parent.stat().st_mode & 5 != 5:
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), f"{folder}/*.png", str(closed)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("s2.png: no leave to read" in line for line in lines[:2]), lines
    assert all("permission" in line.lower() and str(closed) in line for line in lines[2:]), lines
    closed.chmod(0o755)


@pytest.mark.parametrize("form", ["png", "tif"])
def test_many_slices_are_opened_and_known(tmp_path: Path, form: str) -> None:
    if form == "png":
        data = png(STACK[0])
    else:
        tifffile.imwrite(tmp_path / "one.tif", STACK[0], compression="deflate")
        data = (tmp_path / "one.tif").read_bytes()
    folder = write(tmp_path / "f", [data] * 2048, form)
    volume = open_volume(folder)
    assert volume.shape == (2048, *STACK.shape[1:])
    assert volume.fingerprint == open_volume(folder).fingerprint
