"""Parties that meet over real sockets, each in a thread or a process of its own."""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import yaml

from fedps.config.vertical import VerticalJob, load_vertical
from fedps.events.events import Event, Report
from fedps.vertical.active import Outcome, run_active
from fedps.vertical.passive import run_passive
from tests.ports import free_address

WAIT = 60  # seconds; far beyond what any of this takes
SAMPLES = 400  # of shop; of these each other party lacks some
PASSIVE = ("bank", "mail")
Made = TypeVar("Made")


def job_of(
    folder: Path, passive: int = 1, own: Mapping[str, Any] | None = None, hyper: Mapping[str, Any] | None = None,
    label: Mapping[str, Any] | None = None, **vertical: Any,
) -> VerticalJob:  # fmt: skip
    """Write a job, and each party's file in an order of its own; the label is a sum of what all know, and some chance."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(7)
    known = random.standard_normal((SAMPLES, 3)).round(3)
    target = (known.sum(1) + random.standard_normal(SAMPLES) > 0).astype(int)
    write(
        folder / "shop.csv", "id,item,label", [(f"u{i}", known[i, 0], target[i]) for i in random.permutation(SAMPLES)]
    )
    for k, party in enumerate(PASSIVE, 1):
        there = random.permutation(np.arange(20 * k, SAMPLES + 50))
        rows = [(f"u{i}", known[i, k] if i < SAMPLES else 0.0) for i in there]
        write(folder / f"{party}.csv", "id,item", rows)
    number = {"kind": "number"}
    parties = {"shop": {"data": "shop.csv", "features": {"item": number, "label": {"kind": "label", **(label or {})}}}}
    parties |= {party: {"data": f"{party}.csv", "features": {"item": number}} for party in PASSIVE[:passive]}
    tree = {
        "vertical": {
            "active": "shop", "passive": list(PASSIVE[:passive]), "network": "MLP", "bottom_units": [8, 4],
            "train_batch_size": 64, "epochs": 3, "seed": 5, "lift": [], "start_timeout": 20, "step_timeout": 20, **vertical,
        },
        "hyper_parameters": {"hidden_units": [8], **(hyper or {})},
        "parties": parties, **(own or {}),
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(tree))
    return load_vertical(folder / "job.yaml")


def write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    """Write a file of comma-separated values."""
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


class Active:
    """The active party in a thread.

    Attributes:
        address: where it listens.
        future: its outcome.
        told: its events.
    """

    def __init__(self, job: VerticalJob, run: Path, bind: str = "") -> None:
        self.told = list[Event]()
        address = Future[str]()
        folder = run / "parties" / job.vertical.active

        def life() -> Outcome:
            try:
                return run_active(job, folder, bind or free_address(), self.told.append, address.set_result)
            except BaseException as error:
                if not address.done():
                    address.set_exception(error)
                raise

        self.future = in_thread(life)
        self.address = address.result(WAIT)


def start_passive(
    job: VerticalJob, party: str, run: Path, address: str, report: Report = lambda event: None
) -> "Future[None]":  # fmt: skip
    """Let a passive party live in a thread."""
    return in_thread(lambda: run_passive(job, party, run / "parties" / party, address, report))


def train(job: VerticalJob, run: Path, through: Callable[[str], str] = lambda address: address) -> Outcome:
    """Train a job with all its parties; `through`: makes of the active party's address the one that others dial."""
    active = Active(job, run)
    address = through(active.address)
    passive = [start_passive(job, party, run, address) for party in job.vertical.passive]
    outcome = active.future.result(WAIT)
    for party in passive:
        party.result(WAIT)
    return outcome


def in_thread(make: Callable[[], Made]) -> "Future[Made]":
    """Make something in a thread of its own."""
    future = Future[Made]()

    def run() -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Death(NamedTuple):
    """Where a process dies: as it calls a method of a class, for the `call`-th time, from 1."""

    what: type
    method: str
    call: int


class Process:
    """A party in a process of its own.

    Attributes:
        death: where it dies.
    """

    def __init__(self, job: VerticalJob, party: str, run: Path, address: str, death: Death | None = None) -> None:
        self.death = death
        context = get_context("forkserver")
        context.set_forkserver_preload(["tests.vertical.preloaded"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(theirs, job, party, run, address, death), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Outcome | None:
        """Wait for the end; return what came of it."""
        assert self._pipe.poll(WAIT)
        found = self._pipe.recv()
        self._process.join(WAIT)
        if isinstance(found, Exception):
            raise found
        return cast(Outcome | None, found)

    def is_dead(self) -> bool:
        """Wait a moment; return whether it is dead by its own hand."""
        self._process.join(0.05)
        assert self._process.exitcode in (None, -signal.SIGKILL)
        return self._process.exitcode is not None


def _live(
    pipe: Connection, job: VerticalJob, party: str, run: Path, address: str, death: Death | None
) -> None:  # fmt: skip
    if death is not None:
        _die_at(death)
    folder = run / "parties" / party
    try:
        if party == job.vertical.active:
            pipe.send(run_active(job, folder, address, lambda event: None, lambda at: None))
        else:
            run_passive(job, party, folder, address, lambda event: None)
            pipe.send(None)
    except Exception as error:
        pipe.send(error)


def _die_at(death: Death) -> None:
    method, calls = getattr(death.what, death.method), count(1)

    def called(*args: Any, **named: Any) -> Any:
        if next(calls) == death.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **named)

    setattr(death.what, death.method, called)
