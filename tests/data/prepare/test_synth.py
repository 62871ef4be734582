"""The twin: one positive and 99 negatives a user, and a taste that can be learned beyond popularity."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.config.files import files_in
from fedps.data.prepare.synth import draw_factors, synthesize
from fedps.data.read.reader import read_samples
from fedps.errors import DataError


def test_every_positive_comes_with_negatives_that_are_none(tmp_path: Path) -> None:
    manifest = synthesize(tmp_path / "out", users=60, items=210, per_user=12, seed=3)
    assert manifest["synthetic"] is True
    positives: dict[int, set[int]] = {}
    held_out = {}
    for path in files_in(tmp_path / "out" / "test"):
        test = read_samples(path, 60, 210)
        for start in range(0, len(test.label), 100):
            assert test.label[start : start + 100].tolist() == [1.0] + [0.0] * 99
            held_out[int(test.user[start])] = test.item[start : start + 100].tolist()
    for path in files_in(tmp_path / "out" / "train"):
        train = read_samples(path, 60, 210)
        assert train.label.reshape(-1, 5).tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]] * (len(train.label) // 5)
        for user, item, label in zip(train.user.tolist(), train.item.tolist(), train.label.tolist(), strict=True):
            if label:
                positives.setdefault(user, set()).add(item)
        for user, item, label in zip(train.user.tolist(), train.item.tolist(), train.label.tolist(), strict=True):
            assert label or item not in positives[user]
            assert item != held_out[user][0]
    assert len(held_out) == 60
    assert all(not positives[u] & set(items) and len(set(items)) == 100 for u, items in held_out.items())


def auc(scores: NDArray[np.float64]) -> float:
    """How often a user's positive (column 0) is scored above a negative; float64[users, 100]."""
    first, others = scores[:, :1], scores[:, 1:]
    return float((first > others).mean() + (first == others).mean() / 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_factors_taste_tells_clearly_more_than_popularity(seed: int, tmp_path: Path) -> None:
    users, items = 400, 400
    synthesize(tmp_path / "out", users, items, 40, seed=seed)
    train = [read_samples(f, users, items) for f in files_in(tmp_path / "out" / "train")]
    test = [read_samples(f, users, items) for f in files_in(tmp_path / "out" / "test")]
    taken = np.concatenate([t.item[t.label == 1] for t in train])
    user = np.concatenate([t.user for t in test])[::100]
    candidates = np.concatenate([t.item for t in test]).reshape(-1, 100)
    popularity = np.bincount(taken, minlength=items).astype(float)[candidates]
    factors = draw_factors(users, items, np.random.default_rng(seed))
    taste = np.stack([factors.score(u)[row] for u, row in zip(user.tolist(), candidates, strict=True)])
    assert 0.6 < auc(popularity) < 0.75
    assert auc(taste) > auc(popularity) + 0.12


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        synthesize(tmp_path / name, users=20, items=210, per_user=5, seed=seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.csv")} for n in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"items": 199}, "--items 199"), ({"users": 0}, "--users 0"), ({"per_user": 0}, "--per-user 0"), ({"seed": -1}, "--seed -1")],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, int], named: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=named):
        synthesize(tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
