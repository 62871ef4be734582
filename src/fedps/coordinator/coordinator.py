"""The coordinator: clients report, the selector picks, assignments go out; round after round, until all have left.

It knows no sockets: `net` hands it connections with bytes and calls `tick` for deadlines, all from one thread. Reports
are claims: they are checked for sense, and what they say decides nothing but who trains.
"""

import sys
import time
from typing import TextIO

from fedps.config import Job
from fedps.coordinator.connection import Connection, Send
from fedps.coordinator.members import Members, Scores
from fedps.coordinator.merged import merge
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy, choose, make_selector
from fedps.errors import RefusedError
from fedps.tracking import Report
from fedps.types import ClientId, ClientInfo
from fedps.wire.frame import Limits
from fedps.wire.messages import Assignment, RoundReport

GREETING_TIMEOUT = 10.0  # seconds a connection may stay without saying who it is
MESSAGE_BYTES = 1 << 20  # a report is 130 kB


class Coordinator:
    """Decides each round who trains.

    Args:
        job: the job; `epochs` is the number of rounds.
        report: where events go.
        log: where lines for people go; by default standard output.
        selector: who is picked; by default the job's.

    Attributes:
        round: the round now open, 0 before the first.
        failure: what the selector raised, or why its answer cannot be followed; nothing is decided any more then.

    Raises:
        JobError: the job's selector cannot be made.
    """

    def __init__(
        self, job: Job, report: Report, log: TextIO | None = None, selector: ClientSelectorBase | None = None
    ) -> None:
        self.job, self.limits, self.round = job, Limits(message_bytes=MESSAGE_BYTES), 0
        self.members = Members(job.runner.worker_num or 1)
        self.failure: Exception | None = None
        self._selector = selector or make_selector(job)
        self._report, self._log = report, log or sys.stdout
        self._connections: dict[ClientId, Connection] = {}
        self._strangers: set[Connection] = set()
        self._first_at: float | None = None  # when the first client came
        self._first_report_at: float | None = None  # of the open round
        self._say("fl-ps > running make_fl_strategy(loop) in coordinator")

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
            self._connections[client].reply(ticket, member.told)  # the first answer was lost with its connection
            return
        if said.round != member.round:
            raise RefusedError(
                "stale", f"client {client!r} reports round {said.round}, and was last assigned to round {member.round}"
            )
        now = time.monotonic()
        member.ticket, member.info, member.scores, member.behind = ticket, said.info, scores, False
        if member.round == self.round and self._first_report_at is None:
            self._first_report_at = now
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
            self.members.lose(client)
            self._report({"event": "lost", "client": client, "reason": "its connection broke and did not come back"})
            self._say(f"fl-ps > lost fl_client: {client}")
        if self._first_report_at is not None and now - self._first_report_at > runner.step_timeout:
            for client in self.members.pending(self.round):
                self._leave_behind(client)
        self._advance()

    def count_refusal(self, who: str, kind: str, reason: str) -> None:
        """Tell the run of a refusal."""
        self._report({"event": "refused", "client": who, "kind": kind, "reason": reason})

    def _leave_behind(self, client: ClientId) -> None:
        member = self.members.get(client)
        if member is not None:
            member.behind = True
        self._report({"event": "left_behind", "client": client, "round": self.round})
        self._say(f"fl-ps > round {self.round} goes on without fl_client: {client}")

    def _advance(self) -> None:
        """Decide on the next round, once nobody of the open one is waited for."""
        ready = self.members.complete and self.members.waiting and not self.members.pending(self.round)
        if not ready or self.failure is not None:
            return
        began = time.monotonic()
        self._tell_round()
        clients = {client: m.info for client, m in self.members.waiting.items()}
        upcoming = self.round + 1
        try:
            chosen = self._choose(upcoming, clients)
        except Exception as error:  # of the user's own code
            self.failure = error
            return
        self.round, self._first_report_at = upcoming, None
        for client, strategy in chosen.items():
            self._answer(client, strategy)
        self._say("RpcSendFLStrategy finished")
        by_state = {s: [c for c, x in chosen.items() if x.next_state == s] for s in ("JOIN", "WAIT", "FINISH")}
        if by_state["JOIN"]:
            self._report(
                {"event": "selected", "round": upcoming, "selected": by_state["JOIN"], "waiting": by_state["WAIT"]}
                | {"finished": by_state["FINISH"], "seconds": time.monotonic() - began}
            )

    def _choose(self, round_: int, clients: dict[ClientId, ClientInfo]) -> dict[ClientId, FLStrategy]:
        if round_ > self.job.runner.epochs:
            return dict.fromkeys(clients, FLStrategy("FINISH"))
        for client, info in clients.items():
            self._say(
                f"fl-ps > client {client} info : {{'DEVICE_TYPE': '{info.device_type}', 'COMPUTE_CAPACITY':"
                f" {info.compute_capacity:.0f}, 'BANDWIDTH': {info.bandwidth:.0f}, 'SAMPLES': {info.samples}, 'LOSS':"
                f" {_short(info.loss)}, 'AUC': {_short(info.auc)}, 'SECONDS': {info.seconds:.3f}}}"
            )
        return choose(self._selector, round_, clients, self.members.known)

    def _answer(self, client: ClientId, strategy: FLStrategy) -> None:
        runner, member = self.job.runner, self.members.get(client)
        if member is None or member.ticket is None:
            return
        joins, last = strategy.next_state == "JOIN", self.round == runner.epochs
        due = last or (runner.eval_every > 0 and self.round % runner.eval_every == 0)
        told = Assignment(
            self.round,
            strategy.next_state,
            strategy.iteration_num or runner.round_iterations or 0,
            due and (joins or last or runner.eval_clients == "all"),
        )
        ticket, member.ticket = member.ticket, None
        member.round, member.told = self.round, told
        if strategy.next_state == "FINISH":
            self.members.finish(client)
        if client in self._connections:
            self._connections[client].reply(ticket, told)
        self._say(f"SendFLStrategy to client: {client} finished")

    def _tell_round(self) -> None:
        """Say what the round that ends here has come to."""
        if not 1 <= self.round <= self.job.runner.epochs:
            return
        reports = self.members.of_round(self.round)
        self._say(f"last_round_total_fl_clients_num: {self.members.expected}, has recved fl client num: {len(reports)}")
        figures = merge([(m.info, m.scores) for m in reports])
        self._report({"event": "round", "round": self.round, **figures})
        told = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
        self._say(f"fl-ps > round {self.round}: {told}")

    def _say(self, line: str) -> None:
        print(line, file=self._log, flush=True)


def _short(value: float | None) -> str:
    return "None" if value is None else f"{value:g}"
