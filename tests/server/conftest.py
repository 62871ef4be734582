"""Servers that several files ask: one of two clients that train in step, and one whose processes follow each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedps.server.server import ParameterServer
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.homes import Home


@pytest.fixture
def events() -> list[dict[str, object]]:
    """What `server` reports."""
    return []


@pytest.fixture
def server(make_job: MakeJob, tmp_path: Path, events: list[dict[str, object]]) -> ParameterServer:
    """A server of two clients in mode geo, which soon gives up who is silent or away."""
    job = make_job(sync_mode="geo", step_timeout=5.0, reconnect_timeout=2.0, start_timeout=30.0, epochs=3)
    server = ParameterServer(job, 0, tmp_path / "run", into(events))
    server.members.expect(2)
    return server


@pytest.fixture
def home(make_job: MakeJob, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    """A server's folder; its parameter, if any, has the job's keys, else it is async."""
    settings = getattr(request, "param", {"sync_mode": "async"})
    home = Home(make_job(**settings, epochs=3), tmp_path)
    yield home
    home.close()
