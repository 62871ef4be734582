"""Who takes part in a round: the class to subclass, the two built-in choices, and the check of what a choice says.

A selector is one object for the whole job, so it may remember what it likes. Before each round it is given the clients'
last reports and the round's number; it answers with what each client shall do. Clients that it does not name wait.
"""

import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from fedps.config import Job
from fedps.config.classes import load_class
from fedps.errors import FedpsError, JobError
from fedps.types import ClientId, ClientInfo

State = Literal["JOIN", "WAIT", "FINISH"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class FLStrategy:
    """What one client shall do in a round.

    Args:
        next_state: JOIN (train), WAIT (sit out this round) or FINISH (leave for good).
        iteration_num: batches to train; None takes the job's `round_iterations`, a pass over the client's data if unset.
    """

    JOIN: ClassVar[State] = "JOIN"
    WAIT: ClassVar[State] = "WAIT"
    FINISH: ClassVar[State] = "FINISH"

    next_state: State = "JOIN"
    iteration_num: int | None = None


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
        round: the round to decide on, counted from 1.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.clients_info: dict[ClientId, ClientInfo] = {}
        self.round = 0

    def parse_from_string(self) -> None:  # noqa: B027  (kept for selectors written for the original)
        """Do nothing: reports come parsed. The original's selectors call this first."""

    @abstractmethod
    def select(self) -> Mapping[Any, FLStrategy | State]:
        """Return what each client shall do; who is not named waits."""


class AllClients(ClientSelectorBase):
    """Everybody trains in every round."""

    def select(self) -> Mapping[Any, FLStrategy | State]:
        """Return JOIN for all."""
        return dict.fromkeys(self.clients_info, "JOIN")


class RandomClients(ClientSelectorBase):
    """`clients_per_round` clients train, drawn anew each round from the job's seed; half of them if it is unset."""

    def select(self) -> Mapping[Any, FLStrategy | State]:
        """Return JOIN for the drawn ones."""
        clients = sorted(self.clients_info)
        count = min(self.job.runner.clients_per_round or (len(clients) + 1) // 2, len(clients))
        drawn = np.random.default_rng((self.job.runner.seed, self.round)).choice(len(clients), count, replace=False)
        return {clients[k]: "JOIN" for k in drawn}


BUILT_IN: Mapping[str, type[ClientSelectorBase]] = {"all": AllClients, "random": RandomClients}


def make_selector(job: Job) -> ClientSelectorBase:
    """Return the job's selector; one of the user's own is looked up beside the job file.

    Raises:
        JobError: there is no such class, or it is no selector or cannot be made.
    """
    name = job.runner.client_selector
    key = f"runner.client_selector: {name!r}"
    if name in BUILT_IN:
        return BUILT_IN[name](job)
    if "." not in name:
        raise JobError(f"{key}: write {', '.join(BUILT_IN)}, or module.Class for a class of your own")
    found = load_class(name, job.folder, "runner.client_selector")
    if not (isinstance(found, type) and issubclass(found, ClientSelectorBase)):
        raise JobError(f"{key}: must be a subclass of fedps.ClientSelectorBase")
    if inspect.isabstract(found):
        raise JobError(f"{key}: has no method select")
    try:
        return found(job)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(f"{key}: cannot be made: {type(error).__name__}: {error}") from error


def choose(
    selector: ClientSelectorBase, round_: int, clients: Mapping[ClientId, ClientInfo], known: Collection[ClientId] = ()
) -> dict[ClientId, FLStrategy]:
    """Ask a selector, and return what every client shall do.

    Args:
        selector: whom to ask; what it does to its copy of the reports stays with it.
        round_: the round, counted from 1.
        clients: the reports of those that can take part.
        known: those that took part before; one of them that is named although it is away is passed over.

    Raises:
        FedpsError: the answer cannot be followed; says why. What the selector itself raises is passed on.
    """
    selector.clients_info, selector.round = dict(clients), round_
    told: Any = selector.select()
    name = type(selector).__name__
    if not isinstance(told, Mapping):
        raise FedpsError(f"{name}.select() returned {type(told).__name__} in round {round_}; return client: state")
    unknown = [client for client in told if client not in clients and client not in known]
    if unknown:
        raise FedpsError(
            f"{name}.select() named client {unknown[0]!r} in round {round_}; there are {', '.join(map(repr, clients))}"
        )
    chosen = {client: _strategy(name, client, told.get(client, "WAIT")) for client in clients}
    states = {c.next_state for c in chosen.values()}
    if "WAIT" in states and "JOIN" not in states:
        raise FedpsError(
            f"{name}.select() selected nobody in round {round_}: let one client JOIN at least, or all FINISH to end the job"
        )
    return chosen


def _strategy(name: str, client: ClientId, told: Any) -> FLStrategy:
    strategy = FLStrategy(told) if told in STATES else told
    if not isinstance(strategy, FLStrategy) or strategy.next_state not in STATES:
        raise FedpsError(
            f"{name}.select() said {told!r} for client {client!r}; say one of {', '.join(STATES)}, or an FLStrategy"
        )
    count: Any = strategy.iteration_num
    if count is None:
        return strategy
    whole = operator.index(count) if hasattr(count, "__index__") else 0  # numpy's whole numbers too
    if not 0 < whole < 2**31:
        told = f"iteration_num {count!r} of client {client!r}"
        raise FedpsError(f"{name}.select(): {told} must be a positive whole number")
    return FLStrategy(strategy.next_state, whole)
