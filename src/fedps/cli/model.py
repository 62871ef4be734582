"""`fedps infer`, `fedps recommend` and `fedps export`: what a run's model is worth, what it recommends, and the model as one file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fedps.cli.app import (
    AllowCommands,
    AsJson,
    JobFile,
    Override,
    PastRun,
    Switch,
    app,
    flag,
    load,
    note,
    note_job,
    tell,
)
from fedps.errors import JobError, needing_torch

if TYPE_CHECKING:
    from fedps.serving.recommend import Recommendation


@app.command
def infer(
    job: JobFile = None,
    *,
    weights: Annotated[
        Path | None,
        flag("weights", "A safetensors file with the model's own parameter names, as `fedps export` writes it."),
    ] = None,
    run_dir: Annotated[
        PastRun | None, flag("run_dir", "The run's folder, or `latest`; its saved epochs, and what is private.")
    ] = None,
    predictions: Annotated[
        Path | None,
        flag("predictions", "Folder for predictions-<epoch>.csv, or a file .csv (default beside the saved epochs)."),
    ] = None,
    override: Override = None,
    allow_commands: AllowCommands = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate saved epochs, or given weights, on a job's held-out samples, by what its runner.metrics name.

    The epochs are those of --run_dir, or of the job's infer_load_path or model_save_path, from infer_start_epoch on.

    Example: fedps infer examples/quickstart.yaml --run_dir runs/quickstart-... --predictions predictions.csv

    Example: fedps infer examples/quickstart.yaml --weights model/model.safetensors
    """
    if weights is not None and (run_dir is not None or predictions is not None):
        other = "--run_dir" if run_dir is not None else "--predictions"
        raise JobError(f"--weights and {other} contradict each other: one file of weights, or a run's saved epochs")
    resolved = load(job, override or [], ("runner.dump_fields_path", "runner.model_save_path"))  # it writes to neither
    from fedps.config import Allow  # noqa: PLC0415

    allow = Allow(commands=allow_commands)
    note_job(resolved, allow)
    if weights is not None:
        with needing_torch():
            from fedps.serving.infer import infer as score  # noqa: PLC0415

        tell(score(resolved, weights, allow), as_json)
    else:
        with needing_torch():
            from fedps.serving.infer import infer_epochs  # noqa: PLC0415

        log = None if as_json else sys.stdout
        tell(infer_epochs(resolved, run_dir, predictions, allow=allow, log=log), as_json)


@app.command
def recommend(
    run_dir: PastRun,
    *,
    user: Annotated[str | None, flag("user", "Whom to recommend to, in the ids of your data.")] = None,
    k: Annotated[int, Parameter(name=["-k", "--k"], help="How many items.")] = 10,
    client: Annotated[
        str | None, flag("client", "Whose user that is (default the client that has it, of those in the run's folder).")
    ] = None,
    from_items: Annotated[
        str | None,
        flag(
            "from-items", "In place of --user, for somebody new: items of theirs with commas between, the latest last."
        ),
    ] = None,
    all: Annotated[bool, Switch, flag("all", "For every user of --client, into --out.")] = False,  # noqa: A002
    out: Annotated[Path | None, flag("out", "With --all: a file .parquet or .csv to write.")] = None,
    items: Annotated[
        Path | None,
        flag(
            "items",
            "A file like the run's items.csv, of a catalogue that has grown: new items start as they would in training.",
        ),
    ] = None,
    seen: Annotated[bool, Switch, flag("seen", "With what the user has in the training data, too.")] = False,
    epoch: Annotated[int | None, flag("epoch", "Which saved epoch (default the last).")] = None,
    allow_commands: AllowCommands = False,
    as_json: AsJson = False,
) -> None:
    """Say which items a run's model recommends to a user of a client's, from that client's own private rows.

    Example: fedps recommend latest --user 17 -k 5

    Example: fedps recommend latest --client 3 --all --out top10.parquet

    Example: fedps recommend latest --client 3 --from-items 318,858
    """
    _check_asked(user, from_items, all, out)
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.serving.recommend import Recommender, write_table  # noqa: PLC0415

    found = Recommender.open(run_dir, client, epoch, user=user, items=items, allow=Allow(commands=allow_commands))
    if found.note:
        note(found.note)
    facts: dict[str, object] = {"epoch": found.epoch, "client": found.site.client}
    if all:
        assert out is not None  # noqa: S101
        table = found.recommend_all(k, seen=seen)
        write_table(table, out)
        tell(facts | {"users": len(table["user"].unique()), "out": str(out)}, as_json)
        return
    if user is not None:
        best = found.recommend(user, k, seen=seen)
    else:
        best = found.fold_in([key.strip() for key in str(from_items).split(",") if key.strip()], k, seen=seen)
    if as_json:
        tell(facts | {"items": [one._asdict() for one in best]}, as_json)
        return
    _print_items(best)


