"""`fedps config`: look at a job without running it."""

import json
from collections.abc import Callable
from typing import Annotated, TypeVar

from cyclopts import App

from fedps.cli.app import (
    CoordinatorNum,
    Coordinators,
    JobFile,
    Override,
    Servers,
    Switch,
    WorkerNum,
    app,
    flag,
    load,
    named,
    note,
    note_job,
)  # fmt: skip

T = TypeVar("T")
config_app = App(name="config", help="Look at a job without running it.")
app.command(config_app)


@config_app.command
def show(job: JobFile = None, *, override: Override = None) -> None:
    """Print the job as it will run: every key with its value, where that came from, and what it means.

    The output is a job file for the same job.
    """
    from fedps.config import describe, vertical  # noqa: PLC0415

    said = vertical.describe if vertical.is_vertical(named(job)) else describe
    print(said(named(job), override or []), end="")


@config_app.command(name="schema")
def print_schema(
    *, vertical: Annotated[bool, Switch, flag("vertical", "Of a job of vertical training.")] = False
) -> None:
    """Print the JSON schema of a job file, by which editors complete and check it.

    Example: fedps config schema > job.schema.json

    Then, as the first line of a job, for VS Code's YAML extension and others: # yaml-language-server: $schema=job.schema.json
    """
    from fedps.config.schema import schema, vertical_schema  # noqa: PLC0415

    print(json.dumps(vertical_schema() if vertical else schema(), indent=1))


@config_app.command
def check(
    job: JobFile = None,
    *,
    override: Override = None,
    worker_num: WorkerNum = None,
    server_num: Annotated[int | None, flag("server_num", "Number of servers.")] = None,
    servers: Annotated[str | None, Servers] = None,
    coordinator_num: Annotated[int | None, CoordinatorNum] = None,
    coordinators: Annotated[str | None, Coordinators] = None,
) -> None:
    """Say whether a job and its data are right, or all that is wrong with them; and what would leave the clients.

    The flags are those of `fedps run`: addresses are looked at too, as that would.
    """
    from fedps.config.vertical import is_vertical, load_vertical, notes_of  # noqa: PLC0415
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    if is_vertical(named(job)):
        resolved = load_vertical(named(job), override or [])
        for text in notes_of(named(job), resolved):
            note(text)
        print(f"{job}: no mistakes")
        return
    counts = read_counts(worker_num, None, server_num, servers, coordinator_num, coordinators)
    resolved = load(job, [*(override or []), *counts.overrides()])
    note_job(resolved)
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.data.read.client import check_files  # noqa: PLC0415
    from fedps.errors import DataError, JobError  # noqa: PLC0415
    from fedps.launch.folder import check_places, check_readers  # noqa: PLC0415
    from fedps.launch.local.role import check_classes  # noqa: PLC0415
    from fedps.launch.progress import places  # noqa: PLC0415
    from fedps.training.plan import look_at  # noqa: PLC0415

    mistakes = list[str]()

    def found(look: Callable[[], T]) -> T | None:
        try:
            return look()
        except JobError as error:
            mistakes.extend(error.mistakes)
        except DataError as error:
            mistakes.append(str(error))
        return None

    found(lambda: check_here(counts))
    found(lambda: check_places(resolved))
    found(lambda: check_readers(resolved))
    found(lambda: check_classes(resolved))
    notes = found(lambda: check_files(resolved, Allow(commands=True)))
    checked = found(lambda: look_at(resolved))
    if mistakes or notes is None or checked is None:
        raise JobError(mistakes)
    for text in notes:
        note(text)
    print(f"{places(checked, resolved)}\n{job}: no mistakes")
