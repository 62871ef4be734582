"""What no single key shows: paths that are not there, counts and names that do not fit together, keys without effect."""

from collections.abc import Callable, Collection
from itertools import combinations
from operator import attrgetter
from pathlib import Path

from pydantic import BaseModel

from fedps.config.job import Job
from fedps.config.mistakes import nearest, shown

ADAMS = ("adam", "lazy_adam", "shared_adam")
MATTERS = (  # in this section this key matters only where that key has one of these values
    ("runner", "geo_step", "sync_mode", ("geo",)),
    ("runner", "geo_merge", "sync_mode", ("geo",)),
    ("runner", "geo_overlap", "sync_mode", ("geo",)),
    ("runner", "row_average", "sync_mode", ("round",)),
    ("hyper_parameters", "mf_dim", "mode", ("NCF_GMF", "NCF_NeuMF")),
    ("hyper_parameters", "fc_layers", "mode", ("NCF_MLP", "NCF_NeuMF")),
    ("hyper_parameters.optimizer", "beta1", "name", ADAMS),
    ("hyper_parameters.optimizer", "beta2", "name", ADAMS),
    ("hyper_parameters.optimizer", "epsilon", "name", (*ADAMS, "adagrad", "row_adagrad")),
)


def mistakes_of(job: Job, wrong: Collection[str] = ()) -> list[str]:
    """Return one sentence per mistake across keys.

    Args:
        job: the job; where the file's own value was wrong, something else stands in its place.
        wrong: the keys where that is so; what hangs on one of them is not judged.
    """

    def judged(key: str) -> bool:
        return not any(key == w or key.startswith(f"{w}.") for w in wrong)

    return [m for keys, check in CHECKS if all(map(judged, keys)) for m in check(job)]


def notes_of(job: Job) -> list[str]:
    """Return one sentence for each key that was given a value and has no effect in this job."""
    own_model = job.runner.model is not None  # it may take any hyperparameter
    return [
        note
        for where, key, decider, values in MATTERS
        if not (own_model and where == "hyper_parameters") and (note := _note(job, where, key, decider, values))
    ]


def clients_in(folder: Path) -> list[str]:
    """Return the names of the clients whose data files lie in a folder; hidden files are nobody's.

    Raises:
        OSError: the folder cannot be looked into.
    """
    names = [f.stem for f in folder.glob("*.csv") if not f.name.startswith(".")]
    return sorted(names, key=lambda name: (len(name), name))


def _note(job: Job, where: str, key: str, decider: str, values: tuple[str, ...]) -> str | None:
    section: BaseModel = attrgetter(where)(job)
    value, decided = getattr(section, key), getattr(section, decider)
    known = type(section).model_fields
    if value == known[key].default or decided in values:
        return None
    told = list(value) if isinstance(value, tuple) else value
    only = " or ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
    return f"{where}.{key}: {told}: has no effect with {known[decider].alias or decider} {decided}, only with {only}"


def _train_folder(job: Job) -> list[str]:
    return _folder("runner.train_data_dir", job.runner.train_data_dir, "train")


def _test_folder(job: Job) -> list[str]:
    folder = job.runner.test_data_dir
    return _folder("runner.test_data_dir", folder, "test") if folder is not None else []


def _folder(key: str, folder: Path, usual: str) -> list[str]:
    told = f"{key}: {str(folder)!r}: "
    try:
        if not folder.is_dir():
            return [told + "there is no such folder; prepare data with `fedps data prepare movielens --out DIR`"]
        if not clients_in(folder):
            return [told + f"holds no <client>.csv; name the folder that does, e.g. DIR/{usual}"]
        next(folder.iterdir())  # glob is silent about a folder it may not read
    except OSError as error:
        return [told + f"cannot be read: {error.strerror}; name a folder that can"]
    return []


def _counts(job: Job) -> list[str]:
    runner = job.runner
    try:
        clients = clients_in(runner.train_data_dir)
    except OSError:
        return []  # told by the check of the folder
    if runner.worker_num is None or not clients or runner.worker_num == len(clients):
        return []
    count = f"{len(clients)} clients" if len(clients) > 1 else "1 client"
    named = f"{clients[0]} … {clients[-1]}" if len(clients) > 1 else clients[0]
    return [
        f"runner.worker_num: {runner.worker_num}: {runner.train_data_dir} holds {count} ({named}); use {len(clients)},"
        f" leave the key out, or prepare the data for {runner.worker_num} clients"
    ]


def _lists(job: Job) -> list[str]:
    return [
        f"runner.{one}: {name!r}: is in {other} too; keep it in one of them"
        for one, other in combinations(("local_sparse", "remote_sparse", "local_dense"), 2)
        for name in sorted(set(getattr(job.runner, one)) & set(getattr(job.runner, other)))
    ]


def _class_path(job: Job) -> list[str]:
    path = job.runner.model
    if path is None or ("." in path and all(part.isidentifier() for part in path.split("."))):
        return []
    return [f"runner.model: {path!r}: write module.Class, e.g. net.MyNet for class MyNet of net.py"]


def _layers(job: Job) -> list[str]:
    hyper = job.hyper_parameters
    if job.runner.model is not None or hyper.mode == "NCF_GMF" or hyper.fc_layers[0] % 2 == 0:
        return []
    return [
        f"hyper_parameters.fc_layers: {shown(list(hyper.fc_layers))}: the first size is user row + item row, equally"
        f" long: make it even, e.g. {hyper.fc_layers[0] + 1}"
    ]


def _momentum(job: Job) -> list[str]:
    optimizer = job.hyper_parameters.optimizer
    limit = optimizer.beta2**0.5
    if optimizer.name != "adam" or optimizer.beta1 < limit:
        return []
    return [
        f"hyper_parameters.optimizer.beta1: {optimizer.beta1}: must be below {limit:.4g}, the root of beta2"
        f" {optimizer.beta2}, where adam's momentum dies away; lower beta1, raise beta2, or use class lazy_adam"
    ]


def _unknown(job: Job) -> list[str]:
    if job.runner.model is not None:
        return []
    extra = job.hyper_parameters.model_extra or {}
    return [
        f"hyper_parameters.{key}: {shown(extra[key])}: the built-in networks have no such key;"
        f" {nearest(f'hyper_parameters.{key}')}"
        for key in sorted(extra)
    ]


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Job], list[str]]], ...] = (
    (("runner.train_data_dir",), _train_folder),
    (("runner.test_data_dir",), _test_folder),
    (("runner.worker_num", "runner.train_data_dir"), _counts),
    (("runner.model",), _class_path),
    (("runner.local_sparse", "runner.remote_sparse", "runner.local_dense"), _lists),
    (("hyper_parameters.fc_layers", "hyper_parameters.mode", "runner.model"), _layers),
    (tuple(f"hyper_parameters.optimizer.{key}" for key in ("class", "beta1", "beta2")), _momentum),
    (("hyper_parameters", "runner.model"), _unknown),
)
