"""A job as it will run, for people: every key with its value, where that came from and what it means."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedps.config.job import choices, section
from fedps.config.loading import read_tree, resolve
from fedps.config.original import RENAMED
from fedps.config.source import inline

COMMENTS_AT = 44  # the column at which comments stand, unless a value is longer
Line = tuple[str, str]  # what is said, and the comment


def describe(path: Path, overrides: Sequence[str] = ()) -> str:
    """Return the resolved job as commented YAML; it is a job file for the same job.

    Args:
        path: the job file.
        overrides: `dotted.key=value`, as for `load_job`.

    Raises:
        JobError: all mistakes of the job; a wrong one is not described.
    """
    tree, remarks = read_tree(path, overrides)
    job = resolve(path, tree, remarks)
    keys = [text.partition("=")[0].replace(" ", "") for text in overrides]
    keys = [RENAMED.get(key, key) for key in keys]
    return lines_of(job, tree, keys)


def lines_of(job: BaseModel, tree: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return a job as commented YAML.

    Args:
        job: resolved.
        tree: what its file says.
        keys: those that were set over it, dotted.
    """
    lines = _lines(job, job.model_dump(mode="json", by_alias=True), tree, keys, "", "")
    return "".join(f"{said:<{COMMENTS_AT}}  # {comment}\n" if comment else f"{said}\n" for said, comment in lines)


def _lines(
    part: BaseModel,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    overrides: Sequence[str],
    above: str,
    indent: str,
) -> Iterator[Line]:
    for name, field in type(part).model_fields.items():
        key, value = field.alias or name, getattr(part, name)
        if key not in values:
            continue
        if isinstance(value, BaseModel):
            yield f"{indent}{key}:", str(field.description)
            yield from _lines(value, values[key], given.get(key, {}), overrides, f"{above}{key}.", f"{indent}  ")
            continue
        derived = value != field.get_default(call_default_factory=True)
        origin = _origin(above + key, key in given, derived, overrides, above + name)
        if isinstance(value, dict) and value and all(isinstance(entry, BaseModel) for entry in value.values()):
            yield f"{indent}{key}:", f"{origin}; {_meaning(field)}"
            yield from _entries(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {inline(values[key])}", f"{origin}; {_meaning(field)}"
    for key in part.model_extra or {}:
        origin = _origin(above + key, True, False, overrides)
        yield f"{indent}{inline(key)}: {inline(values[key])}", f"{origin}; given to runner.model"


def _entries(entries: Mapping[str, BaseModel], indent: str) -> Iterator[Line]:
    """Yield what is said of each of some features or tables, a line each; then all that could be, with what is else."""
    for name, entry in entries.items():
        yield f"{indent}{inline(name)}: {inline(entry.model_dump(mode='json', by_alias=True, exclude_unset=True))}", ""
    yield f"{indent}# what may stand there, and what holds where it does not:", ""
    yield from _keys(type(next(iter(entries.values()))), f"{indent}#   ")


def _keys(model: type[BaseModel], indent: str) -> Iterator[Line]:
    """Yield the keys of a section with their defaults; `indent` makes comments of them."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        if below := section(field):
            yield f"{indent}{key}:", str(field.description)
            yield from _keys(below, f"{indent}  ")
        else:
            value = "…" if field.is_required() else inline(field.get_default())
            yield f"{indent}{key}: {value}", _meaning(field)


def _origin(key: str, given: bool, derived: bool, overrides: Sequence[str], name: str = "") -> str:
    """Say where a value came from; an override of a section, or of a part of the value, counts."""
    if not given:
        return "derived" if derived else "default"
    over = any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") or o == name for o in overrides)
    return "override" if over else "job file"


def _meaning(field: FieldInfo) -> str:
    words = choices(field)
    return f"{field.description} ({', '.join(words)})" if words else str(field.description)
