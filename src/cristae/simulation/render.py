"""Images and labels of a region, section by section."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.simulation.bricks import (
    FAR,
    N_FIELDS,
    Brick,
    Sampling,
    centre_of,
    corner_fields,
    gather,
    make_brick,
    measure,
    measure_parts,
    place_samples,
)
from cristae.simulation.counter_rng import between, derive, normal, rough_normal, unit
from cristae.simulation.looks import Look
from cristae.simulation.scene import Scene
from cristae.simulation.shading import shade_parts, shade_tubes
from cristae.simulation.spines import O_GAP
from cristae.simulation.tissue import MYELIN

Array = NDArray[Any]

HALO = 5
MEMBRANE_SLACK_NM = 40.0


@njit(nogil=True, cache=True)
def _jitter(sampling: Sampling, z: int, amount: float, out: Array) -> None:
    """Shift of a section along y and x, in nm: large in one section of eighty, never over 20.

    Neighbours differ by less than the thinnest mitochondrion is thick, so none is cut in two.
    """
    key = derive(derive(sampling.key, 21), z)
    amount *= 4.0 if unit(key, 9) < 0.012 else 1.0
    for a in range(2):
        out[a] = min(20.0, max(-20.0, amount * normal(key, a)))


@njit(nogil=True, cache=True)
def _locate(sampling: Sampling, z: int, by: int, bx: int, jitter: Array, base: Array) -> None:
    base[0] = z * sampling.voxel[0]
    base[1] = by * sampling.edge * sampling.voxel[1] + jitter[0]
    base[2] = bx * sampling.edge * sampling.voxel[2] + jitter[1]


@njit(nogil=True, cache=True)
def draw_labels(
    scene: Scene, sampling: Sampling, jitter_nm: float, start: Array, out: Array
) -> None:
    """Write instance ids.

    Args:
        scene: What is there.
        sampling: How the volume is sampled.
        jitter_nm: Shift between sections.
        start: (3,) int64: the voxel of the volume at ``out[0, 0, 0]``.
        out: (z, y, x) uint32, written.
    """
    edge = sampling.edge
    brick = make_brick(edge * edge)
    first = np.array([start[1] // edge, start[2] // edge])
    ny = (start[1] + out.shape[1] - 1) // edge - first[0] + 1
    nx = (start[2] + out.shape[2] - 1) // edge - first[1] + 1
    corners = np.empty((ny + 1, nx + 1, N_FIELDS))
    jitter, base, centre = np.empty(2), np.empty(3), np.empty(3)
    for k in range(out.shape[0]):
        z = start[0] + k
        _jitter(sampling, z, jitter_nm, jitter)
        corner_fields(sampling, z, first, jitter, corners)
        for j in range(ny):
            for i in range(nx):
                _locate(sampling, z, first[0] + j, first[1] + i, jitter, base)
                here = corners[j : j + 2, i : i + 2]
                centre_of(sampling, scene.origin, base, here, centre)
                y0 = (first[0] + j) * edge - start[1]
                x0 = (first[1] + i) * edge - start[2]
                near = gather(scene.part_shape, scene.part_bins, centre, 0.0, 1e3, brick)
                if near == 0:
                    _put(brick, scene.label, edge, y0, x0, False, out[k])
                    continue
                place_samples(sampling, scene.origin, 1, base, here, brick)
                found = measure_parts(scene, sampling, centre, brick)
                if found:
                    _part_depths(scene.parts, brick)
                _put(brick, scene.label, edge, y0, x0, found, out[k])


@njit(nogil=True, cache=True)
def _put(brick: Brick, label: Array, edge: int, y0: int, x0: int, found: bool, out: Array) -> None:
    """Copy a brick's labels into the part of a section that is read."""
    owner, depth = brick.part_owner[0], brick.scratch
    for j in range(max(0, -y0), min(edge, out.shape[0] - y0)):
        for i in range(max(0, -x0), min(edge, out.shape[1] - x0)):
            s = j * edge + i
            inside = found and depth[s] >= np.float32(0.0)
            out[y0 + j, x0 + i] = label[owner[s]] if inside else np.uint32(0)


