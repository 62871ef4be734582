"""Ids of texts: the reference's own values, so that other programs find the same."""

import numpy as np
import pytest

from fedps.data.hashing import stable_hash

LONG = "".join(chr(32 + k % 90) for k in range(101))
KNOWN = {  # by xxhash's reference implementation
    ("", 0): 0xEF46DB3751D8E999,
    ("a", 0): 0xD24EC4F1A98C6E5B,
    ("abc", 0): 0x44BC2CF5AD770999,
    ("東京", 42): 0xB0A72F9B060642FF,
    (LONG, 7): 0x14053B2BAC56A4F0,
    (LONG[:63], 2**64 - 1): 0x9D5A72FB82AB7CAC,
    ("Nobody inspects the spammish repetition", 0): 0xFBCEA83C8A378BF1,
}


@pytest.mark.parametrize(("text", "seed"), KNOWN)
def test_a_text_has_the_id_that_xxh64_gives_it_everywhere(text: str, seed: int) -> None:
    [found] = stable_hash([text], seed)
    assert int(found) % 2**64 == KNOWN[text, seed]


def test_texts_of_all_lengths_are_hashed_together_as_alone() -> None:
    texts = [LONG[:k] for k in range(len(LONG))] + ["Grüße", "東京", "", "東京"]
    together = stable_hash(texts, 7)
    np.testing.assert_array_equal(together, np.concatenate([stable_hash([text], 7) for text in texts]))
    assert len(set(together.tolist())) == len(set(texts))
    assert together[-1] == together[-3]


def test_another_seed_gives_other_ids_and_no_text_gives_none() -> None:
    assert not set(stable_hash(["a", "b"], 1).tolist()) & set(stable_hash(["a", "b"], 2).tolist())
    assert stable_hash([], 1).shape == (0,)
    assert stable_hash(["a"], 2**64 - 1).dtype == np.int64
