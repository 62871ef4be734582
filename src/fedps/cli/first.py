"""`fedps init` and `fedps doctor`: a first job for prepared data, and what keeps a machine, or a run, from doing well."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fedps.cli.app import FAILED, AsJson, PastRun, Switch, app, flag
from fedps.errors import JobError

if TYPE_CHECKING:
    from fedps.config.proposal import Proposal


@app.command
def init(
    data_dir: Annotated[Path, Parameter(help="Folder that `fedps data prepare` made.")],
    *,
    out: Annotated[Path | None, flag("out", "The job file to write (default job.yaml in that folder).")] = None,
    model: Annotated[
        str | None, flag("model", "The network, e.g. MF (default by what the data has: pairs, features or sequences).")
    ] = None,
    force: Annotated[bool, Switch, flag("force", "Replace a job file that is there.")] = False,
) -> None:
    """Write a first job for prepared data, which runs as it stands; its comments say what to change.

    Example: fedps init .data/ml-1m
    """
    file = out or data_dir / "job.yaml"
    if file.exists() and not force:
        raise JobError(f"{file}: is there already; --force replaces it, --out FILE writes another")
    proposal = write_job(data_dir, file, model)
    print(f"{proposal.text}\nwritten to {file}; next: {proposal.command}")


def write_job(data_dir: Path, file: Path, model: str | None = None) -> "Proposal":
    """Write a first job for prepared data; return it.

    Raises:
        JobError: there is no prepared data, the network does not take it, or the file cannot be written.
    """
    from fedps.config.proposal import propose  # noqa: PLC0415
    from fedps.storage.whole import PUBLIC, write_whole  # noqa: PLC0415

    proposal = propose(data_dir, file, model)
    try:
        write_whole(file, proposal.text.encode(), PUBLIC)
    except OSError as error:
        raise JobError(f"{file}: cannot be written: {error.strerror}; choose another by --out") from error
    return proposal


@app.command
def doctor(
    run_dir: PastRun | None = None,
    *,
    certs: Annotated[
        Path | None, flag("certs", "A role's folder of certificates, or an authority's, to look at.")
    ] = None,
    at: Annotated[
        str | None, flag("at", "host:port of a server or coordinator to dial with a certificate of --certs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has for a run and what it lacks; or of a run's folder, or of certificates, what is whole.

    Each finding is ok, a warning or a fault, with what to do about it; the exit code is 1 if there is a fault.

    Example: fedps doctor

    Example: fedps doctor latest

    Example: fedps doctor --certs certs --at 10.0.0.1:10000
    """
    if certs is not None:
        from fedps.doctor import certificates  # noqa: PLC0415
        from fedps.launch.addresses import read_address  # noqa: PLC0415

        address = None if at is None else read_address("--at", at)
        findings = list(certificates.examine(certs, address))
    elif at is not None:
        raise JobError(f"--at {at}: with which certificate? give --certs DIR")
    elif run_dir is None:
        from fedps.doctor.machine import examine  # noqa: PLC0415

        findings = list(examine())
    else:
        from fedps.doctor import run  # noqa: PLC0415

        findings = list(run.examine(run_dir))
    counts = {state: sum(f.state == state for f in findings) for state in ("fault", "warning")}
    if as_json:
        print(json.dumps({"findings": [finding._asdict() for finding in findings], **counts}))
    else:
        for finding in findings:
            print(f"{finding.state:<8} {finding.what:<12} {finding.said}")
            if finding.remedy:
                print(f"{'':<21} {finding.remedy}")
        print(", ".join(f"{count or 'no'} {state}{'s' * (count != 1)}" for state, count in counts.items()))
    if counts["fault"]:
        raise SystemExit(FAILED)
