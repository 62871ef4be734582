"""Saved epochs scored as the clients scored them, with predictions; what is missing or of another model is told."""

import io
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.errors import DataError, JobError
from fedps.launch.inprocess import run_in_process
from fedps.serving.infer import infer_epochs
from tests.conftest import MakeJob
from tests.events.kept import into

OWN = {"local_dense": ["predict.bias"], "server_num": 2, "epochs": 2}
HYPER = {"optimizer": {"class": "adam", "learning_rate": 0.02}}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Made once by the first test that asks: a run of two epochs, and what its clients found."""
    return {"folder": tmp_path_factory.mktemp("ran") / "run", "events": []}


@pytest.fixture
def run(ran: dict[str, Any], make_job: MakeJob) -> Path:
    folder: Path = ran["folder"]
    if not folder.exists():
        job = make_job(HYPER, save_mode="delta", sync_mode="async", train_batch_size=128, **OWN)
        run_in_process(job, folder, into(ran["events"]))
    return folder


def epochs_of(found: dict[str, object]) -> list[dict[str, Any]]:
    assert isinstance(found["epochs"], list)
    return found["epochs"]


def predictions(path: str | Path) -> Any:
    return np.loadtxt(path, delimiter=",", skiprows=1)


def test_epochs_score_as_their_clients_did_together(
    run: Path, ran: dict[str, Any], make_job: MakeJob, tmp_path: Path
) -> None:
    found = infer_epochs(make_job(HYPER, **OWN), run, tmp_path / "out")
    assert found["model"] == str(run / "model")
    assert [e["epoch"] for e in epochs_of(found)] == [1, 2]
    for told in epochs_of(found):
        theirs = [e for e in ran["events"] if e["event"] == "evaluated" and e["epoch"] == told["epoch"]]
        assert told["users"] == sum(e["users"] for e in theirs) == 120
        assert told["samples"] == 12_000
        assert told["hr@10"] == pytest.approx(sum(e["hits"] for e in theirs) / 120, abs=1e-3)
        assert told["ndcg@10"] == pytest.approx(sum(e["ndcg"] for e in theirs) / 120, abs=1e-3)
    assert epochs_of(found)[0]["loss"] != epochs_of(found)[1]["loss"], "hits of 120 users may well be the same in both"


def test_predictions_stand_in_the_order_of_the_test_files(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(HYPER, **OWN, infer_start_epoch=2, infer_end_epoch=3)
    told = epochs_of(infer_epochs(job, run, tmp_path / "out"))[0]
    path = tmp_path / "out" / "predictions-2.csv"
    assert told["predictions"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines()[0] == "user,item,label,prediction"
    assert job.runner.test_data_dir is not None
    files = [job.runner.test_data_dir / f"{client}.csv" for client in range(10)]
    due = np.concatenate([np.loadtxt(f, np.int64, delimiter=",") for f in files])
    rows = predictions(path)
    np.testing.assert_array_equal(rows[:, :3], due)
    p, y = rows[:, 3], rows[:, 2]
    assert told["loss"] == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-4)


def test_the_batch_size_changes_lines_and_nothing_else(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    found, logs = [], []
    for size in (1, 7000):
        job = make_job(HYPER, **OWN, infer_start_epoch=2, infer_batch_size=size, print_interval=5000 // size + 1)
        logs.append(io.StringIO())
        found.append(epochs_of(infer_epochs(job, run, tmp_path / "out", log=logs[-1]))[0])
    one, other = ({k: v for k, v in e.items() if k != "predictions"} for e in found)
    assert one == pytest.approx(other, abs=1e-3)
    lines = [log.getvalue().splitlines() for log in logs]
    assert lines[0][0] == "epoch: 2, batch_id: 0", "of one sample there is no AUC"
    assert [line.rpartition(" ")[0] for line in lines[0][1:]] == [
        f"epoch: 2, batch_id: {batch}, auc:" for batch in (5001, 10002)
    ]
    assert [line.rpartition(" ")[0] for line in lines[1]] == [
        "epoch: 2, batch_id: 0, auc:",
        "epoch: 2, batch_id: 1, auc:",
    ]
    assert float(lines[1][-1].rpartition(" ")[2]) == pytest.approx(found[0]["auc"], abs=1e-6)


def test_where_predictions_go(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    one = make_job(HYPER, **OWN, infer_start_epoch=1, infer_end_epoch=2)
    found = epochs_of(infer_epochs(one, run, tmp_path / "mine.csv"))
    assert found[0]["predictions"] == str(tmp_path / "mine.csv")
    assert epochs_of(infer_epochs(one, run))[0]["predictions"] == str(run / "predictions-1.csv")
    assert (run / "predictions-1.csv").is_file()
    with pytest.raises(JobError, match=r"--predictions .*mine\.csv: is one file for 2 epochs"):
        infer_epochs(make_job(HYPER, **OWN), run, tmp_path / "mine.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"below/predictions-1\.csv: cannot be written: .*choose another --predictions"):
        infer_epochs(one, run, tmp_path / "file" / "below")


def test_saves_that_lie_elsewhere_find_their_private_tables(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "kept")
    due = epochs_of(infer_epochs(make_job(HYPER, **OWN), run, tmp_path / "a"))
    for key in ("infer_load_path", "model_save_path"):
        found = infer_epochs(make_job(HYPER, **OWN, **{key: str(tmp_path / "kept")}), None, tmp_path / "b")
        drop = [{k: v for k, v in e.items() if k != "predictions"} for e in (*due, *epochs_of(found))]
        assert drop[:2] == drop[2:]


def test_epochs_count_from_one_and_zero_is_the_first(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(HYPER, **OWN, infer_start_epoch=0, infer_end_epoch=3)
    assert [e["epoch"] for e in epochs_of(infer_epochs(job, run, tmp_path / "out"))] == [1, 2]


@pytest.mark.parametrize(
    ("runner", "told"),
    [
        ({"infer_end_epoch": 5}, r"infer_end_epoch: 5: epoch 3 is not saved, or not whole; .* holds epochs 1, 2"),
        ({"infer_start_epoch": 7}, r"infer_start_epoch: 7: no saved epoch from there on .* holds epochs 1, 2"),
        ({"infer_start_epoch": 0, "infer_end_epoch": 1}, r"no saved epoch from there on before the end"),
        ({"infer_load_path": "RUN/nowhere"}, r"nowhere: there is no such folder of saved epochs"),
        ({"infer_load_path": "RUN/model/1"}, r"model/1 is itself a saved epoch: name the folder above it"),
        ({"infer_load_path": "PADDLES"}, r"theirs: is a save of PaddlePaddle .*folders 000, 001"),
        ({"infer_load_path": "RUN/log"}, r"log holds no saved epoch"),
        ({"test_data_dir": None}, r"runner\.test_data_dir: is missing"),
    ],
)
def test_epochs_that_are_not_there_are_told(
    runner: dict[str, Any], told: str, run: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    if path := runner.get("infer_load_path"):
        theirs = tmp_path / "theirs"
        (theirs / "1" / "000").mkdir(parents=True)
        (theirs / "1" / "000" / "part-000-00000.gz").write_bytes(b"")
        path = path.replace("PADDLES", str(theirs)).replace("RUN", str(run))
        runner = {**runner, "infer_load_path": path}
    with pytest.raises(JobError, match=told):
        infer_epochs(make_job(HYPER, **{**OWN, **runner}), run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_folder_at_all_says_what_to_give(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=r"runner\.infer_load_path: is missing, and so is model_save_path"):
        infer_epochs(make_job())


@pytest.mark.parametrize(
    ("hyper", "own", "told"),
    [
        ({"fc_layers": [32, 8, 4]}, {}, r"mlp_item\.weight has shape \(220, 8\); the job's network has \(220, 16\)"),
        ({"mode": "NCF_GMF"}, {"local_sparse": ["mf_user.weight"]}, r"lacks mf_item\.weight; it holds .*mlp_item"),
    ],
)
def test_another_models_folder_is_refused(
    hyper: dict[str, object], own: dict[str, Any], told: str, run: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job({**HYPER, **hyper}, **{**OWN, **own, "infer_start_epoch": 2})
    with pytest.raises(JobError, match=told) as caught:
        infer_epochs(job, run, tmp_path / "out")
    assert "of another model?" in str(caught.value)


def test_a_catalogue_that_grew_is_taken_over_by_id_and_it_is_said_how_many_are_new(
    run: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    before = epochs_of(infer_epochs(make_job(HYPER, **OWN), run, tmp_path / "out"))
    job = make_job(HYPER | {"num_users": 125, "num_items": 250}, **OWN)
    found = infer_epochs(job, run, tmp_path / "out")
    assert epochs_of(found) == before, "who was there is scored as ever"
    said = "rows are taken over by id; 30 new ids of mlp_item.weight, 5 new ids of mlp_user.weight start fresh"
    assert found["note"] == f"{run / 'model'}: {said}"

    test = tmp_path / "test"
    assert job.runner.test_data_dir is not None
    shutil.copytree(job.runner.test_data_dir, test)
    new = "".join(f"124,{item},{int(item == 249)}\n" for item in [249, *range(99)])
    (test / "3.csv").write_text((test / "3.csv").read_text() + new)
    job = make_job(HYPER | {"num_users": 125, "num_items": 250}, **{**OWN, "test_data_dir": str(test)})
    users = [epoch["users"] for epoch in epochs_of(infer_epochs(job, run, tmp_path / "out"))]
    assert users == [121, 121], "a user whom nobody knew has a row that is as it starts"


def test_clients_that_have_groups_are_ranked_and_of_the_others_it_is_said(
    run: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    job, test = make_job(HYPER, **OWN), tmp_path / "test"
    assert job.runner.test_data_dir is not None
    shutil.copytree(job.runner.test_data_dir, test)
    left_out = len((test / "4.csv").read_text().splitlines()) // 100
    (test / "4.csv").write_text("".join((test / "4.csv").read_text().splitlines(keepends=True)[:-7]))
    mixed = infer_epochs(make_job(HYPER, **{**OWN, "test_data_dir": str(test)}), run, tmp_path / "out")
    (test / "4.csv").unlink()
    ranked = infer_epochs(make_job(HYPER, **{**OWN, "test_data_dir": str(test)}), run, tmp_path / "out")
    for one, other in zip(epochs_of(mixed), epochs_of(ranked), strict=True):
        assert (one["users"], one["hr@10"], one["ndcg@10"]) == (other["users"], other["hr@10"], other["ndcg@10"])
        assert one["users"] == 120 - left_out and one["samples"] == 12_000 - 7
        assert one["loss"] != other["loss"], "loss and AUC are of all samples"
    assert "4.csv: samples" in str(mixed["note"]) and "no HR@10 and NDCG@10" in str(mixed["note"])
    assert "note" not in ranked


def test_whose_private_rows_are_missing_is_told(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for client in ("3", "7"):
        shutil.rmtree(tmp_path / "run" / "private" / client)
    with pytest.raises(
        JobError, match=r"mlp_user\.weight, predict\.bias is private, and that of client 3, 7 is not in"
    ):
        infer_epochs(make_job(HYPER, **OWN), tmp_path / "run")


def test_a_client_scores_its_own_samples_where_only_its_rows_are(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(HYPER, **OWN, infer_start_epoch=2)
    everybody = epochs_of(infer_epochs(job, run, tmp_path / "all"))
    shutil.copytree(run, tmp_path / "run")
    for client in (tmp_path / "run" / "private").iterdir():
        if client.name != "3":
            shutil.rmtree(client)
    (tmp_path / "test").mkdir()
    assert job.runner.test_data_dir is not None
    shutil.copy(job.runner.test_data_dir / "3.csv", tmp_path / "test")
    mine = make_job(HYPER, **OWN, infer_start_epoch=2, test_data_dir=str(tmp_path / "test"))
    found = epochs_of(infer_epochs(mine, tmp_path / "run"))
    rows, theirs = predictions(found[0]["predictions"]), predictions(everybody[0]["predictions"])
    np.testing.assert_allclose(rows, theirs[np.isin(theirs[:, 0], rows[:, 0])], rtol=1e-5)


def test_held_out_users_that_have_no_private_row_are_told(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(HYPER, **OWN)
    (tmp_path / "test").mkdir()
    assert job.runner.test_data_dir is not None
    shutil.copy(job.runner.test_data_dir / "4.csv", tmp_path / "test" / "3.csv")
    mixed = make_job(HYPER, **OWN, test_data_dir=str(tmp_path / "test"))
    with pytest.raises(JobError, match=r"3/1: mlp_user\.weight has no row of user \d+, whom the held-out samples name"):
        infer_epochs(mixed, run, tmp_path / "out")


def test_a_torn_or_missing_file_of_an_epoch_is_named(run: Path, make_job: MakeJob, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    job = make_job(HYPER, **OWN)
    path = tmp_path / "run" / "private" / "3" / "2" / "tables.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"3/2/tables\.safetensors: is torn"):
        infer_epochs(job, tmp_path / "run", tmp_path / "out")
    for file in (tmp_path / "run" / "model" / "1").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"2/server-0\.json: holds only what changed since epoch 1, .* is gone"):
        infer_epochs(job, tmp_path / "run", tmp_path / "out")
