"""Held-out samples are groups of one user's positive and its 99 negatives, whoever reads them: training runs and infer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedps.config import Allow, Job
from fedps.data.read.client import check_files, read_client
from fedps.errors import DataError
from fedps.models.build import build
from fedps.serving.infer import infer
from fedps.types import ClientId
from tests.conftest import MakeJob

CLIENT = ClientId("3")
FORM = r"; a held-out file has groups of 100 samples of one user, the positive first, .*`fedps data prepare`, or leave the key out"


def group(user: int, first_label: int = 1, last_user: int | None = None) -> list[str]:
    lines = [f"{user},0,{first_label}", *(f"{user},{i},0" for i in range(1, 99))]
    return [*lines, f"{user if last_user is None else last_user},99,0"]


MISFITS = [
    (group(0)[:-1], "samples 1 to 99 are only 99"),
    (group(0)[1:], "samples 1 to 99 begin with a negative"),  # its first line was taken for a header
    ([*group(0)[1:], *group(1)], "samples 1 to 100 begin with a negative"),
    ([*group(0), *group(1)[:37]], "samples 101 to 137 are only 37"),
    (group(0) + group(1, first_label=0), "samples 101 to 200 begin with a negative"),
    (group(0, last_user=1) + group(1), "samples 1 to 100 are of several users, 0 and 1 for two"),
    ([*group(0), *group(1)[1:], group(1)[0]], "samples 101 to 200 begin with a negative"),
    ([group(0)[0], *group(0)[:99]], "samples 1 to 100 hold more than one positive"),
    ([f"{k % 50},{k},{k % 2}" for k in range(1, 201)], "samples 1 to 100 are of several users, 1 and 2 for two"),
]


def folder_of(tmp_path: Path, lines: list[str]) -> str:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "3.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "test")


def weights(job: Job, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({n: torch.zeros_like(p) for n, p in build(job).named_parameters()}, path)
    return path


def read_for_training(job: Job, _: Path) -> None:
    read_client(job, CLIENT)


def check_at_start(job: Job, _: Path) -> None:
    check_files(job, Allow())


def score_weights(job: Job, tmp_path: Path) -> None:
    infer(job, weights(job, tmp_path))


@pytest.mark.parametrize("use", [read_for_training, check_at_start, score_weights])
@pytest.mark.parametrize(("lines", "said"), MISFITS)
def test_held_out_samples_in_another_form_are_refused_by_all_who_read_them(
    lines: list[str], said: str, use: Callable[[Job, Path], None], make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(test_data_dir=folder_of(tmp_path, lines))
    with pytest.raises(DataError, match=rf"runner\.test_data_dir: .*/test/3\.csv: {said}{FORM}"):
        use(job, tmp_path)


def test_a_group_ends_with_its_file(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.csv").write_text("\n".join(group(0)[:40]))
    (tmp_path / "test" / "1.csv").write_text("\n".join(group(0)[40:]))
    job = make_job(test_data_dir=str(tmp_path / "test"), split_file_list=True, worker_num=1)
    with pytest.raises(DataError, match=r"0\.csv: samples 1 to 40 are only 40"):
        read_client(job, ClientId("0"))


def test_a_skipped_line_that_breaks_a_group_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    lines = group(0)
    lines[7] = "0,7,5"
    job = make_job(test_data_dir=folder_of(tmp_path, lines), bad_lines="skip")
    with pytest.raises(DataError, match=r"only 99; .*; 1 malformed lines were skipped, the first: .*label 5"):
        read_client(job, CLIENT)


@pytest.mark.parametrize("reader", ["RecDataset", "QueueDataset"])
def test_what_the_users_own_reader_yields_is_judged_alike(reader: str, make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("""
from pathlib import Path
class RecDataset:
    def __init__(self, files, config): self.files = files
    def __iter__(self):
        for file in self.files:
            yield from ([int(v) for v in line.split(",")] for line in Path(file).read_text().splitlines())
""")
    job = make_job(
        test_data_dir=folder_of(tmp_path, group(0, last_user=1)), infer_reader_type=reader, infer_reader_path="mine",
        pipe_command="awk -F, '{print 1,$1,1,$2,1,$3}'",
    )  # fmt: skip
    allow = Allow(commands=True)
    with pytest.raises(DataError, match=r"3\.csv: samples 1 to 100 are of several users, 0 and 1"):
        read_client(job, CLIENT, allow)
    check_files(job, allow)  # runs nothing of the user's
    with pytest.raises(DataError, match=r"3\.csv: samples 1 to 100 are of several users, 0 and 1"):
        infer(job, weights(job, tmp_path), allow)


def test_a_folder_of_nobody_is_refused_by_all_who_read_it(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_data.csv").write_text("\n".join(group(0)) + "\n")
    job = make_job()
    job = job.model_copy(update={"runner": job.runner.model_copy(update={"test_data_dir": tmp_path / "test"})})
    said = r"runner\.test_data_dir: .*/test': holds test_data\.csv, and nothing of clients 0, 1, 2, …; name held-out files as"
    for use in (read_for_training, check_at_start, score_weights):
        with pytest.raises(DataError, match=said):
            use(job, tmp_path)


def test_prepared_files_are_groups(make_job: MakeJob) -> None:
    check_files(make_job(), Allow())
    test = read_client(make_job(), CLIENT).test
    assert len(test.label) % 100 == 0 < len(test.label)
