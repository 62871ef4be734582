"""A small job whose roles are started one by one, or by a launcher, one of them under a fault; who dies is started again."""

import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fedps.data.prepare.synth import synthesize
from fedps.data.prepare.write import Split
from fedps.events.journal import JOURNAL, read_journal
from fedps.storage import snapshot
from fedps.table.rules import rowless
from tests.crash.roles import CALLS, WRONG, Call, Fault, Role, calls_of, paths_of
from tests.ports import free_address

CLIENTS = 2
LIVES = 3  # of a role, at most
PATIENCE = 240.0  # seconds for a run, on a loaded machine
BACK = 1.5  # seconds until a lasting fault is over
TRACEBACK = "Traceback (most recent call last)"
RESULT = re.compile(r"[^/]+/(model/\d+/[^.].*|private/\d+/\d+/[^.].*|summary.*\.json)")  # files that a run leaves
GENERATION = re.compile(r"\.[0-9]+\.(?=json|safetensors)")  # of a file that was written again
PARTICULAR = (
    "run",
    "witnesses",
    "check",
    "sha256",
)  # of what they say: each run's own, and what follows from the arrays


class Outcome(NamedTuple):
    """What came of a run under a fault.

    Attributes:
        fault: which.
        kind: in a few words.
        said: why, for people.
    """

    fault: Fault
    kind: str
    said: str = ""

    @property
    def good(self) -> bool:
        """Whether that may come of it."""
        return self.kind in GOOD


RESUMED, WENT_ON, REFUSED = "resumed, exact", "went on, exact", "refused with a reason, then exact"
AGAIN, WITHOUT = "a worker trained again from its checkpoint", "went on, an epoch not saved, and said so"
UNBEGUN = "had not begun: another folder is asked for"
LEFT, MISSED = "had taken leave: says that nobody listens", "not reached"
GOOD = (RESUMED, WENT_ON, REFUSED, AGAIN, WITHOUT, UNBEGUN, LEFT, MISSED)
ITS_OWN = re.compile(r"worker-\d/(model|summary)")
BETWEEN = re.compile(r"worker-\d/private/\d/1/")  # epochs before the last that a worker may die before it saves
UNSAVED = re.compile(r"(?:epoch|round) (\d+) is not saved: .*(?:free space|see to this disk)")


def write_job(folder: Path, slow: float = 1.0) -> Path:
    """Write a job that trains for two epochs in step, and its data; return its file; `slow`: limits of time, so many-fold."""
    synthesize(folder / "data", users=8, items=200, per_user=6, split=Split("iid", CLIENTS), seed=1)
    tree = {
        "runner": {
            "train_data_dir": "data/train", "test_data_dir": "data/test", "train_batch_size": 16, "geo_step": 4,
            "geo_merge": "heat", "epochs": 2, "worker_num": CLIENTS, "with_coordinator": True, "checkpoint_every": 4,
            "local_sparse": ["embedding_0.w_0"], "reconnect_timeout": 15.0 * slow, "start_timeout": 15.0 * slow,
            "step_timeout": 60.0 * slow,
        },
        "hyper_parameters": {"num_users": 8, "num_items": 200, "fc_layers": [8, 4]},
    }  # fmt: skip
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


