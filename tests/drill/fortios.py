"""A stand-in for a FortiGate's command line over SSH: a prompt, a question that is asked back, a sticky failover."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh

CAUTION = (
    "Caution: This command will trigger an HA failover.\nIt is intended for testing purposes.\n"
    "Do you want to continue? (y/n)"
)


class FortiOs:
    """One unit. `typed` is every line it was given; `failed_over` follows `set` and `unset`."""

    def __init__(self, password: str = "pw"):
        self.password = password
        self.typed: list[str] = []
        self.failed_over = False
        self.may_fail_over = True
        self.hangs = False
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self.logins = 0

    @property
    def fingerprint(self) -> str:
        return str(self.key.get_fingerprint())

    def known_hosts(self, directory: Path) -> Path:
        file = directory / "known_hosts"
        file.write_text(f"[127.0.0.1]:{self.port} {self.key.export_public_key().decode()}")
        return file

    async def shell(self, process: Any) -> None:
        async def line() -> str:
            text = (await process.stdin.readline()).strip()
            self.typed.append(text)
            return str(text)

        while True:
            process.stdout.write("FGT-A # ")
            command = await line()
            if self.hangs and command != "exit":
                await asyncio.sleep(3600)
            if command == "exit":
                break
            words = command.split()
            if words[:3] != ["execute", "ha", "failover"] or not self.may_fail_over:
                process.stdout.write("Unknown action 0\nCommand fail. Return code -1\n\n")
            elif words[3] == "status":
                process.stdout.write(f"failover status: {'set' if self.failed_over else 'unset'}\n\n")
            else:
                process.stdout.write(CAUTION)
                if await line() == "y":
                    self.failed_over = words[3] == "set"
                process.stdout.write("\n")
        process.exit(0)

    async def serve(self) -> asyncssh.SSHAcceptor:
        unit = self

        class Server(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                unit.logins += 1
                return (username, password) == ("drill", unit.password)

        acceptor = await asyncssh.create_server(
            Server, "127.0.0.1", 0, server_host_keys=[self.key], process_factory=self.shell
        )
        self.port = acceptor.get_port()
        return acceptor


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
