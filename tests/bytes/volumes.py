"""Ten small volumes: an image in a form of its own, a prediction, a truth, and what is asked of it.

Images have three grey values, which the rule ``window`` makes -1, 0 and 1.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import tifffile
import zarr
from tests.bytes.networks import numbers, unet, windowed

from cristae.grid import Box
from cristae.networks.model import Model
from cristae.prediction.predict import PredictConfig
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import Volume, array_volume

SIZE = (30.0, 16.0, 16.0)
FROM_LEVEL = "from a smaller level"
GREYS = np.array([96, 160, 224])


@dataclass(frozen=True)
class Case:
    """A volume and what every stage is asked to do with it.

    Attributes:
        name: Its name.
        shape: Extent (z, y, x) in voxels.
        image: Writes the image (z, y, x) into a folder, and opens it.
        predicted: Writes the probabilities (3, z, y, x) into a folder, and opens them.
        truth: Writes the labels (z, y, x) into a folder, and opens them.
        models: The networks, together.
        predict: How to predict, by name of the outcome.
        masked: Whether predictions have a mask.
        blocks: Block shape of predictions that must change nothing.
        decoders: Parameters by decoder.
        evaluate: How to score.
        ranked: Whether instances are ranked by the prediction.
        tune: Values tried, by parameter, of the first decoder.
    """

    name: str
    image: Callable[[Path, np.ndarray], Volume]
    predicted: Callable[[Path, np.ndarray], Volume]
    truth: Callable[[Path, np.ndarray], Volume]
    models: tuple[Model, ...]
    decoders: dict[str, dict[str, Any]]
    shape: tuple[int, int, int] = (18, 52, 60)
    predict: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    masked: bool = False
    blocks: tuple[int, int, int] | None = None
    evaluate: dict[str, Any] = field(default_factory=dict)
    ranked: bool = False
    tune: dict[str, tuple[float, ...]] | None = None

    def config(self, name: str) -> PredictConfig:
        """On the processor, in float32 where nothing else is asked for: the same on every one."""
        return PredictConfig(**{"device": "cpu", "precision": "float32", **self.predict[name]})

    @property
    def seed(self) -> int:
        return sum(self.name.encode())

    def grey(self) -> np.ndarray:
        """An image of three grey values (z, y, x), uint8."""
        level = blobs(self.shape, self.seed, spread=1)
        return GREYS[(level > 112).astype(int) + (level > 144)].astype(np.uint8)

    def levels(self) -> np.ndarray:
        """Probabilities as 256 levels: uint8 (3, z, y, x)."""
        planes = [blobs(self.shape, self.seed + k, spread=2) for k in (10, 11, 12)]
        return np.stack(planes).astype(np.uint8)

    def labels(self) -> np.ndarray:
        """Labels (z, y, x) that agree with the prediction here and there."""
        z, y, x = np.indices(self.shape)
        cell = 1 + z // 7 + 3 * (y // 17) + 17 * ((x + y // 5) // 19)
        return np.where(self.levels()[0] > 128, cell, 0)


def blobs(shape: tuple[int, int, int], seed: int, spread: int) -> np.ndarray:
    """Smooth noise of whole numbers, 0 to 255, a plateau here and there."""
    cells = [-(-n // c) + 1 for n, c in zip(shape, (2, 4, 4), strict=True)]
    level = numbers(int(np.prod(cells)), seed).reshape(cells)
    level = level.repeat(2, 0).repeat(4, 1).repeat(4, 2)
    for _ in range(spread):
        for axis, reach in ((0, 1), (1, 2), (2, 2)):
            level = (level + np.roll(level, reach, axis) + np.roll(level, -reach, axis)) // 3
    stretched = np.clip((level - 128) * (2 + spread) + 128, 0, 255)
    return stretched[tuple(slice(1, n + 1) for n in shape)]


def in_memory(name: str, **facts: Any) -> Callable[[Path, np.ndarray], Volume]:
    def make(_: Path, array: np.ndarray) -> Volume:
        return array_volume(array, name=name, **facts)

    return make


def hdf5(dtype: Any = None, scale: float = 1, **attributes: Any) -> Callable:
    def make(folder: Path, array: np.ndarray) -> Volume:
        folder.mkdir()
        data = array if dtype is None else (array.astype(np.float64) * scale).astype(dtype)
        with h5py.File(folder / "file.h5", "w") as file:
            made = file.create_dataset("raw", data=data, chunks=True, compression="gzip")
            made.attrs.update(attributes)
        return open_volume(folder / "file.h5")

    return make


def tiff(**options: Any) -> Callable:
    def make(folder: Path, array: np.ndarray) -> Volume:
        folder.mkdir()
        tifffile.imwrite(folder / "stack.tif", array, compression="zlib")
        return open_volume(folder / "stack.tif", **options)

    return make


def sections(folder: Path, array: np.ndarray) -> Volume:
    folder.mkdir()
    for z, section in enumerate(array):
        (folder / f"section{z}.png").write_bytes(imagecodecs.png_encode(section.copy()))
    return open_volume(folder, voxel_size_nm=(10.0, 16.0, 16.0))


def tile_index(folder: Path, array: np.ndarray, side: int = 32) -> Volume:
    depth, height, width = array.shape
    for z, y, x in np.ndindex(depth, -(-height // side), -(-width // side)):
        (folder / f"{z}").mkdir(parents=True, exist_ok=True)
        tile = array[z, y * side : (y + 1) * side, x * side : (x + 1) * side].copy()
        (folder / f"{z}" / f"{y}_{x}.png").write_bytes(imagecodecs.png_encode(tile))
    index = {"ndim": 1, "dtype": array.dtype.name, "tile_size": side, "tile_ratio": 1}
    index |= {"depth": depth, "height": height, "width": width, "tile_st": [0, 0]}
    index["image"] = [f"{z}/{{row}}_{{column}}.png" for z in range(depth)]
    (folder / "index.json").write_text(json.dumps(index))
    return open_volume(folder / "index.json", voxel_size_nm=SIZE)


def foreign_zarr(folder: Path, array: np.ndarray) -> Volume:
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    group.create_array("s0", data=array, chunks=(5, 16, 20))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    place = [
        {"type": "scale", "scale": [0.03, 0.008, 0.008]},
        {"type": "translation", "translation": [0.06, 0.0, 0.016]},
    ]
    image = {"version": "0.4", "axes": axes}
    image["datasets"] = [{"path": "s0", "coordinateTransformations": place}]
    group.attrs.put({"multiscales": [image]})
    return open_volume(folder)


def own_zarr(folder: Path, array: np.ndarray) -> Volume:
    kind = "image" if array.dtype == np.uint8 else "labels"
    made = array_volume(array, name="own", voxel_size_nm=(30.0, 8.0, 8.0), kind=kind)
    return convert_volume(made, folder.with_suffix(".zarr"))


def framed(folder: Path, array: np.ndarray) -> Volume:
    """A border of zeros around the sections, another from the eighth on."""
    array = array.copy()
    array[:, :6], array[:, -3:], array[:, :, :5] = 0, 0, 0
    array[8:, :, -9:] = 0
    return tiff(voxel_size_nm=SIZE)(folder, array)


def with_holes(folder: Path, array: np.ndarray) -> Volume:
    """Floats, some of which are no number; grey and nothing else in the far half."""
    floats = array.astype(np.float32)
    floats[2, 5:9, 7:12] = np.nan
    floats[:, :, 128:] = GREYS[1]
    hdf5()(folder, floats)
    return open_volume(folder / "file.h5", voxel_size_nm=SIZE, nan=160.0)


def part(folder: Path, array: np.ndarray) -> Volume:
    """A part of a larger volume: keeps its place in it."""
    z, y, x = array.shape
    wide = np.pad(array, ((2, 1), (3, 0), (0, 4)), constant_values=GREYS[0])
    whole = hdf5(element_size_um=[0.03, 0.016, 0.016])(folder, wide)
    return whole.crop(Box((2, 3, 0), (2 + z, 3 + y, x)))


def chunk_files(folder: Path, array: np.ndarray) -> Volume:
    """Prediction chunks as PyTorch Connectomics writes them."""
    folder.mkdir()
    shape, chunk = array.shape[1:], (10, 30, 32)
    for corner in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True))):
        start = [k * c for k, c in zip(corner, chunk, strict=True)]
        stop = [min(a + c, n) for a, c, n in zip(start, chunk, shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        name = "-".join(f"{a}-{b}" for a, b in zip(start, stop, strict=True))
        with h5py.File(folder / f"result_{name}.h5", "w") as file:
            file.create_dataset("vol0", data=array[(slice(None), *box)])
    return open_volume(folder, voxel_size_nm=SIZE)


def affinities(folder: Path, array: np.ndarray) -> Volume:
    """Three affinities, each with the next voxel along x, y and z."""
    named = in_memory("affinities", voxel_size_nm=SIZE)(folder, array)
    return named.with_(attributes={"offsets": [[0, 0, 1], [0, 1, 0], [1, 0, 0]]})


LOOSE = {"seed_threshold": 0.6, "contour_threshold": 0.6, "foreground_threshold": 0.5}
SMALL = {"min_seed_size": 4, "min_size": 12}
DISTANCE = {"distance_seed_threshold": 0.1, "distance_foreground_threshold": -0.4}
PLAIN = in_memory("array", voxel_size_nm=SIZE)

CASES = (
    Case(
        "array",
        PLAIN,
        PLAIN,
        PLAIN,
        (unet(1, most=3),),
        {"bc_watershed": LOOSE | SMALL, "mitoem": LOOSE | SMALL | {"small": "neighbor"}},
        blocks=(10, 28, 32),
        tune={"seed_threshold": (0.55, 0.6, 0.7), "contour_threshold": (0.5, 0.6)},
    ),
    Case(
        "hdf5",
        hdf5(np.uint16, 200, element_size_um=[0.03, 0.016, 0.016]),
        chunk_files,
        hdf5(np.int64, element_size_um=[0.03, 0.016, 0.016]),
        (unet(2), unet(3)),
        {"bcd_watershed": LOOSE | SMALL | DISTANCE},
        predict={"mean": {}, "largest": {"combine": "max"}, "smallest": {"combine": "min"}},
        evaluate={"categories": "volume", "size_thresholds_vx": (100, 300)},
        ranked=True,
    ),
    Case(
        "tiff",
        tiff(voxel_size_nm=SIZE),
        PLAIN,
        tiff(voxel_size_nm=SIZE),
        (unet(4),),
        {
            "binary_watershed": {"seed_threshold": 0.7, "foreground_threshold": 0.5, **SMALL},
            "binary_connected": {"foreground_threshold": 0.6, "min_size": 30},
        },
        predict={str(n): {"tta": n} for n in (4, 16)},
        blocks=(9, 52, 32),
        evaluate={"relabel": True},
        tune={"seed_threshold": (0.65, 0.8), "foreground_threshold": (0.5, 0.55)},
    ),
    Case(
        "sections",
        sections,
        in_memory("sections", voxel_size_nm=(10.0, 16.0, 16.0)),
        in_memory("truth", voxel_size_nm=(10.0, 16.0, 16.0)),
        (unet(5),),
        {"stack_2d": LOOSE | SMALL | {"slice_overlap": 0.2}},
        predict={"2 apart": {"z_stride": 2}, "3 apart": {"z_stride": 3}},
        blocks=(7, 52, 32),
        evaluate={"without_border_cut": True, "categories": "none"},
        tune={"slice_overlap": (0.1, 0.3)},
    ),
    Case(
        "tiles",
        tile_index,
        hdf5(np.float32, 1 / 255, element_size_um=[0.03, 0.016, 0.016]),
        PLAIN,
        (unet(24, working_voxel_size_nm=SIZE),),
        {
            "bc_connected": {
                "foreground_threshold": 0.6,
                "contour_threshold": 0.55,
                "dilation": (1, 5, 3),
                "min_size": 20,
                "small": "neighbor",
            }
        },
        shape=(10, 48, 64),
        predict={"1 and 2": {"scales": (1.0, 2.0)}},
        blocks=(5, 48, 40),
    ),
    Case(
        "zarr",
        foreign_zarr,
        affinities,
        PLAIN,
        (unet(7, working_voxel_size_nm=(30.0, 16.0, 16.0)),),
        {"affinity_connected": {"affinity_threshold": 0.55, "min_size": 12}},
        predict={"source grid": {}, "working grid": {"grid": "working"}},
        blocks=(10, 32, 60),
        tune={"affinity_threshold": (0.5, 0.6)},
    ),
    Case(
        "framed",
        framed,
        in_memory("three", voxel_size_nm=SIZE),
        PLAIN,
        (unet(8),),
        {
            "affinity_agglomeration": {
                "seed_threshold": 0.7,
                "affinity_threshold": 0.5,
                "merge_threshold": 0.6,
                "min_size": 12,
                "small": "neighbor",
            }
        },
        predict={"truncated": {"truncate": True}},
        masked=True,
        blocks=(18, 30, 40),
    ),
    Case(
        "holes",
        with_holes,
        hdf5(np.uint16, 257, element_size_um=[0.03, 0.016, 0.016]),
        hdf5(np.uint16, element_size_um=[0.03, 0.016, 0.016]),
        (unet(9),),
        {"binary_connected": {"foreground_threshold": 0.55, "min_size": 12}},
        shape=(8, 40, 400),
        predict={
            "inverted": {"invert": True},
            "bfloat16": {"precision": "bfloat16"},
            "empty cells left out": {"skip_empty": True},
        },
        evaluate={"score_channel": 1},
        ranked=True,
    ),
    Case(
        "own",
        own_zarr,
        in_memory("fine", voxel_size_nm=(30.0, 8.0, 8.0)),
        own_zarr,
        (unet(10, working_voxel_size_nm=(30.0, 16.0, 16.0)),),
        {"bc_watershed": LOOSE | {"min_seed_size": 1, "min_size": 0}},
        predict={FROM_LEVEL: {}},
        evaluate={"align": "voxels", "bootstrap_samples": 200},
    ),
    Case(
        "windows",
        part,
        hdf5(np.float64, 1 / 255, element_size_um=[0.03, 0.016, 0.016]),
        part,
        (windowed(29, padding=(1, 4, 4), stride=(3, 12, 12), chunks=(2, 1, 2)),),
        {"bc_watershed": LOOSE | SMALL | {"allow_approximate": True}},
        shape=(8, 28, 32),
        predict={"": {}, "flipped": {"tta": 4, "combine": "max"}},
        evaluate={"crop": True},
    ),
)
