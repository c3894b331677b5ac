"""A shaded picture of instances in space, drawn without any 3D library.

Every pixel sends one ray, straight ahead, through the labels. In empty space a ray leaps by the
distance to the nearest occupied cell; near a surface it creeps::

    eye  o─────────────►────────►────►──►─►x   surface: where a smooth distance is zero
         leap           leap     leap     creep

The surface is the zero of a signed distance taken section by section and mixed linearly between
sections (shape-based interpolation, S. P. Raya and J. K. Udupa, 1990, doi:10.1109/42.52980), so
thick sections give slopes and not stairs. Light comes from the upper left; what lies behind its
surroundings is darkened (unsharp masking of the depth buffer, T. Luft et al., 2006,
doi:10.1145/1141911.1142016).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cristae.figures.colours import instance_colours

Triple = tuple[float, float, float]
Floats = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]

#: Signed distances are kept up to this many times the smallest voxel edge.
_BAND = 4.0
_BOX_GREY = np.array([128, 134, 144], dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """What rays are sent through; made once, looked at from any side.

    Attributes:
        labels: Ids (z, y, x), grown by one voxel so that a surface finds its id.
        distance: Signed distance (z, y, x), positive inside, in units of the smallest edge.
        clear: Distance that is free of instances around each coarse cell (nm).
        cell: Voxels a coarse cell spans along (z, y, x).
        voxel_size: Extent of a voxel (nm), (z, y, x).
    """

    labels: Labels
    distance: Floats
    clear: Floats
    cell: tuple[int, int, int]
    voxel_size: Triple


def build_scene(labels: Labels, voxel_size: Triple) -> Scene:
    """Prepare labels for looking at.

    Args:
        labels: Ids (z, y, x), 0 the background; memory used is about 20 bytes a voxel.
        voxel_size: Extent of a voxel (nm), (z, y, x).
    """
    padded = np.pad(labels, 1)
    edge = min(voxel_size)
    inside = _separated(padded)
    distance = np.empty(padded.shape, dtype=np.float32)
    limit = np.float32(_BAND)
    sampling = (voxel_size[1] / edge, voxel_size[2] / edge)
    for z, section in enumerate(inside):
        if not section.any():
            distance[z] = -limit
            continue
        outward = ndimage.distance_transform_edt(~section, sampling=sampling)
        inward = ndimage.distance_transform_edt(section, sampling=sampling)
        distance[z] = (inward - outward).clip(-limit, limit)
    sigma = tuple(0.9 * edge / size for size in voxel_size)
    distance = ndimage.gaussian_filter(distance, sigma, output=distance, truncate=3.0)
    grown = np.where(padded > 0, padded, ndimage.grey_dilation(padded, size=(3, 3, 3)))
    cell, clear = _clearance(distance, voxel_size)
    return Scene(grown, distance, clear, cell, voxel_size)


def _separated(labels: Labels) -> NDArray[np.bool_]:
    """The foreground with a one-voxel furrow between touching instances of a section."""
    inside = np.asarray(labels > 0)
    for axis in (1, 2):
        lower = [slice(None)] * 3
        upper = [slice(None)] * 3
        lower[axis] = slice(None, -1)
        upper[axis] = slice(1, None)
        one, other = labels[tuple(lower)], labels[tuple(upper)]
        inside[tuple(lower)] &= ~((one != other) & (one > 0) & (other > 0))
    return inside


def _clearance(distance: Floats, voxel_size: Triple) -> tuple[tuple[int, int, int], Floats]:
    """Coarse cells of near-cubic shape, and how far each is from an occupied one (nm)."""
    width = 4 * min(voxel_size)
    cell = tuple(max(1, round(width / size)) for size in voxel_size)
    shape = [-(-length // c) for length, c in zip(distance.shape, cell, strict=True)]
    pad = [(0, n * c - length) for n, c, length in zip(shape, cell, distance.shape, strict=True)]
    blocks = np.pad(distance > -1.5, pad).reshape(
        shape[0], cell[0], shape[1], cell[1], shape[2], cell[2]
    )
    occupied = blocks.any(axis=(1, 3, 5))
    edges = [c * size for c, size in zip(cell, voxel_size, strict=True)]
    away = ndimage.distance_transform_edt(~occupied, sampling=edges)
    diagonal = float(np.linalg.norm(edges))
    return (cell[0], cell[1], cell[2]), (away - diagonal).clip(0.0, None).astype(np.float32)


def render(
    scene: Scene,
    *,
    azimuth: float,
    elevation: float,
    width: int = 760,
    oversampling: int = 2,
) -> tuple[NDArray[np.uint8], float]:
    """Look at a scene from afar, without perspective, so that lengths can be measured.

    Args:
        scene: From `build_scene`.
        azimuth: Degrees the volume is turned around z.
        elevation: Degrees looked down from the horizontal; 90 looks along z.
        width: Columns of the picture; its rows follow from the view.
        oversampling: Rays a pixel along each side.

    Returns:
        uint8 (rows, columns, 4) on a clear ground, and the scale in nm a pixel.
    """
    extent = np.array(scene.labels.shape, dtype=np.float64) * scene.voxel_size
    right, down, ahead = _camera(azimuth, elevation)
    reach = [float(np.abs(axis) @ extent) for axis in (right, down, ahead)]
    scale = reach[0] * 1.03 / width
    size = (max(1, round(reach[1] * 1.03 / scale)) * oversampling, width * oversampling)
    fine = scale / oversampling
    origin = _ray_origins(size, fine, (right, down, ahead), reach[2], extent)
    depth = _trace(scene, origin, ahead, reach[2])
    hit = np.isfinite(depth)
    points = origin[hit] + depth[hit, None] * ahead.astype(np.float32)
    colour = np.zeros((*size, 4), dtype=np.float32)
    grid = np.full(size, np.inf)
    grid[hit.reshape(size)] = depth[hit]
    if hit.any():
        flat = _shade(scene, points, (right, down, ahead), grid, fine)
        colour.reshape(-1, 4)[hit] = flat
    _draw_box(colour, grid, (extent, 2 * np.array(scene.voxel_size)), (right, down, ahead), fine)
    return _shrink(colour, oversampling), scale


def _camera(azimuth: float, elevation: float) -> tuple[NDArray[np.float64], ...]:
    """Unit vectors (z, y, x) to the right, down and ahead of the picture."""
    turn, tilt = np.deg2rad(azimuth), np.deg2rad(elevation)
    right = np.array([0.0, np.sin(turn), np.cos(turn)])
    level = np.array([0.0, -np.cos(turn), np.sin(turn)])
    ahead = np.cos(tilt) * level + np.sin(tilt) * np.array([1.0, 0.0, 0.0])
    down = np.sin(tilt) * -level + np.cos(tilt) * np.array([1.0, 0.0, 0.0])
    return right, down, ahead


def _ray_origins(
    size: tuple[int, int],
    fine: float,
    camera: tuple[NDArray[np.float64], ...],
    reach: float,
    extent: NDArray[np.float64],
) -> Floats:
    """Where rays start (rays, 3), in nm from the first voxel's corner, in front of the volume."""
    right, down, ahead = camera
    rows = (np.arange(size[0]) + 0.5 - size[0] / 2) * fine
    columns = (np.arange(size[1]) + 0.5 - size[1] / 2) * fine
    start = extent / 2 - ahead * (reach / 2)
    origins = start + rows[:, None, None] * down + columns[None, :, None] * right
    return origins.reshape(-1, 3).astype(np.float32)


