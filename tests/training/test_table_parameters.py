"""What a table has of its own: its optimizer where the table is optimized, and where its rows start."""

from typing import Any

import numpy as np
import pytest

from fedps.config import Job, TableOptimizer, TableParameters
from fedps.data.read.client import read_client
from fedps.errors import JobError
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.training.learner import Learner
from fedps.training.parameters import read_parameters
from fedps.training.plan import make_plan
from fedps.training.rules import table_rule
from fedps.types import Bounds, ClientId, Rule
from tests.conftest import MakeJob


def job_with_tables(make_job: MakeJob, mode: str, tables: dict[str, Any], **runner: Any) -> Job:
    job = make_job(sync_mode=mode, remote_sparse=["mlp_item.weight"], **runner)
    return job.model_copy(
        update={"table_parameters": {k: TableParameters.model_validate(v) for k, v in tables.items()}}
    )


def learner_of(job: Job) -> Learner:
    local = job.runner.sync_mode in ("geo", "round")
    return Learner(make_plan(job), job, read_client(job, ClientId("0")), local_optimizer=local)


TABLES = {
    "embedding_1.w_0": {"optimizer": {"class": "row_adagrad", "learning_rate": 0.5, "initial_g2": 2.0}},
    "mlp_user.weight": {"optimizer": {"class": "sgd"}, "initial_range": 0.25},
}


@pytest.mark.parametrize("mode", ["sync", "async", "geo", "round"])
def test_a_tables_own_rule_is_where_the_table_is_optimized(mode: str, make_job: MakeJob) -> None:
    learner = learner_of(job_with_tables(make_job, mode, TABLES))
    specs = {s.name: s for s in learner.server_specs(0)}
    rule = Rule("row_adagrad", 0.5, initial_g2=2.0)
    on_server, on_client = (Rule("add"), rule) if mode in ("geo", "round") else (rule, Rule("add"))
    assert specs["mlp_item.weight"].rule == on_server
    assert learner.tables["mlp_item.weight"].spec.rule == on_client
    assert learner.tables["mlp_user.weight"].spec.rule == Rule("sgd"), "private rows are optimized by their client"
    rate = 0.001 * 10**0.5 if mode == "sync" else 0.001  # the mean of ten clients' gradients
    assert specs["predict.bias"].rule == (Rule("add") if mode in ("geo", "round") else Rule("adam", rate))


def test_a_tables_own_range_is_where_its_rows_start(make_job: MakeJob) -> None:
    plain, wide = (learner_of(job_with_tables(make_job, "geo", tables)) for tables in ({}, TABLES))
    users = wide.tables["mlp_user.weight"].values
    assert 0.2 < users.max() < 0.25
    assert users.std() == pytest.approx(0.5 / 12**0.5, rel=0.25), "uniform"
    np.testing.assert_array_equal(wide.tables["mlp_item.weight"].values, plain.tables["mlp_item.weight"].values)


@pytest.mark.parametrize(
    ("own", "rate"),
    [
        ({}, 0.001 * 10**0.5),
        ({"class": "sgd"}, 0.001),
        ({"learning_rate": 0.5}, 0.5),
        ({"beta1": 0.5}, 0.001 * 10**0.5),
    ],
)
@pytest.mark.parametrize("private", [True, False])
def test_a_tables_own_step_size(own: dict[str, Any], rate: float, private: bool, make_job: MakeJob) -> None:
    rule = table_rule(make_job(), TableOptimizer.model_validate(own), private)
    assert rule.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "mlp_itm.weight",
            r"'mlp_itm.weight' matches no such parameter; the model has mlp_user.weight, mlp_item.weight",
        ),
        ("embedding", "'embedding' matches"),
        ("predict.weight", "'predict.weight' matches.*trained as a dense tensor$"),
    ],
)
def test_parameters_of_a_table_that_is_none(name: str, said: str, make_job: MakeJob) -> None:
    job = job_with_tables(make_job, "geo", {name: {}})
    with pytest.raises(JobError, match=f"^table_parameters: {said}"):
        read_parameters(describe(build(job)), job)
    with pytest.raises(JobError, match=r"table_parameters: 'mlp_item.weight' names mlp_item.weight a second time"):
        read_parameters(
            describe(build(job)), job_with_tables(make_job, "geo", {"embedding_1.w_0": {}, "mlp_item.weight": {}})
        )


def test_a_tables_bounds_are_kept_by_the_servers(make_job: MakeJob) -> None:
    bounds = {"admit_after": 3, "expire_after": 2, "max_rows": 50}
    for mode in ("sync", "geo"):
        specs = {
            s.name: s for s in learner_of(job_with_tables(make_job, mode, {"mlp_item.weight": bounds})).server_specs(0)
        }
        assert specs["mlp_item.weight"].bounds == Bounds(3, 2, 50)
        assert specs["predict.bias"].bounds == Bounds()


def test_private_rows_have_no_bounds(make_job: MakeJob) -> None:
    job = job_with_tables(make_job, "geo", {"embedding_0.w_0": {"max_rows": 50}})
    with pytest.raises(
        JobError,
        match=r"^table_parameters.embedding_0.w_0: admit_after, expire_after, max_rows bound rows that servers train, and"
        " mlp_user.weight is private or frozen; leave them out",
    ):
        read_parameters(describe(build(job)), job)


@pytest.mark.parametrize(
    ("key", "value"), [("admit_after", 0), ("admit_after", 256), ("expire_after", 251), ("max_rows", -1)]
)
def test_bounds_out_of_range_are_mistakes(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=key):
        TableParameters.model_validate({key: value})
