"""Mitochondria and other organelles inside tubes, each a chain of tapered rods.

A mitochondrion's spine follows its tube's axis; its radius is limited by the room its tube has,
so it lies inside by construction. A point belongs to the organelle with the lowest signed
distance, so bodies pressed together meet in a flat face. Every spine point stays outside its
neighbours' reach: then each point of an organelle sees its spine inside the organelle, which is
therefore one piece.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cristae.volumes.simulation.chance import between, derive, direction, normal, unit
from cristae.volumes.simulation.space import Bins, Rods, clearance, depth_in, set_rod
from cristae.volumes.simulation.tissue import (
    BEADED,
    BODY,
    BRANCHED,
    CHAIN,
    CLUSTER,
    CORE,
    EMPTY,
    KIND,
    LYSOSOME,
    MAX_STRETCHES,
    MYELIN,
    NODE_STEP_NM,
    RADIUS,
    SIDE,
    SOMA,
    VACUOLE,
    VESSEL,
    Knobs,
    Tubes,
    lane_count,
    plan_stretch,
    stretch_gap,
)

Array = NDArray[Any]

# kinds of organelle
MITOCHONDRION, LYSOSOME_BODY, MULTIVESICULAR, VACUOLE_BODY = 0, 1, 2, 3
# columns of an organelle's attributes
O_KIND, O_GREY, O_CRISTAE, O_NZ, O_NY, O_NX, O_PERIOD, O_PHASE, O_GAP, O_TEXTURE = range(10)
O_COLUMNS = 10

STEP_NM = 100.0
MAX_SPINE = 48
MEMBERS = 4
SOMA_LANES = 14
MARGIN_NM = 26.0


class Organelles(NamedTuple):
    """Organelles and their rods.

    Attributes:
        rods: Rods; the owner is the organelle's number.
        attributes: (n, O_COLUMNS) float32.
        label: (n,) uint32: instance id of a mitochondrion, 0 of anything else.
    """

    rods: Rods
    attributes: Array
    label: Array


class _Store(NamedTuple):
    """Growing arrays; ``used`` holds the rods and organelles in use."""

    shape: Array
    owner: Array
    attributes: Array
    label: Array
    used: Array


class _Place(NamedTuple):
    """The tube an organelle lies in."""

    tube: int
    free: bool
    margin: float
    rods: Rods
    bins: Bins


@njit(nogil=True, cache=True)
def _axis_path(nodes: Array, start: float, length: float, offset: Array, path: Array) -> int:
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
def _ring_path(node: Array, row: Array, lane: int, start: float, length: float, path: Array) -> int:
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
def _wish(key: Any, style: int, radius: float, length: float, spine: Array) -> None:
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
def _fit(place: _Place, least: float, spine: Array) -> Any:
    """Shrink radii to the room there is; the longest run of nodes (first, last) that fit."""
    best_first, best_last, first = 0, 0, 0
    for i in range(len(spine) + 1):
        fits = False
        if i < len(spine):
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
def _append(store: _Store, spine: Array) -> None:
    """Add a spine's rods to the organelle being made."""
    r = store.used[0]
    for i in range(max(1, len(spine) - 1)):
        set_rod(store.shape[r], spine[i], spine[min(i + 1, len(spine) - 1)])
        store.owner[r] = store.used[1]
        r += 1
    store.used[0] = r


@njit(nogil=True, cache=True)
def _apart(store: _Store, group_rod: int, spine: Array) -> bool:
    """Whether a spine and the group's earlier organelles keep out of each other's middle."""
    last = store.used[0]
    if group_rod == last:
        return True
    for i in range(len(spine)):
        if depth_in(store.shape, group_rod, last, spine[i, :3]) < 0.3 * spine[i, 3]:
            return False
    mine = np.empty((MAX_SPINE, 9))
    n = max(1, len(spine) - 1)
    for i in range(n):
        set_rod(mine[i], spine[i], spine[min(i + 1, len(spine) - 1)])
    point = np.empty(3)
    for r in range(group_rod, last):
        for end in range(2):
            for a in range(3):
                point[a] = store.shape[r, a] + end * store.shape[r, 3 + a]
            radius = store.shape[r, 7] + end * store.shape[r, 8]
            if depth_in(mine, 0, n, point) < 0.3 * radius:
                return False
    return True


