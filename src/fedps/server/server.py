"""The parameter server of one shard: messages in, tables changed, replies out.

It knows no sockets: `net` hands it connections with bytes, calls `tick` now and then for deadlines, and all calls
come from one thread. It trusts nobody's payload: a request is checked whole before any of it is applied, and a bad
one is answered by `Refused`, counted, and told to the run with the client's name; all others are served on. `connection`
reads what one client says; here stands what concerns all.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fedps.access.conversation import Conversation, Refusals, Send
from fedps.access.roster import Roster
from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.errors import DataError, RefusedError, TableError
from fedps.events import events
from fedps.events.events import Report
from fedps.server import checks
from fedps.server.ballot import Ballot, Declaration, difference
from fedps.server.gate import Offer, make_gate
from fedps.server.members import STAGES, Member, Members, Stop
from fedps.server.merge import Merged
from fedps.server.requests import Connection
from fedps.server.saving import Saver, make_store, start_from
from fedps.server.stragglers import stragglers
from fedps.server.waits import Answer, Contested, Standing, Waiting
from fedps.storage.epochs import witnesses
from fedps.table.sparse import RESERVED_ROWS
from fedps.table.store import Store, unfit
from fedps.types import ClientId, TableName
from fedps.wire.frame import HELD_MESSAGES, Frame, Limits
from fedps.wire.messages import Done, Hello, Join, Push


class ParameterServer:
    """All tables of one shard and the rules of one job.

    Args:
        job: the job; its mode decides the gate.
        shard: this server's number, from 0.
        run_dir: the run's folder; tables are saved under `model/<epoch>/`, or where `runner.model_save_path` says.
        report: where events go.

    Attributes:
        failure: why it cannot go on, None while it can.

    Raises:
        DataError: the saved epoch it is to start from is missing, torn, or does not fit together.
    """

    def __init__(self, job: Job, shard: int, run_dir: Path, report: Report) -> None:
        runner, size = job.runner, job.limits.message_mib << 20
        self.job, self.shard, self.shards = job, shard, runner.server_num
        self.run_dir, self.report = run_dir, report
        self.failure: DataError | None = None
        self._saver, self._warm = Saver(job, shard, run_dir, report), start_from(job, shard, report)
        self.limits = Limits(message_bytes=size, held_bytes=HELD_MESSAGES * size)
        self.store, self._ballot = Store(), Ballot()
        self.gate = make_gate(runner)
        self.members = Members(expected=runner.worker_num or 1)
        self.refusals = Refusals(report)
        self.roster = Roster(
            job.name, shared_part(job), "server", runner.worker_num or 1, self.limits.connections,
            runner.start_timeout + runner.step_timeout,
        )  # fmt: skip
        self._contested: dict[ClientId, Contested] = {}
        self._waiting: list[Waiting] = []
        self._mean_samples: float | None = None  # known once all have joined, and the same for all
        self._standing: dict[ClientId, Standing] = {}
        self._standing_since: float | None = None  # when the first came to a barrier
        self._complete_at, self._saved = 0.0, 0  # the last epoch that was saved
        self._round_at = 0.0  # when the last barrier of a round opened
        self._first_at: float | None = None  # when the first client came: a server may stand ready long before
        self._patience = runner.start_timeout
        if runner.with_coordinator:  # it has waited so long itself, and lets all join at once
            self._patience = runner.reconnect_timeout

    @property
    def clock(self) -> int:
        """The step, window or version now open; 0 where pushes are applied at once."""
        return self.gate.clock if self.gate else 0

    @property
    def over(self) -> bool:
        """Whether all expected clients have come and left; who is lost has time to come back, as long as a role may start."""
        return self.members.over(time.monotonic(), self.job.runner.reconnect_timeout + self.job.runner.start_timeout)

    def opened(self, send: Send, peer: str) -> Connection:
        """Begin a connection; `send` may be used until it is closed, and hangs up when it is given None."""
        connection = Connection(self, send, peer)
        self.roster.open(connection)
        return connection

    def answer(self, conversation: Conversation, frame: Frame) -> None:
        """Answer one request."""
        if isinstance(conversation, Connection):
            conversation.handle(frame)

    def greet(self, connection: Connection, hello: Hello) -> None:
        """Give a connection its name.

        Raises:
            RefusedError: it is of another job, or a newer process speaks for this client.
        """
        now = time.monotonic()
        self.roster.greet(connection, hello, now)
        if not self.job.runner.with_coordinator:
            self._first_at = self._first_at or now

    def forget(self, conversation: Conversation) -> None:
        """Drop all that was kept for a connection; its client has time to come back."""
        self._waiting = [w for w in self._waiting if w.connection is not conversation]
        client = self.roster.forget(conversation)
        for name in [c for c, w in self._standing.items() if w.connection is conversation]:
            del self._standing[name]  # it still stands there, and says so again when it is back
        for name in [c for c, w in self._contested.items() if w.connection is conversation]:
            del self._contested[name]
            self._ballot.withdraw(name)
        if client is not None:
            self.members.disconnect(client, conversation.instance, time.monotonic())

    def join(self, connection: Connection, ticket: int, join: Join) -> None:
        """Let a client take part, if it declares the tables that the others do; see `ballot`.

        Raises:
            RefusedError: the declaration passes a limit, or others have declared otherwise.
            TableError: no table can be made of a spec.
        """
        client, declared = connection.known, frozenset(join.tables)
        self._first_at = self._first_at or time.monotonic()
        checks.declaration(join, self.limits)
        if self._ballot.chosen is None:
            self.store = make_store(join.tables, self._warm)
        if self._ballot.chosen in (None, declared):
            self._contested.pop(client, None)
            self._ballot.vote(client, join.tables)
            connection.enter(ticket, join)
            self.advance(time.monotonic())
            return
        if client in self._contested:
            raise RefusedError("order", "your last Join waits for the other clients' word")
        if self._ballot.backs_chosen(client) or self._ballot.settled(self.members.expected):
            raise RefusedError("mismatch", difference(self._ballot.chosen, declared))
        for spec in join.tables:
            if fault := unfit(spec) or (self._warm and self._warm.misfit(spec)):
                raise TableError(f"table {spec.name!r}: {fault}")
        self._ballot.vote(client, join.tables)
        self._contested[client] = Contested(connection, ticket, join, declared)
        if self._ballot.outvoted_by(declared, self.members.expected):
            self._elect(declared)

    def _elect(self, declared: Declaration) -> None:
        """Put another declaration in the place of the chosen one; its tables, and who declared it, go."""
        tables = next(c.join.tables for c in self._contested.values() if c.declared == declared)
        self.store = make_store(tables, self._warm)
        outvoted, self._ballot.chosen = self._ballot.backers(self._ballot.chosen), declared
        for client in outvoted:
            self._ballot.withdraw(client)
            self.members.expel(client)
            self.refusals.add(client, "mismatch", "most clients declare other tables")
            if connection := self.roster.connection(client):
                connection.hang_up()
        if self.gate:
            self.gate.clear()
        for client, (connection, ticket, join, theirs) in list(self._contested.items()):
            if theirs == declared:
                del self._contested[client]
                connection.enter(ticket, join)
        self._end_contest()

    def _end_contest(self) -> None:
        """Refuse who still declares other tables."""
        for client in list(self._contested):
            connection, ticket, _, declared = self._contested.pop(client)
            self._ballot.withdraw(client)
            connection.refuse(ticket, RefusedError("mismatch", difference(self._ballot.chosen, declared)))

    def tick(self, now: float) -> None:
        """Enforce the deadlines. `now`: seconds, monotonic."""
        runner = self.job.runner
        self.roster.tick(now)
        self.refusals.tick(now)
        if self._first_at is not None and now - self._first_at > self._patience:
            self._start_without_the_rest(now)
        for client in self.members.overdue(now, runner.reconnect_timeout):
            self.members.lose(client)
            self.report(events.Lost(client, "its connection broke and did not come back"))
            self.advance(now)
        if self.members.complete:
            self._leave_the_silent_behind(now)

    def _start_without_the_rest(self, now: float) -> None:
        if self._contested:
            most = self._ballot.plurality()
            if most is not None and most != self._ballot.chosen:
                self._elect(most)
            self._end_contest()
        if not self.members.complete and self.members.came:
            self.members.expect(self.members.came)
            self.advance(now)

    def _leave_the_silent_behind(self, now: float) -> None:
        gate, patience, silent = self.gate, self.job.runner.step_timeout, list[ClientId]()
        if gate and gate.opened_at is not None and now - max(gate.opened_at, self._complete_at) > patience:
            silent += gate.missing(self.members.active(gate.clock))
        if self._standing_since is not None:
            silent += self.members.absent(max(self._standing_since, self._complete_at), now, patience)
        late = stragglers(self.job, self.members, max(self._round_at, self._complete_at), now)
        for client in dict.fromkeys([*late, *silent]):
            self.members.suspend(client)
            why = (
                "the round does not wait for it"
                if client in late
                else f"silent for {patience:g} s, the others go on without it"
            )
            self.report(events.Suspended(client, self.clock, why))
        if silent or late:
            self.advance(now)

    def push(self, client: ClientId, member: Member, push: Push, offer: Offer) -> Done:
        """Take a whole, checked push: apply it, or keep it until its window closes.

        Raises:
            TableError: a table has no room for new rows; nothing is applied.
        """
        for name, change in offer.items():
            spec = self.store.spec(name)
            if spec.kind == "sparse" and spec.shape[0] > RESERVED_ROWS:
                self.store.pull(name, change.keys)  # only such a table can be full: its rows are made now or never
        now = time.monotonic()
        member.sequence, member.progress = push.sequence, now
        if self.gate is None:
            member.suspended = False
            scale = self._scale()
            for name, change in offer.items():
                values = change.values if scale == 1.0 else change.values * np.float32(scale)
                self.store.push(name, change.keys, values, push.rate)
            return Done()
        member.suspended = False
        if self.gate.late(push.clock):
            member.since = self.gate.clock
            return Done(clock=self.gate.clock, late=True)
        member.since = max(member.since, push.clock)  # it has passed the clocks before: they need not wait for it
        self.gate.offer(client, push.clock, offer, now)
        self.advance(now)
        return Done(clock=self.gate.clock)

    def _scale(self) -> float:
        runner = self.job.runner
        mean = runner.sync_mode == "geo" and runner.geo_merge == "mean"
        return 1 / (runner.worker_num or 1) if mean else 1.0

    def is_merged(self, clock: int) -> bool:
        """Whether the pushes of a clock have been applied."""
        return self.gate is None or clock < self.gate.clock

    def wait_for(self, clock: int, connection: Connection, answer: Answer) -> None:
        """Answer once `clock` has been applied, unless the connection is gone by then."""
        self._waiting.append(Waiting(clock, connection, answer))

    def census(self, member: Member, answer: Callable[[float], None]) -> None:
        """Tell a member how many samples one has on average, once all have joined."""
        member.asking = answer
        self._answer_census()

    def _answer_census(self) -> None:
        if not self.members.complete:
            return
        if self._mean_samples is None:
            self._mean_samples = self.members.mean_samples
        for answer in self.members.take_asking():
            answer(self._mean_samples)

    def stop_at(self, connection: Connection, member: Member, stop: Stop, answer: Answer) -> None:
        """Let a member stand at a barrier; `answer` is called when all are there.

        Raises:
            RefusedError: it stands at one already, or has passed this one.
        """
        client, now = connection.known, time.monotonic()
        if stop == member.passed:
            answer()  # it opened while the connection was broken
            return
        if member.passed is not None and stop.order < member.passed.order:
            raise RefusedError("stale", f"barrier {stop} lies behind {member.passed}, which this client has passed")
        if member.stop is not None and (member.stop != stop or client in self._standing):
            raise RefusedError("order", f"client {client!r} stands at a barrier: wait for its answer")
        member.stop, member.suspended, member.progress = stop, False, now
        self._standing[client] = Standing(connection, answer)
        if self._standing_since is None:
            self._standing_since = now
        self.advance(now)

    def advance(self, now: float) -> None:
        """Close every window and barrier that is complete, and answer those who waited for it."""
        if not self._complete_at and self.members.complete:
            self._complete_at = now
        self._answer_census()
        while self.gate and (self.members.complete or not self.gate.lockstep):
            merged = self.gate.close(self.members.active(self.gate.clock), now)
            if merged is None:
                break
            self._apply(merged)
        stop = self.members.gathered
        if stop is not None:
            if self.gate and stop.stage == STAGES[0]:
                self._apply(self.gate.rest() or {})
            if stop.stage == STAGES[0] and stop.epoch > self._saved:  # a straggler may stand at an earlier one
                self.save(stop.epoch)
                self._saved = stop.epoch
            free = self.members.go_on(stop.stage, self.clock)
            answers = [self._standing.pop(client).answer for client in free if client in self._standing]
            self._standing_since = now if self.members.standing else None
            self._round_at = now if stop.stage == STAGES[1] else self._round_at
            for answer in answers:
                answer()

    def _apply(self, merged: Mapping[TableName, Merged]) -> None:
        """Push what was merged, and answer the pulls that waited for it."""
        for name, (rows, rate) in merged.items():
            self.store.push(name, rows.keys, rows.values, rate)
        ready = [w for w in self._waiting if self.is_merged(w.after)]
        self._waiting = [w for w in self._waiting if not self.is_merged(w.after)]
        for waiting in ready:
            waiting.answer()

    def save(self, epoch: int) -> None:
        """Write this shard's tables.

        Raises:
            DataError: they cannot be written; the server cannot go on, and earlier saves stay as they were.
        """
        try:
            self._saver.save(self.store, epoch, witnesses(self.members.processes))
        except DataError as error:
            self.failure = error
            raise
