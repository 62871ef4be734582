"""What the nodes of a torch network's graph mean: values of samples, parameters, ids; and how their shapes go together."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fedps.native import program as op
from fedps.native.program import Operation
from fedps.native.trace import BATCH, NotLoweredError

MASKS = {"lt", "le", "eq", "ne", "gt", "ge", "bitwise_not", "logical_not", "expand"}  # what may give true and false


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


@dataclass(frozen=True)
class Spread:
    """A value of one column that stands for several."""

    value: int


Meaning = int | Weight | Ids | Spread  # a number: of the operation whose value it is


class Values:
    """The operations found so far, and what each node of the graph means.

    Attributes:
        operations: in order.
        positions: how many each operation's value has; 0: it has one row a sample.
        meaning: of the nodes that were read.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.positions: list[int] = []
        self.meaning: dict[fx.Node, Meaning] = {}

    def add(self, node: fx.Node, operation: Operation) -> int:
        """Take an operation for a node whose shape and type are those of its value."""
        number = self.append(operation)
        shape, kind = shape_of(node), node.meta["val"].dtype
        if shape not in self.forms(number):
            raise NotLoweredError(f"{name_of(node)} gives shape {('B', *shape[1:])}")
        if kind not in (torch.float32, torch.int64) and not (kind == torch.bool and name_of(node) in MASKS):
            raise NotLoweredError(f"{name_of(node)} gives {kind}")
        return number

    def append(self, operation: Operation) -> int:
        """Take an operation, and return its number."""
        self.positions.append(op.positions(operation, self.positions))
        self.operations.append(operation)
        return len(self.operations) - 1

    def forms(self, value: int) -> set[tuple[int, ...]]:
        """Return the shapes that a value may have in the graph."""
        width, positions = self.width(value), self.positions[value]
        rows = (BATCH, positions) if positions else (BATCH,)
        forms = {(*rows, width), (BATCH * positions or BATCH, width), (BATCH, positions or 1, width)}
        return forms | ({rows, (BATCH * positions or BATCH,)} if width == 1 else set())

    def axis(self, node: Any, dim: Any) -> str:
        """Say what runs along a dimension of a value: samples, positions, columns, or nothing: one."""
        [dim] = dim if isinstance(dim, list | tuple) and len(dim) == 1 else [dim]
        shape, positions = shape_of(node), self.positions[self.value(node)]
        if not isinstance(dim, int):
            raise NotLoweredError(f"it goes over dimensions {dim} at once" if dim else "it goes over samples")
        dim %= len(shape)
        if dim == 0:
            return "samples"
        if dim == 1 and positions and shape[0] == BATCH:
            return "positions"
        return "columns" if dim == len(shape) - 1 else "one"

    def reshaped(self, node: fx.Node) -> Meaning:
        """Read a node that lays a value out otherwise."""
        before = self.of(node.args[0])
        shape = shape_of(node)
        if isinstance(before, int) and shape in self.forms(before):
            return before
        if isinstance(before, Weight) and len(before.shape) == len(shape) == 1:
            return before
        raise NotLoweredError(f"{name_of(node)} to shape {('B', *shape[1:])}")

    def transposed(self, node: fx.Node) -> Meaning:
        """Read a transposition, of a parameter."""
        weight = self.of(node.args[0])
        if not isinstance(weight, Weight) or len(weight.shape) != 2:
            raise NotLoweredError("it transposes values of samples")
        if name_of(node) != "t" and shape_of(node) != weight.shape[::-1]:
            raise NotLoweredError(f"{name_of(node)} of {weight.name}")
        return Weight(weight.name, weight.shape[::-1], not weight.transposed)

    def expanded(self, node: fx.Node) -> Meaning:
        """Read a node that repeats a value at each position, or over columns."""
        value, before, after = self.value(node.args[0]), shape_of(node.args[0]), shape_of(node)
        width, positions = self.width(value), self.positions[value]
        if len(before) == len(after) and not positions and before[1:-1] == (1,) != after[1:-1]:
            value = self.append(op.Repeat(value, after[1], width))
        wide = width == 1 < after[-1] and len(after) == (3 if self.positions[value] else 2)
        if after in self.forms(value):
            return value
        if wide and (*after[:-1], 1) in self.forms(value):
            return Spread(value)
        raise NotLoweredError(f"expand to shape {('B', *after[1:])}")

    def converted(self, node: fx.Node) -> Meaning:
        """Read a node that gives true and false, or counts, another type."""
        before, after = (argument.meta["val"].dtype for argument in (node.args[0], node))  # type: ignore[union-attr]
        if after != before and (before.is_floating_point or after not in (torch.float32, torch.int64)):
            raise NotLoweredError(f"it converts {before} to {after}")
        return self.value(node.args[0])

    def of(self, argument: Any) -> Meaning:
        """Return what an argument of a node means, if it is a node."""
        if not isinstance(argument, fx.Node):
            raise NotLoweredError(f"a constant {argument!r} where a value is due")
        return self.meaning[argument]

    def value(self, argument: Any) -> int:
        """Return which value an argument is."""
        value = self.of(argument)
        if not isinstance(value, int):
            raise NotLoweredError("it computes with a parameter or an id as with a sample's value")
        return value

    def width(self, value: int) -> int:
        """Return the floats of a row of a value."""
        return self.operations[value].width

    def beside(self, *nodes: Any) -> list[int]:
        """Return two values that are computed with component by component, each at the positions of both."""
        found = [(self.of(node), shape_of(node)) for node in nodes]
        values = [
            one.value if isinstance(one, Spread) else self.value(node)
            for (one, _), node in zip(found, nodes, strict=True)
        ]
        longest = max(self.positions[value] for value in values)
        forms = {(len(shape), shape[0]) for _, shape in found}
        if len(forms) > 1 or len({self.width(value) for value in values} - {1}) > 1:
            raise NotLoweredError("it computes with values beside each other whose shapes do not fit")
        for k, value in enumerate(values):
            if (its := self.positions[value]) != longest:
                if its or found[k][1][1] != 1:
                    raise NotLoweredError(
                        "it computes with the positions of one value beside something else of another"
                    )
                values[k] = self.append(op.Repeat(value, longest, self.width(value)))
        return values


def name_of(node: fx.Node) -> str:
    """Return what torch calls a node's operation, e.g. `addmm`."""
    target: Any = node.target
    name: str = target._schema.name.rpartition("::")[2] if hasattr(target, "_schema") else str(target)
    return name


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of what a node gives."""
    return tuple(node.meta["val"].shape)
