"""A client that dies trains what it lost again, and pushes nothing of it that servers have: all learn each sample once."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.client import checkpoint
from fedps.client.checkpoint import NEWEST
from fedps.errors import FedpsError
from fedps.events import events
from fedps.net.shards import PushTicket
from fedps.server.shard import Shard
from fedps.storage import epochs
from fedps.types import ClientId
from fedps.wire.frame import Frame
from fedps.wire.messages import Alive, Push, Request
from tests.client.lives import DiedError, Mortal, World, world
from tests.client.test_taken_over import ONE, OTHER, epochs_begun, job_of
from tests.conftest import MakeJob

WAIT = 60.0  # seconds


class Pushing(Mortal):
    """A client that dies once so many of its pushes are sent, and answered unless they wait for others."""

    most = 0
    pushed = 0

    def callback_init_worker(self) -> None:
        super().callback_init_worker()
        push = self.shards.push

        def counted(*args: Any, **how: Any) -> PushTicket:
            ticket = push(*args, **how)
            self.pushed += 1
            if self.pushed == self.most:
                if not self.job.runner.lockstep:
                    ticket.result(WAIT)
                raise DiedError
            return ticket

        self.shards.push = counted  # type: ignore[method-assign]


class Halfway(Mortal):
    """A client that dies once its fourth push has come to the first of two servers, and not to the second."""

    def callback_init_worker(self) -> None:
        super().callback_init_worker()
        first, second = self.shards._channels
        request = second.request

        def asked(message: Request, arrays: Sequence[NDArray[Any]] = ()) -> "Future[Frame]":
            if isinstance(message, Push) and message.sequence == 4 and not self._resume:
                first.request(Alive()).result(WAIT)
                raise DiedError
            return request(message, arrays)

        second.request = asked  # type: ignore[method-assign]


class Untold(Mortal):
    """A client that dies when all have trained round 2, before its checkpoint of it."""

    def _keep(self, batch: int = 0) -> None:
        if self.assignment.round == 2 and not self._resume:
            raise DiedError
        super()._keep(batch)


class Keeping(Mortal):
    """A client that notes its checkpoints: batches of an epoch, 0 at its end."""

    kept: list[int]

    def _keep(self, batch: int = 0) -> None:
        super()._keep(batch)
        self.kept = [*getattr(self, "kept", []), batch]


def live_on(there: World, most: int = 0) -> None:
    """Let the first client die, and another process of it go on, while all others live."""
    failures: list[FedpsError] = []

    def live(client: Mortal) -> None:
        try:
            client.run()
        except FedpsError as error:
            failures.append(error)

    # As one that was started again, so that only the first process of the first client dies.
    others = [there.client(name, resume=NEWEST) for name in there.names if name != ONE]
    threads = [threading.Thread(target=live, args=[other]) for other in others]
    for thread in threads:
        thread.start()
    first, last = there.client(ONE), there.client(ONE, resume=NEWEST)
    if isinstance(first, Pushing):
        first.most = most
    with pytest.raises(DiedError):
        first.run()
    last.run()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, str, int]]:
    """How often servers have taken each push: server, client, number."""
    push, found = Shard.push, Counter[tuple[int, str, int]]()

    def counted(self: Shard, client: ClientId, said: Push, *args: Any) -> bool:
        found[self.number, client, said.sequence] += 1
        return push(self, client, said, *args)

    monkeypatch.setattr(Shard, "push", counted)
    return found


def pushes(there: World) -> list[dict[ClientId, int]]:
    """Return how many pushes each server has taken of each client."""
    members = [service.members for service in there.services]
    return [{name: known.merged for name in there.names if (known := of.known_as(name))} for of in members]


def private_rows(there: World, epoch: int) -> np.ndarray[Any, Any]:
    saved = epochs.read_private(there.run_dir / "private" / ONE / str(epoch))
    return np.concatenate([table.block for _, table in sorted(saved.items())])


MODES: dict[str, dict[str, Any]] = {
    "geo": {"geo_merge": "adaptive"},
    "geo of two servers": {"geo_merge": "heat", "server_num": 2},
    "geo original": {"geo_merge": "original"},
    "buffered": {"geo_merge": "buffered"},
    "sync": {"sync_mode": "sync"},
    "async": {"sync_mode": "async", "server_num": 2},
    "round": {"sync_mode": "round"},
    "top rows": {"compression": "topk", "geo_overlap": 1},
    "kept within": {"geo_merge": "mean", "checkpoint_every": 4},
    "coordinated": {"with_coordinator": True},
}


@pytest.mark.parametrize(("mode", "most"), [*((mode, 3 if mode == "round" else 8) for mode in MODES), ("geo", 3)])
def test_servers_learn_nothing_twice(mode: str, most: int, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, 150, 150, **MODES[mode])
    with world(job, tmp_path / "calm") as calm:
        calm.live()
        due = pushes(calm)
    with world(job, tmp_path / "run", Pushing) as there:
        live_on(there, most)
        assert pushes(there) == due
        trained = [e.samples for who, e in there.events if who == ONE and isinstance(e, events.EpochEnd)]
        assert trained == [150] * job.runner.epochs


@pytest.mark.parametrize("within", [0, 4], ids=["from an epoch's end", "from within"])
@pytest.mark.parametrize("mode", ["geo", "sync", "async", "coordinated"])
def test_who_dies_between_an_epoch_and_its_checkpoint_loses_nothing(
    mode: str, within: int, make_job: MakeJob, tmp_path: Path
) -> None:
    """Who waited for the others' patience to end would have them told of."""
    job = job_of(make_job, tmp_path, 150, 150, step_timeout=20.0, checkpoint_every=within, **MODES[mode])
    with world(job, tmp_path / "calm") as calm:
        calm.live()
        due = pushes(calm)
    with world(job, tmp_path / "run", Untold) as there:
        live_on(there)
        assert pushes(there) == due
        assert epochs_begun(there, ONE) == [0, 1, 1, 2, 3]
        assert epochs_begun(there, OTHER) == [0, 1, 2, 3]
        assert not [e for _, e in there.events if isinstance(e, events.LeftBehind | events.Suspended)]
        moved = np.abs(private_rows(there, 2) - private_rows(there, 1)).max(1)
        assert (moved > 0).all(), "all users of this client are in its samples"


