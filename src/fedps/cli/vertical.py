"""`fedps vertical`: parties that hold different features of the same samples train one network; all here, or one."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from fedps.cli.app import (
    FAILED,
    AllowCommands,
    AsJson,
    Certs,
    Insecure,
    Override,
    PastRun,
    RunDir,
    app,
    flag,
    note,
    protection,
    tell,
)
from fedps.errors import JobError

vertical_app = App(name="vertical", help="Train over parties that hold different features of the same samples.")
app.command(vertical_app)

VerticalFile = Annotated[
    Path, Parameter(name=["JOB.yaml", "--job", "-m"], help="The job file, with a section vertical.")
]
Scores = Annotated[
    Path | None, flag("out", "File for the scores (default predictions.csv in the active party's folder of the run).")
]
Party = Annotated[str, Parameter(name="NAME", help="Which party to be, as the job names it.")]


@vertical_app.command
def run(
    job: VerticalFile,
    *,
    override: Override = None,
    run_dir: RunDir = None,
    certs: Certs = None,
    insecure: Insecure = False,
    allow_commands: AllowCommands = False,
    as_json: AsJson = False,
) -> None:
    """Run a vertical job: start each party on this machine, match samples, train, and say what each party's data is worth.

    Example: fedps vertical run examples/vertical_movielens.yaml -o vertical.epochs=1

    A party that dies is started again, vertical.restarts times at most, and all go on from their newest common checkpoint.
    """
    resolved = _load(job, [*(override or []), *protection(certs, insecure)], whole=True)
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.vertical import run as launch  # noqa: PLC0415

    if launch(resolved, run_dir, as_json, Allow(commands=allow_commands))["status"] != "ok":
        raise SystemExit(FAILED)


@vertical_app.command
def party(
    name: Party,
    job: VerticalFile,
    *,
    override: Override = None,
    run_dir: RunDir = None,
    certs: Certs = None,
    insecure: Insecure = False,
    predict: Annotated[
        Path | None, flag("predict", "New samples to score by the model in --run_dir, in place of training.")
    ] = None,
    out: Scores = None,
    allow_commands: AllowCommands = False,
) -> None:
    """Be one party of a vertical job, where its data is; started again in the same folder, it goes on from its checkpoint.

    Example: fedps vertical party bank job.yaml --certs certs

    Example: fedps vertical party shop job.yaml --predict new_customers.csv --out scores.csv

    The active party listens at vertical.address; the others dial it, and wait for it vertical.start_timeout seconds.
    """
    if out is not None and predict is None:
        raise JobError(f"--out {out}: is for scores: name the new samples by --predict FILE, or leave it out")
    data = (
        [] if predict is None else [f"parties.{name}.data={json.dumps(str(Path.cwd() / predict), ensure_ascii=False)}"]
    )
    resolved = _load(job, [*data, *(override or []), *protection(certs, insecure)], party=name, trains=predict is None)
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.one_party import be_party  # noqa: PLC0415

    be_party(resolved, name, run_dir, Allow(commands=allow_commands), predict is not None, out)


@vertical_app.command(name="predict")
def predict_all(
    job: VerticalFile,
    *,
    run_dir: Annotated[PastRun, flag("run_dir", "The folder of the run that has trained the model, or `latest`.")],
    out: Scores = None,
    override: Override = None,
    certs: Certs = None,
    insecure: Insecure = False,
    allow_commands: AllowCommands = False,
    as_json: AsJson = False,
) -> None:
    """Score new samples, all parties on this machine: those that each party names as its data.

    Example: fedps vertical predict job.yaml --run_dir latest -o parties.shop.data=new.csv -o parties.bank.data=new.csv

    A line a sample of the active party's: its id, the score, and by whom that is: federated, by all; alone, by the active
    party's own model, where others lack the sample or are away.
    """
    resolved = _load(job, [*(override or []), *protection(certs, insecure)], whole=True, trains=False)
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.launch.vertical import predict  # noqa: PLC0415

    tell(predict(resolved, run_dir, out, as_json, Allow(commands=allow_commands)), as_json)


@vertical_app.command
def audit(
    job: VerticalFile, *, override: Override = None, allow_commands: AllowCommands = False, as_json: AsJson = False
) -> None:
    """Mount attacks on what parties would send each other, with the job's protection and without, and say what they find.

    Example: fedps vertical audit examples/vertical_movielens.yaml -o protection.labels=label_dp

    All parties' files must be on this machine, and nothing is sent: the job is trained here twice. Ends with 1 if attacks find
    nothing without protection either: then they prove nothing.
    """
    resolved = _load(job, list(override or []), whole=True)
    import msgspec  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from fedps.config import Allow  # noqa: PLC0415
    from fedps.vertical.audit import ENOUGH, table, words  # noqa: PLC0415
    from fedps.vertical.audit import audit as mount  # noqa: PLC0415

    found = mount(resolved, note, Allow(commands=allow_commands))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        head, *lines = table(found)
        shown = Table(*head, title=f"{resolved.name}: what attacks on the cut find")
        for line in lines:
            shown.add_row(*line)
        Console().print(shown)
        print(*words(found, resolved), sep="\n")
    if found.control < ENOUGH:
        raise SystemExit(FAILED)


def _load(
    job: Path, overrides: list[str], party: str | None = None, whole: bool = False, trains: bool = True
) -> Any:  # fmt: skip
    """Read a vertical job, and say what there is to say of it.

    Raises:
        JobError: it is wrong, or torch is missing here.
    """
    from fedps.config.vertical import load_vertical, notes_of  # noqa: PLC0415
    from fedps.errors import needing_torch  # noqa: PLC0415

    resolved = load_vertical(job, overrides, party, whole)
    for text in notes_of(job, resolved, party, trains):
        note(text)
    with needing_torch():
        if find_spec("torch") is None:  # which the parties' processes import, not this one
            raise ModuleNotFoundError(name="torch")
    return resolved
