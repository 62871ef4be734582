"""Samples as they were last read: numbers ready to be used, instead of text to parse.

`samples/<file>-<key>-<state>.samples` in the folder of the cache (`fedps.cache`) holds little-endian int32: a mark, n, then
n users, n items and n labels. The key is of the file's whole path, and with its state the name says of which file it is, and
when; nothing is written beside the data itself, where others list files. What is kept is checked like a file's own lines.
It is for its owner's eyes only, goes when it was not used for `UNUSED`, and is left out where it cannot be written.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from fedps.cache import CacheError, cache_folder
from fedps.data.read.reader import in_range
from fedps.storage.whole import CLOSED, make_folder, write_whole
from fedps.types import Samples

FOLDER = "samples"
UNUSED = 30 * 86400.0  # seconds
MARK = 0x53504446  # "FDPS"; another number for another form
LARGEST = np.iinfo(np.int32).max


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
        place = _place(path)
        make_folder(place.parent, CLOSED)
        same, since = f"{_name(path)}-", time.time() - UNUSED
        for old in place.parent.glob("*.samples"):
            if old.name.startswith(same) or old.stat().st_mtime < since:
                old.unlink(missing_ok=True)
        columns = ([MARK, len(samples.label)], samples.user, samples.item, samples.label)
        write_whole(place, (np.asarray(numbers).astype("<i4").tobytes() for numbers in columns))


def _place(path: Path) -> Path:
    return cache_folder() / FOLDER / f"{_name(path)}-{state_of(path)}.samples"


def _name(path: Path) -> str:
    """Return a name of a file's own, whatever folder it lies in; its beginning is for people."""
    return f"{path.stem[:40]}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}"
