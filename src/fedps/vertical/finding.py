"""How parties find their common samples over the wire: both sides of `matching`, in parts.

The passive party brings its list, asks for the active one's, and brings that back, part by part; so both are at work all the
time. The active party sees to all passive ones at once, and says what is common when it has all of all.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow
from fedps.config.vertical import VerticalJob
from fedps.data.samples import ClientData
from fedps.errors import DataError, RefusedError, WireError
from fedps.events.events import Event
from fedps.events.parties import Matched as Told
from fedps.storage.whole import CLOSED, make_folder
from fedps.vertical.data import NOTHING, Unchanged, ids_of, side_data
from fedps.vertical.ids import form_of
from fedps.vertical.kept import keep, recall
from fedps.vertical.line import Line
from fedps.vertical.matching import Marks, Matched, Matching, Pairs, check_common, of_all, pairs
from fedps.vertical.meeting import Meeting
from fedps.vertical.turns import Asked, Phase
from fedps.wire.frame import Frame
from fedps.wire.messages import Blind, Blinded, Common, Double, Refused, Samples

PART = 1 << 16  # points of a part: 2 MiB
AHEAD = 3  # parts that are asked for at once
MOST = 1 << 10  # parts: 67 million ids of a party, of each of which 8 bytes are held

Sides = Mapping[Samples, Matching]
T = TypeVar("T")


class Found(NamedTuple):
    """What is common to all.

    Attributes:
        rows: int64[c], rows of a party's own data, in the order that all agree on.
        test_rows: the same of its test_data; None where it has none.
        digest: of both lists; the same at all parties.
    """

    rows: NDArray[np.int64]
    test_rows: NDArray[np.int64] | None
    digest: str

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.rows) + (0 if self.test_rows is None else len(self.test_rows))


class OwnIds:
    """A party's own ids: of its samples, and of its held-out ones if it has files of such.

    Args:
        job: the job, with this party's part.
        party: its name.
        folder: its own, in which is kept what was found.
        allow: what whoever started this allows.

    Raises:
        DataError: a file cannot be read, or has rows without an id of their own.
    """

    def __init__(self, job: VerticalJob, party: str, folder: Path, allow: Allow = NOTHING) -> None:
        own, self._began = job.parties[party], time.monotonic()
        self._job, self._party, self._allow = job, party, allow
        files: dict[Samples, Sequence[Path]] = {"train": own.data}
        if own.test_data is not None:
            files["test"] = own.test_data
        self._word, self._folder = job.ids.psi_key or "", folder
        self._peers = [peer for peer in job.order if peer != party]
        self._unchanged = Unchanged(path for paths in files.values() for path in paths)
        self._ids = {what: ids_of(job, party, tuple(paths), allow) for what, paths in files.items()}

    def recall(self) -> Found | None:
        """Return what was found before, None if it was not, or with other ids."""
        found = dict[Samples, Matched]()
        for what, ids in self._ids.items():
            matched = recall(self._path(what), ids, self._word)
            if matched is None:
                return None
            found[what] = matched
        return _found(found)

    @contextmanager
    def matchings(self) -> Iterator[Sides]:
        """Give what matches these ids with those of others; it is closed with the block."""
        with ExitStack() as stack:
            yield {what: stack.enter_context(Matching(ids, self._word)) for what, ids in self._ids.items()}

    def keep(self, found: Mapping[Samples, Matched]) -> Found:
        """Keep what was found.

        Raises:
            DataError: there is nothing; or it cannot be written.
        """
        for what, matched in found.items():
            check_common(matched, self._peers, form_of(self._ids[what]))
        try:
            make_folder(self._folder, CLOSED)
            for what, matched in found.items():
                keep(self._path(what), matched, self._ids[what], self._word)
        except OSError as error:
            raise DataError(
                f"{self._folder}: cannot be written: {error.strerror}; free space, or make it yours"
            ) from error
        return _found(found)

    def data(self, found: Found) -> ClientData:
        """Read the samples of what was found.

        Raises:
            DataError: as for `side_data`; or a file is not any more what it was when its ids were read.
        """
        data = side_data(self._job, self._party, found.rows, found.test_rows, self._allow)
        self._unchanged.check()
        return data

    def told(self, found: Found) -> Event:
        """Return what there is to tell of what was found."""
        return Told(sum(map(len, self._ids.values())), found.samples, time.monotonic() - self._began)

    def _path(self, what: Samples) -> Path:
        return self._folder / ("matched" if what == "train" else f"matched-{what}")


def find(line: Line, sides: Sides) -> dict[Samples, Matched]:
    """Find what is common, as a passive party.

    Args:
        line: to the active party.
        sides: its own lists: of its samples, and of its held-out ones if it has files of such.

    Raises:
        RefusedError: the active party takes it amiss, or all begin again.
        LostError: it does not answer, or went away.
        WireError: it has said what makes no sense.
    """
    return {what: _find(line, what, own) for what, own in sides.items()}


def go_with_others(found: T | None, find: Callable[[], T], take_part: Callable[[T], None]) -> None:
    """Take part with what is common to the end, as a passive party; when another was started again, go back with it.

    Args:
        found: what is common; None: that is to be found yet.
        find: finds it.
        take_part: what is done with it.
    """
    while True:
        try:
            found = find() if found is None else found
            take_part(found)
            return
        except RefusedError as refusal:
            if refusal.kind == "order":
                found = None
            elif refusal.kind != "stale":
                raise


def _find(line: Line, what: Samples, own: Matching) -> Matched:
    ours, doubles = _parts(len(own)), list[Future[Frame]]()
    asked, due, part = deque[Future[Frame]](), ours, 0
    while asked or part < due:
        while len(asked) < AHEAD and part < due:
            asked.append(line.ask(Blind(what, part, ours), [own.blinded(_slice(part))]))
            part += 1
        reply, (points,) = line.await_all(asked.popleft(), Blinded)
        if not 0 < reply.parts <= MOST:
            raise WireError(f"the active party {line.active} says that its ids come in {reply.parts} parts")
        due = max(ours, reply.parts)
        if reply.part < reply.parts:
            doubles.append(
                line.ask(Double(what, reply.part, reply.parts), [own.doubled(points, line.active)])
            )  # fmt: skip
    answers = [line.await_all(double, Common) for double in doubles]
    matched = own.matched(np.concatenate([places for _, (places,) in answers]), line.active)
    if any(reply.digest != matched.digest for reply, _ in answers):
        raise WireError(f"the active party {line.active} names ids as common that it does not have")
    return matched


def serve(meeting: Meeting, sides: Sides, parties: Sequence[str]) -> dict[Samples, Matched]:
    """Find what is common to all, as the active party; then all may begin.

    Args:
        meeting: where passive parties come to.
        sides: as for `find`.
        parties: the passive ones.

    Raises:
        Again: a party was started again.
        RefusedError: a party has said what makes no sense; it is named, and was told.
        LostError: a party is not there.
    """
    found = dict[Samples, Matched]()
    for what, own in sides.items():
        lists = {party: _List(_parts(len(own))) for party in parties}
        for party in parties:
            meeting.hold(party, len(own) * 8)  # which it brings back, and which wait until all are there
        while missing := [party for party, one in lists.items() if not one.whole]:
            asked = meeting.next_of_any(missing)
            with _blamed(meeting, asked):
                if not _take(meeting, asked, what, own, lists):
                    meeting.reply(
                        asked, Refused("order", "another process of the active party was asked before: begin again")
                    )
        met = dict[str, Pairs]()
        for party, one in lists.items():
            with _blamed(meeting, *one.waiting):
                met[party] = pairs(np.concatenate(one.ours), np.concatenate(one.theirs), party)
        ours, places = of_all(met)
        found[what] = own.matched(ours, "this one")
        if len(found) == len(sides):
            meeting.enter(Phase.BEGIN)
        for party, one in lists.items():
            for part, asked in enumerate(one.waiting):
                meeting.reply(asked, Common(part, one.due, found[what].digest), [places[party][_slice(part)]])
    return found


@dataclass
class _List:
    """What came of one passive party's list, part by part.

    Attributes:
        due: parts of the active party's own list, which the other brings back.
        brings: parts of the other's list; 0 before any is there.
        theirs: the other's points, blinded by both.
        ours: the active party's, the same.
        waiting: requests for what is common.
    """

    due: int
    brings: int = 0
    theirs: list[Marks] = field(default_factory=list)
    ours: list[Marks] = field(default_factory=list)
    waiting: list[Asked] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether all is there."""
        return 0 < self.brings <= len(self.theirs) and len(self.ours) == self.due


