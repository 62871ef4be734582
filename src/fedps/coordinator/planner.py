"""Plans the rounds: asks the selector, keeps the history, and knows when the job ends before its last round."""

import math
from collections.abc import Collection, Mapping, Sequence

from fedps.config import Job
from fedps.coordinator.history import History
from fedps.coordinator.members import Member
from fedps.coordinator.merged import merge
from fedps.coordinator.resuming import Saved, SavedMember, give_back, state_of
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy, choose
from fedps.coordinator.stopping import Stopping
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment


class Planner:
    """What a coordinator decides, apart from who is here.

    Args:
        job: the job.
        selector: who is asked.

    Attributes:
        history: what became of each client's turns.
    """

    def __init__(self, job: Job, selector: ClientSelectorBase) -> None:
        self._job, self._selector = job, selector
        self.history, self._stopping = History(), Stopping(job.runner)

    @property
    def end(self) -> str | None:
        """Why the job ends before its last round, None while it goes on."""
        return self._stopping.reason

    def close(self, round_: int, reports: Sequence[Member]) -> dict[str, float | None]:
        """Return the merged figures of a round, and see whether they end the job."""
        figures = merge([(m.info, m.scores) for m in reports])
        self._stopping.saw(round_, figures)
        return figures

    def plan(
        self, round_: int, clients: Mapping[ClientId, ClientInfo], known: Collection[ClientId]
    ) -> dict[ClientId, FLStrategy]:
        """Return what every client shall do in a round.

        Raises:
            Exception: what the selector raised, or why its answer cannot be followed.
        """
        if round_ > self._job.runner.epochs or self.end:
            return dict.fromkeys(clients, FLStrategy("FINISH"))
        return choose(self._selector, round_, clients, known, self.history.turns)

    def assignment(self, round_: int, strategy: FLStrategy) -> Assignment:
        """Return a strategy as it is told, with what it leaves out filled in from the job."""
        runner, last = self._job.runner, round_ == self._job.runner.epochs
        joins = strategy.next_state == "JOIN"
        due = last or (runner.eval_every > 0 and round_ % runner.eval_every == 0)
        return Assignment(
            round_,
            strategy.next_state,
            strategy.iteration_num or runner.round_iterations or 0,
            due and (joins or last or runner.eval_clients == "all"),
            strategy.learning_rate,
            strategy.batch_size,
            (strategy.deadline or self._job.selector.deadline) if joins else None,
            dict(strategy.extra),
            strategy.geo_step,
        )

    def needed(self, joined: int) -> int:
        """Return how many of those that joined a round have to report, for it to go on."""
        factor = self._job.selector.over_selection
        wanted = self._job.runner.clients_per_round or math.ceil(round(joined / factor, 6))
        return min(joined, wanted) if factor > 1 else joined

    def saved(self, round_: int, members: Mapping[ClientId, Member], finished: Mapping[ClientId, str]) -> Saved:
        """Return what to remember beyond this process.

        Raises:
            Exception: what the selector raised, or that its state is not of the kind that can be kept.
        """
        kept = {client: SavedMember(m.instance, m.round, m.told) for client, m in members.items()}
        stopping = self._stopping
        return Saved(
            round_, kept, dict(finished), self.history.turns, self._job.runner.client_selector,
            state_of(self._selector), stopping.best, stopping.since, stopping.reason,
        )  # fmt: skip

    def resume(self, saved: Saved) -> bool:
        """Go on from there; return whether the selector did too.

        Raises:
            JobError: the selector does not take its state.
        """
        self.history = History(saved.history)
        self._stopping.best, self._stopping.since, self._stopping.reason = saved.best, saved.since, saved.end
        return give_back(self._selector, saved, self._job.runner.client_selector)

    def begin_anew(self, rounds: int) -> None:
        """Count rounds from 1 again; the `rounds` before them, and what the selector learned, stay known."""
        self.history, self._stopping = self.history.shifted(rounds), Stopping(self._job.runner)
