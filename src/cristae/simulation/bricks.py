"""Bricks: squares of one section that share their short lists of nearby objects.

Bricks lie on a fixed grid of whole voxels. At their corners a smooth warp of space is evaluated;
inside it is interpolated. Each sample of a brick then gets the nearest and second nearest tube,
or organelle, with the signed distances to their surfaces.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.simulation.counter_rng import add_smooth_noise, derive
from cristae.simulation.scene import Scene
from cristae.simulation.space import Bins, bin_of

Array = NDArray[Any]

# fields at brick corners: warp, room left to glia, synapses, illumination
W_Z, W_Y, W_X, GLIA, SYNAPSE, LIGHT = 0, 1, 2, 3, 4, 5
N_FIELDS = 6
FAR = np.float32(1e6)
_F0, _F1 = np.float32(0.0), np.float32(1.0)


class Sampling(NamedTuple):
    """How a volume is sampled.

    Attributes:
        key: The volume's key.
        voxel: (3,) float64: voxel size in nm.
        edge: Voxels along a brick.
        planes: Planes sampled within a section.
        radius: Bound on the distance, in nm, from a brick's centre to its warped samples.
        warp_nm: Amplitude of the warp.
    """

    key: Any
    voxel: Array
    edge: int
    planes: int
    radius: float
    warp_nm: float


class Brick(NamedTuple):
    """Work space of one brick: samples in the order (plane, y, x).

    Attributes:
        point: (3, n) float32: warped z, y, x in nm from the scene's origin.
        field: (3, n) float32: glia, synapse and light fields.
        nearest: (2, n) float32: distance to the nearest tube's surface and to the second.
        owner: (2, n) int32: those tubes; -1 is glia.
        part: (2, n) float32: the same for organelles.
        part_owner: (2, n) int32: those organelles; -1 is none.
        scratch: (n,) float32.
        found: (4000,) int32: rods at hand.
        found_distance: (4000,) float32.
    """

    point: Array
    field: Array
    nearest: Array
    owner: Array
    part: Array
    part_owner: Array
    scratch: Array
    found: Array
    found_distance: Array


def make_sampling(key: Any, voxel_size_nm: tuple[float, float, float], warp_nm: float) -> Sampling:
    """The sampling of a voxel size: bricks of about 70 nm, planes at most about 17 nm apart."""
    z, y, x = voxel_size_nm
    edge = int(min(32, max(2, 2 ** round(math.log2(70.0 / math.sqrt(y * x))))))
    planes = 1 if z <= 15.0 else 2 if z <= 35.0 else 3
    radius = 1.5 * math.hypot(0.5 * edge * y, 0.5 * edge * x, 0.5 * z)
    return Sampling(key, np.array([z, y, x]), edge, planes, radius, warp_nm)


@njit(nogil=True, cache=True)
def make_brick(samples: int) -> Brick:
    """Work space for bricks of this many samples."""
    return Brick(
        np.empty((3, samples), np.float32),
        np.empty((3, samples), np.float32),
        np.empty((2, samples), np.float32),
        np.empty((2, samples), np.int32),
        np.empty((2, samples), np.float32),
        np.empty((2, samples), np.int32),
        np.empty(samples, np.float32),
        np.empty(4000, np.int32),
        np.empty(4000, np.float32),
    )


@njit(nogil=True, cache=True)
def corner_fields(sampling: Sampling, z: int, first: Array, jitter: Array, out: Array) -> None:
    """Evaluate the fields at the corners of a grid of bricks in section ``z``.

    Args:
        sampling: How the volume is sampled.
        z: Section.
        first: (2,) int64: first brick along y and x.
        jitter: (2,) float64: shift of the section along y and x, in nm.
        out: (ny + 1, nx + 1, N_FIELDS) float64, written.
    """
    bend, fold = derive(sampling.key, 11), derive(sampling.key, 12)
    glia, light = derive(sampling.key, 13), derive(derive(sampling.key, 14), z)
    a = sampling.warp_nm
    wide, narrow = np.full(3, a), np.full(3, 0.34 * a)
    blobs, drift = np.array([30.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    pz = z * sampling.voxel[0]
    for j in range(out.shape[0]):
        py = (first[0] + j) * sampling.edge * sampling.voxel[1] + jitter[0]
        for i in range(out.shape[1]):
            px = (first[1] + i) * sampling.edge * sampling.voxel[2] + jitter[1]
            cell = out[j, i]
            cell[:] = 0.0
            cell[GLIA] = 150.0
            add_smooth_noise(bend, pz / 900.0, py / 900.0, px / 900.0, wide, cell)
            add_smooth_noise(fold, pz / 300.0, py / 300.0, px / 300.0, narrow, cell)
            add_smooth_noise(glia, pz / 420.0, py / 420.0, px / 420.0, blobs, cell[3:])
            add_smooth_noise(light, 0.0, py / 2600.0, px / 2600.0, drift, cell[LIGHT:])


@njit(nogil=True, cache=True)
def _blend(corners: Array, a: int, fy: float, fx: float) -> Any:
    top = corners[0, 0, a] * (1.0 - fx) + corners[0, 1, a] * fx
    low = corners[1, 0, a] * (1.0 - fx) + corners[1, 1, a] * fx
    return top * (1.0 - fy) + low * fy


@njit(nogil=True, cache=True)
def place_samples(
    sampling: Sampling, origin: Array, planes: int, base: Array, corners: Array, brick: Brick
) -> None:
    """Put the samples of a brick at their warped places.

    Args:
        sampling: How the volume is sampled.
        origin: The scene's origin, in nm.
        planes: Planes to sample; 1 is the middle of the section.
        base: (3,) float64: place of the brick's first voxel at mid-section, unwarped, in nm.
        corners: (2, 2, N_FIELDS) fields at the brick's corners.
        brick: Written: ``point`` and ``field``.
    """
    edge = sampling.edge
    n = edge * edge
    z0, y0, x0 = base[0] - origin[0], base[1] - origin[1], base[2] - origin[2]
    for a in range(N_FIELDS):
        target = brick.point[a] if a <= W_X else brick.field[a - GLIA]
        for j in range(edge):
            t = j / edge
            left = corners[0, 0, a] * (1.0 - t) + corners[1, 0, a] * t
            slope = (corners[0, 1, a] * (1.0 - t) + corners[1, 1, a] * t - left) / edge
            if a == W_Z:
                left += z0
            elif a == W_Y:
                left += y0 + j * sampling.voxel[1]
            elif a == W_X:
                left += x0
                slope += sampling.voxel[2]
            for i in range(edge):
                target[j * edge + i] = left + slope * i
    for plane in range(planes):
        for a in range(N_FIELDS):
            target = brick.point[a] if a <= W_X else brick.field[a - GLIA]
            if plane > 0:
                target[plane * n : (plane + 1) * n] = target[:n]
    for plane in range(planes - 1, -1, -1):
        shift = np.float32(((plane + 0.5) / planes - 0.5) * sampling.voxel[0])
        for s in range(plane * n, (plane + 1) * n):
            brick.point[0, s] += shift


@njit(nogil=True, cache=True)
def centre_of(sampling: Sampling, origin: Array, base: Array, corners: Array, out: Array) -> None:
    """The warped middle of a brick, in nm from the scene's origin."""
    half = 0.5 * (sampling.edge - 1)
    out[0] = base[0] - origin[0] + _blend(corners, W_Z, 0.5, 0.5)
    out[1] = base[1] - origin[1] + half * sampling.voxel[1] + _blend(corners, W_Y, 0.5, 0.5)
    out[2] = base[2] - origin[2] + half * sampling.voxel[2] + _blend(corners, W_X, 0.5, 0.5)


