"""The bench of selectors in its tiny form; nothing is asserted of who is faster."""

import math
from pathlib import Path

import numpy as np
import pytest

from bench.apart import apart
from bench.records import Options
from bench.selection import Course, judged, measure
from bench.splits import spread
from bench.subjects import NAMED_ONLY, SUBJECTS


def lines_of(folder: Path) -> list[str]:
    return sorted(line for file in folder.glob("*.csv") for line in file.read_text().splitlines())


def test_the_users_of_prepared_data_are_dealt_out_by_shares(small_data: Path, tmp_path: Path) -> None:
    shares = np.array([0.5, 0.3, 0.2, 0.0])
    spread(small_data, tmp_path / "out", shares, np.random.default_rng(0))
    users = []
    for part in ("train", "test"):
        assert lines_of(tmp_path / "out" / part) == lines_of(small_data / part)
        files = [(tmp_path / "out" / part / f"{client}.csv").read_text().splitlines() for client in range(4)]
        users.append([{line.partition(",")[0] for line in file} for file in files])
    assert [len(of) for of in users[0]] == [59, 35, 25, 1]  # one each, and the shares of the other 116
    assert users[0] == users[1]


def test_when_a_course_reaches_a_target() -> None:
    course = Course(((1.0, 0.2), (2.0, 0.5), (3.0, 0.4)), (), 0)
    assert [course.reaches(target) for target in (0.1, 0.3, 0.5, 0.6)] == [1.0, 2.0, 2.0, None]


def test_times_are_held_against_random() -> None:
    courses = {
        "random": Course(((1.0, 0.2), (2.0, 0.4), (4.0, 0.5)), (), 0),
        "oort": Course(((0.5, 0.4), (8.0, 0.6)), (), 0),
        "all": Course(((3.0, 0.3),), (), 0),
    }
    figures, missed = judged(courses)
    found = {figure.key: figure.value for figure in figures}
    assert (found["oort.half.time"], found["oort.half.ratio"]) == (1800.0, 4.0)
    assert (found["oort.end.time"], found["oort.end.ratio"]) == (28800.0, 0.5)
    assert (found["random.end.ratio"], found["all.last"]) == (1.0, 0.3)
    assert missed == ("all did not reach 0.400 in its rounds.", "all did not reach 0.500 in its rounds.")


def test_every_selector_has_a_line_and_random_is_measured_against_itself(small_data: Path) -> None:
    result = measure(Options(str(small_data), "tiny"))
    [curve] = result.curves
    assert [name for name, _ in curve.lines] == ["random", "all"]
    for _, points in curve.lines:
        hours = [x for x, _ in points]
        assert hours == sorted(hours) and hours[0] > 0
        assert all(0 <= y <= 1 for _, y in points)
    ratios = [result.find(f"random.{key}.ratio") for key in ("half", "end")]
    assert [ratio.value for ratio in ratios if ratio is not None] == [1.0, 1.0]
    assert all(math.isfinite(figure.value) for figure in result.figures)


def test_the_same_seed_gives_the_same_bench(small_data: Path) -> None:
    once = measure(Options(str(small_data), "tiny"))
    again = apart("selection", Options(str(small_data), "tiny"), lambda line: None)
    assert once == again


@pytest.mark.parametrize("name", NAMED_ONLY)
def test_what_is_measured_by_name_only_is_a_subject(name: str) -> None:
    assert name in SUBJECTS
    assert set(SUBJECTS) - set(NAMED_ONLY)
