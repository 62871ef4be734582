"""Oort on made-up populations, each part of its utility by hand."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.coordinator.selectors import Oort, Turn, Turns
from fedps.types import ClientId, ClientInfo
from tests.coordinator.population import make_job, picks, trained

GREEDY: dict[str, Any] = {"exploration": 0.0, "exploration_floor": 0.0, "cutoff": 1.0}
CLIENTS = {ClientId(f"{k:02}"): ClientInfo(samples=100) for k in range(20)}


def oort(folder: Path, per_round: int, **settings: Any) -> Oort:
    return Oort(make_job(folder, "oort", per_round, **{"pacer_step": 1000.0, **settings}))


def test_without_exploration_the_highest_statistical_utilities_are_picked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes, losses = rng.integers(50, 500, 20), rng.uniform(0.1, 2.0, 20)
    history = {c: trained(1, int(sizes[k]), float(losses[k])) for k, c in enumerate(CLIENTS)}
    by_hand = np.argsort(sizes * losses)[-5:]
    assert picks(oort(tmp_path, 5, **GREEDY), CLIENTS, 2, history) == sorted(f"{k:02}" for k in by_hand)


def test_utilities_by_hand_clipped_with_bonus_and_penalty(tmp_path: Path) -> None:
    selector = oort(tmp_path, 1, **GREEDY)
    selector.load_state(
        {"rounds": 8, "last": {"00": 2, "01": 8, "02": 8}, "picked": [], "gained": [], "step": 10.0, "preferred": 10.0}
    )
    names = [ClientId(c) for c in ("00", "01", "02")]
    selector.history = {
        names[0]: trained(2, 100, 0.5, seconds=10.0),
        names[1]: trained(8, 100, 1.0, seconds=40.0),
        names[2]: trained(8, 100, 50.0, seconds=5.0),
    }
    cap = float(np.quantile([50.0, 100.0, 5000.0], 0.95))
    found = selector.utilities(names)
    assert found[names[0]] == pytest.approx(50 / cap + math.sqrt(0.1 * math.log(8) / 2))
    assert found[names[1]] == pytest.approx((100 / cap + math.sqrt(0.1 * math.log(8) / 8)) * (10 / 40) ** 2)
    assert found[names[2]] == pytest.approx(1.0 + math.sqrt(0.1 * math.log(8) / 8))


def test_slow_clients_are_penalised_and_with_alpha_0_are_not(tmp_path: Path) -> None:
    history = {c: trained(1, loss=1.0 + 0.01 * k, seconds=1.0 if k < 10 else 100.0) for k, c in enumerate(CLIENTS)}
    fast = picks(oort(tmp_path, 5, **GREEDY, pacer_step=2.0), CLIENTS, 2, history)
    assert fast == ["05", "06", "07", "08", "09"]
    careless = picks(oort(tmp_path, 5, **GREEDY, pacer_step=2.0, alpha=0), CLIENTS, 2, history)
    assert careless == ["15", "16", "17", "18", "19"]


def test_staleness_brings_back_a_starved_client(tmp_path: Path) -> None:
    clients = {ClientId(c): ClientInfo(samples=100) for c in "abc"}
    history = {
        ClientId("a"): trained(1, loss=0.8),
        ClientId("b"): trained(1, loss=1.0),
        ClientId("c"): trained(1, loss=1.0),
    }
    selector = oort(tmp_path, 2, **GREEDY)
    rounds = [picks(selector, clients, r, history) for r in range(2, 60)]
    assert rounds[0] == ["b", "c"] and "a" in {c for r in rounds[:20] for c in r}
    assert Counter(c for r in rounds for c in r)["a"] < 40  # it does not take over


def test_the_first_picks_explore_by_speed_and_later_ones_exploit(tmp_path: Path) -> None:
    clients = {
        ClientId(f"{k:02}"): ClientInfo(samples=100, compute_capacity=1000.0 if k < 10 else 10.0) for k in range(20)
    }
    times: Counter[str] = Counter()
    for seed in range(50):
        times.update(picks(Oort(make_job(tmp_path, "oort", 5, seed)), clients))
    assert sum(times[f"{k:02}"] for k in range(10)) > 230  # of 250
    history = {c: trained(1) for c in list(clients)[:10]}
    selector = oort(tmp_path, 10, exploration=0.4, exploration_floor=0.1, exploration_decay=0.5)
    fresh = [sum(int(c) >= 10 for c in picks(selector, clients, r, history)) for r in range(1, 5)]
    assert fresh == [4, 2, 1, 1]


def test_the_cutoff_admits_who_is_nearly_as_good(tmp_path: Path) -> None:
    history = {c: trained(1, loss=1.0 if k < 3 else 0.97 if k < 10 else 0.5) for k, c in enumerate(CLIENTS)}
    strict = {c for r in range(50) for c in picks(oort(tmp_path, 3, **GREEDY), CLIENTS, r, history)}
    assert strict == {"00", "01", "02"}
    near = {c for r in range(50) for c in picks(oort(tmp_path, 3, **{**GREEDY, "cutoff": 0.9}), CLIENTS, r, history)}
    assert near == {f"{k:02}" for k in range(10)}


def test_the_pacer_lets_slower_clients_in_when_the_utility_falls(tmp_path: Path) -> None:
    clients = {ClientId(c): ClientInfo(samples=100) for c in "ab"}
    selector = oort(tmp_path, 2, **GREEDY, pacer_step=5.0, pacer_window=2)
    for round_, loss in enumerate([1.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.9, 0.9, 0.9]):
        history = {c: trained(round_, loss=loss) for c in clients} if round_ else {}
        picks(selector, clients, round_ + 1, history)
    assert selector.state()["preferred"] == 10.0  # once lower than the window before, then not


def test_without_a_step_the_preferred_duration_is_the_median_clients(tmp_path: Path) -> None:
    history = {c: trained(1, seconds=float(k + 1)) for k, c in enumerate(list(CLIENTS)[:5])}
    selector = oort(tmp_path, 2, pacer_step=None)
    picks(selector, CLIENTS, 1)
    assert selector.state()["preferred"] is None
    picks(selector, CLIENTS, 2, history)
    assert selector.state()["preferred"] == selector.state()["step"] == 3.0


def test_who_was_late_or_dropped_out_counts_nothing_until_its_bonus(tmp_path: Path) -> None:
    clients = {ClientId(c): ClientInfo(samples=100) for c in "abc"}
    history: dict[ClientId, Turns] = {
        ClientId("a"): trained(1, loss=0.1),
        ClientId("b"): (*trained(1, loss=9.0), Turn(2, late=True)),
        ClientId("c"): (*trained(1, loss=9.0), Turn(2, dropped=True, seconds=3.0)),
    }
    assert picks(oort(tmp_path, 1, **GREEDY), clients, 3, history) == ["a"]


def test_who_was_picked_enough_makes_room_for_the_next_best(tmp_path: Path) -> None:
    losses = [1.0, 1.0, 0.67, 0.67, 0.37, 0.37] + [0.0] * 14  # further apart than the bonus makes up for
    history = {c: trained(1, loss=loss) for c, loss in zip(CLIENTS, losses, strict=True)}
    selector = oort(tmp_path, 2, **GREEDY, max_picks=3)
    rounds = [picks(selector, CLIENTS, r, history) for r in range(1, 10)]
    assert rounds == [["00", "01"]] * 3 + [["02", "03"]] * 3 + [["04", "05"]] * 3


def test_at_most_three_in_ten_are_out_and_the_most_picked_ones(tmp_path: Path) -> None:
    history = {c: trained(1, loss=2.0 - 0.01 * k) for k, c in enumerate(CLIENTS)}
    selector = oort(tmp_path, 1, **GREEDY, max_picks=1)
    state = selector.state()
    selector.load_state(state | {"picks": {f"{k:02}": 9 - k for k in range(9)}})
    assert picks(selector, CLIENTS, 1, history) == ["06"]  # 6 of 20 are out
    selector.load_state(state | {"picks": {f"{k:02}": 1 for k in range(9)} | {"00": 0}})
    assert picks(selector, CLIENTS, 1, history) == ["00"]


def test_enough_stay_to_pick_from_however_often_they_were_picked(tmp_path: Path) -> None:
    few = {ClientId(c): ClientInfo(samples=100) for c in "abcd"}
    history = {c: trained(1) for c in few}
    selector = oort(tmp_path, 4, max_picks=1)
    assert [picks(selector, few, r, history) for r in range(1, 6)] == [list("abcd")] * 5


def test_without_a_cap_the_same_ones_are_picked_on(tmp_path: Path) -> None:
    history = {c: trained(1, loss=1.0 if k < 2 else 0.01) for k, c in enumerate(CLIENTS)}
    free, capped = oort(tmp_path, 2, **GREEDY), oort(tmp_path, 2, **GREEDY, max_picks=2)
    often = Counter(c for r in range(1, 6) for c in picks(free, CLIENTS, r, history))
    assert often == {"00": 5, "01": 5}
    times = Counter(c for r in range(1, 6) for c in picks(capped, CLIENTS, r, history))
    assert times["00"] == times["01"] == 2 and sum(times.values()) == 10


def test_a_capped_state_goes_on_the_same_and_one_of_before_the_cap_is_taken(tmp_path: Path) -> None:
    history = {c: trained(1, loss=1.0 + 0.01 * k) for k, c in enumerate(CLIENTS)}
    one, other = (oort(tmp_path, 4, **GREEDY, max_picks=2) for _ in range(2))
    for round_ in range(1, 6):
        picks(one, CLIENTS, round_, history)
    other.load_state(one.state())
    assert [picks(one, CLIENTS, r, history) for r in (6, 7)] == [picks(other, CLIENTS, r, history) for r in (6, 7)]
    before = one.state()
    del before["picks"]
    other.load_state(before)
    assert other.state()["picks"] == {}


def test_a_state_that_is_taken_up_goes_on_the_same(tmp_path: Path) -> None:
    history = {c: trained(1, loss=1.0 + 0.01 * k) for k, c in enumerate(list(CLIENTS)[:10])}
    one = oort(tmp_path, 4)
    for round_ in range(1, 8):
        picks(one, CLIENTS, round_, history)
    other = oort(tmp_path, 4)
    other.load_state(one.state())
    assert [picks(one, CLIENTS, r, history) for r in (8, 9)] == [picks(other, CLIENTS, r, history) for r in (8, 9)]
    assert one.state() == other.state()
