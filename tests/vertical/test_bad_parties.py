"""What parties may do wrong: each is told on both sides, by the name of whoever did it, and nothing waits for ever."""

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config.vertical import VerticalJob, shared_part
from fedps.errors import DataError, FedpsError, LostError, RefusedError
from fedps.events import parties
from fedps.events.events import Event, Note
from fedps.net.channel import Channel
from fedps.vertical import active as active_side
from fedps.vertical import finding, predict
from fedps.vertical.half import Half
from fedps.vertical.line import Line
from fedps.vertical.turns import limits_of
from fedps.wire import messages
from fedps.wire.frame import Frame
from fedps.wire.messages import Alive, Begin, Cut, Done, Hello, PartyRequest, Verdict
from tests.authorities import authority, credentials, write
from tests.ports import free_address
from tests.vertical.meetings import WAIT, Active, job_of, start_passive, train

SOON: dict[str, Any] = {"start_timeout": 2.0, "step_timeout": 2.0}


def told(future: "Future[Any]") -> str:
    """Return why a party has ended."""
    error = future.exception(WAIT)
    assert isinstance(error, FedpsError), error
    return f"{type(error).__name__}: {error}"


def both(job: VerticalJob, run: Path, theirs: VerticalJob | None = None) -> tuple[str, str]:
    """Let both parties live, and return why each has ended."""
    active = Active(job, run)
    bank = start_passive(theirs or job, "bank", run, active.address)
    return told(active.future), told(bank)


class Stranger:
    """Says what it likes, as bank."""

    def __init__(self, job: VerticalJob, address: str, name: str = "bank", number: int = 1) -> None:
        hello = Hello(job.name, name, secrets.token_hex(4), number, to="party", shared=shared_part(job))
        self.channel = Channel(address, hello, limits_of(job), patience=WAIT)

    def say(self, message: PartyRequest, arrays: Sequence["np.ndarray[Any, Any]"] = ()) -> Frame:
        return self.channel.request(message, arrays).result(WAIT)


def test_a_party_that_never_comes(tmp_path: Path) -> None:
    job = job_of(tmp_path, passive=2, **SOON)
    active = Active(job, tmp_path)
    mail = start_passive(job, "mail", tmp_path, active.address)
    with closing(Stranger(job, active.address, "fred").channel) as channel, pytest.raises(RefusedError) as refused:
        channel.welcome.result(WAIT)
    assert "this job has no passive party 'fred': who runs it names its passive parties in vertical.passive" in str(
        refused.value
    )
    ours, theirs = told(active.future), told(mail)
    assert "LostError: party bank has not come for 2 s: is it started" in ours and "fred: this job has no" in ours
    assert "the active party shop has ended: party bank has not come" in theirs


def test_an_active_party_that_never_comes(tmp_path: Path) -> None:
    alone = start_passive(job_of(tmp_path, **SOON), "bank", tmp_path, "127.0.0.1:9")
    assert "LostError: no active party answers at 127.0.0.1:9 for 2 s" in told(alone)


def test_a_party_that_leaves_in_the_middle(tmp_path: Path) -> None:
    job = job_of(tmp_path, passive=2, **SOON)
    active = Active(job, tmp_path)
    mail, stranger = start_passive(job, "mail", tmp_path, active.address), Stranger(job, active.address)
    stranger.channel.welcome.result(WAIT)
    stranger.channel.close()
    assert "LostError: party bank went away, and has not come back for 2 s" in told(active.future)
    assert "the active party shop has ended: party bank went away" in told(mail)


def test_a_party_that_is_silent(tmp_path: Path) -> None:
    job = job_of(tmp_path, passive=2, **SOON)
    active = Active(job, tmp_path)
    mail, stranger = start_passive(job, "mail", tmp_path, active.address), Stranger(job, active.address)
    with closing(stranger.channel):
        assert isinstance(stranger.say(Alive()).message, Done)
        assert "LostError: party bank is connected, and has said nothing for 2 s" in told(active.future)
    assert "the active party shop has ended: party bank is connected" in told(mail)