@njit(nogil=True, cache=True)
def _part_depths(parts: Array, brick: Brick) -> None:
    """Write to ``scratch`` how deep each sample is in its organelle, in nm; negative outside."""
    nearest, second = brick.part[0], brick.part[1]
    owner, other, depth = brick.part_owner[0], brick.part_owner[1], brick.scratch
    for s in range(len(depth)):
        depth[s] = -nearest[s]
        if other[s] >= 0:
            apart = np.float32(0.5) * (second[s] - nearest[s] - parts[owner[s], O_GAP])
            depth[s] = min(depth[s], apart)


@njit(nogil=True, cache=True)
def _measure_tubes(scene: Scene, sampling: Sampling, centre: Array, brick: Brick) -> None:
    """The two nearest tubes at every sample, glia among them."""
    reach = 2.0 * sampling.radius + 2.0 * MEMBRANE_SLACK_NM
    wide = gather(scene.tube_shape, scene.tube_bins, centre, 250.0, reach, brick)
    sheath = np.float32(0.0)
    for i in range(wide):
        sheath = max(sheath, scene.tubes[scene.tube_owner[brick.found[i]], MYELIN])
    if sheath > 0.0:
        reach += 2.0 * float(sheath)
        wide = gather(scene.tube_shape, scene.tube_bins, centre, 250.0, reach, brick)
    brick.nearest[0] = brick.field[0]
    brick.nearest[1] = FAR
    brick.owner[:] = -1
    measure(scene.tube_shape, scene.tube_owner, wide, brick, brick.nearest, brick.owner)


@njit(nogil=True, cache=True)
def _draw_brick(
    scene: Scene, look: Look, texture: Array, sampling: Sampling, centre: Array, brick: Brick,
    grey: Array,
) -> None:  # fmt: skip
    """Write the greys of a brick's samples, averaged over its planes."""
    n = sampling.edge * sampling.edge
    samples = grey[n:]
    _measure_tubes(scene, sampling, centre, brick)
    shade_tubes(scene.tubes, scene.tube_key, look, texture, brick, samples)
    if measure_parts(scene, sampling, centre, brick):
        _part_depths(scene.parts, brick)
        shade_parts(scene.parts, look, texture, brick, samples)
    share, light = np.float32(1.0 / sampling.planes), np.float32(look.illumination)
    drift = brick.field[2]
    for s in range(n):
        total = np.float32(0.0)
        for plane in range(sampling.planes):
            total += samples[plane * n + s]
        grey[s] = total * share + light * drift[s]


@njit(nogil=True, cache=True)
def _gaussian(sigma: float) -> Any:
    """Half of a normalised Gaussian, float32, as far as it matters, at most HALO voxels."""
    reach = 0
    while reach < HALO and math.exp(-0.5 * ((reach + 1) / max(sigma, 0.05)) ** 2) > 4e-3:
        reach += 1
    weight = np.empty(reach + 1)
    for r in range(reach + 1):
        weight[r] = math.exp(-0.5 * (r / max(sigma, 0.05)) ** 2)
    return (weight / (2.0 * weight.sum() - 1.0)).astype(np.float32)


@njit(nogil=True, cache=True)
def _blur(source: Array, sigma: float, scratch: Array, out: Array) -> None:
    """Smooth a section with a Gaussian; the HALO voxels around ``out`` are in ``source``."""
    weight = _gaussian(sigma)
    reach = len(weight) - 1
    ny, nx = out.shape
    for j in range(source.shape[0]):
        for i in range(nx):
            scratch[j, i] = weight[0] * source[j, i + HALO]
        for r in range(1, reach + 1):
            for i in range(nx):
                pair = source[j, i + HALO - r] + source[j, i + HALO + r]
                scratch[j, i] += weight[r] * pair
    for j in range(ny):
        for i in range(nx):
            out[j, i] = weight[0] * scratch[j + HALO, i]
        for r in range(1, reach + 1):
            for i in range(nx):
                out[j, i] += weight[r] * (scratch[j + HALO - r, i] + scratch[j + HALO + r, i])


