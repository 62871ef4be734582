"""One server's save, through chains of deltas, and refused where it does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import DataError
from fedps.storage import epochs, snapshot
from fedps.table import rules
from fedps.types import Rule, TableSpec
from tests.storage.servers import ROWS, Servers, chain


@pytest.mark.parametrize("rule", ["adam", "add", "lazy_adam"])
def test_a_chain_of_deltas_is_the_whole(rule: str, tmp_path: Path) -> None:
    spec = TableSpec("rows", "sparse", (50, 3), Rule(rule, 0.1), ROWS.init, 1)  # type: ignore[arg-type]
    servers = Servers(2, spec)
    for epoch, keys in enumerate(((1, 2, 3, 10), (2, 7), (), (3, 7, 20)), 1):
        servers.push(*keys)
        servers.save(tmp_path / "delta", epoch, base=epoch - 1 if epoch > 1 else None)
    saved_rows = [len(snapshot.load(tmp_path / "delta" / str(e), "server-1")[0]["rows"][1]) for e in (1, 2, 3, 4)]
    assert saved_rows == [2, 1, 0, 2]
    there = epochs.read_model(tmp_path / "delta" / "4")["rows"]
    assert there.keys.tolist() == [1, 2, 3, 7, 10, 20]
    np.testing.assert_allclose(there.values, servers.rows()[there.keys], rtol=1e-5)
    assert epochs.read_model(tmp_path / "delta" / "2")["rows"].keys.tolist() == [1, 2, 3, 7, 10]


def test_a_delta_without_its_base_is_refused_by_name(tmp_path: Path) -> None:
    chain(tmp_path)
    for file in (tmp_path / "1").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"2/server-0\.json: .* since epoch 1, whose save .*1/server-0\.json is gone"):
        epochs.read_model(tmp_path / "3")


def test_a_delta_whose_base_was_written_again_is_refused(tmp_path: Path) -> None:
    chain(tmp_path)
    other = Servers(1)
    other.push(40)
    other.save(tmp_path, 1)
    with pytest.raises(DataError, match=r"2/server-0\.json: .* epoch 1, but .* was written again since"):
        epochs.read_model(tmp_path / "3")


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ({"epoch": 3, "check": ""}, "which is not before it"),
        ({"epoch": 9, "check": ""}, "which is not before it"),
        ({"epoch": "1"}, r"server-0\.json: .*\$\.base"),
        ({}, r"server-0\.json: .*\$\.base"),
        (7, r"server-0\.json: .*\$\.base"),
        ("x", r"server-0\.json: .*\$\.base"),
    ],
)
def test_a_delta_on_what_is_not_before_it_is_refused(base: object, told: str, tmp_path: Path) -> None:
    facts = {"epoch": 3, "shard": 0, "shards": 1, "base": base}
    snapshot.save(tmp_path / "3", "server-0", Servers(1).stores[0].export(), facts)
    with pytest.raises(DataError, match=told):
        epochs.read_model(tmp_path / "3")


def test_mixed_up_servers_are_refused(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(1, 2)
    servers.save(tmp_path, 1)
    for ending in ("json", "safetensors"):
        (tmp_path / "1" / f"server-0.{ending}").replace(tmp_path / "1" / f"server-1.{ending}")
    servers.stores.reverse()
    snapshot.save(tmp_path / "1", "server-0", servers.stores[0].export(), {"shard": 1, "shards": 2})
    with pytest.raises(DataError, match=r"server-0\.json: is the save of server 1 of 2, where that of server 0 of 2"):
        epochs.read_model(tmp_path / "1")


def test_another_version_is_refused(tmp_path: Path) -> None:
    chain(tmp_path)
    path = tmp_path / "3" / "server-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(DataError, match=r"server-0\.json: is altered, or of another version"):
        epochs.read_model(tmp_path / "3")


@pytest.mark.parametrize("shards", [None, 0, -1, "2", 1 << 40])
def test_a_save_of_how_many_servers_must_be_told(shards: object, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "1", "server-0", Servers(1).stores[0].export(), {"shard": 0, "shards": shards})
    with pytest.raises(DataError, match=r"does not say rightly what it is a save of: .*\$\.shards"):
        epochs.read_model(tmp_path / "1")


@pytest.mark.parametrize("keys", [[3, 3], [4, 3]])
def test_rows_out_of_order_or_twice_are_refused(keys: list[int], tmp_path: Path) -> None:
    block = np.zeros((2, rules.width(ROWS.rule, 3)), np.float32)
    tables = {"rows": (ROWS, np.array(keys), block)}
    snapshot.save(tmp_path / "1", "server-0", tables, {"shard": 0, "shards": 1})
    with pytest.raises(DataError, match="not in order, or one comes twice"):
        epochs.read_model(tmp_path / "1")
