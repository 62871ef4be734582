"""What training makes small: a built-in loss by the job's name, or the network's own method `loss`.

| `hyper_parameters.loss` | of | is |
| --- | --- | --- |
| bce | logits [B], or [B, tasks] | cross-entropy; of real labels the squared error; a weighted sum over labels |
| mse | numbers [B], or [B, tasks] | squared error; a weighted sum over labels |
| bpr | logits [B], in pairs | how far each positive is above a negative of its user |
| sampled_softmax | logits [B], in groups | how well a positive is told from its drawn negatives |
| in_batch_softmax | rows of users and of items [M, d] each | how well an item is told from those of the batch |

Where a network returns two rows [B, d] a sample, their product counts as its logit; in evaluation always.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedps.config import Job
from fedps.config.sections.features import Feature, first_binary, labels
from fedps.errors import JobError
from fedps.models.inputs import features_of
from fedps.models.network import log_shares
from fedps.types import Keys

Output = Tensor | tuple[Tensor, ...]  # of a network in training
Loss = Callable[[Any, Tensor], Tensor]  # output, label float32[B] or [B, tasks] → a float32 scalar
Frequencies = tuple[Keys, NDArray[np.int64]]  # ids, sorted, and how often a batch's items are each of them


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits float32[B] and labels float32[B].

    The original takes the logarithm of p + 1e-4 instead, so that its loss of one sample ends at 9.2; for p between 0.01
    and 0.99 the two differ by less than 0.01. From the logits it needs no such floor.
    """
    return functional.binary_cross_entropy_with_logits(logits, label)


