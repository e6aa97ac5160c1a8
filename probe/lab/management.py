"""The management plane of one FortiGate stand-in: REST over TLS and SSH on port4. Runs in the unit's namespace.

    python -m probe.lab.management --plan STATE/plan.json --unit fgt-a

From outside the lab its command line is reached through a listening socket that the lab hands over. A process of its
own beside the HA daemon, which it asks for everything: so that nobody who looks slows a failover
down. It is killed with the unit, as a crashed FortiGate answers nobody. The debug output it shows is what the unit's
awsd writes to STATE/UNIT-awsd.log, from the moment on at which debugging is enabled in a session.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import asyncssh

from probe.lab import fortios
from probe.lab.credentials import USERNAME, Credentials
from probe.lab.fortios import Cluster, Dialect
from probe.lab.namespace import LabError
from probe.lab.plan import UNITS, Plan, eni_of
from probe.lab.state import read_events
from probe.lab.unit import ask
from probe.tls import server_context

REST_PORT, SSH_PORT = 443, 22
_HANDSHAKE_S = 10.0
_TAIL_S = 0.02
_CAUTION = (
    "Caution: This command will trigger an HA failover.\nIt is intended for testing purposes.\n"
    "Do you want to continue? (y/n)"
)
_PARSE_ERROR = "command parse error before '{}'\nCommand fail. Return code -61\n"

Answer = Callable[[str], tuple[int, bytes]]
Look = Callable[[], Cluster]


class RestServer:
    """REST over TLS, from threads of its own.

    Args:
        address: Where to listen; port 0 for any.
        certificate: PEM file with certificate and key.
        token: The one that is accepted.
        answer: Path behind /api/v2/ to HTTP status and body.
    """

    def __init__(self, address: tuple[str, int], certificate: Path, token: str, answer: Answer):
        self._server = _HttpsServer(address, _handler(token, answer), server_context(certificate))
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _HttpsServer(socketserver.ThreadingTCPServer):
    # Not http.server's own: that asks DNS for the name of its address, and a lab has no DNS, which takes ten seconds.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext):
        super().__init__(address, handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake belongs here, into the connection's own thread: a silent peer must not hold up the others."""
        request.settimeout(_HANDSHAKE_S)
        with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)


