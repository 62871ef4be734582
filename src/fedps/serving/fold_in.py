"""Somebody who was not there in training: rows of their own from a few items, while all else stands still."""

import numpy as np

from fedps.config import Job
from fedps.config.sections.features import spaces
from fedps.config.sections.training import Optimizer
from fedps.data.samples import ClientData
from fedps.serving.opened import Site
from fedps.training.learner import Learner
from fedps.types import Bags, ClientId, Column, Keys, Samples, TableName, Values, taken

NEWCOMER = ClientId("newcomer")  # names the stream of draws
PASSES, BATCHES, NEGATIVES, RATE = 12, 6, 4, 0.02  # over the items; of a pass; for each item; of Adam


class FoldIn:
    """Makes rows for newcomers of a client, one after the other.

    A newcomer's rows begin as the mean of those of the client's users, and are trained on the items and drawn negatives, by
    the job's loss. Networks without such rows see the items as a history, and nothing is trained.

    Args:
        site: the client.
        learner: its model, which stays as it is.
    """

    def __init__(self, site: Site, learner: Learner) -> None:
        self._site = site
        others = {
            name: column for name, column in site.data.train.columns.items() if name not in site.described[0].columns
        }
        self._usual = {name: _usual(column) for name, column in others.items()}  # of one sample
        own = [name for name, table in learner.tables.items() if table.features == ("user",)]
        self._job = _job_of(site.job, own, [name for name in learner.tables if name not in own])
        data = self._data(np.zeros(1, np.int64))
        self._learner = Learner(site.plan, self._job, data, local_optimizer=False)
        columns, of = site.described[0].columns, spaces(site.job.inputs)
        slots = {name: data.coded(of[name], column) for name, column in columns.items() if name in of}
        self._items = site.described[0], slots
        self._starts = {name: learner.tables[name].values.mean(axis=0) for name in own}
        for name, table in self._learner.tables.items():
            if name not in own:
                theirs = learner.tables[name]
                table.values[:] = theirs.values[np.searchsorted(theirs.keys, table.keys)]
        flats = (learner.dense, learner.private_dense, learner.frozen_dense)
        for flat in (self._learner.dense, self._learner.private_dense, self._learner.frozen_dense):
            flat.write(
                {name: each.values[each.places[name]] for each in flats for name in each.places if name in flat.places}
            )

    def scores(self, items: Keys) -> Values:
        """Return the logits of all items for somebody with these, float32[items] or [items, tasks]."""
        data = self._data(items)
        engine = self._learner.engine_on(data)
        for name, start in self._starts.items():
            self._learner.tables[name].forget_state()
            self._learner.tables[name].values[:] = start
        if self._starts:
            for epoch in range(PASSES):
                order = data.order(epoch)
                self._describe(data)
                size = -(-len(order) // (BATCHES * self._job.group)) * self._job.group
                engine.train(order, size, np.ones(-(-len(order) // size)))
            self._learner.settle_private()
        one = np.zeros(1, np.int64)
        scores: Values = engine.ranker(*self._items)(*data.held_out(one))[0]
        return scores

    def _describe(self, data: ClientData) -> None:
        """Let samples tell of the items that were drawn what is known of these."""
        items, slots = self._items
        drawn = data.train.item
        data.slots |= {name: taken(column, drawn) for name, column in slots.items() if name != "item"}
        others = {name: taken(column, drawn) for name, column in items.columns.items() if name != "item"}
        data.train = Samples({**data.train.columns, **others}, data.train.label)

    def _data(self, items: Keys) -> ClientData:
        """Return a newcomer's data: a sample an item, and one that stands for the newcomer."""
        site, inputs = self._site, self._site.job.inputs
        described, count = site.described[0].columns, len(site.items)
        columns = {name: taken(column, np.asarray(items, np.int64)) for name, column in described.items()}
        every = dict(described)
        for name, usual in self._usual.items():
            every[name], feature = taken(usual, np.zeros(count, np.int64)), inputs[name]
            if feature.kind == "ids" and feature.table == "item":
                longest = items[-feature.max :] if feature.max else items
                columns[name] = Bags(np.tile(longest, len(items)), np.arange(len(items) + 1) * len(longest))
            else:
                columns[name] = taken(usual, np.zeros(len(items), np.int64))
        tasks = len(site.job.tasks)
        label = np.ones(len(items) if tasks == 1 else (len(items), tasks), np.float32)
        train = Samples(columns, label)
        hyper = self._job.hyper_parameters
        return ClientData(
            train, train.at(slice(0, 1)), NEWCOMER, self._job.runner.seed, shuffle=True,
            negatives=self._job.runner.negatives, num_items=count, public=Samples(every, np.zeros(count, np.float32)),
            pairs=hyper.loss == "bpr", spaces=spaces(inputs), catalogue=True, grouped=hyper.loss == "sampled_softmax",
        )  # fmt: skip


def _job_of(job: Job, own: list[TableName], others: list[TableName]) -> Job:
    """Return a job that trains a newcomer's own rows alone, by Adam at a rate for few steps, each item told from drawn ones."""
    hyper = job.hyper_parameters
    loss = "bpr" if hyper.loss == "in_batch_softmax" else hyper.loss  # of one user's items a batch tells little
    optimizer = Optimizer.model_validate({"class": "adam", "learning_rate": RATE, "private_learning_rate": RATE})
    places = {"local_sparse": tuple(own), "remote_sparse": tuple(others), "local_dense": ()}
    negatives = job.runner.negatives if loss == "sampled_softmax" else NEGATIVES  # a group is as large as planned
    runner = job.runner.model_copy(update={"negatives": negatives, **places})
    changed = {"hyper_parameters": hyper.model_copy(update={"loss": loss, "optimizer": optimizer}), "runner": runner}
    return job.model_copy(update={**changed, "table_parameters": {}})


def _usual(column: Column) -> Column:
    """Return a sample of what is usual in a column: the most frequent id, the mean of numbers, no ids of bags."""
    if isinstance(column, Bags):
        return Bags(column.ids[:0], np.zeros(2, np.int64))
    if np.issubdtype(column.dtype, np.floating):
        return np.asarray(column.mean(axis=0, keepdims=True), np.float32)
    ids, counts = np.unique(column, return_counts=True)
    return np.array([ids[np.argmax(counts)]], np.int64)
