"""Coordinators that a test has started end with it."""

from collections.abc import Iterator

import pytest

from tests.coordinator.callers import kill_all


@pytest.fixture(autouse=True)
def end_coordinators() -> Iterator[None]:
    """Let go of what they keep open."""
    yield
    kill_all()