def test_an_active_party_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, over = job_of(tmp_path, start_timeout=20, step_timeout=1), Future[None]()
    monkeypatch.setattr(active_side._Training, "_step", lambda *_: over.result(WAIT))
    job = job.model_copy(update={"vertical": job.vertical.model_copy(update={"start_timeout": 1.0})})
    active = Active(job, tmp_path)
    bank = start_passive(job, "bank", tmp_path, active.address)
    assert "LostError: the active party shop has not answered for 2 s" in told(bank)
    over.set_exception(LostError("over"))
    told(active.future)


def test_a_party_that_has_failed_says_so(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    (tmp_path / "bank.csv").write_text("id,item\nu1,0.5\nu1,0.5\n")
    ours, theirs = both(job, tmp_path)
    assert "LostError: party bank cannot go on: its log says why" in ours and "u1" not in ours
    assert "MalformedError" in theirs and "u1 is the id in" in theirs


def test_an_active_party_that_has_failed_says_so(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    (tmp_path / "shop.csv").write_text("id,item,label\nu1,0.5,1\nu1,0.5,0\n")
    ours, theirs = both(job, tmp_path)
    assert "MalformedError" in ours and "u1 is the id in" in ours
    assert "RefusedError: the active party shop has ended: its log says why [ended]" in theirs and "u1" not in theirs


@pytest.mark.parametrize("wrong", ["shop", "bank"])
def test_a_cell_that_is_wrong_is_told_before_ids_are_compared(tmp_path: Path, wrong: str) -> None:
    job, file = job_of(tmp_path), tmp_path / f"{wrong}.csv"
    head, first, rest = file.read_text().split("\n", 2)
    cells = first.split(",")
    file.write_text("\n".join([head, ",".join([cells[0], "much", *cells[2:]]), rest]))
    active = Active(job, tmp_path)
    said = {"bank": told(start_passive(job, "bank", tmp_path, active.address)), "shop": told(active.future)}
    assert f"{wrong}.csv, line 2" in said[wrong] and "much" in said[wrong]
    assert "much" not in said["shop" if wrong == "bank" else "bank"]
    assert not [event for event in active.told if isinstance(event, parties.Matched)]
    assert not (tmp_path / "parties" / "shop" / "matched").exists()


def test_a_file_whose_rows_were_moved_after_its_ids_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, file = job_of(tmp_path), tmp_path / "bank.csv"

    def find_and_move(line: Line, sides: finding.Sides) -> Any:
        head, *rows = file.read_text().splitlines()
        found = finding.find(line, sides)
        file.write_text("\n".join([head, *reversed(rows)]) + "\n")
        return found

    monkeypatch.setattr("fedps.vertical.passive.find", find_and_move)
    ours, theirs = both(job, tmp_path)
    assert "bank.csv: was changed since its ids were read" in theirs
    assert ours == "LostError: party bank cannot go on: its log says why"


def test_a_file_whose_rows_were_moved_while_they_were_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, file = job_of(tmp_path, epochs=1, lift=["active"], start_timeout=20), tmp_path / "shop.csv"
    train(job, tmp_path)
    score = predict._score_alone

    def move_and_score(*args: Any) -> None:
        head, *rows = file.read_text().splitlines()
        file.write_text("\n".join([head, *reversed(rows)]) + "\n")
        score(*args)

    monkeypatch.setattr(predict, "_score_alone", move_and_score)
    fresh = predict.new_samples(
        job.model_copy(update={"vertical": job.vertical.model_copy(update={"start_timeout": 0.2})}), "shop"
    )
    with pytest.raises(DataError, match=r"shop\.csv: was changed since its ids were read"):
        predict.predict_active(fresh, tmp_path / "parties" / "shop", free_address(), lambda event: None)


def test_no_common_ids(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    (tmp_path / "bank.csv").write_text("id,item\n1,0.5\n2,0.5\n")
    ours, theirs = both(job, tmp_path)
    assert "DataError: no ids are common to this party and bank" in ours and "u" in ours
    assert "DataError: no ids are common to this party and shop" in theirs and "1, 2: whole numbers" in theirs


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"train_batch_size": 32}, "vertical.train_batch_size: 64 here, 32 there"),
        ({"own": {"ids": {"psi_key": "secret"}}}, "ids.psi_key: null here"),
        ({"hyper": {"hidden_units": [9]}}, "hyper_parameters.hidden_units: [8] here, [9] there"),
    ],
)
def test_jobs_that_differ(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    (tmp_path / "theirs").mkdir()
    ours, theirs = both(job_of(tmp_path), tmp_path, job_of(tmp_path / "theirs", **other))
    assert ours.startswith("JobError: party bank: the jobs differ in") and said in ours
    assert "RefusedError: the jobs differ in" in theirs and said in theirs and "secret" not in theirs
    assert "here is the active party, there passive party 'bank'" in theirs


def test_another_version_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path)
    active = Active(job, tmp_path)
    hello = Hello(job.name, "bank", "a", 1, protocol=messages.PROTOCOL - 1, to="party", shared=shared_part(job))
    with closing(Channel(active.address, hello, limits_of(job), WAIT)) as channel:
        assert "another version of fedps" in told(channel.welcome)
    assert "JobError: party bank: this is an active party of another job, or of another version" in told(active.future)


