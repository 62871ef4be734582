"""A server in small, which only counts: what it has is told by its records alone, so a wrong one of them is seen."""

from collections.abc import Iterator
from contextlib import suppress

from fedps.storage.disk import Disk
from fedps.storage.log import Log


class Counting:
    """Appends the numbers from 0 on to a log; a snapshot holds all before it, in two records.

    Attributes:
        acknowledged: how many numbers somebody was told are durable.
        appended: how many there were ever.
    """

    def __init__(self) -> None:
        self.acknowledged = self.appended = 0

    def push(self, log: Log, count: int = 1) -> None:
        for _ in range(count):
            log.append([b"push ", str(log.position).encode(), b" " * (7 * log.position % 90)])
        self.appended = max(self.appended, log.position)

    def flush(self, log: Log) -> None:
        self.acknowledged = max(self.acknowledged, log.flush())

    def live(self, log: Log, patient: bool = False) -> None:
        """Push, and save twice while pushes come; who is patient tries again later what the disk refuses."""
        for _ in self.steps(log, patient):
            pass

    def steps(self, log: Log, patient: bool = False) -> Iterator[None]:
        """Do the same step by step."""
        refused = (OSError,) if patient else ()
        for save in range(2):
            self.push(log, 2)
            with suppress(*refused):
                self.flush(log)
            yield
            self.push(log)
            compaction = log.compact()
            try:
                middle = log.position // 2
                compaction.write([numbers(0, middle)])
                self.push(log)
                if save:
                    self.flush(log)
                yield
                self.push(log)  # durable by the commit at the earliest
                compaction.write([numbers(middle, log.position - 2)])
                compaction.commit(keep=3 * save)
                yield
            except refused:
                compaction.abandon()
        self.push(log, 2)
        with suppress(*refused):
            self.flush(log)
        self.flush(log)
        yield

    def check(self, disk: Disk, back: int = 0) -> Log:
        """Recover: nothing acknowledged is lost, and nothing is there that was not pushed."""
        log = Log(disk)
        assert self.acknowledged <= held(log, back) <= self.appended
        return log


def numbers(begin: int, end: int) -> bytes:
    return b"sum " + b" ".join(str(number).encode() for number in range(begin, end))


def held(log: Log, back: int = 0) -> int:
    """Recover a log; return how many numbers it holds, which are all those before."""
    found: list[int] = []
    for record in log.recover(back):
        found += (int(word) for word in bytes(record).split()[1:])
    assert found == list(range(log.position))
    assert log.durable == log.position
    return len(found)
