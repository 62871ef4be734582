"""Oort: clients of high statistical utility that are fast enough, and some that were never heard."""

import math
from collections import Counter
from typing import Any

import numpy as np

from fedps.config import Job
from fedps.coordinator.selectors.selector import Answer, ClientSelectorBase, Turn, draw
from fedps.types import ClientId

CLIP = 0.95  # utilities above this quantile count as it
OUT = 0.3  # share of the clients that may be out at a time for their many picks


class Oort(ClientSelectorBase):
    """Guided selection of Lai et al., "Oort", OSDI 2021, algorithm 1.

    U(i) = |B_i| sqrt(1/|B_i| Σ loss²), the statistical utility of client i. Clients report the mean loss of their last
    training, not the loss of each sample, so here U(i) = |B_i| · mean loss, which is at most that. It is capped at the
    95 % quantile, and scaled so that the cap is 1: the staleness bonus is made for numbers of that size.

    Util(i) = (U(i) + sqrt(0.1 log R / L(i))) · (T / D(i))^α where T < D(i), else without the last factor. R is the
    round, L(i) the last one that i was picked for, D(i) the seconds of its last training, T the preferred duration,
    α `selector.alpha`. Of K picks, (1 - ε) K are drawn, with probability by Util, from the explored clients whose Util
    is at least `selector.cutoff` of that of the (1 - ε) K-th; ε K from those never heard, with probability by speed.
    ε starts at `selector.exploration` and decays by `exploration_decay` each round to `exploration_floor`.

    The pacer: every W = `pacer_window` rounds, T grows by Δ = `pacer_step` if the utility of the last W rounds' picks is
    less than that of the W rounds before. T starts at Δ; left out, Δ is the median of the first durations known.

    A client that was late or dropped out has U = 0, until the bonus brings it back.

    With `selector.max_picks`, a client that was picked so many times is no longer exploited, so that others come in:
    the paper's guard against outliers, `blacklist_rounds` in its code. At most 30 % of the clients are out at a time,
    the most picked ones (`blacklist_max_len`); so the cap rises once more have reached it.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._rounds = 0  # R
        self._last: dict[ClientId, int] = {}  # L
        self._picks: Counter[ClientId] = Counter()  # how many times each was picked
        self._picked: list[ClientId] = []  # in the last round
        self._gained: list[float] = []  # U of each round's picks, of the last 2 W rounds
        self._step: float | None = job.selector.pacer_step  # Δ
        self._preferred: float | None = self._step  # T

    def select(self) -> Answer:
        """Return JOIN for the K picks."""
        settings, rng = self.job.selector, self.draws()
        self._take_feedback()
        self._rounds += 1
        share = settings.exploration * settings.exploration_decay ** (self._rounds - 1)
        share = min(1.0, max(share, settings.exploration_floor))
        out = self._picked_enough()
        explored = [c for c in sorted(self.clients_info) if self.history.get(c) and c not in out]
        fresh = [c for c in sorted(self.clients_info) if not self.history.get(c)]
        exploring = min(math.floor(share * self.count + 0.5), len(fresh))
        exploiting = min(self.count - exploring, len(explored))
        exploring = self.count - exploiting
        self._picked = [*self._exploit(explored, exploiting, rng), *self._explore(fresh, exploring, rng)]
        self._last.update(dict.fromkeys(self._picked, self._rounds))
        self._picks.update(self._picked)
        return dict.fromkeys(self._picked, "JOIN")

    def _picked_enough(self) -> set[ClientId]:
        """Return who is not to be exploited now; enough others stay to pick from."""
        most, here = self.job.selector.max_picks, len(self.clients_info)
        if most is None:
            return set()
        reached = [c for c in sorted(self.clients_info) if self.history.get(c) and self._picks[c] >= most]
        reached.sort(key=lambda c: -self._picks[c])
        return set(reached[: min(math.floor(OUT * here), here - self.count)])

    def utilities(self, clients: list[ClientId]) -> dict[ClientId, float]:
        """Return Util(i) of explored clients, in the round R that is being decided."""
        raw = {c: _statistical(self.history[c][-1]) for c in clients}
        cap = float(np.quantile(list(raw.values()), CLIP)) if raw else 0.0
        return {c: self._util(c, min(u, cap) / cap if cap > 0 else 0.0) for c, u in raw.items()}

    def _util(self, client: ClientId, statistical: float) -> float:
        last = self._last.get(client, 1)
        util = statistical + math.sqrt(0.1 * math.log(max(1, self._rounds)) / last)
        duration = self.history[client][-1].seconds
        if self._preferred is not None and self._preferred < duration:
            util *= (self._preferred / duration) ** self.job.selector.alpha
        return util

    def _exploit(self, clients: list[ClientId], count: int, rng: np.random.Generator) -> list[ClientId]:
        if not count:
            return []
        utilities = self.utilities(clients)
        cut = self.job.selector.cutoff * sorted(utilities.values(), reverse=True)[count - 1]
        admitted = [c for c in clients if utilities[c] >= cut]
        return [admitted[k] for k in draw(rng, [utilities[c] for c in admitted], count)]

    def _explore(self, clients: list[ClientId], count: int, rng: np.random.Generator) -> list[ClientId]:
        speeds = [self.clients_info[c].compute_capacity for c in clients]
        known = [s for s in speeds if s > 0]
        usual = sum(known) / len(known) if known else 1.0  # one of unknown speed is as likely as the mean
        return [clients[k] for k in draw(rng, [s or usual for s in speeds], count)]

    def _take_feedback(self) -> None:
        """Learn durations and what the last picks gained, and pace."""
        durations = [ts[-1].seconds for ts in self.history.values() if ts and ts[-1].trained]
        if self._step is None and durations:
            self._step = self._preferred = float(np.median(durations))
        if self._picked:
            self._gained.append(sum(_statistical(self.history[c][-1]) for c in self._picked if self.history.get(c)))
        window = self.job.selector.pacer_window
        self._gained = self._gained[-2 * window :]
        if self._rounds and self._rounds % window == 0 and len(self._gained) == 2 * window and self._preferred:
            before, now = sum(self._gained[:window]), sum(self._gained[window:])
            self._preferred += (self._step or 0.0) if before > now else 0.0

    def state(self) -> Any:
        """Return R, L, T, Δ, how often each was picked, and what the pacer looks at."""
        return {
            "rounds": self._rounds, "last": self._last, "picks": dict(self._picks), "picked": self._picked,
            "gained": self._gained, "step": self._step, "preferred": self._preferred,
        }  # fmt: skip

    def load_state(self, state: Any) -> None:
        """Go on from there."""
        self._rounds, self._last = int(state["rounds"]), {ClientId(c): int(r) for c, r in state["last"].items()}
        self._picks = Counter({ClientId(c): int(n) for c, n in state.get("picks", {}).items()})
        self._picked, self._gained = [ClientId(c) for c in state["picked"]], [float(u) for u in state["gained"]]
        self._step, self._preferred = state["step"], state["preferred"]


def _statistical(turn: Turn) -> float:
    """Return U of a client's last turn; 0 if it trained nothing."""
    return turn.trained * abs(turn.loss) if turn.loss is not None else 0.0
