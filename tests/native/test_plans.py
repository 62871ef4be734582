"""When a step is compiled and when it is not, and what is kept of it."""

import errno
import hashlib
import html
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.errors import JobError
from fedps.launch.inprocess import run_in_process
from fedps.launch.launcher import run
from fedps.models.network import Plan
from fedps.native import compiler
from fedps.training import planning
from fedps.training.plan import find_plan, make_plan
from tests.conftest import MakeJob
from tests.events.kept import into

NEEDS_COMPILER = pytest.mark.skipif(compiler.find_compiler() is None, reason="no C++ compiler here")
HEAD = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, 4), nn.Embedding(num_items, 4)
        self.drop, self.norm, self.shelf = nn.Dropout(0.5), nn.LayerNorm(4), nn.Embedding(7, 4)
    def forward(self, user, item):
        u, i = self.user(user), self.item(item)
        return {result}
"""
UNLIKE_OURS = {
    "(self.drop(u) * i).sum(1)": "otherwise in training|no operation",
    "(self.norm(u) * i).sum(1)": "layer_norm",
    "(u * i).sum(1) - u.mean()": "over samples",
    "(u * (u @ i.T).softmax(1) @ i).sum(1) if False else (u @ i.T).sum(1)": "parameter|transposes",
    "(u * i).sum(1) + self.shelf(item % 7).sum(1)": "no table|remainder",
    "(u * i).sum(1) + self.user.weight.sum()": "otherwise than by looking up|parameter",
    "(u * i).sum(1).cumsum(0)": "cumsum",
    "torch.flip(u * i, [0]).sum(1)": "flip",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the compiler take no pains: it is started anew in each test that wants this."""
    monkeypatch.setattr(compiler, "FLAGS", ("-O0", *compiler.FLAGS[1:]))


def own(make_job: MakeJob, folder: Path, result: str, **runner: object) -> Job:
    (folder / "net.py").write_text(HEAD.format(result=result))
    return make_job(model="net.Net", local_sparse=["user.weight"], **runner)


@NEEDS_COMPILER
@pytest.mark.parametrize("result", UNLIKE_OURS)
def test_what_has_no_operation_of_ours_trains_by_torch(result: str, make_job: MakeJob, tmp_path: Path) -> None:
    plan = make_plan(own(make_job, tmp_path, result))
    assert plan.library == ""
    assert any(word in plan.reason for word in UNLIKE_OURS[result].split("|")), plan.reason


