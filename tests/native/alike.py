"""What is the same for a compiled step and torch's, but for rounding."""

import numpy as np

from fedps.table import rules
from fedps.training.learner import Learner


def assert_alike(one: Learner, other: Learner) -> None:
    """Compare all that two learners hold: rows with their state, and dense tensors."""
    for name, table in one.tables.items():
        its = other.tables[name]
        np.testing.assert_allclose(table.block, its.block, rtol=2e-3, atol=3e-4, err_msg=name)
        np.testing.assert_array_equal(rules.counters(table.rule, table.raw), rules.counters(its.rule, its.raw))
        assert table.steps == its.steps
    np.testing.assert_allclose(one.dense.raw, other.dense.raw, rtol=2e-3, atol=3e-4)


def assert_same_gradients(one: Learner, other: Learner) -> None:
    """Compare what two learners would send to the servers."""
    found, due = one.gradients(), other.gradients()
    assert found.rows.keys() == due.rows.keys() == one.shared.keys()
    for name, (slots, rows) in found.rows.items():
        np.testing.assert_array_equal(slots, due.rows[name][0])
        np.testing.assert_allclose(rows, due.rows[name][1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.dense, due.dense, rtol=1e-3, atol=1e-5)
