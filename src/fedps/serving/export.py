"""From a run's folder to files that others read: the trained model, with its own parameter names and full shapes.

The servers' shards of one epoch are joined; a row that nobody touched is where it would have started. Tables private to
clients are left out unless the caller wants them, and their files are not even opened. Beside the model lies its card.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fedps.config import Job
from fedps.config.files import manifest_of
from fedps.config.sections.features import of_item
from fedps.data.catalogue import ITEMS, Catalogue
from fedps.errors import DataError, JobError, needing, needing_torch
from fedps.events.journal import JOURNAL, read_journal
from fedps.events.past import look_at
from fedps.serving.saved_run import Tables, model_folder, private_tables, read_job, shared_tables, tensors, whole_epoch
from fedps.storage import epochs
from fedps.storage.snapshot import packed
from fedps.storage.whole import PRIVATE, PUBLIC, make_folder, write_whole

CARD = "model.json"
Pieces = Sequence[bytes | memoryview]


class Model(NamedTuple):
    """What is exported.

    Attributes:
        run_dir: where it comes from.
        epoch: counted from 1.
        tables: as they were saved.
        private: whether those that clients keep for themselves are among them.
    """

    run_dir: Path
    epoch: int
    tables: Tables
    private: bool

    @property
    def metadata(self) -> dict[str, str]:
        """What a file says of itself."""
        return {"format": "pt", "fedps": version("fedps"), "epoch": str(self.epoch)}

    def job(self) -> Job:
        """Return the job as it ran."""
        return read_job(self.run_dir)


def export_run(
    run_dir: Path,
    out: Path,
    epoch: int | None = None,
    private: bool = False,
    form: str = "safetensors",
) -> Path:
    """Write a run's model, and `model.json`, its card: what it was trained on, how, and what came of it.

    Whoever may read the save may read what is written; with private tables in it, its owner alone.

    Args:
        run_dir: a run's folder.
        out: made if absent; an earlier export in it is replaced.
        epoch: which saved epoch, counted from 1; the last that is whole if None.
        private: put in the clients' private tables too.
        form: one of `FORMS`.

    Returns:
        the model's file.

    Raises:
        JobError: no such run or epoch, private tables of which two clients hold the same row, what a form needs is not
            installed, or the network has no such form.
        DataError: nothing was saved, a save is torn or does not fit the others, or `out` cannot be written.
    """
    epoch = whole_epoch(run_dir, epoch)
    tables = shared_tables(run_dir, epoch) | (private_tables(run_dir, epoch) if private else {})
    mode = epochs.find_first(model_folder(run_dir) / str(epoch)).record.stat().st_mode & PUBLIC
    model = Model(run_dir, epoch, tables, private)
    name, make = FORMS[form]
    data, path = make(model), out / name
    try:
        make_folder(out)
        write_whole(path, data, PRIVATE if private else mode)
        write_whole(out / CARD, f"{json.dumps(card(model, name), indent=1)}\n".encode(), mode)
        if (run_dir / ITEMS).is_file():
            write_whole(out / ITEMS, (run_dir / ITEMS).read_bytes(), mode)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error
    return path


def card(model: Model, file: str) -> dict[str, Any]:
    """Return what a model's card says; what is not known is left out, and nothing in it is of one client alone."""
    found: dict[str, Any] = {"format": "fedps.model/1", "fedps": version("fedps"), "file": file, "epoch": model.epoch}
    found["parameters"] = {
        name: {"shape": list(table.spec.shape)} | ({"rows": len(table.keys)} if table.spec.kind == "sparse" else {})
        for name, table in sorted(model.tables.items())
    }
    found["privacy"] = {"private_tables_joined": model.private} | _places(model.run_dir / JOURNAL)
    if not (model.run_dir / "job.yaml").is_file():
        return found
    job = model.job()
    runner, hyper = job.runner, job.hyper_parameters
    found["network"] = runner.model or hyper.mode
    found["training"] = {
        "mode": runner.sync_mode, "clients": runner.worker_num, "epochs": runner.epochs, "seed": runner.seed,
        "loss": hyper.loss, "optimizer": hyper.optimizer.model_dump(mode="json", by_alias=True),
    }  # fmt: skip
    found["features"] = {name: one.model_dump(mode="json", exclude_defaults=True) for name, one in job.inputs.items()}
    stated = manifest_of(job)
    found["data"] = {
        key: stated[key] for key in ("source", "synthetic", "split", "num_users", "num_items") if key in stated
    }
    if told := look_at(model.run_dir).summary:
        figures: dict[str, Any] = next((r for r in told["rounds"] if r["round"] == model.epoch), {})
        found["metrics"] = {
            name: figures[name] for name, value in told["metrics"].items() if value is not None and name in figures
        }
    return found


