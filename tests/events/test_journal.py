"""The journal: whole lines, valid JSON, whatever the event holds and whoever reads meanwhile."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedps.events.journal import Journal, stamp

FACTS = st.dictionaries(
    st.text(max_size=8),
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    max_size=6,
)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_a_stamp_puts_time_role_and_id_first() -> None:
    before = time.time()
    event = stamp("worker", "north", {"event": "progress", "loss": 0.5})
    assert list(event) == ["time", "role", "id", "event", "loss"]
    assert (event["role"], event["id"], event["loss"]) == ("worker", "north", 0.5)
    assert isinstance(event["time"], float)
    assert before - 1 < event["time"] < time.time() + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(FACTS, max_size=5))
def test_what_is_written_is_read_back_line_by_line(tmp_path: Path, events: list[dict[str, object]]) -> None:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for event in events:
        journal.write(event)
    journal.close()
    assert lines(path) == events
    assert path.read_bytes().count(b"\n") == len(events), "a newline in a fact is escaped"


def test_an_event_is_there_as_soon_as_it_is_written_however_long(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    long = {"event": "failed", "traceback": "x" * 1_000_000}
    for count in (1, 2):
        journal.write(long)
        assert lines(path) == [long] * count
        assert path.read_bytes().endswith(b"}\n")
    journal.close()


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    journal.write({"loss": float("nan"), "auc": float("-inf"), "deep": {"a": (1.5, float("inf"))}})
    journal.close()
    assert lines(path) == [{"loss": None, "auc": None, "deep": {"a": [1.5, None]}}]


def test_a_second_journal_goes_on_after_the_first(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for number in range(2):
        journal = Journal(path)
        journal.write({"number": number})
        journal.close()
    assert lines(path) == [{"number": 0}, {"number": 1}]
    with pytest.raises(ValueError, match="closed"):
        journal.write({})


def test_a_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "none" / "events.jsonl")
