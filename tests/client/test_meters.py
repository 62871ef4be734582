"""The timer reports in the original's lines; that it measures at all is checked by shares, not by times."""

import time
from collections.abc import Iterator

import numpy as np

from fedps.client.meters import StepTimer
from fedps.client.windows import Window


def slow(count: int) -> Iterator[Window]:
    for _ in range(count):
        time.sleep(0.001)
        yield Window([], [np.zeros(5, np.int32)], 8)


def test_reading_is_told_in_the_originals_lines() -> None:
    timer, due = StepTimer(), []
    for number, _ in enumerate(timer.reading(slow(201)), 1):
        with timer.step():
            time.sleep(0.0005)
        time.sleep(0.001)
        if timer.due():
            due.append(number)
    assert due == [100, 200]
    assert (timer.batches, timer.samples) == (201, 1005)
    step, exchange, read, share, speed = timer.lines()
    for line, name, least in ((step, "[0][step]", 0.0005), (exchange, "[1][exchange]", 0.001)):
        assert line.startswith(f"op_name:{name}, op_mean_time:[0.0")
        assert float(line.rpartition("[")[2].rstrip("s]")) >= least
    assert read.startswith("mean read time: 0.00")
    assert float(read.split()[-1].rstrip("s")) >= 0.001
    assert 0 < float(share.removeprefix("IO percent: ")) <= 100
    assert speed.endswith(" instances/s")
    assert float(speed.split()[0]) > 0


def test_before_the_first_batch_there_is_nothing_to_tell() -> None:
    timer = StepTimer()
    assert list(timer.reading([])) == []
    assert timer.lines() == []
    assert not timer.due()
