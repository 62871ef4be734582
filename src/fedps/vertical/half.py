"""What a party trains of a vertical network: its bottom (`Half`), and at the active party what joins all (`Top`).

One step, at the active party:

    half, top = Half(job, "shop", data), Top(job, {"shop": half.width, …})
    cut = half.forward(samples)
    stepped = top.step([cut, …], label)
    half.backward(stepped.gradients[0])

A passive party says its cut and waits for the gradient.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedps.config.vertical import VerticalJob
from fedps.data.samples import ClientData, Order
from fedps.types import State, Values


class Half:
    """A party's bottom with its tables, which never leave it, and their optimizer.

    Args:
        job: the job.
        party: whose; it has features.
        data: its samples, in the order on which all parties agreed.

    Attributes:
        width: floats that it sends of a sample.

    Raises:
        JobError: the network cannot be made of its features.
    """

    width: int

    def __init__(self, job: VerticalJob, party: str, data: ClientData) -> None:
        raise NotImplementedError

    def forward(self, samples: Order) -> Values:
        """Return what the party sends of some training samples, float32[B, width]; it stays open until its `backward`."""
        raise NotImplementedError

    def backward(self, gradient: Values) -> None:
        """Take a step on the oldest batch that is open, by the gradient of what was sent of it, float32[B, width]."""
        raise NotImplementedError

    def score(self, places: slice) -> Values:
        """Return what the party sends of some held-out samples, float32[n, width]."""
        raise NotImplementedError

    def state(self) -> State:
        """Return all that training has changed; no batch is open."""
        raise NotImplementedError

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of a half of the same job and data."""
        raise NotImplementedError


class Stepped(NamedTuple):
    """What a step of the top came to.

    Attributes:
        loss: the batch's mean.
        scores: float32[B]: probabilities, with mse numbers.
        gradients: of what each party sent, float32[B, width], in the order in which it came.
    """

    loss: float
    scores: Values
    gradients: list[Values]


class Top:
    """What joins the parties' parts at the active party, with its optimizer.

    Args:
        job: the job.
        widths: of each party that has features, in the order of `job.order`.

    Raises:
        JobError: the network does not take so many parties, or its own class cannot be made.
    """

    def __init__(self, job: VerticalJob, widths: Mapping[str, int]) -> None:
        raise NotImplementedError

    def step(self, cuts: Sequence[Values], label: Values) -> Stepped:
        """Take a step on a batch.

        Args:
            cuts: what each party sent, float32[B, width], in the order of `widths`.
            label: float32[B].
        """
        raise NotImplementedError

    def score(self, cuts: Sequence[Values]) -> Values:
        """Return the logits, with mse the numbers, of held-out samples, float32[n]."""
        raise NotImplementedError

    def state(self) -> State:
        """Return all that training has changed."""
        raise NotImplementedError

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of a top of the same job."""
        raise NotImplementedError
