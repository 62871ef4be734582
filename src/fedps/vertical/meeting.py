"""Where passive parties come to: the active party's door, in a thread of its own beside the one that trains.

The thread that trains says whom it waits for (`next_of`), and replies. Nobody is waited for in vain: who has never come, has
gone away, or is there and silent for too long is named in the error, and all others are told of it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, NoReturn, get_args

import numpy as np

from fedps.access.conversation import Conversation, Refusals, Send, in_a_line
from fedps.access.roster import Roster
from fedps.config.vertical import VerticalJob
from fedps.errors import FedpsError, JobError, LostError, RefusedError, WireError
from fedps.events import events
from fedps.events.events import Report
from fedps.net.listener import counted, serve
from fedps.types import Identity, Values
from fedps.vertical.turns import AHEAD, VERSION, Again, Arrays, Asked, Phase, Turns, limits_of, tell_version
from fedps.wire.compress import unpack
from fedps.wire.frame import Frame
from fedps.wire.messages import Alive, Cut, Hello, PartyReply, PartyRequest, Refused, Welcome

if TYPE_CHECKING:
    from fedps.net.tls import Certificates

LOOK = 0.1  # seconds between two looks at deadlines
HEADER = 1 << 12  # bytes of a message beside its floats, at most
FAREWELL = 2.0  # seconds in which parties may take leave, and the door closes


class Meeting:
    """All passive parties' connections, and what they ask; see `turns`.

    Args:
        job: the job.
        shared: what all parties must have alike.
        report: where events go.

    Attributes:
        limits: what one party may send.
        refusals: counts what is refused.
        bytes: of messages, sent and received.
        strangers: counts those of refusals who never got as far as a message.
    """

    strangers: Callable[[], None]

    def __init__(self, job: VerticalJob, shared: Mapping[str, str], report: Report) -> None:
        self.limits, self.refusals, self.bytes = limits_of(job), Refusals(report), 0
        self._name, self._vertical, self._report = job.name, job.vertical, report
        self.strangers = lambda: None
        self._roster = Roster(
            job.name, shared, "party", len(job.vertical.passive), self.limits.connections, job.vertical.start_timeout,
            job.vertical.passive,
        )  # fmt: skip
        self._opened, self._misfit, self._ended = time.monotonic(), "", ""
        self._door: _Door | None = None
        self._seen = {party: _Seen() for party in job.vertical.passive}
        self._turns = Turns(job.vertical.passive, self._say)
        self._changed = threading.Condition()  # guards these two; is notified of requests and faults

    @contextmanager
    def open(self, bind: str, ready: Callable[[str], None], certificates: "Certificates | None") -> Iterator[None]:
        """Take connections until the block ends; if it raises, all parties are told why.

        Args:
            bind: `host:port`; port 0 takes a free one.
            ready: called with the real address.
            certificates: of the active party; None: connections are in the clear.

        Raises:
            JobError: the address cannot be bound.
        """
        self._door = _Door(self, bind, certificates)
        try:
            ready(self._door.address.result())
            self._opened = time.monotonic()
            yield
        except BaseException as error:
            self._door.call(self._end, _farewell(self._vertical.active, error))
            if isinstance(error, FedpsError) and not isinstance(error, LostError):
                self._linger(lambda seen: seen.heard is not None)  # who dials just now would try for long
            raise
        finally:
            self._door.close()

    @property
    def phase(self) -> Phase:
        """How far all have come together."""
        return self._turns.phase

    def resume(self) -> Phase:
        """Take up the phase to which all have gone back, and return it."""
        with self._changed:
            return self._turns.resume()

    def enter(self, phase: Phase) -> None:
        """Lead all into a phase. Raises Again: a party was started again."""
        with self._changed:
            self._turns.enter(phase)

    def hold(self, party: str, most: int) -> None:
        """Let so many bytes of what a party asks wait at once."""
        with self._changed:
            self._turns.hold(party, most)

    def go_back(self, phase: Phase) -> NoReturn:
        """Let all go back to a phase. Raises Again."""
        with self._changed:
            self._turns.go_back(phase)
            self._turns.check()
        raise Again

    def next_of(self, parties: Sequence[str], patience: float = 0.0) -> list[Asked]:
        """Wait until each of some parties has asked for something; return the first of each.

        Args:
            parties: their names.
            patience: seconds that they may be silent beyond `step_timeout`.

        Raises:
            Again: a party was started again, and all go back.
            LostError: one never came, went away, gave up, or is silent.
            JobError: one has come whose job is another.
        """
        if not parties:
            return []
        with self._changed:
            self._await(lambda: [p for p in parties if self._turns.next_of(p) is None], patience)
            return [self._turns.take(party) for party in parties]

    def next_of_any(self, parties: Sequence[str], patience: float = 0.0) -> Asked:
        """Wait until one of some parties has asked for something; the rest as for `next_of`."""
        with self._changed:
            self._await(lambda: [] if self._asking(parties) else parties, patience)
            return self._turns.take(self._asking(parties)[0])

    def reply(self, asked: Asked, message: PartyReply, arrays: Arrays = ()) -> None:
        """Answer a request, unless its process is gone."""
        with self._changed:
            self._turns.answer(asked, message, arrays)

    def refuse(self, asked: Asked, refusal: RefusedError) -> None:
        """Refuse a request, and count that."""
        self.refusals.add(asked.party, refusal.kind, refusal.reason)
        self.reply(asked, Refused(refusal.kind, refusal.reason))

    def part(self) -> None:
        """Wait a moment until all have heard the last words, and hung up."""
        self._linger(lambda seen: seen.lost_at is not None)

    def _linger(self, over: Callable[["_Seen"], bool]) -> None:
        """Wait a moment until something is so of all parties."""
        deadline = time.monotonic() + FAREWELL
        while time.monotonic() < deadline and not all(map(over, self._seen.values())):
            time.sleep(LOOK / 10)

    def reject(self, asked: Asked, kind: str, why: str) -> NoReturn:
        """Refuse what a party has said, and end: nobody can go on without it. Raises RefusedError."""
        refusal = RefusedError(kind, in_a_line(f"party {asked.party} {why}"))
        self.refuse(asked, refusal)
        raise refusal

    def cut_of(self, asked: Asked, due: Cut, shape: tuple[int, int]) -> Values:
        """Return what a party has sent of a batch. Raises RefusedError: it is not what is due; the party is told."""
        if asked.message != due:
            self.reject(asked, "mismatch", f"says {asked.message}, due {due}")
        try:
            cut = unpack(due.form, asked.arrays, shape)
        except WireError as error:
            self.reject(asked, "mismatch", f"sends of step {due.step} {error}")
        if cut.shape != shape:
            self.reject(asked, "mismatch", f"sends of step {due.step} floats of shape {cut.shape}, due {shape}")
        if not np.isfinite(cut).all():
            self.reject(
                asked, "not_finite", f"sends of step {due.step} a NaN or an infinity: has its training diverged?"
            )
        return cut

    def check_width(self, asked: Asked, width: int, samples: int) -> None:
        """Make sure that messages hold what a party will send of so many samples at once, and let as many wait as it sends ahead.

        Raises:
            RefusedError: they do not, or that is too much.
        """
        limits, at_once = self.limits, max(self._vertical.in_flight, AHEAD)
        size = width * samples * 4 + HEADER
        if width <= 0 or size > limits.message_bytes or samples > limits.rows:
            self.reject(
                asked, "mismatch",
                f"would send {width} floats of a sample, which no message holds: {samples:,} samples are sent at once, and at most"
                f" {limits.rows:,} in {limits.message_bytes >> 20} MiB: raise limits.message_mib at all parties, or lower"
                " vertical.train_batch_size",
            )  # fmt: skip
        if size * at_once > limits.held_bytes:
            self.reject(
                asked, "mismatch",
                f"would send {size * at_once >> 20} MiB ahead, and at most {limits.held_bytes >> 20} are held: lower"
                " vertical.in_flight or vertical.train_batch_size",
            )  # fmt: skip
        self.hold(asked.party, size * at_once)

    def _asking(self, parties: Sequence[str]) -> list[str]:
        return [party for party in parties if self._turns.next_of(party) is not None]

    def _await(self, missing: Callable[[], Sequence[str]], patience: float) -> None:
        since = time.monotonic()
        while True:
            self._turns.check()
            parties = missing()
            if not parties:
                return
            for party in parties:
                self._check_patience(party, since, patience)
            self._changed.wait(LOOK)

    def _check_patience(self, party: str, since: float, patience: float) -> None:
        """Make sure that a party may still be waited for, as it has been since a moment. Raises LostError: it may not."""
        now, start, step = time.monotonic(), self._vertical.start_timeout, self._vertical.step_timeout + patience
        seen = self._seen[party]
        if seen.heard is None and now - self._opened > start:
            others = f"; refused meanwhile: {self._misfit}" if self._misfit else ""
            raise LostError(
                f"party {party} has not come for {start:g} s: is it started, and with the address of this one?{others}"
            )
        if seen.lost_at is not None and now - seen.lost_at > start:
            raise LostError(f"party {party} went away, and has not come back for {start:g} s: see its log")
        if seen.heard is not None and seen.lost_at is None and now - max(since, seen.heard) > step:
            raise LostError(f"party {party} is connected, and has said nothing for {step:g} s: see its log")

    # What follows is called from the door's thread.

    def opened(self, send: Send, peer: str, identity: Identity | None = None) -> "_Counted":
        """Begin a conversation."""

        def counting(data: bytes | None) -> None:
            self.bytes += len(data or b"")
            send(data)

        conversation = Conversation(self, counting, peer, time.monotonic(), with_join=False, identity=identity)
        return _Counted(self._roster.open(conversation), self)

    def tick(self, now: float) -> None:
        """Look after strangers, and tell of refusals."""
        self._roster.tick(now)
        self.strangers()
        self.refusals.tick(now)

    def answer(self, conversation: Conversation, frame: Frame) -> None:
        """Answer a request, or let it wait for the thread that trains.

        Raises:
            RefusedError: it may not be said, or not now.
        """
        match frame.message:
            case Hello() as hello:
                self._greet(conversation, hello)
                conversation.reply(frame.ticket, Welcome(0, 1, 0, version=VERSION))
            case message if isinstance(message, get_args(PartyRequest)):
                party = conversation.known
                with self._changed:
                    if not (isinstance(message, Alive) and self._turns.waits(party)):  # who waits for us does no work
                        self._seen[party].heard = time.monotonic()
                    self._turns.ask(party, frame.ticket, message, frame.arrays, conversation)
                    self._changed.notify()
            case other:
                raise RefusedError("order", f"{type(other).__name__} is nothing to say to an active party")

    def forget(self, conversation: Conversation) -> None:
        """Note that a party is not connected any more."""
        party = self._roster.forget(conversation)
        if party is not None:
            with self._changed:
                self._seen[party].lost_at = time.monotonic()

    def fail(self, error: Exception) -> None:
        """Let the thread that trains know that nobody can come any more."""
        with self._changed:
            self._turns.fault = self._turns.fault or error
            self._changed.notify()

    def _greet(self, conversation: Conversation, hello: Hello) -> None:
        try:
            party = self._roster.greet(conversation, hello, time.monotonic())
        except RefusedError as refusal:
            self._note_misfit(conversation, hello, refusal)
            raise
        self._roster.enter(conversation)
        seen = self._seen[party]
        if self._ended:
            seen.heard = time.monotonic()
            raise RefusedError("ended", self._ended)
        if seen.instance != hello.instance:
            self._report(events.Joined(party, hello.instance))
            tell_version(self._report, f"party {party}", hello.version)
        with self._changed:
            seen.heard, seen.lost_at, seen.instance = time.monotonic(), None, hello.instance
            self._turns.greet(party, hello.instance)
            self._changed.notify()

    def _note_misfit(self, conversation: Conversation, hello: Hello, refusal: RefusedError) -> None:
        """Keep in mind who was refused; a party that is waited for, and whose job is another, ends the run on this side, too."""
        reason = in_a_line(refusal.reason)
        self._misfit = f"{in_a_line(hello.client[:99])}: {reason}"
        seen = self._seen.get(hello.client)
        ours = conversation.identity is None or conversation.identity.name == hello.client
        if refusal.kind == "other_job" and hello.job == self._name and ours and seen and seen.heard is None:
            self.fail(JobError(f"party {hello.client}: {reason}"))

    def _say(self, to: Conversation, ticket: int, message: PartyReply, arrays: Arrays) -> None:
        if self._door is not None:
            self._door.call(to.reply, ticket, message, arrays)

    def _end(self, reason: str) -> None:
        """Tell all parties that it is over, and those that are still to come."""
        self._ended = reason
        for party in self._roster.connected:
            conversation = self._roster.connection(party)
            if conversation is not None:
                conversation.reply(0, Refused("ended", reason))
                conversation.hang_up()


class _Seen:
    """What is known of a passive party: when it was last heard of, and when its connection broke; seconds, monotonic."""

    def __init__(self) -> None:
        self.heard: float | None = None
        self.lost_at: float | None = None
        self.instance = ""


class _Counted:
    """A conversation whose bytes are counted."""

    def __init__(self, conversation: Conversation, meeting: Meeting) -> None:
        self._conversation, self._meeting = conversation, meeting
        self.dismiss, self.closed = conversation.dismiss, conversation.closed

    def received(self, data: bytes) -> None:
        """Take one message."""
        self._meeting.bytes += len(data)
        self._conversation.received(data)


class _Door:
    """The thread in which connections are taken.

    Attributes:
        address: the real one, once it is known; or why there is none.
    """

    def __init__(self, meeting: Meeting, bind: str, certificates: "Certificates | None") -> None:
        self.address = Future[str]()
        self._meeting, self._bind, self._certificates = meeting, bind, certificates
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fedps door", daemon=True)
        self._thread.start()

    def call(self, do: Callable[..., None], *args: object) -> None:
        """Let something be done in this thread; nothing happens if it has ended."""
        if threading.current_thread() is self._thread:
            do(*args)
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(do, *args)

    def close(self) -> None:
        """Take no more connections; what is under way has a moment left."""
        self.call(self._stop.set)
        self._thread.join(FAREWELL)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._keep())
        except Exception as error:
            if not self.address.done():
                self.address.set_exception(error)
            self._meeting.fail(error)

    async def _keep(self) -> None:
        meeting = self._meeting
        with counted(meeting.refusals) if self._certificates else nullcontext(lambda: None) as count:
            meeting.strangers = count
            await serve(meeting, self._bind, meeting.limits, self.address.set_result, self._stop, self._certificates)


def _farewell(active: str, error: BaseException) -> str:
    """Say why it ends, as far as that is others' business: a mistake in the active party's own data or job is not."""
    why = str(error) if isinstance(error, LostError | RefusedError) else "its log says why"
    return in_a_line(f"the active party {active} has ended: {why}")
