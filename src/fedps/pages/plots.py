"""Plots as SVG in a page: lines with a legend, bands for what many clients do, sparks for one of them, shares of a whole."""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]  # by x
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 560, 260, 56, 24, 28, 10  # of a plot, pixels
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa8822", "#66ccee", "#aa3377", "#888888", "#0099aa", "#cc6600", "#7755cc")
MOST_LINES = len(COLOURS)  # that can be told apart
STEPS = 60  # places at which a band is drawn
SPARK = (90, 18)  # width and height of a spark, pixels
TICKS = 6


class Frame:
    """A plot's axes, from what is to be drawn in them.

    Args:
        every: all points.
        whole: x is counted: its ticks are whole numbers.
    """

    def __init__(self, every: Points, whole: bool = False) -> None:
        self._x, self._y = _range([x for x, _ in every]), _range([y for _, y in every])
        self._whole = whole

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point stands, pixels."""
        (x0, x1), (y0, y1) = self._x, self._y
        across, up = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP
        return LEFT + (x - x0) / (x1 - x0) * across, TOP + (y1 - y) / (y1 - y0) * up

    def path(self, points: Points) -> str:
        """Return points as SVG has them."""
        return " ".join("{:.1f},{:.1f}".format(*self.place(*point)) for point in points)

    def axes(self) -> str:
        """Return the axes with their ticks."""
        drawn = [f'<path class="axis" fill="none" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
        for x in _ticks(*self._x, self._whole):
            at = self.place(x, 0)[0]
            drawn.append(f'<text x="{at:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{x:,.6g}</text>')
        for y in _ticks(*self._y, whole=False):
            at = self.place(0, y)[1]
            drawn.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
            drawn.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.4g}</text>')
        return "".join(drawn)


def plot(
    title: str, lines: Mapping[str, Points], whole: bool = False, levels: Mapping[str, float] | None = None
) -> str:
    """Return a figure with one line a name; empty where there is nothing to draw.

    Args:
        title: above it.
        lines: at most `MOST_LINES` can be told apart.
        whole: x is counted: epochs, rounds.
        levels: values to compare with, a dashed line each, in the colour of the line of its number.
    """
    lines = {name: points for name, points in lines.items() if points}
    every = [p for points in lines.values() for p in points]
    if not every:
        return ""
    levels = levels or {}
    frame = Frame([*every, *((every[0][0], level) for level in levels.values())], whole)
    drawn, legend = [], dict[str, str]()
    for k, (name, points) in enumerate(lines.items()):
        colour, label = COLOURS[k % len(COLOURS)], html.escape(name)
        x, y = frame.place(*points[-1])
        legend[name] = colour
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{frame.path(points)}"><title>{label}</title></polyline>'
            f'<circle r="3" fill="{colour}" cx="{x:.1f}" cy="{y:.1f}"><title>{label}: {points[-1][1]:.4f}</title></circle>'
        )
    for k, (name, level) in enumerate(levels.items()):
        at = frame.place(0, level)[1]
        drawn.append(
            f'<path stroke="{COLOURS[k % len(COLOURS)]}" stroke-dasharray="4 4" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}">'
            f"<title>{html.escape(name)}: {level:.4f}</title></path>"
        )
    dashed = f"dashed: {', '.join(levels)}" if levels else ""
    return _figure(title, frame.axes() + "".join(drawn), legend, dashed)


def bands(title: str, lines: Mapping[str, Points]) -> str:
    """Return a figure of how many lines run: their median, where half of them lie, and where all do.

    Args:
        title: above it.
        lines: each from its own first x to its last; where one has ended its last value counts.
    """
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    low, high = (extreme(points[k][0] for points in lines.values()) for extreme, k in ((min, 0), (max, -1)))
    at = [low + (high - low) * k / STEPS for k in range(STEPS + 1)] if high > low else [low]
    columns = [sorted(values) for values in zip(*(_along(points, at) for points in lines.values()), strict=True)]

    def quantile(share: float) -> list[tuple[float, float]]:
        return [(x, values[round(share * (len(values) - 1))]) for x, values in zip(at, columns, strict=True)]

    frame = Frame([*quantile(0), *quantile(1)])
    drawn = []
    for inner, outer, opacity in ((0.0, 1.0, 0.15), (0.25, 0.75, 0.3)):
        edge = [*quantile(inner), *quantile(outer)[::-1]]
        drawn.append(f'<polygon fill="{COLOURS[0]}" opacity="{opacity}" points="{frame.path(edge)}"/>')
    middle = quantile(0.5)
    drawn.append(f'<polyline fill="none" stroke="{COLOURS[0]}" stroke-width="1.6" points="{frame.path(middle)}"/>')
    said = f"median of {len(lines)}, half of them, all of them"
    return _figure(title, frame.axes() + "".join(drawn), {}, said)


def spark(points: Points) -> str:
    """Return a line small enough for a cell of a table, on axes of its own."""
    if len(points) < 2:
        return ""
    (x0, x1), (y0, y1) = (_range([point[k] for point in points]) for k in (0, 1))
    width, height = SPARK
    path = " ".join(
        f"{(x - x0) / (x1 - x0) * width:.1f},{1 + (y1 - y) / (y1 - y0) * (height - 2):.1f}" for x, y in points
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<polyline fill="none" stroke="{COLOURS[0]}" points="{path}"/></svg>'
    )


def shares(title: str, parts: Mapping[str, float], unit: str) -> str:
    """Return a bar cut by shares of a whole, each named below with its size; empty where nothing has any."""
    parts = {name: size for name, size in parts.items() if size > 0}
    total, across = math.fsum(parts.values()), WIDTH - RIGHT
    if not total:
        return ""
    drawn, at, legend = [], 0.0, dict[str, str]()
    for k, (name, size) in enumerate(parts.items()):
        wide, colour = size / total * across, COLOURS[k % len(COLOURS)]
        label = f"{name} {size:,.1f} {unit}"
        legend[label] = colour
        drawn.append(
            f'<rect x="{at:.1f}" y="0" width="{wide:.1f}" height="26" fill="{colour}"><title>{html.escape(label)}</title></rect>'
        )
        at += wide
    return _figure(title, "".join(drawn), legend, "", height=26)


def _figure(title: str, drawn: str, legend: Mapping[str, str], said: str, height: int = HEIGHT) -> str:
    names = "".join(
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in legend.items()
    )
    note = f"<span>{html.escape(said)}</span>" if said else ""
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">{drawn}</svg>'
        f'<div class="legend">{names}{note}</div></figure>'
    )


def _along(points: Points, at: Sequence[float]) -> list[float]:
    """Return a line's value at each of some x: that of its last point up to there, before its first the first's."""
    found, k = [], 0
    for x in at:
        while k + 1 < len(points) and points[k + 1][0] <= x:
            k += 1
        found.append(points[k][1])
    return found


def _ticks(low: float, high: float, whole: bool) -> list[float]:
    """Return round numbers from `low` to `high`, about `TICKS`."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
