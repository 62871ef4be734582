"""Parties train over real sockets what they would train in one place, whatever is under way, and however it is sent."""

import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedps.config.vertical import VerticalJob, load_vertical
from fedps.data.samples import ClientData
from fedps.types import within
from fedps.vertical.active import Outcome
from fedps.vertical.checkpoint import load_model
from fedps.vertical.data import side_data
from fedps.vertical.finding import OwnIds
from fedps.vertical.half import Half
from fedps.vertical.joined import train_joined
from tests.authorities import authority
from tests.chaos.wires import Wire
from tests.vertical.meetings import Active, job_of, start_passive, train


def data_of(job: VerticalJob, run: Path) -> dict[str, ClientData]:
    """Return each party's samples, by what it has found to be common."""
    data = {}
    for party in job.order:
        found = OwnIds(job, party, run / "parties" / party).recall()
        assert found is not None
        data[party] = side_data(job, party, found.rows, found.test_rows)
    return data


def assert_joined(job: VerticalJob, run: Path, outcome: Outcome, ahead: int = 1) -> None:
    """Make sure that parties have trained the same as in one place, to the bit."""
    data = data_of(job, run)
    joined, federated = train_joined(job, data, ahead=ahead), outcome.stages["federated"]
    assert federated.epochs == joined.epochs and federated.best == joined.best
    for party in job.order:
        half, model = Half(job, party, data[party]), load_model(run / "parties" / party, "federated")
        half.restore(joined.states[party])
        own = within(model.state, "half")
        assert model.epoch == joined.best and own.keys() == half.model().keys()
        for name, value in half.model().items():
            np.testing.assert_array_equal(own[name], value, f"{party}: {name}")


@pytest.mark.parametrize("passive", [1, 2])
@pytest.mark.parametrize("in_flight", [1, 3])
def test_federated_is_joined_training_to_the_bit(tmp_path: Path, passive: int, in_flight: int) -> None:
    job, run = job_of(tmp_path, passive, in_flight=in_flight), tmp_path / "run"
    outcome = train(job, run)
    assert outcome.samples + outcome.held_out == 400 - 20 * passive
    assert_joined(job, run, outcome, in_flight)


def test_what_passive_features_tell_alone_and_the_active_partys(tmp_path: Path) -> None:
    job, run = job_of(tmp_path, lift=["passive", "active"]), tmp_path / "run"
    outcome = train(job, run)
    data = data_of(job, run)
    assert outcome.stages["active"].epochs == train_joined(job, data, ["shop"]).epochs
    assert outcome.stages["passive"].epochs == train_joined(job, data, ["bank"]).epochs
    active, passive, federated = (outcome.stages[stage].bytes for stage in ("active", "passive", "federated"))
    assert active == 0
    assert passive == pytest.approx(federated, rel=0.01), (
        "the same cuts; how often a party asks again hangs on the machine"
    )


@pytest.mark.parametrize(("form", "share"), [("fp16", 0.6), ("bf16", 0.6), ("int8", 0.55)])
def test_less_is_sent_in_other_forms_and_nearly_the_same_learned(tmp_path: Path, form: str, share: float) -> None:
    exact, packed = (
        train(job_of(tmp_path / wire, wire=wire, train_batch_size=256, holdout=0), tmp_path / wire)
        for wire in ("none", form)
    )
    ours, theirs = (outcome.stages["federated"] for outcome in (exact, packed))
    assert theirs.bytes < share * ours.bytes
    assert theirs.epochs != ours.epochs
    assert theirs.epochs[-1].loss == pytest.approx(ours.epochs[-1].loss, rel=0.01)


def test_it_ends_early_on_both_sides_and_the_best_is_kept(tmp_path: Path) -> None:
    hyper = {"optimizer": {"learning_rate": 0.5}}
    job, run = job_of(tmp_path, epochs=30, patience=2, hyper=hyper), tmp_path / "run"
    outcome = train(job, run)
    federated = outcome.stages["federated"]
    assert len(federated.epochs) == federated.best + 3 < 30
    assert_joined(job, run, outcome)


def test_held_out_samples_of_files_of_their_own_are_matched_too(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    tree = yaml.safe_load((tmp_path / "job.yaml").read_text())
    for party in job.order:
        header, *rows = (tmp_path / f"{party}.csv").read_text().splitlines()
        random.Random(party).shuffle(rows)
        held_out = [row for row in rows if row.startswith(("u1", "u2"))]
        (tmp_path / f"{party}-test.csv").write_text("\n".join([header, *held_out]) + "\n")
        tree["parties"][party]["test_data"] = f"{party}-test.csv"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    job, run = load_vertical(tmp_path / "job.yaml"), tmp_path / "run"
    outcome = train(job, run)
    assert (outcome.samples, outcome.held_out) == (380, 210)
    assert_joined(job, run, outcome)


def test_ids_come_in_parts_whoever_has_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.vertical.finding.PART", 45)
    job, run = job_of(tmp_path, passive=2, epochs=1), tmp_path / "run"
    lines = (tmp_path / "mail.csv").read_text().splitlines()
    (tmp_path / "mail.csv").write_text("\n".join(lines[:100]) + "\n")
    assert (tmp_path / "bank.csv").read_text().count("\n") > (tmp_path / "shop.csv").read_text().count("\n")
    outcome = train(job, run)
    there = [
        {line.split(",")[0] for line in (tmp_path / f"{party}.csv").read_text().splitlines()} for party in job.order
    ]
    assert outcome.samples + outcome.held_out == len(set.intersection(*there)) - 1
    assert_joined(job, run, outcome)


def test_over_mutual_tls(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs")
    for party in ("shop", "bank"):
        made.issue("party", party)
    job = job_of(tmp_path, own={"security": {"certs": str(tmp_path / "certs")}})
    outcome = train(job, tmp_path / "run")
    assert_joined(job, tmp_path / "run", outcome)


class Far(Wire):
    """A line of some length."""

    def carried(self, talk: int, up: bool, data: bytes) -> None:
        time.sleep(0.01)
        super().carried(talk, up, data)


@contextmanager
def far(address: str) -> Iterator[str]:
    with closing(Far(address)) as wire:
        yield wire.address


def test_from_far_away(tmp_path: Path) -> None:
    job, run = job_of(tmp_path, in_flight=3), tmp_path / "run"
    active = Active(job, run)
    with far(active.address) as address:
        start_passive(job, "bank", run, address).result(60)
        assert_joined(job, run, active.future.result(60), 3)


def test_a_label_that_is_a_number(tmp_path: Path) -> None:
    job = job_of(tmp_path, loss="mse", label={"of": "real"})
    outcome = train(job, tmp_path / "run")
    assert outcome.stages["federated"].epochs[0].rmse is not None
    assert_joined(job, tmp_path / "run", outcome)
