"""The job file of vertical training: `vertical` says what all parties agree on, `parties` what each has of its own."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from fedps.config.job import Job, LimitSettings
from fedps.config.mistakes import sentence
from fedps.config.sections import Section, Word
from fedps.config.sections.security import Security
from fedps.config.sections.training import HyperParameters
from fedps.config.sections.vertical import Ids, Party, Protection, Vertical
from fedps.config.source import parse, read
from fedps.errors import JobError

SHARED = ("vertical", "hyper_parameters", "ids", "protection")  # sections that all parties must have alike
LOCAL = frozenset({"vertical.address", "vertical.lift"})


class VerticalJob(Section):
    """A vertical job as one party, or `fedps vertical run`, has it: paths are absolute, defaults filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    name: Word = Field(description="the job file's name without its ending")
    folder: Path = Field(description="the job file's own folder, where class paths are looked up")
    vertical: Vertical = Field(description="what all parties agree on")
    hyper_parameters: HyperParameters = Field(
        default_factory=HyperParameters, description="sizes of the network, and its optimizer; all parties the same"
    )
    ids: Ids = Field(Ids(), description="how ids are written; all parties the same")
    protection: Protection = Field(Protection(), description="what hides labels and features; all parties the same")
    parties: dict[str, Party] = Field(
        description="what each party has: {name: {data: …, features: …}}; a party's file has its own alone"
    )
    limits: LimitSettings = Field(LimitSettings(), description="what one peer may ask for")
    security: Security = Field(Security(), description="how connections to other machines are protected")

    @property
    def order(self) -> tuple[str, ...]:
        """All parties, the active one first, then the passive ones as the job has them."""
        return (self.vertical.active, *self.vertical.passive)


def load_vertical(path: Path | str, overrides: Sequence[str] = ()) -> VerticalJob:
    """Read a vertical job file.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value`, the value in YAML's own writing; later ones win.

    Raises:
        JobError: all mistakes, each with key, value and remedy.
    """
    path = Path(path)
    tree, home = read(path), path.resolve().parent
    for text in overrides:
        key, _, value = text.partition("=")
        *above, last = key.split(".")
        at = tree
        for name in above:
            at = at.setdefault(name, {})
        at[last] = parse(value)
    for party in tree.get("parties", {}).values():
        for key in ("data", "test_data"):
            if isinstance(party.get(key), str):
                party[key] = str(home / Path(party[key]).expanduser())
            elif isinstance(party.get(key), list):
                party[key] = [str(home / Path(one).expanduser()) for one in party[key]]
    try:
        return VerticalJob.model_validate({"name": path.stem, "folder": str(home), **tree})
    except ValidationError as error:
        raise JobError([sentence(e) for e in error.errors()]) from None


def shared_part(job: VerticalJob) -> dict[str, str]:
    """Return the value, as text, of each key on which all parties must agree."""
    values = job.model_dump(mode="json", by_alias=True)
    found = {}
    for section in SHARED:
        for key, value in values[section].items():
            if f"{section}.{key}" not in LOCAL:
                found[f"{section}.{key}"] = json.dumps(value, sort_keys=True)
    if job.ids.psi_key is not None:  # said to nobody: whoever knows it could try ids
        found["ids.psi_key"] = hashlib.sha256(f"fedps psi {job.ids.psi_key}".encode()).hexdigest()[:16]
    return found


def side_job(job: VerticalJob, party: str) -> Job:
    """Return one party's part as a job: what reading files, and making networks of features, are told by."""
    own = job.parties[party]
    first = own.data if isinstance(own.data, Path) else own.data[0]
    return Job.model_validate(
        {
            "name": job.name, "folder": job.folder, "features": own.features, "hyper_parameters": job.hyper_parameters,
            "runner": {"train_data_dir": first.parent, "seed": job.vertical.seed, "worker_num": 1},
        }
    )  # fmt: skip
