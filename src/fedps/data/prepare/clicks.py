"""Made-up clicks in the form of Criteo's display ads: 13 numbers and 26 ids a sample, with planted taste. SYNTHETIC.

Ids follow Zipf's law over vocabularies from ten values to millions, as whole numbers of any size (an open id space). A click
is drawn from the logistic function of what each id and each number weighs, and of pairs of ids that go together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedps.data.prepare.write import stream, write_featured

NUMBERS, SLOTS = 13, 26
EXPONENT = 1.1  # of Zipf's law
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # an odd number: ranks times it are ids far apart
SHARES = {"train": 0.9, "test": 0.1}


def synthesize_clicks(out: Path, samples: int, clients: int, values: int, seed: int) -> Mapping[str, Any]:
    """Make up clicks; return the manifest.

    Args:
        out: the folder to make.
        samples: of all clients together.
        clients: how many, with equally many samples each.
        values: ids there are, over all slots.
        seed: of all draws.

    Raises:
        DataError: `out` holds something else or cannot be written.
    """
    rng = stream(seed)
    sides: dict[str, dict[str, pa.Table]] = {side: {} for side in SHARES}
    sizes = _sizes(values)
    for client in range(clients):
        for side, share in SHARES.items():
            sides[side][str(client)] = _draw(int(samples * share) // clients, sizes, rng)
    features = {f"I{k + 1}": {"kind": "number"} for k in range(NUMBERS)}
    features |= {f"C{k + 1}": {"kind": "id", "rows": "open"} for k in range(SLOTS)}
    facts = {"num_users": clients, "num_items": values, "source": "made up", "synthetic": True, "seed": seed}
    return write_featured(out, sides, features | {"label": {"kind": "label"}}, facts, ending="parquet")


def _sizes(values: int) -> NDArray[np.int64]:
    """Return how many ids each slot has: from 10 on, each as many times more, `values` together."""
    low, high = 1.0, float(values)
    for _ in range(60):  # halve until the sum fits
        ratio = ((low + high) / 2) ** (1 / (SLOTS - 1))
        low, high = (
            ((low + high) / 2, high) if 10 * (ratio ** np.arange(SLOTS)).sum() < values else (low, (low + high) / 2)
        )
    sizes: NDArray[np.int64] = np.maximum(10, 10 * ratio ** np.arange(SLOTS)).astype(np.int64)
    return sizes


def _draw(samples: int, sizes: NDArray[np.int64], rng: np.random.Generator) -> pa.Table:
    numbers = np.log1p(rng.lognormal(1.0, 1.5, (samples, NUMBERS))).astype(np.float32)
    drawn = rng.random((samples, SLOTS))
    most = sizes.astype(np.float64) ** (1 - EXPONENT)
    ranks = ((1 - drawn * (1 - most)) ** (1 / (1 - EXPONENT))).astype(np.uint64)  # Zipf's law, inverted
    ids = (ranks * SPREAD + np.arange(SLOTS, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)) >> np.uint64(1)
    taste = 0.5 * (_weights(ids).sum(1) + _weights(ids[:, :-1] * ids[:, 1:]).sum(1)) + numbers @ np.linspace(
        -0.2, 0.2, NUMBERS
    )
    label = (rng.random(samples) < 1 / (1 + np.exp(1.0 - taste))).astype(np.int64)
    columns = {f"I{k + 1}": numbers[:, k] for k in range(NUMBERS)}
    columns |= {f"C{k + 1}": ids[:, k].astype(np.int64) for k in range(SLOTS)}
    return pa.table(columns | {"label": label})


def _weights(ids: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return what ids weigh, from -1 to 1: a hash, so that no table of weights is needed."""
    mixed = ids * np.uint64(0xBF58476D1CE4E5B9)
    weights: NDArray[np.float64] = (mixed >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1
    return weights
