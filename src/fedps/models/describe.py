"""The description of a network: which parameters are tables, which are dense, and how each starts."""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from fedps.config.sections.features import OPEN, Feature
from fedps.models.inputs import EMBEDDINGS, Lookups, computed, features_of, inputs_of, lookups
from fedps.models.network import EmbeddingLayer, Network
from fedps.types import Init


def describe(model: nn.Module, other: nn.Module | None = None) -> Network:
    """Describe a network: every embedding that features look up is a table, all other parameters are dense.

    Args:
        model: as built; with a class attribute `row_init`, parameter's name → `Init`, if it states how rows start.
        other: as `redrawn`, to tell rows that are given from those that are drawn.
    """
    modules = {f"{name}.weight": name for name, m in model.named_modules() if isinstance(m, EMBEDDINGS)}
    looked_up, features = lookups(model), features_of(model)
    columns = {name: found for name, found in looked_up.items() if "" not in found}
    weights = dict(model.named_parameters())
    inits: Mapping[str, Init] = getattr(model, "row_init", {})
    given: dict[str, bytes] = {}

    def start(name: str, weight: nn.Parameter) -> Init:
        if name in inits:
            return inits[name]
        if not _is_given(weight, other.get_parameter(name) if other is not None else None):
            return _measure(weight)
        given[name] = weight.detach().to(torch.float32).numpy().astype("<f4").tobytes()
        return Init("given", zlib.crc32(given[name]) >> 3)  # within the bound of what a start may be

    def layer(name: str, found: tuple[str, ...]) -> EmbeddingLayer:
        weight = model.get_parameter(name)  # also where another parameter's name stands for the same tensor
        space, (rows, dim) = features[found[0]].table or found[0], weight.shape
        if features[space].rows == OPEN:
            return EmbeddingLayer(name, modules[name], found, space, (0, dim), inits.get(name) or _measure(weight))
        return EmbeddingLayer(name, modules[name], found, space, (rows, dim), start(name, weight))

    embeddings = [layer(name, found) for name, found in columns.items()]
    dense = {name: weight.detach() for name, weight in weights.items() if name not in columns}
    flat = [weight.reshape(-1).to(torch.float32).numpy() for weight in dense.values()]
    return Network(
        tuple(embeddings),
        tuple((name, tuple(weight.shape)) for name, weight in dense.items()),
        aliases(model),
        (*_tied(model, columns), *_with_options(model, columns, modules), *_apart(columns, features)),
        np.concatenate([*flat, np.empty(0, np.float32)]).astype("<f4").tobytes(),
        tuple(name for name, weight in weights.items() if not weight.requires_grad),
        given,
        inputs_of(model),
        dict(computed(model)),
    )


def aliases(model: nn.Module) -> dict[str, str]:
    """Return the original's names of a model's parameters, each with the model's own.

    The original counts layers in order of creation: `embedding_k.w_0`, `linear_k.w_0` (weight), `linear_k.b_0` (bias).
    The model must be whole, as built: training takes its embeddings out.
    """
    names: dict[str, str] = {}
    for kind, word in ((nn.Embedding, "embedding"), (nn.Linear, "linear")):
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, kind)]
        for k, (name, layer) in enumerate(layers):
            own = dict(layer.named_parameters(recurse=False))
            prefix = f"{name}." if name else ""
            parts = (("w_0", "weight"), ("b_0", "bias"))
            names |= {f"{word}_{k}.{short}": f"{prefix}{part}" for short, part in parts if part in own}
    return names


def _tied(model: nn.Module, columns: Lookups) -> list[str]:
    """Name embeddings whose weight another parameter uses too: kept under one name, it would leave under the other."""
    every = list(model.named_parameters(remove_duplicate=False))
    mistakes = []
    for name in columns:
        weight = model.get_parameter(name)
        also = [other for other, w in every if other != name and w is weight]
        if also:
            mistakes.append(
                f"runner.model: {name} and {', '.join(also)} are one and the same tensor; give each module its own, so"
                " that it has one place"
            )
    return mistakes


def _with_options(model: nn.Module, columns: Lookups, modules: Mapping[str, str]) -> list[str]:
    """Name embeddings with options that rows by id do not have: rows would be trained as if there were none."""
    mistakes, features = [], features_of(model)
    for name in columns:
        layer, padded = model.get_submodule(modules[name]), any(features[f].kind == "ids" for f in columns[name])
        options = {
            o: getattr(layer, o) for o in (*(() if padded else ("padding_idx",)), "max_norm", "scale_grad_by_freq")
        }
        if used := [f"{o}={value}" for o, value in options.items() if value is not None and value is not False]:
            mistakes.append(
                f"runner.model: {name} has {', '.join(used)}: rows that are looked up by {columns[name][0]} ids have no such"
                " option; leave it out"
            )
    return mistakes


def _apart(columns: Lookups, features: Mapping[str, Feature]) -> list[str]:
    """Name embeddings that features of several id spaces look up: id 3 of one would be id 3 of the other."""
    mistakes = []
    for name, found in columns.items():
        own = sorted({features[f].table or f for f in found})
        if len(own) > 1:
            mistakes.append(
                f"runner.model: {name} is looked up by {' and '.join(found)}, whose ids are not the same: set"
                f" features.{own[1]}.table: {own[0]}, or give each an embedding"
            )
    return mistakes


def _is_given(weight: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Tell whether some rows of an embedding are data; frozen ones are, however they came about.

    Rows of a single float may be drawn alike twice by chance: of those it takes one in a thousand.
    """
    if bool((weight == weight[0, 0]).all()):
        return False  # a constant is no data
    if not weight.requires_grad:
        return True
    if other is None or other.shape != weight.shape:
        return False
    rows, dim = weight.shape
    return int((weight == other).all(dim=1).sum()) > (0 if dim > 1 else rows // 1000)


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
