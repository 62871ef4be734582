"""A client's data, whatever reads it, is the same; what goes wrong names file, line and reader, and leaves nothing."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Allow, Job
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.errors import DataError, JobError
from fedps.types import ClientId
from tests.columns import columns
from tests.conftest import MakeJob
from tests.data.read.processes import MARK, left
from tests.events.kept import into

EXAMPLES = Path(__file__).parents[3] / "examples"
AWK = "awk -F, '{print 1,$1,1,$2,1,$3}'"
YES = Allow(commands=True)
THREE = ClientId("3")


def told(job: Job, allow: Allow = YES, client: ClientId = THREE) -> tuple[ClientData, list[dict[str, Any]], str]:
    """Return a client's data, the events and the log of reading it."""
    events: list[dict[str, Any]] = []
    log = io.StringIO()
    return read_client(job, client, allow, into(events), log), events, log.getvalue()


def assert_same(one: ClientData, other: ClientData) -> None:
    for ours, theirs in ((one.train, other.train), (one.test, other.test)):
        for name in ("user", "item", "label"):
            column, expected = getattr(ours, name), getattr(theirs, name)
            np.testing.assert_array_equal(column, expected)
            assert column.dtype.kind == expected.dtype.kind  # from a cache, ids are of 4 bytes


def csv(folder: Path, **files: str) -> Path:
    """Write files of samples; their names come without `.csv`."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.mark.parametrize("reader", ["QueueDataset", "InmemoryDataset", "RecDataset", "DataLoader"])
def test_the_example_readers_give_exactly_the_built_in_readers_arrays(
    reader: str, make_job: MakeJob, tmp_path: Path
) -> None:
    for name in ("queuedataset_reader", "movielens_reader"):
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    plain, events, _ = told(make_job())
    assert [e["reader"] for e in events] == ["lines user,item,label"] * 2
    job = make_job(
        reader_type=reader, infer_reader_type=reader, train_reader_path="movielens_reader",
        infer_reader_path="movielens_reader", pipe_command="python queuedataset_reader.py",
    )  # fmt: skip
    data, events, _ = told(job)
    assert_same(data, plain)
    assert {e["reader"] for e in events} <= {
        "pipe_command 'python queuedataset_reader.py'", "movielens_reader.RecDataset", "movielens_reader.Reader"
    }  # fmt: skip
    assert [e["samples"] for e in events] == [len(data), len(data.test_slots["user"])]


def test_a_script_of_the_originals_form_runs_with_its_import_line_changed(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text("""
import sys
import fedps as fleet

class Reader(fleet.MultiSlotDataGenerator):
    def init(self, config):
        self.slots, self.config = ["user_id", "item_id", "label"], config

    def generate_sample(self, line):
        def reader():
            yield zip(self.slots, [[int(v)] for v in line.split(",")])
        return reader

if __name__ == "__main__":
    yaml_path, utils_path = sys.argv[1:]
    sys.path.append(utils_path)
    import common_ps, common
    assert common.YamlHelper
    config = common_ps.YamlHelper().load_yaml(yaml_path)
    assert config["runner.train_batch_size"] == 32 and config["hyper_parameters.optimizer.class"] == "adam"
    r = Reader()
    r.init(config)
    r.run_from_stdin()
""")
    job = make_job(reader_type="QueueDataset", pipe_command="python reader.py", infer_reader_type="QueueDataset")
    assert_same(told(job)[0], told(make_job())[0])


PADDLES = """
import sys
import yaml
import six
import paddle.distributed.fleet as fleet
from paddle.distributed.fleet import MultiSlotDataGenerator

class Reader(fleet.MultiSlotDataGenerator):
    def init(self, config):
        self.slots = ["user_id", "item_id", "label"]

    def generate_sample(self, line):
        def reader():
            yield [(name, [int(v)]) for name, v in zip(self.slots, line.strip().split(","))]
        return reader

if __name__ == "__main__":
    sys.path.append(sys.argv[2])
    import common_ps
    r = Reader()
    r.init(common_ps.YamlHelper().load_yaml(sys.argv[1]))
    r.run_from_stdin()
"""
ITERABLE = """
from __future__ import print_function
import numpy as np
from paddle.io import IterableDataset

