"""Imported once by the fork server if workers train by torch: also what torch imports on its first training step.

Nothing here opens a connection or starts a thread, which would not survive a fork.
"""

import torch
from torch import nn

import fedps.models.build
import fedps.training.eager

torch.set_num_threads(1)
_toy = nn.Linear(2, 1)
_loss = nn.functional.binary_cross_entropy_with_logits(_toy(torch.ones(1, 2)), torch.ones(1, 1))
torch.autograd.grad(_loss, list(_toy.parameters()))

__all__ = ["fedps"]