def _trace(scene: Scene, origin: Floats, ahead: NDArray[np.float64], reach: float) -> Floats:
    """Depth (nm) at which each ray meets a surface; infinite where it meets none."""
    edge = np.float32(min(scene.voxel_size))
    direction = ahead.astype(np.float32)
    depth = np.full(len(origin), np.inf, dtype=np.float32)
    begin, end = _span(origin, direction, np.array(scene.labels.shape) * scene.voxel_size)
    alive = np.flatnonzero(begin < np.minimum(end, reach))
    at, last, start = begin[alive], end[alive], origin[alive]
    stride = np.zeros(len(alive), dtype=np.float32)
    cells = np.array(scene.cell, dtype=np.float32) * np.array(scene.voxel_size, dtype=np.float32)
    most = np.array(scene.clear.shape, dtype=np.int32) - 1
    while alive.size:
        point = start + at[:, None] * direction
        index = np.minimum((point / cells).astype(np.int32).clip(0), most)
        free = scene.clear[index[:, 0], index[:, 1], index[:, 2]]
        near = np.flatnonzero(free < edge)
        inside = _sample(scene.distance, point[near], scene.voxel_size)
        found = near[inside > 0]
        depth[alive[found]] = _settle(scene, start[found], direction, (at[found], stride[found]))
        free[near] = (-0.5 * inside).clip(0.5, 1.8) * edge
        stride = free
        keep = at + free < last
        keep[found] = False
        at = (at + free)[keep]
        alive, last, start, stride = alive[keep], last[keep], start[keep], stride[keep]
    return depth


