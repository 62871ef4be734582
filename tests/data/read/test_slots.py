"""The original's ways to read, with any slots: MultiSlot text of a command, and classes that yield a part a feature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedps.config import Allow, load_job
from fedps.data.hashing import stable_hash
from fedps.data.read.by_job import Reading, read_by_job
from fedps.errors import DataError
from fedps.types import Bags

FEATURES = {
    "click": {"kind": "label"},
    "user": {"kind": "id", "rows": "open", "side": "user"},
    "words": {"kind": "ids", "rows": 9, "max": 2},
    "dense": {"kind": "number", "dim": 2},
}
SLOTS = "1 1 1 7 3 1 2 3 2 0.5 -1\\n1 0 1 ann 1 8 2 3 4e0\\n"
EXPECTED: dict[str, object] = {"user": [7, "ann"], "words": [[2, 3], [8]], "dense": [[0.5, -1], [3, 4]]}
GENERATOR = """
from fedps import MultiSlotStringDataGenerator

class Reader(MultiSlotStringDataGenerator):
    def generate_sample(self, line):
        def samples():
            click, user, words, dense = line.split()
            yield [("click", [click]), ("user", [user]), ("words", words.split("|")), ("dense", dense.split("|"))]
        return samples

Reader().run_from_stdin()
"""


def read(folder: Path, text: str = "x\n", **runner: Any) -> Reading:
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train" / "0.csv").write_text(text)
    tree = {"runner": {"train_data_dir": "train", "model": "net.Net", **runner}, "features": FEATURES}
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return read_by_job(load_job(folder / "job.yaml"), "train", [folder / "train" / "0.csv"], Allow(commands=True))


def piped(folder: Path, slots: str, **runner: Any) -> Reading:
    return read(folder, reader_type="QueueDataset", pipe_command=f"printf '{slots}'", **runner)


def yielding(folder: Path, samples: str, kind: str = "RecDataset", **runner: Any) -> Reading:
    """Read by a class that yields these samples, written as Python's lines."""
    lines = "\n".join(f"        {line}" for line in samples.splitlines())
    name, method = ("RecDataset", "__iter__") if kind == "RecDataset" else ("Reader", "dataloader")
    code = f"import numpy as np\nclass {name}:\n    def {method}(self, *files):\n{lines}\n"
    if kind == "RecDataset":
        code += "    def __init__(self, files, config): pass\n"
    module = f"mine{len(list(folder.glob('mine*.py')))}"
    (folder / f"{module}.py").write_text(code)
    return read(folder, reader_type=kind, train_reader_path=module, **runner)


def assert_expected(reading: Reading) -> None:
    columns: dict[str, Any] = {}
    for name, column in reading.samples.columns.items():
        columns[name] = [b[b >= 0].tolist() for b in column.padded()] if isinstance(column, Bags) else column.tolist()
    ann = int(stable_hash(["ann"], 0)[0]) % 2**63
    assert columns == EXPECTED | {"user": [7, ann]}
    assert reading.samples.label.tolist() == [1, 0]
    assert "features.words.max: 2: of 1 samples" in reading.note


