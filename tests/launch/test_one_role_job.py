"""A job on a machine that holds some of its data, or none."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from fedps.config import Job, load_job
from fedps.config.shared import shared_part
from fedps.errors import JobError
from fedps.launch.one_role import find_client, load_here
from tests.conftest import MakeJob


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return make_job()


def elsewhere(tmp_path: Path, **runner: object) -> Path:
    """Write the job as it is on another machine."""
    tree = yaml.safe_load((tmp_path / "job.yaml").read_text())
    tree["runner"] |= {"train_data_dir": "there/train", "test_data_dir": "there/test", **runner}
    path = tmp_path / "moved" / "job.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(tree))
    return path


def keep(job: Job, folder: Path, *clients: str) -> None:
    """Copy the data of some clients."""
    for part, source in (("train", job.runner.train_data_dir), ("test", job.runner.test_data_dir)):
        (folder / part).mkdir(parents=True)
        for client in clients:
            shutil.copy(Path(str(source)) / f"{client}.csv", folder / part)


def test_with_all_data_it_is_the_job_as_always(job: Job, tmp_path: Path) -> None:
    here = load_here(tmp_path / "job.yaml")
    assert here.job == load_job(tmp_path / "job.yaml")
    assert here.counted
    assert find_client(here, None, 3) == ("3", 3)
    assert find_client(here, "3", None) == ("3", 3)
    assert find_client(here, "3", 7) == ("3", 7)


def test_without_data_the_count_has_to_be_said(job: Job, tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    with pytest.raises(JobError, match=r"runner\.worker_num: is missing, and no data here shows it .* --worker_num=10"):
        load_here(path)
    here = load_here(path, ["runner.worker_num=10"])
    assert (here.job.runner.worker_num, here.counted) == (10, False)
    assert here.job.runner.train_data_dir == path.parent / "there" / "train", "where it would be"
    differs = {"folder": path.parent, "runner": job.runner}
    assert here.job.model_copy(update=differs) == job.model_copy(update=differs)


def test_a_client_with_its_own_data_alone(job: Job, tmp_path: Path) -> None:
    path = elsewhere(tmp_path, worker_num=10)
    keep(job, path.parent / "there", "4")
    here = load_here(path)
    assert here.job.runner.worker_num == 10
    assert find_client(here, "4", None) == ("4", 0)
    assert find_client(here, "4", 4) == ("4", 4)
    with pytest.raises(JobError, match="--worker_id 4: not all clients' data is here, so name the client"):
        find_client(here, None, 4)
    with pytest.raises(JobError, match=r"--client 5: this client's data is not here; .*train holds 4$"):
        find_client(here, "5", None)


def test_one_file_does_not_mean_one_client(job: Job, tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    keep(job, path.parent / "there", "4")
    with pytest.raises(JobError, match=r"runner\.worker_num: is missing: .* holds 4 alone; say how many"):
        find_client(load_here(path), "4", None)


def test_other_mistakes_are_told_wherever_the_data_is(job: Job, tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    for more in ([], ["runner.worker_num=10"]):
        with pytest.raises(JobError) as error:
            load_here(path, ["runner.epochs=0", "runner.sed=1", *more])
        assert sum("runner.epochs: 0" in m or "runner.sed: 1" in m for m in error.value.mistakes) == 2
    with pytest.raises(JobError, match=r"runner\.worker_num: -3"):
        load_here(path, ["runner.worker_num=-3"])


def test_nobody_and_numbers_out_of_range_are_refused(job: Job, tmp_path: Path) -> None:
    here = load_here(tmp_path / "job.yaml")
    with pytest.raises(JobError, match="whose worker is this"):
        find_client(here, None, None)
    with pytest.raises(JobError, match="--worker_id 10: workers are numbered from 0 to 9"):
        find_client(here, None, 10)


def test_features_are_those_of_the_job_wherever_the_data_is(job: Job, tmp_path: Path) -> None:
    """A server, which has no data, and a client with its own alone measure and count what all others do."""
    tree = yaml.safe_load((tmp_path / "job.yaml").read_text())
    rows = {"user": {"kind": "id", "rows": 130}, "item": {"kind": "id", "rows": 220}}
    tree |= {"features": rows | {"label": {"kind": "label"}}}
    del tree["hyper_parameters"]["num_users"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    whole = load_here(tmp_path / "job.yaml").job
    server = load_here(elsewhere(tmp_path, worker_num=10)).job
    assert shared_part(server) == shared_part(whole)
    assert server.hyper_parameters.num_users == 130


def test_a_client_with_its_own_data_alone_has_the_features_that_it_states(job: Job, tmp_path: Path) -> None:
    path = elsewhere(tmp_path, worker_num=10)
    keep(job, path.parent / "there", "4")
    stated = {"user": {"kind": "id", "rows": 120}, "item": {"kind": "id", "rows": 220}, "label": {"kind": "label"}}
    (path.parent / "there" / "manifest.json").write_text(json.dumps({"features": stated}))
    assert list(load_here(path).job.features) == ["user", "item", "label"]
