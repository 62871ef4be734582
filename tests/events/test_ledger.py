"""From events to `summary.json`: spans, sums over clients, and the figures' definitions."""

import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from math import fsum, inf
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedps.config import Job
from fedps.events import events
from fedps.events.events import Entry
from fedps.events.ledger import MOST_OPEN, Ledger
from fedps.launch.inprocess import run_in_process
from fedps.metrics import Histogram
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.events.entries import histogram, ledger_of, worker
from tests.events.kinds import EVENTS, sums


def run_of_two(ledger: Ledger) -> None:
    """Client a: 300 samples from 10 s to 14 s; client b: 100 samples from 11 s to 16 s; both evaluated from 16 s."""
    for who, begin, end, samples, loss in (("a", 10.0, 14.0, 300, 0.2), ("b", 11.0, 16.0, 100, 0.6)):
        ledger.take(worker(who, 9.0, events.Data(samples, 2)))
        ledger.take(worker(who, begin, events.EpochBegin(0)))
        ledger.take(worker(who, begin + 0.5, events.FirstBatch()))
        ledger.take(worker(who, begin + 1, events.Progress(0, 50, 60, samples=50, loss=0.5, auc=0.7)))
        ledger.take(worker(who, end, events.EpochEnd(0, samples, loss, 0.9, histogram([0.9, 0.1], [1, 0]))))
    for who, hits, scores in (("a", 2.0, [0.9, 0.5]), ("b", 0.5, [0.4, 0.3])):
        ledger.take(worker(who, 16.0, events.EvaluateBegin(1)))
        ledger.take(worker(who, 17.0, events.Evaluated(1, sums(2, hits, hits / 2), {"auc": histogram(scores, [1, 0])})))
        ledger.take(worker(who, 18.0, events.Done(bytes_sent=10, bytes_received=20, retries=1)))


def test_figures_are_sums_over_clients_and_spans_of_time(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(worker_num=10), began=8.0)
    run_of_two(ledger)
    found = ledger.summary(20.0, None)
    assert (found["status"], found["samples"], found["train_seconds"]) == ("ok", 400, 6.0)
    assert found["samples_per_second"] == pytest.approx(400 / 6)
    assert (found["eval_seconds"], found["wall_seconds"]) == (1.0, 12.0)
    assert found["metrics"]["loss"] == pytest.approx((300 * 0.2 + 100 * 0.6) / 400)
    assert found["metrics"]["hr@10"] == pytest.approx(2.5 / 4)
    assert found["metrics"]["ndcg@10"] == pytest.approx(1.25 / 4)
    assert found["metrics"]["auc"] == pytest.approx(3 / 4), "over all clients' scores: 0.9 and 0.4 against 0.5 and 0.3"
    assert found["metrics"]["train_auc"] == 1.0
    assert found["bytes"] == {"sent_by_clients": 20, "received_by_clients": 40}
    assert found["faults"]["retries"] == 2
    assert found["clients"]["a"] == {
        "samples": 300, "test_users": 2, "first_epoch_auc": {"50": 0.7},
        "metrics": {"auc": 1.0, "hr@10": 1.0, "ndcg@10": 0.5},
    }  # fmt: skip
    (only,) = found["rounds"]
    assert (only["round"], only["selected"], only["seconds"]) == (1, ["a", "b"], 6.0)


def test_a_start_is_over_when_every_worker_has_trained_a_batch(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(), began=8.0)  # ten clients, of which two come
    run_of_two(ledger)
    assert ledger.summary(20.0, None)["start_seconds"] is None
    for k in range(8):
        ledger.take(worker(str(k), 15.0, events.FirstBatch()))
    assert ledger.summary(20.0, None)["start_seconds"] == 7.0


def test_a_run_that_never_trained_has_a_summary_of_the_same_form(make_job: MakeJob) -> None:
    empty, full = Ledger(make_job(), began=0.0), Ledger(make_job(), began=8.0)
    run_of_two(full)
    found = empty.summary(1.0, "server 0: died")
    assert found.keys() == full.summary(20.0, None).keys()
    assert (found["status"], found["error"]) == ("failed", "server 0: died")
    assert (found["samples"], found["samples_per_second"], found["rounds"]) == (0, None, [])
    assert set(found["metrics"].values()) == {None}