@pytest.mark.parametrize(
    ("batches", "every", "kept"),
    [
        (600, 0, [0]),
        (600, 395, [400, 0]),
    ],
)
def test_checkpoints_cut_an_epoch(
    batches: int, every: int | None, kept: list[int], make_job: MakeJob, tmp_path: Path
) -> None:
    job = job_of(make_job, tmp_path, batches, train_batch_size=1, geo_step=10, epochs=1, checkpoint_every=every)
    with world(job, tmp_path / "run", Keeping) as there:
        [client] = there.live().values()
        assert isinstance(client, Keeping)
        assert client.kept == kept


@pytest.mark.parametrize(("overlap", "parts"), [(0, 20), (1, 1)], ids=["as soon as they may", "never with a lead"])
def test_checkpoints_cut_an_epoch_by_time(
    overlap: int, parts: int, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SELDOM", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    job = job_of(make_job, tmp_path, 600, train_batch_size=1, geo_step=10, epochs=1, geo_overlap=overlap)
    with world(job, tmp_path / "run", Keeping) as there:
        [client] = there.live().values()
        assert isinstance(client, Keeping)
        assert client.kept == [*range(30, 600, 30), 0][-parts:]


@pytest.mark.parametrize("mode", ["async", "geo of two servers"])
def test_what_one_server_has_and_another_lacks_comes_to_that_one_alone(
    mode: str, make_job: MakeJob, tmp_path: Path, taken: Counter[tuple[int, str, int]]
) -> None:
    job = job_of(make_job, tmp_path, 150, 150, epochs=2, **MODES[mode])
    with world(job, tmp_path / "run", Halfway) as there:
        live_on(there)
        most = pushes(there)[0]
    assert taken == {(k, name, n): 1 for k in (0, 1) for name in most for n in range(1, most[name] + 1)}
