"""Distillation on the client's side: what it trains on, what it says, and whole jobs that share nothing else."""

import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.client.distill import ORDER, Distiller
from fedps.config import Job
from fedps.coordinator.selectors import ClientSelectorBase
from fedps.data.public import Public
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.errors import DataError, FedpsError, JobError
from fedps.launch.inprocess import run_in_process
from fedps.training.learner import Learner
from fedps.training.parameters import read_parameters
from fedps.training.plan import make_plan
from fedps.types import ClientId, Samples, Values
from fedps.wire.messages import Assignment
from tests.conftest import MakeJob
from tests.distilling import USERS, distilling, public_file
from tests.events.kept import into

ME = ClientId("3")
TOLD = Assignment(1, "JOIN")


def made(job: Job) -> tuple[Learner, Distiller]:
    public = Public(job)
    data = read_client(job, ME, public=public.samples)
    learner = Learner(make_plan(job), job, data, local_optimizer=True)
    return learner, Distiller(job, ME, learner, public)


def rows(learner: Learner) -> dict[str, Values]:
    return {name: table.block.copy() for name, table in learner.tables.items()} | {"": learner.private_dense.raw.copy()}


def plain(job: Job, soft: Values, before: int) -> Learner:
    """Return a learner that has trained as a distiller should have, on one client's data and what is public joined."""
    public, pairs, own = Public(job).samples, Public(job).of_round(1), read_client(job, ME)
    parts = (own.train, public, Samples.pairs(pairs.user[: len(soft)], pairs.item[: len(soft)], soft))
    both = Samples.joined(parts)
    learner = Learner(make_plan(job), job, ClientData(both, None, ME, 0, shuffle=False), local_optimizer=True)
    learner.train(np.arange(before, dtype=np.int32), 32)
    for pass_ in range(1, 1 + job.distillation.passes):
        stream = np.random.default_rng((job.runner.seed, zlib.crc32(ME.encode()), pass_, ORDER))
        learner.train(len(own) + stream.permutation(len(public.label) + len(soft)).astype(np.int32), 32)
    learner.train(np.arange(before, dtype=np.int32), 32)
    return learner


@pytest.mark.parametrize("compiled", [True, False])
def test_a_digest_is_training_on_labels_and_soft_targets_like_on_any(
    make_job: MakeJob, tmp_path: Path, compiled: bool
) -> None:
    job = distilling(make_job, tmp_path, {"passes": 2, "samples": 40}, compiled_step=compiled)
    learner, distiller = made(job)
    soft = np.random.default_rng(0).random(40, np.float32)
    distiller.take(1, soft)
    learner.train(np.arange(100, dtype=np.int32), 32)
    distiller.digest(TOLD)
    learner.train(np.arange(100, dtype=np.int32), 32)
    expected = plain(job, soft, before=100)
    theirs = rows(expected)
    for name, ours in rows(learner).items():
        own = np.searchsorted(learner.tables[name].keys, expected.tables[name].keys) if name else slice(None)
        np.testing.assert_allclose(ours[own], theirs[name], rtol=2e-4, atol=1e-6)


def test_before_there_is_a_teacher_labels_are_all_there_is(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path, {"passes": 1})
    learner, distiller = made(job)
    learner.train(np.arange(32, dtype=np.int32), 32)
    distiller.digest(TOLD)
    learner.train(np.arange(32, dtype=np.int32), 32)
    theirs = rows(plain(job, np.empty(0, np.float32), before=32))
    np.testing.assert_allclose(rows(learner)[""], theirs[""], rtol=2e-4, atol=1e-6)


