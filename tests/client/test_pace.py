"""Passes cut into equally many steps or windows: how they are cut, and what a client makes of them."""

import io
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from tests.client.test_schedule import ME, trainer_of
from tests.conftest import MakeJob

from fedps.client.modes import Window
from fedps.client.pace import MOST, parts_of
from fedps.client.shard import Order
from fedps.client.trainer import Trainer

SIZES = (900, 353, 100, 61)
MEAN = sum(SIZES) / len(SIZES)


@pytest.mark.parametrize(("window", "single"), [(1, True), (1, False), (3, False)], ids=["sync", "geo 1", "geo 3"])
def test_all_clients_have_equally_many_parts_of_all_their_samples(window: int, single: bool) -> None:
    cut = [parts_of(n, MEAN, 16, window, single) for n in SIZES]
    count = math.ceil(MEAN / (16 * window))
    assert {len(parts) for parts in cut} <= {count - 1, count}  # nothing may be left for the last, short one
    for size, parts in zip(SIZES, cut, strict=True):
        assert sum(p.samples for p in parts) == size
        whole = [p.samples for p in parts[: count - 1]]
        assert max(whole) - min(whole) <= 1
        assert parts[-1].samples <= max(whole)
        share = size / MEAN
        assert abs(whole[0] - 16 * window * share) <= 1
        if single:
            assert all(p.batch == p.samples for p in parts)


def test_batches_of_a_window_keep_about_their_size() -> None:
    assert {p.batch for p in parts_of(5000, 5000, 64, 10, single=False)} == {64}
    assert {p.batch for p in parts_of(11_000, 5000, 64, 10, single=False)} == {64}  # 22 in a window
    assert {p.batch for p in parts_of(700, 5000, 64, 10, single=False)} == {90}  # one in a window of 89.6 samples


def test_a_client_of_mean_size_is_cut_as_if_alone() -> None:
    assert parts_of(100, 100.0, 16, 1, single=True) == [*[(16, 16)] * 6, (4, 4)]
    assert parts_of(100, 100.0, 16, 3, single=False) == [(48, 16), (48, 16), (4, 16)]


def test_who_has_next_to_nothing_has_fewer_parts() -> None:
    parts = parts_of(3, 40.0, 4, 1, single=True)
    assert parts == [(1, 1)] * 3


@pytest.mark.parametrize("claimed", [1e-3, 1.0, 1e12])
def test_what_others_claim_to_have_moves_a_share_only_so_far(claimed: float) -> None:
    parts = parts_of(10_000, claimed, 64, 1, single=True)
    assert 64 // MOST <= max(p.samples for p in parts) <= 64 * MOST
    assert sum(p.samples for p in parts) == 10_000


class Watching:
    """A mode without servers that keeps what it was told to train."""

    lead = 0

    def __init__(self, window: int | None, lead: int) -> None:
        self.window, self.lead, self.seen = window, lead, list[tuple[list[int], list[int], int]]()

    def train(self, windows: Iterable[Window], train: Callable[[Order, int], None]) -> None:
        for window in windows:
            self.seen.append((list(map(len, window.lead)), list(map(len, window.rest)), window.size))
            for piece in window.pieces:
                train(piece, window.size)

    def start_at(self, clock: int) -> None:
        raise NotImplementedError


def watched(make_job: MakeJob, window: int | None, lead: int = 0, **runner: object) -> tuple[Trainer, Watching, int]:
    job = make_job(print_interval=2, **runner)
    _, learner, _ = trainer_of(job)
    mode = Watching(window, lead)
    trainer = Trainer(job, ME, learner, mode, lambda event: None, io.StringIO())
    return trainer, mode, len(learner.data)


def test_a_pass_in_step_trains_every_sample_once(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 2, 1)
    trainer.keep_step(held / 2)  # the others have less
    done = trainer.train(1)
    assert done.samples == held
    whole = mode.seen[0]
    assert (whole[0], whole[1]) == ([32], [96])  # windows of four batches, the first of them ahead
    assert len(mode.seen) == -(-held // 128)
    assert np.sum([sum(lead) + sum(rest) for lead, rest, _ in mode.seen]) == held


def test_sync_in_step_is_one_batch_a_step(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 1, sync_mode="sync")
    trainer.keep_step(held / 3)
    assert trainer.train(1).samples == held
    assert mode.seen[0] == ([], [96], 96)


@pytest.mark.parametrize("told", [{"iterations": 4}, {"batch_size": 16}, {"window": 1}])
def test_what_an_assignment_says_of_steps_goes_before(told: dict[str, int], make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 2)
    trainer.keep_step(held / 2)
    trainer.train(1, **told)
    size = told.get("batch_size", 32)
    assert mode.seen[0] == ([], [size * told.get("window", 2)], size)


def test_a_pass_begun_by_a_short_round_is_ended_at_the_clients_own_pace(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 2)
    trainer.keep_step(held / 2)
    trainer.train(1, 1)
    trainer.train(2)
    assert mode.seen[1] == ([], [64], 32)
