"""From a job to its network.

The network is a built-in one by `mode`, or a class of the user's own by `runner.model`, which is tried once, so that a
wrong form is told before anything starts. The start of all weights follows from the job's seed; torch's global generator
is put back as it was.
"""

import inspect
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from fedps.config import Job
from fedps.config.checks.training import FEWER_IDS
from fedps.config.classes import load_class
from fedps.config.sections.features import labels
from fedps.errors import JobError
from fedps.models.inputs import adapt, example, features_of, inputs_of
from fedps.models.loss import check_loss, own_loss
from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf

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
        A module that maps the features of `inputs.inputs_of` it, in that order, to logits float32[B], or [B, tasks].

    Raises:
        JobError: `runner.model` names no class that can be made from `hyper_parameters`, or one that does not
            map the job's features to logits, or whose own loss is none.
    """
    path = job.runner.model
    if path is None:
        hyper = job.hyper_parameters
        with _seeded(job.runner.seed):
            model = NETWORKS[hyper.mode](hyper.num_users, hyper.num_items, hyper.mf_dim, hyper.fc_layers)
        adapt(hyper.mode, model, job.inputs, classic=not job.features)
        return model
    network = _find(path, job.folder)
    arguments = _arguments(path, network, job)
    try:
        with _seeded(job.runner.seed):
            model = network(**arguments)
    except Exception as error:  # whatever the user's own code raises
        huge = max(job.hyper_parameters.num_users, job.hyper_parameters.num_items) > MOST_ROWS
        remedy = f"; where num_users and num_items are rows, {FEWER_IDS}" if huge else ""
        raise JobError(f"runner.model: {path}: cannot be made: {type(error).__name__}: {error}{remedy}") from error
    adapt(path, model, job.inputs, classic=not job.features)
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


def _check_logits(path: str, model: nn.Module, job: Job) -> None:
    """Refuse a network that returns probabilities: the loss takes the sigmoid of what it returns, so little is learned.

    Raises:
        JobError: its last function is a sigmoid or its kin, or whatever its weights, it returns values in [0, 1].
    """
    columns, training, form = tuple(example(model, SAMPLES)), model.training, _form(model)
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
            f"runner.model: {path}: {form} fails on ids below {'num_users and num_items' if not job.features else 'their rows'}:"
            f" {type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(training)
    if bounded:
        raise JobError(
            f"runner.model: {path}: {form} ends in {last.lower()}; return the logits, what goes into it: the"
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
    columns, training, form = example(model, 2), model.training, _form(model)
    model.eval()
    try:
        with torch.no_grad():
            logits = model(*columns)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(f"runner.model: {path}: {form} fails on two samples: {type(error).__name__}: {error}") from error
    _check_buffers(path, model, columns)
    tasks = len(labels(features_of(model)))
    shape = (2,) if tasks < 2 else (2, tasks)
    if not isinstance(logits, torch.Tensor) or logits.shape != shape or not logits.is_floating_point():
        what = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        due = "[B]" if tasks < 2 else f"[B, {tasks}], one for each label,"
        raise JobError(f"runner.model: {path}: {form} returns {what}; logits of shape {due} are due")
    model.train(training)


def _form(model: nn.Module) -> str:
    """Return how a network is called."""
    return f"forward({', '.join(inputs_of(model))})"


def _check_buffers(path: str, model: nn.Module, columns: Sequence[torch.Tensor]) -> None:
    """Refuse what changes in training and is no parameter: it would be neither shared nor saved.

    Raises:
        JobError: names the buffers.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if not buffers:
        return
    training = model.training
    with torch.no_grad():
        model.train()(*columns)
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
