"""A job as it will run, for people: every key with its value, where that came from and what it means."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedps.config.job import choices
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
    lines = _lines(job, job.model_dump(mode="json", by_alias=True), tree, keys, "", "")
    return "".join(f"{said:<{COMMENTS_AT}}  # {comment}\n" for said, comment in lines)


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
        else:
            origin = _origin(above + key, key in given, overrides, above + name)
            yield f"{indent}{key}: {inline(values[key])}", f"{origin}; {_meaning(field)}"
    for key in part.model_extra or {}:
        origin = _origin(above + key, True, overrides)
        yield f"{indent}{inline(key)}: {inline(values[key])}", f"{origin}; given to runner.model"


def _origin(key: str, given: bool, overrides: Sequence[str], name: str = "") -> str:
    """Say where a value came from; an override of a section, or of a part of the value, counts."""
    if not given:
        return "default"
    over = any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") or o == name for o in overrides)
    return "override" if over else "job file"


def _meaning(field: FieldInfo) -> str:
    words = choices(field)
    return f"{field.description} ({', '.join(words)})" if words else str(field.description)
