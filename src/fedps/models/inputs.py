"""What a network is called with: features by name, ids padded where a sample has several; and which embedding they look up.

| kind | tensor |
| --- | --- |
| id | int64[B] |
| ids, a sequence | int64[B, max], the last ids of a sample from column 0 on, then padding |
| ids, pooled | int64[B, longest of the batch], the same |
| number | float32[B], or [B, dim] |

Padding is -1, or the `padding_idx` of the embedding that the feature looks up. An embedding gives zeros there, and where
the feature is pooled the sum or the mean of a sample's rows.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import Parameter
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedps.config.sections.features import Feature, classic
from fedps.errors import JobError
from fedps.types import Bags, Column

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
PAD = -1
FEW = 64  # ids of an open space on which a network is tried
REARRANGING = {  # functions of torch whose results hold ids that they were given
    "__getitem__", "view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "repeat", "cat", "concat", "stack",
    "chunk", "split", "narrow", "select", "transpose", "permute", "t", "flip", "roll", "clone", "contiguous", "detach", "to",
    "long", "unbind", "unflatten", "movedim", "swapaxes", "tile", "hstack", "vstack", "ravel", "view_as", "expand_as",
}  # fmt: skip
Lookups = Mapping[str, tuple[str, ...]]  # an embedding's parameter → features, "" for ids that the network computes


class _Inputs(NamedTuple):
    """What a network takes, all features there are, what stands behind the ids of shorter samples, if not -1, and its output."""

    names: tuple[str, ...]
    features: Mapping[str, Feature]
    paddings: dict[str, int]
    call: Callable[..., Any] | None = None


PAIR = _Inputs(("user", "item"), classic(2, 2), {})


class Ids(Tensor):
    """A feature's values that know where they come from.

    Attributes:
        features: whose ids they are, however they were rearranged; computing with them forgets it.
        sources: which features they were computed from.
    """

    features: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    took: ClassVar[dict[int, set[str]]] = {}  # parameters, by their `id`, that ids took rows of by themselves → sources

    @classmethod
    def of(cls, values: Tensor, feature: str, has_ids: bool) -> "Ids":
        """Return the values of one feature."""
        made = values.as_subclass(cls)
        made.sources = frozenset((feature,))
        made.features = made.sources if has_ids else frozenset()
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        every = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
        given = [a for a in every if isinstance(a, Ids)]
        for weight in (a for a in every if isinstance(a, nn.Parameter)):  # embedding(ids, weight), or weight[ids]
            cls.took.setdefault(id(weight), set()).update(*(a.sources for a in given if not a.is_floating_point()))
        rearranged = getattr(func, "__name__", "") in REARRANGING
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Ids):
                made.features = frozenset().union(*(a.features for a in given)) if rearranged else frozenset()
                made.sources = frozenset().union(*(a.sources for a in given))
        return result


def adapt(path: str, model: nn.Module, features: Mapping[str, Feature], classic: bool) -> None:
    """Let a network be called with the features it takes, in the order of `inputs_of`; and look up padded ids.

    Args:
        path: names the network in errors.
        model: maps features to logits; changed in place. Of classic jobs it takes user and item, in this order or both in
            a list; of others its arguments are named as features are, or it has one, a dict by name (all features, or those
            that its attribute `takes` names). Two rows a sample are its score by their product, in evaluation.
        features: all there are.
        classic: the job states no features.

    Raises:
        JobError: it takes what is no feature, or does not take one that the job states.
    """
    forward: Callable[..., Any] = model.forward
    takes = [p for p in inspect.signature(forward).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    open_ended = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    whole = len(takes) == 1 and takes[0].kind not in open_ended and takes[0].name not in features
    wanted: Sequence[str] | None = getattr(model, "takes", None)
    there = [n for n, f in features.items() if f.kind != "label" and (wanted is None or n in wanted)]
    names = there if classic or whole else _named(path, takes, there, features)

    def call(*inputs: Tensor) -> Any:
        if classic:
            return forward(list(inputs)) if whole else forward(*inputs)
        by_name = dict(zip(names, inputs, strict=True))
        return forward(by_name) if whole else forward(**by_name)

    def adapted(*inputs: Tensor) -> Any:
        result = call(*inputs)
        if isinstance(result, tuple) and not model.training:  # rows of two towers
            result = (result[0] * result[1]).sum(-1)
        column = isinstance(result, Tensor) and result.shape == (len(inputs[0]), 1)
        return result.squeeze(1) if column else result

    model.forward = adapted
    vars(model)["fedps_inputs"] = _Inputs(tuple(names), features, {}, call)
    if any(features[name].kind == "ids" for name in names):
        try:
            _look_up_padded(model)
        except JobError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise JobError(
                f"runner.model: {path}: forward({', '.join(names)}) fails on three samples: {type(error).__name__}: {error}"
            ) from error


def _named(path: str, takes: Sequence[Parameter], there: Sequence[str], features: Mapping[str, Feature]) -> list[str]:
    """Return the features that forward takes by name."""
    every = any(p.kind is p.VAR_KEYWORD for p in takes)
    names = [p.name for p in takes if p.kind is p.POSITIONAL_OR_KEYWORD]
    needs = [p.name for p in takes if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    mistakes = [
        f"runner.model: {path}: forward takes {name!r}, which is no feature; there are {', '.join(there)}"
        for name in needs
        if name not in there
    ]
    mistakes += [
        f"features.{name}: {path} does not take it: add {name!r} to the arguments of forward, or leave the feature out"
        for name in there
        if not every and name not in names and not features[name].optional
    ]
    if mistakes:
        raise JobError(mistakes)
    return list(there) if every else [name for name in names if name in there]


def inputs_of(model: nn.Module) -> tuple[str, ...]:
    """Return the features that a network takes, in the order it is called with."""
    return _of(model).names


def features_of(model: nn.Module) -> Mapping[str, Feature]:
    """Return all features of a network's job."""
    return _of(model).features


