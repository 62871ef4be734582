"""What training makes small: the built-in loss, or the network's own method `loss`."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedps.errors import JobError

Loss = Callable[[Tensor, Tensor], Tensor]  # logits float32[B], label float32[B] → a float32 scalar


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


LOSSES: Mapping[str, Loss] = {"bce": cross_entropy, "bpr": pairwise}  # by the job's name


def own_loss(model: nn.Module) -> Loss | None:
    """Return the network's own loss, a method `loss(self, logits, label)` of its class; None if it has none.

    A layer that happens to be called `loss` is no method of the class.
    """
    if not callable(getattr(type(model), "loss", None)):
        return None
    return cast(Loss, model.loss)


def check_loss(path: str, model: nn.Module) -> None:
    """Call the network's own loss once, on two samples, so that a wrong one is told before anything starts.

    Raises:
        JobError: it fails, or returns something else than one finite number that depends on the logits.
    """
    loss = own_loss(model)
    if loss is None:
        return
    logits = torch.zeros(2, requires_grad=True)
    where = f"runner.model: {path}: loss(logits, label)"
    try:
        value = loss(logits, torch.tensor([1.0, 0.0]))  # the order of a pair
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
