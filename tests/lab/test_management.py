"""The stand-ins' command line, as a person at a terminal finds it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import asyncssh
import pytest

from probe.lab import fortios
from probe.lab.credentials import Credentials, make
from probe.lab.fortios import Cluster
from probe.lab.management import RestServer, Shell, serve_ssh
from probe.lab.namespace import LabError
from probe.watch.fortigate_ssh import Cli, SshTarget, login

T = TypeVar("T")


class Unit:
    """A unit whose HA daemon notes what it is told."""

    def __init__(self, directory: Path):
        self.keys: Credentials = make(directory / "credentials", {"fgt-a": ["127.0.0.1"]})
        self.log = directory / "fgt-a-awsd.log"
        self.commands: list[str] = []
        self.dead = False

    def look(self) -> Cluster:
        if self.dead:
            raise LabError("unit fgt-a of the lab does not answer")
        return Cluster("fgt-a", {"fgt-a": "primary", "fgt-b": "secondary"}, failover_set=bool(self.commands))

    def session(self, play: Callable[[Cli], Awaitable[T]]) -> T:
        async def run() -> T:
            def shell() -> Shell:
                return Shell("fgt-a", self.look, self.log, self.commands.append)

            acceptor = await serve_ssh(("127.0.0.1", 0), self.keys, "fgt-a", shell)
            fingerprint = asyncssh.read_private_key(self.keys.host_key("fgt-a")).get_fingerprint()
            target = SshTarget(
                "fgt-a",
                "127.0.0.1",
                acceptor.get_port(),
                "haprobe",
                key_file=str(self.keys.client_key),
                fingerprint=fingerprint,
            )
            try:
                async with login(target) as line:
                    return await play(line)
            finally:
                acceptor.close()

        return asyncio.run(run())


async def until(line: Cli, word: str) -> str:
    text = ""
    async with asyncio.timeout(60):
        while word not in text:
            piece = await line.listen()
            assert piece, f"the session ended; so far: {text!r}"
            text += piece
    return text


def test_a_failover_is_asked_for_twice(tmp_path: Path) -> None:
    unit = Unit(tmp_path)

    async def play(line: Cli) -> str:
        line.type("execute ha failover set 1")
        await until(line, "(y/n)")
        line.type("n")
        await until(line, "$ ")
        assert unit.commands == []
        line.type("execute ha failover set 1")
        await until(line, "(y/n)")
        line.type("y")
        await until(line, "$ ")
        return (await line.run("execute ha failover status"))[1]

    assert unit.session(play) == "failover status: set"
    assert unit.commands == ["execute ha failover set 1"]


def test_debug_output_begins_with_the_request_and_ends_with_it(tmp_path: Path) -> None:
    unit = Unit(tmp_path)
    unit.log.write_text("before\n")

    async def play(line: Cli) -> str:
        await line.run("diagnose debug application awsd -1")
        with unit.log.open("a") as file:
            file.write("not enabled yet\n")
        await line.run("diagnose debug enable")
        with unit.log.open("a") as file:
            file.write("HA event\nhalf a li")
            file.flush()
            text = await until(line, "HA event")
            assert "half" not in text
            file.write("ne\n")
        text += await until(line, "half a line")
        await line.run("diagnose debug disable")
        with unit.log.open("a") as file:
            file.write("disabled\n")
        return text + (await line.run("execute ha failover status"))[0]

    text = unit.session(play)
    assert not {"before", "not enabled yet", "disabled"} & set(text.split("\r\n"))


def test_a_dead_daemon_and_an_unknown_command_are_told(tmp_path: Path) -> None:
    unit = Unit(tmp_path)

    async def play(line: Cli) -> list[str]:
        found = [(await line.run(command))[1] for command in ("frobnicate", "diagnose debug flow")]
        unit.dead = True
        return [*found, (await line.run("get system ha status"))[1]]

    unknown, flow, dead = unit.session(play)
    assert unknown.startswith("command parse error before 'frobnicate'")
    assert flow.startswith("command parse error before 'flow'")
    assert "does not answer" in dead


def test_credentials_are_for_nobody_else(tmp_path: Path) -> None:
    keys = make(tmp_path / "keys", {"fgt-a": ["192.0.2.1"], "fgt-b": ["192.0.2.2", "192.0.2.3"]})
    assert keys.directory.stat().st_mode & 0o077 == 0
    assert keys.token("fgt-a").read_text() != keys.token("fgt-b").read_text()
    assert [line.split()[0] for line in keys.known_hosts.read_text().splitlines()] == [
        "192.0.2.1",
        "192.0.2.2,192.0.2.3",
    ]
    assert fortios.SERIALS.keys() == {"fgt-a", "fgt-b"}


def test_no_name_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab's namespaces have no DNS: each question would hold up the lab for seconds."""

    def ask(*_: object) -> str:
        raise AssertionError("asked DNS for a host's name")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(socket, name, ask)
    unit = Unit(tmp_path)
    assert "fgt-a" in unit.session(lambda line: line.ask("get system ha status"))
    rest = RestServer(("127.0.0.1", 0), unit.keys.certificate("fgt-a"), "token", lambda path: (200, b"{}"))
    rest.close()
    assert rest.port