@njit(nogil=True, cache=True)
def _draw_section(
    scene: Scene, look: Look, texture: Array, sampling: Sampling, z: int, start: Array,
    brick: Brick, canvas: Array,
) -> None:  # fmt: skip
    """Write the noiseless greys of a rectangle of a section."""
    edge = sampling.edge
    first = np.array([start[0] // edge, start[1] // edge])
    ny = (start[0] + canvas.shape[0] - 1) // edge - first[0] + 1
    nx = (start[1] + canvas.shape[1] - 1) // edge - first[1] + 1
    corners = np.empty((ny + 1, nx + 1, N_FIELDS))
    jitter, base, centre = np.empty(2), np.empty(3), np.empty(3)
    grey = np.empty(edge * edge * (1 + sampling.planes), np.float32)
    _jitter(sampling, z, look.jitter_nm, jitter)
    corner_fields(sampling, z, first, jitter, corners)
    for j in range(ny):
        for i in range(nx):
            _locate(sampling, z, first[0] + j, first[1] + i, jitter, base)
            here = corners[j : j + 2, i : i + 2]
            centre_of(sampling, scene.origin, base, here, centre)
            place_samples(sampling, scene.origin, sampling.planes, base, here, brick)
            _draw_brick(scene, look, texture, sampling, centre, brick, grey)
            y0 = (first[0] + j) * edge - start[0]
            x0 = (first[1] + i) * edge - start[1]
            for b in range(max(0, -y0), min(edge, canvas.shape[0] - y0)):
                for a in range(max(0, -x0), min(edge, canvas.shape[1] - x0)):
                    canvas[y0 + b, x0 + a] = grey[b * edge + a]


@njit(nogil=True, cache=True)
def _add_noise(key: Any, y0: int, x0: int, sigma: float, image: Array) -> None:
    """Add noise that grows with the square root of the grey, a function of the voxel alone."""
    scale = np.float32(sigma / math.sqrt(130.0))
    for j in range(image.shape[0]):
        row = derive(key, y0 + j)
        for i in range(image.shape[1]):
            noise = rough_normal(derive(row, x0 + i))
            bright = max(image[j, i], np.float32(20.0))
            image[j, i] += noise * scale * np.float32(math.sqrt(bright))


@njit(nogil=True, cache=True)
def draw_image(
    scene: Scene, look: Look, texture: Array, sampling: Sampling, start: Array, out: Array
) -> None:
    """Write the image.

    Args:
        scene: What is there.
        look: How it looks.
        texture: See `looks.texture_table`.
        sampling: How the volume is sampled.
        start: (3,) int64: the voxel of the volume at ``out[0, 0, 0]``.
        out: (z, y, x) uint8, written.
    """
    ny, nx = out.shape[1], out.shape[2]
    canvas = np.empty((ny + 2 * HALO, nx + 2 * HALO), np.float32)
    scratch = np.empty((ny + 2 * HALO, nx), np.float32)
    sharp = np.empty((ny, nx), np.float32)
    brick = make_brick(sampling.edge * sampling.edge * sampling.planes)
    corner = np.array([start[1] - HALO, start[2] - HALO])
    pixel = math.sqrt(sampling.voxel[1] * sampling.voxel[2])
    for k in range(out.shape[0]):
        z = start[0] + k
        key = derive(derive(sampling.key, 22), z)
        _draw_section(scene, look, texture, sampling, z, corner, brick, canvas)
        sigma = min(1.9, look.blur_nm / pixel)
        if unit(key, 0) < 0.02:
            sigma = min(2.2, 1.8 * sigma + 0.3)
        grainy = 1.0 / math.sqrt(1.0 + 10.0 * sigma * sigma)
        _add_noise(derive(key, 1), corner[0], corner[1], look.noise * look.grain / grainy, canvas)
        _blur(canvas, sigma, scratch, sharp)
        rest = math.sqrt(max(0.0, 1.0 - look.grain * look.grain))
        _add_noise(derive(key, 2), start[1], start[2], look.noise * rest, sharp)
        contrast = np.float32(1.0 + look.section_contrast * normal(key, 3))
        mean = np.float32(look.cytoplasm)
        level = mean + np.float32(look.section_brightness * normal(key, 4))
        if unit(key, 5) < 0.03:
            level += np.float32(between(key, 6, -18.0, 18.0))
        for j in range(ny):
            for i in range(nx):
                grey = (sharp[j, i] - mean) * contrast + level + np.float32(0.5)
                out[k, j, i] = np.uint8(min(np.float32(255.0), max(np.float32(0.0), grey)))
