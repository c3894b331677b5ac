"""All objects that may reach one region of a volume, ready for drawing.

A volume is drawn region by region. Regions lie on a fixed grid of whole voxels, so a voxel always
comes from the same region, whatever box is read::

    |   region 0   |   region 1   |   region 2 |
           [---- box that is read ----]
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box, Triple
from cristae.simulation.config import (
    BLOCK_NM,
    CELL_NM,
    IDS_PER_CELL,
    SimulationConfig,
    cell_counts,
    first_cell,
)
from cristae.simulation.counter_rng import derive
from cristae.simulation.organelles import Organelles, make_organelles
from cristae.simulation.space import Bins, Rods, make_bins, set_rod, thin_bins
from cristae.simulation.tissue import (
    AXIS_X,
    AXIS_Z,
    MAX_NODES,
    MAX_PER_CELL,
    MYELIN,
    N_ATTRIBUTES,
    TUBE_REACH_NM,
    Knobs,
    Tubes,
    grow_bodies,
    grow_neurites,
)

Array = NDArray[Any]

REGION_NM = 6144.0
SIGHT_NM = 450.0
ORGANELLE_REACH_NM = 6500.0
# origins are whole periods of the textures, at every zoom that is a multiple of a tenth
PERIOD_NM = 10240.0
BIN_NM = 192.0
BRICK_SLACK_NM = 260.0


class Scene(NamedTuple):
    """What is near a region, in nm from ``origin``; float32 where it is drawn.

    Attributes:
        origin: (3,) float64: a multiple of PERIOD_NM.
        tube_shape: Rods of tubes, float32.
        tube_owner: Tube of each rod.
        tube_bins: Rods near each bin.
        tubes: (t, N_ATTRIBUTES + 6) float32; the last are two unit vectors across the axis.
        tube_key: (t,) uint64.
        part_shape: Rods of organelles, float32.
        part_owner: Organelle of each rod.
        part_bins: Rods near each bin.
        parts: (n, O_COLUMNS) float32.
        label: (n,) uint32.
    """

    origin: Array
    tube_shape: Array
    tube_owner: Array
    tube_bins: Bins
    tubes: Array
    tube_key: Array
    part_shape: Array
    part_owner: Array
    part_bins: Bins
    parts: Array
    label: Array


def volume_key(config: SimulationConfig) -> np.uint64:
    """The key all of a volume's chances derive from."""
    return np.uint64(derive(np.uint64(config.seed), 104729))


def region_shape(config: SimulationConfig) -> Triple:
    """Voxels (z, y, x) of a region."""
    z, y, x = (max(1, int(REGION_NM / v)) for v in config.voxel_size_nm)
    return z, y, x


def knobs_of(config: SimulationConfig) -> Knobs:
    """The shares of a configuration in the kernels' terms.

    Found by measuring simulated volumes: the chance that a stretch is occupied against the share
    of the volume that is mitochondria (the denser they are the fewer find room), and groups against
    touching mitochondria.
    """
    return Knobs(
        occupied=min(0.97, 0.97 * (config.mitochondria_fraction / 0.07) ** 2.4),
        touching=min(1.0, 2.0 * config.touching_share),
        myelinated=config.myelinated_share,
        giant=config.giant_share,
        dark=config.dark_share,
        nuclei=config.nuclei,
        vessels=config.vessels,
    )


@lru_cache(maxsize=8)
def region_scene(config: SimulationConfig, index: Triple) -> Scene:
    """Everything that may reach region ``index`` of a volume."""
    shape = region_shape(config)
    box = Box.of(shape).shift(tuple(i * n for i, n in zip(index, shape, strict=True)))  # type: ignore[arg-type]
    box = box.clip(Box.of(config.shape))
    voxel = np.array(config.voxel_size_nm)
    near = np.array([box.start, box.stop]) * voxel
    near += np.array([[-SIGHT_NM], [SIGHT_NM]])
    wide = near + np.array([[-ORGANELLE_REACH_NM], [ORGANELLE_REACH_NM]])
    knobs = knobs_of(config)
    tubes = _grow_tubes(config, knobs, wide)
    rods = _rods(tubes)
    coarse = make_bins(rods, wide[0], wide[1], 1000.0, 1150.0)
    organelles = make_organelles(tubes, knobs, near, rods, coarse)
    sheath = tubes.attributes[rods.owner, MYELIN].astype(np.float64)
    fine = thin_bins(rods, sheath, coarse, near, BIN_NM, BRICK_SLACK_NM)
    return _relative(near, tubes, rods, fine, organelles)


