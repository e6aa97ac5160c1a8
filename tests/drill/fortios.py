"""The lab's command line of a unit, on loopback, served from a thread: what is typed into it is noted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh

from probe.lab.credentials import Credentials, make
from probe.lab.fortios import Cluster
from probe.lab.management import Shell, serve_ssh
from probe.lab.namespace import LabError

PASSWORD = "pw"


class FortiOs:
    """One unit. `executed` is what its HA daemon was told; `failed_over` follows `set` and `unset`."""

    def __init__(self, directory: Path):
        self.keys: Credentials = make(directory / "credentials", {"fgt-a": ["127.0.0.1"]})
        self.executed: list[str] = []
        self.failed_over = False
        self.may_fail_over = True
        self.hangs = False
        self.sessions = 0
        self.port = 0
        self._log = directory / "fgt-a-awsd.log"

    @property
    def fingerprint(self) -> str:
        return str(asyncssh.read_private_key(self.keys.host_key("fgt-a")).get_fingerprint())

    def known_hosts(self, directory: Path) -> Path:
        file = directory / "known_hosts"
        key = self.keys.known_hosts.read_text().partition(" ")[2]
        file.write_text(f"[127.0.0.1]:{self.port} {key}")
        return file

    def look(self) -> Cluster:
        return Cluster("fgt-a", {"fgt-a": "primary", "fgt-b": "secondary"}, failover_set=self.failed_over)

    def execute(self, command: str) -> None:
        if not self.may_fail_over:
            raise LabError("Return code -1")
        self.executed.append(command)
        self.failed_over = "unset" not in command

    def shell(self) -> Shell:
        self.sessions += 1
        kind = _Hanging if self.hangs else Shell
        return kind("fgt-a", self.look, self._log, self.execute)

    async def serve(self) -> asyncssh.SSHAcceptor:
        acceptor = await serve_ssh(("127.0.0.1", 0), self.keys, "fgt-a", self.shell, PASSWORD)
        self.port = acceptor.get_port()
        return acceptor


class _Hanging(Shell):
    async def _run(self, command: str, process: Any) -> None:
        await asyncio.sleep(3600)


@contextmanager
def running(unit: FortiOs) -> Iterator[FortiOs]:
    """Serve a unit from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    acceptor = asyncio.run_coroutine_threadsafe(unit.serve(), loop).result(30)
    try:
        yield unit
    finally:

        async def end() -> None:
            acceptor.close()
            await acceptor.wait_closed()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
