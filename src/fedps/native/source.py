"""From a `Program` to the C++ of its training step: `train`, which learns batch after batch, and `score`.

The loops stand in `step.hpp` and what it includes; what is written here is their order, and their sizes.
"""

import math
from collections.abc import Iterable

from fedps.native import program as op
from fedps.native.places import Place, places_of
from fedps.native.program import Operation, Program

BLOCK, WIDE_BLOCK, TILE = 64, 256, 4  # as in basics.hpp
WIDE = 64  # floats on both sides of a layer from which on products go by panels (gemm.hpp)
ROWS = 512  # of a block where samples have many positions: so much stays in a near cache

# function → value of x, and derivative by x with y the value; p0, p1 stand for the operation's numbers
UNARY = {
    "affine": ("p0 * x + p1", "p0"),
    "relu": ("x > 0 ? x : 0.0f", "x > 0 ? 1.0f : 0.0f"),
    "leaky_relu": ("x > 0 ? x : p0 * x", "x > 0 ? 1.0f : p0"),
    "sigmoid": ("1.0f / (1.0f + std::exp(-x))", "y * (1.0f - y)"),
    "at_least": ("x < p0 ? p0 : x", "x < p0 ? 0.0f : 1.0f"),
    "tanh": ("std::tanh(x)", "1.0f - y * y"),
    "root": ("std::sqrt(x)", "y > 0 ? 0.5f / y : 0.0f"),  # of a length, whose derivative at 0 is 0
    "exp": ("std::exp(x)", "y"),
    "square": ("x * x", "2.0f * x"),
    "silu": ("x / (1.0f + std::exp(-x))", "(1.0f + std::exp(-x) * (1.0f + x)) / ((1.0f + std::exp(-x)) * (1.0f + std::exp(-x)))"),
    "softplus": ("std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x)))", "1.0f / (1.0f + std::exp(-x))"),
    "gelu": (
        "0.5f * x * (1.0f + std::erf(x * 0.70710678f))",
        "0.5f * (1.0f + std::erf(x * 0.70710678f)) + 0.39894228f * x * std::exp(-0.5f * x * x)",
    ),
}  # fmt: skip
# function → value; derivative by a, a function of it and b; derivative by b, a function of it and a: x is itself, o the other
BINARY = {
    "add": ("a + b", "1.0f", "1.0f"),
    "sub": ("a - b", "1.0f", "-1.0f"),
    "mul": ("a * b", "o", "o"),
    "div": ("a / b", "1.0f / o", "-o / (x * x)"),
    "fill": ("b != 0 ? p0 : a", "o != 0 ? 0.0f : 1.0f", "0.0f"),
}


def write(program: Program, group: int = 1) -> str:
    """Return the C++ of a program's step; so many samples, which the loss compares, go into one block."""
    return Writer(program).text(group)


