"""Raster pictures: grey windows, resizing to physical proportions, encoding."""

import base64

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]


def contrast_window(sections: list[NDArray[np.generic]]) -> tuple[float, float]:
    """Grey values shown as black and as white: percentiles 0.4 and 99.6 of the sections together.

    At most a quarter of a million evenly spaced pixels are looked at, values that are not finite
    left out. A constant picture gets a window one value wide, centred on it.
    """
    total = sum(section.size for section in sections)
    step = max(1, total // 250_000)
    values = np.concatenate([np.ravel(section)[::step] for section in sections] or [np.zeros(1)])
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.4, 99.6])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def to_grey(section: NDArray[np.generic], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Grey levels 0..255 of a section, ``window`` giving black and white."""
    low, high = window
    scaled = (np.nan_to_num(section.astype(np.float32)) - low) * (255.0 / (high - low))
    return np.asarray(np.rint(scaled.clip(0, 255)), dtype=np.uint8)


def physical_size(shape: Size, pixel_size: tuple[float, float], nm_per_pixel: float) -> Size:
    """Pixels (rows, columns) that show a section at a scale, so that lengths are true.

    Args:
        shape: Rows and columns of the section in voxels.
        pixel_size: Extent of one voxel along rows and columns (nm).
        nm_per_pixel: Scale of the picture (nm a pixel), the same along both.
    """
    rows, columns = (
        max(1, round(length * edge / nm_per_pixel))
        for length, edge in zip(shape, pixel_size, strict=True)
    )
    return rows, columns


def resize_image(section: NDArray[np.generic], size: Size) -> NDArray[np.float32]:
    """A section (rows, columns) at another size: linear when enlarged, averaged when shrunk."""
    rows = _triangle_filter(section.shape[0], size[0])
    columns = _triangle_filter(section.shape[1], size[1])
    resized: NDArray[np.float32] = rows @ np.nan_to_num(section.astype(np.float32)) @ columns.T
    return resized


def resize_labels(section: NDArray[np.generic], size: Size) -> NDArray[np.generic]:
    """Labels (rows, columns) at another size, each pixel the nearest voxel's."""
    rows = nearest_index(section.shape[0], size[0])
    columns = nearest_index(section.shape[1], size[1])
    return section[rows[:, None], columns[None, :]]


def nearest_index(length: int, size: int) -> NDArray[np.intp]:
    """For ``size`` pixels across ``length`` voxels: the voxel under each pixel's centre."""
    return ((np.arange(size) + 0.5) * (length / size)).astype(np.intp).clip(0, length - 1)


def _triangle_filter(length: int, size: int) -> NDArray[np.float32]:
    """Weights (size, length) of a triangle as wide as the coarser of the two grids."""
    scale = length / size
    width = max(1.0, scale)
    centre = (np.arange(size) + 0.5) * scale - 0.5
    weight = 1.0 - np.abs(np.arange(length)[None, :] - centre[:, None]) / width
    weight = weight.clip(0.0, None)
    # A pixel beyond the outermost voxel's centre shows that voxel.
    empty = weight.sum(axis=1) == 0
    weight[empty, nearest_index(length, size)[empty]] = 1.0
    normalised: NDArray[np.float32] = (weight / weight.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return normalised


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (rows, columns[, 3 or 4]) as PNG bytes."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(picture), level=6))


def jpeg(picture: NDArray[np.uint8], quality: int = 82) -> bytes:
    """A picture (rows, columns[, 3]) as JPEG bytes."""
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(picture), level=quality))


def data_uri(encoded: bytes) -> str:
    """PNG or JPEG bytes as a ``data:`` address that needs no file."""
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"
