"""The four parts of the original's two-party network, in torch: each party loads its own alone.

A: 26 ids → 260 → 5 → 7 ┐
                        ├ added → 7 → 2
B: 13 numbers →   6 → 7 ┘
"""

import itertools
from math import sqrt

import torch
from torch import Tensor, nn


def layers(*sizes: int) -> nn.Sequential:
    """Return linear layers with ReLU behind each, weights normal with deviation 1/√inputs."""
    steps: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.normal_(linear.weight, 0.0, 1 / sqrt(inputs))
        nn.init.zeros_(linear.bias)
        steps += [linear, nn.ReLU()]
    return nn.Sequential(*steps)


class BottomA(nn.Module):
    """Party A: one table for all categories."""

    def __init__(self, sparse_feature_number: int, sparse_feature_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sparse_feature_number, sparse_feature_dim)
        nn.init.uniform_(self.embedding.weight, -1.0, 1.0)
        self.layers = layers(26 * sparse_feature_dim, 5, 7)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return what is sent to B, float32[B, 7]."""
        sent: Tensor = self.layers(torch.cat([self.embedding(ids) for ids in columns.values()], 1))
        return sent


class BottomB(nn.Module):
    """Party B: the numbers."""

    def __init__(self, dense_input_dim: int) -> None:
        super().__init__()
        self.layers = layers(dense_input_dim, 6, 7)

    def forward(self, dense_feature: Tensor) -> Tensor:
        """Return B's own part, float32[B, 7]."""
        part: Tensor = self.layers(dense_feature)
        return part


class Top(nn.Module):
    """Party B: the interactive layer, which adds both parts, and the top layer.

    Of two classes the softmax is the sigmoid of their difference, so that is the logit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(7, 2)

    def forward(self, **parts: Tensor) -> Tensor:
        """Return logits float32[B]; `parts`: what each party has sent, by its name."""
        scores = self.layers(torch.stack(list(parts.values())).sum(0))
        logits: Tensor = scores[:, 1] - scores[:, 0]
        return logits
