"""Hostile reports: whatever a client claims is refused, or harms neither the job, nor its figures, nor its log."""

import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fedps.config.sections.features import Feature
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.reports import LEAST_RATE, RANGES, check
from fedps.coordinator.selectors import BUILT_IN, Turn, choose, make_selector
from fedps.errors import RefusedError
from fedps.figures import MAX_COUNT, MAX_LOSS
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Refused
from tests.conftest import MakeJob
from tests.coordinator.callers import NONE, Caller, Events, started, with_keys
from tests.coordinator.population import make_job as make_selector_job
from tests.events.kept import into
from tests.events.kinds import sums

HONEST = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5, auc=0.6, sums=sums(3, 2.0, 1.5))

HONEST_ELSE = replace(HONEST, sums={})

anything = st.floats() | st.sampled_from([0.0, 5e-324, 1e308, 1.7e308, math.inf])
whole = st.integers(-(2**63), 2**64 - 1)


def numbers(most: float) -> st.SearchStrategy[float]:
    """Return numbers within bounds: often the bounds themselves."""
    return st.sampled_from([0.0, LEAST_RATE, 1.0, most]) | st.floats(LEAST_RATE, most)


def counts(most: int = MAX_COUNT) -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, most]) | st.integers(0, most)


# An honest report, one field of which is replaced: so it passes the other fields' checks, and the lie comes far.
lies: dict[str, st.SearchStrategy[Any]] = {
    "device_type": st.text(max_size=300),
    "compute_capacity": anything,
    "bandwidth": anything,
    "samples": whole,
    "trained": whole,
    "seconds": anything,
    "loss": st.none() | anything,
    "auc": st.none() | anything,
    "sums": st.builds(sums, whole, st.just(2.0), st.just(1.5))
    | st.builds(sums, st.just(3), anything, st.just(1.5))
    | st.builds(sums, st.just(3), st.just(2.0), anything)
    | st.dictionaries(st.sampled_from(["users", "hr@10", "hr@20", "x"]), whole | anything),
    "available": st.booleans(),
    "dropped": st.booleans(),
}
hostile = st.one_of(*(st.builds(replace, st.just(HONEST), **{field: value}) for field, value in lies.items()))
within_bounds = st.builds(
    ClientInfo,
    compute_capacity=numbers(RANGES["compute_capacity"][1]),
    bandwidth=numbers(RANGES["bandwidth"][1]),
    samples=counts(),
    trained=counts(),
    seconds=numbers(RANGES["seconds"][1]),
    loss=st.none() | st.sampled_from([-MAX_LOSS, MAX_LOSS]) | st.floats(-MAX_LOSS, MAX_LOSS),
    auc=st.none() | st.floats(0, 1),
    sums=st.builds(sums, st.just(MAX_COUNT), st.just(float(MAX_COUNT)) | st.floats(0.5, MAX_COUNT), st.floats(0, 0.5)),
    dropped=st.booleans(),
)
untroubled = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_losses_that_overflow_a_sum_are_refused_and_the_round_goes_on(make_job: MakeJob) -> None:
    events: Events = []
    coordinator = started(with_keys(make_job(epochs=3, with_coordinator=True), worker_num=3), events)
    a, b, c = (Caller(coordinator, name) for name in "abc")
    for caller in (a, b, c):
        caller.report(0)
    for caller in (a, b):
        caller.report(1, ClientInfo(samples=5, trained=5, seconds=1.0, loss=1.7e308))
        assert isinstance(caller.replies[-1], Refused) and "loss: 1.7e+308" in caller.replies[-1].reason
        caller.report(1, HONEST)
    c.report(1, HONEST)
    assert coordinator.failure is None and len(c.told) == 2
    assert [e["loss"] for e in events if e["event"] == "round"] == [0.5]


