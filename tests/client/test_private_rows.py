"""Private rows on their client's disk: they come back to it, and what is said when they do not."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.client import private_rows
from fedps.config import Job, TableParameters
from fedps.data.read.client import read_client
from fedps.errors import DataError, JobError
from fedps.launch.inprocess import run_in_process
from fedps.storage import snapshot
from fedps.storage.epochs import find_private, read_model, read_private
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import NO_KEYS, ClientId, TableSpec
from tests.conftest import MakeJob, batches_of
from tests.events.kept import into

ME = ClientId("3")
OWN = {"local_dense": ["predict.bias"]}


def learner_of(job: Job) -> Learner:
    return Learner(make_plan(job), job, read_client(job, ME), local_optimizer=False)


def trained(job: Job, batches: int) -> Learner:
    learner, data = learner_of(job), read_client(job, ME)
    for _, batch in zip(range(batches), batches_of(data, 0, 16), strict=False):
        learner.train(batch, 16)
    return learner


def save(learner: Learner, home: Path, epoch: int) -> None:
    snapshot.save(home / ME / str(epoch), "tables", learner.private_block(), {"epoch": epoch})


def warm(job: Job, folder: Path) -> tuple[Learner, str]:
    learner, log = learner_of(job), io.StringIO()
    private_rows.start_from(folder, learner, ME, log)
    return learner, log.getvalue()


def same(one: Learner, other: Learner) -> bool:
    pairs = zip(one.private_block().values(), other.private_block().values(), strict=True)
    return all(np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2]) for a, b in pairs)


@pytest.mark.parametrize("rule", ["adam", "lazy_adam", "sgd"])
def test_rows_come_back_with_their_state_and_train_on_as_before(rule: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job({"optimizer": {"class": rule, "learning_rate": 0.05}})
    before = trained(job, 5)
    save(before, tmp_path / "private", 2)
    learner, told = warm(job, tmp_path / "model" / "2")
    assert told == ""
    assert same(learner, before)
    data = read_client(job, ME)
    for batch in list(batches_of(data, 1, 16))[:5]:
        for one in (learner, before):
            one.train(batch, 16)
    rows = [one.private["mlp_user.weight"].block for one in (learner, before)]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5, atol=1e-7)


def test_a_client_that_was_lost_on_the_way_gets_its_last_rows(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    before = trained(job, 3)
    save(before, tmp_path / "private", 1)
    assert same(warm(job, tmp_path / "model" / "6")[0], before)


def test_rows_that_are_not_there_start_anew_and_it_is_said(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(**OWN)
    fresh = learner_of(job)
    learner, told = warm(job, tmp_path / "model" / "2")
    assert same(learner, fresh)
    assert told.count("\n") == 1
    assert "has no mlp_user.weight, predict.bias of client 3: they start anew" in told
    table = learner.private["mlp_user.weight"]
    half = {"mlp_user.weight": (table.spec, table.keys[::2], np.ones_like(table.block[::2]))}
    snapshot.save(tmp_path / "private" / ME / "2", "tables", half, {})
    learner, told = warm(job, tmp_path / "model" / "2")
    assert "has no predict.bias of client 3" in told
    assert (learner.private["mlp_user.weight"].values[::2] == 1).all()
    np.testing.assert_array_equal(
        learner.private["mlp_user.weight"].values[1::2], fresh.private["mlp_user.weight"].values[1::2]
    )


def test_a_model_without_private_tables_asks_for_none(make_job: MakeJob, tmp_path: Path) -> None:
    assert warm(make_job(local_sparse=[]), tmp_path / "model" / "2")[1] == ""


def test_another_shape_is_refused_with_both(make_job: MakeJob, tmp_path: Path) -> None:
    save(learner_of(make_job({"fc_layers": [8, 4, 4]})), tmp_path / "private", 2)
    with pytest.raises(JobError, match=r"mlp_user\.weight has shape 120 × 4 there and 120 × 8 in this job"):
        warm(make_job(), tmp_path / "model" / "2")


def test_rows_of_more_ids_are_taken_over_by_id_and_it_is_said_how_many(make_job: MakeJob, tmp_path: Path) -> None:
    before = trained(make_job(), 3)
    save(before, tmp_path / "private", 2)
    after, told = warm(make_job({"num_users": 150}), tmp_path / "model" / "2")
    assert after.private["mlp_user.weight"].spec.shape[0] == 150
    one, other = (learner.private["mlp_user.weight"] for learner in (after, before))
    np.testing.assert_array_equal(one.block, other.block)
    assert told.endswith("3/2: rows are taken over by id; 30 new ids of mlp_user.weight start fresh\n")


def test_a_torn_file_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    save(learner_of(job), tmp_path / "private", 2)
    path = tmp_path / "private" / ME / "2" / "tables.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"3/2/tables\.safetensors: is torn"):
        warm(job, tmp_path / "model" / "2")


@pytest.mark.parametrize(("keep", "there"), [(None, ["1", "2", "3", "4", "5"]), (2, ["4", "5"]), (3, ["3", "4", "5"])])
def test_of_a_clients_saves_so_many_stay_as_the_job_says(
    keep: int | None, there: list[str], make_job: MakeJob, tmp_path: Path
) -> None:
    job, home = make_job(), tmp_path / "private" / ME
    learner = learner_of(job)
    (home / "notes").mkdir(parents=True)
    (home / "1").mkdir()
    (home / "1" / "mine.txt").write_text("mine")
    for epoch in range(1, 6):
        private_rows.save(learner, tmp_path, ME, epoch, keep)
    saved = sorted(folder.name for folder in home.iterdir() if list(folder.glob("tables*.safetensors")))
    assert saved == there
    assert (home / "notes").is_dir() and (home / "1" / "mine.txt").read_text() == "mine", "what is not ours stays"
    assert set(read_private(home / "5")) == set(learner.private_block())


def test_private_tables_are_found_through_the_save_when_it_lies_elsewhere(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    before = trained(job, 3)
    save(before, tmp_path / "run" / "private", 2)
    facts = {"epoch": 2, "shard": 0, "shards": 1, "run": str(tmp_path / "run")}
    tables = {"t": (TableSpec("t", "dense", (1,)), NO_KEYS, np.zeros((1, 1), np.float32))}
    snapshot.save(tmp_path / "kept" / "last", "server-0", tables, facts)
    assert find_private(tmp_path / "kept" / "last") == tmp_path / "run" / "private"
    assert same(warm(job, tmp_path / "kept" / "last")[0], before)  # the number is in the manifest, too


@pytest.mark.parametrize("mode", ["geo", "async"])
def test_a_run_goes_on_from_another_with_other_servers(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    def run(folder: Path, **runner: Any) -> list[dict[str, object]]:
        events: list[dict[str, object]] = []
        hyper = {"optimizer": {"class": "adam", "learning_rate": 0.02}}
        job = make_job(hyper, sync_mode=mode, train_batch_size=200, geo_step=1, **OWN, **runner)
        run_in_process(job, folder, into(events))
        return events

    run(tmp_path / "a", server_num=2, epochs=6, eval_every=0)
    cold, warmed = (
        [float(str(e["loss"])) for e in events if e["event"] == "epoch_end" and e["epoch"] == 0]
        for events in (
            run(tmp_path / "b", server_num=3),
            run(tmp_path / "c", server_num=3, warmup_model_path=str(tmp_path / "a" / "model" / "6")),
        )
    )
    assert sum(warmed) < 0.95 * sum(cold)  # of all: in async, who comes last learns from those before
    assert "start anew" not in (tmp_path / "c" / "log" / "workerlog.3").read_text()


def test_a_run_from_another_models_folder_fails_before_it_trains(make_job: MakeJob, tmp_path: Path) -> None:
    run_in_process(make_job(), tmp_path / "a", lambda e: None)
    events: list[dict[str, object]] = []
    job = make_job({"fc_layers": [32, 8, 4]}, local_sparse=[], warmup_model_path=str(tmp_path / "a" / "model" / "1"))
    with pytest.raises(Exception, match=r"runner\.warmup_model_path: .* has shape 220 × 8 there and 220 × 16|holds no"):
        run_in_process(job, tmp_path / "b", into(events))
    assert not [e for e in events if e["event"] == "first_batch"]


def test_a_worker_by_hand_keeps_a_bounded_tables_values(make_job: MakeJob, tmp_path: Path) -> None:
    """Ages and uses of its rows are the servers' alone, so the client's save has none."""
    job = make_job().model_copy(update={"table_parameters": {"mlp_item.weight": TableParameters(max_rows=9)}})
    learner = learner_of(job)
    assert learner.tables["mlp_item.weight"].spec.bounds.max_rows == 9
    private_rows.save_shared(learner, job, tmp_path, 1)
    [table] = [t for name, t in read_model(tmp_path / "model" / "1").items() if name == "mlp_item.weight"]
    np.testing.assert_array_equal(table.values, learner.tables["mlp_item.weight"].values)
