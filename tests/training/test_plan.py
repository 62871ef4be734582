"""A job whose network no server could hold, or no message carry, ends before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.config.job import LimitSettings
from fedps.errors import JobError
from fedps.launch.inprocess import run_in_process
from fedps.models.network import Network, Plan
from fedps.training.plan import described
from tests.conftest import MakeJob
from tests.events.kept import into


def with_messages(job: Job, mib: int) -> Job:
    return job.model_copy(update={"limits": LimitSettings(message_mib=mib)})


def test_a_tensor_that_no_server_takes_is_a_mistake_of_the_job(make_job: MakeJob) -> None:
    plan = Plan(Network((), (("a", (2000, 500)), ("b", (2000, 500))), {}, (), b""))
    job = make_job(local_sparse=[])
    with pytest.raises(JobError, match=r"limits\.message_mib: 1: server 0 is to hold a, b, 8 MiB .* raise it to 2"):
        described(plan, with_messages(job, 1))
    for well in (with_messages(job, 2), with_messages(make_job(local_sparse=[], server_num=2), 1)):
        assert described(plan, well).shared == ["a", "b"]
    private = with_messages(make_job(local_sparse=[], local_dense=["a"]), 1)
    assert described(plan, private).private == ["a"]


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_layers_larger_than_a_message_train_to_the_same_numbers(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    found = []
    for mib in (1, 64):
        events: list[dict[str, Any]] = []
        job = with_messages(
            make_job({"fc_layers": [512, 640, 4]}, sync_mode=mode, train_batch_size=512, compiled_step=False), mib
        )
        run_in_process(job, tmp_path / str(mib), into(events))
        told = [e for e in events if e["event"] == "evaluated"]
        found.append(sorted(str({k: v for k, v in e.items() if k not in ("time", "seconds")}) for e in told))
    assert found[0] == found[1]
    assert len(found[0]) == 10, "each client's metrics"
