"""Power-of-choice against its two ends: greedy, and drawing by samples."""

from pathlib import Path

from fedps.coordinator.selectors import Turn, make_selector
from fedps.types import ClientId, ClientInfo
from tests.coordinator.population import make_job, picks, trained

CLIENTS = {ClientId(f"{k:02}"): ClientInfo(samples=10 * (k + 1)) for k in range(20)}
LOSSES = {ClientId(f"{k:02}"): trained(1, loss=float((7 * k) % 20)) for k in range(20)}


def test_with_all_as_candidates_it_is_greedy(tmp_path: Path) -> None:
    selector = make_selector(make_job(tmp_path, "power_of_choice", 3, candidates=20))
    best = sorted(sorted(CLIENTS, key=lambda c: LOSSES[c][-1].loss or 0.0)[-3:])
    assert [picks(selector, CLIENTS, r, LOSSES) for r in (1, 2, 3)] == [best] * 3


def test_with_as_many_candidates_as_picks_it_is_by_samples(tmp_path: Path) -> None:
    choice = make_selector(make_job(tmp_path, "power_of_choice", 4, candidates=4))
    by_samples = make_selector(make_job(tmp_path, "by_samples", 4))
    for round_ in range(1, 30):
        assert picks(choice, CLIENTS, round_, LOSSES) == picks(by_samples, CLIENTS, round_)


def test_in_between_it_takes_the_worst_of_those_that_by_samples_would_draw(tmp_path: Path) -> None:
    choice = make_selector(make_job(tmp_path, "power_of_choice", 2))  # d = 2 m = 4
    candidates = make_selector(make_job(tmp_path, "by_samples", 4))
    for round_ in range(1, 30):
        drawn = picks(candidates, CLIENTS, round_)
        worst = sorted(drawn, key=lambda c: -(LOSSES[ClientId(c)][-1].loss or 0.0))[:2]
        assert picks(choice, CLIENTS, round_, LOSSES) == sorted(worst)


def test_who_was_never_heard_comes_first_and_a_lost_turn_keeps_the_last_loss(tmp_path: Path) -> None:
    selector = make_selector(make_job(tmp_path, "power_of_choice", 2, candidates=20))
    clients = {ClientId(c): ClientInfo(samples=10) for c in "abcd"}
    history = {
        ClientId("a"): trained(1, loss=0.9),
        ClientId("b"): (*trained(1, loss=5.0), Turn(2, late=True)),
        ClientId("c"): trained(1, loss=0.5),
    }
    assert picks(selector, clients, 3, history) == ["b", "d"]
