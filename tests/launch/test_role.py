"""A script's part travels in its environment, whole or not at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.config import Allow
from fedps.errors import JobError
from fedps.launch.local.role import ROLES, RoleSpec, read_role

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0,"), min_size=1, max_size=9)
PARTS = st.builds(
    RoleSpec, st.sampled_from(ROLES), st.integers(0, 99), st.just(Path("/a/job.yaml")), st.just(Path("/a")), TEXT, TEXT,
    st.lists(TEXT, max_size=3).map(tuple), TEXT, st.builds(Allow, st.booleans(), st.booleans()),
    st.none() | st.just(Path("/a/plan")), st.integers(0, 99),
)  # fmt: skip


@given(PARTS)
def test_what_is_told_is_read_the_same(part: RoleSpec) -> None:
    assert read_role(part.environ()) == part


def test_a_script_started_by_itself_is_told_how_to_start_it() -> None:
    with pytest.raises(JobError, match=r"start it with `fedps run SCRIPT\.py -m JOB\.yaml`"):
        read_role({"PATH": "/bin"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEDPS_ID", "one"),
        ("FEDPS_ROLE", "king"),
        ("FEDPS_PIPE", ""),
        ("FEDPS_ALLOW", "everything"),
        ("FEDPS_JOB", None),
    ],
)
def test_variables_that_make_no_sense_are_refused(name: str, value: str | None) -> None:
    there = RoleSpec("worker", 1, Path("/a/job.yaml"), Path("/a")).environ()
    there = {k: v for k, v in there.items() if k != name} | ({name: value} if value is not None else {})
    with pytest.raises(JobError, match="leave them to it"):
        read_role(there)
