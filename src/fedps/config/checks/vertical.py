"""Checks of a vertical job: who has the label, whose features go into which network, and that files are there."""

import re
from collections.abc import Collection, Iterable

from fedps.config.checks import features, training
from fedps.config.classes import is_class_path
from fedps.config.job import Job, VerticalJob
from fedps.config.mistakes import VERTICAL, close, nearest, shown
from fedps.config.sections.features import labels
from fedps.config.sections.vertical import LINE, Party

NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
)  # of a party: of folders, files and certificates, and a part of keys
ELSEWHERE = {  # keys of hyper_parameters that say nothing here, and those that do
    "mode": "vertical.network", "loss": "vertical.loss", "num_users": "parties.NAME.features.NAME.rows",
    "num_items": "parties.NAME.features.NAME.rows", "mf_dim": "hyper_parameters.embedding_dim",
    "fc_layers": "hyper_parameters.hidden_units",
}  # fmt: skip
OF_SIDES = (
    features.kinds,
    features.tables,
    features.pooled,
    training.rows,
)  # that hold for a party's part as for a job


def mistakes_of(
    job: VerticalJob, wrong: Collection[str] = (), party: str | None = None, whole: bool = False
) -> list[str]:
    """Return one sentence per mistake across keys.

    Args:
        job: the job; where the file's own value was wrong, something else stands in its place.
        wrong: the keys where that is so; what hangs on one of them is not judged.
        party: whose part must be there.
        whole: those of all must be.
    """

    def judged(key: str) -> bool:
        return not any(key == w or key.startswith(f"{w}.") for w in wrong)

    named = judged("vertical.active") and judged("vertical.passive")
    found = [*_names(job), *_there(job, party, whole), *_strangers(job)] if named else []
    for check, key in (
        (_address, "vertical.address"),
        (_network, "vertical.network"),
        (_measured, "vertical.patience"),
    ):
        found += check(job) if judged(key) and named else []
    found += _hyper(job) if judged("hyper_parameters") else []
    for name, own in job.parties.items():
        key = f"parties.{name}"
        if judged(key) and judged(f"{key}.features"):
            found += _features(job, name)
            found += _label(job, name) if named else []
        mine = party == name or party is None
        found += _files(key, own) if mine and judged(f"{key}.data") and judged(f"{key}.test_data") else []
    return found + (_alike(job) if not wrong else [])


def _names(job: VerticalJob) -> list[str]:
    """Say which parties' names cannot be, or are given to two."""
    order, found = job.order, []
    for key, names in (("vertical.active", order[:1]), ("vertical.passive", order[1:])):
        found += [
            f"{key}: {name!r}: is part of the names of folders: use at most 63 letters, digits, - and _"
            for name in names
            if not NAME.fullmatch(name)
        ]
    if order[0] in order[1:]:
        found.append(
            f"vertical.passive: {order[0]!r}: is the active party already; name those that have features alone"
        )
    twice = [name for name in dict.fromkeys(order[1:]) if order[1:].count(name) > 1]
    return found + [f"vertical.passive: {name!r}: is named twice; each party takes part once" for name in twice]


def _there(job: VerticalJob, party: str | None, whole: bool) -> list[str]:
    """Say whose part is missing."""
    there = f"the parties of this job are {', '.join(job.order)}"
    if party is not None and party not in job.order:
        return [f"party {party!r}: {there} (vertical.active and vertical.passive); {_meant(party, job.order)}"]
    due = job.order if whole else [party] if party is not None else [] if job.parties else job.order
    return [
        f"parties.{name}: is missing: add its data and features"
        + f", or start the party where they are: `fedps vertical party {name} JOB.yaml`" * whole
        for name in due
        if name not in job.parties
    ]


def _strangers(job: VerticalJob) -> list[str]:
    return [
        f"parties.{name}: is no party of vertical.active and vertical.passive: {_meant(name, job.order)}"
        for name in job.parties
        if name not in job.order
    ]


