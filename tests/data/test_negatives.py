"""Negatives are left, uniform, the same for the same stream; also for users who took nearly, or really, everything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.data import negatives
from fedps.data.negatives import History, Pairs
from fedps.errors import DataError

TAKEN = ([0] * 4 + [1], [0, 1, 2, 5, 4])  # user 0 took 0, 1, 2, 5 of 6 items, user 1 took 4


def history(taken: np.ndarray) -> History:
    """Return the history of a table of what is taken, bool[users, items]."""
    user, item = np.nonzero(taken)
    return History(user, item, *taken.shape)


@pytest.mark.parametrize("cells", [0, 1 << 20])
@pytest.mark.parametrize("retries", [0, 3])
def test_every_left_item_is_as_likely_and_no_other_comes(
    cells: int, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(negatives, "MOST_CELLS", cells)
    users = np.repeat(TAKEN[0], 10_000)
    drawn = History(np.array(TAKEN[0]), np.array(TAKEN[1]), 2, 6).draw(users, np.random.default_rng(0), retries)
    assert drawn.dtype == np.int32
    for user, items in ((0, [3, 4]), (1, [0, 1, 2, 3, 5])):
        found = np.bincount(drawn[users == user], minlength=6)
        assert np.flatnonzero(found).tolist() == items
        due = found.sum() / len(items)
        assert (((found[items] - due) ** 2) / due).sum() < 25, "chi-square with at most 4 degrees of freedom"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=30), st.booleans(), st.integers(0, 3)
)
def test_a_taken_item_is_never_drawn(taken: list[tuple[int, int]], searched: bool, retries: int) -> None:
    user, item = (np.array(column, np.int32) for column in zip(*taken, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negatives, "MOST_CELLS", 0 if searched else 1 << 20)
        users = np.repeat(user.astype(np.int64), 7)
        drawn = History(user, item, 4, 11).draw(users, np.random.default_rng(1), retries)
    assert ((drawn >= 0) & (drawn < 11)).all()
    assert not set(zip(users.tolist(), drawn.tolist(), strict=True)) & set(taken)


@pytest.mark.parametrize("cells", [0, 1 << 20])
def test_a_history_holds_what_was_taken_and_nothing_else(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "MOST_CELLS", cells)
    taken = np.random.default_rng(0).random((6, 151)) < 0.2
    found = history(taken)
    user, item = (a.reshape(-1) for a in np.mgrid[0:6, 0:151])
    np.testing.assert_array_equal(found.holds(user, item), taken.reshape(-1))
    assert [bool(found.holds(u, 7)) for u in range(6)] == taken[:, 7].tolist()
    np.testing.assert_array_equal(found.left, (~taken).sum(axis=1))


def test_many_retries_by_a_table_draw_what_a_search_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = np.random.default_rng(0).random((5, 40)) < 0.5
    users, drawn = np.repeat(np.arange(5), 2000), []
    for cells in (0, 1 << 20):
        monkeypatch.setattr(negatives, "MOST_CELLS", cells)
        drawn.append(history(taken).draw(users, np.random.default_rng(1), 64))
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_users_with_few_items_left_get_them_evenly() -> None:
    taken = np.ones((300, 100_000), bool)
    taken[:, [7, 70_000]] = False
    items = history(taken).draw(
        np.random.default_rng(0).permutation(np.repeat(np.arange(300), 40)), np.random.default_rng(1), 64
    )
    assert set(items.tolist()) == {7, 70_000}
    assert 0.47 < (items == 7).mean() < 0.53


def test_distinct_negatives_differ() -> None:
    taken = np.zeros((2, 120), bool)
    taken[0, :21] = True
    assert sorted(history(taken).draw_distinct(0, 99, np.random.default_rng(0)).tolist()) == list(range(21, 120))


def test_of_no_users_nothing_is_drawn() -> None:
    assert len(history(np.zeros((3, 5), bool)).draw(np.array([], np.int64), np.random.default_rng(0))) == 0


def test_without_a_negative_of_a_user_with_positives_there_are_no_pairs() -> None:
    with pytest.raises(DataError, match="no user has both a positive and a negative"):
        Pairs(np.array([0, 1], np.int32), np.array([1, 0], np.float32))


def test_sets_of_different_items_that_a_user_left_each_as_likely() -> None:
    user, item = np.repeat(np.arange(3), [5, 380, 296]), np.concatenate([np.arange(5), np.arange(380), np.arange(296)])
    history = History(user, item, 3, 400)
    whose = np.array([0, 1, 2, 0])
    drawn = history.draw_sets(whose, 20, np.random.default_rng(0))
    assert drawn.shape == (4, 20)
    assert all(len(set(row)) == 20 for row in drawn.tolist())
    assert not history.holds(np.repeat(whose, 20), drawn.reshape(-1)).any()
    assert (drawn[1] == np.sort(drawn[1])).all() or set(drawn[1].tolist()) == set(range(380, 400)), (
        "just so many are left"
    )
    assert history.draw_sets(whose, 0, np.random.default_rng(0)).shape == (4, 0)
    many = history.draw_sets(np.zeros(4000, np.int64), 20, np.random.default_rng(1))
    share = np.bincount(many.reshape(-1), minlength=400)[5:] / 4000
    assert abs(share - 20 / 395).max() < 0.02
