"""The run folder: made whole, never over another run, and taken back without touching what others put there."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedps.config import Job, load_job
from fedps.errors import JobError
from fedps.launch.folder import discard, find_run, make_log_folder, make_run_folder, runs_in, share_run_folder
from tests.conftest import MakeJob

OTHER = {
    "runner.worker_num": 9, "hyper_parameters.fc_layers": [8, 4], "server_optimizer.class": "adam", "selector.deadline": 20.0,
    "distillation.temperature": 2.0, "limits.message_mib": 32, "simulation.traces": "traces.json",
    "table_parameters.mlp_item.weight": {"initial_range": 0.5},
}  # fmt: skip


def test_it_holds_the_resolved_job(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(epochs=3)
    folder = make_run_folder(job, tmp_path / "deep" / "run")
    assert load_job(folder / "job.yaml") == job
    assert sorted(p.name for p in folder.iterdir()) == ["events.jsonl", "job.yaml", "log", "private"]


def test_runs_that_begin_in_one_second_have_a_folder_each(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-120000")
    job = make_job()
    with ThreadPoolExecutor(8) as pool:
        folders = {folder.name for folder in pool.map(lambda _: make_run_folder(job, None), range(8))}
    name = "job-20260101-120000"
    assert folders == {name, *(f"{name}-{k}" for k in range(2, 9))}


def test_of_runs_that_begin_at_once_in_a_named_folder_one_alone_has_it(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()

    def begin(_: int) -> bool:
        try:
            make_run_folder(job, tmp_path / "run")
        except JobError as error:
            assert "already: another run?" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(8))) == 1


def test_without_a_name_it_is_runs_job_and_time(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run_folder(make_job(), None)
    assert folder.parent == tmp_path / "runs"
    assert folder.name.startswith("job-2")


def test_another_run_is_not_overwritten(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    make_run_folder(job, tmp_path / "run")
    with pytest.raises(JobError, match=r"holds job\.yaml, events\.jsonl already: another run\? choose another folder"):
        make_run_folder(job, tmp_path / "run")


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_place_that_cannot_be_written_is_named(place: str, make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JobError, match=f"--run_dir .*{place}: cannot be written"):
        make_run_folder(make_job(), tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("readers", "umask", "remedy"), [("group", 0o077, "umask 027"), ("all", 0o027, "umask 022"), ("all", 0o022, "")]
)
def test_a_umask_that_closes_what_the_job_opens_is_told_before_anything_is_made(
    readers: str, umask: int, remedy: str, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(model_readers=readers)
    before = os.umask(umask)
    try:
        for make in (make_run_folder, share_run_folder) if remedy else ():
            with pytest.raises(JobError, match=rf"runner.model_readers: {readers}: the umask {umask:03o}.*`{remedy}`"):
                make(job, tmp_path / "run")
            assert not (tmp_path / "run").exists()
        if not remedy:
            assert make_run_folder(job, tmp_path / "run").exists()
        assert os.umask(umask) == umask, "it stays"
    finally:
        os.umask(before)


def test_a_folder_that_finds_no_room_is_not_there_and_may_be_asked_for_again(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = make_job(), tmp_path / "run"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("fedps.launch.folder._keep_items", full)
        with pytest.raises(JobError, match="cannot be written: No space left on device; choose another folder"):
            make_run_folder(job, folder)
    assert not folder.exists()
    assert make_run_folder(job, folder) == folder


def test_discarding_leaves_nothing_of_ours_and_all_of_theirs(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    new = make_run_folder(job, tmp_path / "new")
    (new / "state" / "server-0").mkdir(parents=True)  # a server had come up by then
    discard(new)
    assert not new.exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("mine")
    discard(make_run_folder(job, tmp_path / "old"))
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["notes.txt"]


def test_logs_may_lie_anywhere_that_can_be_written(tmp_path: Path) -> None:
    assert make_log_folder(tmp_path / "deep" / "log").is_dir()
    assert make_log_folder(tmp_path / "deep" / "log"), "it may be there"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JobError, match=r"--log_dir .*file/log: cannot be written"):
        make_log_folder(tmp_path / "file" / "log")


def test_roles_share_a_folder(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(epochs=3)
    folder = share_run_folder(job, tmp_path / "run")
    assert share_run_folder(job, tmp_path / "run") == folder
    with pytest.raises(JobError, match=r"holds a run of another job \(runner\.epochs: 4 here, 3 there\)"):
        share_run_folder(make_job(epochs=4), tmp_path / "run")
    assert load_job(folder / "job.yaml") == job, "the first one's job stays"
    assert sorted(p.name for p in folder.iterdir()) == ["job.yaml", "private"]
    monkeypatch.chdir(tmp_path)
    assert share_run_folder(job, None) == tmp_path / "runs" / "job"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JobError, match=r"--run_dir .*file: cannot be written"):
        share_run_folder(job, tmp_path / "file")


@pytest.mark.parametrize("key", OTHER)
def test_a_folder_is_shared_by_roles_of_the_same_job_alone(key: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    share_run_folder(job, tmp_path / "run")
    part, _, name = key.partition(".")
    tree = job.model_dump(mode="json", by_alias=True)
    tree[part] = (tree[part] or {}) | {name: OTHER[key]}
    other = Job.model_validate(tree)
    with pytest.raises(JobError, match=rf"holds a run of another job \({key.replace('.', '[.]')}: .* here, .* there\)"):
        share_run_folder(other, tmp_path / "run")


def test_what_each_machine_has_its_own_way_is_not_compared(make_job: MakeJob, tmp_path: Path) -> None:
    folder = share_run_folder(make_job(), tmp_path / "run")
    assert share_run_folder(make_job(print_interval=7, start_timeout=5.0), tmp_path / "run") == folder


def test_a_folder_whose_job_cannot_be_read_is_not_shared(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "job.yaml").write_text("runner: {epochs: many}")
    with pytest.raises(JobError, match=r"holds a run of another job \(it cannot be read\)"):
        share_run_folder(make_job(), tmp_path / "run")


@pytest.mark.parametrize("name", ["log", "private", "model"])
def test_what_somebody_else_keeps_under_our_names_is_not_touched(name: str, make_job: MakeJob, tmp_path: Path) -> None:
    mine = tmp_path / "run" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(JobError, match=f"holds {name} already"):
        make_run_folder(make_job(), tmp_path / "run")
    assert mine.read_text() == "mine"


def test_other_files_in_the_folder_stay_when_a_run_is_taken_back(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    discard(make_run_folder(make_job(), tmp_path / "run"))
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_folder_whose_name_no_report_could_say_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen"))
    for make in (make_run_folder, share_run_folder):
        with pytest.raises(JobError, match=r"--run_dir .*is no UTF-8, in which reports and logs are written"):
            make(make_job(), folder)
    with pytest.raises(JobError, match=r"--log_dir .*is no UTF-8"):
        make_log_folder(folder)
    assert not folder.exists()


def test_the_latest_run_is_the_one_that_started_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_run("anywhere/else") == Path("anywhere/else")
    with pytest.raises(JobError, match=r"latest: no run is in .*/runs yet; `fedps run JOB\.yaml` from here makes one"):
        find_run("latest")
    for name, time in (("zz-first", 100.0), ("newest", 300.0), ("aa-second", 200.0)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "events.jsonl").write_text(f"{json.dumps({'time': time})}\n")
        os.utime(tmp_path / "runs" / name / "events.jsonl", (1e9 - time, 1e9 - time))
    (tmp_path / "runs" / "notes").mkdir()
    assert find_run("latest") == find_run(Path("latest")) == Path("runs/newest")
    assert [run.name for run in runs_in(Path("runs"))] == ["newest", "aa-second", "zz-first"]
    (tmp_path / "latest").mkdir()
    assert find_run("./latest") == Path("latest"), "a folder of one's own"


@pytest.mark.parametrize("first", ["", "{", "7", '{"time": null}', '{"time": "soon"}'])
def test_a_run_whose_journal_says_no_time_is_as_old_as_its_job(first: str, tmp_path: Path) -> None:
    for name, second in (("old", 100), ("new", 200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_text(first)
        (tmp_path / name / "job.yaml").touch()
        os.utime(tmp_path / name / "job.yaml", (second, second))
    assert [run.name for run in runs_in(tmp_path)] == ["new", "old"]


def test_what_items_are_called_is_kept_with_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "items.csv").write_text("item,key\n0,a\n")
    job = make_job()
    job = job.model_copy(
        update={"runner": job.runner.model_copy(update={"train_data_dir": tmp_path / "data" / "train"})}
    )
    for make in (make_run_folder, share_run_folder):
        folder = make(job, tmp_path / make.__name__)
        assert (folder / "items.csv").read_bytes() == (tmp_path / "data" / "items.csv").read_bytes()
        discard(folder)
        assert not folder.exists()
