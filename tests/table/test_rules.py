"""Each rule against torch.optim or its closed form; the compiled kernels against plain numpy."""

import numpy as np
import pytest
import torch

from fedps.table import rules
from fedps.table.rules import initial_rows
from fedps.table.sparse import SparseTable
from fedps.types import RULES, Init, Rule, RuleName, TableSpec

ROWS, DIM, STEPS = 12, 5, 40


def gradients(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(STEPS, ROWS, DIM)).astype(np.float32)


def torch_values(make: type[torch.optim.Optimizer], touched: np.ndarray, **settings: float) -> np.ndarray:
    weight = torch.zeros(ROWS, DIM, requires_grad=True)
    optimizer = make([weight], **settings)  # type: ignore[arg-type]
    for gradient, mask in zip(gradients(), touched, strict=True):
        weight.grad = torch.from_numpy(gradient * mask[:, None])
        optimizer.step()
    return weight.detach().numpy()


def our_values(rule: Rule, touched: np.ndarray) -> np.ndarray:
    block = np.zeros((ROWS, rules.width(rule, DIM)), np.float32)
    for step, (gradient, mask) in enumerate(zip(gradients(), touched, strict=True), 1):
        at = np.flatnonzero(mask)
        rows = block[at]
        rules.apply(rule, rows, gradient[at], step)
        block[at] = rows
    rules.settle(rule, block, STEPS)
    return block[:, :DIM]


ALL = np.ones((STEPS, ROWS), np.float32)
SOME = (np.random.default_rng(1).random((STEPS, ROWS)) < 0.3).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "make", "settings", "touched"),
    [
        (Rule("sgd", 0.1), torch.optim.SGD, {"lr": 0.1}, SOME),
        (Rule("adagrad", 0.1, epsilon=1e-10), torch.optim.Adagrad, {"lr": 0.1, "eps": 1e-10}, SOME),
        (Rule("adam", 0.01), torch.optim.Adam, {"lr": 0.01}, ALL),
        (Rule("adam", 0.01), torch.optim.Adam, {"lr": 0.01}, SOME),
        (Rule("lazy_adam", 0.01), torch.optim.Adam, {"lr": 0.01}, ALL),
    ],
    ids=["sgd", "adagrad", "adam-all", "adam-some", "lazy-all"],
)
def test_a_rule_follows_torch(
    rule: Rule, make: type[torch.optim.Optimizer], settings: dict[str, float], touched: np.ndarray
) -> None:
    np.testing.assert_allclose(our_values(rule, touched), torch_values(make, touched, **settings), atol=2e-5)


@pytest.mark.parametrize(
    ("rule", "make", "settings"),
    [
        (Rule("sgd", 0.1, weight_decay=0.05), torch.optim.SGD, {"lr": 0.1}),
        (Rule("adagrad", 0.1, epsilon=1e-10, weight_decay=0.05), torch.optim.Adagrad, {"lr": 0.1, "eps": 1e-10}),
        (Rule("adam", 0.01, weight_decay=0.05), torch.optim.Adam, {"lr": 0.01}),
        (Rule("lazy_adam", 0.01, weight_decay=0.05), torch.optim.Adam, {"lr": 0.01}),
    ],
    ids=["sgd", "adagrad", "adam", "lazy"],
)
def test_weight_decay_is_torchs_where_every_row_is_touched(
    rule: Rule, make: type[torch.optim.Optimizer], settings: dict[str, float]
) -> None:
    found = our_values(rule, ALL)
    np.testing.assert_allclose(found, torch_values(make, ALL, weight_decay=0.05, **settings), atol=2e-5)
    assert np.abs(found - torch_values(make, ALL, **settings)).max() > 1e-3, "it does something"


