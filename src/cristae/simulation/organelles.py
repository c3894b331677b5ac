"""Mitochondria and other organelles inside tubes, each a chain of tapered rods.

A mitochondrion's spine follows its tube's axis; its radius is limited by the room its tube has,
so it lies inside by construction. A point belongs to the organelle with the lowest signed
distance, so bodies pressed together meet in a flat face. Every spine point stays outside its
neighbours' reach: then each point of an organelle sees its spine inside the organelle, which is
therefore one piece.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.simulation.counter_rng import between, derive, unit
from cristae.simulation.space import Bins, Rods, clearance, misses
from cristae.simulation.spines import (
    LYSOSOME_BODY,
    MAX_SPINE,
    MITOCHONDRION,
    MULTIVESICULAR,
    O_COLUMNS,
    O_DARK,
    SOMA_LANES,
    STEP_NM,
    VACUOLE_BODY,
    Site,
    Store,
    apart,
    append,
    axis_path,
    finish,
    fit,
    part_of,
    ring_path,
    sideways,
    wish,
)
from cristae.simulation.tissue import (
    BEADED,
    BODY,
    BRANCHED,
    CHAIN,
    CLUSTER,
    EMPTY,
    GIANT,
    KIND,
    LONG,
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
    plan_stray,
    plan_stretch,
    stretch_gap,
)

Array = NDArray[Any]

MEMBERS = 4
IDS_PER_STRETCH = 2 * MEMBERS
MARGIN_NM = 26.0
OPEN_NM = 1e6


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


@njit(nogil=True, cache=True)
def _branch(key: Any, place: Site, path: Array, radius: float, spine: Array, store: Store) -> None:
    """Add one or two side branches to the organelle being made."""
    aside, twig = np.empty(3), np.empty((MAX_SPINE, 4))
    for b in range(1 + int(2.0 * unit(key, 80))):
        root = int(between(key, 81 + b, 0.15, 0.85) * len(spine))
        sideways(key, 84 + b, path, aside)
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
        first, last = fit(place, 45.0, twig[:n])
        if first == 0 and last > 2:
            append(store, twig[:last])


@njit(nogil=True, cache=True)
def _single(
    key: Any, place: Site, style: int, radius: float, label: int, path: Array, store: Store
) -> None:
    """One organelle along a path."""
    spine = np.empty((len(path), 4))
    spine[:, :3] = path
    wish(key, style, radius, spine)
    first, last = fit(place, 30.0 if style == BEADED else 55.0, spine)
    if last - first < 2 and not (style in (LYSOSOME, BODY, VACUOLE) and last > first):
        return
    spine = spine[first:last]
    append(store, spine)
    kind = MITOCHONDRION
    if style == LYSOSOME:
        kind = LYSOSOME_BODY
    elif style == BODY:
        kind = MULTIVESICULAR
    elif style == VACUOLE:
        kind = VACUOLE_BODY
    elif style == BRANCHED:
        _branch(key, place, path, radius, spine, store)
    finish(key, kind, label, 0.0, spine, store)


@njit(nogil=True, cache=True)
def _companions(key: Any, place: Site, label: int, group: int, path: Array, store: Store) -> None:
    """Further mitochondria in the room left beside the others of a stretch, not touching."""
    aside, spine = np.empty(3), np.empty((MAX_SPINE, 4))
    member = 0
    for attempt in range(9):
        k = derive(key, 300 + attempt)
        if member == MEMBERS or unit(k, 0) < 0.15:
            continue
        sideways(k, 1, path, aside)
        shift = between(k, 2, 200.0, 520.0)
        first = int(between(k, 3, 0.0, 0.5) * len(path))
        last = int(between(k, 4, 0.6, 1.0) * len(path))
        n = last - first
        if n < 2:
            continue
        for i in range(n):
            spine[i, :3] = path[first + i] + shift * aside
        wish(k, CHAIN, between(k, 5, 110.0, 260.0), spine[:n])
        first, last = fit(place, 70.0, spine[:n])
        if last - first > 1 and apart(store, group, spine[first:last], 1.0, 40.0):
            append(store, spine[first:last])
            finish(k, MITOCHONDRION, label + member, 0.0, spine[first:last], store)
            member += 1


@njit(nogil=True, cache=True)
def _member(key: Any, label: int, gap: float, group_rod: int, spine: Array, store: Store) -> Any:
    """One mitochondrion of a touching group, left out where it would overlap the others."""
    if not apart(store, group_rod, spine, 0.3, 0.0):
        return False
    append(store, spine)
    finish(key, MITOCHONDRION, label, gap, spine, store)
    return True


@njit(nogil=True, cache=True)
def _group_gap(key: Any) -> float:
    """Distance between the membranes of a touching group, nm; mostly none."""
    return between(key, 31, 0.0, 14.0) if unit(key, 30) < 0.4 else 0.0


@njit(nogil=True, cache=True)
def _chain(key: Any, place: Site, radius: float, label: int, path: Array, store: Store) -> None:
    """Mitochondria end to end, pressed together: what fits of a spine, cut in pieces."""
    whole, spine = np.empty((len(path), 4)), np.empty((MAX_SPINE, 4))
    whole[:, :3] = path
    wish(key, CHAIN, radius, whole)
    first, last = fit(place, 55.0, whole)
    if last - first < 2:
        return
    whole = whole[first:last]
    length = (len(whole) - 1) * STEP_NM
    thickness = whole[:, 3].mean()
    members = min(2 + int(2.6 * unit(key, 32)), 1 + int(length / (2.2 * thickness)))
    group = store.used[0]
    start = 0.0
    for m in range(members):
        cut = length * (m + between(key, 33 + m, 0.8, 1.2)) / members
        press = between(key, 38 + m, 0.62, 0.74) * thickness
        stop = length if m == members - 1 else max(start + 0.3 * thickness, cut - press)
        if stop <= start or stop > length:
            break
        n = part_of(whole, start, stop, spine)
        _member(derive(key, m), label + m, _group_gap(key), group, spine[:n], store)
        start = stop + 2.0 * press


@njit(nogil=True, cache=True)
def _beside(
    key: Any, place: Site, radius: float, path: Array, reach: Any, offset: Array, spine: Array
) -> Any:
    """Lay a spine beside a path, from one arc length to another; its nodes (first, last) that fit.

    Args:
        key: Chance.
        place: The tube.
        radius: Radius wanted, nm.
        path: What it follows.
        reach: Arc lengths (start, stop), nm.
        offset: Vector from the path.
        spine: Written.
    """
    n = part_of(path, reach[0], reach[1], spine)
    for i in range(n):
        spine[i, :3] += offset
    wish(key, CHAIN, radius, spine[:n])
    return fit(place, 55.0, spine[:n])


@njit(nogil=True, cache=True)
def _side(key: Any, place: Site, radius: float, label: int, path: Array, store: Store) -> None:
    """Two or three mitochondria side by side."""
    aside, spine = np.empty(3), np.empty((MAX_SPINE, 4))
    length = (len(path) - 1) * STEP_NM
    middle = path[len(path) // 2]
    room = clearance(place.tube, place.rods, place.bins, middle) - place.margin
    three = room > 330.0 and unit(key, 34) < 0.4
    radius = min(radius, room / 2.7 if three else room / 1.85)
    if radius < 60.0:
        _chain(key, place, max(radius, 75.0), label, path, store)
        return
    sideways(key, 33, path, aside)
    group = store.used[0]
    for m in range(3 if three else 2):
        shift = (2.0 * m - (2.0 if three else 1.0)) * 0.85 * radius
        reach = (between(key, 40 + m, 0.0, 0.35) * length, between(key, 44 + m, 0.65, 1.0) * length)
        k = derive(key, m)
        first, last = _beside(k, place, radius, path, reach, aside * shift, spine)
        if last - first > 1:
            _member(k, label + m, _group_gap(key), group, spine[first:last], store)


@njit(nogil=True, cache=True)
def _cluster(key: Any, place: Site, radius: float, label: int, path: Array, store: Store) -> None:
    """Three or four short mitochondria in a heap."""
    aside, spine = np.empty(3), np.empty((MAX_SPINE, 4))
    length = (len(path) - 1) * STEP_NM
    group = store.used[0]
    for m in range(3 + int(2.0 * unit(key, 32))):
        sideways(key, 33 + 2 * (m // 2), path, aside)
        offset = aside * ((0.8 if m % 2 else -0.8) * radius)
        start = (m // 2) * 1.9 * radius + 0.6 * radius * (m % 2)
        stop = start + between(key, 40 + m, 0.1, 0.5) * radius
        if stop > length:
            break
        k = derive(key, m)
        size = radius * between(k, 0, 0.85, 1.1)
        first, last = _beside(k, place, size, path, (start, stop), offset, spine)
        if last - first > 1:
            _member(k, label + m, _group_gap(key), group, spine[first:last], store)


@njit(nogil=True, cache=True)
def _fill_stretch(
    key: Any, content: int, radius: float, label: int, place: Site, path: Array, store: Store
) -> None:
    """Add what a stretch holds; mitochondria fill a good part of the room their tube has.

    Where lanes run side by side nothing reaches out of its own.
    """
    narrow = place.limit < OPEN_NM
    if narrow and content == BRANCHED:
        content = LONG
    elif narrow and content in (SIDE, CLUSTER):
        content = CHAIN
    if not place.free and content <= CLUSTER:
        room = 0.0
        for i in range(3):
            middle = path[(len(path) - 1) * (i + 1) // 4]
            room = max(room, clearance(place.tube, place.rods, place.bins, middle) - place.margin)
        fill = between(key, 95, 0.6, 0.9)
        if content in (SIDE, CLUSTER):
            fill *= 0.62
        radius = min(max(radius, fill * room), 2.1 * radius, 330.0)
    group = store.used[0]
    if content == CHAIN:
        _chain(key, place, radius, label, path, store)
    elif content == SIDE:
        _side(key, place, radius, label, path, store)
    elif content == CLUSTER:
        _cluster(key, place, radius, label, path, store)
    else:
        _single(key, place, content, radius, label, path, store)
    if not narrow and content <= CLUSTER and store.used[0] > group:
        _companions(key, place, label + MEMBERS, group, path, store)


@njit(nogil=True, cache=True)
def fill_tube(
    tubes: Tubes, t: int, knobs: Knobs, box: Array, rods: Rods, bins: Bins, store: Store
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
    narrow = soma or row[GIANT] > 0.0
    limit = 190.0 if narrow else 0.4 * calibre if lanes == 2 else OPEN_NM
    dark = between(key, 901, 0.7, 1.0) if row[GIANT] > 0.0 else unit(key, 901) ** 2
    first = store.used[1]
    place = Site(t, soma, MARGIN_NM + float(row[MYELIN]), limit, rods, bins)
    aside = np.empty(3)
    if not soma:
        sideways(key, 900, nodes[:, :3], aside)
    for lane in range(lanes):
        at = 0.0
        for number in range(stretches):
            at += stretch_gap(key, lane, number)
            content, extent, radius = plan_stretch(
                key, lane, number, 300.0 if soma else calibre, knobs
            )
            if at + extent > length:
                break
            start, reach = at, extent
            if content == EMPTY:
                content, begin, reach, radius = plan_stray(key, lane, number, extent)
                start += begin
            if content != EMPTY:
                if lanes == 2:
                    offset[:] = aside * (calibre * (0.45 - 0.9 * lane))
                if soma:
                    n = ring_path(nodes[0], row, lane, start, reach, space)
                else:
                    n = axis_path(nodes, start, reach, offset, space)
                path = space[:n]
                if n > 1 and not misses(path, box):
                    k = derive(key, 7000 + 64 * lane + number)
                    label = tubes.first_id[t] + (lane * stretches + number) * IDS_PER_STRETCH
                    _fill_stretch(k, content, radius, label, place, path, store)
            at += extent
    store.attributes[first : store.used[1], O_DARK] = dark


@njit(nogil=True, cache=True)
def fill_tubes(
    tubes: Tubes, knobs: Knobs, box: Array, rods: Rods, bins: Bins, store: Store
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
        store = Store(
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
