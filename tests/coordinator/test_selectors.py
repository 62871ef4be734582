"""What a selector may answer, and what is said to one that answers otherwise."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy, choose, make_selector
from fedps.errors import FedpsError, JobError
from fedps.types import ClientId, ClientInfo, ClientInfoAttr
from tests.conftest import MakeJob

CLIENTS = {ClientId(name): ClientInfo(samples=10) for name in "abcd"}


class Says(ClientSelectorBase):
    """Answers what it was given."""

    answer: Any = None

    def select(self) -> Mapping[ClientId, Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Mapping[ClientId, Any] = self.answer
        return answer


def said(make_job: MakeJob, answer: Any) -> dict[ClientId, FLStrategy]:
    selector = Says(make_job(with_coordinator=True))
    selector.answer = answer
    return choose(selector, 3, CLIENTS)


def test_words_and_strategies_are_followed_and_the_rest_waits(make_job: MakeJob) -> None:
    found = said(make_job, {"a": "JOIN", "b": FLStrategy(FLStrategy.JOIN, 7), "d": "FINISH"})
    assert {c: (s.next_state, s.iteration_num) for c, s in found.items()} == {
        "a": ("JOIN", None),
        "b": ("JOIN", 7),
        "c": ("WAIT", None),
        "d": ("FINISH", None),
    }


class AsInTheOriginal(ClientSelectorBase):
    """Chooses the fast, in the forms of the original's selectors."""

    def __init__(self, fl_clients_info_mp: Any) -> None:
        super().__init__(fl_clients_info_mp)

    def select(self) -> Any:
        self.parse_from_string()
        assert self.fl_strategy == {}
        for client_id in self.clients_info:
            strategy = FLStrategy()
            strategy.iteration_num = 99
            strategy.client_id = 0
            fast = self.clients_info[client_id][ClientInfoAttr.COMPUTE_CAPACITY] > 1
            strategy.next_state = FLStrategy.JOIN if fast else FLStrategy.WAIT
            self.fl_strategy[int(client_id)] = strategy
        return self.fl_strategy


def test_a_selector_in_the_originals_form_works(make_job: MakeJob) -> None:
    selector = AsInTheOriginal(make_job(with_coordinator=True))
    for round_ in (1, 2):
        infos = {ClientId(str(k)): ClientInfo(samples=1, compute_capacity=float(k)) for k in range(4)}
        found = choose(selector, round_, infos)
        assert {c: (s.next_state, s.iteration_num) for c, s in found.items()} == {
            "0": ("WAIT", 99),
            "1": ("WAIT", 99),
            "2": ("JOIN", 99),
            "3": ("JOIN", 99),
        }


