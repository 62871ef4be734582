"""Make a plan: build the network by torch, describe it, trace and compile its step, and try that on a few samples."""

import math

import numpy as np

from fedps.cache import CacheError
from fedps.config import Job
from fedps.config.sections.features import labels, spaces
from fedps.data.samples import ClientData
from fedps.errors import JobError
from fedps.models.build import build, redrawn
from fedps.models.describe import describe
from fedps.models.inputs import made_up
from fedps.models.loss import own_loss
from fedps.models.network import Plan
from fedps.native.compiler import CompileError, compiled
from fedps.native.lower import NotLoweredError, lower
from fedps.native.source import write
from fedps.training.compiled import Compiled
from fedps.training.eager import Eager, cuda
from fedps.training.learner import Learner
from fedps.types import ClientId, Samples

SAMPLES = 150  # of the trial: three batches, the last one short
BATCH = 62  # even, as pairs want it
FASTER = "4 to 7"  # times: a compiled step beside torch's, on one core
TOLERANCE = 1e-4  # of a logit and of a gradient, beside torch's


def plan_network(job: Job) -> Plan:
    """Build a job's network and plan its step.

    Raises:
        JobError: it cannot be built, or `use_gpu` finds no CUDA device.
    """
    model = build(job)
    network = describe(model, redrawn(model, job))
    if job.runner.use_gpu:
        cuda()
        return Plan(network, reason="runner.use_gpu: true trains by torch, on CUDA")
    if not job.runner.compiled_step:
        return Plan(network, reason="runner.compiled_step: false")
    notes = [f"kept as the network gives them: {', '.join(network.given)}"] if network.given else []
    notes += [f"frozen: {', '.join(network.frozen)}: never trained"] if network.frozen else []
    try:
        if network.faults:
            raise NotLoweredError("an embedding can be no table")
        if own_loss(model) is not None:
            raise NotLoweredError("the network has a loss of its own")
        if len(named := labels(job.inputs)) != 1 or any(label.of == "real" for label in named.values()):
            raise NotLoweredError("it learns other labels than one of 0 and 1")
        if (loss := job.hyper_parameters.loss) not in ("bce", "bpr"):
            raise NotLoweredError(f"loss {loss} has no operation yet")
        tables = {e.name: e.shape[1] for e in network.embeddings}
        sizes = {name: math.prod(shape) for name, shape in network.dense}
        library = compiled(write(lower(model, tables, sizes)), notes)
        plan = Plan(network, library.name, notes=tuple(notes))
        _try(plan, job)
    except (NotLoweredError, CacheError, OSError) as error:
        return Plan(network, reason=f"{error} (a compiled step is {FASTER} times as fast)", notes=tuple(notes))
    return plan


def _try(plan: Plan, job: Job) -> None:
    """Train both steps on the same made-up samples.

    A compiler, or an operation that we took for another, may be wrong: then torch trains, slower and right.

    Raises:
        CompileError: they differ.
    """
    rng, inputs = np.random.default_rng(0), job.inputs
    columns = {name: made_up(inputs, name, SAMPLES, rng) for name in plan.network.inputs}
    samples = Samples(columns, rng.integers(0, 2, SAMPLES).astype(np.float32))
    data = ClientData(
        samples,
        None,
        ClientId("trial"),
        0,
        shuffle=False,
        spaces={f: s for f, s in spaces(inputs).items() if f in columns},
    )
    try:
        one, other = (Learner(p, job, data, local_optimizer=False) for p in (plan, Plan(plan.network)))
    except JobError:
        return  # the job's own names are wrong, which is told elsewhere
    assert isinstance(one.engine, Compiled) and isinstance(other.engine, Eager)  # noqa: S101
    for start in range(0, SAMPLES, BATCH):
        batch = np.arange(start, min(start + BATCH, SAMPLES), dtype=np.int32)
        steps = [learner.train(batch, BATCH) for learner in (one, other)]
        gradients = [learner.gradients() for learner in (one, other)]
        pairs = [(steps[0].scores, steps[1].scores), (gradients[0].dense, gradients[1].dense)]
        pairs += [(gradients[0].rows[n][1], gradients[1].rows[n][1]) for n in gradients[0].rows]
        for a, b in pairs:
            if a.shape != b.shape or not np.allclose(
                a, b, rtol=1e-3, atol=TOLERANCE * max(1.0, float(np.abs(b).max(initial=0)))
            ):
                raise CompileError("the compiled step gave other numbers than torch on a trial")
