"""The page of a preview: places in pictures, and what the whole run will take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cristae import __version__
from cristae.engine.memory import GIB
from cristae.figures.canvas import scale_bar
from cristae.figures.raster import contrast_window, data_uri, jpeg
from cristae.figures.sections import annotate, grey_picture, instance_overlay, overlay_png
from cristae.grid import Box
from cristae.networks.model import Model
from cristae.prediction.estimate import PredictionWork
from cristae.report.report import templates
from cristae.report.sampling import voxel_size_of
from cristae.volumes.intensity import IntensityStatistics
from cristae.volumes.volume import Array, Volume

_COLUMNS, _QUALITY, _CHANNELS_SHOWN = 460, 80, 3


@dataclass(frozen=True)
class PreviewBox:
    """One place, predicted and segmented.

    Attributes:
        box: What is shown, in voxels of the source.
        seen: What was predicted: the box and its margin.
        image: Grey values (y, x) of the section in the middle.
        levels: uint8 (channels, y, x) of that section.
        labels: Ids (y, x) of that section.
        instances: Instances in the whole box.
        foreground: Share of the box in instances.
        computed: Voxels that went through the network.
        seconds: Predicting, then segmenting, without what a volume of any size takes.
        bytes_on_disk: Of the prediction, then of the labels.
    """

    box: Box
    seen: Box
    image: Array
    levels: Array
    labels: Array
    instances: int
    foreground: float
    computed: float
    seconds: tuple[float, float]
    bytes_on_disk: tuple[int, int]


def page_of(
    source: Volume,
    models: Sequence[Model],
    statistics: IntensityStatistics,
    found: Sequence[PreviewBox],
    work: PredictionWork,
) -> str:
    """The page as HTML that needs nothing else.

    Args:
        source: The image.
        models: What predicted it.
        statistics: Of the image's grey values.
        found: The places.
        work: What predicting the whole takes.
    """
    window = contrast_window([place.image for place in found])
    channels = models[0].channels
    return (
        templates()
        .get_template("preview.html")
        .render(
            title=source.name,
            places=[_place(source, place, channels, window) for place in found],
            warnings=list(_warnings(statistics, found)),
            tiles=_tiles(source, found, work),
            facts=_facts(source, models, statistics, work),
            version=__version__,
        )
    )


def _place(
    source: Volume, place: PreviewBox, channels: Sequence[str], window: tuple[float, float]
) -> dict[str, Any]:
    """Pictures and words of a place."""
    (_, dy, dx), unit = voxel_size_of(source)
    rows, columns = place.image.shape
    scale = max(columns * dx, rows * dy) / _COLUMNS
    bar = scale_bar(round(columns * dx / scale), scale, 0.3, unit)
    grey = grey_picture(place.image, (dy, dx), scale, window)
    raw, _ = annotate(grey, bar=bar)
    layer = overlay_png(instance_overlay(place.labels, (dy, dx), scale))
    panels = [_panel("raw", raw[..., 0])]
    for name, levels in list(zip(channels, place.levels, strict=True))[:_CHANNELS_SHOWN]:
        panels.append(
            _panel(f"probability of {name}", grey_picture(levels, (dy, dx), scale, (0, 255)))
        )
    panels.append(_panel("instances", grey) | {"layer": data_uri(layer)})
    middle = (place.box.start[0] + place.box.stop[0]) // 2
    (_, y0, x0), (_, y1, x1) = place.box.start, place.box.stop
    text = (
        f"Section z = {middle} of {place.box.start[0]} to {place.box.stop[0] - 1}, y {y0} to "
        f"{y1 - 1}, x {x0} to {x1 - 1}. In the whole place: {place.instances} instances, "
        f"{100 * place.foreground:.1f} % of the voxels."
    )
    if len(channels) > _CHANNELS_SHOWN:
        text += f" Shown are {_CHANNELS_SHOWN} of {len(channels)} channels."
    return {"text": text, "panels": panels}


def _panel(name: str, picture: Array) -> dict[str, Any]:
    height, width = picture.shape
    image = data_uri(jpeg(picture, _QUALITY))
    return {"name": name, "image": image, "width": width, "height": height, "layer": None}


def _tiles(
    source: Volume, found: Sequence[PreviewBox], work: PredictionWork
) -> list[dict[str, str]]:
    """Work and size of the whole run."""
    seen = sum(place.seen.size for place in found)
    prediction, labels = (sum(place.bytes_on_disk[i] for place in found) / seen for i in (0, 1))
    return [
        _tile(
            "Predicting",
            f"{work.computed / 1e6:.3g} Mvoxels",
            f"through the network, {work.computed / source.size:.2f} voxels computed a voxel",
        ),
        _tile("Segmenting", f"{source.size / 1e6:.3g} Mvoxels", "of the volume"),
        _tile("Prediction on disk", _bytes(prediction * work.written), "as these places compress"),
        _tile("Instances on disk", _bytes(labels * source.size), "as these places compress"),
        _tile(
            "Memory to predict",
            _bytes(work.memory_bytes),
            "at most, where as much as 6 GiB may be taken",
        ),
    ]


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    number, _, unit = value.partition(" ")
    return {"name": name, "value": number, "unit": unit, "note": note}


def _facts(
    source: Volume, models: Sequence[Model], statistics: IntensityStatistics, work: PredictionWork
) -> list[tuple[str, str]]:
    first = models[0]
    size = source.voxel_size_nm
    thresholds = ", ".join(f"{name} {value:g}" for name, value in first.thresholds.items())
    working = ("any" if s is None else f"{s:g}" for s in first.working_voxel_size_nm)
    return [
        ("volume", " x ".join(map(str, source.shape)) + f" voxels (z, y, x), {source.dtype}"),
        ("voxel size", "unknown" if size is None else ", ".join(f"{s:g}" for s in size) + " nm"),
        ("model works at", ", ".join(working) + " nm"),
        ("models", str(len(models))),
        ("decoder", f"{first.decoder} ({thresholds or 'its defaults'})"),
        ("grey window", f"{statistics.low:g} to {statistics.high:g}, of {statistics.sample}"),
        ("to compute", f"{work.computed / 1e6:,.0f} Mvoxels through the network"),
    ]


def _warnings(statistics: IntensityStatistics, found: Sequence[PreviewBox]) -> Iterator[str]:
    if statistics.inverted_suspected:
        yield "membranes look brighter than their surroundings; if so, --invert turns the contrast."
    if not any(place.instances for place in found):
        yield "no instance was found in any place."


def _bytes(count: float) -> str:
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{max(0.1, count / 2**20):.3g} MiB"
