"""What a client needs of the job's network: its description and, where there can be one, its compiled step.

Made once by torch, then kept on disk: a worker that finds it there needs no torch. A built-in network is known by the
job's own keys; a user's may change with any file, so it is described and traced anew in each run, once, by the launcher,
and only what that comes to is kept.
"""

import hashlib
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from fedps.cache import CacheError, cache_folder, in_turn
from fedps.config import Job
from fedps.errors import JobError, needing_torch
from fedps.events.events import Checked
from fedps.models.network import Plan, built_in
from fedps.native import compiler
from fedps.storage.whole import write_whole
from fedps.training.parameters import read_parameters
from fedps.types import TableSpec
from fedps.wire.pieces import misfits

ROOMS = ("native", "models")  # of this package: what a plan is made by


def find_plan(job: Job) -> Plan | None:
    """Return the plan of a job whose network is built in, if it was made before; this needs no torch."""
    if job.runner.model is not None or not _wanted(job):
        return None
    with suppress(CacheError, OSError, msgspec.DecodeError, msgspec.ValidationError):
        return read_plan(cache_folder() / _file(job))
    return None


def read_plan(path: Path) -> Plan:
    """Read a plan that `make_plan` has kept.

    Raises:
        OSError: it cannot be read, or its compiled step cannot be used.
        msgspec.DecodeError: it is torn.
    """
    plan = msgspec.msgpack.decode(path.read_bytes(), type=Plan)
    if plan.library and (fault := compiler.fault_of(path.parent / plan.library)):
        raise OSError(f"{plan.library}: {fault}")
    return plan


def make_plan(job: Job) -> Plan:
    """Return a job's plan, from the cache or made anew; what was made is kept if that helps the next.

    Raises:
        JobError: the network cannot be built, or `use_gpu` finds no CUDA device.
    """
    if (known := find_plan(job)) is not None:
        return known
    with _in_turn(job):  # workers that are started by hand all come here at once
        return find_plan(job) or _make(job)


def _in_turn(job: Job) -> AbstractContextManager[None]:
    """Let one process after the other make a plan that is kept."""
    if job.runner.model is None and _wanted(job):
        with suppress(CacheError):
            return in_turn(cache_folder() / f"{_file(job)}.lock")
    return nullcontext()


def _make(job: Job) -> Plan:
    with needing_torch():
        from fedps.training.planning import plan_network  # noqa: PLC0415  (imports torch)

    plan = plan_network(job)
    if plan.library and job.runner.model is None:
        keep_plan(plan, _file(job))
    return plan


def look_at(job: Job) -> Checked:
    """Say where a job's parameters would live, without compiling anything; for NCF this needs no torch.

    Raises:
        JobError: the network cannot be built, or does not fit the job.
    """
    if job.runner.model is None and (known := built_in(job.hyper_parameters)) is not None:
        return described(Plan(known), job)
    with needing_torch():
        from fedps.models.build import build  # noqa: PLC0415  (imports torch)
        from fedps.models.describe import describe  # noqa: PLC0415  (imports torch)

    return described(Plan(describe(build(job))), job)


def keep_plan(plan: Plan, name: str = "") -> Path | None:
    """Write a plan to the cache, under its content's name if it is given none; None if it cannot be written."""
    data = msgspec.msgpack.encode(msgspec.structs.replace(plan, notes=()))
    name = name or f"plan-{hashlib.sha256(data).hexdigest()[:32]}.bin"
    with suppress(CacheError, OSError):
        path = cache_folder() / name
        write_whole(path, data)
        return path
    return None


def described(plan: Plan, job: Job) -> Checked:
    """Look for mistakes that only the network shows; say where its parameters live, and by what steps are taken.

    Raises:
        JobError: a table's name matches nothing, or a shared parameter passes what servers hold and messages carry.
    """
    parts, shapes = read_parameters(plan.network, job), dict(plan.network.dense)
    shared = [e.spec for e in parts.embeddings if not e.private]
    shared += [TableSpec(name, "dense", shapes[name]) for name in parts.dense]
    if mistakes := misfits(shared, job.runner.server_num, job.limits.message_mib):
        raise JobError(mistakes)
    tables = {private: [e.spec.name for e in parts.embeddings if e.private is private] for private in (True, False)}
    return Checked(
        mistakes=[],
        private=[*tables[True], *parts.private_dense],
        shared=[*tables[False], *parts.dense],
        engine="compiled" if plan.library else "torch",
        reason=plan.reason,
        notes=list(plan.notes),
    )


def _wanted(job: Job) -> bool:
    return job.runner.compiled_step and not job.runner.use_gpu


def _file(job: Job) -> str:
    """Return the name of a built-in network's plan: a digest of all that it follows from."""
    sizes = job.hyper_parameters.model_dump(exclude={"optimizer"}), [(n, f.model_dump()) for n, f in job.inputs.items()]
    facts = (sizes, job.group, job.runner.seed, made_by(), compiler.FLAGS, compiler.machine())
    return f"plan-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.bin"


@cache  # the process that workers are forked from has asked already
def made_by() -> tuple[str, ...]:
    """Return what tells this version of torch, numpy and ourselves from others."""
    home = Path(__file__).parents[1]
    sources = [f for room in ROOMS for f in sorted((home / room).iterdir()) if f.suffix in (".py", ".hpp")]
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in (*sources, home / "training" / "planning.py")))
    return (_version("torch"), _version("numpy"), digest.hexdigest())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
