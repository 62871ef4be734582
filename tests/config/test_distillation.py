"""What stands in the way of distillation is told before anything starts, with key, value and remedy."""

from pathlib import Path

import pytest
import yaml

from fedps.config import load_job, notes_of
from fedps.config.job import Job
from fedps.errors import JobError
from fedps.launch.one_role import load_here


def job(folder: Path, distillation: dict[str, object], **more: dict[str, object]) -> Job:
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train" / "0.csv").write_text("0,1,1\n")
    (folder / "public.csv").write_text("0,1,1\n")
    runner = {"train_data_dir": "train", "with_coordinator": True, "worker_num": 1} | more.pop("runner", {})
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"runner": runner, "distillation": distillation, **more}))
    return load_job(path)


def test_paths_count_from_the_jobs_folder(tmp_path: Path) -> None:
    found = job(tmp_path, {"public_data": "public.csv"})
    assert found.public_data == tmp_path / "public.csv" and found.distillation.passes == 3
    assert job(tmp_path, {}).public_data is None


@pytest.mark.parametrize(
    ("distillation", "more", "told"),
    [
        ({"public_data": "no.csv"}, {}, r"distillation.public_data: '.*no.csv': there is no such file; name one"),
        ({"public_data": "train"}, {}, r"distillation.public_data: '.*train': there is no such file"),
        (
            {"public_data": "public.csv"},
            {"runner": {"with_coordinator": False}},
            r"public.csv': .*set runner.with_coord",
        ),
        (
            {"public_data": "public.csv"},
            {"hyper_parameters": {"loss": "bpr"}},
            r"hyper_parameters.loss: bpr: .*use bce",
        ),
        ({"samples": 200_000}, {}, r"distillation.samples: 200000: .*131072"),
        ({"passes": True}, {}, r"distillation.passes: True: must be a number"),
        ({"temperature": 0}, {}, r"distillation.temperature: 0: "),
        ({"teacher": "best"}, {}, r"distillation.teacher: 'best': .*mean.*weighted.*stacked"),
        ({"public": "public.csv"}, {}, r"distillation.public: .*public_data"),
    ],
)
def test_mistakes(
    tmp_path: Path, distillation: dict[str, object], more: dict[str, dict[str, object]], told: str
) -> None:
    with pytest.raises(JobError, match=told):
        job(tmp_path, distillation, **more)


def test_keys_without_public_samples_are_noted(tmp_path: Path) -> None:
    assert notes_of(job(tmp_path, {"passes": 5, "teacher": "stacked"})) == [
        "distillation.passes: 5: has no effect without distillation.public_data",
        "distillation.teacher: stacked: has no effect without distillation.public_data",
    ]
    assert not notes_of(job(tmp_path, {"passes": 5, "public_data": "public.csv"}))


def test_a_server_does_without_the_file(tmp_path: Path) -> None:
    job(tmp_path, {"public_data": "public.csv"})
    (tmp_path / "public.csv").unlink()
    assert load_here(tmp_path / "job.yaml").job.public_data == tmp_path / "public.csv"
