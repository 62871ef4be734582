"""From a YAML file and overrides to a `Job`, or to a `JobError` with every mistake at once."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedps.config.checks import mistakes_of
from fedps.config.checks.rounds import SELECTORS
from fedps.config.files import clients_there, features_of_data, sizes_of_data
from fedps.config.job import Job, section
from fedps.config.mistakes import sentence, shown
from fedps.config.original import TABLE_KEYS, Remarks, drop_sections, rename, translate
from fedps.config.sections.features import labels, undrawable
from fedps.config.sections.runner import Runner
from fedps.config.sections.training import TableParameters
from fedps.config.source import parse, read
from fedps.errors import JobError
from fedps.figures import OF_BINARY, OF_REAL

PATHS = [name for name, field in Runner.model_fields.items() if field.annotation in (Path, Path | None)]  # of runner
ALL_PATHS = frozenset(
    {*(f"runner.{name}" for name in PATHS), "security.certs", "simulation.traces", "distillation.public_data"}
)


def load_job(path: Path | str, overrides: Sequence[str] = (), elsewhere: Collection[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value`, the value in YAML's own writing; later ones win.
        elsewhere: keys of folders that other machines hold, e.g. `runner.train_data_dir`: they are not looked into.

    Raises:
        JobError: all mistakes, each with key, value and remedy.
    """
    path = Path(path)
    return resolve(path, *read_tree(path, overrides), elsewhere)


def read_tree(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], Remarks]:
    """Return what a job file and overrides say, in our words and unjudged, and what there is to say of that.

    Raises:
        JobError: the file cannot be read, or is not valid YAML.
    """
    tree, remarks = read(path), Remarks([], [])
    if "vertical" in tree:
        raise JobError(
            f"job file {path}: is of vertical training: `fedps vertical run {path}` trains it, and `fedps vertical predict"
            f" {path}` scores samples"
        )
    rename(tree, remarks)
    drop_sections(tree, remarks)
    for text in overrides:
        if mistake := override(tree, text):
            remarks.mistakes.append(mistake)
        rename(tree, remarks, both=False)
    tidy(tree, Job)
    translate(tree, remarks)
    return tree, remarks


def resolve(path: Path, tree: dict[str, Any], remarks: Remarks, elsewhere: Collection[str] = ()) -> Job:
    """Fill in what a tree leaves out, make its paths absolute and judge it.

    Args:
        path: the job file; relative paths count from its folder.
        tree: what it says; not changed.
        remarks: what reading it had to say; its mistakes join the others.
        elsewhere: keys of folders that are not looked into.

    Raises:
        JobError: all mistakes.
    """
    tree = placed(path, tree, {"runner": PATHS, "security": ["certs"]})
    found, wrong = list(remarks.mistakes), set()
    try:
        job = Job.model_validate(tree)
    except ValidationError as error:
        errors = [e for e in error.errors() if not follows(e)]
        found += [sentence(e) for e in errors]
        places = [place_of(e["loc"]) for e in errors]
        wrong = {".".join(names) for names in places}
        job = Job.model_validate(_complete(without(tree, places)))
    if "runner.train_data_dir" not in wrong:
        job = _take_loss(_take_sizes(_take_features(job), looks="runner.train_data_dir" not in elsewhere))
    found += mistakes_of(job, {*wrong, *elsewhere})
    found += beside(path, job.name, job.folder, _code(job.runner))
    if found:
        raise JobError(found)
    return _count_workers(job).noting(remarks.notes)


def beside(path: Path, name: str, folder: Path, code: Sequence[str]) -> list[str]:
    """Return what is wrong with a job's name, and with code that would not come from the job file's own folder."""
    found, home = [], path.resolve().parent
    if {"/", "\\"} & set(name) or name in (".", ".."):
        found.append(f"name: {shown(name)}: is part of the name of folders; write it without slashes")
    if code and folder != home:
        found.append(
            f"folder: {str(folder)!r}: {code[0]!r} is code, which is taken from the job file's own folder alone; leave"
            f" the key out, or put job file and code into one folder"
        )
    return found


def _code(runner: Runner) -> list[str]:
    """Return what a job names of code."""
    named = [runner.model, runner.fl_client, runner.pipe_command, runner.train_reader_path, runner.infer_reader_path]
    return [text for text in (*named, runner.client_selector) if text and text not in SELECTORS]


def override(tree: dict[str, Any], text: str) -> str | None:
    """Set one override in the tree, or say why that cannot be."""
    key, sign, value = text.partition("=")
    *above, last = parts_of(key)
    if not sign or not all([*above, last]):
        return f"-o {shown(text)}: write key=value, e.g. -o runner.epochs=3"
    at = tree
    for depth, name in enumerate(above):
        if at.get(name) is None:  # left out, or an empty section
            at[name] = {}
        if not isinstance(at[name], dict):
            return f"-o {shown(text)}: {'.'.join(above[: depth + 1])} is {shown(at[name])}, not a section"
        at = at[name]
    try:
        at[last] = parse(value)
    except JobError as error:
        return f"-o {shown(text)}: {error}"
    return None


