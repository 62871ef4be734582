"""The index from ids to slots beside a dictionary: any int64, entered, found and taken out, through all growth."""

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.table.index import DOUBLED, ENTRY, PARTS, Index, parts_of
from fedps.types import Keys

EDGES = [-(2**63), -1, 0, 1, 2**62, 2**63 - 1]
ANY = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES) | st.integers(0, 60)


def enter(index: Index, ids: Keys, keys: Keys, first: int) -> None:
    ids[first : first + len(keys)] = keys
    index.insert(keys, np.arange(first, first + len(keys)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sets(ANY, max_size=40)), max_size=12))
def test_the_index_is_a_dictionary(batches: list[tuple[bool, set[int]]]) -> None:
    index, ids, twin, made = Index(1000), np.zeros(1000, np.int64), dict[int, int](), 0
    for comes, batch in batches:
        keys = np.array(sorted(batch), np.int64)
        slots, missing = index.find(keys, ids)
        assert slots.tolist() == [twin.get(key, -1) for key in keys.tolist()]
        assert missing == sum(key not in twin for key in keys.tolist())
        if comes:
            new = keys[slots < 0]
            enter(index, ids, new, made)
            twin |= {key: made + k for k, key in enumerate(new.tolist())}
            made += len(new)
        else:
            index.remove(keys[slots >= 0], ids)
            twin = {key: slot for key, slot in twin.items() if key not in batch}
    slots, _ = index.find(np.array(sorted(twin), np.int64), ids)
    assert slots.tolist() == [twin[key] for key in sorted(twin)]


@pytest.mark.parametrize("stride", [1, PARTS, 2**16, 2**40])
def test_the_index_holds_as_many_as_it_was_made_for(stride: int) -> None:
    """Growth in many small steps, with ids that differ in few bits; no entry is lost where memory is given back."""
    count = 100_000
    index, keys = Index(count), np.arange(-count // 2, count // 2) * stride
    ids = np.zeros(count, np.int64)
    for at in range(0, count, 7_000):
        enter(index, ids, keys[at : at + 7_000], at)
    slots, missing = index.find(keys, ids)
    assert missing == 0
    np.testing.assert_array_equal(slots, np.arange(count))
    assert index.find(keys + 1 + count * stride, ids)[1] == count


def test_a_full_part_grows_by_an_eighth_and_stays_within_what_is_reserved() -> None:
    count = 3 * PARTS * DOUBLED
    index, ids = Index(count), np.arange(count) - 7
    sizes = list[int]()
    for at in range(0, count, 8192):
        index.insert(ids[at : at + 8192], np.arange(at, min(at + 8192, count)))
        sizes.append(index.bytes)
    late = np.array(sizes[len(sizes) // 2 :])
    assert (late[1:] / late[:-1]).max() < 1.05, "no push moves more than a few parts"
    assert sizes[-1] < 15.5 * count, "bytes an id"
    assert ENTRY * index._end <= len(index._memory)
    assert index.find(ids, ids)[1] == 0
    assert len(index._memory) % mmap.PAGESIZE == 0


def test_ids_with_equal_tags_are_told_apart_by_themselves() -> None:
    """Their homes and tags are the same, so only the id that stands with each row says whose it is."""
    keys = same_place(4)
    index, ids = Index(100), np.zeros(100, np.int64)
    enter(index, ids, keys[:2], 0)
    assert index.find(keys, ids)[0].tolist() == [0, 1, -1, -1]
    index.remove(keys[:1], ids)
    enter(index, ids, keys[3:], 2)
    assert index.find(keys, ids)[0].tolist() == [-1, 1, -1, 2]


def test_neighbouring_ids_spread_over_the_parts() -> None:
    for stride in (1, 256, 2**32):
        filled = np.bincount(parts_of(np.arange(25_600) * stride, 256), minlength=256)
        assert filled.min() > 50
        assert filled.max() < 160


def same_place(count: int) -> Keys:
    """Return ids whose mixed bits differ in none that the index looks at: Stafford's mix 13, backwards."""
    mixed = np.arange(count, dtype=np.uint64) << np.uint64(40) | np.uint64(12345)
    with np.errstate(over="ignore"):
        x = _unshifted(mixed, 31) * np.uint64(pow(0x94D049BB133111EB, -1, 1 << 64))
        x = _unshifted(x, 27) * np.uint64(pow(0xBF58476D1CE4E5B9, -1, 1 << 64))
        keys: Keys = _unshifted(x, 30).view(np.int64)
    assert len(set(parts_of(keys, PARTS).tolist())) == 1
    return keys


def _unshifted(x: np.ndarray, by: int) -> np.ndarray:
    """Undo x ^ (x >> by), by being over 21."""
    undone: np.ndarray = x ^ (x >> np.uint64(by)) ^ (x >> np.uint64(2 * by))
    return undone
