"""The teacher against closed forms, and its part in the rounds: what comes, what goes out, what is refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.teacher import BOUND, RIDGE, Prediction, Teacher, make_teacher, stack
from fedps.types import ClientId, ClientInfo, Values
from fedps.wire.frame import Limits, decode
from fedps.wire.messages import Message, Refused, RoundReport
from tests.conftest import MakeJob
from tests.coordinator.callers import NONE, Caller, Events, started, with_keys
from tests.distilling import distilling

A, B = ClientId("a"), ClientId("b")
SAMPLES = 100  # pairs of the public file's users and items, half of which have a label


def teacher(make_job: MakeJob, folder: Path, **settings: Any) -> Teacher:
    found = make_teacher(distilling(make_job, folder, settings))
    assert found is not None
    return found


def logits(seed: int, size: int = SAMPLES) -> Values:
    return np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)


def sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = 1 / (1 + np.exp(-z))
    return found


@pytest.mark.parametrize(("kind", "parts"), [("mean", (0.5, 0.5)), ("weighted", (0.25, 0.75))])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_targets_are_the_probabilities_of_mean_logits(
    make_job: MakeJob, tmp_path: Path, kind: str, parts: tuple[float, float], temperature: float
) -> None:
    it = teacher(make_job, tmp_path, teacher=kind, temperature=temperature)
    one, other = logits(1), logits(2)
    ensemble = it.teach(3, {A: Prediction(one, 100), B: Prediction(other, 300)})
    z = (parts[0] * one + parts[1] * other) / temperature
    np.testing.assert_allclose(it.targets, sigmoid(z), rtol=1e-5)
    assert it.round == 3 and it.targets.dtype == np.float32
    assert ensemble is not None and ensemble.weights == {A: parts[0], B: parts[1]}
    label = np.arange(SAMPLES) % 4 == 0
    terms = -np.log(np.where(label, sigmoid(z), 1 - sigmoid(z)))
    assert ensemble.loss == pytest.approx(terms[np.arange(SAMPLES) % 2 == 0].mean(), 1e-5)


def test_a_client_that_shouts_counts_no_more_than_one_that_is_sure(make_job: MakeJob, tmp_path: Path) -> None:
    it = teacher(make_job, tmp_path, teacher="mean")
    it.teach(
        1,
        {A: Prediction(np.full(SAMPLES, 1e30, np.float32), 1), B: Prediction(np.full(SAMPLES, -BOUND, np.float32), 1)},
    )
    np.testing.assert_allclose(it.targets, 0.5)


def test_nobody_heard_leaves_the_last_targets(make_job: MakeJob, tmp_path: Path) -> None:
    it = teacher(make_job, tmp_path, teacher="mean")
    assert it.teach(1, {}) is None and it.round == 0
    it.teach(1, {A: Prediction(logits(1), 1)})
    before = it.targets
    assert it.teach(2, {}) is None and it.round == 1 and it.targets is before


def test_clients_that_trained_nothing_weigh_alike(make_job: MakeJob, tmp_path: Path) -> None:
    it = teacher(make_job, tmp_path, teacher="weighted")
    ensemble = it.teach(1, {A: Prediction(logits(1), 0), B: Prediction(logits(2), 0)})
    assert ensemble is not None and ensemble.weights == {A: 0.5, B: 0.5}


def test_stacking_finds_who_knows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 2, 20_000)
    label = (rng.random(20_000) < sigmoid(truth)).astype(np.float64)
    (knows, guesses, lies), bias = stack(np.stack([0.5 * truth, rng.normal(0, 2, 20_000), -0.5 * truth]), label)
    assert 1.7 < knows - lies < 2 and lies < 0  # together close to 2 · 0.5 · truth, held back by the ridge
    assert abs(guesses) < 0.05 and abs(bias) < 0.05


def test_stacking_ends_where_the_slope_is_nil() -> None:
    x, label = np.stack([logits(k, 500) for k in range(3)]).astype(np.float64), (logits(9, 500) > 0.5).astype(float)
    weights, bias = stack(x, label)
    rest = sigmoid(weights @ x + bias) - label
    np.testing.assert_allclose(x @ rest / 500 + RIDGE * (weights - 1 / 3), 0, atol=1e-9)
    assert rest.mean() + RIDGE * bias == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_stacking_bears_labels_of_one_kind_and_clients_that_agree(value: float) -> None:
    weights, bias = stack(np.tile(logits(1, 50).astype(np.float64), (3, 1)), np.full(50, value))
    assert np.isfinite([*weights, bias]).all() and np.ptp(weights) < 1e-6


class Pupil(Caller):
    """A client that keeps the soft targets too."""

    def __init__(self, *args: Any) -> None:
        self.targets: list[Values] = []
        super().__init__(*args)

    def _take(self, data: bytes | None) -> None:
        super()._take(data)
        if data is not None:
            self.targets += decode(data, Limits()).arrays

    def tell(self, round_: int, values: Values, trained: int = 5) -> None:
        self.send(RoundReport(round_, ClientInfo(trained=trained, seconds=1), logits=True), [*(NONE,) * 4, values])

    @property
    def last(self) -> Message:
        return self.replies[-1]


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> Job:
    return with_keys(distilling(make_job, tmp_path, {"teacher": "mean", "samples": 40}, epochs=4), worker_num=2)


def test_each_round_is_taught_by_the_last(job: Job) -> None:
    events: Events = []
    coordinator = started(job, events)
    a, b = Pupil(coordinator, "a"), Pupil(coordinator, "b")
    a.report(0)
    b.report(0)
    assert a.told[0].targets_of == 0 and not a.targets
    for round_ in (1, 2):
        one, other = logits(round_, 40), logits(10 + round_, 40)
        a.tell(round_, one)
        b.tell(round_, other)
        assert a.told[round_].targets_of == b.told[round_].targets_of == round_
        for pupil in (a, b):
            np.testing.assert_allclose(pupil.targets[-1], sigmoid((one + other) / 2), rtol=1e-5)
    a.report(3)
    b.tell(3, logits(3, 40))
    np.testing.assert_allclose(a.targets[-1], sigmoid(logits(3, 40)), rtol=1e-5)  # a said nothing
    taught = [e for e in events if e["event"] == "taught"]
    assert [e["round"] for e in taught] == [1, 2, 3] and taught[0]["weights"] == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        (np.zeros(39, np.float32), "malformed", "39 came, of 40 public pairs"),
        (np.zeros(0, np.float32), "malformed", "0 came, of 40 public pairs"),
        (np.r_[np.zeros(39, np.float32), np.float32(np.nan)], "not_finite", "nan of public pair 39"),
        (np.r_[np.float32(np.inf), np.zeros(39, np.float32)], "not_finite", "inf of public pair 0"),
        (np.zeros((40, 1), np.float32), "malformed", "RoundReport with arrays"),
        (np.zeros(40, np.int64), "malformed", "RoundReport with arrays"),
    ],
)
def test_what_cannot_be_logits_is_refused_and_the_round_waits(
    job: Job, values: NDArray[Any], kind: str, told: str
) -> None:
    coordinator = started(job, [])
    a, b = Pupil(coordinator, "a"), Pupil(coordinator, "b")
    a.report(0)
    b.report(0)
    a.tell(1, values)
    assert isinstance(a.last, Refused) and a.last.kind == kind and told in a.last.reason
    b.tell(1, logits(1, 40))
    assert len(b.told) == 1
    a.tell(1, logits(2, 40))
    assert a.told[1].targets_of == 1


def test_logits_in_a_job_without_public_samples_are_refused(make_job: MakeJob) -> None:
    a = Pupil(Coordinator(with_keys(make_job(with_coordinator=True), worker_num=1), lambda _: None, io.StringIO()), "a")
    a.report(0)
    a.tell(1, logits(1))
    assert isinstance(a.last, Refused) and "this job has none" in a.last.reason


def test_a_lost_answer_is_given_again_with_its_targets_by_another_process_too(job: Job, tmp_path: Path) -> None:
    coordinator = started(job, [], run_dir=tmp_path)
    a, b = Pupil(coordinator, "a"), Pupil(coordinator, "b")
    a.report(0)
    b.report(0)
    a.tell(1, logits(1, 40))
    b.tell(1, logits(2, 40))
    a.tell(1, logits(1, 40))  # it did not get the answer
    assert a.told[1] == a.told[2] and np.array_equal(a.targets[0], a.targets[1])

    coordinator = started(job, [], run_dir=tmp_path)  # another process, which was not told the logits
    again = Pupil(coordinator, "a")
    again.tell(1, logits(1, 40))
    assert again.told == a.told[1:2] and np.array_equal(again.targets[0], a.targets[0])


def test_stacking_heeds_the_pairs_that_have_a_label(make_job: MakeJob, tmp_path: Path) -> None:
    it = teacher(make_job, tmp_path, teacher="stacked")
    one, other = logits(1), logits(2)
    ensemble = it.teach(1, {A: Prediction(one, 1), B: Prediction(other, 1)})
    even = np.arange(0, SAMPLES, 2)
    weights, bias = stack(np.stack([one, other])[:, even].astype(np.float64), (even % 4 == 0).astype(np.float64))
    assert ensemble is not None and list(ensemble.weights.values()) == weights.tolist()
    np.testing.assert_allclose(it.targets, sigmoid(weights @ np.stack([one, other]) + bias), rtol=1e-5)
