"""The parameter server of one shard: messages in, tables changed, replies out.

It knows no sockets: `net` hands it connections with bytes, calls `tick` now and then for deadlines, and all calls
come from one thread. It trusts nobody's payload: a request is checked whole before any of it is applied, and a bad
one is answered by `Refused`, counted, and told to the run with the client's name; all others are served on.

Here every verb of the protocol is dispatched, and what follows for everybody is decided (`advance`). What a request must
keep to stands in `requests`, tables and gate in `shard`, who is waited for in `members` and `barriers`.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from fedps.access.conversation import Conversation, Refusals, Send
from fedps.access.roster import Roster
from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.errors import RefusedError
from fedps.events import events
from fedps.events.events import Report
from fedps.server import records, requests
from fedps.server.ballot import Ballot, Candidate, Verdict
from fedps.server.barriers import Barriers
from fedps.server.durable import Parts
from fedps.server.members import EVALUATED, TRAINED, Member, Members
from fedps.server.memory import Budget, free_memory
from fedps.server.pulls import Pulls
from fedps.server.pushes import Pushes
from fedps.server.recovery import Kept, recover, state_of
from fedps.server.shard import Shard
from fedps.storage.epochs import witnesses
from fedps.storage.log import Log
from fedps.types import ClientId, Identity
from fedps.wire.frame import HELD_MESSAGES, Frame, Limits
from fedps.wire.messages import (
    Alive,
    Barrier,
    Census,
    Counted,
    Done,
    Hello,
    Join,
    Leave,
    Pull,
    Push,
    Seed,
    Welcome,
)

BUSY = 60  # times step_timeout: how long a client may say that it is at work, and push nothing
WAITING_SHARE = 4  # this part of the memory that is free at the start may be kept for all connections together


class ParameterServer:
    """All tables of one shard and the rules of one job.

    Args:
        job: the job; its mode decides the gate.
        shard: this server's number, from 0.
        run_dir: the run's folder; tables are saved under `model/<epoch>/`, or where `runner.model_save_path` says.
        report: where events go.
        limits: what clients may ask for; by default they follow from the job and the memory there is.
        log: where what changes is written, and what an earlier process of this server left is found; None: it is not kept.
        cut: the last push of each client that counts, where a run is taken back to an earlier moment.
        monotonic: tells the time, in seconds.

    Attributes:
        kept: what outlives this process.

    Raises:
        DataError: the saved epoch it is to start from is missing, torn, or does not fit together; or the log is of another
            job, damaged, or does not reach back to the cut.
    """

    def __init__(
        self, job: Job, shard: int, run_dir: Path, report: Report, limits: Limits | None = None,
        log: Log | None = None, cut: Mapping[ClientId, int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        runner, self._monotonic = job.runner, monotonic
        self.job, self.report, self.limits = job, report, limits or limits_of(job)
        self.refusals = Refusals(report)
        self.members = Members(runner.worker_num or 1, runner.quorum)
        self.roster = Roster(
            job.name, shared_part(job), "server", self.members.expected, self.limits.connections,
            runner.start_timeout + runner.step_timeout, job.security.clients,
        )  # fmt: skip
        self._budget = Budget(self.limits.held_bytes, self.limits.total_bytes)
        self.shard = Shard(job, shard, run_dir, report, self.limits, self._budget, monotonic)
        self.durable = self.shard.durable
        self.shard.charge = self.members.charge
        self.shard.saves.caught_up = lambda: self.advance(monotonic())
        self.ballot, self.barriers = Ballot(), Barriers(job, self.members)
        # A process that died may have answered what it had not written down; and what an epoch's end rounds has the same clock.
        process = secrets.token_hex(8)
        self._pulls = Pulls(self.shard, self.limits, lambda: f"{process}.{self.barriers.epoch}")
        self._pushes = Pushes(self.shard, self.members, self.roster, self._budget, self.limits, self._done)
        self._asking: dict[Conversation, int] = {}  # tickets of Census
        self._complete_at = 0.0  # when the last of those expected came
        self._first_at: float | None = None  # when the first client came: a server may stand ready long before
        # With a coordinator the first Join comes when it has waited for all itself, and lets them join at once.
        self._patience = runner.reconnect_timeout if runner.with_coordinator else runner.start_timeout
        begun = records.Begun(job.name, shared_part(job), shard, runner.server_num)
        self.kept = Kept(begun, self.shard, self.members, self.barriers, self.ballot, self.roster)
        if log is not None and recover(self.kept, log, cut, monotonic, runner.start_timeout):
            self._first_at = monotonic()
        if self.ballot.chosen is None and self.shard.warm is not None:
            self.shard.warm.read()  # tables are still to be made
        self.members.report = report

    @property
    def failure(self) -> Exception | None:
        """Why it cannot go on, None while it can."""
        return self.durable.failure

    @property
    def repeats(self) -> int:
        """How many pushes came that had come before, and were not applied again."""
        return self._pushes.repeats

    @property
    def clock(self) -> int:
        """The step, window or version now open; 0 where pushes are applied at once."""
        return self.shard.clock

    @property
    def over(self) -> bool:
        """Whether all expected clients have come, and left, and know it, or were lost for longer than a restart may take."""
        runner = self.job.runner
        return not self.durable.owes and self.members.over(
            self._monotonic(), runner.reconnect_timeout + runner.start_timeout
        )

    def opened(self, send: Send, peer: str, identity: Identity | None = None) -> Conversation:
        """Begin a connection; `send` may be used until it is closed, and hangs up when it is given None."""
        return self.roster.open(Conversation(self, send, peer, self._monotonic(), identity=identity))

    def forget(self, conversation: Conversation) -> None:
        """Drop all that was kept for a connection; its client has time to come back."""
        client = self.roster.forget(conversation)
        self._pushes.forget(conversation)
        self._asking.pop(conversation, None)
        self.shard.forget(conversation)
        self.barriers.forget(conversation)
        self.ballot.forget(conversation)
        if client is not None:
            self.members.disconnect(client, conversation.instance, self._monotonic())

    def answer(self, conversation: Conversation, frame: Frame) -> None:
        """Answer a request, at once or when what it waits for has happened.

        Raises:
            RefusedError: it cannot be served, and nothing has changed; TableError and WireError say the same.
            DataError: an epoch cannot be saved; the server cannot go on.
        """
        now, ticket = self._monotonic(), frame.ticket
        # The session has let through only what may be said now: all but Hello and Join come from one that has joined, on
        # this very connection. Whether it still takes part is asked where it matters (`_member`).
        match frame.message:
            case Hello() as hello:
                self.roster.greet(conversation, hello, now)
                if not self.job.runner.with_coordinator:
                    self._first_at = self._first_at or now
                conversation.reply(
                    ticket, Welcome(self.shard.number, self.shard.count, self.clock, self.barriers.epoch)
                )
            case Join() as join:
                self._join(Candidate(conversation, ticket, join), now)
            case Seed(table, first):
                requests.check_start(table, frame.arrays[0], self.shard)
                self.shard.seed(table, frame.arrays[0], first)
                self._done(conversation, ticket)
            case Census():
                self._member(conversation)
                self._asking[conversation] = ticket
                self._answer_census()
            case Pull() as pull:
                if self._pulls.take(conversation, ticket, self._member(conversation), pull, frame.arrays):
                    self.advance(now)  # all may have passed over that window, on their way with the other servers
            case Push() as push:
                member = self._member(conversation)
                answer = self._pushes.take(conversation, ticket, member, push, frame.arrays, now)
                if answer is not None:
                    self.advance(now)
                    answer()
            case Alive():
                self._member(conversation).work(now, BUSY * self.job.runner.step_timeout)
                conversation.reply(ticket, Done(self.clock))
            case Barrier() as barrier:
                member, opened = self._member(conversation), lambda: self._done(conversation, ticket)
                self.barriers.stand(conversation, member, barrier, opened, now)
                self.advance(now)
            case Leave():
                self.members.leave(conversation.known)
                self.durable.note(records.Gone(conversation.known, "left"))
                self._done(conversation, ticket)
                self.advance(now)
                if self.members.complete and not self.members.here:
                    self.finish()  # the job has ended before its last epoch
            case other:
                raise RefusedError("order", f"{type(other).__name__} is nothing to say to a server")

    def _member(self, conversation: Conversation) -> Member:
        """Return who speaks. Raises RefusedError if it takes no part (any more)."""
        member = self.members.get(conversation.known)
        if member is None or member.instance != conversation.instance:
            raise RefusedError("order", f"client {conversation.client!r} has left or was given up as lost: join again")
        return member

    def _join(self, candidate: Candidate, now: float) -> None:
        """Let a client take part, if it declares the tables that the others do; see `ballot`.

        Raises:
            RefusedError: the declaration passes a limit, or others have declared otherwise.
            TableError: no table can be made of a spec.
        """
        self._first_at = self._first_at or now
        requests.check_declaration(candidate.join, self.limits)
        # Only tables that can be made may be voted for: a vote that is won must not fail.
        if self.ballot.chosen is None:
            self.shard.declare(candidate.join.tables)
        elif candidate.declared != self.ballot.chosen:
            self.shard.check(candidate.join.tables)
        self._follow(self.ballot.vote(candidate, self.members.expected))
        self.advance(now)

    def _follow(self, verdict: Verdict) -> None:
        """Do what a vote decides: tables first, for who is admitted is served from them at once."""
        if verdict.tables is not None:
            self.shard.declare(verdict.tables)
        for client in verdict.outvoted:
            self.members.expel(client)  # before its connection goes: it is not lost, it never took part
            self.durable.note(records.Gone(client, "expelled"))
            self.refusals.add(client, "mismatch", "most clients declare other tables")
            if connection := self.roster.connection(client):
                connection.hang_up()
        for conversation, ticket, join in verdict.admitted:
            client, instance = conversation.known, conversation.instance
            here = self.members.get(client)
            member = self.members.join(client, instance, join.clock, join.samples)
            if member is not here:
                self.durable.note(records.Joined(client, conversation.number, instance, join.clock, join.samples))
            self.roster.enter(conversation)
            self._pushes.begin(conversation)
            conversation.admit()  # what it says behind this, as after a reconnect, does not wait until it is answered
            self._done(conversation, ticket, sequence=member.merged)
        for candidate in verdict.refused:
            candidate.conversation.refuse(candidate.ticket, self.ballot.mismatch(candidate.declared))

    def _done(self, conversation: Conversation, ticket: int, *, late: bool = False, sequence: int = 0) -> None:
        """Answer a request that was done, once all that follows from it is on disk."""
        done = Done(self.clock, late, sequence)
        self.durable.then(lambda: conversation.reply(ticket, done))

    def _answer_census(self) -> None:
        """Tell those that ask how many samples a client has on average, once all have joined."""
        if not self.members.complete:
            return
        if self.kept.mean_samples is None:
            self.kept.mean_samples = self.members.mean_samples
            self.durable.note(records.Counted(self.kept.mean_samples))
        asking, self._asking = self._asking, {}
        counted = Counted(self.kept.mean_samples)
        for conversation, ticket in asking.items():
            self.durable.then(partial(conversation.reply, ticket, counted))

    def advance(self, now: float) -> None:
        """Close every window and barrier that is complete, and answer those who waited for it."""
        if not self._complete_at and self.members.complete:
            self._complete_at = now
        self._answer_census()
        # Windows before barriers: the last push of an epoch closes its window before the model is saved. And the moment that
        # is saved before anybody is let go: what is saved is what all have trained, and what all will evaluate.
        self._pushes.merged(self.shard.merge(self.members, now))
        opening = self.barriers.opening()
        if opening is None or (opening.epoch is not None and self.shard.saves.behind):
            return
        if opening.stage == TRAINED:
            self.shard.merge_rest()
        if opening.figures and self.barriers.epoch > self.kept.told:  # stragglers come later, and alone
            self.kept.told = self.barriers.epoch
            self.report(opening.merged(self.barriers.epoch, self.job.metrics))
        if opening.epoch is not None:
            self._end_epoch(opening.epoch)
        clients = tuple((c, b.epoch) for c in opening.clients if (b := self.members.here[c].barrier) is not None)
        epoch = opening.epoch or self.barriers.epoch
        self.durable.note(records.Opened(opening.stage, clients, epoch, self.clock, self.kept.told))
        if opening.stage == EVALUATED and self.durable.log is not None:
            self.kept.turns = self.kept.turns[1], self.durable.log.position
        self.barriers.open(opening, self.clock, now)

    def _end_epoch(self, epoch: int, aged: bool = True) -> None:
        """Settle this shard's tables, and begin to save them as they are now if that is due."""
        save = not aged or self.job.runner.saves_after(epoch)
        self.shard.end_epoch(epoch, witnesses(self.members.processes), aged, save)
        if counts := self.shard.store.counts():
            self.report(events.Tables(epoch, counts))

    def finish(self) -> None:
        """Save what was trained since the last save, as the epoch under way or, where none is, as the one that ended last."""
        self.shard.saves.go_on()
        if self.shard.unsaved and self.barriers.epoch < self.job.runner.epochs:
            self.shard.merge_rest()
            # What is left over after the last barrier is of no epoch that ends.
            self._end_epoch(self.barriers.next_epoch if self.shard.moved else self.barriers.epoch, aged=False)

    def close(self) -> None:
        """Note that nothing more comes.

        Raises:
            DataError: it could not go on, or what was trained last is not saved.
        """
        self.refusals.flush()
        if (why := self.failure or self.shard.saves.failure) is not None:
            raise why

    def tick(self, now: float) -> None:
        """Enforce the deadlines. `now`: seconds, monotonic."""
        self.roster.tick(now)
        self.refusals.tick(now)
        self.durable.tick(now)
        self.shard.saves.go_on()  # with what an earlier process left: it holds up nobody who waits for this one to serve
        if self.durable.due(lambda: self.shard.bytes):
            self.sum_up()
        if self._first_at is not None and now - self._first_at > self._patience:
            self._start_without_the_rest(now)
        for client in self.members.overdue(now, self.job.runner.reconnect_timeout):
            self.members.lose(client)
            self.durable.note(records.Gone(client, "lost"))
            self.report(events.Lost(client, "its connection broke and did not come back"))
            self.advance(now)
        if self.members.complete:
            self._leave_the_silent_behind(now)

    def sum_up(self) -> None:
        """Begin a snapshot of all that the log says."""
        # While an epoch is to be saved, the log alone leads to its rows as they were at its end.
        if self.durable.log is None or self.shard.save_due:
            return
        # Clients go back to an epoch's start together where they train in step; else each goes on from its own last moment.
        gate = self.shard.gate
        back = (gate is not None and gate.lockstep) or self.members.expected == 1
        self.durable.compact(self.whole(), self.kept.turns[0] if back else self.durable.log.position)

    def whole(self) -> Parts:
        """Return the records that make this server anew as it is now, piece by piece; all are to be asked for in its turns."""
        return chain([(state_of(self.kept), ())], self.shard.frozen())

    def _start_without_the_rest(self, now: float) -> None:
        self._follow(self.ballot.close())
        if not self.members.complete and self.members.came:
            self.members.expect(self.members.came)
            self.advance(now)

    def _leave_the_silent_behind(self, now: float) -> None:
        gate, silent = self.shard.gate, self.barriers.absent(self._complete_at, now)
        if gate and gate.opened_at is not None:
            missing, since = gate.missing(self.members.active(gate.clock)), max(gate.opened_at, self._complete_at)
            silent += self.members.silent(missing, since, now, self.job.runner.step_timeout)
        pushed = {offered.client for offered in gate.waiting} if gate and gate.lockstep else set()
        late = self.barriers.stragglers(self._complete_at, now, pushed)
        for client in dict.fromkeys([*late, *silent]):
            self.members.suspend(client)
            silence = f"silent for {self.job.runner.step_timeout:g} s, the others go on without it"
            why = "the round does not wait for it" if client in late else silence
            self.report(events.Suspended(client, self.clock, why))
        if silent or late:
            self.advance(now)


def limits_of(job: Job) -> Limits:
    """Return what clients of a job may ask of this process."""
    size = job.limits.message_mib << 20
    each = HELD_MESSAGES * size
    total = max(each, free_memory() // WAITING_SHARE)
    return Limits(message_bytes=size, held_bytes=each, total_bytes=total, line=job.limits.line_kib << 10)
