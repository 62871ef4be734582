"""Scores of new samples, at the active party alone: passive parties send what their networks make of theirs, piece by piece.

New samples are matched as those of training were. Those that not all parties have, or all that are left when a party is
away, are scored by the active party's own model, which was trained beside (`vertical.lift: active`); each score says by which.
"""

import csv
import io
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow
from fedps.config.sections.features import spaces
from fedps.config.sections.vertical import LINE
from fedps.config.vertical import VerticalJob, shared_part, side_job
from fedps.data.samples import ClientData
from fedps.errors import DataError, LostError
from fedps.events import events, parties
from fedps.events.events import Report
from fedps.metrics import probabilities
from fedps.net.protection import protect
from fedps.privacy.protection import Blur
from fedps.storage.whole import write_whole
from fedps.types import ClientId, Values, within
from fedps.vertical.active import ALONE
from fedps.vertical.checkpoint import Model, claim_of, load_model
from fedps.vertical.data import NOTHING, Unchanged, ids_of, read_rows
from fedps.vertical.finding import find, go_with_others, serve
from fedps.vertical.half import AT_ONCE, Half, Top
from fedps.vertical.ids import parts_of
from fedps.vertical.joined import has_features
from fedps.vertical.line import Line
from fedps.vertical.matching import Matched, Matching
from fedps.vertical.meeting import Meeting
from fedps.vertical.passive import STAGES, dial
from fedps.vertical.turns import AHEAD, Again, Asked, Phase
from fedps.wire.frame import Frame
from fedps.wire.messages import Begin, Begun, Cut, Done, Leave

PREDICT = "predict"  # the stage
FEDERATED = STAGES[0]
BY = ("none", "alone", "federated")  # by whom a score is
BY_NOBODY, BY_ITSELF, BY_ALL = range(len(BY))
Rows = NDArray[np.int64]


class Scored(NamedTuple):
    """What became of new samples, in the order of the active party's files.

    Attributes:
        ids: of each.
        scores: float32[n]: probabilities, with mse numbers; NaN where nobody could tell.
        by: int8[n], whose each is: a place in `BY`.
    """

    ids: list[bytes]
    scores: Values
    by: NDArray[np.int8]

    def take(self, rows: Rows, logits: Values, by: int, job: VerticalJob) -> None:
        """Take in what some rows came to."""
        self.scores[rows] = logits if job.vertical.loss == "mse" else probabilities(logits)
        self.by[rows] = by


def new_samples(job: VerticalJob, party: str) -> VerticalJob:
    """Return a job of what a party names as its data, for new samples: they have no label.

    Args:
        job: that was trained.
        party: whose.
    """
    own = job.parties[party]
    inputs = {name: feature for name, feature in own.features.items() if feature.kind != "label"}
    own = own.model_copy(update={"test_data": None, "features": inputs})
    return job.model_copy(update={"parties": {party: own}})


def predict_active(job: VerticalJob, folder: Path, bind: str, report: Report, allow: Allow = NOTHING) -> Scored:
    """Score new samples, as the active party; what passive parties do not answer, it answers alone.

    Args:
        job: of new samples, as `new_samples` makes it.
        folder: the party's own, in which training has left its model.
        bind: `host:port` where it listens.
        report: where events go.
        allow: what whoever started this allows.

    Raises:
        JobError: the address cannot be bound, or a party has come whose job is another.
        DataError: there is no model, or files cannot be read.
        RefusedError: a passive party has another model, or has said what may not be; it is named.
    """
    party = job.vertical.active
    unchanged = Unchanged(job.parties[party].data)
    model, ids = load_model(folder, FEDERATED), ids_of(job, party, job.parties[party].data, allow)
    scored = Scored(ids, np.full(len(ids), np.nan, np.float32), np.zeros(len(ids), np.int8))
    certificates, meeting = protect(job.security, "party", party, [bind]), Meeting(job, shared_part(job), report)
    try:
        with meeting.open(bind, lambda address: report(events.Ready(address)), certificates):
            _Active(job, model, meeting, report, allow).score(scored)
    except LostError as error:
        report(events.Note(f"{error}; what is not scored yet, {party} scores alone"))
    _score_alone(job, folder, scored, report, allow)
    unchanged.check()
    return scored