@njit(nogil=True, cache=True)
def _finish(key: Any, kind: int, label: int, gap: float, spine: Array, store: _Store) -> None:
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
def _sideways(key: Any, number: int, path: Array, out: Array) -> None:
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
def _branch(
    key: Any, place: _Place, path: Array, radius: float, spine: Array, store: _Store
) -> None:
    """Add one or two side branches to the organelle being made."""
    aside, twig = np.empty(3), np.empty((MAX_SPINE, 4))
    for b in range(1 + int(2.0 * unit(key, 80))):
        root = int(between(key, 81 + b, 0.15, 0.85) * len(spine))
        _sideways(key, 84 + b, path, aside)
        forward = 1 if unit(key, 86 + b) < 0.5 else -1
        reach = 4 + int(7 * unit(key, 88 + b))
        n = 0
        at = root
        while n < reach and 0 <= at < len(spine):
            for a in range(3):
                twig[n, a] = spine[at, a] + aside[a] * n * 85.0
            twig[n, 3] = min(spine[root, 3], between(key, 90 + b, 60.0, 0.9 * radius))
            at += forward if n % 2 else 0
            n += 1
        first, last = _fit(place, 45.0, twig[:n])
        if first == 0 and last > 2:
            _append(store, twig[:last])


@njit(nogil=True, cache=True)
def _single(
    key: Any, place: _Place, style: int, radius: float, label: int, path: Array, store: _Store
) -> None:
    """One organelle along a path."""
    spine = np.empty((len(path), 4))
    spine[:, :3] = path
    _wish(key, style, radius, len(path) * STEP_NM, spine)
    first, last = _fit(place, 30.0 if style == BEADED else 55.0, spine)
    if last - first < 2 and not (style in (LYSOSOME, BODY, VACUOLE) and last > first):
        return
    spine = spine[first:last]
    _append(store, spine)
    kind = MITOCHONDRION
    if style == LYSOSOME:
        kind = LYSOSOME_BODY
    elif style == BODY:
        kind = MULTIVESICULAR
    elif style == VACUOLE:
        kind = VACUOLE_BODY
    elif style == BRANCHED:
        _branch(key, place, path, radius, spine, store)
    _finish(key, kind, label, 0.0, spine, store)


@njit(nogil=True, cache=True)
def _member(
    key: Any, place: _Place, radius: float, label: int, gap: float, group_rod: int,
    spine: Array, store: _Store,
) -> Any:  # fmt: skip
    """One mitochondrion of a touching group, left out where it does not fit; whether it is in."""
    _wish(key, CHAIN, radius, len(spine) * STEP_NM, spine)
    first, last = _fit(place, 55.0, spine)
    if last - first < max(1, min(2, len(spine))) or not _apart(store, group_rod, spine[first:last]):
        return False
    _append(store, spine[first:last])
    _finish(key, MITOCHONDRION, label, gap, spine[first:last], store)
    return True


@njit(nogil=True, cache=True)
def _between_points(path: Array, at: float, offset: Array, out: Array) -> None:
    """The point at an arc length of a path, moved by an offset."""
    position = min(max(at / STEP_NM, 0.0), len(path) - 1.001)
    i = int(position)
    t = position - i
    for a in range(3):
        out[a] = (1.0 - t) * path[i, a] + t * path[i + 1, a] + offset[a]


@njit(nogil=True, cache=True)
def _stretch_spine(path: Array, start: float, stop: float, offset: Array, spine: Array) -> int:
    """Nodes about every STEP_NM from one arc length to another; their number."""
    n = min(len(spine), max(2, int((stop - start) / STEP_NM) + 1))
    for i in range(n):
        _between_points(path, start + (stop - start) * i / (n - 1), offset, spine[i])
    return n


