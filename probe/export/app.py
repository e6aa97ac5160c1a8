"""The web endpoints of an agent as one ASGI app.

Handlers that call the agent are plain functions, which Starlette runs in its thread pool, so that a slow answer holds
up nobody else. Reports may take long: they have a small pool of their own and cannot use up the shared one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from probe.errors import HaprobeError, UsageError
from probe.export import page
from probe.export.auth import Guard, Security
from probe.export.negotiation import takes_gzip
from probe.export.scrape import Scrapes
from probe.export.sse import EventHub, EventStream
from probe.export.view import AgentView

NS_ALLOWED = "a whole number of nanoseconds since the Unix epoch, 0 or more"
_MAX_NS = 2**63 - 1
_REPORTS_AT_A_TIME = 2
_WATCH_S = 60
_WATCH_MAX_S = 3600
_FILES_CHECKED_EVERY_S = 5.0

log = logging.getLogger("haprobe.web")


class BadParameter(Exception):
    """A query parameter that cannot be used; becomes a JSON error with what is allowed."""

    def __init__(self, name: str, what: str, allowed: str):
        super().__init__(f"{name}: {what}")
        self.allowed = allowed


def make_app(view: AgentView, hub: EventHub, security: Security) -> ASGIApp:
    """All endpoints, guarded as the web configuration says."""
    endpoints = Endpoints(view, hub, security)
    app = Starlette(
        routes=endpoints.routes(),
        lifespan=endpoints.lifespan,
        # Starlette's GZip leaves event streams alone.
        middleware=[
            Middleware(Guard, security=security),
            Middleware(Compression, minimum_size=2048),
            Middleware(Faults),
        ],
        exception_handlers={
            BadParameter: _bad_parameter,
            HTTPException: endpoints.http_error,
            Exception: _internal_error,
        },
    )
    return app


class Endpoints:
    """The handlers, over one agent."""

    def __init__(self, view: AgentView, hub: EventHub, security: Security):
        self._view = view
        self._hub = hub
        self._security = security
        self._scrapes = Scrapes(view)
        self._reports = anyio.CapacityLimiter(_REPORTS_AT_A_TIME)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.landing_page),
            Route("/metrics", self.metrics),
            Route("/-/healthy", self.healthy),
            Route("/-/ready", self.ready),
            Route("/-/reload", self.reload, methods=["POST"]),
            Route("/api/v1/status", self.status),
            Route("/api/v1/renew", self.renew, methods=["POST"]),
            Route("/api/v1/watch", self.watch, methods=["POST"]),
            Route("/api/v1/captures", self.captures),
            Route("/api/v1/outages", self.outages),
            Route("/api/v1/report", self.report),
            Route("/api/v1/events", self.events),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            detach = self._hub.attach(self._view.subscribe)
        except Exception:
            log.exception("the web server cannot follow the agent's events")  # the server itself tells no reason
            raise
        files = asyncio.create_task(self._follow_files())
        try:
            yield
        finally:
            files.cancel()
            detach()

    async def _follow_files(self) -> None:
        while True:
            await asyncio.sleep(_FILES_CHECKED_EVERY_S)
            try:
                await anyio.to_thread.run_sync(self._security.reload_if_changed)
            except Exception:  # the next state of the files may be a good one
                log.exception("web configuration not taken over")

    def landing_page(self, request: Request) -> Response:
        _parameters(request, "part")
        part = request.query_params.get("part", "page")
        if part in ("live", "brief"):
            return HTMLResponse(page.render_live(self._view, whole=part == "live"), headers=_FRESH)
        if part != "page":
            raise BadParameter("part", f"{part!r} is unknown", "page, live, brief")
        html, policy = page.render_page(self._view)
        return HTMLResponse(html, headers={**_FRESH, "Content-Security-Policy": policy})

    async def metrics(self, request: Request) -> Response:
        return await self._scrapes.answer(request)

    async def healthy(self, _request: Request) -> Response:
        return PlainTextResponse("haprobe is healthy.\n")

    def ready(self, _request: Request) -> Response:
        ready, missing = self._view.ready()
        if ready:
            return PlainTextResponse("haprobe is ready.\n")
        return PlainTextResponse(f"haprobe is not ready: {missing}\n", HTTPStatus.SERVICE_UNAVAILABLE)

    def reload(self, _request: Request) -> Response:
        try:
            self._security.reload()
            self._view.reload()
        except UsageError as error:
            return PlainTextResponse(f"{error}\n", HTTPStatus.BAD_REQUEST)
        except HaprobeError as error:
            return PlainTextResponse(f"{error}\n", HTTPStatus.INTERNAL_SERVER_ERROR)
        return PlainTextResponse("haprobe has reloaded its config.\n")

    def renew(self, _request: Request) -> Response:
        return _json({"renewed": self._view.renew()})

    def watch(self, request: Request) -> Response:
        _parameters(request, "seconds")
        text = request.query_params.get("seconds", str(_WATCH_S))
        if not (text.isascii() and text.isdecimal()) or int(text[:6]) > _WATCH_MAX_S or len(text) > 6:
            raise BadParameter("seconds", f"{text[:40]!r} is not a duration", f"0 to {_WATCH_MAX_S} seconds")
        self._view.watch(int(text))
        return _json({"seconds": int(text)})

    def captures(self, request: Request) -> Response:
        _parameters(request, "since_ns")
        return _json({"captures": self._view.captures(_ns(request, "since_ns") or 0)})

    def status(self, request: Request) -> Response:
        _parameters(request)
        return _json(self._view.status())

    def outages(self, request: Request) -> Response:
        _parameters(request, "since_ns")
        return _json(self._view.outages(_ns(request, "since_ns") or 0))

    async def report(self, request: Request) -> Response:
        _parameters(request, "start_ns", "end_ns")
        start_ns, end_ns = _ns(request, "start_ns"), _ns(request, "end_ns")
        if start_ns is not None and end_ns is not None and start_ns >= end_ns:
            raise BadParameter("end_ns", f"{end_ns} is not after start_ns", "above start_ns")
        return await anyio.to_thread.run_sync(lambda: _json(self._view.report(start_ns, end_ns)), limiter=self._reports)

    async def events(self, request: Request) -> EventStream:
        return EventStream(self._hub, request.headers.get("last-event-id", ""))

    async def http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.NOT_FOUND:
            paths = [route.path for route in self.routes()]
            return _json({"error": f"{request.url.path}: no such endpoint", "allowed": paths}, 404)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = headers.get("Allow", "").split(", ")
            return _json({"error": f"{request.method}: not for this endpoint", "allowed": allowed}, 405, headers)
        return _json({"error": error.detail}, error.status_code, headers)


_FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text + "\n", status, {**_FRESH, **(headers or {})}, media_type="application/json")


def _parameters(request: Request, *allowed: str) -> None:
    """Refuse a misspelt parameter: ignoring it would answer another question than the one asked."""
    for name in request.query_params:
        if name not in allowed:
            raise BadParameter(name, "unknown parameter", ", ".join(allowed) or "none")


def _ns(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text[:20]) > _MAX_NS:
        raise BadParameter(name, f"{text[:40]!r} is not a time", NS_ALLOWED)
    return int(text)


async def _bad_parameter(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadParameter)
    return _json({"error": str(error), "allowed": error.allowed}, HTTPStatus.BAD_REQUEST)


class Compression(GZipMiddleware):
    """Starlette's, for whoever takes it: by itself it takes `gzip;q=0` for a wish."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked = ", ".join(Headers(scope=scope).getlist("accept-encoding"))
            headers = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            understood = b"gzip" if takes_gzip(asked) else b"identity"
            scope = {**scope, "headers": [*headers, (b"accept-encoding", understood)]}
        await super().__call__(scope, receive, send)


class Faults:
    """ASGI middleware: answers what a handler of ours raised.

    Starlette would answer as well, but raise again behind its answer, upon which the server drops the connection:
    the client's next request on it would fail too.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise  # a torn answer must not look like a whole one
            answer = await _internal_error(Request(scope, receive), error)
            await answer(scope, receive, send)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _json({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.INTERNAL_SERVER_ERROR)