def predict_passive(
    job: VerticalJob, party: str, folder: Path, address: str, report: Report, allow: Allow = NOTHING
) -> None:
    """Send the active party what its network makes of new samples; arguments as for `predict_active`.

    Raises:
        DataError: there is no model, or files cannot be read.
        RefusedError: the active party takes something amiss, and says what.
        LostError: the active party does not answer, or went away.
        WireError: the active party has said what makes no sense.
    """
    model, claim = load_model(folder, FEDERATED), claim_of(folder, party)
    with closing(dial(job, party, address, claim, report)) as channel:
        line = Line(channel, job.vertical)
        try:
            _Passive(job, party, model, line, report, allow).answer()
        except Exception as error:
            line.give_up(error)
            raise
        report(events.Done(channel.bytes_sent, channel.bytes_received, channel.retries))


class _Active:
    """The active party, while its door is open."""

    def __init__(self, job: VerticalJob, model: Model, meeting: Meeting, report: Report, allow: Allow) -> None:
        self._job, self._model, self._meeting, self._report, self._allow = job, model, meeting, report, allow

    def score(self, scored: Scored) -> None:
        """Score what all parties have; when one was started again, go back with it."""
        found, passive, began = None, self._job.vertical.passive, time.monotonic()
        while True:
            try:
                if found is None:
                    with Matching(scored.ids, self._job.ids.psi_key or "") as own:
                        found = serve(self._meeting, {"train": own}, passive)["train"]
                    seconds = time.monotonic() - began
                    self._report(parties.Matched(len(scored.ids), len(found.rows), seconds))
                self._score(found, scored)
                return
            except Again:
                found = None if self._meeting.resume() is Phase.MATCH else found

    def _score(self, found: Matched, scored: Scored) -> None:
        active, passive, meeting = self._job.vertical.active, self._job.vertical.passive, self._meeting
        asked = meeting.next_of(passive)
        half = _half(self._job, active, self._model, found.rows, self._allow)
        widths = {active: half.width} if half else {}
        widths |= {each.party: self._begun(each, found) for each in asked}
        meeting.enter(Phase.STEP)
        for each in asked:
            meeting.reply(each, Begun(0, self._model.run, (PREDICT,)))
        if len(found.rows):
            self._score_all(found.rows, scored, half, widths)
        meeting.enter(Phase.END)
        for each in meeting.next_of(passive):
            meeting.reply(each, Done())
        meeting.part()

    def _score_all(self, common: Rows, scored: Scored, half: Half | None, widths: Mapping[str, int]) -> None:
        """Score rows that all parties have, some at a time."""
        passive, meeting, top = self._job.vertical.passive, self._meeting, Top(self._job, widths, 1)
        top.load(within(self._model.state, "top"))
        for number, first in enumerate(range(0, len(common), AT_ONCE)):
            rows = common[first : first + AT_ONCE]
            own = [half.score(slice(first, first + len(rows)))] if half else []
            asked, due = meeting.next_of(passive), Cut(PREDICT, number, "predict")
            cuts = [meeting.cut_of(each, due, (len(rows), widths[each.party])) for each in asked]
            scored.take(rows, top.score([*own, *cuts]), BY_ALL, self._job)
            for each in asked:
                meeting.reply(each, Done())

    def _begun(self, asked: Asked, found: Matched) -> int:
        """Return what a party will send of a sample. Raises RefusedError: its model is of another training."""
        begin = asked.message
        if not isinstance(begin, Begin) or begin.stage != PREDICT:
            self._meeting.reject(asked, "mismatch", "trains, and the others predict: start all parties alike")
        if begin.run != self._model.run:
            self._meeting.reject(
                asked, "mismatch",
                "has a model of another training: let all parties name the folder of one run (--run_dir)",
            )  # fmt: skip
        if (begin.samples, begin.digest) != (len(found.rows), found.digest):
            self._meeting.reject(asked, "mismatch", f"has found {begin.samples} common samples, due {len(found.rows)}")
        self._meeting.check_width(asked, begin.width, min(AT_ONCE, begin.samples))
        return begin.width


