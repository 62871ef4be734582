"""From a job to its network: a built-in one by `mode`, or a class of the user's own by `runner.model`.

A class path is looked up in the job file's own folder and among installed packages, nowhere else, and where
it was found is printed. The start of all weights follows from the job's seed; torch's global generator is put
back as it was.
"""

import importlib
import importlib.util
import inspect
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from fedps.config import Job
from fedps.errors import JobError
from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf

NETWORKS: Mapping[str, type[nn.Module]] = {"NCF_MLP": NcfMlp, "NCF_GMF": NcfGmf, "NCF_NeuMF": NcfNeuMf}
PURPOSE = zlib.crc32(b"fedps.models.build")  # sets this stream apart from others of the same seed
_GENERATOR = threading.Lock()  # torch has one generator for all threads


def build(job: Job) -> nn.Module:
    """Make the job's network; the same job gives the same weights.

    Raises:
        JobError: `runner.model` names no class that can be made from `hyper_parameters`, or one that does not
            map user int64[B] and item int64[B] to logits [B].
    """
    path = job.runner.model
    if path is None:
        hyper = job.hyper_parameters
        with _seeded(job.runner.seed):
            return NETWORKS[hyper.mode](hyper.num_users, hyper.num_items, hyper.mf_dim, hyper.fc_layers)
    network = find_class(path, job.folder)
    arguments = _arguments(path, network, job)
    try:
        with _seeded(job.runner.seed):
            model = network(**arguments)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(f"runner.model: {path}: cannot be made: {type(error).__name__}: {error}") from error
    _check_forward(path, model)
    return model


def find_class(path: str, folder: Path) -> type[nn.Module]:
    """Find a network's class and print where it came from (to standard error).

    Args:
        path: `module.Class`, where the module may be dotted.
        folder: the job file's folder, looked at first.

    Raises:
        JobError: no such module or class; says what there is.
    """
    name, _, wanted = path.rpartition(".")
    if not name or not all(part.isidentifier() for part in path.split(".")):
        raise JobError(f"runner.model: {path!r}: write module.Class, e.g. net.MyNet for class MyNet of net.py")
    module = _import(name, path, folder)
    network = getattr(module, wanted, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        there = [n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, nn.Module)]
        raise JobError(
            f"runner.model: {path!r}: {module.__file__} has no network {wanted}; there are {', '.join(there) or 'none'}"
        )
    print(f"model: {path} of {module.__file__}", file=sys.stderr, flush=True)
    return network


def _import(name: str, path: str, folder: Path) -> ModuleType:
    top = name.partition(".")[0]
    beside = (folder / f"{top}.py").is_file() or (folder / top).is_dir()
    if not beside and not _is_installed(top):
        files = ", ".join(sorted(f.name for f in folder.glob("*.py"))) or "no Python file"
        raise JobError(
            f"runner.model: {path!r}: no module {top!r} in {folder} (there: {files}), nor among installed packages"
        )
    importlib.invalidate_caches()  # a file written a moment ago must be seen
    try:
        return importlib.import_module(f"{_package_of(folder)}.{name}" if beside else name)
    except Exception as error:  # whatever the user's own module raises
        raise JobError(f"runner.model: {path!r}: importing {name} fails: {type(error).__name__}: {error}") from error


def _is_installed(top: str) -> bool:
    """Say whether a package may be imported; the current folder is no place to take code from."""
    if top == "__main__" or (spec := importlib.util.find_spec(top)) is None:
        return False
    homes = spec.submodule_search_locations or [spec.origin or ""]
    return all(Path(home).resolve().parent != Path.cwd() for home in homes)


def _package_of(folder: Path) -> str:
    """Return the name of a package that stands for a job's folder, so that two jobs may both have a `net.py`.

    Files beside the job import each other as `from .layers import …` or `import layers`; for the latter the
    folder comes last on the path, where it hides nothing.
    """
    home = str(folder.resolve())
    name = f"fedps_job_{zlib.crc32(home.encode()):08x}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [home]
        sys.modules.setdefault(name, package)
    if home not in sys.path:
        sys.path.append(home)
    return name


def _arguments(path: str, network: type[nn.Module], job: Job) -> dict[str, object]:
    """Return the hyperparameters that a class asks for by name.

    Raises:
        JobError: one is missing, or the job has a key of its own that the class does not take.
    """
    hyper = job.hyper_parameters
    own = dict(hyper.model_extra or {})
    there = {n: getattr(hyper, n) for n in type(hyper).model_fields if n != "optimizer"} | own
    wanted = inspect.signature(network).parameters
    if any(p.kind is p.VAR_KEYWORD for p in wanted.values()):
        return there
    missing = [
        n for n, p in wanted.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and n not in there
    ]
    mistakes = [f"hyper_parameters.{n}: is missing: {path} needs it; there are {', '.join(there)}" for n in missing] + [
        f"hyper_parameters.{n}: {own[n]!r}: {path} takes no such argument; it takes {', '.join(wanted) or 'none'}"
        for n in sorted(set(own) - set(wanted))
    ]
    if mistakes:
        raise JobError(mistakes)
    return {n: value for n, value in there.items() if n in wanted}


def _check_forward(path: str, model: nn.Module) -> None:
    """Call the network once, on two samples, so that a wrong form is told before anything starts."""
    ids = torch.zeros(2, dtype=torch.int64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(ids, ids)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(
            f"runner.model: {path}: forward(user, item) fails on two samples: {type(error).__name__}: {error}"
        ) from error
    _check_buffers(path, model)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2,) or not logits.is_floating_point():
        found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise JobError(f"runner.model: {path}: forward(user, item) returns {found}; logits of shape [B] are due")
    model.train(training)


def _check_buffers(path: str, model: nn.Module) -> None:
    """Refuse what changes in training and is no parameter: it would be neither shared nor saved.

    Raises:
        JobError: names the buffers.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if not buffers:
        return
    ids, training = torch.zeros(2, dtype=torch.int64), model.training
    with torch.no_grad():
        model.train()(ids, ids)
    model.train(training)
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])]
    if changed:
        raise JobError(
            f"runner.model: {path}: training changes {', '.join(changed)}, which are no parameters: clients would each"
            " have their own and no save would hold them; use LayerNorm or GroupNorm instead of BatchNorm"
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let torch draw from the job's stream, then put its generator back."""
    stream = int(np.random.SeedSequence([seed, PURPOSE]).generate_state(1, np.uint64)[0])
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream)
        yield
