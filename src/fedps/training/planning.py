"""Make a plan: build the network by torch, describe it, trace and compile its step, and try that on a few samples."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from msgspec.structs import replace
from torch import nn

from fedps.cache import CacheError
from fedps.config import Job
from fedps.config.sections.features import labels, of_item, spaces
from fedps.data.samples import ClientData
from fedps.errors import JobError
from fedps.models.build import build, redrawn
from fedps.models.describe import describe
from fedps.models.inputs import made_up
from fedps.models.loss import items_of, own_loss
from fedps.models.network import Network, Plan
from fedps.native.compiler import CompileError, compiled
from fedps.native.halves import write_halves
from fedps.native.library import MOST_GROUP
from fedps.native.lower import lower
from fedps.native.program import Program
from fedps.native.source import write
from fedps.native.trace import NotLoweredError
from fedps.training.compiled import Compiled
from fedps.training.draws import cuda
from fedps.training.eager import Eager
from fedps.training.learner import Learner, Part
from fedps.types import ClientId, Samples, Values, taken

SAMPLES = 150  # of the trial: three batches, the last one short
BATCH = 62  # or a few more: what a loss compares stays together
FASTER = "4 to 7"  # times: a compiled step beside torch's, on one core
TOLERANCE = 1e-4  # of a logit and of a gradient, beside torch's
EPSILON = 0.01  # of the trial's rule: with a small one a gradient that is 0 but for rounding moves a row as far as any


def plan_network(job: Job) -> Plan:
    """Build a job's network and plan its step.

    Raises:
        JobError: it cannot be built, or `use_gpu` finds no CUDA device.
    """
    model = build(job)
    return plan_model(model, describe(model, redrawn(model, job)), job)


def plan_model(model: nn.Module, network: Network, job: Job, part: Part | None = None) -> Plan:
    """Plan the step of a network.

    Args:
        model: as `build` makes it.
        network: its description.
        job: whose it is.
        part: makes it anew, if it is not the job's own.

    Raises:
        JobError: `use_gpu` finds no CUDA device.
    """
    outputs = part.outputs if part else 0
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
        if not (tasks := outputs or len(labels(job.inputs))):
            raise NotLoweredError("it learns no label")
        if job.group > MOST_GROUP:
            loss = job.hyper_parameters.loss
            raise NotLoweredError(f"loss {loss} compares {job.group} samples, of which a block holds {MOST_GROUP}")
        tables = {e.name: e.shape[1] for e in network.embeddings}
        sizes = {name: math.prod(shape) for name, shape in network.dense}
        program, items = lower(model, tables, sizes, tasks), items_of(model)
        if job.hyper_parameters.loss == "in_batch_softmax":
            _check_towers(program, network.inputs, items, job)
        ranks = "item" in network.inputs and part is None
        of_items = {k for k, name in enumerate(network.inputs) if ranks and of_item(name, job.inputs[name])}
        halves = write_halves(program, of_items) if ranks else ""
        library = compiled(write(program, job.group) + halves, notes)
        plan = Plan(network, library.name, notes=tuple(notes), items=items)
        _try(plan, job, part)
    except (NotLoweredError, CacheError, OSError) as error:
        return Plan(network, reason=f"{error} (a compiled step is {FASTER} times as fast)", notes=tuple(notes))
    return plan


def _check_towers(program: Program, inputs: Sequence[str], items: Sequence[str], job: Job) -> None:
    """See whether two towers can be trained by the softmax over a batch's items.

    Raises:
        NotLoweredError: they cannot.
    """
    if program.towers is None:
        raise NotLoweredError("loss in_batch_softmax is of two rows a sample, and it computes something else")
    space = spaces(job.inputs)
    if (ids := program.towers.ids) >= 0 and {space[inputs[ids]]} != {space.get(name) for name in items}:
        raise NotLoweredError(f"it tells items apart by other ids than those of {', '.join(items)}")


def _try(plan: Plan, job: Job, part: Part | None) -> None:
    """Train both steps on the same made-up samples.

    A compiler, or an operation that we took for another, may be wrong: then torch trains, slower and right.

    Raises:
        CompileError: they differ.
    """
    rng, inputs, tasks = np.random.default_rng(0), job.inputs, len(labels(job.inputs))
    count, size = SAMPLES // job.group * job.group, -(-BATCH // job.group) * job.group
    columns = {name: made_up(inputs, name, count, rng) for name in plan.network.inputs}
    label = rng.integers(0, 2, (count, tasks)).astype(np.float32)
    samples = Samples(columns, label[:, 0] if tasks == 1 else label)
    data = ClientData(
        samples,
        None,
        ClientId("trial"),
        0,
        shuffle=False,
        spaces={f: s for f, s in spaces(inputs).items() if f in columns},
    )
    optimizer = job.hyper_parameters.optimizer.model_copy(update={"epsilon": EPSILON})
    job = job.model_copy(update={"hyper_parameters": job.hyper_parameters.model_copy(update={"optimizer": optimizer})})
    torch_plan = replace(plan, library="")
    try:
        one, other = (Learner(p, job, data, local_optimizer=False, part=part) for p in (plan, torch_plan))
    except JobError:
        return None  # the job's own names are wrong, which is told elsewhere
    assert isinstance(one.engine, Compiled) and isinstance(other.engine, Eager)  # noqa: S101
    if part and part.outputs:
        return _try_outputs(one, other, part.outputs)
    for start in range(0, count, size):
        batch = np.arange(start, min(start + size, count), dtype=np.int32)
        steps = [learner.train(batch, size) for learner in (one, other)]
        gradients = [learner.gradients() for learner in (one, other)]
        pairs = [(steps[0].scores, steps[1].scores), (gradients[0].dense, gradients[1].dense)]
        pairs += [(gradients[0].rows[n][1], gradients[1].rows[n][1]) for n in gradients[0].rows]
        if not start and "item" in plan.network.inputs:  # each sample beside what is told of its own item, too
            own = samples.at(batch), {name: taken(column, batch) for name, column in data.slots.items()}
            pairs.append((one.engine.ranker(*own)(*own)[batch, batch], one.engine.score(*own)))
        _compare(pairs)
    return None


def _try_outputs(one: Learner, other: Learner, outputs: int) -> None:
    """Let both go forward on made-up samples, and back with made-up gradients, two batches open at once."""
    rng = np.random.default_rng(1)
    orders = [np.arange(SAMPLES, dtype=np.int32)[start : start + BATCH] for start in range(0, SAMPLES, BATCH)]
    for k, order in enumerate(orders):
        _compare([(one.forward(order), other.forward(order))])
        if not k:
            continue
        for oldest in orders[k - 1 :] if order is orders[-1] else [orders[k - 1]]:
            gradient = (rng.standard_normal((len(oldest), outputs)) / len(oldest)).astype(np.float32)
            one.backward(gradient)
            other.backward(gradient)
    _compare([(table.values, other.private[name].values) for name, table in one.private.items()])
    _compare([(one.private_dense.values, other.private_dense.values)])


def _compare(pairs: Iterable[tuple[Values, Values]]) -> None:
    """Compare what the compiled step came to with what torch did. Raises CompileError: they differ."""
    for a, b in pairs:
        if a.shape != b.shape or not np.allclose(
            a, b, rtol=1e-3, atol=TOLERANCE * max(1.0, float(np.abs(b).max(initial=0)))
        ):
            raise CompileError("the compiled step gave other numbers than torch on a trial")
