"""What the job file may say of selection, and what is said to mistakes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedps.config import Job, load_job
from fedps.errors import JobError


def load(folder: Path, settings: dict[str, Any] | None, **runner: Any) -> Job:
    (folder / "train").mkdir(exist_ok=True)
    for client in "012":
        (folder / "train" / f"{client}.csv").write_text("0,1,1\n")
    keys = {"train_data_dir": "train", "with_coordinator": True, **runner}
    (folder / "job.yaml").write_text(yaml.safe_dump({"runner": keys, "selector": settings}))
    return load_job(folder / "job.yaml")


def test_settings_are_read_and_left_out(tmp_path: Path) -> None:
    assert load(tmp_path, None).selector.over_selection == 1.0
    tags = {"fast": ["0", "1"], "south": "2"}
    job = load(tmp_path, {"tags": tags, "only": ["fast"], "alpha": 1, "options": {"mine": [1]}}, client_selector="oort")
    assert job.selector.tags == {"fast": ("0", "1"), "south": ("2",)} and job.selector.alpha == 1.0
    job.save(tmp_path / "again.yaml")
    assert load_job(tmp_path / "again.yaml").selector == job.selector


@pytest.mark.parametrize(
    ("settings", "runner", "why"),
    [
        ({"epsilon": 0.5}, {}, r"selector.epsilon: 0.5: there is no such key"),
        ({"alfa": 2}, {}, r"selector.alfa: 2: there is no such key; did you mean 'alpha'\?"),
        ({"exploration": 1.5}, {}, "selector.exploration: 1.5: must be at most 1"),
        ({"cutoff": 0}, {}, "selector.cutoff: 0: must be above 0"),
        ({"over_selection": 0.9}, {}, "selector.over_selection: 0.9: must be at least 1"),
        ({"over_selection": True}, {}, "selector.over_selection: True: must be a number"),
        ({"deadline": -1}, {}, "selector.deadline: -1: must be above 0"),
        ({"timeout": float("inf")}, {}, "selector.timeout: inf: must be a finite number"),
        ({"tags": {"fast": [0]}}, {}, r"selector.tags.fast\[0\]: 0: must be text; put it in quotes"),
        ({"tags": ["fast"]}, {}, r"selector.tags: \['fast'\]: must be a section"),
        ({"tags": {"fast": ["7"]}}, {}, "selector.tags.fast: '7': there is no such client; there are 0, 1, 2"),
        ({"only": ["fast"]}, {}, "selector.only: 'fast': no client carries this tag; there are none in selector.tags"),
        ({"never": ["slow"], "tags": {"fast": ["0"]}}, {}, "selector.never: 'slow': no client .*; there are fast"),
        ({}, {"client_selector": "fedcs"}, "selector.deadline: None: client_selector fedcs fits clients into it"),
        (
            {"candidates": 1},
            {"client_selector": "power_of_choice", "clients_per_round": 2},
            "selector.candidates: 1: are fewer than the clients_per_round, 2; use at least 2",
        ),
        ({}, {"client_selector": "oart"}, "'oart': write all, random, round_robin, .* fedcs, or module.Class"),
    ],
)
def test_mistakes_are_told_with_their_remedy(
    tmp_path: Path, settings: dict[str, Any], runner: dict[str, Any], why: str
) -> None:
    with pytest.raises(JobError, match=why):
        load(tmp_path, settings, **runner)
