"""The command line. Each command imports its room when it runs, so that `--help` answers at once.

Exit codes: 0 all is well, 1 a role failed, 2 the job, a flag or the data is wrong, 130 stopped by Ctrl-C.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from fedps import __version__
from fedps.errors import FedpsError, JobError, RoleError

FAILED, WRONG, INTERRUPTED = 1, 2, 130
HELP = """fedps trains one recommender over many owners of data who keep their data.

    fedps data prepare movielens --out .data/ml-1m
    fedps config show examples/quickstart.yaml
    fedps run examples/quickstart.yaml
    fedps run examples/quickstart.yaml -o runner.sync_mode=async -o runner.epochs=5
    fedps export runs/quickstart-... --out model
"""
app = App(name="fedps", help=HELP, version=__version__, help_format="plaintext", suppress_keyboard_interrupt=False)
data_app = App(name="data", help="Prepare data for federated training.")
prepare_app = App(name="prepare", help="Split a real data set over clients.")
synth_app = App(name="synth", help="Make a synthetic twin of a data set, with planted taste.")
config_app = App(name="config", help="Look at a job without running it.")
app.command(data_app)
app.command(config_app)
data_app.command(prepare_app)
data_app.command(synth_app)


def _flag(word: str, least: int | None = None) -> Parameter:
    """Return a flag, with - and _ alike in its name; `least` is the smallest number it takes."""
    forms = dict.fromkeys(f"--{form}" for form in (word, word.replace("_", "-"), word.replace("-", "_")))
    return Parameter(name=list(forms), negative="", validator=None if least is None else Number(gte=least))


Switch = Parameter(negative="", show_default=False)
JobFile = Annotated[Path | None, Parameter(name=["--job", "-m"], show_default=False)]
Override = Annotated[list[str] | None, Parameter(name=["-o", "--override"], negative="")]
AsJson = Annotated[bool, Switch, Parameter(name="--json")]
Partition = Literal["zipcode", "iid", "dirichlet", "quantity"]
Clients = Annotated[int | None, _flag("clients", least=1)]
Alpha = Annotated[float | None, Parameter(validator=Number(gt=0))]
Negatives = Annotated[int, _flag("negatives", least=0)]
Seed = Annotated[int, _flag("seed", least=0)]


@app.command
def run(
    job: JobFile = None,
    *,
    override: Override = None,
    worker_num: Annotated[int | None, _flag("worker_num")] = None,
    server_num: Annotated[int | None, _flag("server_num")] = None,
    run_dir: Annotated[Path | None, _flag("run_dir")] = None,
    in_process: Annotated[bool, Switch, _flag("in-process")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job: start servers and one worker a client, train, evaluate, save.

    Example: fedps run examples/quickstart.yaml --server_num=2 -o runner.geo_step=50

    What a job file may say: fedps config show examples/quickstart.yaml

    Args:
        job: The job file (YAML).
        override: key=value, set over the job file; may be repeated.
        worker_num: Number of workers; must be the number of clients in the data.
        server_num: Number of servers.
        run_dir: Folder for logs, events, model and summary (default runs/<job>-<time>).
        in_process: Run everything in this one process, so that a breakpoint works anywhere.
        as_json: Print the summary as one JSON object, and nothing else.
    """
    flags = [f"runner.{k}={v}" for k, v in (("worker_num", worker_num), ("server_num", server_num)) if v is not None]
    resolved = _job(job, [*(override or []), *flags])
    _note(resolved)
    from fedps.launch.launcher import run as launch  # noqa: PLC0415

    summary = launch(resolved, run_dir, in_process, as_json)
    if summary["status"] != "ok":
        raise SystemExit(FAILED)


