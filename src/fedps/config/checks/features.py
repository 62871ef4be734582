"""Checks of features: their kinds, id spaces and sides."""

from fedps.config.job import Job
from fedps.config.sections.features import OPEN, Feature, beside_item, labels, of_item, of_user, sequences, undrawable
from fedps.figures import OF_REAL, Metric, read_metric

FITS = {  # key → the kinds that have it
    "rows": ("id", "ids"), "table": ("id", "ids"), "pooling": ("ids",), "max": ("ids",), "dim": ("number",), "missing": ("number",),
    "of": ("label",), "weight": ("label",), "separator": ("ids", "number"),
}  # fmt: skip


def kinds(job: Job) -> list[str]:
    """Say which keys do not belong to a feature's kind, and which it lacks."""
    mistakes = []
    for name, feature in job.features.items():
        key = f"features.{name}"
        if not name.isidentifier() or name == "self":
            mistakes.append(f"{key}: is no name that a network's forward could take; use letters, digits and _")
        unfit = [k for k, kinds in FITS.items() if k in feature.model_fields_set and feature.kind not in kinds]
        unfit = [k for k in unfit if getattr(feature, k) != Feature.model_fields[k].default]
        mistakes += [f"{key}.{k}: a feature of kind {feature.kind} has no such key; leave it out" for k in unfit]
        if feature.implied and (feature.kind != "label" or feature.of != "binary" or len(labels(job.features)) > 1):
            mistakes.append(
                f"{key}.column: '': only a binary label that is the only one may stand in no file; name its column"
            )
        if feature.has_ids and (feature.rows is None) == (feature.table is None):
            mistakes.append(
                f"{key}: give rows (how many ids there are, or open) or table (the feature whose ids they are), one of the two"
            )
        if feature.kind == "ids" and feature.pooling is None and feature.max is None:
            mistakes.append(
                f"{key}.max: is missing: a sequence needs its longest length; for a bag give pooling: sum or mean"
            )
    return mistakes


def tables(job: Job) -> list[str]:
    """Say which features cannot share the table they name."""
    mistakes = []
    for name, feature in job.features.items():
        if feature.table is None:
            continue
        key, other = f"features.{name}.table: {feature.table!r}: ", job.features.get(feature.table)
        if other is None or other.rows is None:
            own = [n for n, f in job.features.items() if f.has_ids and f.rows is not None]
            mistakes.append(f"{key}is no feature with rows of its own; there are {', '.join(own) or 'none'}")
        elif of_user(feature.table, other) != of_user(name, feature):
            private, public = (name, feature.table) if of_user(name, feature) else (feature.table, name)
            mistakes.append(
                f"{key}{private} is of the user's side, whose tables are private, and {public} is not; give both"
                " side: user, or neither (the table is shared then; the samples stay here all the same)"
            )
    return mistakes


def pooled(job: Job) -> list[str]:
    """Say which features share a table of a built-in network and pool otherwise; networks of one's own may have several."""
    mistakes, firsts = [], dict[str, str]()
    for name, feature in job.features.items():
        first = firsts.setdefault(feature.table or name, name) if feature.kind == "ids" else name
        if job.runner.model is None and feature.pooling != (due := job.features[first].pooling):
            mistakes.append(
                f"features.{name}.pooling: {feature.pooling or 'none'}: {first}, which looks up the same table, has"
                f" {due or 'none'}: give both the same, or each rows of its own"
            )
    return mistakes


def inputs(job: Job) -> list[str]:
    """Say what the built-in network misses, and what it cannot take."""
    mode, features = job.hyper_parameters.mode, job.inputs
    if job.runner.model is not None:
        return []
    pair = mode == "MF" or mode.startswith("NCF")
    due = ("user", "item") if pair else ("item",) if mode in ("TwoTower", "SASRec") else ()
    what = "a user and an item" if pair else "an item"
    mistakes = [
        f"features.{name}: is missing: hyper_parameters.mode {mode} takes {what}, of kind id"
        for name in due
        if name not in features or features[name].kind != "id"
    ]
    takes, found = list(due), sequences(features)
    if mode in ("DIN", "SASRec"):
        takes += [name for name in found if mode == "DIN" or features[name].table == "item"]
        mistakes += _sequences(mode, [name for name in takes if name not in due])
    if pair or mode == "SASRec":
        mistakes += [
            f"features.{name}: hyper_parameters.mode {mode} takes {', '.join(takes)} alone: leave the feature out, or choose a"
            " mode that takes any, e.g. DeepFM"
            for name, feature in features.items()
            if name not in takes and feature.kind != "label" and not feature.optional
        ]
    if mode in ("MF", "TwoTower", "SASRec") and len(several := labels(features)) > 1:
        mistakes.append(
            f"features: hyper_parameters.mode {mode} learns one label; there are {', '.join(several)}: leave out all but one, or"
            " choose DeepFM, DCNv2 or DIN"
        )
    if mode == "TwoTower" and not any(f.kind != "label" and not of_item(n, f) for n, f in features.items()):
        mistakes.append(
            "features: all are of the item's side: hyper_parameters.mode TwoTower needs some of the user, e.g. user"
        )
    return mistakes


