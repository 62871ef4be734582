"""The example jobs of networks of features, run as they stand on data of the same form, but small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import load_job
from fedps.data.prepare.synth import synthesize
from fedps.events.events import Entry, EpochEnd
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process

EXAMPLES = Path(__file__).parent.parent / "examples"
RATINGS: dict[str, dict[str, Any]] = {
    "user": {"kind": "id", "rows": 40, "side": "user"},
    "item": {"kind": "id", "rows": 60, "side": "item"},
    "gender": {"kind": "id", "rows": 2, "side": "user"},
    "age": {"kind": "id", "rows": 7, "side": "user"},
    "occupation": {"kind": "id", "rows": 21, "side": "user"},
    "genres": {"kind": "ids", "rows": 18, "pooling": "mean", "side": "item"},
    "label": {"kind": "label"},
}
SEQUENCES: dict[str, dict[str, Any]] = {
    "user": {"kind": "id", "rows": 40, "side": "user"},
    "item": {"kind": "id", "rows": 60},
    "history": {"kind": "ids", "table": "item", "max": 200},
    "label": {"kind": "label"},
}


def written(folder: Path, features: dict[str, dict[str, Any]], samples: int, sides: tuple[str, str]) -> Path:
    """Write data of two clients, as `fedps data prepare` does; users are dealt out to them."""
    rng = np.random.default_rng(0)

    def cell(name: str, user: int) -> str:
        feature = features[name]
        rows = feature.get("rows") or features[feature.get("table", "item")]["rows"]
        count = rng.integers(1, 30) if feature["kind"] == "ids" else 1
        if feature["kind"] == "label":
            return str(rng.integers(0, 2) if "genres" in features else 1)
        return str(user) if name == "user" else "|".join(map(str, rng.integers(0, rows, count)))

    for side in sides:
        (folder / side).mkdir(parents=True)
        for client in range(2):
            users = np.arange(client, 40, 2).repeat(samples).tolist()
            lines = [",".join(cell(name, user) for name in features) for user in users]
            (folder / side / f"{client}.csv").write_text("\n".join([",".join(features), *lines, ""]))
    facts = {"format": 1, "num_users": 40, "num_items": 60, "features": features, "clients": {}}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("name", ["mf", "two_tower", "deepfm", "dcnv2", "din", "sasrec"])
def test_an_example_job_trains(name: str, tmp_path: Path) -> None:
    held_out = "test" if name in ("din", "sasrec", "mf") else "valid"
    if name == "mf":
        synthesize(data := tmp_path / "data", users=120, items=220, per_user=30, seed=1)
    elif held_out == "test":
        data = written(tmp_path / "data", SEQUENCES, 1, ("train", "test"))
    else:
        data = written(tmp_path / "data", RATINGS, 10, ("train", "valid"))
    small = ["epochs=2", "eval_every=1", f"train_data_dir={data / 'train'}", f"test_data_dir={data / held_out}"]
    job = load_job(EXAMPLES / f"{name}.yaml", [f"runner.{key}" for key in small])
    ledger, losses = Ledger(job, began=0.0), list[float]()

    def take(entry: Entry) -> None:
        ledger.take(entry)
        if isinstance(entry.event, EpochEnd):
            losses.append(entry.event.loss)

    run_in_process(job, tmp_path / "run", take)
    summary = ledger.summary(2e9, None)
    assert summary["status"] == "ok"
    assert set(job.runner.metrics) <= {name for name, value in summary["metrics"].items() if value is not None}
    assert len(losses) >= 4 and np.isfinite(losses).all()
    assert (summary["metrics"]["train_auc"] is None) == (job.hyper_parameters.loss == "in_batch_softmax")
    assert not [w for w in summary["warnings"] if w.startswith("loss")], "a softmax begins far above 0.69"
