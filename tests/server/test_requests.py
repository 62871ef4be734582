"""Keys and values that a request may not carry."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.errors import RefusedError
from fedps.server.requests import check_pull, read_push
from fedps.table.store import Store
from fedps.types import Rule, TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Pull, Push

SPEC = TableSpec("rows", "sparse", (1000, 2), Rule("sgd", 0.5))
BIAS = TableSpec("bias", "dense", (2, 3))


def shard(number: int = 0, count: int = 1) -> Any:
    """Return what checks must know of a shard."""
    store = Store()
    store.declare([SPEC, BIAS])
    return SimpleNamespace(store=store, number=number, count=count, gate=None)


def refusal(table: str, keys: Any, values: Any, number: int = 0, count: int = 1) -> str | None:
    """Return the kind of refusal of a push of these arrays, or of a pull; None if there is none."""
    keys = np.array(keys, np.int64)
    try:
        if values is None:
            check_pull(Pull((table,)), [keys], shard(number, count), Limits())
        else:
            read_push(Push((table,), 1, 0), [keys, np.asarray(values, np.float32)], shard(number, count), Limits())
    except RefusedError as error:
        return error.kind
    return None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_value_that_is_not_finite_is_found_anywhere(bad: float, at: int) -> None:
    values = np.full((4, 2), 9e8, np.float32)  # the sum of their squares is over the bound, yet each is within
    assert refusal("rows", range(4), values) is None
    values.flat[at] = bad
    assert refusal("rows", range(4), values) == "not_finite"


def test_opposite_infinities_do_not_cancel() -> None:
    assert refusal("rows", [1], [[np.inf, -np.inf]]) == "not_finite"


def test_a_value_too_large_to_be_squared_is_refused() -> None:
    assert refusal("rows", [1], [[1.1e9, 0]]) == "too_large"
    assert refusal("rows", [1], [[0, -3e38]]) == "too_large"


@pytest.mark.parametrize(
    ("table", "keys", "shape", "kind"),
    [
        ("rows", [1, 3], (3, 2), "mismatch"),
        ("rows", [1, 3], (2, 3), "mismatch"),
        ("bias", [1], None, "bad_keys"),
        ("bias", [], (2, 3), "mismatch"),
        ("other", [1], None, "unknown_table"),
    ],
)
def test_arrays_of_another_form_are_refused(
    table: str, keys: list[int], shape: tuple[int, ...] | None, kind: str
) -> None:
    assert refusal(table, keys, None if shape is None else np.zeros(shape), 1, 2) == kind


@given(st.lists(st.integers(-3, 1003) | st.integers(-(2**63), 2**63 - 1), max_size=6), st.integers(1, 4), st.data())
def test_keys_pass_only_if_sorted_unique_in_range_and_ours(keys: list[int], count: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, count - 1))
    due = keys == sorted(set(keys)) and all(0 <= key < 1000 and key % count == number for key in keys)
    assert refusal("rows", keys, None, number, count) == (None if due else "bad_keys")
