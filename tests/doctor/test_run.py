"""What is in a run's folder: what is whole, what is damaged, what can be done with it."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from fedps.config import load_job
from fedps.doctor.finding import Finding
from fedps.doctor.run import examine
from fedps.errors import JobError
from fedps.events.journal import JOURNAL, Journal
from fedps.launch.inprocess import run_in_process
from tests.events.test_past import SUMMARY


@pytest.fixture(scope="module")
def whole(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten clients and two servers, one epoch long, with private rows of users."""
    folder = tmp_path_factory.mktemp("whole")
    runner = f"{{train_data_dir: {small_data / 'train'}, epochs: 1, server_num: 2}}"
    (folder / "small.yaml").write_text(f"runner: {runner}\nhyper_parameters: {{fc_layers: [16, 8, 4]}}\n")
    job, run = load_job(folder / "small.yaml"), folder / "run"
    run_in_process(job, run, lambda _: None)
    job.save(run / "job.yaml")
    (run / JOURNAL).write_text('{"time": 1.0, "event": "ready"}\n')
    clients: dict[str, object] = {client.name: {} for client in (run / "private").iterdir()}
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"clients": clients, "rounds": [{"round": 1}]}))
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def found(run: Path, what: str) -> list[Finding]:
    return [finding for finding in examine(run) if finding.what == what]


def test_a_whole_run_has_no_fault_and_says_what_can_be_done(run: Path) -> None:
    findings = list(examine(run))
    assert {f.state for f in findings} == {"ok"}, findings
    said = {f.what: f.said for f in findings}
    assert said["run"] == "ok, 1 of 1 epochs done"
    assert said["job.yaml"] == "small: NCF_MLP, geo, 10 clients"
    assert said["model"].startswith("whole epochs: 1; ")
    assert said["private"] == "what 10 clients keep is here"
    go_on, take_along, recommend = found(run, "next")
    assert f"runner.warmup_model_path={run / 'model' / '1'}" in go_on.said
    assert take_along.said.endswith(f"fedps export {run} --out model")
    assert recommend.said == f"recommend: fedps recommend {run} --user ID"


def test_commands_can_be_typed_as_they_are_told(run: Path) -> None:
    odd = run.rename(run.parent / "my run")
    for finding in found(odd, "next"):
        said = finding.said.partition(": ")[2]
        assert any(word.endswith(("my run", "my run/model/1")) for word in shlex.split(said)), said


def test_a_run_whose_data_is_elsewhere_or_that_ranks_nothing_recommends_nothing_here(run: Path) -> None:
    text = (run / "job.yaml").read_text()
    (run / "job.yaml").write_text(re.sub(r"train_data_dir: .*", "train_data_dir: /nowhere", text))
    *_, elsewhere = found(run, "next")
    assert (elsewhere.state, elsewhere.remedy) == ("warning", "recommend on a client's machine")
    features = "features: {C1: {kind: id, rows: open}, label: {kind: label}}"
    (run / "job.yaml").write_text(text.replace("features: {}", features))
    *_, clicks = found(run, "next")
    assert clicks.said == "it scores what is held out, and recommends nothing: there is no feature user of kind id"


def test_an_epoch_that_a_server_did_not_save_is_not_whole(run: Path) -> None:
    for file in (run / "model" / "1").glob("server-1*"):
        file.unlink()
    (epoch, none) = found(run, "model")
    assert (epoch.state, epoch.said) == ("fault", "epoch 1 is not whole: not all servers saved their part")
    assert (none.state, none.said) == ("fault", f"{run / 'model'}: holds no whole epoch")
    assert found(run, "next")[0].state == "fault"


def test_a_torn_file_is_named(run: Path) -> None:
    (rows,) = (run / "model" / "1").glob("server-0*.safetensors")
    rows.write_bytes(rows.read_bytes()[:-1] + b"?")
    (torn,) = found(run, "model")
    assert torn.state == "fault"
    assert f"{rows}: is torn or altered" in torn.said
    (record,) = (run / "model" / "1").glob("server-0*.json")
    record.write_text("{")
    assert "is no save of fedps, or torn" in found(run, "model")[0].said


def test_what_clients_keep_is_looked_at(run: Path) -> None:
    clients = sorted((run / "private").iterdir())
    (rows,) = clients[0].glob("1/*.safetensors")
    rows.write_bytes(b"")
    for file in clients[1].glob("1/*"):
        file.unlink()
    (clients[1] / "1").rmdir()
    torn, all_of_them = found(run, "private")
    assert torn.state == "fault"
    assert torn.said.startswith(f"client {clients[0].name}: {rows}: is torn or altered")
    assert (all_of_them.state, all_of_them.said) == (
        "warning",
        f"what 9 clients keep is here; nothing of {clients[1].name}",
    )


def test_a_run_that_broke_off_or_goes_on(run: Path) -> None:
    (run / "summary.json").unlink()
    (state,) = found(run, "run")
    assert (state.state, state.said.partition(",")[0]) == ("warning", "broken off")
    journal = Journal(run / JOURNAL)
    assert found(run, "run")[0].said.startswith("running")
    assert found(run, "next")[0].said == "it goes on: wait for its end"
    journal.close()


@pytest.mark.parametrize(
    ("name", "text", "state", "said"),
    [
        ("job.yaml", "runner: {train_data_dir: a, epochs: many}", "fault", "cannot be read: name: is missing; "),
        ("job.yaml", "{name: a, folder: /a, runner: {train_data_dir: a, epochs: many}}", "fault",
         "cannot be read: runner.epochs: 'many': must be a whole number"),
        ("job.yaml", "{name: a, folder: /a, runner: {train_data_dir: a, old_key: 1}}", "fault",
         "cannot be read: runner.old_key: 1: there is no such key"),
        ("job.yaml", "runner: [", "fault", "cannot be read: job file"),
        (JOURNAL, '{"event": "ready"}\n{"event"\n{"event": "st', "warning", "1 events, and a last line that is not whole; 1 lines"),
        (JOURNAL, '{"event": "ready"}\n{"event": "st', "ok", "1 events, and a last line that is not whole"),
        ("items.csv", "item,key\nx,1\n", "fault", "line 2: item 'x' is no whole number"),
        ("items.csv", "item,key,title\n0,a,A\n", "ok", "1 items, with titles"),
    ],
)  # fmt: skip
def test_each_file_is_looked_at(name: str, text: str, state: str, said: str, run: Path) -> None:
    (run / name).write_text(text)
    (finding,) = found(run, name)
    assert finding.state == state
    assert said in finding.said


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"is no run's folder: it holds no job\.yaml; `fedps runs`"):
        examine(tmp_path)
    with pytest.raises(JobError, match="nowhere: there is no such folder"):
        examine(tmp_path / "nowhere")
