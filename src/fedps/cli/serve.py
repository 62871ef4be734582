"""`fedps serve`: recommendations over HTTP, from one client's model."""

import ipaddress
from pathlib import Path
from typing import Annotated

from fedps.cli.app import AllowCommands, Insecure, PastRun, app, flag, note
from fedps.errors import JobError, needing

Token = flag("token_file", "A file with the token that requests must bear; needed beyond this machine.")
Certs = flag(
    "certs",
    "Folder of this service's certificate, or of an authority: it is asked by HTTPS, with certificates of this client alone.",
)


@app.command
def serve(
    run_dir: PastRun,
    *,
    client: Annotated[str | None, flag("client", "Whose users are served; nobody else's ever are.")] = None,
    host: Annotated[str, flag("host", "Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, flag("port", "Port to listen on; 0 takes a free one.", least=0)] = 8080,
    token_file: Annotated[Path | None, Token] = None,
    certs: Annotated[Path | None, Certs] = None,
    insecure: Insecure = False,
    epoch: Annotated[
        int | None, flag("epoch", "This saved epoch alone (default: the last, and newer ones as they come).")
    ] = None,
    allow_commands: AllowCommands = False,
) -> None:
    """Answer requests for recommendations over HTTP, and take up newer epochs of the run.

    Example: fedps serve latest --client 0

    Example: curl 'http://127.0.0.1:8080/recommend?user=17&k=5'

    Example: fedps serve latest --client north --host 10.0.0.5 --token-file token --certs certs
    """
    token = _token(token_file, host)
    with needing("serve", "starlette", "uvicorn"):
        from fedps.serving.http import Service  # noqa: PLC0415
        from fedps.serving.http import serve as answer  # noqa: PLC0415
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.config.sections.security import Security  # noqa: PLC0415
    from fedps.net.protection import protect  # noqa: PLC0415
    from fedps.serving.recommend import Recommender  # noqa: PLC0415
    from fedps.serving.saved_run import whole_epoch  # noqa: PLC0415

    opened = Recommender.open(run_dir, client, epoch, allow=Allow(commands=allow_commands))
    if opened.note:
        note(opened.note)
    security = Security(certs=certs, insecure=insecure)
    certificates = protect(security, "service", opened.site.client, [f"{host}:{port}"])

    def newer(now: Recommender) -> Recommender | None:
        return now.reopened() if epoch is None and whole_epoch(run_dir) > now.epoch else None

    print(f"client {opened.site.client}, epoch {opened.epoch}", flush=True)
    answer(Service(opened, token, newer, certificates), host, port)


def _token(file: Path | None, host: str) -> str | None:
    """Return what requests must bear.

    Raises:
        JobError: there is none, and others than this machine may ask; or the file cannot be used.
    """
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise JobError(
            f"--host {host}: is no address; write e.g. 127.0.0.1, or 0.0.0.0 for all of this machine's"
        ) from None
    if file is None:
        if not here:
            raise JobError(
                f"--host {host}: others could ask for what your users like; give --token-file FILE, and --certs DIR"
            )
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"--token-file {file}: cannot be read: {error}") from None
    if len(token) < 16:
        raise JobError(
            f"--token-file {file}: {len(token)} characters are soon guessed; write 16 or more, e.g. by `openssl rand -hex 16`"
        )
    if mode & 0o077:
        raise JobError(f"--token-file {file}: others may read it: chmod 600 {file}")
    return token
