"""Signals as exceptions, and what roles weigh."""

import os
import signal
import threading
from pathlib import Path

import pytest

from fedps.config import Allow
from fedps.launch.local.scripts import Scripted
from fedps.launch.local.system import sigterm_as_interrupt, weigh


def test_sigterm_interrupts_and_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone() -> None:
    done = []

    def inside() -> None:
        with sigterm_as_interrupt():
            done.append(True)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert done


def test_living_roles_are_weighed_and_dead_ones_passed_over(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text("import time; time.sleep(60)")
    (tmp_path / "end.py").write_text("")
    living, dead = (
        Scripted(tmp_path / s, (), tmp_path, tmp_path, Allow()).coordinator("") for s in ("wait.py", "end.py")
    )
    dead.process.join(10)
    dead.name = "1"
    rss, pss = weigh([living, dead])
    for role in (living, dead):
        role.stop()
    assert rss.keys() == {("coordinator", "0")}
    assert rss["coordinator", "0"] > 0
    assert pss > 0
