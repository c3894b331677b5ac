"""The grey of a point: cytoplasm, membranes, myelin, nuclei, vesicles, mitochondria.

All functions are pure in the sample's place and its nearest objects.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.simulation.bricks import Brick
from cristae.simulation.counter_rng import derive
from cristae.simulation.looks import (
    TABLE_EDGE,
    TABLE_SCALE,
    TABLE_SIZE,
    TABLE_STEP_NM,
    Look,
)
from cristae.simulation.spines import (
    LYSOSOME_BODY,
    MITOCHONDRION,
    MULTIVESICULAR,
    O_CRISTAE,
    O_DARK,
    O_GREY,
    O_KIND,
    O_NX,
    O_NY,
    O_NZ,
    O_PERIOD,
    O_PHASE,
    O_TEXTURE,
)
from cristae.simulation.tissue import (
    AXIS_X,
    AXIS_Y,
    AXIS_Z,
    CORE,
    GREY,
    KIND,
    MYELIN,
    N_ATTRIBUTES,
    PALE,
    RADIUS,
    RETICULUM,
    SOMA,
    TEXTURE,
    TUBULES,
    VESICLES,
    VESSEL,
)

Array = NDArray[Any]

_MASK, _S7, _S14 = np.uint64(TABLE_EDGE - 1), np.uint64(7), np.uint64(14)
_UNIT = 1.0 / TABLE_SCALE


@njit(nogil=True, cache=True, inline="always")
def _index(p: Any, zoom: float, shift: Any) -> Any:
    """Place in the fine texture of a point (z, y, x) in nm; three 7-bit numbers shift it."""
    iz = np.int64(math.floor(p[0] * (zoom / TABLE_STEP_NM))) + np.int64(shift & _MASK)
    iy = np.int64(math.floor(p[1] * (zoom / TABLE_STEP_NM))) + np.int64((shift >> _S7) & _MASK)
    ix = np.int64(math.floor(p[2] * (zoom / TABLE_STEP_NM))) + np.int64((shift >> _S14) & _MASK)
    edge = np.int64(TABLE_EDGE)
    return ((iz & (edge - 1)) * edge + (iy & (edge - 1))) * edge + (ix & (edge - 1))


@njit(nogil=True, cache=True, inline="always")
def _step(low: float, high: float, x: float) -> float:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3.0 - 2.0 * t)


@njit(nogil=True, cache=True)
def _vesicle(key: Any, p: Any) -> float:
    """Change of grey, -1 to 1, by a vesicle of a jittered lattice of 50 nm."""
    z, y, x = p
    cz = math.floor(z / 50.0)
    plane = derive(key, np.int64(cz))
    y += float(plane & np.uint64(31)) * 1.6
    cy = math.floor(y / 50.0)
    line = derive(plane, np.int64(cy))
    x += float(line & np.uint64(31)) * 1.6
    cx = math.floor(x / 50.0)
    h = derive(line, np.int64(cx))
    if h & np.uint64(7) == np.uint64(0):
        return 0.0
    dz = z - (cz + 0.5) * 50.0 + 0.35 * (float((h >> np.uint64(8)) & np.uint64(31)) - 15.5)
    dy = y - (cy + 0.5) * 50.0 + 0.35 * (float((h >> np.uint64(16)) & np.uint64(31)) - 15.5)
    dx = x - (cx + 0.5) * 50.0 + 0.35 * (float((h >> np.uint64(24)) & np.uint64(31)) - 15.5)
    d = math.sqrt(dz * dz + dy * dy + dx * dx)
    ring = 1.0 - min(1.0, abs(d - 18.0) * 0.125)
    return 0.35 * (1.0 - min(1.0, d * 0.0833)) - ring


@njit(nogil=True, cache=True)
def _microtubule(key: Any, u: float, v: float) -> float:
    """Darkness, 0 to 1, at a place (u, v) of a cross-section through a bundle of microtubules."""
    cu = math.floor(u / 75.0)
    line = derive(key, np.int64(cu))
    v += float(line & np.uint64(63))
    cv = math.floor(v / 75.0)
    h = derive(line, np.int64(cv))
    if h & np.uint64(3) == np.uint64(0):
        return 0.0
    du = u - (cu + 0.5) * 75.0 + 0.9 * (float((h >> np.uint64(8)) & np.uint64(31)) - 15.5)
    dv = v - (cv + 0.5) * 75.0 + 0.9 * (float((h >> np.uint64(16)) & np.uint64(31)) - 15.5)
    return 1.0 - min(1.0, (du * du + dv * dv) / (14.0 * 14.0))


@njit(nogil=True, cache=True)
def _cytoplasm(
    tubes: Array, t: int, key: Any, look: Look, texture: Array, field: float, p: Any
) -> Any:
    """Grey inside a neurite or a cell body's cytoplasm."""
    at = _index(p, 1.0, key)
    coarse = texture[at + TABLE_SIZE] * _UNIT
    spot = texture[at] * _UNIT
    rough = look.texture * (spot - 0.9 * max(0.0, -0.7 - spot) ** 2) + look.coarse_texture * coarse
    value = look.cytoplasm + tubes[t, GREY] + tubes[t, TEXTURE] * rough
    reticulum = tubes[t, RETICULUM]
    if reticulum > 0.2 and abs(coarse) < 0.3:
        broad = texture[_index(p, 0.5, key >> np.uint64(21)) + TABLE_SIZE] * _UNIT
        if broad > 1.3 - 1.5 * reticulum:
            value -= 60.0 * look.reticulum * (1.0 - _step(0.1, 0.3, abs(coarse)))
    if tubes[t, TUBULES] > 0.0 or reticulum > 0.5:
        a = N_ATTRIBUTES
        u = p[0] * tubes[t, a] + p[1] * tubes[t, a + 1] + p[2] * tubes[t, a + 2]
        v = p[0] * tubes[t, a + 3] + p[1] * tubes[t, a + 4] + p[2] * tubes[t, a + 5]
        if tubes[t, TUBULES] > 0.0:
            value -= 38.0 * look.reticulum * _microtubule(key, u, v)
        if reticulum > 0.5:
            w = p[0] * tubes[t, AXIS_Z] + p[1] * tubes[t, AXIS_Y] + p[2] * tubes[t, AXIS_X]
            sheet = texture[_index((u, v, 0.22 * w), 0.9, key >> np.uint64(11)) + TABLE_SIZE]
            value -= 80.0 * look.fragments * _step(1.9, 2.5, sheet * _UNIT)
    if tubes[t, VESICLES] > 0.0 and field > 0.02:
        crowd = _step(0.02, 0.2, field)
        value += look.vesicles * ((48.0 + 30.0 * crowd) * _vesicle(key, p) - 20.0 * crowd)
    if tubes[t, KIND] == SOMA:
        value -= 10.0 + 26.0 * look.reticulum * (1.0 - _step(0.0, 0.3, abs(coarse)))
    return value