@NEEDS_COMPILER
def test_a_built_in_network_is_planned_once(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    job = make_job()
    assert find_plan(job) is None
    plan = make_plan(job)
    assert find_plan(job) == plan
    assert find_plan(make_job({"fc_layers": [16, 8, 4], "num_users": 121})) is None
    assert find_plan(make_job(seed=7)) is None
    assert find_plan(make_job(compiled_step=False)) is None
    (tmp_path / "cache" / plan.library).unlink()
    assert find_plan(job) is None
    assert make_plan(job) == plan


@NEEDS_COMPILER
@pytest.mark.parametrize("damage", [b"", b"\x93", b"torn" * 100])
def test_a_torn_plan_is_made_anew(
    damage: bytes, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    job = make_job()
    plan = make_plan(job)
    [file] = (tmp_path / "cache").glob("plan-*.bin")
    file.write_bytes(damage)
    assert make_plan(job) == plan == find_plan(job)


def test_without_a_compiler_torch_trains(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    job = make_job()
    plan = make_plan(job)
    assert (plan.library, plan.reason.partition(":")[0]) == ("", "no C++ compiler")
    assert list((tmp_path / "cache").glob("*")) == []
    events: list[dict[str, object]] = []
    run_in_process(job, tmp_path / "run", into(events), plan=plan)
    assert sum(e["event"] == "epoch_end" for e in events) == 10
    assert "by torch (no C++ compiler" in (tmp_path / "run" / "log" / "workerlog.0").read_text()


def test_people_are_told_that_torch_trains_and_why(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("CXX", raising=False)
    summary = run(make_job(), tmp_path / "run", in_process=True)
    reason = summary["engine"]["reason"]
    assert summary["engine"]["steps"] == "torch"
    assert reason.startswith("no C++ compiler: none of c++")
    assert reason.endswith("install one (a compiled step is 4 to 7 times as fast)")
    said = capsys.readouterr().err
    assert f"training steps by torch, not compiled: {reason}" in said
    assert said.count(reason) == 2, "as it begins, and in the closing table"
    assert reason in html.unescape((tmp_path / "run" / "report.html").read_text())


def test_a_compiler_that_fails_is_named(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "false")
    plan = make_plan(make_job())
    assert plan.library == ""
    assert "false ended with exit code 1" in plan.reason
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exec sleep 60", "timed out after 0.2 seconds"),
        ("[ $1 = --version ] || { printf '\\377 error: no\\n' >&2; exit 1; }", "exit code 1: \ufffd error: no"),
    ],
)
def test_a_compiler_that_hangs_or_speaks_no_utf_8_leaves_it_to_torch(
    script: str, said: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c++").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    if "sleep" in script:
        monkeypatch.setattr(compiler, "LONGEST", 0.2)
    plan = make_plan(make_job())
    assert plan.library == ""
    assert said in plan.reason


@NEEDS_COMPILER
@pytest.mark.parametrize("mode", [0o777, 0o2770])
def test_code_is_not_loaded_from_where_others_could_write(
    mode: int, quick: None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder is closed, and what lay there is made anew: it may be anybody's, whatever its name says."""
    home = tmp_path / "cache"
    monkeypatch.setenv("FEDPS_CACHE", str(home))
    job = make_job()
    before = make_plan(job)
    planted = library_of(b"not ours", before.library)
    (home / planted).write_bytes(b"not ours")
    (home / "ml-1m.zip").write_bytes(b"the user's")
    home.chmod(mode)
    assert find_plan(job) is None
    plan = make_plan(job)
    assert (plan.library, plan.reason) == (before.library, "")
    assert [note.partition("; ")[0] for note in plan.notes] == [f"{home}: others could write to it"]
    assert home.stat().st_mode & 0o7777 == mode & ~0o022
    assert not (home / planted).exists()
    assert (home / "ml-1m.zip").exists()
    assert make_plan(job).notes == (), "said once"


def test_code_is_not_loaded_from_another_users_folder(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o775)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    plan = make_plan(make_job())
    assert plan.library == ""
    assert "is another user's" in plan.reason
    assert "4 to 7 times as fast" in plan.reason


@NEEDS_COMPILER
def test_a_cache_made_with_any_umask_is_closed(
    quick: None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "deep" / "cache"))
    before = os.umask(0o002)
    try:
        plan = make_plan(make_job())
    finally:
        os.umask(before)
    assert (plan.reason, plan.notes) == ("", ())
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "deep" / "cache").iterdir()} <= {0o400, 0o600}


@NEEDS_COMPILER
@pytest.mark.parametrize("fault", ["noexec", "full"])
def test_a_disk_that_keeps_no_step_is_named_with_the_variable_that_leads_elsewhere(
    fault: str, quick: None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEDPS_CACHE", str(cache))
    if fault == "full":
        monkeypatch.setattr(compiler, "write_whole", full)
    else:
        monkeypatch.setattr(compiler, "fault_of", lambda library: "cannot be loaded: failed to map segment")
    plan = make_plan(make_job())
    assert plan.library == ""
    word = "No space left" if fault == "full" else "failed to map segment.*noexec"
    assert re.search(rf"{cache}.*{word}.*set FEDPS_CACHE to a folder elsewhere", plan.reason)
    assert list(cache.glob("step-*")) == []


def full(path: Path, payload: bytes, mode: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def library_of(code: bytes, like: str) -> str:
    """Return what a library of this content would be called, with the key of another."""
    return f"{like.rpartition('-')[0]}-{hashlib.sha256(code).hexdigest()[:32]}.so"


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("network", "damage"),
    [("built in", "empty"), ("built in", "cut"), ("built in", "another"), ("own", "empty"), ("own", "does not load")],
)
def test_a_library_that_is_not_what_was_compiled_is_discarded_and_compiled_again(
    network: str, damage: str, quick: None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEDPS_CACHE", str(cache))
    job = make_job() if network == "built in" else own(make_job, tmp_path, "(u * i).sum(1)")
    before = make_plan(job)
    library = cache / before.library
    whole = library.read_bytes()
    library.unlink()  # the one that is loaded already stays as it is
    if damage == "does not load":  # as one compiled where the C library is newer
        library = cache / library_of(b"not for this machine", before.library)
        library.write_bytes(b"not for this machine")
    else:
        library.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "another": whole[:-1] + b"x"}[damage])
    plan = make_plan(job)
    assert (plan.library, plan.reason) == (before.library, "")
    assert (cache / plan.library).read_bytes() == whole
    assert [f.name for f in cache.glob("step-*")] == [plan.library]
    [note] = plan.notes
    assert note.startswith(f"{library}: ")
    assert "compiled again" in note
    assert make_plan(job).notes == (), "said once"


@NEEDS_COMPILER
def test_what_several_need_at_once_is_compiled_once(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path))
    made, compile_ = list[str](), compiler._compile

    def spy(*args: Any) -> Path:
        made.append(args[-1])
        return compile_(*args)

    monkeypatch.setattr(compiler, "_compile", spy)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: compiler.compiled('extern "C" int answer() { return 42; }', []), range(4)))
    assert len(made) == 1
    assert set(tmp_path.iterdir()) == paths