def test_of_two_processes_of_one_party_the_newer_goes_on_and_of_two_versions_both_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.vertical.meeting.VERSION", "0.0.9")
    monkeypatch.setattr("fedps.vertical.passive.VERSION", "0.0.8")
    job, heard = job_of(tmp_path, epochs=1), list[Event]()
    active = Active(job, tmp_path)
    older = Stranger(job, active.address, number=3)
    older.channel.welcome.result(WAIT)
    bank = start_passive(job, "bank", tmp_path, active.address, heard.append)  # of another folder: it counts on from 3
    bank.result(WAIT)
    for events, said in (
        (active.told, "party bank runs version '0.0.8'"),
        (heard, "active party shop runs version '0.0.9'"),
    ):
        assert [event for event in events if isinstance(event, Note) and f"{said} of fedps, and" in event.note]
    assert "a newer process speaks for passive party 'bank'" in told(older.channel.request(Alive()))
    older.channel.close()
    active.future.result(WAIT)


Spoilt = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("method", "spoil", "said"),
    [
        ("forward", lambda cut: cut * np.float32(np.nan), "sends of step 0 a NaN or an infinity"),
        ("forward", lambda cut: cut[:-1], "sends of step 0 floats of shape (63, 4), due (64, 4)"),
        ("forward", lambda cut: cut[:, :2].copy(), "sends of step 0 floats of shape (64, 2), due (64, 4)"),
        ("score", lambda cut: np.full_like(cut, np.inf), "sends of step 0 a NaN or an infinity"),
    ],
)
def test_a_party_that_sends_what_is_not_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, spoil: Spoilt, said: str
) -> None:
    class Spoiling(Half):
        pass

    setattr(Spoiling, method, lambda self, at: spoil(getattr(Half, method)(self, at)))
    monkeypatch.setattr("fedps.vertical.passive.Half", Spoiling)
    ours, theirs = both(job_of(tmp_path), tmp_path)
    assert ours.startswith("RefusedError: party bank") and said in ours
    assert theirs == ours


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda gradient: gradient * np.float32(np.nan), "sent a gradient of step 0 with a NaN or an infinity"),
        (lambda gradient: gradient[:-1], "sent a gradient of step 0 of shape (63, 4), due (64, 4)"),
    ],
)
def test_an_active_party_that_sends_what_is_not_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Spoilt, said: str
) -> None:
    monkeypatch.setattr(active_side, "protect", lambda gradient, *_, **__: spoil(gradient))
    ours, theirs = both(job_of(tmp_path), tmp_path)
    assert theirs.startswith("WireError: the active party shop") and said in theirs
    assert ours.startswith("LostError: party bank cannot go on: the active party shop") and said in ours


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("samples", "has found 381 common samples"),
        ("digest", "has found 380 common samples (digest 'another')"),
        ("width", "would send 99999999 floats of a sample, which no message holds"),
        ("stage", "says Begin"),
    ],
)
def test_a_beginning_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str) -> None:
    def other(stage: str, run: str, saved: tuple[int, ...], digest: str, samples: int, width: int) -> Begin:
        if what == "samples":
            return Begin(stage, run, saved, digest, samples + 1, width)
        if what == "digest":
            return Begin(stage, run, saved, "another", samples, width)
        return Begin("?" if what == "stage" else stage, run, saved, digest, samples, 99_999_999)

    monkeypatch.setattr("fedps.vertical.passive.Begin", other)
    ours, theirs = both(job_of(tmp_path), tmp_path)
    assert f"RefusedError: party bank {said}" in ours and theirs == ours