class Run:
    """A run of a job, whose roles are processes that are traced, and started again when they die.

    Args:
        folder: made anew; holds the run's, and what roles say.

    Attributes:
        roles: by name.
        hung: who did not come to an end.
    """

    TRACE: tuple[str, ...] = ("-f",)  # how roles are traced
    patience = PATIENCE

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.hung = folder, ""
        self.roles: dict[str, Role] = {}

    def calm(self) -> list[Call]:
        """Play to the end, undisturbed; return the calls that could have been.

        Raises:
            AssertionError: a role fails.
        """
        traces = {name: self.folder / f"{name}.trace" for name in self.roles}
        for name, role in self.roles.items():
            role.start(*self.TRACE, "-y", "-s", 0, "-o", traces[name], "-e", f"trace={','.join(CALLS)}")
        self._to_the_end()
        broken = [f"{name}: {role.code}: {role.said[-2000:]}" for name, role in self.roles.items() if role.lives > 1]
        assert not broken and not self.hung, (broken, self.hung)
        return [call for name, trace in traces.items() for call in calls_of(name, trace, self.roles[name].folder)]

    def disturbed(self, fault: Fault, lives: int = LIVES) -> list[tuple[str, int]]:
        """Play to the end under a fault; return who ended with which code other than 0.

        Args:
            fault: which.
            lives: how many processes a role may have.
        """
        call, trace = fault.call, self.folder / "fault.trace"
        how = "signal=SIGKILL" if fault.kind == "SIGKILL" else f"error={fault.kind}"
        when = f"when={call.nth}{'+' if fault.lasting else ''}"
        for name, role in self.roles.items():
            if name == call.role:
                paths = [word for path in paths_of(call, role.folder) for word in ("-P", path)]
                inject = ("-e", f"trace={call.name}", "-e", f"inject={call.name}:{how}:{when}")
                role.start(*self.TRACE, "-o", trace, *paths, *inject)
            else:
                role.start()
        return self._to_the_end(lives, self.roles[call.role] if fault.lasting else None)

    @property
    def reached(self) -> bool:
        """Whether the fault's call was made."""
        trace = (self.folder / "fault.trace").read_text(errors="replace")
        return "INJECTED" in trace or "killed by SIGKILL" in trace

    def _to_the_end(self, lives: int = LIVES, lasting: Role | None = None) -> list[tuple[str, int]]:
        ends = list[tuple[str, int]]()
        deadline, reached_at = time.monotonic() + self.patience, 0.0
        left = list(self.roles.values())
        while left:
            for role in [role for role in left if role.ended()]:
                if role.code:
                    ends.append((role.name, role.code))
                alone = len(left) == 1 and role.lives > 1 and len(self.roles) > 1  # nobody is left for a third try
                if not role.code or role.lives == lives or alone:
                    left.remove(role)
                else:
                    role.start()
            if lasting is not None and lasting.traced:
                reached_at = reached_at or time.monotonic() * self.reached
                if reached_at and time.monotonic() > reached_at + BACK:
                    lasting.let_go()
            if time.monotonic() > deadline:
                self.hung = ", ".join(role.name for role in left)
                for role in left:
                    role.kill()
                break
            time.sleep(0.01)
        return ends


class Apart(Run):
    """A run whose roles are started one by one, each by its own command.

    Args:
        job: the job's file.
        folder: made anew.
    """

    def __init__(self, job: Path, folder: Path) -> None:
        super().__init__(folder)
        server, coordinator = ("--servers", free_address()), ("--coordinators", free_address())
        words: dict[str, tuple[object, ...]] = {
            "server-0": ("server", job, *server),
            "coordinator-0": ("coordinator", job, *coordinator),
            **{f"worker-{k}": ("worker", job, "--client", k, *server, *coordinator) for k in range(CLIENTS)},
        }
        for name, of in words.items():
            self.roles[name] = Role(name, [*of, "--run_dir", folder / name], folder / name)


class Launched(Run):
    """A run that `fedps run` begins, and `fedps run --resume` goes on with; its launcher alone is traced.

    Args:
        job: the job's file.
        folder: made anew.
        broken: the folder of a run that was broken off; a copy of it goes on from the first.
    """

    TRACE = ()

    def __init__(self, job: Path, folder: Path, broken: Path | None = None) -> None:
        super().__init__(folder)
        name, run_dir = ("resumed" if broken else "launcher"), folder / "launcher"
        if broken:
            shutil.copytree(broken, run_dir)
        begin, go_on = ("run", job, "--run_dir", run_dir), ("run", "--resume", run_dir)
        self.roles[name] = Role(name, go_on if broken else begin, run_dir, go_on)


