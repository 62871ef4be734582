"""A passive party's life: it dials the active one, finds the common samples with it, trains its own part, and saves that."""

import secrets
from collections import deque
from concurrent.futures import Future
from contextlib import closing
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np

from fedps.config import Allow
from fedps.config.vertical import VerticalJob, shared_part
from fedps.data.samples import ClientData
from fedps.errors import DataError, FedpsError, LostError, RefusedError, WireError
from fedps.events import events
from fedps.events.events import Report
from fedps.net.channel import Channel
from fedps.net.protection import protect
from fedps.privacy.protection import Blur
from fedps.storage.claims import Claim
from fedps.types import under, within
from fedps.vertical.checkpoint import Checkpoints, Model, Saved, claim_of, stretches
from fedps.vertical.data import NOTHING, batches_of, digest_of, steps_of
from fedps.vertical.finding import Found, OwnIds, find, go_with_others
from fedps.vertical.half import AT_ONCE, Half
from fedps.vertical.line import Line
from fedps.vertical.turns import AHEAD, VERSION, limits_of, tell_version
from fedps.wire.compress import pack, unpack
from fedps.wire.frame import Frame
from fedps.wire.messages import Begin, Begun, Cut, Done, EndEpoch, Gradient, Hello, Leave, Verdict, Welcome

STAGES = ("federated", "passive")  # that parties train together, in this order
CHANCE = crc32(b"fedps.vertical.wire")  # of streams that round by chance


def run_passive(
    job: VerticalJob, party: str, folder: Path, address: str, report: Report, allow: Allow = NOTHING
) -> None:
    """Live a passive party's life.

    Args:
        job: the job, with this party's part at least.
        party: its name.
        folder: its own, as for `run_active`.
        address: `host:port` at which the active party listens.
        report: where events go.
        allow: what whoever started this allows.

    Raises:
        JobError: the job, the party's data or its network has a mistake.
        DataError: a file cannot be read, or written; or there are no common samples.
        RefusedError: the active party takes something amiss, and says what.
        LostError: the active party does not answer, or went away.
        WireError: the active party has said what makes no sense.
    """
    claim = claim_of(folder, party)
    with closing(dial(job, party, address, claim, report)) as channel:
        line = Line(channel, job.vertical)
        try:
            _Passive(job, party, folder, claim, line, report, allow).live()
        except Exception as error:
            line.give_up(error)
            raise
        report(events.Done(channel.bytes_sent, channel.bytes_received, channel.retries))


def dial(job: VerticalJob, party: str, address: str, claim: Claim, report: Report) -> Channel:
    """Return a connection to the active party that was greeted; where others know of newer processes, count on from there."""
    certificates, instance = protect(job.security, "party", party, [address]), secrets.token_hex(8)
    patience, active = job.vertical.start_timeout, job.vertical.active
    while True:
        hello = Hello(job.name, party, instance, claim.number, to="party", shared=shared_part(job), version=VERSION)
        channel = Channel(address, hello, limits_of(job), patience, certificates, active)
        try:
            welcome = channel.welcome.result().message
        except FedpsError as error:
            channel.close()
            if not isinstance(error, RefusedError) or not error.newest:
                raise
            claim.count_on(error.newest)
        else:
            if isinstance(welcome, Welcome):
                tell_version(report, f"the active party {active}", welcome.version)
            return channel


class _Passive:
    """A passive party, from its greeting on."""

    def __init__(
        self, job: VerticalJob, party: str, folder: Path, claim: Claim, line: Line, report: Report, allow: Allow
    ) -> None:  # fmt: skip
        self._report, self._allow = report, allow
        self._job, self._party, self._folder, self._claim, self._line = job, party, folder, claim, line

    def live(self) -> None:
        """Take part to the end; when another party was started again, go back with it."""
        with self._line.at_work():
            ids = OwnIds(self._job, self._party, self._folder, self._allow)
            found = ids.recall()

        def find_anew() -> Found:
            with ids.matchings() as sides, self._line.at_work():
                return ids.keep(find(self._line, sides))

        go_with_others(found, find_anew, lambda found: self._take_part(ids, found))

    def _take_part(self, ids: OwnIds, found: Found) -> None:
        self._report(ids.told(found))
        with self._line.at_work():
            data = ids.data(found)
        stages: tuple[str, ...] = STAGES[:1]
        for stage in STAGES:
            if stage in stages:
                with self._line.at_work():
                    own = _Stage(self._job, self._party, self._folder, self._claim, self._line, stage, data, found)
                stages = own.begin(found)
                own.train()
        try:
            self._line.await_all(self._line.ask(Leave()), Done)
        except LostError as error:  # all is trained and saved on this side, whether the other has heard it or not
            print(f"nobody is left to say so to that this party has come to its end: {error}", flush=True)