def test_what_is_not_known_is_none_not_zero(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(), began=8.0)
    ledger.take(worker("a", 10.0, events.EpochBegin(0)))
    found = ledger.summary(20.0, "launcher: stopped by a signal")
    assert {*found["bytes"].values(), *found["memory_mib"].values(), found["samples_per_second"]} == {None}


def of_one_client(make_job: MakeJob, loss: float, hits: float, scores: list[float]) -> dict[str, Any]:
    """Return the summary of a client whose one epoch ended so, with 20 users held out."""
    ledger = Ledger(make_job(), began=0.0)
    ledger.take(worker("a", 1.0, events.EpochBegin(0)))
    ledger.take(worker("a", 2.0, events.EpochEnd(0, 100, loss, 0.9, histogram(scores, [1, 0]))))
    ledger.take(worker("a", 3.0, events.Evaluated(1, sums(20, hits, hits / 2), {"auc": histogram(scores, [1, 0])})))
    return ledger.summary(4.0, None)


def test_a_model_that_has_learned_is_not_warned_of(make_job: MakeJob) -> None:
    found = of_one_client(make_job, 0.4, 10.0, [0.9, 0.1])
    assert (found["status"], found["warnings"]) == ("ok", [])


@pytest.mark.parametrize(
    ("loss", "hits", "scores", "told"),
    [
        (1.5, 10.0, [0.9, 0.1], "loss 1.5: a model that has learned nothing has about 0.69"),
        (0.4, 1.8, [0.9, 0.1], "HR@10 0.0900 (0.1), NDCG@10 0.0450 (0.04544): no better than chance"),
        (0.4, 10.0, [0.5, 0.5], "AUC 0.5000 (0.5), training AUC 0.5000 (0.5): no better than chance"),
        (0.4, 10.0, [0.1, 0.9], "AUC 0.0000 (0.5), training AUC 0.0000 (0.5): no better than chance"),
    ],
)
def test_a_loss_beyond_reason_and_figures_of_chance_are_warned_of(
    loss: float, hits: float, scores: list[float], told: str, make_job: MakeJob
) -> None:
    found = of_one_client(make_job, loss, hits, scores)
    assert found["status"] == "ok"
    assert len(found["warnings"]) == 1
    assert found["warnings"][0].startswith(told)


@pytest.mark.parametrize("loss", [3.5e16, inf, float("nan")])
def test_a_job_that_diverged_has_failed(loss: float, make_job: MakeJob) -> None:
    found = of_one_client(make_job, loss, 2.0, [0.5, 0.5])
    assert found["status"] == "failed"
    assert found["error"].startswith("the training has diverged: ")


def test_faults_and_memory_are_kept(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(), began=0.0)
    ledger.take(worker("7", 1.0, events.Failed("out of luck")))
    ledger.take(Entry(1.0, "server", "0", events.Refused("8", "stale", "too late")))
    ledger.take(Entry(1.0, "server", "0", events.Suspended("6", 1, "silent")))
    ledger.take(Entry(1.0, "coordinator", "0", events.LeftBehind("5", 1, "past its deadline")))
    ledger.take(Entry(1.0, "server", "0", events.Lost("8", "gone")))
    ledger.take(Entry(1.0, "server", "0", events.Lost("9", "gone")))
    ledger.take(worker("9", 2.0, events.FirstBatch()))  # it came back
    ledger.take(worker("9", 3.0, events.EpochEnd(0, 10, 0.5, 0.5, histogram([0.9, 0.1], [1, 0]), late=2)))
    ledger.weigh({("worker", "1"): 100.0, ("worker", "2"): 90.0, ("server", "0"): 50.0}, 200.0)
    ledger.weigh({("worker", "1"): 10.0}, 20.0)
    found = ledger.summary(2.0, None)
    assert found["faults"] == {
        "rejected_messages": 1, "late_pushes": 2, "left_behind": ["5", "6"], "retries": 0, "lost_workers": ["7", "8"], "restarts": 0,
        "unsaved": 0,
    }  # fmt: skip
    assert found["memory_mib"] == {
        "worker_max_rss": 100.0,
        "server_max_rss": 50.0,
        "coordinator_max_rss": None,
        "sum_pss": 200.0,
    }


