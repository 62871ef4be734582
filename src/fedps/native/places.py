"""Where the values of a compiled step lie: parts of a concatenation that nothing else reads are made in their place there."""

from collections import Counter
from typing import NamedTuple

from fedps.native import program as op
from fedps.native.program import Program

LANES = 8  # as in basics.hpp


class Place(NamedTuple):
    """Where a value lies: in which operation's array, or a named one, from which column on, and the floats of a row there."""

    array: int | str
    column: int
    stride: int

    def value(self) -> str:
        """Return a pointer to the value of a block's first sample."""
        name = f"v{self.array}" if isinstance(self.array, int) else self.array
        return f"{name} + {self.column}" if self.column else name

    def gradient(self) -> str:
        """Return the same of its gradient."""
        return self.value().replace("v", "d", 1)


def places_of(program: Program) -> list[Place]:
    """Give each value a place: its own array, or its columns of the one concatenation that reads it."""
    operations = program.operations
    readers = Counter(x for operation in operations for x in op.inputs(operation))
    places = [Place(k, 0, -(-operation.width // LANES) * LANES) for k, operation in enumerate(operations)]
    for number in reversed(range(len(operations))):
        operation, at = operations[number], places[number]
        if not isinstance(operation, op.Concat):
            continue
        column = at.column
        for part in operation.parts:
            width = operations[part].width
            if readers[part] == 1 and column % LANES == 0 and width % LANES == 0:
                places[part] = Place(at.array, column, at.stride)
            column += width
    return places
