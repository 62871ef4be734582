"""The job file of vertical training: `vertical` says what all parties agree on, `parties` what each has of its own."""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedps.config import fl_ps
from fedps.config.checks.vertical import mistakes_of
from fedps.config.description import lines_of
from fedps.config.files import ANY, files_in
from fedps.config.job import Allow, Job, VerticalJob
from fedps.config.loading import absolute, beside, follows, override, place_of, placed, tidy, without
from fedps.config.mistakes import VERTICAL, sentence
from fedps.config.source import read
from fedps.errors import JobError

__all__ = [
    "VerticalJob",
    "check_commands",
    "describe",
    "is_vertical",
    "load_vertical",
    "notes_of",
    "shared_part",
    "side_job",
]

SHARED = ("vertical", "hyper_parameters", "ids", "protection")  # sections that all parties must have alike
LOCAL = frozenset({"vertical.address", "vertical.lift", "vertical.restarts"})
FILES = ("data", "test_data")  # of a party


def is_vertical(path: Path) -> bool:
    """Tell whether a job file is of vertical training. Raises JobError: it cannot be read."""
    tree = read(path)
    return "vertical" in tree or fl_ps.is_fl_ps(tree)


def notes_of(path: Path, job: VerticalJob, party: str | None = None, trains: bool = True) -> list[str]:
    """Return what there is to say of a job that is no mistake: keys of the original's that have no effect, what others can read.

    Args:
        path: its file.
        job: the same, read.
        party: whose file it is; None: of all that are in it.
        trains: it is for training; False: for scores of new samples.
    """
    tree = read(path)
    return [*(fl_ps.notes_of(tree) if fl_ps.is_fl_ps(tree) else []), *_open_to_others(job, party, trains)]


def load_vertical(
    path: Path | str, overrides: Sequence[str] = (), party: str | None = None, whole: bool = False
) -> VerticalJob:
    """Read a vertical job file.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value`, the value in YAML's own writing; later ones win.
        party: whose file it is: its part must be there, and its data; those of others need not.
        whole: the parts of all parties must be there, and their data.

    Raises:
        JobError: all mistakes, each with key, value and remedy.
    """
    path = Path(path)
    tree, found = _read(path, overrides)
    tree, wrong = _placed(path, tree), set[str]()
    try:
        job = VerticalJob.model_validate(tree)
    except ValidationError as error:
        errors = [e for e in error.errors() if not follows(e)]
        found += [sentence(e, VERTICAL) for e in errors]
        places = [place_of(e["loc"]) for e in errors]
        wrong = {".".join(names) for names in places}
        job = VerticalJob.model_validate(_complete(without(tree, places)))
    found += mistakes_of(job, wrong, party, whole)
    own = [getattr(one, key) for one in job.parties.values() for key in ("bottom", "top")]
    found += beside(path, job.name, job.folder, [name for name in own if name])
    if found:
        raise JobError(found)
    return job


def describe(path: Path, overrides: Sequence[str] = ()) -> str:
    """Return the resolved job as commented YAML; it is a job file for the same job.

    Raises:
        JobError: all mistakes of the job; a wrong one is not described.
    """
    keys = [text.partition("=")[0].replace(" ", "") for text in overrides]
    return lines_of(load_vertical(path, overrides), _read(path, overrides)[0], keys)


def shared_part(job: VerticalJob) -> dict[str, str]:
    """Return the value, as text, of each key on which all parties must agree."""
    values = job.model_dump(mode="json", by_alias=True)
    found = {}
    for section in SHARED:
        for key, value in values[section].items():
            if f"{section}.{key}" not in LOCAL:
                found[f"{section}.{key}"] = json.dumps(value, sort_keys=True)
    if job.ids.psi_key is not None:  # said to nobody: whoever knows it could try ids
        found["ids.psi_key"] = _hint_of(job.ids.psi_key, job.name)
    if job.parties:  # in a file of several, all are alike
        one = next(iter(job.parties.values()))
        found["parties.NAME.id"] = f"{len(one.id)} column(s)"
        found["parties.NAME.test_data"] = "files of its own" if one.test_data else "none"
    return found


