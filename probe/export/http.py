"""The web server of an agent: uvicorn in a thread of the control process.

It installs no signal handlers (uvicorn does so in the main thread only), writes no access log, and a client that
connects and stays silent holds up nobody: TLS handshakes are asynchronous, and a connection without a request is
closed after a while, so that such clients cannot use up the descriptors either.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from probe.errors import HaprobeError
from probe.export.app import make_app
from probe.export.auth import Security
from probe.export.listen import listening_sockets, url_of
from probe.export.sse import EventHub
from probe.export.view import AgentView

FIRST_REQUEST_WITHIN_S = 10.0
_STARTS_WITHIN_S = 10.0
_STOPS_WITHIN_S = 5.0
_GRACE_S = 1

log = logging.getLogger("haprobe.web")


class Server:
    """A running web server. Made by `serve`.

    Attributes:
        url: Where this host reaches it, `http://127.0.0.1:10862`.
        port: TCP port of its first socket.
    """

    def __init__(self, app: Any, hub: EventHub, security: Security, sockets: list[socket.socket]):
        self._hub = hub
        self._security = security
        self._sockets = sockets
        context = security.server_context()
        self.url = url_of(sockets[0], "https" if context else "http")
        self.port: int = sockets[0].getsockname()[1]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            log_level="critical",  # its warnings are about malformed requests of strangers
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_context_factory=(lambda _config, _default: context) if context else None,
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="haprobe-web", daemon=True)

    def start(self) -> None:
        """Start serving; returns once requests are answered.

        Raises:
            HaprobeError: If it does not come up.
        """
        self._thread.start()
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise HaprobeError(f"the web server at {self.url} did not start: {self._failure or 'timed out'}")
            self._thread.join(0.005)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (Exception, SystemExit) as error:  # uvicorn exits the thread when its startup fails
            self._failure = error
            log.error("web server ended: %s", error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._uvicorn.serve(self._sockets)

    def reload_web_config(self) -> None:
        """Read the web configuration again (for SIGHUP; `POST /-/reload` does it by itself).

        Raises:
            ConfigError: If it is bad; the one in force stays.
        """
        self._security.reload()

    def stop(self) -> None:
        """End event streams, finish what is being answered, close. Safe to call twice."""
        if self._loop is not None and self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._hub.close)
            except RuntimeError:
                pass  # it ended by itself in between
            self._uvicorn.should_exit = True
            self._thread.join(_STOPS_WITHIN_S)
        for listening in self._sockets:
            listening.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which on its own would wait for a first request for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = asyncio.get_running_loop().call_later(FIRST_REQUEST_WITHIN_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        cycle: object = self.cycle  # None until a request came, whatever its annotation says
        if cycle is None:
            self.transport.abort()


def serve(
    view: AgentView,
    listen: str | socket.socket,
    web_config: Path | None = None,
    hub: EventHub | None = None,
) -> Server:
    """Serve an agent's endpoints from a thread until `Server.stop`.

    Args:
        view: The agent.
        listen: `ADDRESS:PORT` (`:10862` for all addresses, port 0 for any), or a listening socket. Sockets that
            systemd passed to this process come before an address.
        web_config: `--web.config.file`: TLS and users in the exporters' format.
        hub: Event streams with other limits than the usual.

    Raises:
        ConfigError: If `web_config` is bad.
        UsageError: If the address is malformed or cannot be bound.
    """
    security = Security(web_config)
    sockets = listening_sockets(listen)
    streams = hub or EventHub()
    server = Server(make_app(view, streams, security), streams, security, sockets)
    try:
        server.start()
    except HaprobeError:
        server.stop()
        raise
    return server
