"""Checks of data, of saved epochs and of dumps: folders, clients, readers."""

import os
from pathlib import Path

from fedps.config.files import (
    ANY,
    Endings,
    client_files_of,
    clients_there,
    endings_of,
    files_in,
    is_utf8,
    sizes_of_data,
    strange_entries,
    test_files_of,
)
from fedps.config.job import Job
from fedps.errors import DataError

PADDLES = "is a save of PaddlePaddle (its tables are folders 000, 001, …), which is not read here: train, and name an epoch of fedps"


def texts(job: Job) -> list[str]:
    """Say which names could not be written into reports and logs."""
    places = {"name": job.name, "folder": job.folder} | {f"runner.{key}": value for key, value in job.runner}
    return [
        f"{key}: {str(value)!r}: is no UTF-8, in which reports and logs are written; rename the file or folder"
        for key, value in places.items()
        if isinstance(value, str | Path) and not is_utf8(str(value))
    ]


def train_folder(job: Job) -> list[str]:
    """Say that there is no training data."""
    runner = job.runner
    return _folder("runner.train_data_dir", runner.train_data_dir, endings_of(job, "train"), "e.g. DIR/train")


def test_folder(job: Job) -> list[str]:
    """Say that there is no held-out data, or none of a client."""
    runner = job.runner
    if runner.test_data_dir is None:
        return []
    without = "e.g. DIR/test, or leave the key out to train without held-out samples"
    return _folder(
        "runner.test_data_dir", runner.test_data_dir, endings_of(job, "test"), without
    ) or _nobodys_test_files(job)


def _folder(key: str, folder: Path, endings: Endings, remedy: str) -> list[str]:
    subject = f"{key}: {str(folder)!r}: "
    try:
        if not folder.is_dir():
            return [subject + "there is no such folder; prepare data with `fedps data prepare movielens --out DIR`"]
        below = folder / key.removeprefix("runner.").removesuffix("_data_dir")  # as prepared data has it
        if below.is_dir() and files_in(below, endings):
            if files_in(folder, endings):
                return [subject + f"clients' files lie one folder further down: name {str(below)!r}"]
            remedy = str(below)
        strange = [f"{subject}{name!r} {why}" for name, why in sorted(strange_entries(folder, endings).items())]
        if not files_in(folder, endings):
            kind = "file" if endings == ANY else f"<client>{' or '.join(endings)}"
            return strange or [
                subject + f"holds no {kind}; `fedps data prepare` fills it; name the folder that does, {remedy}"
            ]
    except OSError as error:
        return [subject + f"cannot be read: {error.strerror}; name a folder that can"]
    return strange


def _nobodys_test_files(job: Job) -> list[str]:
    try:
        client_files_of(job)
    except DataError:
        return []  # the training folder's own mistake
    try:
        test_files_of(job)
    except DataError as error:
        return [str(error)]
    return []


def workers(job: Job) -> list[str]:
    """Say that there are not as many clients as workers."""
    runner, clients = job.runner, clients_there(job)
    if runner.worker_num is None or not clients or runner.worker_num == len(clients):
        return []
    if runner.split_file_list and runner.worker_num < len(clients):
        return []
    count = f"{len(clients)} clients" if len(clients) > 1 else "1 client"
    named = f"{clients[0]} … {clients[-1]}" if len(clients) > 1 else clients[0]
    fewer = ", set split_file_list" if runner.worker_num < len(clients) else ""
    return [
        f"runner.worker_num: {runner.worker_num}: {runner.train_data_dir} holds {count} ({named}); use {len(clients)},"
        f" leave the key out{fewer}, or prepare the data for {runner.worker_num} clients"
    ]


def sizes(job: Job) -> list[str]:
    """Say that the network has fewer users or items than the data's manifest, or others than the features."""
    if job.features:
        rows = {f"num_{name}s": job.features[name].rows for name in ("user", "item") if name in job.features}
        return [
            f"hyper_parameters.{key}: {given}: features.{key[4:-1]}.rows is {due}: leave the key out"
            for key, due in rows.items()
            if isinstance(due, int) and (given := getattr(job.hyper_parameters, key)) != due
        ]
    return [
        f"hyper_parameters.{key}: {given}: {job.runner.train_data_dir.parent / 'manifest.json'} says {size}; use that, or"
        " leave the key out"
        for key, size in sizes_of_data(job).items()
        if (given := getattr(job.hyper_parameters, key)) < size
    ]


def readers(job: Job) -> list[str]:
    """Say which readers cannot be modules."""
    return [
        f"runner.{key}: {path!r}: write the name of a module, e.g. my_reader for my_reader.py beside the job file"
        for key in ("train_reader_path", "infer_reader_path")
        if (path := getattr(job.runner, key)) is not None and not all(part.isidentifier() for part in path.split("."))
    ]


def warm_start(job: Job) -> list[str]:
    """Say that the epoch to start from is not there, or not one of ours."""
    folder = job.runner.warmup_model_path
    try:
        if folder is None:
            return []
        if folder.is_dir() and is_paddles(folder):
            return [f"runner.warmup_model_path: {str(folder)!r}: {PADDLES}, e.g. RUN_DIR/model/2, or leave the key out"]
        if folder.is_dir():
            from fedps.storage.epochs import find_first  # noqa: PLC0415  (numpy and numba take a second)

            find_first(folder)
            return []
    except DataError as error:
        return [f"runner.warmup_model_path: {error}"]
    except OSError:
        pass  # its name is too long, say
    return [
        f"runner.warmup_model_path: {str(folder)!r}: there is no such folder; name that of a saved epoch, e.g."
        " RUN_DIR/model/2, or leave the key out"
    ]


def is_paddles(folder: Path) -> bool:
    """Whether a folder is, or holds, what PaddlePaddle saved."""
    return any(next(folder.glob(f"{above}[0-9][0-9][0-9]/part-*"), None) for above in ("", "*/"))


def dumps(job: Job) -> list[str]:
    """Say that dumps cannot be written: the quick start's own file names another person's home."""
    runner = job.runner
    return (
        _unwritable("runner.dump_fields_path", runner.dump_fields_path, ", or set need_dump to false")
        * runner.need_dump
    )


def saves(job: Job) -> list[str]:
    """Say that epochs cannot be saved."""
    return _unwritable("runner.model_save_path", job.runner.model_save_path, ", or leave the key out")


def _unwritable(key: str, folder: Path | None, remedy: str) -> list[str]:
    """Say that a folder cannot be made or written to, from the first above it that is there."""
    if folder is None:
        return []
    there = next(f for f in (folder, *folder.parents) if os.path.lexists(f))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    why = "may not be written to" if there.is_dir() else "is no folder"
    return [f"{key}: {str(folder)!r}: cannot be written: {there} {why}; name another folder{remedy}"]


def epochs(job: Job) -> list[str]:
    """Say that no epoch lies between the first and the last to infer."""
    start, end = job.runner.infer_start_epoch, job.runner.infer_end_epoch
    if end is None or start < end:
        return []
    return [
        f"runner.infer_end_epoch: {end}: is the epoch before which to end, so it must be above infer_start_epoch {start}"
    ]


def kept(job: Job) -> list[str]:
    """Say that saves would be removed which later ones build on."""
    runner = job.runner
    if runner.keep_epochs is None or runner.save_mode != "delta":
        return []
    return [
        f"runner.keep_epochs: {runner.keep_epochs}: save_mode delta builds each save on the ones before: leave one out"
    ]
