"""How far a step moves shared and private values, by mode and by how many train at once."""

from typing import Any

import pytest

from fedps.training.rules import clients_at_once, job_rule, rate_of
from tests.conftest import MakeJob


def rates(job: Any, name: str = "adam") -> tuple[float, float]:
    """Return those of shared and of private values, as multiples of the job's."""
    rate = job.hyper_parameters.optimizer.learning_rate
    return rate_of(job, name, private=False) / rate, rate_of(job, name, private=True) / rate


@pytest.mark.parametrize(
    ("runner", "shared"),
    [
        ({"sync_mode": "sync"}, 10**0.5),
        ({"sync_mode": "round"}, 10**0.5),
        ({"sync_mode": "geo", "geo_merge": "adaptive"}, 10**0.5),
        ({"sync_mode": "geo", "geo_merge": "mean"}, 10**0.5),
        ({"sync_mode": "geo", "geo_merge": "heat"}, 10**0.5),
        ({"sync_mode": "geo", "geo_merge": "sum"}, 1.0),
        ({"sync_mode": "geo", "geo_merge": "original"}, 1.0),
        ({"sync_mode": "async"}, 1.0),
    ],
)
def test_adam_makes_up_for_averaging(runner: dict[str, Any], shared: float, make_job: MakeJob) -> None:
    job = make_job(**runner)
    assert rates(job) == pytest.approx((shared, 10**0.5))
    assert rates(job, "lazy_adam") == pytest.approx((shared, 1.0)), "its private rows count their own steps"
    assert rates(job, "sgd") == rates(job, "adagrad") == (1.0, 1.0)


def test_what_is_given_counts(make_job: MakeJob) -> None:
    job = make_job({"optimizer": {"shared_learning_rate": 0.25, "private_learning_rate": 0.5}})
    assert job_rule(job, private=False).learning_rate == 0.25
    assert job_rule(job, private=True).learning_rate == 0.5


@pytest.mark.parametrize(
    ("runner", "count"),
    [
        ({}, 10),
        ({"with_coordinator": True}, 10),
        ({"with_coordinator": True, "client_selector": "random"}, 5),
        ({"with_coordinator": True, "client_selector": "oort", "clients_per_round": 3}, 3),
        ({"client_selector": "random", "clients_per_round": 3}, 10),
        ({"geo_merge": "buffered", "buffer": 5}, 10),
    ],
)
def test_as_many_are_merged_as_train_at_once(runner: dict[str, Any], count: int, make_job: MakeJob) -> None:
    job = make_job(**runner)
    assert clients_at_once(job) == count
    assert rates(job) == pytest.approx((count**0.5, 10**0.5))


def test_a_hundred_clients_move_shared_values_no_further_than_ten(make_job: MakeJob) -> None:
    job = make_job()
    runner = job.runner.model_copy(update={"worker_num": 100})
    assert rates(job.model_copy(update={"runner": runner})) == pytest.approx((10**0.5, 10.0))
