from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.engine.files import read_json
from cristae.engine.ledger import open_ledger
from cristae.grid import tile
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr
from cristae.volumes.pyramid import build_pyramid, downsample, plan_levels

factors = st.tuples(*[st.integers(1, 2)] * 3)
shapes = st.tuples(*[st.integers(1, 7)] * 3)


def windows(array: np.ndarray, f: tuple[int, int, int]) -> dict[tuple[int, int, int], np.ndarray]:
    """Voxels of every window, by its place."""
    places = np.ndindex(*(-(-n // k) for n, k in zip(array.shape, f, strict=True)))
    return {
        p: array[tuple(slice(i * k, i * k + k) for i, k in zip(p, f, strict=True))].ravel()
        for p in places
    }


@given(shapes, factors, st.sampled_from(["uint8", "uint16", "int16", "int32"]), st.integers(0, 9))
def test_mean_rounds_half_up_exactly(
    shape: tuple[int, int, int], f: tuple[int, int, int], dtype: str, seed: int
) -> None:
    info = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(info.min, info.max, shape, endpoint=True)
    array = values.astype(dtype)
    found = downsample(array, f, labels=False)
    for place, window in windows(values, f).items():
        n, total = len(window), int(window.sum())
        assert int(found[place]) == (2 * total + n) // (2 * n)


def mode_by_counting(window: np.ndarray) -> int:
    counts = Counter(window.tolist())
    most = max(counts.values())
    best = sorted(value for value, n in counts.items() if n == most)
    instances = [value for value in best if value]
    return instances[0] if instances else 0


@given(shapes, factors, st.integers(0, 30))
def test_mode_prefers_instances_in_ties(
    shape: tuple[int, int, int], f: tuple[int, int, int], seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint32)
    found = downsample(array, f, labels=True)
    for place, window in windows(array, f).items():
        assert found[place] == mode_by_counting(window)


def test_a_sheet_one_voxel_thin_stays() -> None:
    array = np.zeros((8, 8, 8), np.uint32)
    array[:, 3] = 5
    found = downsample(array, (2, 2, 2), labels=True)
    assert (found[:, 1] == 5).all()
    assert np.count_nonzero(found) == 16


def test_float_mean() -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 3
    found = downsample(array, (2, 2, 2), labels=False)
    assert found.dtype == np.float32
    assert found[0, 0, 0] == np.float32(array.astype(float).mean())


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((100, 256, 256), (30, 8, 8), []),
        ((100, 1000, 1000), (30, 8, 8), [(1, 2, 2), (1, 2, 2)]),
        ((100, 4096, 4096), (30, 8, 8), [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]),
        ((1000, 1000, 1000), None, [(2, 2, 2), (2, 2, 2)]),
        ((1, 1000, 600), (5, 5, 5), [(1, 2, 2), (1, 2, 2)]),
        ((600, 1, 1), (5, 5, 5), [(2, 1, 1), (2, 1, 1)]),
        ((600, 1, 1), (30, 8, 8), [(2, 1, 1), (2, 1, 1)]),
    ],
)
def test_levels_follow_the_anisotropy(shape, size, expected) -> None:  # type: ignore[no-untyped-def]
    assert plan_levels(shape, size) == expected


@pytest.mark.parametrize("kind", ["image", "labels", "prediction"])
def test_levels_on_disk_equal_the_whole_array(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zarr"
    channels = ("mask", "contour") if kind == "prediction" else None
    shape = (21, 300, 530)
    dtype = np.uint32 if kind == "labels" else np.uint8
    rng = np.random.default_rng(0)
    array = rng.integers(0, 200, (len(channels or "x"), *shape)).astype(dtype)
    array = array if channels else array[0]
    with open_ledger(path, stage="x", inputs={}, settings={}) as ledger:
        volume = create_ome_zarr(
            path,
            shape=shape,
            dtype=dtype,
            kind=kind,  # type: ignore[arg-type]
            voxel_size_nm=(30, 8, 8),
            origin_nm=(60, 4, 0),
            channels=channels,
            layout=Layout((8, 32, 32), (16, 128, 128)),
        )
        for box in tile(volume.box, volume.shard_shape or shape):
            volume.write(box, np.ascontiguousarray(array[(..., *box.slices())]))
        count = build_pyramid(path, ledger=ledger, resources=Resources(workers=3))
        ledger.finish()
    assert count == 3
    expected = array
    for level, f in ((1, (1, 2, 2)), (2, (1, 2, 2))):
        expected = downsample(expected, f, labels=kind == "labels")
        assert np.array_equal(open_volume(path / str(level)).read(), expected)
    datasets = read_json(path / "zarr.json")["attributes"]["ome"]["multiscales"][0]["datasets"]
    scale, translation = (
        next(t[key][-3:] for t in datasets[2]["coordinateTransformations"] if key in t)
        for key in ("scale", "translation")
    )
    assert scale == [30, 32, 32]
    assert translation == [60, 4 + 12, 12]
