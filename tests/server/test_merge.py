"""Each merge against its closed form."""

from typing import Any

import numpy as np
import pytest

from fedps.server import merge
from fedps.server.gate import Offered, make_gate
from fedps.server.merge import Contribution
from fedps.types import NO_KEYS, ClientId, Rows
from tests.conftest import MakeJob


def contribution(rows: dict[int, list[float]], weight: float = 1.0) -> Contribution:
    keys = np.array(sorted(rows), np.int64)
    return Contribution(keys, np.array([rows[int(k)] for k in keys], np.float32), weight)


TWO = [contribution({1: [2.0, 0.0], 4: [1.0, 1.0]}, 3.0), contribution({1: [0.0, 2.0], 7: [4.0, 0.0]}, 1.0)]


def as_dict(rows: Rows) -> dict[int, list[float]]:
    return {int(k): [float(x) for x in v] for k, v in zip(rows.keys, rows.values, strict=True)}


def test_mean_counts_an_absent_row_as_zero() -> None:
    assert as_dict(merge.mean(TWO)) == {1: [1.0, 1.0], 4: [0.5, 0.5], 7: [2.0, 0.0]}


def test_heat_divides_by_the_clients_that_changed_the_row() -> None:
    assert as_dict(merge.heat(TWO)) == {1: [1.0, 1.0], 4: [1.0, 1.0], 7: [4.0, 0.0]}


def test_adaptive_adds_orthogonal_and_averages_agreeing_changes() -> None:
    orthogonal = merge.adaptive(TWO)
    assert as_dict(orthogonal)[1] == [2.0, 2.0]
    agreeing = merge.adaptive([contribution({1: [2.0, 2.0]})] * 4)
    assert as_dict(agreeing)[1] == pytest.approx([2.0, 2.0])
    opposed = merge.adaptive([contribution({1: [1.0, 0.0]}), contribution({1: [-0.9, 0.0]})])
    assert as_dict(opposed)[1] == pytest.approx([0.1, 0.0], abs=1e-6)  # never more than the sum


def test_adaptive_factor_is_squares_over_square_of_sum() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(1, 8)).astype(np.float32) + 1 for _ in range(5)]
    merged = merge.adaptive([Contribution(NO_KEYS, v, 1.0) for v in values])
    total = np.sum(values, axis=0)
    factor = sum(float((v**2).sum()) for v in values) / float((total**2).sum())
    np.testing.assert_allclose(merged.values, total * np.clip(factor, 0.2, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ("participants", {1: [1.5, 0.5], 4: [0.75, 0.75], 7: [1.0, 0.0]}),
        ("touched", {1: [1.5, 0.5], 4: [1.0, 1.0], 7: [4.0, 0.0]}),
    ],
)
def test_weighted_mean_is_fedavg(over: str, expected: dict[int, list[float]]) -> None:
    assert as_dict(merge.weighted_mean(TWO, over)) == expected


def test_a_dense_tensor_is_one_row_of_every_client() -> None:
    merged = merge.mean([Contribution(NO_KEYS, np.full((1, 3), v, np.float32), 1.0) for v in (1.0, 2.0, 6.0)])
    assert len(merged.keys) == 0
    np.testing.assert_allclose(merged.values, [[3.0, 3.0, 3.0]])


def test_a_window_in_which_nobody_touched_a_row_changes_nothing() -> None:
    empty = Contribution(NO_KEYS, np.empty((0, 4), np.float32), 1.0)
    assert merge.adaptive([empty, empty]).values.shape == (0, 4)


@pytest.mark.parametrize(
    "runner", [{"sync_mode": "sync"}, {"sync_mode": "round"}, {"sync_mode": "round", "row_average": "touched"}]
)
def test_no_claim_of_samples_counts_over_sixteen_medians_in_any_mode_that_weighs_them(
    runner: dict[str, Any], make_job: MakeJob
) -> None:
    def merged(*pushes: tuple[float, float]) -> float:
        gate = make_gate(make_job(**runner).runner)
        assert gate is not None
        for n, (value, weight) in enumerate(pushes):
            values = np.full((1, 1), value, np.float32)
            gate.offer(Offered(ClientId(str(n)), 1, 0, {"bias": Contribution(NO_KEYS, values, weight)}), 0.0)
        closed = gate.close({ClientId(str(n)) for n in range(len(pushes))}, 1.0)
        assert closed is not None
        return float(closed.changes["bias"].rows.values.item())

    assert merged((1.0, 10.0), (2.0, 30.0), (4.0, 20.0)) == pytest.approx((10 + 60 + 80) / 60)
    assert merged((0.0, 10.0), (0.0, 10.0), (1.0, 1e9)) == pytest.approx(160 / 180)


def test_a_change_that_nobody_else_made_is_taken_as_it_is() -> None:
    """One worker, or a window that all others have left: there is nothing to lay over, add up or compare."""
    alone = contribution({1: [2.0, 0.3], 4: [-1.0, 1e-9]}, 3.0)
    assert np.shares_memory(merge.adaptive([alone]).values, alone.values)
    for rows in (merge.adaptive([alone]), merge.heat([alone]), merge.mean([alone])):
        assert rows.keys is alone.keys
        np.testing.assert_array_equal(rows.values, alone.values)
    for over in ("participants", "touched"):  # as bits, what weighing and dividing again makes of it
        weighed = merge.weighted_mean([alone], over)
        np.testing.assert_array_equal(weighed.values, alone.values * np.float32(3) / np.float32(3))
