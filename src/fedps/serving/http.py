"""Recommendations over HTTP: one client's users, a newer epoch taken up without a dropped request.

| request | answer |
| --- | --- |
| `GET /recommend?user=ID&k=10` | the items to recommend, with titles and scores |
| `POST /recommend` `{"items": [ID, …], "k": 10}` | the same for somebody who was not there in training, from a few items |
| `POST /score` `{"user": ID, "items": [ID, …]}` | the scores of these items |
| `GET /similar?item=ID&k=10` | the items most like one |
| `GET /health` | which epoch is served |
| `GET /openapi.json`, `GET /` | what there is to ask, for programs and for people |

Ids are the source's. Only the client's own users are known here: another's are as unknown as anybody. No answer names a user
that its request did not. With certificates it is HTTPS: a caller shows the client's own, or the service's, and nobody else's will do.
"""

import asyncio
import hmac
import html
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeGuard

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fedps.config.files import is_utf8
from fedps.errors import FedpsError, IdentityError, UnknownIdError
from fedps.serving.recommend import Recommender

if TYPE_CHECKING:
    from fedps.net.tls import Certificates

LOOK_EVERY = 2.0  # seconds between two looks for a newer epoch, and for newer certificates
LONGEST = 1 << 20  # bytes of a request's body
DEFAULT_K = 10
ASKING = ("client", "service")  # whose certificates may ask, of the name of the client that is served
ERRORS = {"400": "the request is wrong; the answer says how", "404": "no such user or item"}
Endpoint = Callable[[Request], Awaitable[Any]]


