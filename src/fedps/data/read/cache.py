"""Samples as they were last read: numbers ready to be used, instead of text to parse.

`samples/<file>-<key>-<state>.samples` in the folder of the cache (`fedps.cache`) holds little-endian int32: a mark, n, then
n users, n items and n labels. The key is of the file's whole path, and with its state the name says of which file it is, and
when; nothing is written beside the data itself, where others list files. What is kept is checked like a file's own lines.
It is for its owner's eyes only, goes when it was not used for `UNUSED`, and is left out where it cannot be written.

Samples of features are kept in a form of their own: a mark, the length of a JSON text, the text (how they were read, and
each array's type and shape), then the arrays, each from a multiple of 64 bytes on. They are read into memory, but mapped
where they are larger than `MAPPED`, so that data may be larger than memory.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.cache import CacheError, cache_folder
from fedps.config import Job
from fedps.data.read.intake import Intake, Taken, bytes_of
from fedps.data.read.reader import in_range
from fedps.storage.whole import CLOSED, make_folder, write_whole
from fedps.types import Bags, Column, Samples

FOLDER = "samples"
UNUSED = 30 * 86400.0  # seconds
MARK = 0x53504446  # "FDPS"; another number for another form
TABLE_MARK = 0x54504446  # of samples of features
LARGEST = np.iinfo(np.int32).max
ALIGNED = 64  # bytes
MAPPED = 1 << 30  # bytes of a file that is not read but mapped; who cuts such a one short ends the process


def state_of(path: Path) -> str:
    """Return what a file's content cannot change without: empty if there is no such file.

    The time of writing can be set, as copying and unpacking do; that of the last change to the file cannot.
    """
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_ino}"


def recall(path: Path, num_users: int, num_items: int) -> Samples | None:
    """Return a file's samples from the cache, ids as int32; None if they are not there, or not fit to be used.

    Args:
        path: the file of lines.
        num_users: user ids must lie in [0, num_users).
        num_items: item ids must lie in [0, num_items).
    """
    try:
        place = _place(path)
        numbers = np.fromfile(place, "<i4")  # not mapped: a file that is cut short later would end the process
        os.utime(place)  # in use
    except (OSError, ValueError, CacheError):
        return None
    if len(numbers) < 5 or numbers[0] != MARK or len(numbers) != 2 + 3 * int(numbers[1]):
        return None
    user, item, label = numbers[2:].reshape(3, -1)
    if not in_range(user, item, label, num_users, num_items):
        return None  # reading the file itself says what is wrong
    return Samples.pairs(user, item, label.astype(np.float32))


def keep(path: Path, samples: Samples, state: str) -> None:
    """Write a file's samples to the cache, in place of those of its earlier states; all or nothing.

    Args:
        path: the file of lines.
        samples: what was read of it.
        state: the file's before it was read; nothing is kept of one that has changed since.
    """
    if max(samples.user.max(), samples.item.max()) > LARGEST or state != state_of(path):
        return
    with suppress(OSError, CacheError):
        place = _made_room(path)
        columns = ([MARK, len(samples.label)], samples.user, samples.item, samples.label)
        write_whole(place, (np.asarray(numbers).astype("<i4").tobytes() for numbers in columns))


def recall_table(path: Path, job: Job) -> Taken | None:
    """Return a file's samples of features from the cache; None if they are not there, or not fit to be used."""
    try:
        place = _place(path)
        with place.open("rb") as file:
            mark, length = np.fromfile(file, "<i4", 2).tolist()
            facts = json.loads(file.read(length)) if mark == TABLE_MARK else {}
            if facts.get("how") != _how(job):
                return None
        if place.stat().st_size > MAPPED:
            held: NDArray[np.uint8] = np.memmap(place, np.uint8, "r")
        else:
            held = np.fromfile(place, np.uint8)
        arrays, at = dict[str, NDArray[Any]](), _aligned(8 + length)
        for name, kind, shape in facts["arrays"]:
            end = at + np.dtype(kind).itemsize * math.prod(shape)
            arrays[name] = np.asarray(held[at:end]).view(kind).reshape(shape)
            at = _aligned(end)
        os.utime(place)  # in use
        taken = Taken(_joined(arrays, list(facts["columns"])), {str(name): int(n) for name, n in facts["cut"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CacheError):
        return None
    whole = len(held) == at and len(arrays["label"]) > 0
    return taken if whole and Intake(job, str(path), None).fits(taken.samples) else None


def keep_table(path: Path, job: Job, taken: Taken, state: str) -> None:
    """Write a file's samples of features to the cache; arguments as for `keep`."""
    if state != state_of(path):
        return
    arrays = {"label": taken.samples.label}
    for name, column in taken.samples.columns.items():
        parts = {"ids": column.ids, "starts": column.starts} if isinstance(column, Bags) else {"": column}
        arrays |= {f"{name}.{part}": array for part, array in parts.items()}
    facts = {
        "how": _how(job), "columns": list(taken.samples.columns), "cut": dict(taken.cut),
        "arrays": [[name, array.dtype.newbyteorder("<").str, array.shape] for name, array in arrays.items()],
    }  # fmt: skip
    with suppress(OSError, CacheError):
        write_whole(_made_room(path), _pieces(json.dumps(facts).encode(), arrays))


def _pieces(text: bytes, arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    yield np.array([TABLE_MARK, len(text)], "<i4").tobytes() + text
    at = 8 + len(text)
    for array in arrays.values():
        yield bytes(_aligned(at) - at)
        at = _aligned(at) + array.nbytes
        yield bytes_of(array.astype(array.dtype.newbyteorder("<"), copy=False))
    yield bytes(_aligned(at) - at)


def _joined(arrays: Mapping[str, NDArray[Any]], names: list[str]) -> Samples:
    columns: dict[str, Column] = {
        name: arrays[f"{name}."] if f"{name}." in arrays else Bags(arrays[f"{name}.ids"], arrays[f"{name}.starts"])
        for name in names
    }
    return Samples(columns, arrays["label"])


def _aligned(at: int) -> int:
    return -(-at // ALIGNED) * ALIGNED


def _how(job: Job) -> str:
    """Return a digest of all that samples of features follow from, beside the file."""
    features = {name: feature.model_dump() for name, feature in job.inputs.items()}
    return hashlib.sha256(json.dumps([features, job.runner.seed]).encode()).hexdigest()


def _made_room(path: Path) -> Path:
    """Return where a file's samples are to be kept; those of its earlier states go, and what nobody used for long."""
    place = _place(path)
    make_folder(place.parent, CLOSED)
    same, since = f"{_name(path)}-", time.time() - UNUSED
    for old in place.parent.glob("*.samples"):
        if old.name.startswith(same) or old.stat().st_mtime < since:
            old.unlink(missing_ok=True)
    return place


def _place(path: Path) -> Path:
    return cache_folder() / FOLDER / f"{_name(path)}-{state_of(path)}.samples"


def _name(path: Path) -> str:
    """Return a name of a file's own, whatever folder it lies in; its beginning is for people."""
    return f"{path.stem[:40]}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}"
