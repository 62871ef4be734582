"""A client's part of a trained model, opened: the shared rows and its own private ones, on its own data, in the source's ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow, Job
from fedps.config.files import client_files_of, manifest_of
from fedps.config.sections.features import of_item, spaces, undrawable
from fedps.data.catalogue import ITEMS, USERS, Catalogue
from fedps.data.read.by_job import read_by_job
from fedps.data.samples import ClientData
from fedps.errors import DataError, JobError
from fedps.events.past import look_at
from fedps.models.network import Plan
from fedps.serving.saved_run import Tables, read_job, shared_tables, whole_epoch
from fedps.storage import epochs
from fedps.storage.tables import shape_misfit
from fedps.table.rules import rowless
from fedps.training.learner import Learner, numbered
from fedps.training.plan import make_plan
from fedps.training.tables import LocalTable
from fedps.types import Bags, ClientId, Column, Keys, Samples, taken


@dataclass(frozen=True)
class Site:
    """What does not change from epoch to epoch: a run's folder, and a client with its data.

    Attributes:
        run_dir: the run's folder.
        job: as it ran.
        client: whose data it is.
        users: that client's, those of its data.
        items: all there are.
        data: the client's training samples; all items are its keys.
        plan: of the network.
        described: a sample an item, of the features that tell of it (`of_item`), and the slots of those that are ids.
        known: which items these features are known of, bool[items]: all, where an item is its id alone.
    """

    run_dir: Path
    job: Job
    client: ClientId
    users: Catalogue
    items: Catalogue
    data: ClientData
    plan: Plan
    described: tuple[Samples, dict[str, Column]]
    known: NDArray[np.bool_]


def open_site(
    run_dir: Path, client: str | None = None, user: str | None = None, items: Path | None = None, allow: Allow = Allow()  # noqa: B008
) -> Site:  # fmt: skip
    """Read a client's data, of whatever run of it.

    Args:
        run_dir: the run's folder.
        client: whose; None: of the client that has `user`, or of the only one.
        user: in the source's words.
        items: a file like `items.csv`, of a catalogue that has grown since; None: the run's own.
        allow: what whoever started this allows the job's reader.

    Raises:
        JobError: there is no such run, client or user, or the job's items cannot be counted.
        DataError: a file is missing or malformed.
    """
    job = read_job(run_dir)
    if why := undrawable({name: f for name, f in job.inputs.items() if name == "item" or not of_item(name, f)}):
        raise JobError(f"{run_dir}: its model ranks no items: {why}")
    files = client_files_of(job)
    name = _whose(job, run_dir, user, allow) if client is None else client
    if name not in files:
        raise JobError(f"--client {name}: there is no such client; {run_dir} has {', '.join(files)}")
    known = _items_of(job, run_dir, items)
    found = ClientId(name)
    train = read_by_job(job, "train", files[found], allow).samples
    if len(train.item) and (last := int(train.item.max())) >= len(known):
        raise DataError(
            f"{items or run_dir / ITEMS}: lacks item {last}, which client {name} has: copy {ITEMS} of the data"
            f" {'and put new items behind' if items else 'there again'}"
        )
    data = ClientData(
        train, None, found, job.runner.seed, shuffle=False, num_items=len(known), spaces=spaces(job.inputs), catalogue=True
    )  # fmt: skip
    users = _users_of(job, found, data.keys["user"])
    return Site(run_dir, job, found, users, known, data, make_plan(job), *described(job, data, known))


class Model(NamedTuple):
    """A saved epoch for one client.

    Attributes:
        epoch: its number.
        learner: the model, with rows for all ids of the client's data.
        trained: which of its users have rows of their own, bool[users]; all, where the network has none such.
    """

    epoch: int
    learner: Learner
    trained: NDArray[np.bool_]


def open_epoch(site: Site, epoch: int | None = None) -> Model:
    """Return a saved epoch, the last whole one by default.

    Raises:
        JobError: there is no such epoch, or what is private is not here.
        DataError: nothing whole was saved, a file is torn, or of another model.
    """
    number = whole_epoch(site.run_dir, epoch)
    learner = Learner(site.plan, site.job, site.data, local_optimizer=False)
    saved = shared_tables(site.run_dir, number) | _private(site, learner, number)
    own = [table.spec for table in learner.tables.values()]
    if faults := [fault for spec in own if (fault := shape_misfit(spec, saved, site.run_dir))]:
        raise DataError("\n".join(faults))
    trained = np.ones(len(site.data.keys["user"]), np.bool_)
    for name, table in learner.tables.items():
        _take(table, saved[name].keys, saved)
        if "user" in table.features:
            trained &= np.isin(table.keys, saved[name].keys)
    flats = (learner.dense, learner.private_dense, learner.frozen_dense)
    if missing := [name for flat in flats for name in flat.places if name not in saved]:
        raise DataError(f"{site.run_dir}: epoch {number} lacks {', '.join(missing)}: is it of another model?")
    for flat in flats:
        flat.write({name: saved[name].values for name in flat.places})
    return Model(number, learner, trained)


def said_of_run(run_dir: Path, epoch: int) -> str:
    """Say what there is to know of the run that saved an epoch; empty if it ended well."""
    summary = look_at(run_dir).summary
    if not summary:
        return f"the run goes on, or was killed: what follows is of epoch {epoch}, the last that is whole"
    if summary["status"] == "ok":
        return ""
    return f"the run failed ({str(summary['error'])[:200]}): what follows is of epoch {epoch}, the last that is whole"


def described(
    job: Job, data: ClientData, catalogue: Catalogue
) -> tuple[tuple[Samples, dict[str, Column]], NDArray[np.bool_]]:
    """Return what is known of each item, and of which it is all: by the client's samples, or by the catalogue's own columns.

    Those say it in words, which the manifest beside the data numbers (`values`).
    """
    count, values = len(catalogue), manifest_of(job).get("values", {})
    items, slots = numbered(count)
    names = [name for name, feature in job.inputs.items() if name != "item" and of_item(name, feature)]
    if not names:
        return (items, slots), np.ones(count, np.bool_)
    first, known = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    first[data.train.item[::-1]], known[data.train.item] = np.arange(len(data.train.item))[::-1], True
    columns = items.columns | {name: taken(data.train.columns[name], first) for name in names}  # type: ignore[operator]
    cold = np.flatnonzero(~known)
    of, more = spaces(job.inputs), catalogue.more
    if len(cold) and all(name in values and name in more for name in names):
        known[cold] = True
        for name in names:
            held = set(data.keys[of[name]].tolist())  # of other values this client has no rows
            numbers = {value: k for k, value in enumerate(values[name]) if k in held}
            columns[name] = _in_words(columns[name], cold, more[name], numbers)
            one = not isinstance(columns[name], Bags)
            known[cold] &= [more[name][k] in numbers if one else bool(more[name][k]) for k in cold.tolist()]
    slots |= {name: data.coded(of[name], columns[name]) for name in names if name in of}
    return (Samples(columns, items.label), slots), known


def _in_words(column: Column, cold: Keys, words: Sequence[str], number: Mapping[str, int]) -> Column:
    """Return a column of ids with those of some items by their words; a word without a number is left out."""
    if not isinstance(column, Bags):
        column = column.copy()
        column[cold] = [number.get(words[k], column[k]) for k in cold.tolist()]
        return column
    parts = np.split(column.ids, column.starts[1:-1] - column.starts[0])
    for k in cold.tolist():
        parts[k] = np.array([number[word] for word in re.split(r"\s*[|;,]\s*", words[k]) if word in number], np.int64)
    return Bags(np.concatenate(parts), np.cumsum([0, *map(len, parts)]))


def _take(table: LocalTable, keys: Keys, saved: Tables) -> None:
    """Take saved rows over by id; ids without one have what a server would give them."""
    if table.spec.bounds.admit_after > 1:
        table.values[:] = rowless(table.spec, table.keys)
    _, own, there = np.intersect1d(table.keys, keys, assume_unique=True, return_indices=True)
    table.values[own] = saved[table.spec.name].values[there]


def _private(site: Site, learner: Learner, epoch: int) -> Tables:
    names = [*learner.private, *learner.parameters.private_dense]
    if not names:
        return {}
    home = site.run_dir / "private" / site.client
    folder = epochs.private_save(home, epoch)
    if folder is None:
        raise JobError(
            f"{home}: {', '.join(names)} is private to client {site.client}, and is not there: recommend on the machine where"
            " that client trained"
        )
    return epochs.read_private(folder)


def _items_of(job: Job, run_dir: Path, grown: Path | None) -> Catalogue:
    """Return all items: of the run's own file, of the data's, or by their numbers."""
    path = next((p for p in (run_dir / ITEMS, job.runner.train_data_dir.parent / ITEMS) if p.is_file()), None)
    known = Catalogue.numbered(job.hyper_parameters.num_items) if path is None else Catalogue.read(path)
    found, where = (known, path or run_dir) if grown is None else (Catalogue.read(grown), grown)
    if not np.array_equal(found.ids, np.arange(len(found))):
        raise DataError(f"{where}: must hold the items from 0 on without a gap, each once; it has {len(found)}")
    moved = [k for k, key in enumerate(known.keys) if found.keys[k : k + 1] != [key]] if path is not None else []
    if moved:
        raise DataError(
            f"{where}: lacks item {moved[0]}, which was {known.keys[moved[0]]!r} in training, or calls it otherwise: leave items"
            f" as they were, and put new ones behind them ({len(moved)} such)"
        )
    return found


def _users_of(job: Job, client: ClientId, ids: Keys) -> Catalogue:
    """Return a client's users, of its own file, or by their numbers."""
    path = job.runner.train_data_dir.parent / USERS / f"{client}.csv"
    return Catalogue.read(path) if path.is_file() else Catalogue(ids, [str(number) for number in ids.tolist()])