def _places(journal: Path) -> dict[str, Any]:
    """Return which parameters left the clients and which stayed, as the run's journal says."""
    checked = next((e for e in read_journal(journal) if e["event"] == "checked"), None) if journal.is_file() else None
    return {"left_the_clients": checked["shared"], "stayed_with_each_client": checked["private"]} if checked else {}


def _safetensors(model: Model) -> Pieces:
    return packed(dict(sorted(tensors(model.tables).items())), model.metadata)


def _state_dict(model: Model) -> Pieces:
    """Return a plain state dict as `torch.save` writes it; `torch.load` reads it without fedps."""
    with needing_torch():
        import torch  # noqa: PLC0415  (an extra)

    file = io.BytesIO()
    torch.save({name: torch.from_numpy(values) for name, values in sorted(tensors(model.tables).items())}, file)
    return [file.getbuffer()]


def _onnx(model: Model) -> Pieces:
    """Return the whole network: features by name in, scores as it gives them in evaluation out."""
    with needing("onnx", "onnx", "onnxscript"), needing_torch():
        import onnx  # noqa: F401, PLC0415  (an extra)
        import onnxscript  # noqa: F401, PLC0415
        import torch  # noqa: PLC0415

        from fedps.models.inputs import example, inputs_of  # noqa: PLC0415

    network = _network(model, "onnx")
    inputs = example(network, 3)
    sizes = tuple(dict.fromkeys(range(column.dim()), torch.export.Dim.DYNAMIC) for column in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch and onnxscript have deprecated in each other
        program = torch.onnx.export(
            network, tuple(inputs), input_names=list(inputs_of(network)), output_names=["score"], dynamic_shapes=(sizes,),
            dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None  # noqa: S101  (dynamo makes one)
    return [program.model_proto.SerializeToString()]


def _vectors(model: Model) -> Pieces:
    """Return items' vectors for an index of nearest ones: item, key, title, vector (float32), a line an item."""
    with needing_torch():
        from fedps.models.catalogue import AllItems, has_towers  # noqa: PLC0415  (imports torch)

    network, job = _network(model, "vectors", of_items=True), model.job()
    more = [name for name, feature in job.inputs.items() if name != "item" and of_item(name, feature)]
    if more or not has_towers(network):
        raise JobError(
            f"--format vectors: {job.runner.model or job.hyper_parameters.mode} gives no vector of an item that a user's"
            " is multiplied with: it is no network of two towers, such as TwoTower and SASRec; export safetensors"
        )
    vectors = (
        AllItems(network, {"item": np.arange(job.hyper_parameters.num_items)}, towers=True)
        .vectors()
        .contiguous()
        .numpy()
    )
    if not np.isfinite(vectors).all():
        raise JobError(
            "--format vectors: items' vectors are made of what stays with the clients: add --private where their rows lie in"
            " the run's folder and may be joined, or export safetensors"
        )
    names = model.run_dir / ITEMS
    catalogue = Catalogue.read(names) if names.is_file() else Catalogue.numbered(len(vectors))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors[catalogue.ids].ravel()), vectors.shape[1])
    columns = {"item": pa.array(catalogue.ids), "key": pa.array(catalogue.keys, pa.string())}
    if catalogue.titles:
        columns["title"] = pa.array(catalogue.titles, pa.string())
    file = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns | {"vector": rows}), file)
    return [memoryview(file.getvalue())]


def _network(model: Model, form: str, of_items: bool = False) -> Any:
    """Return the network with its weights, of which only the items' side must be there where that is all that counts.

    What is not there is NaN then, and so is all that is made of it.

    Raises:
        JobError: it has tables of open id spaces, or private ones that were not asked for.
    """
    with needing_torch():
        from fedps.serving.saved_network import network_of  # noqa: PLC0415  (imports torch)

    network = network_of(model.job(), model.tables)
    if network.open:
        raise JobError(
            f"--format {form}: {', '.join(network.open)}: ids of an open space are no row numbers; export safetensors"
        )
    if network.missing and not of_items:
        raise JobError(
            f"--format {form}: {', '.join(network.missing)} stays with the clients: add --private where their rows lie in"
            " the run's folder and may be joined, or export safetensors"
        )
    for name in network.missing:
        network.module.get_parameter(name).data.fill_(np.nan)
    return network.module.eval()


FORMS: Mapping[str, tuple[str, Callable[[Model], Pieces]]] = {
    "safetensors": ("model.safetensors", _safetensors),
    "torch": ("model.pt", _state_dict),
    "onnx": ("model.onnx", _onnx),
    "vectors": ("items.parquet", _vectors),
}
