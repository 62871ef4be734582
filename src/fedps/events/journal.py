"""The journal of a run, `events.jsonl`: an entry a line, whole at any time and whoever reads meanwhile."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from fedps.events.events import Entry, facts, printable

JOURNAL = "events.jsonl"  # in the folder of a run


class Journal:
    """Appends entries to a file, each as one whole line, and holds the file's lock meanwhile (see `is_written`).

    Args:
        path: the file; made if absent.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        with suppress(OSError):  # a file system without locks: nobody can tell then, and nothing else depends on it
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, entry: Entry) -> None:
        """Append one entry; NaN and infinities, which JSON lacks, become null.

        Raises:
            ValueError: the journal is closed.
            OSError: the file cannot be written.
        """
        self._file.write(line(entry) + b"\n")

    def close(self) -> None:
        """Close the file; further writes are errors."""
        self._file.close()


def line(entry: Entry) -> bytes:
    """Return an entry as JSON: time, role and id first, then the event's kind and its own facts."""
    fields = {"time": entry.time, "role": entry.role, "id": entry.id, **facts(entry.event)}
    try:
        text = msgspec.json.encode(fields)
    except UnicodeEncodeError:
        text = msgspec.json.encode(printable(fields))
    return msgspec.json.format(text, indent=0)  # on one line, with spaces


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Read a journal's whole lines, each as one object; a last one that is still being written is left out."""
    with path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                yield json.loads(text)


def is_written(path: Path) -> bool:
    """Whether a run still writes its journal: its launcher holds the file's lock, however it ends."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
