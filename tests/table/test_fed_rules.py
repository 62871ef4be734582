"""The servers' own optimizers against algorithm 2 of Reddi et al., written out in float64, row by row."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.table import rules
from fedps.table.sparse import SparseTable
from fedps.types import Init, Rule, RuleName, TableSpec

ROWS, DIM, STEPS, TAU = 9, 4, 25, 0.05
NAMES: list[RuleName] = ["fed_momentum", "fed_adagrad", "fed_adam", "fed_yogi"]


def one_row(name: RuleName, changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where a row ends that starts at 0 and gets these changes, float64[n, DIM]; η 0.1, β1 0.9, β2 0.8."""
    w, m, v = np.zeros(DIM), np.zeros(DIM), np.full(DIM, TAU**2)
    for change in changes:
        square = change**2
        if name == "fed_momentum":
            m = 0.9 * m + change
            w = w + 0.1 * m
            continue
        m = 0.9 * m + 0.1 * change
        if name == "fed_adagrad":
            v = v + square
        elif name == "fed_adam":
            v = 0.8 * v + 0.2 * square
        else:
            v = v - 0.2 * square * np.sign(v - square)
        w = w + 0.1 * m / (np.sqrt(v) + TAU)
    return w


@pytest.mark.parametrize("name", NAMES)
def test_a_row_moves_by_the_changes_it_is_part_of_and_by_no_other(name: RuleName) -> None:
    rng = np.random.default_rng(0)
    table = SparseTable(TableSpec("t", "sparse", (ROWS, DIM), Rule(name, 0.1, 0.9, 0.8, TAU), Init()))
    had: list[list[NDArray[np.float64]]] = [[] for _ in range(ROWS)]
    for _ in range(STEPS):
        keys = np.flatnonzero(rng.random(ROWS - 1) < 0.5)  # the last row is never in one
        values = rng.normal(size=(len(keys), DIM)).astype(np.float32)
        before = table.pull(np.arange(ROWS))
        table.push(keys, values)
        still = np.setdiff1d(np.arange(ROWS), keys)
        np.testing.assert_array_equal(table.pull(still), before[still])
        for key, value in zip(keys, values, strict=True):
            had[key].append(value.astype(np.float64))
    due = np.array([one_row(name, np.array(changes)) for changes in had])
    np.testing.assert_allclose(table.pull(np.arange(ROWS)), due, atol=2e-5)
    assert np.abs(due[:-1]).min() > 0
    assert (due[-1] == 0).all()


@pytest.mark.parametrize("name", NAMES[1:])
def test_squares_start_at_tau_squared_and_stay_over_zero(name: RuleName) -> None:
    rule, block = Rule(name, 0.1, 0.0, 0.8, TAU), np.zeros((1, 3 * DIM), np.float32)
    rules.apply(rule, block, np.zeros((1, DIM), np.float32), 1)
    still = TAU**2 * (0.8 if name == "fed_adam" else 1.0)
    np.testing.assert_allclose(block[0, 2 * DIM :], still, rtol=1e-6)
    assert (block[0, : 2 * DIM] == 0).all()
    for step in range(2, 50):
        rules.apply(rule, block, np.full((1, DIM), 10.0 if step % 2 else 0.0, np.float32), step)
        assert (block[0, 2 * DIM :] > 0).all()


def test_a_steady_change_moves_a_row_by_the_step_size_whatever_its_length() -> None:
    for size in (0.5, 50.0):
        block = np.zeros((1, 3), np.float32)
        for step in range(1, 200):
            before = block[0, 0]
            rules.apply(Rule("fed_adam", 0.1, 0.9, 0.8, 1e-6), block, np.full((1, 1), size, np.float32), step)
        assert block[0, 0] - before == pytest.approx(0.1, rel=1e-3)
