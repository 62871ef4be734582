"""One file from a run's folder: shards joined, untouched rows at their start, private rows only on request."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from fedps.errors import DataError, JobError
from fedps.launch.inprocess import run_in_process
from fedps.serving.export import export_run
from fedps.serving.infer import infer
from fedps.storage import snapshot
from fedps.table import rules
from fedps.table.rules import initial_rows
from fedps.types import NO_KEYS, Bounds, Init, Rule, TableSpec
from tests.conftest import MakeJob
from tests.events.kept import into

ITEMS = TableSpec("item.weight", "sparse", (10, 3), Rule("adam"), Init("normal", 0.0, 0.1), seed=7)
USERS = TableSpec("user.weight", "sparse", (6, 2), Rule("adam"), Init("uniform", -1.0, 1.0), seed=7)
DENSE = TableSpec("predict.weight", "dense", (1, 4), Rule("adam"), seed=7)
Part = tuple[TableSpec, Any, Any]


def rows(spec: TableSpec, *keys: int, value: float = 1.0) -> Part:
    """A part of a sparse table: row k is `value + k` throughout, its state -5."""
    block = np.full((len(keys), rules.width(spec.rule, spec.dim)), -5, np.float32)
    block[:, : spec.dim] = np.array(keys, np.float32)[:, None] + value
    return spec, np.array(keys, np.int64), block


def dense(spec: TableSpec = DENSE, value: float = 2.0) -> Part:
    block = np.full((1, rules.width(spec.rule, spec.dim)), -5, np.float32)
    block[:, : spec.dim] = value
    return spec, NO_KEYS, block


def save_shard(run: Path, epoch: int, shard: int, *parts: Part, shards: int = 2) -> None:
    facts = {"epoch": epoch, "shard": shard, "shards": shards, "job": "test"}
    snapshot.save(run / "model" / str(epoch), f"server-{shard}", {p[0].name: p for p in parts}, facts)


def save_client(run: Path, client: str, epoch: int, *parts: Part) -> None:
    snapshot.save(run / "private" / client / str(epoch), "tables", {p[0].name: p for p in parts}, {"epoch": epoch})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two servers and two clients, two epochs long; epoch 2 has values 100 higher."""
    folder = tmp_path / "run"
    for epoch, value in ((1, 1.0), (2, 101.0)):
        save_shard(folder, epoch, 0, rows(ITEMS, 2, 4, value=value))
        save_shard(folder, epoch, 1, rows(ITEMS, 3, value=value), dense(value=value))
        save_client(folder, "north", epoch, rows(USERS, 0, 2, value=value))
        save_client(folder, "south", epoch, rows(USERS, 5, value=value))
    return folder


def test_shards_are_joined_and_untouched_rows_stand_at_their_start(run: Path, tmp_path: Path) -> None:
    path = export_run(run, tmp_path / "out")
    found = load_file(path)
    assert path == tmp_path / "out" / "model.safetensors"
    assert set(found) == {"item.weight", "predict.weight"}
    due = initial_rows(ITEMS, np.arange(10))
    due[[2, 3, 4]] = [[103.0] * 3, [104.0] * 3, [105.0] * 3]
    np.testing.assert_array_equal(found["item.weight"], due)
    np.testing.assert_array_equal(found["predict.weight"], np.full((1, 4), 101.0, np.float32))


def test_the_same_export_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    found = {export_run(run, tmp_path / str(k), private=True).read_bytes() for k in range(20)}
    assert len(found) == 1
    with safe_open(tmp_path / "0" / "model.safetensors", "numpy") as file:
        assert file.metadata().keys() == {"format", "fedps", "epoch"}


def test_private_rows_are_joined_on_request(run: Path, tmp_path: Path) -> None:
    found = load_file(export_run(run, tmp_path / "out", private=True))
    due = initial_rows(USERS, np.arange(6))
    due[[0, 2, 5]] = [[101.0] * 2, [103.0] * 2, [106.0] * 2]
    np.testing.assert_array_equal(found["user.weight"], due)


def test_private_files_are_not_opened_unasked(run: Path, tmp_path: Path) -> None:
    (run / "private" / "north" / "2" / "tables.safetensors").write_bytes(b"torn")
    export_run(run, tmp_path / "out")
    with pytest.raises(DataError, match="north"):
        export_run(run, tmp_path / "out", private=True)


def test_an_epoch_may_be_chosen(run: Path, tmp_path: Path) -> None:
    path = export_run(run, tmp_path / "out", 1, private=True)
    found = load_file(path)
    assert found["predict.weight"][0, 0] == 1.0
    assert found["user.weight"][5, 0] == 6.0
    with safe_open(path, "numpy") as file:
        assert file.metadata()["epoch"] == "1"


def test_an_epoch_that_was_not_saved_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--epoch 3: .* has saved 1, 2"):
        export_run(run, tmp_path / "out", 3)


def test_epochs_count_as_numbers(run: Path, tmp_path: Path) -> None:
    save_shard(run, 10, 0, dense(value=10.0), shards=1)
    assert load_file(export_run(run, tmp_path / "out"))["predict.weight"][0, 0] == 10.0


