"""What a round costs beside training: a coordinator process and its clients over loopback, no training at all.

Each client reports, histograms and all, and waits for its assignment, as a worker does. A round's cost is the wait of
the last one to report: all others wait for each other too.
"""

import multiprocessing
import os
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from bench.records import Figure, Options, Result
from fedps.client.rounds import Coordinated
from fedps.client.trainer import Trained
from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.coordinator.serve import run_coordinator
from fedps.events.events import Assigned, Event, Ready
from fedps.metrics import Evaluation, Histogram
from fedps.net.channel import Channel
from fedps.wire.frame import Limits
from fedps.wire.messages import Hello

CLIENTS = {"full": (10, 50), "quick": (10,), "tiny": (2,)}
ROUNDS = {"full": 100, "quick": 50, "tiny": 5}
WAIT = 30.0
ABOUT = (
    "A coordinator process, clients as threads of another; each reports and waits for its assignment, and nobody trains."
    " A round costs what the last to report waits."
)


def measure(options: Options) -> Result:
    """Go through some rounds with ten clients, and with more."""
    figures = []
    for clients in CLIENTS[options.size]:
        print(f"{clients} clients", flush=True)
        costs = [seconds * 1e3 for seconds in _rounds(clients, ROUNDS[options.size])]
        figures.append(Figure(f"{clients}.median", f"{clients} clients: a round, median", median(costs), "ms"))
        figures.append(Figure(f"{clients}.longest", f"{clients} clients: the longest round", max(costs), "ms"))
    return Result("rounds", ABOUT, tuple(figures))


def coordinate(job_json: str, pipe: Connection) -> None:
    """Live as the coordinator; its address goes over the pipe."""

    def report(event: Event) -> None:
        if isinstance(event, Ready):
            pipe.send(event.address)

    with Path(os.devnull).open("w") as log:
        run_coordinator(Job.model_validate_json(job_json), "127.0.0.1:0", report, log)


def _rounds(clients: int, rounds: int) -> list[float]:
    """Return what each round but the first has cost, seconds."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        runner = {"train_data_dir": folder, "worker_num": clients, "epochs": rounds, "with_coordinator": True}
        job = Job.model_validate({"name": "rounds", "folder": folder, "runner": runner})
        ours, theirs = context.Pipe()
        process = context.Process(target=coordinate, args=(job.model_dump_json(by_alias=True), theirs))
        process.start()
        try:
            waits = _live(job, ours.recv(), clients, rounds)
            process.join(WAIT)
        finally:
            process.kill()
            process.join()
    return [min(all_waits) for all_waits in waits[2 : rounds + 1]]


def _live(job: Job, address: str, clients: int, rounds: int) -> list[list[float]]:
    """Let all clients live; return by round how long each waited for its assignment."""
    waits: list[list[float]] = [[] for _ in range(rounds + 2)]
    together = threading.Barrier(clients)
    trained, evaluated = (
        Trained(1000, 1.0, 0.5, Histogram()),
        Evaluation({"users": 10, "hr@10": 4.0, "ndcg@10": 2.0}, {"auc": Histogram()}),
    )

    def report(event: Event) -> None:
        assert isinstance(event, Assigned)  # noqa: S101  (nothing else is reported)
        waits[event.round].append(event.seconds)

    def live(number: int) -> None:
        hello = Hello(job.name, str(number), "p", 1, to="coordinator", shared=shared_part(job))
        channel = Channel(address, hello, Limits(), WAIT)
        with Path(os.devnull).open("w") as log:
            life = Coordinated(channel, 1000, log, report)
            while life.next(trained, evaluated, 1e8).state != "FINISH":
                together.wait(WAIT)  # as the barrier that ends a round
        channel.close()

    threads = [threading.Thread(target=live, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits
