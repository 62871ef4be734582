"""YAML as people mean it, in and out: plain values only, no key twice, and every error in one line that names its own.

Plain YAML 1.1 reads a zip code 01234 as 668, 12:30:45 as 45045 and 1e-3 as text; here a number is decimal, and what
does not look like one is text. Only what JSON knows can be written (no dates, no sets, no tag that makes an object),
so that a job reaches every process and every saved copy unchanged.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

from fedps.errors import JobError

PREFIX = "tag:yaml.org,2002:"
PLAIN = {PREFIX + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
MOST = 100_000  # values; a few lines of aliases to aliases could stand for billions
WHOLE = r"[-+]?(?:0|[1-9](?:_?[0-9])*)"
SCALARS = {  # what a word without quotes is; all else is text
    "bool": ("yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    "int": (WHOLE, "-+0123456789"),
    "float": (
        rf"{WHOLE}(?:\.[0-9]*)?[eE][-+]?[0-9]+|{WHOLE}\.[0-9]*|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": ("<<", "<"),
}
REMEDIES = {  # begin of a parser's complaint → what to do
    "found character '\\t'": "indent with spaces, not tabs",
    "mapping values are not allowed": "begin each key on a line of its own with a blank after its colon, indent the"
    " keys of a section alike, and put text with ': ' in it in quotes",
    "could not determine a constructor": "a job file holds plain values only: text, numbers, lists and sections",
    "expected <block end>": "indent the keys of a section alike",
    "could not find expected ':'": "write a key as `key: value`, with a blank after the colon",
}


def read(path: Path) -> dict[str, Any]:
    """Read a job file's sections.

    Raises:
        JobError: it is not there, cannot be read, is not valid YAML, or holds no sections; names file and line.
    """
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(
            f"job file {path}: there is no such file; name a YAML job, e.g. examples/quickstart.yaml"
        ) from None
    except OSError as error:
        raise JobError(f"job file {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise JobError(f"job file {path}: cannot be read: it is not UTF-8 text; save it as UTF-8") from None
    except JobError as error:
        raise JobError(f"job file {path}: {error}") from None
    if tree is None:
        raise JobError(f"job file {path}: is empty; begin with `runner:` and `train_data_dir: DIR` below it")
    if not isinstance(tree, dict):
        raise JobError(
            f"job file {path}: holds {type(tree).__name__}, not sections such as runner: and hyper_parameters:"
        )
    return tree


def parse(text: str) -> Any:
    """Return the value a YAML text holds: text, numbers, booleans, None, lists and dicts with text for keys.

    Raises:
        JobError: it is not valid YAML; one line that begins with the number of the line at fault.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST:
            raise JobError(
                f"not valid YAML: with aliases (*) written out it holds itself, or over {MOST:,} values; use fewer"
            )
        return _apart(loader.construct_object(node, deep=True))
    except yaml.MarkedYAMLError as error:
        raise JobError(_complaint(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise JobError(f"line {line}: not valid YAML: character {error.character!r} is not allowed") from None
    except RecursionError:
        raise JobError("not valid YAML: maximum recursion depth exceeded: lists or sections nest too deep") from None


def dump(tree: Any) -> str:
    """Return a tree as YAML, a key a line; `parse` gives it back the same, and so does any YAML 1.1 reader."""
    return _dump(tree, default_flow_style=False)


def inline(value: Any) -> str:
    """Return a value as YAML on one line, fit to stand behind `key: ` and before a comment."""
    return _dump([value], default_flow_style=True).rstrip("\n")[1:-1]


def _apart(value: Any) -> Any:
    """Return a value with aliases (*) written out, so that to change one place leaves the others alone."""
    if isinstance(value, dict):
        return {key: _apart(part) for key, part in value.items()}
    return [_apart(part) for part in value] if isinstance(value, list) else value


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Count what a node holds, aliases written out; one that holds itself is without end."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = MOST + 1
        below = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[node] = 1 + sum(_size(part, known) for part in below)
    return known[node]


def _dump(value: Any, default_flow_style: bool) -> str:
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=default_flow_style,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )
    return text


def _complaint(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}: " if mark else ""
    said, context = str(error.problem or error), error.context or ""
    remedy = next((f"; {remedy}" for start, remedy in REMEDIES.items() if said.startswith(start)), "")
    if context.startswith("while") and error.context_mark:
        said += f" ({context} begun in line {error.context_mark.line + 1})"
    elif context and not context.startswith("while"):
        said = f"{context}, {said}"
    return " ".join(f"{where}not valid YAML: {said}{remedy}".split())


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with our scalars, without what JSON lacks, and with a look at keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (ours alone: filled below)
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in PLAIN
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:  # here, where merged keys (<<) are not yet among the section's own
            line = key.start_mark.line + 1
            if key.tag == PREFIX + "merge":
                continue
            if key.tag != PREFIX + "str":
                shown = f"the key {key.value}" if isinstance(key, yaml.ScalarNode) else "a list or section as a key"
                raise ConstructorError(None, None, f"{shown} is not text; put keys in quotes", key.start_mark)
            if key.value in seen:
                said = f"{key.value!r} is in line {seen[key.value]} already; keep one"
                raise ConstructorError(None, None, said, key.start_mark)
            seen[key.value] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:  # of an explicit tag, such as !!int x
            raise ConstructorError(None, None, f"{node.tag}: {error}", node.start_mark) from None

    def construct_yaml_int(self, node: Any) -> int:
        return int(str(self.construct_scalar(node)).replace("_", ""))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; quotes text that either our reader or a plain one would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    breaks = text.splitlines() not in ([], [text])  # of any kind: YAML folds what it takes for one
    return dumper.represent_scalar(PREFIX + "str", text, style='"' if breaks else None)


for _kind, (_form, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(PREFIX + _kind, re.compile(f"(?:{_form})$"), list(_first))
    _Dumper.add_implicit_resolver(PREFIX + _kind, re.compile(f"(?:{_form})$"), list(_first))
_Loader.add_constructor(PREFIX + "int", _Loader.construct_yaml_int)
_Dumper.add_representer(str, _represent_text)
