"""What is in a run's folder: what is whole, what is damaged, and what can be done with it."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from fedps.config import Job
from fedps.config.files import clients_there
from fedps.config.mistakes import sentence
from fedps.config.sections.features import undrawable
from fedps.config.source import read
from fedps.data.catalogue import ITEMS, Catalogue
from fedps.doctor.finding import Finding, Look, look
from fedps.errors import DataError, JobError
from fedps.events.journal import JOURNAL
from fedps.events.past import Past, look_at
from fedps.launch.folder import can_go_on, go_on
from fedps.serving.saved_run import model_folder
from fedps.storage import epochs
from fedps.vertical.checkpoint import load_model

NAMED = 5  # clients, or epochs, that are named of many


class Saved(NamedTuple):
    """The numbers of the epochs that lie in a model's folder: those that are whole, and what is wrong with the others."""

    whole: list[int]
    others: dict[int, str]


def examine(run_dir: Path) -> Iterator[Finding]:
    """Yield what is found in a run's folder.

    Raises:
        JobError: it is none.
    """
    if not any((run_dir / name).exists() for name in ("job.yaml", JOURNAL, "summary.json", "model")):
        what = "is no run's folder: it holds no job.yaml" if run_dir.is_dir() else "there is no such folder"
        raise JobError(f"{run_dir}: {what}; `fedps runs` lists the runs there are")
    past = look_at(run_dir)
    looks: list[tuple[str, Look]] = [
        ("run", lambda: _state(past)), ("job.yaml", lambda: _job(run_dir)), (JOURNAL, lambda: _journal(run_dir / JOURNAL)),
        ("model", lambda: _model(past)), ("private", lambda: _private(past)), (ITEMS, lambda: _items(run_dir / ITEMS)),
        ("next", lambda: _next(past)),
    ]  # fmt: skip
    if past.mode == "vertical":
        looks = [*(one for one in looks if one[0] in ("run", JOURNAL)), ("parties", lambda: _parties(past))]
    return look(looks)


def _state(past: Past) -> Iterator[Finding]:
    said = f"{past.status}, {past.epochs}{f' of {past.due}' if past.due else ''} epochs done"
    if past.status in ("ok", "running"):
        yield Finding("run", "ok", said)
    elif past.status == "by hand":
        yield Finding("run", "ok", "roles were started one by one: each tells its own in its log, nobody of all")
    elif past.status == "broken off":
        yield Finding("run", "warning", f"{said}: its launcher was killed, so there is no summary and no report")
    else:
        yield Finding("run", "fault" if past.status == "damaged" else "warning", f"{said}: {past.error}")


def _parties(past: Past) -> Iterator[Finding]:
    """Say which parties' parts of the model are here: in vertical training each keeps its own."""
    for party in [past.said("vertical", "active"), *past.said("vertical", "passive")]:
        try:
            model = load_model(past.folder / "parties" / party, "federated")
        except DataError as error:
            early = past.status in ("running", "by hand")
            remedy = "" if early else "start the run again in its folder, or each party by `fedps vertical party`"
            yield Finding("parties", "warning" if early else "fault", f"{party}: {error}", remedy)
        else:
            yield Finding("parties", "ok", f"{party}: its part of the model of epoch {model.epoch + 1}")


def _job(run_dir: Path) -> Iterator[Finding]:
    try:
        job = Job.model_validate(read(run_dir / "job.yaml"))
    except (JobError, ValidationError) as error:
        whys = error.mistakes if isinstance(error, JobError) else [sentence(each) for each in error.errors()]
        more = f", and {len(whys) - 1} mistakes more" if len(whys) > 1 else ""
        remedy = "put the job as it ran there again, or use the version of fedps that wrote it"
        yield Finding("job.yaml", "fault", f"cannot be read: {whys[0]}{more}", remedy)
    else:
        model = job.runner.model or job.hyper_parameters.mode
        yield Finding("job.yaml", "ok", f"{job.name}: {model}, {job.runner.sync_mode}, {job.runner.worker_num} clients")


