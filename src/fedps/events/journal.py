"""The journal of a run, `events.jsonl`: an entry a line, whole at any time and whoever reads meanwhile."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fedps.events.events import Entry, facts, printable

JOURNAL = "events.jsonl"  # in the folder of a run


class Journal:
    """Appends entries to a file, each as one whole line.

    Args:
        path: the file; made if absent.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

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
