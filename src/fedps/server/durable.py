"""What a server must not forget, and who waits until it is on disk.

Records of one moment are written together, beside the server's loop: what comes while a write is under way is of the next
(group commit). Whoever is to be told that something is done is told once all records up to then are on disk. A disk that
is full or fails is tried again; meanwhile nobody is told what is not so.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from fedps.errors import DataError, shortage
from fedps.events.events import Note, Report
from fedps.server.beside import Beside, Work, in_turns
from fedps.server.records import Array, Record, encode
from fedps.storage.log import Log

RETRY = 0.5  # seconds between two tries of a disk that failed
PAUSE = 60.0  # seconds from a snapshot that could not be written to the next
LEAST = 64 << 20  # bytes of a log before it is summed up
GROWTH = 2  # times the tables' own bytes: the same, of large ones
Answer = Callable[[], None]
Parts = Iterator[tuple[Record, Sequence[Array]]]


class Durable:
    """The records of one server, on their way to disk.

    Args:
        beside: lets work be done elsewhere; may be another each time.
        report: where events go.
        patience: seconds that the disk may fail before the server cannot go on.
        clock: seconds, monotonic.

    Attributes:
        log: where records go, once it is open; None: nowhere, and all is answered at once (`durability: none`).
        failure: why nothing can be written any more, None while it can.
        leans: whether the log cannot be taken up without files that it does not hold, which may go; a snapshot ends that.
    """

    def __init__(
        self, beside: Callable[[], Beside], report: Report, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.log: Log | None = None
        self.failure: Exception | None = None
        self.leans = False
        self._beside, self._report, self._patience, self._clock = beside, report, patience, clock
        self._waiting: deque[tuple[int, Answer]] = deque()  # up to which position all must be durable, and whom to tell
        self._writing = False
        self._failed_at: float | None = None  # when the disk began to fail
        self._tried_at = 0.0
        self._compacting = False
        self._no_snapshot_before = 0.0

    def open(self, log: Log) -> None:
        """Write to a log that was recovered from now on."""
        self.log = log

    @property
    def on(self) -> bool:
        """Whether anything is written."""
        return self.log is not None

    @property
    def stuck(self) -> bool:
        """Whether the disk fails."""
        return self._failed_at is not None

    @property
    def owes(self) -> bool:
        """Whether somebody is still to be told that something is done."""
        return bool(self._waiting)

    def note(self, record: Record, arrays: Sequence[Array] = ()) -> None:
        """Write a record, some time soon; arrays must not be changed any more."""
        if self.log is not None:
            self.log.append(encode(record, arrays))
            self._flush()

    def then(self, answer: Answer) -> None:
        """Call `answer` once all that was noted before is on disk."""
        if self.log is None or (not self._waiting and self.log.durable >= self.log.position):
            answer()
        else:
            self._waiting.append((self.log.position, answer))

    def tick(self, now: float) -> None:
        """Try again what has failed."""
        if self.stuck and not self._writing and now - self._tried_at > RETRY:
            self._flush(again=True)

    def due(self, size: Callable[[], int]) -> bool:
        """Whether the log is so long that a snapshot should sum it up.

        Args:
            size: returns the bytes that a snapshot has, about.
        """
        if self.log is None or self._compacting or self.stuck or self._clock() < self._no_snapshot_before:
            return False
        return self.leans or (self.log.bytes > LEAST and self.log.bytes > GROWTH * size())

    def compact(self, parts: Parts, keep: int) -> None:
        """Write a snapshot, piece by piece: each part is asked for in the server's own turn, and written beside it.

        Args:
            parts: the records that sum up all before, of one moment, which is now.
            keep: position to which one may have to go back.
        """
        if self.log is None or self._compacting:
            return
        self._compacting, compaction = True, self.log.compact()
        leaned, self.leans = self.leans, False

        def works() -> Iterator[Work]:
            for record, arrays in parts:
                yield partial(compaction.write, encode(record, arrays))
            yield partial(compaction.commit, keep)

        def done(error: Exception | None) -> None:
            self._compacting = False
            if error is not None:
                self._no_snapshot_before = self._clock() + PAUSE
                self.leans = self.leans or leaned
                self._beside()(compaction.abandon, lambda _: None)
                self._report(Note(f"a snapshot of the tables cannot be written: {_said(error)}; the log goes on"))

        in_turns(self._beside(), works(), done)

    def _flush(self, again: bool = False) -> None:
        if self.log is None or self._writing or (self.stuck and not again):
            return
        self._writing, self._tried_at = True, self._clock()
        self._beside()(self._write, self._written)

    def _write(self) -> None:
        assert self.log is not None  # noqa: S101  (who calls has looked)
        self.log.flush()

    def _written(self, error: Exception | None) -> None:
        self._writing = False
        if error is not None:
            self._note_failure(error)
            return
        if self.stuck:
            self._failed_at = None
            self._report(Note("the disk takes what is written again; all goes on"))
        assert self.log is not None  # noqa: S101
        if self.log.durable < self.log.position:
            self._flush()  # first: whom we tell may bring the next record
        while self._waiting and self._waiting[0][0] <= self.log.durable:
            self._waiting.popleft()[1]()

    def _note_failure(self, error: Exception) -> None:
        now = self._clock()
        if self._failed_at is None:
            self._failed_at = now
            self._report(
                Note(
                    f"what clients push cannot be written to disk: {_said(error)}; free space: it is tried again for"
                    f" {self._patience:g} s, and no push counts before it is written"
                )
            )
        elif now - self._failed_at > self._patience:
            self.failure = DataError(
                f"{self.log}: what clients push could not be written for {self._patience:g} s: {_said(error)}; free space,"
                " then go on by fedps run --resume"
            )


def _said(error: Exception) -> str:
    return (shortage(error) if isinstance(error, OSError) else None) or str(error)
