"""Neural collaborative filtering (He et al., WWW 2017) with the sizes and starts of the FL-PS quick start.

Each network takes user int64[B] and item int64[B] and returns logits float32[B]. Embeddings are made user first, then
item (NeuMF: those of the GMF part before those of the MLP part).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from fedps.types import Init

START = Init("normal", 0.0, 0.01)


class NcfGmf(nn.Module):
    """Generalized matrix factorization: rows multiplied, then weighed (section 3.2)."""

    row_init = {"mf_user.weight": START, "mf_item.weight": START}

    def __init__(self, num_users: int, num_items: int, mf_dim: int) -> None:
        super().__init__()
        self.mf_user, self.mf_item = _table(num_users, mf_dim), _table(num_items, mf_dim)
        self.predict = _head(mf_dim, mf_dim)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return logits float32[B]."""
        out: torch.Tensor = self.predict(self.mf_user(user) * self.mf_item(item))
        return out.squeeze(1)


class NcfMlp(nn.Module):
    """Rows laid side by side through a tower of layers (section 3.3)."""

    row_init = {"mlp_user.weight": START, "mlp_item.weight": START}

    def __init__(self, num_users: int, num_items: int, fc_layers: Sequence[int]) -> None:
        super().__init__()
        self.mlp_user, self.mlp_item = _table(num_users, fc_layers[0] // 2), _table(num_items, fc_layers[0] // 2)
        self.mlp = _tower(fc_layers)
        self.predict = _head(fc_layers[-1], 2 * fc_layers[-1])

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return logits float32[B]."""
        out: torch.Tensor = self.predict(self.mlp(torch.cat((self.mlp_user(user), self.mlp_item(item)), 1)))
        return out.squeeze(1)


class NcfNeuMf(nn.Module):
    """Both, joined before the last layer (section 3.4)."""

    row_init = {**NcfGmf.row_init, **NcfMlp.row_init}

    def __init__(self, num_users: int, num_items: int, mf_dim: int, fc_layers: Sequence[int]) -> None:
        super().__init__()
        self.mf_user, self.mf_item = _table(num_users, mf_dim), _table(num_items, mf_dim)
        self.mlp_user, self.mlp_item = _table(num_users, fc_layers[0] // 2), _table(num_items, fc_layers[0] // 2)
        self.mlp = _tower(fc_layers)
        self.predict = _head(mf_dim + fc_layers[-1], 2 * (mf_dim + fc_layers[-1]))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return logits float32[B]."""
        mf = self.mf_user(user) * self.mf_item(item)
        mlp = self.mlp(torch.cat((self.mlp_user(user), self.mlp_item(item)), 1))
        out: torch.Tensor = self.predict(torch.cat((mf, mlp), 1))
        return out.squeeze(1)


def _table(rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, dim)
    nn.init.normal_(table.weight, START.a, START.b)
    return table


def _tower(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.trunc_normal_(linear.weight, std=inputs**-0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def _head(inputs: int, fan_in: int) -> nn.Linear:
    """Return the last layer, Kaiming-uniform over `fan_in`, which the original sets to twice the inputs."""
    linear = nn.Linear(inputs, 1)
    bound = (6 / fan_in) ** 0.5
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear
