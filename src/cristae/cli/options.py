"""Options that commands share, and what becomes of their text."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cristae.errors import ConfigError, InputError

if TYPE_CHECKING:
    from cristae.engine.executors import Resources
    from cristae.networks.model import Model
    from cristae.volumes.finite import Nan
    from cristae.volumes.place import Align
    from cristae.volumes.volume import Volume

Source = Annotated[str, typer.Argument(help="a volume in any form")]
OutZarr = Annotated[Path, typer.Argument(metavar="OUT.zarr", help="the folder to write")]
VoxelSize = Annotated[
    str | None,
    typer.Option("--voxel-size", metavar="Z,Y,X", help="nm; replaces what the source says"),
]
Roi = Annotated[
    str | None,
    typer.Option(metavar="z0:z1,y0:y1,x0:x1", help="only this part, in voxels of the first volume"),
]
KindOption = Annotated[
    Literal["image", "labels"] | None, typer.Option("--kind", help="what the voxels are")
]
Root = Annotated[
    Path | None, typer.Option(help="folder that relative paths of a tile index count from")
]
AlignOption = Annotated[
    Literal["origin", "voxels"],
    typer.Option(
        "--align",
        help="how volumes lie on each other: by voxel size and origin, or voxel 0 on voxel 0",
    ),
]
Index = Annotated[
    str | None, typer.Option(metavar="t=0,c=1", help="element of a time or channel axis")
]
AxesOption = Annotated[
    str | None,
    typer.Option(
        "--axes", metavar="zyx|czyx|xyz|c=z", help="what the axes are, as they are stored"
    ),
]
Series = Annotated[
    str | None, typer.Option(metavar="N|NAME", help="which image of a file that holds several")
]
NanOption = Annotated[
    str | None,
    typer.Option("--nan", metavar="fill|VALUE", help="for NaN: the median grey, or a number"),
]
SameSource = Annotated[
    bool,
    typer.Option("--same-source", help="go on with an input that only looks like another one"),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option(help="where networks compute; auto by default: GPUs (cuda) where there are any"),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting; may be repeated")
]
ModelName = Annotated[
    str, typer.Argument(help="a model file, a name that `models` lists, or a PyTC checkpoint")
]
PytcConfigs = Annotated[
    list[Path] | None,
    typer.Option(metavar="YAML", help="of a PyTC checkpoint; may be repeated, later override"),
]
Config = Annotated[Path, typer.Argument(metavar="CONFIG.yaml")]
Prediction = Annotated[str, typer.Argument(help="a prediction in any form")]
Invert = Annotated[bool, typer.Option("--invert", help="for bright membranes")]
Ensemble = Annotated[
    list[str] | None,
    typer.Option("--ensemble", metavar="MODEL", help="one more model; outputs are combined"),
]
Workers = Annotated[
    int | None, typer.Option(min=1, max=4096, help="tasks at a time; all cores by default")
]
ExecutorOption = Annotated[
    Literal["serial", "threads", "processes"],
    typer.Option("--executor", help="who does the work; the output is the same"),
]
Memory = Annotated[
    float | None, typer.Option(metavar="GIB", help="memory to use; what is free by default")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an existing output")]
NoPyramid = Annotated[bool, typer.Option("--no-pyramid", help="full size only")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="warnings and errors only")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="tell more")]


def settings_given(**options: Any) -> dict[str, Any]:
    """Settings that have options of their own, of which those count that were given."""
    return {
        name: value for name, value in options.items() if value is not None and value is not False
    }


def resources_of(
    workers: int | None,
    memory: float | None,
    executor: Literal["serial", "threads", "processes"] = "threads",
) -> "Resources":
    """All cores and what memory is free, unless told otherwise."""
    from cristae.engine.executors import Resources, available_cores

    if memory is not None and not 0 < memory < math.inf:
        raise ConfigError(f"--memory {memory:g}: expected a number of GiB above 0")
    return Resources(workers or available_cores(), executor, memory)


@dataclass(frozen=True)
class Reading:
    """How a command's sources are read, as it was typed."""

    voxel_size: VoxelSize = None
    roi: Roi = None
    nan: NanOption = None
    root: Root = None
    index: Index = None
    axes: AxesOption = None
    series: Series = None
    same_source: SameSource = False


@dataclass(frozen=True)
class Messages:
    """What a command says."""

    quiet: Quiet = False
    verbose: Verbose = False

    def start(self) -> None:
        """Tell warnings and errors only, or more, on the standard error stream."""
        from cristae.engine.progress import log_to_stderr

        log_to_stderr(
            logging.WARNING if self.quiet else logging.DEBUG if self.verbose else logging.INFO
        )


@dataclass(frozen=True)
class WorkOptions:
    """What a command may take of the machine, and what it says."""

    workers: Workers = None
    memory: Memory = None
    quiet: Quiet = False
    verbose: Verbose = False

    def start(self) -> None:
        """See `Messages`."""
        Messages(self.quiet, self.verbose).start()

    def resources(self) -> "Resources":
        """All cores and what memory is free, unless told otherwise."""
        return resources_of(self.workers, self.memory)


