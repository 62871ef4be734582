"""Published test files are used as they are, or refused at the line that does not fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedps.data.negatives import History
from fedps.data.prepare.published import MisfitError, beside, read_negatives, read_positives
from fedps.errors import DataError

POSITIVES = np.array([25 * k for k in range(6)])
Edit = Callable[[list[str]], list[str]]


@pytest.fixture
def history() -> History:
    """Six users, each with 25 items of their own and item 150."""
    user = np.repeat(np.arange(6), 26)
    return History(user, np.concatenate([[*range(25 * u, 25 * u + 25), 150] for u in range(6)]), 6, 151)


def edited(path: Path, text: str, edit: Edit) -> Path:
    path.write_text("\n".join(edit(text.splitlines())) + "\n")
    return path


def test_well_formed_files_are_taken_over(history: History, files: dict[str, str], tmp_path: Path) -> None:
    for edit in (lambda rows: rows, lambda rows: rows[::-1]):  # lines may have any order
        path = edited(tmp_path / "r", files["test.rating"], edit)
        assert read_positives(path, history).tolist() == POSITIVES.tolist()
        items = read_negatives(edited(tmp_path / "n", files["test.negative"], edit), POSITIVES, history)
        assert items[3].tolist() == [i for i in range(150) if i // 25 != 3][:99]


def test_a_users_own_test_item_may_stand_among_the_negatives(
    history: History, files: dict[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path / "n", files["test.negative"], lambda rows: [rows[0].replace("\t30", "\t0"), *rows[1:]])
    assert (read_negatives(path, POSITIVES, history)[0] == 0).sum() == 1


@pytest.mark.parametrize(
    ("edit", "named", "kind"),
    [
        (lambda r: [*r[:2], "2\t50\t4", *r[3:]], r"line 3: '2\\t50\\t4': has 3 fields", DataError),
        (lambda r: [*r[:2], "2\tx\t4\t9", *r[3:]], "line 3: item 'x' is no whole number", DataError),
        (lambda r: [*r[:2], "-2\t50\t4\t9", *r[3:]], "line 3: user '-2' is no whole number", DataError),
        (lambda r: [*r[:3], r[2], *r[3:]], "line 4: user 2 has a test row already", DataError),
        (lambda r: [*r[:2], "2\t3\t4\t9", *r[3:]], "line 3: user 2 with item 3 is not among", MisfitError),
        (lambda r: [*r, "6\t150\t4\t9"], "line 7: user 6 with item 150 is not among", MisfitError),
        (lambda r: [*r, "5\t151\t4\t9"], "line 7: user 5 with item 151 is not among", MisfitError),
        (lambda r: r[:4], "has no line for 2 of 6 users, user 4 for one", MisfitError),
        (lambda r: [], "has no line for 6 of 6 users", MisfitError),
    ],
)
def test_positives_that_are_wrong_are_named(
    edit: Edit, named: str, kind: type[DataError], history: History, files: dict[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path / "test.rating", files["test.rating"], edit)
    with pytest.raises(DataError, match=rf"test\.rating.*{named}") as error:
        read_positives(path, history)
    assert type(error.value) is kind


def with_last(row: str, item: str) -> str:
    return row.rsplit("\t", 1)[0] + "\t" + item


@pytest.mark.parametrize(
    ("edit", "named", "kind"),
    [
        (lambda r: [r[0], r[1].rsplit("\t", 1)[0]], "line 2: .* has 99 fields", DataError),
        (lambda r: [r[0], r[1] + "\t7"], "line 2: .* has 101 fields", DataError),
        (lambda r: [r[0], with_last(r[1], "x")], "line 2: item 'x' is no whole number", DataError),
        (lambda r: [r[0], with_last(r[1], "")], "line 2: item '' is no whole number", DataError),
        (lambda r: [r[0], with_last(r[1], "-3")], "line 2: item '-3' is no whole number", DataError),
        (lambda r: [r[0], with_last(r[1], "9" * 30)], "line 2: item '9+' is no whole number", DataError),
        (lambda r: [r[0].replace("(0,0)", "0,0")], r"line 1: '0,0' is no \(user,item\)", DataError),
        (lambda r: [r[0].replace("(0,0)", "(0)")], r"line 1: '\(0\)' is no \(user,item\)", DataError),
        (lambda r: [r[0], r[0]], "line 2: user 0 has test negatives already", DataError),
        (lambda r: [r[0], with_last(r[1], "151")], r"line 2: item 151 is not in \[0, 151\)", MisfitError),
        (lambda r: [r[0], with_last(r[1], "150")], "line 2: item 150 is no negative: user 1 took it", MisfitError),
        (lambda r: [r[0].replace("(0,0)", "(0,150)")], "line 1: .*the test item of user 0 is 0; give the --test-rating", MisfitError),
        (lambda r: [r[0].replace("(0,0)", "(6,150)")], "line 1: user 6 with item 150 is not among", MisfitError),
        (lambda r: r[1:], "has no line for 1 of 6 users, user 0", MisfitError),
    ],
)  # fmt: skip
def test_negatives_that_are_wrong_are_named(
    edit: Edit, named: str, kind: type[DataError], history: History, files: dict[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path / "test.negative", files["test.negative"], edit)
    with pytest.raises(DataError, match=rf"test\.negative.*{named}") as error:
        read_negatives(path, POSITIVES, history)
    assert type(error.value) is kind


def test_files_beside_count_only_together(tmp_path: Path) -> None:
    assert beside(tmp_path) is None
    (tmp_path / "ncf").mkdir()
    (tmp_path / "ncf" / "ml-1m.test.rating").write_text("")
    assert beside(tmp_path) is None
    (tmp_path / "ncf" / "ml-1m.test.negative.gz").write_text("")
    assert beside(tmp_path) == (tmp_path / "ncf" / "ml-1m.test.rating", tmp_path / "ncf" / "ml-1m.test.negative.gz")
