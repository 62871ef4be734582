"""What a whole network makes of held-out samples: their logits, how good those are, and both as files and lines."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import csv as arrow
from torch import nn

from fedps.errors import DataError
from fedps.figures import DEFAULT, ONE_LABEL, Sums, read_metric
from fedps.metrics import Evaluations, Histogram, evaluate, misfit
from fedps.models.catalogue import AllItems, has_towers
from fedps.models.inputs import tensors
from fedps.ranking import Catalogue
from fedps.storage.whole import make_folder, write_whole
from fedps.training.eager import LEAST
from fedps.types import NO_BAGS, Bags, Column, Keys, Samples, Values

LINES = 20  # of an epoch, at most, where batches are many
SEPARATOR = "|"  # between the values of a cell that has several


class Scores(NamedTuple):
    """What a network made of held-out samples.

    Attributes:
        samples: n of them.
        logits: float32[n].
        measures: `users`, `samples`, `loss` (mean cross-entropy), `auc`, `hr@10`, `ndcg@10` and what else the job measures;
            those of candidates are None where nobody's samples are groups of such.
    """

    samples: Samples
    logits: Values
    measures: dict[str, object]


@torch.inference_mode()
def logits_of(model: nn.Module, test: Samples, batch_size: int) -> Values:
    """Return a network's logits, float32[n].

    Args:
        model: as `build` makes it; left in evaluation mode.
        test: n samples.
        batch_size: samples scored at once, if that is enough to be fast; it bounds memory and changes no result.
    """
    model.eval()
    size = max(batch_size, LEAST)
    parts = [test.at(slice(at, at + size)) for at in range(0, len(test.label), size)]
    logits: Values = torch.cat([model(*tensors(model, part.columns)) for part in parts]).float().numpy()
    return logits


def measure(
    tests: Sequence[Samples], logits: Values, metrics: Sequence[str] = DEFAULT, full: Iterable[Sums] = (),
    tasks: Mapping[str, bool] = ONE_LABEL,
) -> Scores:  # fmt: skip
    """Measure the logits of held-out samples; as in training, each client's are ranked if they are groups of candidates.

    Args:
        tests: each client's, n samples in all; there must be some.
        logits: float32[n], or [n, tasks].
        metrics: what else to measure than the loss, as `Job.metrics` has it.
        full: sums of full rankings, each client's.
        tasks: the labels, as `Job.tasks` has them.

    Raises:
        FedpsError: a logit is not finite.
    """
    test, ranked = Samples.joined(tests), np.concatenate([np.full(len(t.label), not misfit(t)) for t in tests])
    candidates = [metric.name for metric in map(read_metric, metrics) if metric.k and not metric.full]
    groups = evaluate(logits[ranked], test.at(ranked), candidates, tasks=tasks)
    others = [name for name in metrics if name not in candidates]
    rest, merged = evaluate(logits, test, others, user=_whose(tests), tasks=tasks), Evaluations()
    for sums in (groups.sums, *full):
        merged.add(sums, {})
    merged.add(rest.sums, rest.histograms)
    measures: dict[str, object] = {
        "users": groups.users,
        "samples": len(test.label),
        "loss": _loss(test, logits, tasks),
    }
    return Scores(test, logits, measures | {"auc": None, "hr@10": None, "ndcg@10": None} | merged.figures(metrics))


def _loss(test: Samples, logits: Values, tasks: Mapping[str, bool]) -> float | None:
    """Return the mean cross-entropy; None where a label is real, or not known of some sample."""
    exact = logits.astype(np.float64)
    loss = float(np.mean(np.logaddexp(0, exact) - test.label * exact))
    return None if any(tasks.values()) or np.isnan(loss) else loss


def rank_full(
    model: nn.Module, test: Samples, train: Samples, num_items: int, metrics: Sequence[str],
    tasks: Mapping[str, bool] = ONE_LABEL,
) -> Sums:  # fmt: skip
    """Rank all items for each user of one client that has a held-out positive; return the sums.

    Args:
        model: as for `logits_of`.
        test: the client's held-out samples.
        train: its training samples: what users took there is no rival.
        num_items: items are 0 to this, exclusive.
        metrics: those of full rankings count.
        tasks: the labels, as `Job.tasks` has them.

    Raises:
        FedpsError: a logit is not finite.
    """
    every = AllItems(model.eval(), {"item": np.arange(num_items)}, has_towers(model))

    def score(samples: Keys) -> Values:
        scores: Values = every(tensors(model, test.at(samples).columns)).float().numpy()
        return scores

    full = [metric.name for metric in map(read_metric, metrics) if metric.full]
    return evaluate(np.empty(0, np.float32), test, full, Catalogue(num_items, train, score), tasks=tasks).sums


def _whose(tests: Sequence[Samples]) -> Keys | None:
    """Return whose each sample is: int64[n], None if samples do not tell. Users of two clients are two, whatever their ids."""
    if any(isinstance(test.columns.get("user", NO_BAGS), Bags) for test in tests):
        return None
    users = [np.unique(test.user, return_inverse=True)[1] for test in tests]
    ends = np.cumsum([user.max(initial=-1) + 1 for user in users])
    return np.concatenate([user + end for user, end in zip(users, [0, *ends], strict=False)])


def write_predictions(path: Path, samples: Samples, scores: Values, labels: Sequence[str] = ("label",)) -> None:
    """Write `user,item,label,prediction`, a line a sample under a header, whole or not at all, for its owner only.

    Other features stand in the place of `user` and `item`; of several labels each has a prediction, `prediction_<label>`.

    Args:
        path: the file; its folder is made if absent.
        samples: n of them.
        scores: float32[n], or [n, tasks]: probabilities.
        labels: their names.

    Raises:
        DataError: it cannot be written.
    """
    whole = not (samples.label % 1).any()
    label = np.atleast_2d((samples.label.astype("int8") if whole else samples.label).T)
    predictions = ["prediction"] if len(labels) == 1 else [f"prediction_{name}" for name in labels]
    table = pa.table(
        {name: _cells(column) for name, column in samples.columns.items()}
        | dict(zip((*labels, *predictions), (*label, *np.atleast_2d(scores.T)), strict=True))
    )
    text = pa.BufferOutputStream()
    text.write(f"{','.join(table.column_names)}\n".encode())
    arrow.write_csv(table, text, arrow.WriteOptions(include_header=False))
    try:
        make_folder(path.parent)
        write_whole(path, text.getvalue().to_pybytes())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}; choose another --predictions"
        ) from error


def _cells(column: Column) -> Any:
    """Return a column as it is written: numbers, or texts of several of them."""
    if not isinstance(column, Bags):
        if column.ndim == 1:
            return column
        column = Bags(column.reshape(-1), np.arange(len(column) + 1) * column.shape[1])
    texts = pc.cast(pa.array(column.ids[column.starts[0] :]), pa.string())
    starts = pa.array(column.starts - column.starts[0])
    return pc.binary_join(pa.LargeListArray.from_arrays(starts, texts), SEPARATOR)


def print_progress(log: TextIO, epoch: int, samples: Samples, scores: Values, size: int, every: int) -> None:
    """Print the original's line every so many batches: `epoch: 1, batch_id: 50, auc: 0.75`, the AUC of all so far.

    It is left out as long as they are of one class alone.

    Args:
        log: takes the lines.
        epoch: which.
        samples: n of them.
        scores: float32[n], probabilities.
        size: samples of a batch; batches count from 0.
        every: batches between two lines; more where that would be over `LINES` lines.
    """
    if samples.label.ndim > 1:
        return
    total, begin = Histogram(), 0
    lines, batches = [], -(-len(scores) // size)
    for batch in range(0, batches, max(every, -(-batches // LINES))):
        end = min((batch + 1) * size, len(scores))
        total.add(scores[begin:end], samples.label[begin:end])
        auc = total.auc()
        lines.append(f"epoch: {epoch}, batch_id: {batch}{'' if auc is None else f', auc: {auc:.6f}'}\n")
        begin = end
    log.write("".join(lines))
    log.flush()
