"""The compiled loops against plain numpy, on slots in any order; what lies between the slots stays as it is."""

from pathlib import Path

import numpy as np
import pytest
from numba import config, types

from fedps.table import kernels, rules
from fedps.types import RULES, Keys, Rule, RuleName, Values

DIM, ROWS = 7, 50


def change(rule: Rule, block: Values, slots: Keys, values: Values, step: int) -> None:
    """What a table does with a push."""
    if rule.name == "adam":
        tail = rules.momentum_tail(rule.beta1, rule.beta2)
        powers = kernels.adam_powers(rule.beta1, rule.beta2)
        kernels.settle_adam(block, slots, kernels.constants(rule), tail, powers, step - 1)
    kernels.change(block, slots, values, kernels.constants(rule), RULES.index(rule.name), step)


def test_every_rule_has_its_number() -> None:
    assert set(RULES) == set(rules.STATE)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dim", [1, DIM, 33])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_rule_at_slots_is_the_rule_on_those_rows(name: RuleName, dim: int, decay: float) -> None:
    rule, rng = Rule(name, 0.01, weight_decay=decay), np.random.default_rng(3)
    block = np.zeros((ROWS, rules.width(rule, dim)), np.float32)
    block[:, :dim] = rng.normal(size=(ROWS, dim))
    twin = block.copy()
    for step in range(1, 31):
        slots = rng.permutation(ROWS)[: rng.integers(0, 20)]
        values = rng.normal(size=(len(slots), dim)).astype(np.float32)
        values.flags.writeable = slots.flags.writeable = False  # as they come off the wire
        change(rule, block, slots, values, step)
        rows, others = twin[slots], np.setdiff1d(np.arange(ROWS), slots)
        rules.apply(rule, rows, values, step)
        twin[slots] = rows
        np.testing.assert_allclose(block[slots], rows, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(block[others], twin[others], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(rules.counters(rule, block), rules.counters(rule, twin))


@pytest.mark.parametrize("missed", [0, 1, 3, 1000, 200_000])
def test_rows_settle_as_in_numpy(missed: int) -> None:
    rule, rng = Rule("adam", 0.1), np.random.default_rng(4)
    block = np.abs(rng.normal(size=(ROWS, 3 * DIM + 1))).astype(np.float32)
    rules.counters(rule, block)[:, 0] = rng.integers(0, 40_000, ROWS)
    block[::5, DIM:] = 0  # never pushed
    twin, step = block.copy(), 40_000 + missed
    tail, powers = rules.momentum_tail(0.9, 0.999), kernels.adam_powers(0.9, 0.999)
    kernels.settle_adam(block, np.arange(ROWS), kernels.constants(rule), tail, powers, step)
    rules.settle(rule, twin, step)
    np.testing.assert_allclose(block[:, :-1], twin[:, :-1], rtol=1e-5)
    np.testing.assert_array_equal(rules.counters(rule, block), rules.counters(rule, twin))
    assert (rules.counters(rule, block)[::5] == 0).all()
    assert np.isfinite(block[:, :-1]).all()


def test_rows_are_read_as_they_would_settle_and_powers_that_are_kept_are_those_that_would_be_taken() -> None:
    rule, rng, slots = Rule("adam", 0.1), np.random.default_rng(4), np.arange(ROWS)
    block = np.abs(rng.normal(size=(ROWS, 3 * DIM + 1))).astype(np.float32)
    rules.counters(rule, block)[:, 0] = rng.integers(0, 70_000, ROWS)
    before, tail, powers = block.copy(), rules.momentum_tail(0.9, 0.999), kernels.adam_powers(0.9, 0.999)
    out = np.empty((ROWS, DIM), np.float32)
    kernels.gather_adam(block, slots, kernels.constants(rule), tail, powers, 70_000, out)
    assert block.tobytes() == before.tobytes()
    kernels.settle_adam(block, slots, kernels.constants(rule), tail, powers, 70_000)
    assert block[:, :DIM].tobytes() == out.tobytes()
    kernels.settle_adam(before, slots, kernels.constants(rule), tail, powers[:, :1].copy(), 70_000)
    assert block.tobytes() == before.tobytes()


def test_gather_copies_the_values_and_not_the_state() -> None:
    block = np.arange(12, dtype=np.float32).reshape(3, 4)
    out = np.empty((4, 2), np.float32)
    kernels.gather(block, np.array([2, 0, 2, 1]), out)
    np.testing.assert_array_equal(out, [[8, 9], [0, 1], [8, 9], [4, 5]])


@pytest.mark.parametrize("damage", [b"", b"torn"])
def test_a_loop_whose_kept_code_is_torn_is_compiled_again(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def twice(number: int) -> int:
        return 2 * number

    compiled = kernels.compiled(types.int64(types.int64))
    assert compiled(twice)(3) == 6
    kept = list(tmp_path.rglob("*.nbi"))
    assert kept
    for file in kept:
        file.write_bytes(damage)
    assert compiled(twice)(3) == 6
