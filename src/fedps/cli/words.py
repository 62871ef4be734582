"""What the words of `fedps run` that stand without a flag are: the job file, a folder of data, a script and what it takes."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from fedps.cli.app import named, note
from fedps.cli.first import write_job
from fedps.errors import JobError

BUILT_IN = ("static_fl_trainer.py", "static_ps_trainer.py")  # the original's trainers: ours does what they do
SCORING = ("static_infer.py", "static_ps_infer.py", "evaluate.py")  # the original's tools that `fedps infer` stands for
ITS_TOOL = re.compile(r"^\s*(?:from|import)\s+utils\.static_ps\b", re.MULTILINE)  # what only they import
OURS = re.compile(r"^\s*(?:from|import)\s+fedps\b", re.MULTILINE)


class Request(NamedTuple):
    """What the words without a flag ask `fedps run` for."""

    job: Path | None
    script: Path | None = None
    args: tuple[str, ...] = ()

    @property
    def scripted(self) -> Any:
        """What plays the roles, as the launcher takes it; None: they are built in."""
        from fedps.events.events import Scripted  # noqa: PLC0415

        return self.script and Scripted(str(self.script.resolve()), list(self.args), str(Path.cwd()))


def read_words(words: tuple[str, ...], job: Path | None, alone: bool = True) -> Request:
    """Tell the job file, the script and the script's own arguments apart; not `alone`, they need not name a job.

    Raises:
        JobError: two job files, a script that is not there, or a word that is none of these.
    """
    script, rest = None, list[str]()
    for word in words:
        path = Path(word)
        if path.suffix in (".yaml", ".yml") and not rest and (script is None or job is None):
            if job is not None:
                raise JobError(f"{word}: is a second job file beside {job}; give one")
            job = path
        elif path.suffix == ".py" and script is None:
            script = path
        elif job is None and not rest and path.is_dir():
            job = _job_of(path)
        else:
            rest.append(word)
    if script is None and rest:
        raise JobError(f"{rest[0]!r}: is neither a job file (.yaml, .yml) nor a training script (.py), nor a folder")
    if script is not None and (why := _built_in(script)):
        if rest:
            raise JobError(f"{rest[0]!r}: is nothing that the built-in trainer takes ({script} {why}); leave it out")
        note(f"{script}: {why}; the built-in trainer does its work")
        script = None
    return Request(named(job) if alone else job, script, tuple(rest))


def _job_of(data_dir: Path) -> Path:
    """Return the job beside prepared data; where there is none yet, a first one is written.

    Raises:
        JobError: the folder holds no prepared data, or cannot be written.
    """
    file = data_dir / "job.yaml"
    if not file.exists():
        proposal = write_job(data_dir, file)
        note(
            f"{file}: is written, a first job for this data; its comments say what to change, and then: {proposal.command}"
        )
    return file


def _built_in(script: Path) -> str | None:
    """Say why the built-in trainer does a script's work; None if the script is the user's own.

    Raises:
        JobError: there is no such script, or it does not train.
    """
    there = script.is_file()
    text = script.read_text("utf-8", "replace") if there else ""
    if OURS.search(text):
        return None
    if script.name in SCORING:
        raise JobError(f"{script}: scores a model that was trained; write `fedps infer JOB.yaml`")
    if script.name in BUILT_IN:
        return "is PaddleRec's" if there else "is not there"
    if not there:
        raise JobError(f"{script}: there is no such script; correct the path")
    return "is made for PaddleRec (it imports utils.static_ps)" if ITS_TOOL.search(text) else None
