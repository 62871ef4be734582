"""`describe`: what will run, from where, meaning what; and it can be run again."""

from pathlib import Path

import pytest

from fedps.config import describe, load_job
from fedps.config.job import fields
from fedps.config.sections.training import OF_NETWORKS
from fedps.errors import JobError

TEXT = """
runner:
  train_data_dir: train
  model: net.Net
  geo_step: 7
hyper_parameters: {width: 6, table: {a: 1}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.csv").write_text("0,1,1\n")
    path = tmp_path / "job.yaml"
    path.write_text(TEXT)
    return path


def line(text: str, key: str) -> str:
    """Return the first line of a key: some stand in more than one section."""
    found = next(one for one in text.splitlines() if one.strip().startswith(f"{key}:"))
    return " ".join(found.split())


def test_every_key_tells_its_origin_and_meaning(path: Path) -> None:
    text = describe(path, ["runner.epochs=3", "hyper_parameters.optimizer={class: sgd}"])
    assert (
        line(text, "geo_step")
        == "geo_step: 7 # job file; geo: local steps of a window, in batches; pace may scale them"
    )
    assert line(text, "epochs") == "epochs: 3 # override; passes over each client's data"
    assert line(text, "server_num") == "server_num: 1 # default; servers, each with a shard of every table"
    assert line(text, "class").startswith("class: sgd # override; ")
    assert line(text, "learning_rate") == "learning_rate: 0.001 # default; step size"
    assert "geo, sync, async, round" in line(text, "sync_mode")
    assert line(text, "width") == "width: 6 # job file; given to runner.model"
    assert line(text, "table") == "table: {a: 1} # job file; given to runner.model"
    assert line(text, "worker_num").startswith("worker_num: 1 # ")
    for key, _ in fields():
        last = key.rpartition(".")[2]
        assert last in OF_NETWORKS or line(text, last)
    assert "embedding_dim" not in text, "a network of one's own may choose it"
    assert line(describe(path, ["hyper_parameters.embedding_dim=3"]), "embedding_dim").startswith(
        "embedding_dim: 3 # over"
    )
    path.write_text("runner: {train_data_dir: train}\n")
    assert line(describe(path), "embedding_dim").startswith("embedding_dim: 16 # default; ")


def test_an_override_counts_under_either_name_and_for_a_part_of_a_value(path: Path) -> None:
    text = describe(path, ["hyper_parameters.optimizer.name=sgd", "hyper_parameters.table.b=2"])
    assert line(text, "class").startswith("class: sgd # override; ")
    assert line(text, "table") == "table: {a: 1, b: 2} # override; given to runner.model"


def test_it_is_a_job_file_for_the_same_job(path: Path, tmp_path: Path) -> None:
    overrides = ["runner.local_sparse=['a #b', '01']", "name=''"]
    again = tmp_path / "again.yaml"
    again.write_text(describe(path, overrides))
    assert load_job(again) == load_job(path, overrides)


FEATURES = """
runner: {train_data_dir: train}
hyper_parameters: {mode: DIN}
features:
  user: {kind: id, rows: 943, side: user}
  item: {kind: id, rows: 1682}
  history: {kind: ids, table: item, max: 20}
  'yes': {kind: label, of: binary}
table_parameters:
  item_embedding: {optimizer: {class: sgd}, max_rows: 10}
"""


def test_features_and_tables_have_a_line_each_of_what_is_set_and_their_keys_are_explained_once(
    path: Path, tmp_path: Path
) -> None:
    path.write_text(FEATURES)
    text, again = describe(path, ["features.item.rows=99"]), tmp_path / "again.yaml"
    lines = text.splitlines()
    start = next(n for n, one in enumerate(lines) if one.startswith("features:"))
    assert " # override; what a sample is made of" in lines[start]
    assert lines[start + 1 : start + 6] == [
        "  user: {kind: id, rows: 943, side: user}",
        "  item: {kind: id, rows: 99}",
        "  history: {kind: ids, table: item, max: 20}",
        "  'yes': {kind: label, of: binary}",
        "  # what may stand there, and what holds where it does not:",
    ]
    assert "  item_embedding: {optimizer: {class: sgd}, max_rows: 10}" in lines
    explained = [" ".join(one.split()) for one in lines]
    for said in (
        "# max: null # ids: of a longer list the last so many count; needed for a sequence",
        "# weight: 1.0 # label: of its loss, where there are several",
        "# admit_after: 1 # shared rows: an id gets a row at its so-many-th push; until then one default row serves all such",
        "# beta1: null # Adam: decay of the first moment",
    ):
        assert explained.count(said) == 1
    again.write_text(text)
    assert load_job(again) == load_job(path, ["features.item.rows=99"])


def test_what_follows_from_the_rest_is_no_default(path: Path) -> None:
    path.write_text(FEATURES)
    text = describe(path)
    assert line(text, "num_users").startswith("num_users: 943 # derived; ")
    assert line(text, "metrics").startswith("metrics: [auc, logloss] # derived; ")
    assert line(text, "num_blocks").startswith("num_blocks: 2 # default; ")


def test_a_wrong_job_is_not_described(path: Path) -> None:
    with pytest.raises(JobError, match=r"runner\.epochs: 0"):
        describe(path, ["runner.epochs=0"])
