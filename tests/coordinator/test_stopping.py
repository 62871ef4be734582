"""A job that ends before its last round: at its target, or when it has not become better for some rounds."""

from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.coordinator.planner import Stopping
from fedps.errors import JobError
from fedps.launch.inprocess import run_in_process
from fedps.types import ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, started
from tests.events.kept import into
from tests.events.kinds import sums


def stopping(make_job: MakeJob, **runner: Any) -> Stopping:
    return Stopping(make_job(with_coordinator=True, **runner).runner)


def saw(watch: Stopping, metric: str, *values: float | None) -> list[bool]:
    """Show it a value a round; return after which rounds it wants to end."""
    ends = []
    for round_, value in enumerate(values, 1):
        watch.look(round_, {metric: value})
        ends.append(watch.reason is not None)
    return ends


def test_the_target_ends_the_job(make_job: MakeJob) -> None:
    watch = stopping(make_job, target={"value": 0.6})
    assert saw(watch, "hr@10", 0.5, None, 0.59, 0.6) == [False, False, False, True]
    assert watch.reason == "hr@10 0.6 has reached the target 0.6 in round 4"


def test_a_loss_is_better_when_lower(make_job: MakeJob) -> None:
    watch = stopping(make_job, target={"metric": "loss", "value": 0.3}, patience=2)
    assert saw(watch, "loss", 0.5, 0.4, 0.45, 0.3) == [False, False, False, True]
    assert saw(stopping(make_job, target={"metric": "loss"}, patience=2), "loss", 0.5, 0.6, 0.5) == [False, False, True]


def test_patience_counts_evaluated_rounds_without_a_better_figure(make_job: MakeJob) -> None:
    watch = stopping(make_job, patience=2)
    assert saw(watch, "hr@10", 0.5, 0.4, None, 0.51, 0.51, 0.5) == [False] * 5 + [True]
    assert watch.reason == "hr@10 has not become better than 0.51 for 2 rounds"


def test_without_either_it_never_ends(make_job: MakeJob) -> None:
    assert saw(stopping(make_job), "hr@10", 1.0, 0.0, 0.0, 0.0) == [False] * 4


def test_all_are_told_to_finish_when_the_merged_figure_is_reached(make_job: MakeJob) -> None:
    events: Events = []
    job: Job = make_job(epochs=9, with_coordinator=True, target={"value": 0.5})
    job = job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": 2})})
    coordinator = started(job, events)
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    for round_, hits in enumerate([(0, 0), (4, 4), (6, 4)]):  # of 10 each: 0.4, then 0.5
        a.report(round_, ClientInfo(sums=sums(10, hits[0], 0.0)))
        b.report(round_, ClientInfo(sums=sums(10, hits[1], 0.0)))
    assert [t.state for t in a.told] == [t.state for t in b.told] == ["JOIN", "JOIN", "FINISH"]
    (end,) = [e for e in events if e["event"] == "ends_early"]
    assert end["round"] == 2 and end["reason"].startswith("hr@10 0.5 has reached")
    a.connection.closed()
    b.connection.closed()
    assert coordinator.over


def test_a_whole_run_ends_early_and_is_saved(make_job: MakeJob, tmp_path: Path) -> None:
    events: Events = []
    job = make_job(epochs=50, with_coordinator=True, target={"metric": "train_auc", "value": 0.01})
    run_in_process(job, tmp_path / "run", into(events))
    assert sum(e["event"] == "selected" for e in events) == 1 and sum(e["event"] == "done" for e in events) == 10
    assert [e["round"] for e in events if e["event"] == "ends_early"] == [1]
    assert (tmp_path / "run" / "model" / "1").is_dir()


@pytest.mark.parametrize(("keep", "there"), [(None, ["2", "4", "5"]), (2, ["4", "5"])])
def test_a_run_that_ends_early_keeps_as_many_saves_as_the_job_says(
    keep: int | None, there: list[str], make_job: MakeJob, tmp_path: Path
) -> None:
    """Nothing is learned, so the second round is no better than the first, and after the fifth patience ends."""
    job = make_job(
        {"optimizer": {"class": "sgd", "learning_rate": 1e-30}},
        epochs=50, save_every=2, patience=4, with_coordinator=True, keep_epochs=keep,
    )  # fmt: skip
    events: Events = []
    run_in_process(job, tmp_path / "run", into(events))
    assert [e["round"] for e in events if e["event"] == "ends_early"] == [5]
    homes = [*(tmp_path / "run" / "private").iterdir(), tmp_path / "run" / "model"]
    assert len(homes) == 11
    saves = {h.name: sorted(save.name for save in h.iterdir() if save.name != "checkpoint") for h in homes}
    assert saves == {home.name: there for home in homes}


@pytest.mark.parametrize(
    ("runner", "why"),
    [
        ({"target": {"value": 0.6}}, r"runner.target.value: 0.6: it is the coordinator that ends a job"),
        ({"patience": 3}, r"runner.patience: 3: it is the coordinator that ends a job"),
        ({"with_coordinator": True, "patience": 3, "eval_every": 0}, "is measured at the end only"),
        ({"with_coordinator": True, "patience": 3, "test_data_dir": None}, "needs held-out samples"),
        ({"with_coordinator": True, "target": {"metric": "hr@20"}}, "must be one of hr@10, ndcg@10, auc"),
        ({"with_coordinator": True, "target": 0.6}, "runner.target: 0.6: must be a section"),
    ],
)
def test_what_cannot_end_a_job(make_job: MakeJob, runner: dict[str, Any], why: str) -> None:
    with pytest.raises(JobError, match=why):
        make_job(**runner)