def _open_to_others(job: VerticalJob, party: str | None, trains: bool) -> Iterator[str]:
    """Say what parties on other machines read out of what they are sent."""
    vertical, host = job.vertical, job.vertical.address.rpartition(":")[0].strip("[]")
    if host in ("localhost", "::1") or host.startswith("127."):
        return
    here = [name for name in job.order if name in job.parties and party in (None, name)]
    if trains and vertical.active in here and vertical.loss == "bce" and job.protection.labels == "none":
        yield (
            f"protection.labels: none: {' and '.join(vertical.passive)} can read each sample's label out of gradients;"
            " frozen or label_dp hide them, at a price that `fedps vertical audit` measures"
        )
    for name in here if vertical.network == "DCNv2" else ():
        numbers = [key for key, feature in job.parties[name].features.items() if feature.kind == "number"]
        if name in vertical.passive and numbers:
            yield (
                f"vertical.network: DCNv2: {vertical.active} is sent {', '.join(numbers)} of {name} as they are; DeepFM and MLP"
                " send sums"
            )


@cache
def _hint_of(word: str, job: str) -> str:
    """Return what shows that two words differ, and not which they are: of each 65,536 words that are tried one has it, too."""
    return hashlib.scrypt(word.encode(), salt=f"fedps psi {job}".encode(), n=1 << 14, r=8, p=1, dklen=2).hex()


def check_commands(job: VerticalJob, parties: Iterable[str], allow: Allow) -> None:
    """Make sure that the commands that print some parties' features may be run. Raises JobError: they may not."""
    if not allow.commands and (
        refused := [
            f"parties.{party}.pipe_command: {command!r} is not run without --allow-commands"
            for party in parties
            if (command := job.parties[party].pipe_command) is not None
        ]
    ):
        raise JobError(refused)


def side_job(job: VerticalJob, party: str) -> Job:
    """Return one party's part as a job: what reading files, and making networks of features, are told by."""
    own = job.parties[party]
    return Job.model_validate(
        {
            "name": job.name, "folder": job.folder, "features": own.features, "hyper_parameters": job.hyper_parameters,
            "runner": {
                "train_data_dir": own.data[0].parent, "seed": job.vertical.seed, "worker_num": 1,
                **({"reader_type": "QueueDataset", "pipe_command": own.pipe_command} if own.pipe_command else {}),
            },
        }
    )  # fmt: skip


def _read(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what a file and overrides say, unjudged; and which overrides make no sense.

    Raises:
        JobError: the file cannot be read, or is of another kind.
    """
    tree = read(path)
    if fl_ps.is_fl_ps(tree):
        tree = fl_ps.as_vertical(tree)
    if "vertical" not in tree:
        raise JobError(
            f"job file {path}: has no section vertical, so it is of no vertical training: `fedps run` trains it; or add"
            " `vertical: {active: PARTY, passive: [PARTY]}`"
        )
    found = [mistake for text in overrides if (mistake := override(tree, text))]
    tidy(tree, VerticalJob)
    return tree, found


def _placed(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says with absolute paths."""
    tree = placed(path, tree, {"security": ["certs"]})
    home, parties = Path(str(tree["folder"])), tree.get("parties")
    for own in parties.values() if isinstance(parties, dict) else ():
        for key in FILES if isinstance(own, dict) else ():
            if isinstance(own.get(key), str):
                own[key] = _files_of(absolute(home, own[key]))
            elif isinstance(own.get(key), list):
                own[key] = [absolute(home, one) if isinstance(one, str) else one for one in own[key]]
    return tree


def _files_of(path: str) -> list[str]:
    """Return a file, or all files of a folder, in natural order; a folder without any stays what it is, to be refused."""
    there = files_in(Path(path), ANY) if Path(path).is_dir() else []
    return [str(file) for file in there] or [path]


def _complete(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree with something in place of all that is due, and is missing."""
    tree = {"name": "", "folder": ".", "parties": {}, **copy.deepcopy(tree)}
    tree["vertical"] = {"active": "", "passive": [""], **tree.get("vertical", {})}
    for own in tree["parties"].values():
        own.setdefault("data", ["."])
    return tree
