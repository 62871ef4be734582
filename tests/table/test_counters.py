"""Counters of pushes stay exact beyond the 2^24 that a float32 counts to; the oracles count with Python's integers."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.table import kernels, rules
from fedps.table.dense import DenseTable
from fedps.table.sparse import SparseTable
from fedps.types import NO_KEYS, RULES, Init, Keys, Rule, RuleName, TableSpec, Values

ROWS, DIM, STEPS = 6, 4, 40
EVERY: Keys = np.arange(ROWS)
FAR = [2**24 - 2, 2**24, 2**24 + 1, 2**25 + 7, 2**32 + 3]  # pushes that a table has had when the test begins
ADAM = Rule("adam", 0.01)
Push = tuple[Keys, Values]


def pushes(seed: int = 0) -> list[Push]:
    """Some rows' gradients at each step."""
    rng = np.random.default_rng(seed)
    chosen = [np.sort(rng.choice(ROWS, rng.integers(1, 4), replace=False)) for _ in range(STEPS)]
    return [(keys, rng.normal(size=(len(keys), DIM)).astype(np.float32)) for keys in chosen]


def adam_in_float64(pushed: list[Push]) -> NDArray[np.float64]:
    """torch.optim.Adam of the whole table, row by row and step by step, where its bias corrections have ended."""
    w, m, v = np.zeros((3, ROWS, DIM))
    for keys, values in pushed:
        gradient = np.zeros((ROWS, DIM))
        gradient[keys] = values
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w -= 0.01 * m / (np.sqrt(v) + 1e-8)
    return w


def by_table(pushed: list[Push], before: int) -> Values:
    """Return all rows of a server's table; they are read after each push, as clients do."""
    table = SparseTable(TableSpec("t", "sparse", (ROWS, DIM), ADAM))
    table.steps = before
    for keys, values in pushed:
        table.push(keys, values)
        table.pull(EVERY)
    return table.pull(EVERY)


def by_numpy(pushed: list[Push], before: int) -> Values:
    """Return the same of the oracle of the compiled loops."""
    block = np.zeros((ROWS, rules.width(ADAM, DIM)), np.float32)
    for step, (keys, values) in enumerate(pushed, before + 1):
        rows = block[keys]
        rules.apply(ADAM, rows, values, step)
        block[keys] = rows
        rules.settle(ADAM, block, step)
    return block[:, :DIM]


@pytest.mark.parametrize("before", FAR)
@pytest.mark.parametrize("values", [by_table, by_numpy])
def test_rows_move_for_the_steps_they_missed_and_no_others(
    values: Callable[[list[Push], int], Values], before: int
) -> None:
    np.testing.assert_allclose(values(pushes(), before), adam_in_float64(pushes()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("before", FAR)
@pytest.mark.parametrize("values", [by_table, by_numpy])
def test_where_counting_stands_changes_nothing_once_bias_corrections_have_ended(
    values: Callable[[list[Push], int], Values], before: int
) -> None:
    np.testing.assert_array_equal(values(pushes(), before), values(pushes(), 2**20))


@pytest.mark.parametrize("name", ["lazy_adam", "shared_adam"])
@pytest.mark.parametrize("before", [0, 2**24 - 1, 2**24, 2**25 + 1])
def test_a_row_counts_each_of_its_own_pushes(name: RuleName, before: int) -> None:
    rule = Rule(name, 0.01)
    block = np.zeros((ROWS, rules.width(rule, DIM)), np.float32)
    rules.counters(rule, block)[:] = before
    twin = block.copy()
    for _ in range(3):
        values = np.ones((ROWS, DIM), np.float32)
        kernels.change(block, EVERY, values, kernels.constants(rule), RULES.index(name), 1)
        rules.apply(rule, twin, values, 1)
    for found in (block, twin):
        assert rules.counters(rule, found).tolist() == [[before + 3]] * ROWS


@pytest.mark.parametrize("name", ["lazy_adam", "shared_adam"])
def test_a_rows_own_counter_ends_at_its_largest_number(name: RuleName) -> None:
    """It never begins anew: bias corrections would tear the row away."""
    table = DenseTable(TableSpec("t", "dense", (DIM,), Rule(name, 0.01)))
    table.seed(np.ones((1, DIM), np.float32))
    rules.counters(table.spec.rule, table.block)[:] = rules.LAST
    twin = table.block.copy()
    table.push(NO_KEYS, np.ones((1, DIM), np.float32))
    rules.apply(table.spec.rule, twin, np.ones((1, DIM), np.float32), 1)
    for found in (table.block, twin):
        assert rules.counters(table.spec.rule, found).tolist() == [[rules.LAST]]
    np.testing.assert_allclose(table.block[:, :DIM], twin[:, :DIM], rtol=1e-6)


def test_a_row_that_nobody_pushed_stays_where_it_started() -> None:
    table = SparseTable(TableSpec("t", "sparse", (ROWS, DIM), ADAM, Init("constant", 0.5)))
    table.steps = 2**24
    table.pull(EVERY)
    table.push(EVERY[:1], np.ones((1, DIM), np.float32))
    assert (table.pull(EVERY)[1:] == 0.5).all()
