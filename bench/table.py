"""A server's tables beside numpy and torch: pulls, pushes, lookups, and growth to ten million rows."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bench.clock import Work, in_turn, rate
from bench.growth import PART, grow
from bench.plain import Works, numpy_works, torch_works
from bench.records import Curve, Figure, Options, Result
from fedps.table.index import Index
from fedps.table.sparse import SparseTable
from fedps.types import Keys, Rule, RuleName, TableSpec, Values

DIM = 32
TOUCHED = 5000  # rows of a request
REQUESTS = 20  # of a round, each of other rows
ROWS = {"full": (10_000, 1_000_000, 10_000_000), "quick": (10_000, 1_000_000), "tiny": (6_000,)}
GROWN = {"full": 10_000_000, "quick": 1_000_000, "tiny": 20_000}
ROUNDS = {"full": 9, "quick": 5, "tiny": 1}
MOST_IN_DICT = 1_000_000  # ids; a dict of more takes gigabytes
WORKS = {"pull": "pull", "add": "push add", "lazy_adam": "push lazy Adam", "adam": "push Adam (whole table)"}
RULES: tuple[RuleName, ...] = ("add", "lazy_adam", "adam")
ABOUT = (
    f"One thread, rows of {DIM} floats, requests of {TOUCHED:,} sorted ids drawn at random. The product's table looks ids up"
    " and makes rows when first asked for; the arrays of numpy and torch know their rows by number. torch's Adam is"
    " SparseAdam. Copying is the speed of memory as rows a second, measured now. Best round, and median."
)


def measure(options: Options) -> Result:
    """Measure a table that grows, then tables of every size."""
    rounds = ROUNDS[options.size]
    print(f"growth to {GROWN[options.size]:,} rows", flush=True)
    growth = grow(GROWN[options.size], DIM)  # first, so that its memory is its own
    figures, lines = [_copying(rounds)], {name: list[tuple[float, float]]() for name in WORKS}
    for rows in ROWS[options.size]:
        print(f"{rows:,} rows", flush=True)
        found = _compare(rows, rounds)
        figures += found
        for name, points in lines.items():
            points += [(rows, f.value) for f in found if f.key == f"{name}.{rows}.fedps"]
    named = tuple((WORKS[name], tuple(points)) for name, points in lines.items())
    curve = Curve("rows", f"Requests of {TOUCHED:,} rows, by size of the table", "rows of the table", "rows/s", named)
    return Result("table", ABOUT, (*figures, *growth), (curve,))


def _copying(rounds: int) -> Figure:
    source = np.ones((2_000_000, DIM), np.float32)  # 256 MB, beyond any cache
    target = np.empty_like(source)
    [seconds] = in_turn({"copy": lambda: np.copyto(target, source)}, rounds).values()
    return rate("copy", "copying rows in memory", "rows/s", len(source), seconds)


def _compare(rows: int, rounds: int) -> list[Figure]:
    """Compare one size of table; one contender is in memory at a time, since ten million rows of Adam fill 4 GB."""
    rng = np.random.default_rng(0)
    requests = [np.sort(rng.choice(rows, min(TOUCHED, rows // 2), replace=False)) for _ in range(REQUESTS)]
    values = rng.standard_normal((len(requests[0]), DIM), np.float32)
    taken: dict[str, dict[str, list[float]]] = {"fedps": {}}
    for rule in RULES:
        taken["fedps"] |= _time(_works(rows, rule, values), requests, rounds)
    for other, make in (("numpy", numpy_works), ("torch", torch_works)):
        taken[other] = _time(make(rows, values), requests, rounds)
    figures = []
    for name, what in WORKS.items():
        for who, seconds in taken.items():
            if name in seconds:
                ours = f"{name}.{rows}.fedps" if who != "fedps" else ""
                amount = len(values) * REQUESTS
                key, words = f"{name}.{rows}.{who}", f"{rows:,} rows: {what}, {who}"
                figures.append(rate(key, words, "rows/s", amount, seconds[name], ours))
    return [*figures, *_lookups(rows, requests, rounds)]


def _works(rows: int, rule: RuleName, values: Values) -> Works:
    """Return what the product's table does under a rule, with all rows there; add pulls as well."""
    table = SparseTable(TableSpec("rows", "sparse", (rows, DIM), Rule(rule)))
    start = np.full((PART, DIM), 0.01, np.float32)
    for at in range(0, rows, PART):
        keys = np.arange(at, min(at + PART, rows))
        table.push(keys, start[: len(keys)])
    works: Works = {rule: lambda keys: table.push(keys, values)}
    return {"pull": table.pull, **works} if rule == "add" else works


def _time(works: Works, requests: Sequence[Keys], rounds: int) -> dict[str, list[float]]:
    return in_turn({name: partial(_each, work, requests) for name, work in works.items()}, rounds)


def _each(work: Callable[[Keys], object], requests: Sequence[Keys]) -> None:
    for keys in requests:
        work(keys)


def _lookups(rows: int, requests: Sequence[Keys], rounds: int) -> list[Figure]:
    index, ids = Index(rows), np.arange(rows)
    for at in range(0, rows, PART):
        index.insert(ids[at : at + PART], ids[at : at + PART])
    contenders: dict[str, Work] = {
        "fedps": partial(_each, lambda keys: index.find(keys, ids), requests),
        "numpy.searchsorted": partial(_each, partial(np.searchsorted, ids), requests),
    }
    if rows <= MOST_IN_DICT:
        found = dict(zip(ids.tolist(), ids.tolist(), strict=True))
        contenders["dict"] = lambda: [[found[key] for key in keys.tolist()] for keys in requests]
    figures, count = [], len(requests) * len(requests[0])
    for who, seconds in in_turn(contenders, rounds).items():
        ours = f"lookup.{rows}.fedps" if who != "fedps" else ""
        best, middle = min(seconds) / count * 1e9, sorted(seconds)[len(seconds) // 2] / count * 1e9
        key, words = f"lookup.{rows}.{who}", f"{rows:,} rows: lookup of an id, {who}"
        figures.append(Figure(key, words, best, "ns", middle, ours))
    return figures