def pairwise(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean of -log σ(positive - negative) over pairs (BPR: Rendle et al., UAI 2009, section 4).

    Args:
        logits: float32[2M], two by two a positive and a negative of its user.
        label: float32[2M], theirs; not needed, as the order tells which is which.
    """
    return functional.softplus(logits[1::2] - logits[0::2]).mean()


def squared_error(numbers: Tensor, label: Tensor) -> Tensor:
    """Return the mean squared error of numbers float32[B] and labels float32[B]."""
    return functional.mse_loss(numbers, label)


class Weighted:
    """The sum over labels of their mean losses, each times its weight; a label that is NaN is left out.

    Args:
        labels: binary ones are learned by cross-entropy, real ones by squared error.
    """

    def __init__(self, labels: Mapping[str, Feature]) -> None:
        self._labels = tuple(labels.values())

    def __call__(self, output: Tensor, label: Tensor) -> Tensor:
        """Return the loss of outputs float32[B, tasks] and labels float32[B, tasks], or of one task's [B]."""
        columns = (output, label) if label.dim() > 1 else (output[:, None], label[:, None])
        total = output.new_zeros(())
        for feature, logits, due in zip(self._labels, *(column.unbind(1) for column in columns), strict=True):
            known = ~due.isnan()
            loss = functional.mse_loss if feature.of == "real" else functional.binary_cross_entropy_with_logits
            each = loss(logits, due.nan_to_num(), reduction="none")
            total = total + feature.weight * (each * known).sum() / known.sum().clamp(min=1)
        return total


class SampledSoftmax:
    """The mean of -log softmax of each positive among its drawn negatives (Jean et al., ACL 2015, section 3.2).

    Negatives are drawn uniformly, so the correction for how they are drawn is the same for all, and falls out.

    Args:
        group: a positive and its negatives: so many logits, the positive's first.
    """

    def __init__(self, group: int) -> None:
        self._group = group

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits float32[M * group]; the order tells which are positives."""
        groups = logits.reshape(-1, self._group)
        return functional.cross_entropy(groups, torch.zeros(len(groups), dtype=torch.int64, device=logits.device))


class InBatchSoftmax:
    """The mean of -log softmax of each row's item among all items of the batch, corrected for how often those occur.

    An item that occurs often is a negative often, so log Q of its frequency is taken from its logit; an item that
    is the row's own, found elsewhere in the batch, is no negative (Yi et al., RecSys 2019, section 3). Rows count by
    their labels, if there is one for each.

    Args:
        frequencies: of the items that a batch is drawn from.
    """

    def __init__(self, frequencies: Frequencies) -> None:
        keys, counts = frequencies
        self._keys = torch.from_numpy(keys.astype(np.int64))
        self._log_q = torch.from_numpy(log_shares(counts))

    def __call__(self, output: tuple[Tensor, ...], label: Tensor) -> Tensor:
        """Return the loss.

        Args:
            output: queries float32[M, d], items float32[M, d] and, unless there is nothing to correct by, ids int64[M].
            label: float32[B], 1 or NaN where a row counts.
        """
        queries, items, *ids = output
        logits = queries @ items.T
        if ids:
            [ids_] = ids
            logits = logits - self._log_q_of(ids_)
            again = (ids_[:, None] == ids_) & ~torch.eye(len(ids_), dtype=torch.bool, device=ids_.device)
            logits = logits.masked_fill(again, -torch.inf)
        loss = functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
        weight = label.nan_to_num(1.0) if len(label) == len(loss) else torch.ones_like(loss)
        return (weight * loss).sum() / weight.sum().clamp(min=1)

    def _log_q_of(self, ids: Tensor) -> Tensor:
        if not len(self._keys):
            return torch.zeros(len(ids), device=ids.device)
        place = torch.searchsorted(self._keys, ids.cpu()).clamp_(max=len(self._keys) - 1)
        return self._log_q[place].to(ids.device)


def training_loss(model: nn.Module, job: Job, frequencies: Callable[[], Frequencies]) -> Loss:
    """Return what a job's training makes small.

    Args:
        model: as `build` makes it; its own loss comes first.
        job: names the loss, the labels and the negatives.
        frequencies: counts the items that a batch is drawn from, if in_batch_softmax wants to know.
    """
    name, every = job.hyper_parameters.loss, labels(job.inputs)
    if (own := own_loss(model)) is not None:
        return own
    if name == "in_batch_softmax":
        return InBatchSoftmax(frequencies())
    if name == "mse" and len(every) < 2:
        return of_logits(squared_error)
    if name in ("bce", "mse") and len(every) > 1:
        return of_logits(Weighted(every))
    return of_logits({"bce": cross_entropy, "bpr": pairwise}.get(name) or SampledSoftmax(job.group))


def of_logits(loss: Loss) -> Loss:
    """Return a loss of whatever logits are made of."""
    return lambda output, label: loss(logits_of(output), label)


def logits_of(output: Output) -> Tensor:
    """Return the logits that a network's output stands for: float32[B], or [B, tasks]; of two rows a sample their product."""
    return output if isinstance(output, Tensor) else (output[0] * output[1]).sum(-1)


def predictions(output: Any, label: Tensor, labels: Mapping[str, Feature]) -> Tensor | None:
    """Return what a training output predicts of each sample, float32[B]: of the first binary label its probability.

    Where all labels are real, the first one's number; None where the output does not tell samples apart.

    Args:
        output: of the network in training.
        label: float32[B], or [B, tasks].
        labels: what is to be learned.
    """
    if not isinstance(output, Tensor) and (len(output) < 2 or output[0].shape != output[1].shape):
        return None
    logits = logits_of(output).detach()
    if logits.shape != label.shape:
        return None
    column, binary = first_binary(labels)
    logits = logits if logits.dim() < 2 else logits[:, column]
    return torch.sigmoid(logits) if binary else logits


def items_of(model: nn.Module) -> tuple[str, ...]:
    """Return the features that a network takes items from: its attribute `candidates`, of one id space; others take `item`."""
    return tuple(getattr(model, "candidates", ("item",)))


def own_loss(model: nn.Module) -> Loss | None:
    """Return the network's own loss, a method `loss(self, output, label)` of its class; None if it has none.

    A layer that happens to be called `loss` is no method of the class.
    """
    if not callable(getattr(type(model), "loss", None)):
        return None
    return cast(Loss, model.loss)


def check_loss(path: str, model: nn.Module, output: Output) -> None:
    """Call the network's own loss once, on a few samples, so that a wrong one is told before anything starts.

    Args:
        path: names the network in errors.
        model: the network.
        output: what it returns for these samples in training.

    Raises:
        JobError: it fails, or returns something else than one finite number that depends on the output.
    """
    loss = own_loss(model)
    if loss is None:
        return
    tasks = len(labels(features_of(model)))
    label = torch.tensor([1.0, 0.0])  # the order of a pair
    label = label if tasks < 2 else label[:, None].expand(2, tasks)
    where = f"runner.model: {path}: loss({'logits' if isinstance(output, Tensor) else 'output'}, label)"
    try:
        value = loss(_leaves(output, label), label)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(f"{where} fails on two samples: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
        what = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise JobError(f"{where} returns {what}; one number is due, the mean over the batch")
    if not value.requires_grad or not torch.isfinite(value):
        raise JobError(
            f"{where} returns {float(value.detach())} on two samples{'' if value.requires_grad else ', cut off from the logits'};"
            " a finite number is due, computed from the logits by torch"
        )


def _leaves(output: Any, label: Tensor) -> Any:
    """Return an output cut off from its network: logits of zero, of other outputs the values as they are."""
    if isinstance(output, Tensor):
        return (torch.zeros_like(output) if output.shape == label.shape else output.detach()).requires_grad_()
    return tuple(part.detach().requires_grad_() if part.is_floating_point() else part for part in output)
