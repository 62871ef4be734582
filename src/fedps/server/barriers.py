"""Where clients meet after an epoch: at `trained` (servers settle and save one and the same model), then at `evaluated` (go on).

A barrier opens once all active members stand at one. Which epoch ends there follows from the job's own order of
barriers, never from what a client claims: a claim names a folder, and ends the saves of all epochs before it.
"""

import math
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

from fedps.access.conversation import Conversation
from fedps.config import Job
from fedps.errors import RefusedError
from fedps.events.events import Round
from fedps.figures import MAX_COUNT, Totals, fault_of
from fedps.server.members import EVALUATED, STAGES, TRAINED, Member, Members
from fedps.types import ClientId
from fedps.wire.messages import Barrier, Figures

MAX_LOSS = 1e300  # so that a sum over clients is finite
Answer = Callable[[], None]


class Opening(NamedTuple):
    """A barrier that is about to open.

    Attributes:
        stage: which.
        clients: for whom.
        epoch: the epoch that ends here, None if none does.
        figures: what the clients say that the epoch came to.
    """

    stage: str
    clients: list[ClientId]
    epoch: int | None = None
    figures: tuple[Figures, ...] = ()

    def merged(self, epoch: int, metrics: Sequence[str]) -> Round:
        """Return what an epoch came to over all clients that say so; `metrics`: of the job."""
        samples, totals = sum(said.samples for said in self.figures), Totals()
        for said in self.figures:
            totals.add(said.sums)
        loss = math.fsum(said.loss for said in self.figures) / samples if samples else None
        return Round(epoch, {"loss": loss, "train_auc": None, "auc": None} | totals.figures(metrics))


