"""A network of your own: two towers, whose user side stays with the client, user layer and all.

    fedps run examples/quickstart.yaml -o runner.model=own_network.TwoTowers -o 'runner.local_sparse=[user.weight]' \\
        -o 'runner.remote_sparse=[item.weight]' -o 'runner.local_dense=[user_layer.weight,user_layer.bias]' \\
        -o hyper_parameters.dim=16

Any torch module will do that is made from `hyper_parameters` by name, and maps user and item ids to one logit a sample.
"""

import torch
from torch import nn


class TwoTowers(nn.Module):
    """A user tower, an item tower, and the product of what they say.

    Args:
        num_users: rows of the user table.
        num_items: rows of the item table.
        dim: floats of a row; a key of your own under `hyper_parameters`.
    """

    def __init__(self, num_users: int, num_items: int, dim: int = 16) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, dim), nn.Embedding(num_items, dim)
        self.user_layer, self.item_layer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(1))
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return logits, float32[B], of users int64[B] and items int64[B]."""
        left, right = self.user_layer(self.user(user)), self.item_layer(self.item(item))
        logits: torch.Tensor = (left * right).sum(dim=1) + self.bias
        return logits
