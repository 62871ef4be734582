"""What may be done to the tables of a server, step by step; a program says what, and always does the same."""

import numpy as np
from hypothesis import strategies as st
from msgspec.structs import replace

from fedps.table.store import Store
from fedps.types import NO_KEYS, Bounds, Init, Rule, RuleName, TableSpec

START = Init("uniform", 1.0, 3.0)
IDS = np.concatenate([np.arange(120), [-(2**63), -7, 2**63 - 1]])
BOUNDS = (
    Bounds(),
    Bounds(max_rows=30),
    Bounds(expire_after=1),
    Bounds(admit_after=2),
    Bounds(admit_after=2, expire_after=2, max_rows=40),
)
Step = tuple[str, int]
Program = list[Step]


def specs(rule: RuleName, bounds: Bounds) -> list[TableSpec]:
    rows = TableSpec("rows", "sparse", (0, 5), Rule(rule, 0.1), START, bounds=bounds)
    return [rows, replace(rows, name="tensor", kind="dense", shape=(40, 30), init=Init(), bounds=Bounds())]


def do(store: Store, step: Step) -> None:
    """Do one thing to the tables; the number says to which rows, with what values."""
    kind, number = step
    rng = np.random.default_rng(number)
    keys = np.sort(rng.choice(IDS, 1 + number % 25, replace=False))
    match kind:
        case "push":
            store.push("rows", keys, rng.normal(size=(len(keys), 5)).astype(np.float32), 0.5 + number % 2)
            store.push("tensor", NO_KEYS, rng.normal(size=(1, 1200)).astype(np.float32))
        case "pull":
            store.pull("rows", keys)
        case "make":
            store.make("rows", keys)
        case "seed":
            store.seed("tensor", rng.normal(size=(1, 500)).astype(np.float32), 0)
            store.seed("tensor", rng.normal(size=(1, 1 + number % 700)).astype(np.float32), 500)
        case "end":
            store.end_epoch()
        case "settle":
            store.settle()
        case "saved":
            store.mark_saved()


def made(tables: list[TableSpec], program: Program) -> Store:
    store = Store()
    store.declare(tables)
    for step in program:
        do(store, step)
    return store


kinds = st.sampled_from(["push", "push", "push", "push", "pull", "make", "seed", "end", "settle", "saved"])
programs = st.lists(st.tuples(kinds, st.integers(0, 10**6)), max_size=30)
