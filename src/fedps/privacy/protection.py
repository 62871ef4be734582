"""Noise on what parties of a vertical job send: on the gradients of the active one, on the cuts of a passive one.

The gradient of a sample points one way for one class and the other way for the other, so who receives it knows the label.
Four defences:

* `max_norm` (Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022, section 4.1) makes all
  gradients as long as the longest, and leaves them on their line. It stops attacks by length.
* `marvell` (the same, sections 4.2 and 4.3) adds the least Gaussian noise under which both classes' gradients have almost the
  same mean and covariance. It stops attacks by length and by direction, not those that know a sample's own slope.
* `label_dp` adds noise along each sample's own slope. It bounds whatever a sample's gradients tell of its label.
* `frozen` sends zeros. A passive party's part stays as it was drawn, and what is above the cut learns to read it: where features
  are numbers and the cut is wide, almost as well (random features: Rahimi and Recht, NeurIPS 2007).

The noise is a secret: a passive party that could draw it again would subtract it. So it comes from the system, not from the
job's seed, which all parties know; tests and the audit alone give a generator of their own.
"""

import math
import os
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedps.config.sections.vertical import Protection
from fedps.types import State, Values

Floats = NDArray[np.floating[Any]]
GRID = 33  # places at which a power is looked at, a side
LEAST = 1e-5  # a residual below it is rounding for the most part
ROUNDS = 4  # in which the grid closes in around the cheapest place: each to a sixteenth of the one before


class Noise(Protocol):
    """Where normal numbers come from: `SECRET`, or numpy's generator where they may be drawn again."""

    def standard_normal(self, size: tuple[int, ...], /) -> Floats:
        """Return numbers of mean 0 and variance 1."""


