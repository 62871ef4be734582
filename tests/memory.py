"""How much memory a piece of work takes."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def allocating_less_than(size: int) -> Iterator[None]:
    """Fail if what is done inside has more than `size` bytes of Python's memory at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
