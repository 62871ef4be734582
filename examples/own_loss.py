"""A loss of your own: focal loss, which spends less on samples that are scored right already.

    fedps run examples/quickstart.yaml -o runner.model=own_loss.FocalMlp -o hyper_parameters.gamma=1.0

A network that has a method `loss` is trained by it; without one, it is the mean binary cross-entropy. Here the built-in
NCF_MLP is kept as it is, and only the loss is new (Lin et al., ICCV 2017).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedps.models.ncf import NcfMlp


class FocalMlp(NcfMlp):
    """NCF_MLP with focal loss.

    Args:
        num_users: rows of the user table.
        num_items: rows of the item table.
        mf_dim: not used.
        fc_layers: the layers' sizes, input first.
        gamma: how much less right samples count; 0 is plain cross-entropy. A key of your own in `hyper_parameters`.
    """

    def __init__(
        self, num_users: int, num_items: int, mf_dim: int, fc_layers: Sequence[int], gamma: float = 2.0
    ) -> None:
        super().__init__(num_users, num_items, mf_dim, fc_layers)
        self.gamma = gamma

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the mean loss of a batch: logits float32[B], label float32[B] (0 or 1)."""
        plain = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        right = torch.exp(-plain)  # the probability given to the true label
        return ((1 - right) ** self.gamma * plain).mean()
