"""A job of any features, whole: files with headers, a network of one's own, every mode, saved epochs scored anew."""

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedps.config import Allow, load_job
from fedps.data.read.client import read_client
from fedps.errors import JobError
from fedps.events.events import Entry
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from fedps.serving.export import export_run
from fedps.serving.infer import infer, infer_epochs
from fedps.types import Bags, ClientId
from tests.launch.runs import fedps

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.city, self.item, self.genre = nn.Embedding(64, 4), nn.Embedding(64, 4), nn.Embedding(7, 4)
        self.top = nn.Linear(14, 1)

    def forward(self, city, item, genres, history, age):
        rows = [self.city(city), self.item(item) * self.item(history).mean(1), self.genre(genres), age]
        return self.top(torch.cat(rows, 1)).squeeze(1)
"""
CITIES = ["Köln", "São Paulo", "7", "", "-1", "a, b"]
FEATURES: dict[str, dict[str, Any]] = {
    "city": {"kind": "id", "rows": "open", "side": "user"},
    "item": {"kind": "id", "rows": "open"},
    "genres": {"kind": "ids", "rows": 7, "pooling": "sum"},
    "history": {"kind": "ids", "table": "item", "max": 6},
    "age": {"kind": "number", "dim": 2},
    "click": {"kind": "label"},
}


def write_job(
    folder: Path, features: Mapping[str, Any] = FEATURES, hyper: Mapping[str, Any] = {}, **runner: Any
) -> Path:
    """Write a job of three clients whose samples tell no user, with their files and a network; return the job file."""
    rng = np.random.default_rng(0)
    for side, samples in (("train", 200), ("test", 90)):
        (folder / side).mkdir(exist_ok=True)
        for client in "012":
            with (folder / side / f"{client}.csv").open("w", newline="") as file:
                write = csv.writer(file, delimiter="\t").writerow
                write(["click", "age", "history", "note", "genres", "item", "city"])
                for _ in range(samples):
                    item, genres = rng.integers(50), rng.choice(7, rng.integers(0, 4), replace=False)
                    history, age = rng.integers(0, 50, rng.integers(0, 9)), rng.normal(size=2)
                    click = int(age[0] + (item % 2) > 0.5)
                    write(
                        [
                            click,
                            *("|".join(map(str, v)) for v in (age, history)),
                            'a "\t"',
                            "|".join(map(str, genres)),
                            item,
                            rng.integers(30),
                        ]
                    )
    (folder / "net.py").write_text(NET)
    tree = {
        "runner": {
            "train_data_dir": "train", "test_data_dir": "test", "train_batch_size": 32, "geo_step": 2, "epochs": 1,
            "model": "net.Net", **runner,
        },
        "hyper_parameters": {"optimizer": {"class": "adam", "learning_rate": 0.05}, **hyper},
        "features": dict(features),
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "job.yaml"


@pytest.mark.parametrize("mode", ["geo", "sync", "async", "round"])
def test_every_mode_trains_them_and_a_saved_epoch_scores_as_its_clients_did(mode: str, tmp_path: Path) -> None:
    job, entries = load_job(write_job(tmp_path, sync_mode=mode, server_num=2)), list[Entry]()
    run_in_process(job, tmp_path / "run", entries.append)
    ledger = Ledger(job, 0.0)
    for entry in entries:
        ledger.take(entry)
    measured = ledger.summary(2e9, None)["metrics"]
    assert measured["auc"] > 0.6
    epoch: dict[str, Any] = infer_epochs(job, tmp_path / "run")["epochs"][0]  # type: ignore[index]
    assert {name: epoch[name] for name in ("auc", "logloss")} == pytest.approx(
        {name: measured[name] for name in ("auc", "logloss")}, rel=1e-4
    )
    assert epoch["samples"] == 270
    lines = Path(epoch["predictions"]).read_text().splitlines()
    assert lines[0] == "city,item,genres,history,age,click,prediction"
    assert len(lines) == 271


def test_an_export_with_open_tables_scores_as_the_run_did(tmp_path: Path) -> None:
    job, entries = load_job(write_job(tmp_path, local_sparse=[])), list[Entry]()
    run_in_process(job, tmp_path / "run", entries.append)
    epoch: dict[str, Any] = infer_epochs(job, tmp_path / "run")["epochs"][0]  # type: ignore[index]
    found = infer(job, export_run(tmp_path / "run", tmp_path / "out"))
    assert found["samples"] == epoch["samples"]
    assert found["logloss"] == pytest.approx(epoch["logloss"], rel=1e-5)
    private = load_job(write_job(tmp_path))
    run_in_process(private, tmp_path / "other", entries.append)
    with pytest.raises(JobError, match=r"lacks city\.weight or city\.weight\.ids.* exported only on request"):
        infer(private, export_run(tmp_path / "other", tmp_path / "out"))


@pytest.mark.parametrize("flags", [[], pytest.param(["--in-process"], marks=pytest.mark.slow)])
def test_they_run_from_the_command_line(flags: list[str], tmp_path: Path) -> None:
    job = write_job(tmp_path, with_coordinator=True, save_mode="delta")
    said = fedps("config", "check", job)
    assert said.returncode == 0, said.stderr
    said = fedps("run", job, "--run_dir", tmp_path / "run", *flags)
    assert said.returncode == 0, said.stdout + said.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["auc"] > 0.6
    assert summary["metrics"]["logloss"] > 0
    said = fedps("infer", job, "--run_dir", tmp_path / "run", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["epochs"][0]["auc"] == pytest.approx(summary["metrics"]["auc"], rel=1e-4)


def test_a_column_that_one_clients_file_lacks_is_told_before_anything_starts(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    file = tmp_path / "train" / "1.csv"
    file.write_text(file.read_text().replace("genres", "genre"))
    for command in (["config", "check", job], ["run", job, "--run_dir", tmp_path / "run"]):
        said = fedps(*command)
        assert said.returncode == 2
        assert (
            f"{file}, line 1: has no column 'genres', of features.genres; there are click, age, history" in said.stderr
        )
        assert "Traceback" not in said.stderr
        assert not (tmp_path / "run").exists()


def test_what_makes_no_sense_of_them_is_told(tmp_path: Path) -> None:
    job = write_job(tmp_path, negatives=2)
    said = fedps("config", "check", job)
    assert said.returncode == 2
    assert "runner.negatives: 2: there is no feature user of kind id; leave the key out" in said.stderr
    (tmp_path / "public.csv").write_text("1,2,1\n")
    with pytest.raises(
        JobError, match="distill pairs of counted users and items alone; leave it or city, item, genres"
    ):
        load_job(job, ["distillation.public_data=public.csv", "runner.with_coordinator=true"])


def test_a_dump_has_any_features_but_what_is_private(tmp_path: Path) -> None:
    asked = ["city", "item", "genres", "history", "age", "click", "prediction"]
    job = load_job(write_job(tmp_path, need_dump=True, dump_fields=asked, worker_num=3))
    for private, shown in ((False, ["item", "genres", "history", "click", "prediction"]), (True, asked)):
        run = tmp_path / f"run-{private}"
        run_in_process(job, run, list[Entry]().append, Allow(private_dump=private))
        [first, *rest] = (run / "dump" / "epoch_0" / "part-000-00000").read_text().splitlines()
        fields = [field.split(":") for field in first.lstrip("\t").split("\t")]
        assert [name for name, *_ in fields] == shown
        assert all(int(count) == len(values) for _, count, *values in fields)
        assert len(rest) == 199


@pytest.mark.parametrize(
    ("change", "keys", "said"),
    [
        ({}, {"negatives": 2}, "runner.negatives: 2: features tags could tell of the item; leave the key out"),
        ({"tags": {"kind": "ids", "table": "item", "pooling": "sum", "side": "item"}}, {"negatives": 2}, "features tags could tell"),
        ({"click": {"kind": "label", "of": "real"}}, {"negatives": 2}, "runner.negatives: 2: what is drawn has label 0"),
        ({}, {"metrics": ["auc", "full_ndcg@10"]},
         "runner.metrics: 'full_ndcg@10': ranks all items, each in place of a sample's own, and tags may tell of that one"),
        ({}, {"num_items": 100}, "hyper_parameters.num_items: 100: features.item.rows is 50: leave the key out"),
        ({"user": None}, {"loss": "bpr"}, "loss: bpr: ranks the items of one user, and there is no feature user of kind id"),
    ],
)  # fmt: skip
def test_no_other_item_takes_the_place_of_one_that_features_may_tell_of(
    change: dict[str, Any], keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    features = {
        "user": {"kind": "id", "rows": 9},
        "item": {"kind": "id", "rows": 50},
        "tags": {"kind": "ids", "rows": 7, "pooling": "mean"},
        "click": {"kind": "label"},
    }
    with pytest.raises(JobError, match=re.escape(said)):
        hyper, runner = (
            {k: v for k, v in keys.items() if (k in ("loss", "num_items")) is due} for due in (True, False)
        )
        load_job(write_job(tmp_path, {k: f for k, f in (features | change).items() if f}, hyper, **runner))


def test_drawn_negatives_and_full_rankings_keep_what_is_the_users(tmp_path: Path) -> None:
    features = {
        "user": {**FEATURES["city"], "column": "city"},
        "item": {"kind": "id", "rows": 64},
        "history": FEATURES["history"],
        "age": {**FEATURES["age"], "side": "user"},
        "click": FEATURES["click"],
    }
    job = load_job(write_job(tmp_path, features, negatives=3, metrics=["auc", "full_ndcg@10"]))
    net = NET.replace("city, item, genres", "user, item").replace("self.city(city)", "self.city(user)")
    (tmp_path / "net.py").write_text(net.replace("self.genre(genres)", "self.city(user)"))
    entries = list[Entry]()
    run_in_process(job, tmp_path / "run", entries.append)
    ledger = Ledger(job, 0.0)
    for entry in entries:
        ledger.take(entry)
    assert ledger.summary(2e9, None)["metrics"]["full_ndcg@10"] > 0
    data = read_client(job, ClientId("0"))
    data.order(0)
    groups = data.train.at(slice(4 * 5, 4 * 6))
    assert list(groups.label) == [1, 0, 0, 0]
    assert len(set(groups.item)) > 1
    assert len(set(groups.user)) == 1
    history, age = groups.columns["history"], groups.columns["age"]
    assert isinstance(history, Bags)
    assert len({tuple(history.at(np.array([k])).ids) for k in range(4)}) == 1
    assert len(np.unique(np.asarray(age), axis=0)) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda text: re.sub(r"\n[01]\t", "\n7\t", text, count=1),
            "1.csv, line 2, column 'click': '7' is neither 0 nor 1",
        ),
        (
            lambda text: re.sub(r"\n[01]\t", "\nx\t", text),
            "1.csv, line 2, column 'click': 'x' is no number; write 0 or 1\n",
        ),
    ],
)
def test_the_client_whose_data_are_of_another_schema_is_named_before_anybody_trains(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    job, path = write_job(tmp_path), tmp_path / "train" / "1.csv"
    path.write_text(change(path.read_text()))
    ended = fedps("run", job, "--run_dir", tmp_path / "run")
    assert ended.returncode == 2, ended.stderr
    assert f"error: {tmp_path}/train/{said}" in ended.stderr
    assert "Traceback" not in ended.stderr and "/0.csv" not in ended.stderr and "/2.csv" not in ended.stderr
    assert not (tmp_path / "run").exists(), "nothing was started"
