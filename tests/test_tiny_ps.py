"""The one-file example and the package give the same numbers."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from safetensors.numpy import load_file

from fedps.launch.inprocess import run_in_process
from fedps.serving.export import export_run
from tests.conftest import MakeJob

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny_ps.py"
NETWORK = """
from torch import nn
from fedps.types import Init
class TinyNet(nn.Module):
    row_init = {"user.weight": Init("normal", 0.0, 0.1), "item.weight": Init("normal", 0.0, 0.1)}
    def __init__(self, num_users, num_items, width):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, width), nn.Embedding(num_items, width)
    def forward(self, user, item):
        return (self.user(user) * self.item(item)).sum(1)
"""


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_ps", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_ps"] = module
    spec.loader.exec_module(module)
    return module


def test_the_example_gives_the_package_numbers(make_job: MakeJob, tmp_path: Path) -> None:
    tiny = load_example()
    (tmp_path / "train").mkdir()
    for name, client in zip("ab", tiny.make_clients(), strict=True):
        np.savetxt(tmp_path / "train" / f"{name}.csv", client.samples, fmt="%d", delimiter=",")
    (tmp_path / "tinynet.py").write_text(NETWORK)
    hyper = {
        "num_users": tiny.USERS,
        "num_items": tiny.ITEMS,
        "width": tiny.DIM,
        "optimizer": {"class": "sgd", "learning_rate": tiny.RATE},
    }
    job = make_job(
        hyper, model="tinynet.TinyNet", train_data_dir=str(tmp_path / "train"), test_data_dir=None, epochs=5,
        sync_mode="sync", local_sparse=["user.weight"], train_batch_size=tiny.BATCH, shuffle=False,
    )  # fmt: skip
    run_in_process(job, tmp_path / "run", lambda event: None)
    found = load_file(export_run(tmp_path / "run", tmp_path / "out", private=True))
    clients = tiny.make_clients()
    server = tiny.train(clients, 5)
    for key, row in server.rows.items():
        np.testing.assert_allclose(found["item.weight"][key], row, atol=1e-6)
    for client in clients:
        for key, row in client.users.items():
            np.testing.assert_allclose(found["user.weight"][key], row, atol=1e-6)


def test_the_example_learns_and_fits_on_150_lines() -> None:
    tiny = load_example()
    clients = tiny.make_clients()
    before = tiny.loss(tiny.Server(), clients)
    assert tiny.loss(tiny.train(clients, 40), clients) < 0.9 * before
    assert len(EXAMPLE.read_text().splitlines()) <= 150