class Writer:
    """Writes a program's training step."""

    def __init__(self, program: Program) -> None:
        self._program, self._operations = program, program.operations
        self._places = places_of(program)
        self._positions, self._still = op.all_positions(program), op.still(program)
        self._members: list[str] = []
        self._begin: list[str] = []
        self._forward: list[str] = []
        self._backward: list[str] = []
        self._end: list[str] = []
        self._written: set[int] = set()  # values whose gradient an operation has written
        self._towers = program.towers
        lookups = [o for o in program.operations if isinstance(o, op.Lookup | op.Pool | op.Rows)]
        # which table a feature looks up → the number of the places where the gradients of its rows stand
        self._looked_up = {key: k for k, key in enumerate(dict.fromkeys((o.table, o.feature) for o in lookups))}

    def text(self, group: int = 1) -> str:
        """Return it all."""
        last = len(self._operations) - 1
        self._written.add(last)
        for number, operation in enumerate(self._operations):
            self._forward += self._apply(number, operation)
        back = [self._back(number, operation) for number, operation in reversed([*enumerate(self._operations)])]
        joint = 2 if self._towers else 0  # operations that join two towers: training may begin behind them
        self._backward = [line for each in back[joint:] for line in each]
        sizes = {p.array: (self._positions[p.array] or 1) * p.stride for p in self._places if isinstance(p.array, int)}
        arrays = [f"alignas(64) float v{a}[SAMPLES * {sizes[a]}], d{a}[SAMPLES * {sizes[a]}];" for a in sorted(sizes)]
        rows, out = list(enumerate(self._program.tables)), self._places[last]
        find = [f"c.tables[{k}].count = 0;" for k, _ in rows]
        find += [
            f"fedps::find_rows(c.tables[{table}], c.features[{feature}], order, n, batch, places[{number}]);"
            for (table, feature), number in self._looked_up.items()
        ]
        find += [f"begin_rows<{dim}>(c.tables[{k}]);" for k, dim in rows]
        return TEXT.format(
            tables=len(rows),
            lookups=max(1, len(self._looked_up)),
            stride=out.stride,
            samples=self._samples(group),
            members=lines([*arrays, *self._members], "  "),
            logit=out.value(),
            slope=out.gradient(),
            begin=lines(self._begin),
            find_rows=lines(find),
            forward=lines(self._forward),
            joint=lines(line for each in back[:joint] for line in each),
            backward=lines(self._backward),
            towers=self._of_towers(),
            end=lines(self._end),
            change_rows=lines(f"end_rows<{dim}>(c.tables[{k}]);" for k, dim in rows),
            read_rows="".join(READ.format(number=k, dim=dim) for k, dim in rows),
        )

    def _of_towers(self) -> str:
        """Return what the network says of its two towers."""
        if self._towers is None:
            return "  static constexpr int TOWER = 0;"
        queries, items = (self._places[x] for x in (self._towers.queries, self._towers.items))
        return TOWERS.format(
            stride=items.stride, ids=self._towers.ids, queries=queries.value(), items=items.value(),
            d_queries=queries.gradient(), d_items=items.gradient(),
        )  # fmt: skip

    def _apply(self, number: int, operation: Operation) -> list[str]:
        y, m = self._places[number], self._rows(number)
        match operation:
            case op.Lookup(table, feature, dim):
                return [f"look_up<{dim}, {y.stride}>(c.tables[{table}], c.features[{feature}], order, m, {y.value()});"]
            case op.Pool(table, feature, mean, dim):
                sizes = f"{dim}, {y.stride}, {_bool(mean)}"
                return [f"pool<{sizes}>(c.tables[{table}], c.features[{feature}], order, m, {y.value()});"]
            case op.Rows(table, feature, length, dim):
                sizes = f"{dim}, {length}, {y.stride}"
                return [f"look_up_each<{sizes}>(c.tables[{table}], c.features[{feature}], order, m, {y.value()});"]
            case op.Present(feature, length):
                return [f"present<{length}, {y.stride}>(c.features[{feature}], order, m, {y.value()});"]
            case op.Repeat(x, length, width):
                a = self._places[x]
                return [f"repeat<{width}, {length}, {a.stride}, {y.stride}>(m, {a.value()}, {y.value()});"]
            case op.Total(x, width):
                a = self._places[x]
                sizes = f"{width}, {self._positions[x]}, {a.stride}, {y.stride}, false"
                return [f"total<{sizes}>(m, {a.value()}, {y.value()});"]
            case op.Softmax(x, width):
                a = self._places[x]
                sizes = f"{width}, {self._positions[x]}, {a.stride}, {y.stride}"
                return [f"softmax<{sizes}>(m, {a.value()}, {y.value()});"]
            case op.Number(feature, width):
                return [f"numbers<{width}, {y.stride}>(c.features[{feature}], order, m, {y.value()});"]
            case op.Linear(x, weight, bias, transposed, width, start, total):
                a, size = self._places[x], self._operations[x].width
                sizes = f"{size}, {width}, {_bool(transposed)}"
                wide = f"WideLinear<{sizes}, SAMPLES * {self._positions[x] or 1}>"
                self._members.append(f"{wide if min(size, width) >= WIDE else f'Linear<{sizes}>'} layer{number};")
                named = f"{_at('block', weight)}, {_at('block', bias) if bias >= 0 else 'nullptr'}"
                self._begin.append(f"layer{number}.begin({named}{f', {start}, {total}' if total else ''});")
                self._end.append(f"layer{number}.end({named.replace('block', 'gradient')});")
                return [f"layer{number}.apply<{a.stride}, {y.stride}>({m}, {a.value()}, {y.value()});"]
            case op.Unary(function, x, width, numbers):
                a, body = self._places[x], _with(UNARY[function][0], numbers)
                return [
                    f"map<{width}, {a.stride}, {y.stride}>({m}, {a.value()}, {y.value()}, [](float x) {{ return {body}; }});"
                ]
            case op.Binary(function, one, other, width, numbers):
                a, b, body = self._places[one], self._places[other], _with(BINARY[function][0], numbers)
                sizes = f"{width}, {self._operations[one].width}, {self._operations[other].width}"
                return [
                    f"zip<{sizes}, {a.stride}, {b.stride}, {y.stride}>({m}, {a.value()}, {b.value()}, {y.value()},"
                    f" []([[maybe_unused]] float a, float b) {{ return {body}; }});"
                ]
            case op.Column(function, x, parameter, width):
                a = self._places[x]
                self._members.append(f"Column<{width}, {self._program.parameters[parameter]}> column{number};")
                self._begin.append(f"column{number}.begin({_at('block', parameter)});")
                self._end.append(f"column{number}.end({_at('gradient', parameter)});")
                return [f"column{number}.{function}<{a.stride}, {y.stride}>({m}, {a.value()}, {y.value()});"]
            case op.Sum(x):
                a = self._places[x]
                return [
                    f"sum_columns<{self._operations[x].width}, {a.stride}, {y.stride}>({m}, {a.value()}, {y.value()});"
                ]
            case op.Concat(parts):
                return [
                    f"copy<{self._operations[p].width}, {a.stride}, {y.stride}, false>({m}, {a.value()}, {b.value()});"
                    for p, b in self._parts(number, parts)
                    if (a := self._places[p]) != b
                ]
            case op.Slice(x, start, width):
                a = self._places[x]
                return [f"copy<{width}, {a.stride}, {y.stride}, false>({m}, {a.value()} + {start}, {y.value()});"]

    def _back(self, number: int, operation: Operation) -> list[str]:
        if number in self._still:
            return []
        y, m = self._places[number], self._rows(number)
        dy = y.gradient()
        match operation:
            case op.Lookup(table, feature, dim):
                places = f"places[{self._looked_up[table, feature]}].at.data() + i"
                return [f"look_up_back<{dim}, {y.stride}>(c.tables[{table}], {places}, m, {dy});"]
            case op.Pool(table, feature, mean, dim):
                sizes, places = f"{dim}, {y.stride}, {_bool(mean)}", f"places[{self._looked_up[table, feature]}]"
                return [f"pool_back<{sizes}>(c.tables[{table}], {places}, i, m, {dy});"]
            case op.Rows(table, feature, length, dim):
                sizes, places = f"{dim}, {length}, {y.stride}", f"places[{self._looked_up[table, feature]}]"
                return [f"look_up_each_back<{sizes}>(c.tables[{table}], {places}, i, m, {dy});"]
            case op.Number() | op.Present():
                return []
            case op.Repeat(x, length, width):
                a, add = self._places[x], self._adds(x)
                return [f"total<{width}, {length}, {y.stride}, {a.stride}, {add}>(m, {dy}, {a.gradient()});"]
            case op.Total(x, width):
                a, add = self._places[x], self._adds(x)
                sizes = f"{width}, {self._positions[x]}, {a.stride}, {y.stride}, {add}"
                return [f"total_back<{sizes}>(m, {dy}, {a.gradient()});"]
            case op.Softmax(x, width):
                a, add = self._places[x], self._adds(x)
                sizes = f"{width}, {self._positions[x]}, {a.stride}, {y.stride}, {add}"
                return [f"softmax_back<{sizes}>(m, {y.value()}, {dy}, {a.gradient()});"]
            case op.Linear(x):
                a, add = self._places[x], self._adds(x)
                sizes = f"{a.stride}, {y.stride}, {add}"
                return [f"layer{number}.back<{sizes}>({m}, {a.value()}, {dy}, {a.gradient()});"]
            case op.Unary(function, x, width, numbers):
                a, add, body = self._places[x], self._adds(x), _with(UNARY[function][1], numbers)
                return [
                    f"map_back<{width}, {a.stride}, {y.stride}, {add}>({m}, {a.value()}, {y.value()}, {dy}, {a.gradient()},"
                    f" []([[maybe_unused]] float x, [[maybe_unused]] float y) {{ return {body}; }});"
                ]
            case op.Binary(function, one, other, width):
                sides = ((one, other, BINARY[function][1]), (other, one, BINARY[function][2]))
                return [
                    self._side_back(mine, its, body, width, y) for mine, its, body in sides if mine not in self._still
                ]
            case op.Column(function, x):
                a, add = self._places[x], self._adds(x)
                sizes = f"{a.stride}, {y.stride}, {add}"
                return [f"column{number}.{function}_back<{sizes}>({m}, {a.value()}, {dy}, {a.gradient()});"]
            case op.Sum(x):
                a, add, width = self._places[x], self._adds(x), self._operations[x].width
                return [f"sum_columns_back<{width}, {a.stride}, {y.stride}, {add}>({m}, {dy}, {a.gradient()});"]
            case op.Concat(parts):
                return [
                    f"copy<{self._operations[p].width}, {y.stride}, {a.stride}, {self._adds(p)}>({m}, {b.gradient()},"
                    f" {a.gradient()});"
                    for p, b in self._parts(number, parts)
                    if (a := self._places[p]) != b
                ]
            case op.Slice(x, start, width):
                return self._slice_back(x, start, width, y)

    def _side_back(self, mine: int, its: int, body: str, width: int, y: Place) -> str:
        a, b, add, m = self._places[mine], self._places[its], self._adds(mine), self._rows(mine)
        sizes = f"{width}, {self._operations[mine].width}, {self._operations[its].width}"
        return (
            f"zip_back<{sizes}, {a.stride}, {b.stride}, {y.stride}, {add}>({m}, {a.value()}, {b.value()}, {y.gradient()},"
            f" {a.gradient()}, []([[maybe_unused]] float x, [[maybe_unused]] float o) {{ return {body}; }});"
        )

    def _slice_back(self, x: int, start: int, width: int, y: Place) -> list[str]:
        a, m, clear = self._places[x], self._rows(x), []
        if self._adds(x) == "false":  # only some columns get a gradient from here
            whole = self._operations[x].width
            zero = "[](float, float) { return 0.0f; }"
            clear = [
                f"map_back<{whole}, {a.stride}, {a.stride}, false>({m}, {a.value()}, {a.value()}, {a.value()}, {a.gradient()}, {zero});"
            ]
        return [*clear, f"copy<{width}, {y.stride}, {a.stride}, true>({m}, {y.gradient()}, {a.gradient()} + {start});"]

    def _samples(self, group: int) -> int:
        """Return the samples of a block, whole tiles."""
        fit = ROWS // max(1, *self._positions) // TILE * TILE
        wide = any(line.startswith("WideLinear") for line in self._members)
        return min(WIDE_BLOCK if wide else BLOCK, max(fit, -(-group // TILE) * TILE, TILE))

    def _rows(self, value: int) -> str:
        """Return how many rows a value has in a block of m samples."""
        return f"m * {self._positions[value]}" if self._positions[value] else "m"

    def _adds(self, value: int) -> str:
        """Say whether a value has part of its gradient already, and note that it has now."""
        first = value not in self._written
        self._written.add(value)
        return _bool(not first)

    def _parts(self, number: int, parts: tuple[int, ...]) -> list[tuple[int, Place]]:
        """Return a concatenation's parts, each with its place there."""
        at, places = self._places[number], list[tuple[int, Place]]()
        column = at.column
        for part in parts:
            places.append((part, Place(at.array, column, at.stride)))
            column += self._operations[part].width
        return places


def _with(body: str, numbers: tuple[float, ...]) -> str:
    for k, number in enumerate(numbers):
        written = f"({number!r}f)" if math.isfinite(number) else f"({'-' * (number < 0)}INFINITY)"
        body = body.replace(f"p{k}", written)
    return body


def _at(kind: str, parameter: int) -> str:
    return f"c.dense[c.of[{parameter}]].{kind} + c.offset[{parameter}]"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def lines(each: Iterable[str], indent: str = "    ") -> str:
    """Return lines one below the other."""
    return "\n".join(indent + line for line in each)


TEXT = """\
#include "step.hpp"
using namespace fedps;

namespace {{

struct Network {{
  static constexpr int TABLES = {tables}, STRIDE = {stride}, SAMPLES = {samples};
{members}
  Places places[{lookups}];

{towers}
  float* logit() {{ return {logit}; }}
  float* slope() {{ return {slope}; }}
  void begin([[maybe_unused]] const Call& c) {{
{begin}
  }}
  void find_rows(const Call& c, const int32_t* order, int64_t n, int32_t batch) {{
{find_rows}
    (void)c, (void)order, (void)n, (void)batch;
  }}
  void forward(const Call& c, const int32_t* order, int m) {{
{forward}
    (void)c, (void)order;
  }}
  void backward_joint([[maybe_unused]] int m) {{
{joint}
  }}
  void backward(const Call& c, int64_t i, int m) {{
{backward}
    (void)c, (void)i, (void)m;
  }}
  void end([[maybe_unused]] const Call& c) {{
{end}
  }}
  void change_rows([[maybe_unused]] const Call& c) {{
{change_rows}
  }}
}};

}}  // namespace

extern "C" int64_t fedps_train(const Call* call) {{ return train<Network>(*call); }}
extern "C" void fedps_score(const Call* call) {{ score<Network>(*call); }}
extern "C" void fedps_ahead(const Call* call) {{ ahead<Network>(*call); }}
{read_rows}"""
READ = """
extern "C" void fedps_read_{number}(Table* table, const int32_t* slots, int64_t count, float* out) {{
  read_rows<{dim}>(*table, slots, count, out);
}}
"""
TOWERS = """\
  static constexpr int TOWER = {stride}, IDS = {ids};
  float* queries() {{ return {queries}; }}
  float* items() {{ return {items}; }}
  float* d_queries() {{ return {d_queries}; }}
  float* d_items() {{ return {d_items}; }}"""
