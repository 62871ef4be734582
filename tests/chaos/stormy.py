"""A command of fedps under a storm: `python -m tests.chaos.stormy STORM.json run JOB.yaml --run_dir RUN_DIR …`.

All is as people start it, but that clients reach servers and the coordinator over wires that can be cut, that roles have
witnesses (`played`), and that whoever the storm's file names is killed or frozen. Beside the run's folder stands another,
`RUN_DIR.chaos`, with what fell and what was noted.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

import fedps.cli
from fedps.launch import launcher
from fedps.launch.launcher import Launch
from fedps.launch.local import processes
from fedps.launch.local.processes import Child
from fedps.launch.local.role import RoleSpec
from tests.chaos import played
from tests.chaos.storm import Fault, Storm
from tests.chaos.wires import Wire


class Schedule(msgspec.Struct, frozen=True):
    """What is to fall, and the bytes of a calm run, from which the moments follow."""

    faults: list[Fault]
    total: int


class Stormy(Launch):
    """The launcher as it is, under a storm."""

    schedule: Schedule

    def run(self, in_process: bool) -> dict[str, Any]:
        folder = played.beside(self._folder)
        folder.mkdir()
        self._storm = Storm(self.schedule.faults, self.schedule.total, folder / "fell.jsonl")
        try:
            return super().run(in_process)
        finally:
            self._storm.end()
            (folder / "carried").write_text(str(self._storm.carried))

    def _addresses(self) -> tuple[list[str], str | None]:
        servers, coordinator = super()._addresses()
        wires = {("server", k): Wire(address) for k, address in enumerate(servers)}
        if coordinator is not None:
            wires["coordinator", 0] = Wire(coordinator)
        self._storm.begin(self._watch.roles, dict(enumerate(self._clients)), wires)
        told = wires["coordinator", 0].address if coordinator is not None else None
        return [wires["server", k].address for k in range(len(servers))], told

    def _play(self, spec: RoleSpec, log: Path) -> Child:
        method = "forkserver" if spec.role == "worker" else "spawn"
        return processes._start(method, spec.role, spec.name, log, played.play, self._job, spec)

    def _end_listeners(self) -> None:
        self._storm.workers_have_left()
        super()._end_listeners()
        played.keep_logs(self._folder)  # before the launcher removes them


def main() -> None:
    file, *command = sys.argv[1:]
    Stormy.schedule = msgspec.json.decode(Path(file).read_bytes(), type=Schedule)
    launcher.Launch = Stormy  # type: ignore[misc]
    sys.argv = ["fedps", *command]
    fedps.cli.main()


if __name__ == "__main__":
    main()
