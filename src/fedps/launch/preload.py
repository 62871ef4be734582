"""Imported once by the fork server: all that every worker needs, so that a worker starts in milliseconds.

One training step on a toy model brings in what torch imports on first use. Nothing here opens a connection or starts
a thread, which would not survive a fork.
"""

import torch
from torch import nn

import fedps.client.worker

torch.set_num_threads(1)
_toy = nn.Linear(2, 1)
_loss = nn.functional.binary_cross_entropy_with_logits(_toy(torch.ones(1, 2)), torch.ones(1, 1))
torch.autograd.grad(_loss, list(_toy.parameters()))

__all__ = ["fedps"]
