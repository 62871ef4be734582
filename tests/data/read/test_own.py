"""Readers of the user's own: each form that is understood, and each way in which one goes wrong."""

from pathlib import Path

import pytest

from fedps.config import Job, Runner
from fedps.config.sections.training import HyperParameters
from fedps.data.read.own import flat_config, read_own
from fedps.data.read.reader import Skipped
from fedps.errors import DataError, JobError
from fedps.types import Samples
from tests.columns import columns

KEY = "runner.train_reader_path"


def job(tmp_path: Path) -> Job:
    runner = Runner.model_validate({"train_data_dir": tmp_path, "train_batch_size": 7})
    hyper = HyperParameters.model_validate({"num_users": 10, "num_items": 20, "mine": {"deep": [1]}})
    return Job(name="j", folder=tmp_path, runner=runner, hyper_parameters=hyper)


def read(tmp_path: Path, code: str, kind: str = "RecDataset", skipped: Skipped | None = None) -> Samples:
    """Read by a class with this code; `RecDataset` yields what its method `samples` does."""
    (tmp_path / "mine.py").write_text(code)
    return read_own(job(tmp_path), kind, "mine", [tmp_path / "a.csv", tmp_path / "b.csv"], KEY, skipped).samples


def yielding(*samples: str) -> str:
    lines = "".join(f"        yield {sample}\n" for sample in samples)
    return f"import numpy as np\nclass RecDataset:\n    def __init__(self, files, config): pass\n    def __iter__(self):\n{lines}"


@pytest.mark.parametrize(
    "sample",
    [
        "1, 2, 1",
        "[1, 2, 1]",
        "np.array([1, 2, 1])",
        "[np.array([1]), np.array([2]), np.array([1])]",
        "[np.array([1]).astype('int64'), np.array([[2]]), np.array([1.0]).astype('float32')]",
        "[[1], [2], [1]]",
        "[1], 2, True",
        "1, 2, 1.0",
        "np.int32(1), np.uint8(2), np.array(1)",
        "{'user_input': [1], 'item_input': 2, 'label': np.array([1.0])}",
        "{'label': 1, 'item': 2, 'user': 1}",
    ],
)
@pytest.mark.parametrize("beside", ["", "4, 5, 0"])
def test_forms_of_the_same_sample(sample: str, beside: str, tmp_path: Path) -> None:
    samples = read(tmp_path, yielding(sample, beside or sample))
    assert [column.tolist()[0] for column in columns(samples)] == [1, 2, 1]
    assert [column.tolist()[1] for column in columns(samples)] == ([4, 5, 0] if beside else [1, 2, 1])
    assert [column.dtype.name for column in columns(samples)] == ["int64", "int64", "float32"]


HEADER = "[np.array([0]), np.array([1]), np.array([2])]"


def test_a_header_of_column_numbers_is_left_out_once_a_file(tmp_path: Path) -> None:
    assert read(tmp_path, yielding(HEADER, "3, 4, 1", "0, 1, 2", "5, 6, 0")).user.tolist() == [3, 5]


def test_more_headers_than_files_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sample 3: .*label 2 is neither 0 nor 1"):
        read(tmp_path, yielding(HEADER, HEADER, HEADER, "3, 4, 1"))


def test_a_dataset_is_given_files_and_job_and_may_have_init(tmp_path: Path) -> None:
    code = """
class RecDataset:
    def __init__(self, file_list, config):
        self.files, self.size = file_list, config["runner.train_batch_size"]
    def init(self):
        self.begun = 1
    def __iter__(self):
        yield self.size, len(self.files), self.begun
        yield 1, 1, int(self.files[1].endswith("/b.csv"))
"""
    assert [c.tolist() for c in columns(read(tmp_path, code))] == [[7, 1], [2, 1], [1, 1]]


@pytest.mark.parametrize(
    "made", ["lambda: iter(self.all(file_list))", "self.all(file_list)", "list(self.all(file_list))"]
)
@pytest.mark.parametrize("init", ["    def init(self, config): self.size = config['runner.train_batch_size']\n", ""])
def test_a_reader_returns_a_function_or_an_iterator(made: str, init: str, tmp_path: Path) -> None:
    code = (
        f"class Reader:\n    size = 7\n{init}    def dataloader(self, file_list): return {made}\n"
        "    def all(self, files):\n        for k in range(5): yield self.size, k, len(files) - 1\n"
    )
    samples = read(tmp_path, code, "DataLoader")
    assert [c.tolist() for c in columns(samples)] == [[7] * 5, [0, 1, 2, 3, 4], [1] * 5], "the last short batch is kept"


