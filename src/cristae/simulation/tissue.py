"""Where neurites, cell bodies and vessels run: pure functions of (seed, home cube, number).

Every cell is a *tube*: a chain of nodes (z, y, x, radius in nm). Space belongs to the tube with
the lowest ``distance to the axis - radius`` (an additively weighted Voronoi tessellation), or to
glia where no tube is near. A tube swells where its plan puts mitochondria, as axons do.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.simulation.config import BLOCK_NM, CELL_NM, IDS_PER_BLOCK, IDS_PER_CELL
from cristae.simulation.counter_rng import between, derive, derive3, direction, normal, unit

Array = NDArray[Any]

# kinds of tube
AXON, DENDRITE, SPINE, SOMA, VESSEL = 0, 1, 2, 3, 4
# columns of a tube's attributes
KIND, GREY, TEXTURE, MYELIN, VESICLES, TUBULES, RETICULUM = 0, 1, 2, 3, 4, 5, 6
AXIS_Z, AXIS_Y, AXIS_X, RADIUS, CORE, PALE, GIANT = 7, 8, 9, 10, 11, 12, 13
N_ATTRIBUTES = 14
MAX_NODES = 14
NODE_STEP_NM = 550.0
MAX_PER_CELL = 16
TUBE_REACH_NM = 4200.0

# what a stretch of a tube holds
EMPTY, ROD, LONG, BRANCHED, BEADED, CHAIN, SIDE, CLUSTER, LYSOSOME, BODY, VACUOLE = range(11)
MAX_STRETCHES = 8


class Knobs(NamedTuple):
    """Shares of a configuration, as the kernels use them."""

    occupied: float
    touching: float
    myelinated: float
    giant: float
    dark: float
    nuclei: float
    vessels: float


class Tubes(NamedTuple):
    """Tubes and their nodes.

    Attributes:
        nodes: (n, 4) float64: z, y, x, radius, in nm.
        start: (t + 1,) int64: first node of each tube.
        attributes: (t, N_ATTRIBUTES) float32.
        key: (t,) uint64.
        first_id: (t,) int64: id of the tube's organelle 0.
    """

    nodes: Array
    start: Array
    attributes: Array
    key: Array
    first_id: Array


@njit(nogil=True, cache=True)
def _plan_other(k: Any) -> Any:
    """(content, length, radius) of a stretch without mitochondria."""
    v = unit(k, 1)
    if v < 0.05:
        return LYSOSOME, between(k, 2, 150.0, 600.0), between(k, 3, 100.0, 260.0)
    if v < 0.09:
        return BODY, between(k, 2, 150.0, 300.0), between(k, 3, 110.0, 220.0)
    if v < 0.12:
        return VACUOLE, between(k, 2, 150.0, 500.0), between(k, 3, 80.0, 200.0)
    return EMPTY, between(k, 2, 500.0, 2500.0), 0.0


@njit(nogil=True, cache=True)
def plan_stretch(key: Any, lane: int, number: int, calibre: float, knobs: Knobs) -> Any:
    """What stretch ``number`` of a lane holds: (content, length, mitochondrial radius), in nm."""
    k = derive(key, 5000 + 64 * lane + number)
    if unit(k, 0) >= knobs.occupied:
        return _plan_other(k)
    radius = between(k, 3, 100.0, 200.0)
    if calibre > 140.0:
        radius = between(k, 3, 120.0, 245.0)
    if calibre > 300.0:
        radius = between(k, 3, 130.0, 0.3 * calibre + 130.0)
    radius = min(radius, 300.0)
    v = unit(k, 4)
    if unit(k, 5) < knobs.touching:
        if v < 0.45:
            return CHAIN, between(k, 2, 1400.0, 4000.0), radius
        if v < 0.8:
            return SIDE, between(k, 2, 900.0, 2600.0), 0.9 * radius
        return CLUSTER, between(k, 2, 1100.0, 1900.0), 0.9 * radius
    if v < 0.46:
        return ROD, between(k, 2, 450.0, 1900.0), radius
    if v < 0.66:
        return LONG, between(k, 2, 2000.0, 4500.0), radius
    if v < 0.80:
        return BRANCHED, between(k, 2, 1200.0, 3000.0), 0.85 * radius
    return BEADED, between(k, 2, 1600.0, 4500.0), 1.05 * radius


@njit(nogil=True, cache=True)
def plan_stray(key: Any, lane: int, number: int, extent: float) -> Any:
    """A small body in an empty stretch: (content, start in it, length, radius), in nm."""
    k = derive(derive(key, 5000 + 64 * lane + number), 20)
    v = unit(k, 1)
    length = between(k, 2, 100.0, 400.0)
    start = unit(k, 3) * (extent - length)
    if v < 0.25:
        return VACUOLE, start, length, between(k, 4, 55.0, 150.0)
    if v < 0.37:
        return BODY, start, length, between(k, 4, 80.0, 200.0)
    if v < 0.47:
        return LYSOSOME, start, length, between(k, 4, 60.0, 200.0)
    return EMPTY, start, length, 0.0


@njit(nogil=True, cache=True)
def stretch_gap(key: Any, lane: int, number: int) -> float:
    """Free length before stretch ``number`` of a lane, in nm."""
    found: float = between(derive(key, 5000 + 64 * lane + number), 9, 200.0, 600.0)
    return found


@njit(nogil=True, cache=True)
def lane_count(calibre: float) -> int:
    """Rows of organelles side by side in a tube of this radius."""
    return 2 if calibre > 380.0 else 1


@njit(nogil=True, cache=True)
def _swell(key: Any, calibre: float, length: float, knobs: Knobs, radii: Array) -> None:
    """Widen the nodes of a tube where its stretches need room."""
    n = len(radii)
    for lane in range(lane_count(calibre)):
        at = 0.0
        for number in range(MAX_STRETCHES):
            at += stretch_gap(key, lane, number)
            content, extent, radius = plan_stretch(key, lane, number, calibre, knobs)
            if at + extent > length:
                break
            room = 2.8 * radius + 120.0
            if content in (CHAIN, SIDE, CLUSTER):
                room = 4.0 * radius + 120.0
            first = math.floor(at / NODE_STEP_NM)
            last = math.ceil((at + extent) / NODE_STEP_NM)
            for i in range(max(0, first), min(n, last + 1)):
                radii[i] = max(radii[i], room)
            at += extent


@njit(nogil=True, cache=True)
def _calibre(key: Any) -> Any:
    """(kind, radius, length) of a neurite, in nm."""
    u = unit(key, 0)
    if u < 0.62:
        return AXON, between(key, 1, 30.0, 110.0), between(key, 2, 4000.0, 7000.0)
    if u < 0.77:
        return AXON, between(key, 1, 130.0, 260.0), between(key, 2, 4500.0, 7000.0)
    if u < 0.87:
        return DENDRITE, between(key, 1, 300.0, 620.0), between(key, 2, 5000.0, 7000.0)
    return SPINE, between(key, 1, 40.0, 120.0), between(key, 2, 700.0, 1800.0)


@njit(nogil=True, cache=True)
def _walk(key: Any, centre: Array, heading: Array, nodes: Array) -> None:
    """Lay the axis of a tube: a persistent random walk, moved so that its middle is the centre."""
    n = len(nodes)
    turn = np.empty(3)
    step = heading.copy()
    nodes[0, :3] = 0.0
    for i in range(1, n):
        direction(key, 100 + i, turn)
        norm = 0.0
        for a in range(3):
            step[a] += 0.33 * turn[a]
            norm += step[a] * step[a]
        norm = math.sqrt(norm) + 1e-9
        for a in range(3):
            step[a] /= norm
            nodes[i, a] = nodes[i - 1, a] + NODE_STEP_NM * step[a]
    for a in range(3):
        middle = nodes[n // 2, a]
        for i in range(n):
            nodes[i, a] += centre[a] - middle


@njit(nogil=True, cache=True)
def _describe(key: Any, kind: int, calibre: float, knobs: Knobs, row: Array) -> None:
    """Draw a neurite's looks."""
    row[:] = 0.0
    row[KIND] = kind
    row[RADIUS] = calibre
    row[GREY] = 9.0 * normal(key, 20)
    row[TEXTURE] = between(key, 21, 0.5, 1.4)
    if unit(key, 22) < knobs.dark:
        row[GREY] = -between(key, 23, 25.0, 65.0)
        row[TEXTURE] = between(key, 21, 0.8, 1.6)
    row[RETICULUM] = between(key, 24, 0.0, 1.0)
    row[VESICLES] = 1.0 if kind == AXON and unit(key, 25) < 0.7 else 0.0
    row[TUBULES] = 1.0 if unit(key, 26) < (0.7 if kind == DENDRITE else 0.3) else 0.0


