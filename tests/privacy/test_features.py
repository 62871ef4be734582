"""R1 with features: what describes a user never leaves the client: no id of a private history, no number, no private row.

All ids are drawn from 2^56, in open spaces. The controls: ids of the shared table do pass, and so do those of the history
once its table is shared.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedps.storage import snapshot
from fedps.wire.messages import Hello, Pull, Push, Values
from tests.privacy.runs import Recorded, check_every_byte, everything, record
from tests.privacy.search import Needles, forms_of_floats, forms_of_ids, merged, search

NETWORK = """
import torch
from torch import nn
from fedps.types import Init

class Kept(nn.Module):
    row_init = {name: Init("normal", 0.0, 0.1) for name in ("user.weight", "visited.weight", "item.weight")}

    def __init__(self):
        super().__init__()
        self.user, self.visited, self.item = nn.Embedding(64, 8), nn.Embedding(64, 8), nn.Embedding(64, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, user, visited, item, age):  # half of each row takes no part, and stays as it starts
        kept = (self.user(user) + self.visited(visited))[:, :4]
        return self.out(torch.cat((kept * self.item(item)[:, :4], age), 1)).squeeze(1)
"""
FEATURES = {
    "user": {"kind": "id", "rows": "open", "side": "user"},
    "visited": {"kind": "ids", "rows": "open", "pooling": "mean", "side": "user"},
    "item": {"kind": "id", "rows": "open"},
    "age": {"kind": "number", "dim": 4, "side": "user"},
    "label": {"kind": "label"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sync": {"sync_mode": "sync"},
    "geo": {"sync_mode": "geo", "geo_step": 2, "server_num": 2, "with_coordinator": True},
    "shared": {"sync_mode": "geo", "geo_step": 2, "local_sparse": []},  # the control
}
PRIVATE = {"user.weight", "visited.weight"}
pytestmark = pytest.mark.timeout(300)  # the first test waits for all runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "kept.py").write_text(NETWORK, encoding="utf-8")
    rng, items = np.random.default_rng(5), draw(np.random.default_rng(6), 40)
    for client in ("north", "south"):
        users, places = draw(rng, 8), draw(rng, 30)
        for side, samples in (("train", 120), ("test", 40)):
            (folder / side).mkdir(exist_ok=True)
            lines = ["user,visited,item,age,label"]
            for _ in range(samples):
                seen, age = rng.choice(places, rng.integers(1, 5)), rng.normal(size=4).astype(np.float32)
                texts = ("|".join(map(str, some)) for some in (seen.tolist(), age.tolist()))
                lines.append(
                    ",".join(
                        [str(rng.choice(users)), next(texts), str(rng.choice(items)), next(texts), str(rng.integers(2))]
                    )
                )
            (folder / side / f"{client}.csv").write_text("\n".join(lines) + "\n")
    for name, runner in SETTINGS.items():
        data = {"train_data_dir": str(folder / "train"), "test_data_dir": str(folder / "test"), "model": "kept.Kept"}
        tree = {
            "runner": {**data, "train_batch_size": 32, "epochs": 2, "shuffle": False, **runner},
            "features": FEATURES,
            "hyper_parameters": {"optimizer": {"learning_rate": 0.05}},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return folder


def draw(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return rng.integers(1 << 50, 1 << 56, count)


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Recorded]:
    found = record({folder / f"{name}.yaml": folder / name for name in SETTINGS}, timeout=240)
    return {run.name: recorded for run, recorded in found.items()}


def needles_of(folder: Path, column: int) -> Needles:
    """Return the forms of all ids, or numbers, of a column."""
    parts = []
    for file in (folder / "train").iterdir():
        cells = [line.split(",")[column].split("|") for line in file.read_text().splitlines()[1:]]
        if "." in cells[0][0]:
            parts += [forms_of_floats(np.array(cell, np.float32), "number") for cell in cells]
        else:
            parts.append(forms_of_ids(np.unique(np.array([int(i) for cell in cells for i in cell]))))
    return merged(parts)


@pytest.mark.parametrize("name", ["sync", "geo"])
def test_no_private_history_no_number_and_no_row_of_theirs_leaves_a_client(
    name: str, folder: Path, runs: dict[str, Recorded]
) -> None:
    recorded, hay = runs[name], everything(runs[name])
    assert recorded.summary["status"] == "ok"
    kept = [needles_of(folder, column) for column in (0, 1, 3)]
    for client in (recorded.folder / "private").glob("*/[0-9]*"):
        tables = snapshot.load(client, "tables")[0]
        rows = np.concatenate([tables[table][2][:, :8] for table in sorted(PRIVATE)])
        kept += [forms_of_floats(half, "private row") for row in rows for half in (row[:4], row[4:])]
    assert search(hay, merged(kept)) == {}
    found = search(hay, needles_of(folder, 2))
    assert any(place.startswith("up") for place in found["id <i8"]), "the control: ids of the shared table do pass"
    frames = check_every_byte(recorded)
    said = {type(frame.message) for frame in frames}
    assert said >= {Hello, Pull, Push, Values}
    spoken_of = {t for f in frames if isinstance(f.message, Pull | Push | Values) for t in f.message.tables}
    assert spoken_of == {"item.weight", "out.weight", "out.bias"}


def test_the_control_the_same_history_shared_is_found(folder: Path, runs: dict[str, Recorded]) -> None:
    recorded = runs["shared"]
    assert recorded.summary["status"] == "ok"
    for column in (0, 1):
        found = search(everything(recorded), needles_of(folder, column))
        assert any(place.startswith("up") for place in found["id <i8"])
    assert search(everything(recorded), needles_of(folder, 3)) == {}, "numbers are samples: they stay in any case"
