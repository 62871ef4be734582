"""Parties die and are started again, their folders are lost, and connections break: the numbers are those of an unbroken run."""

import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fedps.config.vertical import VerticalJob
from fedps.events.events import Joined
from fedps.vertical.active import Outcome
from fedps.vertical.checkpoint import Checkpoints, load_model
from fedps.vertical.half import Half, Top
from fedps.vertical.matching import Matching
from tests.chaos.wires import Wire
from tests.ports import free_address
from tests.vertical.meetings import WAIT, Active, Death, Process, job_of, start_passive, train


class Unbroken(NamedTuple):
    """A job, and what it comes to if nothing happens."""

    job: VerticalJob
    run: Path
    outcome: Outcome


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    job = job_of(folder, passive=2, in_flight=3, checkpoint_every=2, lift=["passive"])
    return Unbroken(job, folder / "run", train(job, folder / "run"))


def numbers(outcome: Outcome | None) -> dict[str, object]:
    """Return what does not depend on time."""
    assert outcome is not None
    return {stage: (found.epochs, found.best) for stage, found in outcome.stages.items()}


def assert_same(unbroken: Unbroken, run: Path, outcome: Outcome | None) -> None:
    """Make sure that a run has the numbers of one that was not broken, and the same parts of the model at all parties."""
    assert numbers(outcome) == numbers(unbroken.outcome)
    for party in unbroken.job.order:
        ours, theirs = (load_model(folder / "parties" / party, "federated") for folder in (run, unbroken.run))
        assert ours.epoch == theirs.epoch and ours.state.keys() == theirs.state.keys()
        for name, value in ours.state.items():
            np.testing.assert_array_equal(value, theirs.state[name], name)


@pytest.mark.parametrize(
    "deaths",
    [
        {"bank": Death(Half, "backward", 7), "shop": Death(Checkpoints, "save", 4)},
        {"shop": Death(Matching, "matched", 1)},
        *(
            pytest.param(deaths, marks=pytest.mark.slow)
            for deaths in (
                {"bank": Death(Half, "forward", 9)},
                {"shop": Death(Top, "step", 12)},
                {"mail": Death(Checkpoints, "save", 3), "bank": Death(Half, "score", 2)},
                {"bank": Death(Matching, "doubled", 1)},
            )
        ),
    ],
    ids=lambda deaths: ",".join(f"{party} in {death.method}" for party, death in deaths.items()),
)
def test_whoever_dies_and_is_started_again(unbroken: Unbroken, tmp_path: Path, deaths: dict[str, Death]) -> None:
    job, run, address = unbroken.job, tmp_path / "run", free_address()
    parties = {party: Process(job, party, run, address, deaths.get(party)) for party in job.order}
    while mortal := {party: process for party, process in parties.items() if process.death}:
        dead = [party for party, process in mortal.items() if process.is_dead()]
        parties |= {party: Process(job, party, run, address) for party in dead}
    outcome, *_ = [parties[party].result() for party in job.order]
    assert_same(unbroken, run, outcome)


def test_a_party_whose_folder_is_lost_takes_all_back_to_the_start(unbroken: Unbroken, tmp_path: Path) -> None:
    job, run, address = unbroken.job, tmp_path / "run", free_address()
    bank = Process(job, "bank", run, address, Death(Half, "forward", 9))
    others = [Process(job, party, run, address) for party in ("shop", "mail")]
    while not bank.is_dead():
        pass
    shutil.rmtree(run / "parties" / "bank")
    bank = Process(job, "bank", run, address)
    assert others[1].result() is bank.result() is None
    assert_same(unbroken, run, others[0].result())


def test_who_trains_alone_at_the_end_may_die_too(tmp_path: Path) -> None:
    job, run, address = job_of(tmp_path, epochs=2, lift=["active"], start_timeout=5), tmp_path / "run", free_address()
    shop, bank = (
        Process(job, party, run, address, Death(Checkpoints, "save", 4) if party == "shop" else None)
        for party in job.order
    )
    while not shop.is_dead():
        pass
    newest = next((run / "parties" / "shop" / "checkpoint").glob("active-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:100])
    outcome = Process(job, "shop", run, address).result()
    assert bank.result() is None and outcome is not None
    alone = outcome.stages["active"]
    assert list(outcome.stages) == ["federated", "active"] and len(alone.epochs) == 2 and not alone.bytes


def test_files_with_other_samples_are_trained_on_anew(tmp_path: Path) -> None:
    job, run = job_of(tmp_path, lift=["active"]), tmp_path / "run"
    train(job, run)
    for party in job.order:
        lines = (tmp_path / f"{party}.csv").read_text().splitlines()
        (tmp_path / f"{party}.csv").write_text("\n".join(lines[:300]) + "\n")
    before = numbers(train(job, run))
    assert before == numbers(train(job, tmp_path / "other"))
    file = tmp_path / "bank.csv"  # the same ids, and something else of them
    file.write_text("\n".join(line.replace(",-", ",") for line in file.read_text().splitlines()) + "\n")
    assert numbers(train(job, run))["federated"] != before["federated"]


@pytest.mark.slow
def test_a_checkpoint_that_is_torn_is_left_out_and_all_begin_before_it(unbroken: Unbroken, tmp_path: Path) -> None:
    job, run, address = unbroken.job, tmp_path / "run", free_address()
    parties = {party: Process(job, party, run, address) for party in ("shop", "mail")}
    bank = Process(job, "bank", run, address, Death(Half, "backward", 9))
    while not bank.is_dead():
        pass
    newest = max((run / "parties" / "bank" / "checkpoint").glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    bank = Process(job, "bank", run, address)
    assert parties["mail"].result() is bank.result() is None
    assert_same(unbroken, run, parties["shop"].result())


def test_connections_that_break_change_nothing(unbroken: Unbroken, tmp_path: Path) -> None:
    job, active, run = unbroken.job, Active(unbroken.job, tmp_path / "run"), tmp_path / "run"
    with closing(Wire(active.address)) as wire:
        passive = [start_passive(job, party, run, wire.address) for party in job.vertical.passive]
        for cut in range(5):
            before = wire.bytes
            while wire.bytes < before + 6000 and not active.future.done():
                time.sleep(0.001)
            while not wire.cut(cut) and not active.future.done():
                time.sleep(0.001)  # all dial anew just now
            assert not active.future.done()
        outcome = active.future.result(WAIT)
        for party in passive:
            party.result(WAIT)
    assert_same(unbroken, run, outcome)
    assert len([event for event in active.told if isinstance(event, Joined)]) == 2


def test_a_run_that_came_to_its_end_is_not_trained_again(
    unbroken: Unbroken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unbroken.run, tmp_path / "run")
    monkeypatch.setattr(Half, "forward", None)
    assert_same(unbroken, tmp_path / "run", train(unbroken.job, tmp_path / "run"))