@njit(nogil=True, cache=True)
def _chain(key: Any, place: _Place, radius: float, label: int, path: Array, store: _Store) -> None:
    """Mitochondria end to end, pressed together."""
    offset, spine = np.zeros(3), np.empty((MAX_SPINE, 4))
    length = (len(path) - 1) * STEP_NM
    gap = between(key, 31, 0.0, 14.0) if unit(key, 30) < 0.4 else 0.0
    group = store.used[0]
    members = 2 + int(2.6 * unit(key, 32))
    at = 0.0
    for m in range(members):
        extent = length / members * between(key, 33 + m, 0.7, 1.25)
        press = between(key, 38 + m, 0.62, 0.78)
        start, stop = at + (press * radius if m else 0.0), min(at + extent - press * radius, length)
        if stop - start < 0.5 * radius:
            stop = start + 0.5 * radius
        if stop > length + 1.0:
            break
        n = _stretch_spine(path, start, stop, offset, spine)
        if not _member(derive(key, m), place, radius, label + m, gap, group, spine[:n], store):
            break
        at = stop + press * radius


@njit(nogil=True, cache=True)
def _side(key: Any, place: _Place, radius: float, label: int, path: Array, store: _Store) -> None:
    """Two or three mitochondria side by side."""
    aside, offset, spine = np.empty(3), np.empty(3), np.empty((MAX_SPINE, 4))
    length = (len(path) - 1) * STEP_NM
    gap = between(key, 31, 0.0, 14.0) if unit(key, 30) < 0.4 else 0.0
    room = 1e9
    if not place.free:
        middle = path[len(path) // 2]
        room = clearance(place.tube, place.rods, place.bins, middle) - place.margin
    three = room > 330.0 and unit(key, 34) < 0.4
    radius = min(radius, room / 2.7 if three else room / 1.85)
    if radius < 60.0:
        _chain(key, place, max(radius, 75.0), label, path, store)
        return
    _sideways(key, 33, path, aside)
    group = store.used[0]
    for m in range(3 if three else 2):
        shift = (2.0 * m - (2.0 if three else 1.0)) * 0.85 * radius
        for a in range(3):
            offset[a] = shift * aside[a]
        start = between(key, 40 + m, 0.0, 0.35) * length
        stop = between(key, 44 + m, 0.65, 1.0) * length
        n = _stretch_spine(path, start, stop, offset, spine)
        _member(derive(key, m), place, radius, label + m, gap, group, spine[:n], store)


@njit(nogil=True, cache=True)
def _cluster(
    key: Any, place: _Place, radius: float, label: int, path: Array, store: _Store
) -> None:
    """Three or four short mitochondria in a heap."""
    aside, offset, spine = np.empty(3), np.empty(3), np.empty((MAX_SPINE, 4))
    length = (len(path) - 1) * STEP_NM
    gap = between(key, 31, 0.0, 12.0) if unit(key, 30) < 0.4 else 0.0
    group = store.used[0]
    for m in range(3 + int(2.0 * unit(key, 32))):
        _sideways(key, 33 + 2 * (m // 2), path, aside)
        for a in range(3):
            offset[a] = (0.8 if m % 2 else -0.8) * radius * aside[a]
        start = (m // 2) * 1.9 * radius + 0.6 * radius * (m % 2)
        stop = start + between(key, 40 + m, 0.1, 0.5) * radius
        if stop > length:
            break
        n = _stretch_spine(path, start, stop, offset, spine)
        member = derive(key, m)
        size = radius * between(member, 0, 0.85, 1.1)
        _member(member, place, size, label + m, gap, group, spine[:n], store)


@njit(nogil=True, cache=True)
def _misses(path: Array, box: Array) -> bool:
    """Whether everything along a path misses a box."""
    for a in range(3):
        if path[:, a].max() < box[0, a] - 900.0 or path[:, a].min() > box[1, a] + 900.0:
            return True
    return False


@njit(nogil=True, cache=True)
def _fill_stretch(
    key: Any, content: int, radius: float, label: int, place: _Place, path: Array, store: _Store
) -> None:
    if content == CHAIN:
        _chain(key, place, radius, label, path, store)
    elif content == SIDE:
        _side(key, place, radius, label, path, store)
    elif content == CLUSTER:
        _cluster(key, place, radius, label, path, store)
    else:
        _single(key, place, content, radius, label, path, store)


@njit(nogil=True, cache=True)
def fill_tube(
    tubes: Tubes, t: int, knobs: Knobs, box: Array, rods: Rods, bins: Bins, store: _Store
) -> None:
    """Add all organelles of tube ``t`` that may reach a box."""
    row = tubes.attributes[t]
    if row[KIND] == VESSEL:
        return
    key = tubes.key[t]
    nodes = tubes.nodes[tubes.start[t] : tubes.start[t + 1]]
    soma = row[KIND] == SOMA
    calibre = float(row[RADIUS])
    length = 30000.0 if soma else (len(nodes) - 1) * NODE_STEP_NM
    lanes = SOMA_LANES if soma else lane_count(calibre)
    stretches = 3 * MAX_STRETCHES if soma else MAX_STRETCHES
    offset, space = np.zeros(3), np.empty((MAX_SPINE, 3))
    place = _Place(t, soma, MARGIN_NM + float(row[MYELIN]), rods, bins)
    aside = np.empty(3)
    if not soma:
        _sideways(key, 900, nodes[:, :3], aside)
    for lane in range(lanes):
        at = 0.0
        for number in range(stretches):
            at += stretch_gap(key, lane, number)
            content, extent, radius = plan_stretch(
                key, lane, number, 300.0 if soma else calibre, knobs
            )
            if at + extent > length:
                break
            if content != EMPTY:
                if lanes == 2:
                    offset[:] = aside * (calibre * (0.45 - 0.9 * lane))
                if soma:
                    n = _ring_path(nodes[0], row, lane, at, extent, space)
                else:
                    n = _axis_path(nodes, at, extent, offset, space)
                path = space[:n]
                if n > 1 and not _misses(path, box):
                    k = derive(key, 7000 + 64 * lane + number)
                    label = tubes.first_id[t] + (lane * stretches + number) * MEMBERS
                    _fill_stretch(k, content, radius, label, place, path, store)
            at += extent


@njit(nogil=True, cache=True)
def fill_tubes(
    tubes: Tubes, knobs: Knobs, box: Array, rods: Rods, bins: Bins, store: _Store
) -> bool:
    """Add the organelles of all tubes; False when the arrays were too small."""
    store.used[:] = 0
    for t in range(len(tubes.key)):
        if store.used[0] + 30000 > len(store.owner):
            return False
        fill_tube(tubes, t, knobs, box, rods, bins, store)
    return True


def make_organelles(tubes: Tubes, knobs: Knobs, box: Array, rods: Rods, bins: Bins) -> Organelles:
    """All organelles that may reach a box.

    Args:
        tubes: Every tube that may come near an organelle that may reach the box.
        knobs: What tissue it is.
        box: (2, 3) float64: low and high corner, in nm.
        rods: The rods of the tubes, the owner being the tube's number.
        bins: Where they are.
    """
    room = 65536
    while True:
        store = _Store(
            np.zeros((room, 9)),
            np.zeros(room, np.int32),
            np.zeros((room, O_COLUMNS), np.float32),
            np.zeros(room, np.uint32),
            np.zeros(2, np.int64),
        )
        if fill_tubes(tubes, knobs, box, rods, bins, store):
            r, n = store.used
            owned = Rods(store.shape[:r].copy(), store.owner[:r].copy())
            return Organelles(owned, store.attributes[:n].copy(), store.label[:n].copy())
        room *= 2
