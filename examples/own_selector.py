"""A selector of your own: half of the clients train, those that have most to learn for the time they take.

    fedps run examples/quickstart.yaml -o runner.with_coordinator=true -o runner.client_selector=own_selector.MostToLearn

A client's worth is its mean loss times the square root of its samples, over the seconds that a round takes it. One that
has not trained yet comes first, and nobody waits for more than three rounds, lest its loss be an old one.
"""

import math

from fedps import ClientInfo, ClientSelectorBase, FLStrategy, Job

PATIENCE = 3  # rounds


class MostToLearn(ClientSelectorBase):
    """Picks by reported loss and speed."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.loss: dict[str, float] = {}  # each client's last one; a report of a round it sat out has none
        self.last: dict[str, int] = {}  # the round it last trained in

    def select(self) -> dict[str, FLStrategy]:
        """Return JOIN for half of the clients; the others wait."""
        for client, info in self.clients_info.items():
            if info.loss is not None:
                self.loss[client] = info.loss
        ranked = sorted(self.clients_info, key=lambda c: self.worth(c, self.clients_info[c]), reverse=True)
        chosen = ranked[: (len(ranked) + 1) // 2]
        self.last.update(dict.fromkeys(chosen, self.round))
        return {client: FLStrategy(FLStrategy.JOIN if client in chosen else FLStrategy.WAIT) for client in ranked}

    def worth(self, client: str, info: ClientInfo) -> float:
        """Return what a round of this client is worth, in loss a second."""
        if client not in self.loss or self.round - self.last[client] > PATIENCE:
            return math.inf
        seconds = info.samples / info.compute_capacity
        return self.loss[client] * math.sqrt(info.samples) / seconds
