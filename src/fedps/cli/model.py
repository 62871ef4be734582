"""`fedps infer` and `fedps export`: what a run's model is worth, and the model as one file."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fedps.cli.app import AllowCommands, AsJson, JobFile, Override, PastRun, Switch, app, flag, load, note_job, tell
from fedps.errors import JobError, needing_torch


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