class SecretNoise:
    """Normal numbers out of the system's own random bytes, which nobody can draw again."""

    def standard_normal(self, size: tuple[int, ...], /) -> NDArray[np.float64]:
        """Return numbers of mean 0 and variance 1, by Box and Muller: two of each pair of 32-bit words."""
        count = math.prod(size)
        words = np.frombuffer(os.urandom(8 * ((count + 1) // 2)), np.uint32).reshape(2, -1)
        radius = np.sqrt(-2 * np.log((words[0] + 0.5) / 2**32))
        angle = words[1] * (2 * math.pi / 2**32)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].reshape(size)


SECRET = SecretNoise()


def protect(
    gradients: Values, labels: Values, protection: Protection, noise: Noise = SECRET, scores: Values | None = None
) -> Values:
    """Return the gradients of one batch as a passive party may see them; called once a step for each such party.

    Args:
        gradients: float32[B, w], of the loss by what that party has sent of each sample.
        labels: float32[B], 0 or 1; `max_norm` and `frozen` do not look at them.
        protection: `labels` says how, `leakage` how well.
        noise: where the noise comes from.
        scores: float32[B], what the network said of each sample; `label_dp` needs them.

    Returns:
        float32[B, w], whose mean over the noise is `gradients`; of `frozen` zeros.
    """
    match protection.labels:
        case "max_norm":
            return max_norm(gradients, noise)
        case "marvell":
            return marvell(gradients, labels, protection.leakage, noise)
        case "label_dp":
            if scores is None:
                raise ValueError("label_dp needs the batch's scores")
            return label_dp(gradients, labels, scores, protection.leakage, noise)
        case "frozen":
            return np.zeros_like(gradients)
        case "none":
            return gradients


def max_norm(gradients: Values, noise: Noise = SECRET) -> Values:
    """Stretch or turn each gradient along its own line, so that its mean squared length is that of the batch's longest.

    Lengths tell no label then. Lines still do where both classes' gradients do not lie on one, and so does the way along it:
    the longest keeps its own, and the longer a gradient was, the likelier it does.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", gradients, gradients, dtype=np.float64))
    longest = lengths.max(initial=0.0)
    stretch = np.sqrt(np.maximum((longest / np.where(lengths > 0, lengths, math.inf)) ** 2 - 1, 0))
    factors = 1 + stretch * noise.standard_normal(lengths.shape)
    stretched: Values = gradients * factors.astype(np.float32)[:, None]
    return stretched


def marvell(gradients: Values, labels: Values, leakage: float, noise: Noise = SECRET) -> Values:
    """Add the least Gaussian noise under which both classes' gradients, taken for Gaussian, are alike.

    Where the paper takes one variance for all directions, the noise across the line through both means has the shape of what
    the other class has more: in directions in which no gradient varies, noise would tell to whom it was given.

    Args:
        gradients: float32[B, w].
        labels: float32[B], 0 or 1.
        leakage: bound of the sum of both KL divergences between the two classes' gradients in this batch.
        noise: where the noise comes from.

    Returns:
        float32[B, w]. Of a batch of one class alone nothing: zeros.
    """
    classes = [labels <= 0.5, labels > 0.5]
    if not all(mask.any() for mask in classes):
        return np.zeros_like(gradients)
    noisy = gradients.astype(np.float64)
    zero, one = (noisy[mask].mean(0) for mask in classes)
    length = float(np.linalg.norm(one - zero))
    line = (one - zero) / length if length > 0 else np.zeros_like(zero)
    shapes = [np.cov(noisy[mask].T, ddof=0).reshape(len(line), -1) for mask in classes]
    variances = [float(np.trace(shape)) / len(line) for shape in shapes]
    share, across = float(classes[1].mean()), np.eye(len(line)) - np.outer(line, line)
    added = least_noise(length**2, variances[0], variances[1], share, len(line), leakage)
    for k, mask in enumerate(classes):
        lacking, ways = np.linalg.eigh(across @ (shapes[1 - k] * math.exp(-added.ratio) - shapes[k]) @ across)
        some = lacking > 1e-6 * max(variances)
        spread = noise.standard_normal((int(mask.sum()), int(some.sum()))) * np.sqrt(lacking[some])
        own = noise.standard_normal((int(mask.sum()), 1)) * math.sqrt(added.along[k])
        noisy[mask] += spread @ ways[:, some].T + own * line
    return noisy.astype(np.float32)


class Added(NamedTuple):
    """What noise each class is given.

    Attributes:
        along: variances along the line through both means, of classes 0 and 1.
        ratio: across it, a class is given what it lacks of exp(-ratio) times the other's variance.
    """

    along: tuple[float, float]
    ratio: float


def least_noise(gap: float, var0: float, var1: float, share: float, width: int, leakage: float) -> Added:
    """Solve Marvell's problem (Li et al., theorem 2) the other way round: the least power that keeps to a bound of sumKL.

    Each class's gradients are taken for Gaussian, of one variance in all directions. With a, b the variances of classes 1
    and 0 along the line through their means when noise is added, and c, e across it,

        2 sumKL = (gap + b)/a + (gap + a)/b - 2 + (width - 1) (c/e + e/c - 2).

    Across, only the class of less variance is given noise, up to the ratio exp(-k) of the other's. That leaves a bound for
    what lies along; there, with b = a exp(t), the bound itself says a. So power is a function of k and t, both bounded,
    and its least value is searched on a grid that closes in.

    Args:
        gap: squared distance of the two means.
        var0: variance of class 0's gradients in each direction.
        var1: the same of class 1.
        share: of the samples that are of class 1.
        width: directions there are.
        leakage: what sumKL may be.
    """
    small, large = sorted((var0, var1))
    weight = share if var1 < var0 else 1 - share  # of the class that is given noise across
    farthest = 0.0  # that k may be
    if width > 1 and large > 0:
        farthest = min(math.log(large / small) if small > 0 else math.inf, math.acosh(1 + leakage / (width - 1)))
    middle_k = reach_k = farthest / 2
    middle_s, reach_s = 0.0, 1.0  # t as a share of the most that it may be
    least, added = math.inf, Added((0.0, 0.0), 0.0)
    for _ in range(ROUNDS):
        k = np.clip(np.linspace(middle_k - reach_k, middle_k + reach_k, GRID), 0.0, farthest)[:, None]
        s = np.clip(np.linspace(middle_s - reach_s, middle_s + reach_s, GRID), -1.0, 1.0)
        left = np.maximum(leakage - (width - 1) * (np.cosh(k) - 1), 0.0)  # of the bound, for what lies along
        t = s * np.arccosh(1 + left)
        room = 2 * (left - (np.cosh(t) - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.where(room > 0, gap * (1 + np.exp(-t)) / room, math.inf if gap > 0 else 0.0)
        a = np.maximum(np.maximum(a, var1), var0 * np.exp(-t))
        b = a * np.exp(t)
        power = share * (a - var1) + (1 - share) * (b - var0)
        power = power + (width - 1) * weight * np.maximum(large * np.exp(-k) - small, 0.0)
        row, column = np.unravel_index(np.argmin(power), power.shape)
        middle_k, middle_s = float(k[row, 0]), float(s[column])
        reach_k, reach_s = reach_k / (GRID // 2), reach_s / (GRID // 2)
        if power[row, column] < least:
            along = (max(float(b[row, column]) - var0, 0.0), max(float(a[row, column]) - var1, 0.0))
            least, added = float(power[row, column]), Added(along, middle_k)
    return added


def label_dp(gradients: Values, labels: Values, scores: Values, leakage: float, noise: Noise = SECRET) -> Values:
    """Add to each gradient Gaussian noise along the very line on which its label moves it.

    The gradient of a sample is (score - label) times a slope that does not depend on its label. So noise of deviation
    `leakage ** -0.5` on the label, times that slope, is label differential privacy (Ghazi et al., NeurIPS 2021) by the
    mechanism of Yang et al., "Differentially Private Label Protection in Split Learning" (2022), with Gaussian noise: it
    needs no assumption on gradients, and holds against an attacker who knows all slopes, scores and other labels.

    Args:
        gradients: float32[B, w], of the cross-entropy.
        labels: float32[B], 0 or 1.
        scores: float32[B], the probabilities that the network gave them.
        leakage: sum of both KL divergences between what a sample with label 0 and the same with label 1 shows.
        noise: where the noise comes from.

    Returns:
        float32[B, w]. A sample whose score leaves no gradient to speak of is given noise along another's slope.
    """
    residuals = scores.astype(np.float64) - labels
    sure = np.abs(residuals) <= LEAST
    clear = np.flatnonzero(~sure)
    if not len(clear):
        return np.zeros_like(gradients)
    others = np.resize(clear, int(sure.sum()))
    residuals[sure] = residuals[others]
    factors = noise.standard_normal(residuals.shape) / (math.sqrt(leakage) * residuals)
    noisy: Values = gradients * (1 + factors).astype(np.float32)[:, None]
    noisy[sure] = gradients[sure] + gradients[others] * factors[sure].astype(np.float32)[:, None]
    return noisy


def best_auc(leakage: float, times: int = 1) -> float:
    """Return the AUC of the best attack there can be on gradients of `label_dp` that were seen so many times.

    Two Gaussians of one variance with sumKL s are told apart with AUC `Phi(sqrt(s / 2))`, and what is drawn anew adds up.
    It is below the bound of Li et al. (theorem 1), `1/2 + sqrt(s)/2 - s/8`, that holds for whatever distributions.
    """
    return 0.5 * (1 + math.erf(math.sqrt(leakage * times) / 2))


class Blur:
    """Noise on the cuts of one passive party: so many standard deviations of each of their columns.

    The deviations are those of the batches seen in training, the latest counting most, so that a sample alone, of which
    there are none, is blurred as well.
    """

    KEPT = 0.9  # of the variances, from batch to batch

    def __init__(self, deviations: float, noise: Noise = SECRET) -> None:
        """Make it: `deviations` as `Protection.activations` says; 0 leaves cuts as they are."""
        self.deviations = deviations
        self.noise = noise
        self.variances: Values | None = None  # float32[w]

    def __call__(self, cuts: Values, training: bool = True) -> Values:
        """Return cuts, float32[B, w], as they may be sent; those of training tell what deviates how much."""
        if not self.deviations:
            return cuts
        if (training and len(cuts) > 1) or self.variances is None:
            seen = cuts.var(0)
            kept = self.KEPT if self.variances is not None else 0.0
            self.variances = kept * (seen if self.variances is None else self.variances) + (1 - kept) * seen
        spread = self.deviations * np.sqrt(self.variances)
        return (cuts + spread * self.noise.standard_normal(cuts.shape)).astype(np.float32)

    def state(self) -> State:
        """Return what a party that is started again goes on from."""
        return {} if self.variances is None else {"variances": self.variances}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self.variances = state.get("variances")
