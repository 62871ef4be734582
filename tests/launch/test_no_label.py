"""Data without a label: all samples are positives, and what they are told from is drawn, or the batch's other items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedps.config import Allow, describe, load_job
from fedps.config.job import Job
from fedps.data.read.client import read_client
from fedps.errors import DataError, JobError
from fedps.events.events import Entry
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from fedps.types import ClientId

PAIR: dict[str, dict[str, Any]] = {
    "user": {"kind": "id", "rows": 20, "side": "user"},
    "item": {"kind": "id", "rows": 30},
}
LABEL = {"label": {"kind": "label"}}


def job_of(folder: Path, hyper: Mapping[str, Any], features: Mapping[str, Any] = PAIR, **runner: Any) -> Job:
    """Write a job of two clients, whose files have a label of ones if the features do."""
    rng = np.random.default_rng(1)
    for client in "01":
        for side in ("train", "test"):
            (folder / side).mkdir(parents=True, exist_ok=True)
            lines = [f"{rng.integers(20)},{rng.integers(30)}{',1' * ('label' in features)}\n" for _ in range(60)]
            header = f"user,item{',label' * ('label' in features)}\n"
            (folder / side / f"{client}.csv").write_text(header + "".join(lines))
    runner = {"train_data_dir": "train", "test_data_dir": "test", "train_batch_size": 20, "epochs": 1, **runner}
    tree = {"runner": runner, "hyper_parameters": dict(hyper), "features": dict(features)}
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_job(folder / "job.yaml")


LEARNT = {
    "in_batch_softmax": {"mode": "TwoTower", "loss": "in_batch_softmax"},
    "bpr": {"mode": "MF", "loss": "bpr"},
    "bce": {"mode": "MF"},
    "sampled_softmax": {"mode": "MF", "loss": "sampled_softmax"},
}


@pytest.mark.parametrize("loss", LEARNT)
def test_a_job_without_a_label_trains_as_one_with_a_column_of_ones(loss: str, tmp_path: Path) -> None:
    found = []
    more = {"negatives": 4, "metrics": ["full_hr@10", "full_ndcg@10"]} if loss == "sampled_softmax" else {}
    for name, features in (("without", PAIR), ("with", PAIR | LABEL)):
        job, entries = job_of(tmp_path / name, LEARNT[loss], features, **more), list[Entry]()
        if name == "without":
            assert job.metrics == ("full_hr@10", "full_ndcg@10"), "others say nothing of positives alone"
            assert list(job.features) == ["user", "item"]
        else:
            job = job.model_copy(
                update={"runner": job.runner.model_copy(update={"metrics": ("full_hr@10", "full_ndcg@10")})}
            )
        run_in_process(job, tmp_path / name / "run", entries.append)
        ledger = Ledger(job, 0.0)
        for entry in entries:
            ledger.take(entry)
        found.append(ledger.summary(2e9, None)["metrics"])
    assert found[0] == found[1]
    assert found[0]["full_ndcg@10"] is not None


def test_it_is_said_what_there_is_to_be_learned_where_nothing_can_be_drawn(tmp_path: Path) -> None:
    genre = PAIR | {"genre": {"kind": "id", "rows": 3}}
    for hyper, features, runner, why in (
        ({"mode": "MF"}, PAIR, {"negatives": 0}, r"runner\.negatives is 0"),
        ({"mode": "DeepFM"}, genre, {}, "features genre could tell of the item"),
        ({"mode": "DeepFM"}, genre | {"label": {"kind": "label", "column": ""}}, {}, "label is always 1, so all"),
    ):
        with pytest.raises(JobError, match=rf"features: .*all samples are positives, and no negatives .*{why}|{why}"):
            job_of(tmp_path, hyper, features, **runner)
    job_of(tmp_path, {"mode": "TwoTower", "loss": "in_batch_softmax"}, genre)
    with pytest.raises(JobError, match=r"features\.b\.column: '': only a binary label that is the only one"):
        job_of(tmp_path, {"mode": "DeepFM"}, PAIR | {"a": {"kind": "label"}, "b": {"kind": "label", "column": ""}})


def test_a_kept_file_without_labels_is_read_again_the_same_and_the_job_can_be_written_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"mode": "MF"})
    first, again = (read_client(job, ClientId("0"), Allow()).train for _ in range(2))
    assert first.label.tolist() == again.label.tolist()
    np.testing.assert_array_equal(first.columns["item"], again.columns["item"])
    (tmp_path / "again.yaml").write_text(describe(tmp_path / "job.yaml"))
    assert load_job(tmp_path / "again.yaml").inputs == job.inputs


def test_lines_that_have_a_label_by_their_form_want_one_of_the_job(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"mode": "MF"})
    (tmp_path / "train" / "0.csv").unlink()
    (tmp_path / "train" / "0.libsvm").write_text("0 3:1 4:1\n")
    with pytest.raises(DataError, match=r"0\.libsvm: lines `label index:value …` have a label: add one to features"):
        read_client(job, ClientId("0"))