class _Passive:
    """A passive party, from its greeting on."""

    def __init__(
        self, job: VerticalJob, party: str, model: Model, line: Line, report: Report, allow: Allow
    ) -> None:  # fmt: skip
        self._job, self._party, self._model, self._line = job, party, model, line
        self._report, self._allow = report, allow

    def answer(self) -> None:
        """Answer to the end; when another party was started again, go back with it."""
        job, began = self._job, time.monotonic()
        unchanged = Unchanged(job.parties[self._party].data)
        with self._line.at_work():
            ids = ids_of(job, self._party, job.parties[self._party].data, self._allow)

        def find_anew() -> Matched:
            with Matching(ids, job.ids.psi_key or "") as own:
                found = find(self._line, {"train": own})["train"]
            self._report(parties.Matched(len(ids), len(found.rows), time.monotonic() - began))
            return found

        go_with_others(None, find_anew, lambda found: self._send(found, unchanged))

    def _send(self, found: Matched, unchanged: Unchanged) -> None:
        with self._line.at_work():
            half = _half(self._job, self._party, self._model, found.rows, self._allow)
            unchanged.check()
        blur, count = Blur(self._job.protection.activations), len(found.rows)
        blur.restore(within(self._model.state, "blur"))
        begin = Begin(PREDICT, self._model.run, (), found.digest, count, half.width if half else 1)
        self._line.await_all(self._line.ask(begin), Begun)
        under_way = deque[Future[Frame]]()
        for number, first in enumerate(range(0, count, AT_ONCE)):
            if len(under_way) == AHEAD:
                self._line.wait(under_way.popleft(), Done)
            cut = half.score(slice(first, min(first + AT_ONCE, count))) if half else np.empty((0, 1), np.float32)
            under_way.append(self._line.ask(Cut(PREDICT, number, "predict"), [blur(cut, False)]))
        while under_way:
            self._line.wait(under_way.popleft(), Done)
        self._line.await_all(self._line.ask(Leave()), Done)


def _half(job: VerticalJob, party: str, model: Model, rows: Rows, allow: Allow) -> Half | None:
    """Return a party's part of a model on some rows of its files; None where it has no features, or there are no rows."""
    if not len(rows) or not has_features(job, party):
        return None
    samples = read_rows(job, party, job.parties[party].data, rows, allow)
    own = spaces(side_job(job, party).inputs)
    data = ClientData(samples, samples, ClientId(party), job.vertical.seed, shuffle=False, spaces=own)
    half = Half(job, party, data)
    half.load(within(model.state, "half"))
    return half


def _score_alone(job: VerticalJob, folder: Path, scored: Scored, report: Report, allow: Allow) -> None:
    """Score what is left by the active party's own model, and say so."""
    rest, party = np.flatnonzero(scored.by == BY_NOBODY), job.vertical.active
    if not len(rest):
        return
    try:
        model = load_model(folder, ALONE)
    except DataError:
        report(events.Note(
            f"{len(rest):,} samples are not scored: not all parties have them, and there is no model of {party} alone;"
            f" train it by vertical.lift: [{ALONE}]"
        ))  # fmt: skip
        return
    half = _half(job, party, model, rest, allow)
    if half is None:
        return
    top = Top(job, {party: half.width}, 1)
    top.load(within(model.state, "top"))
    for first in range(0, len(rest), AT_ONCE):
        rows = rest[first : first + AT_ONCE]
        scored.take(rows, top.score([half.score(slice(first, first + len(rows)))]), BY_ITSELF, job)
    report(events.Note(f"{len(rest):,} of {len(scored.ids):,} samples are scored by {party} alone"))


def write_scores(job: VerticalJob, scored: Scored, path: Path) -> None:
    """Write a line a sample, for its owner's eyes: its id, the score (empty where there is none), and by whom it is.

    Raises:
        DataError: it cannot be written.
    """
    named = job.parties[job.vertical.active].id
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*(("file", "line") if named == (LINE,) else named), "score", "by"])
    for one, score, by in zip(scored.ids, scored.scores.tolist(), scored.by.tolist(), strict=True):
        lines.writerow([*parts_of(one), "" if by == BY_NOBODY else f"{score:.6g}", BY[by]])
    try:
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise DataError(f"--out {path}: cannot be written: {error.strerror}; choose another") from error
