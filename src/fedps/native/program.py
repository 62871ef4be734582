"""A network as a short list of operations on `[samples, width]` values: what the generated step is written from.

A value has one row a sample, or one at each position of a sequence, `[samples, positions, width]`. Nothing here mixes the
samples of a batch, so a batch can be worked on in blocks.
"""

from collections.abc import Mapping, Sequence

import msgspec


class Lookup(msgspec.Struct, frozen=True, tag=True):
    """A row of table number `table`: that of the sample's id of feature number `feature`."""

    table: int
    feature: int
    width: int


class Pool(msgspec.Struct, frozen=True, tag=True):
    """The sum or the mean of several rows: those of the sample's ids; zeros where it has none."""

    table: int
    feature: int
    mean: bool
    width: int


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Rows of table number `table` at each position: those of the sample's ids, then zeros."""

    table: int
    feature: int
    positions: int
    width: int


class Present(msgspec.Struct, frozen=True, tag=True):
    """At each position 1 where the sample has an id of feature number `feature`, behind them 0."""

    feature: int
    positions: int
    width: int = 1


class Number(msgspec.Struct, frozen=True, tag=True):
    """The sample's numbers of feature number `feature`."""

    feature: int
    width: int


class Repeat(msgspec.Struct, frozen=True, tag=True):
    """A sample's row at each of so many positions."""

    x: int
    positions: int
    width: int


class Total(msgspec.Struct, frozen=True, tag=True):
    """The sum of a value's rows over its positions."""

    x: int
    width: int


class Softmax(msgspec.Struct, frozen=True, tag=True):
    """The softmax over positions, of each column by itself."""

    x: int
    width: int


class Linear(msgspec.Struct, frozen=True, tag=True):
    """x W + b. `weight` and `bias` (-1: none) are numbers of parameters; `transposed`: the weight is kept as [width, in].

    Of W the rows from `start` on may be meant alone, out of `total`; 0: it has no others.
    """

    x: int
    weight: int
    bias: int
    transposed: bool
    width: int
    start: int = 0
    total: int = 0


class Unary(msgspec.Struct, frozen=True, tag=True):
    """A function of each component; `numbers` are its constants."""

    function: str
    x: int
    width: int
    numbers: tuple[float, ...] = ()


class Binary(msgspec.Struct, frozen=True, tag=True):
    """A function of two values; one of them may have one column, which then stands for all.

    add, sub, mul, div; or fill: a, but the first of `numbers` where b is not 0.
    """

    function: str
    a: int
    b: int
    width: int
    numbers: tuple[float, ...] = ()


class Column(msgspec.Struct, frozen=True, tag=True):
    """add or scale: a value with parameter number `parameter`, which has `width` floats or one."""

    function: str
    x: int
    parameter: int
    width: int


class Sum(msgspec.Struct, frozen=True, tag=True):
    """The sum of a value's columns."""

    x: int
    width: int = 1


class Concat(msgspec.Struct, frozen=True, tag=True):
    """Values side by side."""

    parts: tuple[int, ...]
    width: int


class Slice(msgspec.Struct, frozen=True, tag=True):
    """Columns `start` to `start + width` of a value."""

    x: int
    start: int
    width: int


Source = Lookup | Pool | Rows | Present | Number  # they read what a sample is
Operation = Source | Repeat | Total | Softmax | Linear | Unary | Binary | Column | Sum | Concat | Slice


class Towers(msgspec.Struct, frozen=True):
    """Two values whose product, summed, is the logit; a loss may take them row by row, and all of a batch together.

    Attributes:
        queries, items: their numbers.
        ids: number of the feature that tells the items apart; -1: nothing does.
    """

    queries: int
    items: int
    ids: int


class Program(msgspec.Struct, frozen=True):
    """All operations in order; an operation names earlier ones by number, and the last one is the logit, or those of all labels.

    Features are numbered as in `Network.inputs`.

    Attributes:
        tables: floats of a row of each table, in the order of the network's embeddings.
        parameters: floats of each dense parameter, in the network's order.
        operations: what is computed.
        towers: what the last two operations join; None: something else.
    """

    tables: tuple[int, ...]
    parameters: tuple[int, ...]
    operations: tuple[Operation, ...]
    towers: Towers | None = None


def inputs(operation: Operation) -> tuple[int, ...]:
    """Return the numbers of the operations that this one reads."""
    match operation:
        case Lookup() | Pool() | Rows() | Present() | Number():
            return ()
        case Binary(a=a, b=b):
            return (a, b)
        case Concat(parts=parts):
            return parts
        case _:
            return (operation.x,)


def positions(operation: Operation, before: Sequence[int]) -> int:
    """Return how many positions a value has, given those of the values before; 0: it has one row a sample."""
    match operation:
        case Rows() | Present() | Repeat():
            return operation.positions
        case Total():
            return 0
        case _:
            return max((before[x] for x in inputs(operation)), default=0)


def all_positions(program: Program) -> list[int]:
    """Return how many positions each value has."""
    found: list[int] = []
    for operation in program.operations:
        found.append(positions(operation, found))
    return found


def still(program: Program) -> set[int]:
    """Return the values that depend on nothing that is trained, and so need no gradient."""
    found: set[int] = set()
    for number, operation in enumerate(program.operations):
        trained = isinstance(operation, Lookup | Pool | Rows | Linear | Column)
        if not trained and found.issuperset(inputs(operation)):
            found.add(number)
    return found


def without_dead(program: Program) -> Program:
    """Leave out what the last operation does not need."""
    needed = {len(program.operations) - 1}
    for number in reversed(range(len(program.operations))):
        if number in needed:
            needed.update(inputs(program.operations[number]))
    new = {old: k for k, old in enumerate(sorted(needed))}
    kept = tuple(renumbered(program.operations[old], new) for old in sorted(needed))
    towers = program.towers and Towers(new[program.towers.queries], new[program.towers.items], program.towers.ids)
    return Program(program.tables, program.parameters, kept, towers)


def renumbered(operation: Operation, new: Mapping[int, int]) -> Operation:
    """Return an operation that reads others by their new numbers."""
    match operation:
        case Lookup() | Pool() | Rows() | Present() | Number():
            return operation
        case Binary(a=a, b=b):
            return msgspec.structs.replace(operation, a=new[a], b=new[b])
        case Concat(parts=parts):
            return msgspec.structs.replace(operation, parts=tuple(new[p] for p in parts))
        case _:
            return msgspec.structs.replace(operation, x=new[operation.x])
