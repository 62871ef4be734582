"""A coordinator killed at every step, and clients killed at any moment: each round is trained and counted once."""

import random
from pathlib import Path

import pytest

from fedps.config import Job
from tests.conftest import MakeJob
from tests.coordinator.callers import with_keys
from tests.coordinator.dying import Killed, World

ROUNDS = 3


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    made = make_job(epochs=ROUNDS, with_coordinator=True, client_selector="round_robin", clients_per_round=2)
    return with_keys(made, worker_num=3)


@pytest.fixture
def calm(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A history in which nobody dies."""
    return World(job, tmp_path / "calm", monkeypatch).play()


def same(world: World, calm: World) -> None:
    """Make sure that nothing of a history was lost, and nothing happened twice."""
    assert [w.trained for w in world.workers] == [w.trained for w in calm.workers]
    assert world.turns() == calm.turns() and set(calm.turns().values()) == {5}
    assert world.losses() == calm.losses() and sorted(calm.losses()) == list(range(1, ROUNDS + 1))


def test_a_coordinator_may_die_at_each_step(
    job: Job, calm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calm.steps.taken >= 100 and calm.deaths == 1  # it ends so
    for step in range(1, calm.steps.taken + 1):
        world = World(job, tmp_path / str(step), monkeypatch, [step], step).play()
        assert world.deaths == 2, f"step {step}"
        same(world, calm)


def test_a_coordinator_may_die_again_and_again(
    job: Job, calm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        fatal = [rng.randrange(1, 2 * calm.steps.taken) for _ in range(8)]
        world = World(job, tmp_path / str(seed), monkeypatch, fatal, seed).play()
        same(world, calm)


@pytest.mark.parametrize("both", [False, True])
def test_clients_may_die_at_any_moment_and_so_may_all(
    job: Job, calm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    deaths = 0
    for seed in range(40):
        rng = random.Random(seed)

        def sometimes(world: World, rng: random.Random = rng) -> None:
            worker = rng.choice(world.workers)
            if rng.random() < 0.15 and not worker.finished:
                worker.die(keeps=True)
            if both and rng.random() < 0.05:
                raise Killed

        world = World(job, tmp_path / str(seed), monkeypatch, seed=seed).play(sometimes)
        deaths += sum(w.process for w in world.workers)
        same(world, calm)
    assert deaths > 100


def test_a_run_may_be_taken_back_to_what_all_have_done(
    job: Job, calm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(40):
        rng = random.Random(seed)

        def sometimes(world: World, rng: random.Random = rng) -> None:
            if rng.random() < 0.03:
                world.kill()
                world.resume_at = min(worker.done for worker in world.workers)
                for worker in world.workers:
                    worker.go_back(world.resume_at)

        world = World(job, tmp_path / str(seed), monkeypatch, seed=seed).play(sometimes)
        same(world, calm)


def test_clients_that_die_and_know_nothing_train_no_round_that_they_reported(
    job: Job, calm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(40):
        rng = random.Random(seed)

        def sometimes(world: World, rng: random.Random = rng) -> None:
            worker = rng.choice(world.workers)
            if rng.random() < 0.15 and not worker.finished:
                worker.die(keeps=False)

        world = World(job, tmp_path / str(seed), monkeypatch, seed=seed).play(sometimes)
        assert world.turns() == calm.turns()