def test_fields_that_are_none_are_no_fields() -> None:
    info = ClientInfo(device_type="phone", bandwidth=3.0)
    assert (info[ClientInfoAttr.DEVICE_TYPE], info[ClientInfoAttr.BANDWIDTH], info["samples"]) == ("phone", 3.0, 0)
    with pytest.raises(KeyError, match="__init__"):
        info["__init__"]
    with pytest.raises(AttributeError, match="iterations"):
        FLStrategy().iterations = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "returned NoneType in round 3"),
        (["a"], "returned list in round 3"),
        ({}, "selected nobody in round 3"),
        ({"a": "WAIT"}, "selected nobody"),
        ({"a": "FINISH"}, "selected nobody"),
        ({"z": "JOIN"}, "named client 'z' in round 3; there are 'a', 'b', 'c', 'd'"),
        ({7: "JOIN"}, "named client '7' in round 3; there are 'a', 'b', 'c', 'd'"),
        ({True: "JOIN"}, "named client True in round 3"),
        ({"a": "join"}, "for client 'a': 'join': say one of JOIN, WAIT, FINISH"),
        ({"a": 1}, "for client 'a': 1: say one of"),
        ({"a": FLStrategy("RUN")}, "say one of JOIN, WAIT, FINISH"),  # type: ignore[arg-type]
        ({"a": FLStrategy("JOIN", 0)}, "for client 'a': iteration_num 0: must be a positive whole number"),
        ({"a": FLStrategy("JOIN", 2.5)}, "iteration_num 2.5"),  # type: ignore[arg-type]
        ({"a": FLStrategy("JOIN", True)}, "iteration_num True"),
        ({"a": FLStrategy(batch_size=0)}, "batch_size 0: must be a positive whole number"),
        ({"a": FLStrategy(batch_size=2**31)}, "batch_size 2147483648"),
        ({"a": FLStrategy(learning_rate=-0.1)}, "learning_rate -0.1: must be a positive number"),
        ({"a": FLStrategy(learning_rate=float("nan"))}, "learning_rate nan"),
        ({"a": FLStrategy(deadline=float("inf"))}, "deadline inf: must be a positive number"),
        ({"a": FLStrategy(deadline="soon")}, "deadline 'soon'"),  # type: ignore[arg-type]
        ({"a": FLStrategy(extra={"x": float("nan")})}, "extra: Out of range float values"),
        ({"a": FLStrategy(extra={"x": object()})}, "extra: .*not JSON serializable; use texts, numbers"),
        ({"a": FLStrategy(extra={"x": "y" * 5000})}, "extra has 5009 bytes as JSON; 4096 are allowed"),
        ({"a": FLStrategy(extra=[1])}, "must be a mapping"),  # type: ignore[arg-type]
        (
            {"a": {"next_state": "JOIN", "epochs": 3}},
            "'epochs' is no field of a strategy; there are next_state, iterat",
        ),
        ({"a": {"next_state": "RUN"}}, "say one of JOIN, WAIT, FINISH"),
    ],
)
def test_an_answer_that_cannot_be_followed(make_job: MakeJob, answer: Any, why: str) -> None:
    with pytest.raises(FedpsError, match=why.replace("(", r"\(").replace("[", r"\[")):
        said(make_job, answer)


@pytest.mark.parametrize(
    ("mode", "loss", "fields", "why"),
    [
        (
            "sync",
            "bce",
            {"learning_rate": 2.0},
            "learning_rate 2: is more than 100 times the job's, 0.001: raise that one",
        ),
        ("geo", "bpr", {"batch_size": 33}, "batch_size 33: with loss bpr a batch is pairs of .* even, e.g. 34"),
        ("round", "bce", {"geo_step": 5}, "geo_step 5: round has no windows of so many batches: leave it out, or use"),
        ("geo", "bce", {"geo_step": 2.5}, "geo_step 2.5: must be a positive whole number"),
    ],
)
def test_a_strategy_that_the_job_cannot_follow(
    make_job: MakeJob, mode: str, loss: str, fields: dict[str, Any], why: str
) -> None:
    selector = Says(make_job({"loss": loss}, sync_mode=mode, with_coordinator=True))
    selector.answer = {"a": "JOIN", "c": fields}
    with pytest.raises(FedpsError, match=rf"Says.select\(\) for client 'c': {why}"):
        choose(selector, 1, CLIENTS)
    selector.answer = {"a": "JOIN", "c": {"learning_rate": 0.1, "batch_size": 34, "deadline": 5}}
    assert choose(selector, 1, CLIENTS)[ClientId("c")].next_state == "JOIN"


def test_one_that_is_away_may_be_named_and_numbers_may_be_numpys(make_job: MakeJob) -> None:
    selector = Says(make_job(with_coordinator=True))
    selector.answer = {"a": FLStrategy("JOIN", np.int64(7)), "gone": "JOIN"}  # type: ignore[arg-type]
    found = choose(selector, 3, CLIENTS, known={ClientId("gone")})
    assert set(found) == set(CLIENTS) and found[ClientId("a")].iteration_num == 7


