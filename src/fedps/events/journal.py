"""The journal of a run, `events.jsonl`: an entry a line, whole at any time and whoever reads meanwhile."""

import fcntl
import json
import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from fedps.errors import shortage
from fedps.events.events import Entry, Event, printable
from fedps.events.forms import JOURNALED, facts
from fedps.metrics import Histogram

JOURNAL = "events.jsonl"  # in the folder of a run
STAMP = ("time", "role", "id")
KINDS = {kind.__struct_config__.tag: kind for kind in Event.__subclasses__()}
SUMS = {journaled: name for name, journaled in JOURNALED.items()}


class Journal:
    """Appends entries to a file, each as one whole line, and holds the file's lock meanwhile (see `is_written`).

    A last line that whoever wrote there before could not finish is cut off. What the disk does not take stays in memory,
    and is written with the next entry.

    Args:
        path: the file; made if absent.
        alone: whether nobody else may write it.

    Raises:
        BlockingIOError: somebody else does.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        self._file, self._left = path.open("ab", buffering=0), b""
        self._fails = False  # the disk, as far as is known
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if alone:
                self._file.close()
                raise
        except OSError:  # a file system without locks: nobody can tell then, and nothing else depends on it
            pass
        else:
            if (whole := _length_of_lines(path)) < self._file.tell():
                self._file.truncate(whole)

    def write(self, entry: Entry) -> None:
        """Append one entry; NaN and infinities, which JSON lacks, become null.

        Raises:
            ValueError: the journal is closed.
            OSError: the file cannot be written.
        """
        self._left += line(entry) + b"\n"
        self._write()

    def keep(self, entry: Entry) -> str | None:
        """Append one entry, now or when the disk takes it again; return why not now, if that is news.

        Raises:
            ValueError: the journal is closed.
        """
        failed = self._fails
        try:
            self.write(entry)
        except OSError as error:
            self._fails = True
            return None if failed else shortage(error) or str(error)
        self._fails = False
        return None

    def flush(self) -> None:
        """Write what is left to write.

        Raises:
            OSError: the file cannot be written.
        """
        self._write()

    def close(self) -> None:
        """Close the file; further writes are errors."""
        if not self._file.closed:
            with suppress(OSError):
                self._write()
            self._file.close()

    def _write(self) -> None:
        while self._left:  # a disk that is nearly full takes less than it is given, and says why next time
            self._left = self._left[self._file.write(self._left) :]


def line(entry: Entry) -> bytes:
    """Return an entry as JSON: time, role and id first, then the event's kind and its own facts."""
    fields = {"time": entry.time, "role": entry.role, "id": entry.id, **facts(entry.event)}
    try:
        text = msgspec.json.encode(fields)
    except UnicodeEncodeError:
        text = msgspec.json.encode(printable(fields))
    return msgspec.json.format(text, indent=0)  # on one line, with spaces


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Read a journal's whole lines, each as one object with its event.

    One that is still being written is left out, and one that was damaged: `fedps doctor` tells of those. A bad byte in what
    is told of a run keeps nobody from going on with it.
    """
    with path.open("rb") as file:
        for text in file:
            with suppress(ValueError):
                if text.endswith(b"\n") and isinstance(said := json.loads(text), dict) and "event" in said:
                    yield said


def read_entries(path: Path) -> Iterator[Entry]:
    """Read a journal's entries back, but for what it does not hold: all histograms are empty.

    What is no event of this version is left out, as is one with a number that JSON lacks.
    """
    empty = Histogram()  # one for all
    for line_ in read_journal(path):
        kind = KINDS.get(str(line_["event"]))
        if kind is None:
            continue
        names = {field.name for field in msgspec.structs.fields(kind)}
        told = {name: fact for name, fact in line_.items() if name in (*names, "event")}
        rest = {SUMS.get(k, k): fact for k, fact in line_.items() if k not in told and k not in STAMP}
        told |= {name: rest for name in ("sums", "figures") if name in names}
        told |= {"histogram": empty} if "histogram" in names else {}
        told |= {"histograms": {}} if "histograms" in names else {}
        with suppress(msgspec.ValidationError, KeyError):
            yield Entry(line_["time"], line_["role"], line_["id"], msgspec.convert(told, kind))


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


def _length_of_lines(path: Path) -> int:
    """Return how many bytes of a file are whole lines."""
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.rfind(b"\n") + 1
