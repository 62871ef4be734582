"""From a job to its network, and from the network to its description.

The network is a built-in one by `mode`, or a class of the user's own by `runner.model`, which is tried once, so that a
wrong form is told before anything starts. The start of all weights follows from the job's seed; torch's global generator
is put back as it was. The description says which parameter is looked up by which input column, and how each starts.
"""

import inspect
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from fedps.config import Job
from fedps.config.checks.training import FEWER_IDS
from fedps.config.classes import load_class
from fedps.errors import JobError
from fedps.models.loss import check_loss, own_loss
from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf
from fedps.models.network import EmbeddingLayer, Network
from fedps.types import Init

NETWORKS: Mapping[str, type[nn.Module]] = {"NCF_MLP": NcfMlp, "NCF_GMF": NcfGmf, "NCF_NeuMF": NcfNeuMf}
PURPOSE = zlib.crc32(b"fedps.models.build")  # sets this stream apart from others of the same seed
SAMPLES = 64  # on which a network is tried for logits
PROBABILITIES = {"Sigmoid", "Hardsigmoid", "LogSigmoid", "Softmax", "LogSoftmax"}  # as autograd names them
RESHAPES = {
    "Squeeze",
    "Unsqueeze",
    "View",
    "UnsafeView",
    "Reshape",
    "Select",
    "Slice",
    "Index",
    "Alias",
    "Clone",
    "ToCopy",
}
MOST_ROWS = 1 << 28  # beyond which a network that cannot be made may have taken ids of 64 bits for rows
_GENERATOR = threading.Lock()  # torch has one generator for all threads


def build(job: Job) -> nn.Module:
    """Make the job's network; the same job gives the same weights.

    Returns:
        A module that maps user int64[B] and item int64[B] to logits float32[B].

    Raises:
        JobError: `runner.model` names no class that can be made from `hyper_parameters`, or one that does not
            map user int64[B] and item int64[B] to logits [B], or whose own loss is none.
    """
    path = job.runner.model
    if path is None:
        hyper = job.hyper_parameters
        with _seeded(job.runner.seed):
            return NETWORKS[hyper.mode](hyper.num_users, hyper.num_items, hyper.mf_dim, hyper.fc_layers)
    network = _find(path, job.folder)
    arguments = _arguments(path, network, job)
    try:
        with _seeded(job.runner.seed):
            model = network(**arguments)
    except Exception as error:  # whatever the user's own code raises
        huge = max(job.hyper_parameters.num_users, job.hyper_parameters.num_items) > MOST_ROWS
        remedy = f"; where num_users and num_items are rows, {FEWER_IDS}" if huge else ""
        raise JobError(f"runner.model: {path}: cannot be made: {type(error).__name__}: {error}{remedy}") from error
    _adapt(model)
    _check_forward(path, model)
    if own_loss(model) is None:
        _check_logits(path, model, job)
    check_loss(path, model)
    return model


def redrawn(model: nn.Module, job: Job) -> nn.Module | None:
    """Make the user's own network a second time, from another stream: what is the same in both was given, not drawn.

    None for a built-in network, all of whose rows are drawn.
    """
    if job.runner.model is None:
        return None
    with _seeded(job.runner.seed, again=1):
        return type(model)(**_arguments(job.runner.model, type(model), job))


def _find(path: str, folder: Path) -> type[nn.Module]:
    """Find a network's class.

    Raises:
        JobError: there is none, or it is no network.
    """
    network: type[nn.Module] = load_class(path, folder, "runner.model")
    if not issubclass(network, nn.Module):
        raise JobError(f"runner.model: {path!r}: is no network; derive it from torch.nn.Module")
    return network