@NEEDS_COMPILER
def test_a_plan_that_another_makes_meanwhile_is_waited_for(
    make_job: MakeJob, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    job, made, plan_network = make_job(), list[Job](), planning.plan_network

    def spy(job: Job) -> Plan:
        made.append(job)
        return plan_network(job)

    monkeypatch.setattr(planning, "plan_network", spy)
    with ThreadPoolExecutor(3) as pool:
        plans = list(pool.map(make_plan, [job] * 3))
    assert (len(made), len({plan.library for plan in plans})) == (1, 1)


@NEEDS_COMPILER
@pytest.mark.parametrize("memory", ["there", "not there"])
def test_a_library_is_read_only_and_loads_with_and_without_memory_to_load_it_from(
    memory: str, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path))
    if memory == "not there":  # not Linux, or programs may not run from it
        monkeypatch.delattr(os, "memfd_create", raising=False)
    path = compiler.compiled(f'extern "C" int answer() {{ return {len(memory)}; }}', [])
    assert path.stat().st_mode & 0o777 == 0o400
    assert compiler.load(path).answer() == len(memory)
    assert compiler.load(path) is compiler.load(path)


@NEEDS_COMPILER
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux loads a copy")
@pytest.mark.parametrize("damage", ["os.truncate(path, 0)", "path.write_bytes(bytes(path.stat().st_size))"])
def test_a_worker_goes_on_when_its_library_is_cut_short_or_written_over(
    damage: str, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Mapped from its file, it would end the process (SIGBUS, or a jump into nothing)."""
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path))
    path = compiler.compiled('extern "C" int fedps_train() { return 7; }', [])
    program = (
        "import os, pathlib, sys; from fedps.native.compiler import load; path = pathlib.Path(sys.argv[1]);"
        f"library = load(path); path.chmod(0o600); {damage}; print(library.fedps_train())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def test_a_graphics_processor_that_is_not_there(make_job: MakeJob) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(JobError, match=r"runner.use_gpu: true, but torch finds no CUDA device"):
        make_plan(make_job(use_gpu=True))


@NEEDS_COMPILER
def test_a_worker_with_a_compiled_step_never_loads_torch(make_job: MakeJob, tmp_path: Path) -> None:
    """Ten workers with torch would cost ten times its memory; a worker without it starts at once."""
    job = make_job(epochs=1)
    make_plan(job)
    program = (
        "import sys\nfrom pathlib import Path\nfrom fedps.config import load_job\n"
        "from fedps.launch.inprocess import run_in_process\n"
        f"run_in_process(load_job(Path({str(tmp_path / 'job.yaml')!r})), Path({str(tmp_path / 'run')!r}), lambda e: None)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
