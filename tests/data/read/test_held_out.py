"""Held-out samples are groups of one user's positive and its 99 negatives, whoever reads them: training runs and infer."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedps.config import Allow, Job
from fedps.data.read.client import check_files, read_client
from fedps.errors import DataError
from fedps.events.events import Event, Note
from fedps.metrics import evaluate
from fedps.models.build import build
from fedps.serving.infer import infer
from fedps.types import ClientId
from tests.conftest import MakeJob

CLIENT = ClientId("3")
FORM = r"; so there is no HR@10 and NDCG@10, which need groups of 100 samples .*: `fedps data prepare`"


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


def notes_of_training(job: Job, allow: Allow = Allow()) -> list[str]:  # noqa: B008  (a constant)
    told: list[Event] = []
    read_client(job, CLIENT, allow, told.append)
    return [event.note for event in told if isinstance(event, Note)]


@pytest.mark.parametrize(("lines", "said"), MISFITS)
def test_held_out_samples_in_another_form_are_scored_but_not_ranked_and_it_is_said_why(
    lines: list[str], said: str, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(test_data_dir=folder_of(tmp_path, lines))
    for (note,) in (notes_of_training(job), check_files(job, Allow())):
        assert re.match(rf"runner\.test_data_dir: .*/test/3\.csv: {said}{FORM}", note)
    found = infer(job, weights(job, tmp_path))
    both = len({line[-1] for line in lines}) == 2
    assert (found["auc"], found["hr@10"], found["ndcg@10"], found["users"]) == (0.5 if both else None, None, None, 0)
    assert found["samples"] == len(read_client(job, CLIENT).test.label)
    data = read_client(job, CLIENT)
    sums = evaluate(np.zeros(len(data.test.label), np.float32), data.test)
    assert (sums.users, sums.hits, len(sums.histograms["auc"])) == (0, 0, len(data.test.label))


def test_a_skipped_line_that_breaks_a_group_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    lines = group(0)
    lines[7] = "0,7,5"
    job = make_job(test_data_dir=folder_of(tmp_path, lines), bad_lines="skip")
    (note,) = notes_of_training(job)
    assert re.search(r"only 99, as 1 malformed lines were skipped, the first: .*label 5", note)


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
    assert "3.csv: samples 1 to 100 are of several users, 0 and 1" in notes_of_training(job, allow)[0]
    assert check_files(job, allow) == []  # runs nothing of the user's
    assert infer(job, weights(job, tmp_path), allow)["hr@10"] is None


def test_one_note_tells_of_all_clients_and_one_client_may_be_looked_at_alone(make_job: MakeJob, tmp_path: Path) -> None:
    lines = group(3)
    job = make_job(test_data_dir=folder_of(tmp_path, lines[:7]))
    for client in range(10):
        (tmp_path / "test" / f"{client}.csv").write_text("\n".join(lines[:7]))
    (note,) = check_files(job, Allow())
    assert note.endswith("; and so of 9 more clients")
    assert check_files(job, Allow(), ClientId("3")) == [note.replace("/0.csv", "/3.csv").partition("; and so of")[0]]
    (tmp_path / "test" / "4.csv").write_text("torn")
    assert len(check_files(job, Allow(), ClientId("3"))) == 1
    with pytest.raises(DataError, match=r"4\.csv, line 1"):
        check_files(job, Allow(), ClientId("4"))


def test_a_folder_of_nobody_is_refused_by_all_who_read_it(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_data.csv").write_text("\n".join(group(0)) + "\n")
    job = make_job()
    job = job.model_copy(update={"runner": job.runner.model_copy(update={"test_data_dir": tmp_path / "test"})})
    said = r"runner\.test_data_dir: .*/test': holds test_data\.csv, and nothing of clients 0, 1, 2, …; name held-out files as"
    for use in (
        notes_of_training,
        lambda job: check_files(job, Allow()),
        lambda job: infer(job, weights(job, tmp_path)),
    ):
        with pytest.raises(DataError, match=said):
            use(job)


def test_prepared_files_are_groups(make_job: MakeJob) -> None:
    assert check_files(make_job(), Allow()) == []
    test = read_client(make_job(), CLIENT).test
    assert len(test.label) % 100 == 0 < len(test.label)
