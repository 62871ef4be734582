"""Plans the rounds: merges their figures, keeps what became of each client's turns, and asks the selector who trains next."""

import math
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from fedps.config import Job, Runner
from fedps.coordinator.members import Member
from fedps.coordinator.resuming import STATE, Checkpoint, Found, Line, MemberRecord
from fedps.coordinator.round import Clock
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy, Turn, Turns, choose, state_of
from fedps.coordinator.teacher import Prediction, make_teacher
from fedps.errors import JobError
from fedps.figures import DEFAULT, LOWER_IS_BETTER, Figures
from fedps.metrics import Evaluations, Histogram
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment

KEPT = 32  # turns of a client; older ones are forgotten


class Planner:
    """What a coordinator decides, apart from who is here.

    Args:
        job: the job.
        selector: who is asked.
        clock: what rounds are timed by.

    Attributes:
        history: what became of each client's turns.
        stopping: whether the job ends before its last round.
        teacher: makes soft targets of the clients' predictions, None if the job distills nothing.

    Raises:
        DataError: the job's public samples cannot be read.
    """

    def __init__(self, job: Job, selector: ClientSelectorBase, clock: Clock) -> None:
        self._job, self.selector, self.clock = job, selector, clock
        self.history, self.stopping, self.teacher = History(), Stopping(job.runner), make_teacher(job)
        self._secret = b""  # of the round that was planned last

    def evaluate(self, round_: int, members: Sequence[Member]) -> Figures:
        """Return the merged figures of a round, and see whether they end the job."""
        figures = merge(members, self._job.metrics)
        self.stopping.look(round_, figures)
        return figures

    def plan(
        self, round_: int, clients: Mapping[ClientId, ClientInfo], known: Collection[ClientId]
    ) -> dict[ClientId, FLStrategy]:
        """Return what every client shall do in a round.

        Args:
            round_: which.
            clients: that are there, with what each has reported.
            known: all that ever were.

        Raises:
            Exception: what the selector raised, or why its answer cannot be followed.
        """
        self._secret = secrets.token_bytes(16) if self._job.compares_tables else b""
        if round_ > self._job.runner.epochs or self.stopping.reason:
            return dict.fromkeys(clients, FLStrategy("FINISH"))
        present = set(self.clock.present(clients))
        # With sums of its own: a selector may be anybody's code, and is not to change what was reported.
        infos = {
            client: replace(info, available=info.available and client in present, sums=dict(info.sums))
            for client, info in clients.items()
        }
        return choose(self.selector, round_, infos, known, self.history.turns)

    def assignment(self, round_: int, strategy: FLStrategy) -> Assignment:
        """Return a strategy as it is sent, with what it leaves out filled in from the job."""
        runner, last = self._job.runner, round_ == self._job.runner.epochs
        joins = strategy.next_state == "JOIN"
        due = runner.evaluates_after(round_)
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
            self.teacher.round if self.teacher and joins else 0,
            self._secret,
        )

    def quorum(self, joined: int) -> int:
        """Return how many of those that joined a round have to report, for it to go on."""
        runner, factor = self._job.runner, self._job.selector.over_selection
        wanted = runner.clients_per_round or math.ceil(round(joined / factor, 6))
        most = min(joined, wanted) if factor > 1 else joined
        return min(most, math.ceil(round(runner.quorum * joined, 6)))

    def found(self, round_: int, members: dict[ClientId, MemberRecord], before: Found | None = None) -> Found:
        """Return what another process would need to go on with a round.

        Args:
            round_: the round, once it is open.
            members: as they are then.
            before: what was taken up, if the selector has not been asked since.

        Raises:
            Exception: what the selector raises that is asked for its state, or that it cannot be kept.
        """
        stopping, teacher, kind = self.stopping, self.teacher, self._job.runner.client_selector
        if round_ > 0:
            learned = state_of(self.selector)
        else:
            learned = before.state.state if before and before.state.selector == kind else None
        state = Checkpoint(
            round_, members, kind, learned, stopping.best, stopping.since, stopping.reason, self.clock.now,
            taught=teacher.round if teacher else 0,
        )  # fmt: skip
        return Found(state, self.history.take_news(), teacher.targets.tobytes() if teacher else b"")

    def resume(self, found: Found) -> bool:
        """Go on from there; return whether the selector did too.

        Raises:
            JobError: the selector does not take its state.
        """
        state, stopping = found.state, self.stopping
        self.history, self.clock.now = History(found.turns), state.clock
        stopping.best, stopping.since, stopping.reason = state.best, state.since, state.end
        if self.teacher and state.taught:
            self.teacher.remember(state.taught, found.targets)
        if state.state is None or state.selector != self._job.runner.client_selector:
            return False
        try:
            self.selector.load_state(state.state)
        except Exception as error:  # whatever the user's own code raises
            name = type(self.selector).__name__
            raise JobError(
                f"{name}.load_state(): {type(error).__name__}: {error}; remove {STATE} to begin without"
            ) from error
        return True

    def begin_anew(self, rounds: int) -> None:
        """Count rounds from 1 again; the `rounds` before them, and what the selector learned, stay known."""
        self.history.shift(rounds)
        self.stopping, self.clock.now = Stopping(self._job.runner), 0.0
        if self.teacher:
            self.teacher.remember(0, b"")


