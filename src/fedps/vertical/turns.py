"""What passive parties ask of the active one, and what they may ask when; no sockets, no threads, no clock.

    MATCH ──────────► BEGIN ──────────► STEP ──────────► END
    Blind, Double     Begin             Cut, EndEpoch    Leave

The active party leads from phase to phase, and from STEP to BEGIN for the next stage. A party that was started again has
lost its place, and so all go back with it: to BEGIN, or to MATCH if it says Blind. Whoever is told `stale` says Begin of the
first stage again, whoever is told `order` finds the common samples again before.

Each request is seen once: a party that says it again, after its connection broke, is answered what it was answered, or
waits on. A request is known by the process that says it and its ticket, and a process says them in order.
"""

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from importlib.metadata import version
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fedps.config.vertical import VerticalJob
from fedps.errors import LostError, RefusedError
from fedps.events.events import Note, Report
from fedps.wire.frame import Limits
from fedps.wire.messages import (
    Alive,
    Begin,
    Blind,
    Cut,
    Done,
    Double,
    EndEpoch,
    GiveUp,
    Leave,
    PartyReply,
    PartyRequest,
    Refused,
)

VERSION = version("fedps")
Arrays = Sequence[NDArray[Any]]
AHEAD = 3  # messages of held-out samples, and of those to be predicted, that a party sends before the first is answered
MOST = 4096  # requests of a party that wait, and answers that are remembered
SMALL = 32 << 20  # bytes that are held of each party in any case: lists of ids come in parts of 2 MiB, few at a time
Say = Callable[[Any, int, PartyReply, Arrays], None]


class Phase(IntEnum):
    """How far all parties have come together."""

    MATCH = 0
    BEGIN = 1
    STEP = 2
    END = 3


DUE: dict[Phase, tuple[type[PartyRequest], ...]] = {
    Phase.MATCH: (Blind, Double),
    Phase.BEGIN: (Begin,),
    Phase.STEP: (Cut, EndEpoch),
    Phase.END: (Leave,),
}
BACK: dict[type[PartyRequest], Phase] = {Blind: Phase.MATCH, Begin: Phase.BEGIN}


class Asked(NamedTuple):
    """A request that waits for its answer.

    Attributes:
        party: whose.
        instance: the process that says it.
        ticket: its number.
        message, arrays: what it says.
    """

    party: str
    instance: str
    ticket: int
    message: PartyRequest
    arrays: Arrays


class Again(Exception):  # noqa: N818  (it is no error)
    """A party was started again, and all go back with it."""