def _check_asked(user: str | None, from_items: str | None, everybody: bool, out: Path | None) -> None:
    """Make sure that one thing is asked for, and that a table has a file to go to.

    Raises:
        JobError: it is not so.
    """
    asked = [
        name
        for name, given in (("--user", user), ("--from-items", from_items), ("--all", everybody or None))
        if given is not None
    ]
    if len(asked) != 1:
        raise JobError(f"{' and '.join(asked) or 'recommend'}: name one of --user, --from-items and --all")
    if everybody and (out is None or out.suffix not in (".parquet", ".csv")):
        raise JobError(f"--out {out or 'FILE'}: with --all name a file .parquet or .csv")


def _print_items(best: "list[Recommendation]") -> None:
    width = max((len(one.item) for one in best), default=0)
    for rank, one in enumerate(best, 1):
        print(f"{rank:3}  {one.score:8.4f}  {one.item:>{width}}  {one.title}".rstrip())


@app.command
def export(
    run_dir: PastRun,
    *,
    out: Annotated[Path, flag("out", "Folder to write the model and its card to.")],
    epoch: Annotated[int | None, flag("epoch", "Which saved epoch (default the last).")] = None,
    private: Annotated[
        bool, Switch, flag("private", "Join the clients' private tables too, where they lie in the run folder.")
    ] = False,
    format: Annotated[  # noqa: A002
        Literal["safetensors", "torch", "onnx", "vectors"],
        flag(
            "format",
            "safetensors; a state dict (torch); the whole network (onnx); items' vectors of two towers (vectors).",
        ),
    ] = "safetensors",
) -> None:
    """Write a run's model as one file, names and shapes as in the network, and a card that says what it is.

    Example: fedps export latest --out model

    Example: fedps export latest --out model --format onnx --private
    """
    from fedps.serving.export import export_run  # noqa: PLC0415

    print(f"{format}: {export_run(run_dir, out, epoch, private, format)}")


@app.command(name="import")
def import_(
    folder: Annotated[Path, Parameter(help="An epoch that the original has saved: folders 000, 001 and so on.")],
    *,
    job: JobFile = None,
    out: Annotated[Path, flag("out", "Folder to write the epoch to, in the form of a run's.")],
    table: Annotated[
        list[str] | None,
        flag("table", "001=NAME: which parameter a sparse table is of; repeated. Default: in the network's order."),
    ] = None,
    dense: Annotated[
        str | None, flag("dense", "NAME,NAME…: dense parameters in the order of their file. Default: the network's.")
    ] = None,
    override: Override = None,
) -> None:
    """Take over tables that PaddlePaddle's parameter server has saved: to start from, to infer with, to export.

    Example: fedps import output_model/2 -m config_fl.yaml --out taken-over

    Example: fedps run config_fl.yaml -o runner.warmup_model_path=taken-over/model/1
    """
    from fedps.serving.original_tables import import_original  # noqa: PLC0415

    pairs = [text.partition("=") for text in table or []]
    if bad := [number for number, sign, name in pairs if not (number and sign and name)]:
        raise JobError(f"--table {bad[0]}: write FOLDER=NAME, e.g. --table 001=embedding_1.w_0")
    names = {number: name for number, _, name in pairs} or None
    order = dense.split(",") if dense else ()
    for name, source in import_original(load(job, override or []), folder, out, names, order).items():
        print(f"{name}: {source}")
    print(f"epoch: {out / 'model' / '1'}")
