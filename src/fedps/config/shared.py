"""What all roles of one run must agree on: each such key with its value, or how a long one begins and its digest.

A run whose roles read different jobs trains something that nobody asked for: a server that merges by another rule, a
client that trains with another optimizer. So a client says its values in its greeting, and a run folder is joined only
by roles of the same job. All keys are compared but those of `LOCAL`, which each machine may have its own way.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fedps.config.job import Job

LOCAL = frozenset(
    {
        "name", "folder",  # the name is said in the clear, and the folder is this machine's
        "runner.server_num", "runner.with_coordinator",  # by flags, which not every role is given
        "runner.train_data_dir", "runner.test_data_dir", "runner.reader_type", "runner.pipe_command",
        "runner.train_reader_path", "runner.infer_reader_type", "runner.infer_reader_path", "runner.thread_num",
        "runner.split_file_list", "runner.bad_lines", "runner.example_count_method",
        "runner.infer_batch_size", "runner.print_interval", "runner.dataset_debug", "runner.compiled_step", "runner.use_gpu",
        "runner.need_dump", "runner.dump_fields_path", "runner.dump_fields", "runner.dump_param",
        "runner.model_save_path", "runner.model_readers", "runner.keep_epochs", "runner.warmup_model_path",
        "runner.fl_client",
        "runner.infer_load_path", "runner.infer_start_epoch", "runner.infer_end_epoch",
        "runner.start_timeout", "runner.restarts", "selector.timeout",
        "security.certs", "security.insecure", "security.clients", "limits.rows_mib",
    }
)  # fmt: skip
NETWORK = (  # where clients distill, they share predictions alone, and each may have a network of its own
    "hyper_parameters.", "table_parameters.", "runner.model", "runner.local_sparse", "runner.remote_sparse",
    "runner.local_dense",
)  # fmt: skip
PLACES = (
    "simulation.traces",
    "distillation.public_data",
)  # where the file lies may differ, but not whether there is one
MAY_CHANGE = ("runner.worker_num",)  # where a run goes on
OWN_FILES = ("column", "separator", "optional")  # of a feature: each client's own
LONG = 40  # characters of a value that is said whole; of a longer one so many are, with its digest


def shared_part(job: Job) -> dict[str, str]:
    """Return the value, as text, of each key on which all roles of a run must agree, in the order of the job file."""
    values = job.model_dump(mode="json", by_alias=True)
    own = NETWORK if job.public_data else ()
    shared = ((key, value) for key, value in _leaves(job, values) if key not in LOCAL and not key.startswith(own))
    return {key: _said(value, values["folder"]) for key, value in shared}


def digest_of(job: Job) -> str:
    """Return the SHA-256 of that part: two jobs that may train together have the same."""
    return hashlib.sha256(json.dumps(shared_part(job), sort_keys=True).encode()).hexdigest()


def lasting_part(job: Job) -> dict[str, str]:
    """Return the same but what may have changed where a run goes on that was broken off."""
    return {key: value for key, value in shared_part(job).items() if key not in MAY_CHANGE}


def first_difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Return the first key in which two jobs differ, with both values as `shared_part` says them; None if they agree.

    Features come first, as other keys follow from them; then a key that both have: one that only one has may follow from it.
    """
    in_both = [key for key in ours if key in theirs]
    keys = sorted([*in_both, *ours, *theirs], key=lambda key: not key.startswith("features."))
    key = next((key for key in keys if ours.get(key) != theirs.get(key)), None)
    if key is None:
        return None
    here, there = (part.get(key, "nothing")[: 2 * LONG] for part in (ours, theirs))  # theirs may be anything
    return f"{key[:99]}: {here} here, {there} there"


def _leaves(section: BaseModel, values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a section with their values; what the job says of one table counts as one."""
    below = {field.alias or name: getattr(section, name) for name, field in type(section).model_fields.items()}
    for key, value in values.items():
        if isinstance(part := below.get(key), BaseModel):
            yield from _leaves(part, value, f"{above}{key}.")
        elif key == "features":
            yield from (
                (f"{key}.{name}.{k}", v)
                for name, one in sorted(value.items())
                for k, v in one.items()
                if k not in OWN_FILES
            )
        elif key == "table_parameters":
            yield from ((f"{key}.{name}", one) for name, one in sorted(value.items()))
        else:
            yield above + key, value is not None if above + key in PLACES else value


def _said(value: Any, folder: str) -> str:
    """Write a value; a path below the job's folder, as {workspace} makes it, counts from there.

    A digest is 8 hexadecimal digits: enough to notice a mistake.
    """
    text = json.dumps(value, sort_keys=True).replace(json.dumps(folder)[1:-1], "{workspace}")
    if len(text) <= LONG:
        return text
    return f"{text[:LONG]}… (digest {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()})"
