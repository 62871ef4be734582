"""Events of every kind, with facts of any value."""

from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import msgspec
import numpy as np
from hypothesis import strategies as st

from fedps.events.events import Event
from fedps.metrics import BUCKETS, Histogram

S = TypeVar("S", bound=msgspec.Struct)


def histogram(counts: list[int]) -> Histogram:
    """Return a histogram of some counts, from the lowest bucket on."""
    padded = np.zeros(BUCKETS, np.int64)
    padded[: len(counts)] = counts
    return Histogram(padded, padded[::-1])


def sums(users: int, hits: float, ndcg: float) -> dict[str, int | float]:
    """Return what an evaluation comes to."""
    return {"users": users, "hr@10": hits, "ndcg@10": ndcg}


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    NoneType: st.none(),
    Histogram: st.builds(histogram, st.lists(st.integers(0, 2**40), max_size=5)),
}


def facts_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type that an event's fact may have."""
    if get_origin(kind) is list:
        return st.lists(facts_of(*get_args(kind)), max_size=3)
    if get_origin(kind) is dict:
        return st.dictionaries(*map(facts_of, get_args(kind)), max_size=3)
    if get_origin(kind) is UnionType:
        return st.one_of([facts_of(part) for part in get_args(kind)])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return built(kind)
    return VALUES[kind] if kind in VALUES else st.from_type(kind)


def built(kind: type[S]) -> st.SearchStrategy[S]:
    """Return structs of one kind, e.g. of an event's."""
    return st.builds(kind, **{field.name: facts_of(field.type) for field in msgspec.structs.fields(kind)})


EVENTS = st.one_of([built(kind) for kind in Event.__subclasses__()])