def _meant(name: str, order: Iterable[str]) -> str:
    near = close(name, list(order))
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(order)}"


def _address(job: VerticalJob) -> list[str]:
    host, _, port = job.vertical.address.rpartition(":")
    if host and port.isascii() and port.isdecimal() and int(port) < 65536:
        return []
    return [
        f"vertical.address: {job.vertical.address!r}: is no host:port, e.g. 10.0.0.1:7070; the active party listens there"
    ]


def _network(job: VerticalJob) -> list[str]:
    """Say what a network lacks, and what it has no use for."""
    network, passive, found = job.vertical.network, job.vertical.passive, []
    if network == "TwoTower" and len(passive) > 1:
        found.append(
            f"vertical.network: 'TwoTower': has two towers, and there are {len(passive) + 1} parties: leave one out, or use DeepFM"
        )
    for name, own in job.parties.items():
        for key, path in (("bottom", own.bottom), ("top", own.top)):
            at = f"parties.{name}.{key}"
            if path is not None and network != "own":
                found.append(
                    f"{at}: {path!r}: vertical.network is {network}, which is built in; set that to own, or leave this out"
                )
            elif path is not None and not is_class_path(path):
                found.append(f"{at}: {path!r}: write module.Class, e.g. net.Bottom for class Bottom of net.py")
        if network != "own":
            continue
        if own.bottom is None and _inputs(own):
            found.append(f"parties.{name}.bottom: is missing: vertical.network is own; name its class, e.g. net.Bottom")
        if name == job.vertical.active and own.top is None:
            found.append(f"parties.{name}.top: is missing: vertical.network is own; name its class, e.g. net.Top")
        elif name != job.vertical.active and own.top is not None:
            found.append(
                f"parties.{name}.top: {own.top!r}: the top is the active party's, {job.vertical.active}; leave it out"
            )
    return found


def _measured(job: VerticalJob) -> list[str]:
    """Say that nothing tells when to end, and what cannot be protected."""
    vertical, found = job.vertical, []
    if vertical.patience and not vertical.holdout and not any(own.test_data for own in job.parties.values()):
        found.append(
            f"vertical.patience: {vertical.patience}: nothing is held out to measure by: give vertical.holdout a share, e.g."
            " 0.2, or parties their test_data"
        )
    if job.protection.labels not in ("none", "frozen") and vertical.loss == "mse":
        found.append(
            f"protection.labels: {job.protection.labels}: hides which of two classes a sample is of, and vertical.loss mse learns"
            " a real label: take frozen, leave it out, or learn a binary one by bce"
        )
    if job.protection.labels == "frozen" and (decay := job.hyper_parameters.optimizer.weight_decay):
        found.append(
            f"protection.labels: frozen: passive parties stay as they were drawn, and hyper_parameters.optimizer.weight_decay"
            f" {decay:g} would shrink them: leave one of both out"
        )
    return found


def _hyper(job: VerticalJob) -> list[str]:
    """Say which keys of the network no network here has."""
    hyper, usual = job.hyper_parameters, type(job.hyper_parameters).model_fields
    found = [
        f"hyper_parameters.{key}: {shown(value)}: says nothing of a vertical job; {elsewhere} does"
        for key, elsewhere in ELSEWHERE.items()
        if (value := getattr(hyper, key)) != usual[key].default
    ]
    if job.vertical.network != "own":
        for key, value in (hyper.model_extra or {}).items():
            at = f"hyper_parameters.{key}"
            found.append(f"{at}: {shown(value)}: the built-in networks have no such key; {nearest(at, VERTICAL)}")
    return found + [f for name in list(job.parties)[:1] for f in training.momentum(_side(job, name))]


