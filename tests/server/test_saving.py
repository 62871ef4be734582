"""What a server writes at an epoch's end, what it starts from, and when it ends by itself."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from fedps.config import Job
from fedps.errors import DataError, JobError
from fedps.net.channel import Channel
from fedps.server.server import ParameterServer
from fedps.storage import epochs as saved
from fedps.storage import snapshot
from fedps.types import NO_KEYS, Rule, TableSpec
from fedps.wire.messages import Barrier, Done, Join, Leave, Push, Refused, Seed
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.greeting import hello
from tests.net.echo import LIMITS
from tests.server.callers import BIAS, ROWS, Caller, ones, push

ADAM, YOGI = Rule("adam", 0.1), Rule("fed_yogi", 0.1)
MOVING = (TableSpec("rows", "sparse", (100, 4), ADAM, ROWS.init), TableSpec("bias", "dense", (3,), ADAM))
WAIT = 60  # seconds; far beyond what any of this takes


def make_server(
    job: Job, folder: Path, shard: int = 0, events: list[dict[str, object]] | None = None
) -> ParameterServer:
    server = ParameterServer(job, shard, folder, into(events if events is not None else []))
    server.members.expect(1)
    return server


def train(server: ParameterServer, *epochs: list[int], tables: tuple[TableSpec, ...] = (ROWS, BIAS)) -> Caller:
    """Let one client push some rows in each epoch."""
    caller = Caller(server, "0").join(*tables)
    for epoch, keys in enumerate(epochs, 1):
        assert isinstance(caller.ask(*push(epoch, keys, ones(len(keys)))), Done)
        for stage in ("trained", "evaluated"):
            assert isinstance(caller.ask(Barrier(epoch, stage)), Done)
    return caller


def saved_keys(folder: Path, name: str = "server-0") -> list[int]:
    keys: list[int] = snapshot.load(folder, name)[0]["rows"][1].tolist()
    return keys


def test_epochs_are_saved_where_the_job_says(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    job = make_job(sync_mode="async", epochs=2, model_save_path=str(tmp_path / "kept"))
    train(make_server(job, tmp_path / "run", events=events), [3], [5])
    assert saved_keys(tmp_path / "kept" / "1") == [3]
    assert saved_keys(tmp_path / "kept" / "2") == [3, 5]
    assert not (tmp_path / "run").exists()
    assert [e["folder"] for e in events if e["event"] == "saved"] == [str(tmp_path / "kept" / e) for e in ("1", "2")]
    facts = to_builtins(saved.find_first(tmp_path / "kept" / "2").facts)
    told = {"epoch": 2, "shard": 0, "shards": 1, "job": "job", "mode": "all", "run": str(tmp_path / "run")}
    assert told.items() <= facts.items()


@pytest.mark.parametrize(("readers", "mode"), [("owner", 0o600), ("group", 0o640), ("all", 0o644)])
def test_an_epoch_is_saved_for_those_readers_whom_the_job_names(
    readers: str, mode: int, make_job: MakeJob, tmp_path: Path
) -> None:
    train(make_server(make_job(sync_mode="async", epochs=1, model_readers=readers), tmp_path), [3])
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "model" / "1").iterdir()} == {mode}


def test_a_delta_holds_what_changed_and_names_what_it_builds_on(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job(sync_mode="async", epochs=3, save_mode="delta"), tmp_path)
    caller = train(server, [3, 5], [5, 7], [9], tables=MOVING)
    assert [saved_keys(tmp_path / "model" / e) for e in ("1", "2", "3")] == [[3, 5], [5, 7], [9]]
    bases = [saved.find_first(tmp_path / "model" / e).facts.base for e in ("1", "2", "3")]
    assert [base and base.epoch for base in bases] == [None, 1, 2]
    there = saved.read_model(tmp_path / "model" / "3")
    np.testing.assert_allclose(there["rows"].values, caller.rows(3, 5, 7, 9), rtol=1e-6)


def test_what_is_owed_to_rows_of_earlier_saves_is_paid_at_the_last_rate(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job(sync_mode="async", epochs=2, save_mode="delta"), tmp_path)
    caller = Caller(server, "0").join(*MOVING)
    for epoch, (key, rate) in enumerate(((3, 1.0), (5, 0.01)), 1):
        assert isinstance(caller.ask(*push(epoch, [key], ones(1), rate=rate)), Done)
        for stage in ("trained", "evaluated"):
            assert isinstance(caller.ask(Barrier(epoch, stage)), Done)
    there = saved.read_model(tmp_path / "model" / "2")
    np.testing.assert_allclose(there["rows"].values, caller.rows(3, 5), rtol=1e-6)


def test_base_holds_values_alone(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job(sync_mode="async", save_mode="base"), tmp_path)
    caller = train(server, [3, 5], tables=MOVING)
    tables, _ = snapshot.load(tmp_path / "model" / "1", "server-0")
    assert tables["rows"][0].rule == tables["bias"][0].rule == Rule("add")
    assert tables["rows"][2].tolist() == caller.rows(3, 5)
    assert tables["bias"][2].shape == (1, 3)


def test_servers_of_one_run_are_known_by_their_clients(make_job: MakeJob, tmp_path: Path) -> None:
    """Their run folders may be of one name on two machines, or of two; what tells runs apart is who took part."""
    job = make_job(sync_mode="async", server_num=2, model_save_path=str(tmp_path / "model"))

    def run(client: str, shard: int) -> None:
        caller = Caller(make_server(job, tmp_path / f"run-{shard}", shard), "0", client)
        assert isinstance(caller.ask(Join((ROWS,), 0)), Done)
        assert isinstance(caller.ask(Barrier(1, "trained")), Done)

    run("process a", 0)
    run("process b", 1)
    with pytest.raises(DataError, match="of different runs"):
        saved.read_model(tmp_path / "model" / "1")
    run("process a", 1)
    assert set(saved.read_model(tmp_path / "model" / "1")) == {"rows"}
    assert sorted(f.name for f in (tmp_path / "model" / "1").glob("*.json")) == ["server-0.json", "server-1.2.json"]
    text = (tmp_path / "model" / "1" / "server-0.json").read_text()
    assert "process a" not in text, "a client's process is known to its servers alone"


def warm(make_job: MakeJob, folder: Path, **runner: Any) -> Job:
    return make_job(**{"sync_mode": "async", "epochs": 2, "warmup_model_path": str(folder), **runner})


@pytest.mark.parametrize("save_mode", ["all", "delta"])
@pytest.mark.parametrize("rule", [ADAM, YOGI, Rule("fed_momentum", 0.1)], ids=lambda rule: rule.name)
def test_a_server_starts_from_a_saved_epoch_and_goes_on(
    rule: Rule, save_mode: str, make_job: MakeJob, tmp_path: Path
) -> None:
    tables = (replace(MOVING[0], rule=rule), replace(MOVING[1], rule=rule))
    job = make_job(sync_mode="async", epochs=2, save_mode=save_mode)
    first = make_server(job, tmp_path / "a")
    caller = train(first, [3, 5], [5], tables=tables)
    second = make_server(warm(make_job, tmp_path / "a" / "model" / "2"), tmp_path / "b")
    other = Caller(second, "0").join(*tables)
    assert isinstance(other.ask(Seed("bias"), np.full((1, 3), 9, np.float32)), Done)
    assert other.rows(3, 5, 8) == caller.rows(3, 5, 8)
    for one, sequence in ((caller, 3), (other, 1)):
        assert isinstance(one.ask(*push(sequence, [3, 8], ones(2))), Done)
    np.testing.assert_allclose(other.rows(3, 5, 8), caller.rows(3, 5, 8), rtol=1e-6)
    now, then = second.shard.store.export(), first.shard.store.export()
    for name in ("rows", "bias"):
        np.testing.assert_allclose(now[name][2], then[name][2], rtol=1e-5)


def test_values_alone_go_to_another_rule(make_job: MakeJob, tmp_path: Path) -> None:
    caller = train(make_server(make_job(sync_mode="async"), tmp_path / "a"), [3, 5], tables=MOVING)
    server = make_server(warm(make_job, tmp_path / "a" / "model" / "1"), tmp_path / "b")
    other = Caller(server, "0").join(ROWS, BIAS)
    assert other.rows(3, 5) == caller.rows(3, 5)
    other.ask(*push(1, [3], ones(1)))
    np.testing.assert_allclose(other.rows(3)[0], np.array(caller.rows(3)[0]) + 1)


def test_a_save_of_one_server_starts_two(make_job: MakeJob, tmp_path: Path) -> None:
    caller = train(make_server(make_job(sync_mode="async"), tmp_path / "a"), [3, 4, 5])
    job = warm(make_job, tmp_path / "a" / "model" / "1", server_num=2)
    even, odd = (make_server(job, tmp_path / "b", k) for k in (0, 1))
    assert Caller(even, "0").join(ROWS, BIAS).rows(4) == caller.rows(4)
    assert isinstance(Caller(odd, "0").ask(Join((ROWS,), 0)), Done)
    assert odd.shard.store.export()["rows"][1].tolist() == [3, 5]
    assert odd.shard.store.pull("rows", np.array([3, 5])).tolist() == caller.rows(3, 5)


def test_a_table_that_grew_takes_rows_over_by_id_and_says_how_many_are_new(make_job: MakeJob, tmp_path: Path) -> None:
    caller = train(make_server(make_job(sync_mode="async"), tmp_path / "a"), [3, 4, 5])
    heard: list[dict[str, object]] = []
    job = warm(make_job, tmp_path / "a" / "model" / "1")
    larger = replace(ROWS, shape=(130, 4))
    other = Caller(make_server(job, tmp_path / "b", events=heard), "0").join(larger, BIAS)
    assert other.rows(3, 4, 5) == caller.rows(3, 4, 5)
    fresh = Caller(make_server(make_job(sync_mode="async"), tmp_path / "c"), "0").join(larger, BIAS)
    assert other.rows(7, 129) == fresh.rows(7, 129)
    (note,) = [str(event["note"]) for event in heard if event["event"] == "note"]
    assert note.endswith("a/model/1: rows are taken over by id; 30 new ids of rows start fresh")


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ((TableSpec("rows", "sparse", (99, 4), Rule("add")), BIAS), "rows has shape 100 × 4 there and 99 × 4 in this"),
        (
            (TableSpec("rows", "sparse", (100, 5), Rule("add")), BIAS),
            "rows has shape 100 × 4 there and 100 × 5 in this",
        ),
        ((TableSpec("items", "sparse", (100, 4), Rule("add")), BIAS), "holds no table items, of shape 100 × 4 in this"),
        ((ROWS, TableSpec("bias", "dense", (4,))), "bias has shape 3 there and 4 in this job"),
    ],
)
def test_another_models_folder_is_refused_before_anybody_trains(
    declared: tuple[TableSpec, ...], told: str, make_job: MakeJob, tmp_path: Path
) -> None:
    train(make_server(make_job(sync_mode="async"), tmp_path / "a"), [3])
    server = make_server(warm(make_job, tmp_path / "a" / "model" / "1"), tmp_path / "b")
    for _ in range(2):  # the refusal leaves the server as it was
        answer = Caller(server, "1").ask(Join(declared, 0))
        assert isinstance(answer, Refused)
        assert answer.kind == "mismatch"
        assert "runner.warmup_model_path" in answer.reason
        assert told in answer.reason
    Caller(server, "0").join()


def test_a_folder_that_cannot_be_read_ends_the_server_at_its_start(make_job: MakeJob, tmp_path: Path) -> None:
    train(make_server(make_job(sync_mode="async"), tmp_path / "a"), [3])
    with pytest.raises(JobError, match=r"runner\.warmup_model_path: .*model: is no saved epoch; it holds epochs 1"):
        warm(make_job, tmp_path / "a" / "model")
    path = tmp_path / "a" / "model" / "1" / "server-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is torn or altered"):
        make_server(warm(make_job, path.parent), tmp_path / "b")


def test_tables_that_are_made_anew_after_a_vote_start_from_the_save_too(make_job: MakeJob, tmp_path: Path) -> None:
    train(make_server(make_job(sync_mode="async"), tmp_path / "a"), [3])
    server = ParameterServer(warm(make_job, tmp_path / "a" / "model" / "1"), 0, tmp_path / "b", lambda event: None)
    server.members.expect(3)
    other = TableSpec("rows", "sparse", (100, 4), Rule("sgd"), ROWS.init)
    Caller(server, "liar").ask(Join((other, BIAS), 0))
    honest = [Caller(server, name) for name in "ab"]
    tickets = [caller.send(Join((ROWS, BIAS), 0)) for caller in honest]
    assert [caller.answers(ticket) for caller, ticket in zip(honest, tickets, strict=True)] == [[Done()], [Done()]]
    assert honest[0].rows(3) == [[2.0] * 4]


SERVE = """
import gc, json, sys
from pathlib import Path
from fedps.config import load_job
from fedps.events.forms import facts
from fedps.server.serve import run_server

