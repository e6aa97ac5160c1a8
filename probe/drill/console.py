"""One CLI command on a FortiGate, by SSH: the small part of a FortiOS console that a trigger needs.

The command is typed into a shell, as a person does: it asks back ("Do you want to continue? (y/n)"), and that is
answered with yes. The host key is always checked, against a known_hosts file or a fingerprint.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from probe.errors import ConfigError, PeerError, PrivilegeError
from probe.keys import read_secret

LOGIN_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 15.0
# "FGT-A # ", "FGT-A (root) $ ": the end of what is shown when the next command may come.
_PROMPT = re.compile(r"(?:^|[\r\n])[\w.-]+ (?:\([\w./-]+\) )?[#$] ?$")
_QUESTION = re.compile(r"\(y/n\)\s*$")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x00\x07\x08]")


class Console(Protocol):
    """Runs CLI commands on units, by name."""

    def where(self, unit: str) -> str:
        """How to tell a person where that is: user and address."""

    async def open(self, unit: str) -> None:
        """Log in, if that is not done yet."""

    async def run(self, unit: str, command: str) -> str:
        """What the unit printed in answer to a command; a question it asks back is answered with yes."""

    async def close(self) -> None:
        """Log out everywhere."""


@dataclass(frozen=True, slots=True)
class SshUnit:
    """How to log in to a unit. Secrets are only ever named by file."""

    host: str
    user: str
    port: int = 22
    key_file: Path | str | None = None
    password_file: Path | str | None = None
    known_hosts: Path | str | None = None
    fingerprint: str = ""  # of the host key, "SHA256:..."


class SshConsole:
    """A `Console` over SSH.

    Args:
        units: How to log in to each, by name.
    """

    def __init__(self, units: Mapping[str, SshUnit]):
        self._units = dict(units)
        self._connections: dict[str, asyncssh.SSHClientConnection] = {}

    def where(self, unit: str) -> str:
        at = self._units[unit]
        return f"{at.user}@{at.host}" + ("" if at.port == 22 else f":{at.port}")

    async def open(self, unit: str) -> None:
        """Log in, if that is not done yet.

        Raises:
            PrivilegeError: If the unit does not let us in.
            PeerError: If it cannot be reached, or is not the one it should be.
            ConfigError: If a file cannot be used.
        """
        if unit not in self._connections:
            self._connections[unit] = await self._connect(unit)

    async def run(self, unit: str, command: str) -> str:
        await self.open(unit)
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                # A shell of its own per command: nothing an earlier one left behind can be taken for its answer.
                async with self._connections[unit].create_process(term_type="dumb", term_size=(200, 0)) as shell:
                    await _until_prompt(shell)
                    shell.stdin.write(command + "\n")
                    shown = await _until_prompt(shell)
                    shell.stdin.write("exit\n")
        except (asyncssh.Error, OSError, TimeoutError) as error:
            self._connections.pop(unit).close()
            raise PeerError(
                f"{self._who(unit)}: `{command}`: {_reason(error)}; it may have been carried out"
            ) from error
        lines = _CONTROL.sub("", shown).split("\n")
        return "\n".join(line for line in lines[:-1] if command not in line).strip()

    async def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
            await connection.wait_closed()
        self._connections.clear()

    def _who(self, unit: str) -> str:
        return f"FortiGate {unit} ({self.where(unit)})"

    async def _connect(self, unit: str) -> asyncssh.SSHClientConnection:
        at = self._units[unit]
        seen: list[str] = []

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                seen.append(key.get_fingerprint())
                return bool(at.fingerprint) and seen[-1] == at.fingerprint

        options: dict[str, Any] = {
            "known_hosts": str(at.known_hosts) if at.known_hosts else ([], [], []),
            "client_keys": [str(at.key_file)] if at.key_file else None,
            "password": read_secret(at.password_file) if at.password_file else None,
            "agent_path": None,
            "config": None,
            "login_timeout": LOGIN_TIMEOUT_S,
        }
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                connection, _ = await asyncssh.create_connection(Client, at.host, at.port, username=at.user, **options)
        except asyncssh.HostKeyNotVerifiable as error:
            expected = at.fingerprint or f"what {at.known_hosts} holds"
            shown = f"its host key is {seen[-1]}, not {expected}" if seen else str(error)
            raise PeerError(
                f"{self._who(unit)}: {shown}; compare it with the unit's own and put it into drill.trigger.fingerprint"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise PrivilegeError(
                f"{self._who(unit)}: not let in ({error.reason}); check the user, and key_file or password_file"
            ) from error
        except (asyncssh.KeyImportError, FileNotFoundError, PermissionError, ValueError) as error:
            raise ConfigError(f"{self._who(unit)}: a file for the login cannot be used: {error}") from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise PeerError(
                f"{self._who(unit)}: {_reason(error)}; is SSH allowed on its management interface, from here?"
            ) from error
        return connection


async def _until_prompt(shell: asyncssh.SSHClientProcess[str]) -> str:
    """Read what is shown up to the next prompt, saying yes to every question on the way."""
    shown, answered = "", 0
    while not _PROMPT.search(_CONTROL.sub("", shown)):
        part = await shell.stdout.read(4096)
        if not part:
            raise OSError("the console closed before its prompt came")
        shown += part
        if _QUESTION.search(shown[answered:]):
            answered = len(shown)
            shell.stdin.write("y\n")
    return shown


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error or type(error).__name__)