def judge(run: Run, fault: Fault, ends: Sequence[tuple[str, int]], calm: Path) -> Outcome:
    """Say what came of a run under a fault, beside a calm one's folder."""
    said = "\n".join(
        f"--- {name}\n{role.said}" for name, role in run.roles.items() if role.lives > 1 or TRACEBACK in role.said
    )
    if run.hung:
        return Outcome(fault, f"hung: {run.hung}", said)
    if TRACEBACK in said:
        return Outcome(fault, "a traceback", said)
    missing = {*results(calm)} - {*results(run.folder)}
    if isinstance(run, Launched) and _refused_unbegun(run):
        return Outcome(fault, UNBEGUN, said)
    if lost := [name for name, role in run.roles.items() if role.code]:
        # All had reported the last round; it would have copied the model that the servers have saved.
        left = all(map(ITS_OWN.match, differences(calm, run.folder)))
        if left and all("nobody listens there after" in run.roles[name].said for name in lost):
            return Outcome(fault, LEFT, said)
        return Outcome(fault, f"never came to an end: {', '.join(lost)}", said)
    if differ := differences(calm, run.folder):
        if any(name.startswith("worker") for name, _ in ends) and all(map(BETWEEN.match, missing)):
            return Outcome(fault, AGAIN, said)  # servers keep all they have, where one worker alone goes on
        unsaved = {
            f"{_saves(name)}/{epoch}" for name, role in run.roles.items() for epoch in UNSAVED.findall(role.said)
        }
        if not ends and {name.rpartition("/")[0] for name in differ} <= unsaved:
            return Outcome(fault, WITHOUT, said)
        return Outcome(fault, f"differs: {', '.join(differ)}", said)
    if not run.reached:
        return Outcome(fault, MISSED)
    killed, refused = (any((code < 0) == by_kill for _, code in ends) for by_kill in (True, False))
    return Outcome(fault, REFUSED if refused else RESUMED if killed else WENT_ON, said)


def _saves(role: str) -> str:
    """Return the folder in which a role, or those of a launcher, save epochs."""
    kind, _, number = role.partition("-")
    return f"{role}/private/{number}" if kind == "worker" else f"{role}/model"


def _refused_unbegun(run: Launched) -> bool:
    """Whether nobody had begun to train when the launcher died, and people are told to take another folder."""
    (launcher,) = run.roles.values()
    journal = launcher.folder / JOURNAL
    begun = journal.exists() and any(entry["event"] == "epoch_begin" for entry in read_journal(journal))
    return launcher.code == WRONG and not begun and "choose another folder" in launcher.said


def differences(calm: Path, run: Path) -> list[str]:
    """Return which of the files that a run left say something else than a calm one's."""
    ours, theirs = results(run), results(calm)
    return [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def results(run: Path) -> dict[str, object]:
    """Return what no fault may change: arrays to the bit, what is said of them, and figures."""
    found: dict[str, object] = {}
    for path in run.rglob("*"):
        name = GENERATION.sub(".", str(path.relative_to(run)))
        if not RESULT.fullmatch(name):
            continue
        if path.suffix == ".safetensors" and not path.with_suffix(".json").exists():
            continue  # whoever died before that was written has saved nothing
        if path.name.startswith("summary"):
            found[name] = _figures(json.loads(path.read_bytes()))
        elif path.suffix == ".json":
            found[name] = _alike(json.loads(path.read_bytes()))
        elif path.name.startswith("server"):
            found[name] = _rows(path)
        else:
            found[name] = path.read_bytes()
    return found


def _rows(path: Path) -> dict[str, tuple[bytes, bytes]]:
    """Return a server's rows, without those that stand as they started: who only pulled them left no record of it."""
    tables, _ = snapshot.load(path.parent, path.stem)
    found = {}
    for name, (spec, keys, block) in tables.items():
        changed = np.ones(len(block), np.bool_)
        if spec.kind == "sparse":
            changed = (block[:, : spec.dim] != rowless(spec, keys)).any(axis=1) | block[:, spec.dim :].any(axis=1)
        found[name] = keys[changed[: len(keys)]].tobytes(), block[changed].tobytes()
    return found


def _alike(said: Any) -> Any:
    if isinstance(said, dict):
        return {key: _alike(of) for key, of in said.items() if key not in PARTICULAR}
    return said


def _figures(summary: dict[str, Any]) -> list[Any]:
    """Return what a summary says of the end; the rest counts, of a role that died, from its restart on."""
    return [summary["status"], summary["error"]]
