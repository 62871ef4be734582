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
from fedps.config.sections.features import Feature, labels
from fedps.config.sections.training import OF_NETWORKS
from fedps.errors import JobError
from fedps.models.ctr import DIN, DCNv2, DeepFM
from fedps.models.inputs import adapt, example, features_of, inputs_of
from fedps.models.loss import check_loss, logits_of, own_loss
from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf
from fedps.models.sequence import SASRec
from fedps.models.towers import MF, TwoTower

NCF: Mapping[str, type[nn.Module]] = {"NCF_MLP": NcfMlp, "NCF_GMF": NcfGmf, "NCF_NeuMF": NcfNeuMf}
NETWORKS: Mapping[str, type[nn.Module]] = {
    "MF": MF, "TwoTower": TwoTower, "DeepFM": DeepFM, "DCNv2": DCNv2, "DIN": DIN, "SASRec": SASRec,
}  # fmt: skip
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
GENERATOR = threading.Lock()  # torch has one generator for all threads: whoever draws a stream from it holds this


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
        ncf = NCF.get(hyper.mode)
        with seeded(job.runner.seed):
            if ncf is not None:
                model: nn.Module = ncf(hyper.num_users, hyper.num_items, hyper.mf_dim, hyper.fc_layers)
            else:
                inputs = {name: feature for name, feature in job.inputs.items() if feature.kind != "label"}
                model = NETWORKS[hyper.mode](inputs, hyper, max(1, len(labels(job.inputs))))
        adapt(hyper.mode, model, job.inputs, classic=not job.features and ncf is not None)
        return model
    network = _find(path, job.folder)
    model = _make(path, network, job, _arguments(path, network, job))
    adapt(path, model, job.inputs, classic=not job.features)
    _check_forward(path, model)
    if own_loss(model) is None:
        check_logits(path, model, job)
    _check_training(path, model, job)
    return model


def build_part(path: str, job: Job, features: Mapping[str, Feature], more: Mapping[str, object]) -> nn.Module:
    """Make a class of the user's own that is a part of a network; what it returns is for the caller to judge.

    Args:
        path: names the class.
        job: of its hyperparameters the class gets those that it asks for; the others are for other parts.
        features: what it may take.
        more: what else it may ask for.

    Raises:
        JobError: there is no such class, it cannot be made, does not take the features, or fails on two samples.
    """
    network = _find(path, job.folder)
    model = _make(path, network, job, _arguments(path, network, job, more))
    with seeded(job.runner.seed):
        adapt(path, model, features, classic=False)
    try:
        with torch.no_grad():
            model.eval()(*example(model, 2))
    except Exception as error:  # whatever the user's own code raises
        raise JobError(
            f"runner.model: {path}: {_form(model)} fails on two samples: {type(error).__name__}: {error}"
        ) from error
    with seeded(job.runner.seed):
        _check_buffers(path, model, example(model, 2))
    return model.train()


def redrawn(model: nn.Module, job: Job, more: Mapping[str, object] | None = None) -> nn.Module | None:
    """Make the user's own network a second time, from another stream: what is the same in both was given, not drawn.

    None for a built-in network, all of whose rows are drawn. `more` is as for `build_part`.
    """
    if job.runner.model is None:
        return None
    with seeded(job.runner.seed, again=1):
        return type(model)(**_arguments(job.runner.model, type(model), job, more))


def _find(path: str, folder: Path) -> type[nn.Module]:
    """Find a network's class.

    Raises:
        JobError: there is none, or it is no network.
    """
    network: type[nn.Module] = load_class(path, folder, "runner.model")
    if not issubclass(network, nn.Module):
        raise JobError(f"runner.model: {path!r}: is no network; derive it from torch.nn.Module")
    return network


def _make(path: str, network: type[nn.Module], job: Job, arguments: Mapping[str, object]) -> nn.Module:
    """Make a network of the user's own. Raises JobError: it cannot be made."""
    try:
        with seeded(job.runner.seed):
            return network(**arguments)
    except Exception as error:  # whatever the user's own code raises
        huge = max(job.hyper_parameters.num_users, job.hyper_parameters.num_items) > MOST_ROWS
        remedy = f"; where num_users and num_items are rows, {FEWER_IDS}" if huge else ""
        raise JobError(f"runner.model: {path}: cannot be made: {type(error).__name__}: {error}{remedy}") from error


