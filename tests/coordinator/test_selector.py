"""How a selector is asked: in its time, of those that can take part, on copies; and what happens otherwise."""

import threading
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.coordinator.selectors import ClientSelectorBase, choose
from fedps.errors import FedpsError
from fedps.types import ClientId, ClientInfo
from tests.coordinator.population import make_job, named, picks, trained

CLIENTS = {ClientId(c): ClientInfo(samples=10) for c in "abcd"}


class Does(ClientSelectorBase):
    """Lets all join that it is offered, and does something before."""

    def __init__(self, job: Job, act: Any = None) -> None:
        super().__init__(job)
        self.act = act or (lambda selector: None)
        self.offered: list[str] = []

    def select(self) -> dict[ClientId, Any]:
        self.offered = list(self.clients_info)
        self.act(self)
        return dict.fromkeys(self.offered, "JOIN")  # type: ignore[arg-type]


def test_one_that_hangs_is_given_up_with_a_reason(tmp_path: Path) -> None:
    over = threading.Event()
    selector = Does(make_job(tmp_path, timeout=0.05), lambda s: over.wait(30))
    try:
        with pytest.raises(
            FedpsError, match=r"Does.select\(\) has not answered within 0.05 s in round 4: .*selector.timeout"
        ):
            choose(selector, 4, CLIENTS)
    finally:
        over.set()


def test_without_a_limit_it_is_asked_in_this_very_thread(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []
    note = lambda s: threads.append(threading.current_thread())  # noqa: E731
    choose(Does(make_job(tmp_path, timeout=0), note), 1, CLIENTS)
    choose(Does(make_job(tmp_path), note), 1, CLIENTS)
    assert threads[0] is threading.current_thread() is not threads[1]


def test_what_it_raises_is_passed_on_even_an_exit(tmp_path: Path) -> None:
    def leave(selector: Any) -> None:
        raise SystemExit(3)

    def fail(selector: Any) -> None:
        raise KeyError("gone")

    with pytest.raises(FedpsError, match=r"Does.select\(\) raised SystemExit\(3\) in round 2"):
        choose(Does(make_job(tmp_path), leave), 2, CLIENTS)
    with pytest.raises(KeyError, match="gone"):
        choose(Does(make_job(tmp_path), fail), 2, CLIENTS)


def test_reports_and_history_cannot_be_changed(tmp_path: Path) -> None:
    def meddle(selector: Any) -> None:
        with pytest.raises(AttributeError):
            selector.clients_info["a"].samples = 99
        with pytest.raises(AttributeError):
            selector.history["a"][0].loss = 0.0
        selector.clients_info["a"] = ClientInfo(samples=99)
        selector.history.clear()

    history = named(a=trained(1))
    assert picks(Does(make_job(tmp_path), meddle), CLIENTS, 2, history) == list("abcd")
    assert CLIENTS[ClientId("a")].samples == 10 and len(history) == 1


def test_who_is_away_is_not_offered_and_waits(tmp_path: Path) -> None:
    selector = Does(make_job(tmp_path))
    clients = CLIENTS | named(b=ClientInfo(samples=10, available=False))
    assert picks(selector, clients) == selector.offered == ["a", "c", "d"]
    away = {c: ClientInfo(available=False) for c in CLIENTS}
    selector.offered = []
    assert picks(selector, away) == selector.offered == []


@pytest.mark.parametrize(
    ("only", "never", "who"),
    [
        (["fast"], [], ["a", "b"]),
        (["fast", "south"], [], ["a", "b", "c"]),
        ([], ["south"], ["a", "d"]),
        (["fast"], ["south"], ["a"]),
    ],
)
def test_tags_let_in_and_keep_out(tmp_path: Path, only: list[str], never: list[str], who: list[str]) -> None:
    tags = {"fast": ["a", "b"], "south": ["b", "c"]}
    selector = Does(make_job(tmp_path, tags=tags, only=only, never=never))
    assert picks(selector, CLIENTS) == selector.offered == who


def test_tags_that_keep_all_out_are_an_error(tmp_path: Path) -> None:
    job = make_job(tmp_path, tags={"gone": ["z"]}, only=["gone"])
    with pytest.raises(FedpsError, match=r"selector.only \['gone'\].* no client that is here may train in round 1"):
        choose(Does(job), 1, CLIENTS)