def _handler(token: str, answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "haprobe-lab-stand-in"

        def do_GET(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {token}":
                self._send(401, b"")
            elif not self.path.startswith("/api/v2/"):
                self._send(404, b"")
            else:
                self._send(*answer(self.path.removeprefix("/api/v2/").partition("?")[0]))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def rest_answer(look: Look, dialect: Dialect = "new") -> Answer:
    """What a `RestServer` answers for a unit; 503 while its HA daemon does not."""

    def answer(path: str) -> tuple[int, bytes]:
        try:
            document = fortios.answer(path, look(), dialect)
        except LabError as error:
            return 503, json.dumps({"status": "error", "error": str(error)}).encode()
        return (404, b"") if document is None else (200, json.dumps(document).encode())

    return answer


class Shell:
    """The command line of a unit, one per session.

    Args:
        unit: Whose.
        look: The cluster as the unit sees it now.
        awsd_log: What awsd writes.
        execute: Carries out a command of the HA daemon.
        dialect: Whose words.
    """

    def __init__(
        self, unit: str, look: Look, awsd_log: Path, execute: Callable[[str], object], dialect: Dialect = "new"
    ):
        self._unit = unit
        self._look = look
        self._log = awsd_log
        self._execute = execute
        self._dialect: Dialect = dialect
        self._stamps = self._awsd = False
        self._tail: asyncio.Task[None] | None = None

    async def serve(self, process: asyncssh.SSHServerProcess[str]) -> None:
        """Prompt, read, answer, until the session ends."""
        prompt = f"{self._unit} $ "
        process.stdout.write(prompt)
        try:
            while line := await process.stdin.readline():
                if line.strip() in ("exit", "quit"):
                    break
                try:
                    await self._run(line.strip(), process)
                except LabError as error:
                    process.stdout.write(f"Command fail. {error}\n")
                process.stdout.write(prompt)
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged, ConnectionError):
            pass
        finally:
            if self._tail is not None:
                self._tail.cancel()
            process.exit(0)

    async def _run(self, command: str, process: asyncssh.SSHServerProcess[str]) -> None:
        if command == "get system ha status":
            process.stdout.write(fortios.ha_status(await asyncio.to_thread(self._look), self._dialect))
        elif command.startswith("diagnose debug "):
            self._debug(command.removeprefix("diagnose debug "), process)
        elif command == "execute ha failover status":
            seen = await asyncio.to_thread(self._look)
            process.stdout.write(f"failover status: {'set' if seen.failover_set else 'unset'}\n")
        elif command.startswith(("execute ha failover set", "execute ha failover unset")):
            process.stdout.write(_CAUTION)
            if (await process.stdin.readline()).strip() == "y":
                await asyncio.to_thread(self._execute, command)
        elif command:
            process.stdout.write(_PARSE_ERROR.format(command.split(maxsplit=1)[0]))

    def _debug(self, words: str, process: asyncssh.SSHServerProcess[str]) -> None:
        if words == "console timestamp enable":
            self._stamps = True
        elif words == "application awsd -1":
            self._awsd = True
        elif words == "enable":
            if self._tail is None:
                self._tail = asyncio.create_task(self._follow(_size(self._log), process))
        elif words in ("disable", "reset"):
            self._awsd = self._awsd and words != "reset"
            if self._tail is not None:
                self._tail.cancel()
            self._tail = None
        else:
            process.stdout.write(_PARSE_ERROR.format(words))

    async def _follow(self, at: int, process: asyncssh.SSHServerProcess[str]) -> None:
        """Print what awsd writes from offset `at` of its log on, line by line."""
        pending = ""
        while True:
            if self._awsd and _size(self._log) > at:
                with self._log.open("rb") as file:
                    file.seek(at)
                    data = file.read()
                at += len(data)
                *lines, pending = (pending + data.decode(errors="replace")).split("\n")
                for line in lines:
                    stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if self._stamps else ""
                    process.stdout.write(f"{stamp}{line}\n")
            await asyncio.sleep(_TAIL_S)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Login(asyncssh.SSHServer):
    """Who may log in: one administrator, by key, or by password where there is one."""

    def __init__(self, password: str):
        self._password = password

    def password_auth_supported(self) -> bool:
        return bool(self._password)

    def validate_password(self, username: str, password: str) -> bool:
        return username == USERNAME and password == self._password


async def serve_ssh(
    address: tuple[str, int] | socket.socket,
    credentials: Credentials,
    unit: str,
    shell: Callable[[], Shell],
    password: str = "",
) -> asyncssh.SSHAcceptor:
    """Listen for SSH sessions, at an address or with a socket that listens already; each gets a `shell`."""

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        await shell().serve(process)

    where = {"sock": address} if isinstance(address, socket.socket) else {"host": address[0], "port": address[1]}
    return await asyncssh.listen(
        **where,
        server_factory=lambda: _Login(password),
        server_host_keys=[str(credentials.host_key(unit))],
        authorized_client_keys=str(credentials.authorized_keys),
        process_factory=session,
        encoding="utf-8",
        line_history=0,
        gss_host=None,  # no Kerberos; by default it asks DNS for this host's name, which a lab has none of: seconds
    )


def ready_file(plan: Plan, unit: str) -> Path:
    """There while the unit's management plane listens (or was killed: remove it before starting another)."""
    return plan.state / f"{unit}-management.ready"


async def _serve(plan: Plan, unit: str, credentials: Credentials, outside: socket.socket) -> None:
    def look() -> Cluster:
        return fortios.cluster(ask(plan, unit, "status"), read_events(plan))

    def shell() -> Shell:
        return Shell(unit, look, plan.state / f"{unit}-awsd.log", lambda command: ask(plan, unit, command))

    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    host = eni_of(unit, "port4").address
    token = credentials.token(unit).read_text().strip()
    rest = RestServer((host, REST_PORT), credentials.certificate(unit), token, rest_answer(look))
    acceptors = [await serve_ssh(at, credentials, unit, shell) for at in ((host, SSH_PORT), outside)]
    ready_file(plan, unit).write_text("")
    await done.wait()
    for acceptor in acceptors:
        acceptor.close()
    rest.close()


def main(argv: list[str] | None = None) -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m probe.lab.management", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", required=True, help="plan.json of the lab")
    parser.add_argument("--unit", required=True, choices=UNITS)
    parser.add_argument("--listen-fd", required=True, type=int, help="socket that listens outside the lab, for SSH")
    arguments = parser.parse_args(argv)
    plan = Plan.load(arguments.plan)
    outside = socket.socket(fileno=arguments.listen_fd)
    asyncio.run(_serve(plan, arguments.unit, Credentials(plan.credentials), outside))
    return 0


if __name__ == "__main__":
    sys.exit(main())
