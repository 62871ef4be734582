"""A selector: the class to subclass, and how it is asked: in its own time, on copies of the reports, its answer checked."""

import operator
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedps.config import Job
from fedps.coordinator.selectors.strategy import FLStrategy, State, as_json, read_strategy
from fedps.errors import FedpsError
from fedps.types import ClientId, ClientInfo

Answer = Mapping[Any, "FLStrategy | State | Mapping[str, Any]"]
T = TypeVar("T")


class Turn(NamedTuple):
    """One round that a client was picked for.

    `round` counts from 1; those of a run that this one goes on from are 0 and below. `late`: it did not report in time.
    `dropped`: it says that it dropped out. `loss` is None where nothing was trained.
    """

    round: int
    trained: int = 0
    seconds: float = 0.0
    loss: float | None = None
    auc: float | None = None
    dropped: bool = False
    late: bool = False


Turns = tuple[Turn, ...]


class ClientSelectorBase(ABC):
    """Decides each round who trains. Subclass it and name your class in `runner.client_selector`.

        class Fastest(ClientSelectorBase):
            def select(self):
                ranked = sorted(self.clients_info, key=lambda c: -self.clients_info[c].compute_capacity)
                return {client: "JOIN" for client in ranked[:5]}

    Args:
        job: the resolved job.

    Attributes:
        clients_info: the last report of every client that can take part, by the client's own name.
        history: by client, the rounds it was picked for and what came of them, oldest first, 32 at most.
        round: the round to decide on, counted from 1.
        fl_strategy: empty before each round, for `select` to fill and return, as the original's selectors do.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.clients_info: dict[ClientId, ClientInfo] = {}
        self.history: dict[ClientId, Turns] = {}
        self.round = 0
        self.fl_strategy: dict[Any, FLStrategy | State | Mapping[str, Any]] = {}

    def parse_from_string(self) -> None:  # noqa: B027  (kept for selectors written for the original)
        """Do nothing: reports come parsed. The original's selectors call this first."""

    @abstractmethod
    def select(self) -> Answer:
        """Return what each client shall do; who is not named waits."""

    def state(self) -> Any:
        """Return what to remember beyond this process, as JSON has it; by default nothing."""
        return None

    def load_state(self, state: Any) -> None:  # noqa: B027  (most selectors remember nothing)
        """Take up what `state` returned, before the first round; called only if that was not None."""

    @property
    def count(self) -> int:
        """How many clients to pick: `clients_per_round`, half if unset, times `selector.over_selection`; at least 1."""
        here = len(self.clients_info)
        wanted = self.job.runner.picked(here)
        return max(1, min(here, self.job.selector.picks(wanted)))

    def by_chance(self) -> Answer:
        """Return JOIN for `count` clients, each as likely as the other."""
        clients = sorted(self.clients_info)
        drawn = self.draws().choice(len(clients), self.count, replace=False)
        return {clients[k]: "JOIN" for k in drawn}

    def draws(self) -> np.random.Generator:
        """Return this round's stream of random numbers; it follows from the job's seed."""
        return np.random.default_rng((self.job.runner.seed, self.round))


def draw(rng: np.random.Generator, weights: Sequence[float], count: int) -> NDArray[np.intp]:
    """Draw without replacement, each time with probability by weight; the last ones drawn are those of weight 0.

    Args:
        rng: the stream.
        weights: none negative.
        count: how many; all if there are fewer.

    Returns:
        Positions, intp[min(count, n)], in the order they were drawn.
    """
    # the first to come of exponential waits with these rates: the same law as drawing one after the other
    rates = np.asarray(weights, np.float64)
    waits = rng.exponential(size=len(rates))
    with np.errstate(divide="ignore", over="ignore"):  # a rate of 0 waits for ever, one next to 0 as good as
        order: NDArray[np.intp] = np.argsort(waits / rates, kind="stable")
    return order[:count]


