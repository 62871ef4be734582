"""Who took what, and when: the lines of somebody's files as numbers, each id in the order of its first appearance.

Files are read as streams. What stays of a line is 13 bytes and a time; of ids, each text once.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from fedps.data.prepare.forms import Mistakes, Source
from fedps.data.read.lines import Where
from fedps.errors import DataError

Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]
NOTHING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "\\N")  # a cell that holds no number
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "==": operator.eq, ">": operator.gt, "<": operator.lt,
    "=": operator.eq,
}  # fmt: skip
CONDITION = re.compile(r"\s*(>=|<=|!=|==|>|<|=)?\s*([+-]?[0-9]+(?:\.[0-9]+)?)\s*")
ROLES = ("user", "item", "client")  # that are ids
ZONED = "[T ][0-9:.]+(Z|[+-][0-9:]+)$"  # a date and time with its zone
NOUNS = {True: "dates", False: "numbers"}  # of times
ALIKE = "write all times as seconds since 1970 or as ISO dates, or leave the column out: --time none"


class Condition(NamedTuple):
    """Which ratings are positive, e.g. `>= 4`."""

    sign: str
    number: float

    @classmethod
    def read(cls, text: str) -> "Condition":
        """Return that of a text.

        Raises:
            DataError: it is none.
        """
        match = CONDITION.fullmatch(text)
        if match is None:
            raise DataError(f'--positive {text!r}: is no condition; write e.g. --positive ">= 4"')
        return cls(match[1] or "==", float(match[2]))

    def __call__(self, ratings: NDArray[np.float64]) -> Mask:
        """Tell which ratings fulfil it."""
        return np.asarray(SIGNS[self.sign](ratings, self.number))


@dataclass(frozen=True)
class Log:
    """Lines of interactions, in the order of the files.

    Attributes:
        user, item: int32[n], places in `keys`.
        client: int32[n], likewise; empty if no column tells it.
        time: int64[n] or float64[n]; empty if no column tells it. Dates are microseconds since 1970.
        positive: bool[n], whether the rating fulfils the condition; empty where every line counts.
        keys: by role the distinct texts, in the order of their first appearance.
    """

    user: Codes
    item: Codes
    client: Codes
    time: NDArray[Any]
    positive: Mask
    keys: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self.user)

    def at(self, rows: NDArray[Any]) -> "Log":
        """Return some of the lines, by a mask or by places; the keys stay."""
        columns = {name: getattr(self, name) for name in ("user", "item", "client", "time", "positive")}
        return replace(self, **{name: column[rows] for name, column in columns.items() if len(column)})

    def compact(self, all_items: bool = False) -> "Log":
        """Number users and items anew, those that are left, in the order they had; or keep all items."""
        user, users = _compacted(self.user, self.keys["user"])
        if all_items:
            return replace(self, user=user, keys={**self.keys, "user": users})
        item, items = _compacted(self.item, self.keys["item"])
        return replace(self, user=user, item=item, keys={**self.keys, "user": users, "item": items})


class Counted(NamedTuple):
    """What was left out as it was read: how many lines there were, and how many lack a user or item, a rating, or a time."""

    lines: int
    no_id: int
    no_rating: int
    no_time: int


def read_log(
    sources: Sequence[tuple[Source, Mapping[str, str]]],
    condition: Condition | None,
    items: Mapping[str, int] | None = None,
) -> tuple[Log, Counted]:
    """Read files of interactions.

    Args:
        sources: each with its columns by role; a rating is looked at only with a condition.
        condition: which ratings are positive; None: every line is.
        items: the ids of items that are known beforehand.

    Raises:
        DataError: what they hold cannot be read; the first ten mistakes at once, each with file and line.
    """
    mistakes, counts = Mistakes(), np.zeros(4, np.int64)
    codes = {role: _Coded() for role in ROLES}
    if items is not None:
        codes["item"].known = dict(items)
    times, parts = _Times(mistakes), list[Any]()
    for source, columns in sources:
        roles = [role for role in (*ROLES, "time", "rating") if role in columns and (role != "rating" or condition)]
        for piece in source.pieces([columns[role] for role in roles], mistakes):
            cells = dict(zip(roles, piece.columns, strict=True))
            if nested := [role for role in roles if pa.types.is_nested(cells[role].type)]:
                kind, name = cells[nested[0]].type, columns[nested[0]]
                raise DataError(f"{source.path}: column {name!r} is of {kind}; of a {nested[0]} write one a line")
            ids = {role: codes[role].add(texts(cells[role], source.path)) for role in ROLES if role in cells}
            whole = np.logical_and.reduce([column >= 0 for column in ids.values()])
            time = times.add(cells["time"], piece.where) if "time" in cells else None
            timed = np.ones(len(whole), np.bool_) if time is None else time[1]
            rated, positive = np.ones(len(whole), np.bool_), np.empty(0, np.bool_)
            if "rating" in cells and condition is not None:
                values, rated = numbers(
                    cells["rating"], piece.where, f"rating in column {columns['rating']!r}", mistakes
                )
                positive = condition(values)
            kept = whole & rated & timed
            counts += (len(whole), (~whole).sum(), (whole & ~rated).sum(), (whole & rated & ~timed).sum())
            parts.append((kept, ids, None if time is None else time[0], positive))
            if mistakes.count >= 10:
                mistakes.check()
    mistakes.check()
    user, item, client = (
        _joined([(ids[role], kept) for kept, ids, _, _ in parts if role in ids], np.int32) for role in ROLES
    )
    log = Log(
        user, item, client,
        _joined([(time, kept) for kept, _, time, _ in parts if time is not None], np.int64),
        _joined([(positive, kept) for kept, _, _, positive in parts if len(positive)], np.bool_),
        {role: list(coded.known) for role, coded in codes.items()},
    )  # fmt: skip
    return log, Counted(*counts.tolist())


def latest_of_each(log: Log) -> Log:
    """Return the last line of each user and item by time, of equal times the last in the files; lines stay in order."""
    pair = log.user.astype(np.int64) * len(log.keys["item"]) + log.item
    order = np.lexsort((log.time, pair)) if len(log.time) else np.argsort(pair, kind="stable")
    last = np.append(np.diff(pair[order]) != 0, True)[: len(order)]
    return log if last.all() else log.at(np.sort(order[last]))


def core_of(log: Log, least: int) -> Log:
    """Leave users and items with fewer than `least` lines out, over and over, until all that are left have so many."""
    while len(log):
        users, items = np.bincount(log.user), np.bincount(log.item)
        kept = (users[log.user] >= least) & (items[log.item] >= least)
        if kept.all():
            break
        log = log.at(kept)
    return log


def alike(keys: Iterable[str]) -> list[list[str]]:
    """Return groups of keys that differ by case or blanks only."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(" ".join(key.casefold().split()), []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def texts(column: pa.Array, path: Any = "") -> pa.Array:
    """Return ids as texts; whole numbers without a point, whatever type they have.

    Raises:
        DataError: they are no ids.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
            whole = pc.all(pc.equal(pc.floor(column), column)).as_py()  # of those that are there
            column = column.cast(pa.int64()) if whole else column
        return column if pa.types.is_string(column.type) else column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"{path}: {column.type} is none of ids, nor words; write texts, whole numbers, or several as a|b"
        ) from None


def numbers(column: pa.Array, where: Where, what: str, mistakes: Mistakes) -> tuple[NDArray[np.float64], Mask]:
    """Return a column's numbers, and where there are any; what is neither a number nor nothing is a mistake.

    Args:
        column: texts, or numbers of Parquet.
        where: tells the place of a row.
        what: names the column.
        mistakes: takes in what is none.
    """
    if not _is_numeric(column.type):
        column = texts(column).fill_null("")
        trimmed = pc.utf8_trim_whitespace(column)
        for word, number in (("true", "1"), ("false", "0")):
            trimmed = pc.replace_substring_regex(trimmed, f"(?i)^{word}$", number)
        missing = pc.is_in(trimmed, pa.array(NOTHING))
        fine = pc.or_(missing, pc.match_substring_regex(trimmed, NUMBER))
        for row in np.flatnonzero(~_mask(fine)).tolist():
            remedy = "correct it, or leave the cell empty: such lines are left out, and counted"
            mistakes.add(f"{where(row)}: {what}: {column[row].as_py()[:40]!r} is no number", remedy)
        column = pc.if_else(pc.and_(fine, pc.invert(missing)), pc.utf8_ltrim(trimmed, "+"), None).cast(pa.float64())
    values = column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    return values, np.isfinite(values)


class _Coded:
    """Texts as places among the distinct ones, in the order of their first appearance; -1 where there is none."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def add(self, column: pa.Array) -> Codes:
        coded = column.dictionary_encode()
        known = self.known
        places = np.fromiter(
            (known.setdefault(key, len(known)) if key and not key.isspace() else -1 for key in coded.dictionary.to_pylist()),
            np.int32, len(coded.dictionary),
        )  # fmt: skip
        places = np.append(places, np.int32(-1))
        return np.asarray(places[coded.indices.fill_null(len(places) - 1).to_numpy(zero_copy_only=False)])


