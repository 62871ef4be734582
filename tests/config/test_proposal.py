"""The first job for prepared data: what is chosen by what the data has, and how it is cut by how much there is."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from fedps.config import load_job
from fedps.config.proposal import Pace, choose, look_at, pace, propose
from fedps.errors import JobError

USER = {"kind": "id", "rows": 40, "side": "user"}
ITEM = {"kind": "id", "rows": 60}
OPEN = {"kind": "id", "rows": "open"}
LABEL, STARS = {"kind": "label"}, {"kind": "label", "of": "real"}
HISTORY = {"kind": "ids", "table": "item", "max": 200}
GENRES = {"kind": "ids", "rows": 18, "pooling": "mean"}
PAIR = {"user": USER, "item": ITEM, "label": LABEL}


def prepared(
    folder: Path,
    features: dict[str, Any] | None = None,
    samples: int = 4000,
    clients: int = 4,
    *sides: str,
    **told: Any,
) -> Path:
    for side in sides or ("train", "test"):
        (folder / side).mkdir(parents=True)
        for client in range(clients):
            (folder / side / f"{client}.csv").touch()
    facts: dict[str, Any] = {"num_users": 40, "num_items": 60} | ({"features": features} if features else {})
    facts["clients"] = {str(client): {"samples": samples} for client in range(clients)}
    (folder / "manifest.json").write_text(json.dumps(facts | told))
    return folder


@pytest.mark.parametrize(
    ("features", "mode"),
    [
        (None, "NCF_MLP"),
        (PAIR, "NCF_MLP"),
        (PAIR | {"label": STARS}, "MF"),
        (PAIR | {"item": OPEN}, "MF"),
        (PAIR | {"genres": GENRES}, "DeepFM"),
        (PAIR | {"likes": LABEL}, "DeepFM"),
        ({"C1": OPEN, "I1": {"kind": "number"}, "label": LABEL}, "DeepFM"),
        (PAIR | {"history": HISTORY}, "SASRec"),
        (PAIR | {"history": HISTORY, "genres": GENRES}, "DIN"),
        (PAIR | {"history": HISTORY, "label": STARS}, "DeepFM"),
    ],
)
def test_the_network_follows_from_what_the_data_has_and_takes_it(
    features: dict[str, Any] | None, mode: str, tmp_path: Path
) -> None:
    data = prepared(tmp_path / "data", features)
    assert choose(look_at(data)) == mode
    (data / "job.yaml").write_text(propose(data, data / "job.yaml").text)
    assert load_job(data / "job.yaml").hyper_parameters.mode == mode


@pytest.mark.parametrize(
    ("samples", "mode", "due"),
    [
        (497_000, "NCF_MLP", Pace(512, 971, 10, 2)),  # a client of MovieLens-1M by zip code
        (45_000, "NCF_MLP", Pace(256, 176, 10, 11)),  # and of MovieLens-100k
        (8_000, "DeepFM", Pace(64, 125, 10, 8)),
        (94, "SASRec", Pace(32, 3, 1, 30)),
        (1, "MF", Pace(32, 1, 1, 4)),
    ],
)
def test_batches_windows_and_passes_follow_from_how_much_there_is(
    samples: int, mode: str, due: Pace, tmp_path: Path
) -> None:
    assert pace(look_at(prepared(tmp_path / "data", None, samples)), mode) == due


def test_features_take_longer_to_tell_items_from_drawn_ones_than_clicks(tmp_path: Path) -> None:
    clicks = look_at(prepared(tmp_path / "data", PAIR | {"genres": GENRES}, 45_000))
    assert [pace(data, "DeepFM").epochs for data in (clicks, clicks._replace(candidates=True))] == [3, 8]
    assert pace(clicks._replace(candidates=True), "MF").epochs == 3


def test_a_window_is_never_a_whole_pass_where_there_is_more_than_a_batch(tmp_path: Path) -> None:
    data = look_at(prepared(tmp_path / "data"))
    for samples in (33, 100, 1000, 10_000, 10_000_000):
        size = pace(data._replace(samples=samples, clients=1), "DeepFM")
        assert size.window < size.batches


def test_the_file_has_all_from_its_own_folder_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared(tmp_path / "my data", PAIR | {"genres": GENRES}, 4000, 4, "train", "valid", "test")
    monkeypatch.chdir(tmp_path)
    for file in (Path("my data/job.yaml"), Path("jobs/one.yaml")):
        file.parent.mkdir(exist_ok=True)
        proposal = propose(Path("my data"), file)
        file.write_text(proposal.text)
        assert load_job(file).name == ("my data" if file.stem == "job" else "one")
        runner = load_job(file).runner
        assert (runner.train_data_dir, runner.test_data_dir) == (data / "train", data / "valid")
        assert proposal.command == ("fedps run 'my data/job.yaml'" if "my" in str(file) else "fedps run jobs/one.yaml")
        assert proposal.command in proposal.text


def test_many_clients_are_played_in_one_process(tmp_path: Path) -> None:
    assert propose(prepared(tmp_path / "few", None, 100, 64), Path("j.yaml")).command == "fedps run j.yaml"
    many = propose(prepared(tmp_path / "many", None, 100, 65), Path("j.yaml"))
    assert many.command == "fedps run j.yaml --in-process"


def test_positives_alone_count_with_the_negatives_that_training_draws(tmp_path: Path) -> None:
    alone = look_at(prepared(tmp_path / "data", None, 9_000, negatives=0))
    assert pace(alone, "NCF_MLP") == pace(look_at(prepared(tmp_path / "drawn", None, 45_000, negatives=4)), "NCF_MLP")
    assert pace(alone, "TwoTower") == pace(look_at(prepared(tmp_path / "whole", None, 9_000)), "TwoTower")


@pytest.mark.parametrize(
    ("features", "test_negatives", "due"),
    [
        (None, "drawn", ["hr@10", "ndcg@10", "auc"]),
        (None, "none", ["full_hr@10", "full_ndcg@10"]),
        (PAIR, "drawn", ["hr@10", "ndcg@10", "auc"]),
        (PAIR, "none", ["full_hr@10", "full_ndcg@10"]),
        (PAIR | {"genres": GENRES}, "drawn", ["hr@10", "ndcg@10", "auc"]),
        (PAIR | {"genres": GENRES}, "none", ["auc", "gauc", "logloss"]),
        (PAIR | {"label": STARS}, "none", ["rmse", "mae"]),
    ],
)
def test_what_is_measured_follows_from_what_is_held_out(
    features: dict[str, Any] | None, test_negatives: str, due: list[str], tmp_path: Path
) -> None:
    data = prepared(tmp_path / "data", features, test_negatives=test_negatives)
    (data / "job.yaml").write_text(propose(data, data / "job.yaml").text)
    assert list(load_job(data / "job.yaml").metrics) == due


@pytest.mark.parametrize(("users", "positions"), [(25, "last"), (100, "all"), (0, "all")])
def test_of_a_sequence_all_is_learned_where_it_stands_there_once(users: int, positions: str, tmp_path: Path) -> None:
    clients = {"0": {"samples": 100, "users": users}}
    data = prepared(tmp_path / "data", PAIR | {"history": HISTORY}, 100, 1)
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"clients": clients}))
    (data / "job.yaml").write_text(propose(data, data / "job.yaml").text)
    assert load_job(data / "job.yaml").hyper_parameters.train_positions == positions


def test_the_job_of_one_site_says_what_servers_without_data_have_to_know(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", PAIR | {"user": OPEN | {"side": "user"}}, partition="site")
    (data / "job.yaml").write_text(propose(data, data / "job.yaml").text)
    (data / "manifest.json").unlink()
    assert {n: f.rows for n, f in load_job(data / "job.yaml").features.items()} == {
        "user": "open",
        "item": 60,
        "label": None,
    }


def test_a_sequence_is_cut_to_what_helps(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", PAIR | {"history": HISTORY})
    (data / "job.yaml").write_text(propose(data, data / "job.yaml").text)
    job = load_job(data / "job.yaml")
    assert job.features["history"].max == 50
    assert job.metrics == ("full_hr@10", "full_ndcg@10")
    short = prepared(tmp_path / "short", PAIR | {"history": HISTORY | {"max": 20}})
    assert "features:" not in propose(short, short / "job.yaml").text


def test_what_stands_in_a_comment_for_another_network_is_a_job_too(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data")
    head, _, tail = propose(data, data / "job.yaml").text.partition("  mode: NCF_MLP")
    other = [line.replace("  # ", "  ", 1) for line in tail.splitlines() if line.startswith("  # ") and ":" in line]
    (data / "job.yaml").write_text(head + "\n".join(other))
    hyper = load_job(data / "job.yaml").hyper_parameters
    assert (hyper.mode, hyper.loss, hyper.optimizer.learning_rate) == ("MF", "bpr", 0.005)


def test_a_network_may_be_named_and_has_to_take_the_data(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data")
    for mode in ("NCF_GMF", "NCF_NeuMF", "MF", "TwoTower", "DeepFM", "DCNv2"):
        assert f"  mode: {mode}" in propose(data, data / "job.yaml", mode).text
    with pytest.raises(JobError, match="mode SASRec needs a sequence"):
        propose(data, data / "job.yaml", "SASRec")
    with pytest.raises(JobError, match=r"--model deepfm: there is no such network; there are NCF_MLP, .*SASRec"):
        propose(data, data / "job.yaml", "deepfm")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "there is none; make such a folder by `fedps data prepare`"),
        ("[1]", "there is none whose clients and sizes can be read"),
        ("{", "there is none whose clients and sizes can be read"),
        ('{"clients": {"0": {"samples": -9}}, "num_users": 1, "num_items": 2}', "has no samples to train on"),
        (
            '{"clients": {"0": {"samples": Infinity}}, "num_users": 1, "num_items": 2}',
            "there is none whose clients and sizes",
        ),
        ('{"clients": {"0": {"samples": 9}}, "features": {"a": 1}}', "manifest.json: features: say for each its keys"),
        (
            '{"clients": {"0": {"samples": 9}}, "features": {"a": {"kind": "idd"}}}',
            "manifest.json: features.a.kind: 'idd': must be one of",
        ),
        ('{"format": "other"}', "there is none whose clients and sizes can be read"),
        ('{"clients": {"0": {}}, "num_users": 1, "num_items": 2}', "has no samples to train on"),
        ('{"clients": {"0": {"samples": 9}}}', "there is none whose clients and sizes can be read"),
        ('{"clients": {"0": 3}, "num_users": 1, "num_items": 2}', "there is none whose clients and sizes can be read"),
        ('{"clients": {}, "num_users": 1, "num_items": 2}', "has no samples to train on"),
    ],
)
def test_a_folder_without_prepared_data_is_named(manifest: str | None, said: str, tmp_path: Path) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(JobError, match=re.escape(said)):
        propose(tmp_path, tmp_path / "job.yaml")
    with pytest.raises(JobError, match=r"nowhere: holds no prepared data: of its manifest\.json there is no folder"):
        propose(tmp_path / "nowhere", tmp_path / "job.yaml")


def test_a_folder_whose_name_no_job_could_say_is_refused(tmp_path: Path) -> None:
    data = prepared(Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen")))
    with pytest.raises(JobError, match=r"has a name that is no UTF-8, in which jobs are written; rename it"):
        propose(data, data / "job.yaml")