@pytest.mark.parametrize("name", RULES)
def test_weight_decay_is_lambda_w_added_to_the_gradient_of_what_is_pushed(name: RuleName) -> None:
    rule, plain = Rule(name, 0.01, weight_decay=0.1), Rule(name, 0.01)
    block = np.zeros((ROWS, rules.width(rule, DIM)), np.float32)
    block[:, :DIM] = gradients(5)[0]
    for step, (gradient, mask) in enumerate(zip(gradients(), SOME, strict=True), 1):
        at = np.flatnonzero(mask)
        rows, twin, others = block[at], block[at], np.delete(block, at, 0)
        rules.settle(plain, twin, step - 1)
        rules.apply(rule, rows, gradient[at], step)
        rules.apply(plain, twin, gradient[at] + (name not in rules.OF_CHANGES) * np.float32(0.1) * twin[:, :DIM], step)
        np.testing.assert_allclose(rows, twin, rtol=1e-5, atol=1e-6)
        block[at] = rows
        np.testing.assert_array_equal(np.delete(block, at, 0), others)


def test_lazy_adam_leaves_untouched_rows_where_they_are() -> None:
    """A row pushed n times stands where torch's Adam stands after the same n gradients alone."""
    found = our_values(Rule("lazy_adam", 0.01), SOME)
    for row in range(ROWS):
        weight = torch.zeros(DIM, requires_grad=True)
        optimizer = torch.optim.Adam([weight], lr=0.01)
        for step in np.flatnonzero(SOME[:, row]):
            weight.grad = torch.from_numpy(gradients()[step, row])
            optimizer.step()
        np.testing.assert_allclose(found[row], weight.detach().numpy(), atol=2e-5)


def test_row_adagrad_is_the_originals() -> None:
    rule, w, total = Rule("row_adagrad", 0.05, initial_g2=3.0), np.zeros(DIM), 0.0
    block = np.zeros((1, rules.width(rule, DIM)), np.float32)
    for step, g in enumerate(gradients()[:, 0], 1):
        w -= 0.05 * g * np.sqrt(3.0 / (3.0 + total))
        total += float((g.astype(np.float64) ** 2).mean())
        rules.apply(rule, block, g[None], step)
    np.testing.assert_allclose(block[0, :DIM], w, atol=1e-5)


@pytest.mark.parametrize("often", [1.0, 0.1, 0.01])
def test_adam_stays_with_torch_over_many_steps(often: float) -> None:
    """Rows that are silent for hundreds of steps and pushed again, 1,500 steps in all."""
    rule, rng = Rule("adam", 0.01), np.random.default_rng(6)
    block = np.zeros((ROWS, rules.width(rule, DIM)), np.float32)
    weight = torch.zeros(ROWS, DIM, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for step in range(1, 1501):
        mask = rng.random(ROWS) < often
        gradient = rng.normal(0, 0.1, (ROWS, DIM)).astype(np.float32) * mask[:, None]
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        rows = block[mask]
        rules.apply(rule, rows, gradient[mask], step)
        block[mask] = rows
    rules.settle(rule, block, 1500)
    np.testing.assert_allclose(block[:, :DIM], weight.detach().numpy(), atol=5e-5)


def test_settling_twice_or_in_two_goes_is_settling_once() -> None:
    rule = Rule("adam", 0.01)
    once = np.zeros((ROWS, rules.width(rule, DIM)), np.float32)
    rules.apply(rule, once, gradients()[0], 1)
    twice = once.copy()
    rules.settle(rule, once, 90)
    for step in (40, 90, 90):
        rules.settle(rule, twice, step)
    np.testing.assert_allclose(twice, once, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in RULES if name != "adam"])
def test_other_rules_leave_silent_rows_alone(name: RuleName) -> None:
    rule = Rule(name, 0.01)
    block = np.ones((ROWS, rules.width(rule, DIM)), np.float32)
    rules.settle(rule, block, 1000)
    assert (block == 1).all()


