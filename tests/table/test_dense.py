"""One tensor, seeded once, changed by the same rules."""

import numpy as np
import pytest
import torch

from fedps.errors import TableError
from fedps.table.dense import DenseTable
from fedps.types import NO_KEYS, Rule, TableSpec, Values

SPEC = TableSpec("bias", "dense", (2, 3), Rule("adam", 0.01))


def values(start: float) -> Values:
    return np.full((1, 6), start, np.float32)


def test_the_first_seed_stays() -> None:
    table = DenseTable(SPEC)
    with pytest.raises(TableError, match="seed it first"):
        table.pull()
    table.seed(values(1))
    table.seed(values(2))
    np.testing.assert_array_equal(table.pull(), values(1))


def test_of_each_float_the_first_offer_stays_however_a_start_is_cut() -> None:
    table = DenseTable(SPEC)
    table.seed(values(1)[:, :2])
    table.seed(values(2)[:, :4])
    with pytest.raises(TableError, match=r"from float 5 on, where 4 of 6 floats have one"):
        table.seed(values(3)[:, :1], 5)
    with pytest.raises(TableError, match="seed it first"):
        table.pull()
    table.seed(values(3)[:, :3], 3)
    np.testing.assert_array_equal(table.pull(), [[1, 1, 2, 2, 3, 3]])
    for wrong, first in ((values(4), 1), (values(4), -1), (np.ones((2, 3), np.float32), 0)):
        with pytest.raises(TableError, match="a start of shape"):
            table.seed(wrong, first)


def test_some_of_its_floats_are_read_alone() -> None:
    table = DenseTable(SPEC)
    table.seed(np.arange(6, dtype=np.float32)[None])
    np.testing.assert_array_equal(table.pull(np.array([2, 5])), [[2, 3, 4]])


def test_what_is_pulled_is_a_copy() -> None:
    table = DenseTable(SPEC)
    table.seed(values(1))
    table.pull()[:] = 9
    np.testing.assert_array_equal(table.pull(), values(1))


def test_pushes_are_torchs_adam() -> None:
    table, rng = DenseTable(SPEC), np.random.default_rng(0)
    table.seed(values(1))
    weight = torch.ones(1, 6, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for gradient in rng.normal(size=(30, 1, 6)).astype(np.float32):
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        table.push(NO_KEYS, gradient)
    np.testing.assert_allclose(table.pull(), weight.detach().numpy(), atol=1e-5)
    assert table.steps == 30


def test_a_scalar_is_a_tensor_of_one() -> None:
    table = DenseTable(TableSpec("scale", "dense", ()))
    table.seed(np.ones((1, 1), np.float32))
    table.push(NO_KEYS, np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(table.pull(), [[2.0]])
