"""Whole runs on virtual time, with all that goes wrong in them: one seed is one history, and each must come out right.

What happens in one is told by `python -m tests.simulation SEED`; `python -m tests.simulation 0:1000` tells which go wrong.
"""

import os
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from fedps.errors import RefusedError
from tests.simulation.history import History, happen, live, machine

FEW, MANY = 200, 10_200  # histories that are always run; with the long ones
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, FEW, 50))
def test_histories(first: int) -> None:
    with machine() as runs:
        for seed in range(first, first + 50):
            try:
                happen(seed, runs)
            except Exception as error:
                error.add_note(f"this is history {seed}: python -m tests.simulation {seed}")
                raise


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_histories() -> None:
    cores = os.cpu_count() or 1
    ends = [FEW + (MANY - FEW) * k // cores for k in range(cores + 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", f"{first}:{end}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for first, end in pairwise(ends)
    ]
    told = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(told)


def test_a_seed_is_one_history() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        live(17, lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 20


def test_a_client_outlasts_outages_that_follow_on_each_other() -> None:
    live(
        5982
    )  # its connection is cut for 40 s, and when it could be made again, the server's disk has been full for long


def test_a_client_has_ended_though_an_older_process_of_it_gives_up_later() -> None:
    with machine() as folder, closing(History(17, folder)) as history:
        older = history.clients[0]
        newest = history.clients[0] = older.twin()
        newest.ended = True
        history._end(newest)
        older.error = RefusedError("superseded", "a newer process speaks")
        history._end(older)
        assert older.name not in history._left