@njit(nogil=True, cache=True)
def _lumen(look: Look, texture: Array, key: Any, inner: float, value: float, p: Any) -> Any:
    """Grey of a vessel ``inner`` nm inside its wall."""
    lumen = look.cytoplasm + 8.0 + 0.35 * look.texture * texture[_index(p, 1.0, key)] * _UNIT
    wall = look.membrane + 25.0
    wall += (value - wall) * _step(5.0, 60.0, abs(inner))
    return wall + (lumen - wall) * _step(-6.0, 6.0, inner)


@njit(nogil=True, cache=True)
def _chromatin(look: Look, texture: Array, key: Any, inner: float, p: Any) -> Any:
    """Grey of a nucleus: strewn chromatin, light and speckled, and packed, even and darker.

    Packed chromatin lies along the envelope and in clumps with ragged borders.
    """
    fine = texture[_index(p, 1.0, key)] * _UNIT
    speck = texture[_index(p, 0.9, key >> np.uint64(21)) + TABLE_SIZE] * _UNIT
    clump = texture[_index(p, 0.4, key) + TABLE_SIZE] * _UNIT
    ragged = (p[0] + 30.0 * fine, p[1] + 35.0 * speck, p[2] + 30.0 * clump)
    broad = texture[_index(ragged, 0.1, key >> np.uint64(42)) + TABLE_SIZE] * _UNIT
    strewn = 34.0 * _step(-0.2, 1.6, speck) + 38.0 * _step(0.2, 1.5, clump)
    strewn = 6.0 - look.chromatin * strewn
    packed = -50.0 * look.chromatin + 4.0 * speck
    dense = _step(1.0, 1.3, broad + 0.25 * clump + 0.9 * math.exp(-inner / 160.0))
    value = look.cytoplasm + strewn + (packed - strewn) * dense
    return value + (0.9 - 0.6 * dense) * look.texture * fine


