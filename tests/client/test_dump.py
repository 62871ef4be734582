"""What a dump holds, in which form, what is left out of it, and what is told when it cannot be written."""

import io
import re
import stat
from pathlib import Path

import numpy as np
import pytest

from fedps.client.dump import Dump, open_dump
from fedps.config import Allow, Job
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.errors import DataError, JobError
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import ClientId
from tests.conftest import MakeJob, batches_of

ALL = Allow(private_dump=True)
ALONE = {"local_sparse": [], "need_dump": True}


class Client:
    """A client that trains by itself, and dumps."""

    def __init__(self, job: Job, folder: Path, allow: Allow = ALL) -> None:
        self.job, self.log = job, io.StringIO()
        self.data: ClientData = read_client(job, ClientId("0"))
        self.learner = Learner(make_plan(job), job, self.data, local_optimizer=True)
        self.dump = open_dump(job, 7, self.learner, folder, allow, self.log)

    def train(self, batches: int, epoch: int = 0) -> list[np.ndarray]:
        """Train and dump some batches; return their scores."""
        assert self.dump is not None
        scores = []
        self.dump.begin(epoch)
        for number, batch in zip(range(1, batches + 1), batches_of(self.data, epoch, 16), strict=False):
            steps = self.learner.train(batch, 16)
            self.dump.batch(number, batch, steps.scores)
            scores.append(steps.scores)
        self.dump.end()
        return scores


