"""What is known of users and of items: the columns of a file as features, each of the kind that its cells show.

| cells | become |
| --- | --- |
| numbers, more than a few different ones | a number, by its distance from the mean in standard deviations; an empty cell is the mean |
| texts with a separator (`|`, `;` or `,`) whose parts come again and again | a bag of ids |
| texts or whole numbers, few different ones | an id; an empty cell is one of its own |
| the same in all lines, nothing, or nearly all different | nothing; it is said |

Values of items are counted, for all see the same list of items. Those of users are the texts themselves, in an open id
space: what users there are, and what is known of them, nobody has to gather.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from fedps.config.sections.features import OPEN
from fedps.data.prepare.forms import Mistakes, Source, is_number
from fedps.data.prepare.interactions import NOTHING, texts
from fedps.errors import DataError

FEW = 32  # different whole numbers up to which they are names of something, as groups of ages are
SEPARATORS = ("|", ";", ",")
OWN = ("user", "item", "key", "title", "label", "history")  # names that columns of ours have


@dataclass(frozen=True)
class Described:
    """Features of users, or of items.

    Attributes:
        columns: by feature a cell for each user or item, in the order of our ids.
        features: by feature what it is, as a job's section `features` has it.
        values: by feature the values that its ids stand for.
        told: by column of the file what became of it.
    """

    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)


class Facts:
    """The lines of a file about users or items, by their keys.

    Args:
        source: the file.
        key: its column of keys.

    Attributes:
        source: as given.
        keys: in the file's order, each once: of several lines the first counts.
        told: what was wrong with lines, in words.

    Raises:
        DataError: it cannot be read, or has two columns of one name.
    """

    def __init__(self, source: Source, key: str) -> None:
        self.source, mistakes = source, Mistakes()
        if doubled := [name for name in source.names if source.names.count(name) > 1]:
            raise DataError(f"{source.path}: has two columns {doubled[0]!r}; rename one")
        others = [name for name in source.names if name != key] if source.header else source.names[1:2]
        parts: list[list[list[str]]] = [[] for _ in range(1 + len(others))]
        for piece in source.pieces([key, *others], mistakes):
            for name, part, column in zip([key, *others], parts, piece.columns, strict=True):
                part.append(texts(column, f"{source.path}, column {name!r}").fill_null("").to_pylist())
        mistakes.check()
        keys, *cells = ([cell for piece in part for cell in piece] for part in parts)
        self._row: dict[str, int] = {}
        for row, name in enumerate(keys):
            if name and not name.isspace():
                self._row.setdefault(name, row)
        self.keys, self._cells = list(self._row), dict(zip(others, cells, strict=True))
        self.columns = others  # but that of keys
        twice = len(keys) - len(self.keys)
        self.told = (
            f"{twice:,} lines of {source.path.name} have no key, or one that was there before: passed over"
            if twice
            else ""
        )

    def cells(self, column: str, keys: Sequence[str]) -> list[str]:
        """Return a column's cells for some keys; empty where the file has no such key."""
        cells, row = self._cells[column], self._row
        return [cells[row[key]] if key in row else "" for key in keys]

    def names_each(self, column: str) -> bool:
        """Tell whether a column could be what lines are called: texts, nearly all different."""
        there = [cell for cell in self._cells[column] if cell not in NOTHING]
        return len(set(there)) * 2 > len(self.keys) and not all(map(is_number, there))

    def lacking(self, keys: Sequence[str]) -> int:
        """Count the keys that the file does not have."""
        return sum(key not in self._row for key in keys)


def describe(columns: Mapping[str, Sequence[str]], side: str, taken: Collection[str] = ()) -> Described:
    """Make features of columns.

    Args:
        columns: by name a cell for each user or item; empty where nothing is known.
        side: `user` or `item`.
        taken: names that features of the other side have.
    """
    cells: dict[str, pa.Array] = {}
    features: dict[str, Mapping[str, Any]] = {}
    values: dict[str, Sequence[str]] = {}
    told = {}
    for column, given in columns.items():
        name = name_of(column, side, {*OWN, *taken, *features})
        found = _feature([cell.strip() for cell in given], side)
        if isinstance(found, str):
            told[column] = found
            continue
        cells[name], features[name], distinct, told[column] = found
        if distinct is not None:
            values[name] = distinct
    return Described(cells, features, values, told)


