"""How parties find common samples over the wire, in parts, and what becomes of one that says what makes no sense."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.errors import FedpsError
from fedps.vertical import finding
from fedps.vertical.blinding import Points
from fedps.vertical.matching import Marks, Matching, Pairs, Places, of_all
from tests.vertical.meetings import WAIT, Active, job_of, start_passive, train

SOON: dict[str, Any] = {"start_timeout": 5.0, "step_timeout": 5.0, "epochs": 1}


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-compiler")


def ends(folder: Path) -> tuple[str, str]:
    """Let two parties live, and return why each has ended."""
    job = job_of(folder, **SOON)
    active = Active(job, folder)
    passive = start_passive(job, "bank", folder, active.address)
    errors = passive.exception(WAIT), active.future.exception(WAIT)
    assert all(isinstance(error, FedpsError) for error in errors)
    return str(errors[0]), str(errors[1])


@pytest.mark.parametrize("part", [1 << 16, 400, 64, 7])
def test_lists_come_in_parts_of_any_size(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PART", part)
    outcome = train(job_of(tmp_path, passive=2, epochs=1), tmp_path)
    assert outcome.samples + outcome.held_out == 360


def test_an_active_party_that_names_others_as_common_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_more(found: Mapping[str, Pairs]) -> tuple[Places, dict[str, Places]]:
        ours, places = of_all(found)
        other = np.setdiff1d(np.arange(430), places["bank"])[:1]
        return ours, {"bank": np.concatenate([places["bank"], other])}

    monkeypatch.setattr(finding, "of_all", of_more)
    theirs, _ = ends(tmp_path)
    assert theirs == "the active party shop names ids as common that it does not have"


def test_who_blinds_for_long_is_not_taken_for_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = Matching.doubled

    def slowly(own: Matching, theirs: Points, peer: str) -> Marks:
        time.sleep(2.5 if peer == "shop" else 0.0)
        return doubled(own, theirs, peer)

    monkeypatch.setattr(Matching, "doubled", slowly)
    outcome = train(job_of(tmp_path, **SOON | {"step_timeout": 1.0}), tmp_path)
    assert outcome.samples + outcome.held_out == 380


def same(points: Points) -> Points:
    points[1] = points[0]
    return points


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (same, "party bank sent ids of which some are the same"),
        (np.zeros_like, "party bank: a point of low order is among the blinded ids"),
        (lambda points: points[:, :3], "party bank sent int64[430, 3] for blinded ids, which are int64[n, 4]"),
    ],
)
def test_lists_that_cannot_be_are_refused_by_name(
    made: Callable[[Points], Points], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blinded = Matching.blinded

    def brought(own: Matching, places: slice = slice(None)) -> Points:
        points = blinded(own, places)
        return made(points.copy()) if len(own) == 430 else points  # of bank

    monkeypatch.setattr(Matching, "blinded", brought)
    theirs, ours = ends(tmp_path)
    assert said in ours
    assert said in theirs


def test_too_many_ids_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "PART", 64)
    monkeypatch.setattr(finding, "MOST", 6)
    theirs, ours = ends(tmp_path)
    assert "party bank brings its ids in 7 parts: at most 6 of 64 are taken" in ours
    assert "at most 6 of 64 are taken" in theirs
