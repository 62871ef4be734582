"""The bandit among the examples: it finds who brings the loss down, and runs in a whole job."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedps.coordinator.planner import History
from fedps.coordinator.selectors import ClientSelectorBase, make_selector
from fedps.launch.inprocess import run_in_process
from fedps.types import ClientId, ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.population import make_job as make_made_up_job
from tests.coordinator.population import picks
from tests.events.kept import into

EXAMPLE = Path(__file__).parents[2] / "examples" / "bandit_selector.py"
CLIENTS = {ClientId(f"{k}"): ClientInfo(samples=100) for k in range(6)}


def bandit(folder: Path, **options: Any) -> ClientSelectorBase:
    shutil.copy(EXAMPLE, folder)
    return make_selector(make_made_up_job(folder, "bandit_selector.LinUCB", 2, options=options))


def played(selector: ClientSelectorBase, rounds: range, history: History) -> list[list[str]]:
    """Let 0 and 1 lose 5 % of their loss in each turn, the others nothing, and 1 take ten times as long."""
    found, losses = [], {c: 1.0 * 0.95 ** len(history.turns.get(c, ())) for c in CLIENTS}
    for round_ in rounds:
        picked = picks(selector, CLIENTS, round_, history.turns)
        for name in picked:
            client = ClientId(name)
            losses[client] *= 0.95 if name in "01" else 1.0
            seconds = 10.0 if name == "1" else 1.0
            info = ClientInfo(samples=100, trained=100, seconds=seconds, loss=losses[client])
            history.report(client, round_, info)
        found.append(picked)
    return found


def test_everybody_is_tried_and_the_one_that_pays_is_preferred(tmp_path: Path) -> None:
    rounds = played(bandit(tmp_path, width=0.02), range(1, 41), History())
    assert {c for r in rounds[:3] for c in r} == set(CLIENTS)
    times = Counter(c for r in rounds[6:] for c in r)
    assert max(times, key=lambda c: times[c]) == "0" and times["0"] > 2 * times["1"] and times["0"] > 25


def test_what_it_learned_is_taken_up(tmp_path: Path) -> None:
    history = History()
    one = bandit(tmp_path)
    played(one, range(1, 20), history)
    other = bandit(tmp_path)
    other.load_state(one.state())
    other.tried = dict(one.tried)  # type: ignore[attr-defined]
    assert picks(one, CLIENTS, 20, history.turns) == picks(other, CLIENTS, 20, history.turns)
    assert one.state() == other.state() != bandit(tmp_path).state()


@pytest.mark.parametrize("mode", ["geo", "round"])
def test_it_runs_in_a_whole_job(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    events: list[dict[str, Any]] = []
    job = make_job(
        epochs=5, sync_mode=mode, with_coordinator=True, client_selector="bandit_selector.LinUCB", clients_per_round=4
    )
    run_in_process(job, tmp_path / "run", into(events))
    picked = [set(e["selected"]) for e in events if e["event"] == "selected"]
    assert len(picked) == 5 and all(len(who) == 4 for who in picked) and len(set().union(*picked[:3])) == 10
