"""Noise on gradients and cuts keeps what it says, and is on the average not there."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.config.sections.vertical import Protection
from fedps.privacy.protection import SECRET, Added, Blur, least_noise, marvell, max_norm, protect
from fedps.types import Values

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


def sum_kl(gap: float, var0: float, var1: float, width: int, added: Added) -> float:
    """Both divergences of Gaussians with whole covariances, by their definition."""
    difference = np.zeros(width)
    difference[0] = math.sqrt(gap)
    zero, one = (
        np.diag([var + along, *[var + across] * (width - 1)])
        for var, along, across in zip((var0, var1), added.along, added.across, strict=True)
    )

    def divergence(first: Values, second: Values) -> float:
        inverse = np.linalg.inv(second)
        logs = np.linalg.slogdet(second)[1] - np.linalg.slogdet(first)[1]
        return float(np.trace(inverse @ first) - width + difference @ inverse @ difference + logs) / 2

    return divergence(zero, one) + divergence(one, zero)


def power(share: float, width: int, added: Added) -> float:
    zero, one = (along + (width - 1) * across for along, across in zip(added.along, added.across, strict=True))
    return (1 - share) * zero + share * one


@pytest.mark.parametrize("case", CASES)
def test_marvell_keeps_to_its_bound_and_uses_it_up(case: tuple[float, float, float, float, int, float]) -> None:
    gap, var0, var1, share, width, bound = case
    added = least_noise(gap, var0, var1, share, width, bound)
    assert min(*added.along, *added.across) >= 0
    assert sum_kl(gap, var0, var1, width, added) == pytest.approx(bound, rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 10), VARIANCES, VARIANCES, st.floats(0.001, 0.999), st.integers(1, 64), st.floats(1e-3, 1))
def test_marvell_keeps_to_its_bound_whatever_the_classes(
    gap: float, var0: float, var1: float, share: float, width: int, bound: float
) -> None:
    added = least_noise(gap, var0, var1, share, width, bound)
    assert min(*added.along, *added.across) >= 0
    assert sum_kl(gap, var0, var1, width, added) <= bound * 1.001 + 1e-9


@pytest.mark.parametrize("case", CASES)
def test_no_noise_nearby_keeps_to_marvells_bound_with_less_power(
    case: tuple[float, float, float, float, int, float],
) -> None:
    gap, var0, var1, share, width, bound = case
    added = least_noise(gap, var0, var1, share, width, bound)
    rng = np.random.default_rng(1)
    tried = np.array([*added.along, *added.across]) * np.exp(0.1 * rng.standard_normal((2000, 4)))
    others = [Added((a, b), (c, d)) for a, b, c, d in tried.tolist()]
    others = [o for o in others if sum_kl(gap, var0, var1, width, o) <= bound]
    assert others
    assert power(share, width, added) <= min(power(share, width, o) for o in others) * 1.002


def test_classes_that_are_alike_are_given_no_noise() -> None:
    assert least_noise(1.0, 50.0, 50.0, 0.5, 4, 0.1) == Added((0.0, 0.0), (0.0, 0.0))
    assert least_noise(0.0, 0.0, 0.0, 0.5, 4, 0.1) == Added((0.0, 0.0), (0.0, 0.0))


@pytest.mark.parametrize("kind", ["max_norm", "marvell"])
def test_noise_is_on_the_average_not_there(kind: str) -> None:
    gradients, labels = two_classes(200)
    rng, protection = np.random.default_rng(2), Protection.model_validate({"labels": kind, "leakage": 0.5})
    drawn = np.array([protect(gradients, labels, protection, rng) for _ in range(2000)], np.float64)
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


def test_without_protection_gradients_are_sent_as_they_are() -> None:
    gradients, labels = two_classes(50)
    assert protect(gradients, labels, Protection()) is gradients


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
