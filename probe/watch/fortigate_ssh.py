"""One FortiGate's command line over SSH: log in, type, read on to the prompt, or listen. Host keys always verified.

What the output means is `fortigate_cli`'s. Every way in which there is none becomes an `SshError` with words.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import asyncssh

from probe.keys import read_secret
from probe.watch import fortigate_cli as cli

LOGIN_TIMEOUT_S = 8.0  # until logged in, and again until the first prompt
COMMAND_TIMEOUT_S = 8.0
KEEPALIVE_S = 5  # a unit that died says nothing; three unanswered ones end the session
MAX_OUTPUT = 1 << 20  # characters of one command
_WIDTH = 512  # columns: debug lines must not be wrapped

_T = TypeVar("_T")


class SshError(Exception):
    """There is no command line, or no answer on it; the message says what to do where we know."""


class LoginRefusedError(SshError):
    """The unit knows us not, or not so."""


class CommandRefusedError(SshError):
    """The unit has something against the command, and did not carry it out."""


class LoginFileError(SshError):
    """The file of the private key, or of host keys, cannot be used."""


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Whom to log in to, and how. Passwords have been read by now."""

    unit: str
    host: str
    port: int
    user: str
    password: str | None = None
    key_file: str | None = None
    known_hosts: str | None = None
    fingerprint: str | None = None  # of the host key, "SHA256:..."
    where: str = ""  # in the config file, for messages

    @classmethod
    def configured(cls, where: str, unit: str, host: str, login: Any) -> Self:
        """As a part of the config file says: `watchers.fortigate.units.NAME.ssh`, or `drill.trigger`.

        Raises:
            ConfigError: If the password cannot be read.
        """
        password = None
        if login.key_file is None:
            password = read_secret(where, "password", login.password_file, login.password_env)
        keys = (login.key_file, login.known_hosts, login.fingerprint)
        return cls(unit, host, login.port, login.user, password, *keys, where)


class Cli:
    """A command line with a prompt. Get one by `login`."""

    def __init__(self, process: asyncssh.SSHClientProcess[str]):
        self._process = process
        self.round_trip_ns = 0  # of the last command, from the line typed to the prompt

    async def begin(self) -> None:
        """Wait for the first prompt, accepting a login banner on the way."""
        await _within(self._to_prompt(), LOGIN_TIMEOUT_S, "the first prompt")

    async def run(self, command: str, *, confirm: bool = False) -> tuple[str, str]:
        """Type a command and wait for the next prompt.

        Args:
            command: One line.
            confirm: Whether a question that it asks back is answered with yes.

        Returns:
            All that came, verbatim, and the command's output alone.

        Raises:
            SshError: If no prompt comes in time, or the session ends.
        """
        begun_ns = time.monotonic_ns()
        self._process.stdin.write(command + "\n")
        text = await _within(self._to_prompt(command, confirm), COMMAND_TIMEOUT_S, f"the end of `{command}`")
        self.round_trip_ns = time.monotonic_ns() - begun_ns
        return text, cli.output_of(command, text)

    async def ask(self, command: str, *, confirm: bool = False) -> str:
        """The output of a command that is carried out; as `run` otherwise.

        Raises:
            SshError: As of `run`, and if the unit refuses the command.
        """
        _, output = await self.run(command, confirm=confirm)
        if refused := cli.refusal(output):
            raise CommandRefusedError(f"`{command}` was refused ({refused}); may the administrator's profile do this?")
        return output

    async def listen(self) -> str:
        """Whatever comes next, as it comes; empty when the session has ended."""
        return str(await self._process.stdout.read(65_536))

    def type(self, command: str) -> None:
        """Type a command without waiting."""
        self._process.stdin.write(command + "\n")

    async def _to_prompt(self, echo: str = "", confirm: bool = False) -> str:
        text, answered = "", 0
        answers = ((cli.PAGER, " "), (cli.BANNER, "a\n"), (cli.QUESTION, "y\n" if confirm else "n\n"))
        while True:
            piece = str(await self._process.stdout.read(65_536))
            if not piece:
                raise SshError("the session ended")
            text += piece
            # The echo of what was typed stands behind the old prompt: only what follows it counts.
            if echo not in text:
                continue
            for question, key in answers:
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
        return key.get_fingerprint() == self._target.fingerprint


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
    """Log in, run one command and leave; as `Cli.ask`.

    Raises:
        SshError: If there is no answer, or the unit refuses the command.
    """
    async with login(target) as line:
        return await line.ask(command)


async def _connect(target: SshTarget, keys: _HostKeys) -> asyncssh.SSHClientConnection:
    known, client_keys = _files(target)
    connecting = asyncssh.connect(
        target.host,
        target.port,
        config=None,
        known_hosts=known,
        client_factory=lambda: keys,
        username=target.user,
        password=target.password,
        client_keys=client_keys,
        agent_path=None,
        keepalive_interval=KEEPALIVE_S,
    )
    try:
        return await _within(connecting, LOGIN_TIMEOUT_S, "the login")
    except asyncssh.HostKeyNotVerifiable as error:
        raise SshError(_unknown_key(target, keys.presented or str(error))) from error
    except asyncssh.PermissionDenied as error:
        what = "key" if target.key_file else "password"
        raise LoginRefusedError(
            f"login of {target.user} refused: check the {what}, and that our address is a trusthost"
        ) from error
    except (asyncssh.Error, OSError, ValueError) as error:
        advice = "is SSH allowed on that interface, from here?"
        raise SshError(f"{target.host} port {target.port}: {error}; {advice}") from error


def _files(target: SshTarget) -> tuple[Any, list[asyncssh.SSHKey] | None]:
    """The known hosts and our keys. Read for each login: a file may have been replaced meanwhile."""
    # Without an own file nothing is known beforehand, rather than everything trusted (None) or what ~/.ssh holds.
    known: Any = ([], [], [])
    try:
        if target.known_hosts:
            known = asyncssh.read_known_hosts(target.known_hosts)
    except (OSError, ValueError) as error:
        raise LoginFileError(f"{target.where}.known_hosts: {target.known_hosts} cannot be used: {error}") from error
    try:
        return known, [asyncssh.read_private_key(target.key_file)] if target.key_file else None
    except (OSError, ValueError) as error:
        raise LoginFileError(f"{target.where}.key_file: {target.key_file} holds no usable key: {error}") from error


def _unknown_key(target: SshTarget, presented: str) -> str:
    fingerprint = presented.rpartition(" ")[2]
    if target.fingerprint:
        against = f"is not {target.where}.fingerprint ({target.fingerprint})"
    elif target.known_hosts:
        against = f"is not in {target.known_hosts}"
    else:
        against = "is unknown"
    return (
        f"host key of {target.host} port {target.port} {against}: it presented {presented};"
        f" if that is the unit's own, put fingerprint: {fingerprint} in {target.where}"
    )


async def _within(what: Awaitable[_T], limit_s: float, name: str) -> _T:
    try:
        return await asyncio.wait_for(what, limit_s)
    except TimeoutError as error:
        raise SshError(f"no answer within {limit_s:g} s (waiting for {name})") from error
