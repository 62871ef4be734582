"""The root of the command line, what its commands share, and how they end."""

import json
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError
from cyclopts.validators import Number

from fedps import __version__
from fedps.errors import FedpsError, JobError, RoleError, shortage

FAILED, WRONG, INTERRUPTED, UNREAD = 1, 2, 130, 141  # the last as shells say it of SIGPIPE
HELP = """fedps trains one recommender over many owners of data who keep their data.

    fedps data prepare movielens --out .data/ml-1m
    fedps run .data/ml-1m
    fedps recommend latest --user 17
    fedps config show examples/quickstart.yaml
    fedps run examples/quickstart.yaml -o runner.sync_mode=async -o runner.epochs=5
    fedps export latest --out model
"""
app = App(name="fedps", help=HELP, version=__version__, help_format="plaintext", suppress_keyboard_interrupt=False)
app.register_install_completion_command(help="Let the shell (bash, zsh, fish) complete commands and flags by Tab.")


def _from_here(override: str) -> str:
    """Return an override with its path counted from the working directory, as a shell completes it."""
    from fedps.config.loading import ALL_PATHS  # noqa: PLC0415
    from fedps.config.source import parse  # noqa: PLC0415

    key, _, value = override.partition("=")
    if key.strip() in ALL_PATHS or PARTYS_FILES.fullmatch(key.strip()):
        with suppress(JobError):  # which is told where the job is read
            there = parse(value)
            paths = [_absolute(path) for path in (there if isinstance(there, list) else [there])]
            return f"{key}={json.dumps(paths if isinstance(there, list) else paths[0], ensure_ascii=False)}"
    return override


def _absolute(path: Any) -> Any:
    """Return a path counted from the working directory; {workspace}, and what is no path, as it stands."""
    return str(Path.cwd() / path) if isinstance(path, str) and path[:1] not in ("", "~", "{") else path


def _found(_: Any, tokens: Any) -> Path:
    from fedps.launch.folder import find_run  # noqa: PLC0415

    return find_run(tokens[0].value)


def flag(word: str, said: str, least: int | None = None, also: str | None = None) -> Parameter:
    """Return a flag with its help, - and _ alike in its name; `least` is the smallest number it takes, `also` its alias."""
    words = [word, also or word]
    forms = dict.fromkeys(f"--{form}" for w in words for form in (w, w.replace("_", "-"), w.replace("-", "_")))
    least_of = None if least is None else Number(gte=least)
    return Parameter(name=list(forms), help=said, negative="", validator=least_of)


Switch = Parameter(negative="", show_default=False)
JobFile = Annotated[
    Path | None,
    Parameter(
        name=["--job", "-m", "--config_yaml"], show_default=False,
        help="The job file (YAML); the same for all roles of a run.",
    ),
]  # fmt: skip
Override = Annotated[
    list[str] | None,
    Parameter(
        name=["-o", "--override"],
        negative="",
        converter=lambda _, tokens: [_from_here(token.value) for token in tokens],
        help="key=value …, set over the job file; may be repeated. A path counts from where you stand; the file's own from its folder.",
    ),
]
HOSTS = "For several machines, start `fedps server`, `fedps coordinator` and `fedps worker`, each on its own."
DEVICES = "Training runs on the CPU; on CUDA with -o runner.use_gpu=true."
GO_ON = (
    "`fedps run --resume RUN_DIR` goes on with a run that was broken off; another starts from a saved epoch with"
    " -o runner.warmup_model_path=RUN_DIR/model/EPOCH."
)
ELSEWHERE = dict.fromkeys(("resume", "checkpoint", "warm_start"), GO_ON)  # flags of other launchers
ELSEWHERE |= dict.fromkeys(("ips", "host", "hosts", "master", "nnodes", "node_rank", "rank", "nproc_per_node"), HOSTS)
ELSEWHERE |= dict.fromkeys(("gpus", "gpu", "devices", "device", "xpus", "selected_gpus"), DEVICES)
ELSEWHERE |= dict.fromkeys(("dry_run", "check"), "`fedps config check` looks at a job without running it.")
ELSEWHERE |= dict.fromkeys(("quiet", "q", "silent"), "--json prints the summary and nothing else.")
ELSEWHERE |= dict.fromkeys(("verbose", "v", "debug"), "What each role says is in the run folder's log.")
OVERRIDES = ("-o", "--override")
PARTYS_FILES = re.compile(r"parties\.[^.]+\.(test_)?data")  # keys of a vertical job
SETTING = re.compile(r"\w+(\.\w+)+=")
AsJson = Annotated[bool, Switch, flag("json", "Print what came of it as one JSON object, and nothing else.")]
RunDir = Annotated[
    Path | None,
    flag(
        "run_dir",
        "Folder of the run: events, model, what is private (default runs/<job>, to which `run` adds the time).",
    ),
]
PastRun = Annotated[Path, Parameter(converter=_found, help="The run's folder, or `latest`: the newest under runs/.")]
Resume = Annotated[
    Path | None,
    Parameter(
        converter=_found, negative="", show_default=False,
        help="Go on with a run that was broken off: its folder, or `latest`. It has its job, and script, already.",
    ),
]  # fmt: skip
LogDir = Annotated[
    Path | None, flag("log_dir", "Folder for a copy of what roles print (`run`: default log in the run's folder).")
]
CoordinatorNum = flag(
    "coordinator_num", "1: a coordinator decides each round who trains; 0: none (default as in the job)."
)
WorkerNum = Annotated[
    int | None,
    flag("worker_num", "Number of clients in all, where neither job nor data here says so.", also="trainer_num"),
]
Servers = flag("servers", "host:port of every server, in the order of their numbers (`run`: default free ports).")
Coordinators = flag(
    "coordinators", "host:port where the coordinator listens, if there is one (`run`: default a free port)."
)
Certs = Annotated[
    Path | None,
    flag(
        "certs",
        "Folder of this role's certificate, or of an authority: all connections are encrypted, and all are who they say they are.",
    ),
]
Insecure = Annotated[
    bool,
    Switch,
    flag("insecure", "Connect in the clear to other machines too; whoever is on the way reads and changes all."),
]
AllowCommands = Annotated[bool, Switch, flag("allow-commands", "Let the job's pipe_command run.")]
AllowDump = Annotated[
    bool, Switch, flag("allow-private-dump", "Let what is private to a client be dumped, on the client's machine.")
]


