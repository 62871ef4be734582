"""Events: each travels whole, and what is none is told."""

import errno
import os

import numpy as np
import pytest
from hypothesis import given

from fedps.errors import DataError, FedpsError, IdentityError, JobError, LostError, RefusedError
from fedps.events import events
from fedps.events.events import Event, Failed
from fedps.events.forms import decode, encode, facts
from fedps.metrics import Histogram
from tests.events.kinds import EVENTS, sums


@given(EVENTS)
def test_an_event_arrives_as_it_was_sent(event: Event) -> None:
    there = decode(encode(event))
    assert type(there) is type(event)
    assert facts(there) == facts(event)
    sent, came = getattr(event, "histogram", Histogram()), getattr(there, "histogram", Histogram())
    np.testing.assert_array_equal(came.positives, sent.positives)
    np.testing.assert_array_equal(came.negatives, sent.negatives)


def test_the_kinds_are_those_that_other_tools_read() -> None:
    kinds = {kind.__struct_config__.tag for kind in Event.__subclasses__()}
    assert kinds == {
        "started", "ready", "checked", "failed", "stopped", "closed", "read", "unsaved", "note", "skipped", "data", "assigned",
        "epoch_begin", "first_batch", "progress", "epoch_end", "evaluate_begin", "evaluated", "simulated", "done", "saved",
        "loaded", "lost", "refused", "suspended", "left_behind", "selected", "round", "taught", "ends_early", "clock",
        "dropped", "at_work", "tables", "restarted", "resumed", "completed", "joined", "left", "expelled", "audited",
        "scripted", "matched", "measured", "staged", "scored", "outcome", "compared",
    }  # fmt: skip


def test_a_histogram_travels_as_bytes() -> None:
    assert len(encode(events.Evaluated(1, sums(2, 1.5, 0.75), {"auc": Histogram()}))) < 2 * 4096 * 8 + 100


def test_numbers_of_numpy_travel_as_plain_ones() -> None:
    there = decode(encode(events.Data(np.int64(3), np.int32(4))))  # type: ignore[arg-type]
    assert there == events.Data(3, 4)


def test_a_name_that_is_no_utf8_travels_with_escapes() -> None:
    assert decode(encode(events.Note("/data/\udcff.csv"))) == events.Note("/data/\\udcff.csv")


@pytest.mark.parametrize("message", [b"", b"{}", b"\x80", b"\x81\xa5event\xa4none"])
def test_what_is_no_event_is_told(message: bytes) -> None:
    with pytest.raises(FedpsError, match="what came is no event"):
        decode(message)


def test_a_failure_says_what_people_need_and_no_more() -> None:
    def told(error: Exception) -> Failed:
        try:
            raise error
        except Exception as caught:
            return Failed.of(caught)

    assert told(JobError("runner.epochs: 0")) == Failed("runner.epochs: 0", "", in_job=True)
    for number, remedy in (
        (errno.EIO, "see to this disk"),
        (errno.EROFS, "see to"),
        (errno.EFBIG, "ulimit -f unlimited"),
    ):
        failed = told(OSError(number, os.strerror(number), "run/log"))
        assert (failed.error.startswith("run/log: "), remedy in failed.error, failed.traceback) == (True, True, "")
    assert told(DataError("a.csv:3: torn")) == Failed("a.csv:3: torn", in_data=True)
    for kind in ("identity", "superseded"):
        refused = RefusedError(kind, "the certificate of client 1 was revoked")
        assert told(refused) == Failed(str(refused), in_job=kind == "identity"), "one sentence"
    assert told(LostError("server 0 went away")).traceback == told(IdentityError("expired")).traceback == ""
    unsaved = FedpsError("the state cannot be written: free space")
    unsaved.__cause__ = OSError(errno.ENOSPC, "full")
    assert told(unsaved) == Failed("the state cannot be written: free space")
    assert told(FedpsError("the loss is nan")) == Failed("the loss is nan")
    chosen = FedpsError("select() raised")
    chosen.__cause__ = KeyError("x")
    assert "KeyError" in told(chosen).traceback, "code of the user's own"
    ours = told(ZeroDivisionError("by\nzero\x1b[2J"))
    assert ours.error == "ZeroDivisionError: by\nzero\\x1b[2J" and "\x1b" not in ours.traceback
    assert "Traceback" in ours.traceback and not ours.in_job
