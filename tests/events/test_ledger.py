"""From events to `summary.json`: spans, sums over clients, and the figures' definitions."""

from math import fsum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.events.ledger import Evaluated, Ledger, union
from fedps.metrics import BUCKETS, Histogram
from tests.conftest import MakeJob

SPANS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1])), max_size=12)


@given(SPANS)
def test_a_union_of_spans_is_the_time_that_any_of_them_covers(spans: list[tuple[int, int]]) -> None:
    covered = {second for begin, end in spans for second in range(begin, end)}
    assert union([(float(a), float(b)) for a, b in spans]) == len(covered)


def histogram(scores: list[float], labels: list[int]) -> dict[str, list[int]]:
    made = Histogram()
    made.add(np.array(scores, np.float32), np.array(labels, np.float32))
    return {"positives": made.positives.tolist(), "negatives": made.negatives.tolist()}


def worker(who: str, at: float, event: str, **facts: Any) -> dict[str, Any]:
    return {"time": at, "role": "worker", "id": who, "event": event, **facts}


def run_of_two(ledger: Ledger) -> None:
    """Client a: 300 samples from 10 s to 14 s; client b: 100 samples from 11 s to 16 s; both evaluated from 16 s."""
    for who, begin, end, samples, loss in (("a", 10.0, 14.0, 300, 0.2), ("b", 11.0, 16.0, 100, 0.6)):
        ledger.take(worker(who, 9.0, "data", samples=samples, test_users=2))
        ledger.take(worker(who, begin, "epoch_begin", epoch=0))
        ledger.take(worker(who, begin + 0.5, "first_batch"))
        ledger.take(worker(who, begin + 1, "progress", epoch=0, batch=50, batches=60, samples=50, loss=0.5, auc=0.7))
        ledger.take(
            worker(who, end, "epoch_end", epoch=0, samples=samples, loss=loss, auc=0.9, **histogram([0.9, 0.1], [1, 0]))
        )
    for who, hits, scores in (("a", 2.0, [0.9, 0.5]), ("b", 0.5, [0.4, 0.3])):
        ledger.take(worker(who, 16.0, "evaluate_begin", epoch=1))
        ledger.take(
            worker(who, 17.0, "evaluated", epoch=1, users=2, hits=hits, ndcg=hits / 2, **histogram(scores, [1, 0]))
        )
        ledger.take(worker(who, 18.0, "done", bytes_sent=10, bytes_received=20, retries=1))


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
    assert found["clients"]["a"] == {"samples": 300, "test_users": 2, "first_epoch_auc": {"50": 0.7}}
    (only,) = found["rounds"]
    assert (only["round"], only["selected"], only["seconds"]) == (1, ["a", "b"], 6.0)


def test_a_start_is_over_when_every_worker_has_trained_a_batch(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(), began=8.0)  # ten clients, of which two come
    run_of_two(ledger)
    assert ledger.summary(20.0, None)["start_seconds"] is None
    for k in range(8):
        ledger.take(worker(str(k), 15.0, "first_batch"))
    assert ledger.summary(20.0, None)["start_seconds"] == 7.0


def test_a_run_that_never_trained_has_a_summary_of_the_same_form(make_job: MakeJob) -> None:
    empty, full = Ledger(make_job(), began=0.0), Ledger(make_job(), began=8.0)
    run_of_two(full)
    found = empty.summary(1.0, "server 0: died")
    assert found.keys() == full.summary(20.0, None).keys()
    assert (found["status"], found["error"]) == ("failed", "server 0: died")
    assert (found["samples"], found["samples_per_second"], found["rounds"]) == (0, 0.0, [])
    assert set(found["metrics"].values()) == {None}


def test_faults_and_memory_are_kept(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(), began=0.0)
    ledger.take(worker("7", 1.0, "failed", error="out of luck"))
    ledger.take({"time": 1.0, "role": "server", "id": "0", "event": "refused"})
    ledger.weigh({("worker", "1"): 100.0, ("worker", "2"): 90.0, ("server", "0"): 50.0}, 200.0)
    ledger.weigh({("worker", "1"): 10.0}, 20.0)
    found = ledger.summary(2.0, None)
    assert found["faults"] == {"rejected_messages": 1, "retries": 0, "lost_workers": ["7"], "restarts": 0}
    assert found["memory_mib"] == {
        "worker_max_rss": 100.0,
        "server_max_rss": 50.0,
        "coordinator_max_rss": 0.0,
        "sum_pss": 200.0,
    }


@given(st.permutations(range(6)))
def test_sums_do_not_depend_on_who_was_first(order: list[int]) -> None:
    total = Evaluated()
    for k in order:
        total.add(
            {"users": 1, "hits": 0.0, "ndcg": 1 / (3 + k), "positives": [0] * BUCKETS, "negatives": [0] * BUCKETS}
        )
    assert total.ndcg == fsum(1 / (3 + k) for k in range(6))


def test_with_a_coordinator_the_start_is_over_when_those_picked_first_have_trained(make_job: MakeJob) -> None:
    ledger = Ledger(make_job(with_coordinator=True), began=100.0)
    for who, state, seconds in (("0", "JOIN", 0.5), ("1", "WAIT", 0.2), ("2", "JOIN", 0.9)):
        ledger.take(
            {
                "event": "assigned",
                "round": 1,
                "state": state,
                "evaluate": True,
                "seconds": seconds,
                "id": who,
                "time": 101,
            }
        )
    ledger.take({"event": "first_batch", "id": "0", "time": 103.0})
    assert ledger.summary(110.0, None)["start_seconds"] is None
    ledger.take({"event": "first_batch", "id": "2", "time": 104.0})
    assert ledger.summary(110.0, None)["start_seconds"] == 4.0
