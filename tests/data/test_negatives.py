"""Negatives are unseen, uniform, and end: also for users who took nearly, or really, everything."""

import numpy as np
import pytest

from fedps.data.prepare.negatives import distinct, sample
from fedps.errors import DataError


def test_all_are_unseen_and_every_unseen_item_comes_up() -> None:
    seen = np.random.default_rng(0).random((5, 40)) < 0.5
    users = np.repeat(np.arange(5), 2000)
    items = sample(users, seen, np.random.default_rng(1))
    assert not seen[users, items].any()
    for user in range(5):
        counts = np.bincount(items[users == user], minlength=40)
        assert (counts > 0).tolist() == (~seen[user]).tolist()
        assert counts.max() < 2 * 2000 / (~seen[user]).sum()


def test_users_with_few_items_left_get_them_evenly() -> None:
    seen = np.ones((300, 100_000), bool)
    seen[:, [7, 70_000]] = False
    users = np.random.default_rng(0).permutation(np.repeat(np.arange(300), 40))
    items = sample(users, seen, np.random.default_rng(1))
    assert set(items.tolist()) == {7, 70_000}
    assert 0.47 < (items == 7).mean() < 0.53


def test_a_user_who_took_everything_is_named() -> None:
    seen = np.zeros((3, 50), bool)
    seen[1] = True
    with pytest.raises(DataError, match=r"user 1 \(counted from 0\) took 50 of 50 items.*--negatives 0"):
        sample(np.array([0, 1, 2]), seen, np.random.default_rng(0))
    assert len(sample(np.array([0, 2]), seen, np.random.default_rng(0))) == 2
    assert len(sample(np.array([], np.int64), seen, np.random.default_rng(0))) == 0


def test_held_out_negatives_differ_and_too_few_are_named() -> None:
    seen = np.zeros((2, 120), bool)
    seen[0, :21] = True
    seen[1, :22] = True
    drawn = distinct(0, 99, seen, np.random.default_rng(0))
    assert sorted(drawn.tolist()) == list(range(21, 120))
    with pytest.raises(DataError, match=r"user 1 .* took 22 of 120 items, so 98 are left.*--test-negatives FILE"):
        distinct(1, 99, seen, np.random.default_rng(0))
