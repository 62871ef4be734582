"""Imported once by the fork server: all that every worker needs, so that a worker starts in milliseconds.

Where workers train by torch, that is imported too, with what it imports itself on its first training step. Nothing here
opens a connection or starts a thread, which would not survive a fork.
"""

import os
import signal

import grpc._channel  # which grpc imports with the first connection
import numpy.ma  # and numpy where it is first asked for distinct values
import numpy.random

import fedps.client.life
import fedps.launch.local.entry
import fedps.training.compiled
from fedps.training.plan import made_by

__all__ = ["fedps", "grpc", "numpy"]

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a closed terminal; Ctrl-C a fork server ignores by itself
made_by()  # reads all files that a plan is made by, and versions of packages

if "FEDPS_PRELOAD_TORCH" in os.environ:
    import torch
    from torch import nn

    import fedps.models.build
    import fedps.training.eager

    torch.set_num_threads(1)
    _toy = nn.Linear(2, 1)
    _loss = nn.functional.binary_cross_entropy_with_logits(_toy(torch.ones(1, 2)), torch.ones(1, 1))
    torch.autograd.grad(_loss, list(_toy.parameters()))