class RecDataset(IterableDataset):
    def __init__(self, file_list, config):
        super(RecDataset, self).__init__()
        self.file_list = file_list

    def __iter__(self):
        for file in self.file_list:
            with open(file, "r") as rf:
                for line in rf:
                    yield [np.array([int(v)]) for v in line.strip().split(",")]
"""


def test_the_originals_readers_run_unchanged_on_the_originals_files(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "queuedataset_reader.py").write_text(PADDLES)
    (tmp_path / "movielens_reader.py").write_text(ITERABLE)
    plain = told(make_job())[0]
    shards = tmp_path / "shards"
    shutil.copytree(make_job().runner.train_data_dir, shards)
    for file in shards.glob("*.csv"):
        file.write_text("0,1,2\n" + file.read_text())  # as pandas writes what has no names
    for kind, pipe in (("QueueDataset", "python queuedataset_reader.py"), ("RecDataset", None), (None, None)):
        job = make_job(
            train_data_dir=str(shards), reader_type=kind, pipe_command=pipe, train_reader_path="movielens_reader"
        )
        for column, expected in zip(columns(told(job)[0].train), columns(plain.train), strict=True):
            np.testing.assert_array_equal(column, expected)
    assert not {"paddle", "paddle.io", "six"} & set(sys.modules), (
        "nobody else takes the stand-ins for what is installed"
    )


def test_files_dealt_out_are_read_in_order_however_many_at_once(make_job: MakeJob) -> None:
    parts = [told(make_job(), client=ClientId(c))[0].train for c in ("3", "4", "5")]
    for threads in (1, 2, 8):
        for piped in (False, True):
            job = make_job(
                split_file_list=True, worker_num=4, thread_num=threads, pipe_command=AWK,
                reader_type="QueueDataset" if piped else None,
            )  # fmt: skip
            data, events, log = told(job, client=ClientId("1"))
            np.testing.assert_array_equal(data.train.item, np.concatenate([p.item for p in parts]))
            assert "client 1: 3.csv, 4.csv, 5.csv" in log.splitlines()
            assert events[0]["files"] == ["3.csv", "4.csv", "5.csv"]


def test_without_permission_no_command_runs(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(reader_type="QueueDataset", pipe_command=f"touch {tmp_path}/ran; {AWK}")
    data, events, log = told(job, Allow())
    assert_same(data, told(make_job())[0])
    assert not (tmp_path / "ran").exists()
    said = "runner.pipe_command is not run without --allow-commands; files are read as user,item,label"
    assert {"event": "note", "note": said, "seen": True} in events
    assert f"note: {said}" in log.splitlines()
    told(job)
    assert (tmp_path / "ran").exists()


def test_files_of_another_form_are_not_read_without_permission(make_job: MakeJob, tmp_path: Path) -> None:
    csv(tmp_path / "mine", a="3 4 1\n")
    command = "awk '{print 1,$1,1,$2,1,$3}'"
    job = make_job(
        train_data_dir=str(tmp_path / "mine"), test_data_dir=None, reader_type="QueueDataset", pipe_command=command,
        negatives=0,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"a\.csv, line 1: '3 4 1': has 1 field; .*pass --allow-commands if"):
        told(job, Allow(), ClientId("a"))
    assert told(job, client=ClientId("a"))[0].train.item.tolist() == [4]


def test_when_one_file_fails_the_others_commands_are_killed(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))
    csv(tmp_path / "mine", a="wait\n", b="wait\n", c="fail\n")
    command = "read -r word; if [ $word = fail ]; then sleep 0.2; exit 7; fi; sleep 60"
    for threads in (2, 3):
        job = make_job(
            train_data_dir=str(tmp_path / "mine"), test_data_dir=None, reader_type="QueueDataset", thread_num=threads,
            pipe_command=command, split_file_list=True, worker_num=1,
            start_timeout=1.0 if threads == 2 else 30.0,
        )  # fmt: skip
        named = r"[ab]\.csv: .* is silent" if threads == 2 else r"c\.csv: .*ends with exit code 7"
        with pytest.raises(DataError, match=named):
            told(job, client=ClientId("0"))
        assert left(str(tmp_path)) == []


def test_a_script_that_fails_shows_its_traceback(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(
        "import fedps\nclass Reader(fedps.MultiSlotDataGenerator):\n"
        "    def generate_sample(self, line):\n        return [[('user', [int(line.split(';')[0])])]]\n"
        "Reader().run_from_stdin()\n"
    )
    job = make_job(reader_type="QueueDataset", pipe_command="python reader.py")
    with pytest.raises(DataError) as error:
        told(job)
    message = str(error.value)
    assert "3.csv: pipe_command 'python reader.py': ends with exit code 1; it says:" in message
    assert "ValueError: invalid literal for int()" in message
    assert "in line 1 of the input: " in message


@pytest.mark.parametrize("reader", [None, "QueueDataset", "RecDataset"])
def test_malformed_lines_are_skipped_counted_and_told(
    reader: str | None, make_job: MakeJob, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "mine.py").write_text("""
