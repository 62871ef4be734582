"""What a measurement says: figures and curves, plain and frozen; subjects make them, the writers show them."""

from dataclasses import dataclass
from typing import Literal

Size = Literal["full", "quick", "tiny"]  # how much is measured; tiny is for tests, its figures say nothing
SMALLER = ("s", "ms", "µs", "ns", "B", "MiB", "GB")  # units of which less is better


@dataclass(frozen=True)
class Options:
    """What a subject is asked for.

    Args:
        data: the folder of prepared data.
        size: how much to measure.
    """

    data: str
    size: Size = "full"


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Args:
        key: its name for programs, unique in its subject.
        what: its name for people.
        value: the best of all rounds, unless `what` says otherwise.
        unit: what it counts, e.g. `samples/s`, `ms`.
        median: of all rounds; None if there was but one.
        ours: key of the product's figure in the same subject that this one, of something else, is there to compare with.
    """

    key: str
    what: str
    value: float
    unit: str
    median: float | None = None
    ours: str = ""


@dataclass(frozen=True)
class Curve:
    """How a value grows with a size; one plot.

    Args:
        key: its name for programs; the plot's file name.
        title: what is shown.
        x: what grows.
        y: what is measured, with its unit.
        lines: name and points (x, y) of each line.
    """

    key: str
    title: str
    x: str
    y: str
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


@dataclass(frozen=True)
class Sheet:
    """A table of its own: one thing a line, measured in several ways.

    Args:
        title: what it shows.
        head: the columns' names.
        rows: of as many cells, each as it is shown.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Result:
    """All that one subject found.

    Args:
        subject: its name.
        about: what was measured and how, a sentence or two.
        figures: in the order to show.
        curves: one plot each.
        notes: what a reader must know, e.g. what was left out and why.
        sheets: shown in place of the table of figures, if there are any.
    """

    subject: str
    about: str
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()

    def find(self, key: str) -> Figure | None:
        """Return the figure of this key, None if it was not measured."""
        return next((figure for figure in self.figures if figure.key == key), None)

    def ratio(self, figure: Figure) -> float | None:
        """Return how many times as good the product's figure is as this one of something else, None for its own."""
        ours = self.find(figure.ours) if figure.ours else None
        return None if ours is None else times_better(ours.value, figure.value, figure.unit)


def times_better(one: float, other: float, unit: str) -> float | None:
    """Return how many times as good the first value is, whether more or less is better; None where one is nothing."""
    better, worse = (other, one) if unit in SMALLER else (one, other)
    return better / worse if worse else None
