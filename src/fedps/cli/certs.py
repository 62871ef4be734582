"""`fedps certs`: who takes part in a federation between organisations, and how each shows who it is."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from fedps.cli.app import AsJson, JobFile, app, flag, note, tell
from fedps.errors import IdentityError, JobError, shortage

HELP = """Certificates by which servers, clients and coordinators of several organisations know one another.

One organisation keeps the authority, a folder. On one machine, from nothing to an encrypted run:

    fedps certs init certs
    fedps certs issue --job job.yaml
    fedps run job.yaml --certs certs

To others, over networks that nobody trusts, either goes a kit, or a token by which they fetch their certificate:

    fedps certs issue client alice
    fedps certs kit alice -m job.yaml --servers 10.0.0.1:10000 --out alice.kit

    fedps certs serve certs --at 0.0.0.0:10443
    fedps certs token bob --valid 1h
    fedps certs join 10.0.0.1:10443 --token fedps-… --out bob-certs
"""
certs_app = App(name="certs", help=HELP)
app.command(certs_app)

Role = Literal["server", "client", "coordinator", "observer", "party", "service"]
Names = Annotated[
    str,
    Parameter(
        negative="",
        help="What it is called: a client as its data file, a server by its number, the coordinator 0, a party as in its job, a service (`fedps serve`) as the client whose users it answers.",
    ),
]
Folder = Annotated[Path, flag("dir", "The authority's folder.")]
Days = Annotated[
    float,
    Parameter(
        validator=Number(gt=0, lte=3650), help="For how many days a certificate is valid; part of a day will do."
    ),
]
WHERE = "host:port of the authority's `fedps certs serve`"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
LONGEST = 90 * SECONDS["d"]  # of a token
DEFAULT = Path("certs")


@certs_app.command
def init(
    folder: Annotated[Path, Parameter(help="Folder to make.")] = DEFAULT,
    *,
    days: Annotated[
        float, Parameter(validator=Number(gt=0, lte=36_500), help="For how many days the authority is valid.")
    ] = 5 * 365.0,
) -> None:
    """Make an authority: a folder whose key signs certificates, which stays on this machine.

    Example: fedps certs init certs
    """
    with told():
        from fedps.access.authority import Authority  # noqa: PLC0415
        from fedps.crypto import date, fingerprint  # noqa: PLC0415

        authority = Authority.init(folder, days)
    print(f"an authority in {folder}, until {date(authority.expires)}")
    print(f"its fingerprint, by which others can tell it: {fingerprint(authority.ca).hex()}")
    print(f"whoever has {folder / 'ca.key'} can be anybody: it stays here, and a copy of it in a safe")
    print(f"next: fedps certs issue client NAME --dir {folder}")


@certs_app.command
def issue(
    role: Annotated[Role | None, Parameter(help="What it will be.")] = None,
    *names: Names,
    job: JobFile = None,
    directory: Folder = DEFAULT,
    days: Days = 30.0,
) -> None:
    """Issue certificates, each with its key, in a folder of its own.

    With --job alone, all that this job's servers, coordinator and clients (whose data is here) lack.

    Example: fedps certs issue server 0 1

    Example: fedps certs issue client alice bob

    Example: fedps certs issue --job job.yaml
    """
    authority = authority_in(directory)
    if job is None or role is not None:
        if job is not None:
            raise JobError(f"--job {job} and {role} contradict each other: --job says itself who takes part")
        wanted = [(str(role), name) for name in _named(role, names, "issue")]
    elif not (wanted := _lacking(authority, _roles_of(job))):
        note(f"{directory}: holds a certificate of every role of {job} already; nothing is issued")
    with told():
        _check_all(authority, wanted)
        for who in wanted:
            _say_issued(directory, authority.issue(*who, days))


@certs_app.command
def renew(
    *words: Annotated[
        str,
        Parameter(
            name="ROLE NAME… | FOLDER", negative="", help="Who, where the authority is here; with --at a role's folder."
        ),
    ],
    at: Annotated[str | None, flag("at", f"{WHERE}; the certificate in FOLDER is shown.")] = None,
    directory: Folder = DEFAULT,
    days: Days = 30.0,
) -> None:
    """Renew certificates, with new keys; the old ones are valid until their date, so roles that run go on.

    Roles that run take up what lies in their folder. With --at the list of revoked certificates comes, too.

    Example: fedps certs renew client alice

    Example: fedps certs renew --at 10.0.0.1:10443 alice-certs
    """
    with told():
        if at is not None:
            if len(words) != 1:
                raise JobError(
                    f"--at {at}: name the folder whose certificate is renewed, e.g. fedps certs renew --at {at} my-certs"
                )
            from fedps.launch import enrolment  # noqa: PLC0415
            from fedps.launch.addresses import read_address  # noqa: PLC0415

            _say_got(Path(words[0]), enrolment.renew(read_address("--at", at), Path(words[0])))
            return
        role, *names = words or ("",)
        authority = authority_in(directory)
        for name in _named(role, names, "renew"):
            _say_issued(directory, authority.renew(role, name, days))


@certs_app.command
def revoke(role: Role, *names: Names, directory: Folder = DEFAULT) -> None:
    """Revoke all certificates of a role: whoever has the new list refuses them, and hangs up on who shows one.

    Roles that read the authority's folder have it at once; others as they renew, or by a copy of revoked.pem.

    Example: fedps certs revoke client alice
    """
    authority = authority_in(directory)
    with told():
        for name in _named(role, names, "revoke"):
            revoked = authority.revoke(role, name)
            print(f"{role} {name}: revoked, {len(revoked)} certificate{'s' * (len(revoked) > 1)}")
    print(f"copy {directory / 'revoked.pem'} into the folders of roles on other machines; they read it while they run")


@certs_app.command(name="list")
def list_certificates(
    *,
    directory: Folder = DEFAULT,
    every: Annotated[
        bool,
        Parameter(name="--all", negative="", show_default=False, help="Those that were renewed or have expired, too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List certificates, and tokens that nobody has used yet.

    Example: fedps certs list --dir certs
    """
    authority = authority_in(directory)
    now = time.time()
    with told():
        records, tokens = authority.records(), [t for t in authority.tokens() if t.used is None]
    newest = {(r.role, r.name): r for r in records}
    shown = records if every else sorted(newest.values(), key=lambda r: (r.role, r.name))
    if as_json:
        keys = ("role", "name", "serial", "begins", "expires", "revoked")
        tell(
            {
                "certificates": [{key: getattr(r, key) for key in keys} for r in shown],
                "tokens": [{"role": t.role, "name": t.name, "expires": t.expires} for t in tokens],
            },
            as_json,
        )
        return
    from fedps.crypto import date  # noqa: PLC0415

    print(f"{'role':<12}{'name':<20} {'from':<11}{'until':<11}{'days left':>9}  {'revoked':<11}serial number")
    for r in shown:
        left = f"{(r.expires - now) / SECONDS['d']:.1f}" if r.expires > now else "expired"
        gone = "" if r.revoked is None else date(r.revoked)[:10]
        print(
            f"{r.role:<12}{r.name:<20} {date(r.begins)[:10]:<11}{date(r.expires)[:10]:<11}{left:>9}  {gone:<11}{r.serial}"
        )
    for t in tokens:
        print(f"token for {t.role} {t.name}: {'valid until' if now < t.expires else 'expired on'} {date(t.expires)}")
    print(f"{len(shown)} certificates in {directory}; the authority is valid until {date(authority.expires)}")


