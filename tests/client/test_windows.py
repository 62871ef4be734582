"""Passes cut into equally many steps or windows: how they are cut, and what a client makes of them."""

import io
import math
from typing import Any

import pytest

from fedps.client.trainer import Trainer
from fedps.client.windows import parts_of
from fedps.types import CLAIM_LIMIT
from tests.client.test_schedule import ME, Watching, trainer_of
from tests.conftest import MakeJob

SIZES = (900, 353, 100, 61)
MEAN = sum(SIZES) / len(SIZES)


@pytest.mark.parametrize(("window", "single"), [(1, True), (1, False), (3, False)], ids=["sync", "geo 1", "geo 3"])
def test_all_clients_have_equally_many_parts_of_all_their_samples(window: int, single: bool) -> None:
    cut = [parts_of(n, MEAN, 16, window, single) for n in SIZES]
    assert {len(parts) for parts in cut} == {math.ceil(MEAN / (16 * window))}
    for size, parts in zip(SIZES, cut, strict=True):
        each = [part.samples for part in parts]
        assert sum(each) == size
        assert max(each) - min(each) <= 1
        if single:
            assert all(part.batch == part.samples for part in parts)


def test_batches_of_a_window_keep_about_their_size() -> None:
    assert {p.batch for p in parts_of(6400, 6400.0, 64, 10, single=False)} == {64}
    assert {p.batch for p in parts_of(14_080, 6400.0, 64, 10, single=False)} == {64}  # 22 in a window
    assert {p.batch for p in parts_of(900, 6400.0, 64, 10, single=False)} == {90}  # one in a window


def test_who_has_next_to_nothing_has_fewer_parts() -> None:
    assert parts_of(3, 40.0, 4, 1, single=True) == [(1, 1)] * 3


@pytest.mark.parametrize("claimed", [1e-3, 1.0, 1e12])
def test_what_others_claim_to_have_moves_a_share_only_so_far(claimed: float) -> None:
    parts = parts_of(10_000, claimed, 64, 1, single=True)
    assert 64 / CLAIM_LIMIT - 1 <= max(p.samples for p in parts) <= 64 * CLAIM_LIMIT
    assert sum(p.samples for p in parts) == 10_000


def watched(
    make_job: MakeJob, mean: float, window: int, lead: int = 0, hyper: Any = None, **runner: object
) -> tuple[Trainer, Watching, int]:
    """Return a trainer of a client that has `1 / mean` times as many samples as one on average."""
    _, learner, _ = trainer_of(job := make_job(hyper, print_interval=2, **runner))
    mode, held = Watching(window, lead), len(learner.data)
    trainer = Trainer(job, ME, learner, mode, lambda event: None, io.StringIO(), mean=lambda: held * mean)
    return trainer, mode, held


def seen(mode: Watching) -> list[tuple[list[int], list[int], int]]:
    """Return of each window how long the pieces of its lead and of its rest are, and its batches' size."""
    return [(list(map(len, w.lead)), list(map(len, w.rest)), w.size) for w in mode.windows]


def test_a_pass_in_step_trains_every_sample_once(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 0.5, 2, 1)
    assert trainer.train(1).samples == held
    assert len(mode.windows) == math.ceil(held / 2 / 64)
    for number, (lead, rest, batch) in enumerate(seen(mode)):
        assert lead == ([batch] if number else []), (
            "its first batch is ahead, but for the first, where nothing is merged"
        )
        batches = sum(math.ceil(samples / batch) for samples in (*lead, *rest))
        assert batches == round((sum(lead) + sum(rest)) / 32), "batches keep about their size"
    assert sum(sum(lead) + sum(rest) for lead, rest, _ in seen(mode)) == held


def test_sync_in_step_is_one_batch_a_step(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 1 / 3, 1, sync_mode="sync")
    assert trainer.train(1).samples == held
    assert len(mode.windows) == math.ceil(held / 3 / 32)
    assert all(lead == [] and rest == [batch] for lead, rest, batch in seen(mode))


def test_among_equals_too_no_sliver_is_left(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 1.0, 1, sync_mode="sync")
    assert held % 32, "there would be one"
    trainer.train(1)
    sizes = [sum(rest) for _, rest, _ in seen(mode)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("told", [{"iterations": 4}, {"batch_size": 16}, {"window": 1}])
def test_what_an_assignment_says_of_steps_goes_before(told: dict[str, int], make_job: MakeJob) -> None:
    trainer, mode, _ = watched(make_job, 0.5, 2)
    trainer.train(1, **told)
    size = told.get("batch_size", 32)
    assert seen(mode)[0] == ([], [size * told.get("window", 2)], size)


@pytest.mark.parametrize("mode_of", ["sync", "geo"])
def test_a_short_round_does_not_bring_a_client_out_of_step(mode_of: str, make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 0.5, 2, sync_mode=mode_of, negatives=1)
    trainer.train(1, 3)
    short = len(mode.windows)
    for round_ in (2, 3, 4):
        assert trainer.train(round_).samples == held, "the data runs on, over the end of a pass"
    rest = mode.windows[short:]
    assert len({len(rest[k::3]) for k in range(3)}) == 1 and len(rest) == 3 * math.ceil(held / 2 / 64)


def test_pairs_stay_together(make_job: MakeJob) -> None:
    trainer, mode, held = watched(make_job, 0.7, 3, hyper={"loss": "bpr"}, negatives=1)
    assert trainer.train(1).samples == held
    assert all(sum(rest) % 2 == 0 and batch % 2 == 0 for _, rest, batch in seen(mode))
