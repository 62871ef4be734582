"""Held ids: which id of ours stands for which of the source's, and how people call it.

`items.csv` (`item,key,title`, and more columns if one likes) lies with the data and goes with the model: item ids are
shared by all. `users/<client>.csv` (`user,key`) lies with its client, and never leaves it. A *key* is the source's own
id, always text: "007" is not "7".
"""

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.config.files import is_utf8
from fedps.errors import DataError

ITEMS, USERS = "items.csv", "users"  # beside a manifest.json: the file of items, and the folder of each client's users
NEAREST, COMPARED = 3, 20_000  # keys that are named, and at most compared for it
NUMBER = re.compile(r"[0-9]{1,18}")  # all fit int64


class Catalogue:
    """Ids, the source's keys, and titles: those of all items, or of one client's users.

    Args:
        ids: int64[n], ours.
        keys: the source's, one an id, all different.
        titles: one an id, empty where there is none; None: there are no titles.
        more: what else is known, by column a text for each id.

    Attributes:
        ids: int64[n], sorted.
        keys: in the order of `ids`.
        titles: in the order of `ids`, or empty.
        more: in the order of `ids`.

    Raises:
        DataError: an id or a key stands there twice.
    """

    def __init__(
        self, ids: NDArray[np.int64], keys: Sequence[str], titles: Sequence[str] | None = None,
        more: Mapping[str, Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        order = np.argsort(ids, kind="stable").tolist()
        self.ids = np.asarray(ids, np.int64)[order]
        self.keys: list[str] = [keys[k] for k in order]
        self.titles: list[str] = [titles[k] for k in order] if titles else []
        self.more = {name: [column[k] for k in order] for name, column in (more or {}).items()}
        self._ids = dict(zip(self.keys, self.ids.tolist(), strict=True))
        if (twice := np.flatnonzero(np.diff(self.ids) == 0)).size:
            raise DataError(f"id {self.ids[twice[0]]} stands there twice; leave one")
        if len(self._ids) < len(self.keys):
            key = next(key for k, key in enumerate(self.keys) if self._ids[key] != self.ids[k])
            raise DataError(f"key {key!r} stands there twice; leave one")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ids)

    @classmethod
    def numbered(cls, count: int) -> "Catalogue":
        """Return that of data without one: ids from 0 on, which are their own keys."""
        return cls(np.arange(count), [str(number) for number in range(count)])

    @classmethod
    def read(cls, path: Path) -> "Catalogue":
        """Read a file whose first column is ids, and which may have columns `key` (the id, if not), `title` and more.

        Raises:
            DataError: it is missing, or not such a file; names the line.
        """
        table = _texts(path)
        ids, names = table.column(0).to_pylist(), table.column_names
        if (bad := next((k for k, text in enumerate(ids) if not NUMBER.fullmatch(text)), None)) is not None:
            raise DataError(
                f"{path}, line {_line(path, bad)}: {names[0]} {ids[bad][:30]!r} is no whole number from 0 on"
            )
        keys = table["key"].to_pylist() if "key" in names else ids
        titles = table["title"].to_pylist() if "title" in names else None
        more = {name: table[name].to_pylist() for name in names[1:] if name not in ("key", "title")}
        try:
            return cls(np.array(ids, np.int64), keys, titles, more)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def write(self, path: Path, noun: str = "item") -> None:
        """Write the file, a line an id; `noun` names the column of ids."""
        columns = {noun: pa.array(self.ids), "key": pa.array(self.keys, pa.string())}
        if self.titles:
            columns["title"] = pa.array(self.titles, pa.string())
        columns |= {name: pa.array(column, pa.string()) for name, column in self.more.items()}
        arrow.write_csv(pa.table(columns), path)

    def find(self, key: str) -> int | None:
        """Return a key's id, None if there is no such key."""
        return self._ids.get(key)

    def find_all(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return each key's id, -1 where there is no such key: int64[n]."""
        return np.fromiter((self._ids.get(key, -1) for key in keys), np.int64, len(keys))

    def nearest(self, key: str) -> list[str]:
        """Return the keys that look most like one that is not there, the nearest first; those that begin alike, of many."""
        plain = key.strip().casefold()
        pool = [other for other in self.keys if other.strip().casefold() == plain]
        if not pool:
            alike = self.keys if len(self.keys) <= COMPARED else [k for k in self.keys if k[:2] == key[:2]]
            pool = difflib.get_close_matches(key, alike[:COMPARED], NEAREST, 0.5)
        return pool[:NEAREST]

    def key(self, id: int) -> str:  # noqa: A002
        """Return an id's key. Raises DataError: there is no such id."""
        return self.keys[self._place(id)]

    def title(self, id: int) -> str:  # noqa: A002
        """Return an id's title, empty if it has none. Raises DataError: there is no such id."""
        place = self._place(id)
        return self.titles[place] if self.titles else ""

    def _place(self, wanted: int) -> int:
        place = int(np.searchsorted(self.ids, wanted))
        if place == len(self.ids) or self.ids[place] != wanted:
            raise DataError(f"id {wanted}: is not among the {len(self.ids)} that are held")
        return place


def _texts(path: Path) -> pa.Table:
    """Return a file's columns, all as texts."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
        if not names:
            raise DataError(f"{path}: is empty; its first line names the columns: item,key,title")
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{path}, line 1: has two columns {twice[0]!r}; rename one")
        texts = arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return arrow.read_csv(path, parse_options=arrow.ParseOptions(newlines_in_values=True), convert_options=texts)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}{_torn(path)}: is no file of ids and keys: {error}") from error


def _torn(path: Path) -> str:
    """Name the first line that is no UTF-8, if there is one."""
    lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    return next((f", line {number}" for number, line in enumerate(lines, 1) if not is_utf8(line)), "")


def _line(path: Path, row: int) -> int:
    """Return the line on which a row below the header begins: cells may hold line ends."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        lines = (reader.line_num + 1 for cells in reader if cells)  # of what follows each row, header first
        return next(islice(lines, row, None))
