"""Spines of organelles: where they run, how thick they may be, whether they fit.

A spine is an array of nodes (z, y, x, radius), in nm, about STEP_NM apart.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.simulation.counter_rng import between, direction, normal, unit
from cristae.simulation.space import Bins, Rods, clearance, depth_in, set_rod
from cristae.simulation.tissue import BEADED, CORE, NODE_STEP_NM, RADIUS

Array = NDArray[Any]

# kinds of organelle
MITOCHONDRION, LYSOSOME_BODY, MULTIVESICULAR, VACUOLE_BODY = 0, 1, 2, 3
# columns of an organelle's attributes
(
    O_KIND, O_GREY, O_CRISTAE, O_NZ, O_NY, O_NX, O_PERIOD, O_PHASE, O_GAP, O_TEXTURE, O_DARK,
) = range(11)  # fmt: skip
O_COLUMNS = 11

STEP_NM = 100.0
MAX_SPINE = 48
SOMA_LANES = 14


class Store(NamedTuple):
    """Growing arrays; ``used`` holds the rods and organelles in use."""

    shape: Array
    owner: Array
    attributes: Array
    label: Array
    used: Array


class Site(NamedTuple):
    """The tube an organelle lies in.

    Attributes:
        tube: Number of the tube.
        free: Whether there is room without asking, as in a cell body.
        margin: Distance kept from the tube's border, nm.
        limit: Largest radius that cannot meet the organelles of the next lane, nm.
        rods: Rods of all tubes.
        bins: Where they are.
    """

    tube: int
    free: bool
    margin: float
    limit: float
    rods: Rods
    bins: Bins


@njit(nogil=True, cache=True)
def axis_path(nodes: Array, start: float, length: float, offset: Array, path: Array) -> int:
    """Points every STEP_NM along a tube's axis, smoothed, moved by an offset; their number."""
    count = min(len(path), int(length / STEP_NM) + 1)
    for i in range(count):
        path[i] = offset
        for s in (-260.0, -90.0, 90.0, 260.0):
            at = min(max((start + i * STEP_NM + s) / NODE_STEP_NM, 0.0), len(nodes) - 1.001)
            n = int(at)
            t = at - n
            for a in range(3):
                path[i, a] += 0.25 * ((1.0 - t) * nodes[n, a] + t * nodes[n + 1, a])
    return count


@njit(nogil=True, cache=True)
def ring_path(node: Array, row: Array, lane: int, start: float, length: float, path: Array) -> int:
    """Points along a circle of latitude between a cell's nucleus and its membrane."""
    radius = 0.5 * (row[CORE] + row[RADIUS] - 650.0)
    latitude = (lane + 0.5) / SOMA_LANES * 2.0 - 1.0
    z = radius * latitude
    ring = math.sqrt(radius * radius - z * z)
    length = min(length, 2.0 * math.pi * ring - start - 500.0)
    count = min(len(path), int(length / STEP_NM) + 1)
    for i in range(count):
        angle = (start + i * STEP_NM) / ring
        path[i, 0] = node[0] + z
        path[i, 1] = node[1] + ring * math.sin(angle)
        path[i, 2] = node[2] + ring * math.cos(angle)
    return max(count, 0)


