"""Saved tables, put together and fitted to where they are used."""

from pathlib import Path

import numpy as np
import pytest

from fedps.errors import JobError
from fedps.storage import epochs
from fedps.storage.tables import SavedTable, fit_state, join, shape_misfit, tensor
from fedps.table.rules import initial_rows
from fedps.types import NO_KEYS, Rule, TableSpec
from tests.storage.servers import BIAS, EVERY, ROWS, Servers


def test_a_whole_tensor_has_its_shape_and_untouched_rows_their_start(tmp_path: Path) -> None:
    servers = Servers(2)
    servers.push(4, 7)
    servers.save(tmp_path, 1)
    there = epochs.read_model(tmp_path / "1")
    whole = tensor(there["rows"])
    due = initial_rows(ROWS, EVERY)
    np.testing.assert_array_equal(whole, servers.rows())
    np.testing.assert_array_equal(np.delete(whole, [4, 7], 0), np.delete(due, [4, 7], 0))
    assert tensor(there["bias"]).shape == (2, 2)


def test_state_goes_along_only_to_its_own_rule() -> None:
    block = np.arange(10, dtype=np.float32)[None]
    there = SavedTable(ROWS, np.array([3]), block, 5)
    same, steps = fit_state(there, TableSpec("rows", "sparse", (50, 3), Rule("adam", 0.5)))
    assert (same.tolist(), steps) == (block.tolist(), 5)
    other, steps = fit_state(there, TableSpec("rows", "sparse", (50, 3), Rule("lazy_adam")))
    assert (other.tolist(), steps) == ([[0, 1, 2, *[0] * 7]], 0)
    plain, steps = fit_state(there, TableSpec("rows", "sparse", (50, 3)))
    assert (plain.tolist(), steps) == ([[0, 1, 2]], 0)


def test_a_misfit_names_the_table_and_both_shapes() -> None:
    there = {"rows": SavedTable(ROWS, NO_KEYS, np.empty((0, 10), np.float32), 0)}
    assert shape_misfit(ROWS, there, Path("f")) is None
    other = TableSpec("rows", "sparse", (50, 4))
    assert "rows has shape 50 × 3 there and 50 × 4 in this job" in str(shape_misfit(other, there, Path("f")))
    missing = str(shape_misfit(BIAS, there, Path("f")))
    assert "holds no table bias, of shape 2 × 2 in this job; it holds rows (50 × 3)" in missing


def test_two_who_hold_the_same_rows_are_no_one_model() -> None:
    part = SavedTable(ROWS, np.array([3]), np.ones((1, 10), np.float32), 0)
    tensor = SavedTable(BIAS, NO_KEYS, np.ones((1, 12), np.float32), 0)
    for twice in ([part, part], [tensor, tensor]):
        with pytest.raises(JobError, match="two clients or servers hold the same rows"):
            join(twice, Path("f"))
