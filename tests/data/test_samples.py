"""A client's data: ids become slots, and passes with drawn negatives are held at the same time."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.data.negatives import History
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData, encode
from fedps.errors import DataError
from fedps.events.events import Entry, EpochEnd
from fedps.launch.inprocess import run_in_process
from fedps.types import Bags, ClientId, Samples
from tests.conftest import MakeJob

ME = ClientId("3")
IDS = st.lists(st.integers(0, 50) | st.integers(10**9, 10**9 + 3), max_size=30)


@given(IDS, IDS)
def test_each_id_stands_at_its_slot(ids: list[int], more: list[int]) -> None:
    one, other = np.array(ids, np.int64), np.array(more, np.int64)
    keys, (slots, others) = encode([one, other])
    assert keys.tolist() == sorted({*ids, *more})
    assert [str(a.dtype) for a in (keys, slots, others)] == ["int64", "int32", "int32"]
    np.testing.assert_array_equal(keys[slots], one)
    np.testing.assert_array_equal(keys[others], other)


@pytest.mark.parametrize("reach", [100, 10**12])
def test_both_ways_code_alike(reach: int) -> None:
    small = np.random.default_rng(0).integers(0, 100, 1000)
    keys, (slots,) = encode([small * (reach // 100)])
    plain, (plain_slots,) = encode([small])
    np.testing.assert_array_equal(keys, plain * (reach // 100))
    np.testing.assert_array_equal(slots, plain_slots)


def test_a_user_who_took_all_is_named() -> None:
    everything = Samples.pairs(np.array([7, 9, 9]), np.array([0, 0, 1]), np.ones(3, np.float32))
    with pytest.raises(DataError, match=r"client 'a': runner\.negatives: user 9 has taken all 2 items"):
        ClientData(everything, None, ClientId("a"), 0, True, negatives=1, num_items=2)


def test_data_without_positives_is_refused_with_the_clients_name() -> None:
    none = Samples.pairs(np.array([1]), np.array([0]), np.zeros(1, np.float32))
    with pytest.raises(DataError, match=r"client 'a': runner\.negatives: the training data has no positive"):
        ClientData(none, None, ClientId("a"), 0, True, negatives=4, num_items=9)


def test_what_a_users_histories_hold_is_no_negative_of_theirs() -> None:
    """The first film of a history is nobody's positive; and of a longer one only the last films are kept."""
    user, item = np.array([7, 7, 9]), np.array([0, 1, 5])
    seen = Bags(np.array([2, 3, 4, 2, 6]), np.array([0, 2, 4, 5]))
    last = np.array([8, 8, 0])
    train = Samples({"user": user, "item": item, "seen": seen, "last": last}, np.array([1, 0, 1], np.float32))
    spaces = {"user": "user", "item": "item", "seen": "item", "last": "item"}
    data = ClientData(train, None, ClientId("a"), 0, True, negatives=40, num_items=10, spaces=spaces)
    data.order(0)
    drawn = {who: set(data.train.item[(data.train.user == who) & (data.train.label == 0)].tolist()) for who in (7, 9)}
    assert drawn == {7: {1, 5, 6, 7, 9}, 9: {1, 2, 3, 4, 7, 8, 9}}


