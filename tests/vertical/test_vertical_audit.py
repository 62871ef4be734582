"""The audit mounts its attacks on a job that learns, finds labels where nothing hides them, and says so where it cannot."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from fedps.cli.app import app
from fedps.config import Allow
from fedps.config.vertical import VerticalJob, load_vertical
from fedps.vertical.audit import Audit, audit, table, together, words

SAMPLES = 3000


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing."""
    monkeypatch.setenv("CXX", "no-compiler")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A job whose label follows from what both parties know; the files have their rows in different orders."""
    rng = np.random.default_rng(0)
    item, user, age = rng.integers(0, 20, SAMPLES), rng.integers(0, 30, SAMPLES), rng.standard_normal(SAMPLES)
    liked = rng.random(SAMPLES) < 1 / (1 + np.exp(-2 * np.sin(item) - 2 * age))
    for name, columns, order in (
        ("bank", {"user": user, "age": age}, rng.permutation(SAMPLES)),
        ("shop", {"item": item, "label": liked.astype(int)}, np.arange(SAMPLES)),
    ):
        rows = np.column_stack([np.arange(SAMPLES), *columns.values()])[order]
        lines = [",".join(["id", *columns]), *(",".join(f"{value:g}" for value in row) for row in rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    job: dict[str, Any] = {
        "vertical": {"active": "shop", "passive": ["bank"], "network": "DeepFM", "train_batch_size": 400, "epochs": 2},
        "hyper_parameters": {"embedding_dim": 4, "hidden_units": [8], "optimizer": {"learning_rate": 0.02}},
        "parties": {
            "shop": {"data": "shop.csv", "features": {"item": {"kind": "id", "rows": 20}, "label": {"kind": "label"}}},
            "bank": {
                "data": "bank.csv",
                "features": {"user": {"kind": "id", "rows": 30}, "age": {"kind": "number"}},
            },
        },
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    return tmp_path / "job.yaml"


def run(path: Path, *overrides: str) -> tuple[VerticalJob, Audit, dict[str, Any]]:
    job = load_vertical(path, overrides, whole=True)
    found = audit(job, lambda text: None)
    return job, found, {one.attack: one for one in found.findings if one.wants in ("label", "numbers", "user")}


def test_samples_are_those_that_match(path: Path) -> None:
    job = load_vertical(path, whole=True)
    data = together(job, Allow())
    assert len(data["bank"].train.label) == SAMPLES - round(SAMPLES * job.vertical.holdout)
    age, label = data["bank"].train.columns["age"], data["shop"].train.label
    assert isinstance(age, np.ndarray)
    assert abs(np.corrcoef(age.ravel(), label)[0, 1]) > 0.3, "rows of both files are laid together by their ids"


def test_bare_gradients_tell_labels_and_protected_ones_do_not(path: Path) -> None:
    job, found, attack = run(path, "protection.labels=label_dp", "protection.activations=2")
    assert found.control > 0.9
    assert found.bare > 0.7
    assert found.alone is not None
    assert found.alone < found.bare
    for name in ("direction", "spectrum"):
        assert attack[name].bare > 0.9
        assert attack[name].protected < 0.65
        assert attack[name].blind < 0.9, "slopes follow from features, which tell of labels, and hold none"
    assert attack["ridge regression"].bare > 0.6
    assert attack["ridge regression"].protected < attack["ridge regression"].bare - 0.1
    assert (
        attack["nearest neighbour"].bare
        > 0.2
        > attack["nearest neighbour"].protected
        > attack["nearest neighbour"].blind
    )
    told = " ".join(words(found, job))
    assert "AUC above 0.549" in told
    assert "control" not in told
    assert msgspec.json.decode(msgspec.json.encode(found))["protection"]["labels"] == "label_dp"


def test_marvell_does_not_stop_an_attacker_who_knows_its_own_factor(path: Path) -> None:
    _, _, attack = run(path, "protection.labels=marvell")
    assert attack["direction"].protected < 0.65
    assert attack["spectrum"].protected < 0.65
    assert attack["product"].protected > 0.7


def test_an_audit_without_protection_says_how_to_have_some_and_when_it_proves_nothing(path: Path) -> None:
    job, found, _ = run(path, "vertical.epochs=1")
    assert found.protected is None
    assert "protection.labels=label_dp" in words(found, job)[-1]
    assert {line[-1] for line in table(found)[1:]} == {""}
    blunt = [msgspec.structs.replace(one, bare=0.6) for one in found.findings]
    told = words(msgspec.structs.replace(found, findings=blunt), job)
    assert "the control failed" in told[-1]
    assert "0.600" in told[-1]


def test_the_command_prints_a_table_or_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["vertical", "audit", str(path), "-o", "vertical.epochs=1"], result_action="return_value")
    shown = capsys.readouterr().out
    assert "direction" in shown
    assert "try -o protection.labels=label_dp" in shown
    frozen = ["-o", "vertical.epochs=1", "-o", "protection.labels=frozen"]
    app(["vertical", "audit", str(path), *frozen, "--json"], result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    found = {one["attack"]: one["protected"] for one in told["findings"]}
    assert found.keys() >= {"completion", "ridge regression"}
    for name in ("norm", "direction", "spectrum", "rest", "product", "direction, all epochs", "spectrum, all epochs"):
        assert found[name] == 0.5, "zeros tell nothing"