def users_here(job: Job, run_dir: Path, allow: Allow) -> Mapping[ClientId, Catalogue]:
    """Return the users of each client whose rows are in a run's folder."""
    files = client_files_of(job)
    return {c: _users_of(job, c, _ids_in(job, c, files[c], allow)) for c in _clients_here(job, run_dir)}


def client_of(user: str, users: Mapping[ClientId, Catalogue], run_dir: Path) -> ClientId:
    """Return the client that has a user, among those of `users_here`.

    Raises:
        JobError: none has, or several have.
    """
    found = [client for client, every in users.items() if every.find(user) is not None]
    if len(found) > 1:
        raise JobError(f"--user {user}: clients {', '.join(found)} have a user of this id: name one by --client")
    if not found:
        near = [key for every in users.values() for key in every.nearest(user)]
        raise JobError(f"--user {user}: no client in {run_dir} has this user{said_of_near(near)}")
    return found[0]


def _whose(job: Job, run_dir: Path, user: str | None, allow: Allow) -> ClientId:
    """Return the client that has a user, or the only one there is."""
    if user is not None:
        return client_of(user, users_here(job, run_dir, allow), run_dir)
    there = _clients_here(job, run_dir)
    if len(there) == 1:
        return there[0]
    raise JobError(f"--client: is missing: whose users? {run_dir} has {', '.join(there)}")


def _clients_here(job: Job, run_dir: Path) -> list[ClientId]:
    every = list(client_files_of(job))
    return [client for client in every if (run_dir / "private" / client).is_dir()] or every


def _ids_in(job: Job, client: ClientId, files: tuple[Path, ...], allow: Allow) -> Keys:
    """Return the users of a client's data, where no file names them."""
    if (job.runner.train_data_dir.parent / USERS / f"{client}.csv").is_file():
        return np.empty(0, np.int64)
    return np.unique(read_by_job(job, "train", files, allow).samples.user).astype(np.int64)


def said_of_near(keys: list[str]) -> str:
    """Say which ids look like one that is not there; empty if none do."""
    return f"; near it are {', '.join(keys[:5])}" if keys else ""