def _features(job: VerticalJob, name: str) -> list[str]:
    """Say what is wrong with a party's features, by themselves."""
    side = _side(job, name)
    found = [f"parties.{name}.{mistake}" for check in OF_SIDES for mistake in check(side)]
    if _inputs(job.parties[name]):
        return found
    if name in job.vertical.passive:
        found.append(f"parties.{name}.features: is missing: a passive party has features, e.g. age: {{kind: number}}")
    elif job.vertical.network == "TwoTower":
        found.append(
            f"parties.{name}.features: has no input, and network TwoTower needs a tower of each party: add features"
        )
    return found


def _label(job: VerticalJob, name: str) -> list[str]:
    """Say that the label is missing, at the wrong side, one of several, or of another kind than the loss."""
    own, active, loss = labels(job.parties[name].features), job.vertical.active, job.vertical.loss
    key = f"parties.{name}.features"
    if name in job.vertical.passive:
        return [
            f"{key}.{label}: is of kind label, and {name} is a passive party: labels are the active party's, {active}; leave it"
            f" out, or let {name} be vertical.active"
            for label in own
        ]
    if name != active:
        return []
    if not own:
        return [f"{key}: has no label, and {name} is the active party: add label: {{kind: label}}"]
    if len(own) > 1:
        return [f"{key}: has labels {', '.join(own)}: one is learned; leave out the others"]
    label, feature = next(iter(own.items()))
    if feature.implied:
        return [
            f"{key}.{label}.column: '': the label stands in no file, so all samples would be alike; name its column"
        ]
    due = "bce" if feature.of == "binary" else "mse"
    if loss == due:
        return []
    kind, other = ("binary", "real") if due == "bce" else ("real", "binary")
    return [f"vertical.loss: {loss}: {key}.{label} is {kind}: use {due}, or set the label's of: {other}"]


def _files(key: str, own: Party) -> list[str]:
    """Say which files are not there."""
    found = []
    for name, files in (("data", own.data), ("test_data", own.test_data or ())):
        for file in files:
            subject = f"{key}.{name}: {str(file)!r}: "
            if file.is_dir():
                found.append(
                    f"{subject}is a folder, in a list or without files; name a file of samples, or several: [a.csv, b.csv]"
                )
            elif not file.exists():
                found.append(
                    f"{subject}there is no such file; name one of CSV, Parquet or another form of columns by name"
                )
    if own.pipe_command is not None and own.id != (LINE,):
        found.append(
            f"{key}.id: {', '.join(own.id)}: a command prints features alone, no column of ids; with pipe_command samples are"
            f' known by their lines: id: "{LINE}"'
        )
    return found


def _alike(job: VerticalJob) -> list[str]:
    """Say in what the parties of one file differ where they must not."""
    found, parties = [], job.parties
    for key, what, facts in (
        ("id", "columns", {name: len(own.id) for name, own in parties.items()}),
        ("test_data", "files", {name: len(own.test_data or ()) > 0 for name, own in parties.items()}),
    ):  # fmt: skip
        if len(set(facts.values())) > 1:
            most, least = max(facts, key=lambda n: facts[n]), min(facts, key=lambda n: facts[n])
            found.append(
                f"parties.{least}.{key}: {most} has more {what}: samples are matched by as many columns at each party"
                if key == "id"
                else f"parties.{least}.test_data: is missing: {most} has {what} of held-out samples; give each party its own, or none"
            )
    return found


def _inputs(own: Party) -> bool:
    """Whether a party has features besides a label."""
    return any(feature.kind != "label" for feature in own.features.values())


def _side(job: VerticalJob, name: str) -> Job:
    """Return a party's part as a job, all of whose tables are its own."""
    own = {key: feature.model_copy(update={"side": "user"}) for key, feature in job.parties[name].features.items()}
    hyper = job.hyper_parameters.model_copy(update={"mode": "DeepFM"})
    runner = {"train_data_dir": ".", "seed": job.vertical.seed}
    return Job.model_validate(
        {"name": job.name, "folder": job.folder, "features": own, "hyper_parameters": hyper, "runner": runner}
    )
