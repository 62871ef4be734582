"""A learned selector: a contextual bandit finds out which clients bring the loss down fastest.

    fedps run examples/quickstart.yaml -o runner.epochs=10 -o runner.with_coordinator=true \\
        -o runner.client_selector=bandit_selector.LinUCB -o runner.clients_per_round=5

LinUCB (Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation", WWW 2010), one linear
model for each client. A client's context is what it last reported; the reward of picking it is by how much its loss fell
since its turn before, per second that the turn took. Who has the highest upper confidence bound trains.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps import ClientSelectorBase, Job

FEATURES = 4
Vector = NDArray[np.float64]


class LinUCB(ClientSelectorBase):
    """Picks by upper confidence bounds; `selector.options: {width: 0.1}` sets how wide they are."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.width = float(job.selector.options.get("width", 0.1))  # α of the paper
        self.gram: dict[str, Vector] = {}  # A of the paper, by client: the identity plus contexts times themselves
        self.sums: dict[str, Vector] = {}  # b: contexts times their rewards
        self.tried: dict[Any, tuple[int, Vector]] = {}  # the round of a pick, and the context it was made in

    def select(self) -> dict[Any, Any]:
        """Return JOIN for the clients of the highest bounds."""
        self.learn()
        contexts = {c: self.context(c) for c in self.clients_info}
        ranked = sorted(contexts, key=lambda c: self.bound(c, contexts[c]), reverse=True)
        picked = ranked[: self.count]
        self.tried.update({c: (self.round, contexts[c]) for c in picked})
        return dict.fromkeys(picked, "JOIN")

    def learn(self) -> None:
        """Take in the reward of each pick whose client has reported; its first turn has none to compare with."""
        for client, (round_, context) in list(self.tried.items()):
            turns = [(t.round, t.loss, t.seconds) for t in self.history.get(client, ()) if t.loss is not None]
            if len(turns) > 1 and turns[-1][0] == round_ and turns[-1][2] > 0:
                (_, before, _), (_, now, seconds) = turns[-2:]
                reward = (before - now) / seconds
                self.gram[client] = self.gram.get(client, np.eye(FEATURES)) + np.outer(context, context)
                self.sums[client] = self.sums.get(client, np.zeros(FEATURES)) + reward * context
            del self.tried[client]

    def context(self, client: Any) -> Vector:
        """Return what is known of a client: 1, its last loss, its seconds a turn, the rounds since that."""
        turns = [t for t in self.history.get(client, ()) if t.loss is not None]
        if not turns:
            return np.array([1.0, 1.0, 0.0, 1.0])
        last = turns[-1]
        return np.array([1.0, last.loss or 0.0, last.seconds, 1.0 - 0.5 ** (self.round - last.round)])

    def bound(self, client: Any, context: Vector) -> float:
        """Return the highest reward that may be hoped for."""
        if not self.history.get(client):
            return np.inf  # everybody is tried once
        inverse = np.linalg.inv(self.gram.get(client, np.eye(FEATURES)))
        mean = inverse @ self.sums.get(client, np.zeros(FEATURES))
        return float(mean @ context + self.width * np.sqrt(context @ inverse @ context))

    def state(self) -> Any:
        """Return what was learned."""
        return {c: [self.gram[c].tolist(), self.sums[c].tolist()] for c in self.gram}

    def load_state(self, state: Any) -> None:
        """Go on from there."""
        for client, (gram, sums) in state.items():
            self.gram[client], self.sums[client] = np.array(gram), np.array(sums)
