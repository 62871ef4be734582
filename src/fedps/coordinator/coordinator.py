"""The coordinator: clients report, the selector picks, assignments go out; round after round, until all have left.

It knows no sockets: `net` hands it connections with bytes and calls `tick` for deadlines, all from one thread. Reports
are claims: they are checked for sense, and what they say decides nothing but who trains.
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from msgspec.structs import replace

from fedps.config import Job
from fedps.coordinator.members import Member, Members, Scores
from fedps.coordinator.planner import Planner
from fedps.coordinator.reports import Connection, Send
from fedps.coordinator.resuming import Saved, read, restore, saved_from, write
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy, make_selector
from fedps.coordinator.teacher import heard_of, make_teacher
from fedps.errors import RefusedError
from fedps.events import events
from fedps.events.events import Report
from fedps.types import ClientId, ClientInfo
from fedps.wire.frame import Limits
from fedps.wire.messages import Assignment, RoundReport

GRACE = 0.5  # seconds that a round's last report is waited for after one: most come together, when the servers' barrier opens
GREETING_TIMEOUT = 10.0  # seconds a connection may stay without saying who it is
MESSAGE_BYTES = 1 << 20  # a report is 130 kB, with logits of public pairs up to 660 kB


class Coordinator:
    """Decides each round who trains.

    Args:
        job: the job; `epochs` is the number of rounds.
        report: where events go.
        log: where lines for people go; by default standard output.
        selector: who is picked; by default the job's.
        run_dir: the run's folder, where its state is kept; None keeps none.

    Attributes:
        round: the round now open, 0 before the first.
        teacher: makes soft targets of the clients' predictions, None if the job distills nothing.
        failure: what the selector raised, or why its answer cannot be followed; nothing is decided any more then.

    Raises:
        JobError: the job's selector cannot be made, or a state that lies there cannot be taken up.
        DataError: the job's public samples cannot be read.
    """

    def __init__(
        self, job: Job, report: Report, log: TextIO | None = None, selector: ClientSelectorBase | None = None,
        run_dir: Path | None = None,
    ) -> None:  # fmt: skip
        self.job, self.limits, self.round = job, Limits(message_bytes=MESSAGE_BYTES), 0
        self.members = Members(job.runner.worker_num or 1)
        self.failure: Exception | None = None
        self._planner = Planner(job, selector or make_selector(job))
        self._run_dir, self.teacher = run_dir, make_teacher(job)
        self._report, self._log = report, log or sys.stdout
        self._connections: dict[ClientId, Connection] = {}
        self._strangers: set[Connection] = set()
        self._first_at: float | None = None  # when the first client came
        self._first_report_at: float | None = None  # of the open round
        self._last_report_at: float | None = None
        self._enough_at: float | None = None  # when as many as are needed had reported it
        self._resumed = False  # and nothing was decided since
        self._say("fl-ps > running make_fl_strategy(loop) in coordinator")
        self._resume()

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do: all have come and left and hung up, or the selector failed."""
        return self.failure is not None or (self.members.over and not self._connections)

    def opened(self, send: Send, peer: str) -> Connection:
        """Begin a connection; `send` may be used until it is closed, and hangs up when it is given None."""
        connection = Connection(self, send, peer)
        self._strangers.add(connection)
        return connection

    def greet(self, connection: Connection, client: ClientId, instance: str) -> None:
        """Give a connection its name.

        Raises:
            RefusedError: another process speaks for this client, or too many take part.
        """
        other = self._connections.get(client)
        if other is not None and other.instance != instance:
            raise RefusedError(
                "taken", f"another process is connected as client {client!r}: give each worker its own client"
            )
        self._first_at = self._first_at or time.monotonic()
        if not self.members.has_finished(client, instance):
            self.members.greet(client, instance)
        if other is not None:
            other.hang_up()
            if (member := self.members.get(client)) is not None:
                member.lost_at = None
        self._strangers.discard(connection)
        self._connections[client] = connection
        self._say(f"fl-ps > coordinator connect to fl_client: {client}")

    def forget(self, connection: Connection) -> None:
        """Drop what was kept for a connection; its client has time to come back."""
        self._strangers.discard(connection)
        client = connection.client
        if client is None or self._connections.get(client) is not connection:
            return
        del self._connections[client]
        member = self.members.get(client)
        if member is not None and member.instance == connection.instance:
            member.lost_at, member.ticket = time.monotonic(), None

    def reported(self, client: ClientId, ticket: int, said: RoundReport, scores: Scores) -> None:
        """Take a report; it is answered when all of the round are in, or their time is up.

        Raises:
            RefusedError: it tells of a round that was never assigned to this client.
        """
        member = self.members.get(client)
        if member is None:
            raise RefusedError("order", "say Hello first")
        if said.round < member.round and member.told is not None:
            self._tell(client, ticket, member.told)  # the first answer was lost with its connection
            return
        if said.round != member.round:
            raise RefusedError(
                "stale", f"client {client!r} reports round {said.round}, and was last assigned to round {member.round}"
            )
        now = time.monotonic()
        member.ticket, member.info, member.scores, member.behind = ticket, said.info, scores, False
        if member.joins:
            self._planner.history.report(client, member.round, said.info)
        if (member.round == self.round or self._resumed) and self._first_report_at is None:
            self._first_report_at = now
        if member.round == self.round:
            self._last_report_at = now
        self._say(f"fl-ps > recv from client id: {client}, msg_type: 200")
        self._advance()

    def tick(self, now: float) -> None:
        """Enforce the deadlines. `now`: seconds, monotonic."""
        runner = self.job.runner
        if self.failure is not None:
            for connection in [*self._connections.values()]:
                connection.hang_up()
            return
        for connection in [c for c in self._strangers if now - c.opened_at > GREETING_TIMEOUT]:
            connection.hang_up()
        patient = self._first_at is None or now - self._first_at <= runner.start_timeout
        if not patient and not self.members.complete:
            self.members.expect(self.members.came)
        for client in self.members.lost(now, runner.reconnect_timeout):
            if self.members.is_joined(client):
                self._planner.history.miss(client, self.round)
            self.members.lose(client)
            self._report(events.Lost(client, "its connection broke and did not come back"))
            self._say(f"fl-ps > lost fl_client: {client}")
        if self._first_report_at is not None and now - self._first_report_at > runner.step_timeout:
            self._leave_behind(self._pending(), f"silent for {runner.step_timeout:g} s")
        if self._last_report_at is not None and now - self._last_report_at > GRACE:
            self._leave_behind(self.members.overdue(self.round, now), "past its deadline")
        if self._enough_at is not None and now - self._enough_at > GRACE:
            late = [c for c in self._pending() if self.members.is_joined(c)]
            self._leave_behind(late, "enough others have reported")
        self._advance()

    def count_refusal(self, who: str, kind: str, reason: str) -> None:
        """Tell the run of a refusal."""
        self._report(events.Refused(who, kind, reason))

    def _leave_behind(self, clients: Iterable[ClientId], reason: str) -> None:
        for client in clients:
            member = self.members.get(client)
            if member is not None:
                member.behind = True
                if member.joins:
                    self._planner.history.miss(client, self.round)
            self._report(events.LeftBehind(client, self.round, reason))
            self._say(f"fl-ps > round {self.round} goes on without fl_client: {client}: {reason}")

    def _advance(self) -> None:
        """Decide on the next round, once nobody of the open one is waited for."""
        self._see_whether_enough_are_in()
        ready = self.members.complete and self.members.waiting and not self._pending()
        if not ready or self.failure is not None:
            return
        try:
            self._decide()
        except Exception as error:  # of the user's own code, or of the disk
            self.failure = error

    def _pending(self) -> list[ClientId]:
        """Return who is waited for: all of the open round, and after a restart all that are here."""
        return self.members.pending(None if self._resumed else self.round)

    def _see_whether_enough_are_in(self) -> None:
        joined = self.members.joined(self.round)
        needed = self._planner.quorum(joined)
        if self._enough_at is None and needed < joined and self.members.reported(self.round) >= needed:
            self._enough_at = time.monotonic()

    def _decide(self) -> None:
        began = time.monotonic()
        if self._resumed:
            self._go_on()
        self._tell_round()
        clients = {client: m.info for client, m in self.members.waiting.items()}
        for client, info in clients.items():
            self._say(
                f"fl-ps > client {client} info : {{'DEVICE_TYPE': '{info.device_type}', 'COMPUTE_CAPACITY':"
                f" {info.compute_capacity:.0f}, 'BANDWIDTH': {info.bandwidth:.0f}, 'SAMPLES': {info.samples}, 'LOSS':"
                f" {_short(info.loss)}, 'AUC': {_short(info.auc)}, 'SECONDS': {info.seconds:.3f}}}"
            )
        chosen = self._choose(self.round + 1, clients)
        self.round, self._first_report_at, self._last_report_at, self._enough_at = self.round + 1, None, None, None
        for client, strategy in chosen.items():
            self._answer(client, strategy)
        self._say("RpcSendFLStrategy finished")
        by_state = {s: [c for c, x in chosen.items() if x.next_state == s] for s in ("JOIN", "WAIT", "FINISH")}
        if by_state["JOIN"]:
            joined, waiting, finished = by_state.values()
            self._report(events.Selected(self.round, joined, waiting, finished, time.monotonic() - began))
        if self._run_dir is not None:
            write(self._run_dir, self._saved())

    def _choose(self, round_: int, clients: dict[ClientId, ClientInfo]) -> dict[ClientId, FLStrategy]:
        return self._planner.plan(round_, clients, self.members.known)

    def _saved(self) -> Saved:
        return saved_from(
            self._planner, self.round, self.members.here, self.members.finished, self.job.runner.client_selector
        )

    def _answer(self, client: ClientId, strategy: FLStrategy) -> None:
        member = self.members.get(client)
        if member is None or member.ticket is None:
            return
        told = self._planner.assignment(self.round, strategy)
        if self.teacher and strategy.next_state == "JOIN":
            told = replace(told, taught=self.teacher.round)
        ticket, member.ticket = member.ticket, None
        member.round, member.told = self.round, told
        real = told.deadline is not None and self.job.traces is None  # simulated seconds are no seconds of ours
        member.due = time.monotonic() + (told.deadline or 0.0) if real else None
        if strategy.next_state == "FINISH":
            self.members.finish(client)
        if client in self._connections:
            self._tell(client, ticket, told)
        self._say(f"SendFLStrategy to client: {client} finished")

    def _tell(self, client: ClientId, ticket: int, told: Assignment) -> None:
        """Send an assignment with its soft targets, or without, if there are none or they were of an earlier round."""
        targets = self.teacher.targets_of(told.taught) if self.teacher else []
        self._connections[client].reply(ticket, told if targets else replace(told, taught=0), targets)

    def _tell_round(self) -> None:
        """Say what the round that ends here has come to."""
        if not 1 <= self.round <= self.job.runner.epochs:
            return
        reports = self.members.of_round(self.round)
        self._say(f"last_round_total_fl_clients_num: {self.members.expected}, has recved fl client num: {len(reports)}")
        before = self._planner.stopping.reason
        figures = self._planner.close(self.round, reports)
        self._report(events.Round(self.round, *figures.values()))
        told = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
        self._say(f"fl-ps > round {self.round}: {told}")
        if self.teacher and (taught := self.teacher.teach(self.round, heard_of(self.members.waiting, self.round))):
            self._report(events.Taught(self.round, taught.loss, taught.weights))
        if self._planner.stopping.reason and not before:
            self._report(events.EndsEarly(self.round, self._planner.stopping.reason))
            self._say(f"fl-ps > the job ends: {self._planner.stopping.reason}")

    def _resume(self) -> None:
        """Take up what an earlier process of this coordinator left, or that of the run whose model this job starts from."""
        warm = self.job.runner.warmup_model_path
        saved = read(self._run_dir) if self._run_dir is not None else None
        self._resumed = saved is not None
        if saved is None and warm is not None:
            saved = read(warm.parent.parent)  # RUN_DIR of RUN_DIR/model/2
        if saved is None:
            return
        learned = "with" if restore(self._planner, saved, self.job.runner.client_selector) else "without"
        if self._resumed:
            self._restore(saved)
        else:
            self._planner.begin_anew(saved.round)
        self._say(f"fl-ps > coordinator goes on after round {saved.round}, {learned} the selector's state")

    def _restore(self, saved: Saved) -> None:
        """Take up where an earlier process of this coordinator was."""
        self.round = saved.round
        before = {c: Member(m.instance, m.round, m.told) for c, m in saved.members.items()}
        self.members.restore(before, saved.finished)

    def _go_on(self) -> None:
        """Go on with the round where the earlier process was, or with round 1 if all clients' processes are new ones."""
        self._resumed = False
        if not any(m.told for m in self.members.here.values()):
            self._planner.begin_anew(self.round)
            self.round = 0

    def _say(self, line: str) -> None:
        print(line, file=self._log, flush=True)


def _short(value: float | None) -> str:
    return "None" if value is None else f"{value:g}"
