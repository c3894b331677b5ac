"""How a model wants to be run: one value that travels unopened from where it is said to prediction.

::

    model file ─► Model.recipe ─► Contract.recipe ─┐
    command line, YAML ─► PredictConfig ───────────┴► choose_recipe ─► PredictionPlan.recipe

A new property touches three files: this one (its field, its faults), `cristae.prediction.checks`
(the setting of the same name by which a user overrules it) and the one of prediction that carries
it out. Model files, trainings, plans, previews and records take it along by its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from cristae.configuration import from_plain, to_plain
from cristae.networks.windows import Combine, Tta, WindowRecipe, recipe_faults
from cristae.renamed import current_names, recorded_names

VoxelSize = tuple[float | None, float | None, float | None]
WantedPrecision = Literal["auto", "float32", "bfloat16", "float16"]
Config = TypeVar("Config")

STORED = ("windows", "tta", "section_spacing_nm", "scales")
"""What every model file names; anything else only where it is not the default."""

ONE_LOOK: dict[str, Any] = {"tta": 1, "scales": (1.0,)}
"""Settings by which a network sees each place once, for a quick first pass."""

OVER = 0.1
"""Sections may be farther apart than wanted by this share: 32 nm are as good as 30."""

_UNNAMED = ("precision", "section_spacing_nm")
"""What a prediction's attributes leave out: it says what came of them."""


@dataclass(frozen=True)
class InferenceRecipe:
    """How a model wants to be run unless told otherwise.

    Attributes:
        precision: Of the network's arithmetic; ``auto``: the fastest that agrees with float32.
        tta: Test-time augmentation: 1, 4 (flips in y and x), 8 (also transposed in the plane)
            or 16 (also flipped in z).
        z_stride: The network sees every k-th section, once for each offset; the k outputs are
            averaged (`cristae.networks.strided_sections`).
        section_spacing_nm: Target section spacing, which decides ``z_stride``: thinner sections are
            subsampled. None: no subsampling.
        scales: It sees the image at so many times its working voxel size in the plane, each once,
            and the outputs are combined.
        combine: What is taken of augmented outputs, scales and several models.
        windows: The windows it runs on, with augmentation and combination of their own; None for a
            tile-invariant network, which takes any tile.
    """

    precision: WantedPrecision = "auto"
    tta: Tta = 1
    z_stride: int = 1
    scales: tuple[float, ...] = (1.0,)
    combine: Combine = "mean"
    windows: WindowRecipe | None = None
    section_spacing_nm: float | None = None

    @property
    def reach(self) -> tuple[float, float, float]:
        """How many times farther than at once the network sees along z, y and x."""
        return self.z_stride, max(self.scales), max(self.scales)


def z_stride(spacing_nm: float | None, section_nm: float) -> int:
    """How many sections fit in the distance wanted, or all but; at least 1.

    Args:
        spacing_nm: Distance wanted; None: next sections.
        section_nm: Thickness of a section.
    """
    return 1 if spacing_nm is None else max(1, int((1 + OVER) * spacing_nm / section_nm))


def choose_recipe(config: Config, recipe: InferenceRecipe, section_nm: float) -> InferenceRecipe:
    """A recipe with what a user says instead.

    Args:
        config: Settings; those named as a field of the recipe count where they are not None.
        recipe: The model's.
        section_nm: Thickness of a section on the network's grid.
    """
    spacing = recipe.section_spacing_nm
    step = recipe.z_stride if spacing is None else z_stride(spacing, section_nm)
    said = {name: getattr(config, name, None) for name in _names()}
    if said["z_stride"] is None:
        said["z_stride"] = step
    return replace(recipe, **{name: value for name, value in said.items() if value is not None})


def chosen_settings(config: Config, recipe: InferenceRecipe) -> dict[str, Any]:
    """The settings of a configuration that a recipe decides, by name."""
    return {name: getattr(recipe, name) for name in _names() if hasattr(config, name)}


