"""FedCS against its deadline, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job
from fedps.coordinator.selectors import make_selector
from fedps.coordinator.selectors.fedcs import upload_bytes
from fedps.types import ClientId, ClientInfo
from tests.coordinator.population import make_job, named, picks

MIB = 1 << 20


def fedcs(folder: Path, deadline: float, **more: Any) -> Any:
    return make_selector(make_job(folder, "fedcs", deadline=deadline, **{"upload_mib": 1.0, **more}))


def client(update: float, upload: float) -> ClientInfo:
    """Return one that takes so many seconds for its samples and for 1 MiB."""
    return ClientInfo(samples=1000, compute_capacity=1000 / update, bandwidth=MIB / upload)


def test_updates_run_at_the_same_time_and_uploads_one_after_the_other(tmp_path: Path) -> None:
    clients = named(a=client(10, 2), b=client(9, 2), c=client(1, 2), d=client(30, 1))
    # c ends at 3, b at 11, a at 13; d would end at 31
    assert picks(fedcs(tmp_path, 13), clients) == ["a", "b", "c"]
    assert picks(fedcs(tmp_path, 12.9), clients) == ["b", "c"]
    assert picks(fedcs(tmp_path, 31), clients) == ["a", "b", "c", "d"]
    assert picks(fedcs(tmp_path, 3), clients) == ["c"]


@pytest.mark.parametrize("seed", range(5))
def test_the_deadline_is_never_passed_and_nobody_that_fits_is_left(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = {ClientId(f"{k:02}"): (rng.pareto(1.5) * 10 + 0.5, rng.pareto(1.5) + 0.1) for k in range(50)}
    clients = {c: client(*t) for c, t in times.items()}

    def ends(chosen: list[str]) -> float:
        """Return when the last upload ends, if whoever is ready first sends first."""
        end = 0.0
        for update, upload in sorted(times[ClientId(c)] for c in chosen):
            end = max(end, update) + upload
        return end

    for deadline in (5.0, 20.0, 60.0):
        chosen = picks(fedcs(tmp_path, deadline), clients)
        assert chosen and ends(chosen) <= deadline
        quickest = min(times, key=lambda c: sum(times[c]))
        assert quickest in chosen
        assert len(picks(fedcs(tmp_path, 2 * deadline), clients)) > len(chosen)


def test_where_uploads_cost_nothing_all_fast_enough_are_taken(tmp_path: Path) -> None:
    clients = {ClientId(f"{k:02}"): ClientInfo(samples=100, compute_capacity=100 / (k + 1)) for k in range(20)}
    assert picks(fedcs(tmp_path, 7.5), clients) == [f"{k:02}" for k in range(7)]


def test_if_nobody_fits_the_quickest_trains_alone(tmp_path: Path) -> None:
    assert picks(fedcs(tmp_path, 0.5), named(a=client(9, 1), b=client(3, 1), c=client(5, 1))) == ["b"]


def test_unknown_speeds_count_as_the_median_and_nobody_known_is_drawn(tmp_path: Path) -> None:
    known = named(a=client(2, 1), b=client(4, 1), c=client(60, 1))
    clients = known | named(d=ClientInfo(samples=1000), e=ClientInfo(samples=100_000))
    assert picks(fedcs(tmp_path, 10), clients) == ["a", "b", "d"]
    strangers = {ClientId(c): ClientInfo(samples=10) for c in "abcdef"}
    assert len(picks(fedcs(tmp_path, 10), strangers)) == 3


def test_clients_per_round_limits_the_picks(tmp_path: Path) -> None:
    clients = {ClientId(c): client(1, 1) for c in "abcdef"}
    selector = make_selector(make_job(tmp_path, "fedcs", 2, deadline=100.0, upload_mib=1.0))
    assert len(picks(selector, clients)) == 2


def test_the_bytes_of_an_upload(tmp_path: Path) -> None:
    job = make_job(tmp_path)

    def with_runner(**keys: Any) -> Job:
        return job.model_copy(update={"runner": job.runner.model_copy(update=keys)})

    assert upload_bytes(job) == 3706 * 32 * 4, "user rows stay, as nothing else is said"
    assert upload_bytes(with_runner(local_sparse=())) == (6040 + 3706) * 32 * 4
    assert upload_bytes(with_runner(local_sparse=("mlp_user.weight",))) == 3706 * 32 * 4
    assert upload_bytes(with_runner(model="net.Net")) == 0
    assert upload_bytes(make_job(tmp_path, upload_mib=2.0)) == 2 * MIB