def paddings_of(model: nn.Module) -> dict[str, int]:
    """Return what stands behind the ids of a feature's shorter samples, where it is not -1."""
    return _of(model).paddings


def output_of(model: nn.Module) -> Callable[..., Any]:
    """Return what a network is called by for its output as it stands: of two towers their rows, in evaluation too."""
    return _of(model).call or model


def _of(model: nn.Module) -> "_Inputs":
    """Return what `adapt` has left with a network; one that nobody adapted takes user and item."""
    return cast(_Inputs, vars(model).get("fedps_inputs", PAIR))


def computed(model: nn.Module) -> Lookups:
    """Find which features look up a parameter that is no table: by computed ids, or not through a module."""
    found: dict[str, set[str]] = {}
    Ids.took.clear()
    _watch(model, {}, found)
    found |= {name: Ids.took[id(weight)] for name, weight in model.named_parameters() if id(weight) in Ids.took}
    return {name: tuple(sorted(sources)) for name, sources in found.items() if sources}


def lookups(model: nn.Module) -> Lookups:
    """Find which features look up each embedding, by calling the network once on ids that know where they come from.

    An embedding that is called with something else (a position, a computed id) is trained as a dense tensor.
    """
    seen: dict[str, set[str]] = {}
    _watch(model, seen)
    order = ["", *features_of(model)]
    return {name: tuple(sorted(seen[name], key=order.index)) for name in _embeddings(model) if name in seen}


@torch.no_grad()
def _watch(model: nn.Module, seen: dict[str, set[str]], sources: dict[str, set[str]] | None = None) -> None:
    """Call a network once, and note of each embedding which features look it up, "" for what it computes, and from which."""

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            came = args[0].features if isinstance(args[0], Ids) else ()
            seen.setdefault(name, set()).update(came or ("",))
            if sources is not None and isinstance(args[0], Ids) and not came:
                sources.setdefault(name, set()).update(args[0].sources)
            return (args[0].as_subclass(Tensor), *args[1:])

        return note

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in _embeddings(model).items()]
    columns = zip(inputs_of(model), example(model, 3), strict=True)
    features = features_of(model)
    try:
        model(*(Ids.of(column, name, features[name].has_ids) for name, column in columns))
    finally:
        for hook in hooks:
            hook.remove()


def _embeddings(model: nn.Module) -> dict[str, Any]:
    """Return the modules that look rows up, by the names of their parameters."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, EMBEDDINGS)}


def example(model: nn.Module, samples: int, seed: int = 0) -> list[Tensor]:
    """Make up samples that a network can be tried on.

    Returns:
        a tensor for each of `inputs_of`, `samples` entries each.
    """
    features, rng = features_of(model), np.random.default_rng(seed)
    return tensors(model, {name: made_up(features, name, samples, rng) for name in inputs_of(model)})


def made_up(features: Mapping[str, Feature], name: str, samples: int, rng: np.random.Generator) -> Column:
    """Make up a feature's column of so many samples."""
    feature = features[name]
    if not feature.has_ids:
        shape = (samples, feature.dim) if feature.dim > 1 else samples
        return rng.standard_normal(shape).astype(np.float32)
    rows = features[feature.table or name].rows
    most = rows if isinstance(rows, int) else FEW
    if feature.kind == "id":
        return np.arange(samples) % most if samples <= most else rng.integers(0, most, samples)
    counts = np.arange(samples) % min(4, feature.max or 4) + 1
    counts[-1] = 0 if samples > 1 else 1
    starts = np.cumsum([0, *counts])
    return Bags(rng.integers(0, most, int(starts[-1])), starts)


def tensors(model: nn.Module, columns: Mapping[str, Column]) -> list[Tensor]:
    """Return columns as a network is called with them: a tensor for each of `inputs_of`."""
    found = by_name(model, columns)
    return [found[name] for name in inputs_of(model)]


