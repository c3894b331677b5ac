"""Charts as SVG that follow a page's colours, light or dark.

Colours are drawn as fixed stand-ins and then replaced by CSS variables that fall back on them, so
a chart also stands alone. Letters stay letters, in the font of the page.
"""

import io
import re
import threading
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

_INK, _MUTED, _GRID = "#1b1e24", "#5c6470", "#d9dde3"
_SERIES = ("#0b7285", "#c2510c", "#6741d9", "#4c6b1f")
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--line",
    **{colour: f"--series-{i}" for i, colour in enumerate(_SERIES)},
}
_LOCK = threading.Lock()


def precision_recall_chart(curves: Mapping[float, Curve], *, name: str) -> str:
    """Precision over recall, one staircase an IoU threshold.

    Args:
        curves: IoU threshold -> (recall, precision), each of shape (predictions,), recall not
            falling.
        name: Starts the ids inside the SVG, so that several charts fit one page.

    Returns:
        An ``<svg>`` element.
    """
    figure, axes = _chart(5.0, 3.6)
    for i, (iou, (recall, precision)) in enumerate(sorted(curves.items())):
        colour = _SERIES[i % len(_SERIES)]
        x = np.concatenate([[0.0], recall])
        y = np.concatenate([precision[:1] if len(precision) else [0.0], precision])
        axes.step(x, y, where="pre", color=colour, lw=2, ls=("-", "--", ":", "-.")[i % 4])
        if len(recall):
            axes.plot(recall[-1], precision[-1], "o", color=colour, ms=5)
        axes.plot(
            [], [], color=colour, lw=2, ls=("-", "--", ":", "-.")[i % 4], label=f"IoU {iou:g}"
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(True, color=_GRID, lw=0.8)
    axes.legend(loc="lower left", frameon=False, labelcolor=_INK, fontsize=11, handlelength=2.4)
    return _svg(figure, name)


def size_histogram(
    sizes: NDArray[np.float64], cut: NDArray[np.bool_], *, unit: str, name: str
) -> str:
    """How many instances have which size, on a logarithmic axis.

    Args:
        sizes: (instances,) sizes above 0.
        cut: (instances,) whether the volume's border cuts the instance, so that it is larger.
        unit: Of the sizes, for the axis (``µm³``).
        name: Starts the ids inside the SVG.

    Returns:
        An ``<svg>`` element.
    """
    figure, axes = _chart(5.0, 3.6)
    low, high = np.floor(np.log10(sizes.min()) * 4) / 4, np.ceil(np.log10(sizes.max()) * 4) / 4
    high = max(high, low + 0.5)
    bins = np.arange(low, high + 0.01, 0.125 if high - low <= 2.5 else 0.25)
    whole = np.histogram(np.log10(sizes[~cut]), bins)[0]
    pieces = np.histogram(np.log10(sizes[cut]), bins)[0]
    left, wide = bins[:-1], np.diff(bins) * 0.86
    full = whole > 0
    axes.bar(
        left[full],
        whole[full],
        wide[full],
        align="edge",
        color=_SERIES[0],
        label=f"whole ({whole.sum()})",
    )
    some = pieces > 0
    axes.bar(
        left[some],
        pieces[some],
        wide[some],
        bottom=whole[some],
        align="edge",
        facecolor="none",
        edgecolor=_SERIES[0],
        hatch="////",
        lw=1,
        label=f"cut by the border ({pieces.sum()})",
    )
    axes.set(xlabel=f"size ({unit})", ylabel="instances", xlim=(low - 0.05, high + 0.05))
    tallest = int((whole + pieces).max())
    axes.set_ylim(0, tallest * 1.28 + 0.2)
    step = max(1, int(np.ceil(tallest / 5)))
    axes.set_yticks(np.arange(0, tallest + 1, step))
    axes.set_xticks(np.arange(np.ceil(low), np.floor(high) + 1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    minor = np.log10(np.outer(10.0 ** np.arange(np.floor(low), high + 1), np.arange(2, 10)).ravel())
    axes.set_xticks(minor[(minor >= low) & (minor <= high)], minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="y", color=_GRID, lw=0.8)
    axes.legend(loc="upper left", frameon=False, labelcolor=_INK, fontsize=11, ncols=2)
    return _svg(figure, name)


def progress_chart(curves: Mapping[str, Curve], *, share: bool, name: str) -> str:
    """Figures of a training over its steps.

    Args:
        curves: What each is called -> (steps, values), steps rising from 1, no value below 0.
        share: Whether values lie in [0, 1], all of which is then shown.
        name: Starts the ids inside the SVG.

    Returns:
        An ``<svg>`` element.
    """
    figure, axes = _chart(5.0, 3.0)
    for i, (text, (steps, values)) in enumerate(curves.items()):
        dots = "o" if len(steps) < 40 else ""
        colour, dash = _SERIES[i % len(_SERIES)], ("-", "--")[i % 2]
        axes.plot(steps, values, marker=dots, ms=4, lw=1.8, label=text, color=colour, ls=dash)
    last = max(float(steps[-1]) for steps, _ in curves.values())
    highest = max(float(values.max()) for _, values in curves.values())
    axes.set(xlabel="step", xlim=(0, 1.03 * last))
    axes.set_ylim(0, 1.04 if share else 1.08 * highest or 1)
    axes.grid(True, color=_GRID, lw=0.8)
    if len(curves) > 1:
        axes.legend(loc="best", frameon=False, labelcolor=_INK, fontsize=11)
    return _svg(figure, name)


def _power(exponent: float) -> str:
    """Ten to a power, in figures from 0.001 to 1000 and as a power beyond."""
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return "10" + f"{exponent:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart (inches at 100 pixels) in the page's style."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_MUTED)
    axes.tick_params(which="both", colors=_MUTED, labelsize=10.5, width=0.8)
    axes.xaxis.label.set(color=_INK, fontsize=11.5)
    axes.yaxis.label.set(color=_INK, fontsize=11.5)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element: no fixed size, colours as variables, own ids."""
    stream = io.StringIO()
    # These two have no other place than matplotlib's shared settings.
    with _LOCK, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    text = re.sub(r"(font: [\d.]+px) '[^;\"]*", r"\1 inherit", text)
    text = re.sub(r"font: ([\d.]+px) inherit", r"font-size: \1", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return re.sub(r"\n\s*", "\n", text).strip()
