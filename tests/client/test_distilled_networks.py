"""Clients of networks unlike each other, which could share no weights if they would, learn from each other."""

import io
import threading
from pathlib import Path
from typing import Any

from fedps.client.greeting import COORDINATOR
from fedps.client.life import FLClient
from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.types import ClientId
from fedps.wire.frame import Limits
from fedps.wire.messages import Hello
from tests.conftest import MakeJob
from tests.coordinator.callers import with_keys
from tests.distilling import ALL_LOCAL, distilling
from tests.events.kept import into

NETWORKS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"fc_layers": [16, 8, 4]}, ALL_LOCAL),
    (
        {"mode": "NCF_GMF", "mf_dim": 6},
        {"local_sparse": ["mf_user.weight", "mf_item.weight"], "local_dense": ["linear_0.w_0", "linear_0.b_0"]},
    ),
]


def test_networks_may_differ(make_job: MakeJob, tmp_path: Path) -> None:
    jobs = [
        with_keys(
            distilling(make_job, tmp_path, hyper=hyper, epochs=2, compiled_step=False, **local),
            worker_num=len(NETWORKS),
        )
        for hyper, local in NETWORKS
    ]
    events: list[dict[str, Any]] = []
    server = LocalServer(ParameterServer(jobs[0], 0, tmp_path, into(events)))
    coordinator = LocalServer(Coordinator(jobs[0], into(events), io.StringIO()))

    def connect(number: int, hello: Hello) -> LocalChannel:
        other = coordinator if number == COORDINATOR else server
        with other.lock:
            return LocalChannel(other, hello, Limits())

    def live(job: Job, client: str) -> None:
        FLClient(job, ClientId(client), [], tmp_path, into(events), connect=connect, log=io.StringIO()).run()

    threads = [threading.Thread(target=live, args=(job, str(k))) for k, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    server.close()
    coordinator.close()
    taught = [e for e in events if e["event"] == "taught"]
    assert [(e["round"], sorted(e["weights"])) for e in taught] == [(1, ["0", "1"]), (2, ["0", "1"])]
    assert sum(e["event"] == "done" for e in events) == 2
