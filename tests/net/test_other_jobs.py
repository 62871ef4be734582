"""Clients whose job differs in a key, before a server and a coordinator on real sockets."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.errors import RefusedError
from fedps.net.channel import Channel
from fedps.server.server import ParameterServer
from fedps.wire.messages import Hello, Welcome
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.net.echo import LIMITS, served

WAIT = 60.0
To = Literal["server", "coordinator"]
ROLES: tuple[To, To] = ("server", "coordinator")


@contextmanager
def listening(role: To, job: Job, folder: Path) -> Iterator[str]:
    """Be a role on a socket; yield its address."""
    service = (
        ParameterServer(job, 0, folder, lambda event: None)
        if role == "server"
        else Coordinator(job, lambda event: None, io.StringIO())
    )
    with served(service) as address:
        yield address


def greet(address: str, greeting: Hello) -> Any:
    """Say Hello on a connection of its own; return the answer."""
    with closing(Channel(address, greeting, LIMITS, WAIT)) as channel:
        return channel.welcome.result(WAIT).message


def changed(job: Job, key: str, value: object) -> Job:
    """Return a job with one dotted key changed."""
    tree = job.model_dump(by_alias=True)
    *above, last = key.split(".")
    at = tree
    for name in above:
        at = at[name]
    at[last] = value
    return Job.model_validate(tree)


def value_of(job: Job, key: str) -> Any:
    """Return what a job says of a dotted key; of where traces lie, whether there are some."""
    value: Any = job.model_dump(mode="json", by_alias=True)
    for name in key.split("."):
        value = value[name]
    return value is not None if key == "simulation.traces" else value


@pytest.mark.parametrize("role", ROLES)
def test_a_client_whose_job_differs_in_a_key_is_told_which_and_both_values(
    role: To, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(seed=314_159)
    others = {
        "runner.sync_mode": "sync",
        "runner.geo_merge": "heat",
        "runner.seed": 8,
        "hyper_parameters.optimizer.class": "sgd",
        "hyper_parameters.num_items": 7,
        "server_optimizer.class": "yogi",
        "selector.over_selection": 2.0,
        "distillation.passes": 9,
        "limits.message_mib": 5,
        "simulation.traces": "traces.json",
    }
    with listening(role, job, tmp_path) as address:
        for key, value in others.items():
            with pytest.raises(RefusedError) as caught:
                greet(address, hello(changed(job, key, value), "0", to=role))
            assert caught.value.kind == "other_job"
            ours, theirs = (json.dumps(value_of(j, key)) for j in (job, changed(job, key, value)))
            said = f"{key}: {ours} here, {theirs} there (here is the {role}, there client '0'): give all roles"
            assert said in caught.value.reason
        assert isinstance(greet(address, hello(job, "0", to=role)), Welcome)


@pytest.mark.parametrize("role", ROLES)
def test_where_files_lie_and_what_is_printed_may_differ(role: To, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    others: dict[str, object] = {"folder": "/srv", "runner.train_data_dir": "/srv/train", "runner.test_data_dir": None}
    others |= {"runner.print_interval": 3, "runner.need_dump": True, "runner.compiled_step": False}
    with listening(role, job, tmp_path) as address, ExitStack() as stack:
        for number, (key, value) in enumerate(others.items()):
            greeting = hello(changed(job, key, value), str(number), to=role)
            channel = stack.enter_context(closing(Channel(address, greeting, LIMITS, WAIT)))
            assert isinstance(channel.welcome.result(WAIT).message, Welcome)


@pytest.mark.parametrize("role", ROLES)
def test_a_stranger_learns_neither_the_jobs_name_nor_a_key(role: To, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job().model_copy(update={"name": "ward-seven"})
    mine = hello(job, "0", to=role)
    there: To = "coordinator" if role == "server" else "server"
    with listening(role, job, tmp_path) as address:
        for greeting in (
            replace(mine, job="guess", shared={}),
            replace(mine, protocol=5, shared={}),
            replace(mine, to=there, shared={}),
        ):
            with pytest.raises(RefusedError) as caught:
                greet(address, greeting)
            assert caught.value.kind == "other_job"
            assert "runner." not in caught.value.reason
            assert ("ward-seven" in caught.value.reason) == (greeting.job == "ward-seven"), "only what it said itself"
        with pytest.raises(RefusedError, match=r"the jobs differ in runner\.sync_mode: \"geo\" here, nothing there"):
            greet(address, replace(mine, shared={}))
