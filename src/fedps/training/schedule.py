"""How learning rates change over a job: a share of the job's own rate for each moment, counted in epochs.

Time is the job's, not a client's: a client that sits a round out goes on at the rate of the round it is back in.
"""

import numpy as np

from fedps.config import Optimizer
from fedps.training.engine import Rates


def rates_at(optimizer: Optimizer, epochs: int, at: Rates) -> Rates:
    """Return the share of the learning rates to take at each moment.

    Warm-up multiplies what the schedule says: it rises from 0 to 1 over the first `warmup` of the job. A batch takes the
    rate of its middle, so that the first is not lost.

    Args:
        optimizer: its `schedule`, `warmup`, `final`, `step_epochs` and `step_factor` count.
        epochs: of the job.
        at: float64[K], epochs since the job began.
    """
    done = np.clip(at / epochs, 0, 1)
    match optimizer.schedule:
        case "linear":
            share = 1 - (1 - optimizer.final) * done
        case "cosine":
            share = optimizer.final + (1 - optimizer.final) * (1 + np.cos(np.pi * done)) / 2
        case "step":
            share = optimizer.step_factor ** np.floor(at / optimizer.step_epochs)
        case _:
            share = np.ones(len(at))
    return share * np.minimum(1, done / optimizer.warmup) if optimizer.warmup else share
