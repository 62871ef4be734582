"""Matching: both find the same ids whatever order their files have, and bad lists are refused by name."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedps.crypto import SecretScalar
from fedps.errors import DataError, WireError
from fedps.vertical import blinding
from fedps.vertical.ids import identity
from fedps.vertical.kept import keep, recall
from fedps.vertical.matching import Matched, Matching, check_common, of_all, pairs
from fedps.vertical.points import on_curve, points_of

KEY = "a word"
P = 2**255 - 19


def ids(*names: object) -> list[bytes]:
    return [identity([str(name)]) for name in names]


def met(active: Sequence[bytes], *passive: Sequence[bytes], keys: Sequence[str] = (KEY, KEY, KEY)) -> list[Matched]:
    """Match parties as they do over the wire; the active one is first."""
    with Matching(active, keys[0], 1) as host:
        found, guests = {}, {}
        for name, own, key in zip(("p", "q"), passive, keys[1:], strict=False):
            guest = guests[name] = Matching(own, key, 1)
            theirs = np.concatenate([host.doubled(guest.blinded(slice(at, at + 3)), name) for at in range(0, len(own), 3)] or [
                host.doubled(guest.blinded(), name)
            ])  # fmt: skip
            found[name] = pairs(guest.doubled(host.blinded(), "a"), theirs, name)
        ours, answers = of_all(found)
        return [host.matched(ours, "a"), *(guest.matched(answers[name], "a") for name, guest in guests.items())]


def test_scalars_commute_and_are_those_of_x25519() -> None:
    one, other = SecretScalar(), SecretScalar()
    points = hashlib.shake_256(b"points").digest(32 * 5)
    assert one.times(other.times(points)) == other.times(one.times(points))
    assert SecretScalar(one.secret).times(points) == one.times(points) != other.times(points)
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")  # RFC 7748, 5.2
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert SecretScalar(scalar).times(point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_ids_are_hashed_to_points_of_the_curve_and_blinding_leads_to_no_others() -> None:
    points = points_of(ids(*range(300)), KEY.encode())
    assert is_point(points) == [True] * 300
    assert len({point.tobytes() for point in points}) == 300
    with Matching(ids(*range(300)), KEY, 1) as side:
        assert is_point(side.blinded()) == [True] * 300
    any_bytes = np.random.default_rng(0).integers(0, 2**63, (300, 4))
    assert on_curve(any_bytes).tolist() == is_point(any_bytes)
    assert 100 < sum(is_point(any_bytes)) < 200  # half of all are of the twist
    edges = np.array(
        [np.frombuffer((k % 2**255).to_bytes(32, "little"), "<i8") for k in (0, 1, 2, 9, P - 1, P, P + 9, -1)]
    )
    assert on_curve(edges).tolist() == is_point(edges)


def is_point(points: NDArray[np.int64]) -> list[bool]:
    """Euler's criterion, with Python's own numbers."""
    numbers = [int.from_bytes(point.tobytes(), "little") for point in points]
    return [pow(u * (u * u + 486662 * u + 1) % P, (P - 1) // 2, P) == 1 for u in numbers]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 30), max_size=12), st.sets(st.integers(0, 30), max_size=12), st.randoms())
def test_the_order_of_rows_never_matters(one: set[int], other: set[int], chance: random.Random) -> None:
    ours, theirs = ids(*one), ids(*other)
    first, second = met(ours, theirs)
    common = [ours[row] for row in first.rows]
    assert common == [theirs[row] for row in second.rows]
    assert set(common) == set(ours) & set(theirs)
    assert first.digest == second.digest
    chance.shuffle(ours)
    chance.shuffle(theirs)
    for rows, (matched, again) in zip(
        (ours, theirs), zip((first, second), met(ours, theirs), strict=True), strict=True
    ):
        assert [rows[row] for row in again.rows] == common
        assert again.digest == matched.digest


def test_of_three_parties_those_are_common_that_all_have() -> None:
    active, one, other = ids(*range(20)), ids(*range(5, 30)), ids(*range(40, 0, -1))
    found = met(active, one, other)
    rows = [[own[row] for row in m.rows] for own, m in zip((active, one, other), found, strict=True)]
    assert rows[0] == rows[1] == rows[2]
    assert set(rows[0]) == {*ids(*range(5, 20))}
    assert len({m.digest for m in found}) == 1


def test_sizes_may_differ_and_a_side_may_be_empty() -> None:
    many = ids(*range(500))
    assert [m.rows.tolist() for m in met(ids(77, "x"), many)] == [[0], [77]]
    for one, other in (([], many[:3]), (many[:3], []), ([], [])):
        first, second = met(one, other)
        assert len(first.rows) == len(second.rows) == 0
        assert first.digest == second.digest


@pytest.mark.parametrize("keys", [("a", "b"), ("a", ""), ("", "b")])
def test_with_different_keys_nothing_is_common_and_both_are_told_what_to_look_at(keys: tuple[str, str]) -> None:
    same = ids(*range(20))
    for matched, other in zip(met(same, same, keys=keys), ("bank", "shop"), strict=True):
        with pytest.raises(DataError) as error:
            check_common(matched, [other], "ids here look like 0, 1: whole numbers")
        assert str(error.value) == (
            f"no ids are common to this party and {other}: ids here look like 0, 1: whole numbers; ask there how theirs look, and"
            " make sure that both sides name the same columns in the same order (parties.NAME.id), write ids alike (ids.case,"
            " ids.blanks; 1 and 01 are two ids) and have the same ids.psi_key"
        )
    assert (
        met(same, same)[0].digest != met(same, same, keys=("b", "b"))[0].digest
    )  # the digest tells no ids without the key


def test_what_is_sent_is_new_each_time_and_in_an_order_of_its_own() -> None:
    same = ids(*range(200))
    with Matching(same, KEY, 1) as one, Matching(same, KEY, 1) as other:
        first, second = ({point.tobytes() for point in side.blinded()} for side in (one, other))
        assert not first & second
        assert (one.blinded() == one.blinded()).all()  # what is asked for again is the same
        marks = one.doubled(other.blinded(), "p")
        back = other.doubled(one.blinded(), "a")
    assert set(marks.tolist()) == set(back.tolist())
    assert marks.tolist() != back.tolist()  # the chance is 1 in 200!
    places = pairs(back, marks, "p")
    assert places.ours.tolist() != places.theirs.tolist()


LOW = [  # u-coordinates of points of low order on the curve and its twist, and the same a prime higher
    0, 1, P - 1, P, P + 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]  # fmt: skip


@pytest.mark.parametrize("point", LOW)
def test_points_of_low_order_are_refused_by_the_name_of_who_sent_them(point: int) -> None:
    bad = np.frombuffer(point.to_bytes(32, "little"), np.int64)
    with Matching(ids(1), KEY, 1) as side:
        points = np.stack([side.blinded()[0], bad])
        with pytest.raises(WireError, match="party shop: a point of low order is among the blinded ids"):
            side.doubled(points, "shop")


@pytest.mark.parametrize(
    "points",
    [np.zeros((2, 4), np.float32), np.zeros(8, np.int64), np.zeros((2, 3), np.int64), np.zeros((1, 2, 4), np.int64)],
)
def test_arrays_that_are_no_points_are_refused(points: NDArray[np.int64]) -> None:
    with Matching(ids(1), KEY, 1) as side, pytest.raises(WireError, match=r"party shop sent .* for blinded ids"):
        side.doubled(points, "shop")


def test_a_list_with_an_id_twice_is_refused_however_it_is_written() -> None:
    with Matching(ids(1, 2), KEY, 1) as side, Matching(ids(1, 2), KEY, 1) as other:
        points = other.blinded()
        high = points.copy()
        high[:, 3] ^= np.int64(-(2**63))  # X25519 passes over the highest bit
        marks = side.doubled(np.concatenate([points, high]), "shop")
        ours = other.doubled(side.blinded(), "bank")
        with pytest.raises(WireError, match="party shop sent ids of which some are the same"):
            pairs(ours, marks, "shop")
        with pytest.raises(WireError, match="party shop sent an answer"):
            pairs(np.repeat(ours, 2), marks[:2], "shop")


@pytest.mark.parametrize("places", [[0, 0], [-1], [3], [[0]], [0.0]])
def test_places_that_are_none_are_refused(places: list[int]) -> None:
    with Matching(ids(1, 2, 3), KEY, 1) as side, pytest.raises(WireError, match="party bank says that ids are common"):
        side.matched(np.array(places), "bank")


def test_many_points_are_multiplied_by_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blinding, "WORTH", 8)
    points = np.random.default_rng(0).integers(0, 2**62, (50, 4))
    with blinding.Blinding(3) as several:
        made = several.times(points)
        processes = [process for process, _ in several._others]
        assert len(processes) == 2
        assert (made == np.frombuffer(several._scalar.times(points.tobytes()), "<i8").reshape(-1, 4)).all()
        assert (several.times(points[:9]) == made[:9]).all()
        points[49] = 0
        with pytest.raises(WireError, match="low order"):
            several.times(points)
        assert (several.times(points[:49]) == made[:49]).all()
        points[0] = 0
        with pytest.raises(WireError, match="low order"):
            several.times(points)
        assert not several._others  # ended: what they were at is nobody's answer


def test_what_was_matched_is_kept_for_who_has_the_same_ids(tmp_path: Path) -> None:
    own, theirs = ids(*range(30)), ids(*range(20, 60))
    matched, _ = met(own, theirs)
    path = tmp_path / "matched"
    assert recall(path, own, KEY) is None
    keep(path, matched, own, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    found = recall(path, own, KEY)
    assert found is not None
    assert found.rows.tolist() == matched.rows.tolist()
    assert found.digest == matched.digest
    for others in (own[::-1], own[:-1], [*own, *ids(99)], []):
        assert recall(path, others, KEY) is None
    assert recall(path, own, "another word") is None
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:-8],
        whole[:-1] + b"\0",
        whole[:-8] + b"\x7f" * 8,
        whole.replace(b"a", b"b"),
        b"\x93\1\2\3",
    ):
        path.write_bytes(damaged)
        if damaged != whole:
            assert recall(path, own, KEY) is None or damaged[-9:] == whole[-9:]
    keep(path, Matched(np.empty(0, np.int64), matched.digest), own, KEY)
    assert recall(path, own, KEY) is None  # another list's digest
