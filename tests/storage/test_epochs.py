"""Saved epochs, read into any number of servers: whole, of one run, or refused."""

from pathlib import Path

import numpy as np
import pytest

from fedps.errors import DataError
from fedps.storage import epochs, snapshot
from fedps.storage.tables import fit_state
from fedps.table import rules
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Rule, RuleName, TableSpec
from tests.storage.crashes import disk, failing
from tests.storage.servers import ROWS, Servers, chain


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 1), (2, 3), (3, 2)])
def test_rows_come_to_the_servers_that_keep_them_now(before: int, after: int, tmp_path: Path) -> None:
    servers = Servers(before)
    for keys in ((1, 2, 3, 10), (2, 7, 49), (1, 48)):
        servers.push(*keys)
    servers.save(tmp_path, 1)
    seen: list[int] = []
    for shard in range(after):
        there = epochs.read_model(tmp_path / "1", shard, after)
        assert set(there) == {"rows", "bias"}
        assert (there["rows"].keys % after == shard).all()
        assert there["rows"].steps == 3
        np.testing.assert_array_equal(there["rows"].values, servers.rows()[there["rows"].keys])
        np.testing.assert_array_equal(there["bias"].values, servers.stores[0].pull("bias", NO_KEYS))
        seen += there["rows"].keys.tolist()
    assert sorted(seen) == [1, 2, 3, 7, 10, 48, 49]


def test_a_model_that_is_loaded_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    servers, others = Servers(2), Servers(3)
    for keys in ((1, 2, 3, 10), (2, 7, 49)):
        servers.push(*keys)
    servers.save(tmp_path, 1)
    for k, store in enumerate(others.stores):
        for name, table in epochs.read_model(tmp_path / "1", k, 3).items():
            if name in store.names():
                block, steps = fit_state(table, store.spec(name))
                store.load(name, table.keys, block, steps)
    for later in ((2, 3), (5, 10, 49), (2,)):
        servers.push(*later)
        others.push(*later)
    np.testing.assert_allclose(others.rows(), servers.rows(), rtol=1e-6)
    np.testing.assert_array_equal(others.stores[0].pull("bias", NO_KEYS), servers.stores[0].pull("bias", NO_KEYS))