def _arguments(path: str, network: type[nn.Module], job: Job) -> dict[str, object]:
    """Return the hyperparameters that a class asks for by name.

    Raises:
        JobError: one is missing, or the job has a key of its own that the class does not take.
    """
    hyper = job.hyper_parameters
    own = dict(hyper.model_extra or {})
    values = {n: getattr(hyper, n) for n in type(hyper).model_fields if n != "optimizer"} | own
    takes = inspect.signature(network).parameters
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return values
    needs = [n for n, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    mistakes = [
        f"hyper_parameters.{n}: is missing: {path} needs it; there are {', '.join(values)}"
        for n in needs
        if n not in values
    ] + [
        f"hyper_parameters.{n}: {own[n]!r}: {path} takes no such argument; it takes {', '.join(takes) or 'none'}"
        for n in sorted(set(own) - set(takes))
    ]
    if mistakes:
        raise JobError(mistakes)
    return {n: value for n, value in values.items() if n in takes}


def _adapt(model: nn.Module) -> None:
    """Let a network be called with user and item, and return [B]: one may take both in a list, or return [B, 1]."""
    forward: Callable[..., Any] = model.forward
    takes = [p.kind for p in inspect.signature(forward).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    in_list = takes in ([Parameter.POSITIONAL_OR_KEYWORD], [Parameter.POSITIONAL_ONLY])

    def adapted(user: torch.Tensor, item: torch.Tensor) -> Any:
        logits = forward([user, item]) if in_list else forward(user, item)
        column = isinstance(logits, torch.Tensor) and logits.shape == (len(user), 1)
        return logits.squeeze(1) if column else logits

    model.forward = adapted


def _check_logits(path: str, model: nn.Module, job: Job) -> None:
    """Refuse a network that returns probabilities: the loss takes the sigmoid of what it returns, so little is learned.

    Raises:
        JobError: its last function is a sigmoid or its kin, or whatever its weights, it returns values in [0, 1].
    """
    hyper, ids, training = job.hyper_parameters, torch.arange(SAMPLES), model.training
    columns = ids % hyper.num_users, ids % hyper.num_items
    model.eval()
    try:
        logits = model(*columns)
        last = _last_function(logits)
        bounded = last in PROBABILITIES
        if not bounded and _in_unit(logits) and len(logits.unique()) > 1:
            with torch.no_grad():
                large = {name: 1000 * weight for name, weight in model.named_parameters()}
                bounded, last = _in_unit(functional_call(model, large, columns)), "something that keeps within [0, 1]"
    except Exception as error:  # whatever the user's own code raises
        raise JobError(
            f"runner.model: {path}: forward(user, item) fails on ids below num_users and num_items: {type(error).__name__}:"
            f" {error}"
        ) from error
    finally:
        model.train(training)
    if bounded:
        raise JobError(
            f"runner.model: {path}: forward(user, item) ends in {last.lower()}; return the logits, what goes into it: the"
            " loss takes the sigmoid itself, and of one taken twice little is learned (or give the network a loss of its own)"
        )


def _last_function(values: torch.Tensor) -> str:
    """Return the name of the function that made some values, e.g. `Sigmoid`, whatever reshaped them since."""
    node: Any = values.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0]
        if name not in RESHAPES:
            return str(name)
        node = node.next_functions[0][0]
    return ""


def _in_unit(values: torch.Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _check_forward(path: str, model: nn.Module) -> None:
    """Call the network once, on two samples, so that a wrong form is an error before anything starts.

    Raises:
        JobError: it fails, returns no logits float32[B], or changes buffers in training.
    """
    ids = torch.zeros(2, dtype=torch.int64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(ids, ids)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(
            f"runner.model: {path}: forward(user, item) fails on two samples: {type(error).__name__}: {error}"
        ) from error
    _check_buffers(path, model)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2,) or not logits.is_floating_point():
        what = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise JobError(f"runner.model: {path}: forward(user, item) returns {what}; logits of shape [B] are due")
    model.train(training)


def _check_buffers(path: str, model: nn.Module) -> None:
    """Refuse what changes in training and is no parameter: it would be neither shared nor saved.

    Raises:
        JobError: names the buffers.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if not buffers:
        return
    ids, training = torch.zeros(2, dtype=torch.int64), model.training
    with torch.no_grad():
        model.train()(ids, ids)
    model.train(training)
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])]
    if changed:
        raise JobError(
            f"runner.model: {path}: training changes {', '.join(changed)}, which are no parameters: clients would each"
            " have their own and no save would hold them; use LayerNorm or GroupNorm instead of BatchNorm"
        )


@contextmanager
def _seeded(seed: int, again: int = 0) -> Iterator[None]:
    """Let torch draw from the job's stream, or from the next, then put its generator back."""
    stream = int(np.random.SeedSequence([seed, PURPOSE]).generate_state(2, np.uint64)[again])
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream)
        yield


def describe(model: nn.Module, other: nn.Module | None = None) -> Network:
    """Describe a network: every `nn.Embedding` that an input column looks up is a table, all other parameters are dense.

    Args:
        model: as built; with a class attribute `row_init`, parameter's name → `Init`, if it states how rows start.
        other: as `redrawn`, to tell rows that are given from those that are drawn.
    """
    modules = {f"{name}.weight": name for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    columns = _columns(model, modules)
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

    def layer(name: str, column: str) -> EmbeddingLayer:
        weight = model.get_parameter(name)  # also where another parameter's name stands for the same tensor
        rows, dim = weight.shape
        return EmbeddingLayer(name, modules[name], column, (rows, dim), start(name, weight))

    embeddings = [layer(name, column) for name, column in columns.items()]
    dense = {name: weight.detach() for name, weight in weights.items() if name not in columns}
    flat = [weight.reshape(-1).to(torch.float32).numpy() for weight in dense.values()]
    return Network(
        tuple(embeddings),
        tuple((name, tuple(weight.shape)) for name, weight in dense.items()),
        aliases(model),
        (*_tied(model, columns), *_with_options(model, columns, modules)),
        np.concatenate([*flat, np.empty(0, np.float32)]).astype("<f4").tobytes(),
        tuple(name for name, weight in weights.items() if not weight.requires_grad),
        given,
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


def _tied(model: nn.Module, columns: Mapping[str, str]) -> list[str]:
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


def _with_options(model: nn.Module, columns: Mapping[str, str], modules: Mapping[str, str]) -> list[str]:
    """Name embeddings with options that rows by id do not have: rows would be trained as if there were none."""
    mistakes = []
    for name in columns:
        layer = model.get_submodule(modules[name])
        options = {o: getattr(layer, o) for o in ("padding_idx", "max_norm", "scale_grad_by_freq")}
        if used := [f"{o}={value}" for o, value in options.items() if value is not None and value is not False]:
            mistakes.append(
                f"runner.model: {name} has {', '.join(used)}: rows that are looked up by {columns[name]} ids have no such"
                " option; leave it out"
            )
    return mistakes


@torch.no_grad()
def _columns(model: nn.Module, modules: Mapping[str, str]) -> dict[str, str]:
    """Find which input column looks up each embedding, by calling the model once on marked samples.

    An embedding that is called with something else (a position, a derived id) is trained as a dense tensor.
    """
    marks = {"user": torch.tensor([0, 1, 1]), "item": torch.tensor([1, 0, 1])}
    seen: dict[str, set[str]] = {}  # by embedding the columns it was called with; "" is none of them

    def watch(name: str) -> object:
        def note(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            ids = args[0]
            same = (c for c, mark in marks.items() if ids.shape == mark.shape and torch.equal(ids, mark))
            seen.setdefault(name, set()).add(next(same, ""))

        return note

    hooks = [model.get_submodule(m).register_forward_pre_hook(watch(n)) for n, m in modules.items()]  # type: ignore[arg-type]
    try:
        model(*marks.values())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: next(iter(columns)) for name, columns in seen.items() if len(columns) == 1 and columns != {""}}


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
