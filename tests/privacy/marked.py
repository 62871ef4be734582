"""A job whose secrets can be told apart from anything else, and what of them to search for.

User ids are drawn from 2^56. Half of each private row, and half of the private layer, take no part in the network: no
gradient ever moves them, so they stand in every state of the table, at any time of the run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fedps.config.files import files_in
from fedps.data.read.reader import read_samples
from fedps.storage import snapshot
from tests.privacy.search import Needles, forms_of_column, forms_of_floats, forms_of_ids, merged

ID_SPACE = 1 << 56
USERS, ITEMS, PER_USER, EPOCHS = 8, 220, 20, 3
PRIVATE, SHARED = {"user.weight", "own.weight", "own.bias"}, {"item.weight", "out.weight", "out.bias"}
HALF = 4
NETWORK = """
import torch
from torch import nn
from fedps.types import Init

class Marked(nn.Module):
    row_init = {"user.weight": Init("normal", 0.0, 0.1), "item.weight": Init("normal", 0.0, 0.1)}

    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = _table(num_users), _table(num_items)
        self.own, self.out = nn.Linear(8, 8), nn.Linear(4, 1)

    def forward(self, user, item):
        u, i = self.user(user)[:, :4], self.item(item)[:, :4]
        return self.out(u * i + self.own(torch.cat((u, i), 1))[:, :4].relu()).squeeze(1)

def _table(rows):  # 2^56 rows, one in memory: the workers' rows come from row_init
    return nn.Embedding.from_pretrained(torch.zeros(1, 8).expand(rows, 8), freeze=False)
"""


def write_samples(folder: Path, seed: int = 3) -> None:
    """Write two clients' samples, `train/` and `test/`, with users of 2^56."""
    rng = np.random.default_rng(seed)
    for kind in ("train", "test"):
        (folder / kind).mkdir(parents=True)
    for client in ("north", "south"):
        users = rng.integers(1 << 50, ID_SPACE, USERS)
        user = rng.permutation(np.repeat(users, PER_USER))
        train = np.column_stack([user, rng.integers(0, ITEMS, len(user)), rng.integers(0, 2, len(user))])
        np.savetxt(folder / "train" / f"{client}.csv", train, fmt="%d", delimiter=",")
        held_out = [[u, i, k == 0] for u in users for k, i in enumerate(rng.choice(ITEMS, 100, replace=False))]
        np.savetxt(folder / "test" / f"{client}.csv", np.array(held_out), fmt="%d", delimiter=",")


def write_job(path: Path, data: Path, items: int = ITEMS, **runner: object) -> Path:
    """Write a job with the marked network beside it; keyword arguments are runner keys."""
    (path.parent / "marked.py").write_text(NETWORK, encoding="utf-8")
    tree = {
        "runner": {
            "train_data_dir": str(data / "train"),
            "test_data_dir": str(data / "test"),
            "model": "marked.Marked",
            "train_batch_size": 32,
            "geo_step": 2,
            "epochs": EPOCHS,
            "shuffle": False,  # batches are then runs of the file's lines
            "local_sparse": ["user.weight"],
            "local_dense": ["own.weight", "own.bias"],
            **runner,
        },
        "hyper_parameters": {"num_users": ID_SPACE, "num_items": items, "optimizer": {"learning_rate": 0.05}},
    }
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def needles_of_samples(data: Path, columns: bool = True) -> Needles:
    """Return the forms of all ids and, if wanted, of the columns of labels and items in their order."""
    parts: list[Needles] = []
    for path in files_in(data / "train"):
        samples = read_samples(path, ID_SPACE, 1 << 20)
        parts.append(forms_of_ids(np.unique(samples.user)))
        if columns:
            label = samples.label.astype(np.int64)
            for at in range(0, len(label) - 64, 16):
                parts.append(forms_of_column(label[at : at + 64], "labels"))
                parts.append(forms_of_column(samples.item[at : at + 8], "items"))
    return merged(parts)


def needles_of_private(run_dir: Path) -> Needles:
    """Return the forms of the rows and layers that clients saved, marks and trained halves, of every epoch."""
    parts: list[Needles] = []
    for folder in sorted((run_dir / "private").glob("*/[0-9]*")):
        tables = snapshot.load(folder, "tables")[0]
        parts += [forms_of_floats(half, "private row") for half in halves(tables["user.weight"][2][:, :8])]
        layer = tables["own.weight"][2].reshape(8, 8)
        parts += [forms_of_floats(half, "private layer") for half in halves(layer)]
    return merged(parts)


def halves(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield each row's trained and its marked half, float32[4]."""
    for row in rows:
        yield row[:HALF]
        yield row[HALF:]
