"""Public samples: which pairs a round is about, and what a bad file is told."""

from pathlib import Path

import numpy as np
import pytest

from fedps.data.public import Public
from fedps.errors import DataError
from tests.columns import columns
from tests.conftest import MakeJob
from tests.distilling import ITEMS, USERS, distilling, public_file


def test_pairs_of_a_round_are_the_same_everywhere_and_other_ones_in_the_next(make_job: MakeJob, tmp_path: Path) -> None:
    one, same = (Public(distilling(make_job, tmp_path, {"samples": 40})) for _ in range(2))
    first = one.of_round(1)
    for ours, theirs in zip(columns(first), columns(same.of_round(1)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    codes = first.user * ITEMS + first.item
    assert len(np.unique(codes)) == one.round_size == 40 and codes.min() >= 0 and codes.max() < USERS * ITEMS
    other = one.of_round(2)
    assert not np.array_equal(codes, other.user * ITEMS + other.item)


def test_all_pairs_are_drawn_where_there_are_no_more_and_have_the_files_labels(
    make_job: MakeJob, tmp_path: Path
) -> None:
    public = Public(distilling(make_job, tmp_path))
    pairs, place = public.of_round(7), np.arange(USERS * ITEMS)
    assert public.round_size == USERS * ITEMS
    np.testing.assert_array_equal(pairs.user * ITEMS + pairs.item, place)
    np.testing.assert_array_equal(pairs.label, np.where(place % 2, np.nan, place % 4 == 0))


def test_ids_need_not_run_on_and_the_first_of_two_labels_counts(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path)
    public_file(tmp_path).write_text("7,9,1\n3,200,0\n7,9,0\n")
    pairs = Public(job).of_round(1)
    assert list(zip(pairs.user, pairs.item, strict=True)) == [(3, 9), (3, 200), (7, 9), (7, 200)]
    np.testing.assert_array_equal(pairs.label, np.array([np.nan, 0, 1, np.nan], np.float32))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("120,3,1", r"line 51: .*user 120 is not in \[0, 120\)"),
        ("3,220,1", r"line 51: .*item 220 is not in \[0, 220\)"),
        ("3,3,0.5", "line 51: .*label '0.5'"),
        ("3,3", "line 51: .*has 2 fields; a line is user,item,label"),
    ],
)
def test_a_bad_line_is_named_with_the_jobs_key(make_job: MakeJob, tmp_path: Path, line: str, told: str) -> None:
    job = distilling(make_job, tmp_path)
    path = public_file(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=f"distillation.public_data: .*{told}"):
        Public(job)
