"""Read samples: lines `user,item,label`, in bulk by Arrow; what it cannot read is found line by line and named."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.errors import DataError
from fedps.types import ClientId, Values

COLUMNS = ["user", "item", "label"]


class Samples(NamedTuple):
    """user int64[n], item int64[n], label float32[n] (0 or 1)."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: Values


def client_files(folder: Path) -> dict[ClientId, Path]:
    """Return each client's file, `<client>.csv`, in natural order ("2" before "10")."""
    files = sorted(
        folder.glob("*.csv"),
        key=lambda f: [(len(p), p) if p.isdigit() else (0, p) for p in re.split(r"(\d+)", f.stem)],
    )
    return {ClientId(f.stem): f for f in files}


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Return the manifest of a prepared folder.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; prepare the folder with `fedps data prepare`") from error
    return manifest


def read_samples(path: Path, num_users: int, num_items: int) -> Samples:
    """Read one file of samples; a header line is recognised and left out.

    Args:
        path: the file.
        num_users: user ids must lie in [0, num_users).
        num_items: item ids must lie in [0, num_items).

    Raises:
        DataError: missing, empty, malformed, an id out of range or a label other than 0 or 1; names file and line.
    """
    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: is empty; a client needs at least one line user,item,label")
        skip = int(_has_header(path))
        table = arrow.read_csv(
            path,
            read_options=arrow.ReadOptions(column_names=COLUMNS, skip_rows=skip, use_threads=False),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.int64()), null_values=[]),
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        _name_the_line(path, num_users, num_items, str(error))
    user, item, label = (table[c].to_numpy().copy() for c in COLUMNS)  # Arrow's own memory is read-only
    if not len(label):
        raise DataError(f"{path}: holds no sample; a client needs at least one line user,item,label")
    for values, limit in ((user, num_users), (item, num_items), (label, 2)):
        if values.min() < 0 or values.max() >= limit:
            _name_the_line(path, num_users, num_items, "a value is out of range")
    return Samples(user, item, label.astype(np.float32))


def _has_header(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().strip()
    return (
        any(c.isalpha() for c in first)
        and [c.strip().strip('"').lower() for c in first.split(",")][:2] != ["", ""]
        and not any(part.strip().lstrip("-").isdigit() for part in first.split(","))
    )


def _name_the_line(path: Path, num_users: int, num_items: int, why: str) -> NoReturn:
    """Find the first bad line the slow way, and say what is wrong with it."""
    limits = (("user", num_users, "num_users"), ("item", num_items, "num_items"))
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if (number == 1 and _has_header(path)) or not row:
                continue
            where = f"{path}, line {number}: {','.join(row)[:80]!r}"
            if len(row) != len(COLUMNS):
                raise DataError(f"{where}: has {len(row)} fields; a line is user,item,label")
            for text, name in zip(row, COLUMNS, strict=True):
                if not re.fullmatch(r"-?\d{1,18}", text.strip()):
                    raise DataError(f"{where}: {name} {text!r} is no whole number")
            for text, (name, limit, key) in zip(row, limits, strict=False):
                if not 0 <= int(text) < limit:
                    raise DataError(
                        f"{where}: {name} {int(text)} is not in [0, {limit}); correct it or raise hyper_parameters.{key}"
                    )
            if int(row[2]) not in (0, 1):
                raise DataError(f"{where}: label {row[2]} is neither 0 nor 1")
    raise DataError(f"{path}: cannot be read: {why}")
