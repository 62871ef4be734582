"""The job's network with the weights of a saved epoch, and each client's private ones in turn."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fedps.config import Job
from fedps.errors import JobError
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.serving.predictions import Scores, logits_of, measure, rank_full
from fedps.storage import epochs
from fedps.storage.tables import SavedTable, new_ids, tensor
from fedps.table.rules import rowless
from fedps.training.eager import compact_rows
from fedps.training.parameters import read_parameters
from fedps.types import ClientId, Keys, Samples, TableName, Values, ids_of


class OpenTables:
    """A network's open tables: their embeddings give way to what looks rows up by id.

    Args:
        model: as `build` makes it; changed.
        job: its job.

    Attributes:
        parameters: the network's.
        names: of the tables.
        rows: of each its ids, int64[n] sorted, and their values; to be set before `look_up` or `hold`.
        private: what of the network stays with the clients.

    Raises:
        JobError: a table's name matches nothing.
    """

    def __init__(self, model: nn.Module, job: Job) -> None:
        network = describe(model)
        self.parameters = read_parameters(network, job)
        open_ = {e.name: e for e in network.embeddings if not e.shape[0]}
        self._stand_ins = {name: compact_rows(model, e.module, e.features) for name, e in open_.items()}
        for name, stand_in in self._stand_ins.items():
            model.set_submodule(open_[name].module, stand_in)
        self.names, self.rows = list(open_), dict[TableName, tuple[Keys, Values]]()
        own = (e.spec.name for e in self.parameters.embeddings if e.private)
        self.private: set[TableName] = {*own, *self.parameters.private_dense}

    def hold(self) -> None:
        """Lay out all rows there are."""
        for name, stand_in in self._stand_ins.items():
            stand_in.keys, stand_in.rows = (torch.from_numpy(np.ascontiguousarray(part)) for part in self.rows[name])

    def look_up(self, test: Samples) -> None:
        """Lay out the rows that some samples name; ids without a row have what a server would give them."""
        for embedding in self.parameters.embeddings:
            if (stand_in := self._stand_ins.get(embedding.spec.name)) is None:
                continue
            there, values = self.rows[embedding.spec.name]
            keys = np.unique(np.concatenate([ids_of(test.columns[f]) for f in embedding.features]).astype(np.int64))
            rows = rowless(embedding.spec, keys)
            _, at, found = np.intersect1d(keys, there, assume_unique=True, return_indices=True)
            rows[at] = values[found]
            stand_in.keys, stand_in.rows = torch.from_numpy(keys), torch.from_numpy(rows)


class Network(NamedTuple):
    """A network with saved values.

    Attributes:
        module: what no save has stays as it starts.
        open: its tables of open id spaces.
        missing: what is private to clients, and in no save that was given.
    """

    module: nn.Module
    open: list[TableName]
    missing: list[TableName]


@torch.no_grad()
def network_of(job: Job, saved: Mapping[TableName, SavedTable]) -> Network:
    """Return the job's network with saved values.

    Raises:
        JobError: the network cannot be made.
    """
    module = build(job)
    tables = OpenTables(module, job)
    weights = dict(module.named_parameters())
    for name, table in saved.items():
        if name in tables.names:
            tables.rows[name] = table.keys, table.values
        elif table.spec.kind == "dense":
            weights[name].copy_(torch.from_numpy(tensor(table)))
        else:
            weights[name][torch.from_numpy(table.keys)] = torch.from_numpy(np.ascontiguousarray(table.values))
    tables.hold()
    return Network(module, tables.names, sorted(tables.private - saved.keys()))


class SavedNetwork:
    """The job's network, which takes on saved epochs, and in them one client after the other.

    Args:
        job: names the network, and which of its tables are private.

    Raises:
        JobError: the network cannot be made, or a table's name matches nothing.

    Attributes:
        new: by table how many of its ids no save has had, where there are some; their rows are as they start.
    """

    def __init__(self, job: Job) -> None:
        self.new: dict[TableName, int] = {}
        self._model, self._size, self._metrics = build(job), job.runner.infer_batch_size, job.metrics
        self._tasks, self._items, self._ranks_all = job.tasks, job.hyper_parameters.num_items, job.ranks_all
        self._open = OpenTables(self._model, job)
        self._parameters = self._open.parameters
        self._weights = dict(self._model.named_parameters())
        self._private: list[TableName] = []  # what the epoch's servers do not hold

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take on what the servers saved.

        Args:
            folder: of the saved epoch.

        Raises:
            JobError: it is of another model; all mistakes at once.
            DataError: a file is missing or torn.
        """
        saved = epochs.read_model(folder)
        names = [*self._weights, *self._open.names]
        self._private = [name for name in names if name in self._open.private and name not in saved]
        self._check(saved, [n for n in names if n not in self._private], folder)
        if extra := sorted(set(saved) - set(names)):
            raise JobError(f"{folder}: {', '.join(extra)} is no parameter of the job's network: of another model?")
        for name, table in saved.items():
            if name in self._open.names:
                self._open.rows[name] = table.keys, table.values
                continue
            rows = torch.from_numpy(tensor(table))
            (self._weights[name][: len(rows)] if name in self.new else self._weights[name]).copy_(rows)

    def score(
        self, tests: Mapping[ClientId, Samples], epoch: int, home: Path | None, trained: Mapping[ClientId, Samples] = {}
    ) -> Scores:
        """Score each client's samples with its own private rows.

        Args:
            tests: the clients' held-out samples.
            epoch: which is loaded; of private rows the newest up to it count.
            home: the folder of private tables, None if there is none.
            trained: the clients' training samples, where all items are to be ranked.

        Raises:
            JobError: a client's private rows are not there, or not those of its samples.
            DataError: a file of theirs is torn.
            FedpsError: a logit is not finite.
        """
        places = {c: epochs.private_save(home / c, epoch) if home and self._private else None for c in tests}
        missing = [client for client, place in places.items() if place is None]
        if self._private and missing:
            raise JobError(
                f"{', '.join(self._private)} is private, and that of client {', '.join(missing)} is not in"
                f" {home or 'a folder private/ beside the saved epochs'}: give the run's folder by --run_dir, or infer"
                " where those rows are, on each client's machine"
            )
        logits, full = [], []
        for client, test in tests.items():
            if place := places[client]:
                self._take_on(test, place)
            self._open.look_up(test)
            logits.append(logits_of(self._model, test, self._size))
            if client in trained:
                full.append(rank_full(self._model, test, trained[client], self._items, self._metrics, self._tasks))
        return measure(list(tests.values()), np.concatenate(logits), self._metrics, full, self._tasks)

    @torch.no_grad()
    def _take_on(self, test: Samples, place: Path) -> None:
        """Take on one client's private parameters; of tables the rows that it has, others' rows stay as they were."""
        saved = epochs.read_private(place)
        self._check(saved, self._private, place)
        for name in self._private:
            table = saved[name]
            if name in self._open.names:
                self._open.rows[name] = table.keys, table.values
                continue
            weight = self._weights[name]
            if table.spec.kind == "dense":
                weight.copy_(torch.from_numpy(tensor(table)))
                continue
            features = next(e.features for e in self._parameters.embeddings if e.spec.name == name)
            named = [ids_of(test.columns[f]) for f in features]
            if self._ranks_all and "item" in features:
                named.append(np.arange(self._items))
            unknown = np.setdiff1d(np.concatenate(named), table.keys)
            unknown = unknown[unknown < table.spec.shape[0]]  # the others are new, and have no row anywhere
            if len(unknown):
                raise JobError(
                    f"{place}: {name} has no row of {features[0]} {unknown[0]}, whom the held-out samples name: were they"
                    f" prepared anew since? {len(unknown)} such ids"
                )
            weight[torch.from_numpy(table.keys)] = torch.from_numpy(np.ascontiguousarray(table.values))

    def _check(self, saved: Mapping[TableName, SavedTable], names: list[TableName], folder: Path) -> None:
        """Make sure that a save has these parameters, in the network's shapes; of a table there may be more ids now."""
        specs = {e.spec.name: e.spec for e in self._parameters.embeddings}
        mistakes = []
        for name in names:
            shape = specs[name].shape if name in self._open.names else tuple(self._weights[name].shape)
            table = saved.get(name)
            if table is None:
                mistakes.append(f"{folder}: lacks {name}; it holds {', '.join(sorted(saved)) or 'nothing'}")
            elif name in specs and table.spec.kind == "sparse" and (new := new_ids(specs[name], table)):
                self.new[name] = new
            elif table.spec.shape != shape or (table.spec.kind == "sparse") != (name in specs):
                mistakes.append(f"{folder}: {name} has shape {table.spec.shape}; the job's network has {shape}")
        if mistakes:
            raise JobError([f"{mistake}: is it the folder of another model?" for mistake in mistakes])