def parts_of(key: str) -> list[str]:
    """Split a dotted key; the name of a table, such as mlp_item.weight, keeps its dots."""
    top, *parts = (part.strip() for part in key.split("."))
    if top != "table_parameters" or not parts:
        return [top, *parts]
    end = next((k for k, part in enumerate(parts) if k and part in TABLE_KEYS), len(parts))
    return [top, ".".join(parts[:end]), *parts[end:]]


def tidy(tree: dict[str, Any], model: type[BaseModel]) -> None:
    """Open sections whose keys are all commented out, which YAML reads as null, and name keys by their alias."""
    for name, field in model.model_fields.items():
        key, below = field.alias or name, section(field)
        if name in tree and key not in tree:
            tree[key] = tree.pop(name)
        if below and key in tree and tree[key] is None:
            tree[key] = {}
        if below and isinstance(tree.get(key), dict):
            tidy(tree[key], below)
    tables = tree.get("table_parameters") if model is Job else None
    for table in tables.values() if isinstance(tables, dict) else ():
        if isinstance(table, dict):
            tidy(table, TableParameters)


def placed(path: Path, tree: dict[str, Any], paths: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the tree with the file's name and folder, {workspace} filled in, and `paths` of sections counted from that folder."""
    home = path.resolve().parent
    tree = {"name": path.stem, "folder": str(home), **tree}
    if isinstance(tree["folder"], str):
        tree["folder"] = absolute(home, tree["folder"])
        home = Path(tree["folder"])
    tree = filled(tree, str(home))
    for name, keys in paths.items():
        part = tree.get(name)
        if isinstance(part, dict):
            tree[name] = part | {key: absolute(home, part[key]) for key in keys if isinstance(part.get(key), str)}
    return tree


def filled(value: Any, home: str) -> Any:
    """Return a value with the job's folder where its texts say {workspace}."""
    if isinstance(value, dict):
        return {key: filled(part, home) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, home) for part in value]
    return value.replace("{workspace}", home) if isinstance(value, str) else value


def absolute(home: Path, text: str) -> str:
    """Return a path as a file that lies in `home` means it."""
    try:
        return str((home / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError):  # too long, ~ of nobody, or a NUL: the check of folders tells it
        return str(home / text)


def follows(error: ErrorDetails) -> bool:
    """Say whether a list is called too short only because a wrong entry was left out of it."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def place_of(loc: Sequence[int | str]) -> tuple[str, ...]:
    """Return the keys down to a place in the tree; a wrong entry spoils its whole list, a wrong feature all of them."""
    names: list[str] = []
    for part in loc:
        if isinstance(part, int) or names[-1:] == ["features"]:
            break
        names.append(part)
    return tuple(names)


def without(tree: dict[str, Any], places: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """Return the tree with its mistakes taken out, so that the checks across keys can judge the rest."""
    tree = copy.deepcopy(tree)
    for *above, last in places:
        at = tree
        for name in above:
            at = at.get(name, {})
        at.pop(last, None)
    return tree


def _complete(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree with something in place of all that is due, and is missing."""
    tree = {"name": "", "folder": ".", **tree}
    tree["runner"] = {"train_data_dir": ".", **tree.get("runner", {})}
    return tree


def _take_features(job: Job) -> Job:
    """Take the features that the data's manifest states, if the job states none; and measure what all samples have."""
    features = job.features or features_of_data(job)
    if not features:
        return job
    job = job.model_copy(update={"features": features})
    if "metrics" in job.runner.model_fields_set:
        return job
    if any(feature.implied for feature in labels(job.inputs).values()):  # positives alone, which only rankings measure
        usual = [] if undrawable(job.inputs) else ["full_hr@10", "full_ndcg@10"]
        return job.model_copy(update={"runner": job.runner.model_copy(update={"metrics": tuple(usual)})})
    above = {task: f"{task}/" if task else "" for task in job.tasks}  # held-out samples need be no groups of candidates
    usual = [above[task] + name for task, real in job.tasks.items() for name in (OF_REAL if real else OF_BINARY)]
    return job.model_copy(update={"runner": job.runner.model_copy(update={"metrics": tuple(usual)})})


def _take_sizes(job: Job, looks: bool) -> Job:
    """Take from the features, or the data's manifest if it `looks` there, what the job leaves out of `num_users` and `num_items`."""
    hyper = job.hyper_parameters
    rows = {
        f"num_{name}s": f.rows
        for name, f in job.features.items()
        if name in ("user", "item") and isinstance(f.rows, int)
    }
    stated = sizes_of_data(job) if looks else {}
    sizes = {k: size for k, size in (stated | rows).items() if k not in hyper.model_fields_set}
    return job.model_copy(update={"hyper_parameters": hyper.model_copy(update=sizes)}) if sizes else job


def _take_loss(job: Job) -> Job:
    """Learn real labels by their squared error, unless the job says how."""
    hyper, real = job.hyper_parameters, list(job.tasks.values())
    if not real or not all(real) or "loss" in hyper.model_fields_set:
        return job
    return job.model_copy(update={"hyper_parameters": hyper.model_copy(update={"loss": "mse"})})


def _count_workers(job: Job) -> Job:
    if job.runner.worker_num is not None:
        return job
    count = len(clients_there(job))
    return job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": count})})
