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


def draw_look(config: SimulationConfig) -> Look:
    """The looks of a configuration: its means, spread by draws that depend on the seed alone."""
    chance = np.random.Generator(np.random.PCG64(np.random.SeedSequence([config.seed, 7919])))
    spread = config.look_variation

    def around(mean: float, share: float) -> float:
        return float(mean * np.exp(spread * share * np.clip(chance.standard_normal(), -2, 2)))

    def plus(mean: float, deviation: float) -> float:
        return float(mean + spread * deviation * np.clip(chance.standard_normal(), -2, 2))

    def either(low: float, mean: float, high: float) -> float:
        edge = low if chance.random() < 0.5 else high
        return float(mean + min(1.0, spread) * chance.random() * (edge - mean))

    cytoplasm = plus(config.cytoplasm_grey, 12.0)
    matrix = min(plus(config.mitochondria_grey, 17.0), cytoplasm - 22.0)
    membrane = plus(config.membrane_grey, 15.0)
    rim = min(plus(0.65 * membrane + 0.35 * matrix - 5.0, 8.0), matrix - 4.0)
    bright = chance.random() < 0.35 * min(1.0, spread)
    return Look(
        cytoplasm=cytoplasm,
        matrix=matrix,
        matrix_spread=around(9.0, 0.4),
        membrane=membrane,
        membrane_half_nm=around(11.0, 0.2),
        cleft=either(0.0, 8.0, 30.0),
        rim=rim,
        rim_nm=around(19.0, 0.15),
        rim_split=either(0.0, 8.0, 25.0),
        cristae=either(3.0, 18.0, 42.0) * _standing_out(matrix),
        cristae_lumen=either(0.3, 0.9, 1.6) if bright else 0.0,
        cristae_period_nm=around(52.0, 0.2),
        cristae_width=either(0.25, 0.36, 0.5),
        texture=either(6.0, 15.0, 28.0),
        coarse_texture=either(1.5, 4.0, 8.0),
        myelin=plus(membrane - 18.0, 10.0),
        dark_body=plus(membrane - 12.0, 14.0),
        reticulum=either(0.4, 0.9, 1.3),
        vesicles=either(0.3, 0.8, 1.3),
        density=either(0.3, 0.8, 1.2),
        blur_nm=around(config.blur_nm, 0.4),
        noise=around(config.noise, 0.45),
        grain=either(0.2, 0.5, 0.85),
        section_brightness=either(0.5, 3.0, 9.0),
        section_contrast=either(0.01, 0.04, 0.12),
        jitter_nm=either(0.0, 3.0, 9.0),
        illumination=either(0.0, 4.0, 12.0),
        warp_nm=around(105.0, 0.2),
        dark_matrix=min(1.0, spread) * chance.random() * 55.0,
        glia=either(-35.0, 0.0, 15.0),
        fragments=either(0.1, 0.6, 1.2),
        chromatin=either(0.4, 1.0, 1.6),
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
