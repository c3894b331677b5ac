"""What a simulated volume is: its size, its contents, its looks."""

import math
from collections.abc import Iterator

from cristae.configuration import config_dataclass
from cristae.errors import ConfigError, raise_faults
from cristae.grid import Triple

Nanometres = tuple[float, float, float]

CELL_NM = 2000.0
BLOCK_NM = 16000.0
REACH_NM = 10000.0
IDS_PER_CELL = 2048
IDS_PER_BLOCK = 4096


@config_dataclass
class SimulationConfig:
    """A simulated volume; equal configurations give equal voxels.

    Greys are those of an 8-bit image, before noise. `look_variation` spreads every look (greys,
    contrasts, blur, noise, cristae) around the mean given here by a draw that depends on the seed
    alone: 1 is about the spread between laboratories, 0 none.

    Attributes:
        shape: Extent (z, y, x) in voxels.
        voxel_size_nm: Voxel size (z, y, x) in nm; z 3 to 100, y and x 2 to 40.
        seed: Chooses the tissue and its looks; 0 to 2**63 - 1.
        mitochondria_fraction: Wanted share of the volume inside mitochondria, 0 to 0.1. It is met
            on average up to 0.04; beyond that fewer find room, and 0.07 or more give about 0.045.
            Small volumes scatter widely: they see only a few objects.
        touching_share: Wanted share of mitochondria that press against another, 0 to 0.9; about
            0.4 are reached where 0.6 are wanted.
        myelinated_share: Share of neurites with a myelin sheath, 0 to 0.5.
        giant_share: Share of myelinated neurites that are giant axons, as in white matter and
            nerves: up to 2 um wide, thickly sheathed, with dark mitochondria, 0 to 1.
        dark_share: Share of neurites with dark cytoplasm, 0 to 0.5.
        nuclei: Mean number of cell nuclei in a cube of 16 um, 0 to 0.8.
        vessels: Mean number of blood vessels through a cube of 16 um, 0 to 0.5.
        cytoplasm_grey: Mean grey of cytoplasm.
        mitochondria_grey: Mean grey of the mitochondrial matrix.
        membrane_grey: Mean grey of membranes.
        noise: Standard deviation of the noise, in grey levels.
        blur_nm: Standard deviation of the point spread in the plane, in nm.
        look_variation: Spread of the looks between seeds, 0 to 1.5.
    """

    shape: Triple = (32, 256, 256)
    voxel_size_nm: Nanometres = (30.0, 8.0, 8.0)
    seed: int = 0
    mitochondria_fraction: float = 0.07
    touching_share: float = 0.33
    myelinated_share: float = 0.05
    giant_share: float = 0.0
    dark_share: float = 0.07
    nuclei: float = 0.25
    vessels: float = 0.1
    cytoplasm_grey: float = 166.0
    mitochondria_grey: float = 92.0
    membrane_grey: float = 64.0
    noise: float = 13.0
    blur_nm: float = 4.5
    look_variation: float = 1.0


_RANGES: dict[str, tuple[float, float]] = {
    "mitochondria_fraction": (0.0, 0.1),
    "touching_share": (0.0, 0.9),
    "myelinated_share": (0.0, 0.5),
    "giant_share": (0.0, 1.0),
    "dark_share": (0.0, 0.5),
    "nuclei": (0.0, 0.8),
    "vessels": (0.0, 0.5),
    "cytoplasm_grey": (0.0, 255.0),
    "mitochondria_grey": (0.0, 255.0),
    "membrane_grey": (0.0, 255.0),
    "noise": (0.0, 100.0),
    "blur_nm": (0.0, 30.0),
    "look_variation": (0.0, 1.5),
}


def check_config(config: SimulationConfig) -> None:
    """Refuse a configuration that cannot be simulated.

    Raises:
        ConfigError: All values out of range, each with its key and the range expected.
    """
    raise_faults("SimulationConfig", list(_faults(config)), ConfigError)


def first_cell(edge_nm: float) -> int:
    """Index, along each axis, of the first cube that can hold objects reaching the volume."""
    return math.floor(-REACH_NM / edge_nm) - 1


def cell_counts(config: SimulationConfig, edge_nm: float) -> Triple:
    """How many cubes along (z, y, x), from `first_cell`, can hold such objects."""
    z, y, x = (
        math.ceil((n * v + 2 * REACH_NM) / edge_nm) + 3
        for n, v in zip(config.shape, config.voxel_size_nm, strict=True)
    )
    return z, y, x


def id_count(config: SimulationConfig) -> int:
    """How many instance ids the volume's neighbourhood can need, 0 included."""
    cells = math.prod(cell_counts(config, CELL_NM)) * IDS_PER_CELL
    return 1 + cells + math.prod(cell_counts(config, BLOCK_NM)) * IDS_PER_BLOCK


def _faults(config: SimulationConfig) -> Iterator[str]:
    if min(config.shape) < 1:
        yield f"shape: found {config.shape}, expected every extent at least 1"
    elif id_count(config) >= 2**32:
        yield f"shape: found {config.shape}, expected fewer than 2**32 possible instance ids"
    z, y, x = config.voxel_size_nm
    if not (3 <= z <= 100 and 2 <= y <= 40 and 2 <= x <= 40):
        yield f"voxel_size_nm: found {config.voxel_size_nm}, expected z in 3..100, y and x in 2..40"
    if not 0 <= config.seed < 2**63:
        yield f"seed: found {config.seed}, expected 0 to 2**63 - 1"
    for key, (low, high) in _RANGES.items():
        value = getattr(config, key)
        if not low <= value <= high:
            yield f"{key}: found {value}, expected {low:g} to {high:g}"