@njit(nogil=True, cache=True)
def _nucleus(look: Look, texture: Array, key: Any, inner: float, value: float, p: Any) -> Any:
    """Grey of a nucleus, or of the cytoplasm around it, ``inner`` nm inside its envelope."""
    if inner < -40.0:
        return value
    if inner > 0.0:
        value = _chromatin(look, texture, key, inner, p)
    envelope = max(1.0 - min(1.0, abs(inner) / 9.0), 1.0 - min(1.0, abs(inner + 30.0) / 8.0))
    return value + (look.membrane - value) * envelope


@njit(nogil=True, cache=True)
def _synapse(look: Look, mine: Any, yours: Any, field: float, inside: float, value: float) -> float:
    """Darken both sides of a synaptic contact, the receiving one more."""
    if derive(mine ^ yours, 3) & np.uint64(7) > np.uint64(1):
        return value
    thickness = 18.0 if mine < yours else 38.0
    amount = look.density * _step(0.42, 0.55, field)
    amount *= 1.0 - _step(0.6 * thickness, thickness + 8.0, inside)
    found: float = value + (look.membrane - 8.0 - value) * min(1.0, amount)
    return found


@njit(nogil=True, cache=True)
def _enclose(look: Look, sheath: float, pale: float, inside: float, value: float) -> float:
    """Myelin and the cell membrane, ``inside`` nm from the border of a tube."""
    if sheath > 0.0 and inside < sheath + 12.0:
        lamella = look.myelin + pale * pale * (look.matrix - look.myelin)
        lamella += (6.0 + 10.0 * pale) * math.sin(inside * (2.0 * math.pi / 17.0))
        value += (lamella - value) * (1.0 - _step(sheath - 6.0, sheath + 6.0, inside))
    half = look.membrane_half_nm
    if inside < half + 7.0:
        dark = look.membrane + look.cleft * (1.0 - _step(2.0, 7.0, inside))
        value += (dark - value) * (1.0 - _step(half - 5.0, half + 6.0, inside))
    return value


@njit(nogil=True, cache=True)
def shade_tubes(
    tubes: Array, keys: Array, look: Look, texture: Array, brick: Brick, grey: Array
) -> None:
    """Write the grey of every sample of a brick, organelles left aside.

    Args:
        tubes: The scene's tubes.
        keys: Their keys.
        look: How it looks.
        texture: See `looks.texture_table`.
        brick: Samples with their nearest tubes.
        grey: (samples,) float32, written.
    """
    pz, py, px = brick.point[0], brick.point[1], brick.point[2]
    synapse, nearest, second = brick.field[1], brick.nearest[0], brick.nearest[1]
    first_owner, second_owner = brick.owner[0], brick.owner[1]
    for s in range(len(grey)):
        p = (float(pz[s]), float(py[s]), float(px[s]))
        t, other = first_owner[s], second_owner[s]
        inside = 0.5 * float(second[s] - nearest[s])
        field = float(synapse[s])
        if t < 0:
            at = _index(p, 1.0, np.uint64(777))
            value = look.cytoplasm + 4.0 + look.glia + 0.7 * look.texture * texture[at] * _UNIT
            value += 2.0 * look.coarse_texture * texture[at + TABLE_SIZE] * _UNIT
            grey[s] = _enclose(look, 0.0, 0.0, inside, value)
            continue
        key = keys[t]
        value = _cytoplasm(tubes, t, key, look, texture, field, p)
        if tubes[t, CORE] > 0.0:
            inner = tubes[t, CORE] - tubes[t, RADIUS] - float(nearest[s])
            if tubes[t, KIND] == VESSEL:
                value = _lumen(look, texture, key, inner, value, p)
            else:
                value = _nucleus(look, texture, key, inner, value, p)
        value = _enclose(look, float(tubes[t, MYELIN]), float(tubes[t, PALE]), inside, value)
        if field > 0.42 and inside < 60.0 and other >= 0:
            value = _synapse(look, key, keys[other], field, inside, value)
        grey[s] = value


