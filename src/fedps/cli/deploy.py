"""`fedps server`, `fedps coordinator`, `fedps worker`: one role in the foreground, on its own machine."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fedps.cli.app import (
    AllowCommands,
    AllowDump,
    JobFile,
    LogDir,
    Override,
    RunDir,
    Switch,
    app,
    flag,
    named,
    note_job,
)
from fedps.errors import JobError

Addresses = Annotated[str, flag("servers")]
Coordinators = Annotated[str | None, flag("coordinators")]
Workers = Annotated[int | None, flag("worker_num")]
Stay = Annotated[bool, Switch, Parameter(name="--stay")]


@app.command
def server(
    job: JobFile = None,
    *,
    servers: Addresses,
    shard: Annotated[int | None, flag("shard", least=0)] = None,
    worker_num: Workers = None,
    override: Override = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    stay: Stay = False,
) -> None:
    """Be one server of a job, until every client has come and left.

    Example: fedps server job.yaml --shard 0 --servers 10.0.0.1:10000,10.0.0.2:10000 --worker_num 10

    Args:
        job: The job file (YAML); the same on every machine.
        servers: host:port of every server, in the order of their numbers; the same on every machine.
        shard: The number of this server, from 0; left out where there is one.
        worker_num: Number of clients in all, where neither the job nor the data here says so.
        override: key=value, set over the job file; may be repeated.
        run_dir: Folder for events and the model (default runs/<job>).
        log_dir: Folder for a copy of what is printed.
        stay: Go on when all have left, until SIGTERM.
    """
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    counts = read_counts(servers=servers, worker_num=worker_num)
    last = len(counts.server_at) - 1
    number = 0 if shard is None and last == 0 else shard
    if number is None or number > last:
        raise JobError(f"--shard {number}: name the server to be, from 0 to {last}, as numbered by --servers {servers}")
    at = _fixed("--servers", counts.server_at[number])
    check_here(counts._replace(server_at=(at,)))
    from fedps.launch.one_role import serve_here  # noqa: PLC0415

    serve_here(_here(job, override, counts).job, number, at, run_dir, log_dir, stay)


@app.command
def coordinator(
    job: JobFile = None,
    *,
    coordinators: Annotated[str, flag("coordinators")],
    worker_num: Workers = None,
    override: Override = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    stay: Stay = False,
) -> None:
    """Be the coordinator of a job, until every client has come and left.

    Example: fedps coordinator job.yaml --coordinators 10.0.0.1:10001 --worker_num 10

    Args:
        job: The job file (YAML); the same on every machine.
        coordinators: host:port where it listens.
        worker_num: Number of clients in all, where neither the job nor the data here says so.
        override: key=value, set over the job file; may be repeated.
        run_dir: Folder for events (default runs/<job>).
        log_dir: Folder for a copy of what is printed.
        stay: Go on when all have left, until SIGTERM.
    """
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    counts = read_counts(coordinators=coordinators, worker_num=worker_num)
    check_here(counts)
    at = _fixed("--coordinators", counts.coordinator_at)
    from fedps.launch.one_role import coordinate_here  # noqa: PLC0415

    coordinate_here(_here(job, override, counts).job, at, run_dir, log_dir, stay)


@app.command
def worker(
    job: JobFile = None,
    *,
    servers: Addresses,
    client: Annotated[str | None, Parameter(name="--client")] = None,
    worker_id: Annotated[int | None, flag("worker_id", least=0)] = None,
    coordinators: Coordinators = None,
    worker_num: Workers = None,
    override: Override = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    allow_commands: AllowCommands = False,
    allow_private_dump: AllowDump = False,
) -> None:
    """Be the worker of one client, whose data is on this machine.

    Example: fedps worker job.yaml --client hospital-north --servers 10.0.0.1:10000 --worker_num 10

    Args:
        job: The job file (YAML); the same on every machine.
        servers: host:port of every server, in the order of their numbers; the same on every machine.
        client: The client's name, that of its data file.
        worker_id: The worker's number, from 0; alone, it names the client where all clients' data is here.
        coordinators: host:port of the coordinator, if there is one.
        worker_num: Number of clients in all, where neither the job nor the data here says so.
        override: key=value, set over the job file; may be repeated.
        run_dir: Folder for events and what is private (default runs/<job>).
        log_dir: Folder for a copy of what is printed.
        allow_commands: Let the job's pipe_command run.
        allow_private_dump: Let what is private to the client be dumped, on this machine.
    """
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.addresses import read_counts  # noqa: PLC0415
    from fedps.launch.one_role import find_client, work_here  # noqa: PLC0415

    counts = read_counts(servers=servers, coordinators=coordinators, worker_num=worker_num)
    for at in counts.server_at:
        _fixed("--servers", at)
    here = _here(job, override, counts)
    if here.job.runner.with_coordinator and counts.coordinator_at is None:
        raise JobError("runner.with_coordinator: true: where is the coordinator? give --coordinators host:port")
    name, number = find_client(here, client, worker_id)
    allow = Allow(commands=allow_commands, private_dump=allow_private_dump)
    work_here(here.job, name, number, counts.server_at, counts.coordinator_at, run_dir, log_dir, allow)


def _here(job: Path | None, override: list[str] | None, counts: Any) -> Any:
    from fedps.launch.one_role import load_here  # noqa: PLC0415

    here = load_here(named(job), [*(override or []), *counts.overrides()])
    note_job(here.job)
    return here


def _fixed(flag_: str, at: Any) -> Any:
    if at.port == 0:
        raise JobError(f"{flag_} {at}: nobody could find a free port; name one")
    return at
