"""A plot of each curve: small SVG files whose text is text, the same bytes for the same points."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records import Curve

COLOURS = 10  # before they come again
WIDE = 30  # an axis that spans more than this factor is logarithmic
SETTINGS: Any = {"svg.hashsalt": "fedps", "svg.fonttype": "none", "font.size": 9}


def draw(curves: Sequence[Curve], out: Path) -> bool:
    """Write `<key>.svg` for each curve; return whether matplotlib was there to do it.

    Args:
        curves: what to draw.
        out: a folder that is there.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  (an extra, and slow to load)
    except ImportError:
        return False
    with mpl.rc_context(SETTINGS):
        for curve in curves:
            _draw(curve, out / f"{curve.key}.svg")
    return True


def _draw(curve: Curve, file: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415  (as above; without pyplot nothing global is touched)
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curve.lines):
        style = "-" if number < COLOURS else "--"
        x, y = zip(*points, strict=True)
        axes.plot(x, y, style, marker="o", markersize=3, linewidth=1, label=name)
    for axis, at in ((axes.xaxis, 0), (axes.yaxis, 1)):
        values = [point[at] for _, points in curve.lines for point in points]
        if min(values) > 0 and max(values) > WIDE * min(values):
            (axes.set_xscale if at == 0 else axes.set_yscale)("log")
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(_short))
    if axes.get_yscale() != "log":
        axes.set_ylim(bottom=0)
    axes.set(title=curve.title, xlabel=curve.x, ylabel=curve.y)
    axes.grid(alpha=0.3)
    if len(curve.lines) > 1:
        axes.legend(fontsize=7)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _short(value: float, _: object = None) -> str:
    """Return 1500000 as 1.5 M, 20000 as 20 k."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
