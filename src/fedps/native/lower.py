"""From a torch network to a `Program`: the graph of its forward pass is read operation by operation.

What has no operation of ours (dropout, normalization, attention of a sequence to itself, values that mix samples) is said,
not guessed: such a network trains by torch.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import fx, nn

from fedps.models.inputs import features_of, inputs_of
from fedps.native import program as op
from fedps.native.program import Operation, Program
from fedps.native.trace import NotLoweredError, trace
from fedps.native.values import Ids, Meaning, Values, Weight, name_of, shape_of

UNARY = {"relu", "sigmoid", "tanh", "silu", "exp", "neg", "square"}
PRESENT = {("ge", 0), ("gt", -1), ("ne", -1)}  # comparisons of an id with a number that tell whether there is one
ABSENT = {("lt", 0), ("le", -1), ("eq", -1)}
RESHAPES = {
    "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "alias", "detach", "clone", "contiguous",
}  # fmt: skip


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
    training, evaluation = (_Reader(trace(model, mode), model, tables, dense).program(tasks) for mode in (True, False))
    if msgspec.structs.replace(training, towers=None) != evaluation:
        raise NotLoweredError("it computes otherwise in training than in evaluation")
    return op.without_dead(training)


class _Reader(Values):
    """Reads a graph from top to bottom."""

    def __init__(
        self, graph: fx.Graph, model: nn.Module, tables: Mapping[str, int], dense: Mapping[str, int]
    ) -> None:  # fmt: skip
        super().__init__()
        self._graph, self._tables, self._dense = graph, tables, dense
        self._inputs, self._features = inputs_of(model), features_of(model)
        self._towers: op.Towers | None = None
        self._numbers = {name: k for k, name in enumerate(dense)}

    def program(self, tasks: int) -> Program:
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self.meaning[node] = self._input(node)
            elif node.op == "call_function":
                self.meaning[node] = self._call(node)
            elif node.op == "output":
                self._finish(node.args[0], tasks)
            else:
                raise NotLoweredError(f"it reads {node.target}, which is no parameter")
        return Program(tuple(self._tables.values()), tuple(self._dense.values()), tuple(self.operations), self._towers)

    def _input(self, node: fx.Node) -> Meaning:
        name = node.meta["input"]
        if name in self._dense or name in self._tables:
            return Weight(name, tuple(node.meta["val"].shape))
        if self._features[name].has_ids:
            return Ids(name)
        return self.add(node, op.Number(self._inputs.index(name), self._features[name].dim))

    def _finish(self, node: Any, tasks: int) -> None:
        while isinstance(node, list | tuple) and len(node) == 1:
            node = node[0]
        last = self._product(*node) if isinstance(node, list | tuple) else self.meaning.get(node)
        if not isinstance(last, int) or self.width(last) != tasks:
            raise NotLoweredError("its result is no number a sample and label")
        if self.positions[last]:
            raise NotLoweredError("its result has positions")
        if last != len(self.operations) - 1:
            self.append(op.Unary("affine", last, tasks, (1.0, 0.0)))

    def _product(self, queries: Any, items: Any, ids: Any = None, *_: Any) -> int:
        """Read the output of two towers, and return the sum of their product."""
        one, other = self.beside(queries, items)
        apart = self.meaning.get(ids)
        if ids is not None and not isinstance(apart, Ids):
            raise NotLoweredError("the ids of its items are no feature's")
        if one == other or self.width(one) != self.width(other):
            raise NotLoweredError("its result is no number a sample and label")
        self._towers = op.Towers(one, other, self._inputs.index(apart.feature) if isinstance(apart, Ids) else -1)
        product = self.append(op.Binary("mul", one, other, self.width(one)))
        return self.append(op.Sum(product))

    def _call(self, node: fx.Node) -> Meaning:
        name = name_of(node)
        if name in RESHAPES:
            return self.reshaped(node)
        if name in ("t", "transpose", "permute"):
            return self.transposed(node)
        if name == "expand":
            return self.expanded(node)
        if name == "_to_copy":
            return self.converted(node)
        if name in UNARY:
            return self._unary(node, name)
        if {(name, value) for value in node.args[1:2] if isinstance(value, int)} & (PRESENT | ABSENT):
            return self.add(node, self._compared(node, name))
        read = getattr(self, f"read_{name}", None)
        if read is None:
            raise NotLoweredError(f"{name} has no operation here")
        return self.add(node, read(node))

    def _compared(self, node: fx.Node, name: str) -> Operation:
        ids = self.of(node.args[0])
        if not isinstance(ids, Ids):
            raise NotLoweredError(f"{name} has no operation here")
        present = op.Present(self._inputs.index(ids.feature), self._longest(ids))
        if (name, node.args[1]) in PRESENT:
            return present
        return op.Unary("affine", self.append(present), 1, (-1.0, 1.0))

    def _unary(self, node: fx.Node, name: str) -> int:
        x = self.value(node.args[0])
        if name == "neg":
            return self.add(node, op.Unary("affine", x, self.width(x), (-1.0, 0.0)))
        return self.add(node, op.Unary(name, x, self.width(x)))

    def _parameter(self, weight: Meaning) -> int:
        if not isinstance(weight, Weight) or weight.name not in self._numbers:
            raise NotLoweredError("it uses an embedding otherwise than by looking up rows")
        return self._numbers[weight.name]

    def _longest(self, ids: Ids) -> int:
        feature = self._features[ids.feature]
        if feature.kind != "ids" or feature.pooling is not None or feature.max is None:
            raise NotLoweredError(f"{ids.feature} is no sequence, and its ids are computed with")
        return feature.max

    # `read_x` reads a call of torch's `x`: it returns our operation, or says why there is none.

    def read_embedding(self, node: fx.Node) -> Operation:
        weight, ids = self.of(node.args[0]), self.of(node.args[1])
        if not isinstance(weight, Weight) or weight.name not in self._tables:
            raise NotLoweredError("it looks up something that is no table")
        if not isinstance(ids, Ids):
            raise NotLoweredError(f"{weight.name} is looked up by derived ids")
        table, dim = list(self._tables).index(weight.name), self._tables[weight.name]
        if name_of(node) == "embedding" and self._features[ids.feature].kind == "ids":
            return op.Rows(table, self._inputs.index(ids.feature), self._longest(ids), dim)
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
        value, w = self.value(x), self.of(weight)
        number = self._parameter(w)
        assert isinstance(w, Weight)  # noqa: S101  (`_parameter` has looked)
        inputs, width = w.shape if len(w.shape) == 2 else (w.shape[0], 1)
        offset = -1 if bias is None else self._parameter(self.of(bias))
        if inputs != self.width(value) or (bias is not None and self.of(bias).shape != (width,)):  # type: ignore[union-attr]
            raise NotLoweredError("a product whose sizes do not fit")
        return op.Linear(value, number, offset, w.transposed, width)

    def read_cat(self, node: fx.Node) -> Operation:
        parts = [self.value(p) for p in node.args[0]]  # type: ignore[union-attr]
        axes = {self.axis(p, node.args[1] if len(node.args) > 1 else 0) for p in node.args[0]}  # type: ignore[union-attr]
        if axes != {"columns"}:
            raise NotLoweredError(f"it lays {' and '.join(sorted(axes))} behind each other")
        return op.Concat(tuple(parts), sum(map(self.width, parts)))

    def read_slice(self, node: fx.Node) -> Operation:
        arguments: list[Any] = [*node.args, *(None, 0, 0, None, 1)[len(node.args) :]]
        value, start = self.value(arguments[0]), arguments[2] or 0
        if (axis := self.axis(arguments[0], arguments[1])) != "columns" or arguments[4] != 1:
            raise NotLoweredError(f"it picks {axis}")
        return op.Slice(value, start if start >= 0 else start + self.width(value), shape_of(node)[-1])

    def read_select(self, node: fx.Node) -> Operation:
        value, dim, at = self.value(node.args[0]), node.args[1], node.args[2]
        if (axis := self.axis(node.args[0], dim)) != "columns":
            raise NotLoweredError(f"it picks {axis}")
        return op.Slice(value, at if at >= 0 else at + self.width(value), 1)  # type: ignore[operator, arg-type]

    def read_sum(self, node: fx.Node) -> Operation:
        axis = self.axis(node.args[0], node.args[1] if len(node.args) > 1 else [])
        return self._summed(self.value(node.args[0]), axis)

    def _summed(self, value: int, axis: str) -> Operation:
        if axis not in ("columns", "positions"):
            raise NotLoweredError(f"it adds up over {axis}")
        return op.Sum(value) if axis == "columns" else op.Total(value, self.width(value))

    def read_linalg_vector_norm(self, node: fx.Node) -> Operation:
        value, (order, dim) = self.value(node.args[0]), (*node.args[1:3], 2, [])[:2]
        if order != 2:
            raise NotLoweredError(f"a norm of order {order}")
        squares = self.append(op.Unary("square", value, self.width(value)))
        total = self.append(self._summed(squares, self.axis(node.args[0], dim)))
        return op.Unary("root", total, self.width(total))

    def read_mean(self, node: fx.Node) -> Operation:
        total = self.read_sum(node)
        count = self.width(total.x) if isinstance(total, op.Sum) else self.positions[total.x]  # type: ignore[union-attr]
        return op.Unary("affine", self.append(total), total.width, (1 / count, 0.0))

    def read__softmax(self, node: fx.Node) -> Operation:
        value = self.value(node.args[0])
        if (axis := self.axis(node.args[0], node.args[1])) != "positions":
            raise NotLoweredError(f"a softmax over {axis}")
        return op.Softmax(value, self.width(value))

    def read_masked_fill(self, node: fx.Node) -> Operation:
        value, mask = self.beside(node.args[0], node.args[1])
        if not isinstance(number := node.args[2], int | float):
            raise NotLoweredError("masked_fill by a value")
        return op.Binary("fill", value, mask, self.width(value), (float(number),))

    def read_clamp(self, node: fx.Node) -> Operation:
        value, (least, most) = self.value(node.args[0]), (*node.args[1:], None, None)[:2]
        if not isinstance(least, int | float) or most is not None:
            raise NotLoweredError("clamp to a most")
        return op.Unary("at_least", value, self.width(value), (float(least),))

    read_clamp_min = read_clamp

    def read_bitwise_not(self, node: fx.Node) -> Operation:
        if node.meta["val"].dtype != torch.bool:
            raise NotLoweredError("bitwise_not of numbers")
        return op.Unary("affine", self.value(node.args[0]), 1, (-1.0, 1.0))

    read_logical_not = read_bitwise_not

    def read_pow(self, node: fx.Node) -> Operation:
        value = self.value(node.args[0])
        if node.args[1] != 2:
            raise NotLoweredError(f"the power {node.args[1]}")
        return op.Unary("square", value, self.width(value))

    def read_leaky_relu(self, node: fx.Node) -> Operation:
        value = self.value(node.args[0])
        slope = float(node.args[1]) if len(node.args) > 1 else 0.01  # type: ignore[arg-type]
        return op.Unary("leaky_relu", value, self.width(value), (slope,))

    def read_gelu(self, node: fx.Node) -> Operation:
        value = self.value(node.args[0])
        if node.kwargs.get("approximate", "none") != "none":
            raise NotLoweredError("gelu by tanh")
        return op.Unary("gelu", value, self.width(value))

    def read_softplus(self, node: fx.Node) -> Operation:
        value = self.value(node.args[0])
        if len(node.args) > 1:
            raise NotLoweredError("softplus with constants")
        return op.Unary("softplus", value, self.width(value))

    def read_add(self, node: fx.Node) -> Operation:
        return self._binary(node, "add")

    def read_sub(self, node: fx.Node) -> Operation:
        return self._binary(node, "sub")

    def read_rsub(self, node: fx.Node) -> Operation:
        value, number = self.value(node.args[0]), node.args[1]
        if not isinstance(number, int | float) or node.kwargs or len(node.args) > 2:
            raise NotLoweredError("rsub of two values")
        return op.Unary("affine", value, self.width(value), (-1.0, float(number)))

    def read_mul(self, node: fx.Node) -> Operation:
        return self._binary(node, "mul")

    def read_div(self, node: fx.Node) -> Operation:
        if isinstance(node.args[1], fx.Node):
            return self._binary(node, "div")
        value, number = self.value(node.args[0]), node.args[1]
        if not isinstance(number, int | float) or node.kwargs:
            raise NotLoweredError("div with a rule of rounding")
        return op.Unary("affine", value, self.width(value), (1 / number, 0.0))

    def _binary(self, node: fx.Node, function: str) -> Operation:
        a, b = node.args[0], node.args[1]
        if node.kwargs or len(node.args) > 2:
            raise NotLoweredError(f"{function} with a factor")
        if isinstance(b, int | float):
            value = self.value(a)
            numbers = (float(b), 0.0) if function == "mul" else (1.0, float(b) if function == "add" else -float(b))
            return op.Unary("affine", value, self.width(value), numbers)
        left, right = self.of(a), self.of(b)
        if isinstance(left, Weight) and isinstance(right, int) and function in ("add", "mul"):
            left, right = right, left
        if isinstance(left, int) and isinstance(right, Weight) and function in ("add", "mul"):
            return self._with_parameter("scale" if function == "mul" else "add", left, right)
        one, other = self.beside(a, b)
        return op.Binary(function, one, other, max(self.width(one), self.width(other)))

    def _with_parameter(self, function: str, value: int, weight: Weight) -> Operation:
        number, width = self._parameter(weight), self.width(value)
        size = 1
        for side in weight.shape:
            size *= side
        if size not in (1, width) or weight.transposed or any(side != 1 for side in weight.shape[:-1]):
            raise NotLoweredError(f"{function} of {weight.name} of shape {weight.shape}")
        return op.Column(function, value, number, width)