def _arguments(
    path: str, network: type[nn.Module], job: Job, more: Mapping[str, object] | None = None
) -> dict[str, object]:  # fmt: skip
    """Return the hyperparameters that a class asks for by name.

    Args:
        path: names the class.
        network: it.
        job: has them.
        more: the class is a part of a network, and this is what it may ask for besides; None: it is the whole network, and
            must take each key of the job's own.

    Raises:
        JobError: one is missing, or the job has a key of its own that the class does not take.
    """
    hyper = job.hyper_parameters
    own = {n: getattr(hyper, n) for n in OF_NETWORKS & hyper.model_fields_set} | (hyper.model_extra or {})
    values = {n: getattr(hyper, n) for n in type(hyper).model_fields if n not in OF_NETWORKS | {"optimizer"}} | own
    values |= more or {}
    takes = inspect.signature(network).parameters if network.__init__ is not nn.Module.__init__ else {}
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return values
    needs = [n for n, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    mistakes = [
        f"hyper_parameters.{n}: is missing: {path} needs it; there are {', '.join(values)}"
        for n in needs
        if n not in values
    ] + [
        f"hyper_parameters.{n}: {own[n]!r}: {path} takes no such argument; it takes {', '.join(takes) or 'none'}"
        for n in (sorted(set(own) - set(takes)) if more is None else ())
    ]
    if mistakes:
        raise JobError(mistakes)
    return {n: value for n, value in values.items() if n in takes}


def check_logits(path: str, model: nn.Module, job: Job) -> None:
    """Refuse a network that returns probabilities: the loss takes the sigmoid of what it returns, so little is learned.

    Raises:
        JobError: it returns what is not finite, its last function is a sigmoid or its kin, or whatever its weights, it returns
            values in [0, 1].
    """
    columns, training, form = tuple(example(model, SAMPLES)), model.training, _form(model)
    model.eval()
    try:
        logits = model(*columns)
        last = _last_function(logits)
        bounded = last in PROBABILITIES
        finite = bool(logits.isfinite().all())
        if not bounded and _in_unit(logits) and len(logits.unique()) > 1:
            with torch.no_grad():
                large = {name: 1000 * weight for name, weight in model.named_parameters()}
                bounded, last = _in_unit(functional_call(model, large, columns)), "something that keeps within [0, 1]"
    except Exception as error:  # whatever the user's own code raises
        few = "; does an embedding have fewer rows than there are ids?" if isinstance(error, IndexError) else ""
        raise JobError(
            f"runner.model: {path}: {form} fails on ids below {'num_users and num_items' if not job.features else 'their rows'}:"
            f" {type(error).__name__}: {error}{few}"
        ) from error
    finally:
        model.train(training)
    if not finite:
        raise JobError(
            f"runner.model: {path}: {form} returns NaN or an infinity before anything is trained; look for a division by 0, or a"
            " logarithm or square root of what is not positive"
        )
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


def _check_training(path: str, model: nn.Module, job: Job) -> None:
    """Call the network as training does, on two samples, and see whether its loss can take what it returns.

    Raises:
        JobError: it cannot, or a loss of the network's own is wrong.
    """
    loss, form, training = job.hyper_parameters.loss, _form(model), model.training
    if own_loss(model) is None and not job.features and loss in ("bce", "bpr"):
        return None  # it returns what it does in evaluation
    try:
        with seeded(job.runner.seed):
            output = model.train()(*example(model, 2))
    except Exception as error:  # whatever the user's own code raises
        raise JobError(f"runner.model: {path}: {form} fails in training: {type(error).__name__}: {error}") from error
    finally:
        model.train(training)
    if own_loss(model) is not None:
        return check_loss(path, model, output)
    tasks = len(labels(features_of(model)))
    if loss == "in_batch_softmax":
        fits, due = (
            _is_towers(output),
            "rows of users and of items are, (float32[M, d], float32[M, d]) or with the items' ids",
        )
    else:
        fits = isinstance(output, torch.Tensor) or (_is_towers(output) and len(output[0]) == 2)
        fits = fits and logits_of(output).shape == ((2,) if tasks < 2 else (2, tasks))
        due = "logits are, [B]" if tasks < 2 else f"logits are, [B, {tasks}]"
    if not fits:
        parts = output if isinstance(output, tuple) else (output,)
        what = ", ".join(str(tuple(p.shape)) if isinstance(p, torch.Tensor) else type(p).__name__ for p in parts)
        raise JobError(
            f"runner.model: {path}: {form} returns {what} of two samples in training; with loss {loss} {due} due"
        )
    return None


def _is_towers(output: Any) -> bool:
    """Tell whether an output is rows of users and of items, perhaps with the items' ids."""
    if (
        not isinstance(output, tuple)
        or len(output) not in (2, 3)
        or not all(isinstance(p, torch.Tensor) for p in output)
    ):
        return False
    queries, items, *ids = output
    return queries.dim() == 2 and queries.shape == items.shape and all(p.shape == (len(items),) for p in ids)


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
def seeded(seed: int, again: int = 0) -> Iterator[None]:
    """Let torch draw from the job's stream, or from the next, then put its generator back."""
    stream = int(np.random.SeedSequence([seed, PURPOSE]).generate_state(2, np.uint64)[again])
    with GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream)
        yield
