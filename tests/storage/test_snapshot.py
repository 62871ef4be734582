"""What is saved is there whole, or the damage is found."""

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import DataError, TableError
from fedps.storage import snapshot
from fedps.table.sparse import SparseTable
from fedps.table.store import Store
from fedps.types import Init, Rule, TableSpec
from tests.storage.crashes import failing

SPEC = TableSpec("rows", "sparse", (1000, 4), Rule("adam"), Init("normal", 0.0, 1.0), seed=1)


def filled() -> Store:
    store = Store()
    store.declare([SPEC, TableSpec("bias", "dense", (2, 3))])
    store.seed("bias", np.arange(6, dtype=np.float32)[None])
    store.push("rows", np.array([1, 5, 900]), np.ones((3, 4), np.float32))
    return store


def test_tables_come_back_the_same(tmp_path: Path) -> None:
    before = filled().export()
    snapshot.save(tmp_path, "server-0", before, {"epoch": 3})
    after, facts = snapshot.load(tmp_path, "server-0")
    assert facts == {"epoch": 3}
    for name, (spec, keys, block) in before.items():
        assert after[name][0] == spec
        np.testing.assert_array_equal(after[name][1], keys)
        np.testing.assert_array_equal(after[name][2], block)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["server-0.json", "server-0.safetensors"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_a_save_of_another_user_is_told_with_the_key_that_lets_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot.save(tmp_path, "server-0", filled().export(), {})

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(
        DataError, match=r"server-0\.json: cannot be read: Permission denied.*runner\.model_readers: group"
    ):
        snapshot.load(tmp_path, "server-0")


def test_a_save_never_touches_an_earlier_one(tmp_path: Path) -> None:
    names = []
    for epoch in range(1, 12):
        snapshot.save(tmp_path, "s", filled().export(), {"epoch": epoch})
        names.append(snapshot.stems(tmp_path, "s")[0])
    assert names == ["s", *(f"s.{number}" for number in range(2, 12))]
    assert snapshot.stems(tmp_path, "s") == names[::-1], "the newest first, by number"
    assert [snapshot.load(tmp_path, name)[1]["epoch"] for name in names] == list(range(1, 12))
    assert snapshot.stems(tmp_path, "s.2") == []


def test_every_flip_and_cut_is_found(tmp_path: Path) -> None:
    snapshot.save(tmp_path, "s", filled().export(), {})
    path, rng = tmp_path / "s.safetensors", np.random.default_rng(0)
    whole = path.read_bytes()
    for _ in range(100):
        at = int(rng.integers(len(whole)))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"s\.safetensors"):
            snapshot.load(tmp_path, "s")
        path.write_bytes(whole[:at])
        with pytest.raises(DataError, match=r"s\.safetensors"):
            snapshot.load(tmp_path, "s")


def test_every_flip_and_cut_of_the_manifest_is_found(tmp_path: Path) -> None:
    snapshot.save(tmp_path, "s", filled().export(), {"epoch": 3, "shard": 0})
    path, rng = tmp_path / "s.json", np.random.default_rng(1)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"s\.json"):
            snapshot.load(tmp_path, "s")
        path.write_bytes(whole[:at])
        with pytest.raises(DataError, match=r"s\.json"):
            snapshot.load(tmp_path, "s")


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, ending: str) -> None:
    snapshot.save(tmp_path, "s", filled().export(), {})
    (tmp_path / f"s.{ending}").unlink()
    with pytest.raises(DataError, match=rf"s\.{ending}: cannot be read: No such file"):
        snapshot.load(tmp_path, "s")


def test_another_format_is_refused(tmp_path: Path) -> None:
    snapshot.save(tmp_path, "s", filled().export(), {})
    path = tmp_path / "s.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(DataError, match="another version"):
        snapshot.load(tmp_path, "s")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse longer files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("full", ["rows", "manifest"])
def test_a_full_disk_leaves_the_last_save_whole(tmp_path: Path, full: str) -> None:
    store = filled()
    snapshot.save(tmp_path, "s", store.export(), {"epoch": 1})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    store.push("rows", np.array([7]), np.ones((1, 4), np.float32))
    if full == "rows":
        store.push("rows", np.arange(1000), np.ones((1000, 4), np.float32))
    facts: dict[str, object] = {"epoch": 2, "note": "x" * (50_000 if full == "manifest" else 1)}
    with files_of_at_most(20_000), pytest.raises(DataError, match="cannot save"):
        snapshot.save(tmp_path, "s", store.export(), facts)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert snapshot.load(tmp_path, "s")[1] == {"epoch": 1}


def test_a_rename_that_fails_leaves_no_scratch(tmp_path: Path) -> None:
    with failing("replace", 1), pytest.raises(DataError, match="cannot save"):
        snapshot.save(tmp_path, "s", filled().export(), {})
    assert [file.name for file in tmp_path.iterdir()] == ["s.safetensors"], "without a manifest it does not count"
    snapshot.save(tmp_path, "s", filled().export(), {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.json", "s.safetensors"]
    assert set(snapshot.load(tmp_path, "s")[0]) == {"rows", "bias"}


def test_a_save_that_fails_leaves_the_last_one_whole(tmp_path: Path) -> None:
    snapshot.save(tmp_path, "s", filled().export(), {"epoch": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot save"):
        snapshot.save(tmp_path / "file" / "below", "s", filled().export(), {"epoch": 2})
    assert snapshot.load(tmp_path, "s")[1] == {"epoch": 1}


def test_a_full_table_refuses_new_rows_and_keeps_serving_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.table.sparse.places", lambda spec: 3)
    table = SparseTable(SPEC)
    rows = table.pull(np.array([1, 2, 3]))
    with pytest.raises(TableError, match="limit of 3"):
        table.pull(np.array([3, 4]))
    np.testing.assert_array_equal(table.pull(np.array([1, 2, 3])), rows)


def test_the_same_declaration_is_fine_and_another_is_not() -> None:
    store = filled()
    store.declare([SPEC])
    with pytest.raises(TableError, match="'rows' is"):
        store.declare([TableSpec("rows", "sparse", (1000, 5))])
    with pytest.raises(TableError, match="there are rows, bias"):
        store.pull("other", np.array([1]))