def test_servers_that_counted_differently_are_brought_together(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(1, 2, 3)
    servers.stores[1].push("rows", np.array([5]), np.ones((1, 3), np.float32))
    servers.save(tmp_path, 1)
    there = epochs.read_model(tmp_path / "1")["rows"]
    assert there.steps == 2
    assert (rules.counters(ROWS.rule, there.block) == 2).all()
    np.testing.assert_array_equal(there.values, servers.rows()[there.keys])


def test_a_missing_or_torn_server_is_named(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(1, 2)
    servers.save(tmp_path, 1)
    assert epochs.find_whole(tmp_path / "1")
    path = tmp_path / "1" / "server-1.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"server-1\.safetensors: is torn"):
        epochs.read_model(tmp_path / "1")
    (tmp_path / "1" / "server-1.json").unlink()
    assert not epochs.find_whole(tmp_path / "1")
    with pytest.raises(DataError, match=r"server-1\.json"):
        epochs.read_model(tmp_path / "1")


def test_files_of_an_earlier_run_with_more_servers_do_not_count(tmp_path: Path) -> None:
    for count, key in ((3, 11), (1, 12)):
        servers = Servers(count)
        servers.push(key)
        servers.save(tmp_path, 1)
    assert epochs.read_model(tmp_path / "1")["rows"].keys.tolist() == [12]


@pytest.mark.parametrize("first", [0, 1])
def test_servers_of_two_runs_are_never_joined(first: int, tmp_path: Path) -> None:
    """What is left in a folder that two runs saved to, when each lost a server's files."""
    for run, k in (("a", first), ("b", 1 - first)):
        servers = Servers(2, run=run)
        servers.push(2, 3)
        servers.save_one(k, tmp_path, 1)
    assert epochs.find_whole(tmp_path / "1") is None
    with pytest.raises(DataError, match=r"1: the saves of its 2 servers are of different runs"):
        epochs.read_model(tmp_path / "1")


def test_servers_of_two_epochs_of_a_run_are_not_joined(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(2, 3)
    for epoch in (1, 2):
        servers.save(tmp_path, epoch)
    for file in (tmp_path / "1").glob("server-1*"):
        file.replace(tmp_path / "2" / file.name)
    with pytest.raises(DataError, match="no one model"):
        epochs.read_model(tmp_path / "2")


def test_saves_that_name_no_witnesses_are_of_one_run_if_they_name_its_folder(tmp_path: Path) -> None:
    for shard, run in enumerate(("/runs/a", "/runs/a", "/runs/b")):
        tables = Servers(3).stores[shard].export()
        snapshot.save(tmp_path / "1", f"server-{shard}", tables, {"epoch": 1, "shards": 2 + shard // 2, "run": run})
    assert epochs.find_whole(tmp_path / "1")
    snapshot.save(tmp_path / "1", "server-1", tables, {"epoch": 1, "shards": 2, "run": "/runs/b"})
    assert [part.stem for part in epochs.find_whole(tmp_path / "1") or []] == ["server-0", "server-1"]
    (tmp_path / "1" / "server-1.json").unlink()
    with pytest.raises(DataError, match="of different runs"):
        epochs.read_model(tmp_path / "1")


def keys_of(folder: Path) -> list[int]:
    keys: list[int] = epochs.read_model(folder)["rows"].keys.tolist()
    return keys


def files_of(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name[0] != ".")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_wherever_servers_stop_the_earlier_epoch_or_the_new_one_is_whole(
    order: tuple[int, int], tmp_path: Path
) -> None:
    old, new = Servers(2, run="old"), Servers(2, run="new")
    old.push(2, 3)
    new.push(4, 5)

    def write_again(at: Path, stop_before: int | None = None) -> int:
        old.save(at, 1)
        with disk(at, stop_before) as found:
            for k in order:
                new.save_one(k, at, 1)
        return found.steps

    steps = write_again(tmp_path / "all")
    assert keys_of(tmp_path / "all" / "1") == [4, 5]
    assert files_of(tmp_path / "all" / "1") == [
        f"server-{k}.2.{ending}" for k in (0, 1) for ending in ("json", "safetensors")
    ]
    found = []
    for stop in range(steps):
        at = tmp_path / str(stop)
        write_again(at, stop)
        found.append(keys_of(at / "1"))
        new.save(at, 1)  # another run comes, and has the last word
        assert keys_of(at / "1") == [4, 5]
        assert len(files_of(at / "1")) == 4
    assert [2, 3] in found
    assert [4, 5] in found
    assert found == sorted(found)


@pytest.mark.parametrize(("step", "after"), [("open", 0), ("open", 1), ("fsync", 1), ("replace", 0), ("replace", 1)])
def test_a_save_that_fails_leaves_the_earlier_epoch_whole(step: str, after: int, tmp_path: Path) -> None:
    old, new = Servers(2, run="old"), Servers(2, run="new")
    old.push(2, 3)
    new.push(4, 5)
    old.save(tmp_path, 1)
    new.save_one(1, tmp_path, 1)
    with failing(step, after), pytest.raises(DataError, match=r"cannot save to .*No space left"):
        new.save_one(0, tmp_path, 1)
    assert keys_of(tmp_path / "1") == [2, 3]


def test_wherever_a_client_stops_its_earlier_private_save_or_the_new_one_is_whole(tmp_path: Path) -> None:
    def write_again(at: Path, stop_before: int | None = None) -> int:
        for key in (2, 4):
            store = Servers(1).stores[0]
            store.push("rows", np.array([key]), np.zeros((1, store.spec("rows").dim), np.float32))
            with disk(at, stop_before if key == 4 else None) as found:
                epochs.save_private(at / "1", store.export(), {"epoch": 1})
        return found.steps

    steps = write_again(tmp_path / "all")
    assert files_of(tmp_path / "all" / "1") == ["tables.2.json", "tables.2.safetensors"]
    found = []
    for stop in range(steps):
        write_again(tmp_path / str(stop), stop)
        found.append(epochs.read_private(tmp_path / str(stop) / "1")["rows"].keys.tolist())
    assert [2] in found
    assert [4] in found
    assert found == sorted(found)


def test_what_users_put_beside_a_save_stays(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "server-notes.json").write_text("mine")
    for run in "ab":
        Servers(1, run=run).save(tmp_path, 1)
    assert files_of(tmp_path / "1") == ["server-0.2.json", "server-0.2.safetensors", "server-notes.json"]


def test_what_is_no_saved_epoch_says_what_to_name(tmp_path: Path) -> None:
    chain(tmp_path / "model")
    with pytest.raises(
        DataError, match=r"model: is no saved epoch; it holds epochs 1, 2, 3: name one, e\.g\. .*model/3"
    ):
        epochs.read_model(tmp_path / "model")
    with pytest.raises(DataError, match=r"nowhere: is no saved epoch; name one that a run has saved"):
        epochs.read_model(tmp_path / "nowhere")


def test_the_newest_private_save_up_to_an_epoch_counts(tmp_path: Path) -> None:
    block = np.ones((1, rules.width(ROWS.rule, 3)), np.float32)
    for epoch in (1, 2, 10):
        rules.counters(ROWS.rule, block)[:] = epoch
        snapshot.save(tmp_path / str(epoch), "tables", {"rows": (ROWS, np.array([3]), block)}, {})
    (tmp_path / "5").mkdir()
    found = {epoch: epochs.private_save(tmp_path, epoch) for epoch in (0, 1, 9, 10, 11)}
    assert found == {0: None, 1: tmp_path / "1", 9: tmp_path / "2", 10: tmp_path / "10", 11: tmp_path / "10"}
    there = epochs.read_private(tmp_path / "2")["rows"]
    assert (there.keys.tolist(), there.steps) == ([3], 2)


def test_a_save_with_counters_as_floats_goes_on_as_if_it_had_never_stopped() -> None:
    """What versions before format 2 wrote."""
    names: tuple[RuleName, ...] = ("adam", "lazy_adam", "shared_adam")
    specs = [TableSpec(n, "sparse", (9, 2), Rule(n, 0.1), Init("normal", 0.0, 1.0), seed=1) for n in names]
    tensor = TableSpec("tensor", "dense", (2,), Rule("lazy_adam", 0.1))
    store, old = Store(), Store()
    for one in (store, old):
        one.declare([*specs, tensor])
    store.seed("tensor", np.ones((1, 2), np.float32))

    def push(one: Store, *keys: int) -> None:
        for name in names:
            one.push(name, np.array(keys), np.ones((len(keys), 2), np.float32))
        one.push("tensor", NO_KEYS, np.ones((1, 2), np.float32))

    for keys in ((1, 2), (2, 5), (2,)):
        push(store, *keys)
    for name, table in epochs.read_model(Path(__file__).parent / "format_1").items():
        block, steps = fit_state(table, old.spec(name))
        old.load(name, table.keys, block, steps)
    for one in (store, old):
        push(one, 1, 5)
    for name, (_, *arrays) in store.export().items():
        for mine, its in zip(arrays, old.export()[name][1:], strict=True):
            np.testing.assert_array_equal(its, mine)
