"""Score a whole model on the held-out samples of all clients: weights from a file, or the epochs that a run has saved.

What a run's clients do apart, done in one place: the same candidates, the same measures. Private tables are read where
they lie. So epochs of a model with private tables are scored where those are: all clients' on one machine, or a client's
own samples on its own.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TextIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fedps.config import Allow, Job
from fedps.config.checks.data import PADDLES, is_paddles
from fedps.config.sections.features import OPEN, labels
from fedps.data.read.by_job import Reading
from fedps.data.read.client import first_of, read_held_out, read_trained
from fedps.errors import DataError, JobError
from fedps.metrics import probabilities
from fedps.models.build import build
from fedps.serving.predictions import logits_of, measure, print_progress, rank_full, write_predictions
from fedps.serving.saved_network import OpenTables, SavedNetwork
from fedps.storage import epochs
from fedps.storage.tables import said_of_new
from fedps.types import Samples, TableName

PRIVATE_LACKS = "what is private to clients is exported only on request"


def infer(job: Job, weights: Path, allow: Allow = Allow()) -> dict[str, object]:  # noqa: B008  (a constant)
    """Score the job's network with given weights on all held-out files.

    Args:
        job: names the network and the test folder.
        weights: a safetensors file with the network's own parameter names, as `fedps export` writes it.
        allow: what whoever started this allows the job's reader.

    Returns:
        `weights`, `users`, `samples`, `loss`, `auc`, `hr@10`, `ndcg@10`, what else the job measures, and `note` where there
        is something to say: of ids that the file has not, of samples that are not ranked.

    Raises:
        JobError: no test folder, no such file, or a parameter that is missing, unknown or of another shape.
        DataError: the weights or a test file cannot be read, or is not one positive and 99 negatives a user.
    """
    read, runner, model = read_held_out(job, allow), job.runner, build(job)
    tests = {client: reading.samples for client, reading in read.items()}
    every = Samples.joined([*tests.values()])
    open_tables = OpenTables(model, job) if any(f.rows == OPEN for f in job.features.values()) else None
    new = said_of_new(weights, load_weights(model, weights, open_tables))
    if open_tables:
        open_tables.look_up(every)
    logits = logits_of(model, every, runner.infer_batch_size)
    items, trained = job.hyper_parameters.num_items, read_trained(job, allow) if job.ranks_all else {}
    full = [rank_full(model, tests[c], trained[c], items, job.metrics, job.tasks) for c in trained if c in tests]
    measures = measure([*tests.values()], logits, job.metrics, full, job.tasks).measures
    return {"weights": str(weights), **_noted(new, read.values()), **measures}


def infer_epochs(
    job: Job, run_dir: Path | None = None, out: Path | None = None, *, allow: Allow = Allow(),  # noqa: B008
    log: TextIO | None = None,
) -> dict[str, object]:  # fmt: skip
    """Score saved epochs on all held-out files, and write each sample's prediction.

    Args:
        job: `infer_load_path` (or else `model_save_path`) names the folder of saved epochs; `infer_start_epoch` and
            `infer_end_epoch` choose among them, all if the end is left out.
        run_dir: a run's folder: its epochs where the job names none, and its private tables.
        out: a folder for `predictions-<epoch>.csv`, or with one epoch a file that ends in .csv; by default the files
            lie beside the folder of epochs.
        allow: what whoever started this allows the job's reader.
        log: takes the original's lines `epoch: 1, batch_id: 50, auc: 0.75`, one every `print_interval` batches of
            `infer_batch_size`, twenty an epoch at most; nothing else depends on that size.

    Returns:
        `model`, the folder, and `epochs`, a list of `epoch`, `users`, `samples`, `loss`, `auc`, `hr@10`, `ndcg@10` and
        `predictions`, the file; and `note` as for `infer`.

    Raises:
        JobError: no folder, an epoch that was not saved, a save of another model, or no private rows of some clients.
        DataError: a file is torn or cannot be read or written.
    """
    folder = _folder(job, run_dir)
    numbers = _choose(job, folder, run_dir)
    files = _files(folder, numbers, out)
    read = read_held_out(job, allow)
    tests = {client: reading.samples for client, reading in read.items()}
    network, trained = SavedNetwork(job), read_trained(job, allow) if job.ranks_all else {}
    results = []
    for epoch, file in zip(numbers, files, strict=True):
        home = run_dir / "private" if run_dir else epochs.find_private(folder / str(epoch))
        network.load(folder / str(epoch))
        samples, logits, measures = network.score(tests, epoch, home, trained)
        predictions = probabilities(logits)
        if log is not None:
            print_progress(log, epoch, samples, predictions, job.runner.infer_batch_size, job.runner.print_interval)
        write_predictions(file, samples, predictions, list(labels(job.inputs)))
        results.append({"epoch": epoch, **measures, "predictions": str(file)})
    new = said_of_new(folder, network.new)
    return {"model": str(folder), **_noted(new, read.values()), "epochs": results}


def _noted(new: str, read: Iterable[Reading]) -> dict[str, str]:
    """Return what there is to say of new ids and of held-out samples, nothing if there is nothing."""
    notes = [new, *first_of(reading.note for reading in read)]
    return {"note": text} if (text := "; ".join(filter(None, notes))) else {}


def _folder(job: Job, run_dir: Path | None) -> Path:
    """Return the folder of saved epochs."""
    runner = job.runner
    folder = runner.infer_load_path or runner.model_save_path or (run_dir / "model" if run_dir else None)
    if folder is None:
        raise JobError(
            "runner.infer_load_path: is missing, and so is model_save_path: name the folder of saved epochs, or the run's"
            " folder by --run_dir"
        )
    if not folder.is_dir():
        raise JobError(f"{folder}: there is no such folder of saved epochs; a run's last line names its folder")
    return folder


def _choose(job: Job, folder: Path, run_dir: Path | None) -> list[int]:
    """Return the epochs to score, of this run if several have saved here; they count from 1, and 0 too is the first."""
    first, end = max(job.runner.infer_start_epoch, 1), job.runner.infer_end_epoch
    saved = epochs.numbers(folder)
    if run_dir is not None:
        saved = [e for e in saved if _is_of(folder / str(e), run_dir)] or saved
    holds = f"{folder} holds epochs {', '.join(map(str, saved))}" if saved else f"{folder} holds no saved epoch"
    if is_paddles(folder):
        raise JobError(f"{folder}: {PADDLES}")
    if not saved and epochs.is_epoch(folder):
        holds = f"{folder} is itself a saved epoch: name the folder above it"
    if end is None:
        numbers = [e for e in saved if e >= first and epochs.find_whole(folder / str(e))]
    else:
        numbers = list(range(first, end))
        if missing := [e for e in numbers if e not in saved or not epochs.find_whole(folder / str(e))]:
            raise JobError(f"runner.infer_end_epoch: {end}: epoch {missing[0]} is not saved, or not whole; {holds}")
    if not numbers:
        raise JobError(f"runner.infer_start_epoch: {first}: no saved epoch from there on before the end; {holds}")
    return numbers


def _is_of(folder: Path, run_dir: Path) -> bool:
    """Tell whether a saved epoch was written by a run."""
    run = epochs.find_first(folder).facts.run if epochs.is_epoch(folder) else None
    return run is not None and Path(run).resolve() == run_dir.resolve()


def _files(folder: Path, numbers: list[int], out: Path | None) -> list[Path]:
    """Return where each epoch's predictions go."""
    if out is None or out.suffix != ".csv":
        return [(out or folder.parent) / f"predictions-{epoch}.csv" for epoch in numbers]
    if len(numbers) > 1:
        raise JobError(
            f"--predictions {out}: is one file for {len(numbers)} epochs; name a folder, or choose one epoch"
        )
    return [out]


