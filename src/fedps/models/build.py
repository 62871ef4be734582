"""From a job to its network: a built-in one by mode, or a user's own by class path.

A class path runs code, so it is looked up only in the job file's own folder and in installed packages, and is printed.
"""

import importlib
import inspect
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedps.config import Job
from fedps.errors import JobError
from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf


def build(job: Job) -> nn.Module:
    """Return the job's network, freshly started from the job's seed.

    Raises:
        JobError: the class path leads nowhere, or the class cannot be made from the hyper-parameters.
    """
    torch.manual_seed(zlib.crc32(f"model {job.runner.seed}".encode()))
    hyper = job.hyper_parameters
    if job.runner.model is not None:
        return _own(job, job.runner.model)
    if hyper.mode == "NCF_GMF":
        return NcfGmf(hyper.num_users, hyper.num_items, hyper.mf_dim)
    if hyper.mode == "NCF_MLP":
        return NcfMlp(hyper.num_users, hyper.num_items, hyper.fc_layers)
    return NcfNeuMf(hyper.num_users, hyper.num_items, hyper.mf_dim, hyper.fc_layers)


def _own(job: Job, path: str) -> nn.Module:
    kind = _resolve(path, job.folder)
    hyper: dict[str, Any] = {n: getattr(job.hyper_parameters, n) for n in type(job.hyper_parameters).model_fields}
    extra = job.hyper_parameters.model_extra or {}
    accepted = inspect.signature(kind).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    unknown = [key for key in extra if key not in accepted and not takes_all]
    if unknown:
        raise JobError([f"hyper_parameters.{k}: {extra[k]!r}: {path} takes {', '.join(accepted) or 'nothing'}" for k in unknown])
    given = {k: v for k, v in {**hyper, **extra}.items() if k in accepted or (takes_all and k in extra)}
    try:
        model = kind(**given)
    except Exception as error:  # whatever a user's class raises
        raise JobError(f"runner.model: {path!r} cannot be made from {given}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise JobError(f"runner.model: {path!r} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def _resolve(path: str, folder: Path) -> Any:
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise JobError(f"runner.model: {path!r}: write module.Class, e.g. net.MyNet for net.py beside the job file")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise JobError(f"runner.model: {path!r}: no module {module_name!r} in {folder} nor installed: {error}") from error
    kind = getattr(module, class_name, None)
    if not inspect.isclass(kind):
        there = [n for n, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        raise JobError(f"runner.model: {path!r}: no class {class_name!r} in {module.__file__}; there are {', '.join(there) or 'none'}")
    print(f"model: {path} from {module.__file__}", flush=True)
    return kind