def _grow_tubes(config: SimulationConfig, knobs: Knobs, box: Array) -> Tubes:
    counts = np.array(cell_counts(config, CELL_NM))
    grid = np.array([[first_cell(CELL_NM)] * 3, counts], np.int64)
    n_ids = 1 + int(counts.prod()) * IDS_PER_CELL
    block_grid = np.array(
        [[first_cell(BLOCK_NM)] * 3, cell_counts(config, BLOCK_NM), [n_ids] * 3], np.int64
    )
    extent = box[1] - box[0] + 2 * TUBE_REACH_NM
    room = int(np.prod(np.ceil(extent / CELL_NM) + 1)) * MAX_PER_CELL + 64
    tubes = Tubes(
        np.zeros((room * MAX_NODES, 4)),
        np.zeros(room + 1, np.int64),
        np.zeros((room, N_ATTRIBUTES), np.float32),
        np.zeros(room, np.uint64),
        np.zeros(room, np.int64),
    )
    used = np.zeros(2, np.int64)
    key = volume_key(config)
    grow_neurites(key, grid, box, knobs, tubes, used)
    grow_bodies(key, block_grid, box, knobs, tubes, used)
    t, n = used
    return Tubes(
        tubes.nodes[:n].copy(),
        tubes.start[: t + 1].copy(),
        tubes.attributes[:t].copy(),
        tubes.key[:t].copy(),
        tubes.first_id[:t].copy(),
    )


@njit(nogil=True, cache=True)
def _fill_rods(nodes: Array, start: Array, shape: Array, owner: Array) -> int:
    r = 0
    for t in range(len(start) - 1):
        first, last = start[t], start[t + 1] - 1
        for n in range(first, max(first + 1, last)):
            set_rod(shape[r], nodes[n], nodes[min(n + 1, last)])
            owner[r] = t
            r += 1
    return r


def _rods(tubes: Tubes) -> Rods:
    shape = np.zeros((len(tubes.nodes) + 1, 9))
    owner = np.zeros(len(tubes.nodes) + 1, np.int32)
    n = _fill_rods(tubes.nodes, tubes.start, shape, owner)
    return Rods(shape[:n].copy(), owner[:n].copy())


def _relative(near: Array, tubes: Tubes, rods: Rods, bins: Bins, organelles: Organelles) -> Scene:
    origin = np.floor(near[0] / PERIOD_NM) * PERIOD_NM
    parts = make_bins(organelles.rods, near[0], near[1], 256.0, 160.0)
    tube_shape, part_shape = rods.shape.copy(), organelles.rods.shape.copy()
    tube_shape[:, :3] -= origin
    part_shape[:, :3] -= origin
    return Scene(
        origin,
        tube_shape.astype(np.float32),
        rods.owner,
        bins._replace(origin=bins.origin - origin),
        np.hstack([tubes.attributes, _across(tubes.attributes[:, AXIS_Z : AXIS_X + 1])]),
        tubes.key,
        part_shape.astype(np.float32),
        organelles.rods.owner,
        parts._replace(origin=parts.origin - origin),
        organelles.attributes,
        organelles.label,
    )


def _across(axis: Array) -> Array:
    """Two unit vectors at right angles to each of (t, 3) unit vectors, as (t, 6) float32."""
    axis = axis.astype(np.float64)
    other = np.where(np.abs(axis[:, :1]) < math.sqrt(0.5), [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(axis, other)
    first /= np.linalg.norm(first, axis=1, keepdims=True) + 1e-9
    return np.hstack([first, np.cross(axis, first)]).astype(np.float32)