@pytest.mark.parametrize(
    ("vertical", "said"),
    [
        ({"bottom_units": [8, 3800]}, "would send 3800 floats of a sample, which no message holds: 76 samples are sent at once"),
        ({"bottom_units": [8, 2500], "train_batch_size": 10**6}, "which no message holds: 304 samples are sent at once"),
    ],
)  # fmt: skip
def test_messages_that_would_be_too_large_are_told_of_before_training(
    tmp_path: Path, vertical: dict[str, Any], said: str
) -> None:
    ours, theirs = both(job_of(tmp_path, own={"limits": {"message_mib": 1}}, **vertical), tmp_path)
    assert ours.startswith("RefusedError: party bank") and said in ours and theirs == ours


def test_a_batch_of_all_samples_is_as_large_as_these_are(tmp_path: Path) -> None:
    job = job_of(tmp_path, train_batch_size=10**8, epochs=1)
    active = Active(job, tmp_path)
    start_passive(job, "bank", tmp_path, active.address).result(WAIT)
    assert active.future.result(WAIT).samples == 304


def test_an_active_party_that_trains_for_longer_than_was_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_side, "Verdict", lambda better, go_on: Verdict(better, True))
    ours, theirs = both(job_of(tmp_path), tmp_path)
    assert "the active party shop goes on after epoch 3, which is the last by vertical.epochs" in theirs
    assert ours.startswith("LostError: party bank cannot go on: the active party shop goes on")


def test_steps_out_of_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedps.vertical.passive.Cut", lambda stage, step, kind="train", form="none": Cut(stage, step + 1, kind, form)
    )
    ours, theirs = both(job_of(tmp_path), tmp_path)
    assert "RefusedError: party bank says Cut" in ours and "[mismatch]" in ours and theirs == ours


def test_who_speaks_in_anothers_name(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "bank")
    for party in ("shop", "mail"):
        made.issue("party", party)
    job = job_of(tmp_path, own={"security": {"certs": str(tmp_path / "certs")}}, **SOON)
    active = Active(job, tmp_path)

    def dial(role: str, name: str) -> str:
        own = write(tmp_path / f"{role}-{name}", credentials(made, role, name))
        from fedps.net.tls import Certificates

        hello = Hello(job.name, "bank", "a", 1, to="party", shared=shared_part(job))
        with closing(
            Channel(active.address, hello, limits_of(job), WAIT, Certificates(own, role, name), "shop")
        ) as line:
            return told(line.welcome)

    assert (
        "this is the certificate of party mail, who speaks as 'mail' alone, and not for passive party 'bank'"
        in dial("party", "mail")
    )
    assert "this is the certificate of client bank, and a party is dialled by a party alone" in dial("client", "bank")
    assert "party bank has not come for 2 s" in told(active.future)
