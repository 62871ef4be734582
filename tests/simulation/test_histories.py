"""Whole runs on virtual time, with all that goes wrong in them: one seed is one history, and each must come out right.

What happens in one is told by `python -m tests.simulation SEED`; `python -m tests.simulation 0:1000` tells which go wrong.
"""

import pytest

from tests.simulation.history import live

FEW, MANY, AT_ONCE = 200, 10_000, 250  # histories


@pytest.mark.parametrize("first", range(0, FEW, 50))
def test_histories(first: int) -> None:
    happen(first, first + 50)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FEW, MANY, AT_ONCE))
def test_many_histories(first: int) -> None:
    happen(first, min(first + AT_ONCE, MANY))


def test_a_seed_is_one_history() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        live(17, lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 20


def happen(first: int, end: int) -> None:
    """Let histories happen; the first that goes wrong is told by its seed."""
    for seed in range(first, end):
        try:
            live(seed)
        except Exception as error:
            error.add_note(f"this is history {seed}: python -m tests.simulation {seed}")
            raise
