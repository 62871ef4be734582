"""A client's private tables and layers on its own disk: saved each round, found again, and started from.

No server ever held them, so no server can give them back: who starts from a saved epoch looks for its own, where the run
that saved it left them, in `private/<client>/<round>/`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
from msgspec.structs import replace

from fedps.config import Job
from fedps.errors import FedpsError, JobError
from fedps.storage import epochs
from fedps.storage.shards import Facts
from fedps.storage.tables import SavedTable, fit_state, new_ids, said_of_new, shape_misfit
from fedps.training.learner import ADD, Learner
from fedps.types import NO_KEYS, Bounds, ClientId, TableName


def save(
    learner: Learner, run_dir: Path, client: ClientId, epoch: int, keep: int | None = None,
    last: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Save what is private in a client's model, whole or not at all; nothing, if nothing is.

    Args:
        learner: the client's model.
        run_dir: the run's folder.
        client: whose.
        epoch: after which this is, counted from 1.
        keep: how many of the client's saves stay, the newest; None: all.
        last: is called before the save counts; if it raises, there is none.

    Raises:
        DataError: it cannot be written; earlier saves stay as they were.
        FedpsError: a value is not finite; no server would ever have seen it.
    """
    private = learner.private_block()
    for name, (spec, _, block) in private.items():
        if not np.isfinite(block[:, : spec.dim]).all():
            raise FedpsError(
                f"client {client!r}: {name}, which is private, has a NaN or an infinity after round {epoch}; lower"
                " hyper_parameters.optimizer.learning_rate or private_learning_rate, or start from an earlier epoch"
            )
    if private:
        folder = run_dir / "private" / client / str(epoch)
        epochs.save_private(folder, private, {"epoch": epoch, "client": client}, last)
        for old in [e for e in epochs.numbers(folder.parent) if e < epoch][: 1 - keep] if keep else []:
            epochs.remove(folder.parent / str(old), epochs.PRIVATE)


def save_shared(learner: Learner, job: Job, run_dir: Path, epoch: int) -> None:
    """Save the shared values that a client holds, unless a server's save lies there: with them it can score its users.

    Args:
        learner: the client's model, with the servers' values in it.
        job: the job.
        run_dir: the run's folder on this machine.
        epoch: after which this is, counted from 1.

    Raises:
        DataError: it cannot be written.
    """
    folder = (job.runner.model_save_path or run_dir / "model") / str(epoch)
    if next(folder.glob("*.json"), None) is not None:
        return
    starts, tables = learner.server_starts(), {}  # of dense tensors, these are the values as they are now
    for spec in learner.server_specs(job.runner.seed):
        held = learner.tables.get(spec.name)
        keys, values = (NO_KEYS, starts[spec.name]) if held is None else (held.keys, held.values.copy())
        if held is not None and spec.name in starts:  # all rows are given, and those that are held were trained
            keys, values = np.arange(spec.shape[0]), starts[spec.name].copy()
            values[held.keys] = held.values
        # Of rows' ages and uses a client knows nothing.
        tables[spec.name] = (replace(spec, rule=ADD, bounds=Bounds()), keys, values)
    facts = Facts(1, shard=0, epoch=epoch, job=job.name, mode="base", run=str(run_dir.absolute()))
    epochs.save_shard(folder, 0, tables, facts)


def start_from(folder: Path, learner: Learner, client: ClientId, log: TextIO) -> None:
    """Let a client's private tables and layers start from a saved epoch; what is not there starts anew, in one line.

    Rows keep their optimizer state where the rule is the same; rows that were not saved, and layers' state, begin anew.

    Args:
        folder: `runner.warmup_model_path`, a saved epoch; private tables lie in `private/` of the same run.
        learner: the client's model, before it has trained.
        client: whose.
        log: takes the line.

    Raises:
        JobError: a table has another shape there.
        DataError: a file is torn.
    """
    names = [*learner.private, *learner.parameters.private_dense]
    if not names:
        return
    home = epochs.find_private(folder)
    place = None if home is None else epochs.private_save(home / client, epochs.epoch_of(folder))
    there = epochs.read_private(place) if place is not None else {}
    missing = [name for name in names if name not in there]
    if missing:
        where = place or (home / client if home else folder.parent.parent / "private" / client)
        print(f"warmup: {where} has no {', '.join(missing)} of client {client}: they start anew", file=log, flush=True)
    if place is not None:
        _take_over(learner, there, place)
        grown = {n: k for n, t in learner.private.items() if n in there and (k := new_ids(t.spec, there[n]))}
        if note := said_of_new(place, grown):
            print(f"warmup: {note}", file=log, flush=True)


def _take_over(learner: Learner, there: Mapping[TableName, SavedTable], place: Path) -> None:
    private = learner.private_block()
    faults = [f for n, (spec, _, _) in private.items() if n in there and (f := shape_misfit(spec, there, place))]
    if faults:
        raise JobError([f"runner.warmup_model_path: {fault}" for fault in faults])
    for name, table in learner.private.items():
        if name in there:  # with the ids that both hold
            block, steps = fit_state(there[name], table.spec)
            _, own, saved = np.intersect1d(table.keys, there[name].keys, assume_unique=True, return_indices=True)
            table.block[own] = block[saved]
            table.steps = steps
    for flat in (learner.private_dense, learner.frozen_dense):
        flat.write({name: there[name].values for name in flat.places if name in there and name in private})