class _Times:
    """Times of one kind: numbers, or dates as ISO 8601 writes them."""

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes, self._dates = mistakes, False
        self._fresh = True  # none was there yet

    def add(self, column: pa.Array, where: Where) -> tuple[NDArray[Any], Mask]:
        """Return times, int64[n] or float64[n], and where there are any."""
        dates = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        if dates or _is_numeric(column.type):
            return self._typed(column, dates, where)
        trimmed = pc.utf8_trim_whitespace(texts(column))
        cells = pc.if_else(pc.is_in(trimmed, pa.array(NOTHING)), None, trimmed)
        if self._fresh and cells.null_count < len(cells):
            first = cells.drop_null()[0].as_py()
            self._fresh, self._dates = False, re.match(NUMBER, first) is None
        try:
            return _micros(_dates(cells)) if self._dates else _numbers_of(_numeric(cells))
        except pa.ArrowInvalid:
            self._name(cells, where)
            return _none(cells)

    def _typed(self, column: pa.Array, dates: bool, where: Where) -> tuple[NDArray[Any], Mask]:
        if column.null_count == len(column):
            return _none(column)
        if not self._fresh and dates != self._dates:
            self._mistakes.add(f"{where(0)}: times are {NOUNS[dates]} here, and {NOUNS[self._dates]} above", ALIKE)
            return _none(column)
        self._fresh, self._dates = False, dates
        return _micros(column) if dates else _numbers_of(column)

    def _name(self, cells: pa.Array, where: Where) -> None:
        what = "date (2026-11-28 or 2026-11-28T09:00:00)" if self._dates else "number, as the times above are"
        for row, cell in enumerate(cells.to_pylist()):
            try:
                _dates(pa.array([cell], pa.string())) if self._dates else _numeric(pa.array([cell], pa.string()))
            except pa.ArrowInvalid:
                self._mistakes.add(f"{where(row)}: time {cell[:40]!r} is no {what}", ALIKE)
            if self._mistakes.count >= 10:
                return


