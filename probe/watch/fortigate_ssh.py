"""One FortiGate's command line over SSH: log in, type, read on to the prompt, or listen. Host keys always verified.

What the output means is `fortigate_cli`'s. Every way in which there is none becomes an `SshError` with words.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncssh

from probe.watch import fortigate_cli as cli

LOGIN_TIMEOUT_S = 8.0  # until logged in, and again until the first prompt
COMMAND_TIMEOUT_S = 8.0
KEEPALIVE_S = 5  # a unit that died says nothing; three unanswered ones end the session
MAX_OUTPUT = 1 << 20  # characters of one command
_WIDTH = 512  # columns: debug lines must not be wrapped

_T = TypeVar("_T")


class SshError(Exception):
    """There is no command line, or no answer on it; the message says what to do where we know."""


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Whom to log in to, and how. Secrets have been read by now."""

    unit: str
    host: str
    port: int
    username: str
    password: str | None = None
    key_file: str | None = None
    known_hosts_file: str | None = None
    host_key: str | None = None  # "SHA256:..."


class Cli:
    """A command line with a prompt. Get one by `login`."""

    def __init__(self, process: asyncssh.SSHClientProcess[str]):
        self._process = process
        self.round_trip_ns = 0  # of the last command, from the line typed to the prompt
        self.greeting = ""

    async def begin(self) -> None:
        """Wait for the first prompt, accepting a login banner on the way."""
        self.greeting = await _within(self._to_prompt(), LOGIN_TIMEOUT_S, "the first prompt")

    async def run(self, command: str) -> tuple[str, str]:
        """Type a command and wait for the next prompt.

        Returns:
            All that came, verbatim, and the command's output alone.

        Raises:
            SshError: If no prompt comes in time, or the session ends.
        """
        begun_ns = time.monotonic_ns()
        self._process.stdin.write(command + "\n")
        text = await _within(self._to_prompt(command), COMMAND_TIMEOUT_S, f"the end of `{command}`")
        self.round_trip_ns = time.monotonic_ns() - begun_ns
        return text, cli.output_of(command, text)

    async def listen(self) -> str:
        """Whatever comes next, as it comes; empty when the session has ended."""
        return str(await self._process.stdout.read(65_536))

    def type(self, command: str) -> None:
        """Type a command without waiting."""
        self._process.stdin.write(command + "\n")

    async def _to_prompt(self, echo: str = "") -> str:
        text, answered = "", 0
        while True:
            piece = str(await self._process.stdout.read(65_536))
            if not piece:
                raise SshError("the session ended")
            text += piece
            # The echo of what was typed stands behind the old prompt: only what follows it counts.
            if echo not in text:
                continue
            for question, key in ((cli.PAGER, " "), (cli.BANNER, "a\n")):
                if text.rstrip().endswith(question) and len(text) > answered:
                    answered = len(text)
                    self._process.stdin.write(key)
            if cli.at_prompt(text.partition(echo)[2] if echo else text):
                return text
            if len(text) > MAX_OUTPUT:
                raise SshError(f"more than {MAX_OUTPUT >> 20} MiB without a prompt")


class _HostKeys(asyncssh.SSHClient):
    """Judges the key of a host that no known_hosts file names, and remembers its fingerprint for the message."""

    def __init__(self, target: SshTarget):
        self._target = target
        self.presented = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.presented = f"{key.get_algorithm()} {key.get_fingerprint()}"
        return key.get_fingerprint() == self._target.host_key


@contextlib.asynccontextmanager
async def login(target: SshTarget) -> AsyncIterator[Cli]:
    """A command line, closed on exit.

    Raises:
        SshError: If it cannot be had.
    """
    keys = _HostKeys(target)
    connection = await _connect(target, keys)
    try:
        opening = connection.create_process(
            term_type="vt100", term_size=(_WIDTH, 1000), encoding="utf-8", errors="replace", stderr=asyncssh.STDOUT
        )
        process = await _within(opening, LOGIN_TIMEOUT_S, "a terminal")
        line = Cli(process)
        await line.begin()
        yield line
    except (asyncssh.Error, OSError) as error:
        raise SshError(f"the session ended: {error}") from error
    finally:
        connection.abort()


async def ask(target: SshTarget, command: str) -> str:
    """Log in, run one command and leave.

    Raises:
        SshError: If there is no answer, or the unit refuses the command.
    """
    async with login(target) as line:
        _, output = await line.run(command)
    if refused := cli.refusal(output):
        raise SshError(f"`{command}` was refused ({refused}); may the administrator's profile do this?")
    return output


async def _connect(target: SshTarget, keys: _HostKeys) -> asyncssh.SSHClientConnection:
    # Without an own file nothing is known beforehand, rather than everything trusted (None) or what ~/.ssh holds.
    known = str(Path(target.known_hosts_file)) if target.known_hosts_file else ([], [], [])
    connecting = asyncssh.connect(
        target.host,
        target.port,
        config=None,
        known_hosts=known,
        client_factory=lambda: keys,
        username=target.username,
        password=target.password,
        client_keys=[target.key_file] if target.key_file else None,
        agent_path=None,
        keepalive_interval=KEEPALIVE_S,
    )
    try:
        return await _within(connecting, LOGIN_TIMEOUT_S, "the login")
    except asyncssh.HostKeyNotVerifiable as error:
        raise SshError(_unknown_key(target, keys.presented or str(error))) from error
    except asyncssh.PermissionDenied as error:
        what = "key" if target.key_file else "password"
        raise SshError(
            f"login of {target.username} refused: check the {what}, and that our address is a trusthost"
        ) from error
    except asyncssh.KeyImportError as error:
        raise SshError(f"{target.key_file} holds no usable private key: {error}") from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise SshError(f"{target.host} port {target.port}: {error}") from error


def _unknown_key(target: SshTarget, presented: str) -> str:
    where = f"watchers.fortigate.units.{target.unit}.ssh"
    fingerprint = presented.rpartition(" ")[2]
    if target.host_key:
        against = f"is not {where}.host_key ({target.host_key})"
    elif target.known_hosts_file:
        against = f"is not in {target.known_hosts_file}"
    else:
        against = "is unknown"
    return (
        f"host key of {target.host} port {target.port} {against}: it presented {presented};"
        f" if that is the unit's own, put host_key: {fingerprint} in {where}"
    )


async def _within(what: Awaitable[_T], limit_s: float, name: str) -> _T:
    try:
        return await asyncio.wait_for(what, limit_s)
    except TimeoutError as error:
        raise SshError(f"no answer within {limit_s:g} s (waiting for {name})") from error