def _settle(
    scene: Scene, start: Floats, direction: Floats, reached: tuple[Floats, Floats]
) -> Floats:
    """Depth of the surface between a point inside and the one a stride before it, by halving."""
    inside, stride = reached
    outside: Floats = inside - stride
    for _ in range(5):
        middle = np.float32(0.5) * (inside + outside)
        value = _sample(scene.distance, start + middle[:, None] * direction, scene.voxel_size)
        inside = np.where(value > 0, middle, inside)
        outside = np.where(value > 0, outside, middle)
    return inside


def _span(origin: Floats, direction: Floats, extent: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Depths at which rays enter and leave the volume's box."""
    safe = np.where(np.abs(direction) < 1e-6, np.float32(1e-6), direction)
    first = (0.0 - origin) / safe
    second = (extent.astype(np.float32) - origin) / safe
    begin = np.minimum(first, second).max(axis=1).clip(0.0, None)
    return begin.astype(np.float32), np.maximum(first, second).min(axis=1).astype(np.float32)


def _sample(field: Floats, points: Floats, voxel_size: Triple) -> Floats:
    """The field at points (n, 3) in nm, linear between voxel centres."""
    index = (points / np.array(voxel_size, dtype=np.float32) - 0.5).T
    values: Floats = ndimage.map_coordinates(field, index, order=1, mode="nearest")
    return values


def _shade(
    scene: Scene,
    points: Floats,
    camera: tuple[NDArray[np.float64], ...],
    depth: NDArray[np.float64],
    fine: float,
) -> Floats:
    """Colours (n, 4) of surface points: by id, light, gloss, and the depth around them."""
    right, down, ahead = camera
    normal = _normals(scene, points)
    light = -0.45 * right - 0.62 * down - 0.64 * ahead
    half = light / np.linalg.norm(light) - ahead
    lit = (normal @ (light / np.linalg.norm(light))).clip(-1, 1)
    gloss = (normal @ (half / np.linalg.norm(half))).clip(0, 1) ** 28
    facing = (-(normal @ ahead)).clip(0, 1)
    open_sky = _openness(depth, fine)[np.isfinite(depth)]
    far = depth[np.isfinite(depth)]
    far = (far - far.min()) / max(1e-6, np.ptp(far))
    brightness = (0.37 + 0.28 * (0.5 + 0.5 * lit) + 0.46 * lit.clip(0, 1)) * open_sky
    brightness *= (0.72 + 0.28 * facing) * (1 - 0.25 * far)
    inward = points - normal * np.float32(0.8 * min(scene.voxel_size))
    index = tuple(
        (inward[:, k] / scene.voxel_size[k]).astype(np.int32).clip(0, scene.labels.shape[k] - 1)
        for k in range(3)
    )
    ids, position = np.unique(scene.labels[index], return_inverse=True)
    base = instance_colours(ids).astype(np.float32)[position]
    rgb = base * brightness[:, None] + 70 * (gloss * open_sky)[:, None]
    return np.concatenate([rgb.clip(0, 255), np.full((len(rgb), 1), 255)], axis=1, dtype=np.float32)


def _normals(scene: Scene, points: Floats) -> Floats:
    """Unit vectors (n, 3) out of the surface, from the distance's slope over two voxels."""
    reach = np.float32(1.6 * min(scene.voxel_size))
    slope = np.empty_like(points)
    for axis in range(3):
        step = np.zeros(3, dtype=np.float32)
        step[axis] = max(reach, np.float32(0.5 * scene.voxel_size[axis]))
        ahead = _sample(scene.distance, points + step, scene.voxel_size)
        behind = _sample(scene.distance, points - step, scene.voxel_size)
        slope[:, axis] = (behind - ahead) / (2 * step[axis])
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    return np.asarray(slope / np.maximum(length, np.float32(1e-12)))


def _openness(depth: NDArray[np.float64], fine: float) -> NDArray[np.float64]:
    """How little of the sky the surroundings hide, 0.4..1, from the depth buffer alone."""
    hit = np.isfinite(depth)
    behind = float(depth[hit].max())
    filled = np.where(hit, depth, behind)
    openness = np.ones(depth.shape)
    for radius, strength in ((6.0, 0.35), (22.0, 0.45)):
        around = ndimage.gaussian_filter(filled, radius, truncate=2.5)
        hidden = (filled - around) / (radius * fine * 2.2)
        openness -= strength * hidden.clip(0, 1)
    return openness.clip(0.4, 1.0)


def _draw_box(
    colour: Floats,
    depth: NDArray[np.float64],
    size: tuple[NDArray[np.float64], NDArray[np.float64]],
    camera: tuple[NDArray[np.float64], ...],
    fine: float,
) -> None:
    """Draw the volume's edges in place, hidden behind what stands before them.

    Args:
        colour: Rays (rows, columns, 4), drawn into.
        depth: Depth of the surface of every ray (nm), infinite where there is none.
        size: Extent that rays cross, and how much of it is rim outside the volume (nm).
        camera: From `_camera`.
        fine: Distance between rays (nm).
    """
    extent, rim = size
    right, down, ahead = camera
    rows, columns = depth.shape
    reach = float(np.abs(ahead) @ extent)
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], dtype=float)
    for first in range(8):
        for second in range(first + 1, 8):
            if np.abs(corners[first] - corners[second]).sum() != 1:
                continue
            count = int(2 * max(rows, columns))
            part = np.linspace(0, 1, count)[:, None]
            line = (corners[first] * (1 - part) + corners[second] * part - 0.5) * (extent - rim)
            y = np.rint(line @ down / fine + rows / 2 - 0.5).astype(int)
            x = np.rint(line @ right / fine + columns / 2 - 0.5).astype(int)
            z = line @ ahead + reach / 2
            for shift in (0, 1):
                row, column = y.clip(0, rows - 1), (x + shift).clip(0, columns - 1)
                seen = z <= depth[row, column] + 1e-6 * reach
                colour[row[seen], column[seen], :3] = _BOX_GREY
                colour[row[seen], column[seen], 3] = 255


def _shrink(colour: Floats, factor: int) -> NDArray[np.uint8]:
    """Means over ``factor`` x ``factor`` rays, colours weighted by opacity, in 64 levels."""
    rows, columns = colour.shape[0] // factor, colour.shape[1] // factor
    blocks = colour.reshape(rows, factor, columns, factor, 4)
    opacity = blocks[..., 3:].mean(axis=(1, 3))
    rgb = (blocks[..., :3] * blocks[..., 3:]).mean(axis=(1, 3)) / opacity.clip(1e-6, None)
    rgb = np.where(opacity > 0, np.rint(rgb / 4) * 4, 0)
    return np.concatenate([rgb, opacity], axis=2).clip(0, 255).astype(np.uint8)
