"""Reading a log: the newest whole snapshot, what comes behind it, and which damage may be passed over.

The log may be one that another process still writes. Then its records are yielded as they become durable: those that a later
one says were on disk when it was written. Once the log is ours, the rest follows as it would after any crash.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from fedps.errors import DataError, LostError
from fedps.storage.disk import Disk
from fedps.storage.frames import HEADER, Content, Frame, Frames, Kind

PIECE = 8 << 20  # bytes of a file that are in memory at a time
NAME = re.compile(r"(log|snapshot)-(\d+)")
OVER = "over"  # a file that is there once a log is being removed, of which nothing counts any more
COPY = "put a copy of the folder in its place"


class Reading:
    """Reads a log once, or again.

    Args:
        disk: the log's folder.
        ours: whether nobody else writes it; asked again and again until it says so, it should wait a little first.

    Attributes:
        notes: what was cut off or not used, a sentence each.
        position: behind the record that was yielded last.
        bases: where one can begin: positions of snapshots that are whole, or not looked at, and 0 where the log goes back to it.
        mark: of the log, empty while no file was read.
        follows: whether somebody else writes it.
        sure: the log file that was read last, and up to which byte its own frames say that it was on disk.
    """

    def __init__(self, disk: Disk, ours: Callable[[], bool]) -> None:
        self.notes: list[str] = []
        self.bases: list[int] = []
        self.position, self.mark, self.sure = 0, b"", (-1, 0)
        self._unsure = deque[tuple[int, int]]()  # positions and bytes of that file up to which nothing says so yet
        self._disk, self._ours = disk, ours
        self.follows = not ours()
        self._followed: Frames  # of the file that is followed

    def records(self, back: int) -> Iterator[memoryview]:
        """Yield the records of a snapshot and those behind it.

        Args:
            back: how many whole snapshots to go back before.

        Raises:
            DataError: see `Log.recover`.
            LostError: see there.
        """
        with told(self._disk):
            self._check_not_removed()
            for frame in self._begin(back):
                yield frame.record
            log, end = self.position, 0  # what is read: which file, and from which byte on
            while True:
                ours = self._ours()  # asked first: so what is found then is all there is
                snapshots, logs = found(self._disk, Kind.SNAPSHOT), found(self._disk, Kind.LOG)
                due = next((each for each in logs if each > log), max(snapshots, default=0))
                if log in logs:
                    for frame in self._read(log, end, due) if ours else self._follow(log, end, due):
                        end = frame.end
                        self.position += 1
                        self._note_sure(log, frame)
                        yield frame.record
                if self.position in logs and self.position != log:
                    log, end = self.position, 0
                elif ours:
                    break
                elif log not in logs and self.position < due:
                    raise DataError(f"{self._disk}: its server goes on faster than it is followed: begin anew")
            self._check_not_removed(gone=self.follows and not snapshots and not logs)
            self.follows = False
            if self.position < due or logs[-1:] > [log]:
                raise DataError(
                    f"{self._disk}: holds records up to {self.position}, and then from {due} on: a file is missing or cut"
                    f" off; {COPY}"
                )

    def _check_not_removed(self, gone: bool = False) -> None:
        if gone or OVER in self._disk.names():
            raise LostError(
                f"{self._disk}: the log was removed by its server, whose job has come to its end; to begin anew, remove this"
                " folder, or choose another --run_dir"
            )

    def _note_sure(self, log: int, frame: Frame) -> None:
        if self.sure[0] != log:
            self.sure = log, 0
            self._unsure.clear()
        self._unsure.append((self.position, frame.end))
        while self._unsure and self._unsure[0][0] <= frame.durable:
            self.sure = log, self._unsure.popleft()[1]

    def _begin(self, back: int) -> Iterator[Frame]:
        """Choose the snapshot to begin with, and return its frames; a damaged one is noted and passed over."""
        while True:
            ours = self._ours()
            snapshots, logs = found(self._disk, Kind.SNAPSHOT), found(self._disk, Kind.LOG)
            empty = [0] if 0 not in snapshots and (0 in logs or (not snapshots and not logs)) else []
            self.bases = sorted([*snapshots, *empty])
            self.notes.clear()
            self.sure = -1, 0
            try:
                return self._newest_whole(back, empty)
            except FileNotFoundError:
                if ours:
                    raise  # else its server has removed it meanwhile

    def _newest_whole(self, back: int, empty: list[int]) -> Iterator[Frame]:
        for base in self.bases[::-1]:
            frames = iter(()) if [base] == empty else self._summed_up(base)
            if frames is None:
                note = f"{self._disk}/snapshot-{base}: is damaged and not used; the one before it is, if there is one"
                self.notes.append(note)
                self.bases.remove(base)
            elif back:
                back -= 1
            else:
                self.position = base
                return frames
        said = "".join(f"; {note}" for note in self.notes)
        raise DataError(
            f"{self._disk}: no whole snapshot is left to begin from{said}; {COPY}, or start anew without it"
        )

    def _summed_up(self, snapshot: int) -> Iterator[Frame] | None:
        """Return the frames of a snapshot; None if it is damaged anywhere: all of it is read before any of it is used."""
        opened = self.open(Kind.SNAPSHOT, snapshot, at_once=self.follows)
        if not opened:
            return None
        content, frames = opened
        count, last = 0, None
        for frame in frames.behind(content, HEADER.size):
            count, last = count + 1, frame
        whole = last is not None and last.end == len(content) and last.durable == count
        return self._again(snapshot, frames.behind(content, HEADER.size), count - 1) if whole else None

    def _again(self, snapshot: int, frames: Iterator[Frame], count: int) -> Iterator[Frame]:
        for frame in islice(frames, count):
            count -= 1
            yield frame
        if count:
            raise DataError(f"{self._disk}/snapshot-{snapshot}: can be read at one time and not at another; {COPY}")

    def _read(self, log: int, end: int, due: int) -> Iterator[Frame]:
        """Yield the frames of a log file behind byte `end`, of which records up to `due` must be there; cut off what is torn."""
        name, opened = f"log-{log}", self.open(Kind.LOG, log)
        size = self._disk.size(name)
        if opened:
            end = end or HEADER.size
            for frame in opened[1].behind(opened[0], end):
                end = frame.end
                yield frame
            due = max(due, opened[1].durable_behind(opened[0], end))
        elif size > HEADER.size:
            due = log + 1  # records were written, and not before their header was durable
        if self.position < due:
            raise DataError(
                f"{self._disk}/{name}: is damaged at byte {end}, where record {self.position} begins, though records up to {due}"
                f" were on disk: {COPY}; or give up what comes from there on: `truncate -s {end} {self._disk}/{name}`, and"
                " remove the files of higher numbers"
            )
        if end < size:
            self.notes.append(
                f"{self._disk}/{name}: {size - end} bytes behind record {self.position} were torn, and are cut off"
            )
            self._disk.truncate(name, end)

    def _follow(self, log: int, end: int, due: int) -> Iterator[Frame]:
        """Yield what is durable by now of a log file that another writes, behind byte `end`; all of it, once there is a next."""
        try:
            if not end:
                opened = self.open(Kind.LOG, log, at_once=True)
                if opened is None:
                    return
                self._followed, end = opened[1], HEADER.size
            content = memoryview(self._disk.read(f"{Kind.LOG}-{log}", end))
        except FileNotFoundError:  # its server needs it no more
            return
        frames = list(self._followed.behind(content, 0))
        durable = max([due, *(frame.durable for frame in frames)])
        for frame in frames[: max(0, durable - self.position)]:
            yield frame._replace(end=end + frame.end)

    def open(self, kind: Kind, position: int, at_once: bool = False) -> tuple[Content, Frames] | None:
        """Return a file's content and its frames; None if its header is damaged.

        Args:
            kind: of the file.
            position: the same.
            at_once: read all of it now, as another process may remove it.
        """
        name = f"{kind}-{position}"
        content: Content = memoryview(self._disk.read(name)) if at_once else Paged(self._disk, name)
        try:
            frames = Frames.of(content, kind, position)
        except ValueError as error:
            raise DataError(f"{self._disk}/{name}: {error}") from error
        if frames is None:
            return None
        self.mark = self.mark or frames.mark
        if frames.mark != self.mark:
            raise DataError(f"{self._disk}/{name}: is of another log than the files beside it: {COPY}")
        return content, frames


class Paged:
    """A file that nobody changes, of which a piece at a time is in memory; slices stay as they are.

    Args:
        disk: where it is.
        name: of the file.
    """

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk, self._name, self._size = disk, name, disk.size(name)
        self._begin, self._piece = 0, memoryview(b"")

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> memoryview:
        first, end, _ = part.indices(self._size)
        if first < self._begin or end > self._begin + len(self._piece):
            self._begin = first
            self._piece = memoryview(self._disk.read(self._name, first, max(end - first, PIECE)))
        return self._piece[first - self._begin : max(end, first) - self._begin]


def found(disk: Disk, kind: Kind) -> list[int]:
    """Return the positions of the files of a kind that are there, in order."""
    names = (NAME.fullmatch(name) for name in disk.names())
    return sorted(int(name[2]) for name in names if name and name[1] == kind)


@contextmanager
def told(disk: Disk) -> Iterator[None]:
    """Say where a disk is that fails.

    Raises:
        DataError: it did.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{disk}: cannot be read: {error}; put the disk in order, or {COPY}") from error