@njit(nogil=True, cache=True)
def _point_distance(row: Array, z: Any, y: Any, x: Any) -> Any:
    vz, vy, vx = z - row[0], y - row[1], x - row[2]
    t = (vz * row[3] + vy * row[4] + vx * row[5]) * row[6]
    t = min(_F1, max(_F0, t))
    vz -= t * row[3]
    vy -= t * row[4]
    vx -= t * row[5]
    return np.float32(math.sqrt(vz * vz + vy * vy + vx * vx) - (row[7] + t * row[8]))


@njit(nogil=True, cache=True)
def gather(shape: Array, bins: Bins, centre: Array, cap: float, slack: float, brick: Brick) -> int:
    """List the rods that may be nearest, or second within ``slack``, somewhere in a brick.

    Args:
        shape: Rods.
        bins: Rods near each bin.
        centre: Middle of the brick.
        cap: Nearest distances above this count as this.
        slack: In nm.
        brick: ``found`` is written.

    Returns:
        How many rods there are.
    """
    z, y, x = np.float32(centre[0]), np.float32(centre[1]), np.float32(centre[2])
    b = bin_of(bins, z, y, x)
    nearest = np.float32(cap)
    first = bins.start[b]
    n = min(bins.start[b + 1] - first, len(brick.found))
    for i in range(n):
        d = _point_distance(shape[bins.item[first + i]], z, y, x)
        brick.found_distance[i] = d
        nearest = min(nearest, d)
    limit = nearest + np.float32(slack)
    count = 0
    for i in range(n):
        if brick.found_distance[i] <= limit:
            brick.found[count] = bins.item[first + i]
            brick.found_distance[count] = brick.found_distance[i]
            count += 1
    return count


