"""`fedps audit`: whether the audit logs of a run are as they were written."""

import json
from typing import Any

from cyclopts import App

from fedps.cli.app import FAILED, AsJson, PastRun, app

audit_app = App(
    name="audit", help="The logs in which servers and the coordinator say who came, was refused, left, and trained."
)
app.command(audit_app)


@audit_app.command
def verify(run_dir: PastRun, *, as_json: AsJson = False) -> None:
    """Look whether a run's audit logs are whole and unchanged; the first fault of each file is told, and ends with 1.

    Example: fedps audit verify latest
    """
    from fedps.access.audit import verify as look_through  # noqa: PLC0415

    found, faults = look_through(run_dir)
    if as_json:
        told: list[dict[str, Any]] = [{"file": str(f.file), "entry": f.entry, "what": f.what} for f in faults]
        print(json.dumps({"entries": {str(path): count for path, count in found.items()}, "faults": told}))
    else:
        wrong = {fault.file: str(fault) for fault in faults}
        for path, count in found.items():
            print(wrong.get(path) or f"{path}: {count} entries, as they were written")
    if faults:
        raise SystemExit(FAILED)