@certs_app.command
def token(
    name: Annotated[str, Parameter(help="For whom.")],
    *,
    role: Annotated[Role, flag("role", "What it will be.")] = "client",
    valid: Annotated[str, flag("valid", "For how long it may be used: 30m, 1h, 2d.")] = "1h",
    directory: Folder = DEFAULT,
) -> None:
    """Make a token by which somebody gets a certificate, once; send it by a way on which nobody else reads.

    It is said on the standard output, alone. Of its secret only a hash is kept here.

    Example: fedps certs token alice --valid 1h
    """
    seconds = _seconds("--valid", valid)
    with told():
        said = authority_in(directory).token(name, seconds, role)
    print(said)
    print(
        f"for {role} {name}, once, within {valid}: fedps certs join HOST:PORT --token … --out {name}-certs, while"
        f" `fedps certs serve {directory} --at HOST:PORT` answers",
        file=sys.stderr,
    )


@certs_app.command
def serve(
    folder: Annotated[Path, Parameter(help="The authority's folder.")] = DEFAULT,
    *,
    at: Annotated[str, flag("at", "host:port to listen on; 0.0.0.0:10443 is every interface.")],
    days: Days = 30.0,
) -> None:
    """Answer who joins by a token or renews its certificate, over HTTPS, until Ctrl-C or SIGTERM.

    Example: fedps certs serve certs --at 0.0.0.0:10443
    """
    authority = authority_in(folder)
    from fedps.launch.addresses import read_address  # noqa: PLC0415
    from fedps.launch.enrolment import Service  # noqa: PLC0415

    with Service(authority, read_address("--at", at), days, lambda line: print(line, flush=True)) as service:
        print(f"the authority in {folder} listens on {service.at}; Ctrl-C ends it", flush=True)
        service.serve_forever()


