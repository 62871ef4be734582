"""A client's kit: one file with all that its worker needs but its data: certificate, addresses, and the job.

A zip file with `kit.json`, which says what is in it and the SHA-256 of each, `job.yaml` and `certs/`; it holds a private key, so
its file is its owner's alone, and it should travel as a key does. It holds no code. What arrives is checked whole before
anything of it is written: nothing but the files that a kit has, each once, of its size, with its digest; a certificate that
is the client's, valid today, with its key; and later the job, as it reads on the client's machine with the client's data.
"""

import hashlib
import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from fedps import crypto
from fedps.access.authority import check_name
from fedps.config import Job
from fedps.config.shared import first_difference, shared_part
from fedps.crypto import identity_of
from fedps.errors import IdentityError, JobError
from fedps.storage.credentials import CA, CERTIFICATE, KEY, LARGEST, REVOKED, Credentials, write_credentials
from fedps.storage.whole import CLOSED, make_folder, whole_folder, write_whole

MANIFEST, JOB, CERTS = "kit.json", "job.yaml", "certs"
FILES = (JOB, *(f"{CERTS}/{name}" for name in (CA, CERTIFICATE, KEY, REVOKED)))
FORM = 1  # of the file
MOST_BYTES = 4 * LARGEST  # of a kit
AGAIN = "ask for it again"
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
)  # of zip files


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What a kit says of itself.

    Attributes:
        form: of the file.
        role, name: whose certificate is in it.
        job: its name.
        servers: where every server listens, as `--servers` takes it.
        coordinators: where the coordinator does, None without one.
        overrides: set over the job file, as `-o` takes them.
        shared: what all roles must agree on, as `config.shared` says it.
        made: seconds since 1970.
        files: the SHA-256 of each.
    """

    role: str
    name: str
    job: str
    servers: str
    coordinators: str | None
    overrides: list[str]
    shared: dict[str, str]
    made: float
    files: dict[str, str] = {}
    form: int = FORM


class Kit(NamedTuple):
    """A kit that arrived whole."""

    manifest: Manifest
    said: bytes  # the manifest's own bytes
    job: bytes
    credentials: Credentials


def pack(path: Path, manifest: Manifest, job: bytes, credentials: Credentials) -> None:
    """Write a kit.

    Args:
        path: of its file.
        manifest: but for its files' digests.
        job: the job file.
        credentials: of the client.

    Raises:
        OSError: it cannot be written.
    """
    contents = dict(zip(FILES, (job, *credentials), strict=True))
    manifest.files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as kit:
        for name, content in (
            {MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1)} | contents
        ).items():
            kit.writestr(name, content)
    write_whole(path, packed.getvalue())


def read_kit(path: Path) -> Kit:
    """Read a kit and check all of it but the job and the date.

    Args:
        path: its file.

    Raises:
        IdentityError: it is none, damaged, holds what a kit does not, or a certificate that is revoked or another's.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise IdentityError(f"{path}: has more than {MOST_BYTES:,} bytes, which no kit has")
        with zipfile.ZipFile(path) as kit:
            contents = _contents(path, kit)
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}: name the kit's file") from None
    except BROKEN as error:
        raise IdentityError(f"{path}: is no kit, or a damaged one ({error}); {AGAIN}") from None
    said = contents.pop(MANIFEST)
    manifest = _manifest(path, said)
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest.files.get(name):
            raise IdentityError(
                f"{path}: {name} in it is not what {MANIFEST} says: it is damaged, or was changed; {AGAIN}"
            )
    credentials = Credentials(*(contents[f"{CERTS}/{name}"] for name in (CA, CERTIFICATE, KEY, REVOKED)))
    _check_certificate(path, manifest, credentials)
    return Kit(manifest, said, contents[JOB], credentials)


