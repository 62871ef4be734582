"""What a vertical job lets parties find out of each other: attacks on all that passes the cut, with its protection and without.

The job is trained in this process, where all parties' files are, once as it is and once without its protection. What each
side would see of some batches of each epoch is kept, and attacked (`privacy.attacks`). `fedps vertical audit` prints what
came of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.config.sections.vertical import Protection
from fedps.data.samples import ClientData, Order
from fedps.privacy import attacks
from fedps.privacy.attacks import Floats, Known
from fedps.privacy.protection import LEAST, Blur, best_auc, protect
from fedps.types import Bags, Values, taken
from fedps.vertical.data import batches_of, ids_of, side_data, steps_of
from fedps.vertical.half import AT_ONCE, Half, Top
from fedps.vertical.ids import form_of
from fedps.vertical.joined import has_features, train_joined
from fedps.vertical.matching import agreed, check_common, key_of

WATCHED = 24  # batches of an epoch that are attacked, about
FOLLOWED = 20_000  # samples that are followed through all epochs
HINTS = 4  # positives of a batch that an attacker knows
LABELS = 20  # of either class that an attacker knows, to complete a model
DRAWS = 5  # of these
CLIENTS, LOOKED_AT = 2_000, 12_000  # samples whose features an attacker knows; those, and others whose it looks for
ENOUGH = 0.9  # AUC that an attack on bare gradients must have: where it has not, attacks prove nothing
MEASURES = {"auc": "AUC", "r2": "R²", "right": "right"}
NOISE = 0x61756469  # of the stream that noise is drawn from; a run's own comes from the system


class Finding(msgspec.Struct, frozen=True):
    """How well one attack does.

    Attributes:
        party: the passive party that attacks (labels), or is attacked (features).
        attack: its name.
        wants: "label", or the feature.
        measure: "auc", "r2" (share of the variance told) or "right" (share of values guessed).
        blind: what comes of it without what passes the cut; of gradients what their slopes tell, which follow from features.
        bare: what comes of it without protection.
        protected: what comes of it with the job's; None where the job has none.
    """

    party: str
    attack: str
    wants: str
    measure: str
    blind: float
    bare: float
    protected: float | None


class Audit(msgspec.Struct, frozen=True):
    """What the audit of a job came to.

    Attributes:
        protection: the job's section.
        alone: held-out AUC of the active party alone; None if it has no features.
        bare: held-out AUC of all without protection.
        protected: the same with it; None where the job has none.
        bound: with `label_dp` the AUC above which no attack on the gradients of an epoch comes.
        bound_of_all: the same of all epochs together.
        findings: of each attack.
    """

    protection: dict[str, Any]
    alone: float | None
    bare: float
    protected: float | None
    bound: float | None
    bound_of_all: float | None
    findings: list[Finding]

    @property
    def control(self) -> float:
        """AUC of the best attack on bare gradients by length or direction: at the party where it is worst."""
        best = dict[str, float]()
        for found in self.findings:
            if found.attack in ("norm", "direction", "spectrum"):
                best[found.party] = max(found.bare, best.get(found.party, 0.0))
        return min(best.values())


class Watch(NamedTuple):
    """What passed between a passive party and the active one in a batch.

    Attributes:
        samples: their places.
        cuts: float32[B, w], as the party has computed them.
        sent: the same as they were sent.
        gradients: float32[B, w], as they came back.
        slopes: float32[B, w], the same before protection, without what the label is in: the residual. Nobody sees them.
    """

    samples: Order
    cuts: Values
    sent: Values
    gradients: Values
    slopes: Values


class View(NamedTuple):
    """All that is kept of what passed between a passive party and the active one.

    Attributes:
        epochs: of each epoch the batches that were watched.
        sums: float32[FOLLOWED or fewer, w]: of the first samples the gradients of all epochs, added up.
    """

    epochs: list[list[Watch]]
    sums: Values


def audit(job: VerticalJob, say: Callable[[str], None], allow: Allow = Allow()) -> Audit:  # noqa: B008  (frozen)
    """Train a job with its protection and without, and attack both.

    Args:
        job: the job, with the files of all its parties.
        say: is told how far it is.
        allow: what whoever started this allows.

    Raises:
        DataError: files cannot be read, or have no samples in common.
        JobError: the network cannot be made.
    """
    data = together(job, allow)
    label = data[job.vertical.active].train.label
    label = (label > label.mean()).astype(np.float32)  # of a real label its half
    guarded = job.protection.labels != "none" or job.protection.activations > 0
    alone = None
    if has_features(job, job.vertical.active):
        say(f"{job.vertical.active} alone is trained")
        alone = max(each.auc or 0.0 for each in train_joined(job, data, [job.vertical.active]).epochs)
    trained = {}
    for protection in (Protection(), *([job.protection] if guarded else [])):
        say(f"all together are trained, {'without protection' if protection == Protection() else 'protected'}")
        trained[protection] = _train(job.model_copy(update={"protection": protection}), data, say)
    auc, views = trained[Protection()]
    protected = trained.get(job.protection) if guarded else None
    dp = job.protection.labels == "label_dp"
    return Audit(
        job.protection.model_dump(), alone, auc, protected[0] if protected else None,
        best_auc(job.protection.leakage) if dp else None,
        best_auc(job.protection.leakage, job.vertical.epochs) if dp else None,
        [
            found
            for party in views
            for found in _findings(party, views[party], protected and protected[1][party], label, data[party])
        ],
    )  # fmt: skip


def table(found: Audit) -> list[list[str]]:
    """Return what attacks come to, as people read it: names of columns, then a line an attack."""
    lines = [["party", "attack", "wants", "blind", "unprotected", "protected"]]
    for one in found.findings:
        form = "{:.1%}".format if one.measure == "right" else "{:.3f}".format
        values = ["" if value is None else form(value) for value in (one.blind, one.bare, one.protected)]
        lines.append([one.party, one.attack, f"{one.wants}, {MEASURES[one.measure]}", *values])
    return lines


def words(found: Audit, job: VerticalJob) -> list[str]:
    """Say what the figures are worth, a sentence each."""
    aucs = {f"{job.vertical.active} alone": found.alone, "all together": found.bare, "protected": found.protected}
    told = [f"held-out AUC: {', '.join(f'{who} {value:.4f}' for who, value in aucs.items() if value is not None)}"]
    if found.bound is not None:
        told.append(
            f"label_dp: no attack on one sample's gradients has an AUC above {found.bound:.3f} for what an epoch tells, and"
            f" {found.bound_of_all:.3f} for all {job.vertical.epochs}, but for what features tell of the label anyway"
        )
    if found.protected is None:
        told.append("the job has no protection; try -o protection.labels=label_dp, or frozen")
    if found.control < ENOUGH:
        told.append(
            f"the control failed: even without protection no attack has an AUC of {ENOUGH} (the best has {found.control:.3f}), so"
            " what they do not find proves nothing"
        )
    return told


def together(job: VerticalJob, allow: Allow) -> dict[str, ClientData]:
    """Read the samples that all parties have, in the order on which they would agree.

    Raises:
        DataError: files cannot be read, or have no samples in common.
    """
    rows = _common(job, {party: own.data for party, own in job.parties.items()}, allow)
    tests = {party: own.test_data for party, own in job.parties.items() if own.test_data}
    test_rows = _common(job, tests, allow) if len(tests) == len(job.order) else {}
    return {party: side_data(job, party, rows[party], test_rows.get(party), allow) for party in job.order}


def _common(job: VerticalJob, files: Mapping[str, Any], allow: Allow) -> dict[str, NDArray[np.int64]]:
    """Return each party's rows that are common, in the agreed order. Raises DataError: there are none."""
    ids = {party: ids_of(job, party, files[party], allow) for party in job.order}
    common, found = set.intersection(*map(set, ids.values())), {}
    for party, own in ids.items():
        there = np.array([row for row, one in enumerate(own) if one in common], np.int64)
        matched = agreed(own, there, key_of(job.ids.psi_key or ""))
        check_common(matched, [other for other in job.order if other != party], form_of(own))
        found[party] = matched.rows
    return found