def load_weights(model: nn.Module, path: Path, open_tables: OpenTables | None = None) -> dict[TableName, int]:
    """Put a file's tensors into a model's parameters; rows of embeddings go by id, and new ids keep their start.

    Args:
        model: takes float32 values; tensors of other precision are converted.
        path: a safetensors file.
        open_tables: the model's, which take their rows.

    Returns:
        By embedding how many of its ids the file does not have, where there are some.

    Raises:
        JobError: no such file, or names or shapes that do not fit (all at once).
        DataError: not a safetensors file, or torn.
    """
    if not path.is_file():
        raise JobError(f"--weights {path}: there is no such file; `fedps export RUN_DIR --out DIR` writes one")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: is no safetensors file, or torn: {error}") from error
    if open_tables is not None:
        _take_rows(open_tables, tensors, path)
    weights = dict(model.named_parameters())
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    new = {
        TableName(name): rows
        for name in tables & set(tensors)
        if tensors[name].shape[1:] == weights[name].shape[1:] and (rows := len(weights[name]) - len(tensors[name])) > 0
    }
    if mistakes := _misfits(weights, tensors, new, path):
        raise JobError(mistakes)
    with torch.no_grad():
        for name, tensor in tensors.items():
            (weights[name][: len(tensor)] if name in new else weights[name]).copy_(tensor)
    return new


def _take_rows(open_tables: OpenTables, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Give open tables their rows, out of a file's tensors."""
    for name in open_tables.names:
        if name not in tensors or f"{name}.ids" not in tensors:
            raise JobError(
                f"{path}: lacks {name} or {name}.ids, rows of an open table and whose they are ({PRIVATE_LACKS})"
            )
        open_tables.rows[name] = tensors.pop(f"{name}.ids").numpy(), tensors.pop(name).float().numpy()


def _misfits(
    weights: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], grown: Collection[str], path: Path
) -> list[str]:
    holds = ", ".join(sorted(tensors)) or "nothing"
    mistakes = []
    for name, weight in weights.items():
        if name not in tensors:
            mistakes.append(f"{path}: lacks {name}; it holds {holds} ({PRIVATE_LACKS})")
        elif tensors[name].shape != weight.shape and name not in grown:
            mistakes.append(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}; the job's network has {tuple(weight.shape)}"
            )
    if opened := sorted(name for name in weights if f"{name}.ids" in tensors):
        return [
            f"{path}: {', '.join(opened)}: their rows are of open ids, which the job counts: set rows: open for the features that"
            " look them up, as in the job that trained them"
        ]
    strange = sorted(set(tensors) - set(weights))
    return mistakes + [f"{path}: {name} is no parameter of the job's network" for name in strange]