class Service:
    """Answers requests on the newest whole epoch of a run.

    Args:
        recommender: opened on the client's rows.
        token: what a request must bear as `Authorization: Bearer …`; None: nothing.
        newer: returns a recommender of a newer epoch, if there is one by now.
        certificates: of the service, by which it listens and callers are known; None: it is asked in the clear.
    """

    def __init__(
        self, recommender: Recommender, token: str | None, newer: Callable[[Recommender], Recommender | None],
        certificates: "Certificates | None" = None,
    ) -> None:  # fmt: skip
        self._recommender, self._token, self._newer, self.certificates = recommender, token, newer, certificates
        self.context = None if certificates is None else certificates.https()
        # A connection's certificate is looked at once, and again once another authority counts.
        self._peer = lru_cache(256)(lambda shown, _: certificates.peer({"x509_pem_cert": [shown]}))  # type: ignore[union-attr]

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/recommend", self._answer(self._recommend)),
            Route("/recommend", self._answer(self._fold_in), methods=["POST"]),
            Route("/score", self._answer(self._score), methods=["POST"]),
            Route("/similar", self._answer(self._similar)),
            Route("/health", self._health),
            Route("/openapi.json", self._openapi),
            Route("/", self._page),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        looking = [asyncio.create_task(self._look()), asyncio.create_task(self._renew())]
        yield
        for look in looking:
            look.cancel()

    async def _look(self) -> None:
        """Take up newer epochs: whoever is being answered keeps the one that it was begun on."""
        said = ""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                found = await run_in_threadpool(self._newer, self._recommender)
            except Exception as error:  # whatever it is, this epoch is served on, and a later one may do
                if (why := f"{type(error).__name__}: {error}") != said:
                    print(f"a newer epoch cannot be served yet: {why}", flush=True)
                said = why
                continue
            if found is not None:
                self._recommender = found
                print(f"serving epoch {found.epoch}", flush=True)

    async def _renew(self) -> None:
        """Take up certificates that were renewed, and who was revoked."""
        loaded, held, context = 0, self.certificates, self.context
        while held is not None and context is not None:
            await asyncio.sleep(LOOK_EVERY)
            if (edition := await run_in_threadpool(lambda: held.edition)) == loaded:
                continue
            try:
                held.load(context)
                loaded = edition
            except OSError as error:  # no room for what OpenSSL reads: the next look may find some
                print(f"renewed certificates cannot be taken up yet: {error}", flush=True)

    def _answer(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that lets in who may ask, and tells mistakes as JSON."""

        async def answer(request: Request) -> Response:
            if why := self._unwelcome(request):
                return _failed(403, why)
            if self._token is None and self.certificates is None and not _is_here(request.url.hostname or ""):
                return _failed(403, "without a token, ask by 127.0.0.1 or localhost")
            if not self._may(request):
                return _failed(401, "give the token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
            try:
                return JSONResponse(await endpoint(request))
            except UnknownIdError as error:
                return _failed(404, _plain(error.said))
            except FedpsError as error:
                return _failed(400, _plain(str(error)))

        return answer

    def _unwelcome(self, request: Request) -> str | None:
        """Say why the certificate of who asks does not let it."""
        if self.certificates is None:
            return None
        try:
            who = self._peer(request.state.shown, self.certificates.ca)
        except IdentityError as error:
            return str(error)
        client = self._recommender.site.client
        if who.role not in ASKING or who.name != client:
            return f"this is the certificate of {who}, and those of {' or '.join(ASKING)} {client} may ask here: show one of them"
        now = time.time()
        return self.certificates.fault(self.certificates.own, now) or self.certificates.fault(who, now)

    def _may(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self._token is None or hmac.compare_digest(given.encode("latin-1"), self._token.encode())

    async def _recommend(self, request: Request) -> dict[str, Any]:
        """Recommend items to a user of the client: those the user has taken are left out."""
        recommender, user = self._recommender, _asked(request, "user")
        return _said(recommender, recommender.recommend(user, _count(request.query_params.get("k", DEFAULT_K))))

    async def _fold_in(self, request: Request) -> dict[str, Any]:
        """Recommend items to somebody who was not there in training, from the items that they took."""
        body, recommender = await _body(request), self._recommender
        items, k = _ids(body), _count(body.get("k", DEFAULT_K))
        return _said(recommender, await run_in_threadpool(recommender.fold_in, items, k))

    async def _score(self, request: Request) -> dict[str, Any]:
        """Score some items for a user of the client."""
        body, recommender = await _body(request), self._recommender
        if not _is_id(user := body.get("user")):
            raise FedpsError('user: is missing, or no text; write {"user": "…", "items": ["…"]}')
        items = _ids(body)
        scores = zip(items, recommender.score(user, items), strict=True)
        return {
            "items": [{"item": item, "score": round(score, 6)} for item, score in scores],
            "epoch": recommender.epoch,
        }

    async def _similar(self, request: Request) -> dict[str, Any]:
        """Find the items most like one."""
        recommender, item = self._recommender, _asked(request, "item")
        return _said(recommender, recommender.similar(item, _count(request.query_params.get("k", DEFAULT_K))))

    async def _health(self, _: Request) -> Response:
        """Say which epoch is served."""
        return JSONResponse({"status": "ok", "epoch": self._recommender.epoch, "client": self._recommender.site.client})

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(DESCRIPTION)

    async def _page(self, _: Request) -> Response:
        """Show what there is to ask."""
        rows = "".join(
            f"<tr><td><code>{method.upper()} {path}</code></td><td>{html.escape(about['summary'])}</td></tr>"
            for path, methods in DESCRIPTION["paths"].items()
            for method, about in methods.items()
        )
        style = "body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem } td { padding: .2rem 1.5rem .2rem 0 } :root { color-scheme: light dark }"
        return HTMLResponse(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>fedps serve</title><style>{style}</style>"
            f"<h1>fedps serve</h1><table>{rows}</table><p><a href=openapi.json>openapi.json</a></p></html>"
        )


def serve(service: Service, host: str, port: int) -> None:
    """Answer until SIGINT or SIGTERM; requests that have come are answered first.

    Args:
        service: what answers.
        host: an address of this machine.
        port: 0 takes a free one.

    Raises:
        FedpsError: the address cannot be used.
    """
    import uvicorn  # noqa: PLC0415  (an extra, as starlette)

    config = uvicorn.Config(
        service.app(), host=host, port=port, http=_protocol(), log_level="warning", timeout_graceful_shutdown=10
    )
    config.load()
    config.ssl = service.context
    at, family = (f"[{host}]", socket.AF_INET6) if ":" in host else (host, socket.AF_INET)
    try:  # it listens at once: whoever reads the next line may ask
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=family is socket.AF_INET6)
    except (OSError, ValueError, OverflowError):
        raise FedpsError(
            f"--host {host} --port {port}: cannot be listened on; choose another port, or 0 for a free one"
        ) from None
    scheme, by = ("http", "") if service.certificates is None else ("https", f" as {service.certificates.host}")
    print(f"serving {scheme}://{at}:{listener.getsockname()[1]}{by}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def _protocol() -> Any:
    """Return what reads requests, and notes with each the certificate that its connection has shown."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415  (an extra, as starlette)

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if (secured := transport.get_extra_info("ssl_object")) is not None:
                shown = ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True)).encode()
                self.app_state = self.app_state | {"shown": shown}

    return Protocol


