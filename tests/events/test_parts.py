"""A run of several parts, and clocks that are set: what is done again counts once, and no time passes that did not."""

import json
import time
from pathlib import Path

import pytest

from fedps.events import events
from fedps.events.events import Entry
from fedps.events.journal import JOURNAL, Journal, read_entries
from fedps.events.ledger import Ledger
from fedps.launch.resuming import still_true
from fedps.metrics import Histogram
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.events.entries import histogram, ledger_of, worker
from tests.events.kinds import sums


def test_what_a_worker_does_again_once_it_is_started_again_counts_once(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 2, began=8.0)
    for who in "ab":
        ledger.take(worker(who, 10.0, events.EpochBegin(0)))
        ledger.take(worker(who, 12.0, events.EpochEnd(0, 100, 0.5, 0.9, histogram([0.9, 0.1], [1, 0]))))
    ledger.take(worker("b", 13.0, events.EpochBegin(1)))
    ledger.take(worker("b", 14.0, events.Restarted("died with signal 9", 1)))
    ledger.take(worker("b", 15.0, events.EpochBegin(0)))
    ledger.take(worker("b", 16.0, events.EpochEnd(0, 100, 0.7, 0.9, histogram([0.1, 0.9], [1, 0]))))
    for who in "ab":
        ledger.take(worker(who, 17.0, events.Evaluated(1, sums(2, 1.0, 0.5), {"auc": histogram([0.9, 0.5], [1, 0])})))
        ledger.take(worker(who, 18.0, events.Done(bytes_sent=10, bytes_received=20, retries=1)))
    found = ledger.summary(20.0, None)
    assert (found["samples"], found["train_seconds"], found["status"]) == (200, 4.0, "ok")
    assert (found["metrics"]["loss"], found["metrics"]["train_auc"]) == (0.5, 1.0)
    assert (found["faults"]["restarts"], found["faults"]["lost_workers"]) == (1, [])
    assert found["bytes"]["sent_by_clients"] is None, "what the process sent that died, nobody knows"


def test_a_run_that_goes_on_is_summed_up_over_all_its_parts(make_job: MakeJob, tmp_path: Path) -> None:
    def round_of(epoch: int, at: float) -> list[Entry]:
        told = list[Entry]()
        for who, score in (("a", 0.9), ("b", 0.4)):
            told.append(worker(who, at, events.EpochBegin(epoch)))
            told.append(worker(who, at, events.FirstBatch()))
            told.append(worker(who, at + 2, events.EpochEnd(epoch, 100, 0.5, 0.9, histogram([score, 0.5], [1, 0]))))
            scores = {"auc": histogram([score, 0.5], [1, 0])}
            told.append(worker(who, at + 3, events.Evaluated(epoch + 1, sums(2, 1.0, 0.5), scores)))
        return told

    first, second, third = round_of(0, 10.0), round_of(1, 20.0), round_of(2, 130.0)
    whole, before, after = (ledger_of(make_job, 2, began=10.0, epochs=3) for _ in range(3))
    for entry in [*first, *second, *third]:
        whole.take(entry)
    journal = Journal(tmp_path / JOURNAL)
    for entry in [*first, *second[:7]]:  # b was killed before it was evaluated, and a had its checkpoint before
        before.take(entry)
        journal.write(entry)
    for figures in before.rounds:
        journal.write(Entry(14.0, "launcher", "", events.Completed(figures["round"], figures)))
    journal.close()
    here = dict.fromkeys([ClientId("a"), ClientId("b")], 1)
    resumed = events.Resumed(22.0, True, here, dict.fromkeys(here, 0))
    for entry in still_true(list(read_entries(tmp_path / JOURNAL)), resumed):
        after.take(entry)
    after.take(Entry(100.0, "launcher", "", resumed))
    for entry in [*round_of(1, 120.0), *third]:
        after.take(entry)
    due, found = whole.summary(140.0, None), after.summary(140.0, None)
    assert [r["round"] for r in found["rounds"]] == [1, 2, 3]
    for name in ("loss", "auc", "train_auc", "hr@10", "selected"):
        assert [r[name] for r in found["rounds"]] == [r[name] for r in due["rounds"]], name
    assert (found["samples"], found["start_seconds"]) == (600, 0.0)
    assert found["wall_seconds"] == 12.0 + 40.0, "from 10 s to 22 s, and from 100 s on; the time between does not count"
    assert found["train_seconds"] == 2.0 * 4, "round 2 was trained twice"


def test_a_clock_that_jumps_back_takes_no_time_off(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(), began=100.0)
    for at, event in ((101.0, events.EpochBegin(0)), (103.0, events.EpochEnd(0, 10, 0.5, None, Histogram()))):
        ledger.take(Entry(at, "worker", "a", event))
    ledger.take(Entry(104.0, "worker", "a", events.EpochBegin(1)))
    ledger.take(Entry(4.0, "worker", "a", events.EpochEnd(1, 10, 0.5, None, Histogram())))
    found = ledger.summary(5.0, None)
    assert (found["train_seconds"], found["samples_per_second"], found["wall_seconds"]) == (2.0, 10.0, 0.0)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_no_time_passes_while_a_clock_is_set(jump: float, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(make_job, 1, began=events.now())
    set_ = time.time() + jump
    monkeypatch.setattr(time, "time", lambda: set_)
    for event in (events.EpochBegin(0), events.FirstBatch(), events.EpochEnd(0, 10, 0.5, None, Histogram())):
        ledger.take(events.stamp("worker", "a", event))
    found = ledger.summary(events.now(), None)
    assert all(0 <= found[f"{part}_seconds"] < 1000 for part in ("start", "train", "wall"))


def test_a_run_that_goes_on_by_another_clock_starts_and_ends_by_its_own(make_job: MakeJob) -> None:
    """Its first part ran from 10^6 s, and had no batch of b's; its second one, after a reboot, from 50 s on."""
    ledger, now = ledger_of(make_job, 2, began=1e6), 1e6
    ledger.take(worker("a", now + 1, events.EpochBegin(0)))
    ledger.take(worker("a", now + 2, events.FirstBatch()))
    here = {ClientId("a"): 0}
    ledger.take(Entry(50.0, "launcher", "", events.Resumed(now + 3, True, here, here)))
    for who in "ab":
        ledger.take(worker(who, 54.0, events.EpochBegin(0)))
        ledger.take(worker(who, 55.0, events.FirstBatch()))
        ledger.take(worker(who, 60.0, events.EpochEnd(0, 30, 0.5, None, Histogram())))
    found = ledger.summary(70.0, None)
    assert (found["start_seconds"], found["train_seconds"], found["wall_seconds"]) == (3.0 + 5.0, 2.0 + 6.0, 3.0 + 20.0)


def test_a_time_that_is_none_leaves_a_summary_that_can_be_written(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 1)
    for _ in range(2):
        ledger.take(Entry(0.0, "launcher", "", events.Resumed(1e308, True, {}, {})))
    ledger.take(worker("a", 0.0, events.FirstBatch()))
    json.dumps(ledger.summary(1.0, None), allow_nan=False)
