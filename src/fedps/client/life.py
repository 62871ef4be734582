"""A client's life, in steps that a user may replace: make the model, join, then train, infer and save each round, finish.

A worker, a process or a thread, lives it for one client. What it does is decided by assignments, from the coordinator or
from the job's own schedule. It dials out and never listens. Everything that can be wrong on this side is found before
the first byte is sent.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TextIO

import msgspec

from fedps.access.same_table import Witness
from fedps.client import private_rows
from fedps.client.checkpoint import NEWEST, Checkpoint, Checkpoints, Moment, checkpoints_of, mark_of, said_of_labels
from fedps.client.distill import Distiller
from fedps.client.dump import open_dump
from fedps.client.greeting import COORDINATOR, Connect, greet
from fedps.client.modes import build_mode, pull_all, pull_frozen
from fedps.client.rounds import Coordinated, Rounds, Schedule, Simulated, figures_of, outcome, outcome_of
from fedps.client.steps import Handler, Key, Steps
from fedps.client.trainer import Signs, Trained, Trainer
from fedps.config import Allow, Job
from fedps.data.public import Public
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.errors import DataError, JobError
from fedps.events import events
from fedps.events.events import Report
from fedps.figures import CANDIDATES
from fedps.metrics import Evaluation, evaluate, misfit, popularity
from fedps.models.network import Plan
from fedps.net.channel import network
from fedps.net.compressing import compression_of
from fedps.net.shards import Shards, Transport
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.training.rules import server_rule
from fedps.types import ClientId, State, Stateful, under, within
from fedps.wire.messages import Assignment


class FLClient(Steps):
    """One client of a job; `run` is its whole life, and each step of it can be replaced by `register_handlers`.

    Args:
        job: the resolved job.
        client: whose data to train on.
        servers: `host:port` of every server, in the order of their numbers.
        run_dir: the run's folder.
        report: where events go.
        coordinator: its `host:port`, None without one.
        connect: how to reach shard k, or the coordinator (k = `COORDINATOR`); by default over the network.
        log: where lines for people go; by default standard output.
        allow: what the person who started this allows.
        handlers: steps of this life to replace, by their key.
        number: of the worker; dumps carry it.
        plan: the job's network, made ready; by default it is looked up, or made.
        keep_shared: save the shared values it holds at the end, where no server saves them.
        resume: the checkpoint to go on from, by its name or as `newest`, which need not be there; empty: begin anew.

    Attributes:
        data, learner: once `initialize_model_params` has made them.
        shards, trainer: once `init_worker` has made them.
        assignment: what to do in this round.
        role_maker, config, metrics, …: what `set_basic_config` and its kin were given, as in the original.
        trained, evaluated: what came of this round's training and evaluation; None where there was none.
    """

    data: ClientData
    learner: Learner
    shards: Shards
    trainer: Trainer

    def __init__(
        self, job: Job, client: ClientId, servers: Sequence[str], run_dir: Path, report: Report, *,
        coordinator: str | None = None, connect: Connect | None = None, log: TextIO | None = None,
        allow: Allow = Allow(), handlers: Mapping[Key, "Handler"] | None = None, number: int = 0,  # noqa: B008
        plan: Plan | None = None, keep_shared: bool = False, resume: str = "",
    ) -> None:  # fmt: skip
        if job.runner.with_coordinator and coordinator is None and connect is None:
            raise JobError("runner.with_coordinator: true: no coordinator's address was given: use --coordinators")
        self.job, self.client, self.run_dir, self.report = job, client, run_dir, report
        self.log, self.allow, self.number = log or sys.stdout, allow, number
        self._connect = connect or network(job, client, servers, coordinator)
        self.trained: Trained | None = None
        self._plan, self._keep_shared, self._resume = plan, keep_shared, resume
        self.assignment = Assignment(0, "WAIT")
        self._signs = Signs(job.runner.step_timeout, self._give_sign)
        self.evaluated: Evaluation | None = None
        self._rounds: Rounds = Schedule(job.runner)
        self._witness = Witness(job.runner.worker_num or 1)
        self._bandwidth, self._joined, self._unsaved = 0.0, False, False
        self._ended = 0  # the last round that had ended at the servers before this process came
        self._simulated = Simulated(job, client, report) if job.traces is not None else None
        self._distiller: Distiller | None = None
        self._channels, self._labels = list[Transport](), list[int]()
        super().__init__(handlers or {})

    def run(self) -> None:
        """Live: one assignment after the other, until the answer is FINISH.

        Raises:
            FedpsError: bad data, a wrong name in the job, a server or coordinator that is gone or refuses.
        """
        self._do("initialize_model_params")
        self._checkpoints = Checkpoints(self.job, self.client, self.run_dir, self.log, self.report)
        try:
            self._do("init_worker")
            self._go_on()
            while self.next_assignment().state != "FINISH":
                self._round()
            last = min(self.assignment.round - 1, self.job.runner.epochs)  # who comes late is told so late
            if self._unsaved:  # the job ends before its last round
                self._save_private(last)
            if self._keep_shared and self._joined:
                self.pull_all()
                private_rows.save_shared(self.learner, self.job, self.run_dir, last)
            self._checkpoints.settle()
            self._do("finish")
        finally:
            for channel in self._channels:
                channel.close()
        sent, received = sum(c.bytes_sent for c in self._channels), sum(c.bytes_received for c in self._channels)
        self.report(events.Done(sent, received, sum(c.retries for c in self._channels)))

    def save_left(self) -> int | None:
        """Save what is private after an epoch whose save has failed, from the checkpoint at its end; return which, if any was.

        It asks nobody: servers may have ended since, as the job has, and this client alone be left.

        Raises:
            FedpsError: bad data, or it cannot be saved now either.
        """
        if not checkpoints_of(self.run_dir, self.client):
            return None
        self._checkpoints = Checkpoints(self.job, self.client, self.run_dir, self.log, self.report)
        checkpoint = self._checkpoints.read(self.job.runner.epochs)
        if checkpoint is None or checkpoint.moment.batch or not checkpoint.state["client/unsaved"]:
            return None
        self._do("initialize_model_params")
        self._checkpoints.check_fits(checkpoint, self.learner.state())
        self.learner.restore(within(checkpoint.state, "learner"))
        self._save_private(checkpoint.moment.epoch)
        return checkpoint.moment.epoch

    def next_assignment(self) -> Assignment:
        """Report what came of the last round, and return what to do in the next.

        Raises:
            LostError: the coordinator is gone for longer than it may be.
            RefusedError: it refuses the report.
        """
        if self.job.runner.with_coordinator:
            self._checkpoints.settle()  # of a round that is reported nothing is assigned again
        before = self.assignment.round
        self.assignment = self._rounds.next(self.trained, self.evaluated, self._bandwidth)
        self.trained = self.evaluated = None
        if self.assignment.round != before + 1:
            self.shards.repeat_from(None)
        return self.assignment

    def callback_initialize_model_params(self) -> None:
        """Read the client's data and build the model, with its tables as they start."""
        job, public = self.job, Public(self.job) if self.job.public_data else None
        known = public.samples if public else None
        self.data = read_client(job, self.client, self.allow, self.report, self.log, known)
        self._labels = mark_of(self.data.train.label)
        test, items = self.data.test, job.hyper_parameters.num_items
        users = 0 if misfit(test) else len(test.label) // CANDIDATES
        popular = dict(popularity(self.data.train, test, job.metrics, items))
        self.report(events.Data(len(self.data), users, popular))
        plan = self._plan or make_plan(job)
        how = "compiled code" if plan.library else f"torch ({plan.reason})"
        print("\n".join([*plan.notes, f"training steps: by {how}"]), file=self.log, flush=True)
        self.learner = Learner(plan, job, self.data, local_optimizer=job.runner.sync_mode in ("geo", "round"))
        if not plan.library:
            from fedps.training.draws import prepare_torch  # noqa: PLC0415  (workers with a compiled step do without torch)

            prepare_torch(job.runner.seed, self.client)
        if public:
            self._distiller = Distiller(job, self.client, self.learner, public, self._signs)
        if job.runner.warmup_model_path is not None:
            private_rows.start_from(job.runner.warmup_model_path, self.learner, self.client, self.log)

    def callback_init_worker(self) -> None:
        """Connect to the servers and the coordinator, and get ready to train."""
        runner = self.job.runner
        self._channels = greet(self.job, self.client, self._connect, self._checkpoints)
        specs = self.learner.server_specs(runner.seed, server_rule(self.job.server_optimizer))
        servers = self._channels[: runner.server_num]
        self.shards = Shards(servers, specs, compression=compression_of(self.job, self.client))
        if runner.with_coordinator:
            channel = self._channels[COORDINATOR]
            amend = self._simulated.device.disguise if self._simulated else None
            learn = self._distiller.take if self._distiller else None
            self.shards.note = self._witness.note
            self._rounds = Coordinated(channel, len(self.data), self.log, self.report, amend, learn, self._witness)
        self._mode = build_mode(self.job, self.learner, self.shards, len(self.data))
        dump = open_dump(self.job, self.number, self.learner, self.run_dir, self.allow, self.log)
        mean = cache(self.shards.mean_samples) if runner.in_step else None  # asked once: it stays the same
        self.trainer = Trainer(
            self.job, self.client, self.learner, self._mode, self.report, self.log, dump, mean, self._signs, self._keep,
            lambda: self._checkpoints.due,
        )  # fmt: skip

    def callback_train(self) -> None:
        """Train the round's batches, in the job's mode; where the others have ended it, what this client did of it by then."""
        due = self.assignment
        most = self.shards.repeats if due.round <= self._ended else None
        self.trained = self.trainer.train(
            due.round, due.iterations, due.learning_rate, due.batch_size, due.geo_step, most
        )

    def callback_infer(self) -> None:
        """Score the held-out samples with the model as it stands on the servers, and this client's own rows."""
        self.report(events.EvaluateBegin(self.assignment.round))
        self.pull_all()
        logits, catalogue = self.learner.score(self._signs.give), self.learner.catalogue(self._signs.give)
        job = self.job
        self.evaluated = found = evaluate(logits, self.data.test, job.metrics, catalogue, tasks=job.tasks)
        self.report(events.Evaluated(self.assignment.round, dict(found.sums), dict(found.histograms)))

    def callback_save_model(self) -> None:
        """Save what is private to `private/<client>/<round>/`, or tell why not, and do it later; servers save what is shared."""
        try:
            self._save_private(self.assignment.round)
        except DataError as error:
            self._unsaved = True
            print(f"round {self.assignment.round} is not saved: {error}", file=self.log, flush=True)
            self.report(events.Unsaved(self.assignment.round, str(error)))

    def callback_finish(self) -> None:
        """Take leave of the servers."""
        self.join()
        self.shards.leave()

    def state(self) -> State:
        """Return what a checkpoint holds of this client itself; a class of your own may add arrays of numpy and what JSON has."""
        due = msgspec.json.encode(self.assignment).decode()
        own = {"assignment": due, "bandwidth": self._bandwidth, "unsaved": self._unsaved, "labels": self._labels}
        return {**own, **outcome(self.trained, self.evaluated)}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned in another process."""
        self.assignment = msgspec.json.decode(state["assignment"], type=Assignment)
        self._witness.begin(self.assignment.secret)
        self._bandwidth, self._unsaved = state["bandwidth"], state["unsaved"]
        self.trained, self.evaluated = outcome_of(state)
        if note := said_of_labels(state.get("labels"), self._labels):
            self.report(events.Note(f"client {self.client!r}: {note}"))

    def pull_all(self) -> None:
        """Bring every shared row this client holds, and the dense weights, to the servers' values."""
        began, before = time.perf_counter(), self.shards.bytes_received
        pull_all(self.learner, self.shards, self.job.runner.start_timeout + self.job.runner.step_timeout)
        self._bandwidth = (self.shards.bytes_received - before) / (time.perf_counter() - began)

    def join(self) -> None:
        """Take part at the servers from their open step on; not before the first assignment, which may be long in coming."""
        if self._joined:
            return
        samples = len(self.data) if self.job.runner.in_step else 0
        again = bool(self._resume) and self.assignment.round == 1
        clock = self.shards.join(samples, again)
        self.shards.seed(self.learner.server_starts())
        pull_frozen(self.learner, self.shards, self.job.runner.start_timeout + self.job.runner.step_timeout)
        self._mode.start_at(clock)
        self._joined = True

    def _go_on(self) -> None:
        """Take up where another process of this client has ended or, without a checkpoint of it, where the others are.

        What it did since the checkpoint it does again for its own rows; of what servers have of that it pushes nothing.

        Raises:
            DataError, JobError, LostError: as for `Checkpoints.read`; a server does not answer in time.
        """
        if not self._resume:
            return
        self._ended, coordinated = self.shards.ended, self.job.runner.with_coordinator
        ended = self._ended
        checkpoint = self._checkpoints.read(ended, self._resume)
        if checkpoint is None and (coordinated or ended <= 1):
            return  # the coordinator says where the others are; or it begins with the first epoch
        self.join()
        moment = None if checkpoint is None else self._take_up(checkpoint)
        if moment == (ended, 0):
            self._part()
        elif moment is not None and moment.epoch >= ended - 1:
            if moment.batch:
                self._round(begun=True)
        else:
            self.shards.repeat_from(None)
            if ended and not coordinated:
                self._rounds.restore({"round": ended})
                self.trained = self.evaluated = None
                self.shards.barrier(ended, "evaluated")
            self.pull_all()  # what it holds is of an earlier time

    def _take_up(self, checkpoint: Checkpoint) -> Moment | None:
        """Go on from a checkpoint; return its moment, None if the servers have begun anew since."""
        moment, sequence, state = checkpoint
        if not self._checkpoints.is_known(checkpoint, max(self.shards.taken), self._resume):
            return None
        self._checkpoints.check_fits(checkpoint, self.learner.state())
        self.shards.repeat_from(sequence)
        if moment.epoch < self._ended:
            over = moment.epoch < self._ended - 1 or not self.shards.repeats  # what was begun has ended as it was
            state = {n: v for n, v in state.items() if not (over and "/begun/" in n)} | {"client/unsaved": True}
        for name, part in self._parts.items():
            part.restore(within(state, name))
        print(f"goes on from checkpoint {moment}", file=self.log, flush=True)
        if not moment.batch and self._resume != NEWEST:
            self._tell_again(moment.epoch)
        return moment

    def _tell_again(self, epoch: int) -> None:
        """Say once more what the last round came to: the launcher died, and its journal may lack it."""
        if (of := self.trained) is not None:
            self.report(events.EpochEnd(epoch - 1, of.samples, of.loss, of.histogram.auc(), of.histogram))
        if self.evaluated is not None:
            self.report(events.Evaluated(epoch, dict(self.evaluated.sums), dict(self.evaluated.histograms)))

    def _keep(self, batch: int = 0) -> None:
        """Write a checkpoint, at the end of a round or so many batches into it."""
        if self.job.runner.durability != "none":
            moment = Moment(self.assignment.round - (batch > 0), batch)
            state = under({name: part.state() for name, part in self._parts.items()})
            self._checkpoints.save(moment, self.shards.sequence, state)

    @property
    def _parts(self) -> dict[str, Stateful]:
        """All that changes as this client trains, by name."""
        parts: dict[str, Stateful | None] = {
            "client": self, "learner": self.learner, "shards": self.shards, "mode": self._mode, "trainer": self.trainer,
            "rounds": self._rounds, "distiller": self._distiller, "simulated": self._simulated,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part is not None}

    def _round(self, begun: bool = False) -> None:
        """Do what is assigned, or the rest of it; of a round that has ended at the servers, only what they have of it."""
        due, train = self.assignment, partial(self._train, begun)
        self.join()
        print(f"fl-ps > curr epoch idx: {due.round - 1}, {due.state}", file=self.log)
        open_ = due.round > self._ended or self.shards.repeats > 0
        if open_ and self._simulated:
            self._simulated.play(due, train, self.learner, self.shards)
        elif open_ and due.state == "JOIN":
            train()
        self._meet()

    def _train(self, begun: bool) -> Trained | None:
        """Train a round; with public samples, first on what the others made of them, and last say what this client does."""
        if self._distiller and not begun:
            self._distiller.digest(self.assignment)
        self._do("train")
        if self._distiller and self.trained:
            self.trained = self.trained._replace(logits=self._distiller.score(self.assignment.round))
        print("fl-ps > callback_train finished", file=self.log, flush=True)
        return self.trained

    def _meet(self) -> None:
        """Meet the others, evaluate one and the same model, save what is private, and go on together.

        What evaluating and saving do to this client's values is done after every epoch, so that neither changes what is
        learned.
        """
        if self.assignment.round > self._ended:
            self.shards.barrier(self.assignment.round, "trained")
        self.learner.settle_private()
        if self.assignment.evaluate:
            self._do("infer")
        elif self._mode.lead:
            self.pull_all()  # the next window's lead is trained on these values
        self._unsaved = not self.job.runner.saves_after(self.assignment.round)
        if not self._unsaved:
            self._do("save_model")
        self._keep()
        self._part()

    def _part(self) -> None:
        """Say what the round came to, and go on with the others."""
        figures = None if self.job.runner.with_coordinator else figures_of(self.trained, self.evaluated)
        self._mode.start_at(self.shards.barrier(self.assignment.round, "evaluated", figures))

    def _save_private(self, epoch: int) -> None:
        private_rows.save(
            self.learner, self.run_dir, self.client, epoch, self.job.runner.keep_epochs, self._checkpoints.check
        )

    def _give_sign(self) -> None:
        """Tell the servers and the run that this client is at work."""
        self.shards.alive()
        self.report(events.AtWork())
