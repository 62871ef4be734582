"""One dense tensor with its optimizer state: a table with a single row, and the calls of `sparse.SparseTable`."""

from collections.abc import Iterator

import numpy as np

from fedps.errors import TableError
from fedps.table import kernels, rules
from fedps.table.moment import PIECE, Array, Facts, Part, Watched
from fedps.table.still import StillTensor
from fedps.types import NO_KEYS, RULES, Keys, TableSpec, Values

ONLY = np.zeros(1, np.int64)  # the slot of the single row


class DenseTable:
    """A tensor of a model, whole, kept flat.

    Args:
        spec: its shape and rule; it starts from the values that the first worker seeds.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.spec, self.steps = spec, 0
        self._rule, self._constants = RULES.index(spec.rule.name), kernels.constants(spec.rule)
        self._seeded = 0  # so many floats, from the first one on, have their start
        width = rules.width(spec.rule, spec.dim)
        piece = min(width, PIECE // 4)
        self._pieces: Values = np.zeros((-(-width // piece), piece), np.float32)  # by which a moment is read
        self.block: Values = self._pieces.reshape(1, -1)[:, :width]
        self._watched = Watched(self._pieces)

    @property
    def rate(self) -> float:
        """The learning rate of the last push."""
        return float(self._constants[kernels.LEARNING_RATE])

    def seed(self, values: Values, first: int = 0) -> bool:
        """Set the start of some floats; of each float the first offer stays.

        A large tensor is offered in pieces, by all clients at once. So a piece may find some of its floats set, but never
        leaves a gap before it: once one client has offered all pieces in their order, the tensor is whole.

        Args:
            values: float32[1, n].
            first: the place of the first one.

        Returns:
            Whether any had none before.

        Raises:
            TableError: floats before these have no start yet, or the tensor has not so many.
        """
        end = first + values.shape[1]
        if not 0 <= first <= self._seeded or end > self.spec.dim or len(values) != 1:
            raise TableError(
                f"table {self.spec.name!r}: a start of shape {values.shape} from float {first} on, where"
                f" {self._seeded} of {self.spec.dim} floats have one"
            )
        if end <= self._seeded:
            return False
        self._keep()
        self.block[:, self._seeded : end] = values[:, self._seeded - first :]
        self._seeded = end
        return True

    @property
    def seeded(self) -> bool:
        """Whether all floats have their start."""
        return self._seeded == self.spec.dim

    def pull(self, keys: Keys = NO_KEYS) -> Values:
        """Return the floats that keys name (`TableSpec.span`), float32[1, n], a copy.

        Raises:
            TableError: they have no start yet.
        """
        if not self.seeded:
            raise TableError(f"table {self.spec.name!r} has no values yet: seed it first")
        first, end = self.spec.span(keys)
        return self.block[:, first:end].copy()

    def push(self, keys: Keys, values: Values, rate: float = 1.0) -> None:
        """Apply the rule to the whole tensor.

        Args:
            keys: none.
            values: float32[1, dim].
            rate: the share of the rule's learning rate to take.

        Raises:
            TableError: the values are of another shape.
        """
        self._check_shape(values, self.spec.dim)
        self._keep()
        self.steps += 1
        self._constants[kernels.LEARNING_RATE] = rate * self.spec.rule.learning_rate
        kernels.change(self.block, ONLY, values, self._constants, self._rule, self.steps)

    def missing(self, keys: Keys) -> int:
        """Return 0: a tensor is made whole when it is declared, unlike rows."""
        return 0

    def make(self, keys: Keys) -> None:
        """Do nothing, as nothing is missing."""

    def export(self, changed: bool = False) -> tuple[Keys, Values]:
        """Return no keys and the tensor with its state, float32[1, width], a copy; it is always saved whole."""
        return NO_KEYS, self.block.copy()

    def still(self) -> StillTensor:
        """Freeze the tensor as it is now, to be saved."""
        return StillTensor(self.spec, self.block.shape[1], self._watched.freeze(len(self._pieces)))

    def mark_saved(self) -> None:
        """Do nothing: see `export`."""

    def load(self, keys: Keys, block: Values, steps: int) -> None:
        """Take over the tensor with its state, as `export` gave them; starts that are offered later do not count.

        Raises:
            TableError: it is of another width.
        """
        self._check_shape(block, self.block.shape[1])
        self._keep()
        self.block[:] = block
        self._seeded, self.steps = self.spec.dim, steps

    def frozen(self) -> Iterator[Part]:
        """Freeze the tensor as it is now; yield all of it, piece by piece, for `lay`."""
        facts: Facts = {"steps": self.steps, "rate": self.rate, "seeded": self._seeded}
        moment = self._watched.freeze(len(self._pieces))

        def parts() -> Iterator[Part]:
            yield Part(self.spec.name, facts)
            for first, pieces in moment.pieces():
                yield Part(self.spec.name, {"first": first}, pieces)

        return parts()

    def lay(self, facts: Facts, arrays: tuple[Array, ...]) -> None:
        """Put the next part of a frozen tensor in its place here.

        Raises:
            TableError: it does not fit this tensor.
        """
        if "first" not in facts:
            self.steps, self._seeded = int(facts["steps"]), int(facts["seeded"])
            self._constants[kernels.LEARNING_RATE] = facts["rate"]
            return
        first, pieces = int(facts["first"]), arrays[0]
        place = self._pieces[first : first + len(pieces)]
        if pieces.shape != place.shape:
            raise TableError(f"table {self.spec.name!r}: floats of shape {pieces.shape} do not fit {place.shape}")
        place[:] = pieces

    def _keep(self) -> None:
        """Put what moments have not read yet aside, before all of it changes."""
        self._watched.keep(np.arange(len(self._pieces)))

    def _check_shape(self, block: Values, floats: int) -> None:
        if block.shape != (1, floats):  # compiled loops check no bounds
            raise TableError(f"table {self.spec.name!r}: {block.shape} floats, but {(1, floats)} are due")
