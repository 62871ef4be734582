"""`fedps init`: a first job for prepared data."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedps.cli.app import Switch, app, flag
from fedps.errors import JobError


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
    from fedps.config.proposal import propose  # noqa: PLC0415
    from fedps.storage.whole import PUBLIC, write_whole  # noqa: PLC0415

    file = out or data_dir / "job.yaml"
    if file.exists() and not force:
        raise JobError(f"{file}: is there already; --force replaces it, --out FILE writes another")
    proposal = propose(data_dir, file, model)
    try:
        write_whole(file, proposal.text.encode(), PUBLIC)
    except OSError as error:
        raise JobError(f"{file}: cannot be written: {error.strerror}; choose another --out") from error
    print(f"{proposal.text}\nwritten to {file}; next: {proposal.command}")