def _take(meeting: Meeting, asked: Asked, what: Samples, own: Matching, lists: dict[str, _List]) -> bool:
    """Take in a part; return False if it goes on with what another process of this party had begun.

    Raises:
        WireError: it is no part, or not the one that is due.
    """
    message, array, said = asked.message, asked.arrays[0], f"party {asked.party} brings"
    if not isinstance(message, Blind | Double):
        raise WireError(f"{said} {message}, due a list of ids")
    if isinstance(message, Blind) and not message.part:
        lists[asked.party] = _List(lists[asked.party].due)
    one = lists[asked.party]
    if message.what != what or (message.part and not one.theirs) or (isinstance(message, Double) and not one.theirs):
        return False
    if isinstance(message, Blind):
        if not 0 < message.parts <= MOST:
            raise WireError(f"{said} its ids in {message.parts} parts: at most {MOST} of {PART:,} are taken")
        if message.part != len(one.theirs) or one.brings not in (0, message.parts):
            raise WireError(f"{said} part {message.part} of {message.parts}, due {len(one.theirs)}")
        if len(array) > PART:
            raise WireError(f"{said} {len(array)} points at once")
        meeting.reply(asked, Blinded(message.part, one.due), [own.blinded(_slice(message.part))])
        one.brings = message.parts
        one.theirs.append(own.doubled(array, asked.party).copy())
        return True
    due = min(PART, len(own) - len(one.ours) * PART)
    if (message.part, message.parts, len(array)) != (len(one.ours), one.due, due):
        raise WireError(
            f"{said} part {message.part} of {message.parts} back, {len(array)} points, due part {len(one.ours)} of {one.due},"
            f" {due} points"
        )
    one.ours.append(array)
    one.waiting.append(asked)
    return True


@contextmanager
def _blamed(meeting: Meeting, *asked: Asked) -> Iterator[None]:
    """Let whoever has said what makes no sense hear of it. Raises RefusedError: it does not."""
    try:
        yield
    except WireError as error:
        refusal = RefusedError("malformed", str(error))
        for each in asked:
            meeting.refuse(each, refusal)
        raise refusal from None


def _found(found: Mapping[Samples, Matched]) -> Found:
    train, test = found["train"], found.get("test")
    return Found(train.rows, test and test.rows, train.digest + (test.digest if test else ""))


def _parts(ids: int) -> int:
    return max(1, -(-ids // PART))


def _slice(part: int) -> slice:
    return slice(part * PART, (part + 1) * PART)
