"""Selectors by chance, in turn and by data, against what they promise."""

from collections import Counter
from pathlib import Path

import pytest

from fedps.coordinator.selectors import make_selector
from fedps.types import ClientId, ClientInfo
from tests.coordinator.population import make_job, named, picks

ALIKE = {ClientId(c): ClientInfo(samples=10) for c in "abcde"}


def test_all_picks_all(tmp_path: Path) -> None:
    assert picks(make_selector(make_job(tmp_path)), ALIKE) == list("abcde")


def test_round_robin_gives_each_its_turn(tmp_path: Path) -> None:
    selector = make_selector(make_job(tmp_path, "round_robin", 2))
    assert ["".join(picks(selector, ALIKE, r)) for r in range(1, 6)] == ["ab", "cd", "ae", "bc", "de"]


def test_round_robin_goes_on_with_who_follows_when_clients_come_and_go(tmp_path: Path) -> None:
    selector = make_selector(make_job(tmp_path, "round_robin", 2))
    assert picks(selector, ALIKE) == ["a", "b"]
    without_c = {c: i for c, i in ALIKE.items() if c != "c"}
    assert picks(selector, without_c) == ["d", "e"]
    again = make_selector(make_job(tmp_path, "round_robin", 2))
    again.load_state(selector.state())
    assert picks(again, ALIKE) == picks(selector, ALIKE) == ["a", "b"]


def test_by_samples_draws_in_proportion_and_never_who_has_none_before_the_others(tmp_path: Path) -> None:
    clients = named(a=ClientInfo(samples=10), b=ClientInfo(samples=30), c=ClientInfo(samples=60), d=ClientInfo())
    selector = make_selector(make_job(tmp_path, "by_samples", 1))
    times = Counter(picks(selector, clients, r)[0] for r in range(1, 1001))
    assert times["d"] == 0
    for client, share in (("a", 0.1), ("b", 0.3), ("c", 0.6)):
        deviation = (1000 * share * (1 - share)) ** 0.5
        assert abs(times[client] - 1000 * share) < 4 * deviation
    assert picks(make_selector(make_job(tmp_path, "by_samples", 4)), clients) == list("abcd")


@pytest.mark.parametrize("name", ["random", "by_samples", "power_of_choice", "oort"])
def test_a_seed_draws_the_same_and_another_differently(tmp_path: Path, name: str) -> None:
    clients = {ClientId(f"{k:02}"): ClientInfo(samples=10 + k) for k in range(40)}

    def drawn(seed: int) -> list[list[str]]:
        selector = make_selector(make_job(tmp_path, name, 4, seed))
        return [picks(selector, clients, r) for r in range(1, 6)]

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(
    ("per_round", "factor", "count"), [(None, 1.0, 3), (2, 1.0, 2), (2, 1.5, 3), (3, 1.1, 4), (4, 2.0, 5), (9, 1.0, 5)]
)
def test_how_many_are_picked(tmp_path: Path, per_round: int | None, factor: float, count: int) -> None:
    for name in ("random", "round_robin", "by_samples", "power_of_choice", "oort"):
        selector = make_selector(make_job(tmp_path, name, per_round, over_selection=factor))
        assert len(picks(selector, ALIKE)) == count