def test_with_a_coordinator_the_start_is_over_when_those_picked_first_have_trained(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(with_coordinator=True), began=100.0)
    for who, state, seconds in (("0", "JOIN", 0.5), ("1", "WAIT", 0.2), ("2", "JOIN", 0.9)):
        ledger.take(worker(who, 101.0, events.Assigned(1, state, True, seconds)))  # type: ignore[arg-type]
    ledger.take(worker("0", 103.0, events.FirstBatch()))
    assert ledger.summary(110.0, None)["start_seconds"] is None
    ledger.take(worker("2", 104.0, events.FirstBatch()))
    assert ledger.summary(110.0, None)["start_seconds"] == 4.0


def test_a_client_whose_script_tells_nothing_of_its_data_is_counted_all_the_same(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 1)
    ledger.take(worker("a", 1.0, events.Progress(0, 50, 60, samples=50, loss=0.5, auc=0.7)))
    ledger.take(worker("a", 2.0, events.EpochEnd(0, 60, 0.5, 0.7, Histogram())))
    found = ledger.summary(3.0, None)
    assert found["clients"] == {"a": {"samples": None, "test_users": None, "first_epoch_auc": {"50": 0.7}}}
    assert found["samples"] == 60


def evaluated(who: str, round_: int) -> list[Entry]:
    """Return a client's round, in which it trains one sample and hits all its users."""
    return [
        worker(who, 2.0 * round_, events.EpochBegin(round_ - 1)),
        worker(who, 2.0 * round_ + 1, events.EpochEnd(round_ - 1, 1, 0.5, 0.5, Histogram())),
        worker(who, 2.0 * round_ + 1, events.EvaluateBegin(round_)),
        worker(who, 2.0 * round_ + 2, events.Evaluated(round_, sums(2, 2.0, 1.0), {"auc": Histogram()})),
    ]


def test_a_round_is_complete_once_nobody_has_more_to_tell_of_it(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 3)

    def told(*entries: Entry) -> list[int]:
        for entry in entries:
            ledger.take(entry)
        return [figures["round"] for figures in ledger.rounds]

    assert told(*evaluated("a", 1), *evaluated("b", 1)) == [], "a third is on its way"
    assert told(worker("c", 1.0, events.Data(5, 1))) == []
    assert told(*evaluated("c", 1)) == [1]
    assert told(*evaluated("a", 2), *evaluated("b", 2)) == [1]
    assert told(Entry(9.0, "server", "0", events.Suspended("c", 3, "silent"))) == [1, 2]
    assert told(*evaluated("c", 2)) == [1, 2], "too late"
    assert ledger.summary(20.0, None)["rounds"][1]["selected"] == ["a", "b"]
    assert told(*evaluated("a", 3), *evaluated("c", 3)) == [1, 2]
    assert told(worker("b", 9.0, events.Failed("out of luck"))) == [1, 2, 3]


def test_the_ledger_is_no_larger_after_many_rounds(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 2)
    for round_ in range(1, 200):
        for entry in evaluated("a", round_) + evaluated("b", round_):
            ledger.take(entry)
        assert len(ledger._open) <= 1, "a round's sums go once it is complete"
    assert len(ledger.summary(1000.0, None)["rounds"]) == 199


def test_rounds_without_an_evaluation_leave_nothing_behind(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 2)
    for round_ in range(1, 200):
        for entry in evaluated("a", round_)[:2] + evaluated("b", round_)[:2]:
            ledger.take(entry)
        assert len(ledger._open) <= 1
    assert (ledger.rounds, ledger.summary(1000.0, None)["samples"]) == ([], 398)


def test_one_that_hangs_does_not_keep_rounds_open_for_ever(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 2)
    ledger.take(worker("b", 0.0, events.Started(7)))
    for round_ in range(1, 200):
        for entry in evaluated("a", round_):
            ledger.take(entry)
    assert len(ledger._open) == MOST_OPEN
    assert [f["round"] for f in ledger.summary(1000.0, None)["rounds"]] == list(range(1, 200))