@pytest.mark.parametrize("cells", [0, 1 << 26])
def test_histories_count_with_and_without_a_table_of_all_cells(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.data.negatives.MOST_CELLS", cells)
    history = History(np.array([0, 1]), np.array([3, 3]), 2, 5, [(np.array([0, 0, 1]), np.array([1, 1, 0]))])
    assert history.left.tolist() == [3, 3]
    drawn = history.draw(np.repeat([0, 1], 200), np.random.default_rng(0))
    assert [set(half.tolist()) for half in (drawn[:200], drawn[200:])] == [{0, 2, 4}, {1, 2, 4}]
    assert history.holds(0, np.arange(5)).tolist() == [False, True, False, True, False]


def rows(data: ClientData, order: np.ndarray) -> np.ndarray:
    """Return samples as user, item, label, int64[n, 3]."""
    return np.column_stack([data.train.user[order], data.train.item[order], data.train.label[order]]).astype(np.int64)


def test_a_pass_is_all_positives_with_fresh_negatives_each(make_job: MakeJob) -> None:
    file, data = read_client(make_job(), ME), read_client(make_job(negatives=3), ME)
    positives = rows(file, np.flatnonzero(file.train.label > 0))
    taken = {(user, item) for user, item, _ in positives.tolist()}
    assert len(data) == 4 * len(positives)
    seen = []
    for epoch in range(2):
        found = rows(data, data.order(epoch))
        assert sorted(found[found[:, 2] == 1].tolist()) == sorted(positives.tolist())
        drawn = found[found[:, 2] == 0]
        np.testing.assert_array_equal(np.bincount(drawn[:, 0]), 3 * np.bincount(positives[:, 0]))
        assert not {(user, item) for user, item, _ in drawn.tolist()} & taken
        seen.append(sorted(drawn.tolist()))
    assert seen[0] != seen[1]
    again = read_client(make_job(negatives=3), ME)
    assert sorted(r for r in rows(again, again.order(1)).tolist() if not r[2]) == seen[1], "any pass can be drawn alone"


def test_slots_are_those_of_the_ids(make_job: MakeJob) -> None:
    data = read_client(make_job(negatives=3), ME)
    order = data.order(0)
    for column in ("user", "item"):
        np.testing.assert_array_equal(data.keys[column][data.slots[column][order]], getattr(data.train, column)[order])
        np.testing.assert_array_equal(data.keys[column][data.test_slots[column]], getattr(data.test, column))
    assert len(data.keys["item"]) == 220
    assert set(data.keys["item"][data.distinct(("item",), order[:8])]) == set(data.train.item[order[:8]])


def test_a_pass_that_is_held_outlives_the_next(make_job: MakeJob) -> None:
    data = read_client(make_job(negatives=3), ME)
    first = data.order(0)
    before = rows(data, first)
    data.hold(3)
    np.testing.assert_array_equal(rows(data, first), before)
    orders = [data.order(1), data.order(2)]
    texts = [rows(data, order) for order in orders]
    np.testing.assert_array_equal(rows(data, first), before)
    data.order(3)
    for order, text in zip(orders, texts, strict=True):
        np.testing.assert_array_equal(rows(data, order), text)
    assert (rows(data, first) != before).any()


def test_without_shuffling_a_positive_comes_before_its_negatives(make_job: MakeJob) -> None:
    data = read_client(make_job(negatives=2, shuffle=False), ME)
    found = rows(data, data.order(0)).reshape(-1, 3, 3)
    assert (found[:, :, 2] == [1, 0, 0]).all()
    assert (found[:, :, 0] == found[:, :1, 0]).all()


@pytest.mark.parametrize("drawn", [None, 2])
def test_pairs_are_a_positive_and_a_negative_of_one_user(drawn: int | None, make_job: MakeJob) -> None:
    data = read_client(make_job({"loss": "bpr"}, negatives=drawn), ME)
    file = read_client(make_job(), ME)
    negative = 2 * int((file.train.label > 0).sum()) if drawn else int((file.train.label <= 0).sum())
    assert len(data) == 2 * negative
    first, second = (rows(data, data.order(epoch)).reshape(-1, 2, 3) for epoch in range(2))
    for found in (first, second):
        assert (found[:, :, 2] == [1, 0]).all()
        assert (found[:, 0, 0] == found[:, 1, 0]).all()
    pairs = [sorted(found.reshape(-1, 6).tolist()) for found in (first, second)]
    assert pairs[0] != pairs[1], "positives are drawn anew"


def test_data_without_pairs_is_refused() -> None:
    apart = Samples.pairs(np.array([1, 2]), np.array([0, 0]), np.array([1, 0], np.float32))
    with pytest.raises(DataError, match="no user has both a positive and a negative"):
        ClientData(apart, None, ClientId("a"), 0, True, pairs=True)


@pytest.mark.parametrize("window", [2, 40])
def test_a_run_counts_the_samples_of_its_passes(window: int, make_job: MakeJob, tmp_path: Path) -> None:
    """Windows of 40 batches go over several passes, and the next is drawn before one is trained."""
    job = make_job({"loss": "bpr"}, negatives=1, geo_step=window, epochs=3)
    entries: list[Entry] = []
    run_in_process(job, tmp_path / "run", entries.append)
    ends = [(entry.id, entry.event) for entry in entries if isinstance(entry.event, EpochEnd)]
    due = {client: len(read_client(job, ClientId(client))) for client, _ in ends}
    assert [end.samples for _, end in ends] == [due[client] for client, _ in ends]
    assert len(ends) == 30
    for _, end in ends:
        assert end.histogram.positives.sum() == end.histogram.negatives.sum() == end.samples // 2
