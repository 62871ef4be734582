"""A client's life, in steps that a user may replace: make the model, join, then train, infer and save each round, finish.

A worker, a process or a thread, lives it for one client. What it does is decided by assignments, from the coordinator or
from the job's own schedule. It dials out and never listens. Everything that can be wrong on this side is found before
the first byte is sent.
"""

import inspect
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TextIO, cast, get_args

from msgspec.structs import replace

from fedps.client import private_rows
from fedps.client.distill import Distiller
from fedps.client.dump import open_dump
from fedps.client.modes import build_mode, pull_all, pull_frozen
from fedps.client.rounds import Coordinated, Rounds, Schedule, Simulated
from fedps.client.trainer import Signs, Trained, Trainer
from fedps.config import Allow, Job
from fedps.config.classes import load_class
from fedps.config.shared import shared_part
from fedps.data.public import Public
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.errors import JobError
from fedps.events import events
from fedps.events.events import Report
from fedps.figures import CANDIDATES
from fedps.metrics import Evaluation, evaluate, misfit, popularity
from fedps.models.network import Plan
from fedps.net.channel import Channel
from fedps.net.compressing import compression_of
from fedps.net.shards import Shards, Transport
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.training.rules import server_rule
from fedps.types import ClientId
from fedps.wire.frame import Limits
from fedps.wire.messages import Assignment, Figures, Hello

Connect = Callable[[int, Hello], Transport]
COORDINATOR = -1  # the number under which `Connect` reaches the coordinator
Key = Literal["initialize_model_params", "init_worker", "train", "infer", "save_model", "finish"]
KEYS: tuple[Key, ...] = get_args(Key)
Handler = Callable[..., Any]  # called with the client, or with nothing


