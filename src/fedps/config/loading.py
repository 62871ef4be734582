"""From a YAML file and overrides to a `Job`, or to a `JobError` with every mistake at once."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fedps.config.checks import mistakes_of
from fedps.config.job import Job
from fedps.errors import JobError

PATHS = ("train_data_dir", "test_data_dir")


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value`, the value in YAML's own writing; later ones win.

    Raises:
        JobError: all mistakes, each with key, value and remedy.
    """
    tree = _read(path)
    mistakes = [m for text in overrides if (m := _override(tree, text))]
    tree.setdefault("name", path.stem)
    folder = Path(str(tree.setdefault("folder", str(path.resolve().parent))))
    runner = tree.get("runner")
    paths = runner if isinstance(runner, dict) else {}
    for key in PATHS:
        if isinstance(paths.get(key), str):
            paths[key] = str((folder / Path(paths[key]).expanduser()).resolve())
    try:
        job = Job.model_validate(tree)
    except ValidationError as error:
        raise JobError(mistakes + [_sentence(e) for e in error.errors()] + mistakes_of(tree)) from None
    mistakes += mistakes_of(tree, job)
    if mistakes:
        raise JobError(mistakes)
    return _count_workers(job)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(
            f"job file {path}: there is no such file; name a YAML job, e.g. examples/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"job file {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise JobError(f"job file {path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise JobError(
            f"job file {path}: holds {type(tree).__name__}, not sections such as runner: and hyper_parameters:"
        )
    return tree


def _override(tree: dict[str, Any], text: str) -> str | None:
    key, sign, value = text.partition("=")
    if not sign or not key:
        return f"-o {text!r}: write key=value, e.g. -o runner.epochs=3"
    *sections, last = key.strip().split(".")
    at = tree
    for section in sections:
        below = at.setdefault(section, {})
        if not isinstance(below, dict):
            return f"-o {text!r}: {section} is a value, not a section"
        at = below
    try:
        at[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        return f"-o {text!r}: the value is not valid YAML: {error}"
    return None


def _sentence(error: Mapping[str, Any]) -> str:
    where = [str(part) for part in error["loc"]]
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        return f"{key}: {error['input']!r}: there is no such key{_nearest(where)}"
    if error["type"] == "missing":
        return f"{key}: is missing; {_field(where)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {error['input']!r}: {message[0].lower() + message[1:]}; {_field(where)}"


def _nearest(where: Sequence[str]) -> str:
    model = _model(where[:-1])
    known = [f.alias or n for n, f in model.model_fields.items()] if model else []
    near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _field(where: Sequence[str]) -> str:
    model = _model(where[:-1])
    for name, field in model.model_fields.items() if model else ():
        if where[-1] in (name, field.alias):
            return f"it means: {field.description}"
    return "see `fedps config show` for what each key means"


def _model(sections: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = Job
    for section in sections:
        field = model.model_fields.get(section)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _count_workers(job: Job) -> Job:
    if job.runner.worker_num is not None:
        return job
    count = len(list(job.runner.train_data_dir.glob("*.csv")))
    return job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": count})})