def merge(members: Sequence[Member], metrics: Sequence[str] = DEFAULT) -> Figures:
    """Merge one round's figures over all clients, exactly: sums, and histograms laid together.

    What a client says of its training counts only if it was to train. All numbers are within the bounds of `reports`,
    so that no sum overflows.

    Returns:
        loss (weighted by samples), train_auc, auc and what else is measured; None where nobody trained or evaluated.
    """
    joined = [m for m in members if m.joins and m.info.loss is not None]
    trained = sum(m.info.trained for m in joined)
    training, held_out = Histogram(), Evaluations()
    for member in joined:
        training.merge(member.scores.training)
    for member in members:
        held_out.add(member.info.sums, member.scores.held_out)
    loss = math.fsum((m.info.loss or 0.0) * m.info.trained for m in joined)
    return {
        "loss": loss / trained if trained else None,
        "train_auc": training.auc(),
        "auc": None,
    } | held_out.figures(metrics)


def predictions(members: Mapping[ClientId, Member]) -> dict[ClientId, Prediction]:
    """Return the logits of those that trained and sent some."""
    sent = {client: m for client, m in members.items() if m.joins}
    return {c: Prediction(m.scores.logits, m.info.trained) for c, m in sent.items() if m.scores.logits is not None}


class Stopping:
    """Watches one merged figure, round by round: whether it reaches its target, or has not become better for long.

    Args:
        runner: the job's; its `target` and `patience`.

    Attributes:
        best: the best value seen.
        since: rounds seen since then.
        reason: why the job is to end, None while it goes on.
    """

    def __init__(self, runner: Runner) -> None:
        self._target, self._patience = runner.target, runner.patience
        self._sign = -1 if runner.target.metric.rpartition("/")[2] in LOWER_IS_BETTER else 1
        self.best: float | None = None
        self.since = 0
        self.reason: str | None = None

    def look(self, round_: int, figures: Mapping[str, int | float | None]) -> None:
        """Look at the figures of a round; one without the watched figure does not count."""
        metric, aim = self._target.metric, self._target.value
        value = figures.get(metric)
        if value is None:
            return
        if self.best is None or self._sign * value > self._sign * self.best:
            self.best, self.since = value, 0
        else:
            self.since += 1
        if aim is not None and self._sign * value >= self._sign * aim:
            self.reason = f"{metric} {value:g} has reached the target {aim:g} in round {round_}"
        elif self._patience is not None and self.since >= self._patience:
            self.reason = f"{metric} has not become better than {self.best:g} for {self.since} rounds"


class History:
    """The turns of all clients: the rounds each was picked for, and what it reported of them.

    Args:
        turns: to begin with, each client's in their order.
    """

    def __init__(self, turns: Iterable[Line] = ()) -> None:
        self._turns: dict[ClientId, Turns] = {}
        self._news: list[Line] = []
        for client, turn in turns:
            self._note(client, turn)

    @property
    def turns(self) -> dict[ClientId, Turns]:
        """A copy of what is kept, by client, oldest first; turns do not change."""
        return dict(self._turns)

    def report(self, client: ClientId, round_: int, info: ClientInfo) -> None:
        """Note what a client reports of a round it was picked for; of a late one, that it came after all."""
        late = any(t.round == round_ and t.late for t in self._turns.get(client, ())[-1:])
        self._note(client, Turn(round_, info.trained, info.seconds, info.loss, info.auc, info.dropped, late))

    def miss(self, client: ClientId, round_: int) -> None:
        """Note that a client has not reported a round it was picked for."""
        self._note(client, Turn(round_, late=True))

    def take_news(self) -> list[Line]:
        """Return what was noted since this was last asked for, to be saved."""
        news, self._news = self._news, []
        return news

    def shift(self, rounds: int) -> None:
        """Count all rounds `rounds` less, as a run does that goes on from another."""
        self._turns = {c: tuple(t._replace(round=t.round - rounds) for t in ts) for c, ts in self._turns.items()}
        self._news = [(c, t._replace(round=t.round - rounds)) for c, t in self._news]

    def _note(self, client: ClientId, turn: Turn) -> None:
        others = [t for t in self._turns.get(client, ()) if t.round != turn.round]
        self._turns[client] = (*others, turn)[-KEPT:]
        self._news.append((client, turn))
