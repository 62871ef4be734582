"""What a job says without effect: one sentence a key, for the person who wrote it."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from fedps.config.files import client_files_of, endings_of, files_in, samples_of_data, sizes_of_data, test_files_of
from fedps.config.job import Allow, Job
from fedps.config.sections.runner import LOCKSTEP, Runner
from fedps.config.sections.training import ADAMS, USED_BY
from fedps.errors import DataError

SERVERS = ("momentum", "adagrad", "adam", "yogi")
PIPED = ("QueueDataset", "InmemoryDataset")
OWN = ("DataLoader", "RecDataset")
COORDINATED = ("client_selector", "clients_per_round", "round_iterations", "eval_clients")  # keys of runner
OF_OORT = (
    "exploration", "exploration_decay", "exploration_floor", "alpha", "cutoff", "pacer_step", "pacer_window", "max_picks",
)  # fmt: skip
OF_SELECTOR = {"candidates": "power_of_choice", "upload_mib": "fedcs"} | dict.fromkeys(OF_OORT, "oort")
MATTERS: tuple[tuple[str, str, str, tuple[Any, ...]], ...] = (
    # in this section this key matters only where that key has one of these values
    ("runner", "geo_step", "sync_mode", ("geo",)),
    ("runner", "geo_merge", "sync_mode", ("geo",)),
    ("runner", "buffer", "geo_merge", ("buffered",)),
    ("runner", "geo_overlap", "sync_mode", ("geo",)),
    ("runner", "row_average", "sync_mode", ("round",)),
    ("runner", "optimizer_state", "sync_mode", ("round",)),
    ("runner", "train_reader_path", "reader_type", OWN),
    ("runner", "infer_reader_path", "infer_reader_type", OWN),
    ("runner", "dump_fields_path", "need_dump", (True,)),
    ("runner", "dump_fields", "need_dump", (True,)),
    ("runner", "dump_param", "need_dump", (True,)),
    *(("hyper_parameters", key, "mode", modes) for key, modes in USED_BY.items()),
    ("hyper_parameters.optimizer", "beta1", "name", ADAMS),
    ("hyper_parameters.optimizer", "beta2", "name", ADAMS),
    ("hyper_parameters.optimizer", "epsilon", "name", (*ADAMS, "adagrad", "row_adagrad")),
    ("hyper_parameters.optimizer", "initial_g2", "name", ("row_adagrad",)),
    ("server_optimizer", "learning_rate", "name", SERVERS),
    ("server_optimizer", "beta1", "name", SERVERS),
    ("server_optimizer", "beta2", "name", ("adam", "yogi")),
    ("server_optimizer", "tau", "name", ("adagrad", "adam", "yogi")),
    ("hyper_parameters.optimizer", "final", "schedule", ("linear", "cosine")),
    ("hyper_parameters.optimizer", "step_epochs", "schedule", ("step",)),
    ("hyper_parameters.optimizer", "step_factor", "schedule", ("step",)),
)


def notes_of(job: Job, allow: Allow | None = None) -> list[str]:
    """Return one sentence for each key that was given a value and has no effect in this job.

    Args:
        job: the job; what reading its file had to say comes first.
        allow: what the command line allows; if it is known, what the job asks for beyond it gets a note too.
    """
    own_model = job.runner.model is not None  # it may take any hyperparameter
    idle = [
        note
        for where, key, decider, values in MATTERS
        if not (own_model and where == "hyper_parameters") and (note := _note(job, where, key, decider, values))
    ]
    runner = job.runner
    return [
        *job.notes,
        *idle,
        *_pace(runner),
        *_whole_pass(job),
        *_selection(job),
        *_commands(runner, allow),
        *_readers(runner),
        *_sizes(job),
        *_held_out(job),
        *_dumps(runner),
        *_distillation(job),
    ]


def _note(job: Job, where: str, key: str, decider: str, values: tuple[Any, ...]) -> str | None:
    section: BaseModel = attrgetter(where)(job)
    value, decided = getattr(section, key), getattr(section, decider)
    known = type(section).model_fields
    if value == known[key].default or decided in values:
        return None
    return f"{where}.{key}: {_written(value)}: has no effect {_when(known[decider].alias or decider, decided, values)}"


def _when(decider: str, decided: Any, values: tuple[Any, ...]) -> str:
    if values == (True,):
        return f"without {decider}"
    only = " or ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
    return f"without {decider} {only}" if decided is None else f"with {decider} {decided}, only with {only}"


def _pace(runner: Runner) -> list[str]:
    if runner.pace == "together" or runner.lockstep:
        return []
    mode = f"geo_merge {runner.geo_merge}" if runner.sync_mode == "geo" else f"sync_mode {runner.sync_mode}"
    only = f"sync_mode sync, or geo with geo_merge {' or '.join(LOCKSTEP)}"
    return [f"runner.pace: {runner.pace}: has no effect with {mode}, only with {only}"]


def _whole_pass(job: Job) -> list[str]:
    """Note windows that are a whole pass of a client of mean size; how many samples are drawn or paired, no manifest says."""
    runner = job.runner
    if runner.sync_mode != "geo" or runner.negatives is not None or job.hyper_parameters.loss == "bpr":
        return []
    batches = -(-samples_of_data(job) // runner.train_batch_size)
    if not 1 < batches <= runner.geo_step:
        return []
    return [
        f"runner.geo_step: {runner.geo_step}: a client's pass has {batches} batches, by the data's manifest: it learns from the"
        " others once a pass, or less; lower geo_step, or train_batch_size"
    ]


def _selection(job: Job) -> list[str]:
    """Note what of selection nobody uses: all of it without a coordinator, or what another selector would."""
    runner, chosen = job.runner, job.runner.client_selector
    runners, selectors = _given("runner", runner, COORDINATED), _given("selector", job.selector)
    if not runner.with_coordinator:
        idle = [*runners.values(), *selectors.values()]
        have = "have" if len(idle) > 1 else "has"
        return [f"{', '.join(idle)}: {have} no effect without with_coordinator"] if idle else []
    notes = []
    if chosen == "all" and "clients_per_round" in runners:
        notes = [f"{runners['clients_per_round']}: has no effect with client_selector all; use another, or your own"]
    if "." in chosen:  # of one's own: it may read any key
        return notes
    return notes + [
        f"{given}: has no effect with client_selector {chosen}, only with {OF_SELECTOR[key]}"
        for key, given in selectors.items()
        if OF_SELECTOR.get(key, chosen) != chosen
    ]


def _given(where: str, section: BaseModel, keys: Iterable[str] = ()) -> dict[str, str]:
    """Return the keys of a section, or some of them, that have another value than left out, as `where.key: value`."""
    fields = type(section).model_fields
    values = {key: getattr(section, key) for key in keys or fields}
    return {key: f"{where}.{key}: {_written(value)}" for key, value in values.items() if value != fields[key].default}


def _written(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _commands(runner: Runner, allow: Allow | None) -> list[str]:
    command = runner.pipe_command
    if command is None:
        return []
    subject = f"runner.pipe_command: {command!r}: "
    if runner.reader_type not in PIPED and runner.infer_reader_type not in PIPED:
        return [f"{subject}has no effect without reader_type {' or '.join(PIPED)}"]
    if allow is None or allow.commands:
        return []
    return [
        f"{subject}is not run without --allow-commands; the built-in reader reads the files, as lines user,item,label"
    ]


def _readers(runner: Runner) -> list[str]:
    """Note where the built-in reader stands in for one that was not named."""
    return [
        f"runner.{kind}: {reader}: without {lacking} the built-in reader reads lines user,item,label"
        for kind, path in (("reader_type", "train_reader_path"), ("infer_reader_type", "infer_reader_path"))
        if (reader := getattr(runner, kind)) is not None
        and getattr(runner, lacking := "pipe_command" if reader in PIPED else path) is None
    ]


def _sizes(job: Job) -> list[str]:
    """Note rows that no user or item of the data has."""
    return [
        f"hyper_parameters.{key}: {given}: the data's manifest says {size}: {given - size} {key[4:]} have no sample"
        for key, size in sizes_of_data(job).items()
        if (given := getattr(job.hyper_parameters, key)) > size
    ]


def _held_out(job: Job) -> list[str]:
    """Note which clients have no held-out samples where others do, and which files are nobody's."""
    try:
        clients, files = client_files_of(job), test_files_of(job)
    except DataError:
        return []  # a mistake of its own, or the data is on other machines
    if job.runner.test_data_dir is None:
        return []
    without = [client for client in clients if client not in files]
    read = {file for mine in files.values() for file in mine}
    unread = [file.name for file in files_in(job.runner.test_data_dir, endings_of(job, "test")) if file not in read]
    return [
        f"runner.test_data_dir: {what} ({', '.join(names[:3])}{', …' if names[3:] else ''}) {effect}"
        for names, what, effect in (
            (without, f"has no file of {len(without)} clients", "which are not evaluated"),
            (unread, f"has {len(unread)} files of nobody", "which are not read"),
        )
        if names
    ]


def _dumps(runner: Runner) -> list[str]:
    if not runner.need_dump or runner.dump_fields or runner.dump_param:
        return []
    return ["runner.need_dump: True: there is nothing to dump; name dump_fields or dump_param"]


def _distillation(job: Job) -> list[str]:
    given = [] if job.public_data is not None else _given("distillation", job.distillation).values()
    return [f"{key_and_value}: has no effect without distillation.public_data" for key_and_value in given]