def test_a_strategy_may_be_a_mapping_and_is_told_in_plain_values(make_job: MakeJob) -> None:
    extra = {"temperature": 2, "layers": ["a", {"b": None}]}
    told = {
        "next_state": "JOIN",
        "learning_rate": np.float64(0.05),
        "batch_size": np.int32(8),
        "deadline": 3,
        "extra": extra,
    }
    strategy = said(make_job, {"a": told, "b": {}})[ClientId("a")]
    assert strategy == FLStrategy("JOIN", None, 0.05, 8, 3.0, extra)
    assert type(strategy.learning_rate) is float and type(strategy.batch_size) is int
    extra["temperature"] = 3
    assert strategy.extra["temperature"] == 2


def test_a_field_that_a_strategy_has_not_is_named(make_job: MakeJob) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        FLStrategy("JOIN", epochs=3)  # type: ignore[call-arg]


def test_all_may_finish(make_job: MakeJob) -> None:
    assert {s.next_state for s in said(make_job, dict.fromkeys(CLIENTS, "FINISH")).values()} == {"FINISH"}


def test_what_a_selector_does_to_its_reports_stays_with_it(make_job: MakeJob) -> None:
    class Clears(ClientSelectorBase):
        def select(self) -> Mapping[ClientId, Any]:
            answer: dict[ClientId, Any] = dict.fromkeys(self.clients_info, "JOIN")
            self.clients_info.clear()
            return answer

    clients = dict(CLIENTS)
    assert len(choose(Clears(make_job()), 1, clients)) == len(clients) == 4


def test_random_draws_as_many_as_asked_anew_each_round_and_the_same_for_a_seed(make_job: MakeJob) -> None:
    job = make_job(with_coordinator=True, client_selector="random", clients_per_round=2)
    rounds = [
        {c for c, s in choose(make_selector(job), r, CLIENTS).items() if s.next_state == "JOIN"} for r in range(1, 201)
    ]
    assert {len(r) for r in rounds} == {2}
    times = Counter(c for r in rounds for c in r)
    assert set(times) == set(CLIENTS) and all(70 < n < 130 for n in times.values())  # 100 ± 4 deviations
    assert rounds[:5] == [
        {c for c, s in choose(make_selector(job), r, CLIENTS).items() if s.next_state == "JOIN"} for r in range(1, 6)
    ]


def test_random_draws_half_if_not_told(make_job: MakeJob) -> None:
    chosen = choose(make_selector(make_job(client_selector="random", with_coordinator=True)), 1, CLIENTS)
    assert sum(s.next_state == "JOIN" for s in chosen.values()) == 2


OWN = """
import fedps

class Good(fedps.ClientSelectorBase):
    def select(self):
        self.parse_from_string()
        return {c: "JOIN" for c in self.clients_info}

class Lazy(fedps.ClientSelectorBase):
    pass

class Breaks(Good):
    def __init__(self, job):
        raise ValueError("no luck")

class Stranger:
    pass
"""


def test_a_selector_of_ones_own_is_found_beside_the_job(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "picky_one.py").write_text(OWN)
    selector = make_selector(make_job(with_coordinator=True, client_selector="picky_one.Good"))
    assert all(s.next_state == "JOIN" for s in choose(selector, 1, CLIENTS).values())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("picky_two.Lazy", "has no method select"),
        ("picky_two.Breaks", "cannot be made: ValueError: no luck"),
        ("picky_two.Stranger", "must be a subclass of fedps.ClientSelectorBase"),
        ("picky_two.Nobody", "Nobody"),
        ("no_such_module_here.Good", "no_such_module_here"),
        ("everybody", "write all, random, round_robin, .*, fedcs, or module.Class"),
    ],
)
def test_a_selector_that_is_none(make_job: MakeJob, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "picky_two.py").write_text(OWN)
    with pytest.raises(JobError, match=why):
        make_selector(make_job(with_coordinator=True, client_selector=name))
