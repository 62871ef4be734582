"""The journal: whole lines, valid JSON, whatever the event holds and whoever reads meanwhile."""

import errno
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedps.events import events
from fedps.events.events import Entry
from fedps.events.forms import facts
from fedps.events.journal import Journal, line, read_entries, read_journal
from fedps.metrics import Histogram
from fedps.types import ClientId
from tests.events.kinds import EVENTS, sums

ENTRIES = st.builds(Entry, st.floats(0, 2e9), st.sampled_from(["worker", "server"]), st.text(), EVENTS)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def write(path: Path, *entries: Entry) -> None:
    journal = Journal(path)
    for entry in entries:
        journal.write(entry)
    journal.close()


def test_a_line_has_time_role_and_id_first_then_the_event_and_its_facts(path: Path) -> None:
    write(path, Entry(12.5, "worker", "north", events.Progress(0, 50, 60, 1600, 0.5, 0.75)))
    assert path.read_text() == (
        '{"time": 12.5, "role": "worker", "id": "north", "event": "progress", "epoch": 0, "batch": 50, "batches": 60,'
        ' "samples": 1600, "loss": 0.5, "auc": 0.75}\n'
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(ENTRIES, max_size=5))
def test_what_is_written_is_read_back_line_by_line(path: Path, entries: list[Entry]) -> None:
    path.unlink(missing_ok=True)
    write(path, *entries)
    due = [{"time": e.time, "role": e.role, "id": e.id, **facts(e.event)} for e in entries]
    assert lines(path) == list(read_journal(path)) == due
    assert path.read_bytes().count(b"\n") == len(entries), "a newline in a fact is escaped"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(ENTRIES, max_size=5))
def test_entries_are_read_back_but_for_their_histograms(path: Path, entries: list[Entry]) -> None:
    path.unlink(missing_ok=True)
    plain = [entry for entry in entries if not {"sums", "figures"} & set(entry.event.__struct_fields__)]
    write(path, *plain)
    again = list(read_entries(path))
    assert [line(entry) for entry in again] == [line(entry) for entry in plain]
    assert [type(entry.event) for entry in again] == [type(entry.event) for entry in plain]


def test_sums_and_figures_are_read_back_by_their_names(path: Path) -> None:
    told = [
        Entry(1.0, "worker", "0", events.Evaluated(1, sums(2, 1.5, 0.75), {})),
        Entry(2.0, "launcher", "", events.Completed(1, {"loss": 0.5, "selected": [ClientId("0")], "auc": None})),
    ]
    write(path, *told)
    assert list(read_entries(path)) == told


def test_a_last_line_that_a_killed_process_left_is_cut_off(path: Path) -> None:
    whole = Entry(1.0, "worker", "0", events.FirstBatch())
    write(path, whole)
    with path.open("ab") as file:
        file.write(b'{"time": 2.0, "role": "wor')
    write(path, whole)
    assert list(read_entries(path)) == [whole, whole]


def test_of_two_that_would_write_alone_the_second_is_refused(path: Path) -> None:
    journal = Journal(path, alone=True)
    with pytest.raises(BlockingIOError):
        Journal(path, alone=True)
    journal.close()
    Journal(path, alone=True).close()


def test_a_histogram_stays_out(path: Path) -> None:
    write(path, Entry(1.0, "worker", "0", events.Evaluated(1, sums(2, 1.5, 0.75), {"auc": Histogram()})))
    assert list(lines(path)[0]) == ["time", "role", "id", "event", "epoch", "users", "hits", "ndcg"]


def test_an_event_is_there_as_soon_as_it_is_written_however_long(path: Path) -> None:
    journal = Journal(path)
    long = Entry(1.0, "worker", "0", events.Failed("out of luck", "x" * 1_000_000))
    for count in (1, 2):
        journal.write(long)
        assert [line["traceback"] for line in lines(path)] == ["x" * 1_000_000] * count
        assert path.read_bytes().endswith(b"}\n")
    journal.close()


def test_numbers_that_json_lacks_become_null(path: Path) -> None:
    write(path, Entry(1.0, "worker", "0", events.Progress(0, 1, 2, 3, float("nan"), float("-inf"))))
    assert (lines(path)[0]["loss"], lines(path)[0]["auc"]) == (None, None)


def test_a_name_that_is_no_utf8_is_written_with_escapes(path: Path) -> None:
    write(path, Entry(1.0, "worker", "0", events.Failed("/data/\udcff.csv is torn")))
    assert lines(path)[0]["error"] == "/data/\\udcff.csv is torn"


def test_a_line_that_is_not_whole_yet_is_not_read(path: Path) -> None:
    write(path, Entry(1.0, "worker", "0", events.FirstBatch()))
    path.write_bytes(path.read_bytes() + b'{"time": 2')
    assert [e["event"] for e in read_journal(path)] == ["first_batch"]


@pytest.mark.parametrize("damaged", [b'{"event": "done"', b"3", b"\xff\0", b"{}", b'{"event": []}', b""])
def test_a_damaged_line_is_passed_over(path: Path, damaged: bytes) -> None:
    for name in ("0", "1"):
        write(path, Entry(1.0, "worker", name, events.FirstBatch()))
        path.write_bytes(path.read_bytes() + damaged + b"\n")
    assert [entry.id for entry in read_entries(path)] == ["0", "1"]


def test_a_second_journal_goes_on_after_the_first(path: Path) -> None:
    for number in range(2):
        write(path, Entry(float(number), "server", "0", events.Stopped()))
    assert [line["time"] for line in lines(path)] == [0, 1]
    journal = Journal(path)
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.write(Entry(1.0, "server", "0", events.Stopped()))


def test_a_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "none" / "events.jsonl")


class Narrow:
    """A file on a disk that has room for so many bytes."""

    closed = False

    def __init__(self, path: Path, room: int) -> None:
        self.path, self.room = path, room

    def write(self, payload: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = payload[: self.room]
        self.room -= len(taken)
        with self.path.open("ab") as file:
            return file.write(taken)

    def close(self) -> None:
        self.closed = True


def test_what_a_full_disk_does_not_take_is_written_with_the_next_entry(path: Path) -> None:
    told = [Entry(float(k), "worker", "0", events.FirstBatch()) for k in range(3)]
    journal = Journal(path)
    journal.close()
    journal._file = file = Narrow(path, len(line(told[0])) + 20)  # type: ignore[assignment]
    journal.write(told[0])
    with pytest.raises(OSError, match="No space"):
        journal.write(told[1])
    assert list(read_entries(path)) == told[:1], "half a line is none"
    file.room = 1000
    journal.write(told[2])
    journal.close()
    assert list(read_entries(path)) == told


def test_a_journal_that_is_kept_tells_of_a_full_disk_once_until_there_is_room(path: Path) -> None:
    told = [Entry(float(k), "worker", "0", events.FirstBatch()) for k in range(6)]
    journal = Journal(path)
    journal.close()
    journal._file = file = Narrow(path, 0)  # type: ignore[assignment]
    said = [journal.keep(entry) for entry in told[:3]]
    assert said == [
        "No space left on device: free space, or choose another --run_dir or runner.model_save_path",
        None,
        None,
    ]
    file.room = 10_000
    assert journal.keep(told[3]) is None
    assert list(read_entries(path)) == told[:4]
    file.room = 0
    assert journal.keep(told[4]) == said[0]
    with pytest.raises(OSError, match="No space"):
        journal.flush()
    file.room = 10_000
    journal.flush()
    assert list(read_entries(path)) == told[:5]