def recipe_attributes(recipe: InferenceRecipe) -> dict[str, Any]:
    """What a prediction says of the recipe it was made by: plain values."""
    named = {name: value for name, value in _plain(recipe).items() if name not in _UNNAMED}
    return recorded_names(named)


def stored_recipe(recipe: InferenceRecipe) -> dict[str, Any]:
    """A recipe as the keys of a model file."""
    plain, usual = _plain(recipe), _plain(InferenceRecipe())
    stored = {key: plain[key] for key in plain if key in STORED or plain[key] != usual[key]}
    return recorded_names(stored)


def read_recipe(tree: Mapping[str, Any], name: str) -> InferenceRecipe:
    """The recipe in the keys of a model file; what it does not name has the default.

    Args:
        tree: The keys of the file, those of other things, too.
        name: Of the file, for messages.

    Raises:
        ConfigError: Values of the wrong type; all at once.
    """
    known = current_names(tree)
    return from_plain(InferenceRecipe, {key: known[key] for key in _names() if key in known}, name)


def running_faults(
    recipe: InferenceRecipe, working: VoxelSize, lattice: Sequence[int] = (1, 1, 1)
) -> list[str]:
    """What is wrong with a recipe, a line each.

    Args:
        recipe: Of a model, or asked for.
        working: Working voxel size (z, y, x) in nm of the network.
        lattice: Its total stride (z, y, x), which transposed tiles must fit as well.
    """
    faults, windowed, spacing = [], recipe.windows is not None, recipe.section_spacing_nm
    if recipe.tta not in get_args(Tta):
        faults.append(f"tta {recipe.tta!r}: expected one of {get_args(Tta)}")
    elif recipe.tta > 4 and lattice[1] != lattice[2]:
        faults.append(
            f"tta {recipe.tta}: the network steps {tuple(lattice[1:])} in y and x, "
            "expected equal steps where tiles are transposed"
        )
    if spacing is not None and not spacing > 0:
        faults.append(f"section_spacing_nm {spacing!r}: expected more than 0, or null")
    elif spacing is not None and windowed:
        faults.append(f"section_spacing_nm {spacing}: expected null for a network with windows")
    if recipe.z_stride < 1:
        faults.append(f"z_stride {recipe.z_stride}: expected at least 1")
    elif recipe.z_stride > 1 and windowed:
        faults.append(f"z_stride {recipe.z_stride}: the model runs on its own windows, expected 1")
    scales = recipe.scales
    if not scales or len(set(scales)) < len(scales) or not all(0.25 <= s <= 4 for s in scales):
        faults.append(f"scales {list(scales)}: expected different numbers from 0.25 to 4")
    if scales != (1.0,) and windowed:
        faults.append(f"scales {list(scales)}: the model runs on its own windows, expected 1")
    elif scales != (1.0,) and None in working[1:]:
        faults.append(f"scales {list(scales)}: expected 1, as nothing is resampled in the plane")
    windows = recipe_faults(recipe.windows) if recipe.windows else []
    return faults + [f"windows: {fault}" for fault in windows]


def own_recipe_faults(
    recipe: InferenceRecipe, working: VoxelSize, lattice: Sequence[int] = (1, 1, 1)
) -> list[str]:
    """What is wrong with the recipe that a model carries; its windows name their augmentation."""
    faults = running_faults(recipe, working, lattice)
    if recipe.windows is not None and recipe.tta != 1:
        faults.append(f"tta {recipe.tta}: expected in windows, `windows.tta`")
    return faults


def in_windows(recipe: InferenceRecipe) -> InferenceRecipe:
    """The recipe with the augmentation and combination that its windows name.

    Such a network takes statistics from its input, so that it computes in float32 unless asked.
    """
    windows = recipe.windows
    if windows is None:
        return recipe
    precision: WantedPrecision = "float32" if recipe.precision == "auto" else recipe.precision
    return replace(recipe, tta=windows.tta, combine=windows.combine, precision=precision)


def _names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(InferenceRecipe))


def _plain(recipe: InferenceRecipe) -> dict[str, Any]:
    return {name: to_plain(getattr(recipe, name)) for name in _names()}
