"""The coordinator: clients report, the selector picks, assignments go out; round after round, until all have left.

It knows no sockets: `net` hands it connections with bytes and calls `tick` for deadlines, all from one thread. Who is
connected is the `roster`'s concern, who takes part that of `members`, how long a round waits for them that of `Round`; what
is decided is the `Planner`'s, what outlives the process that of `Memory`. Here they come together. Reports are claims:
`reports` checks them, and no one else has to.

A round is decided, then saved, then told; any process may die in between, and come again:

1. Nobody hears of a round before it is on disk. While it cannot be written, who has reported waits, and who trains trains.
2. A client that reports the round of its assignment has done it. It counts once, however often that is said, and by whichever
   of the client's processes.
3. One that reports an earlier round has lost the answer, or the process that had it: it is told the same again, if that is
   of the open round and not done yet; else it waits with the others for the next. Nobody trains a round twice.
4. One that reports a later round knows more than the record, and is refused.
5. A coordinator that is started again goes on with the round that was open; its deadlines begin anew. If every client that
   comes is a new process that knows of no round, rounds count from 1 again, and what the selector learned stays known.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from msgspec.structs import replace

from fedps.access.conversation import Conversation, Refusals, Send
from fedps.access.roster import Roster
from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.coordinator.members import Member, Members
from fedps.coordinator.planner import Planner, predictions
from fedps.coordinator.reports import Scores, check, check_same, in_words, read_scores, short
from fedps.coordinator.resuming import Decided, Memory, learned_in, unsaved
from fedps.coordinator.round import Clock, RealClock, Round
from fedps.coordinator.selectors import STATES, ClientSelectorBase, FLStrategy, make_selector
from fedps.errors import RefusedError
from fedps.events import events
from fedps.events.events import Report
from fedps.events.forms import dated
from fedps.figures import aucs_of
from fedps.metrics import BUCKETS
from fedps.simulation.traces import SimulatedClock, read_traces
from fedps.types import ClientId, Identity
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import Assignment, Hello, RoundReport, Welcome

MESSAGE_BYTES = 2 << 20  # a report is 130 kB, with logits of public pairs up to 660 kB, with tags up to 600 kB
AUC_BYTES = 2 * BUCKETS * 8  # more of each AUC that is measured
RETRY = 1.0  # seconds between two tries to write what is decided


class Coordinator:
    """Decides each round who trains.

    Args:
        job: the job; `epochs` is the number of rounds.
        report: where events go.
        log: where lines for people go; by default standard output.
        selector: who is picked; by default the job's.
        run_dir: the run's folder, where its state is kept; None keeps none.
        clock: what rounds are timed by; by default the simulated devices' if the job names traces, else real time.
        monotonic: tells the time, in seconds.
        resume_at: the round to go on with, later ones are forgotten; by default the newest that was saved.

    Attributes:
        round: the round now open.
        teacher: makes soft targets of the clients' predictions, None if the job distills nothing.
        failure: what the selector raised, or why its answer cannot be followed; nothing is decided any more then.

    Raises:
        JobError: the job's selector cannot be made, its traces cannot be read, another coordinator is at work in the
            folder, or a state that lies there cannot be taken up.
        DataError: the job's public samples cannot be read.
    """

    def __init__(
        self, job: Job, report: Report, log: TextIO | None = None, selector: ClientSelectorBase | None = None,
        run_dir: Path | None = None, clock: Clock | None = None, monotonic: Callable[[], float] = time.monotonic,
        resume_at: int | None = None,
    ) -> None:  # fmt: skip
        runner, expected, self._monotonic = job.runner, job.runner.worker_num or 1, monotonic
        size = MESSAGE_BYTES + AUC_BYTES * len(aucs_of(job.metrics))
        self.job, self.limits, self.refusals = job, Limits(message_bytes=size), Refusals(report)
        self.roster = Roster(job.name, shared_part(job), "coordinator", expected, self.limits.connections, runner.start_timeout,
                             job.security.clients)  # fmt: skip
        self.members, self.round = Members(expected), Round(0, monotonic(), runner.quorum)
        self.failure: Exception | None = None
        clock = clock or (SimulatedClock(read_traces(job.traces)) if job.traces else RealClock())
        self._planner = Planner(job, selector or make_selector(job), clock)
        self.teacher = self._planner.teacher
        self._report, self._log = report, log or sys.stdout
        self._decided: Decided | None = None
        self._retry_at = 0.0
        self._first_at: float | None = None  # when the first client came: a coordinator may stand ready long before
        self._all_came, self._now = False, 0.0  # told once; of the last tick
        self._memory = Memory(run_dir)
        try:
            self._resume(resume_at)
        except Exception:
            self._memory.close()
            raise
        self.members.report = report

    def say_ready(self, address: str | None = None) -> None:
        """Write to the log that clients are answered from now on; `address`: `host:port`, None within one process."""
        if address is not None:
            host, _, port = address.rpartition(":")
            where = f"fl-ps > coordinator service addr: {host}, {port}, 0"
            self._say(f"Server[fedps.Coordinator] is serving on port={port}.", where)
        self._say("fl-ps > StartCoordinatorServer finished!", "fl-ps > running make_fl_strategy(loop) in coordinator")

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do: all have come and left and hung up, or the selector failed.

        Who was lost has time to come back, as long as a role may take to start.
        """
        patience = self.job.runner.reconnect_timeout + self.job.runner.start_timeout
        return self.failure is not None or (not self.roster.connected and self.members.over(self._now, patience))

    def opened(self, send: Send, peer: str, identity: Identity | None = None) -> Conversation:
        """Begin a connection; `send` may be used until it is closed, and hangs up when it is given None."""
        return self.roster.open(Conversation(self, send, peer, self._monotonic(), with_join=False, identity=identity))

    def answer(self, conversation: Conversation, frame: Frame) -> None:
        """Answer a greeting at once, a report when all of its round are in, or their time is up."""
        match frame.message:
            case Hello() as hello:
                self._greet(conversation, hello)
                conversation.reply(frame.ticket, Welcome(0, 1, self.round.number))
            case RoundReport() as report:
                check(report.info, not self._planner.clock.simulated, self.job.metrics, self.job.tasks)
                scores = read_scores(report, frame.arrays, self.teacher, self.job.metrics)
                self._take_report(conversation, frame.ticket, report, scores)
            case other:
                raise RefusedError("order", f"{type(other).__name__} is nothing to say to a coordinator")

    def forget(self, conversation: Conversation) -> None:
        """Note that a connection is gone, and with it the report that it brought; its client has time to come back."""
        client = self.roster.forget(conversation)
        if client is not None:
            self.members.disconnect(client, conversation.instance, self._monotonic())
            self.members.drop_report(client)

    def tick(self, now: float) -> None:
        """Enforce the deadlines. `now`: seconds, monotonic."""
        runner, self._now = self.job.runner, now
        self.refusals.tick(now)
        if self.failure is not None:
            self.roster.hang_up()
            return
        self.roster.tick(now)
        if self._first_at is not None and now - self._first_at > runner.start_timeout:
            self.members.expect(self.members.came)
        for client in self.members.overdue(now, runner.reconnect_timeout):
            self._lose(client)
        if self._decided is None:
            late = self.round.overdue(self.members.here, runner.step_timeout, self._planner.clock, now)
            for client, reason in late.items():
                self._leave_behind(client, reason)
        self._advance(now)

    def close(self) -> None:
        """Save what was reported since the last round was decided, and let go of the folder.

        Raises:
            Exception: `failure`, or that the state cannot be written.
        """
        self.refusals.flush()
        try:
            if self.failure is not None:
                raise self.failure  # the state of the last round that was decided stays
            if self._decided is not None:
                self._memory.write(self._decided.found)
            elif self.round.number:
                self._memory.write(self._planner.found(self.round.number, self.members.records({})))
        except OSError as error:
            raise unsaved(error) from error
        finally:
            self._memory.close()

    # A round, in the order of its verbs: clients report; once nobody is waited for, the figures of the round that ends are
    # merged, the selector is asked, and each client is assigned what to do. Then clients train, servers merge what they
    # push, all evaluate one and the same model, and report again.

    def _take_report(self, conversation: Conversation, ticket: int, report: RoundReport, scores: Scores) -> None:
        """Take a report, by the rules above.

        Raises:
            RefusedError: it is of a round that was never assigned to this client, or came before.
        """
        client, instance, now = conversation.known, conversation.instance, self._monotonic()
        member = self.members.departed(client, instance, report.round) or self.members.get(client)
        if member is None:
            member = self.members.enter(client, instance)
            self.roster.enter(conversation)
        member.anew |= member.fresh and report.round == 0 and member.round > 1
        member.fresh = False
        if member.assignment is not None and self._is_due(member, report.round):
            member.anew = False
            if member.finished:
                self.members.leave(client)
                member.lost_at = None
            self._send(client, ticket, member.assignment)
            return
        if report.round > member.round:
            last = f"was last assigned to round {member.round}: has the coordinator the folder of another run?"
            raise RefusedError("stale", f"client {client!r} reports round {report.round}, and {last}")
        if member.ticket is not None:
            raise RefusedError("order", f"client {client!r} has reported round {report.round}: wait for the answer")
        member.ticket, member.behind = ticket, False
        if report.round == member.round:
            member.info, member.scores, member.reported = report.info, scores, True
            member.slow &= not self.round.in_time(report.round, now)
            if member.joins:
                self._planner.history.report(client, member.round, report.info)
        elif not member.reported:
            member.info, member.scores = report.info, Scores()
        self.round.note_report(report.round, now)
        self._say(f"fl-ps > recv from client id: {client}, msg_type: 200")
        self._advance(now)

    def _is_due(self, member: Member, reported: int) -> bool:
        """Whether who reports a round is still to do what was assigned to it, or to leave."""
        if member.finished:
            return True
        is_open = member.round == self.round.number and self._decided is None
        return reported < member.round and is_open and not member.reported and (not member.anew or self._goes_on)

    @property
    def _goes_on(self) -> bool:
        """Whether it is known that the record is of this very run: it is by now, or somebody has come who was in it."""
        there = [*self.members.here.values(), *self.members.lost.values()]
        return not self.round.restored or any(m.assignment and not m.fresh and not m.anew for m in there)

    def _advance(self, now: float) -> None:
        """Go on to the next round, once nobody of the open one is waited for."""
        here = self.members.here
        self.round.look_for_quorum(here, self._planner.quorum, now)
        if self.failure is not None:
            return
        done = self._decided is None and self.members.complete and not self.round.pending(here)
        try:
            if done and (waiting := self.members.waiting):
                self._decided = self._decide(waiting)
            if self._decided is not None and now >= self._retry_at:
                self._open(self._decided, now)
        except Exception as error:  # of the user's own code, or of the disk
            self.failure = error
            if isinstance(error, RefusedError):  # a server has cheated: all are told, whatever they wait for
                for conversation in filter(None, map(self.roster.connection, here)):
                    conversation.refuse(0, error)

    def _decide(self, waiting: Mapping[ClientId, Member]) -> Decided:
        began = self._monotonic()
        if not self._goes_on:
            self._begin_anew()
        if 1 <= self.round.number <= self.job.runner.epochs:
            self._evaluate()
        for client in self.round.unreported(waiting):  # where a new process came in the place of who was to train
            self._miss(client)
        for client in self.round.passed_over(self.members.here):
            self._leave_behind(client, "it was late before, and the others are enough")
        strategies, number = self._select(waiting), self.round.number + 1
        assignments = {client: self._planner.assignment(number, strategy) for client, strategy in strategies.items()}
        joined, idle, finished = ([c for c, x in strategies.items() if x.next_state == s] for s in STATES)
        if joined:
            self._report(events.Selected(number, joined, idle, finished, self._monotonic() - began))
        found = self._planner.found(number, self.members.records(assignments))
        return Decided(number, assignments, found, self._monotonic())

    def _open(self, decided: Decided, now: float) -> None:
        """Save a round that is decided, and let all know.

        Raises:
            FedpsError: it could not be saved for too long.
        """
        try:
            self._memory.write(decided.found)
        except OSError as error:
            if now - decided.at > self.job.runner.step_timeout:
                raise unsaved(error) from error
            why = f"round {decided.round} waits: {unsaved(error)}"
            self._say(f"fl-ps > {why}")
            if not self._retry_at:
                self._report(events.Note(why))
            self._retry_at = now + RETRY
            return
        self._decided, self._retry_at = None, 0.0
        self.round = self.round.then(decided.round, self._monotonic())
        for client, assignment in decided.assignments.items():
            ticket = self.members.assign(client, assignment)
            if ticket is not None:
                self._send(client, ticket, assignment)
            self._say(f"SendFLStrategy to client: {client} finished")
        self._say("RpcSendFLStrategy finished")

    def _evaluate(self) -> None:
        """Merge the figures and the predictions of the round that ends, and see whether the job ends with it."""
        round_, reported = self.round.number, self.round.reported(self.members.here)
        check_same(round_, {client: m.scores for client, m in reported.items()}, self.job.security, self._report)
        expected = self.members.expected
        self._say(f"last_round_total_fl_clients_num: {expected}, has recved fl client num: {len(reported)}")
        ended = self._planner.stopping.reason
        figures = self._planner.evaluate(round_, list(reported.values()))
        self._report(events.Round(round_, figures))
        self._say(f"fl-ps > round {round_}: " + ", ".join(f"{name} {short(value)}" for name, value in figures.items()))
        if self.teacher and (ensemble := self.teacher.teach(round_, predictions(reported))):
            self._report(events.Taught(round_, ensemble.loss, ensemble.weights))
        if (reason := self._planner.stopping.reason) and not ended:
            self._report(events.EndsEarly(round_, reason))
            self._say(f"fl-ps > the job ends: {reason}")

    def _select(self, waiting: Mapping[ClientId, Member]) -> dict[ClientId, FLStrategy]:
        """Let the clock go on to the end of the round, and ask who of those that are there then is to train."""
        for client, member in waiting.items():
            self._say(f"fl-ps > client {client} info : {{{in_words(member.info)}}}")
        took = self._planner.clock.advance(m.info.seconds for m in waiting.values()) if self.round.number else None
        if took is not None:
            self._report(events.Clock(self.round.number, took, self._planner.clock.now))
        return self._planner.plan(self.round.number + 1, {c: m.info for c, m in waiting.items()}, self.members.known)

    def _send(self, client: ClientId, ticket: int, assignment: Assignment) -> None:
        """Send an assignment with its soft targets, or without, if there are none or they were of an earlier round."""
        targets = self.teacher.targets_of(assignment.targets_of) if self.teacher else []
        conversation = self.roster.connection(client)
        if conversation is not None:
            conversation.reply(ticket, assignment if targets else replace(assignment, targets_of=0), targets)

    def _greet(self, conversation: Conversation, hello: Hello) -> None:
        """Give a connection its name.

        Raises:
            RefusedError: it means somebody else, a newer process speaks for this client, or too many take part.
        """
        now = self._monotonic()
        client = self.roster.greet(conversation, hello, now)
        self._first_at = self._first_at or now
        self.members.drop_report(client)
        if self.members.returns(client):
            self.members.enter(client, hello.instance)
            self.roster.enter(conversation)
        self._say(f"fl-ps > coordinator connect to fl_client: {client}")
        self._note_arrivals()

    def _note_arrivals(self) -> None:
        """Write to the log, once all clients are connected, from where: they have no ports of their own."""
        connected = [c for client in sorted(self.roster.connected) if (c := self.roster.connection(client))]
        if not self._all_came and len(connected) >= self.members.expected:
            self._all_came = True
            endpoints = f">>> all trainer endpoints: {[c.endpoint for c in connected]}"
            self._say(endpoints, "fl-ps > StartCoordinatorClient finish!")

    def _lose(self, client: ClientId) -> None:
        self._miss(client)
        self.members.lose(client)
        self._report(events.Lost(client, "its connection broke and did not come back"))
        self._say(f"fl-ps > lost fl_client: {client}")

    def _leave_behind(self, client: ClientId, reason: str) -> None:
        self._miss(client)
        self.members.here[client].behind = self.members.here[client].slow = True
        self._report(events.LeftBehind(client, self.round.number, reason))
        self._say(f"fl-ps > round {self.round.number} goes on without fl_client: {client}: {reason}")

    def _miss(self, client: ClientId) -> None:
        """Note that nothing came of a client's turn, if it was to train and has not reported."""
        member = self.members.here[client]
        if member.joins and not member.reported:
            self._planner.history.miss(client, member.round)

    def _resume(self, at: int | None) -> None:
        """Take up what an earlier process of this coordinator left, or that of the run whose model this job starts from."""
        warm = self.job.runner.warmup_model_path
        ours = self._memory.read(at)
        found = ours or (learned_in(warm.parent.parent) if warm else None)  # RUN_DIR of RUN_DIR/model/2
        if found is not None:
            learned = "with" if self._planner.resume(found) else "without"
            self._say(f"fl-ps > coordinator goes on after round {found.state.round}, {learned} the selector's state")
        if ours is not None:
            self.round = self.round.then(ours.state.round, self._monotonic(), restored=ours.state.round > 0)
            self.members.restore(ours.state.members, self._monotonic() if at is None else None)
            self._planner.history.take_news()  # it lies in the folder already
        else:
            self._planner.begin_anew(found.state.round if found else 0)
            self._memory.begin(self._planner.found(0, {}, found))

    def _begin_anew(self) -> None:
        """Count rounds from 1 again: all clients' processes are new ones, and so is what they train."""
        self._memory.begin_anew(self.round.number)
        self._planner.begin_anew(self.round.number)
        self.members.begin_anew()
        self.round = self.round.then(0, self._monotonic())

    def _say(self, *lines: str) -> None:
        """Write lines to the log."""
        print(*map(dated, lines), sep="\n", file=self._log, flush=True)