@njit(nogil=True, cache=True)
def wish(key: Any, style: int, radius: float, spine: Array) -> None:
    """Write the radii a spine would have with all the room."""
    n = len(spine)
    period = between(key, 40, 450.0, 900.0)
    phase = unit(key, 41)
    thread = between(key, 42, 32.0, 48.0)
    for i in range(n):
        wave = 1.0 + 0.16 * (2.0 * unit(key, 50 + i // 2) - 1.0)
        if style == BEADED:
            swell = 0.5 - 0.5 * math.cos(2.0 * math.pi * (i * STEP_NM / period + phase))
            swell = swell * swell * (3.0 - 2.0 * swell)
            spine[i, 3] = thread + (radius * wave - thread) * swell
        else:
            spine[i, 3] = radius * wave
    if style != BEADED:
        spine[0, 3] *= 0.85
        spine[n - 1, 3] *= 0.85


@njit(nogil=True, cache=True)
def fit(place: Site, least: float, spine: Array) -> Any:
    """Shrink radii to the room there is; the longest run of nodes (first, last) that fit."""
    best_first, best_last, first = 0, 0, 0
    for i in range(len(spine) + 1):
        fits = False
        if i < len(spine):
            spine[i, 3] = min(spine[i, 3], place.limit)
            if not place.free:
                room = clearance(place.tube, place.rods, place.bins, spine[i, :3]) - place.margin
                spine[i, 3] = min(spine[i, 3], room)
            fits = spine[i, 3] >= least
        if not fits:
            if i - first > best_last - best_first:
                best_first, best_last = first, i
            first = i + 1
    for _ in range(2):
        for i in range(best_first + 1, best_last):
            spine[i, 3] = min(spine[i, 3], spine[i - 1, 3] + 70.0)
        for i in range(best_last - 2, best_first - 1, -1):
            spine[i, 3] = min(spine[i, 3], spine[i + 1, 3] + 70.0)
    return best_first, best_last


@njit(nogil=True, cache=True)
def append(store: Store, spine: Array) -> None:
    """Add a spine's rods to the organelle being made."""
    r = store.used[0]
    for i in range(max(1, len(spine) - 1)):
        set_rod(store.shape[r], spine[i], spine[min(i + 1, len(spine) - 1)])
        store.owner[r] = store.used[1]
        r += 1
    store.used[0] = r


@njit(nogil=True, cache=True)
def apart(store: Store, group_rod: int, spine: Array, share: float, extra: float) -> bool:
    """Whether a spine and the group's earlier organelles keep their distance.

    Each point of a spine must be ``share`` of its own radius, and ``extra`` nm, outside the other.
    """
    last = store.used[0]
    if group_rod == last:
        return True
    mine = np.empty((MAX_SPINE, 9))
    n = max(1, len(spine) - 1)
    for i in range(n):
        set_rod(mine[i], spine[i], spine[min(i + 1, len(spine) - 1)])
    found: bool = _clear_of(mine[:n], store.shape[group_rod:last], share, extra) and _clear_of(
        store.shape[group_rod:last], mine[:n], share, extra
    )
    return found


@njit(nogil=True, cache=True)
def _clear_of(rods: Array, others: Array, share: float, extra: float) -> bool:
    """Whether the ends and middles of rods lie far enough outside others."""
    point = np.empty(3)
    for r in range(len(rods)):
        for step in range(3):
            for a in range(3):
                point[a] = rods[r, a] + 0.5 * step * rods[r, 3 + a]
            radius = rods[r, 7] + 0.5 * step * rods[r, 8]
            if depth_in(others, 0, len(others), point) < share * radius + extra:
                return False
    return True


@njit(nogil=True, cache=True)
def finish(key: Any, kind: int, label: int, gap: float, spine: Array, store: Store) -> None:
    """Draw the looks of the organelle whose rods were added last, and count it."""
    row = store.attributes[store.used[1]]
    n = len(spine)
    row[O_KIND] = kind
    row[O_GREY] = normal(key, 70)
    row[O_CRISTAE] = between(key, 71, 0.35, 1.3) if unit(key, 74) < 0.88 else 0.1
    row[O_PERIOD] = between(key, 72, 0.75, 1.35)
    row[O_PHASE] = unit(key, 73)
    row[O_GAP] = gap
    row[O_TEXTURE] = between(key, 75, 0.6, 1.4)
    normal_to = np.empty(3)
    direction(key, 76, normal_to)
    along = unit(key, 77) < 0.55
    total = 0.0
    for a in range(3):
        axis = spine[n - 1, a] - spine[0, a]
        total += axis * axis
    length = math.sqrt(total) + 1e-6
    dot = 0.0
    for a in range(3):
        dot += normal_to[a] * (spine[n - 1, a] - spine[0, a]) / length
    norm = 0.0
    for a in range(3):
        axis = (spine[n - 1, a] - spine[0, a]) / length
        normal_to[a] = axis + 0.35 * normal_to[a] if along else normal_to[a] - dot * axis
        norm += normal_to[a] * normal_to[a]
    for a in range(3):
        row[O_NZ + a] = normal_to[a] / (math.sqrt(norm) + 1e-6)
    store.label[store.used[1]] = label if kind == MITOCHONDRION else 0
    store.used[1] += 1


@njit(nogil=True, cache=True)
def sideways(key: Any, number: int, path: Array, out: Array) -> None:
    """A random unit vector at right angles to a path."""
    direction(key, number, out)
    n = len(path)
    total = 1e-6
    dot = 0.0
    for a in range(3):
        axis = path[n - 1, a] - path[0, a]
        total += axis * axis
        dot += axis * out[a]
    norm = 1e-9
    for a in range(3):
        out[a] -= dot * (path[n - 1, a] - path[0, a]) / total
        norm += out[a] * out[a]
    out /= math.sqrt(norm)


@njit(nogil=True, cache=True)
def part_of(line: Array, start: float, stop: float, out: Array) -> int:
    """Nodes about every STEP_NM of a line from one arc length to another; their number.

    A line is a path (z, y, x) or a spine (z, y, x, radius) whose nodes are STEP_NM apart.
    """
    n = min(len(out), max(2, int((stop - start) / STEP_NM) + 1))
    for i in range(n):
        at = (start + (stop - start) * i / (n - 1)) / STEP_NM
        at = min(max(at, 0.0), len(line) - 1.001)
        k = int(at)
        t = at - k
        for a in range(line.shape[1]):
            out[i, a] = (1.0 - t) * line[k, a] + t * line[k + 1, a]
    return n