@pytest.mark.parametrize("infos", [hostile, within_bounds], ids=["anything", "within bounds"])
def test_no_report_ends_a_job_or_makes_its_figures_infinite(make_job: MakeJob, infos: Any) -> None:
    job = with_keys(make_job(epochs=3, with_coordinator=True, target={"value": 2.0}), worker_num=3)

    @untroubled
    @example((replace(HONEST, loss=1.7e308, trained=1),) * 2, 0)
    @example((replace(HONEST, loss=1e308),) * 2, 0)
    @example((HONEST,) * 2, 2**62)
    @given(st.tuples(infos, infos) | infos.map(lambda info: (info, info)), st.integers(-1, 2**63 - 1))
    def holds(claims: tuple[ClientInfo, ClientInfo], count: int) -> None:
        events: Events = []
        coordinator = Coordinator(job, into(events), io.StringIO())
        liars, honest = [Caller(coordinator, "a"), Caller(coordinator, "b")], Caller(coordinator, "c")
        for round_ in range(3):
            for liar, claim in zip(liars, claims, strict=True):
                liar.report(round_, claim, (np.full(4096, count), np.full(4096, count), NONE, NONE))
                liar.report(round_, claim)
                if len(liar.told) == round_ and isinstance(liar.replies[-1], Refused):
                    liar.report(round_)
            honest.report(round_, HONEST)
            assert coordinator.failure is None and len(honest.told) == round_ + 1
        figures = [v for e in events if e["event"] == "round" for v in e.values() if isinstance(v, float)]
        assert figures and all(math.isfinite(v) for v in figures)
        assert all(0 <= e[key] <= 1 for e in events if e["event"] == "round" for key in ("hr@10", "ndcg@10"))

    holds()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_selector_bears_all_claims_that_are_let_in(tmp_path: Any, name: str) -> None:
    job = make_selector_job(tmp_path, name, 3, timeout=0, pacer_window=1, deadline=5.0)

    @untroubled
    @given(st.lists(within_bounds, min_size=2, max_size=6))
    def holds(claims: list[ClientInfo]) -> None:
        clients = {ClientId(str(k)): claim for k, claim in enumerate([*claims, HONEST])}
        for claim in claims:
            try:
                check(claim, measured=False)
            except RefusedError:
                assume(False)
        selector, history = make_selector(job), dict[ClientId, tuple[Turn, ...]]()
        for round_ in range(1, 6):
            chosen = choose(selector, round_, clients, history=history)
            joined = [client for client, strategy in chosen.items() if strategy.next_state == "JOIN"]
            assert 1 <= len(joined) <= len(clients)
            history |= {c: (Turn(round_, i.trained, i.seconds, i.loss),) for c, i in clients.items() if c in joined}

    holds()


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": MAX_COUNT + 1},
        {"trained": 2**63},
        {"sums": sums(MAX_COUNT + 1, 2.0, 1.5)},
        {"sums": sums(3, 2.0, 1.5) | {"users": 3.0}},
        {"sums": {"users": 3, "hr@10": 2.0}},  # half of them
        {"sums": sums(3, 2.0, 1.5) | {"hr@20": 2.0}},  # which nobody asks for
        {"seconds": 1e16},
        {"bandwidth": 5e-324},
        {"compute_capacity": 5e-324, "trained": 0},
        {"loss": -1.7e308},
        {"sums": sums(3, 2.0, 2.5)},  # of two hits
        {"device_type": "x\x1b[2J"},
        {"device_type": "x\u202ey"},
    ],
)
def test_a_claim_out_of_bounds_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    check(HONEST)
    with pytest.raises(RefusedError, match=next(iter(wrong))):
        check(replace(HONEST, **wrong))


@pytest.mark.parametrize("count", [MAX_COUNT, 2**51, 2**62])
def test_a_histogram_of_more_than_may_be_is_refused(make_job: MakeJob, count: int) -> None:
    a = Caller(started(with_keys(make_job(with_coordinator=True), worker_num=1), []), "a")
    a.report(0, arrays=(np.full(4096, count), NONE, NONE, NONE))
    assert isinstance(a.replies[-1], Refused) and "histogram" in a.replies[-1].reason


def test_reports_hold_the_scores_of_many_labels_each_under_its_name(make_job: MakeJob) -> None:
    events: Events = []
    pair = {name: Feature(kind="id", rows=9) for name in ("user", "item")}
    labels = {f"label_{k}": Feature(kind="label") for k in range(20)}
    job = with_keys(make_job(epochs=3, with_coordinator=True), worker_num=1, metrics=("auc",))
    a = Caller(started(job.model_copy(update={"features": pair | labels}), events), "a")
    a.report(0)
    better = np.zeros((20, 4096), np.int64)
    better[np.arange(20), 40 * np.arange(20)] = 2
    counts = np.zeros((20, 4096), np.int64)
    counts[:, 400] = 3
    a.report(1, HONEST_ELSE, (NONE, NONE, better.reshape(-1), counts.reshape(-1)))
    assert not isinstance(a.replies[-1], Refused)
    (merged,) = [e for e in events if e["event"] == "round"]
    assert [merged[f"label_{k}/auc"] for k in (0, 10, 19)] == [0.0, 0.5, 1.0]
    a.report(2, HONEST_ELSE, (NONE, NONE, better.reshape(-1)[4096:], counts.reshape(-1)))
    assert isinstance(a.replies[-1], Refused) and "histograms" in a.replies[-1].reason


def test_a_report_has_its_usual_sums_by_their_own_names_too() -> None:
    assert (HONEST["users"], HONEST.hits, HONEST["ndcg"], HONEST["sums"]["hr@10"]) == (3, 2.0, 1.5, 2.0)
    assert (HONEST_ELSE["users"], HONEST_ELSE["hits"]) == (0, 0.0)
    with pytest.raises(KeyError):
        HONEST["hr@10"]


def test_no_text_of_a_client_forges_a_line_of_the_log(make_job: MakeJob) -> None:
    log, forged = io.StringIO(), "fl-ps > lost fl_client: b"
    job = with_keys(make_job(epochs=3, with_coordinator=True), worker_num=1)
    coordinator = Coordinator(job, lambda event: None, log)
    for breaks in ("\n", "\r", "\x85", "\u2028"):
        stranger = Caller(coordinator, f"a{breaks}{forged}", greet=False)
        stranger.greet()
        assert isinstance(stranger.replies[-1], Refused)
        a = Caller(coordinator, "a")
        a.report(coordinator.round.number, ClientInfo(device_type=f"x{breaks}{forged}"))
        assert isinstance(a.replies[-1], Refused)
        a.report(coordinator.round.number)
    assert coordinator.round.number == 4
    assert forged not in log.getvalue().splitlines()


def test_who_was_to_sit_out_has_trained_nothing_whatever_it_says(make_job: MakeJob) -> None:
    events: Events = []
    job = make_job(epochs=3, with_coordinator=True, client_selector="round_robin", clients_per_round=1)
    coordinator = started(with_keys(job, worker_num=2), events)
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    assert [a.told[0].state, b.told[0].state] == ["JOIN", "WAIT"]
    a.report(1, HONEST)
    b.report(1, ClientInfo(samples=5, trained=10**9, seconds=1.0, loss=1e9))
    assert [e["loss"] for e in events if e["event"] == "round"] == [0.5]
