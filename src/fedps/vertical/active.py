"""The active party's life: it listens, finds the common samples with the passive parties, trains, evaluates, and saves.

Stages, in this order: `federated`, with all parties; `passive`, where the job's `lift` asks for it, with the top on passive
parties' features alone; `active`, with nobody else.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from fedps.config import Allow
from fedps.config.vertical import VerticalJob, shared_part
from fedps.data.samples import ClientData, Order
from fedps.errors import DataError, FedpsError
from fedps.events import events, parties
from fedps.events.events import Report
from fedps.net.protection import protect as protect_line
from fedps.privacy.protection import protect
from fedps.storage.claims import Claim
from fedps.types import State, Values, under, within
from fedps.vertical.checkpoint import Checkpoints, Model, Saved, claim_of, stretches
from fedps.vertical.data import NOTHING, batches_of, digest_of, steps_of
from fedps.vertical.finding import Found, OwnIds, serve
from fedps.vertical.half import AT_ONCE, Half, Top
from fedps.vertical.joined import Measured, best_of, has_features, measure
from fedps.vertical.meeting import Meeting
from fedps.vertical.passive import CHANCE, STAGES
from fedps.vertical.turns import Again, Asked, Phase
from fedps.wire.compress import pack
from fedps.wire.messages import Begin, Begun, Cut, Done, EndEpoch, Gradient, Refused, Verdict

ALONE = "active"  # the stage without others
TELL = 1.0  # seconds between two reports of progress


class Stage(NamedTuple):
    """What a stage came to.

    Attributes:
        epochs: each epoch's metrics.
        best: the place in `epochs` of the one that is kept.
        samples_per_second: of training, without evaluation.
        bytes: sent and received in it by the active party.
    """

    epochs: list[Measured]
    best: int
    samples_per_second: float
    bytes: int


class Outcome(NamedTuple):
    """What a job came to.

    Attributes:
        samples: common samples that are trained on.
        held_out: those that are not.
        stages: by name.
        match_bytes: sent and received to find the common samples.
    """

    samples: int
    held_out: int
    stages: Mapping[str, Stage]
    match_bytes: int


def run_active(
    job: VerticalJob, folder: Path, bind: str, report: Report, ready: Callable[[str], None] = lambda _: None,
    allow: Allow = NOTHING,
) -> Outcome:  # fmt: skip
    """Live the active party's life.

    Args:
        job: the job, with its own part at least.
        folder: its own, `parties/<name>` of the run's folder: `model/`, `checkpoint/` and `matched` lie in it.
        bind: `host:port` where it listens; port 0 takes a free one.
        report: where events go.
        ready: called with the real address, once connections are taken.
        allow: what whoever started this allows.

    Raises:
        JobError: the job, a party's data or its network has a mistake; or the address cannot be bound.
        DataError: a file cannot be read, or written.
        RefusedError: a passive party has said what may not be; it is named.
        LostError: a passive party never came, went away, or was silent for too long; it is named.
    """
    party = job.vertical.active
    certificates = protect_line(job.security, "party", party, [bind])
    meeting, claim = Meeting(job, shared_part(job), report), claim_of(folder, party)

    def opened(address: str) -> None:
        report(events.Ready(address))
        ready(address)

    with meeting.open(bind, opened, certificates):
        outcome = _Active(job, folder, claim, meeting, report, allow).live()
    report(parties.Outcome(outcome.samples, outcome.held_out, outcome.match_bytes))
    return outcome


class _Active:
    """The active party, while its door is open."""

    def __init__(
        self, job: VerticalJob, folder: Path, claim: Claim, meeting: Meeting, report: Report, allow: Allow
    ) -> None:  # fmt: skip
        self._allow = allow
        self._job, self._folder, self._claim, self._meeting, self._report = job, folder, claim, meeting, report
        self._party, self._passive = job.vertical.active, job.vertical.passive
        self._stages = STAGES if "passive" in job.vertical.lift else STAGES[:1]

    def live(self) -> Outcome:
        """See the job to its end; when a party was started again, go back with it."""
        ids = OwnIds(self._job, self._party, self._folder, self._allow)
        found, fresh, match_bytes = ids.recall(), False, 0
        if found is not None:
            self._meeting.enter(Phase.BEGIN)
        while True:
            try:
                if found is None:
                    with ids.matchings() as sides:
                        found, fresh = ids.keep(serve(self._meeting, sides, self._passive)), True
                    match_bytes = self._meeting.bytes
                self._report(ids.told(found))
                data = ids.data(found)
                stages = self._train(found, fresh, data)
                if ALONE in self._job.vertical.lift and has_features(self._job, self._party):
                    stages[ALONE] = self._train_alone(found, data)  # others stay, for if this process dies meanwhile
                for asked in self._meeting.next_of(self._passive):
                    self._meeting.reply(asked, Done())
                self._meeting.part()
                return Outcome(len(data.train.label), len(data.test.label), stages, match_bytes)
            except Again:
                found = None if self._meeting.resume() is Phase.MATCH else found

    def _train(self, found: Found, fresh: bool, data: ClientData) -> dict[str, Stage]:
        """Train all stages with passive parties."""
        stages = dict[str, Stage]()
        for stage in self._stages:
            last = stage == self._stages[-1]
            training = _Training(
                self._job, self._folder, self._claim, self._meeting, self._report, stage, data, found.digest, self._passive,
                own=stage == STAGES[0] and has_features(self._job, self._party), after=Phase.END if last else Phase.BEGIN,
            )  # fmt: skip
            training.begin(found, fresh, self._stages)
            stages[stage] = training.train()
        return stages

    def _train_alone(self, found: Found, data: ClientData) -> Stage:
        """Train what predicts while others are away."""
        alone = _Training(
            self._job, self._folder, self._claim, self._meeting, self._report, ALONE, data, found.digest, (), own=True
        )
        alone.begin_alone()
        return alone.train()


class _Training:
    """A stage, as the active party has it.

    Args:
        job, folder, claim, meeting, report: as elsewhere.
        stage: its name.
        data: the party's own samples.
        digest: of the common ones.
        parties: the passive ones that take part.
        own: whether the active party's own features count.
        after: the phase that follows on the stage.
    """

    def __init__(
        self, job: VerticalJob, folder: Path, claim: Claim, meeting: Meeting, report: Report, stage: str,
        data: ClientData, digest: str, parties: Sequence[str], own: bool, after: Phase = Phase.END,
    ) -> None:  # fmt: skip
        self._job, self._meeting, self._report, self._stage, self._after = job, meeting, report, stage, after
        self._parties, self._data = parties, data
        self._half = Half(job, job.vertical.active, data) if own else None
        self._checkpoints = Checkpoints(job, job.vertical.active, folder, stage, claim, digest + digest_of(data))
        self._steps, self._bytes = steps_of(job, len(data.train.label)), meeting.bytes
        trained, held_out = len(data.train.label), len(data.test.label)
        self._most = max(min(job.vertical.train_batch_size, trained), min(AT_ONCE, held_out))  # samples of a message
        self._widths = {job.vertical.active: self._half.width} if self._half else {}
        self._progress = _Progress()

    def begin(self, found: Found, fresh: bool, stages: tuple[str, ...]) -> None:
        """Agree with the passive parties on where to go on.

        Raises:
            Again: a party was started again, or has kept other common samples, and all go back.
            RefusedError: a party has found other common samples.
            LostError: a party is not there.
            JobError: the network does not take what parties send.
        """
        asked, there = self._gather(), self._checkpoints
        common = set(there.steps)
        for each, begin in asked:
            if (begin.samples, begin.digest) != (found.samples, found.digest):
                self._differ(each, begin, found, fresh)
            self._meeting.check_width(each, begin.width, self._most)
            self._widths[each.party] = begin.width
            common &= set(begin.saved) if begin.run == there.run else set()
        step = max(common, default=0)
        saved = self._saved_at(step) if step else None
        if step and saved is None:
            self._meeting.go_back(Phase.BEGIN)
        self._start(saved)
        self._meeting.enter(self._after if self._progress.over else Phase.STEP)
        for each, _ in asked:
            self._meeting.reply(each, Begun(self._progress.step, self._progress.run, stages))

    def begin_alone(self) -> None:
        """Begin without passive parties, from the newest checkpoint that is whole."""
        found = map(self._saved_at, sorted(self._checkpoints.steps, reverse=True))
        self._start(next((saved for saved in found if saved is not None), None))

    def train(self) -> Stage:
        """Train to the end of the stage; errors as for `begin`."""
        now = self._progress
        while not now.over:
            epoch, at = divmod(now.step, self._steps)
            self._report(events.EpochBegin(epoch))
            for begin, end in stretches(at, self._steps, self._job.vertical.checkpoint_every):
                self._train_some(epoch, begin, end)
                if end < self._steps:
                    self._save()
            scores = self._score()
            self._close(epoch, scores)
        rate = now.trained / now.seconds if now.seconds else 0.0
        sent = self._meeting.bytes - self._bytes if self._parties else 0
        self._report(parties.Staged(self._stage, now.best + 1, figures_of(now.epochs[now.best]), rate, sent))
        return Stage(now.epochs, now.best, rate, sent)

    def _gather(self) -> list[tuple[Asked, Begin]]:
        """Wait until all have said Begin of this stage."""
        begun = dict[str, tuple[Asked, Begin]]()
        while missing := [party for party in self._parties if party not in begun]:
            for asked in self._meeting.next_of(missing):
                begin = asked.message
                if not isinstance(begin, Begin) or begin.stage not in STAGES:
                    self._meeting.reject(asked, "mismatch", f"says {begin}, due Begin of stage {self._stage}")
                elif begin.stage == self._stage:
                    begun[asked.party] = asked, begin
                elif STAGES.index(begin.stage) < STAGES.index(self._stage):
                    self._meeting.go_back(Phase.BEGIN)
                else:
                    self._meeting.reply(asked, Refused("stale", f"all begin with stage {self._stage}"))
        return [begun[party] for party in self._parties]

    def _differ(self, asked: Asked, begin: Begin, found: Found, fresh: bool) -> None:
        """Find common samples anew where what was kept is not the same; if they were, this is an error."""
        if not fresh:
            self._meeting.go_back(Phase.MATCH)
        self._meeting.reject(
            asked, "mismatch",
            f"has found {begin.samples} common samples (digest {begin.digest[:64]!r}), and there are {found.samples} (digest"
            f" {found.digest!r}): remove its folder's file `matched`, and start it again",
        )  # fmt: skip

    def _saved_at(self, step: int) -> Saved | None:
        """Return a checkpoint, None if it is torn."""
        try:
            return self._checkpoints.load(step)
        except DataError as error:
            print(f"a checkpoint is left out: {error}", flush=True)
            return None

    def _start(self, saved: Saved | None) -> None:
        """Go on from a checkpoint, or from the seed."""
        self._top = Top(self._job, self._widths, len(self._data.train.label))
        if saved is None:
            self._progress = _Progress(run=secrets.token_hex(8))
            return
        if self._half is not None:
            self._half.restore(within(saved.state, "half"))
        self._top.restore(within(saved.state, "top"))
        self._progress = msgspec.convert(saved.state["progress"], _Progress)

    def _train_some(self, epoch: int, begin: int, end: int) -> None:
        """Train some batches of an epoch."""
        began, told = time.monotonic(), time.monotonic()
        now, samples = self._progress, len(self._data.train.label)
        for number, batch in enumerate(islice(batches_of(self._job, epoch, samples, begin), end - begin), begin + 1):
            loss = self._step(now.step, batch)
            if not np.isfinite(loss):
                raise FedpsError(
                    f"stage {self._stage}, epoch {epoch + 1}, batch {number}: the loss is {loss}: has training diverged? Lower"
                    " the learning rate"
                )
            now.step, now.loss, now.trained = now.step + 1, now.loss + loss * len(batch), now.trained + len(batch)
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                done = min(number * self._job.vertical.train_batch_size, samples)
                self._report(events.Progress(epoch, number, self._steps, done, now.loss / done, None))
        now.seconds += time.monotonic() - began

    def _step(self, step: int, samples: Order) -> float:
        """Train a batch; return its mean loss."""
        own = [self._half.forward(samples)] if self._half else []
        asked = self._meeting.next_of(self._parties)
        form = self._job.vertical.wire
        cuts = [self._cut(each, Cut(self._stage, step, "train", form), len(samples)) for each in asked]
        label = self._data.train.label[samples]
        stepped = self._top.step([*own, *cuts], label)
        for each, gradient in zip(asked, stepped.gradients[len(own) :], strict=True):
            gradient = protect(gradient, label, self._job.protection, scores=stepped.scores)
            draw = np.random.default_rng((self._job.vertical.seed, CHANCE, crc32(each.party.encode()), step, 1))
            self._meeting.reply(each, Gradient(step, form), pack(form, gradient, draw))
        if self._half is not None:
            self._half.backward(stepped.gradients[0])
        return stepped.loss

    def _score(self) -> Values:
        """Return the logits of all held-out samples, with mse the numbers."""
        held_out, scores = len(self._data.test.label), list[Values]()
        for number, first in enumerate(range(0, held_out, AT_ONCE)):
            places = slice(first, min(first + AT_ONCE, held_out))
            own = [self._half.score(places)] if self._half else []
            asked = self._meeting.next_of(self._parties)
            due = Cut(self._stage, number, "test")
            cuts = [self._cut(each, due, places.stop - first) for each in asked]
            for each in asked:
                self._meeting.reply(each, Done())
            scores.append(self._top.score([*own, *cuts]))
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _cut(self, asked: Asked, due: Cut, size: int) -> Values:
        return self._meeting.cut_of(asked, due, (size, self._widths[asked.party]))

    def _close(self, epoch: int, scores: Values) -> None:
        """End an epoch: measure, keep what is best, and tell whether training goes on."""
        now, vertical = self._progress, self._job.vertical
        found = measure(scores, self._data.test.label, vertical.loss)
        now.epochs.append(Measured(epoch, now.loss / len(self._data.train.label), **found))
        now.loss = 0.0
        self._report(parties.Measured(self._stage, epoch + 1, vertical.epochs, figures_of(now.epochs[-1])))
        better = best_of(now.epochs, vertical.loss) == epoch
        now.best = epoch if better else now.best
        now.over = epoch + 1 == vertical.epochs or 0 < vertical.patience <= epoch - now.best
        asked = self._meeting.next_of(self._parties)
        for each in asked:
            if each.message != EndEpoch(self._stage, epoch):
                self._meeting.reject(each, "mismatch", f"says {each.message}, due the end of epoch {epoch}")
        if better:
            self._checkpoints.save_model(
                Model(now.run, epoch, _whole(self._half.model() if self._half else None, self._top.model()))
            )
        self._save()
        if now.over and self._parties:
            self._meeting.enter(self._after)
        for each in asked:
            self._meeting.reply(each, Verdict(better, not now.over))

    def _save(self) -> None:
        now = self._progress
        state = _whole(self._half.state() if self._half else None, self._top.state()) | {
            "progress": msgspec.to_builtins(now)
        }
        self._checkpoints.save(Saved(now.run, now.step, now.over, state))


def figures_of(measured: Measured) -> dict[str, float | None]:
    """Return what held-out samples came to, by name."""
    return {name: value for name, value in measured._asdict().items() if name != "epoch"}


class _Progress(msgspec.Struct):
    """How far a stage has come.

    Attributes:
        run: which training it is.
        step: batches trained.
        over: whether it has ended.
        epochs: what held-out samples came to.
        best: the epoch that is kept.
        loss: of this epoch's samples, in all.
        trained: samples.
        seconds: that this took.
    """

    run: str = ""
    step: int = 0
    over: bool = False
    epochs: list[Measured] = []
    best: int = 0
    loss: float = 0.0
    trained: int = 0
    seconds: float = 0.0


def _whole(half: State | None, top: State) -> dict[str, Any]:
    """Return what this party has of the network."""
    return {**under({"top": top} if half is None else {"half": half, "top": top})}
