"""From somebody's own file to a trained model: `fedps data prepare table`, and a job of three lines."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.launch.rooms import here

SHELF = Path(os.environ.get("FEDPS_DATA", "/nowhere"))
JOB = "runner:\n  train_data_dir: data/train\n  test_data_dir: data/test\n"


def taken() -> dict[str, list[str]]:
    """Users of two tastes, who took one item after another."""
    rng = np.random.default_rng(0)
    rows = [(user, item) for user in range(60) for item in rng.permutation(np.arange(user % 2, 240, 2))[:20].tolist()]
    return {
        "user_id": [f"user-{user:03}" for user, _ in rows],
        "item_id": [f"B{item:04}" for _, item in rows],
        "rating": [str(1 + k % 5) for k in range(len(rows))],
        "timestamp": [str(1_600_000_000 + k) for k in range(len(rows))],
    }


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: str = ""
) -> dict[str, float]:
    (folder / "job.yaml").write_text(JOB + more)
    assert here(monkeypatch, "run", folder / "job.yaml", "--run_dir", folder / "run", "--json", "--in-process") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "ok"
    return dict(summary["metrics"])


def test_a_csv_of_ratings_trains_by_a_job_of_three_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = taken()
    head, *lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    (tmp_path / "ratings.csv").write_text("\r\n".join([head, *lines[:700]]) + "\r\n")
    (tmp_path / "more.csv").write_text("\n".join([head, *lines[700:]]) + "\n")
    told = here(
        monkeypatch,
        "data",
        "prepare",
        "table",
        "--source",
        tmp_path / "ratings.csv",
        tmp_path / "more.csv",
        "--clients",
        "3",
        "--out",
        tmp_path / "data",
    )
    assert told == 0
    out = capsys.readouterr().out
    assert "ratings.csv: text by commas; user_id, item_id, rating, timestamp; CRLF line ends" in out
    assert "user 'user_id' (guessed)" in out
    assert run(tmp_path, monkeypatch, capsys)["hr@10"] > 0
    assert here(monkeypatch, "recommend", tmp_path / "run", "--user", "user-007", "-k", "5") == 0
    items = re.findall(r"B\d{4}", capsys.readouterr().out)
    seen = {item for user, item in zip(columns["user_id"], columns["item_id"], strict=True) if user == "user-007"}
    assert len(items) == 5 and not set(items) & (seen - {columns["item_id"][159]}), (
        "in the source's ids, and what was held out"
    )


def test_parquet_of_hospitals_with_features_trains_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = taken()
    where = ["north" if int(user[-3:]) < 30 else "south" for user in columns["user_id"]]
    parquet.write_table(pa.table({**columns, "hospital": where}), tmp_path / "visits.parquet")
    items = sorted(set(columns["item_id"]))
    parquet.write_table(
        pa.table({
            "item_id": items, "title": [f"Drug {item}" for item in items],
            "taste": ["even" if int(item[1:]) % 2 == 0 else "odd" for item in items],
            "price": [float(int(item[1:])) / 7 for item in items],
        }), tmp_path / "drugs.parquet",
    )  # fmt: skip
    assert here(
        monkeypatch, "data", "prepare", "table", tmp_path / "visits.parquet", "--items", tmp_path / "drugs.parquet", "--client",
        "hospital", "--out", tmp_path / "data",
    ) == 0  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "data" / "train").iterdir()) == ["north.csv", "south.csv"]
    capsys.readouterr()
    found = run(tmp_path, monkeypatch, capsys, "  metrics: [auc, hr@10]\nhyper_parameters: {mode: DeepFM}\n")
    assert found["hr@10"] > 0


def test_what_cannot_be_prepared_ends_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id\nann,x\n")
    for flags, said in (
        (
            ("--user", "usr_id"),
            "error: {}: has no column 'usr_id', given by --user; nearest: 'user_id'; there are 'user_id', 'item_id'",
        ),
        (("--core", "-1"), "--core"),
        (("--split", "half"), "half"),
    ):
        assert here(monkeypatch, "data", "prepare", "table", tmp_path / "a.csv", *flags, "--out", tmp_path / "out") == 2
        assert said.format(tmp_path / "a.csv") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (SHELF / "ml-100k.zip").is_file(), reason="real ML-100k is not at hand: set FEDPS_DATA")
def test_ml_100k_of_its_own_archive_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = SHELF / "ml-100k.zip"
    assert (
        here(
            monkeypatch,
            "data",
            "prepare",
            "table",
            archive / "u.data",
            "--items",
            archive / "u.item",
            "--out",
            tmp_path / "data",
        )
        == 0
    )
    capsys.readouterr()
    assert run(tmp_path, monkeypatch, capsys)["hr@10"] > 0.3