BAD = {
    "1, 2": "sample 3: (1, 2): has 2 parts; yield user, item and label",
    "[1], [2, 3], [1]": "sample 3: ([1], [2, 3], [1]): item [2, 3] is no whole number",
    "1, 2.5, 1": "item 2.5 is no whole number",
    "1, None, 1": "item None is no whole number",
    "1, float('nan'), 1": "item nan is no whole number",
    "1, float('inf'), 1": "item inf is no whole number",
    "1, np.array([1, 2]), 1": "item array([1, 2]) is no whole number",
    "1, 'x', 1": "item 'x' is no whole number",
    "10, 2, 1": "user 10 is not in [0, 10); correct it or raise hyper_parameters.num_users",
    "1, -2, 1": "item -2 is not in [0, 20)",
    "1, 2**70, 1": "is no whole number of at most 18 digits",
    "1, 2, 3": "label 3 is neither 0 nor 1",
    "7": "is a int; yield user, item and label",
    "None": "is a NoneType",
    "{'user': 1, 'item': 2}": "has 2 parts",
    "{}": "has 0 parts",
}


@pytest.mark.parametrize("sample", BAD)
def test_what_is_no_sample_is_told_with_its_number(sample: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, yielding("1, 2, 1", "3, 4, 0", sample))
    assert BAD[sample] in str(error.value)
    assert str(error.value).startswith("runner.train_reader_path: mine.RecDataset: sample 3: ")


def test_malformed_samples_are_skipped_and_counted(tmp_path: Path) -> None:
    skipped = Skipped()
    samples = read(tmp_path, yielding("1, 2, 1", "3", "3, 4, 0", "1, 2, 9"), skipped=skipped)
    assert [c.tolist() for c in columns(samples)] == [[1, 3], [2, 4], [1, 0]]
    assert skipped.lines == 2
    assert "mine.RecDataset: sample 2: 3: is a int" in skipped.first


@pytest.mark.parametrize("line", ["open('/nowhere')", "raise SystemExit(3)"])
def test_an_error_of_the_users_code_is_told_with_its_traceback(line: str, tmp_path: Path) -> None:
    code = yielding("1, 2, 1") + f"        {line}\n"
    with pytest.raises(DataError) as error:
        read(tmp_path, code)
    told = str(error.value)
    assert "mine.RecDataset: after 1 samples: " in told
    assert f'{tmp_path / "mine.py"}", line 6, in __iter__' in told
    assert "own.py" not in told


@pytest.mark.parametrize(
    ("code", "kind", "named"),
    [
        ("class RecDataset:\n    def __init__(self, files): pass", "RecDataset", "after 0 samples: TypeError"),
        ("class RecDataset:\n    def __init__(self, files, config): pass", "RecDataset", "TypeError"),
        ("class Reader: pass", "DataLoader", r"has no method dataloader\(file_list\)"),
        (
            "class Reader:\n    def dataloader(self, files): return []",
            "DataLoader",
            r"yields no sample of a\.csv, b\.csv",
        ),
        ("class Reader:\n    def dataloader(self, files): return 3", "DataLoader", "after 0 samples: TypeError"),
    ],
)
def test_a_class_of_another_form_is_named(code: str, kind: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=named):
        read(tmp_path, code, kind)


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"runner\.train_reader_path: .*no class RecDataset; there are Reader"):
        read(tmp_path, "class Reader: pass")
    with pytest.raises(JobError, match="no module 'yours'"):
        read_own(job(tmp_path), "RecDataset", "yours", [tmp_path / "a.csv"], KEY)


def test_the_job_is_seen_by_dotted_keys(tmp_path: Path) -> None:
    config = flat_config(job(tmp_path))
    assert config["runner.train_batch_size"] == 7
    assert config["hyper_parameters.optimizer.class"] == "adam"
    assert config["hyper_parameters.mine.deep"] == [1]
    assert config["config_abs_dir"] == str(tmp_path)
