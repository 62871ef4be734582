"""Whatever the way, every user goes to exactly one client and no client goes without."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.data.prepare import partition
from fedps.data.prepare.partition import Users
from fedps.errors import DataError

ALPHAS = st.floats(1e-9, 1e6)


def deal(kind: str, labels: list[str], clients: int, alpha: float, seed: int = 0) -> list[Users]:
    rng = np.random.default_rng(seed)
    if kind == "iid":
        return partition.iid(len(labels), clients, rng)
    if kind == "quantity":
        return partition.quantity(len(labels), clients, alpha, rng)
    return partition.dirichlet(labels, clients, alpha, rng)


def assert_each_user_once(parts: list[Users], users: int) -> None:
    assert min(map(len, parts)) >= 1
    assert np.sort(np.concatenate(parts)).tolist() == list(range(users))
    assert all((np.diff(part) > 0).all() for part in parts)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["iid", "dirichlet", "quantity"]), st.lists(st.sampled_from("0123"), min_size=1))
def test_every_user_goes_to_one_client_and_none_is_empty(data: st.DataObject, kind: str, labels: list[str]) -> None:
    clients = data.draw(st.integers(1, len(labels)))
    seed = data.draw(st.integers(0, 2**32))
    alpha = data.draw(ALPHAS)
    parts = deal(kind, labels, clients, alpha, seed)
    assert len(parts) == clients
    assert_each_user_once(parts, len(labels))
    again = deal(kind, labels, clients, alpha, seed)
    assert [p.tolist() for p in parts] == [p.tolist() for p in again], "a seed fixes who goes where"


@given(st.lists(st.text(max_size=6), min_size=1))
def test_zip_codes_of_any_kind_are_dealt_out(zip_codes: list[str]) -> None:
    parts = partition.by_zip_code(zip_codes)
    assert_each_user_once(list(parts.values()), len(zip_codes))
    assert set(parts) <= {*"0123456789", "letter"}
    for kind, users in parts.items():
        assert all((zip_codes[u][:1] or "-") in "0123456789" for u in users) == (kind != "letter")


def test_zip_codes_go_by_their_first_digit() -> None:
    parts = partition.by_zip_code(["90210", "01234", "98107-2117", "V5A2B", "", "²1"])
    assert {k: v.tolist() for k, v in parts.items()} == {"0": [1], "9": [0, 2], "letter": [3, 4, 5]}


def test_alpha_sets_the_skew() -> None:
    labels = [str(k % 5) for k in range(1000)]

    def spread(kind: str, alpha: float) -> int:
        sizes = [len(p) for p in deal(kind, labels, 8, alpha)]
        return max(sizes) - min(sizes)

    def kinds(alpha: float) -> float:
        """How many labels make up a client's half, on average: 1 is one label only."""
        shares = [
            np.bincount([int(labels[u]) for u in p], minlength=5) / len(p) for p in deal("dirichlet", labels, 8, alpha)
        ]
        return float(np.mean([share.max() for share in shares]))

    assert spread("iid", 1) <= 1
    assert spread("quantity", 0.1) > 300 > 60 > spread("quantity", 1000)
    assert kinds(0.05) > 0.7 > 0.3 > kinds(1000)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
@pytest.mark.parametrize("clients", [0, -1, 4])
def test_a_number_of_clients_that_cannot_be_is_refused(kind: str, clients: int) -> None:
    with pytest.raises(DataError, match=f"--clients {clients}: .*(at least one|only 3 users)"):
        deal(kind, ["0", "1", "2"], clients, 0.5)


@pytest.mark.parametrize("kind", ["dirichlet", "quantity"])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf"), 1e308])
def test_an_alpha_that_cannot_be_is_refused(kind: str, alpha: float) -> None:
    with pytest.raises(DataError, match=f"--alpha {alpha}".replace("+", r"\+")):
        deal(kind, ["0", "1", "2"], 2, alpha)


def test_as_many_clients_as_users_however_skewed() -> None:
    parts = deal("quantity", ["0"] * 2000, 2000, 1e-6)
    assert [len(p) for p in parts] == [1] * 2000


def test_a_split_of_ones_own_is_sorted_and_kept_as_it_is() -> None:
    found = partition.own({"north": [3, 1], "b.2": np.array([0]), "-é_": [2]}, 4)
    assert {name: part.tolist() for name, part in found.items()} == {"north": [1, 3], "b.2": [0], "-é_": [2]}


@pytest.mark.parametrize(
    ("clients", "named"),
    [
        ({"a": [0, 1]}, r"user 2 has no client \(1 such users\)"),
        ({}, r"user 0 has no client \(3 such users\)"),
        ({"a": [0, 1], "b": [1, 2]}, r"user 1 has more than one place"),
        ({"a": [0, 1, 2, 2]}, r"user 2 has more than one place"),
        ({"a": [0, 1, 2], "b": []}, "client 'b': has no users; leave it out"),
        ({"a": [0, 1, 2, 3]}, r"client 'a': user 3 is not in \[0, 3\)"),
        ({"a": [-1, 1, 2]}, r"client 'a': user -1 is not in \[0, 3\)"),
        ({"": [0, 1, 2]}, "client '': must be a name"),
        ({".a": [0, 1, 2]}, "not '.' first"),
        ({"a/b": [0, 1, 2]}, "client 'a/b': must be a name"),
        ({"..": [0, 1, 2]}, "client '..': must be a name"),
        ({"a\n": [0, 1, 2]}, "must be a name"),
    ],
)
def test_a_split_of_ones_own_gives_each_user_one_client(clients: dict[str, list[int]], named: str) -> None:
    with pytest.raises(DataError, match=named):
        partition.own(clients, 3)
