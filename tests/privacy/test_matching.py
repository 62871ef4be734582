"""R1 of matching: what two parties send each other has no id, and no hash of one that others could make.

The control is the same with what each party blinds left as it is, which must be found.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.vertical import matching
from fedps.vertical.blinding import Blinding, Points
from fedps.vertical.ids import identity
from fedps.vertical.matching import Matching, key_of, of_all, pairs
from tests.privacy.search import Needles, forms_of_hashes, forms_of_ids, merged, search

WORD = "a word that both know"
CHANCE = np.random.default_rng(5)
NUMBERS = np.sort(CHANCE.integers(1 << 50, 1 << 56, 300))
SHOP, BANK = NUMBERS[:200], NUMBERS[100:]


def ids(numbers: NDArray[np.int64]) -> list[bytes]:
    return [identity([str(number)]) for number in numbers]


def sent(shop: NDArray[np.int64], bank: NDArray[np.int64]) -> dict[str, bytes]:
    """Match, and return all arrays that pass."""
    with Matching(ids(shop), WORD, 1) as active, Matching(ids(bank), WORD, 1) as passive:
        brought, answered = passive.blinded(), active.blinded()
        back = passive.doubled(answered, "shop")
        found, places = of_all({"bank": pairs(back, active.doubled(brought, "bank"), "bank")})
        assert len(active.matched(found, "shop").rows) == len(passive.matched(places["bank"], "shop").rows) == 100
    arrays = {"Blind": brought, "Blinded": answered, "Double": back, "Common": places["bank"]}
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.fixture(scope="module")
def needles() -> Needles:
    texts = [form for n in NUMBERS.tolist() for form in (str(n).encode(), identity([str(n)]), n.to_bytes(8, "little"))]
    return merged([forms_of_ids(NUMBERS), forms_of_hashes(texts, WORD)])


def test_neither_an_id_nor_a_hash_of_one_is_sent(needles: Needles) -> None:
    messages = sent(SHOP, BANK)
    assert {name: len(message) for name, message in messages.items()} == {
        "Blind": 200 * 32, "Blinded": 200 * 32, "Double": 200 * 8, "Common": 100 * 8,
    }  # fmt: skip
    assert len(needles) > 10_000
    assert search(messages, needles) == {}


class Bare(Blinding):
    """Blinds nothing."""

    def times(self, points: Points) -> Points:
        return points


def test_the_search_finds_what_is_not_blinded(needles: Needles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "Blinding", Bare)
    assert search(sent(SHOP, BANK), needles) == {"point": {"Blind", "Blinded", "Double"}}


@pytest.mark.parametrize("leak", ["id <i8", "id decimal", "sha256", "keyed blake2b"])
def test_the_search_finds_what_would_be_sent_by_other_ways(leak: str, needles: Needles) -> None:
    told: dict[str, Sequence[bytes]] = {
        "id <i8": [SHOP.tobytes()],
        "id decimal": ids(SHOP),
        "sha256": [hashlib.sha256(str(number).encode()).digest() for number in SHOP],
        "keyed blake2b": [hashlib.blake2b(one, key=key_of(WORD)).digest() for one in ids(SHOP)],
    }
    assert leak in search({"wire": b"".join(told[leak])}, needles)


def test_who_has_one_list_cannot_tell_what_the_other_has_besides() -> None:
    """Two lists alike in what is common differ in nothing but their length that the other side could compare."""
    one, other = (sent(SHOP, np.concatenate([NUMBERS[100:200], more])) for more in (NUMBERS[200:250], NUMBERS[250:]))
    assert {name: len(message) for name, message in one.items()} == {name: len(m) for name, m in other.items()}
    for name in ("Blind", "Blinded", "Double"):
        words = [set(np.frombuffer(messages[name], np.int64).tolist()) for messages in (one, other)]
        assert not words[0] & words[1]