class Barriers:
    """The barriers of one shard.

    Args:
        job: its epochs; clients meet after each.
        members: who takes part.

    Attributes:
        epoch: the last that has ended, 0 before the first.
        passed: the last whose clients have all gone on.
    """

    def __init__(self, job: Job, members: Members) -> None:
        self._job, self._members = job, members
        self.epoch = self.passed = 0
        self._standing: dict[ClientId, tuple[Conversation, Answer]] = {}  # by whose requests to answer
        self._since: float | None = None  # when the first of those that stand came
        self._round_began = 0.0

    @property
    def next_epoch(self) -> int:
        """The epoch that ends next by the job's order; after the last, the last."""
        return min(self.epoch + 1, self._job.runner.epochs)

    def stand(self, conversation: Conversation, member: Member, barrier: Barrier, answer: Answer, now: float) -> None:
        """Let a member stand at a barrier; `answer` is called when it opens.

        Raises:
            RefusedError: the job has no such barrier, it lies behind or too far ahead, or the member stands at one.
        """
        client = conversation.known
        self._check(barrier)
        last = member.last_barrier
        if last is not None and _place(barrier) == _place(last):  # whatever figures it comes with
            answer()  # it opened while the connection was broken
            return
        if barrier.stage == EVALUATED and barrier.epoch == self.passed == self.epoch:
            member.last_barrier = barrier
            member.act(now)
            answer()  # it opened before this process came: the others are at the next epoch, and wait for it there
            return
        if last is not None and _place(barrier) < _place(last):
            raise RefusedError("stale", f"{barrier} lies behind {last}, which this client has passed")
        if member.barrier is not None and (member.barrier != barrier or client in self._standing):
            raise RefusedError("order", f"client {client!r} stands at a barrier: wait for its answer")
        member.barrier = barrier
        member.act(now)
        self._standing[client] = conversation, answer
        if self._since is None:
            self._since = now

    def forget(self, conversation: Conversation) -> None:
        """Drop a request whose connection is gone; its member still stands there, and says so again when it is back."""
        self._standing = {c: standing for c, standing in self._standing.items() if standing[0] is not conversation}

    def opening(self) -> Opening | None:
        """Return the barrier that opens now that nobody active is missing; None if somebody is.

        Those that have trained go before those that have evaluated: all shall see the same still model when they
        evaluate. But who has trained an epoch further than the others waits until these have trained it, too.
        """
        if self._since is None:
            return None  # nobody stands anywhere, as most of the time: this is asked after every push
        waived = self._members.waived
        here = {client: m for client, m in self._members.here.items() if not m.suspended}
        active = {client: m for client, m in here.items() if m.barrier is not None or client not in waived}
        standing = {client: m.barrier for client, m in active.items() if m.barrier is not None}
        if not self._members.complete or not standing or len(standing) < len(active):
            return None
        # All active members stand somewhere now, so the model stands still until somebody is let go.
        trained = {client: b.epoch for client, b in standing.items() if b.stage == TRAINED}
        behind = [client for client, epoch in trained.items() if epoch <= self.epoch]
        if len(trained) == len(standing):
            ends = len(behind) < len(trained)  # else all are stragglers, of epochs that have ended and are saved
            return Opening(TRAINED, list(trained), self._ending(list(trained.values())) if ends else None)
        if behind:
            return Opening(TRAINED, behind)
        figures = tuple(b.figures for b in standing.values() if b.stage == EVALUATED and b.figures is not None)
        return Opening(EVALUATED, [client for client in standing if client not in trained], figures=figures)

    def open(self, opening: Opening, clock: int, now: float) -> None:
        """Open a barrier, and answer those that stood there; the others wait for them again from `clock` on."""
        # Members first, answers last: an answer may bring the next request, which must find the barrier open.
        if opening.epoch is not None:
            self.epoch = opening.epoch
            self._members.meet(opening.clients)
        self._members.release(opening.clients, clock)
        if opening.stage == EVALUATED:
            self._round_began, self.passed = now, self.epoch
        self._since = now if self._members.at_barrier else None
        for _, answer in [self._standing.pop(client) for client in opening.clients if client in self._standing]:
            answer()

    def absent(self, complete_at: float, now: float) -> list[ClientId]:
        """Return whom those at a barrier wait for no longer: silent for `step_timeout`, counted from when all had come."""
        if self._since is None:
            return []
        return self._members.absent(max(self._since, complete_at), now, self._job.runner.step_timeout)

    def stragglers(self, complete_at: float, now: float, pushed: Set[ClientId] = frozenset()) -> list[ClientId]:
        """Return whom a round does not wait for: those past its deadline, or those left when enough are done.

        Where clients wait for each other at every step or window (sync, geo with `heat` or `adaptive`), all are as slow
        as the slowest one, and only `step_timeout` tells who that is. Simulated devices have a clock of their own.

        Args:
            complete_at: when all had come, seconds.
            now: seconds.
            pushed: who waits for the round's merge: these have done what was theirs.
        """
        runner, settings = self._job.runner, self._job.selector
        free = runner.with_coordinator and not runner.lockstep and self._job.traces is None
        if not free or not (pushed or self._members.at_barrier):
            return []
        training = [client for client in self._members.training if client not in pushed]
        if not training:
            return []
        picked = runner.clients_per_round or 0
        spare = settings.picks(picked) - picked
        since = max(self._round_began, complete_at)
        late = settings.deadline is not None and now - since > settings.deadline
        return training if late or len(training) <= spare else []

    def _check(self, barrier: Barrier) -> None:
        """Check that the job has this barrier, and that its epoch can have ended."""
        runner = self._job.runner
        if barrier.stage not in STAGES or not 1 <= barrier.epoch <= runner.epochs:
            raise RefusedError(
                "malformed",
                f"barrier {barrier.stage!r} of epoch {barrier.epoch}: stages are {', '.join(STAGES)}, epochs run from 1 to"
                f" {runner.epochs}",
            )
        if barrier.figures is not None and (fault := _fault_of(barrier.figures, self._job)):
            raise RefusedError("malformed", f"figures of epoch {barrier.epoch} that no epoch can have: {fault}")
        # Where a coordinator leads, rounds that nobody came to the end of are none here: see `_ending`.
        if not runner.with_coordinator and barrier.epoch > self.next_epoch:
            raise RefusedError("stale", f"epoch {barrier.epoch} cannot have ended: the next is {self.next_epoch}")

    def _ending(self, claims: list[int]) -> int:
        """Return the epoch that ends: the next one; a later one only if every member, silent ones too, has come to it."""
        # A round is skipped when all its clients were lost before its end, and came back for the next: rare, and no single
        # client can bring it about, for the earliest claim decides.
        skipped = min(claims) if len(claims) == len(self._members) else 0
        return max(self.next_epoch, skipped)


def _fault_of(said: Figures, job: Job) -> str:
    """Say why a client's figures cannot be sums, nothing if they can; they are claims all the same."""
    if not (0 <= said.samples <= MAX_COUNT and 0 <= said.loss <= MAX_LOSS):
        return f"{said.samples} samples with a loss of {said.loss} in sum"
    return fault_of(said.sums, job.metrics, job.tasks)


def _place(barrier: Barrier) -> tuple[int, int]:
    """Return what grows from one barrier of a client to its next."""
    return barrier.epoch, STAGES.index(barrier.stage)
