"""`fedps certs kit` and `open`: a client's kit, one file with all that its worker needs but its data; and what it gives a worker."""

import json
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from fedps.cli.app import Coordinators, JobFile, Override, Servers, WorkerNum, flag, named, note
from fedps.cli.certs import DEFAULT, Folder, authority_in, certs_app, told
from fedps.errors import JobError


@certs_app.command
def kit(
    name: Annotated[str, Parameter(help="The client's name, as `fedps certs issue client` took it.")],
    *,
    job: JobFile = None,
    servers: Annotated[str, Servers],
    coordinators: Annotated[str | None, Coordinators] = None,
    worker_num: WorkerNum = None,
    override: Override = None,
    out: Annotated[Path, flag("out", "File to write; one that is there is replaced.")],
    directory: Folder = DEFAULT,
) -> None:
    """Put all that a client's worker needs but its data into one file: certificate, addresses, job.

    It holds the client's private key: send it as you would a password, and remove it here.

    Example: fedps certs kit alice --job job.yaml --servers 10.0.0.1:10000 --worker_num 3 --out alice.kit
    """
    from fedps.launch.addresses import read_counts  # noqa: PLC0415
    from fedps.launch.one_role import load_here  # noqa: PLC0415

    authority = authority_in(directory)
    counts = read_counts(servers=servers, coordinators=coordinators, worker_num=worker_num)
    given = [*(override or []), *counts.overrides()]
    loaded = load_here(named(job), given).job
    if loaded.runner.with_coordinator and coordinators is None:
        raise JobError("runner.with_coordinator: true: where is the coordinator? give --coordinators host:port")
    found = [f"name={json.dumps(loaded.name)}", f"runner.worker_num={loaded.runner.worker_num}"]
    if not loaded.features:  # sizes that all data here has shown, and one client's does not
        hyper = loaded.hyper_parameters
        found += [f"hyper_parameters.{size}={getattr(hyper, size)}" for size in ("num_users", "num_items")]
    with told():
        from fedps.access import kits  # noqa: PLC0415
        from fedps.config.shared import shared_part  # noqa: PLC0415
        from fedps.storage.credentials import find_credentials, read_credentials  # noqa: PLC0415

        credentials = read_credentials(find_credentials(authority.folder, "client", name))
        manifest = kits.Manifest(
            "client", name, loaded.name, servers, coordinators, [*found, *given], shared_part(loaded), time.time()
        )
        kits.pack(out, manifest, named(job).read_bytes(), credentials)
    if code := [text for text in (loaded.runner.model, loaded.runner.fl_client) if text and "." in text]:
        note(
            f"{out}: holds no code: send the files of {', '.join(code)}, too; they go beside job.yaml of the opened kit"
        )
    print(f"client {name}: kit in {out}, for job {loaded.name}; it holds a private key")
    print(f"there: fedps worker --kit {out.name} --data FOLDER")


@certs_app.command(name="open")
def open_kit(
    file: Annotated[Path, Parameter(help="The kit.")],
    *,
    out: Annotated[Path | None, flag("out", "Folder to make (default: the kit's name without .kit).")] = None,
) -> None:
    """Check a client's kit that has come, and lay it open; `fedps worker --kit` does the same.

    Example: fedps certs open alice.kit --out alice
    """
    with told():
        from fedps.access.kits import lay_open  # noqa: PLC0415

        folder, manifest = lay_open(file, out, time.time())
    print(f"{manifest.role} {manifest.name}: kit for job {manifest.job}, whole; in {folder}")
    print(f"next: fedps worker --kit {folder} --data FOLDER")


class Supplied(NamedTuple):
    """What a worker takes from a kit, in place of flags.

    Attributes:
        job: the job file in it.
        client: whose it is.
        servers, coordinators: as the flags take them.
        overrides: set over the job file, before the worker's own.
        certs: the certificate's folder.
        manifest: what `kits.check_job` compares the job with.
    """

    job: Path
    client: str
    servers: str
    coordinators: str | None
    overrides: list[str]
    certs: Path
    manifest: Any

    def check(self, job: Any) -> None:
        """Make sure that a job, as it reads here, is that of the kit. Raises JobError: it is another."""
        from fedps.access.kits import check_job  # noqa: PLC0415

        check_job(self.manifest, job)


def supplied(path: Path, client: str | None) -> Supplied:
    """Open a kit for a worker.

    Raises:
        IdentityError: it is not whole, or not valid.
        JobError: it is another client's.
    """
    with told():
        from fedps.access.kits import CERTS, JOB, lay_open  # noqa: PLC0415

        folder, said = lay_open(path, None, time.time())
    if client not in (None, said.name):
        raise JobError(f"--client {client}: the kit is of {said.role} {said.name}: leave --client out")
    return Supplied(folder / JOB, said.name, said.servers, said.coordinators, said.overrides, folder / CERTS, said)


def of_data(folder: Path | None) -> list[str]:
    """Return as overrides where a client's data is: what `fedps data prepare` has made.

    Raises:
        JobError: there is none.
    """
    if folder is None:
        return []
    if not (folder / "train").is_dir():
        raise JobError(f"--data {folder}: holds no folder train; name one that `fedps data prepare` has made")
    said = []
    for part in ("train", "test"):
        path = Path.cwd() / folder / part
        value = json.dumps(str(path), ensure_ascii=False) if path.is_dir() else "null"
        said.append(f"runner.{part}_data_dir={value}")
    return said
