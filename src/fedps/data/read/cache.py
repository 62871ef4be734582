"""Samples as they were last read, beside their file: numbers ready to be mapped into memory, instead of text to parse.

`<folder>/.fedps-cache/<file>-<size>-<mtime>.samples` holds little-endian int32: a mark, n, then n users, n items and n
labels. Its name says of which state of the file it is; what it holds is checked like a file's own lines, as anybody who
may write to the folder may have written it. It is for its owner's eyes only, hidden from all who list clients by their
files, and left out where the folder cannot be written.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np

from fedps.data.read.reader import in_range
from fedps.storage.whole import CLOSED, make_folder, write_whole
from fedps.types import Samples

FOLDER = ".fedps-cache"
MARK = 0x53504446  # "FDPS"; another number for another form
LARGEST = np.iinfo(np.int32).max


def recall(path: Path, num_users: int, num_items: int) -> Samples | None:
    """Return a file's samples from the cache, ids as int32; None if they are not there, or not fit to be used.

    Args:
        path: the file of lines.
        num_users: user ids must lie in [0, num_users).
        num_items: item ids must lie in [0, num_items).
    """
    try:
        numbers = np.asarray(np.memmap(_place(path), "<i4", "r"))
    except (OSError, ValueError):
        return None
    if len(numbers) < 5 or numbers[0] != MARK or len(numbers) != 2 + 3 * int(numbers[1]):
        return None
    user, item, label = numbers[2:].reshape(3, -1)
    if not in_range(user, item, label, num_users, num_items):
        return None  # reading the file itself says what is wrong
    return Samples(user, item, label.astype(np.float32))


def keep(path: Path, samples: Samples) -> None:
    """Write a file's samples to the cache, in place of those of its earlier states; all or nothing."""
    if max(samples.user.max(), samples.item.max()) > LARGEST:
        return
    with suppress(OSError):
        place = _place(path)
        make_folder(place.parent, CLOSED)
        for old in place.parent.glob(f"{_escaped(path.name)}-*.samples"):
            old.unlink(missing_ok=True)
        columns = ([MARK, len(samples.label)], *samples)
        write_whole(place, (np.asarray(numbers).astype("<i4").tobytes() for numbers in columns))


def _place(path: Path) -> Path:
    facts = path.stat()
    return path.parent / FOLDER / f"{path.name}-{facts.st_size}-{facts.st_mtime_ns}.samples"


def _escaped(name: str) -> str:
    """Return a name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