@njit(nogil=True, cache=True)
def _mitochondrion(parts: Array, o: int, look: Look, texture: Array, depth: float, p: Any) -> Any:
    """Grey inside a mitochondrion: matrix, cristae (dark lamellae, or bright within), membranes."""
    shift = np.uint64(parts[o, O_PHASE] * 2097151.0)
    at = _index(p, 1.0, shift)
    value = look.matrix + look.matrix_spread * parts[o, O_GREY]
    darker = look.dark_matrix * parts[o, O_DARK]
    value -= darker
    value = max(value, min(look.matrix, look.myelin))
    level = value
    value += 0.6 * parts[o, O_TEXTURE] * look.texture * texture[at] * _UNIT
    if depth > look.rim_nm - 4.0:
        coarse = texture[at + TABLE_SIZE] * _UNIT
        broad = texture[_index(p, 0.35, shift) + TABLE_SIZE] * _UNIT
        along = p[0] * parts[o, O_NZ] + p[1] * parts[o, O_NY] + p[2] * parts[o, O_NX]
        phase = along / (look.cristae_period_nm * parts[o, O_PERIOD]) + parts[o, O_PHASE]
        phase += 0.28 * coarse + 0.5 * broad
        offset = abs(phase - math.floor(phase) - 0.5) * 2.0
        width = look.cristae_width
        fold = _step(width * 0.6, width * 1.25, offset) - 1.0
        fold += 2.0 * look.cristae_lumen * (1.0 - _step(width * 0.25, width * 0.7, offset))
        fold *= (
            look.cristae
            * (1.0 - darker / 80.0)
            * parts[o, O_CRISTAE]
            * _step(-0.9, -0.2, coarse + 0.4 * broad)
        )
        value += fold * _step(look.rim_nm - 2.0, look.rim_nm + 8.0, depth)
    rim = min(look.rim, level - 4.0)
    rim += look.rim_split * (1.0 - min(1.0, abs(depth - 0.5 * look.rim_nm) / 4.5))
    return value + (rim - value) * (1.0 - _step(look.rim_nm - 4.0, look.rim_nm + 5.0, depth))


@njit(nogil=True, cache=True)
def other_organelle(parts: Array, o: int, look: Look, texture: Array, depth: float, p: Any) -> Any:
    """Grey inside a lysosome, a multivesicular body or a vacuole."""
    shift = np.uint64(parts[o, O_PHASE] * 2097151.0)
    at = _index(p, 1.0, shift)
    fine = look.texture * texture[at] * _UNIT
    shade = parts[o, O_PHASE]
    if parts[o, O_KIND] == LYSOSOME_BODY:
        coarse = texture[at + TABLE_SIZE] * _UNIT
        value = look.dark_body + shade * shade * (look.matrix + 5.0 - look.dark_body)
        value += (12.0 * parts[o, O_GREY] + 14.0 * coarse) * (1.0 - 0.6 * shade) + 1.2 * fine
    elif parts[o, O_KIND] == MULTIVESICULAR:
        value = look.cytoplasm - 12.0 + 55.0 * _vesicle(shift, p)
        value += 0.7 * shade * (look.matrix - value)
    else:
        value = look.cytoplasm + 18.0 + 0.5 * fine
        value += 0.6 * shade * (look.matrix - value)
    rim = min(look.membrane + 4.0, value)
    return value + (rim - value) * (1.0 - _step(8.0, 16.0, depth))


@njit(nogil=True, cache=True)
def shade_parts(parts: Array, look: Look, texture: Array, brick: Brick, grey: Array) -> None:
    """Draw organelles over the greys of a brick's samples; arguments as in `shade_tubes`."""
    pz, py, px = brick.point[0], brick.point[1], brick.point[2]
    owner = brick.part_owner[0]
    depths = brick.scratch
    for s in range(len(grey)):
        depth = float(depths[s])
        if depth <= -4.0:
            continue
        o = owner[s]
        p = (float(pz[s]), float(py[s]), float(px[s]))
        if parts[o, O_KIND] == MITOCHONDRION:
            value = _mitochondrion(parts, o, look, texture, depth, p)
        else:
            value = other_organelle(parts, o, look, texture, depth, p)
        grey[s] += (value - grey[s]) * _step(-4.0, 4.0, depth)
