"""Saved epochs, read into any number of servers, through chains of deltas, and refused where they do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.errors import DataError, JobError
from fedps.storage import epochs as saved
from fedps.storage import snapshot
from fedps.storage.epochs import Saved
from fedps.table import rules
from fedps.table.init import initial_rows
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Keys, Rule, RuleName, TableSpec, Values

ROWS = TableSpec("rows", "sparse", (50, 3), Rule("adam", 0.1), Init("normal", 0.0, 1.0), seed=1)
BIAS = TableSpec("bias", "dense", (2, 2), Rule("adam", 0.1))
EVERY: NDArray[np.int64] = np.arange(50)


class Servers:
    """Some stores that are pushed to as one, each saved into one folder."""

    def __init__(self, count: int, rows: TableSpec = ROWS) -> None:
        self.stores, self.checks = [Store() for _ in range(count)], dict[int, str]()
        for k, store in enumerate(self.stores):
            store.declare([rows, BIAS] if k == 0 else [rows])
        self.stores[0].seed("bias", np.ones((1, 4), np.float32))

    def push(self, *keys: int) -> None:
        for k, store in enumerate(self.stores):
            mine: Keys = np.array([key for key in keys if key % len(self.stores) == k], np.int64)
            store.push("rows", mine, np.ones((len(mine), 3), np.float32) * (1 + mine[:, None]).astype(np.float32))
        self.stores[0].push("bias", NO_KEYS, np.ones((1, 4), np.float32))

    def save(self, folder: Path, epoch: int, base: int | None = None) -> None:
        for k, store in enumerate(self.stores):
            facts: dict[str, object] = {"epoch": epoch, "shard": k, "shards": len(self.stores), "steps": store.steps()}
            if base is not None:
                facts["base"] = {"epoch": base, "check": self.checks[k]}
            tables = store.export(changed=base is not None)
            self.checks[k] = snapshot.save(folder / str(epoch), f"server-{k}", tables, facts)
            store.mark_saved()

    def rows(self) -> Values:
        """All rows as they are now; those of other servers are left out."""
        out = np.empty((50, 3), np.float32)
        for k, store in enumerate(self.stores):
            mine = EVERY[EVERY % len(self.stores) == k]
            out[mine] = store.pull("rows", mine)
        return out


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 1), (2, 3), (3, 2)])
def test_rows_come_to_the_servers_that_keep_them_now(before: int, after: int, tmp_path: Path) -> None:
    servers = Servers(before)
    for keys in ((1, 2, 3, 10), (2, 7, 49), (1, 48)):
        servers.push(*keys)
    servers.save(tmp_path, 1)
    seen: list[int] = []
    for shard in range(after):
        there = saved.read_model(tmp_path / "1", shard, after)
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
        for name, table in saved.read_model(tmp_path / "1", k, 3).items():
            if name in store.names():
                block, steps = saved.fit_state(table, store.spec(name))
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
    there = saved.read_model(tmp_path / "1")["rows"]
    assert there.steps == 2
    assert (rules.counters(ROWS.rule, there.block) == 2).all()
    np.testing.assert_array_equal(there.values, servers.rows()[there.keys])


@pytest.mark.parametrize("rule", ["adam", "add", "lazy_adam"])
def test_a_chain_of_deltas_is_the_whole(rule: str, tmp_path: Path) -> None:
    spec = TableSpec("rows", "sparse", (50, 3), Rule(rule, 0.1), ROWS.init, 1)  # type: ignore[arg-type]
    servers = Servers(2, spec)
    for epoch, keys in enumerate(((1, 2, 3, 10), (2, 7), (), (3, 7, 20)), 1):
        servers.push(*keys)
        servers.save(tmp_path / "delta", epoch, base=epoch - 1 if epoch > 1 else None)
    saved_rows = [len(snapshot.load(tmp_path / "delta" / str(e), "server-1")[0]["rows"][1]) for e in (1, 2, 3, 4)]
    assert saved_rows == [2, 1, 0, 2]
    there = saved.read_model(tmp_path / "delta" / "4")["rows"]
    assert there.keys.tolist() == [1, 2, 3, 7, 10, 20]
    np.testing.assert_allclose(there.values, servers.rows()[there.keys], rtol=1e-5)
    assert saved.read_model(tmp_path / "delta" / "2")["rows"].keys.tolist() == [1, 2, 3, 7, 10]


def chain(folder: Path) -> Servers:
    servers = Servers(1)
    for epoch in (1, 2, 3):
        servers.push(epoch)
        servers.save(folder, epoch, base=epoch - 1 if epoch > 1 else None)
    return servers


def test_a_delta_without_its_base_is_refused_by_name(tmp_path: Path) -> None:
    chain(tmp_path)
    for file in (tmp_path / "1").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"2/server-0\.json: .* since epoch 1, whose save .*1/server-0\.json is gone"):
        saved.read_model(tmp_path / "3")


def test_a_delta_whose_base_was_written_again_is_refused(tmp_path: Path) -> None:
    chain(tmp_path)
    other = Servers(1)
    other.push(40)
    other.save(tmp_path, 1)
    with pytest.raises(DataError, match=r"2/server-0\.json: .* epoch 1, but .* was written again since"):
        saved.read_model(tmp_path / "3")


@pytest.mark.parametrize("base", [{"epoch": 3, "check": ""}, {"epoch": 9}, {"epoch": "1"}, {}, 7, "x"])
def test_a_delta_on_what_is_not_before_it_is_refused(base: object, tmp_path: Path) -> None:
    facts = {"epoch": 3, "shard": 0, "shards": 1, "base": base}
    snapshot.save(tmp_path / "3", "server-0", Servers(1).stores[0].export(), facts)
    with pytest.raises(DataError, match="which is not before it"):
        saved.read_model(tmp_path / "3")


def test_mixed_up_servers_are_refused(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(1, 2)
    servers.save(tmp_path, 1)
    for ending in ("json", "safetensors"):
        (tmp_path / "1" / f"server-0.{ending}").replace(tmp_path / "1" / f"server-1.{ending}")
    servers.stores.reverse()
    snapshot.save(tmp_path / "1", "server-0", servers.stores[0].export(), {"shard": 1, "shards": 2})
    with pytest.raises(DataError, match=r"server-0\.json: is the save of server 1 of 2, where that of server 0 of 2"):
        saved.read_model(tmp_path / "1")


def test_a_missing_or_torn_server_is_named(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(1, 2)
    servers.save(tmp_path, 1)
    assert saved.is_whole(tmp_path / "1")
    path = tmp_path / "1" / "server-1.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"server-1\.safetensors: is torn"):
        saved.read_model(tmp_path / "1")
    (tmp_path / "1" / "server-1.json").unlink()
    assert not saved.is_whole(tmp_path / "1")
    with pytest.raises(DataError, match=r"server-1\.json"):
        saved.read_model(tmp_path / "1")


def test_files_of_an_earlier_run_with_more_servers_do_not_count(tmp_path: Path) -> None:
    for count, key in ((3, 11), (1, 12)):
        servers = Servers(count)
        servers.push(key)
        servers.save(tmp_path, 1)
    assert saved.read_model(tmp_path / "1")["rows"].keys.tolist() == [12]


def test_what_is_no_saved_epoch_says_what_to_name(tmp_path: Path) -> None:
    chain(tmp_path / "model")
    with pytest.raises(
        DataError, match=r"model: is no saved epoch; it holds epochs 1, 2, 3: name one, e\.g\. .*model/3"
    ):
        saved.read_model(tmp_path / "model")
    with pytest.raises(DataError, match=r"nowhere: is no saved epoch; name one that a run has saved"):
        saved.read_model(tmp_path / "nowhere")


def test_another_version_is_refused(tmp_path: Path) -> None:
    chain(tmp_path)
    path = tmp_path / "3" / "server-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(DataError, match=r"server-0\.json: is altered, or of another version"):
        saved.read_model(tmp_path / "3")


@pytest.mark.parametrize("shards", [None, 0, -1, "2", 1 << 40])
def test_a_save_of_how_many_servers_must_be_told(shards: object, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "1", "server-0", Servers(1).stores[0].export(), {"shard": 0, "shards": shards})
    with pytest.raises(DataError, match="does not say of how many servers"):
        saved.read_model(tmp_path / "1")


@pytest.mark.parametrize("keys", [[3, 3], [4, 3]])
def test_rows_out_of_order_or_twice_are_refused(keys: list[int], tmp_path: Path) -> None:
    block = np.zeros((2, rules.width(ROWS.rule, 3)), np.float32)
    tables = {"rows": (ROWS, np.array(keys), block)}
    snapshot.save(tmp_path / "1", "server-0", tables, {"shard": 0, "shards": 1})
    with pytest.raises(DataError, match="not in order, or one comes twice"):
        saved.read_model(tmp_path / "1")


def test_a_whole_tensor_has_its_shape_and_untouched_rows_their_start(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(4, 7)
    servers.save(tmp_path, 1)
    there = saved.read_model(tmp_path / "1")
    whole = saved.tensor(there["rows"])
    due = initial_rows(ROWS, EVERY)
    np.testing.assert_array_equal(whole, servers.rows())
    np.testing.assert_array_equal(np.delete(whole, [4, 7], 0), np.delete(due, [4, 7], 0))
    assert saved.tensor(there["bias"]).shape == (2, 2)


def test_state_goes_along_only_to_its_own_rule() -> None:
    block = np.arange(10, dtype=np.float32)[None]
    there = Saved(ROWS, np.array([3]), block, 5)
    same, steps = saved.fit_state(there, TableSpec("rows", "sparse", (50, 3), Rule("adam", 0.5)))
    assert (same.tolist(), steps) == (block.tolist(), 5)
    other, steps = saved.fit_state(there, TableSpec("rows", "sparse", (50, 3), Rule("lazy_adam")))
    assert (other.tolist(), steps) == ([[0, 1, 2, *[0] * 7]], 0)
    plain, steps = saved.fit_state(there, TableSpec("rows", "sparse", (50, 3)))
    assert (plain.tolist(), steps) == ([[0, 1, 2]], 0)


def test_a_misfit_names_the_table_and_both_shapes() -> None:
    there = {"rows": Saved(ROWS, NO_KEYS, np.empty((0, 10), np.float32), 0)}
    assert saved.shape_misfit(ROWS, there, Path("f")) is None
    other = TableSpec("rows", "sparse", (50, 4))
    assert "rows has shape 50 × 3 there and 50 × 4 in this job" in str(saved.shape_misfit(other, there, Path("f")))
    missing = str(saved.shape_misfit(BIAS, there, Path("f")))
    assert "holds no table bias, of shape 2 × 2 in this job; it holds rows (50 × 3)" in missing


def test_the_newest_private_save_up_to_an_epoch_counts(tmp_path: Path) -> None:
    block = np.ones((1, rules.width(ROWS.rule, 3)), np.float32)
    for epoch in (1, 2, 10):
        rules.counters(ROWS.rule, block)[:] = epoch
        snapshot.save(tmp_path / str(epoch), "tables", {"rows": (ROWS, np.array([3]), block)}, {})
    (tmp_path / "5").mkdir()
    found = {epoch: saved.private_save(tmp_path, epoch) for epoch in (0, 1, 9, 10, 11)}
    assert found == {0: None, 1: tmp_path / "1", 9: tmp_path / "2", 10: tmp_path / "10", 11: tmp_path / "10"}
    there = saved.read_private(tmp_path / "2")["rows"]
    assert (there.keys.tolist(), there.steps) == ([3], 2)


def test_two_who_hold_the_same_rows_are_no_one_model() -> None:
    part = Saved(ROWS, np.array([3]), np.ones((1, 10), np.float32), 0)
    tensor = Saved(BIAS, NO_KEYS, np.ones((1, 12), np.float32), 0)
    for twice in ([part, part], [tensor, tensor]):
        with pytest.raises(JobError, match="two clients or servers hold the same rows"):
            saved.join(twice, Path("f"))


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
    for name, table in saved.read_model(Path(__file__).parent / "format_1").items():
        block, steps = saved.fit_state(table, old.spec(name))
        old.load(name, table.keys, block, steps)
    for one in (store, old):
        push(one, 1, 5)
    for name, (_, *arrays) in store.export().items():
        for mine, its in zip(arrays, old.export()[name][1:], strict=True):
            np.testing.assert_array_equal(its, mine)
