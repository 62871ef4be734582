"""Data of two parties, each with its own columns of the same samples, and a job for each: published sets, from $FEDPS_DATA."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml
from pyarrow import csv

from fedps.data.prepare.parties import prepare_parties, synthesize_parties

Keys = dict[str, Any]
EXAMPLES = Path(__file__).parents[1] / "examples"
CTR: Keys = {"embedding_dim": 16, "hidden_units": [64, 64], "optimizer": {"learning_rate": 0.001}}
FRAPPE_RANGES = (957, 4082, 7, 7, 2, 3, 2, 9, 80, 233)  # values of each field
FRAPPE_USERS, FRAPPE_APPS = (0, 2, 3, 4, 5, 7, 8, 9), (1, 6)


class Set(NamedTuple):
    """A set of samples over two parties.

    Attributes:
        make: writes the parties' files into a folder, from that of published data; returns the section `parties`.
        active, passive: who has the label, and who has not.
        vertical, hyper: keys of these sections.
    """

    make: Callable[[Path, Path], Keys]
    active: str
    passive: str
    vertical: Keys
    hyper: Keys


def write_job(name: str, source: Path, home: Path, vertical: Mapping[str, Any]) -> Path:
    """Make a set's files, unless they are there, and a job.

    Args:
        name: one of `SETS`; any other is of `MADE_UP`.
        source: the folder of published data.
        home: a folder that is there.
        vertical: keys of that section, over the set's own.
    """
    found, folder = SETS.get(name, MADE_UP), home / name
    parties, file = folder / "parties.yaml", folder / f"{'-'.join(map(str, vertical.values())) or 'job'}.yaml"
    if not parties.exists():
        folder.mkdir()
        parties.write_text(yaml.safe_dump(found.make(source, folder), sort_keys=False))
    stated = {"active": found.active, "passive": [found.passive], **found.vertical, **vertical}
    job = {"vertical": stated, "hyper_parameters": found.hyper, "parties": yaml.safe_load(parties.read_text())}
    file.write_text(yaml.safe_dump(job, sort_keys=False))
    return file


def _party(folder: Path, name: str, table: pa.Table, features: Keys, test: pa.Table | None = None) -> Keys:
    csv.write_csv(table, folder / f"{name}.csv")
    if test is None:
        return {"data": f"{name}.csv", "features": features}
    csv.write_csv(test, folder / f"{name}-test.csv")
    return {"data": f"{name}.csv", "test_data": f"{name}-test.csv", "features": features}


def _ids(names: Sequence[str], rows: Sequence[int], table: str | None = None) -> Keys:
    """Return features of an id each, below so many; `table`: of the first one's table."""
    found: Keys = {name: {"kind": "id", "rows": n} for name, n in zip(names, rows, strict=True)}
    for name in list(found)[1:] if table else ():
        found[name] = {"kind": "id", "table": table}
    return found


def _frappe(source: Path, folder: Path) -> Keys:
    tables = {}
    for part in ("validation", "test"):
        columns: list[list[int]] = [[] for _ in range(11)]
        with gzip.open(source / "ctr" / f"frappe.{part}.libfm.gz", "rt") as lines:
            for line in lines:
                label, *cells = line.split()
                columns[0].append(int(label) > 0)
                first = 0
                for field, (cell, count) in enumerate(zip(cells, FRAPPE_RANGES, strict=True)):
                    columns[1 + field].append(int(cell.partition(":")[0]) - first)
                    first += count
        tables[part] = pa.table(
            {"id": list(range(len(columns[0]))), "label": columns[0]} | {f"f{k}": c for k, c in enumerate(columns[1:])}
        )
        tables[part] = tables[part].set_column(1, "label", tables[part]["label"].cast(pa.int8()))
    sides = {"users": FRAPPE_USERS, "apps": FRAPPE_APPS}
    parties = {}
    for side, fields in sides.items():
        names = [f"f{k}" for k in fields]
        features = _ids(names, [FRAPPE_RANGES[k] for k in fields])
        columns_of = ["id", *names, *(["label"] if side == "apps" else [])]
        features |= {"label": {"kind": "label"}} if side == "apps" else {}
        parties[side] = _party(
            folder, side, tables["validation"].select(columns_of), features, tables["test"].select(columns_of)
        )
    return parties


def _hetero(stem: str, label: str, guest: Keys, host: Keys) -> Callable[[Path, Path], Keys]:
    """Return what makes the parties of a set that FATE has in two files."""

    def make(source: Path, folder: Path) -> Keys:
        found = {}
        for side, features in (("guest", guest), ("host", host)):
            path = next((source / "vertical").glob(f"{stem}_hetero_{side}.csv*"))
            stated = features | ({"label": {"kind": "label", "column": label}} if side == "guest" else {})
            found[side] = _party(folder, side, csv.read_csv(path), stated)
        return found

    return make


def _numbers(count: int) -> Keys:
    return {f"x{k}": {"kind": "number"} for k in range(count)}


def _movielens(source: Path, folder: Path) -> Keys:
    """Return the parties of the example's job, their paths made absolute."""
    prepare_parties(folder / "data", None, seed=0)
    return _of_example(folder)


def _made_up(source: Path, folder: Path) -> Keys:
    """Return the same of a small synthetic twin."""
    synthesize_parties(folder / "data", users=60, items=50, per_user=20)
    return _of_example(folder)


def _of_example(folder: Path) -> Keys:
    parties: Keys = yaml.safe_load((EXAMPLES / "vertical_movielens.yaml").read_text())["parties"]
    return {name: own | {"data": str(folder / "data" / Path(own["data"]).name)} for name, own in parties.items()}


SETS = {
    "ML-1M": Set(
        _movielens, "items", "users", {"network": "DeepFM", "train_batch_size": 1024, "epochs": 3, "in_flight": 4}, CTR
    ),
    "Frappe": Set(_frappe, "apps", "users", {"network": "DeepFM", "train_batch_size": 256, "epochs": 12}, CTR),
    "movie_lens_hetero": Set(
        _hetero(
            "movie_lens", "label", {"uid": {"kind": "id", "rows": 610}, "mid": {"kind": "id", "rows": "open"}}, _ids([f"genre_{k}" for k in range(10)], [21] * 10, "genre_0")
        ),
        "guest", "host", {"network": "DeepFM", "train_batch_size": 512, "epochs": 4, "holdout": 0.3}, CTR,
    ),
    "default_credit": Set(
        _hetero("default_credit", "y", _numbers(13), _numbers(10)),
        "guest", "host", {"network": "MLP", "train_batch_size": 256, "epochs": 10, "holdout": 0.3},
        {"hidden_units": [32], "optimizer": {"learning_rate": 0.001}},
    ),
    "breast": Set(
        _hetero("breast", "y", _numbers(10), _numbers(20)),
        "guest", "host", {"network": "MLP", "train_batch_size": 64, "epochs": 20, "holdout": 0.3},
        {"hidden_units": [32], "optimizer": {"learning_rate": 0.002}},
    ),
}  # fmt: skip
MADE_UP = Set(_made_up, "items", "users", {"network": "DeepFM", "epochs": 1}, {"embedding_dim": 2, "hidden_units": [2]})
