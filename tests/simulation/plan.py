"""What a history is about: mode, sizes, and how fast everybody is. All of it follows from the history's chance."""

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedps.config import Job, load_job
from fedps.config.sections.runner import LOCKSTEP
from fedps.types import Init, Keys, Rule, TableSpec
from tests.simulation.world import World

MARKS, ROWS, COLUMNS, BIASES = 1 << 16, 16, 4, 6  # sizes of the tables
BIAS = 0  # the shard of the dense tensor
MODES = ("async", "sync", "round", "touched", "original", "mean", "sum", "heat", "adaptive", "buffered")
TIMES = {"step_timeout": 20.0, "reconnect_timeout": 5.0, "start_timeout": 30.0}


class Plan:
    """What is drawn before a history begins.

    Args:
        world: whose chance it follows from.

    Attributes:
        mode: one of `MODES`.
        job: of all roles.
        epochs, clients, servers, buffer: how many.
        quorum: share of the clients that is enough, where the others are slow.
        delay: seconds that a message takes, about.
        start: what the dense tensor starts from.
        saving: seconds that work beside a server's loop takes at most.
        durable: whether servers keep a log, and so may die.
        summed_up: whether they write snapshots of it.
        adam: whether there is a table that Adam changes, too: it is known in which order.
        patience: seconds that a client tries to connect.
    """

    def __init__(self, world: World) -> None:
        chance = world.chance
        self.mode = chance.choice(MODES)
        self.clients, self.servers = chance.choice((1, 2, 2, 2, 3, 3, 4)), chance.choice((1, 1, 1, 1, 2, 2, 3))
        self.epochs, self.buffer = chance.choice((1, 1, 2, 2, 3)), chance.choice((1, 2, 3))
        self.coordinated = chance.random() < 0.25
        self.delay, self.start = chance.choice((0.005, 0.05, 0.3)), float(chance.randrange(10))
        self._row_keys = [np.arange(shard, ROWS, self.servers) for shard in range(self.servers)]
        self._unequal, self._most = chance.random() < 0.4, chance.choice((1, 2, 2, 3, 4))
        self._windows = [chance.randint(0, self._most) for _ in range(self.clients)]
        self._paces = [chance.choice((0.01, 0.1, 1.0)) for _ in range(self.clients)]
        self._heavy = chance.random() < 0.5
        # Saving takes much of a history's time: most end before the epoch that is saved.
        more = 0 if self.coordinated or chance.random() < 0.25 else 1
        self.quorum = 1.0 if chance.random() < 0.75 else 0.5
        self.job = job_of(
            self.mode, self.clients, self.servers, self.epochs + more, self.buffer, self.coordinated, self.quorum
        )
        self.saving, self.durable = chance.choice((0.1, 0.1, 2.0, 20.0)), chance.random() < 0.75
        self.summed_up = chance.random() < 0.3
        known = self.gated or (self.clients == 1 and self.mode != "buffered")
        self.adam = known and chance.random() < 0.3
        self.patience = sum(TIMES.values())
        self.length = 2.0 + self.epochs * self._most * (
            max(self._paces) + 10 * self.delay
        )  # seconds that it takes, about

    def __str__(self) -> str:
        """Say it in a line."""
        led = (", coordinated" if self.coordinated else "") + (", durable" if self.durable else "")
        return (
            f"{self.mode}, {self.clients} clients, {self.servers} servers, {self.epochs} epochs of {self._most} windows{led},"
            f" delays of {self.delay:g} s"
        )

    @property
    def merge(self) -> str:
        """How pushes combine: `geo_merge` of geo, else the mode's name."""
        return self.mode

    @property
    def gated(self) -> bool:
        """Whether all pushes of a window are merged together."""
        return self.mode in ("sync", "round", "touched", *LOCKSTEP)

    @property
    def exact(self) -> bool:
        """Whether the run may go back to a moment at which all clients were, as `launch.resuming` finds one."""
        runner = self.job.runner
        return self.durable and (self.gated or runner.worker_num == 1)

    def tables(self, shard: int) -> tuple[TableSpec, ...]:
        """Return what each client declares at a shard; the dense tensor lies on one."""
        return (TABLES if shard == BIAS else TABLES[:2]) + (STEPS,) * self.adam

    def row_keys(self, shard: int) -> Keys:
        """Return all keys of a shard's rows, int64."""
        return self._row_keys[shard]

    def windows_of(self, client: int, epoch: int) -> int:
        """Return how many windows a client trains in an epoch."""
        return (self._windows[client] + epoch) % (self._most + 1) if self._unequal else self._most

    def pause(self, world: World, client: int) -> float:
        """Return how long a client trains a window, seconds."""
        return self._paces[client] * world.chance.random()

    def weight(self, world: World) -> int:
        """Return a push's weight; over four clients they add up to eight at most."""
        return world.chance.choice((1, 2)) if self._heavy else 1


TABLES = (
    TableSpec("marks", "sparse", (MARKS, 1), Rule("add"), Init("constant", 0.0)),
    TableSpec("rows", "sparse", (ROWS, COLUMNS), Rule("add"), Init("constant", 0.0)),
    TableSpec("bias", "dense", (BIASES,), Rule("add")),
)
STEPS = TableSpec("steps", "sparse", (ROWS, COLUMNS), Rule("adam", 1.0, 0.5, 0.9), Init("constant", 0.0))


@cache
def job_of(mode: str, clients: int, servers: int, epochs: int, buffer: int, coordinated: bool, quorum: float) -> Job:
    """Return the job of some sizes."""
    sync_mode, more = mode, dict[str, Any]()
    if mode == "touched":
        sync_mode, more = "round", {"row_average": "touched"}
    elif mode not in ("async", "sync", "round"):
        sync_mode, more = "geo", {"geo_merge": mode, "buffer": buffer}
    sizes = {
        "worker_num": clients,
        "server_num": servers,
        "epochs": epochs,
        "with_coordinator": coordinated,
        "quorum": quorum,
    }
    selects = {"client_selector": "random"} if coordinated and clients > 1 else {}
    update = {"sync_mode": sync_mode, **more, **sizes, **selects, **TIMES, "save_every": 0}
    plain = _plain()
    selector = plain.selector.model_copy(update={"timeout": 0.0})  # asked in this very thread
    return plain.model_copy(update={"runner": plain.runner.model_copy(update=update), "selector": selector})


def shared_of(job: Job) -> Mapping[str, str]:
    """Return less than `config.shared.shared_part` does, which would take most of a history's time."""
    return {"runner.sync_mode": job.runner.sync_mode}


@cache
def _plain() -> Job:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train").mkdir()
        (Path(folder) / "train" / "0.csv").write_text("0,0,1\n")
        runner = {"train_data_dir": "train", "worker_num": 1, "local_sparse": []}
        tree = {"runner": runner, "hyper_parameters": {"num_users": 1, "num_items": 1}}
        (Path(folder) / "job.yaml").write_text(yaml.safe_dump(tree))
        return load_job(Path(folder) / "job.yaml")
