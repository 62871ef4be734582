"""Checks of features: their kinds, id spaces and sides."""

from fedps.config.job import Job
from fedps.config.sections.features import OPEN, Feature, of_user
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
        if not name.isidentifier():
            mistakes.append(f"{key}: is no name that a network's forward could take; use letters, digits and _")
        unfit = [k for k, kinds in FITS.items() if k in feature.model_fields_set and feature.kind not in kinds]
        unfit = [k for k in unfit if getattr(feature, k) != Feature.model_fields[k].default]
        mistakes += [f"{key}.{k}: a feature of kind {feature.kind} has no such key; leave it out" for k in unfit]
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


def inputs(job: Job) -> list[str]:
    """Say what the built-in pair networks miss."""
    if not job.features or job.runner.model is not None or not job.hyper_parameters.mode.startswith("NCF"):
        return []
    missing = [n for n in ("user", "item") if n not in job.features or job.features[n].kind != "id"]
    return [
        f"features.{name}: is missing: hyper_parameters.mode {job.hyper_parameters.mode} takes a user and an item, of kind id"
        for name in missing
    ]


def measured(job: Job) -> list[str]:
    """Say that there is nothing to learn, and what cannot be measured of the data's labels, users and items."""
    tasks = job.tasks
    if not tasks:
        return ["features: there is none of kind label, so there is nothing to learn; add label: {kind: label}"]
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
    rows = inputs[inputs["item"].table or "item"].rows if metric.full else None
    return f"ranks all items, and item is {OPEN}: nobody knows them all; leave it out" if rows == OPEN else ""
