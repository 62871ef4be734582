"""From a network as built to its description: which parameter is looked up by which column, and how each starts."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from fedps.models.network import Embedding, Network
from fedps.types import Init


def describe(model: nn.Module) -> Network:
    """Describe a network.

    Every `nn.Embedding` that is looked up by an input column is a table; all other parameters are dense.
    """
    modules = {f"{name}.weight": name for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    columns = _columns(model, modules)
    weights = dict(model.named_parameters())
    inits: Mapping[str, Init] = getattr(model, "row_init", {})

    def embedding(name: str, column: str) -> Embedding:
        weight = model.get_parameter(name)  # also where another parameter's name stands for the same tensor
        rows, dim = weight.shape
        return Embedding(name, modules[name], column, (rows, dim), inits.get(name) or _measure(weight))

    embeddings = [embedding(name, column) for name, column in columns.items()]
    dense = {name: weight.detach() for name, weight in weights.items() if name not in columns}
    flat = [weight.reshape(-1).to(torch.float32).numpy() for weight in dense.values()]
    return Network(
        tuple(embeddings),
        tuple((name, tuple(weight.shape)) for name, weight in dense.items()),
        aliases(model),
        tuple(_tied(model, columns)),
        np.concatenate([*flat, np.empty(0, np.float32)]).astype("<f4").tobytes(),
    )


def aliases(model: nn.Module) -> dict[str, str]:
    """Return the original's names of a model's parameters, each with the model's own.

    The original counts layers in order of creation: `embedding_k.w_0`, `linear_k.w_0` (weight), `linear_k.b_0` (bias).
    The model must be whole, as built: training takes its embeddings out.
    """
    found: dict[str, str] = {}
    for kind, word in ((nn.Embedding, "embedding"), (nn.Linear, "linear")):
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, kind)]
        for k, (name, layer) in enumerate(layers):
            there = dict(layer.named_parameters(recurse=False))
            prefix = f"{name}." if name else ""
            parts = (("w_0", "weight"), ("b_0", "bias"))
            found |= {f"{word}_{k}.{short}": f"{prefix}{part}" for short, part in parts if part in there}
    return found


def _tied(model: nn.Module, columns: Mapping[str, str]) -> list[str]:
    """Find embeddings whose weight another parameter uses too: kept under one name, it would leave under the other."""
    every = list(model.named_parameters(remove_duplicate=False))
    found = []
    for name in columns:
        weight = model.get_parameter(name)
        also = [other for other, w in every if other != name and w is weight]
        if also:
            found.append(
                f"runner.model: {name} and {', '.join(also)} are one and the same tensor; give each module its own, so"
                " that it has one place"
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
