"""Distillation as people start it: processes, and no weight on the wire."""

from pathlib import Path
from typing import Any

import yaml

from tests.distilling import ALL_LOCAL, public_file
from tests.launch.runs import events, fedps, summary_of, write_job


def test_clients_that_share_no_weights_teach_each_other(tmp_path: Path) -> None:
    runner: dict[str, Any] = {"sync_mode": "round", "with_coordinator": True, "epochs": 2, **ALL_LOCAL}
    path = write_job(tmp_path, **runner)
    public_file(tmp_path)
    tree = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**tree, "distillation": {"public_data": "public.csv", "samples": 50}}))
    run = fedps("run", path, "--run_dir", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    assert summary_of(tmp_path / "run")["status"] == "ok"
    taught = [e for e in events(tmp_path / "run") if e["event"] == "taught"]
    assert [(e["round"], sorted(e["weights"])) for e in taught] == [(1, ["0", "1", "2"]), (2, ["0", "1", "2"])]  # type: ignore[call-overload]
