"""Whether each push that was answered counts once: what clients were told, against what the servers' logs hold."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedps.server.records import Applied, Kinds, Late, Offered, decode
from fedps.storage.frames import HEADER, Frames, Kind

Pushes = Counter[tuple[int, str, int]]  # server, client, number of the push


@cache
def answered(folder: Path) -> Pushes:
    """Return which pushes clients were told are done, and how often, in a run that has ended."""
    found = Pushes()
    for file in folder.glob("answered-*"):
        for line in file.read_text().splitlines():
            server, sequence = line.split()
            found[int(server), file.name.removeprefix("answered-"), int(sequence)] += 1
    return found


@cache
def counted(folder: Path) -> Pushes:
    """Return which pushes servers have taken, and how often, in a run that has ended."""
    found = Pushes()
    for log in folder.glob("log-*"):
        server = int(log.name.removeprefix("log-"))
        for record in records(log):
            if isinstance(record, Applied | Offered | Late):
                found.update((server, client, sequence) for client, sequence in record.pushes)
    return found


def records(log: Path) -> Iterator[Kinds]:
    """Yield all that a server has written, from its first record on."""
    files = sorted(log.glob("log-*"), key=lambda file: int(file.name.removeprefix("log-")))
    due = 0
    for file in files:
        begin, content = int(file.name.removeprefix("log-")), memoryview(file.read_bytes())
        assert begin == due, f"{file}: records {due} to {begin} are missing"
        frames = Frames.of(content, Kind.LOG, begin)
        assert frames is not None, file
        for frame in frames.behind(content, HEADER.size):
            due += 1
            yield decode(frame.record).record