@njit(nogil=True, cache=True)
def _grow(key: Any, centre: Array, heading: Array, knobs: Knobs, nodes: Array, row: Array) -> int:
    """One neurite's nodes and looks; returns the number of nodes."""
    kind, calibre, length = _calibre(key)
    sheathed = kind == AXON and unit(key, 30) < 0.6 * knobs.myelinated
    if sheathed:
        calibre, length = between(key, 31, 260.0, 460.0), 7000.0
    giant = sheathed and unit(key, 34) < knobs.giant
    if giant:
        calibre, length = between(key, 35, 500.0, 1050.0), 5500.0
    n = min(MAX_NODES, int(length / NODE_STEP_NM) + 1)
    _describe(key, kind, calibre, knobs, row)
    direction(key, 3, row[AXIS_Z : AXIS_X + 1])
    axis = np.empty(3)
    norm = 0.0
    for a in range(3):
        axis[a] = row[AXIS_Z + a] + heading[a]
        norm += axis[a] * axis[a]
    for a in range(3):
        axis[a] /= math.sqrt(norm) + 1e-9
        row[AXIS_Z + a] = axis[a]
    _walk(key, centre, axis, nodes[:n])
    for i in range(n):
        bulge = unit(key, 200 + i)
        radius = calibre * between(key, 300 + i, 0.8, 1.2)
        if kind == AXON and not sheathed and bulge < 0.2:
            radius += between(key, 400 + i, 60.0, 220.0)
        if kind == SPINE and i == n - 1:
            radius += between(key, 400, 40.0, 180.0)
        nodes[i, 3] = radius
    if kind != SPINE:
        _swell(key, calibre, (n - 1) * NODE_STEP_NM, knobs, nodes[:n, 3])
    if sheathed:
        row[PALE] = unit(key, 33)
        row[MYELIN] = between(key, 32, 45.0, min(170.0, 0.4 * calibre))
        row[VESICLES] = 0.0
    if giant:
        row[GIANT] = 1.0
        row[GREY] = between(key, 36, 0.0, 18.0)
        row[RETICULUM] = between(key, 37, 0.6, 1.0)
        row[MYELIN] = between(key, 32, 60.0, 200.0)
    return n