class _Stage:
    """A stage, as a passive party has it."""

    def __init__(
        self, job: VerticalJob, party: str, folder: Path, claim: Claim, line: Line, stage: str, data: ClientData,
        found: Found,
    ) -> None:  # fmt: skip
        self._job, self._party, self._folder, self._line, self._stage = job, party, folder, line, stage
        self._half, self._blur = Half(job, party, data), Blur(job.protection.activations)
        self._checkpoints = Checkpoints(job, party, folder, stage, claim, found.digest + digest_of(data))
        self._samples, self._held_out = len(data.train.label), len(data.test.label)
        self._steps = steps_of(job, self._samples)
        self._run, self._step, self._over = "", 0, False
        self._epochs = job.vertical.epochs
        self._form = job.vertical.wire

    def begin(self, found: Found) -> tuple[str, ...]:
        """Agree with all on where to go on; return the stages that parties train together."""
        there = self._checkpoints
        begin = Begin(self._stage, there.run, tuple(there.steps), found.digest, found.samples, self._half.width)
        begun, _ = self._line.await_all(self._line.ask(begin), Begun)
        self._run, self._step = begun.run, begun.step
        if begun.step:
            if begun.step not in there.steps:
                raise WireError(
                    f"the active party {self._line.active} begins with step {begun.step}, due {there.steps}"
                )
            saved = self._load(begun.step)
            self._half.restore(within(saved.state, "half"))
            self._blur.restore(within(saved.state, "blur"))
            self._over = saved.over
        return begun.stages

    def _load(self, step: int) -> Saved:
        """Return a checkpoint. Raises RefusedError: it is torn, and all begin again from one before."""
        try:
            return self._checkpoints.load(step)
        except DataError as error:
            print(f"a checkpoint is left out: {error}", flush=True)
            raise RefusedError("stale", str(error)) from error

    def train(self) -> None:
        """Train to the end of the stage."""
        epoch, at = divmod(self._step, self._steps)
        while not self._over:
            for begin, end in stretches(at, self._steps, self._job.vertical.checkpoint_every):
                self._train(epoch, begin, end)
                if end < self._steps:
                    self._save(epoch * self._steps + end)
            self._score()
            verdict, _ = self._line.wait(self._line.ask(EndEpoch(self._stage, epoch)), Verdict)
            epoch, at, self._over = epoch + 1, 0, not verdict.go_on
            if not self._over and epoch >= self._epochs:
                raise WireError(
                    f"the active party {self._line.active} goes on after epoch {epoch}, which is the last by vertical.epochs"
                )
            with self._line.at_work():
                if verdict.better:
                    self._checkpoints.save_model(
                        Model(self._run, epoch - 1, under({"half": self._half.model(), "blur": self._blur.state()}))
                    )
                self._save(epoch * self._steps)

    def _train(self, epoch: int, begin: int, end: int) -> None:
        """Train some batches of an epoch, with up to `in_flight` under way; none is when it returns."""
        under_way = deque[tuple[int, Future[Frame]]]()
        batches = batches_of(self._job, epoch, self._samples, begin)
        for step, samples in enumerate(islice(batches, end - begin), epoch * self._steps + begin):
            if len(under_way) == self._job.vertical.in_flight:
                self._learn(*under_way.popleft())
            cut = self._blur(self._half.forward(samples))
            draw = np.random.default_rng((self._job.vertical.seed, CHANCE, crc32(self._party.encode()), step))
            under_way.append(
                (step, self._line.ask(Cut(self._stage, step, form=self._form), pack(self._form, cut, draw)))
            )
        while under_way:
            self._learn(*under_way.popleft())

    def _learn(self, step: int, future: "Future[Frame]") -> None:
        """Take the step that the active party's answer tells.

        Raises:
            WireError: it is none.
        """
        reply, arrays = self._line.wait(future, Gradient)
        size = min(
            self._job.vertical.train_batch_size,
            self._samples - step % self._steps * self._job.vertical.train_batch_size,
        )
        due, said = (
            (size, self._half.width),
            f"the active party {self._line.active} sent a gradient of step {reply.step}",
        )
        if reply.step != step or reply.form != self._form:
            raise WireError(f"{said} as {reply.form}, due step {step} as {self._form}")
        gradient = unpack(reply.form, arrays, due)
        if gradient.shape != due:
            raise WireError(f"{said} of shape {gradient.shape}, due {due}")
        if not np.isfinite(gradient).all():
            raise WireError(f"{said} with a NaN or an infinity: has training diverged?")
        self._half.backward(gradient)

    def _score(self) -> None:
        """Send what the network makes of held-out samples, whole, whatever the form of training's."""
        under_way = deque[Future[Frame]]()
        for number, first in enumerate(range(0, self._held_out, AT_ONCE)):
            if len(under_way) == AHEAD:
                self._line.wait(under_way.popleft(), Done)
            cut = self._blur(self._half.score(slice(first, first + AT_ONCE)), False)
            under_way.append(self._line.ask(Cut(self._stage, number, "test"), [cut]))
        while under_way:
            self._line.wait(under_way.popleft(), Done)

    def _save(self, step: int) -> None:
        state = under({"half": self._half.state(), "blur": self._blur.state()})
        self._checkpoints.save(Saved(self._run, step, self._over, state))