def _compacted(codes: Codes, keys: Sequence[str]) -> tuple[Codes, list[str]]:
    there = np.bincount(codes, minlength=len(keys)) > 0
    return (np.cumsum(there) - 1).astype(np.int32)[codes], [keys[k] for k in np.flatnonzero(there).tolist()]


def _dates(cells: pa.Array) -> pa.Array:
    """Return dates in UTC, as which those without a zone count."""
    with suppress(pa.ArrowInvalid):
        return cells.cast(pa.timestamp("us"))
    zoned = pc.match_substring_regex(cells, ZONED)
    of_zones = pc.if_else(zoned, cells, None).cast(pa.timestamp("us", "UTC"))
    others = pc.if_else(zoned, None, cells).cast(pa.timestamp("us"))
    return pc.coalesce(of_zones, others.cast(pa.timestamp("us", "UTC")))


def _numeric(cells: pa.Array) -> pa.Array:
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:
        return cells.cast(pa.float64())


def _none(cells: pa.Array) -> tuple[NDArray[Any], Mask]:
    return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)


def _micros(column: pa.Array) -> tuple[NDArray[Any], Mask]:
    zone = getattr(column.type, "tz", None)
    return _numbers_of(column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()))


def _numbers_of(column: pa.Array) -> tuple[NDArray[Any], Mask]:
    there = _mask(pc.is_valid(column))
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        return values, there & np.isfinite(values)
    return values.astype(np.int64), there


def _is_numeric(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))


def _mask(column: pa.Array) -> Mask:
    return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False))


def _joined(parts: Sequence[tuple[NDArray[Any], Mask]], dtype: Any) -> NDArray[Any]:
    whole = [part[kept] for part, kept in parts]
    return np.concatenate(whole) if whole else np.empty(0, dtype)
