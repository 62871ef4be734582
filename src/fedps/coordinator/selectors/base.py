"""The class that a selector subclasses, and what all of them can ask of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.config import Job
from fedps.coordinator.history import Turns
from fedps.coordinator.strategy import FLStrategy, State
from fedps.types import ClientId, ClientInfo

Answer = Mapping[Any, "FLStrategy | State | Mapping[str, Any]"]


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
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.clients_info: dict[ClientId, ClientInfo] = {}
        self.history: dict[ClientId, Turns] = {}
        self.round = 0

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
    with np.errstate(divide="ignore"):
        order: NDArray[np.intp] = np.argsort(waits / rates, kind="stable")
    return order[:count]
