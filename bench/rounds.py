"""What a round costs beside training: a coordinator process, ten clients over loopback, no training at all.

    python bench/rounds.py [clients] [rounds]

Each client reports, histograms and all, and waits for its assignment, as a worker does. A round's cost is the wait of
the last one to report: all others wait for each other too.
"""

import multiprocessing
import statistics
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from fedps.client.evaluate import Evaluation
from fedps.client.rounds import Coordinated
from fedps.client.trainer import Trained
from fedps.config import Job
from fedps.coordinator.serve import run_coordinator
from fedps.models.metrics import Histogram
from fedps.net.channel import Channel
from fedps.wire.frame import Limits
from fedps.wire.messages import Assignment, Hello


def coordinate(job_json: str, pipe: Connection) -> None:
    """Live as the coordinator."""
    with Path("/dev/null").open("w") as log:
        run_coordinator(Job.model_validate_json(job_json), "127.0.0.1:0", pipe.send, log)


def main(clients: int = 10, rounds: int = 100) -> None:
    """Print the median and the largest cost of a round, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        runner = {"train_data_dir": folder, "worker_num": clients, "epochs": rounds, "with_coordinator": True}
        job = Job.model_validate({"name": "rounds", "folder": folder, "runner": runner})
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=coordinate, args=(job.model_dump_json(by_alias=True), theirs)
        )
        process.start()
        address = ours.recv()["address"]
        waits: list[list[float]] = [[] for _ in range(rounds + 2)]
        together = threading.Barrier(clients)
        trained, evaluated = Trained(1000, 1.0, 0.5, Histogram()), Evaluation(10, 4.0, 2.0, Histogram())

        def live(number: int) -> None:
            channel = Channel(address, Hello(job.name, str(number), "p", to="coordinator"), Limits(), 30.0)

            def answered(told: Assignment, seconds: float) -> None:
                waits[told.round].append(seconds)

            with Path("/dev/null").open("w") as log:
                life = Coordinated(channel, 1000, log, answered)
                while life.next(trained, evaluated, 1e8).state != "FINISH":
                    together.wait()  # as the barrier that ends a round
            channel.close()

        threads = [threading.Thread(target=live, args=[k]) for k in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process.join()
    costs = [min(w) for w in waits[2 : rounds + 1]]
    print(
        f"{clients} clients, {len(costs)} rounds: median {statistics.median(costs) * 1e3:.1f} ms, max {max(costs) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