run_server(load_job(Path(sys.argv[1])), 0, "127.0.0.1:0", Path(sys.argv[2]), lambda e: print(json.dumps({"frozen": gc.get_freeze_count(), **facts(e)}), flush=True), stay=sys.argv[3] == "stay", keep=True)
"""


@contextmanager
def serving(job: Path, run_dir: Path, stay: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server in a process of its own; give it and its address."""
    command = [sys.executable, "-c", SERVE, str(job), str(run_dir), stay]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the log's line that it serves
            ready = json.loads(process.stdout.readline())
            assert ready["frozen"] > 10_000, "objects that are not looked through while pulls wait"
            yield process, ready["address"]
        finally:
            process.kill()


def one_client(address: str, job: Job, name: str = "0") -> Channel:
    channel = Channel(address, hello(job, name), LIMITS, patience=WAIT)
    channel.request(Join((ROWS, BIAS), 0)).result(WAIT)
    channel.request(Seed("bias"), [np.zeros((1, 3), np.float32)]).result(WAIT)
    return channel


def test_a_server_that_need_not_stay_ends_once_all_have_come_and_left(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="async")
    for stay in ("stay", "go"):
        with serving(tmp_path / "job.yaml", tmp_path / stay, stay) as (process, address):
            for number in range(10):  # the job's clients, one after the other
                channel = one_client(address, job, str(number))
                assert channel.request(Leave()).result(WAIT).message == Done()
                channel.close()
            if stay == "stay":
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.5)
                process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=WAIT)
            assert process.returncode == 0, errors
            assert '"event": "stopped"' in output


