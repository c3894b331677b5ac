"""Simulated electron microscopy of neuropil, with every mitochondrion's own id.

The tissue lives in physical space and is a pure function of the seed: neurites of mixed calibre,
cell bodies with nuclei, vessels, myelin, synapses, and in them mitochondria as rods, long, branched
and beaded ones, alone or pressed against each other, with lysosomes, multivesicular bodies and
vacuoles beside them. `simulate_volume` gives lazy volumes: any box is made when it is read, and
does not depend on what else is read.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.configuration import to_plain
from cristae.engine.identity import Identity
from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.simulation.bricks import Sampling, make_sampling
from cristae.simulation.config import SimulationConfig, check_config
from cristae.simulation.looks import Look, draw_look, texture_table
from cristae.simulation.render import draw_image, draw_labels
from cristae.simulation.scene import region_scene, region_shape, volume_key
from cristae.volumes.volume import Volume

__all__ = ["SimulationConfig", "simulate_volume", "touching_pairs"]

Array = NDArray[Any]

FORMAT = 4


def simulate_volume(config: SimulationConfig) -> tuple[Volume, Volume]:
    """A simulated image and its instance labels, made when they are read.

    Both are deterministic, and a voxel has the same value whatever box it is read in. Labels reach
    the outer edge of the outer membrane. Ids are positive and the same for an object everywhere,
    but not consecutive; 0 is background. An object is one 26-connected piece, apart from pieces
    cut by the volume's border.

    Args:
        config: What to simulate.

    Returns:
        Image (uint8, dark where dense) and labels (uint32), both (z, y, x).

    Raises:
        ConfigError: Values out of range, all at once.

    Example:
        >>> image, labels = simulate_volume(SimulationConfig(shape=(4, 64, 64), seed=1))
        >>> image.read().shape, labels.dtype.name
        ((4, 64, 64), 'uint32')
    """
    check_config(config)
    image = _volume(config, ImageReader(config), np.dtype(np.uint8), "image")
    labels = _volume(config, LabelReader(config), np.dtype(np.uint32), "labels")
    return image, labels


@dataclass(frozen=True)
class ImageReader:
    """Draws boxes of a simulated image."""

    config: SimulationConfig

    def read(self, box: Box) -> Array:
        """The (z, y, x) uint8 image of a box."""
        out = np.empty(box.shape, np.uint8)
        look, sampling = _setting(self.config)
        for region, part in _parts(self.config, box):
            piece = np.empty(part.shape, np.uint8)
            scene = region_scene(self.config, region)
            draw_image(scene, look, texture_table(), sampling, np.array(part.start), piece)
            out[part.relative_to(box.start).slices()] = piece
        return out


@dataclass(frozen=True)
class LabelReader:
    """Draws boxes of a simulated volume's labels."""

    config: SimulationConfig

    def read(self, box: Box) -> Array:
        """The (z, y, x) uint32 labels of a box."""
        out = np.empty(box.shape, np.uint32)
        look, sampling = _setting(self.config)
        for region, part in _parts(self.config, box):
            piece = np.empty(part.shape, np.uint32)
            scene = region_scene(self.config, region)
            draw_labels(scene, sampling, look.jitter_nm, np.array(part.start), piece)
            out[part.relative_to(box.start).slices()] = piece
        return out


def touching_pairs(labels: Array) -> Array:
    """Pairs of instances that touch: their voxels share a face, or one voxel lies between.

    The voxel between may hold anything; it is looked for along z, y and x.

    Args:
        labels: Integer ids (z, y, x), 0 for background.

    Returns:
        (n, 2) array of the labels' dtype, each pair once with the lower id first, sorted.

    Raises:
        InputError: Not a 3D array of integers.

    Example:
        >>> touching_pairs(np.array([[[7, 7, 0, 3, 5, 0, 0, 9]]])).tolist()
        [[3, 5], [3, 7]]
    """
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels: found {labels.dtype} of shape {labels.shape}, expected 3D integers"
        )
    found = [np.empty((0, 2), labels.dtype)]
    for axis in range(3):
        for step in (1, 2):
            line = np.moveaxis(labels, axis, 0)
            low, high = line[:-step], line[step:]
            meet = (low != high) & (low != 0) & (high != 0)
            pairs = np.stack([low[meet], high[meet]], axis=1)
            found.append(np.unique(np.sort(pairs, axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0)


@lru_cache(maxsize=64)
def _setting(config: SimulationConfig) -> tuple[Look, Sampling]:
    look = draw_look(config)
    return look, make_sampling(volume_key(config), config.voxel_size_nm, look.warp_nm)


def _parts(config: SimulationConfig, box: Box) -> list[tuple[Triple, Box]]:
    """The regions a box meets, each with the part of the box in it."""
    shape = region_shape(config)
    first = tuple(a // n for a, n in zip(box.start, shape, strict=True))
    last = tuple(-(-b // n) for b, n in zip(box.stop, shape, strict=True))
    return [
        ((i, j, k), Box.of(shape).shift((i * shape[0], j * shape[1], k * shape[2])).clip(box))
        for i in range(first[0], last[0])
        for j in range(first[1], last[1])
        for k in range(first[2], last[2])
    ]


def _volume(
    config: SimulationConfig, reader: ImageReader | LabelReader, dtype: np.dtype[Any], kind: Any
) -> Volume:
    plain = json.dumps([FORMAT, kind, to_plain(config)], sort_keys=True)
    return Volume(
        name=f"simulated {kind} (seed {config.seed})",
        reader=reader,
        shape=config.shape,
        dtype=dtype,
        voxel_size_nm=config.voxel_size_nm,
        kind=kind,
        chunk_shape=(16, 128, 128),
        attributes={"simulation": to_plain(config)},
        identity=Identity.of("simulated:" + hashlib.sha256(plain.encode()).hexdigest()[:24]),
    )
