"""One round's figures over all clients, exact: sums, and histograms laid together."""

from collections.abc import Sequence
from math import fsum

from fedps.coordinator.members import Scores
from fedps.metrics import Histogram
from fedps.types import ClientInfo


def merge(reports: Sequence[tuple[ClientInfo, Scores]]) -> dict[str, float | None]:
    """Return loss (weighted by samples), train_auc, auc, hr@10 and ndcg@10; None where nobody trained or evaluated."""
    trained, users = sum(i.trained for i, _ in reports), sum(i.users for i, _ in reports)
    training, held_out = Histogram(), Histogram()
    for _, scores in reports:
        training.merge(scores.trained)
        held_out.merge(scores.tested)
    loss = fsum((i.loss or 0.0) * i.trained for i, _ in reports)
    return {
        "loss": loss / trained if trained else None,
        "train_auc": training.auc() if trained else None,
        "auc": held_out.auc() if users else None,
        "hr@10": fsum(i.hits for i, _ in reports) / users if users else None,
        "ndcg@10": fsum(i.ndcg for i, _ in reports) / users if users else None,
    }
