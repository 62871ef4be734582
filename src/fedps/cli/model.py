"""`fedps infer` and `fedps export`: what a run's model is worth, and the model as one file."""

import sys
from pathlib import Path
from typing import Annotated, Literal

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