def test_a_save_that_fails_holds_nobody_and_the_server_ends_with_the_cause(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="async", start_timeout=0.2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").write_text("a file")
    with serving(tmp_path / "job.yaml", tmp_path / "run", "stay") as (process, address):
        channel = one_client(address, job)
        assert isinstance(channel.request(Barrier(1, "trained")).result(WAIT).message, Done)
        process.terminate()
        _, errors = process.communicate(timeout=WAIT)
        channel.close()
        assert process.returncode == 1
        assert "DataError: cannot save to" in errors
        assert "choose another --run_dir or runner.model_save_path" in errors


def test_it_is_over_when_all_have_come_and_left(make_job: MakeJob, tmp_path: Path) -> None:
    server = ParameterServer(make_job(sync_mode="async"), 0, tmp_path, lambda event: None)
    server.members.expect(2)
    assert not server.over
    one = Caller(server, "a").join()
    one.ask(Leave())
    assert not server.over
    two = Caller(server, "b").join()
    assert not server.over
    two.ask(Leave())
    assert server.over


def test_clients_that_are_lost_may_come_back_before_it_is_over(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="async", reconnect_timeout=2.0, start_timeout=30.0)
    server = ParameterServer(job, 0, tmp_path, lambda event: None)
    server.members.expect(2)
    one, two = Caller(server, "a").join(), Caller(server, "b").join()
    for caller in (one, two):
        caller.connection.closed()
    now = time.monotonic()
    server.tick(now + 3)
    assert len(server.members) == 0 and not server.over
    assert not server.members.over(now + 31, 2.0 + 30.0)
    assert server.members.over(now + 33, 2.0 + 30.0)
    back = Caller(server, "a", "started again").join()
    assert isinstance(back.ask(*push(1, [3], ones(1))), Done)
    assert isinstance(back.ask(Leave()), Done)
    assert not server.over, "the other may still come"


def test_what_was_trained_since_the_last_save_is_saved_before_the_end(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    server = make_server(make_job(sync_mode="async", epochs=3), tmp_path, events=events)
    caller = train(server, [3])
    server.finish()
    assert [e["epoch"] for e in events if e["event"] == "saved"] == [1], "nothing was trained since"
    caller.ask(*push(2, [3, 5], ones(2)))
    server.finish()
    assert [e["epoch"] for e in events if e["event"] == "saved"] == [1, 2]
    assert saved.read_model(tmp_path / "model" / "2")["rows"].values.tolist() == caller.rows(3, 5)


def test_a_finished_job_is_left_as_it_was(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job(sync_mode="async", epochs=1), tmp_path)
    caller = train(server, [3])
    caller.ask(*push(2, [3], ones(1)))
    before = saved.read_model(tmp_path / "model" / "1")["rows"].values.tolist()
    server.finish()
    assert saved.read_model(tmp_path / "model" / "1")["rows"].values.tolist() == before


@pytest.mark.parametrize(("keep", "there"), [(None, ["1", "2", "3", "4", "5"]), (2, ["4", "5"]), (3, ["3", "4", "5"])])
def test_of_the_saved_epochs_so_many_stay_as_the_job_says(
    keep: int | None, there: list[str], make_job: MakeJob, tmp_path: Path
) -> None:
    train(make_server(make_job(sync_mode="async", epochs=5, keep_epochs=keep), tmp_path), *([3],) * 5)
    assert sorted(folder.name for folder in (tmp_path / "model").iterdir()) == there


@pytest.mark.parametrize("ending", ["lost", "SIGTERM"])
def test_a_server_started_by_hand_saves_before_it_ends(ending: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="async", start_timeout=0.3, reconnect_timeout=0.2)
    with serving(tmp_path / "job.yaml", tmp_path / "run", "go") as (process, address):
        channel = one_client(address, job)
        bias = np.zeros((1, 3), np.float32)
        done = channel.request(Push(("rows", "bias"), 1, 0), [np.array([3]), ones(1), NO_KEYS, bias]).result(WAIT)
        assert done.message == Done()
        if ending == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            channel.close()
        output, errors = process.communicate(timeout=WAIT)
        channel.close()
        assert process.returncode == (0 if ending == "SIGTERM" else 1), errors
        assert ("all clients were lost after epoch 0 of 1" in errors) == (ending == "lost")
        assert '"event": "saved"' in output
    assert saved_keys(tmp_path / "run" / "model" / "1") == [3]