def test_scores_are_the_models_own_of_the_rounds_pairs(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path, {"samples": 30})
    learner, distiller = made(job)
    distiller.digest(TOLD)
    other, _ = made(job.model_copy(update={"runner": job.runner.model_copy(update={"compiled_step": False})}))
    pairs = Public(job).of_round(7)
    slots = {
        column: np.searchsorted(other.data.keys[column], getattr(pairs, column)).astype(np.int32)
        for column in ("user", "item")
    }
    for name, table in learner.tables.items():
        table.settle()
        other.tables[name].raw[:] = table.raw
    other.private_dense.values[:] = learner.private_dense.values
    found = distiller.score(7)
    assert found.shape == (30,) and np.ptp(found) > 0
    np.testing.assert_allclose(found, other.engine.score(pairs, slots), rtol=1e-3, atol=1e-5)


def test_targets_of_another_file_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    _, distiller = made(distilling(make_job, tmp_path))
    with pytest.raises(FedpsError, match=r"99 soft targets came, for 100 public pairs of round 1: .*same file"):
        distiller.take(1, np.zeros(99, np.float32))


def test_fresh_negatives_leave_room_for_public_ids(make_job: MakeJob, tmp_path: Path) -> None:
    learner, distiller = made(distilling(make_job, tmp_path, negatives=2))
    learner.data.hold(2)
    distiller.digest(TOLD)
    learner.train(learner.data.order(1), 32)
    assert np.isfinite(distiller.score(1)).all() and set(range(USERS)) <= set(learner.data.keys["user"].tolist())


def ran(job: Job, folder: Path, selector: ClientSelectorBase | None = None) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    run_in_process(job, folder, into(events), selector=selector)
    return events


def losses(events: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    return {(e["id"], e["epoch"]): e["loss"] for e in events if e["event"] == "epoch_end"}


def test_a_job_teaches_itself_and_repeats_to_the_bit(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path, {"samples": 40, "teacher": "mean"}, epochs=3)
    one, same = ran(job, tmp_path / "one"), ran(job, tmp_path / "same")
    taught = [e for e in one if e["event"] == "taught"]
    assert [e["round"] for e in taught] == [1, 2, 3]
    assert all(e["weights"] == dict.fromkeys(map(str, range(10)), 0.1) for e in taught)
    assert losses(one) == losses(same)
    other = distilling(make_job, tmp_path, {"samples": 41, "teacher": "mean"}, epochs=3)
    taught_otherwise = losses(ran(other, tmp_path / "other"))
    assert all(
        (taught_otherwise[key] == loss) == (key[1] == 0) for key, loss in losses(one).items()
    )  # taught from 2 on


class Alternate(ClientSelectorBase):
    """Trains clients by turns."""

    def select(self) -> Mapping[ClientId, Any]:
        return {c: "JOIN" if (self.round + k) % 2 else "WAIT" for k, c in enumerate(sorted(self.clients_info))}


def test_only_who_trained_is_heard(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path, epochs=3)
    events = ran(job, tmp_path / "run", Alternate(job))
    joined = {e["round"]: e["selected"] for e in events if e["event"] == "selected"}
    heard = {e["round"]: sorted(e["weights"]) for e in events if e["event"] == "taught"}
    assert heard == {round_: sorted(who) for round_, who in joined.items()} and len(heard) == 3


def test_whatever_would_be_shared_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path, local_sparse=["mlp_user.weight"], local_dense=["linear_0.w_0"])
    with pytest.raises(JobError) as caught:
        read_parameters(make_plan(job).network, job)
    sparse, dense = caught.value.mistakes
    assert (
        sparse.startswith("runner.local_sparse: mlp_item.weight: would be shared")
        and "list it in local_sparse" in sparse
    )
    assert dense.startswith("runner.local_dense: ") and "list them in local_dense" in dense


def test_a_bad_public_file_ends_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path)
    path = public_file(tmp_path)
    path.write_text(path.read_text() + "120,3,1\n")
    with pytest.raises(DataError, match=r"distillation.public_data: .*line 51"):
        ran(job, tmp_path / "run")
    assert not [t.name for t in threading.enumerate() if t.name.startswith("fedps deadlines")]