class FLClient:
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
    assignment: Assignment

    def __init__(
        self, job: Job, client: ClientId, servers: Sequence[str], run_dir: Path, report: Report, *,
        coordinator: str | None = None, connect: Connect | None = None, log: TextIO | None = None,
        allow: Allow = Allow(), handlers: Mapping[Key, "Handler"] | None = None, number: int = 0,  # noqa: B008
        plan: Plan | None = None, keep_shared: bool = False,
    ) -> None:  # fmt: skip
        if job.runner.with_coordinator and coordinator is None and connect is None:
            raise JobError("runner.with_coordinator: true: no coordinator's address was given: use --coordinators")
        self.job, self.client, self.run_dir, self.report = job, client, run_dir, report
        self.log, self.allow, self.number = log or sys.stdout, allow, number
        self._connect = connect or network(job, servers, coordinator)
        self.trained: Trained | None = None
        self._plan, self._keep_shared = plan, keep_shared
        self._signs = Signs(job.runner.step_timeout, self._give_sign)
        self.evaluated: Evaluation | None = None
        self._rounds: Rounds = Schedule(job.runner)
        self._bandwidth, self._joined, self._unsaved = 0.0, False, False
        self._simulated = Simulated(job, client, report) if job.traces is not None else None
        self._distiller: Distiller | None = None
        self._channels: list[Transport] = []
        self._handlers: dict[Key, Handler] = {}
        for key, handler in (handlers or {}).items():
            self.register_handlers(key, handler)

    def register_handlers(self, key: Key, handler: Handler) -> None:
        """Replace one step of the client's life; the default stays within reach as `client.callback_<key>()`.

        Args:
            key: one of `KEYS`.
            handler: called with this client, or without anything if it takes nothing.

        Raises:
            JobError: there is no such step.
        """
        if key not in KEYS:
            raise JobError(f"register_handlers: {key!r}: there is no such step; there are {', '.join(KEYS)}")
        self._handlers[key] = handler

    def set_basic_config(self, role_maker: Any, config: Any = None, metrics: Any = None) -> None:
        """Keep these for your own steps. A client that a script has made by itself gets its part of the run, too.

        Args:
            role_maker: what `fedps.init` returned.
            config: whatever your steps want; training itself goes by the job.
            metrics: the same.
        """
        self.role_maker, self.config, self.metrics = role_maker, config, metrics
        if not hasattr(self, "job"):
            role_maker.begin(self)

    def set_train_dataset_info(self, train_dataset: Any, train_file_list: Any) -> None:
        """Keep these for your own steps; the client's data is what the job names."""
        self.train_dataset, self.train_file_list = train_dataset, train_file_list

    def set_test_dataset_info(self, test_dataset: Any, test_file_list: Any) -> None:
        """Keep these for your own steps; held-out samples are those that the job names."""
        self.test_dataset, self.test_file_list = test_dataset, test_file_list

    def set_train_example_num(self, num: Any) -> None:
        """Keep this for your own steps; what is reported are the samples trained, as they are counted."""
        self.train_example_nums = num

    def run(self) -> None:
        """Live: one assignment after the other, until the answer is FINISH.

        Raises:
            FedpsError: bad data, a wrong name in the job, a server or coordinator that is gone or refuses.
        """
        self._do("initialize_model_params")
        try:
            self._do("init_worker")
            while self.next_assignment().state != "FINISH":
                self._round()
            if self._unsaved:  # the job ends before its last round
                self._save_private(self.assignment.round - 1)
            if self._keep_shared and self._joined:
                self.pull_all()
                private_rows.save_shared(self.learner, self.job, self.run_dir, self.assignment.round - 1)
            self._do("finish")
        finally:
            for channel in self._channels:
                channel.close()
        sent, received = sum(c.bytes_sent for c in self._channels), sum(c.bytes_received for c in self._channels)
        self.report(events.Done(sent, received, sum(c.retries for c in self._channels)))

    def next_assignment(self) -> Assignment:
        """Report what came of the last round, and return what to do in the next.

        Raises:
            LostError: the coordinator is gone for longer than it may be.
            RefusedError: it refuses the report.
        """
        self.assignment = self._rounds.next(self.trained, self.evaluated, self._bandwidth)
        self.trained = self.evaluated = None
        return self.assignment

    def callback_initialize_model_params(self) -> None:
        """Read the client's data and build the model, with its tables as they start."""
        job, public = self.job, Public(self.job) if self.job.public_data else None
        known = public.samples if public else None
        self.data = read_client(job, self.client, self.allow, self.report, self.log, known)
        test, items = self.data.test, job.hyper_parameters.num_items
        users = 0 if misfit(test) else len(test.label) // CANDIDATES
        popular = dict(popularity(self.data.train, test, job.metrics, items))
        self.report(events.Data(len(self.data), users, popular))
        plan = self._plan or make_plan(job)
        how = "compiled code" if plan.library else f"torch ({plan.reason})"
        print("\n".join([*plan.notes, f"training steps: by {how}"]), file=self.log, flush=True)
        self.learner = Learner(plan, job, self.data, local_optimizer=job.runner.sync_mode in ("geo", "round"))
        if not plan.library:
            from fedps.training.eager import prepare_torch  # noqa: PLC0415  (workers with a compiled step do without torch)

            prepare_torch(job.runner.seed, self.client)
        if public:
            self._distiller = Distiller(job, self.client, self.learner, public, self._signs)
        if job.runner.warmup_model_path is not None:
            private_rows.start_from(job.runner.warmup_model_path, self.learner, self.client, self.log)

    def callback_init_worker(self) -> None:
        """Connect to the servers and the coordinator, and get ready to train."""
        runner = self.job.runner
        hello = Hello(self.job.name, self.client, secrets.token_hex(8), shared=shared_part(self.job))
        self._channels = [self._connect(k, hello) for k in range(runner.server_num)]
        specs = self.learner.server_specs(runner.seed, server_rule(self.job.server_optimizer))
        self.shards = Shards(self._channels[:], specs, compression=compression_of(self.job, self.client))
        if runner.with_coordinator:
            channel = self._connect(COORDINATOR, replace(hello, to="coordinator"))
            self._channels.append(channel)
            amend = self._simulated.device.disguise if self._simulated else None
            learn = self._distiller.take if self._distiller else None
            self._rounds = Coordinated(channel, len(self.data), self.log, self.report, amend, learn)
        self._mode = build_mode(self.job, self.learner, self.shards, len(self.data))
        dump = open_dump(self.job, self.number, self.learner, self.run_dir, self.allow, self.log)
        mean = cache(self.shards.mean_samples) if runner.in_step else None  # asked once: it stays the same
        self.trainer = Trainer(
            self.job, self.client, self.learner, self._mode, self.report, self.log, dump, mean, self._signs
        )

    def callback_train(self) -> None:
        """Train the round's batches, in the job's mode."""
        due = self.assignment
        self.trained = self.trainer.train(due.round, due.iterations, due.learning_rate, due.batch_size, due.geo_step)

    def callback_infer(self) -> None:
        """Score the held-out samples with the model as it stands on the servers, and this client's own rows."""
        self.report(events.EvaluateBegin(self.assignment.round))
        self.pull_all()
        logits, catalogue = self.learner.score(self._signs.give), self.learner.catalogue(self._signs.give)
        job = self.job
        self.evaluated = found = evaluate(logits, self.data.test, job.metrics, catalogue, tasks=job.tasks)
        self.report(events.Evaluated(self.assignment.round, dict(found.sums), dict(found.histograms)))

    def callback_save_model(self) -> None:
        """Save what is private to `private/<client>/<round>/`; what is shared, the servers save."""
        self._save_private(self.assignment.round)

    def callback_finish(self) -> None:
        """Take leave of the servers."""
        self.join()
        self.shards.leave()

    def pull_all(self) -> None:
        """Bring every shared row this client holds, and the dense weights, to the servers' values."""
        began, before = time.perf_counter(), self.shards.bytes_received
        pull_all(self.learner, self.shards, self.job.runner.start_timeout + self.job.runner.step_timeout)
        self._bandwidth = (self.shards.bytes_received - before) / (time.perf_counter() - began)

    def join(self) -> None:
        """Take part at the servers from their open step on; not before the first assignment, which may be long in coming."""
        if self._joined:
            return
        clock = self.shards.join(len(self.data) if self.job.runner.in_step else 0)
        self.shards.seed(self.learner.server_starts())
        pull_frozen(self.learner, self.shards, self.job.runner.start_timeout + self.job.runner.step_timeout)
        self._mode.start_at(clock)
        self._joined = True

    def _round(self) -> None:
        due = self.assignment
        self.join()
        print(f"fl-ps > curr epoch idx: {due.round - 1}, {due.state}", file=self.log)
        if self._simulated:
            self._simulated.play(due, self._train, self.learner, self.shards)
        elif due.state == "JOIN":
            self._train()
        self._meet()

    def _train(self) -> Trained | None:
        """Train a round; with public samples, first on what the others made of them, and last say what this client does."""
        if self._distiller:
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
        self.shards.barrier(self.assignment.round, "trained")
        self.learner.settle_private()
        if self.assignment.evaluate:
            self._do("infer")
        elif self._mode.lead:
            self.pull_all()  # the next window's lead is trained on these values
        self._unsaved = not self.job.runner.saves_after(self.assignment.round)
        if not self._unsaved:
            self._do("save_model")
        figures = None if self.job.runner.with_coordinator else figures_of(self.trained, self.evaluated)
        self._mode.start_at(self.shards.barrier(self.assignment.round, "evaluated", figures))

    def _save_private(self, epoch: int) -> None:
        private_rows.save(self.learner, self.run_dir, self.client, epoch, self.job.runner.keep_epochs)

    def _give_sign(self) -> None:
        """Tell the servers and the run that this client is at work."""
        self.shards.alive()
        self.report(events.AtWork())

    def _do(self, key: Key) -> None:
        handler = self._handlers.get(key) or getattr(self, f"callback_{key}")  # as overridden
        handler() if _takes_nothing(handler) else handler(self)


