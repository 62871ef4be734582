"""What one would write instead of a table: pulls and pushes in numpy and torch, on rows numbered from 0."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fedps.types import Keys, Values

LR, BETA1, BETA2, EPSILON = 0.001, 0.9, 0.999, 1e-8
Works = dict[str, Callable[[Keys], object]]


def numpy_works(rows: int, values: Values) -> Works:
    """Return numpy's pull, add and lazy Adam of rows `keys`, int64[U] sorted and unique.

    Args:
        rows: of the table.
        values: float32[U, dim], what is pushed.
    """
    w, m, v = (np.full((rows, values.shape[1]), 0.01, np.float32) for _ in range(3))
    steps = np.ones((rows, 1), np.float32)

    def add(keys: Keys) -> None:
        w[keys] += values

    def adam(keys: Keys) -> None:
        n = steps[keys] + 1
        mean = BETA1 * m[keys] + (1 - BETA1) * values
        square = BETA2 * v[keys] + (1 - BETA2) * values * values
        w[keys] -= LR / (1 - BETA1**n) * mean / (np.sqrt(square / (1 - BETA2**n)) + EPSILON)
        steps[keys], m[keys], v[keys] = n, mean, square

    return {"pull": lambda keys: w[keys], "add": add, "lazy_adam": adam}


def torch_works(rows: int, values: Values) -> Works:
    """Return the same in torch, with one thread; Adam is `torch.optim.SparseAdam`."""
    import torch  # noqa: PLC0415  (only where it is measured)

    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.full((rows, values.shape[1]), 0.01))
    w, change = weight.detach(), torch.from_numpy(values)
    optimizer: Any = torch.optim.SparseAdam([weight], lr=LR, betas=(BETA1, BETA2), eps=EPSILON)

    def adam(keys: Keys) -> None:
        index = torch.from_numpy(keys)[None]
        weight.grad = torch.sparse_coo_tensor(index, change, weight.shape, check_invariants=False, is_coalesced=True)
        optimizer.step()

    return {
        "pull": lambda keys: w.index_select(0, torch.from_numpy(keys)),
        "add": lambda keys: w.index_add_(0, torch.from_numpy(keys), change),
        "lazy_adam": adam,
    }