def test_samples_stand_in_the_originals_form(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(**ALONE, dump_fields=["item_input", "user_input", "label", "sigmoid_0.tmp_0"], shuffle=False)
    client = Client(job, tmp_path)
    scores = np.concatenate(client.train(3))
    path = tmp_path / "dump" / "epoch_0" / "part-007-00000"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(scores) == 48
    train = client.data.train
    for n, line in enumerate(lines):
        item, user, label = int(train.item[n]), int(train.user[n]), int(train.label[n])
        begin = f"\titem_input:1:{item}\tuser_input:1:{user}\tlabel:1:{label}\tsigmoid_0.tmp_0:1:"
        assert line.startswith(begin)
        assert np.float32(line.removeprefix(begin)) == scores[n]  # to the last bit


def test_parameters_stand_in_the_originals_form_after_every_batch(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(**ALONE, dump_param=["predict.bias", "mlp_item.weight", "linear_0.w_0"])
    client = Client(job, tmp_path)
    before = client.learner.dense.split(client.learner.dense.values.copy())
    client.train(2)
    text = (tmp_path / "dump" / "epoch_0" / "part-007-00000").read_text()
    found = re.findall(r"^\((\d+),(\d+),([\w.]+)\)(\S+)$", text, re.MULTILINE)
    assert [f[:3] for f in found] == [
        ("0", str(n), name) for n in (1, 2) for name in ("predict.bias", "mlp_item.weight", "linear_0.w_0")
    ]
    values = [np.array(f[3].split(","), np.float32) for f in found]
    learner = client.learner
    np.testing.assert_array_equal(values[4], learner.tables["mlp_item.weight"].values.reshape(-1))
    now = learner.dense.split(learner.dense.values)
    np.testing.assert_array_equal(values[3], now["predict.bias"][0])
    first = next(name for name in now if name.startswith("mlp.") and name.endswith("weight"))
    np.testing.assert_array_equal(values[5], now[first][0])
    assert (values[0] != before["predict.bias"][0]).all()


def test_each_epoch_has_its_file_and_an_earlier_runs_is_replaced(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(**ALONE, dump_fields=["label"], dump_fields_path=str(tmp_path / "elsewhere"))
    for _ in range(2):
        client = Client(job, tmp_path / "run")
        client.train(1, epoch=0)
        client.train(2, epoch=1)
    files = sorted(f for f in (tmp_path / "elsewhere").rglob("*") if f.is_file())
    assert [str(f.relative_to(tmp_path / "elsewhere")) for f in files] == [
        "epoch_0/part-007-00000",
        "epoch_1/part-007-00000",
    ]
    assert [len(f.read_text().splitlines()) for f in files] == [16, 32]
    assert not (tmp_path / "run").exists()


PRIVATE = ["user_input", "user", "mlp_user.weight", "embedding_0.w_0", "predict.bias"]


def test_what_is_private_is_left_out_and_named_unless_it_is_allowed(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(
        need_dump=True,
        local_dense=["predict.bias"],
        dump_fields=["user_input", "item_input", "user", "score"],
        dump_param=["mlp_user.weight", "predict.weight", "embedding_0.w_0", "predict.bias"],
    )
    client = Client(job, tmp_path, Allow())
    client.train(1)
    path = tmp_path / "dump" / "epoch_0" / "part-007-00000"
    told = client.log.getvalue()
    assert told.count("\n") == 1
    assert "--allow-private-dump" in told
    assert all(name in told and name not in path.read_text() for name in PRIVATE)
    assert "item_input" in path.read_text()
    allowed = Client(job, tmp_path, ALL)
    allowed.train(1)
    assert allowed.log.getvalue() == ""
    assert all(name in path.read_text() for name in PRIVATE)


def test_nothing_asked_for_and_nothing_left_make_no_dump(make_job: MakeJob, tmp_path: Path) -> None:
    for runner in (
        {"need_dump": False, "dump_fields": ["label"]},
        {"need_dump": True},
        {"need_dump": True, "dump_fields": ["user"]},
    ):
        assert Client(make_job(**runner), tmp_path / "run", Allow()).dump is None
    assert not (tmp_path / "run").exists()


def test_dumping_does_not_change_what_is_trained(make_job: MakeJob, tmp_path: Path) -> None:
    wanted = {"dump_fields": ["user", "score"], "dump_param": ["mlp_user.weight", "mlp_item.weight", "predict.bias"]}
    silent, loud = (Client(make_job(need_dump=True, **w), tmp_path) for w in ({"dump_fields": ["label"]}, wanted))
    for one, other in zip(silent.train(10), loud.train(10), strict=True):
        np.testing.assert_array_equal(one, other)


def test_unknown_names_are_told_all_at_once_with_those_there_are(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(**ALONE, dump_fields=["item_inptu", "label"], dump_param=["linear_9.b_0"])
    with pytest.raises(JobError) as caught:
        Client(job, tmp_path)
    assert [m.split(":")[0] for m in caught.value.mistakes] == ["runner.dump_fields", "runner.dump_param"]
    assert "'item_inptu'" in str(caught.value)
    assert "item_input, label" in str(caught.value)
    assert "mlp_item.weight" in str(caught.value)
    assert "linear_0.b_0" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_told_before_training(make_job: MakeJob, tmp_path: Path) -> None:
    keys = {**ALONE, "dump_fields": ["label"], "dump_fields_path": str(tmp_path / "file" / "below")}
    job = make_job(**keys)
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"runner\.dump_fields_path: .*below': cannot be written: .*file is no folder"):
        make_job(**keys)
    with pytest.raises(DataError, match=r"runner\.dump_fields_path: .*below: cannot be written: Not a directory"):
        Client(job, tmp_path)  # it was no file yet when the job was read


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told(make_job: MakeJob, tmp_path: Path) -> None:
    client = Client(make_job(**ALONE, dump_fields=["label"]), tmp_path)
    folder = tmp_path / "dump" / "epoch_0"
    folder.mkdir()
    (folder / "part-007-00000").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"part-007-00000: cannot be written: No space left"):
        client.train(3)


def test_a_batch_outside_an_epoch_is_nobodys(tmp_path: Path) -> None:
    dump = Dump(tmp_path, 0, {}, {"w": lambda: np.zeros(2, np.float32)})
    dump.end()
    assert list(tmp_path.iterdir()) == []