def _said(recommender: Recommender, found: Any) -> dict[str, Any]:
    items = [{"item": one.item, "title": one.title, "score": round(one.score, 6)} for one in found]
    return {"items": items, "epoch": recommender.epoch}


def _asked(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise FedpsError(f"{name}: is missing; write {request.url.path}?{name}=ID")
    return value


def _count(value: object) -> int:
    try:
        count = int(str(value))
    except ValueError:
        raise FedpsError(f"k: {str(value)[:40]!r} is no whole number; write e.g. k=10") from None
    if count < 1:
        raise FedpsError(f"k: {count} is below 1; write e.g. k=10")
    return count


async def _body(request: Request) -> dict[str, Any]:
    """Return a request's JSON object, of a bounded size."""
    text = bytearray()
    async for piece in request.stream():
        text += piece
        if len(text) > LONGEST:
            raise FedpsError(f"the body is over {LONGEST:,} bytes; ask in parts")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FedpsError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise FedpsError('the body is no JSON object; write {"items": ["…"]}')
    return body


def _ids(body: dict[str, Any]) -> list[str]:
    items = body.get("items")
    if not isinstance(items, list) or not items or not all(map(_is_id, items)):
        raise FedpsError('items: write a list of ids as text: {"items": ["318", "858"]}')
    return items


def _is_id(value: object) -> TypeGuard[str]:
    """Whether it is text that an answer can repeat: JSON may hold halves of characters."""
    return isinstance(value, str) and is_utf8(value)


def _plain(said: str) -> str:
    """Return what is wrong, without the dashes of a command line's flags."""
    return said.removeprefix("--").removeprefix("-")


def _is_here(name: str) -> bool:
    """Whether a name is this machine's own: a page in a browser could ask under one that leads here (DNS rebinding)."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _failed(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": why}, status, headers)


def _query(name: str, kind: str, required: bool) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": {"type": kind}}


def _operation(
    summary: str, query: list[dict[str, Any]] | None = None, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return one operation as OpenAPI has it; `body` names its properties."""
    found: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": "items with titles and scores"}}}
    found["responses"] |= {status: {"description": why} for status, why in ERRORS.items()}
    if query:
        found["parameters"] = query
    if body:
        schema = {"type": "object", "properties": body, "required": [name for name in body if name != "k"]}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


ITEM_IDS = {"type": "array", "items": {"type": "string"}}
DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "fedps serve", "version": version("fedps"), "summary": "Recommendations of one client's model"},
    "paths": {
        "/recommend": {
            "get": _operation("Items to recommend to a user of this client", [_query("user", "string", True), _query("k", "integer", False)]),
            "post": _operation("Items to recommend to somebody new, from items that they took", body={"items": ITEM_IDS, "k": {"type": "integer"}}),
        },
        "/score": {"post": _operation("Scores of some items for a user", body={"user": {"type": "string"}, "items": ITEM_IDS})},
        "/similar": {"get": _operation("Items most like one", [_query("item", "string", True), _query("k", "integer", False)])},
        "/health": {"get": {"summary": "Which epoch is served", "responses": {"200": {"description": "ok"}}}},
    },
    "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
}  # fmt: skip
