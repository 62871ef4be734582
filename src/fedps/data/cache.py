"""Samples as they were last read, beside their file: numbers ready to be mapped into memory, instead of text to parse.

`<folder>/.fedps-cache/<file>-<size>-<mtime>.npy` holds int32[3, n]: user, item, label. Its name says of which state of
the file it is; what it holds is checked like a file's own lines, as anybody who may write to the folder may have written
it. It is for its owner's eyes only, hidden from all who list clients by their files, and left out where the folder
cannot be written.
"""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from fedps.data.reader import Samples, in_range

FOLDER = ".fedps-cache"
LARGEST = np.iinfo(np.int32).max


def cached(path: Path, num_users: int, num_items: int) -> Samples | None:
    """Return a file's samples from the cache, ids as int32; None if they are not there, or not fit to be used.

    Args:
        path: the file of lines.
        num_users: user ids must lie in [0, num_users).
        num_items: item ids must lie in [0, num_items).
    """
    try:
        user, item, label = np.load(_place(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError):
        return None
    fit = user.dtype == np.int32 and user.ndim == 1 and len(user)
    if not fit or not in_range(user, item, label, num_users, num_items):
        return None  # reading the file itself says what is wrong
    return Samples(np.asarray(user), np.asarray(item), label.astype(np.float32))


def keep(path: Path, samples: Samples) -> None:
    """Write a file's samples to the cache, in place of those of its earlier states; all or nothing."""
    if max(samples.user.max(), samples.item.max()) > LARGEST:
        return
    with suppress(OSError):
        place = _place(path)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        for old in place.parent.glob(f"{_escaped(path.name)}-*.npy"):
            old.unlink(missing_ok=True)
        part = place.with_name(f".{place.name}-{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            np.save(file, np.array([samples.user, samples.item, samples.label], np.int32))
        part.replace(place)


def _place(path: Path) -> Path:
    facts = path.stat()
    return path.parent / FOLDER / f"{path.name}-{facts.st_size}-{facts.st_mtime_ns}.npy"


def _escaped(name: str) -> str:
    """Return a name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
