"""Attacks on what passes the cut find what is there to be found, and nothing where there is nothing."""

import numpy as np
import pytest

from fedps.config.sections.vertical import Protection
from fedps.privacy import attacks
from fedps.privacy.protection import protect
from fedps.types import Values
from tests.privacy.test_cut_protection import two_classes

RNG = np.random.default_rng


def known_positives(labels: Values) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.flatnonzero(labels > 0.5)[:3]


def told(gradients: Values, labels: Values) -> dict[str, float]:
    """AUC of each attack on one batch's gradients."""
    known = known_positives(labels)
    rest = np.setdiff1d(np.arange(len(labels)), known)
    scores = {
        "norm": attacks.norm(gradients),
        "direction": attacks.direction(gradients, known),
        "spectrum": attacks.spectrum(gradients, known),
    }
    return {name: attacks.auc(score[rest], labels[rest]) for name, score in scores.items()}


def test_auc_counts_pairs_and_ties_half() -> None:
    rng = RNG(0)
    scores, labels = rng.integers(0, 9, 200).astype(np.float64), (rng.random(200) < 0.4).astype(np.float32)
    ones, zeros = scores[labels == 1][:, None], scores[labels == 0]
    assert attacks.auc(scores, labels) == pytest.approx(((ones > zeros) + 0.5 * (ones == zeros)).mean())
    assert np.isnan(attacks.auc(scores, np.zeros_like(labels)))


def test_bare_gradients_tell_labels_to_each_attack() -> None:
    found = told(*two_classes(2000))
    assert min(found.values()) > 0.95, found


def test_marvell_stops_each_attack() -> None:
    gradients, labels = two_classes(4000)
    found = told(protect(gradients, labels, Protection(labels="marvell"), RNG(1)), labels)
    assert all(0.4 < value < 0.6 for value in found.values()), found


def test_max_norm_stops_the_norm_and_not_the_direction() -> None:
    gradients, labels = two_classes(4000)
    found = told(protect(gradients, labels, Protection(labels="max_norm"), RNG(2)), labels)
    assert 0.3 < found["norm"] < 0.65, found
    assert found["direction"] > 0.65, found


def test_whoever_knows_its_own_factor_reads_labels_through_marvell_and_not_through_label_dp() -> None:
    rng = RNG(6)
    labels = (rng.random(4000) < 0.5).astype(np.float32)
    cuts = rng.standard_normal((4000, 9)).astype(np.float32)
    slopes = np.concatenate(
        [np.ones((4000, 1)), cuts[:, 1:]], 1
    )  # as of a first-order sum, and of a squared sum of factors
    gradients = ((0.5 - labels)[:, None] * slopes).astype(np.float32)

    def read(kind: str) -> float:
        protection = Protection.model_validate({"labels": kind})
        sent = protect(gradients, labels, protection, rng, np.full_like(labels, 0.5))
        return attacks.auc(attacks.product(attacks.without_line(sent), cuts), labels)

    assert read("none") > 0.95
    assert read("marvell") > 0.95
    assert 0.4 < read("label_dp") < 0.6


def test_a_few_labels_complete_a_bottom_that_knows_and_none_that_does_not() -> None:
    rng = RNG(3)
    labels = (rng.random(3000) < 0.5).astype(np.float32)
    cuts = rng.standard_normal((3000, 8)).astype(np.float32)
    known = rng.choice(3000, 60, replace=False)
    assert attacks.auc(attacks.completion(cuts, labels, known), labels) < 0.6
    cuts[:, 2] += 4 * labels
    assert attacks.auc(attacks.completion(cuts, labels, known), labels) > 0.9


def test_features_are_told_by_cuts_that_hold_them_and_not_by_others() -> None:
    rng = RNG(4)
    features = rng.standard_normal((2000, 5)).astype(np.float32)
    known = np.arange(200)
    cuts = (features @ rng.standard_normal((5, 12))).astype(np.float32)
    assert attacks.inversion(cuts, features, known) > 0.99
    assert attacks.inversion(rng.standard_normal((2000, 12)).astype(np.float32), features, known) < 0.1


def test_a_neighbour_tells_an_id_whose_row_is_sent() -> None:
    rng = RNG(5)
    ids = rng.integers(0, 30, 3000)
    rows = rng.standard_normal((30, 6)).astype(np.float32)
    known = rng.choice(3000, 500, replace=False)
    for cuts, least, most in ((rows[ids], 0.99, 1), (rng.standard_normal((3000, 6)).astype(np.float32), 0, 0.1)):
        unknown, guessed = attacks.nearest(cuts, known)
        assert len(unknown) == 2500
        assert least <= (ids[unknown] == ids[guessed]).mean() <= most
