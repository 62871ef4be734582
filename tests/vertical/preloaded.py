"""Imported once by the process that parties are forked from: all that they need, and what torch imports with its first trace."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

import tests.vertical.meetings  # noqa: F401

torch.set_num_threads(1)
make_fx(lambda numbers: numbers + 1, tracing_mode="fake")(torch.ones(2))