@njit(nogil=True, cache=True)
def _lower(row: Array, pz: Array, py: Array, px: Array, out: Array) -> None:
    """Lower ``out`` to the distance to a rod where that is less."""
    az, ay, ax, uz, uy, ux = row[0], row[1], row[2], row[3], row[4], row[5]
    inverse, radius, taper = row[6], row[7], row[8]
    for s in range(len(out)):
        vz, vy, vx = pz[s] - az, py[s] - ay, px[s] - ax
        t = (vz * uz + vy * uy + vx * ux) * inverse
        t = _F0 if t < _F0 else t
        t = _F1 if t > _F1 else t
        vz -= t * uz
        vy -= t * uy
        vx -= t * ux
        d = np.float32(math.sqrt(vz * vz + vy * vy + vx * vx)) - (radius + t * taper)
        old = out[s]
        out[s] = d if d < old else old


@njit(nogil=True, cache=True)
def _rank(candidate: int, distance: Array, best: Array, owner: Array) -> None:
    """Enter a candidate's distances among the two lowest."""
    first, second, first_owner, second_owner = best[0], best[1], owner[0], owner[1]
    me = np.int32(candidate)
    for s in range(len(distance)):
        d, a, b, p, q = distance[s], first[s], second[s], first_owner[s], second_owner[s]
        second[s] = a if d < a else (d if d < b else b)
        second_owner[s] = p if d < a else (me if d < b else q)
        first[s] = d if d < a else a
        first_owner[s] = me if d < a else p


@njit(nogil=True, cache=True)
def measure(
    shape: Array, owners: Array, count: int, brick: Brick, best: Array, owner: Array
) -> None:
    """The two nearest owners at every sample, among the rods found; call after filling ``best``.

    ``best`` and ``owner`` hold what they are to beat.
    """
    pz, py, px = brick.point[0], brick.point[1], brick.point[2]
    i = 0
    while i < count:
        candidate = owners[brick.found[i]]
        brick.scratch[:] = FAR
        while i < count and owners[brick.found[i]] == candidate:
            _lower(shape[brick.found[i]], pz, py, px, brick.scratch)
            i += 1
        _rank(candidate, brick.scratch, best, owner)


@njit(nogil=True, cache=True)
def measure_parts(scene: Scene, sampling: Sampling, centre: Array, brick: Brick) -> bool:
    """The two nearest organelles at every sample; False where none is near."""
    slack = 2.0 * sampling.radius + 30.0
    count = gather(scene.part_shape, scene.part_bins, centre, 0.0, slack, brick)
    nearest = FAR
    for i in range(count):
        nearest = min(nearest, brick.found_distance[i])
    if nearest > sampling.radius + 8.0:
        return False
    brick.part[:] = FAR
    brick.part_owner[:] = -1
    measure(scene.part_shape, scene.part_owner, count, brick, brick.part, brick.part_owner)
    return True