@contextmanager
def _said_to_the_end() -> Iterator[None]:
    """End in silence once nobody reads on: `head`, or who leaves a pager, has seen enough."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # as it is where standard output is closed
                sys.stdout.flush()
    except BrokenPipeError:
        gone = select.poll()
        gone.register(sys.stdout.fileno(), 0)
        if not gone.poll(0):  # it was another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNREAD)


def main() -> None:
    """Run the command line; errors that fedps raises on purpose are told without a traceback."""
    try:
        with signals_as_interrupt(), _said_to_the_end():
            app(_an_override_each(sys.argv[1:]), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = " ".join(["fedps", *(error.command_chain or [])])
        code = _fail(_remedied(error))
        print(f"see `{command} --help`", file=sys.stderr)
        sys.exit(code)
    except RoleError as error:
        sys.exit(_fail(f"{error.traceback}\n{error}".lstrip("\n"), FAILED))
    except FedpsError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        if why := shortage(error):
            sys.exit(_fail(why, FAILED))
        if not isinstance(error, PermissionError) or error.filename is None:
            raise
        sys.exit(_fail(f"{error.filename}: {error.strerror}; name what this user may use"))
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _an_override_each(words: list[str]) -> list[str]:
    """Write `-o a.b=1 c.d=2`, as the original's trainers take it, as `-o a.b=1 -o c.d=2`; words after -- stay."""
    written: list[str] = []
    opened = False  # -o, and since then nothing but settings
    for k, word in enumerate(words):
        if word == "--":
            return written + words[k:]
        setting = bool(SETTING.match(word))
        if setting and opened and written[-1] not in OVERRIDES:
            written.append("-o")
        opened = word.startswith(OVERRIDES) or (opened and setting)
        written.append(word)
    return written


def _remedied(error: CycloptsError) -> str:
    """Return what is wrong with the words, all commands there are, and for flags of other launchers what to write here."""
    if isinstance(error, UnknownCommandError):
        within = reduce(lambda inner, name: inner[name], error.command_chain or (), app)
        there = sorted(name for name in within if not name.startswith("-"))
        return f"{str(error).partition(' Available')[0]} Available commands: {', '.join(there)}."
    token = getattr(error, "token", None)
    flag_, said = token.value.partition("=")[0] if token is not None else "", str(error)
    remedy = ELSEWHERE.get(flag_.lstrip("-").replace("-", "_"))
    return f"{said.partition(' Did you mean')[0]} {remedy}" if remedy and said.startswith("Unknown option") else said


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, and SIGHUP where it is not ignored (nohup), as Ctrl-C: what a command has begun ends in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {}
    with suppress(ValueError):  # not the main thread: signals are somebody else's
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, there in before.items():
            signal.signal(number, there)


def protection(certs: Path | None, insecure: bool) -> list[str]:
    """Return as overrides what the flags say of how connections are protected."""
    said = [] if certs is None else [f"security.certs={json.dumps(str(Path.cwd() / certs), ensure_ascii=False)}"]
    return said + ["security.insecure=true"] * insecure


def named(job: Path | None) -> Path:
    """Return the job file.

    Raises:
        JobError: none was given.
    """
    if job is None:
        raise JobError("no job file: write `fedps run JOB.yaml` or `-m JOB.yaml`, whatever the command")
    return job


def load(path: Path | None, overrides: list[str], elsewhere: tuple[str, ...] = ()) -> Any:
    """Read a job file; folders of the keys `elsewhere` are not looked into.

    Raises:
        JobError: none was given, or it is wrong.
    """
    from fedps.config import load_job  # noqa: PLC0415

    return load_job(named(path), overrides, elsewhere)


def note(text: str) -> None:
    """Say what is worth knowing and no mistake."""
    print(f"note: {text}", file=sys.stderr)


def note_job(job: Any, allow: Any = None) -> None:
    """Say which keys of a job have no effect, given what flags allow (None where that does not matter)."""
    from fedps.config import notes_of  # noqa: PLC0415

    for text in notes_of(job, allow):
        note(text)


def tell(result: dict[str, Any], as_json: bool) -> None:
    """Print what a command found, a line a fact, or as one JSON object."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        for one in value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]:
            print(f"{key}: {_shown(one)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _fail(text: str, code: int = WRONG) -> int:
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code
