"""A simulated device and the clock of many: seconds by hand, fates by their probability, times that go on."""

import math

import pytest

from fedps.simulation.device import Device
from fedps.simulation.traces import SimulatedClock, Trace
from fedps.types import ClientId, ClientInfo

A, B, C = ClientId("a"), ClientId("b"), ClientId("c")
SLOW = Trace(speed=100.0, bandwidth=50.0)  # 1000 samples and 500 bytes: 10 + 10 seconds


def test_seconds_are_samples_over_speed_and_bytes_over_bandwidth() -> None:
    device = Device(SLOW, A, 0)
    assert not device.begin(1, 1000, 400, math.inf)
    device.done(1000, 500, math.inf)
    assert device.seconds == 20.0
    device.rest()
    assert device.seconds == 0.0


def test_too_late_for_the_deadline() -> None:
    device = Device(SLOW, A, 0)
    assert device.begin(1, 1000, 500, 19.0) == "too late"
    assert device.seconds == 19.0
    assert device.disguise(ClientInfo(samples=7)) == ClientInfo(
        samples=7, compute_capacity=100.0, bandwidth=50.0, seconds=19.0, dropped=True
    )
    assert not device.begin(2, 1000, 500, 20.0)
    device.done(1000, 600, 20.0)  # more bytes than were forecast
    assert device.seconds == 20.0
    assert not device.disguise(ClientInfo()).dropped


def test_a_dropped_client_is_missed_at_the_deadline_or_when_it_was_due() -> None:
    device = Device(Trace(100.0, 50.0, dropout=0.999999), A, 0)
    assert device.begin(1, 1000, 500, math.inf) == "dropped out"
    assert device.seconds == 20.0
    assert device.begin(2, 1000, 500, 60.0) == "dropped out"
    assert device.seconds == 60.0


def test_who_drops_out_follows_from_seed_client_and_round() -> None:
    def fates(client: ClientId, seed: int) -> list[str]:
        device = Device(Trace(1.0, 1.0, dropout=0.3), client, seed)
        return [device.begin(r, 1, 1, math.inf) for r in range(1, 1001)]

    assert fates(A, 0) == fates(A, 0)
    assert fates(A, 0) != fates(B, 0)
    assert fates(A, 0) != fates(A, 1)
    assert 250 < fates(A, 0).count("dropped out") < 350


def test_a_round_takes_as_long_as_the_slowest() -> None:
    clock = SimulatedClock({A: SLOW})
    assert clock.advance([3.0, 0.0, 7.5]) == 7.5
    assert clock.advance([]) == 0.0
    assert clock.advance([2.0]) == 2.0
    assert clock.now == 9.5


def test_only_who_is_online_is_present() -> None:
    def at(begin: float, end: float) -> Trace:
        return Trace(1.0, 1.0, period=100.0, online=((begin, end),))

    clock = SimulatedClock({A: at(0, 10), B: at(5, 20), C: at(90, 100)})
    assert clock.present([A, B, C]) == [A]
    clock.advance([6.0])
    assert clock.present([A, B, C]) == [A, B]
    clock.advance([20.0])
    assert clock.now == 26.0
    assert clock.present([A, B, C]) == [C]  # nobody was: the clock went on to when the first came
    assert clock.now == 90.0
    assert clock.present([A]) == [A]
    assert clock.now == 100.0


def test_a_client_without_a_trace_is_always_present() -> None:
    assert SimulatedClock({}).present([A]) == [A]


@pytest.mark.parametrize("now", [0.1, 0.3, 1e9 + 0.1])
def test_the_clock_reaches_who_it_goes_on_to(now: float) -> None:
    clock = SimulatedClock({A: Trace(1.0, 1.0, period=0.7, online=((0.6, 0.7),))})
    clock.advance([now])
    assert clock.present([A]) == [A]
