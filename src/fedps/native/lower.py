"""From a torch network to a `Program`: its forward pass is traced once, on ids of no meaning, and read operation by operation.

What has no operation of ours (dropout, normalization, attention, values that mix samples) is said, not guessed: such a
network trains by torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from fedps.models.inputs import example, features_of, inputs_of, pooling_by
from fedps.native import program as op
from fedps.native.program import Operation, Program

BATCH = 61  # samples of the trace: a size that no layer has
UNARY = {"relu", "sigmoid", "tanh", "silu", "exp", "neg", "square"}
RESHAPES = {
    "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "alias", "detach", "clone", "contiguous",
}  # fmt: skip


class NotLoweredError(Exception):
    """A network has something in it that no operation stands for; the message says what."""


@dataclass(frozen=True)
class Weight:
    """A parameter in the graph, perhaps transposed."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Ids:
    """A feature of ids."""

    feature: str


Meaning = int | Weight | Ids  # a number: of the operation whose value it is


@torch.library.custom_op("fedps::pool", mutates_args=())  # stands in the graph for a look-up of several ids a sample
def _pool(weight: Tensor, ids: Tensor, mean: bool) -> Tensor:
    raise NotImplementedError("it is traced alone")


@_pool.register_fake
def _(weight: Tensor, ids: Tensor, mean: bool) -> Tensor:
    return weight.new_empty((ids.shape[0], weight.shape[1]))


def lower(model: nn.Module, tables: Mapping[str, int], dense: Mapping[str, int], tasks: int = 1) -> Program:
    """Return a network's program.

    Args:
        model: as `build` makes it: maps its inputs to logits [B], or [B, tasks].
        tables: for each embedding that features look up the floats of a row, in the network's order.
        dense: floats of every other parameter, in the network's order.
        tasks: how many labels there are.

    Raises:
        NotLoweredError: it cannot be expressed; says why.
    """
    programs = {_Reader(_trace(model, mode), model, tables, dense).program(tasks) for mode in (True, False)}
    if len(programs) != 1:
        raise NotLoweredError("it computes otherwise in training than in evaluation")
    return op.without_dead(programs.pop())


def _trace(model: nn.Module, training: bool) -> fx.Graph:
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
        with torch.no_grad(), pooling_by(torch.ops.fedps.pool, model):
            graph: fx.Graph = make_fx(forward, tracing_mode="fake")(weights, *example(model, BATCH)).graph
    except Exception as error:  # whatever the user's own code, or the tracing of it, raises
        raise NotLoweredError(
            f"tracing it fails: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        ) from error
    finally:
        model.train(was)
    for node, name in zip(_placeholders(graph), [*weights, *inputs_of(model)], strict=True):
        node.meta["input"] = name
    return graph


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.op == "placeholder"]