def _takes_nothing(handler: Callable[..., Any]) -> bool:
    try:
        inspect.signature(handler).bind()
    except TypeError:
        return False
    return not inspect.signature(handler).parameters or inspect.ismethod(handler)


def client_class(job: Job) -> type[FLClient]:
    """Return the class whose objects live the job's clients' lives: `runner.fl_client`, or the one that is built in.

    Raises:
        JobError: there is no such class, or it is none of clients.
    """
    path = job.runner.fl_client
    if path is None:
        return FLClient
    kind: type[FLClient] = load_class(path, job.folder, "runner.fl_client")
    if not issubclass(kind, FLClient):
        raise JobError(f"runner.fl_client: {path!r}: is no client; derive it from fedps.FLClient")
    return kind


def make_client(kind: type[FLClient], begin: Callable[[FLClient], None]) -> FLClient:
    """Make a client of a class of one's own, whose `__init__`, if it has one, takes nothing, as in the original.

    Args:
        kind: its class.
        begin: calls `FLClient.__init__` of what it is given, with its part of the run.

    Raises:
        JobError: the class's own `__init__` fails, or takes something.
    """
    client = kind.__new__(kind)
    begin(client)
    if kind.__init__ is not FLClient.__init__:
        try:
            cast(Callable[[FLClient], None], kind.__init__)(client)
        except Exception as error:  # whatever the user's own code raises
            raise JobError(
                f"{kind.__name__} cannot be made: {type(error).__name__}: {error}; its __init__ takes nothing and calls no"
                " other: when it begins, the client has its job and data already"
            ) from error
    return client


def figures_of(trained: Trained | None, evaluated: Evaluation | None) -> Figures:
    """Return what an epoch came to, as sums that add up over clients."""
    samples, loss = (trained.samples, trained.samples * trained.loss) if trained else (0, 0.0)
    return Figures(samples, loss, dict(evaluated.sums) if evaluated else {})


def network(job: Job, servers: Sequence[str], coordinator: str | None = None) -> Connect:
    """Return how to reach the servers and the coordinator over the network."""
    limits = Limits(message_bytes=job.limits.message_mib << 20)
    deadline = job.runner.start_timeout + job.runner.step_timeout
    addresses = [*servers, coordinator or ""]  # the last has the number -1
    return lambda number, hello: Channel(addresses[number], hello, limits, deadline)
