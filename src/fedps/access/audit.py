"""The audit log of a role that answers: who came, was refused and why, left; what was saved; the rounds and who trained.

    RUN_DIR/audit/<role>-<k>.jsonl    an entry a line: {"number", "time", "event", its facts, "before"}
    RUN_DIR/audit/<role>-<k>.head     {"entries", "digest", "coming"}: what the log must hold

`before` is the SHA-256 of the line before, without its end. So no entry is changed, moved, left out or added in between
unless all that follow are made anew; the head says how many there are and the digest of the last, so that a tail that is
cut off is missed. The run's summary says the same once more, where a role came to its end.

Entries are written in batches. The head says before each which entries are coming, and after it that they are there: a
process that dies in between leaves a log that is known to be in order, and the next goes on with it, whatever part of the
batch came to be written. Whoever can write all of these files can make up another log; to keep him from that, note the
summary's digests elsewhere.

What is written here names roles and clients, and no row, item or sample: reasons that come of what a message held are left
out (`SAID`).
"""

import fcntl
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from fedps.config import Job
from fedps.config.shared import digest_of
from fedps.errors import DataError, shortage
from fedps.events import events
from fedps.events.events import Event, Report, printable
from fedps.events.past import read_summary
from fedps.storage.whole import CLOSED, PRIVATE, append, make_folder, write_whole

FOLDER = "audit"  # in the folder of a run
NOTHING = "0" * 64  # stands for the digest of an entry before the first
MOST, MOST_WAITING = 256, 10_000  # entries of a batch, and that wait for the disk
PAUSE = 1.0  # seconds after which is tried again what found no space on the disk