def test_an_event_is_not_kept_once_it_is_added_up(make_job: MakeJob) -> None:
    ledger = ledger_of(make_job, 2)
    counted = Histogram()
    before = sys.getrefcount(counted)
    ledger.take(worker("a", 1.0, events.EpochEnd(0, 1, 0.5, 0.5, counted)))
    ledger.take(worker("a", 1.0, events.Evaluated(1, sums(1, 1.0, 0.5), {"auc": counted})))
    assert sys.getrefcount(counted) == before


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_events_in_no_order_bring_the_ledger_down(make_job: MakeJob, data: st.DataObject) -> None:
    entries = st.builds(
        Entry, st.floats(0, 2e9), st.sampled_from(["worker", "server", "none"]), st.sampled_from("ab"), EVENTS
    )
    ledger = Ledger(make_job(with_coordinator=data.draw(st.booleans())), began=0.0)
    for entry in data.draw(st.lists(entries, max_size=30)):
        ledger.take(entry)
    json.dumps(ledger.summary(2e9, None), allow_nan=False)


def figures_of(entries: Sequence[Entry]) -> dict[int, dict[str, Any]]:
    """Return each round's figures, added up from all events at once."""
    rounds = {}
    for round_ in {e.event.epoch for e in entries if isinstance(e.event, events.Evaluated)}:
        trained = [e.event for e in entries if isinstance(e.event, events.EpochEnd) and e.event.epoch == round_ - 1]
        tested = [e.event for e in entries if isinstance(e.event, events.Evaluated) and e.event.epoch == round_]
        training, held_out = Histogram(), Histogram()
        for one in trained:
            training.merge(one.histogram)
        for other in tested:
            held_out.merge(other.histograms["auc"])
        users = sum(e.sums["users"] for e in tested)
        rounds[round_] = {
            "loss": fsum(e.loss * e.samples for e in trained) / sum(e.samples for e in trained),
            "auc": held_out.auc(),
            "train_auc": training.auc(),
            "hr@10": fsum(e.sums["hr@10"] for e in tested) / users,
            "ndcg@10": fsum(e.sums["ndcg@10"] for e in tested) / users,
        }
    return rounds


def summed(job: Job, entries: Sequence[Entry]) -> dict[str, Any]:
    ledger = Ledger(job, began=0.0)
    for entry in entries:
        ledger.take(entry)
    return ledger.summary(2e9, None)


@pytest.mark.parametrize("coordinated", [True, False])
def test_a_real_run_adds_up_to_the_same_however_its_roles_are_heard(
    make_job: MakeJob, tmp_path: Path, coordinated: bool
) -> None:
    job, entries = make_job(epochs=3, with_coordinator=coordinated), list[Entry]()
    run_in_process(job, tmp_path / "run", entries.append)
    due, chance = summed(job, entries), random.Random(7)
    figures = figures_of(entries)
    assert {r["round"]: {name: r[name] for name in figures[r["round"]]} for r in due["rounds"]} == figures
    for _ in range(20):
        roles = defaultdict[tuple[str, str], list[Entry]](list)
        for entry in entries:
            roles[entry.role, entry.id].append(entry)
        turns = chance.sample([*map(itemgetter(1, 2), entries)], len(entries))
        assert summed(job, [roles[turn].pop(0) for turn in turns]) == due, "each role's events come in order"
    for _ in range(20):
        summed(job, chance.sample(entries, chance.randrange(len(entries))))


def test_where_no_worker_is_heard_rounds_are_as_the_coordinator_merged_them(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(with_coordinator=True), began=0.0)
    for event in (
        events.Selected(1, [ClientId("b"), ClientId("a")], [], [], 0.1),
        events.Round(1, {"loss": 0.5, "train_auc": 0.8, "auc": 0.7, "hr@10": 0.4, "ndcg@10": 0.2}),
    ):
        ledger.take(Entry(1.0, "coordinator", "0", event))
    found = ledger.summary(2.0, None)
    assert found["metrics"] == {"loss": 0.5, "auc": 0.7, "train_auc": 0.8, "hr@10": 0.4, "ndcg@10": 0.2}
    assert [(r["round"], r["selected"]) for r in found["rounds"]] == [(1, ["a", "b"])]
