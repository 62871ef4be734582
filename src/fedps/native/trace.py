"""A torch network's forward pass as a graph of torch's operations, traced once on ids of no meaning."""

import threading
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from fedps.models.inputs import example, inputs_of, pooling_by

BATCH = 61  # samples of the trace: a size that no layer has
OTHERS = (1, 4099)  # samples of traces that must be the same: there is no condition on how many there are
TRACING = threading.Lock()  # torch traces one network of a process at a time


class NotLoweredError(Exception):
    """A network has something in it that no operation stands for; the message says what."""


@torch.library.custom_op("fedps::pool", mutates_args=())  # stands in the graph for a look-up of several ids a sample
def _pool(weight: Tensor, ids: Tensor, mean: bool) -> Tensor:
    raise NotImplementedError("it is traced alone")


@_pool.register_fake
def _(weight: Tensor, ids: Tensor, mean: bool) -> Tensor:
    return weight.new_empty((ids.shape[0], weight.shape[1]))


def trace(model: nn.Module, training: bool) -> fx.Graph:
    """Return a network's graph; the `meta` of what it is given names the parameter, or the feature, as `input`.

    Args:
        model: as `build` makes it.
        training: whether it is to compute as in training.

    Raises:
        NotLoweredError: it cannot be traced; says why.
    """
    weights, was = dict(model.named_parameters()), model.training
    if any(True for _ in model.buffers()):
        raise NotLoweredError("it has buffers")
    if padded := [n for n, m in model.named_modules() if getattr(m, "padding_idx", None) is not None]:
        raise NotLoweredError(
            f"{padded[0]} has padding_idx, an id that stands for none; behind shorter lists -1 stands anyway"
        )

    def forward(weights: dict[str, Tensor], *inputs: Tensor) -> Any:
        return functional_call(model, weights, inputs)

    model.train(training)
    try:
        with TRACING, torch.no_grad(), pooling_by(torch.ops.fedps.pool, model):
            traced = make_fx(forward, tracing_mode="fake")
            graph: fx.Graph
            graph, *others = (traced(weights, *example(model, size)).graph for size in (BATCH, *OTHERS))
    except Exception as error:  # whatever the user's own code, or the tracing of it, raises
        raise NotLoweredError(
            f"tracing it fails: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        ) from error
    finally:
        model.train(was)
    if any([node.target for node in other.nodes] != [node.target for node in graph.nodes] for other in others):
        raise NotLoweredError("what it does depends on how many samples there are")
    given = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(given, [*weights, *inputs_of(model)], strict=True):
        node.meta["input"] = name
    return graph
