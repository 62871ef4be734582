"""What one would write instead: a plain PyTorch training loop, in three forms, on the samples of one client."""

from collections.abc import Callable
from typing import Any

from fedps.config import Job
from fedps.data.samples import ClientData

FORMS = {
    "adam": "PyTorch loop, Adam",
    "fused": "PyTorch loop, Adam(fused=True)",
    "sparse": "PyTorch loop, sparse=True and SparseAdam",
}


def make_loop(form: str, job: Job, data: ClientData, samples: int, rate: float = 0.001) -> Callable[[], None]:
    """Return what trains the first samples of an epoch's order, batch by batch, whenever it is called.

    The order is laid out in memory beforehand: the loop reads its batches as slices, at no cost.

    Args:
        form: one of `FORMS`.
        job: names the network.
        data: the client's samples.
        samples: how many to train in a call.
        rate: Adam's step size.
    """
    import torch  # noqa: PLC0415  (only where it is measured)
    from torch import nn  # noqa: PLC0415

    from fedps.models.build import build  # noqa: PLC0415

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model, size = build(job), job.runner.train_batch_size
    every = optimizers(form, model, rate)
    order = data.order(0)[:samples]
    user, item = (torch.from_numpy(column[order]).long() for column in (data.train.user, data.train.item))
    label = torch.from_numpy(data.train.label[order])

    def train() -> None:
        for at in range(0, len(order), size):
            batch = slice(at, at + size)
            for optimizer in every:
                optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.binary_cross_entropy_with_logits(model(user[batch], item[batch]), label[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in every:
                optimizer.step()

    return train


def optimizers(form: str, model: Any, rate: float) -> list[Any]:
    """Return a loop's optimizers: Adam, of `sparse` SparseAdam for tables and fused Adam for the rest."""
    import torch  # noqa: PLC0415

    if form != "sparse":
        return [torch.optim.Adam(model.parameters(), lr=rate, fused=form == "fused")]
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    for table in tables:
        table.sparse = True
    rows = [table.weight for table in tables]
    others = [p for p in model.parameters() if all(p is not row for row in rows)]
    dense = [torch.optim.Adam(others, lr=rate, fused=True)] if others else []
    return [torch.optim.SparseAdam(rows, lr=rate), *dense]
