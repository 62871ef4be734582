"""A mistake as one sentence: `key: value: what is wrong; remedy; it means: …`, in a newcomer's words."""

import difflib
import reprlib
from collections.abc import Sequence

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from fedps.config.job import choices, fields
from fedps.config.sections.features import Feature
from fedps.config.sections.training import TableParameters
from fedps.config.source import inline

NAMED: dict[str, type[BaseModel]] = {
    "table_parameters": TableParameters,
    "features": Feature,
}  # sections of sections by a name of one's own
FIELDS = dict(fields()) | {k: f for top, model in NAMED.items() for k, f in fields(model, f"{top}.NAME.")}
SHOWN = 60  # characters of a value that are repeated
MEANT = {  # the words of others, of keys and of values → ours
    "lr": "learning_rate", "eta": "learning_rate", "print_period": "print_interval", "log_interval": "print_interval",
    "batch_size": "train_batch_size", "rounds": "epochs", "num_rounds": "epochs", "local_steps": "round_iterations",
    "emb_dim": "embedding_dim", "dnn_hidden_units": "hidden_units", "mu": "proximal",
    "fedavg": "round", "fed_avg": "round", "fedsgd": "sync", "bsp": "sync", "asp": "async", "half_async": "async",
}  # fmt: skip
SAID = {  # pydantic's kind of error → our words
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
    "too_short": "must have at least {min_length} entries",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "path_type": "must be the path of a folder; put a path that reads as a number or as off, no, on, yes in quotes",
    "tuple_type": "must be a list, such as {example}",
    "model_type": "must be a section: its keys indented below it, or in braces, such as {example}",
    "dict_type": "must be a section: its keys indented below it, or in braces, such as {example}",
}


def sentence(error: ErrorDetails) -> str:
    """Say one of pydantic's errors in our words."""
    key, known, kind = key_of(error["loc"]), _known(error["loc"]), error["type"]
    if kind == "missing":
        return f"{key}: is missing; add it{_meaning(known)}"
    subject = f"{key}: {shown(error['input'])}: "
    if kind == "extra_forbidden":
        return f"{subject}there is no such key; {nearest(known)}"
    return subject + _wrong(error, known) + _meaning(known)


def key_of(loc: Sequence[int | str]) -> str:
    """Return the dotted key of a place in the tree, entries of lists as [k]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _known(loc: Sequence[int | str]) -> str:
    """Return the key that `FIELDS` has for a place; all tables, and all features, have the same keys."""
    named = len(loc) > 1 and loc[0] in NAMED
    return key_of([loc[0], "NAME", *loc[2:]] if named else loc)


def shown(value: object) -> str:
    """Return a value as Python writes it, cut where it is long or deep."""
    text = _REPR.repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def nearest(key: str) -> str:
    """Ask whether a real key was meant, or list those of the section: for a key that is none."""
    above, _, last = key.rpartition(".")
    last = MEANT.get(last.casefold(), last)
    beside = {k.rpartition(".")[2]: k for k in FIELDS if k.rpartition(".")[0] == above}
    elsewhere = sorted((k for k in FIELDS if k.endswith(f".{last}")), key=lambda k: _top(k) != _top(key))
    near = elsewhere or close(last, beside) or [FIELDS_BY_LAST[k] for k in close(last, FIELDS_BY_LAST, 0.8)]
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(beside)}"


def _top(key: str) -> str:
    return key.partition(".")[0]


def close(word: str, known: Sequence[str] | dict[str, str], cutoff: float = 0.6) -> list[str]:
    """Return the known word that is most like one, if any is, whatever their case."""
    folded = {k.casefold(): k for k in known}
    return [folded[k] for k in difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)]


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.fillvalue = 3, "…"
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * SHOWN
FIELDS_BY_LAST = {key.rpartition(".")[2]: key for key in reversed(FIELDS)}


def _wrong(error: ErrorDetails, key: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        words = choices(FIELDS[key])
        said = str(error["input"]).casefold()
        near = close(MEANT.get(said, said), words)
        return f"must be one of {', '.join(words)}" + (f" (did you mean {near[0]!r}?)" if near else "")
    if kind in SAID:
        return SAID[kind].format(**context, example=_example(key))
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _example(key: str) -> str:
    """Return how a list or a section is written."""
    first = next((k.removeprefix(f"{key}.") for k in FIELDS if k.startswith(f"{key}.")), None)
    if first:
        return f"{{{_top(first)}: …}}"
    field = FIELDS.get(key)
    return inline(list(field.default)) if field and isinstance(field.default, tuple) and field.default else "[a, b]"


def _meaning(key: str) -> str:
    field = FIELDS.get(key.partition("[")[0])
    if field is None:
        return ""
    default = field.get_default(call_default_factory=True)
    plain = isinstance(default, (bool, int, float, str))
    return f"; it means: {field.description}" + (f" (left out: {inline(default)})" if plain else "")
