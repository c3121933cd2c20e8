"""The routes of a server, and what every request has to pass: who sends it, how long it may be and take."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from vision_peft.inference.bank.task import UnknownTask
from vision_peft.inference.serve.limits import Refusal
from vision_peft.inference.serve.metrics import CONTENT_TYPE
from vision_peft.inference.serve.page import PAGE, POLICY
from vision_peft.inference.serve.query import read_query
from vision_peft.inference.serve.service import Service
from vision_peft.printable import printable
from vision_peft.strict_json import parse_json

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_LINGER_S, _LINGER_BYTES = 2.0, 2**28  # what is read of a body that was refused, so that its sender hears of it
_ADMIN_BYTES = 10_000
_SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
_log = logging.getLogger(__name__)
_Handler = Callable[[Request], Awaitable[Response]]


def choose_hosts(listening: str, further: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names under which requests may come to a server that listens at an address; None: any.

    On loopback they are the names of loopback and `further` ones; elsewhere any, unless `further` ones are given.
    """
    own = listening.lower()
    if own not in LOCAL_HOSTS and not further:
        return None
    return tuple(dict.fromkeys([*LOCAL_HOSTS, own, *(name.lower() for name in further)]))


def make_app(service: Service, *, hosts: tuple[str, ...] | None, token: str | None) -> Starlette:
    """Make the ASGI application.

    Args:
        service: answers.
        hosts: names under which requests may come; None: any. Behind loopback a page of the internet could otherwise
            reach this server under a name of its own.
        token: with which tasks are added, replaced and dropped; None: nobody may.
    """
    return _Routes(service, hosts, token).app()


class _Routes:
    def __init__(self, service: Service, hosts: tuple[str, ...] | None, token: str | None) -> None:
        self.service, self.hosts, self.token = service, hosts, token

    def app(self) -> Starlette:
        routes = [
            self._route("/", self.show_page, "GET"),
            self._route("/predict", self.predict, "POST"),
            self._route("/tasks", self.list_tasks, "GET"),
            self._route("/healthz", self.tell_health, "GET"),
            self._route("/metrics", self.tell_metrics, "GET"),
        ]
        if self.token is not None:
            routes.append(self._route("/tasks/{name:path}", self.change_task, "PUT", "DELETE"))
        return Starlette(routes=routes, exception_handlers={HTTPException: _answer_unknown})

    async def show_page(self, request: Request) -> Response:
        return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})

    async def list_tasks(self, request: Request) -> Response:
        served = [self.service.describe(task) for task in self.service.bank.tasks.values()]
        return JSONResponse({"tasks": [each.describe() for each in served]})

    async def tell_health(self, request: Request) -> Response:
        if self.service.draining:
            raise Refusal(503, "stopping")
        return JSONResponse({"status": "ok", "tasks": len(self.service.bank)})

    async def tell_metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.service.format_metrics(), media_type=CONTENT_TYPE)

    async def predict(self, request: Request) -> Response:
        start, limits, came = time.monotonic(), self.service.limits, False
        try:
            async with asyncio.timeout(limits.timeout_s), self._body(request, round(limits.max_body_mb * 1e6)) as body:
                came = True
                query = await asyncio.to_thread(read_query, request.headers.get("content-type", ""), body)
                answers = await self.service.classify(query)
        except TimeoutError:
            late = "no answer" if came else "the body did not arrive"
            raise Refusal(504 if came else 408, f"{late} within {limits.timeout_s:g} s") from None
        seconds = time.monotonic() - start
        self.service.latency.observe(seconds)
        return JSONResponse({"answers": answers, "ms": round(1000 * seconds, 1)})

    async def change_task(self, request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise Refusal(401, "wanted the header Authorization: Bearer TOKEN")
        name = request.path_params["name"]
        try:
            if request.method == "DELETE":
                await self.service.drop(name)
                return JSONResponse({"dropped": name})
            async with asyncio.timeout(self.service.limits.timeout_s), self._body(request, _ADMIN_BYTES) as body:
                source = _read_source(body)
            task = await self.service.put(name, source)
        except UnknownTask as error:
            raise Refusal(404, str(error)) from None
        except TimeoutError:
            raise Refusal(408, "the body did not arrive in time") from None
        except (ValueError, OSError) as error:
            raise Refusal(400, printable(error, 1000)) from None
        return JSONResponse(self.service.describe(task).describe())

    @asynccontextmanager
    async def _body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Read a body of at most ``most`` bytes, which count as held inside the ``with`` block."""
        service, chunks, length = self.service, [], 0
        try:
            try:
                announced = int(request.headers.get("content-length", "0"))
                if announced > most:
                    raise Refusal(413, f"the body has {announced:,} bytes: at most {most:,} are read")
                async for chunk in request.stream():
                    length += len(chunk)
                    service.held += len(chunk)
                    if length > most:
                        raise Refusal(413, f"the body has more than the {most:,} bytes that are read")
                    if service.held > service.limits.bodies_mb * 1e6:
                        raise Refusal(503, "the server is receiving too much data: try again in a moment")
                    chunks.append(chunk)
            except Refusal:
                chunks.clear()
                await _discard(request)
                raise
            yield b"".join(chunks)
        finally:
            service.held -= length

    def _route(self, path: str, handler: _Handler, *methods: str) -> Route:
        async def answer(request: Request) -> Response:
            try:
                self._check_sender(request)
                response = await handler(request)
            except Refusal as refusal:
                self.service.refused.add(str(refusal.status))
                response = _refuse(refusal)
            except ClientDisconnect:
                response = _refuse(Refusal(400, "the body is incomplete"))
            except Exception:
                _log.exception("%s %s failed", request.method, path)
                response = _refuse(Refusal(500, "internal error: see the server's log"))
            self.service.requests.add(path, str(response.status_code))
            response.headers.update(_SAFE)
            if self.service.draining:
                response.headers["connection"] = "close"
            return response

        return Route(path, answer, methods=list(methods))

    def _check_sender(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            raise Refusal(
                403,
                f"this server is {self.hosts[0]}, but the request is for {printable(host, 100)} (serve --allowed-host "
                "adds a name)",
            )
        origin = request.headers.get("origin")
        if request.method != "GET" and origin is not None and origin.partition("://")[2] != host:
            raise Refusal(403, "requests from pages of other sites are refused")


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _discard(request: Request) -> None:
    read = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while read < _LINGER_BYTES:
                message: Any = await request.receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        pass


def _read_source(body: bytes) -> str:
    values = parse_json(body)
    if not isinstance(values, dict) or set(values) != {"source"} or not isinstance(values["source"], str):
        raise ValueError('wanted {"source": "RUN, ADAPTER or hf-hub:OWNER/NAME"}')
    return values["source"]


def _refuse(refusal: Refusal) -> Response:
    headers = {"retry-after": "1"} if refusal.status == 503 else {}
    if refusal.status in (400, 408, 413, 415, 503, 504):  # part of the body may be on its way still
        headers["connection"] = "close"
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": refusal.text}, status_code=refusal.status, headers=headers)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "no such page", 405: "this method is not allowed here"}.get(error.status_code, str(error.detail))
    return JSONResponse({"error": text}, status_code=error.status_code, headers={**_SAFE, **(error.headers or {})})