def _sequences(mode: str, found: list[str]) -> list[str]:
    """Say that a network of sequences has none, or too many."""
    if not found:
        whose = "table: item" if mode == "SASRec" else "table: the feature that it is compared with, e.g. item"
        return [
            f"features: hyper_parameters.mode {mode} needs a sequence: of kind ids, without pooling, {whose};"
            " e.g. history: {kind: ids, table: item, max: 50}"
        ]
    if mode == "SASRec" and len(found) > 1:
        return [
            f"features: hyper_parameters.mode SASRec takes one sequence of items; leave out all of {', '.join(found)} but one"
        ]
    return []


def drawn(job: Job) -> list[str]:
    """Say that no negatives can be drawn."""
    each, why, every = job.runner.negatives, undrawable(job.inputs), labels(job.inputs)
    if len(every) != 1 or any(label.of == "real" for label in every.values()):
        why = "what is drawn has label 0, of one label that is 0 or 1"
    return (
        [f"runner.negatives: {each}: {why}; leave the key out, and bring negatives in the data"] if each and why else []
    )


def alone(job: Job) -> list[str]:
    """Say that there is no label, and nothing else either by which to tell what is liked from what is not."""
    implied, why = [name for name, label in labels(job.inputs).items() if label.implied], undrawable(job.inputs)
    if job.runner.negatives == 0:
        why = "runner.negatives is 0"
    if not implied or not why or job.runner.model is not None or job.hyper_parameters.loss == "in_batch_softmax":
        return []
    stated = "there is none of kind label" if not job.features.keys() & implied else f"{implied[0]} is always 1"
    return [
        f"features: {stated}, so all samples are positives, and no negatives are drawn: {why}; add label: {{kind: label}} and"
        " a column of 0 and 1, or see to it that negatives can be drawn, or use loss in_batch_softmax"
    ]


def learned(job: Job) -> list[str]:
    """Say what the loss cannot make of the labels."""
    loss, every = job.hyper_parameters.loss, labels(job.inputs)
    real = [name for name, label in every.items() if label.of == "real"]
    key = f"hyper_parameters.loss: {loss}: "
    if loss == "mse" and len(real) < len(every):
        binary = next(name for name in every if name not in real)
        return [
            f"{key}features.{binary} is binary: use bce, which takes the squared error of real labels, or set its of: real"
        ]
    if loss == "bce" and real and len(real) == len(every):
        return [f"{key}features.{real[0]} is real: use mse, or set its of: binary"]
    if loss == "bpr" and ("user" not in job.inputs or job.inputs["user"].kind != "id"):
        return [f"{key}ranks the items of one user, and there is no feature user of kind id: add it, or use bce"]
    if loss not in ("bce", "mse") and (real or len(every) > 1):
        return [f"{key}takes one binary label; there are {', '.join(every)}: use bce or mse, or leave the others out"]
    return []


def measured(job: Job) -> list[str]:
    """Say that there is nothing to learn, and what cannot be measured of the data's labels, users and items."""
    tasks = job.tasks
    if not tasks:
        return ["features: there is none of kind label, so there is nothing to learn; add label: {kind: label}"]
    if job.inputs.keys() == labels(job.inputs).keys():
        return [
            "features: all are labels, so there is nothing to tell them by; add what a sample has, e.g. user and item"
        ]
    there = f"there are {', '.join(tasks)}" if len(tasks) > 1 else "there is but one: leave it out before the /"
    strange = [name for name in job.runner.metrics if "/" in name and name.rpartition("/")[0] not in tasks]
    mistakes = [
        f"runner.metrics: {name!r}: {name.rpartition('/')[0]} is none of several labels; {there}" for name in strange
    ]
    for metric in map(read_metric, job.metrics):
        if why := _unmeasurable(metric, job):
            mistakes.append(f"runner.metrics: {metric.name!r}: {why}")
    return mistakes


def _unmeasurable(metric: Metric, job: Job) -> str:
    """Say why a metric cannot be measured, whatever the held-out samples are; nothing if it can."""
    if job.tasks[metric.task] and metric.kind not in (*OF_REAL, "calibration"):
        return f"is of labels that are 0 or 1, and this one is real; use {', '.join(OF_REAL)} or calibration"
    due = ("user", "item") if metric.k else ("user",) if metric.kind == "gauc" else ()
    inputs = job.inputs
    if missing := [name for name in due if name not in inputs or inputs[name].kind != "id"]:
        return f"needs a feature {' and '.join(map(repr, missing))} of kind id; leave it out"
    if not metric.full:
        return ""
    if inputs[inputs["item"].table or "item"].rows == OPEN:
        return f"ranks all items, and item is {OPEN}: nobody knows them all; leave it out"
    if others := beside_item(inputs):
        return (
            f"ranks all items, each in place of a sample's own, and {', '.join(others)} may tell of that one: leave the metric"
            " out, or these features, or give side: user to what does not"
        )
    return ""
