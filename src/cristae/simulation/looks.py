"""How a simulated volume looks: greys, contrasts, blur and noise, drawn from the seed."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.simulation.config import SimulationConfig

Array = NDArray[Any]

TABLE_EDGE = 128
TABLE_SIZE = TABLE_EDGE**3
TABLE_STEP_NM = 8.0
TABLE_SCALE = 40.0


class Look(NamedTuple):
    """Looks of a volume; greys in levels of an 8-bit image, lengths in nm."""

    cytoplasm: float
    matrix: float
    matrix_spread: float
    membrane: float
    membrane_half_nm: float
    cleft: float
    rim: float
    rim_nm: float
    rim_split: float
    cristae: float
    cristae_lumen: float
    cristae_period_nm: float
    cristae_width: float
    texture: float
    coarse_texture: float
    myelin: float
    dark_body: float
    reticulum: float
    vesicles: float
    density: float
    blur_nm: float
    noise: float
    grain: float
    section_brightness: float
    section_contrast: float
    jitter_nm: float
    illumination: float
    warp_nm: float
    dark_matrix: float
    glia: float
    fragments: float
    chromatin: float


class _Draws:
    """Numbers drawn around a mean, as widely as the configuration wants looks to vary."""

    def __init__(self, config: SimulationConfig) -> None:
        seeds = np.random.SeedSequence([config.seed, 7919])
        self.chance = np.random.Generator(np.random.PCG64(seeds))
        self.spread = config.look_variation

    def _normal(self) -> float:
        return float(np.clip(self.chance.standard_normal(), -2, 2))

    def around(self, mean: float, share: float) -> float:
        """Log-normal: typically off by a share of the mean."""
        return float(mean * np.exp(self.spread * share * self._normal()))

    def plus(self, mean: float, deviation: float) -> float:
        """Normal."""
        return float(mean + self.spread * deviation * self._normal())

    def either(self, low: float, mean: float, high: float) -> float:
        """Uniform between the mean and one of two edges."""
        edge = low if self.chance.random() < 0.5 else high
        return float(mean + min(1.0, self.spread) * self.chance.random() * (edge - mean))


def draw_look(config: SimulationConfig) -> Look:
    """The looks of a configuration: its means, spread by draws that depend on the seed alone."""
    draw = _Draws(config)
    cytoplasm = draw.plus(config.cytoplasm_grey, 12.0)
    matrix = min(draw.plus(config.mitochondria_grey, 17.0), cytoplasm - 22.0)
    membrane = draw.plus(config.membrane_grey, 15.0)
    rim = min(draw.plus(0.65 * membrane + 0.35 * matrix - 5.0, 8.0), matrix - 4.0)
    bright = draw.chance.random() < 0.35 * min(1.0, draw.spread)
    return Look(
        cytoplasm=cytoplasm,
        matrix=matrix,
        matrix_spread=draw.around(9.0, 0.4),
        membrane=membrane,
        membrane_half_nm=draw.around(11.0, 0.2),
        cleft=draw.either(0.0, 8.0, 30.0),
        rim=rim,
        rim_nm=draw.around(19.0, 0.15),
        rim_split=draw.either(0.0, 8.0, 25.0),
        cristae=draw.either(3.0, 18.0, 42.0) * _standing_out(matrix),
        cristae_lumen=draw.either(0.3, 0.9, 1.6) if bright else 0.0,
        cristae_period_nm=draw.around(52.0, 0.2),
        cristae_width=draw.either(0.25, 0.36, 0.5),
        texture=draw.either(6.0, 15.0, 28.0),
        coarse_texture=draw.either(1.5, 4.0, 8.0),
        myelin=draw.plus(membrane - 18.0, 10.0),
        dark_body=draw.plus(membrane - 12.0, 14.0),
        reticulum=draw.either(0.4, 0.9, 1.3),
        vesicles=draw.either(0.3, 0.8, 1.3),
        density=draw.either(0.3, 0.8, 1.2),
        blur_nm=draw.around(config.blur_nm, 0.4),
        noise=draw.around(config.noise, 0.45),
        grain=draw.either(0.2, 0.5, 0.85),
        section_brightness=draw.either(0.5, 3.0, 9.0),
        section_contrast=draw.either(0.01, 0.04, 0.12),
        jitter_nm=draw.either(0.0, 3.0, 9.0),
        illumination=draw.either(0.0, 4.0, 12.0),
        warp_nm=draw.around(105.0, 0.2),
        dark_matrix=min(1.0, draw.spread) * draw.chance.random() * 55.0,
        glia=draw.either(-35.0, 0.0, 15.0),
        fragments=draw.either(0.1, 0.6, 1.2),
        chromatin=draw.either(0.4, 1.0, 1.6),
    )


def _standing_out(matrix: float) -> float:
    """How much more cristae stand out in a light matrix, up to twice, than in a grey one."""
    return 1.0 + min(1.0, max(0.0, matrix - 130.0) / 30.0)


@lru_cache(maxsize=1)
def texture_table() -> Array:
    """Two periodic noises, fine (about 11 nm) and then coarse (about 52 nm), flat int8.

    Each is TABLE_SIZE samples TABLE_STEP_NM apart, mean 0, standard deviation TABLE_SCALE.
    White noise smoothed by three box sums an axis, in integers, so it is the same everywhere.
    """
    return np.concatenate([_table(3, 1), _table(13, 2)])


def _table(width: int, seed: int) -> Array:
    chance = np.random.Generator(np.random.PCG64(seed))
    field = chance.integers(-50, 51, (TABLE_EDGE,) * 3).astype(np.int64)
    for axis in range(3):
        for _ in range(3):
            head = np.take(field, range(width), axis)
            total = np.cumsum(np.concatenate([field, head], axis), axis)
            behind = np.take(total, range(TABLE_EDGE), axis)
            field = np.take(total, range(width, TABLE_EDGE + width), axis) - behind
    centred = field - int(field.mean())
    scaled = np.rint(centred * (TABLE_SCALE / centred.std()))
    table: Array = np.clip(scaled, -127, 127).astype(np.int8).ravel()
    return table
