"""What the processes of a run weigh, and how seldom that is asked where it costs."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedps.events.events import Scripted
from fedps.launch.local.processes import stop
from fedps.launch.local.role import RoleSpec
from fedps.launch.local.scripts import start_script
from fedps.launch.watch import SHARE, Memory

COST = 0.05  # seconds that the PSS of a process takes
PAGE = 2**20


def test_living_roles_are_weighed_and_dead_ones_passed_over(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text("import time; time.sleep(60)")
    (tmp_path / "end.py").write_text("")
    living, dead = (
        start_script(
            RoleSpec("server", number, tmp_path / "job.yaml", tmp_path),
            tmp_path / f"log.{number}",
            Scripted(str(tmp_path / script), [], str(tmp_path)),
        )
        for number, script in enumerate(("wait.py", "end.py"))
    )
    dead.process.join(10)
    rss, pss = Memory().look([living, dead])
    stop([living, dead])
    assert rss.keys() == {("server", "0")}
    assert rss["server", "0"] > 0
    assert pss is not None and pss > 0


class Machine:
    """A machine with one role, whose pages take time to be gone through."""

    def __init__(self) -> None:
        self.now = self.spent = 0.0
        self.size = 100
        self.role = SimpleNamespace(kind="worker", name="0", open=True, process=SimpleNamespace(pid=7))

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=self.size * PAGE)

    def memory_full_info(self) -> SimpleNamespace:
        self.spent += COST
        return SimpleNamespace(rss=self.size * PAGE, pss=self.size * PAGE / 2)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    clock = SimpleNamespace(monotonic=lambda: machine.now, thread_time=lambda: machine.spent)
    monkeypatch.setattr("fedps.launch.watch.time", clock)
    monkeypatch.setattr("psutil.Process", lambda pid: machine)
    monkeypatch.setattr("sys.platform", "linux")
    yield machine


def looks(machine: Machine, seconds: int, look: Memory) -> list[float]:
    """Return the PSS that was read in looks of one a second."""
    found = []
    for _ in range(seconds):
        machine.now += 1.0
        rss, pss = look.look([machine.role])  # type: ignore[list-item]
        assert rss == {("worker", "0"): machine.size}
        found += [] if pss is None else [pss]
    return found


def test_reading_pss_takes_a_small_share_of_the_time(machine: Machine) -> None:
    found = looks(machine, 1000, Memory())
    assert machine.spent <= 1000 * SHARE + 2 * COST
    assert found == [100.0] * len(found) and len(found) > 10, "half of the role's size, and of ours"


def test_memory_that_grows_is_read_at_once(machine: Machine) -> None:
    look = Memory()
    assert looks(machine, 2, look) == [100.0]
    machine.size = 109
    assert looks(machine, 2, look) == []
    machine.size = 200
    assert looks(machine, 2, look) == [200.0]