@njit(nogil=True, cache=True)
def _outside(centre: Array, reach: float, low: Array, high: Array) -> bool:
    """Whether a ball misses a box."""
    total = 0.0
    for a in range(3):
        gap = max(low[a] - centre[a], centre[a] - high[a], 0.0)
        total += gap * gap
    return total > reach * reach


@njit(nogil=True, cache=True)
def grow_neurites(
    key: Any, grid: Array, box: Array, knobs: Knobs, tubes: Tubes, used: Array
) -> None:
    """Append all neurites that may reach a box.

    Args:
        key: The volume's key.
        grid: (2, 3) int64: first cell along each axis, and cell counts; numbers the ids.
        box: (2, 3) float64: low and high corner, in nm.
        knobs: What tissue it is.
        tubes: Written; must have room.
        used: (2,) int64: tubes and nodes in use, updated.
    """
    centre, heading = np.empty(3), np.empty(3)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for a in range(3):
        low[a] = math.floor((box[0, a] - TUBE_REACH_NM) / CELL_NM)
        high[a] = math.floor((box[1, a] + TUBE_REACH_NM) / CELL_NM) + 1
    for cz in range(low[0], high[0]):
        for cy in range(low[1], high[1]):
            for cx in range(low[2], high[2]):
                cell = derive3(key, cz, cy, cx)
                block = derive3(derive(key, 1), cz // 4, cy // 4, cx // 4)
                rank = ((cz - grid[0, 0]) * grid[1, 1] + cy - grid[0, 1]) * grid[1, 2]
                rank += cx - grid[0, 2]
                direction(block, 0, heading)
                heading *= between(block, 1, 0.3, 3.2)
                for i in range(11 + int(4 * unit(cell, 0))):
                    k = derive(cell, 10 + i)
                    centre[0] = (cz + (unit(cell, 1) + 0.8191725 * i) % 1.0) * CELL_NM
                    centre[1] = (cy + (unit(cell, 2) + 0.6710436 * i) % 1.0) * CELL_NM
                    centre[2] = (cx + (unit(cell, 3) + 0.5497005 * i) % 1.0) * CELL_NM
                    if _outside(centre, TUBE_REACH_NM, box[0], box[1]):
                        continue
                    t, m = used[0], used[1]
                    n = _grow(k, centre, heading, knobs, tubes.nodes[m:], tubes.attributes[t])
                    tubes.key[t] = k
                    tubes.first_id[t] = 1 + rank * IDS_PER_CELL + i * (IDS_PER_CELL // MAX_PER_CELL)
                    tubes.start[t], tubes.start[t + 1] = m, m + n
                    used[0], used[1] = t + 1, m + n


@njit(nogil=True, cache=True)
def grow_bodies(key: Any, grid: Array, box: Array, knobs: Knobs, tubes: Tubes, used: Array) -> None:
    """Append all cell bodies and vessels that may reach a box; arguments as `grow_neurites`.

    ``grid`` has a third row: the id before those of block 0.
    """
    centre, heading = np.empty(3), np.empty(3)
    reach = 9500.0
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for a in range(3):
        low[a] = math.floor((box[0, a] - reach) / BLOCK_NM)
        high[a] = math.floor((box[1, a] + reach) / BLOCK_NM) + 1
    for cz in range(low[0], high[0]):
        for cy in range(low[1], high[1]):
            for cx in range(low[2], high[2]):
                block = derive3(derive(key, 2), cz, cy, cx)
                rank = ((cz - grid[0, 0]) * grid[1, 1] + cy - grid[0, 1]) * grid[1, 2]
                rank += cx - grid[0, 2]
                centre[0] = (cz + unit(block, 60)) * BLOCK_NM
                centre[1] = (cy + unit(block, 61)) * BLOCK_NM
                centre[2] = (cx + unit(block, 62)) * BLOCK_NM
                u = unit(block, 0)
                if u >= knobs.nuclei + knobs.vessels:
                    continue
                t, m = used[0], used[1]
                row = tubes.attributes[t]
                direction(block, 1, heading)
                if u < knobs.nuclei:
                    n = 1
                    _describe(block, SOMA, between(block, 2, 4100.0, 5000.0), knobs, row)
                    row[CORE] = row[RADIUS] - between(block, 3, 1850.0, 2200.0)
                    tubes.nodes[m, :3] = centre
                    tubes.nodes[m, 3] = row[RADIUS]
                else:
                    n = MAX_NODES
                    _describe(block, VESSEL, between(block, 2, 1500.0, 3000.0), knobs, row)
                    row[CORE] = row[RADIUS] - between(block, 3, 150.0, 500.0)
                    _walk(block, centre, heading, tubes.nodes[m : m + n])
                    for i in range(n):
                        for a in range(3):
                            spread = 1250.0 / NODE_STEP_NM
                            moved = (tubes.nodes[m + i, a] - centre[a]) * spread
                            tubes.nodes[m + i, a] = centre[a] + moved
                        tubes.nodes[m + i, 3] = row[RADIUS] * between(block, 300 + i, 0.95, 1.05)
                for a in range(3):
                    row[AXIS_Z + a] = heading[a]
                tubes.key[t] = block
                tubes.first_id[t] = grid[2, 0] + rank * IDS_PER_BLOCK
                tubes.start[t], tubes.start[t + 1] = m, m + n
                used[0], used[1] = t + 1, m + n
