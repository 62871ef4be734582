"""The page for people who come from PaddlePaddle's FL-PS: its commands as printed, and a row for each key of the tutorial.

The tutorial's folder is laid out as there, with files as its own script makes them.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from fedps.config import Job, load_job
from fedps.config.original import MEANINGLESS, REFUSED, RENAMED, SLOTS
from tests.launch.rooms import here
from tests.launch.runs import events
from tests.ports import free_address

PAGE = (Path(__file__).parents[1] / "docs" / "from-paddlepaddle.md").read_text()
SHELF = Path(os.environ.get("FEDPS_DATA", "/nowhere"))
REAL = pytest.mark.skipif(
    not any((SHELF / name).is_file() for name in ("ml-1m.zip", "ml-1m-notime.zip")),
    reason="real ML-1M is not at hand: set FEDPS_DATA",
)
ARCHIVE = "../../../datasets/movielens_pinterest_NCF/fl_data"
TUTORIAL = {  # its job file, but for the home of its author
    "runner": {
        "sync_mode": "geo", "with_coodinator": 1, "geo_step": 100, "split_file_list": True, "thread_num": 1,
        "reader_type": "QueueDataset", "pipe_command": "python queuedataset_reader.py", "dataset_debug": False,
        "train_data_dir": f"{ARCHIVE}/fl_train_data", "train_reader_path": "movielens_reader", "train_batch_size": 512,
        "model_save_path": "output_model_ncf", "use_gpu": False, "epochs": 2, "print_interval": 50,
        "test_data_dir": f"{ARCHIVE}/fl_test_data", "infer_reader_path": "movielens_reader", "infer_batch_size": 1,
        "infer_load_path": "output_model_ncf", "infer_start_epoch": 2, "infer_end_epoch": 3, "need_dump": True,
        "dump_fields_path": "dump_data_ncf", "dump_fields": ["item_input", "user_input"], "dump_param": [],
        "local_sparse": ["embedding_0.w_0"], "remote_sparse": ["embedding_1.w_0"],
    },
    "hyper_parameters": {
        "optimizer": {"class": "adam", "learning_rate": 0.001}, "num_users": 6040, "num_items": 3706, "mf_dim": 8,
        "mode": "NCF_MLP", "fc_layers": [64, 32, 16, 8],
    },
}  # fmt: skip
FIRST_FORM = ("local_sparse", "remote_sparse")  # commented out in the first of its two lines, with a coordinator
SECOND_FORM = ("with_coodinator",)
COUNTS = [518_095, 520_165, 373_605, 315_550, 483_779, 495_635, 402_810, 354_590, 262_710, 1_243_905]


def commands() -> list[str]:
    """Return what the page tells to type, in its order: lines of their own, and commands with arguments within a text."""
    found = re.findall(r"^(fedps .*)$|`(fedps [^`…]*(?:--|\.yaml)[^`…]*)`", PAGE, re.MULTILINE)
    every = dict.fromkeys(line or within for line, within in found)
    return [
        command for command in every if not command.startswith("fedps vertical")
    ]  # vertical/test_fl_ps.py runs those


def rows() -> Iterator[tuple[str, ...]]:
    """Yield the keys that each row of the page's tables of keys is of."""
    for table in re.findall(r"^\| key \|.*\n\|[ |-]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        for row in table.splitlines():
            yield tuple(re.findall(r"`([\w.]+)`", row.split("|")[1]))


def run(command: str, folder: Path, timeout: float = 120) -> str:
    """Run a command of the page as printed, but for its ports, in a process of its own; return what it says."""
    for address in set(re.findall(r"127\.0\.0\.1:1000\d", command)):
        command = command.replace(address, free_address())
    words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def write_job(folder: Path, without: tuple[str, ...]) -> None:
    """Write the tutorial's job file in one of its two forms."""
    runner: Mapping[str, Any] = TUTORIAL["runner"]
    tree = {**TUTORIAL, "runner": {key: value for key, value in runner.items() if key not in without}}
    (folder / "config_fl.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def lay_out(root: Path) -> Path:
    """Lay out the tutorial's folders in `root`; return the one that its lines are typed in."""
    ncf, tools, data = (
        root / path for path in ("models/recall/ncf", "tools", "datasets/movielens_pinterest_NCF/fl_data")
    )
    for folder in (ncf, tools, data / "fl_train_data", data / "fl_test_data"):
        folder.mkdir(parents=True)
    trainer = "import paddle\nfrom utils.static_ps.reader_helper import get_reader\n"
    (tools / "static_fl_trainer.py").write_text(trainer)
    write_job(ncf, without=FIRST_FORM)
    return ncf


def fill(ncf: Path, prepared: Path) -> list[int]:
    """Fill its data folders as its own script does; return how many samples each client has.

    pandas takes the first sample of all, the first of shard 4's, for names of columns, and writes numbers above each file.
    """
    counts = []
    for k in range(10):
        lines = (prepared / "train" / f"{k}.csv").read_text().splitlines(keepends=True)[k == 4 :]
        (ncf / ARCHIVE / "fl_train_data" / f"{k}.csv").write_text("0,1,2\n" + "".join(lines))
        shutil.copy(prepared / "test" / f"{k}.csv", ncf / ARCHIVE / "fl_test_data")
        counts.append(len(lines))
    return counts


def summaries(ncf: Path) -> list[dict[str, Any]]:
    """Return the summaries of all runs, the first one first."""
    return [json.loads((run / "summary.json").read_text()) for run in sorted((ncf / "runs").iterdir())]


@pytest.fixture
def small_movielens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive in the form of ML-1M where the real one is looked for: two users of each first digit of zip codes."""
    users = "".join(f"{u}::F::25::3::{u % 10}0042\n" for u in range(1, 21))
    ratings = "".join(f"{u}::{1 + (7 * u + 13 * k) % 220}::4::{k}\n" for u in range(1, 21) for k in range(30))
    movies = "".join(f"{m}::Film {m}::Drama\n" for m in range(1, 221))
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for name, text in (("users", users), ("ratings", ratings), ("movies", movies)):
            archive.writestr(f"ml-1m/{name}.dat", text)
    monkeypatch.setenv("FEDPS_DATA", str(tmp_path))


@pytest.mark.usefixtures("small_movielens")
@pytest.mark.timeout(300)
def test_each_command_of_the_page_runs_as_printed_in_the_tutorials_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ncf, told = lay_out(tmp_path / "PaddleRec"), list[str]()
    monkeypatch.chdir(ncf)
    for command in sorted(commands(), key=lambda c: "data prepare" not in c):
        write_job(ncf, without=FIRST_FORM if "--coordinator_num" in command else SECOND_FORM)
        if "static_fl_trainer.py" in command:
            told.append(run(command, ncf))
        else:
            assert here(monkeypatch, *shlex.split(command)[1:]) == 0, command
        if "data prepare" in command:
            fill(ncf, ncf / "DIR")
    with_coordinator, split = told
    assert "static_fl_trainer.py: is PaddleRec's; the built-in trainer does its work" in with_coordinator
    assert "with_coodinator: 1: is read as runner.with_coordinator" in with_coordinator
    assert "PaddlePaddle shares all tables then" in with_coordinator
    assert "stays with each client: mlp_user.weight" in split
    first, second, *_ = summaries(ncf)
    assert (first["status"], first["coordinator"], second["status"], second["coordinator"]) == ("ok", True, "ok", False)
    assert first["metrics"] == second["metrics"], "user rows are private in both forms, and everybody trains"
    assert [r["round"] for r in second["rounds"]] == [1, 2]
    assert {p.name for p in (ncf / "output_model_ncf").iterdir()} == {"1", "2"}
    assert "item_input:1:" in (ncf / "dump_data_ncf" / "epoch_0" / "part-000-00000").read_text()


def test_each_key_of_the_tutorial_has_a_row_of_its_own_and_each_row_is_of_real_keys() -> None:
    def keys_of(model: type[BaseModel]) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    def section(model: type[BaseModel], name: str) -> type[BaseModel]:
        kind = model.model_fields[name].annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)
        return kind

    hyper: Mapping[str, Any] = TUTORIAL["hyper_parameters"]
    there = [*TUTORIAL["runner"], *(f"optimizer.{key}" for key in hyper["optimizer"]), *list(hyper)[1:]]
    assert [key for key in there if (key,) not in rows()] == []
    optimizer = section(section(Job, "hyper_parameters"), "optimizer")
    real = keys_of(section(Job, "runner")) | keys_of(section(Job, "hyper_parameters"))
    real |= {f"optimizer.{key}" for key in keys_of(optimizer)}
    real |= {*SLOTS, *(key.split(".", 1)[-1] for key in (*RENAMED, *MEANINGLESS, *REFUSED))}
    assert [key for row in rows() for key in row if key not in real] == []


def test_the_pages_selector_picks_and_its_tables_are_taken(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [selector], [tables] = (
        re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for kind in ("python", "yaml")
    )
    (tmp_path / "my_module.py").write_text(selector)
    runner = {
        "train_data_dir": str(small_data / "train"),
        "with_coordinator": True,
        "client_selector": "my_module.Fastest",
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"runner": {**runner, "train_batch_size": 32, "epochs": 2}}) + tables)
    assert here(monkeypatch, "run", path, "--in-process", "--run_dir", tmp_path / "run") == 0
    picked = [e["selected"] for e in events(tmp_path / "run") if e["event"] == "selected"]
    assert [len(clients) for clients in picked if isinstance(clients, list)] == [5, 5]
    kept = load_job(path).table_parameters
    assert kept["mlp_item.weight"].optimizer.name == "row_adagrad"
    assert kept["embedding_0.w_0"].optimizer.name == "lazy_adam"


@REAL
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_lines_of_the_tutorial_on_the_real_samples_end_with_the_pages_figures(tmp_path: Path) -> None:
    ncf = lay_out(tmp_path / "PaddleRec")
    run("fedps data prepare movielens --partition zipcode --out DIR", ncf)
    assert fill(ncf, ncf / "DIR") == COUNTS
    for line in [c for c in commands() if "static_fl_trainer.py" in c]:
        write_job(ncf, without=FIRST_FORM if "--coordinator_num" in line else SECOND_FORM)
        run(line, ncf, timeout=240)
    said = [float(re.findall(rf"{name}\s+(0\.\d+)", PAGE)[0]) for name in ("HR@10", "NDCG@10", "AUC")]
    for summary in summaries(ncf):
        assert summary["samples"] == 2 * sum(COUNTS)
        metrics = summary["metrics"]
        assert [metrics["hr@10"], metrics["ndcg@10"], metrics["auc"]] == pytest.approx(said, abs=0.002)