def test_shared_adam_keeps_one_mean_and_one_square_a_row() -> None:
    rule, w, m, v = Rule("shared_adam", 0.01), np.zeros(DIM), 0.0, 0.0
    block = np.zeros((1, rules.width(rule, DIM)), np.float32)
    for step, g in enumerate(gradients()[:, 0].astype(np.float64), 1):
        fresh = 0.9 * m + 0.1 * g
        m, v = fresh.mean(), 0.999 * v + 0.001 * (g * g).mean()
        w -= 0.01 * fresh / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        rules.apply(rule, block, g.astype(np.float32)[None], 1)
    np.testing.assert_allclose(block[0, :-1], [*w, m, v], atol=1e-5)
    assert rules.counters(rule, block).tolist() == [[STEPS]]


def test_shared_adam_of_one_float_is_torchs_adam() -> None:
    rule, block = Rule("shared_adam", 0.01), np.zeros((1, 4), np.float32)
    weight = torch.zeros(1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for g in gradients()[:, :1, :1]:
        weight.grad = torch.from_numpy(g)
        optimizer.step()
        rules.apply(rule, block, g, 1)
    np.testing.assert_allclose(block[:, :1], weight.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_kernels_do_what_numpy_does_on_any_ids_through_growth(name: RuleName) -> None:
    spec = TableSpec("t", "sparse", (2**62, DIM), Rule(name, 0.01), Init("normal", 0.0, 0.1), seed=5)
    table, rng = SparseTable(spec), np.random.default_rng(2)
    pool = np.unique(rng.integers(-(2**62), 2**62, 20_000))
    blocks: dict[int, np.ndarray] = {}
    for step in range(1, 9):
        keys = np.sort(rng.choice(pool, 50 * 2**step if step < 8 else 10, replace=False))
        values = rng.normal(size=(len(keys), DIM)).astype(np.float32)
        values.flags.writeable = keys.flags.writeable = False  # as they come off the wire
        table.push(keys, values)
        starts = initial_rows(spec, keys)
        block = np.zeros((len(keys), rules.width(spec.rule, DIM)), np.float32)
        block[:, :DIM] = starts
        for i, key in enumerate(keys.tolist()):
            if key in blocks:
                block[i] = blocks[key]
        rules.apply(spec.rule, block, values, step)
        blocks |= dict(zip(keys.tolist(), block, strict=True))
    known = np.array(sorted(blocks))
    twin = np.stack([blocks[k] for k in known.tolist()])
    rules.settle(spec.rule, twin, 8)
    np.testing.assert_allclose(table.pull(known), twin[:, :DIM], atol=1e-6)
    keys, saved = table.export()
    np.testing.assert_array_equal(keys, known)
    np.testing.assert_allclose(saved, twin, atol=1e-5)
    np.testing.assert_array_equal(rules.counters(spec.rule, saved), rules.counters(spec.rule, twin))


@pytest.mark.parametrize("kind", ["constant", "normal", "uniform"])
def test_a_start_depends_on_seed_table_and_id_alone(kind: str) -> None:
    init = Init(kind, 0.5, 2.0)  # type: ignore[arg-type]
    spec = TableSpec("t", "sparse", (2**62, 8), init=init, seed=3)
    keys = np.array([5, -7, 2**61, 0, 123456789])
    rows = initial_rows(spec, keys)
    np.testing.assert_array_equal(initial_rows(spec, keys[::-1])[::-1], rows)
    np.testing.assert_array_equal(np.concatenate([initial_rows(spec, keys[k : k + 1]) for k in range(5)]), rows)
    other = initial_rows(TableSpec("u", "sparse", (2**62, 8), init=init, seed=3), keys)
    assert (kind == "constant") == np.array_equal(rows, other)


def test_starts_have_their_distribution() -> None:
    normal = initial_rows(TableSpec("t", "sparse", (10**6, 16), init=Init("normal", 1.0, 0.1)), np.arange(20_000))
    assert normal.mean() == pytest.approx(1.0, abs=0.001)
    assert normal.std() == pytest.approx(0.1, abs=0.001)
    uniform = initial_rows(TableSpec("t", "sparse", (10**6, 16), init=Init("uniform", -1, 3)), np.arange(20_000))
    assert uniform.min() >= -1
    assert uniform.max() <= 3
    assert uniform.mean() == pytest.approx(1.0, abs=0.02)
