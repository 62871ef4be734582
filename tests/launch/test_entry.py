"""What a role tells the launcher: it never waits for the launcher, and nothing that matters is lost."""

import io
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fedps.events import events
from fedps.events.events import Event
from fedps.events.forms import decode
from fedps.launch.local.entry import MOST_WAITING, Log, Outbox
from fedps.metrics import Histogram
from tests.events.kinds import sums

NEWS = events.Progress(0, 1, 2, 32, 0.5, 0.75)
ALL = 5000


def read_all(pipe: Connection) -> list[Event]:
    came: list[Event] = []
    while True:
        try:
            came.append(decode(pipe.recv_bytes()))
        except EOFError:
            return came


def reported(*told: Event) -> list[Event]:
    """Report events while nobody reads; return what comes once somebody does."""
    ours, theirs = Pipe()
    outbox, came = Outbox(theirs), list[Event]()
    for event in told:
        outbox.report(event)  # does not wait, though nobody reads
    reader = threading.Thread(target=lambda: came.extend(read_all(ours)))
    reader.start()
    outbox.close()
    theirs.close()
    reader.join()
    ours.close()
    return came


def test_a_role_does_not_wait_for_a_launcher_that_does_not_read_and_tells_what_it_left_out() -> None:
    came = reported(*[NEWS] * ALL, events.FirstBatch())
    left_out = sum(event.count for event in came if isinstance(event, events.Dropped))
    assert came.count(NEWS) >= MOST_WAITING and left_out > 0
    assert came.count(NEWS) + left_out == ALL and came[-1] == events.FirstBatch()


def test_what_matters_is_never_left_out() -> None:
    told = [e for k in range(MOST_WAITING) for e in (events.EpochBegin(k), events.Saved(k, "a folder", 0.1), NEWS)]
    came = reported(*told, events.Evaluated(1, sums(2, 1.5, 0.75), {"auc": Histogram()}))
    matters = [e for e in came if not isinstance(e, events.Progress | events.Dropped)]
    assert matters[:-1] == [e for e in told if e is not NEWS]
    assert isinstance(matters[-1], events.Evaluated)
    dropped = sum(e.count for e in came if isinstance(e, events.Dropped))
    assert dropped + came.count(NEWS) == MOST_WAITING and dropped


def test_a_role_whose_launcher_is_gone_can_end() -> None:
    ours, theirs = Pipe()
    ours.close()
    outbox = Outbox(theirs)
    outbox.report(events.FirstBatch())
    outbox.close()
    theirs.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_a_log_finds_no_room_for_ends_nobody(tmp_path: Path) -> None:
    with io.TextIOWrapper(Log("/dev/full", "a"), write_through=True) as log:
        print("said", file=log, flush=True)
    with io.TextIOWrapper(Log(str(tmp_path / "log"), "a"), write_through=True) as log:
        print("said", file=log)
        assert (tmp_path / "log").read_text() == "said\n"