@dataclass(frozen=True)
class BlockWork:
    """The same of a command that goes over blocks."""

    workers: Workers = None
    executor: ExecutorOption = "threads"
    memory: Memory = None
    quiet: Quiet = False
    verbose: Verbose = False

    def start(self) -> None:
        """See `Messages`."""
        Messages(self.quiet, self.verbose).start()

    def resources(self) -> "Resources":
        """All cores and what memory is free, unless told otherwise."""
        return resources_of(self.workers, self.memory, self.executor)


def open_source(
    source: str,
    reading: Reading,
    kind: Literal["image", "labels"] | None = None,
    unfinished: bool = False,
) -> "Volume":
    """A volume by the options that tell of a source."""
    from cristae.engine.unfinished import refuse_unfinished
    from cristae.volumes.formats import open_volume

    if not unfinished:
        refuse_unfinished(source)
    return open_volume(
        source,
        voxel_size_nm=numbers("--voxel-size", reading.voxel_size),
        roi=reading.roi,
        kind=kind,
        root=reading.root,
        index=_elements(reading.index),
        axes=reading.axes,
        series=reading.series,
        same_source=reading.same_source,
        nan=nan_of(reading.nan),
    )


def in_roi(volume: "Volume", roi: str | None) -> "Volume":
    """The part of a volume that a roi names; all of it without one."""
    from cristae.grid import parse_roi

    return volume if roi is None else volume.crop(parse_roi(roi, volume.shape))


def under_roi(
    base: "Volume", other: "Volume", roi: str | None, align: "Align", *, crop: bool = False
) -> "Volume":
    """What of a volume lies under the roi of another, whose voxels the roi counts."""
    from cristae.grid import parse_roi
    from cristae.volumes.place import part_under

    if roi is None:
        return other
    return part_under(base, other, parse_roi(roi, base.shape), align, crop=crop)


def without_fill(reading: Reading) -> Reading:
    """The same for probabilities, masks and labels, in which ``--nan fill`` is 0."""
    return replace(reading, nan="0") if reading.nan == "fill" else reading


def nan_of(text: str | None) -> "Nan | None":
    """``fill``, or the number that ``--nan`` gives.

    Raises:
        ConfigError: It is something else.
    """
    if text is None or text == "fill":
        return text  # type: ignore[return-value]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"--nan {text!r}: expected fill or a number")
    return value


def open_labels(source: str, reading: Reading) -> "Volume":
    """A volume of labels.

    Raises:
        InputError: It says that it is something else.
    """
    volume = open_source(source, without_fill(reading), kind="labels")
    said = volume.attributes.get("kind", "labels")
    if said != "labels":
        raise InputError(f"{source}: kind {said!r} found, expected labels")
    return volume


def load_models(
    model: str, others: list[str] | None, pytc_config: list[Path] | None
) -> "list[Model]":
    """A model and those that are combined with it."""
    from cristae.networks.families.pytc.checkpoint import load_pytc_model
    from cristae.networks.model import load_model

    names = [model, *(others or [])]
    return [load_pytc_model(n, pytc_config) if pytc_config else load_model(n) for n in names]


def integers(option: str, text: str | None) -> tuple[int, int, int] | None:
    """Three positive whole numbers, of ``Z,Y,X``.

    Raises:
        ConfigError: They are something else.
    """
    values = numbers(option, text)
    if values is None:
        return None
    if any(value != int(value) for value in values):
        raise ConfigError(f"{option} {text!r}: expected whole numbers")
    z, y, x = (int(value) for value in values)
    return z, y, x


def numbers(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three positive numbers, of ``Z,Y,X``.

    Raises:
        ConfigError: They are something else.
    """
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: expected three numbers Z,Y,X") from error
    if not all(0 < number < math.inf for number in (z, y, x)):
        raise ConfigError(f"{option} {text!r}: expected positive numbers")
    return z, y, x


def _elements(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(axis and number.isdecimal() for axis, _, number in pairs):
        raise ConfigError(f"--index {text!r}: expected axis=number, as in t=0,c=1")
    return {axis: int(number) for axis, _, number in pairs}


def refuse_given(options: Mapping[str, Any], reason: str) -> None:
    """Refuse options that do not go with the others.

    Args:
        options: Their values by name; those that were not given are None.
        reason: What they are for, or what goes in their place.

    Raises:
        ConfigError: At least one was given; all of those are named.
    """
    names = [name for name, value in options.items() if value is not None]
    if names:
        raise ConfigError(f"{', '.join(names)}: {reason}")


def as_yaml(tree: Mapping[str, Any]) -> str:
    """The text of a configuration, short lists in one line each."""
    import yaml

    return str(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None))
