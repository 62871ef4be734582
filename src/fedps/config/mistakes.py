"""A mistake as one sentence: `key: value: what is wrong; remedy; it means: …`, in a newcomer's words."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedps.config.job import VerticalJob, choices, fields
from fedps.config.sections.features import Feature
from fedps.config.sections.training import TableParameters
from fedps.config.sections.vertical import Party
from fedps.config.source import inline

Fields = Mapping[str, FieldInfo]  # every key of a kind of job; NAME stands for names of one's own
FIELDS: Fields = {
    **dict(fields()), **dict(fields(TableParameters, "table_parameters.NAME.")), **dict(fields(Feature, "features.NAME.")),
}  # fmt: skip
VERTICAL: Fields = {
    **dict(fields(VerticalJob)), **dict(fields(Party, "parties.NAME.")), **dict(fields(Feature, "parties.NAME.features.NAME.")),
}  # fmt: skip
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
    "path_type": "must be a path; put one that reads as a number or as off, no, on, yes in quotes",
    "tuple_type": "must be a list, such as {example}",
    "model_type": "must be a section: its keys indented below it, or in braces, such as {example}",
    "dict_type": "must be a section: its keys indented below it, or in braces, such as {example}",
}


def sentence(error: ErrorDetails, keys: Fields = FIELDS) -> str:
    """Say one of pydantic's errors in our words; `keys` are those of the kind of job."""
    key, known, kind = key_of(error["loc"]), _known(error["loc"], keys), error["type"]
    if kind == "missing":
        return f"{key}: is missing; add it{_meaning(known, keys)}"
    subject = f"{key}: {shown(error['input'])}: "
    if kind == "extra_forbidden":
        return f"{subject}there is no such key; {nearest(known, keys)}"
    return subject + _wrong(error, known, keys) + _meaning(known, keys)


def key_of(loc: Sequence[int | str]) -> str:
    """Return the dotted key of a place in the tree, entries of lists as [k]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _known(loc: Sequence[int | str], keys: Fields) -> str:
    """Return the key that a kind of job has for a place; all tables, and all features, have the same keys."""
    known: list[int | str] = []
    for part in loc:
        above = key_of([*known, "NAME", ""])
        known.append("NAME" if any(key.startswith(above) for key in keys) else part)
    return key_of(known)


def shown(value: object) -> str:
    """Return a value as Python writes it, cut where it is long or deep."""
    text = _REPR.repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def nearest(key: str, keys: Fields = FIELDS) -> str:
    """Ask whether a real key was meant, or list those of the section: for a key that is none."""
    above, _, last = key.rpartition(".")
    last = MEANT.get(last.casefold(), last)
    beside = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == above}
    elsewhere = sorted((k for k in keys if k.endswith(f".{last}")), key=lambda k: _top(k) != _top(key))
    by_last = {k.rpartition(".")[2]: k for k in reversed(list(keys))}
    near = elsewhere or close(last, beside) or [by_last[k] for k in close(last, by_last, 0.8)]
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


def _wrong(error: ErrorDetails, key: str, keys: Fields) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        words = choices(keys[key.partition("[")[0]])
        said = str(error["input"]).casefold()
        near = close(MEANT.get(said, said), words)
        return f"must be one of {', '.join(words)}" + (f" (did you mean {near[0]!r}?)" if near else "")
    if kind in SAID:
        return SAID[kind].format(**context, example=_example(key, keys))
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _example(key: str, keys: Fields) -> str:
    """Return how a list or a section is written."""
    first = next((k.removeprefix(f"{key}.") for k in keys if k.startswith(f"{key}.")), None)
    if first:
        return f"{{{_top(first)}: …}}"
    field = keys.get(key)
    return inline(list(field.default)) if field and isinstance(field.default, tuple) and field.default else "[a, b]"


def _meaning(key: str, keys: Fields) -> str:
    field = keys.get(key.partition("[")[0])
    if field is None:
        return ""
    default = field.get_default(call_default_factory=True)
    plain = isinstance(default, (bool, int, float, str))
    return f"; it means: {field.description}" + (f" (left out: {inline(default)})" if plain else "")