def test_an_epoch_of_which_a_shard_is_missing_is_passed_over(run: Path, tmp_path: Path) -> None:
    (run / "model" / "2" / "server-1.json").unlink()
    assert load_file(export_run(run, tmp_path / "out"))["predict.weight"][0, 0] == 1.0
    with pytest.raises(DataError, match="holds no whole save"):
        export_run(run, tmp_path / "out", 2)


def test_a_client_lost_on_the_way_gives_its_last_rows(run: Path, tmp_path: Path) -> None:
    for file in (run / "private" / "south" / "2").iterdir():
        file.unlink()
    found = load_file(export_run(run, tmp_path / "out", private=True))["user.weight"]
    assert found[5, 0] == 6.0
    assert found[2, 0] == 103.0


def test_a_torn_shard_is_named_and_nothing_written(run: Path, tmp_path: Path) -> None:
    path = run / "model" / "2" / "server-0.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"server-0\.safetensors"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_two_clients_hold_cannot_be_one_model(run: Path, tmp_path: Path) -> None:
    save_client(run, "south", 2, rows(USERS, 2, 5))
    with pytest.raises(JobError, match=r"hold the same rows of user\.weight"):
        export_run(run, tmp_path / "out", private=True)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (rows(ITEMS, 11), r"rows outside \[0, 10\)"),
        (rows(ITEMS, -1), r"rows outside \[0, 10\)"),
        (rows(TableSpec("item.weight", "sparse", (10, 4)), 5), "do not fit together"),
        ((ITEMS, np.array([5]), np.zeros((1, 3), np.float32)), "do not fit together"),
        ((ITEMS, np.array([5, 7]), rows(ITEMS, 5)[2]), "do not fit together"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part: Part, told: str, run: Path, tmp_path: Path) -> None:
    save_shard(run, 2, 1, part)
    with pytest.raises(DataError, match=told):
        export_run(run, tmp_path / "out")


def test_no_run_and_no_save_are_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no such run folder"):
        export_run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="holds no whole save"):
        export_run(tmp_path, tmp_path / "out")


def test_the_file_is_its_owners_and_replaced_whole(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", 1)
    path = export_run(run, tmp_path / "out")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(f.name for f in path.parent.iterdir()) == ["model.json", "model.safetensors"]
    assert load_file(path)["predict.weight"][0, 0] == 101.0


def test_who_may_read_a_save_may_read_its_export_but_no_private_rows(run: Path, tmp_path: Path) -> None:
    for file in (run / "model" / "2").iterdir():
        file.chmod(0o640)
    assert stat.S_IMODE(export_run(run, tmp_path / "out").stat().st_mode) == 0o640
    assert stat.S_IMODE(export_run(run, tmp_path / "out", private=True).stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_made_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="choose another --out"):
        export_run(run, tmp_path / "out")


@pytest.mark.parametrize("mode", ["geo", "async"])
def test_the_exported_model_scores_as_the_clients_did_together(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    hyper = {"mode": "NCF_NeuMF", "mf_dim": 4, "optimizer": {"class": "adam", "learning_rate": 0.02}}
    user_tables = ["mf_user.weight", "mlp_user.weight"]
    job = make_job(hyper, sync_mode=mode, local_sparse=user_tables, server_num=2)
    events: list[dict[str, object]] = []
    run_in_process(job, tmp_path / "run", into(events))
    told = [e for e in events if e["event"] == "evaluated"]
    found = infer(job, export_run(tmp_path / "run", tmp_path / "out", private=True))
    users = sum(int(str(e["users"])) for e in told)
    assert found["users"] == users == 120
    for key, name in (("hits", "hr@10"), ("ndcg", "ndcg@10")):
        assert found[name] == pytest.approx(sum(float(str(e[key])) for e in told) / users, abs=1e-3)
    with pytest.raises(JobError, match=r"lacks mlp_user\.weight"):
        infer(job, export_run(tmp_path / "run", tmp_path / "shared"))


def test_the_rows_of_an_open_table_come_with_their_ids(tmp_path: Path) -> None:
    table, run = TableSpec("brand.weight", "sparse", (0, 2), ITEMS.rule, ITEMS.init), tmp_path / "run"
    save_shard(run, 1, 0, rows(table, -4, 2**62))
    save_shard(run, 1, 1, rows(table, -(2**63) + 1, 7))
    tensors = load_file(export_run(run, tmp_path / "out"))
    assert tensors["brand.weight.ids"].tolist() == [-(2**63) + 1, -4, 7, 2**62]
    np.testing.assert_array_equal(tensors["brand.weight"][1:3], [[-3, -3], [8, 8]])


def test_rows_that_wait_are_exported_as_they_are_served(tmp_path: Path) -> None:
    table, run = (
        TableSpec("t.weight", "sparse", (5, 2), init=Init("uniform", 1.0, 2.0), bounds=Bounds(3)),
        tmp_path / "run",
    )
    block = np.array([[9, 9, 0]], np.float32)
    save_shard(run, 1, 0, (table, np.array([2]), block), shards=1)
    tensors = load_file(export_run(run, tmp_path / "out"))
    assert tensors["t.weight"].tolist() == [[1.5, 1.5], [1.5, 1.5], [9, 9], [1.5, 1.5], [1.5, 1.5]]
