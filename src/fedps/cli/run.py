"""`fedps run`: a job with all its roles on this machine, with the flags of the original's launcher."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from fedps.cli.app import (
    FAILED,
    AllowCommands,
    AllowDump,
    AsJson,
    LogDir,
    Override,
    RunDir,
    Switch,
    app,
    flag,
    load,
    named,
    note,
    note_job,
)
from fedps.errors import JobError

BUILT_IN = ("static_fl_trainer.py", "static_ps_trainer.py")  # the original's trainers: ours does what they do
Hidden = Parameter(show=False)


class Asked(NamedTuple):
    """What the words without a flag say."""

    job: Path | None
    script: Path | None = None
    args: tuple[str, ...] = ()


@app.command
def run(
    *words: Annotated[str, Parameter(name="[SCRIPT.py] JOB.yaml", negative="")],
    job: Annotated[Path | None, Parameter(name=["--job", "-m"], show_default=False)] = None,
    override: Override = None,
    worker_num: Annotated[int | None, flag("worker_num")] = None,
    workers: Annotated[str | None, flag("workers")] = None,
    server_num: Annotated[int | None, flag("server_num")] = None,
    servers: Annotated[str | None, flag("servers")] = None,
    coordinator_num: Annotated[int | None, flag("coordinator_num")] = None,
    coordinators: Annotated[str | None, flag("coordinators")] = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    in_process: Annotated[bool, Switch, flag("in-process")] = False,
    allow_commands: AllowCommands = False,
    allow_private_dump: AllowDump = False,
    as_json: AsJson = False,
    heter_worker_num: Annotated[str | None, flag("heter_worker_num"), Hidden] = None,
    heter_workers: Annotated[str | None, flag("heter_workers"), Hidden] = None,
    heter_devices: Annotated[str | None, flag("heter_devices"), Hidden] = None,
    http_port: Annotated[str | None, flag("http_port"), Hidden] = None,
) -> None:
    """Run a job: start servers and one worker a client, train, evaluate, save.

    Example: fedps run examples/quickstart.yaml --server_num=2 -o runner.geo_step=50

    Example: fedps run my_training.py -m job.yaml --servers=127.0.0.1:10000 -- --what my_training.py takes

    What a job file may say: fedps config show examples/quickstart.yaml

    Args:
        words: The job file (or -m), and a training script of your own, if you have one; what it takes comes after --.
        job: The job file (YAML).
        override: key=value, set over the job file; may be repeated.
        worker_num: Number of workers; must be the number of clients in the data.
        workers: host:port,host:port,… of the workers; only their number counts, since they never listen.
        server_num: Number of servers.
        servers: host:port,… where the servers listen (default free ports).
        coordinator_num: 1: a coordinator decides each round who trains; 0: none (default what the job says).
        coordinators: host:port where the coordinator listens (default a free port).
        run_dir: Folder for logs, events, model and summary (default runs/<job>-<time>).
        log_dir: Folder for the roles' logs (default log in the run's folder).
        in_process: Run everything in this one process, so that a breakpoint works anywhere.
        allow_commands: Let the job's pipe_command run.
        allow_private_dump: Let what is private to a client be dumped, on the client's machine.
        as_json: Print the summary as one JSON object, and nothing else.
        heter_worker_num: The original's; an error here.
        heter_workers: The original's; an error here.
        heter_devices: The original's; has no effect here.
        http_port: The original's; has no effect here.
    """
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    asked = read_words(words, job)
    _answer_original(heter_worker_num, heter_workers, heter_devices, http_port)
    counts = read_counts(worker_num, workers, server_num, servers, coordinator_num, coordinators)
    if workers is not None:
        note("--workers: only their number counts: workers dial out and never listen; all run on this machine")
    if in_process:
        _check_in_process(asked, log_dir, counts)
    else:
        check_here(counts)
    resolved = load(asked.job, [*(override or []), *counts.overrides()])
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.launcher import Orders  # noqa: PLC0415
    from fedps.launch.launcher import run as launch  # noqa: PLC0415

    allow = Allow(commands=allow_commands, private_dump=allow_private_dump)
    note_job(resolved, allow)
    orders = Orders(log_dir, counts.server_at, counts.coordinator_at, allow, asked.script, asked.args)
    summary = launch(resolved, run_dir, in_process, as_json, orders)
    if summary["status"] != "ok":
        raise SystemExit(FAILED)


def read_words(words: tuple[str, ...], job: Path | None) -> Asked:
    """Tell the job file, the script and the script's own arguments apart.

    Raises:
        JobError: two job files, a script that is not there, or a word that is none of these.
    """
    script, rest = None, list[str]()
    for word in words:
        path = Path(word)
        if path.suffix in (".yaml", ".yml") and not rest and (script is None or job is None):
            if job is not None:
                raise JobError(f"{word}: is a second job file beside {job}; give one")
            job = path
        elif path.suffix == ".py" and script is None:
            script = path
        else:
            rest.append(word)
    if script is None and rest:
        raise JobError(f"{rest[0]!r}: is neither a job file (.yaml, .yml) nor a training script (.py)")
    if script is not None and not script.is_file():
        if script.name not in BUILT_IN:
            raise JobError(f"{script}: there is no such script; correct the path")
        note(f"{script}: is not there; the built-in trainer does its work")
        script, rest = None, []
    return Asked(named(job), script, tuple(rest))


def _answer_original(num: str | None, workers: str | None, devices: str | None, port: str | None) -> None:
    """Answer the original's flags that have nothing to switch here."""
    for name, value in (("heter_worker_num", num), ("heter_workers", workers)):
        if value is not None:
            raise JobError(f"--{name} {value}: there are no heter workers here: all workers are alike; leave it out")
    if devices is not None:
        note(f"--heter_devices {devices}: has no effect: there are no heter workers here")
    if port is not None:
        note(f"--http_port {port}: has no effect: roles find each other without a server of their own")


def _check_in_process(asked: Asked, log_dir: Path | None, counts: Any) -> None:
    if asked.script is not None:
        raise JobError(f"--in-process and {asked.script} contradict each other: a script runs once per role")
    if log_dir is not None:
        raise JobError(
            f"--in-process and --log_dir {log_dir} contradict each other: without it, logs are in the run folder"
        )
    if counts.server_at or counts.coordinator_at:
        note("--servers, --coordinators: only their number counts: in one process nobody listens")