def by_name(model: nn.Module, columns: Mapping[str, Column]) -> dict[str, Tensor]:
    """Return those of a network's inputs that some columns are, as it is called with them."""
    features, pads = features_of(model), paddings_of(model)
    return {n: _tensor(columns[n], features[n], pads.get(n, PAD)) for n in inputs_of(model) if n in columns}


def _tensor(column: Column, feature: Feature, pad: int) -> Tensor:
    if isinstance(column, Bags):
        column = column.padded(None if feature.pooling else feature.max, pad)
    kind = np.int64 if feature.has_ids else np.float32
    return torch.from_numpy(np.ascontiguousarray(column, kind) if column.dtype == kind else column.astype(kind))


def _look_up_padded(model: nn.Module) -> None:
    """Let embeddings that are looked up by several ids a sample know padding, and pool."""
    seen: dict[str, set[str]] = {}  # while the network is called for the first time
    features, pads = features_of(model), paddings_of(model)
    padded = {name: Padded(module) for name, module in _embeddings(model).items()}
    for name, module in _embeddings(model).items():
        module.forward = padded[name]
        padded[name].features = partial(lambda name: {f: features[f] for f in features if f in seen[name]}, name)
    _watch(model, seen)
    for name, module in _embeddings(model).items():
        own = [f for f in seen.get(name, ()) if f and features[f].kind == "ids"]
        if not own:
            del module.forward  # its own again
        pads |= {f: module.padding_idx for f in own if module.padding_idx is not None}


def pooling_of(module: nn.Module, features: Mapping[str, Feature]) -> str | None:
    """Return how an embedding joins the rows of a sample's ids: sum, mean, or not at all.

    Raises:
        JobError: the features that look it up say so differently: ids do not tell which feature they come from; or it takes
            the maximum, by which rows cannot be trained here.
    """
    if isinstance(module, nn.EmbeddingBag):
        if module.mode == "max":
            raise JobError("runner.model: an EmbeddingBag has mode max: use mean or sum, or pool in forward")
        return str(module.mode)
    ways = {name: feature.pooling for name, feature in features.items() if feature.kind == "ids"}
    if len(set(ways.values())) > 1:
        said = " and ".join(f"{name} ({f'pooling: {way}' if way else 'no pooling'})" for name, way in ways.items())
        raise JobError(
            f"runner.model: {said} look up one embedding: give each its own, or leave pooling out and pool in forward"
        )
    return next(iter(ways.values()), None)


@contextmanager
def pooling_by(pool: Callable[[Tensor, Tensor, bool], Tensor], model: nn.Module) -> Iterator[None]:
    """Look pooled ids up by another function of weight float32[rows, dim], ids int64[B, L] and whether it is the mean.

    A look-up that does not pool is torch's own meanwhile, as if there were no padding.
    """
    changed = [(m, m.forward) for m in _embeddings(model).values() if isinstance(m.forward, Padded)]
    for module, padded in changed:
        module.forward = partial(_pooled_by, pool, module, padded.pooling)
    try:
        yield
    finally:
        for module, padded in changed:
            module.forward = padded


def _pooled_by(pool: Callable[[Tensor, Tensor, bool], Tensor], module: Any, how: str | None, ids: Tensor) -> Tensor:
    pools = how is not None and ids.dim() > 1
    return pool(module.weight, ids, how == "mean") if pools else functional.embedding(ids, module.weight)


class Padded:
    """Stands in for the forward of an embedding that is looked up by several ids a sample.

    Args:
        module: the embedding.

    Attributes:
        features: returns those that look it up.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.features: Callable[[], Mapping[str, Feature]] = dict

    @property
    def pooling(self) -> str | None:
        """How it joins the rows of a sample's ids."""
        return pooling_of(self._module, self.features())

    def __call__(self, ids: Tensor) -> Tensor:
        """Look rows up, zeros at padding."""
        weight, pad = cast(Tensor, self._module.weight), cast("int | None", self._module.padding_idx)
        padding = ids < 0 if pad is None else (ids < 0) | (ids == pad)
        return look_up(weight, ids.masked_fill(padding, 0), padding, self.pooling if ids.dim() > 1 else None)


def look_up(rows: Tensor, index: Tensor, padding: Tensor, pooling: str | None) -> Tensor:
    """Look up rows, zeros at padding.

    Args:
        rows: float32[R, dim], R at least 1.
        index: int64[..., L].
        padding: bool[..., L], where there is no id.
        pooling: sum or mean over the ids of a sample; None: none.

    Returns:
        float32[..., L, dim], or pooled [..., dim]; a sample without ids has zeros.
    """
    found = functional.embedding(index, rows).masked_fill(padding.unsqueeze(-1), 0.0)
    if pooling is None:
        return found
    total = found.sum(-2)
    return total / (~padding).sum(-1, keepdim=True).clamp(min=1) if pooling == "mean" else total