Found = tuple[pa.Array, Mapping[str, Any], Sequence[str] | None, str]


def _feature(cells: list[str], side: str) -> Found | str:
    """Return a column's cells, what it is, its values and how to say it; or why it is nothing."""
    there = [cell for cell in cells if cell not in NOTHING]
    distinct = set(there)
    if len(distinct) < 2:
        return "left out: all cells are the same" if there else "left out: all cells are empty"
    whole = all(map(_is_whole, distinct))
    if whole and len(distinct) == len(there) > FEW:
        return "left out: whole numbers, all different, as ids are"
    if all(map(is_number, distinct)) and not (whole and len(distinct) <= FEW):
        return _number(cells, side)
    separator = _separator(there)
    if separator is not None:
        return _bag(cells, separator, side)
    if len(distinct) > FEW and len(distinct) > len(there) / 2:
        return "left out: nearly all cells are different"
    filled = ["" if cell in NOTHING else cell for cell in cells]
    if side == "user":
        return pa.array(filled), {"kind": "id", "rows": OPEN, "side": side}, None, f"an id, {len(distinct):,} values"
    ranks, names = _ranked([[cell] for cell in filled])
    return (
        pa.array([rank for (rank,) in ranks], pa.int64()), {"kind": "id", "rows": len(names), "side": side}, names,
        f"an id, {len(distinct):,} values",
    )  # fmt: skip


def _number(cells: Sequence[str], side: str) -> Found:
    values = np.array([float(cell) if cell not in NOTHING else np.nan for cell in cells])
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        values[:] = 0
    mean, spread = float(np.nanmean(values)), float(np.nanstd(values)) or 1.0
    scaled = np.round(np.nan_to_num((values - mean) / spread), 4) + 0.0
    said = f"a number: mean {mean:.4g}, standard deviation {spread:.4g}"
    return pa.array(scaled), {"kind": "number", "side": side}, None, said


def _bag(cells: Sequence[str], separator: str, side: str) -> Found:
    parts = [list(_parts(cell, separator)) for cell in cells]
    ranks, names = _ranked(parts)
    if side == "user":
        bags = ["|".join(part.replace("|", "/") for part in mine) for mine in parts]
        rows: Any = OPEN
    else:
        bags, rows = ["|".join(map(str, mine)) for mine in ranks], max(len(names), 1)
    feature = {"kind": "ids", "rows": rows, "pooling": "mean", "side": side}
    return (
        pa.array(bags, pa.string()),
        feature,
        None if side == "user" else names,
        f"a bag of ids, {len(names):,} values",
    )


def _separator(cells: Sequence[str]) -> str | None:
    """Return what stands between the parts of cells, if these come again and again."""
    for separator in SEPARATORS:
        several = [cell for cell in cells if separator in cell]
        if len(several) * 20 < len(cells):
            continue
        parts = [part for cell in cells for part in _parts(cell, separator)]
        if len(set(parts)) * 2 <= len(parts):
            return separator
    return None


def _parts(cell: str, separator: str) -> Iterator[str]:
    """Yield the parts of a cell, each once."""
    if cell not in NOTHING:
        yield from dict.fromkeys(part.strip() for part in cell.strip("[]").split(separator) if part.strip())


def _ranked(parts: Sequence[Sequence[str]]) -> tuple[list[list[int]], list[str]]:
    """Return each value's rank among all, and these: numbers by size, texts by their letters."""
    distinct = {part for mine in parts for part in mine}
    names = sorted(distinct, key=lambda name: (float(name), name) if _is_whole(name) else (np.inf, name))
    rank = {name: k for k, name in enumerate(names)}
    return [[rank[part] for part in mine] for mine in parts], names


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,15}", text) is not None


def name_of(column: str, side: str, taken: Collection[str]) -> str:
    """Return a column's name as a network's forward could take it, and none that is taken; else with its side in front."""
    plain = "".join(sign if f"_{sign}".isidentifier() else " " for sign in column)
    name = re.sub(" +", "_", plain).strip("_")
    if name in taken or not name.isidentifier():
        name = f"{side}_{name or 'column'}"
    while name in taken:
        name += "_"
    return name
