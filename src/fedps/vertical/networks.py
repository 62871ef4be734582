"""The network of a vertical job, cut in two: what each party computes of its features, and what joins these at the active party.

| `vertical.network` | a party sends of each sample | the active party |
| --- | --- | --- |
| MLP | layers of `bottom_units` | layers of `hidden_units` |
| DeepFM | what it adds to the machine's sums, and to the first layer | models.ctr.DeepFM of all features, exactly |
| DCNv2 | its features' rows end to end | models.ctr.DCNv2 of all features, exactly |
| TwoTower | layers of `hidden_units`, of length 1 | their product, divided by `temperature` |
| own | what its `bottom` returns, float32[B, width] | what its `top` makes of the parties' tensors, by name |
"""

from collections.abc import Mapping

from torch import nn

from fedps.config.vertical import VerticalJob


def make_bottom(job: VerticalJob, party: str) -> nn.Module | None:
    """Make a party's part; the same job gives the same weights.

    Returns:
        A module that maps the features of `inputs_of` it to float32[B, width]; None if the party has no features.

    Raises:
        JobError: its features do not fit the network, or its own class cannot be made or called.
    """
    raise NotImplementedError


def width_of(bottom: nn.Module) -> int:
    """Return how many floats a party sends of a sample."""
    raise NotImplementedError


def make_top(job: VerticalJob, widths: Mapping[str, int]) -> nn.Module:
    """Make what joins the parties' parts.

    Args:
        job: the job.
        widths: of each party that has features, in the order of `job.order`.

    Returns:
        A module that maps these parties' float32[B, width], in this order, to float32[B]: logits, or numbers.

    Raises:
        JobError: the network does not take so many parties, or its own class cannot be made or called.
    """
    raise NotImplementedError
