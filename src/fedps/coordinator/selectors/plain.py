"""Selectors that look at no report but the number of samples: everybody, by chance, in turn, by data."""

from typing import Any

from fedps.config import Job
from fedps.coordinator.selectors.selector import Answer, ClientSelectorBase, draw


class AllClients(ClientSelectorBase):
    """Everybody trains in every round."""

    def select(self) -> Answer:
        """Return JOIN for all."""
        return dict.fromkeys(self.clients_info, "JOIN")


class RandomClients(ClientSelectorBase):
    """As many as `clients_per_round` train, drawn anew each round, each as likely as the other (McMahan et al., 2017)."""

    def select(self) -> Answer:
        """Return JOIN for the drawn ones."""
        return self.by_chance()


class RoundRobin(ClientSelectorBase):
    """Clients take turns in the order of their names."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._last = ""  # the name of the last one picked

    def select(self) -> Answer:
        """Return JOIN for those that follow the last one picked."""
        clients = sorted(self.clients_info)
        after = [c for c in clients if c > self._last]
        picked = [*after, *clients[: len(clients) - len(after)]][: self.count]
        self._last = picked[-1]
        return dict.fromkeys(picked, "JOIN")

    def state(self) -> Any:
        """Return whose turn was last."""
        return {"last": self._last}

    def load_state(self, state: Any) -> None:
        """Go on with who follows."""
        self._last = str(state["last"])


class BySamples(ClientSelectorBase):
    """Clients are drawn without replacement, with probability p_k by their share of the samples."""

    def select(self) -> Answer:
        """Return JOIN for the drawn ones."""
        clients = sorted(self.clients_info)
        drawn = draw(self.draws(), [self.clients_info[c].samples for c in clients], self.count)
        return {clients[k]: "JOIN" for k in drawn}