# What is kept of which events. Facts that are not named here are none of an audit's: paths, figures, tables.
KEPT: dict[type[Event], tuple[str, ...]] = {
    events.Ready: ("address",),
    events.Joined: ("client", "instance"),
    events.Left: ("client",),
    events.Expelled: ("client",),
    events.Lost: ("client", "reason"),
    events.Suspended: ("client", "clock", "reason"),
    events.LeftBehind: ("client", "round", "reason"),
    events.Refused: ("client", "kind", "reason", "count"),
    events.Saved: ("epoch",),
    events.Unsaved: ("epoch",),
    events.Selected: ("round", "selected", "waiting", "finished"),
    events.Round: ("round",),
    events.Compared: ("round", "alone", "differs"),
    events.EndsEarly: ("round", "reason"),
    events.Stopped: ("rejected", "repeated"),
}
SAID = ("identity", "other_job", "superseded", "order", "busy")  # refusals of whom, not of what: their reasons are kept


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many entries a log has, the digest of the last, and the digests of those that are just being written."""

    entries: int = 0
    digest: str = NOTHING
    coming: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True):
    """What an entry must say; `role` and `id` are said by the first."""

    number: int
    before: str
    event: str
    time: float
    role: str = ""
    id: str = ""


class Chain(NamedTuple):
    """What was read of a log, as far as its entries follow on each other.

    Attributes:
        digests: of its entries.
        size: bytes of them.
        torn: bytes behind them that are no whole line.
        fault: what is wrong with the entry behind them; empty if nothing is.
        sealed: what stands in the head, None if there is none.
    """

    digests: list[str]
    size: int
    torn: int
    fault: str
    sealed: bytes | None

    @property
    def digest(self) -> str:
        """Of the last entry."""
        return self.digests[-1] if self.digests else NOTHING


class Fault(NamedTuple):
    """What is wrong with a log: its file, the entry, from 1 (0: the whole file), and a sentence."""

    file: Path
    entry: int
    what: str

    def __str__(self) -> str:
        """Return all of it in a line."""
        return f"{self.file}: {f'entry {self.entry}: ' if self.entry else ''}{self.what}"


class Audit:
    """Keeps the log of one role, from the events that pass through `report`.

    Nothing is written before it is entered: a server that stands by tells nothing. What the disk does not take is kept in
    memory and tried again; that is told, and ends nothing.

    Args:
        run_dir: the run's folder; None keeps nothing.
        role: `server` or `coordinator`.
        number: of the role.
        job: the job.
        report: where all events go on to.

    """

    def __init__(self, run_dir: Path | None, role: str, number: int, job: Job, report: Report) -> None:
        self._keeps = run_dir is not None
        self._path = (run_dir or Path()) / FOLDER / f"{role}-{number}.jsonl"
        self._begun: dict[str, Any] = {"event": "begun", "role": role, "id": str(number), "version": version("fedps"), "job": job.name,
                       "digest": digest_of(job)}  # fmt: skip
        self._pass_on = report
        self._waiting, self._left_out = deque[tuple[float, dict[str, Any]]](), 0
        self._head, self._end = Head(), 0  # as they are on disk; the bytes of all entries
        self._lock = -1
        self._failing, self._again = False, 0.0

    def __enter__(self) -> Self:
        if self._keeps:
            self._waiting.appendleft((time.time(), self._begun))
            self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._keep("ended", {"error": "" if kind is None else kind.__name__})
        self._again = 0.0
        while self.pending:
            self.write()
        if self._lock >= 0:
            os.close(self._lock)
        if self._keeps and not self._waiting:
            self._pass_on(events.Audited(self._head.entries, self._head.digest))

    def report(self, event: Event) -> None:
        """Pass an event on, and keep what an audit wants of it for the next batch."""
        if (names := KEPT.get(type(event))) is not None:
            facts = {name: getattr(event, name) for name in names}
            if isinstance(event, events.Refused) and event.kind not in SAID:
                del facts["reason"]
            self._keep(str(type(event).__struct_config__.tag), facts)
        self._pass_on(event)

    def _keep(self, kind: str, facts: dict[str, Any]) -> None:
        if not self._keeps:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._left_out += 1
            return
        if self._left_out:
            self._waiting.append((time.time(), {"event": "left_out", "count": self._left_out}))
            self._left_out = 0
        self._waiting.append((time.time(), {"event": kind, **facts}))

    @property
    def pending(self) -> bool:
        """Whether there is something to write, and it is to be tried now."""
        return bool(self._waiting) and time.monotonic() >= self._again

    def write(self) -> None:
        """Write a batch of what waits; from any thread, one at a time."""
        try:
            if self._lock < 0:
                self._take_up()
            self._write([self._waiting[k] for k in range(min(len(self._waiting), MOST))])  # others may add meanwhile
            self._failing = False
        except OSError as error:
            self._again = time.monotonic() + PAUSE
            if not self._failing:
                self._pass_on(events.Note(f"the audit log is not written, but later: {shortage(error) or error}"))
            self._failing = True

    def _write(self, batch: list[tuple[float, dict[str, Any]]]) -> None:
        lines, digests, digest = list[bytes](), list[str](), self._head.digest
        for number, (when, facts) in enumerate(batch, self._head.entries + 1):
            lines.append(_line({"number": number, "time": round(when, 3), **facts, "before": digest}))
            digests.append(digest := _digest(lines[-1]))
        self._seal(Head(self._head.entries, self._head.digest, tuple(digests)))
        text = b"".join(line + b"\n" for line in lines)
        append(self._path, text, self._end)
        sealed = Head(self._head.entries + len(lines), digest)
        self._seal(sealed)
        self._head, self._end = sealed, self._end + len(text)
        for _ in batch:
            self._waiting.popleft()

    def _seal(self, head: Head) -> None:
        write_whole(_head_of(self._path), msgspec.json.encode(head) + b"\n")

    def _take_up(self) -> None:
        """Go on with what an earlier process has left; a log that is not in order is put aside as it is, and that is noted."""
        make_folder(self._path.parent, CLOSED)
        lock = os.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise OSError(f"another process writes {self._path}") from None
        except OSError:  # a file system without locks: nobody can tell then
            pass
        try:
            self._go_on(lock)
        finally:
            if self._lock != lock:
                os.close(lock)

    def _go_on(self, lock: int) -> None:
        chain = _read(self._path)
        if (fault := next(_faults(self._path, chain), None)) is not None:
            aside = next(path for n in count(1) if not (path := _aside(self._path, n)).exists())
            self._path.rename(aside)
            with suppress(FileNotFoundError):
                _head_of(self._path).rename(_head_of(aside))
            self._begun |= {"put_aside": aside.name, "because": f"entry {fault.entry}: {fault.what}"}
            self._take_up()
            return
        if chain.torn:
            self._begun["torn_bytes"] = chain.torn  # of a line that a dying process has left; `append` cuts it off
        os.fsync(lock)
        self._head, self._end, self._lock = Head(len(chain.digests), chain.digest), chain.size, lock


def verify(run_dir: Path) -> tuple[dict[Path, int], list[Fault]]:
    """Look through all audit logs of a run.

    Returns:
        The entries of each file, and what is wrong: of each file the first fault, for what stands behind it says nothing.

    Raises:
        DataError: there is none, or one cannot be read.
    """
    folder = run_dir / FOLDER
    found, faults = dict[Path, int](), list[Fault]()
    try:
        told: dict[str, dict[str, Any]] = read_summary(run_dir).get("audit", {})
        names = {path.stem for path in folder.glob("*") if path.suffix in (".jsonl", ".head")} | set(told)
        for path in sorted(folder / f"{name}.jsonl" for name in names):
            chain = _read(path)
            found[path] = len(chain.digests)
            faults += islice(_faults(path, chain, told.get(path.stem)), 1)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{run_dir}: its audit logs cannot be read: {error}") from error
    if not found:
        raise DataError(
            f"{run_dir}: there is no audit log; is this the folder of a run whose servers had their own processes?"
        )
    return found, faults


def _faults(path: Path, chain: Chain, told: dict[str, Any] | None = None) -> Iterator[Fault]:
    """Yield what is wrong with a log; `told`: what the summary says of it."""
    name, there = _head_of(path).name, len(chain.digests)
    if chain.fault:
        yield Fault(path, there + 1, chain.fault)
    if chain.sealed is None and (there or chain.torn):
        yield Fault(path, 0, f"{name} is missing, which says how many entries there are")
    try:
        head = Head() if chain.sealed is None else msgspec.json.decode(chain.sealed, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        yield Fault(path, 0, f"{name} cannot be read: {error}")
        return
    due = dict(enumerate((head.digest, *head.coming), head.entries))  # digests by number
    if there < head.entries:
        yield Fault(path, there + 1, f"{head.entries} entries were written, and {there} are there")
    if there > max(due):
        yield Fault(path, max(due) + 1, f"{max(due)} entries were written, and {there} are there")
    for number, digest in enumerate(chain.digests, 1):
        if digest != due.get(number, digest):
            yield Fault(path, number, f"it is not the one that was written, by {name}")
    if chain.torn and not head.coming:
        yield Fault(path, there + 1, f"{chain.torn} bytes are no whole line, and no process was writing any")
    if told and (there < told["entries"] or chain.digests[told["entries"] - 1] != told["digest"]):
        yield Fault(path, told["entries"], "it is not the one of which summary.json says the digest")


def _read(path: Path) -> Chain:
    """Read a log, from the first entry to the last that follows on the one before."""
    sealed, text = _bytes_of(_head_of(path)), _bytes_of(path)
    while (now := _bytes_of(_head_of(path))) != sealed:  # it is being written
        sealed, text = now, _bytes_of(path)
    *lines, torn = (text or b"").split(b"\n")
    digests, size, before, name = list[str](), 0, NOTHING, path.stem
    for number, line in enumerate(lines, 1):
        if fault := _misfit(line, number, before, name):
            return Chain(digests, size, len(torn), fault, sealed)
        digests.append(before := _digest(line))
        size += len(line) + 1
    return Chain(digests, size, len(torn), "", sealed)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _misfit(line: bytes, number: int, before: str, name: str) -> str:
    """Say why a line is not the next entry of a log; nothing if it is."""
    try:
        entry = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"it is no entry: {error}"
    if entry.number != number:
        return f"it says that it is number {entry.number}: entries were left out, added or moved"
    if entry.before != before:
        return "it does not follow on the one before, which was changed, or is another"
    whose = f"{entry.role}-{entry.id}"
    return f"it is the log of {whose}" if number == 1 and name.partition("-aside")[0] != whose else ""


def _line(entry: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(entry)
    except UnicodeEncodeError:
        return msgspec.json.encode(printable(entry))


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _head_of(path: Path) -> Path:
    return path.with_suffix(".head")


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-aside-{number}.jsonl")


_DECODER = msgspec.json.Decoder(Entry)
