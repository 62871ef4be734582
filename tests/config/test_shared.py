"""What all roles of a run must agree on, and what each machine may have its own way."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedps.config import Job, load_job
from fedps.config.job import fields, section
from fedps.config.shared import LOCAL, PLACES, first_difference, shared_part

FULL: dict[str, Any] = {
    "runner": {"train_data_dir": "data", "epochs": 3, "with_coordinator": True},
    "hyper_parameters": {"num_users": 9, "optimizer": {"class": "sgd"}},
    "table_parameters": {"mlp_item.weight": {"initial_range": 0.1}},
}


def first_key(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Return the first key in which two jobs differ."""
    return (first_difference(ours, theirs) or "").partition(":")[0]


def load(folder: Path, tree: dict[str, Any], *overrides: str) -> Job:
    """Write and load a job, with one client's data beside it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "0.csv").write_text("0,0,1\n")
    (folder / "public.csv").write_text("0,0,1\n")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_job(path, overrides)


@pytest.mark.parametrize(
    "override",
    [
        "runner.sync_mode=round",
        "runner.geo_merge=heat",
        "runner.seed=1",
        "runner.epochs=4",
        "runner.worker_num=2",
        "runner.local_sparse=[mlp_user.weight]",
        "hyper_parameters.num_users=10",
        "hyper_parameters.fc_layers=[8, 4]",
        "hyper_parameters.optimizer.class=adam",
        "server_optimizer.class=adam",
        "selector.over_selection=1.5",
        "distillation.temperature=2.0",
        "limits.message_mib=32",
    ],
)
def test_a_key_that_shapes_the_training_is_compared(override: str, tmp_path: Path) -> None:
    ours = shared_part(load(tmp_path, FULL))
    elsewhere = ["runner.train_data_dir"] if "worker_num" in override else []
    theirs = shared_part(load_job(tmp_path / "job.yaml", [override], elsewhere))
    assert first_key(ours, theirs) == override.partition("=")[0]
    assert first_key(theirs, ours) == override.partition("=")[0]


@pytest.mark.parametrize(
    "override",
    [
        "runner.test_data_dir=data",
        "runner.model_save_path=elsewhere",
        "runner.print_interval=7",
        "runner.need_dump=true",
        "runner.thread_num=4",
        "runner.compiled_step=false",
        "runner.start_timeout=7",
        "runner.server_num=2",
    ],
)
def test_what_a_machine_has_its_own_way_is_not_compared(override: str, tmp_path: Path) -> None:
    assert shared_part(load(tmp_path, FULL)) == shared_part(load(tmp_path, FULL, override))


def test_the_same_job_in_two_folders_is_the_same(tmp_path: Path) -> None:
    runner = FULL["runner"] | {"model": "net.Net"}
    tree = {"runner": runner, "hyper_parameters": {"num_users": 9, "start": "{workspace}/rows.npy"}}
    one, two = load(tmp_path / "one", tree), load(tmp_path / "two", tree)
    assert shared_part(one) == shared_part(two)
    other = load(tmp_path / "two", tree, "hyper_parameters.start='{workspace}/others.npy'")
    assert first_key(shared_part(one), shared_part(other)) == "hyper_parameters.start"


def test_a_public_file_may_lie_anywhere_but_must_be_there_for_all(tmp_path: Path) -> None:
    tree = FULL | {"distillation": {"public_data": "public.csv"}}
    one, two = load(tmp_path / "one", tree), load(tmp_path / "two", tree, "distillation.public_data=./public.csv")
    assert shared_part(one) == shared_part(two)
    without = load(tmp_path / "two", tree, "distillation.public_data=null")
    assert first_key(shared_part(one), shared_part(without)) == "distillation.public_data"


def test_clients_that_distill_may_have_networks_of_their_own(tmp_path: Path) -> None:
    distills = ["distillation.public_data=public.csv"]
    ours = shared_part(load(tmp_path, FULL, *distills))
    other = [
        "hyper_parameters.fc_layers=[8, 4]",
        "table_parameters={}",
        "runner.local_dense=[bias]",
        "runner.model=a.B",
    ]
    assert shared_part(load(tmp_path, FULL, *distills, *other)) == ours
    longer = shared_part(load(tmp_path, FULL, *distills, "runner.epochs=9"))
    assert first_key(ours, longer) == "runner.epochs"
    shares_weights = shared_part(load(tmp_path, FULL))
    assert first_key(shares_weights, ours) == first_key(ours, shares_weights) == distills[0].split("=")[0]


def test_tables_and_keys_that_one_side_lacks_are_named(tmp_path: Path) -> None:
    ours = shared_part(load(tmp_path, FULL))
    theirs = shared_part(load(tmp_path, FULL, "table_parameters.mlp_item.weight.initial_range=0.2"))
    assert first_key(ours, theirs) == "table_parameters.mlp_item.weight"
    assert first_key(ours, ours | {"runner.of_a_later_version": "00000000"}) == "runner.of_a_later_version"
    assert first_key(ours, {}) == next(iter(ours)) == "runner.sync_mode"


def test_both_values_are_named_and_of_long_ones_how_they_begin(tmp_path: Path) -> None:
    ours = shared_part(load(tmp_path, FULL, "hyper_parameters.num_items=2000"))
    theirs = shared_part(load(tmp_path, FULL, "hyper_parameters.num_items=1682"))
    assert first_difference(ours, theirs) == "hyper_parameters.num_items: 2000 here, 1682 there"
    lists = [
        shared_part(load(tmp_path, FULL, f"hyper_parameters.fc_layers=[{', '.join(['64'] * n)}]")) for n in (3, 99, 98)
    ]
    assert first_difference(*lists[:2]) is not None
    assert "fc_layers: [64, 64, 64] here, [64, 64, 64" in str(first_difference(*lists[:2]))
    assert lists[1] != lists[2], "they begin alike, and are not the same"
    assert len(str(first_difference(*lists[1:]))) < 200
    assert 'sync_mode: "geo" here, nothing there' in str(first_difference(ours, {}))
    assert len(str(first_difference(ours, {"x" * 10_000: "y" * 10_000} | ours))) < 300


def test_a_saved_job_agrees_with_itself(tmp_path: Path) -> None:
    job = load(tmp_path, FULL, "selector.options={a: 1e300, b: [1, 2.0]}", "hyper_parameters.optimizer.epsilon=1e-8")
    job.save(tmp_path / "saved.yaml")
    assert shared_part(load_job(tmp_path / "saved.yaml")) == shared_part(job)


def test_every_key_with_a_rule_of_its_own_is_a_key() -> None:
    leaves = {key for key, field in fields() if not section(field)}
    assert leaves >= LOCAL | set(PLACES)


FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": "open", "side": "user"},
    "age": {"kind": "number"},
    "label": {"kind": "label"},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": {"kind": "number", "dim": 2}}, "features.age.dim: 1 here, 2 there"),
        ({"user": {"kind": "id", "rows": 9, "side": "user"}}, 'features.user.rows: "open" here, 9 there'),
        ({"more": {"kind": "number"}}, "features.more.kind: nothing here, "),
        ({"label": {"kind": "label", "of": "real"}}, 'features.label.of: "binary" here, "real" there'),
        ({"age": {"kind": "number", "column": "years"}, "user": FEATURES["user"] | {"column": "who"}}, None),
    ],
)
def test_clients_whose_features_differ_are_told_which(
    change: dict[str, object], said: str | None, tmp_path: Path
) -> None:
    tree = {"runner": {"train_data_dir": "data", "model": "net.Net"}, "features": FEATURES}
    ours, theirs = (
        shared_part(load(tmp_path / name, tree | {"features": features}))
        for name, features in (("ours", FEATURES), ("theirs", FEATURES | change))
    )
    found = first_difference(ours, theirs)
    assert found is None if said is None else found is not None and found.startswith(said)


def test_a_job_that_states_no_features_differs_in_these_first(tmp_path: Path) -> None:
    tree = {"runner": {"train_data_dir": "data", "model": "net.Net"}}
    ours, theirs = (
        shared_part(load(tmp_path / "ours", tree)),
        shared_part(load(tmp_path / "theirs", tree | {"features": FEATURES})),
    )
    assert str(first_difference(ours, theirs)).startswith('features.age.kind: nothing here, "number" there')


def test_features_that_the_data_states_are_shared_as_those_of_the_job(tmp_path: Path) -> None:
    tree = {"runner": {"train_data_dir": "data", "model": "net.Net"}}
    parts = []
    for dim in (1, 2):
        folder = tmp_path / str(dim)
        folder.mkdir()
        stated = FEATURES | {"age": {"kind": "number", "dim": dim}}
        (folder / "manifest.json").write_text(json.dumps({"features": stated}))
        parts.append(shared_part(load(folder, tree)))
    assert first_key(*parts) == "features.age.dim"