from pathlib import Path
class RecDataset:
    def __init__(self, files, config): self.files = files
    def __iter__(self):
        for file in self.files:
            yield from ([int(v) for v in line.split(",")] for line in Path(file).read_text().splitlines())
""")
    csv(tmp_path / "mine", a="1,2,1\n3,4,9\n5,6,0\n", b="1,1,1\n7,7\n999,1,1\n")
    job = make_job(
        train_data_dir=str(tmp_path / "mine"), test_data_dir=None, reader_type=reader, train_reader_path="mine",
        pipe_command=AWK, bad_lines="skip", split_file_list=True, worker_num=1, thread_num=2,
    )  # fmt: skip
    data, events, log = told(job, client=ClientId("0"))
    assert data.train.item.tolist() == [2, 6, 1]
    skipped = next(e for e in events if e["event"] == "skipped")
    assert (skipped["side"], skipped["lines"]) == ("train", 3)
    assert not any("3,4,9" in str(e) or "label 9" in str(e) for e in events), "what they say is the client's own"
    (line,) = [text for text in log.splitlines() if text.startswith("skipped 3 malformed lines, the first: ")]
    assert "label 9 is neither 0 nor 1" in line
    with pytest.raises(DataError, match="label 9 is neither 0 nor 1"):
        told(
            job.model_copy(update={"runner": job.runner.model_copy(update={"bad_lines": "error", "thread_num": 1})}),
            client=ClientId("0"),
        )


def test_the_log_counts_examples_or_words(make_job: MakeJob, tmp_path: Path) -> None:
    folder = csv(tmp_path / "mine", a="1, 2, 1\n5,6,0\n")
    settings: dict[str, Any] = {"train_data_dir": str(folder), "test_data_dir": None}
    _, _, log = told(make_job(**settings), client=ClientId("a"))
    assert log.splitlines()[:3] == ["client a: a.csv", f"File: {folder}/a.csv has 2 examples", "Total example: 2"]
    _, _, log = told(make_job(**settings, example_count_method="word"), client=ClientId("a"))
    assert log.splitlines()[1:3] == [f"file: {folder}/a.csv has 4 words", "Total words: 4"]


def test_a_client_or_reader_that_is_not_there_is_named(make_job: MakeJob) -> None:
    with pytest.raises(DataError, match=r"runner\.train_data_dir: no file of client 'x' in .*; there are 0, 1, 2"):
        told(make_job(), client=ClientId("x"))
    with pytest.raises(JobError, match=r"runner\.train_reader_path: .*no module 'nowhere'"):
        told(make_job(reader_type="RecDataset", train_reader_path="nowhere"))
    with pytest.raises(JobError, match=r"runner\.infer_reader_path: .*no module 'nowhere'"):
        told(make_job(infer_reader_type="DataLoader", infer_reader_path="nowhere"))


def test_a_client_without_held_out_samples_has_none(make_job: MakeJob, tmp_path: Path) -> None:
    folder = csv(tmp_path / "test", **{"4": "".join(f"0,{item},{int(item == 0)}\n" for item in range(100))})
    data = read_client(make_job(test_data_dir=str(folder)), THREE)
    assert len(data.test.label) == 0
    assert len(data.test_slots["user"]) == 0


def test_the_partition_of_the_guide_makes_a_prepared_folder(tmp_path: Path) -> None:
    script = [sys.executable, str(EXAMPLES / "own_partition.py"), "--twin", "--out", str(tmp_path / "out")]
    run = subprocess.run(script, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in run.stdout.splitlines()] == [f"client group{k}" for k in range(4)]
    assert {f.stem for f in (tmp_path / "out" / "train").iterdir()} == {f"group{k}" for k in range(4)}
    (tmp_path / "out" / "mine.txt").write_text("kept")
    again = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (again.returncode, "mine.txt" in again.stderr) == (1, True)