def lay_open(path: Path, out: Path | None, now: float) -> tuple[Path, Manifest]:
    """Lay a kit's files into a folder; return it, and what the kit says.

    One that is laid open already is left as it is, as its certificate may have been renewed there.

    Args:
        path: the kit's file, or the folder of one that is laid open.
        out: the folder; None takes the file's name without its ending.
        now: seconds since 1970.

    Raises:
        IdentityError: it is no whole kit, its certificate is not valid now, or something else is at `out`.
        OSError: the folder cannot be written.
    """
    if path.is_dir():
        return path, _opened(path)
    kit = read_kit(path)
    folder = out or path.with_name(path.stem if path.suffix else f"{path.name}-opened")
    if folder.exists():
        if (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == kit.said:
            return folder, kit.manifest
        raise IdentityError(
            f"{folder}: is there already, and not this kit laid open: name another --out, or move it away"
        )
    if fault := crypto.fault_of(identity_of(kit.credentials.certificate), now):
        raise IdentityError(f"{path}: {fault}, where it was made, and {AGAIN}")
    make_folder(folder.parent)
    with whole_folder(folder) as new:
        new.chmod(CLOSED)
        write_credentials(new / CERTS, kit.credentials)
        write_whole(new / JOB, kit.job)
        write_whole(new / MANIFEST, kit.said)
    return folder, kit.manifest


def _opened(folder: Path) -> Manifest:
    """Return what the kit said that was laid into a folder; its certificate may have been renewed since.

    Raises:
        IdentityError: none was.
    """
    try:
        return _manifest(folder, (folder / MANIFEST).read_bytes())
    except OSError as error:
        raise IdentityError(
            f"{folder / MANIFEST}: {error.strerror}: name a kit's file, or the folder of an opened one"
        ) from None


def check_job(manifest: Manifest, job: Job) -> None:
    """Make sure that a job, as it reads here, is the one that the kit is for.

    Raises:
        JobError: it is another; names the first difference.
    """
    if (difference := first_difference(shared_part(job), manifest.shared)) is not None:
        raise JobError(
            f"this is another job than the kit's: {difference}, in the kit; correct it here, or ask for a kit of this job"
        )


def _contents(path: Path, kit: zipfile.ZipFile) -> dict[str, bytes]:
    """Return what is in a kit; names are compared, never used as paths."""
    expected = {MANIFEST, *FILES}
    for entry in (entries := kit.infolist()):
        if entry.filename not in expected:
            raise IdentityError(
                f"{path}: holds {entry.filename[:99]!r}, which no kit holds: nothing of it was written; {AGAIN}"
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise IdentityError(
                f"{path}: {entry.filename} in it is a link, not a file: nothing of it was written; {AGAIN}"
            )
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise IdentityError(
                f"{path}: {entry.filename} in it is packed as no kit is ({entry.compress_type}): nothing of it was written; {AGAIN}"
            )
        if entry.file_size > LARGEST:
            raise IdentityError(
                f"{path}: {entry.filename} in it has {entry.file_size:,} bytes, of {LARGEST:,}; {AGAIN}"
            )
    names = [entry.filename for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise IdentityError(f"{path}: holds {twice[0]} twice: nothing of it was written; {AGAIN}")
    if missing := sorted(expected - set(names)):
        raise IdentityError(f"{path}: lacks {missing[0]}: it is no kit of a client, or a damaged one; {AGAIN}")
    return {name: _read(path, kit, name) for name in names}


def _read(path: Path, kit: zipfile.ZipFile, name: str) -> bytes:
    with kit.open(name) as file:
        content = file.read(LARGEST + 1)  # whatever size it claims
    if len(content) > LARGEST:
        raise IdentityError(f"{path}: {name} in it has more than {LARGEST:,} bytes; {AGAIN}")
    return content


def _manifest(path: Path, said: bytes) -> Manifest:
    try:
        form = msgspec.json.decode(said, type=dict[str, object]).get("form")
    except (msgspec.DecodeError, RecursionError) as error:
        raise IdentityError(f"{path}: {MANIFEST}: is damaged ({error}); {AGAIN}") from None
    if form != FORM:
        raise IdentityError(
            f"{path}: is a kit of form {form!r}, and this fedps reads form {FORM}: use the same fedps as its maker"
        )
    try:
        manifest = msgspec.json.decode(said, type=Manifest)
        check_name("client", manifest.name)  # folders are called so
    except (msgspec.DecodeError, RecursionError, IdentityError) as error:
        raise IdentityError(f"{path}: {MANIFEST}: is damaged ({error}); {AGAIN}") from None
    return manifest


def _check_certificate(path: Path, manifest: Manifest, credentials: Credentials) -> None:
    try:
        identity = credentials.check()
        revoked = crypto.read_revoked(credentials.revoked, credentials.ca)
    except IdentityError as error:
        raise IdentityError(f"{path}: {error}; {AGAIN}") from None
    if (identity.role, identity.name) != (manifest.role, manifest.name):
        raise IdentityError(
            f"{path}: is for {manifest.role} {manifest.name}, and its certificate for {identity}; {AGAIN}"
        )
    if identity.serial in revoked:
        raise IdentityError(f"{path}: the certificate of {identity} in it is revoked; {AGAIN}")
