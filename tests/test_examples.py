"""The examples that guides explain, run as the guides say, on small data."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fedps.launch.inprocess import run_in_process
from tests.conftest import MakeJob
from tests.events.kept import into

EXAMPLES = Path(__file__).parent.parent / "examples"
Events = list[dict[str, Any]]


def ran(make_job: MakeJob, folder: Path, example: str, **runner: Any) -> Events:
    shutil.copy(EXAMPLES / f"{example}.py", folder)
    events: Events = []
    run_in_process(make_job(**runner), folder / "run", into(events))
    return events


def test_the_selector_picks_by_loss_and_speed_and_who_waits_does_not_train(make_job: MakeJob, tmp_path: Path) -> None:
    events = ran(
        make_job, tmp_path, "own_selector",
        with_coordinator=True, client_selector="own_selector.MostToLearn", epochs=6,
    )  # fmt: skip
    picked = {e["round"]: set(e["selected"]) for e in events if e["event"] == "selected"}
    trained: dict[int, set[str]] = defaultdict(set)
    for e in events:
        if e["event"] == "epoch_end":
            trained[e["epoch"] + 1].add(e["id"])
    assert picked == trained and all(len(who) == 5 for who in picked.values()) and len(picked) == 6
    assert picked[1] | picked[2] == {str(k) for k in range(10)}  # who has not trained yet comes first
    assert len({frozenset(who) for who in picked.values()}) > 1  # whom it prefers then hangs on measured speeds


@pytest.mark.parametrize("mode", ["geo", "sync"])
def test_the_network_trains_with_a_private_tower(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    events = ran(
        make_job, tmp_path, "own_network", sync_mode=mode, epochs=3, model="own_network.TwoTowers",
        local_sparse=["user.weight"], remote_sparse=["item.weight"],
        local_dense=["user_layer.weight", "user_layer.bias"],
        hyper={"num_users": 120, "num_items": 220, "dim": 8, "optimizer": {"learning_rate": 0.01}},
    )  # fmt: skip
    losses = [e["loss"] for e in events if e["event"] == "epoch_end" and e["id"] == "9"]
    assert losses[-1] < losses[0]


def test_the_loss_changes_what_is_trained(make_job: MakeJob, tmp_path: Path) -> None:
    def first_loss(name: str, **more: Any) -> float:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(EXAMPLES / "own_loss.py", tmp_path)
        events: Events = []
        run_in_process(make_job(**more), folder / "run", into(events))
        return float(next(e["loss"] for e in events if e["event"] == "epoch_end" and e["id"] == "9"))

    sizes = {"num_users": 120, "num_items": 220, "fc_layers": [16, 8, 4]}
    plain = first_loss("plain", hyper=sizes)
    assert first_loss("zero", model="own_loss.FocalMlp", hyper={**sizes, "gamma": 0.0}) == pytest.approx(plain, 1e-6)
    assert first_loss("two", model="own_loss.FocalMlp", hyper={**sizes, "gamma": 2.0}) < 0.5 * plain
