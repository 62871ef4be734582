"""Packed values: each form loses what it says and no more, and what a peer packs wrongly is refused."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedps.errors import WireError
from fedps.types import NO_KEYS, TableSpec, Values
from fedps.wire.compress import (
    ARRAYS,
    Array,
    Form,
    from_bf16,
    sides,
    to_bf16,
    to_fp16,
    to_int8,
    to_low_rank,
    unpack,
)
from fedps.wire.frame import CODES
from tests.memory import allocating_less_than


def matrix(seed: int, rows: int = 50, columns: int = 8) -> Values:
    """Draw rows of very different sizes."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-4, 3, (rows, 1))
    return (rng.standard_normal((rows, columns)) * sizes).astype(np.float32)


def start(columns: int, rank: int) -> Values:
    return np.random.default_rng(1).standard_normal((columns, rank), np.float32)


PACKERS: dict[Form, Callable[[Values], list[Array]]] = {
    "none": lambda m: [m],
    "fp16": lambda m: [to_fp16(m)],
    "bf16": lambda m: [to_bf16(m)],
    "int8": lambda m: [*to_int8(m, np.random.default_rng(0))],
    "low_rank": lambda m: [*to_low_rank(m, start(m.shape[1], 3))],
}
LOSSES: dict[Form, Callable[[Values], NDArray[np.float64]]] = {  # the largest error there may be, by component
    "none": np.zeros_like,
    "fp16": lambda m: np.maximum(np.abs(m) * 2.0**-11, 2.0**-25),
    "bf16": lambda m: np.abs(m) * 2.0**-8,
    "int8": lambda m: np.abs(m).max(axis=1, keepdims=True) / 127 * 1.001 + 0 * m,
}


@pytest.mark.parametrize("form", PACKERS)
def test_arrays_are_of_the_types_that_the_form_is_said_to_have(form: Form) -> None:
    arrays = PACKERS[form](matrix(0))
    assert [(CODES[a.dtype], a.ndim) for a in arrays] == ARRAYS[form]
    assert unpack(form, arrays, (50, 8)).dtype == np.float32


@pytest.mark.parametrize("form", LOSSES)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_no_component_loses_more_than_a_step_of_its_form(form: Form, seed: int, rows: int, columns: int) -> None:
    values = matrix(seed, rows, columns)
    lost = np.abs(unpack(form, PACKERS[form](values), values.shape).astype(np.float64) - values)
    assert (lost <= LOSSES[form](values)).all()


def test_bf16_rounds_ties_to_even_as_the_format_says() -> None:
    bits = np.array([[0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF]], np.uint32)
    assert to_bf16(bits.view(np.float32)).tolist() == [[0x3F80, 0x3F82, 0x3F81, 0x3F80]]


def test_fp16_cuts_finite_values_at_its_largest() -> None:
    values = np.array([[1e6, -1e6, 65504, 65519, 65521, 1e-9]], np.float32)
    assert to_fp16(values).tolist() == [[65504, -65504, 65504, 65504, 65504, 0]]


