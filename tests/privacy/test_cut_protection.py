"""Noise on gradients and cuts keeps what it says, and is on the average not there."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedps.config.sections.vertical import Protection
from fedps.privacy.protection import SECRET, Added, Blur, best_auc, label_dp, least_noise, marvell, max_norm, protect
from fedps.types import Values

Matrix = NDArray[np.float64]

VARIANCES = st.floats(1e-9, 10)
CASES = (  # squared distance of the means, variances of class 0 and 1, share of class 1, width, bound
    (1.0, 0.1, 0.3, 0.3, 32, 0.01),
    (1.0, 0.3, 0.1, 0.01, 32, 0.1),
    (1.0, 1e-9, 1e-9, 0.5, 8, 0.25),
    (4.0, 1e-6, 1.0, 0.2, 4, 0.5),
    (0.0, 1.0, 2.0, 0.5, 10, 0.1),
    (1.0, 2.0, 2.0, 0.5, 1, 0.01),
    (1e-6, 1e-8, 5e-8, 0.2, 49, 0.01),
)


def two_classes(count: int = 600, width: int = 6, share: float = 0.3, seed: int = 0) -> tuple[Values, Values]:
    """Gradients of a logistic loss at scores that know nothing: both classes on one line, the rarer one longer."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < share).astype(np.float32)
    slopes = 1 + 0.2 * rng.standard_normal((count, width))
    return (((share - labels)[:, None] * slopes) / count).astype(np.float32), labels


def noised(var0: float, var1: float, added: Added) -> list[tuple[float, float]]:
    """Each class's variances along the line and across it, with noise."""
    (zero, one), share = added.along, math.exp(-added.ratio)
    return [(var0 + zero, max(var0, share * var1)), (var1 + one, max(var1, share * var0))]


def sum_kl(gap: float, var0: float, var1: float, width: int, added: Added) -> float:
    """Both divergences of Gaussians, by the definition, with whole covariances."""
    difference = np.zeros(width)
    difference[0] = math.sqrt(gap)
    zero, one = (np.diag([along, *[across] * (width - 1)]) for along, across in noised(var0, var1, added))

    def divergence(first: Matrix, second: Matrix) -> float:
        inverse = np.linalg.inv(second)
        logs = np.linalg.slogdet(second)[1] - np.linalg.slogdet(first)[1]
        return float(np.trace(inverse @ first) - width + difference @ inverse @ difference + logs) / 2

    return divergence(zero, one) + divergence(one, zero)


def power(var0: float, var1: float, share: float, width: int, added: Added) -> float:
    """Mean squared length of the noise."""
    zero, one = (
        along - var + (width - 1) * (across - var)
        for var, (along, across) in zip((var0, var1), noised(var0, var1, added), strict=True)
    )
    return (1 - share) * zero + share * one


@pytest.mark.parametrize("case", CASES)
def test_marvell_keeps_to_its_bound_and_uses_it_up(case: tuple[float, float, float, float, int, float]) -> None:
    gap, var0, var1, share, width, bound = case
    added = least_noise(gap, var0, var1, share, width, bound)
    assert min(*added.along, added.ratio) >= 0
    assert sum_kl(gap, var0, var1, width, added) == pytest.approx(bound, rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 10), VARIANCES, VARIANCES, st.floats(0.001, 0.999), st.integers(1, 64), st.floats(1e-3, 1))
def test_marvell_keeps_to_its_bound_whatever_the_classes(
    gap: float, var0: float, var1: float, share: float, width: int, bound: float
) -> None:
    added = least_noise(gap, var0, var1, share, width, bound)
    assert min(*added.along, added.ratio) >= 0
    assert sum_kl(gap, var0, var1, width, added) <= bound * 1.001 + 1e-9


@pytest.mark.parametrize("case", CASES)
def test_no_noise_nearby_keeps_to_marvells_bound_with_less_power(
    case: tuple[float, float, float, float, int, float],
) -> None:
    gap, var0, var1, share, width, bound = case
    added = least_noise(gap, var0, var1, share, width, bound)
    rng = np.random.default_rng(1)
    tried = np.array([*added.along, added.ratio]) * np.exp(0.1 * rng.standard_normal((2000, 3)))
    others = [Added((a, b), k) for a, b, k in tried.tolist()]
    others = [o for o in others if sum_kl(gap, var0, var1, width, o) <= bound]
    assert others
    least = min(power(var0, var1, share, width, o) for o in others)
    assert power(var0, var1, share, width, added) <= least * 1.002


def test_classes_that_are_alike_are_given_no_noise() -> None:
    assert least_noise(1.0, 50.0, 50.0, 0.5, 4, 0.1).along == (0.0, 0.0)
    assert least_noise(0.0, 0.0, 0.0, 0.5, 4, 0.1) == Added((0.0, 0.0), 0.0)


@pytest.mark.parametrize("kind", ["max_norm", "marvell", "label_dp"])
def test_noise_is_on_the_average_not_there(kind: str) -> None:
    gradients, labels = two_classes(200)
    rng, protection = np.random.default_rng(2), Protection.model_validate({"labels": kind, "leakage": 0.5})
    scores = np.full_like(labels, 0.3)
    drawn = np.array([protect(gradients, labels, protection, rng, scores) for _ in range(600)], np.float64)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert (error > 0).mean() > 0.9
    off = np.abs(drawn.mean(0) - gradients) / np.maximum(error, 1e-12)
    assert np.median(off) < 1.5
    assert off.max() < 7


