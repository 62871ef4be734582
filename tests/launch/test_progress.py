"""What people see: rates that are right, and every event that matters in words."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedps.events import events
from fedps.events.events import Entry, Event
from fedps.launch.progress import WINDOW, Progress, Speed, clock, places
from fedps.types import ClientId
from tests.conftest import MakeJob


def test_a_rate_is_taken_over_the_last_seconds() -> None:
    speed = Speed()
    for second in range(20):
        speed.add(float(second), 100 * second if second < 10 else 1000 + 500 * (second - 10))
    assert speed.rate == pytest.approx(500)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 1000)), min_size=1, max_size=30))
def test_a_rate_lies_between_the_slowest_and_the_fastest_step(steps: list[tuple[float, int]]) -> None:
    speed, at, total = Speed(), 0.0, 0
    for pause, samples in steps:
        at, total = at + pause + 0.01, total + samples
        speed.add(at, total)
    rates = [samples / (pause + 0.01) for pause, samples in steps[1:]]
    assert (min(rates, default=0) - 1e-6) <= speed.rate <= (max(rates, default=0) + 1e-6)


def test_a_rate_before_there_is_a_span_is_zero() -> None:
    speed = Speed()
    speed.add(1.0, 50)
    assert speed.rate == 0.0
    speed.add(1.0, 60)  # two events with one time stamp
    assert speed.rate == 0.0


def shown(make_job: MakeJob, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, **runner: object) -> str:
    monkeypatch.setattr("fedps.launch.progress.LINE_EVERY", 0.0)
    progress = Progress(make_job(**runner), [ClientId("0"), ClientId("1")], quiet=False)
    screen = io.StringIO()
    progress._console = Console(file=screen, width=100)
    with progress:
        for entry in entries:
            progress.take(entry)
    return screen.getvalue()


def progress_event(who: str, at: float, epoch: int, samples: int) -> Entry:
    return Entry(at, "worker", who, events.Progress(epoch, 1, 2, samples, 0.5, 0.75))


def test_plain_lines_tell_share_rate_loss_and_auc(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [Entry(0.0, "worker", w, events.Data(100, 1)) for w in "01"]
    going = [progress_event(w, t, e, n) for t, e, n in ((1.0, 0, 50), (2.0, 0, 100), (3.0, 1, 50)) for w in "01"]
    text = shown(make_job, [*data, *going], monkeypatch, epochs=2)
    assert text.splitlines()[0] == "job: 2 workers, 1 server(s), mode geo, 2 epoch(s)"
    assert text.splitlines()[-1].strip() == "75% 125 samples/s, mean over workers: loss 0.5000, AUC 0.7500"
    assert WINDOW > 2, "the rate above is over all of it: from 50 samples after 1 s to 300 after 3 s"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (events.Refused("7", "not_finite", "a NaN"), "server 0: client 7 refused: a NaN"),
        (events.Lost("7", "its connection broke"), "server 0: client 7 lost: its connection broke"),
        (events.Suspended("7", 3, "silent for 60 s"), "server 0: client 7 suspended: silent for 60 s"),
        (events.LeftBehind("7", 3, "past its deadline"), "server 0: client 7 left behind: past its deadline"),
        (events.Selected(3, [ClientId("0")], [ClientId("1")], [], 0.1), "round 3: 1 clients train, 1 sit out"),
    ],
)
def test_trouble_is_told_as_it_comes(
    event: Event, said: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in shown(make_job, [Entry(0.0, "server", "0", event)], monkeypatch)


def test_what_is_private_and_what_is_shared_is_told(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    for private, told in (["user"], "user"), ([], "nothing"):
        checked = events.Checked([], private, ["item", "bias"], "torch", "no compiler")
        text = shown(make_job, [Entry(0.0, "check", "0", checked)], monkeypatch)
        assert f"leaves the clients: item, bias; stays with each client: {told}" in text
        assert "training steps by torch, not compiled: no compiler" in text


def test_who_is_told_what_of_each_client_is_told(make_job: MakeJob) -> None:
    checked = events.Checked([], ["user"], ["item"], "compiled")
    sums = "sums over its own samples alone, no score: samples, loss, users, hr@10, ndcg@10"
    assert places(checked, make_job()) == (
        f"leaves the clients: item; stays with each client: user\nserver 0 is told of each client, each epoch: {sums}"
    )
    told = places(checked, make_job(with_coordinator=True))
    assert f"\nthe coordinator is told of each client, each round: {sums}; what else fedps.ClientInfo names" in told
    assert places(checked, make_job(metrics=["gauc", "mrr@5"])).endswith(
        ": samples, loss, gauc_left_out, gauc_samples, gauc, users, mrr@5"
    )


def test_a_live_table_has_a_row_a_worker(make_job: MakeJob) -> None:
    progress = Progress(make_job(epochs=3), [ClientId("0"), ClientId("north")], quiet=True)
    for who in ("0", "north"):
        progress.take(progress_event(who, 1.0, 0, 10))
        progress.take(progress_event(who, 2.0, 0, 20))
    screen = io.StringIO()
    Console(file=screen, width=100).print(progress._view())
    rows = [line.split("│") for line in screen.getvalue().splitlines() if "│" in line]
    assert [[c.strip() for c in row[1:-1]] for row in rows] == [
        ["0", "1/3", "1/2", "10", "0.5000", "0.7500"],
        ["north", "1/3", "1/2", "10", "0.5000", "0.7500"],
    ]
    assert "30 samples/s loss 0.5000, AUC 0.7500" in " ".join(screen.getvalue().split())


@pytest.mark.parametrize("count", [60, 1000])
def test_many_workers_fit_a_terminal_of_30_lines_with_the_total_in_sight(count: int, make_job: MakeJob) -> None:
    clients = [ClientId(f"hospital-{k:04d}") for k in range(count)]
    progress = Progress(make_job(epochs=3), clients, quiet=True)
    for k, who in enumerate(clients):
        progress.take(Entry(1.0, "worker", who, events.Progress(0, 1 + (k + 1 < count), 2, 10, 0.5, 0.75)))
    progress.evaluated({"round": 1, "loss": 0.4, "auc": None, "hr@10": 0.3, "ndcg@10": 0.2})
    screen = io.StringIO()
    progress._console = Console(file=screen, width=100, height=30)
    progress._console.print(progress._view())
    lines = screen.getvalue().splitlines()
    assert len(lines) < 30 and all(len(line) <= 100 for line in lines)
    assert "samples/s" in lines[0] and lines[1].startswith("epoch 1 of 3: loss 0.4000, HR@10 0.3000")
    assert f"…ospital-{count - 1:04d}"[-11:] in screen.getvalue(), "who is behind is shown"
    assert ("that are further" in screen.getvalue()) is (count == 1000)


@pytest.mark.parametrize("count", [2, 60])
def test_names_with_brackets_are_shown_as_they_are(count: int, make_job: MakeJob) -> None:
    clients = [ClientId(f"[b]{k:02}") for k in range(count)]
    progress, screen = Progress(make_job(), clients, quiet=False), io.StringIO()
    progress._console.file = screen
    progress.introduce(["a:1"], None)
    for who in clients:
        progress.take(progress_event(who, 1.0, 0, 10))
    progress._console.print(progress._view())
    assert screen.getvalue().count("[b]00") >= 2, "where they are introduced, and at work"


def test_a_time_is_shown_as_on_a_clock() -> None:
    assert [clock(seconds) for seconds in (0.2, 65, 7265)] == ["0:00", "1:05", "2:01:05"]


def test_who_takes_part_is_told_with_addresses(make_job: MakeJob) -> None:
    progress = Progress(make_job(), [ClientId("0"), ClientId("1"), ClientId("north")], quiet=False)
    screen = io.StringIO()
    progress._console = Console(file=screen, width=100)
    progress.introduce(["a:1", "b:2"], "c:3")
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in screen.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["server", "0", "a:1"], ["server", "1", "b:2"], ["coordinator", "0", "c:3"],
        ["worker", "0 … north", "3 in all; they dial out and never listen"],
    ]  # fmt: skip


@pytest.mark.parametrize("coordinated", [True, False])
def test_an_epoch_is_a_round_where_somebody_decides_and_may_be_empty(coordinated: bool, make_job: MakeJob) -> None:
    progress = Progress(make_job(epochs=3, with_coordinator=coordinated), [ClientId("0")], quiet=False)
    screen = io.StringIO()
    progress._console = Console(file=screen, width=100)
    progress.evaluated({"round": 2, "loss": None, "auc": 0.5, "hr@10": None, "ndcg@10": None})
    assert screen.getvalue() == f"{'round' if coordinated else 'epoch'} 2 of 3: nobody trained, AUC 0.5000\n"


def test_samples_count_on_over_epochs_of_any_length(make_job: MakeJob) -> None:
    progress = Progress(make_job(epochs=9), [ClientId("0")], quiet=True)
    for at, (epoch, samples) in enumerate([(0, 50), (0, 100), (2, 30), (5, 60)], 1):
        progress.take(progress_event("0", float(at), epoch, samples))
    assert progress._all.rate == pytest.approx((100 + 30 + 60 - 50) / 3)