@pytest.mark.parametrize("form", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(form: Form, value: float) -> None:
    values = matrix(3)
    values[7, 2] = value
    assert not np.isfinite(unpack(form, PACKERS[form](values), values.shape)).all()


def test_low_rank_does_not_hide_nan() -> None:
    values = matrix(3)
    values[7, 2] = np.nan
    assert np.isnan(unpack("low_rank", PACKERS["low_rank"](values), values.shape)).any()


def test_int8_is_right_on_average() -> None:
    """The mean of n draws of steps s lies within 5 standard errors, s / 2 / √n at most; plain rounding would not."""
    values, draw, count = matrix(4, 5, 4), np.random.default_rng(0), 4000
    mean = np.mean([unpack("int8", [*to_int8(values, draw)], values.shape) for _ in range(count)], axis=0)
    steps = np.abs(values).max(axis=1, keepdims=True) / 127
    assert (np.abs(mean - values) < 5 * steps / 2 / count**0.5).all()
    rounded = np.rint(values / steps) * steps
    assert (np.abs(rounded - values) > 5 * steps / 2 / count**0.5).any()


def test_int8_sends_zeros_and_the_largest_of_a_row_exactly() -> None:
    values = np.array([[0, 0, 0], [0, -127, 3], [1e-40, 0, 0]], np.float32)
    found = unpack("int8", PACKERS["int8"](values), values.shape)
    assert found[:2].tolist() == [[0, 0, 0], [0, -127, 3]]
    assert np.abs(found[2] - values[2]).max() <= 1e-40


def test_a_matrix_of_low_rank_travels_whole() -> None:
    rng = np.random.default_rng(5)
    values = (rng.standard_normal((30, 3)) @ rng.standard_normal((3, 12))).astype(np.float32)
    arrays = PACKERS["low_rank"](values)
    assert [a.shape for a in arrays] == [(30, 3), (12, 3)]
    np.testing.assert_allclose(unpack("low_rank", arrays, values.shape), values, atol=1e-5)


def test_low_rank_comes_near_the_best_of_its_rank_when_it_goes_on_from_its_last() -> None:
    values = np.random.default_rng(6).standard_normal((40, 12)).astype(np.float32)
    values[:, :2] *= 10
    right = start(12, 2)
    for _ in range(8):
        left, right = to_low_rank(values, right)
    best = np.sqrt((np.linalg.svd(values)[1][2:] ** 2).sum())
    assert np.linalg.norm(values - left @ right.T) < 1.01 * best


def test_rank_is_no_larger_than_the_matrix() -> None:
    arrays = [*to_low_rank(matrix(7, 2, 8), start(8, 5))]
    assert [a.shape for a in arrays] == [(2, 2), (8, 2)]
    np.testing.assert_allclose(unpack("low_rank", arrays, (2, 8)), matrix(7, 2, 8), rtol=1e-4, atol=1e-5)


def test_sides_are_those_of_the_tensor() -> None:
    assert sides(TableSpec("t", "sparse", (1000, 8)), np.arange(5)) == (5, 8)
    assert sides(TableSpec("t", "dense", (6, 4, 2)), NO_KEYS) == (6, 8)
    assert sides(TableSpec("t", "dense", (6,)), NO_KEYS) == (1, 6)
    assert sides(TableSpec("t", "dense", ()), NO_KEYS) == (1, 1)


def test_a_piece_of_a_tensor_has_the_tensors_rows_where_it_is_made_of_them() -> None:
    spec = TableSpec("t", "dense", (6, 4, 2))
    assert sides(spec, np.array([16, 40])) == (3, 8)
    assert sides(spec, np.array([16, 39])) == (1, 23)
    assert sides(spec, np.array([12, 20])) == (1, 8)
    assert sides(TableSpec("t", "dense", (6,)), np.array([2, 4])) == (1, 2)


HALF, BRAIN, BYTE = np.zeros((3, 4), np.float16), np.zeros((3, 4), np.uint16), np.zeros((3, 4), np.int8)


def floats(*shape: int) -> Values:
    return np.zeros(shape, np.float32)


WRONG: dict[str, tuple[Form, list[Array]]] = {
    "half floats of another shape": ("fp16", [HALF.T]),
    "a row too few": ("bf16", [BRAIN[:2]]),
    "steps of another width": ("int8", [floats(3), BYTE[:, :3]]),
    "a scale too few": ("int8", [floats(2), BYTE]),
    "a scale too many": ("int8", [floats(4), BYTE]),
    "factors of different rank": ("low_rank", [floats(3, 2), floats(4, 1)]),
    "factors of more rank than there is": ("low_rank", [floats(3, 4), floats(4, 4)]),
    "a left factor of other rows": ("low_rank", [floats(2, 1), floats(4, 1)]),
    "a right factor of other columns": ("low_rank", [floats(3, 1), floats(3, 1)]),
}


@pytest.mark.parametrize(("form", "arrays"), WRONG.values(), ids=WRONG.keys())
def test_arrays_that_do_not_make_up_the_matrix_are_refused(form: Form, arrays: list[Array]) -> None:
    with pytest.raises(WireError):
        unpack(form, arrays, (3, 4))


@pytest.mark.parametrize("form", ["low_rank", "int8"])
def test_nothing_is_allocated_for_another_shape_than_is_due(form: Form) -> None:
    many: dict[Form, list[Array]] = {
        "low_rank": [floats(20_000, 1), floats(20_000, 1)],
        "int8": [floats(1), np.zeros((1, 8_000_000), np.int8)],
    }
    with allocating_less_than(100_000):
        with pytest.raises(WireError):
            unpack(form, many[form], (3, 4))


def test_from_bf16_is_exact() -> None:
    halves = np.arange(0x10000, dtype=np.uint16)
    numbers = ~np.isnan(from_bf16(halves))
    assert np.array_equal(to_bf16(from_bf16(halves))[numbers], halves[numbers])