def test_max_norm_makes_all_as_long_as_the_longest_and_leaves_them_on_their_line() -> None:
    gradients, _ = two_classes(100)
    gradients[3] = 0
    rng = np.random.default_rng(3)
    drawn = np.array([max_norm(gradients, rng) for _ in range(1000)])
    lengths, before = np.linalg.norm(drawn, axis=2), np.linalg.norm(gradients, axis=1)
    assert not drawn[:, 3].any()
    there = np.arange(100) != 3
    assert (lengths**2).mean(0)[there] == pytest.approx(before.max() ** 2, rel=0.4)
    cosines = np.abs((drawn * gradients).sum(2)[:, there]) / (lengths * before)[:, there]
    assert cosines.min() > 0.999


def test_of_a_batch_of_one_class_marvell_says_nothing() -> None:
    gradients, labels = two_classes(50)
    for label in (0, 1):
        assert not marvell(gradients, np.full_like(labels, label), 0.1).any()


def test_marvell_gives_no_noise_to_directions_in_which_no_gradient_varies() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(500) < 0.4).astype(np.float32)
    gradients = np.zeros((500, 8), np.float32)
    gradients[:, 0] = 0.4 - labels
    gradients[:, 1] = rng.standard_normal(500) * (1 + labels)
    assert not marvell(gradients, labels, 0.1, rng)[:, 2:].any()


def test_label_dp_moves_each_gradient_on_its_own_line_by_the_same_noise_on_the_label() -> None:
    gradients, labels = two_classes(300)
    slopes = gradients * 300 / (0.3 - labels)[:, None]
    rng = np.random.default_rng(6)
    drawn = np.array([label_dp(gradients, labels, np.full_like(labels, 0.3), 0.04, rng) for _ in range(500)]) * 300
    noise = ((drawn - gradients * 300) * slopes).sum(2) / (slopes**2).sum(1)
    assert np.allclose(drawn, gradients * 300 + noise[..., None] * slopes, atol=1e-3)
    assert noise.std(0) == pytest.approx(5, rel=0.25)
    assert noise.std() == pytest.approx(5, rel=0.02)


def test_label_dp_hides_a_sample_of_whose_label_the_network_is_sure_behind_anothers_slope() -> None:
    gradients, labels = two_classes(300)
    scores = np.full_like(labels, 0.3)
    scores[7], gradients[7] = labels[7], 0
    assert label_dp(gradients, labels, scores, 0.04, np.random.default_rng(7))[7].all()
    assert not label_dp(gradients, labels, labels, 0.04).any(), "of no sample a slope is known"


def test_the_best_attack_on_label_dp_is_as_good_as_the_bound_says() -> None:
    rng = np.random.default_rng(8)
    zeros, ones = rng.standard_normal((2, 20_000)) / math.sqrt(0.5)
    assert (zeros[:1000, None] < ones[None] + 1).mean() == pytest.approx(best_auc(0.5), abs=0.03)
    assert best_auc(0.1, 5) == best_auc(0.5)
    assert best_auc(0.03) < 0.55
    for leakage in (0.01, 0.1, 1.0):
        assert best_auc(leakage) <= 0.5 + math.sqrt(leakage) / 2 - leakage / 8, "theorem 1 of Li et al."


def test_without_protection_gradients_are_sent_as_they_are() -> None:
    gradients, labels = two_classes(50)
    assert protect(gradients, labels, Protection()) is gradients


def test_of_a_frozen_party_nothing_is_sent_but_zeros() -> None:
    gradients, labels = two_classes(50)
    assert not protect(gradients, labels, Protection(labels="frozen")).any()


def test_secret_noise_is_normal_and_another_each_time() -> None:
    drawn = SECRET.standard_normal((500, 401))
    assert drawn.shape == (500, 401)
    assert abs(drawn.mean()) < 0.02
    assert [float((drawn**power).mean()) for power in (2, 4)] == pytest.approx([1, 3], rel=0.1)
    assert abs((drawn[:, 0] * drawn[:, 1]).mean()) < 0.3
    assert not np.array_equal(SECRET.standard_normal((8,)), SECRET.standard_normal((8,)))


def test_a_blur_is_as_wide_as_the_cuts_of_training_and_hides_a_single_sample_too() -> None:
    rng = np.random.default_rng(4)
    cuts = (rng.standard_normal((4000, 3)) * [1, 5, 0] + 7).astype(np.float32)
    blur = Blur(0.5, rng)
    noise = blur(cuts) - cuts
    assert noise.std(0) == pytest.approx([0.5, 2.5, 0], rel=0.1)
    resumed = Blur(0.5, rng)
    resumed.restore(blur.state())
    single = np.concatenate([resumed(cuts[:1], training=False) for _ in range(2000)]) - cuts[:1]
    assert single.std(0) == pytest.approx([0.5, 2.5, 0], rel=0.2)
    assert np.array_equal(Blur(0.0)(cuts), cuts)