@app.command
def infer(
    job: JobFile = None,
    *,
    weights: Path,
    override: Override = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate given weights on a job's held-out samples: AUC, HR@10, NDCG@10.

    Example: fedps infer examples/quickstart.yaml --weights model/model.safetensors

    Args:
        job: The job file (YAML).
        weights: A safetensors file with the model's own parameter names, as `fedps export` writes it.
        override: key=value, set over the job file; may be repeated.
        as_json: Print one JSON object.
    """
    from fedps.client.infer import infer as evaluate  # noqa: PLC0415

    result = evaluate(_job(job, override or []), weights)
    _tell(result, as_json)


@app.command
def export(
    run_dir: Path,
    *,
    out: Path,
    epoch: int | None = None,
    private: Annotated[bool, Switch] = False,
    format: Literal["safetensors"] = "safetensors",  # noqa: A002  (the flag's name)
) -> None:
    """Write a run's model as one file, names and shapes as in the network.

    Args:
        run_dir: The run's folder.
        out: Folder to write model.safetensors to.
        epoch: Which saved epoch (default the last).
        private: Join the clients' private tables too, where they lie in the run folder.
        format: The file's form.
    """
    from fedps.export import export_run  # noqa: PLC0415

    print(f"{format}: {export_run(run_dir, out, epoch, private)}")


@prepare_app.command(name="movielens")
def prepare_movielens(
    *,
    out: Path,
    source: str | None = None,
    partition: Partition = "zipcode",
    clients: Clients = None,
    alpha: Alpha = None,
    negatives: Negatives = 4,
    test_negatives: Annotated[Path | None, _flag("test-negatives")] = None,
    test_rating: Annotated[Path | None, _flag("test-rating")] = None,
    seed: Seed = 0,
    or_synthetic: Annotated[bool, Switch, _flag("or-synthetic")] = False,
) -> None:
    """Prepare MovieLens in the NCF split (leave one out, 99 test negatives).

    Args:
        out: Folder to make.
        source: ml-1m.zip, ml-100k.zip, a folder of their files, or a URL (default $FEDPS_DATA, then the publisher).
        partition: How users become clients.
        clients: Number of clients (10; not for zipcode, which makes one of each first digit).
        alpha: Skew of dirichlet and quantity (0.5); small is skewed.
        negatives: Sampled negatives for each positive.
        test_negatives: Published test negatives; drawn if left out.
        test_rating: Published test positives; each user's latest if left out.
        seed: Of all draws.
        or_synthetic: Make a synthetic twin, and say so loudly, where the real data cannot be had.
    """
    from fedps.data.movielens import prepare  # noqa: PLC0415
    from fedps.data.synth import synthesize  # noqa: PLC0415
    from fedps.errors import DataError  # noqa: PLC0415

    split = _split(partition, clients, alpha)
    try:
        manifest = prepare(out, source, split, negatives, test_rating, test_negatives, seed)
    except DataError as error:
        if not or_synthetic or source is not None:
            raise
        print(
            f"{error}\n\n*** NO REAL DATA: making a SYNTHETIC twin; its figures say nothing of MovieLens ***\n",
            file=sys.stderr,
        )
        manifest = synthesize(out, split=split, per_positive=negatives, seed=seed)
    _describe(manifest, out)


@synth_app.command(name="movielens")
def synth_movielens(
    *,
    out: Path,
    users: Annotated[int, _flag("users", least=1)] = 6040,
    items: Annotated[int, _flag("items", least=1)] = 3706,
    per_user: Annotated[int, _flag("per-user", least=1)] = 165,
    partition: Partition = "zipcode",
    clients: Clients = None,
    alpha: Alpha = None,
    negatives: Negatives = 4,
    seed: Seed = 0,
) -> None:
    """Make a synthetic twin of MovieLens with planted taste.

    Args:
        out: Folder to make.
        users: Number of users.
        items: Number of items.
        per_user: Interactions of a user on average.
        partition: How users become clients.
        clients: Number of clients (10; not for zipcode, which makes one of each first digit).
        alpha: Skew of dirichlet and quantity (0.5); small is skewed.
        negatives: Sampled negatives for each positive.
        seed: Of all draws.
    """
    from fedps.data.synth import synthesize  # noqa: PLC0415

    _describe(synthesize(out, users, items, per_user, _split(partition, clients, alpha), negatives, seed), out)


@config_app.command
def show(job: JobFile = None, *, override: Override = None) -> None:
    """Print the job as it will run: every key with its value, where that came from, and what it means.

    The output is a job file for the same job.

    Args:
        job: The job file (YAML).
        override: key=value, set over the job file; may be repeated.
    """
    from fedps.config import describe  # noqa: PLC0415

    print(describe(_named(job), override or []), end="")


@config_app.command
def check(job: JobFile = None, *, override: Override = None) -> None:
    """Say whether a job is right, or all that is wrong with it.

    Args:
        job: The job file (YAML).
        override: key=value, set over the job file; may be repeated.
    """
    _note(_job(job, override or []))
    print(f"{job}: no mistakes")


def main() -> None:
    """Run the command line; errors that fedps raises on purpose are told without a traceback."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = " ".join(["fedps", *(error.command_chain or [])])
        code = _fail(str(error))
        print(f"see `{command} --help`", file=sys.stderr)
        sys.exit(code)
    except RoleError as error:
        sys.exit(_fail(f"{error.traceback}\n{error}".lstrip("\n"), FAILED))
    except FedpsError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(text: str, code: int = WRONG) -> int:
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code


def _job(path: Path | None, overrides: list[str]) -> Any:
    from fedps.config import load_job  # noqa: PLC0415

    return load_job(_named(path), overrides)


def _named(job: Path | None) -> Path:
    if job is None:
        raise JobError("no job file: write `fedps run JOB.yaml` or `-m JOB.yaml`, whatever the command")
    return job


def _note(job: Any) -> None:
    from fedps.config import notes_of  # noqa: PLC0415

    for note in notes_of(job):
        print(f"note: {note}", file=sys.stderr)


def _split(partition: Partition, clients: int | None, alpha: float | None) -> Any:
    """Return the split that flags ask for.

    Raises:
        JobError: a flag that the partition has no use for.
    """
    from fedps.data.prepared import Split  # noqa: PLC0415

    mistakes = []
    if partition == "zipcode" and clients is not None:
        mistakes.append(
            f"--clients {clients}: zipcode makes one client of each first digit; leave it out, or choose another"
            " --partition, e.g. iid"
        )
    if partition not in ("dirichlet", "quantity") and alpha is not None:
        mistakes.append(f"--alpha {alpha}: {partition} knows no skew; leave it out, or use dirichlet or quantity")
    if mistakes:
        raise JobError(mistakes)
    plain = Split()
    return Split(partition, plain.clients if clients is None else clients, plain.alpha if alpha is None else alpha)


def _tell(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")


def _describe(manifest: Any, out: Path) -> None:
    print(f"{'client':>8} {'users':>8} {'samples':>11}")
    for client, facts in manifest["clients"].items():
        print(f"{client:>8} {facts['users']:>8,} {facts['samples']:>11,}")
    samples = sum(f["samples"] for f in manifest["clients"].values())
    print(f"{'all':>8} {manifest['num_users']:>8,} {samples:>11,}   {manifest['num_items']:,} items")
    print(f"source: {manifest['source']}{' (SYNTHETIC)' if manifest['synthetic'] else ''}; prepared in {out}")
