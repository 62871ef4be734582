"""A worker's life of one's own class, in the original's form."""

from pathlib import Path

import pytest

from fedps.client.life import FLClient
from fedps.client.own_client import client_class
from fedps.config import Job, load_job
from fedps.errors import JobError
from fedps.launch.inprocess import run_in_process
from fedps.launch.local.role import Role, RoleSpec
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.launch.runs import fedps, write_job

MINE = """
from fedps import FLClient

class MyFLClient(FLClient):
    def __init__(self):
        self.mine = []
        self.register_handlers("infer", self.my_infer)

    def callback_train(self):
        print("MY TRAIN RUNS", file=self.log)
        super().callback_train()

    def my_infer(self):
        print("MY INFER RUNS", file=self.log)
        self.callback_infer()

class Bare(FLClient):
    def __init__(self):
        pass

class Greedy(FLClient):
    def __init__(self, lr):
        self.lr = lr

class Stranger:
    pass
"""


def own(job: Job) -> Job:
    (job.folder / "mine.py").write_text(MINE)
    return job


def test_overrides_are_obeyed_and_a_handler_may_be_a_method_without_argument(make_job: MakeJob, tmp_path: Path) -> None:
    job = own(make_job(fl_client="mine.MyFLClient", epochs=2))
    run_in_process(job, tmp_path / "run", lambda event: None)
    log = (tmp_path / "run" / "log" / "workerlog.0").read_text()
    assert log.count("MY TRAIN RUNS") == 2
    assert log.count("MY INFER RUNS") == 2
    assert "Var Loss" in log, "and what they stand for is done"


def test_a_script_makes_its_client_by_its_own_class_or_hands_it_its_role(make_job: MakeJob, tmp_path: Path) -> None:
    job = own(make_job(fl_client="mine.Bare"))
    spec = RoleSpec("worker", 0, tmp_path / "job.yaml", tmp_path, client="3", servers=("127.0.0.1:1",))
    role, kind = Role(spec, job, lambda event: None), client_class(job)
    for client in (role.client(), role.client(kind), kind()):  # type: ignore[call-arg]
        client.set_basic_config(role, {"lr": 1}, ["auc"])
        client.set_train_dataset_info("data", ["a", "b"])
        client.set_test_dataset_info("held out", ["c"])
        client.set_train_example_num(17)
        assert type(client) is kind
        assert (client.client, client.job, client.number) == ("3", job, 0)
        assert (client.role_maker, client.config, client.metrics) == (role, {"lr": 1}, ["auc"])
        assert (client.train_file_list, client.test_file_list, client.train_example_nums) == (["a", "b"], ["c"], 17)


def test_steps_may_be_set_on_an_object_and_take_the_client_or_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    client, called = FLClient(make_job(), ClientId("0"), [], tmp_path, lambda event: None), list[object]()
    client.callback_train = lambda: called.append("train")  # type: ignore[method-assign]
    client.register_handlers("infer", called.append)
    client.register_handlers("finish", lambda: called.append("finish"))
    client.register_handlers("save_model", client.callback_train)
    for key in ("train", "infer", "finish", "save_model"):
        client._do(key)
    assert called == ["train", client, "finish", "train"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("mine.Stranger", "runner.fl_client: 'mine.Stranger': is no client; derive it from fedps.FLClient"),
        ("mine.Other", "runner.fl_client: 'mine.Other': .*mine.py has no class Other"),
        ("mine.Greedy", "Greedy cannot be made: TypeError: .*its __init__ takes nothing"),
    ],
)
def test_a_class_that_is_no_client_is_refused(path: str, told: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = own(make_job(fl_client=path))
    spec = RoleSpec("worker", 0, tmp_path / "job.yaml", tmp_path, client="3", servers=("127.0.0.1:1",))
    with pytest.raises(JobError, match=told):
        Role(spec, job, lambda event: None).client()


def test_a_wrong_class_is_found_before_anything_starts(tmp_path: Path) -> None:
    job = write_job(tmp_path, fl_client="mine.Stranger")
    own(load_job(job))
    done = fedps("run", job, "--run_dir", tmp_path / "run")
    assert done.returncode == 2
    assert "error: runner.fl_client: 'mine.Stranger': is no client" in done.stderr
    assert not (tmp_path / "run").exists()
