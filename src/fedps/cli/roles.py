"""`fedps run`: all roles of a job on this machine; `fedps server`, `coordinator`, `worker`: one, on its own machine.

The flags are those of the original's launcher.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fedps.cli.app import (
    FAILED,
    AllowCommands,
    AllowDump,
    AsJson,
    Certs,
    CoordinatorNum,
    Coordinators,
    Insecure,
    JobFile,
    LogDir,
    Override,
    Resume,
    RunDir,
    Servers,
    Switch,
    WorkerNum,
    app,
    flag,
    load,
    named,
    note,
    note_job,
    protection,
    tell,
)  # fmt: skip
from fedps.cli.kits import of_data, supplied
from fedps.cli.words import Request, read_words
from fedps.errors import JobError

Workers = flag("workers", "host:port,… of workers; only their number counts: none listens.", also="trainers")
Words = Annotated[
    str,
    Parameter(
        name="[SCRIPT.py] JOB.yaml", negative="",
        help="The job file (or -m), or a folder of prepared data, for which `fedps init` writes one; and a training script of"
        " your own, if you have one; what it takes comes after --.",
    ),
]  # fmt: skip
Stay = Annotated[bool, Switch, flag("stay", "Go on when all clients have left, until SIGTERM.")]
Standby = Annotated[
    bool,
    Switch,
    flag("standby", "Follow the server that serves this shard from the same --run_dir, and take over if it dies."),
]
Hidden = Parameter(show=False)


@app.command
def run(
    *words: Words,
    job: JobFile = None,
    override: Override = None,
    worker_num: WorkerNum = None,
    workers: Annotated[str | None, Workers] = None,
    server_num: Annotated[int | None, flag("server_num", "Number of servers.")] = None,
    servers: Annotated[str | None, Servers] = None,
    coordinator_num: Annotated[int | None, CoordinatorNum] = None,
    coordinators: Annotated[str | None, Coordinators] = None,
    run_dir: RunDir = None,
    resume: Resume = None,
    log_dir: LogDir = None,
    in_process: Annotated[
        bool, Switch, flag("in-process", "Run everything in this one process, so that a breakpoint works anywhere.")
    ] = False,
    certs: Certs = None,
    insecure: Insecure = False,
    allow_commands: AllowCommands = False,
    allow_private_dump: AllowDump = False,
    as_json: AsJson = False,
    heter_worker_num: Annotated[str | None, flag("heter_worker_num", ""), Hidden] = None,
    heter_workers: Annotated[str | None, flag("heter_workers", ""), Hidden] = None,
    heter_devices: Annotated[str | None, flag("heter_devices", ""), Hidden] = None,
    http_port: Annotated[str | None, flag("http_port", ""), Hidden] = None,
    run_mode: Annotated[str | None, flag("run_mode", ""), Hidden] = None,
    bf16: Annotated[str | None, Parameter(name=["-bf16", "--pure_bf16"]), Hidden] = None,
) -> None:
    """Run a job: start servers and one worker a client, train, evaluate, save.

    Example: fedps run examples/quickstart.yaml --server_num=2 -o runner.geo_step=50

    Example: fedps run my_training.py -m job.yaml --servers=127.0.0.1:10000 -- --what my_training.py takes

    What a job file may say: fedps config show examples/quickstart.yaml

    Example: fedps run --resume latest

    A role that dies is started again, runner.restarts times at most, and the others wait or go on (runner.quorum); a run that
    was broken off altogether goes on by --resume.

    Ctrl-C, SIGTERM or SIGHUP stops all roles. Shells let a command in the background (`fedps run … &`) ignore Ctrl-C: stop
    it by `kill PID`, which sends SIGTERM; `nohup` keeps it running when the terminal closes.
    """
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    request = read_words(words, job, alone=resume is None)
    _answer_original(heter_worker_num, heter_workers, heter_devices, http_port, run_mode, bf16)
    counts = read_counts(worker_num, workers, server_num, servers, coordinator_num, coordinators)
    if workers is not None:
        note("--workers: only their number counts: workers dial out and never listen; all run on this machine")
    if resume is not None and (run_dir is not None or in_process):
        other = "--in-process" if in_process else f"--run_dir {run_dir}"
        raise JobError(
            f"--resume {resume} and {other} contradict each other: a run goes on in its own folder, in processes"
        )
    if in_process:
        _check_in_process(request, log_dir, counts)
    else:
        check_here(counts)
    overrides = [*(override or []), *counts.overrides(), *protection(certs, insecure)]
    if resume is not None and _is_complete(resume, as_json, changed=bool(override or request.job)):
        return
    resumed = None if resume is None else _reopen(resume, request, overrides)
    resolved = load(request.job, overrides) if resumed is None else resumed.job
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.launcher import run as launch  # noqa: PLC0415
    from fedps.launch.orders import Orders  # noqa: PLC0415

    allow = Allow(commands=allow_commands, private_dump=allow_private_dump)
    note_job(resolved, allow)
    script = request.scripted if resumed is None else resumed.script
    orders = Orders(log_dir, counts.server_at, counts.coordinator_at, allow, script)
    summary = launch(resolved, run_dir, in_process, as_json, orders, resumed)
    if summary["status"] != "ok":
        raise SystemExit(FAILED)


@app.command
def server(
    job: JobFile = None,
    *,
    servers: Annotated[str, Servers],
    shard: Annotated[
        int | None, flag("shard", "This server's number, from 0; left out where there is one.", least=0)
    ] = None,
    worker_num: WorkerNum = None,
    override: Override = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    stay: Stay = False,
    standby: Standby = False,
    certs: Certs = None,
    insecure: Insecure = False,
) -> None:
    """Be one server of a job, until every client has come and left.

    Example: fedps server job.yaml --shard 0 --servers 10.0.0.1:10000,10.0.0.2:10000 --worker_num 10
    """
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    counts = read_counts(servers=servers, worker_num=worker_num)
    last = len(counts.server_at) - 1
    number = 0 if shard is None and last == 0 else shard
    if number is None or number > last:
        raise JobError(f"--shard {number}: name the server to be, from 0 to {last}, as numbered by --servers {servers}")
    at = _fixed("--servers", counts.server_at[number])
    if not standby:  # else another listens there
        check_here(counts._replace(server_at=(at,)))
    from fedps.launch.one_role import serve_here  # noqa: PLC0415

    here = _here(job, override, counts, protection(certs, insecure))
    serve_here(here.job, number, at, run_dir, log_dir, stay, standby)


@app.command
def coordinator(
    job: JobFile = None,
    *,
    coordinators: Annotated[str, Coordinators],
    worker_num: WorkerNum = None,
    override: Override = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    stay: Stay = False,
    certs: Certs = None,
    insecure: Insecure = False,
) -> None:
    """Be the coordinator of a job, until every client has come and left.

    Example: fedps coordinator job.yaml --coordinators 10.0.0.1:10001 --worker_num 10
    """
    from fedps.launch.addresses import check_here, read_counts  # noqa: PLC0415

    counts = read_counts(coordinators=coordinators, worker_num=worker_num)
    check_here(counts)
    at = _fixed("--coordinators", counts.coordinator_at)
    from fedps.launch.one_role import coordinate_here  # noqa: PLC0415

    here = _here(job, override, counts, protection(certs, insecure))
    coordinate_here(here.job, at, run_dir, log_dir, stay)


@app.command
def worker(
    job: JobFile = None,
    *,
    kit: Annotated[
        Path | None, flag("kit", "What the federation's owner has sent: certificate, addresses, job.")
    ] = None,
    data: Annotated[
        Path | None, flag("data", "Folder of prepared data, in place of the job's train_data_dir and test_data_dir.")
    ] = None,
    servers: Annotated[str | None, Servers] = None,
    client: Annotated[str | None, flag("client", "The client's name, that of its data file.")] = None,
    worker_id: Annotated[
        int | None,
        flag("worker_id", "The worker's number, from 0; alone, it names the client where all data is here.", least=0),
    ] = None,
    coordinators: Annotated[str | None, Coordinators] = None,
    worker_num: WorkerNum = None,
    override: Override = None,
    run_dir: RunDir = None,
    log_dir: LogDir = None,
    anew: Annotated[bool, Switch, flag("anew", "Begin anew, though an earlier process left a checkpoint.")] = False,
    certs: Certs = None,
    insecure: Insecure = False,
    allow_commands: AllowCommands = False,
    allow_private_dump: AllowDump = False,
) -> None:
    """Be the worker of one client, whose data is on this machine; started again, it goes on from its newest checkpoint.

    Example: fedps worker job.yaml --client hospital-north --servers 10.0.0.1:10000 --worker_num 10

    Example: fedps worker --kit hospital-north.kit --data .data/north
    """
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.addresses import read_counts  # noqa: PLC0415
    from fedps.launch.one_role import find_client, work_here  # noqa: PLC0415

    given = None if kit is None else supplied(kit, client)
    if given is not None:
        job, client, certs = job or given.job, given.client, certs or given.certs
        servers, coordinators = servers or given.servers, coordinators or given.coordinators
    if servers is None:
        raise JobError(
            "where are the servers? give --servers host:port,…; or --kit, what the federation's owner has sent"
        )
    counts = read_counts(servers=servers, coordinators=coordinators, worker_num=worker_num)
    for at in counts.server_at:
        _fixed("--servers", at)
    overrides = [*(given.overrides if given is not None else []), *of_data(data), *(override or [])]
    here = _here(job, overrides, counts, protection(certs, insecure))
    if given is not None:
        given.check(here.job)
    if here.job.runner.with_coordinator and counts.coordinator_at is None:
        raise JobError("runner.with_coordinator: true: where is the coordinator? give --coordinators host:port")
    name, number = find_client(here, client, worker_id)
    allow = Allow(commands=allow_commands, private_dump=allow_private_dump)
    work_here(here.job, name, number, counts.server_at, counts.coordinator_at, run_dir, log_dir, allow, anew)


def _answer_original(
    num: str | None, workers: str | None, devices: str | None, port: str | None, mode: str | None, bf16: str | None
) -> None:
    """Answer the original's flags that have nothing to switch here."""
    if mode not in (None, "ps"):
        raise JobError(f"--run_mode {mode}: there is no other mode than ps here; leave it out")
    if bf16 not in (None, "False"):
        note(f"-bf16 {bf16}: has no effect: training is in float32; runner.compression: bf16 sends half the bytes")
    for name, value in (("heter_worker_num", num), ("heter_workers", workers)):
        if value is not None:
            raise JobError(
                f"--{name} {value}: all workers are alike here; if these are the second party of a vertical job"
                " (is_fl_ps_mode: 1), `fedps vertical run JOB.yaml` starts both parties; else leave it out"
            )
    if devices is not None:
        note(f"--heter_devices {devices}: has no effect: there are no heter workers here")
    if port is not None:
        note(f"--http_port {port}: has no effect: roles find each other without a server of their own")


