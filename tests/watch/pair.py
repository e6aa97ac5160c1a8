"""A pair of FortiGate stand-ins on loopback: real TLS, real SSH, and whatever state a test gives them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from probe import config, yamlfile
from probe.core.events import TimelineEvent
from probe.export.view import WatcherSnapshot
from probe.lab import fortios
from probe.lab.credentials import Credentials, make
from probe.lab.fortios import Cluster, Dialect
from probe.lab.management import Answer, RestServer, Shell, rest_answer, serve_ssh
from probe.watch.fortigate import FortigateWatcher

UNITS = ("fgt-a", "fgt-b")
PASSWORD = "a pass word"
DEADLINE_S = 60.0


def wait_for(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
    return value


@dataclass
class Unit:
    """One stand-in. `answer` may be replaced for a while by something worse."""

    name: str
    rest: RestServer
    ssh_port: int
    awsd_log: Path
    answer: Answer
    sessions: list[asyncssh.SSHConnection] = field(default_factory=list)

    def print(self, *lines: str) -> None:
        """Let its awsd write."""
        with self.awsd_log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


class _Shell(Shell):
    """A shell whose session can be broken."""

    def __init__(self, sessions: list[asyncssh.SSHConnection], *rest: Any):
        super().__init__(*rest)
        self._sessions = sessions

    async def serve(self, process: asyncssh.SSHServerProcess[str]) -> None:
        self._sessions.append(process.channel.get_connection())
        await super().serve(process)


def _hang_up(path: str) -> tuple[int, bytes]:
    raise ConnectionAbortedError


class Pair:
    """Both units. Close it."""

    def __init__(self, directory: Path, dialect: Dialect = "new"):
        self.directory = directory
        self.credentials: Credentials = make(directory / "credentials", {name: ["127.0.0.1"] for name in UNITS})
        self.roles = {"fgt-a": "primary", "fgt-b": "secondary"}
        self.selections: tuple[tuple[int, str, str], ...] = ((1_700_000_000, "fgt-a", fortios.ONLY_MEMBER),)
        self.history: tuple[tuple[int, str], ...] = ()
        self.events: list[TimelineEvent] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._gone: set[str] = set()
        self._acceptors: dict[str, asyncssh.SSHAcceptor] = {}
        self.units = {name: self._unit(name, dialect) for name in UNITS}
        (directory / "password").write_text(PASSWORD + "\n")

    def _unit(self, name: str, dialect: Dialect) -> Unit:
        log = self.directory / f"{name}-awsd.log"
        sessions: list[asyncssh.SSHConnection] = []

        def look() -> Cluster:
            return Cluster(name, dict(self.roles), self.selections, self.history)

        def answer(path: str) -> tuple[int, bytes]:
            return self.units[name].answer(path)

        token = self.credentials.token(name).read_text().strip()
        rest = RestServer(("127.0.0.1", 0), self.credentials.certificate(name), token, answer)
        serving = serve_ssh(
            ("127.0.0.1", 0),
            self.credentials,
            name,
            lambda: _Shell(sessions, name, look, log, lambda command: None, dialect),
            PASSWORD,
        )
        acceptor = asyncio.run_coroutine_threadsafe(serving, self._loop).result(DEADLINE_S)
        self._acceptors[name] = acceptor
        return Unit(name, rest, acceptor.get_port(), log, rest_answer(look, dialect), sessions)

    def fail_over(self) -> None:
        """Swap the roles, with a reason."""
        self.selections = ((1_700_000_100, "fgt-b", fortios.FLAG_SET), *self.selections)
        self.roles = {"fgt-a": "secondary", "fgt-b": "primary"}

    def shut(self, name: str) -> None:
        """A unit that is gone: nothing listens there any more."""
        self.units[name].answer = _hang_up
        self.units[name].rest.close()
        self._gone.add(name)
        self._loop.call_soon_threadsafe(self._acceptors[name].close)

    def drop_sessions(self, name: str) -> None:
        """End every SSH session of a unit, as a firewall on the way or a restart of its daemon would."""
        for session in list(self.units[name].sessions):
            self._loop.call_soon_threadsafe(session.abort)

    def settings(self, ssh: bool = True, **more: dict[str, Any]) -> dict[str, Any]:
        """`watchers.fortigate` for this pair. `more`: changes to a unit, by its name with an underscore."""
        units: dict[str, Any] = {}
        for name, unit in self.units.items():
            units[name] = {
                "host": "127.0.0.1",
                "port": unit.rest.port,
                "token_file": str(self.credentials.token(name)),
                "ca_file": str(self.credentials.ca),
            }
            if ssh:
                units[name]["ssh"] = {
                    "port": unit.ssh_port,
                    "key_file": str(self.credentials.client_key),
                    "fingerprint": self.fingerprint(name),
                }
            for key, value in more.get(name.replace("-", "_"), {}).items():
                units[name][key] = {**units[name].get(key, {}), **value} if isinstance(value, dict) else value
        return {"units": units, "interval": "500ms", "fast_interval": "100ms"}

    def watcher(self, ssh: bool = True, **more: dict[str, Any]) -> FortigateWatcher:
        """The real watcher on it, not started; what it tells comes into `events`."""
        text = json.dumps({"watchers": {"fortigate": self.settings(ssh, **more)}})
        loaded = config.from_yaml(yamlfile.parse(text, "f.yml"))
        return FortigateWatcher(loaded.watchers.fortigate, self.events.append)

    def fingerprint(self, name: str) -> str:
        return str(asyncssh.read_private_key(self.credentials.host_key(name)).get_fingerprint())

    def named(self, event: str) -> list[TimelineEvent]:
        return [one for one in list(self.events) if one.event == event]

    def close(self) -> None:
        for name, unit in self.units.items():
            self._loop.call_soon_threadsafe(self._acceptors[name].close)
            if name not in self._gone:
                unit.rest.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()


def polled(watcher: FortigateWatcher, *names: str) -> WatcherSnapshot:
    """Ask the units once, one after the other, and say what is known then."""
    for name in names or UNITS:
        watcher.poll(name)
    return watcher.snapshot()
