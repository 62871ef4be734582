"""Cells of a data file as the numbers of a feature: many at once by Arrow, and one by one where something is wrong.

| kind | what a cell may be |
| --- | --- |
| id | a whole number below `rows`; in an open space whatever there is: see `Cells` |
| ids | the same, several with `separator` between them, or a list; an empty cell has none |
| number | a finite number, or `dim` of them with `separator` between them, or a list |
| label | 0 or 1; of a real label any finite number; one of several may be empty, or NaN: nobody knows it |
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedps.config.files import is_utf8
from fedps.config.sections.features import OPEN, Feature
from fedps.data.hashing import stable_hash
from fedps.types import Bags, Column, Values

WHOLE = re.compile(r"-?[0-9]{1,18}")  # all fit int64
SEVERAL = re.compile(r"[0-9]+([^0-9A-Za-z]+[0-9]+)+")  # several whole numbers, by another separator
PLAIN = r"^(0|[1-9][0-9]{0,18})$"  # of an open space: a number that is an id, unless it is above `LARGEST`
LARGEST = int(np.iinfo(np.int64).max)
UNFIT = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)  # what Arrow says of cells of another kind


class Cells:
    """What the cells of one feature must be, and what they are as numbers.

    In an open space a whole number from 0 up that fits 64 bits, written without leading zeros, is the id itself; any other
    text, the empty one too, is known by its hash (`hashed`), and so is a number below 0.

    Args:
        name: the feature's.
        feature: its kind.
        rows: of its id space; ids lie below.
        seed: the job's, of hashes.
        unknown: of a label: it may be empty.

    Attributes:
        column: its name in data files.
        key: of the job, that names it.
    """

    def __init__(
        self, name: str, feature: Feature, rows: int | Literal["open"] | None, seed: int, unknown: bool = False
    ) -> None:
        self.name, self.feature, self.column = name, feature, feature.column or name
        self.key = f"features.{name}.column"
        self._rows = rows if isinstance(rows, int) else LARGEST
        self._open, self._seed, self._unknown = rows == OPEN, seed, unknown
        self.type = np.dtype(np.int32 if self._rows <= np.iinfo(np.int32).max else np.int64)  # of its ids

    @property
    def has_several(self) -> bool:
        """Whether a cell may hold several values."""
        return self.feature.kind == "ids" or self.feature.dim > 1

    def bulk(self, cells: pa.Array) -> Column | None:
        """Return a column of n cells, texts or of any type that Arrow has; None if one is not as it should be."""
        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        try:
            if not self.has_several:
                return self._bulk_values(cells)
            flat, counts = self._parts(cells)
            values = self._bulk_values(flat)
        except UNFIT:
            return None
        if values is None or self.feature.kind == "ids":
            return None if values is None else Bags(values, np.concatenate([[0], np.cumsum(counts)]))
        return values.reshape(-1, self.feature.dim) if (counts == self.feature.dim).all() else None

    def fits(self, values: NDArray[Any]) -> bool:
        """Tell whether values, of any number, could be of this feature's cells."""
        if not self.feature.has_ids:
            return values.dtype == np.float32 and self._fit(values)
        return values.dtype == self.type and (
            not len(values) or bool(values.min() >= 0 and values.max() < self._rows + self._open)
        )

    def _fit(self, numbers: Values) -> bool:
        binary = self.feature.kind == "label" and self.feature.of == "binary"
        if self._unknown:
            numbers = numbers[~np.isnan(numbers)]
        return bool(np.isfinite(numbers).all() and (not binary or ((numbers == 0) | (numbers == 1)).all()))

    def one(self, cell: Any) -> list[int] | list[float]:
        """Return the values of one cell.

        Raises:
            ValueError: it is not as it should be; says why, and what to do.
        """
        parts = self._split(cell) if self.has_several else [cell]
        if self.feature.has_ids:
            return [self._id(part) for part in parts]
        numbers = [self._number(part) for part in parts]
        if len(numbers) != self.feature.dim:
            raise ValueError(
                f"holds {len(numbers)} numbers, and features.{self.name}.dim is {self.feature.dim}; correct one of them"
            )
        return numbers

    def join(self, cells: Sequence[list[int] | list[float]]) -> Column:
        """Return the column of cells that `one` has read."""
        flat = np.array([value for cell in cells for value in cell], self.type if self.feature.has_ids else np.float32)
        if self.feature.kind == "ids":
            return Bags(flat, np.cumsum([0, *map(len, cells)]))
        return flat.reshape(-1, self.feature.dim) if self.feature.dim > 1 else flat

    def _parts(self, cells: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
        """Return all values of cells of several, end to end, and how many each has, int64[n]."""
        if _is_text(cells.type):
            empty = pc.equal(pc.utf8_trim_whitespace(cells), "").to_numpy(zero_copy_only=False)
            cells = pc.split_pattern(cells, self.feature.separator)
            counts = pc.list_value_length(cells).to_numpy(zero_copy_only=False).astype(np.int64)
            flat = pc.list_flatten(cells)
            if empty.any():
                flat = flat.filter(pa.array(np.repeat(~empty, counts)))
            return flat, np.where(empty, 0, counts)
        if not pa.types.is_nested(cells.type):
            return cells, np.ones(len(cells), np.int64)
        counts = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return pc.list_flatten(cells), counts

    def _bulk_values(self, cells: pa.Array) -> NDArray[Any] | None:
        """Return ids or numbers of cells of one value; None, or an Arrow error, if one is not as it should be."""
        fill, empty = 0.0 if self._unknown else self.feature.missing, None
        if fill is not None:
            empty = pc.fill_null(pc.equal(cells, ""), True) if _is_text(cells.type) else cells.is_null()
            cells = pc.if_else(empty, str(fill), cells) if _is_text(cells.type) else pc.if_else(empty, fill, cells)
        if cells.null_count:
            return None
        if self._unknown:
            found = self._bulk_numbers(cells)
            return None if found is None else np.where(empty.to_numpy(zero_copy_only=False), np.float32(np.nan), found)  # type: ignore[union-attr]
        if not self.feature.has_ids:
            return self._bulk_numbers(cells)
        if self._open:
            return _open_ids(cells, self._seed)
        ids: NDArray[np.int64] = _cast(cells, pa.int64()).to_numpy(zero_copy_only=False)
        fit = not len(ids) or (ids.min() >= 0 and ids.max() < self._rows)
        return ids.astype(self.type) if fit else None

    def _bulk_numbers(self, cells: pa.Array) -> Values | None:
        numbers: Values = np.array(
            _cast(cells, pa.float32()).to_numpy(zero_copy_only=False)
        )  # Arrow's own is read-only
        return numbers if self._fit(numbers) else None

    def _split(self, cell: Any) -> list[Any]:
        if cell is None:
            return []
        if isinstance(cell, str):
            return [part.strip() for part in cell.split(self.feature.separator)] if cell.strip() else []
        return list(cell) if hasattr(cell, "__len__") and not isinstance(cell, bytes | Mapping) else [cell]

    def _id(self, part: Any) -> int:
        key = f"features.{self.feature.table or self.name}.rows"
        part = plain(part)
        if self._open:
            return self._open_id(part)
        if isinstance(part, str) and not WHOLE.fullmatch(part):
            digits = part.isdecimal()
            parted = self.has_several and SEVERAL.fullmatch(part)
            several = f"say by features.{self.name}.separator what stands between ids, or " if parted else ""
            raise ValueError(
                "is empty; correct it, or give what is not known an id of its own"
                if not part
                else f"is no whole number{' of at most 18 digits' if digits else ''}; {several}set {key}: open, where any text is"
                " an id, or number the ids from 0"
            )
        if part is None or isinstance(part, bytes) or (isinstance(part, float) and not part.is_integer()):
            raise ValueError(f"is no whole number; correct it, or set {key}: open and write texts")
        try:
            number = int(part)
        except (TypeError, ValueError, OverflowError) as error:
            why = "correct it" if not hasattr(part, "__len__") else "it holds several" if len(part) else "it holds none"
            raise ValueError(f"is no id; {why}") from error
        if not 0 <= number < self._rows:
            raise ValueError(f"is not in [0, {self._rows}); correct it, or raise {key}")
        return number

    def _open_id(self, part: Any) -> int:
        if part is None or isinstance(part, bytes) or (isinstance(part, float) and not part.is_integer()):
            raise ValueError("is neither a whole number nor a text; correct it")
        if hasattr(part, "__len__") and not isinstance(part, str):
            raise ValueError(f"is no id: it holds {'several' if len(part) else 'none'}; set the feature's kind to ids")
        text = part if isinstance(part, str) else str(int(part))
        if not is_utf8(text):
            raise ValueError("is no UTF-8; save the file in that encoding")
        if re.match(PLAIN, text) and int(text) <= LARGEST:
            return int(text)
        return int(stable_hash([text], self._seed)[0]) & LARGEST

    def _number(self, part: Any) -> float:
        part = plain(part)
        if part is None or part == "":
            if self._unknown or self.feature.missing is not None:
                return self.feature.missing if self.feature.missing is not None else math.nan
            key = f", or say by features.{self.name}.missing what it counts as" if self.feature.kind == "number" else ""
            raise ValueError(f"is empty; fill it in{key}")
        try:
            number = float(part) if not (isinstance(part, str) and set(part) & set("xX_")) else None
        except (TypeError, ValueError):
            number = None
        if number is None:
            binary = self.feature.kind == "label" and self.feature.of == "binary"
            other = (
                "" if self.feature.kind == "label" else f", or set features.{self.name}.kind: id if it names something"
            )
            raise ValueError(f"is no number; {'write 0 or 1' if binary else 'correct it'}{other}")
        if self._unknown and math.isnan(number):
            return number
        with np.errstate(over="ignore"):
            number = float(np.float32(number))
        if not math.isfinite(number):
            raise ValueError("is no finite number of 32 bits; correct it, or leave the line out")
        if self.feature.kind == "label" and self.feature.of == "binary" and number not in (0, 1):
            raise ValueError(f"is neither 0 nor 1; correct it, or set features.{self.name}.of: real")
        return number


def hashed(texts: pa.Array, seed: int) -> NDArray[np.int64]:
    """Return the ids of n texts, int64[n]: their XXH64 but for its highest bit, as ids below 0 stand for padding."""
    coded = texts.dictionary_encode()
    ids = stable_hash(coded.dictionary.to_pylist(), seed) & LARGEST
    found: NDArray[np.int64] = ids[coded.indices.to_numpy(zero_copy_only=False)]
    return found


def _open_ids(cells: pa.Array, seed: int) -> NDArray[np.int64]:
    """Return the ids of cells of an open space."""
    if not _is_text(cells.type):
        cells = cells.cast(pa.int64())
        ids: NDArray[np.int64] = np.array(cells.to_numpy(zero_copy_only=False))
        if not len(ids) or ids.min() >= 0:
            return ids
        cells = cells.cast(pa.string())
    cells = pc.utf8_trim_whitespace(cells)
    beyond = pc.and_(pc.equal(pc.binary_length(cells), len(str(LARGEST))), pc.greater(cells, str(LARGEST)))
    plain = pc.and_(pc.match_substring_regex(cells, PLAIN), pc.invert(beyond))
    is_number = plain.to_numpy(zero_copy_only=False)
    ids = np.empty(len(cells), np.int64)
    ids[is_number] = cells.filter(plain).cast(pa.int64()).to_numpy(zero_copy_only=False)
    ids[~is_number] = hashed(cells.filter(pc.invert(plain)), seed)
    return ids


def _cast(cells: pa.Array, to: pa.DataType) -> pa.Array:
    """Read texts as numbers, or take numbers for others; Arrow takes 0x10 for 16, which here is a mistake."""
    if not _is_text(cells.type):
        return cells.cast(to, safe=to != pa.float32())
    try:
        made = cells.cast(to)
    except pa.ArrowInvalid:
        made = pc.utf8_trim_whitespace(cells).cast(to)
    if pc.any(pc.match_substring(cells, "x", ignore_case=True)).as_py():
        raise pa.ArrowInvalid("a number is hexadecimal")
    return made


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def plain(part: Any) -> Any:
    """Return a number of numpy's, or an array of one, as Python's own, and a text without blanks around it."""
    if isinstance(part, str):
        return part.strip()
    if isinstance(part, list | tuple) and len(part) == 1:
        return plain(part[0])
    return part.item() if hasattr(part, "item") and getattr(part, "size", 1) == 1 else part