class _Reader:
    """Reads a graph from top to bottom."""

    def __init__(
        self, graph: fx.Graph, model: nn.Module, tables: Mapping[str, int], dense: Mapping[str, int]
    ) -> None:  # fmt: skip
        self._graph, self._tables, self._dense = graph, tables, dense
        self._inputs, self._features = inputs_of(model), features_of(model)
        self._numbers = {name: k for k, name in enumerate(dense)}
        self._operations: list[Operation] = []
        self._meaning: dict[fx.Node, Meaning] = {}

    def program(self, tasks: int) -> Program:
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._meaning[node] = self._input(node)
            elif node.op == "call_function":
                self._meaning[node] = self._call(node)
            elif node.op == "output":
                self._finish(node.args[0], tasks)
            else:
                raise NotLoweredError(f"it reads {node.target}, which is no parameter")
        return Program(tuple(self._tables.values()), tuple(self._dense.values()), tuple(self._operations))

    def _input(self, node: fx.Node) -> Meaning:
        name = node.meta["input"]
        if name in self._dense or name in self._tables:
            return Weight(name, tuple(node.meta["val"].shape))
        if self._features[name].has_ids:
            return Ids(name)
        return self._add(node, op.Number(self._inputs.index(name), self._features[name].dim))

    def _finish(self, node: Any, tasks: int) -> None:
        while isinstance(node, list | tuple) and len(node) == 1:
            node = node[0]
        last = self._meaning.get(node)
        if not isinstance(last, int) or self._width(last) != tasks:
            raise NotLoweredError("its result is no number a sample and label")
        if last != len(self._operations) - 1:
            self._operations.append(op.Unary("affine", last, tasks, (1.0, 0.0)))

    def _call(self, node: fx.Node) -> Meaning:
        name = _name(node)
        if name in RESHAPES:
            return self._reshaped(node)
        if name in ("t", "transpose", "permute"):
            return self._transposed(node)
        if name in UNARY:
            return self._unary(node, name)
        read = getattr(self, f"read_{name}", None)
        if read is None:
            raise NotLoweredError(f"{name} has no operation here")
        return self._add(node, read(node))

    def _add(self, node: fx.Node, operation: Operation) -> int:
        shape = tuple(node.meta["val"].shape)
        if shape not in ((BATCH, operation.width), (BATCH,)) or (shape == (BATCH,) and operation.width != 1):
            raise NotLoweredError(f"{_name(node)} gives shape {('B', *shape[1:])}")
        if node.meta["val"].dtype != torch.float32:
            raise NotLoweredError(f"{_name(node)} gives {node.meta['val'].dtype}")
        self._operations.append(operation)
        return len(self._operations) - 1

    def _reshaped(self, node: fx.Node) -> Meaning:
        before = self._of(node.args[0])
        shape = tuple(node.meta["val"].shape)
        if isinstance(before, int) and shape in ((BATCH, self._width(before)), (BATCH,) * (self._width(before) == 1)):
            return before
        if isinstance(before, Weight) and len(before.shape) == len(shape) == 1:
            return before
        raise NotLoweredError(f"{_name(node)} to shape {shape}")

    def _transposed(self, node: fx.Node) -> Meaning:
        weight = self._of(node.args[0])
        if not isinstance(weight, Weight) or len(weight.shape) != 2:
            raise NotLoweredError("it transposes values of samples")
        if _name(node) != "t" and tuple(node.meta["val"].shape) != weight.shape[::-1]:
            raise NotLoweredError(f"{_name(node)} of {weight.name}")
        return Weight(weight.name, weight.shape[::-1], not weight.transposed)

    def _unary(self, node: fx.Node, name: str) -> int:
        x = self._value(node.args[0])
        if name == "neg":
            return self._add(node, op.Unary("affine", x, self._width(x), (-1.0, 0.0)))
        return self._add(node, op.Unary(name, x, self._width(x)))

    def _of(self, argument: Any) -> Meaning:
        if not isinstance(argument, fx.Node):
            raise NotLoweredError(f"a constant {argument!r} where a value is due")
        return self._meaning[argument]

    def _value(self, argument: Any) -> int:
        value = self._of(argument)
        if not isinstance(value, int):
            raise NotLoweredError("it computes with a parameter or an id as with a sample's value")
        return value

    def _width(self, value: int) -> int:
        return self._operations[value].width

    def _parameter(self, weight: Meaning) -> int:
        if not isinstance(weight, Weight) or weight.name not in self._numbers:
            raise NotLoweredError("it uses an embedding otherwise than by looking up rows")
        return self._numbers[weight.name]

    # `read_x` reads a call of torch's `x`: it returns our operation, or says why there is none.

    def read_embedding(self, node: fx.Node) -> Operation:
        weight, ids = self._of(node.args[0]), self._of(node.args[1])
        if not isinstance(weight, Weight) or weight.name not in self._tables:
            raise NotLoweredError("it looks up something that is no table")
        if not isinstance(ids, Ids):
            raise NotLoweredError(f"{weight.name} is looked up by derived ids")
        if _name(node) == "embedding" and self._features[ids.feature].kind == "ids":
            raise NotLoweredError(f"{ids.feature} is a sequence, whose rows {weight.name} does not pool")
        table, dim = list(self._tables).index(weight.name), self._tables[weight.name]
        return op.Lookup(table, self._inputs.index(ids.feature), dim)

    def read_pool(self, node: fx.Node) -> Operation:
        found = self.read_embedding(node)
        assert isinstance(found, op.Lookup)  # noqa: S101
        return op.Pool(found.table, found.feature, bool(node.args[2]), found.width)

    def read_mm(self, node: fx.Node) -> Operation:
        return self._linear(node.args[0], node.args[1], None)

    read_mv = read_mm

    def read_addmm(self, node: fx.Node) -> Operation:
        if node.kwargs:
            raise NotLoweredError("addmm with factors")
        return self._linear(node.args[1], node.args[2], node.args[0])

    def _linear(self, x: Any, weight: Any, bias: Any) -> Operation:
        value, w = self._value(x), self._of(weight)
        number = self._parameter(w)
        assert isinstance(w, Weight)  # noqa: S101  (`_parameter` has looked)
        inputs, width = w.shape if len(w.shape) == 2 else (w.shape[0], 1)
        offset = -1 if bias is None else self._parameter(self._of(bias))
        if inputs != self._width(value) or (bias is not None and self._of(bias).shape != (width,)):  # type: ignore[union-attr]
            raise NotLoweredError("a product whose sizes do not fit")
        return op.Linear(value, number, offset, w.transposed, width)

    def read_cat(self, node: fx.Node) -> Operation:
        parts = [self._value(p) for p in node.args[0]]  # type: ignore[union-attr]
        if (node.args[1] if len(node.args) > 1 else 0) not in (1, -1):
            raise NotLoweredError("it lays samples behind each other")
        return op.Concat(tuple(parts), sum(map(self._width, parts)))

    def read_slice(self, node: fx.Node) -> Operation:
        arguments: list[Any] = [*node.args, *(None, 0, 0, None, 1)[len(node.args) :]]
        value, start = self._value(arguments[0]), arguments[2] or 0
        if arguments[1] not in (1, -1) or arguments[4] != 1:
            raise NotLoweredError("it picks samples of a batch")
        return op.Slice(value, start if start >= 0 else start + self._width(value), node.meta["val"].shape[1])

    def read_select(self, node: fx.Node) -> Operation:
        value, dim, at = self._value(node.args[0]), node.args[1], node.args[2]
        if dim not in (1, -1):
            raise NotLoweredError("it picks samples of a batch")
        return op.Slice(value, at if at >= 0 else at + self._width(value), 1)  # type: ignore[operator, arg-type]

    def read_sum(self, node: fx.Node) -> Operation:
        value = self._value(node.args[0])
        if list(node.args[1] if len(node.args) > 1 else []) not in ([1], [-1]):  # type: ignore[arg-type]
            raise NotLoweredError("it adds up over samples")
        return op.Sum(value)

    def read_mean(self, node: fx.Node) -> Operation:
        total = self.read_sum(node)
        self._operations.append(total)
        return op.Unary("affine", len(self._operations) - 1, 1, (1 / self._width(total.x), 0.0))  # type: ignore[union-attr]

    def read_pow(self, node: fx.Node) -> Operation:
        value = self._value(node.args[0])
        if node.args[1] != 2:
            raise NotLoweredError(f"the power {node.args[1]}")
        return op.Unary("square", value, self._width(value))

    def read_leaky_relu(self, node: fx.Node) -> Operation:
        value = self._value(node.args[0])
        slope = float(node.args[1]) if len(node.args) > 1 else 0.01  # type: ignore[arg-type]
        return op.Unary("leaky_relu", value, self._width(value), (slope,))

    def read_gelu(self, node: fx.Node) -> Operation:
        value = self._value(node.args[0])
        if node.kwargs.get("approximate", "none") != "none":
            raise NotLoweredError("gelu by tanh")
        return op.Unary("gelu", value, self._width(value))

    def read_softplus(self, node: fx.Node) -> Operation:
        value = self._value(node.args[0])
        if len(node.args) > 1:
            raise NotLoweredError("softplus with constants")
        return op.Unary("softplus", value, self._width(value))

    def read_add(self, node: fx.Node) -> Operation:
        return self._binary(node, "add")

    def read_sub(self, node: fx.Node) -> Operation:
        return self._binary(node, "sub")

    def read_rsub(self, node: fx.Node) -> Operation:
        value, number = self._value(node.args[0]), node.args[1]
        if not isinstance(number, int | float) or node.kwargs or len(node.args) > 2:
            raise NotLoweredError("rsub of two values")
        return op.Unary("affine", value, self._width(value), (-1.0, float(number)))

    def read_mul(self, node: fx.Node) -> Operation:
        return self._binary(node, "mul")

    def read_div(self, node: fx.Node) -> Operation:
        value, number = self._value(node.args[0]), node.args[1]
        if not isinstance(number, int | float) or node.kwargs:
            raise NotLoweredError("it divides by a value")
        return op.Unary("affine", value, self._width(value), (1 / number, 0.0))

    def _binary(self, node: fx.Node, function: str) -> Operation:
        a, b = node.args[0], node.args[1]
        if node.kwargs or len(node.args) > 2:
            raise NotLoweredError(f"{function} with a factor")
        if isinstance(b, int | float):
            value = self._value(a)
            numbers = (float(b), 0.0) if function == "mul" else (1.0, float(b) if function == "add" else -float(b))
            return op.Unary("affine", value, self._width(value), numbers)
        left, right = self._of(a), self._of(b)
        if isinstance(left, Weight) and isinstance(right, int) and function != "sub":
            left, right = right, left
        if isinstance(left, int) and isinstance(right, Weight) and function != "sub":
            return self._with_parameter("scale" if function == "mul" else "add", left, right)
        one, other = self._value(a), self._value(b)
        widths = {self._width(one), self._width(other)}
        shapes = {len(n.meta["val"].shape) for n in (a, b)}  # type: ignore[union-attr]
        if len(widths - {1}) > 1 or len(shapes) > 1:
            raise NotLoweredError(f"{function} of shapes that do not fit")
        return op.Binary(function, one, other, max(widths))

    def _with_parameter(self, function: str, value: int, weight: Weight) -> Operation:
        number, width = self._parameter(weight), self._width(value)
        size = 1
        for side in weight.shape:
            size *= side
        if size not in (1, width) or weight.transposed or (len(weight.shape) == 2 and weight.shape[0] != 1):
            raise NotLoweredError(f"{function} of {weight.name} of shape {weight.shape}")
        return op.Column(function, value, number, width)


def _name(node: fx.Node) -> str:
    target: Any = node.target
    name: str = target._schema.name.rpartition("::")[2] if hasattr(target, "_schema") else str(target)
    return name