class Turns:
    """The requests of all passive parties, each once.

    Args:
        parties: their names.
        say: takes an answer: to whom it is, the ticket, the message and its arrays.

    Attributes:
        phase: how far all have come.
        returned: whether they have gone back since the phase was entered.
        fault: why one cannot go on, None while all can.
    """

    def __init__(self, parties: Collection[str], say: Say) -> None:
        self._say = say
        self._lines = {party: _Line() for party in parties}
        self._most = dict.fromkeys(parties, SMALL)
        self.phase, self.returned = Phase.MATCH, False
        self.fault: Exception | None = None

    def enter(self, phase: Phase) -> None:
        """Lead all into a phase. Raises Again: they have gone back."""
        self.check()
        self.phase = phase

    def resume(self) -> Phase:
        """Take up the phase to which all have gone back, and return it."""
        self.returned = False
        return self.phase

    def hold(self, party: str, most: int) -> None:
        """Let so many bytes of a party's requests wait at once, and remember as many of answers to it, as its work needs them."""
        self._most[party] = max(self._most[party], SMALL + most)

    def check(self) -> None:
        """Make sure that all go on. Raises Again or the `fault`: they do not."""
        if self.fault is not None:
            raise self.fault
        if self.returned:
            raise Again

    def greet(self, party: str, instance: str) -> None:
        """Note which process speaks for a party; a new one has nothing under way, and all go back with it."""
        before = self._lines[party].instance
        if before != instance:
            self._lines[party] = _Line(instance)
            if before:
                self.go_back(min(self.phase, Phase.BEGIN))

    def ask(self, party: str, ticket: int, message: PartyRequest, arrays: Arrays, to: object) -> None:
        """Take a request; it is answered through `say`, at once or later.

        Args:
            party: whose; it was greeted.
            ticket: its number.
            message: what it says.
            arrays: with it.
            to: whoever is to be answered, `say` knows how.

        Raises:
            RefusedError: it may not be said now.
        """
        line = self._lines[party]
        if ticket in line.answers:
            self._say(to, ticket, *line.answers[ticket])
        elif ticket in line.open:
            line.open[ticket] = (line.open[ticket][0], to)
        elif ticket <= line.last:
            raise RefusedError("stale", f"party {party} says what was said long ago: begin again")
        else:
            line.last = ticket
            self._take(Asked(party, line.instance, ticket, message, arrays), to)

    def waits(self, party: str) -> bool:
        """Tell whether a party waits for an answer."""
        return bool(self._lines[party].open)

    def next_of(self, party: str) -> Asked | None:
        """Return the first request of a party that was not taken yet, None if there is none; it stays."""
        queue = self._lines[party].queue
        return queue[0] if queue else None

    def take(self, party: str) -> Asked:
        """Take the first request of a party."""
        return self._lines[party].queue.pop(0)

    def answer(self, asked: Asked, message: PartyReply, arrays: Arrays = ()) -> None:
        """Answer a request, unless its process is gone."""
        line = self._lines[asked.party]
        if line.instance != asked.instance or asked.ticket not in line.open:
            return
        _, to = line.open.pop(asked.ticket)
        line.remember(asked.ticket, message, arrays, self._most[asked.party])
        self._say(to, asked.ticket, message, arrays)

    def _take(self, asked: Asked, to: object) -> None:
        line, message, most = self._lines[asked.party], asked.message, self._most[asked.party]
        if len(line.open) >= MOST or line.bytes + _size(asked.arrays) > most:
            raise RefusedError(
                "busy",
                f"party {asked.party} asks for more than {len(line.open)} things at once, of which at most {MOST:,} are held, and"
                f" {most >> 20} MiB, which is what its part of the job needs",
            )
        line.open[asked.ticket] = (asked, to)
        match message:
            case Alive():
                self.answer(asked, Done())
            case GiveUp(reason):
                self.answer(asked, Done())
                self.fault = self.fault or LostError(f"party {asked.party} cannot go on: {reason}")
            case _:
                back = BACK.get(type(message), Phase.END)
                if back < self.phase:
                    self.go_back(back, but=asked)
                if isinstance(message, DUE[self.phase]):
                    line.queue.append(asked)
                else:
                    self.answer(asked, self._refusal())

    def go_back(self, phase: Phase, but: Asked | None = None) -> None:
        """Go back, and refuse all that waits; it is said again, from there."""
        self.phase, self.returned = phase, True
        for line in self._lines.values():
            line.queue.clear()
            for asked in [asked for asked, _ in line.open.values() if asked is not but]:
                self.answer(asked, self._refusal())

    def _refusal(self) -> Refused:
        if self.phase is Phase.MATCH:
            return Refused("order", "the common samples are to be found again: a party was started anew")
        return Refused("stale", "a party was started again: all begin again where they last saved")


def limits_of(job: VerticalJob) -> Limits:
    """Return what one party may send."""
    return Limits(message_bytes=job.limits.message_mib << 20, line=job.limits.line_kib << 10)


def tell_version(report: Report, who: str, theirs: str) -> None:
    """Tell where another party's version of the program is not that of here; one of another protocol is not let in."""
    if theirs != VERSION:
        report(
            Note(
                f"{who} runs version {theirs[:20]!r} of fedps, and {VERSION!r} runs here: they understand each other, but may"
                " compute differently: give both the same"
            )
        )


class _Line:
    """What one party asks: what is open, of that what nobody has taken yet, and what was answered, by ticket."""

    def __init__(self, instance: str = "") -> None:
        self.instance, self.last = instance, 0
        self.open: dict[int, tuple[Asked, Any]] = {}
        self.queue: list[Asked] = []
        self.answers: dict[int, tuple[PartyReply, Arrays]] = {}
        self.kept_bytes = 0

    def remember(self, ticket: int, message: PartyReply, arrays: Arrays, most: int) -> None:
        """Keep an answer, and so many bytes of the last before it."""
        self.answers[ticket] = (message, arrays)
        self.kept_bytes += _size(arrays)
        while len(self.answers) > MOST or self.kept_bytes > most:
            self.kept_bytes -= _size(self.answers.pop(next(iter(self.answers)))[1])

    @property
    def bytes(self) -> int:
        return sum(_size(asked.arrays) for asked, _ in self.open.values())


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)
