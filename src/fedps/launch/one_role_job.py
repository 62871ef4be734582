"""A job where not all of its data is: on a client's own machine, or on that of a server, which has none.

The counts that are otherwise checked against the data folder have to be said there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedps.config import Job, load_job
from fedps.config.files import client_files_of
from fedps.config.loading import read_tree
from fedps.errors import JobError
from fedps.types import ClientId

FOLDERS = ("runner.train_data_dir", "runner.test_data_dir")
ELSEWHERE = (*FOLDERS, "distillation.public_data")  # what servers do without
SAY = "say how many clients take part in all: --worker_num=10, or runner.worker_num in the job file"


class Partial(NamedTuple):
    """A job, and whether its number of workers was counted in the data, for want of being said."""

    job: Job
    counted: bool


def load_here(path: Path, overrides: Sequence[str] = ()) -> Partial:
    """Read a job for one role; unlike `load_job`, it does not ask for data that other machines hold.

    Args:
        path: the job file.
        overrides: `dotted.key=value`; later ones win.

    Raises:
        JobError: all mistakes, or the number of workers is neither said nor shown by the data.
    """
    section = read_tree(path, overrides)[0].get("runner")
    runner = section if isinstance(section, dict) else {}
    count = runner.get("worker_num")
    try:
        return Partial(load_job(path, overrides), counted=count is None)
    except JobError as error:
        told = error.mistakes
    if not isinstance(count, int) or not isinstance(runner.get("train_data_dir"), str):
        no_data = [m for m in told if m.startswith(tuple(f"{folder}: " for folder in FOLDERS))]
        if count is None and no_data:
            told = [m for m in told if m not in no_data]
            told.append(f"runner.worker_num: is missing, and no data here shows it ({no_data[0]}); {SAY}")
        raise JobError(told)
    return Partial(load_job(path, overrides, elsewhere=ELSEWHERE), counted=False)


def find_client(here: Partial, client: str | None, number: int | None) -> tuple[ClientId, int]:
    """Return the client that a worker shall train for, and its number.

    Args:
        here: the job.
        client: its name; None takes the `number`-th of all clients.
        number: the worker's number; None takes the client's place among those whose data is here.

    Raises:
        JobError: neither is given, there is no such client here, or it cannot be known how many there are in all.
        DataError: the data folder cannot be read.
    """
    names = list(client_files_of(here.job))
    listed = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    where = f"{here.job.runner.train_data_dir} holds {listed or 'no client'}"
    if client is None and number is None:
        raise JobError(f"whose worker is this? give --client NAME, or --worker_id K; {where}")
    if here.counted and len(names) == 1:
        raise JobError(f"runner.worker_num: is missing: {where} alone; {SAY}")
    if client is not None:
        if client not in names:
            raise JobError(f"--client {client}: this client's data is not here; {where}")
        return ClientId(client), names.index(ClientId(client)) if number is None else number
    if len(names) != here.job.runner.worker_num:
        raise JobError(
            f"--worker_id {number}: not all clients' data is here, so name the client with --client; {where}"
        )
    if number is None or not 0 <= number < len(names):
        raise JobError(f"--worker_id {number}: workers are numbered from 0 to {len(names) - 1}")
    return names[number], number
