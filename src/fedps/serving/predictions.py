"""Scores as files and lines: every held-out sample with its prediction, and how the AUC grows batch by batch."""

from pathlib import Path
from typing import TextIO

import pyarrow as pa
from pyarrow import csv as arrow

from fedps.data.read.reader import Samples
from fedps.errors import DataError
from fedps.metrics import Histogram
from fedps.storage.whole import make_folder, write_whole
from fedps.types import Values

LINES = 20  # of an epoch, at most, where batches are many
COLUMNS = ("user", "item", "label", "prediction")


def write_predictions(path: Path, samples: Samples, scores: Values) -> None:
    """Write `user,item,label,prediction`, a line a sample under a header, whole or not at all, for its owner only.

    Args:
        path: the file; its folder is made if absent.
        samples: n of them.
        scores: float32[n], probabilities.

    Raises:
        DataError: it cannot be written.
    """
    label = samples.label.astype("int8")
    table = pa.table(dict(zip(COLUMNS, (samples.user, samples.item, label, scores), strict=True)))
    text = pa.BufferOutputStream()
    text.write(f"{','.join(COLUMNS)}\n".encode())
    arrow.write_csv(table, text, arrow.WriteOptions(include_header=False))
    try:
        make_folder(path.parent)
        write_whole(path, text.getvalue().to_pybytes())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}; choose another --predictions"
        ) from error


def tell_progress(log: TextIO, epoch: int, samples: Samples, scores: Values, size: int, every: int) -> None:
    """Print the original's line every so many batches: `epoch: 1, batch_id: 50, auc: 0.75`, the AUC of all so far.

    Args:
        log: takes the lines.
        epoch: which.
        samples: n of them.
        scores: float32[n], probabilities.
        size: samples of a batch; batches count from 0.
        every: batches between two lines; more where that would be over `LINES` lines.
    """
    total, begin = Histogram(), 0
    lines, batches = [], -(-len(scores) // size)
    for batch in range(0, batches, max(every, -(-batches // LINES))):
        end = min((batch + 1) * size, len(scores))
        total.add(scores[begin:end], samples.label[begin:end])
        lines.append(f"epoch: {epoch}, batch_id: {batch}, auc: {total.auc():.6f}\n")
        begin = end
    log.write("".join(lines))
    log.flush()
