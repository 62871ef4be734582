"""A program for samples against all items: what is of the sample alone is computed once a sample, of the item once an item.

The rest is computed for each pair of the two. A product of values end to end, some of the sample and some of the item, is
cut into a sum of products, as W [u, i] = U u + V i: for most networks the first layer is the largest.
"""

from collections.abc import Set
from functools import reduce
from itertools import groupby
from typing import Literal

from fedps.native import program as op
from fedps.native.places import LANES, Place
from fedps.native.program import Operation, Program
from fedps.native.source import Writer, lines

Side = Literal["user", "item", "pair"]


def write_halves(program: Program, item: Set[int]) -> str:
    """Return the C++ that scores samples with all items.

    Args:
        program: the network's.
        item: numbers of the features that tell of the item.
    """
    return _Halves(apart(program, item), item).text()


def apart(program: Program, item: Set[int]) -> Program:
    """Cut products of both sides, and let the last operation be of a pair of the two."""
    side, new, where = sides(program, item), list[Operation](), dict[int, int]()
    for number, operation in enumerate(program.operations):
        cuts = isinstance(operation, op.Linear) and side[number] == "pair"
        if cuts and isinstance(program.operations[operation.x], op.Concat):  # type: ignore[union-attr]
            _cut(program, operation, side, where, new)  # type: ignore[arg-type]
        else:
            new.append(op.renumbered(operation, where))
        where[number] = len(new) - 1
    if side[-1] != "pair":
        new.append(op.Unary("affine", len(new) - 1, new[-1].width, (1.0, 0.0)))
    return op.without_dead(Program(program.tables, program.parameters, tuple(new)))


def sides(program: Program, item: Set[int]) -> list[Side]:
    """Return of each operation whether it follows from the sample alone, whatever its item, from the item alone, or from both."""
    found: list[Side] = []
    for operation in program.operations:
        if isinstance(operation, op.Source):
            found.append("item" if operation.feature in item else "user")
            continue
        of = {found[x] for x in op.inputs(operation)}
        alone = len(of) == 1 and not (isinstance(operation, op.Repeat) and "item" in of)  # one row of an item is enough
        found.append(of.pop() if alone else "pair")
    return found


def _cut(program: Program, product: op.Linear, side: list[Side], where: dict[int, int], new: list[Operation]) -> None:
    """Append a product of values end to end as the sum of those of each side."""
    sums, start, bias = dict[Side, int](), 0, product.bias
    for of, run in groupby(_parts(program, product.x), side.__getitem__):
        parts = [where[part] for part in run]
        width = sum(new[part].width for part in parts)
        if len(parts) > 1:
            new.append(op.Concat(tuple(parts), width))
            parts = [len(new) - 1]
        total = program.operations[product.x].width
        new.append(op.Linear(parts[0], product.weight, bias, product.transposed, product.width, start, total))
        if of in sums:
            new.append(op.Binary("add", sums[of], len(new) - 1, product.width))
        sums[of], start, bias = len(new) - 1, start + width, -1

    def add(one: int, other: int) -> int:
        new.append(op.Binary("add", one, other, product.width))
        return len(new) - 1

    reduce(add, sums.values())


def _parts(program: Program, number: int) -> list[int]:
    """Return the values that stand end to end in one, which may be itself alone."""
    operation = program.operations[number]
    if not isinstance(operation, op.Concat):
        return [number]
    return [value for part in operation.parts for value in _parts(program, part)]


class _Halves(Writer):
    """Writes a program in three parts; what pairs read of a sample, and of an item, stands in a row of each."""

    def __init__(self, program: Program, item: Set[int]) -> None:
        super().__init__(program)
        self._sides: list[Side] = sides(program, item)
        self._own = [Place(k, 0, _padded(operation.width)) for k, operation in enumerate(program.operations)]
        read = {x for k, o in enumerate(program.operations) if self._sides[k] == "pair" for x in op.inputs(o)}
        self._sizes = [place.stride * (self._positions[k] or 1) for k, place in enumerate(self._own)]
        self._columns = dict[int, int]()  # where each begins in a row
        self._floats = {"user": 0, "item": 0}
        for number in sorted(read):
            of = self._sides[number]
            if of != "pair":
                self._columns[number] = self._floats[of]
                self._floats[of] += self._sizes[number]

    def text(self, group: int = 1) -> str:
        """Return it all."""
        steps: dict[Side, list[str]] = {"user": [], "item": [], "pair": []}
        for number, operation in enumerate(self._operations):
            of = self._sides[number]
            self._places = [self._seen(k) for k in range(len(self._own))] if of == "pair" else self._own
            steps[of] += [line.replace("sum_columns<", "sum_vectors<") for line in self._apply(number, operation)]
            if number in self._columns:
                size, own, column = self._sizes[number], self._own[number].value(), self._columns[number]
                steps[of].append(f"keep<{size}, {self._floats[of]}>(m, {own}, out + {column});")
                if self._positions[number]:  # a row that stands for all samples of a block has one position
                    steps["pair"].append(f"spread<{size}>(m, user + {column}, {own});")
        arrays = [f"alignas(64) float v{k}[SAMPLES * {size}];" for k, size in enumerate(self._sizes)]
        return TEXT.format(
            **{of: max(LANES, floats) for of, floats in self._floats.items()},
            samples=self._samples(group),
            stride=self._own[-1].stride,
            logit=self._own[-1].value(),
            members=lines([*arrays, *self._members], "  "),
            begin=lines(self._begin),
            **{f"of_{of}": lines(each) for of, each in steps.items()},
        )

    def _seen(self, number: int) -> Place:
        """Return where a pair finds a value: the sample's is the same for all items."""
        of = self._sides[number]
        if of == "pair" or number not in self._columns or self._positions[number]:
            return self._own[number]
        return Place(of, self._columns[number], self._floats["item"] if of == "item" else 0)


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


TEXT = """
namespace {{

struct Halves {{
  static constexpr int USER = {user}, ITEM = {item}, STRIDE = {stride}, SAMPLES = {samples};
{members}

  void begin([[maybe_unused]] const Call& c) {{
{begin}
  }}
  void users([[maybe_unused]] const Call& c, [[maybe_unused]] const int32_t* order, int m, [[maybe_unused]] float* out) {{
{of_user}
    (void)m;
  }}
  void items([[maybe_unused]] const Call& c, [[maybe_unused]] const int32_t* order, int m, [[maybe_unused]] float* out) {{
{of_item}
    (void)m;
  }}
  const float* pairs([[maybe_unused]] const float* user, [[maybe_unused]] const float* item, int m) {{
{of_pair}
    return {logit};
  }}
}};

}}  // namespace

extern "C" int64_t fedps_item_floats() {{ return Halves::ITEM; }}
extern "C" void fedps_items(const Call* call, float* out) {{ items<Halves>(*call, out); }}
extern "C" void fedps_rank(const Call* call, const float* items, int64_t count) {{ rank<Halves>(*call, items, count); }}
"""
