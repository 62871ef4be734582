"""Whole jobs of clients with more and with less data: who tells what it has, and how often each pushes."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.launch.inprocess import run_in_process
from fedps.net.shards import PushTicket, Shards
from tests.client.test_modes import SGD, SMALL, write_clients
from tests.conftest import MakeJob

SIZES = (40, 500, 150, 310)  # 250 on average


class Watch:
    """What the clients of a job said: samples as they joined, pushes of each, and how often the mean was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told, self.pushes, self.asked = list[int](), Counter[int](), 0
        self.weights = list[float]()
        join, push, mean = Shards.join, Shards.push, Shards.mean_samples

        def joining(shards: Shards, samples: int = 0, again: bool = False) -> int:
            self.told.append(samples)
            return join(shards, samples, again)

        def pushing(
            shards: Shards, changes: Any, clock: int | Mapping[int, int], weight: float = 1.0, rate: float = 1.0
        ) -> PushTicket:
            self.pushes[id(shards)] += 1
            self.weights.append(weight)
            return push(shards, changes, clock, weight, rate)

        def asking(shards: Shards) -> float:
            self.asked += 1
            return mean(shards)

        monkeypatch.setattr(Shards, "join", joining)
        monkeypatch.setattr(Shards, "push", pushing)
        monkeypatch.setattr(Shards, "mean_samples", asking)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def run(make_job: MakeJob, folder: Path, **runner: Any) -> Job:
    train = write_clients(folder / "data", *SIZES)
    job = make_job(
        {**SMALL, **SGD}, train_data_dir=str(train), test_data_dir=None, train_batch_size=25, epochs=2, **runner
    )
    run_in_process(job, folder / "run", lambda event: None)
    return job


@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        ({"sync_mode": "sync"}, 10),
        ({"sync_mode": "sync", "server_num": 2}, 10),
        ({"geo_merge": "heat", "geo_step": 2}, 5),
        ({"geo_merge": "adaptive", "geo_step": 3, "geo_overlap": 2, "server_num": 2}, 4),
        ({"geo_merge": "adaptive", "geo_step": 2, "with_coordinator": True}, 5),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_all_clients_push_equally_often(
    mode: dict[str, Any], steps: int, watch: Watch, make_job: MakeJob, tmp_path: Path
) -> None:
    run(make_job, tmp_path, **mode)
    assert sorted(watch.told) == sorted(SIZES)
    assert watch.asked == 4, "each asks once, however many passes there are"
    assert list(watch.pushes.values()) == [2 * steps] * 4


@pytest.mark.parametrize(
    "mode",
    [
        {"sync_mode": "sync", "pace": "own"},
        {"sync_mode": "geo", "pace": "own"},
        {"sync_mode": "geo", "geo_merge": "buffered"},
        {"sync_mode": "geo", "geo_merge": "original"},
        {"sync_mode": "async"},
    ],
    ids=lambda mode: "-".join(mode.values()),
)
def test_elsewhere_nobody_tells_what_it_has(
    mode: dict[str, Any], watch: Watch, make_job: MakeJob, tmp_path: Path
) -> None:
    run(make_job, tmp_path, geo_step=2, **mode)
    assert watch.told == [0] * 4
    assert not watch.asked
    batches = [-(-size // 25) for size in SIZES]
    windows = [-(-count // 2) for count in batches] if mode["sync_mode"] == "geo" else batches
    assert sorted(watch.pushes.values()) == sorted(2 * count for count in windows)
    assert set(watch.weights) == {1.0} or mode["sync_mode"] == "sync"


def test_who_waits_in_a_round_keeps_nobody_from_being_in_step(watch: Watch, make_job: MakeJob, tmp_path: Path) -> None:
    run(
        make_job, tmp_path, geo_step=2, with_coordinator=True, client_selector="round_robin", clients_per_round=2,
    )  # fmt: skip
    assert sorted(watch.told) == sorted(SIZES)
    assert list(watch.pushes.values()) == [5] * 4, "each trains one of the two rounds"
