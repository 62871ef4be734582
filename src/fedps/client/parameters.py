"""What a model is made of, from a federation's point of view: which parameter lives where.

Every `nn.Embedding` that is looked up by an input column is a *sparse* table; all other parameters are *dense*.
`local_sparse` and `local_dense` of the job name what never leaves the client. The original's `embedding_0.w_0` (the
k-th embedding in order of creation) is accepted for an embedding's own name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedps.config import Job
from fedps.errors import JobError
from fedps.types import Init, Rule, TableSpec

COLUMNS = ("user", "item")
WHOLE_TENSOR_RULE = {
    "row_adagrad": "adagrad",
    "shared_adam": "lazy_adam",
}  # one scalar a row says nothing of a tensor


@dataclass(frozen=True)
class Embedding:
    """One sparse parameter: its spec, the input column that looks it up, and whether it is private."""

    spec: TableSpec
    module: str
    column: str
    private: bool


@dataclass(frozen=True)
class Parameters:
    """All parameters of a model, sorted by where they live.

    Attributes:
        embeddings: the sparse ones, in the model's order.
        dense: names of the shared dense tensors, in the model's order.
        private_dense: names of those that stay on the client.
    """

    embeddings: tuple[Embedding, ...]
    dense: tuple[str, ...]
    private_dense: tuple[str, ...]


def read_parameters(model: nn.Module, job: Job) -> Parameters:
    """Sort a model's parameters by where they live.

    Raises:
        JobError: a name in `local_sparse`, `remote_sparse` or `local_dense` matches nothing (all such at once), or an
            embedding that a list names is not looked up by an input column.
    """
    runner = job.runner
    modules = {f"{name}.weight": name for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    columns = _columns(model, modules)
    alias = {f"embedding_{k}.w_0": name for k, name in enumerate(modules)}
    others = [name for name, _ in model.named_parameters() if name not in columns]
    mistakes: list[str] = []
    local = _resolve("local_sparse", runner.local_sparse, columns, alias, mistakes)
    _resolve("remote_sparse", runner.remote_sparse, columns, alias, mistakes)
    local_dense = _resolve("local_dense", runner.local_dense, others, {}, mistakes)
    if mistakes:
        raise JobError(mistakes)
    weights = dict(model.named_parameters())
    inits: Mapping[str, Init] = getattr(model, "row_init", {})
    embeddings = [
        Embedding(
            TableSpec(
                name, "sparse", tuple(weights[name].shape), init=inits.get(name) or _measure(weights[name]),
                seed=runner.seed, rule=local_rule(job),
            ),
            modules[name],
            column,
            name in local,
        )
        for name, column in columns.items()
    ]  # fmt: skip
    dense = tuple(n for n in others if n not in local_dense)
    return Parameters(tuple(embeddings), dense, tuple(n for n in others if n in local_dense))


def local_rule(job: Job) -> Rule:
    """Return the job's optimizer as a rule."""
    o = job.hyper_parameters.optimizer
    return Rule(o.name, o.learning_rate, o.beta1, o.beta2, o.epsilon)


def dense_rule(rule: Rule) -> Rule:
    """Return the rule for dense tensors: rules with one scalar a row fall back on their per-component kin."""
    name = WHOLE_TENSOR_RULE.get(rule.name, rule.name)
    return Rule(name, rule.learning_rate, rule.beta1, rule.beta2, rule.epsilon)  # type: ignore[arg-type]


def _resolve(
    key: str,
    names: Sequence[str],
    there: Sequence[str] | Mapping[str, str],
    alias: Mapping[str, str],
    mistakes: list[str],
) -> set[str]:
    found = {alias.get(name, name) for name in names}
    for name in names:
        if alias.get(name, name) not in there:
            mistakes.append(
                f"runner.{key}: {name!r} matches no such parameter; the model has {', '.join(there) or 'none'}"
                + (f" (or {', '.join(alias)})" if alias else "")
            )
    return found


@torch.no_grad()
def _columns(model: nn.Module, modules: Mapping[str, str]) -> dict[str, str]:
    """Find which input column looks up each embedding, by calling the model once on two marked rows.

    An embedding that is called with something else (a position, a derived id) is trained as a dense tensor.
    """
    marks = {"user": torch.tensor([0, 1, 1]), "item": torch.tensor([1, 0, 1])}
    seen: dict[str, set[str]] = {}

    def watch(name: str) -> object:
        def note(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            ids = args[0]
            found = [c for c, mark in marks.items() if ids.shape == mark.shape and torch.equal(ids, mark)]
            seen.setdefault(name, set()).add(found[0] if found else "")

        return note

    hooks = [model.get_submodule(m).register_forward_pre_hook(watch(n)) for n, m in modules.items()]  # type: ignore[arg-type]
    try:
        model(*marks.values())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: next(iter(found)) for name, found in seen.items() if len(found) == 1 and found != {""}}


@torch.no_grad()
def _measure(weight: torch.Tensor) -> Init:
    """Read the start of rows off a drawn weight: constant, uniform or normal, by its moments.

    A normal sample has a kurtosis of 3, a uniform one of 1.8; a model can state its start exactly in `row_init`.
    """
    mean, std = float(weight.mean()), float(weight.std())
    if std == 0 or weight.numel() < 2:
        return Init("constant", mean)
    kurtosis = float(((weight - mean) / std).pow(4).mean())
    if kurtosis < 2.4:
        return Init("uniform", mean - std * 3**0.5, mean + std * 3**0.5)
    return Init("normal", mean, std)
