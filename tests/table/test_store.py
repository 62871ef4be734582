"""What the store says before it serves: specs that make no table."""

import numpy as np
import pytest

from fedps.errors import TableError
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Rule, RuleName, TableSpec

SPEC = TableSpec("rows", "sparse", (1000, 2), Rule("sgd", 0.5))
BIAS = TableSpec("bias", "dense", (2, 3))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TableSpec("t", "sparse", (10,)), "has two"),
        (TableSpec("t", "sparse", (10, 2, 2)), "has two"),
        (TableSpec("t", "sparse", (10, 0)), "at least 1"),
        (TableSpec("t", "dense", (-1, 4)), "at least 1"),
        (TableSpec("t", "sparse", (10, 2**40)), "over the limit"),
        (TableSpec("t", "dense", (2**40, 2**40)), "over the limit"),
        (TableSpec("t", "sparse", (10, 2), Rule("lazy_adam", beta2=1.0)), r"lie in \[0, 1\)"),
        (TableSpec("t", "sparse", (10, 2), Rule("sgd", float("nan"))), "learning_rate is over 0"),
        (TableSpec("t", "sparse", (10, 2), Rule("sgd", weight_decay=float("nan"))), r"weight_decay lie in \[0, 1\)"),
        (TableSpec("t", "sparse", (10, 2), Rule("sgd", weight_decay=-0.1)), r"weight_decay lie in \[0, 1\)"),
        (TableSpec("t", "sparse", (10, 2), init=Init("normal", 0.0, float("inf"))), "finite"),
        (TableSpec("t", "sparse", (10, 2), Rule("adam", beta1=0.9, beta2=0.5)), "use lazy_adam"),
        (TableSpec("t", "sparse", (2**62, 2**26)), "declare fewer"),
    ],
)
def test_a_spec_that_makes_no_table_is_told_why(spec: TableSpec, said: str) -> None:
    store = Store()
    with pytest.raises(TableError, match=said):
        store.declare([spec])
    assert store.names() == []


def test_a_store_serves_both_kinds() -> None:
    store = Store()
    store.declare([SPEC, BIAS])
    assert store.names() == ["rows", "bias"]
    assert store.spec("bias") == BIAS
    keys, ones = np.array([3, 999]), np.ones((2, 2), np.float32)
    store.push("rows", keys, ones)
    np.testing.assert_array_equal(store.pull("rows", keys), -0.5 * ones)
    store.seed("bias", np.zeros((1, 6), np.float32))
    store.push("bias", NO_KEYS, np.ones((1, 6), np.float32))
    np.testing.assert_array_equal(store.pull("bias", NO_KEYS), np.ones((1, 6)))


@pytest.mark.parametrize(
    ("name", "values"),
    [("rows", np.zeros((1, 2))), ("bias", np.zeros((1, 7))), ("bias", np.full((1, 6), np.nan))],
)
def test_a_start_that_does_not_fit_is_refused(name: str, values: np.ndarray) -> None:
    store = Store()
    store.declare([SPEC, BIAS])
    with pytest.raises(TableError, match="a start of shape"):
        store.seed(name, values.astype(np.float32))
    with pytest.raises(TableError, match="seed it first"):
        store.pull("bias", NO_KEYS)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "row_adagrad", "lazy_adam", "shared_adam", "adam"])
def test_a_push_may_take_a_share_of_the_learning_rate(name: RuleName) -> None:
    stores = [Store(), Store()]
    for store, rate in zip(stores, (0.1, 0.025), strict=True):
        store.declare(
            [
                TableSpec("rows", "sparse", (9, 3), Rule(name, rate)),
                TableSpec("dense", "dense", (3,), Rule("sgd", rate)),
            ]
        )
        store.seed("dense", np.ones((1, 3), np.float32))
    keys, values = np.arange(4), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for store, share in zip(stores, (0.25, 1.0), strict=True):
        for _ in range(3):
            store.push("rows", keys, values, share)
        store.push("dense", NO_KEYS, values[:1], share)
    for table in ("rows", "dense"):
        of = keys if table == "rows" else NO_KEYS
        np.testing.assert_allclose(stores[0].pull(table, of), stores[1].pull(table, of), rtol=1e-6)
    stores[0].push("dense", NO_KEYS, values[:1])
    stores[1].push("dense", NO_KEYS, values[:1], 4.0)
    np.testing.assert_allclose(stores[0].pull("dense", NO_KEYS), stores[1].pull("dense", NO_KEYS), rtol=1e-6)
