"""AUC, HR and NDCG against slow oracles: pairs counted one by one, orders enumerated, the published evaluator."""

import heapq
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.errors import FedpsError
from fedps.figures import read_metric
from fedps.metrics import BUCKETS, Histogram
from fedps.ranking import rank_candidates
from fedps.types import Keys, Values

Scored = list[tuple[float, int]]
scored = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 1)), max_size=30)


def histogram(samples: Scored) -> Histogram:
    made = Histogram()
    made.add(np.array([s for s, _ in samples], np.float32), np.array([y for _, y in samples], np.float32))
    return made


def auc_by_pairs(samples: Scored) -> float | None:
    """Count pairs in which the positive's bucket is higher, a tie half."""
    bucket = [(math.floor(np.float32(s) * np.float32(BUCKETS - 1)), y) for s, y in samples]
    pairs = [(p > n) + (p == n) / 2 for p, y in bucket if y for n, z in bucket if not z]
    return sum(pairs) / len(pairs) if pairs else None


@given(scored)
def test_auc_counts_pairs(samples: Scored) -> None:
    due = auc_by_pairs(samples)
    assert histogram(samples).auc() == (due if due is None else pytest.approx(due, abs=1e-12))


@given(scored, scored)
def test_histograms_of_parts_add_up(one: Scored, other: Scored) -> None:
    merged = histogram(one)
    merged.merge(histogram(other))
    whole = histogram(one + other)
    np.testing.assert_array_equal(merged.positives, whole.positives)
    np.testing.assert_array_equal(merged.negatives, whole.negatives)


def test_auc_is_near_that_of_unrounded_scores() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000).astype(np.float32)
    scores = (1 / (1 + np.exp(-rng.normal(labels, 1.0)))).astype(np.float32)
    won = (scores[labels > 0][:, None] > scores[labels == 0]).mean()
    made = Histogram()
    made.add(scores, labels)
    assert made.auc() == pytest.approx(won, abs=1e-4)
    assert 0.7 < won < 0.8


def test_the_ends_of_the_scale_have_buckets() -> None:
    made = histogram([(0.0, 0), (1.0, 1)])
    assert made.negatives[0] == 1
    assert made.positives[BUCKETS - 1] == 1
    assert made.auc() == 1.0


@pytest.mark.parametrize("samples", [[], [(0.3, 1)], [(0.3, 0), (0.8, 0)]])
def test_there_is_no_auc_without_both_classes(samples: Scored) -> None:
    assert histogram(samples).auc() is None


@pytest.mark.parametrize("score", [-0.01, 1.01, math.nan, math.inf])
def test_what_is_no_probability_is_refused_and_nothing_counted(score: float) -> None:
    made = histogram([(0.5, 1)])
    with pytest.raises(FedpsError, match=r"must be in \[0, 1\]"):
        made.add(np.array([0.5, score], np.float32), np.ones(2, np.float32))
    assert made.positives.sum() == 1


def test_a_histogram_travels_as_lists() -> None:
    made = histogram([(0.2, 0), (0.7, 1), (0.1, 1)])
    again = Histogram(made.positives.tolist(), made.negatives.tolist())
    assert again.auc() == made.auc()
    again.merge(made)
    assert made.positives.sum() == 2  # the copy shares nothing with the first


def test_counts_of_another_length_are_refused() -> None:
    with pytest.raises(FedpsError, match="4096 buckets"):
        Histogram([1, 2, 3])


def rank(scores: Values, items: Keys, k: int = 10) -> tuple[float, float]:
    """Return the sums of hits and NDCG at k."""
    found = rank_candidates(scores, items, [read_metric(f"hr@{k}"), read_metric(f"ndcg@{k}")])
    return found[f"hr@{k}"], found[f"ndcg@{k}"]


def published(scores: Values, items: Keys, k: int = 10) -> tuple[float, float]:
    """The NCF authors' evaluator for one user: scores keyed by item, the positive put in last."""
    keyed: dict[int, float] = {}
    for item, score in [*zip(items[1:], scores[1:], strict=True), (items[0], scores[0])]:
        keyed[int(item)] = float(score)
    best = heapq.nlargest(k, keyed, key=lambda item: keyed[item])
    if int(items[0]) not in best:
        return 0.0, 0.0
    return 1.0, math.log(2) / math.log(best.index(int(items[0])) + 2)


def candidates(users: int, seed: int) -> tuple[Values, Keys]:
    """Distinct scores for 1 + 99 candidates; every third user has the positive among the negatives."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(3706)[:100] for _ in range(users)])
    scores = np.stack([rng.permutation(100) for _ in range(users)]).astype(np.float32)
    scores[:, 0] += 30.5
    items[::3, 40], scores[::3, 40] = items[::3, 0], scores[::3, 0]
    return scores, items


def test_ranks_are_the_published_evaluators_duplicates_included() -> None:
    scores, items = candidates(200, seed=1)
    due = np.sum([published(s, i) for s, i in zip(scores, items, strict=True)], axis=0)
    found = rank(scores, items)
    assert found == pytest.approx(tuple(due), abs=1e-9)
    assert 20 < found[0] < 180


def test_a_duplicate_counted_as_a_tie_would_lower_the_figure() -> None:
    scores, items = candidates(200, seed=2)
    distinct = np.broadcast_to(np.arange(100), items.shape)
    assert rank(scores, items)[1] > rank(scores, distinct)[1]


@given(st.lists(st.integers(0, 2), min_size=2, max_size=5), st.integers(1, 3))
def test_ties_take_the_mean_over_all_orders(levels: list[int], k: int) -> None:
    gains = []
    for order in itertools.permutations(range(len(levels))):
        place = sorted(order, key=lambda c: -levels[c]).index(0)
        gains.append((place < k, (place < k) / math.log2(place + 2)))
    found = rank(np.array([levels], np.float32), np.arange(len(levels))[None], k)
    assert found == pytest.approx(tuple(np.mean(gains, axis=0)), abs=1e-12)


def test_a_constant_scorer_gets_what_chance_gets() -> None:
    hits, _ = rank(np.zeros((7, 100), np.float32), np.broadcast_to(np.arange(100), (7, 100)))
    assert hits / 7 == pytest.approx(0.10)


def test_sums_of_clients_add_up() -> None:
    scores, items = candidates(60, seed=3)
    parts = [rank(scores[cut], items[cut]) for cut in (slice(0, 7), slice(7, 60))]
    assert np.sum(parts, axis=0) == pytest.approx(rank(scores, items))


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(at: int, score: float) -> None:
    scores, items = candidates(3, seed=4)
    scores[1, at] = score
    with pytest.raises(FedpsError, match="NaN or infinite"):
        rank(scores, items)


def test_metrics_need_no_torch() -> None:
    code = "import sys, fedps.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