def test_slots_stand_in_the_order_of_the_features(tmp_path: Path) -> None:
    assert_expected(piped(tmp_path, SLOTS))
    assert_expected(piped(tmp_path, SLOTS.replace("\\n", "  \\r\\n\\n")))
    (tmp_path / "reader.py").write_text(GENERATOR)
    command = "python reader.py"
    assert_expected(
        read(tmp_path, "1 7 1|2|3 0.5|-1\n0 ann 8 3|4\n", reader_type="InmemoryDataset", pipe_command=command)
    )


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        (
            "1 1 1 7 x 2 1 1",
            "slot words begins with 'x', which is no count of values; a line is .* click, user, words, dense",
        ),
        ("1 1 1 7 1 2", "slot dense is missing"),
        ("1 1 1 7 1 2 2 1", "slot dense has 1 of 2 values"),
        ("1 1 1 7 1 2 2 1 1 4", "goes on after the last slot, dense, with '4'"),
    ],
)
def test_a_line_of_other_slots_is_named(slots: str, said: str, tmp_path: Path) -> None:
    text = f"{SLOTS}\\n{slots}\\n{SLOTS}"
    with pytest.raises(DataError, match=f"0.csv: pipe_command .*, line 4 of its output: .*: {said}"):
        piped(tmp_path, text)
    assert piped(tmp_path, text, bad_lines="skip").skipped.lines == 1


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ("1 2 1 7 1 2 2 1 1", "line 3 of its output, column 'click': '2' is neither 0 nor 1"),
        ("1 1 2 7 8 1 2 2 1 1", r"line 3 of its output, column 'user': \['7', '8'\] is no id: it holds several"),
        ("1 1 0 1 2 2 1 1", r"line 3 of its output, column 'user': \[\] is no id: it holds none"),
        ("1 1 1 7 2 1 9 2 1 1", r"line 3 of its output, column 'words': \['1', '9'\] is not in \[0, 9\)"),
        ("1 1 1 7 1 2 1 1", "line 3 of its output, column 'dense': .* holds 1 numbers, and features.dense.dim is 2"),
        ("1 1 1 7 1 2 2 1 nan", "line 3 of its output, column 'dense': .* is no finite number"),
    ],
)
def test_a_value_of_a_slot_that_is_not_as_it_should_be(slots: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        piped(tmp_path, f"{SLOTS}{slots}\\n")
    assert len(piped(tmp_path, f"{SLOTS}{slots}\\n", bad_lines="skip").samples.label) == 2


@pytest.mark.parametrize("kind", ["RecDataset", "DataLoader"])
@pytest.mark.parametrize(
    "samples",
    [
        "yield {'dense': [.5, -1], 'user': 7, 'words': [1, 2, 3], 'click': 1}\nyield {'dense': (3, 4), 'user': 'ann', 'words': {8}, 'click': 0}",
        "yield [1, 7, [1, 2, 3], [.5, -1]]\nyield 0, 'ann', (8,), [3, 4]",
        "yield [np.array([1]), 7, np.array([1, 2, 3]), np.array([.5, -1], 'float32')]\nyield [np.zeros(1), ['ann'], np.array([8]), np.array([3, 4])]",
        "yield [('click', [1]), ('user', [7]), ('words', [1, 2, 3]), ('dense', [.5, -1])]\nyield [('click', [0]), ('user', ['ann']), ('words', [8]), ('dense', [3, 4])]",
    ],
)  # fmt: skip
def test_classes_yield_parts_by_name_or_in_order(kind: str, samples: str, tmp_path: Path) -> None:
    assert_expected(yielding(tmp_path, samples, kind))


def test_many_samples_of_arrays_are_taken_in_at_once(tmp_path: Path) -> None:
    lines = "for k in range(9000):\n    yield np.array([k % 2]), np.array([k]), np.array([k % 9]), np.array([k, 1.5])"
    samples = yielding(tmp_path, lines).samples
    np.testing.assert_array_equal(samples.ids("user"), np.arange(9000))
    assert isinstance(samples.columns["dense"], np.ndarray)
    np.testing.assert_array_equal(samples.columns["dense"], np.stack([np.arange(9000), np.full(9000, 1.5)], 1))


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("1, 7, [1]", "has 3 parts; yield click, user, words, dense, in this order, or a dict of them"),
        ("{'click': 1, 'user': 7, 'dense': [1, 2]}", "has no part 'words'; yield a dict of click, user, words, dense"),
        ("7", "is a int; yield click, user"),
        ("1, 7, [9], [1, 2]", r"column 'words': \[9\] is not in \[0, 9\)"),
        ("1, None, [1], [1, 2]", "column 'user': None is neither a whole number nor a text"),
        ("1, 7, [1], [1, None]", r"column 'dense': \[1, None\] is empty"),
        ("1, 7, [1], np.array([1, np.inf])", "column .dense.: .* is no finite number"),
        ("1, 7, [object()], [1, 2]", "column 'words': .* is no id; correct it"),
        ("object(), 7, [1], [1, 2]", "column 'click': .* is no number"),
    ],
)
def test_a_sample_that_is_not_as_it_should_be(sample: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"mine0\.RecDataset: sample 2(, |: .*: ){said}"):
        yielding(tmp_path, f"yield 1, 7, [1], [1, 2]\nyield {sample}")
    reading = yielding(tmp_path, f"yield 1, 7, [1], [1, 2]\nyield {sample}\nyield 0, 7, [1], [1, 2]", bad_lines="skip")
    assert (len(reading.samples.label), reading.skipped.lines) == (2, 1)


RANK_READER = """
from pathlib import Path

import numpy as np

class RecDataset:
    def __init__(self, file_list, config):
        self.files = file_list
        self.slots = ["click", "1", "2", "dense_feature"]

    def __iter__(self):
        for file in self.files:
            for line in Path(file).read_text().splitlines():
                output = {slot: [] for slot in self.slots}
                for feasign in line.split():
                    slot, _, value = feasign.partition(":")
                    output[slot].append(float(value) if slot == "dense_feature" else int(value))
                for slot in self.slots[1:3]:
                    output[slot] = output[slot] or [0]
                sparse = [np.array(output[slot]).astype("int64") for slot in self.slots[:3]]
                yield [*sparse, np.array(output["dense_feature"]).astype("float32")]
"""


def test_a_rank_jobs_reader_is_read_as_it_counts_its_inputs(tmp_path: Path) -> None:
    (tmp_path / "criteo_reader.py").write_text(RANK_READER)
    (tmp_path / "train").mkdir()
    file = tmp_path / "train" / "part-0"
    file.write_text(
        "click:1 dense_feature:0.05 dense_feature:0.5 1:737395 2:9\nclick:0 1:3 dense_feature:1 dense_feature:2\n"
    )
    tree = {
        "runner": {"train_data_dir": "train", "model": "net.Net", "reader_type": "RecDataset", "train_reader_path": "criteo_reader"},
        "hyper_parameters": {"sparse_inputs_slots": 3, "sparse_feature_number": 1000001, "dense_input_dim": 2},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    samples = read_by_job(load_job(tmp_path / "job.yaml"), "train", [file], Allow()).samples
    assert samples.ids("slot_1").tolist() == [737395, 3]
    assert samples.ids("slot_2").tolist() == [9, 0]
    np.testing.assert_array_equal(
        np.asarray(samples.columns["dense_feature"]), np.array([[0.05, 0.5], [1, 2]], np.float32)
    )
    assert samples.label.tolist() == [1, 0]