def choose(
    selector: ClientSelectorBase,
    round_: int,
    clients: Mapping[ClientId, ClientInfo],
    known: Collection[ClientId] = (),
    history: Mapping[ClientId, Turns] | None = None,
) -> dict[ClientId, FLStrategy]:
    """Ask a selector, and return what every client shall do.

    Args:
        selector: whom to ask; what it does to its copy of the reports stays with it.
        round_: the round, counted from 1.
        clients: the reports of all. Those that are not available, or that the job's tags keep out, are not offered to
            the selector and wait; if all that the tags let in are away, all wait.
        known: those that took part before; one of them that is named although it is away is passed over.
        history: what became of each client's turns.

    Raises:
        FedpsError: the answer does not come in time or cannot be followed; says why. What the selector itself raises is
            passed on.
    """
    let_in = [c for c in clients if _may_join(selector, c)]
    offered = {c: clients[c] for c in let_in if clients[c].available}
    if let_in and not offered:
        return dict.fromkeys(clients, FLStrategy("WAIT"))
    if not let_in:
        settings = selector.job.selector
        raise FedpsError(
            f"selector.only {list(settings.only)}, selector.never {list(settings.never)}: no client that is here may"
            f" train in round {round_}; there are {', '.join(map(repr, clients))}"
        )
    selector.clients_info, selector.history, selector.round = dict(offered), dict(history or {}), round_
    selector.fl_strategy = {}
    answer: Any = _within_its_time(selector, selector.select)
    name = type(selector).__name__
    if not isinstance(answer, Mapping):
        raise FedpsError(f"{name}.select() returned {type(answer).__name__} in round {round_}; return client: state")
    answer = {_name(client): said for client, said in answer.items()}
    unknown = [client for client in answer if client not in clients and client not in known]
    if unknown:
        raise FedpsError(
            f"{name}.select() named client {unknown[0]!r} in round {round_}; there are {', '.join(map(repr, clients))}"
        )
    stated = {client: answer.get(client, "WAIT") if client in offered else "WAIT" for client in clients}
    strategies = {
        client: read_strategy(said, f"{name}.select() for client {client!r}", selector.job)
        for client, said in stated.items()
    }
    states = {s.next_state for s in strategies.values()}
    if "WAIT" in states and "JOIN" not in states:
        raise FedpsError(
            f"{name}.select() selected nobody in round {round_}: let one client JOIN at least, or all FINISH to end the job"
        )
    return strategies


def _name(client: Any) -> Any:
    """Return a client's name as text, where it is a whole number, as all are in the original."""
    whole = hasattr(client, "__index__") and not isinstance(client, bool)
    return str(operator.index(client)) if whole else client


def state_of(selector: ClientSelectorBase) -> Any:
    """Return a selector's state as JSON has it.

    Raises:
        FedpsError: it does not come in time, or is something else. What the selector itself raises is passed on.
    """
    return as_json(f"{type(selector).__name__}.state()", _within_its_time(selector, selector.state))


def _may_join(selector: ClientSelectorBase, client: ClientId) -> bool:
    """Whether the job's tags let a client train."""
    settings = selector.job.selector
    carried = {tag for tag, clients in settings.tags.items() if client in clients}
    return (not settings.only or bool(carried & set(settings.only))) and not carried & set(settings.never)


def _within_its_time(selector: ClientSelectorBase, method: Callable[[], T]) -> T:
    """Return what a method of a selector answers within `selector.timeout`; 0 waits for ever, in this very thread."""
    limit = selector.job.selector.timeout
    if not limit:
        return method()
    answers: list[T] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(method())
        except BaseException as error:  # to be raised where it was asked
            failures.append(error)

    thread = threading.Thread(target=ask, name="fedps selector", daemon=True)  # one that hangs cannot be stopped
    thread.start()
    thread.join(limit)
    asked = f"{type(selector).__name__}.{method.__name__}()"
    if failures:
        if isinstance(failures[0], Exception):
            raise failures[0]
        raise FedpsError(f"{asked} raised {failures[0]!r} in round {selector.round}") from failures[0]
    if not answers:
        raise FedpsError(
            f"{asked} has not answered within {limit:g} s in round {selector.round}: make it faster, or raise"
            " selector.timeout (0: no limit)"
        )
    return answers[0]
