"""Aims: met or missed in the right direction, by the right factor, and not measured where nothing was."""

import pytest

from bench.aims import AIMS, Judged, judge
from bench.records import Result, times_better
from tests.bench.reports import job, step


def judged(what: str, *results: Result) -> Judged:
    [found] = [aim for aim in judge({r.subject: r for r in results}) if what in aim.what]
    return found


def test_more_samples_a_second_are_better() -> None:
    aim = judged("ten workers, geo", job(rate=3_000_000))
    assert (aim.met, aim.ratio) == (True, 2.0)
    aim = judged("ten workers, geo", job(rate=750_000))
    assert (aim.met, aim.ratio) == (False, 0.5)


def test_fewer_seconds_are_better() -> None:
    aim = judged("one pass, wall", job(wall=24))
    assert (aim.met, aim.ratio) == (False, 0.5)
    aim = judged("one pass, wall", job(wall=6))
    assert (aim.met, aim.ratio) == (True, 2.0)


@pytest.mark.parametrize("wall", [12.0, 11.9])
def test_an_aim_reached_exactly_is_met(wall: float) -> None:
    assert judged("one pass, wall", job(wall=wall)).met


def test_the_job_is_held_against_the_best_loop() -> None:
    aim = judged("best plain PyTorch loop", job(rate=2_000_000), step())
    assert (aim.value, aim.ratio, aim.met) == (4.0, 0.8, False)


@pytest.mark.parametrize("results", [[], [job()], [step()]])
def test_what_needs_two_subjects_is_not_measured_with_one(results: list[Result]) -> None:
    assert judged("best plain PyTorch loop", *results).met is None


def test_nothing_measured_leaves_every_aim_open() -> None:
    found = judge({})
    assert len(found) == len(AIMS)
    assert {(aim.value, aim.ratio, aim.met) for aim in found} == {(None, None, None)}


@pytest.mark.parametrize(
    ("one", "other", "unit", "due"), [(6, 3, "rows/s", 2), (6, 3, "ms", 0.5), (1, 0, "rows/s", None), (0, 1, "s", None)]
)
def test_times_better(one: float, other: float, unit: str, due: float | None) -> None:
    assert times_better(one, other, unit) == due