@certs_app.command
def join(
    at: Annotated[str, Parameter(name="HOST:PORT", negative="", help=f"{WHERE}.")],
    *,
    token: Annotated[str, flag("token", "What `fedps certs token` has printed; - reads it from the standard input.")],
    out: Annotated[Path, flag("out", "Folder for the certificate and its key.")],
) -> None:
    """Get a first certificate; its key is made here and never leaves.

    Before the token is sent, the authority shows that it is the one that made it.

    Example: fedps certs join 10.0.0.1:10443 --token fedps-… --out alice-certs
    """
    with told():
        from fedps.launch import enrolment  # noqa: PLC0415
        from fedps.launch.addresses import read_address  # noqa: PLC0415

        text = token if token != "-" else sys.stdin.readline()  # noqa: S105
        _say_got(out, enrolment.join(read_address("HOST:PORT", at), text, out))


def authority_in(folder: Path) -> Any:
    """Return the authority of a folder. Raises IdentityError: there is none."""
    with told():
        from fedps.access.authority import Authority  # noqa: PLC0415

        return Authority(folder)


def _named(role: str | None, names: Any, command: str) -> list[str]:
    """Return the names that a command is for.

    Raises:
        JobError: there is none, or one twice.
    """
    if not role or not names:
        raise JobError(f"who? write a role and a name, e.g. fedps certs {command} client alice")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise JobError(f"{role} {twice[0]}: is named twice; name it once")
    return list(names)


def _roles_of(job: Path) -> list[tuple[str, str]]:
    """Return roles and names of all that take part in a job, of whose clients the data is here."""
    from fedps.cli.app import load  # noqa: PLC0415
    from fedps.config.files import client_files_of  # noqa: PLC0415
    from fedps.config.vertical import is_vertical, load_vertical  # noqa: PLC0415

    if is_vertical(job):
        return [("party", party) for party in load_vertical(job).order]
    loaded = load(job, [])
    listening = [("server", str(k)) for k in range(loaded.runner.server_num)]
    listening += [("coordinator", "0")] * loaded.runner.with_coordinator
    return [*listening, *(("client", str(name)) for name in client_files_of(loaded))]


def _lacking(authority: Any, roles: list[tuple[str, str]]) -> list[tuple[str, str]]:
    with told():
        there = {(r.role, r.name) for r in authority.records() if r.revoked is None}
    return [who for who in roles if who not in there]


def _check_all(authority: Any, wanted: list[tuple[str, str]]) -> None:
    """Make sure that all can be issued, before any is.

    Raises:
        JobError: all that cannot.
    """
    mistakes = []
    for who in wanted:
        try:
            authority.check_new(*who)
        except IdentityError as error:
            mistakes.append(str(error))
    if mistakes:
        raise JobError(mistakes)


def _say_issued(directory: Path, identity: Any) -> None:
    from fedps.crypto import date  # noqa: PLC0415

    where = directory / "issued" / f"{identity.role}-{identity.name}"
    print(f"{identity}: valid until {date(identity.expires)}, in {where}", flush=True)


def _say_got(folder: Path, identity: Any) -> None:
    from fedps.crypto import date  # noqa: PLC0415

    print(f"{identity}: valid until {date(identity.expires)}, in {folder}; its key was made here")


def _seconds(flag_: str, text: str) -> float:
    """Read a length of time.

    Raises:
        JobError: it is none, or longer than a token should be good for.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST:
        raise JobError(f"{flag_} {text}: write a time up to {LONGEST / SECONDS['d']:.0f}d, e.g. 30m, 1h or 2d")
    return seconds


@contextmanager
def told() -> Iterator[None]:
    """Tell what a disk does not do as a mistake, with the file."""
    try:
        yield
    except OSError as error:
        said = shortage(error, "name a folder on another disk")
        said = said or f"{error.filename or 'a file'}: {error.strerror}: name a folder that can be written"
        raise IdentityError(said) from None