def _train(
    job: VerticalJob, data: Mapping[str, ClientData], say: Callable[[str], None]
) -> tuple[float, dict[str, View]]:
    """Train all parties in this process; return the best held-out AUC, and what each passive party's line showed."""
    active = data[job.vertical.active]
    label, rng = active.train.label, np.random.default_rng((job.vertical.seed, NOISE))
    halves = {party: Half(job, party, data[party]) for party in job.order if has_features(job, party)}
    top = Top(job, {party: half.width for party, half in halves.items()}, len(label))
    passive = {party: half for party, half in halves.items() if party != job.vertical.active}
    blurs = {party: Blur(job.protection.activations, rng) for party in passive}
    every, best = max(1, steps_of(job, len(label)) // WATCHED), 0.0
    views = {
        party: View([], np.zeros((min(FOLLOWED, len(label)), h.width), np.float32)) for party, h in passive.items()
    }
    for epoch in range(job.vertical.epochs):
        for view in views.values():
            view.epochs.append([])
        for number, samples in enumerate(batches_of(job, epoch, len(label))):
            cuts = {party: half.forward(samples) for party, half in halves.items()}
            sent = {party: blurs[party](cut) if party in blurs else cut for party, cut in cuts.items()}
            stepped = top.step(list(sent.values()), label[samples])
            for (party, half), gradient in zip(halves.items(), stepped.gradients, strict=True):
                if party in passive:
                    residual = stepped.scores - label[samples]
                    slopes = gradient / np.where(np.abs(residual) > LEAST, residual, np.inf)[:, None]
                    gradient = protect(gradient, label[samples], job.protection, rng, stepped.scores)
                    followed = samples < len(views[party].sums)
                    views[party].sums[samples[followed]] += gradient[followed]
                    if number % every == 0:  # what a half returns may be its own memory
                        kept = (np.array(a, np.float32) for a in (cuts[party], sent[party], gradient, slopes))
                        views[party].epochs[-1].append(Watch(samples, *kept))
                half.backward(gradient)
        auc = _auc(halves, top, blurs, active.test.label)
        best = max(best, auc)
        say(f"epoch {epoch + 1} of {job.vertical.epochs}: AUC {auc:.4f}")
    return best, views


def _auc(halves: Mapping[str, Half], top: Top, blurs: Mapping[str, Blur], label: Values) -> float:
    """Return the AUC of held-out samples; of a real label that of being above the mean."""
    scores = []
    for start in range(0, len(label), AT_ONCE):
        cuts = {party: half.score(slice(start, start + AT_ONCE)) for party, half in halves.items()}
        scores.append(top.score([blurs[p](cut, training=False) if p in blurs else cut for p, cut in cuts.items()]))
    return attacks.auc(np.concatenate(scores), (label > label.mean()).astype(np.float32))


def _findings(party: str, bare: View, protected: View | None, label: Values, data: ClientData) -> list[Finding]:
    """Mount all attacks on what passed between one passive party and the active one."""
    slopes = _of_epochs(protected or bare, label, slopes=True)
    found = [
        Finding(party, name, "label", "auc", slopes.get(name, 0.5), ours, theirs)
        for name, ours, theirs in _both(lambda view: _of_gradients(view, label), bare, protected)
    ]
    blind = _completed(bare.epochs[0][:1], label)
    found += [
        Finding(party, name, "label", "auc", blind, ours, theirs)
        for name, ours, theirs in _both(
            lambda view: {"completion": _completed(view.epochs[-1], label)}, bare, protected
        )
    ]
    return found + _of_features(party, bare, protected, data)


def _of_features(party: str, bare: View, protected: View | None, data: ClientData) -> list[Finding]:
    """Mount attacks on what one passive party has sent in the last epoch."""
    samples = np.concatenate([watch.samples for watch in bare.epochs[-1]])[:LOOKED_AT]
    known = np.arange(min(CLIENTS, len(samples) // 2))
    columns = {name: taken(column, samples) for name, column in data.train.columns.items()}
    numbers = [c.reshape(len(samples), -1) for c in columns.values() if not isinstance(c, Bags) and c.dtype.kind == "f"]
    ids = {name: c for name, c in columns.items() if not isinstance(c, Bags) and c.dtype.kind != "f"}
    features = np.concatenate([np.zeros((len(samples), 0)), *numbers], 1)
    features = ((features - features.mean(0)) / np.maximum(features.std(0), 1e-12)).astype(np.float32)

    def attack(view: View) -> dict[str, float]:
        sent = np.concatenate([watch.sent for watch in view.epochs[-1]])[:LOOKED_AT]
        unknown, guessed = attacks.nearest(sent, known)
        told = {"": attacks.inversion(sent, features, known)} if numbers else {}
        return told | {name: float((values[guessed] == values[unknown]).mean()) for name, values in ids.items()}

    blind = {name: float(np.unique(c, return_counts=True)[1].max() / len(c)) for name, c in ids.items()}
    return [
        Finding(party, "nearest neighbour", name, "right", blind[name], ours, theirs)
        if name in ids
        else Finding(party, "ridge regression", "numbers", "r2", 0.0, ours, theirs)
        for name, ours, theirs in _both(attack, bare, protected)
    ]


def _both(
    attack: Callable[[View], dict[str, float]], bare: View, protected: View | None
) -> list[tuple[str, float, float | None]]:
    """Return what each attack comes to, without protection and with it."""
    ours, theirs = attack(bare), attack(protected) if protected else {}
    return [(name, value, theirs.get(name)) for name, value in ours.items()]


def _of_gradients(view: View, label: Values) -> dict[str, float]:
    """Return the AUC of each attack on gradients."""
    ours = label[: len(view.sums)]
    known = np.flatnonzero(ours > 0.5)[:LABELS]
    of_all = {"direction": attacks.direction(view.sums, known), "spectrum": attacks.spectrum(view.sums, known)}
    told = {f"{name}, all epochs": _rest(scores, ours, known) for name, scores in of_all.items()}
    return _of_epochs(view, label) | told


def _of_epochs(view: View, label: Values, slopes: bool = False) -> dict[str, float]:
    """Return the AUC of attacks over the watched batches of the epoch in which each is best.

    One by length, or by the product with the cut, may take its score either way round.
    """
    epochs: list[dict[str, float]] = []
    for watches in view.epochs:
        seen = [watch._replace(gradients=watch.slopes) for watch in watches] if slopes else watches
        scored = [found for watch in seen if (found := _of_batch(watch, label[watch.samples]))]
        if scored:
            means = {name: float(np.mean([one[name] for one in scored])) for name in scored[0]}
            epochs.append(means | {name: max(means[name], 1 - means[name]) for name in ("norm", "rest", "product")})
    return {name: max(one[name] for one in epochs) for name in epochs[0]} if epochs else {}


def _of_batch(watch: Watch, label: Values) -> dict[str, float]:
    """Return the AUC of each attack on a batch's gradients; nothing where it has too few of a class."""
    known = np.flatnonzero(label > 0.5)[:HINTS]
    if len(known) < HINTS or (label > 0.5).sum() < 2 * HINTS or (label <= 0.5).sum() < HINTS:
        return {}
    rest = attacks.without_line(watch.gradients)
    scores = {
        "norm": attacks.norm(watch.gradients),
        "direction": attacks.direction(watch.gradients, known),
        "spectrum": attacks.spectrum(watch.gradients, known),
        "rest": attacks.norm(rest),
        "product": attacks.product(rest, watch.cuts),
    }
    return {name: _rest(score, label, known) for name, score in scores.items()}


def _rest(scores: Floats, label: Values, known: Known) -> float:
    """Return the AUC of the samples whose label is not known."""
    others = np.setdiff1d(np.arange(len(label)), known)
    return attacks.auc(scores[others], label[others])


def _completed(watches: list[Watch], label: Values) -> float:
    """Return the AUC of a classifier on a party's own cuts that learns from a few labels, the mean of some draws of these."""
    cuts, ours = np.concatenate([w.cuts for w in watches]), np.concatenate([label[w.samples] for w in watches])
    rng, found = np.random.default_rng(NOISE), []
    for _ in range(DRAWS):
        order = rng.permutation(len(ours))
        known = np.concatenate([order[ours[order] > 0.5][:LABELS], order[ours[order] <= 0.5][:LABELS]])
        found.append(_rest(attacks.completion(cuts, ours, known), ours, known))
    return float(np.mean(found))
