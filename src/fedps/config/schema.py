"""The JSON schema of a job file, for editors: they complete keys, show what each means, and underline what is misspelt.

It says what a file may hold, which is more than `Job`: the original's keys, and sections whose keys are all commented out.
What only several keys together tell is not in it; `fedps config check` tells all.
"""

from typing import Any

from fedps.config.job import Job, VerticalJob
from fedps.config.original import MEANINGLESS, RENAMED, SLOTS, TABLE_KEYS

DRAFT = "http://json-schema.org/draft-07/schema#"  # the one that editors know best
BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}  # as pydantic writes some
SEVERAL = ("passive", "lift", "data", "test_data", "id")  # of a vertical job: lists that one value may stand for
LIST = ("type", "items", "minItems", "maxItems")
Schema = dict[str, Any]


def schema() -> Schema:
    """Return the schema of a job file."""
    found: Schema = _plain(Job.model_json_schema())
    found |= {"$schema": DRAFT, "title": "A job of fedps", "required": ["runner"]}
    parts = found["properties"]
    for old, new in RENAMED.items():
        properties, name = _at(found, old)
        there, right = _at(found, new)
        properties[name] = {
            "anyOf": [there[right], {"enum": [0, 1]}],
            "deprecated": True,
            "description": f"read as {new}",
        }
    for key, why in MEANINGLESS.items():
        properties, name = _at(found, key)
        properties[name] = {"deprecated": True, "description": f"has no effect here: {why}"}
    for key in TABLE_KEYS:  # of the original's tables
        found["$defs"]["TableParameters"]["properties"].setdefault(
            key, {"deprecated": True, "description": "the original's"}
        )
    hyper = [*found["$defs"]["HyperParameters"]["properties"], *SLOTS]
    _let_be_empty(parts)
    own = {"properties": {"runner": {"required": ["model"]}}}  # a network of one's own takes any further key
    return found | {"if": own, "else": {"properties": {"hyper_parameters": {"propertyNames": {"enum": hyper}}}}}


def vertical_schema() -> Schema:
    """Return the schema of a job file of vertical training."""
    found: Schema = _plain(VerticalJob.model_json_schema())
    found |= {"$schema": DRAFT, "title": "A job of vertical training", "required": ["vertical", "parties"]}
    for kind in ("Vertical", "Party"):
        for name, part in found["$defs"][kind]["properties"].items():
            if name in SEVERAL:
                lists = part if "items" in part else part["anyOf"][0]
                part["anyOf"] = [
                    lists["items"],
                    {k: v for k, v in lists.items() if k in LIST},
                    *part.get("anyOf", [])[1:],
                ]
                for key in LIST:
                    part.pop(key, None)
    _let_be_empty(found["properties"])
    return found


def _let_be_empty(parts: dict[str, Schema]) -> None:
    """Let sections have no key: YAML reads such as null."""
    for name, part in parts.items():
        if "$ref" in part:
            parts[name] = {"anyOf": [{"$ref": part.pop("$ref")}, {"type": "null"}], **part}


def _at(found: Schema, key: str) -> tuple[Schema, str]:
    """Return the properties among which a dotted key stands, and its name there."""
    *above, name = key.split(".")
    properties = found["properties"]
    for part in above:
        properties = found["$defs"][properties[part]["$ref"].rpartition("/")[2]]["properties"]
    return properties, name


def _plain(part: Any) -> Any:
    """Return a schema without titles, which only repeat names, and with bounds called as JSON schema has them."""
    if isinstance(part, dict):
        kept = {key: value for key, value in part.items() if not (key == "title" and isinstance(value, str))}
        return {
            BOUNDS.get(key, key) if isinstance(value, int | float) else key: _plain(value)
            for key, value in kept.items()
        }
    return [_plain(value) for value in part] if isinstance(part, list) else part
