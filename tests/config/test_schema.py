"""The JSON schema of a job file: every example is valid by it, and what is misspelt is not."""

import json
import operator
from pathlib import Path
from typing import Any

import pytest

from fedps.config.job import fields
from fedps.config.schema import schema, vertical_schema
from fedps.config.source import parse, read
from fedps.config.vertical import is_vertical
from tests.launch.rooms import here

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
KINDS: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None),
}  # fmt: skip
BOUNDS: dict[str, Any] = {
    "minimum": operator.ge, "exclusiveMinimum": operator.gt, "maximum": operator.le, "exclusiveMaximum": operator.lt,
    "minItems": lambda value, least: len(value) >= least, "maxItems": lambda value, most: len(value) <= most, "minLength": lambda value, least: len(value) >= least,
    "enum": lambda value, words: value in words, "const": operator.eq,
}  # fmt: skip
KNOWN = {  # words of JSON schema that `faults` heeds, and those that say nothing of what is valid
    "$ref", "anyOf", "type", "properties", "additionalProperties", "propertyNames", "required", "items", "if", "else",
    "$schema", "$defs", "title", "description", "default", "deprecated", "format", *BOUNDS,
}  # fmt: skip


def faults(value: Any, part: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """Say what is wrong with a value by a schema of the words that ours uses."""
    assert part.keys() <= KNOWN, part.keys() - KNOWN
    if "$ref" in part:
        return faults(value, root["$defs"][part["$ref"].rpartition("/")[2]], root, at)
    if "anyOf" in part:
        tried = [faults(value, one, root, at) for one in part["anyOf"]]
        return [] if [] in tried else tried[0]
    if "type" in part:
        is_number = part["type"] in ("integer", "number")
        if not isinstance(value, KINDS[part["type"]]) or (isinstance(value, bool) and is_number):
            return [f"{at}: is no {part['type']}"]
    found = [
        f"{at}: not {word} {part[word]}"
        for word, holds in BOUNDS.items()
        if word in part and not holds(value, part[word])
    ]
    if isinstance(value, dict):
        found += _faults_of_keys(value, part, root, at)
    for k, each in enumerate(value if isinstance(value, list) else ()):
        found += faults(each, part["items"], root, f"{at}[{k}]")
    if "if" in part and faults(value, part["if"], root, at):
        found += faults(value, part["else"], root, at)
    return found


def _faults_of_keys(value: dict[str, Any], part: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    found = [f"{at}: lacks {key}" for key in part.get("required", []) if key not in value]
    for key, below in value.items():
        rule = part.get("properties", {}).get(key, part.get("additionalProperties", True))
        found += faults(key, part.get("propertyNames", {}), root, f"{at}.{key}")
        if isinstance(rule, dict):
            found += faults(below, rule, root, f"{at}.{key}")
        elif not rule:
            found.append(f"{at}.{key}: is unknown")
    return found


@pytest.fixture(scope="module")
def root() -> dict[str, Any]:
    return schema()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_valid(file: Path, root: dict[str, Any]) -> None:
    root = vertical_schema() if is_vertical(file) else root
    assert faults(read(file), root, root) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{vertical: {active: a, passive: [b, c]}, parties: {a: {data: [x, y], id: [n, m]}}, ids: , security: }", None),
        ("{vertical: {active: a, passive: b, lift: joined}, parties: {a: {data: x, test_data: y, id: n}}}", None),
        ("{vertical: {active: a}, parties: {}}", ".vertical: lacks passive"),
        ("{vertical: {active: a, passive: b, lift: jiont}, parties: {}}", ".vertical.lift"),
        (
            "{vertical: {active: a, passive: b}, parties: {a: {data: x, features: {y: {kind: ID}}}}}",
            ".parties.a.features.y.kind",
        ),
        ("{vertical: {active: a, passive: b}, parties: {a: {dada: x, data: y}}}", ".parties.a.dada"),
    ],
)
def test_a_vertical_job_is_valid_by_a_schema_of_its_own(text: str, fault: str | None) -> None:
    found = faults(parse(text), vertical_schema(), vertical_schema())
    assert found == [] if fault is None else found[0].startswith(fault)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("runner: {train_data_dir: a, epoch: 3}", ".runner.epoch"),
        ("runner: {train_data_dir: a, sync_mode: gio}", ".runner.sync_mode"),
        ("runner: {train_data_dir: a, epochs: many}", ".runner.epochs"),
        ("runner: {train_data_dir: a, epochs: 0}", ".runner.epochs"),
        ("runner: {epochs: 3}", ".runner: lacks train_data_dir"),
        ("hyper_parameters: {}", ": lacks runner"),
        ("{runner: {train_data_dir: a}, hyper_parameters: {emb_dim: 3}}", ".hyper_parameters.emb_dim"),
        (
            "{runner: {train_data_dir: a}, hyper_parameters: {optimizer: {klass: adam}}}",
            ".hyper_parameters.optimizer.klass",
        ),
        ("{runner: {train_data_dir: a}, features: {user: {kind: ID}}}", ".features.user.kind"),
        ("{runner: {train_data_dir: a}, selectr: {}}", ".selectr"),
        ("{runner: {train_data_dir: a}, limits: {message_mib: 2000}}", ".limits"),
    ],
)
def test_what_is_misspelt_is_not(text: str, at: str, root: dict[str, Any]) -> None:
    found = faults(parse(text), root, root)
    assert found
    assert found[0].startswith(at.partition(":")[0])


@pytest.mark.parametrize(
    "text",
    [
        "{runner: {train_data_dir: a}, selector: , hyper_parameters: }",  # their keys are all commented out
        "{runner: {train_data_dir: a, model: net.Mine}, hyper_parameters: {own_key: 3}}",  # given to one's own class
        "{runner: {train_data_dir: a, with_coodinator: 1, use_auc: true}, hyper_parameters: {sparse_inputs_slots: 27}}",
    ],
)
def test_what_a_file_may_hold_beyond_a_resolved_job(text: str, root: dict[str, Any]) -> None:
    assert faults(parse(text), root, root) == []


def test_every_key_is_there_with_what_it_means(root: dict[str, Any]) -> None:
    for key, field in fields():
        properties = root["properties"]
        *above, name = key.split(".")
        for part in above:
            ref = next(r for r in (properties[part], *properties[part].get("anyOf", [])) if "$ref" in r)
            properties = root["$defs"][ref["$ref"].rpartition("/")[2]]["properties"]
        assert properties[name]["description"] == field.description, key


def test_the_command_prints_it(
    root: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, "config", "schema") == 0
    assert json.loads(capsys.readouterr().out) == root