def _journal(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        return
    kinds, bad, torn = Counter[str](), list[int](), False
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                kinds[json.loads(line)["event"]] += 1
            except (ValueError, KeyError, TypeError):
                torn = not line.endswith(b"\n")
                bad += [] if torn else [number]
    said = f"{kinds.total():,} events" + ", and a last line that is not whole" * torn
    if bad:
        yield Finding(JOURNAL, "warning", f"{said}; {len(bad)} lines are no JSON, the first is line {bad[0]}")
    else:
        yield Finding(JOURNAL, "ok", said)


def _model(past: Past) -> Iterator[Finding]:
    folder = model_folder(past.folder)
    saved = _saved(folder)
    for epoch, why in saved.others.items():
        yield Finding("model", "warning" if saved.whole else "fault", f"epoch {epoch} is not whole: {why}")
    if not saved.whole:
        early = past.status in ("running", "by hand")
        yield Finding("model", "warning" if early else "fault", f"{folder}: holds no whole epoch{' yet' * early}")
        return
    last = saved.whole[-1]
    try:
        tables = epochs.read_model(folder / str(last))
    except DataError as error:
        yield Finding("model", "fault", f"epoch {last}: {error}")
        return
    rows = sum(len(table.keys) for table in tables.values() if table.spec.kind == "sparse")
    said = f"whole epochs: {_listed(saved.whole)}; the last has {len(tables)} parameters, {rows:,} rows in tables"
    yield Finding("model", "ok", f"{said}; its checksums are right")


def _saved(folder: Path) -> Saved:
    whole, others = list[int](), dict[int, str]()
    for epoch in epochs.numbers(folder):
        try:
            parts = epochs.find_whole(folder / str(epoch))
            if parts is None:
                epochs.find_first(folder / str(epoch))
        except DataError as error:
            others[epoch] = str(error)
        else:
            if parts:
                whole.append(epoch)
            else:
                others[epoch] = "not all servers saved their part"
    return Saved(whole, others)


def _private(past: Past) -> Iterator[Finding]:
    """Look at what clients keep: that each has its own, of the last whole epoch, and whole."""
    home, whole = past.folder / "private", _saved(model_folder(past.folder)).whole
    clients = [client for client in epochs.folders(home) if epochs.numbers(client)]
    expected = past.summary.get("clients", {})
    without = [name for name in expected if name not in {client.name for client in clients}]
    if not clients:
        yield Finding(
            "private",
            "ok",
            "of what clients keep nothing is here: all is shared, it lies on their machines, or none has been saved",
        )
        return
    behind = [client.name for client in clients if whole and epochs.numbers(client)[-1] < whole[-1]]
    torn = dict(_torn(clients, whole))
    for client, why in torn.items():
        yield Finding("private", "fault", f"client {client}: {why}", "its users begin anew if the run goes on")
    said = f"what {len(clients)} clients keep is here"
    said += f"; nothing of {_listed(without)}" if without else ""
    said += f"; {_listed(behind)} saved no epoch as late as the model's" if behind else ""
    yield Finding("private", "warning" if without or behind or torn else "ok", said)


def _torn(clients: list[Path], whole: list[int]) -> Iterator[tuple[str, str]]:
    for client in clients:
        folder = epochs.private_save(client, whole[-1] if whole else epochs.numbers(client)[-1])
        try:
            if folder:
                epochs.read_private(folder)
        except DataError as error:
            yield client.name, str(error)


def _items(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding(ITEMS, "ok", "is not there: items are known by their numbers alone")
        return
    try:
        catalogue = Catalogue.read(path)
    except DataError as error:
        yield Finding(ITEMS, "fault", str(error), f"copy {ITEMS} of the data there again")
    else:
        yield Finding(ITEMS, "ok", f"{len(catalogue):,} items{', with titles' * bool(catalogue.titles)}")


def _next(past: Past) -> Iterator[Finding]:
    """Say what can be done with the run."""
    folder = model_folder(past.folder)
    whole = _saved(folder).whole
    if past.status == "running":
        yield Finding("next", "ok", "it goes on: wait for its end")
        return
    if resumable := past.status != "ok" and can_go_on(past.folder):
        yield Finding("next", "ok", go_on(past.folder))
    if whole:
        last = shlex.quote(str(folder / str(whole[-1])))
        yield Finding(
            "next", "ok", f"go on from epoch {whole[-1]}: fedps run JOB.yaml -o runner.warmup_model_path={last}"
        )
        yield Finding("next", "ok", f"take the model along: fedps export {shlex.quote(str(past.folder))} --out model")
        with suppress(JobError, ValidationError):  # told of job.yaml
            yield from _recommending(past.folder, Job.model_validate(read(past.folder / "job.yaml")))
    elif not resumable:
        yield Finding("next", "fault", "nothing can be resumed or served: start the run again")


def _recommending(run_dir: Path, job: Job) -> Iterator[Finding]:
    """Say whether the run's model can recommend here: it ranks items, and a client's data is on this machine."""
    if why := undrawable(job.inputs):
        yield Finding("next", "ok", f"it scores what is held out, and recommends nothing: {why}")
    elif not clients_there(job):
        said = f"{job.runner.train_data_dir}: the data is not here, by which users are known and what they have seen"
        yield Finding("next", "warning", said, "recommend on a client's machine")
    else:
        yield Finding("next", "ok", f"recommend: fedps recommend {shlex.quote(str(run_dir))} --user ID")


def _listed(names: Sequence[int | str]) -> str:
    """Return the first names of many, or the last numbers."""
    if len(names) <= NAMED:
        return ", ".join(map(str, names))
    few = names[-NAMED:] if isinstance(names[0], int) else names[:NAMED]
    return f"{', '.join(map(str, few))} and {len(names) - NAMED} more"