def _is_complete(run_dir: Path, as_json: bool, changed: bool) -> bool:
    """Whether a run has come to its end, which is told then."""
    from fedps.events.journal import JOURNAL  # noqa: PLC0415
    from fedps.events.past import look_at  # noqa: PLC0415
    from fedps.launch.folder import conclude  # noqa: PLC0415
    from fedps.pages.words import facts  # noqa: PLC0415
    from fedps.serving.saved_run import check_of_clients  # noqa: PLC0415

    check_of_clients(run_dir)
    past = look_at(run_dir)
    if past.status != "ok":
        return False
    unfinished = (run_dir / JOURNAL).exists() and not (run_dir / "report.html").exists()  # its launcher died right then
    if unfinished and (why := conclude(run_dir)):
        note(why)
    further = (
        "; what is to change, as its epochs, takes another run: it starts from the model by runner.warmup_model_path"
    )
    note(f"--resume {run_dir}: this run is complete: nothing is left to do{further * changed}")
    tell(dict(past.summary) if as_json else dict(facts(past.summary)), as_json)
    return True


def _reopen(run_dir: Path, request: Request, overrides: list[str]) -> Any:
    from fedps.launch.resuming import reopen  # noqa: PLC0415

    return reopen(run_dir, request.job, overrides, request.scripted)


def _check_in_process(request: Request, log_dir: Path | None, counts: Any) -> None:
    if request.script is not None:
        raise JobError(f"--in-process and {request.script} contradict each other: a script runs once per role")
    if log_dir is not None:
        raise JobError(
            f"--in-process and --log_dir {log_dir} contradict each other: without it, logs are in the run folder"
        )
    if counts.server_at or counts.coordinator_at:
        note("--servers, --coordinators: only their number counts: in one process nobody listens")


def _here(job: Path | None, override: list[str] | None, counts: Any, protected: list[str]) -> Any:
    """Return the job as one role reads it, where not all data need be."""
    from fedps.launch.one_role import load_here  # noqa: PLC0415

    here = load_here(named(job), [*(override or []), *counts.overrides(), *protected])
    note_job(here.job)
    return here


def _fixed(flag_: str, at: Any) -> Any:
    if at.port == 0:
        raise JobError(f"{flag_} {at}: nobody could find a free port; name one")
    return at
