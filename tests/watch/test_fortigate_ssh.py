"""Logging in to a stand-in, and every way in which it does not let us."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from probe.watch import fortigate_cli as cli
from probe.watch import fortigate_ssh
from probe.watch.fortigate_ssh import Cli, SshError, SshTarget, ask

from .pair import PASSWORD, Pair


@pytest.fixture(name="pair")
def _pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


@pytest.fixture(name="target")
def _target(pair: Pair) -> SshTarget:
    return SshTarget(
        "fgt-b",
        "127.0.0.1",
        pair.units["fgt-b"].ssh_port,
        "haprobe",
        key_file=str(pair.credentials.client_key),
        fingerprint=pair.fingerprint("fgt-b"),
        where="watchers.fortigate.units.fgt-b.ssh",
    )


def refused(target: SshTarget, command: str = cli.HA_STATUS) -> str:
    with pytest.raises(SshError) as caught:
        asyncio.run(ask(target, command))
    return str(caught.value)


def test_a_key_lets_us_in_and_the_command_is_answered(target: SshTarget) -> None:
    status = cli.ha_status(asyncio.run(ask(target, cli.HA_STATUS)))
    assert status is not None
    assert status.primaries == ["FGVMSTANDIN0000A"]


def test_a_password_lets_us_in(target: SshTarget) -> None:
    assert asyncio.run(ask(replace(target, key_file=None, password=PASSWORD), cli.HA_STATUS))


def test_a_known_hosts_file_vouches_for_the_unit(pair: Pair, target: SshTarget, tmp_path: Path) -> None:
    line = pair.credentials.known_hosts.read_text().splitlines()[1].removeprefix("127.0.0.1")
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{target.port}{line}\n")
    own = replace(target, fingerprint=None, known_hosts=str(known))
    assert asyncio.run(ask(own, cli.HA_STATUS))
    known.write_text("")
    why = refused(own)
    assert f"is not in {known}" in why
    assert pair.fingerprint("fgt-b") in why


def test_without_a_known_key_nobody_is_logged_in_to(pair: Pair, target: SshTarget) -> None:
    why = refused(replace(target, fingerprint=None))
    assert f"put fingerprint: {pair.fingerprint('fgt-b')} in watchers.fortigate.units.fgt-b.ssh" in why


def test_a_wrong_password_is_named(target: SshTarget) -> None:
    why = refused(replace(target, key_file=None, password="guessed"))
    assert why.startswith("login of haprobe refused: check the password")
    assert "guessed" not in why


def test_a_key_that_is_none_is_named(target: SshTarget, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")
    assert "key" in refused(replace(target, key_file=str(tmp_path / "key")))
    assert "key" in refused(replace(target, key_file=str(tmp_path / "missing")))


def test_a_unit_that_is_gone_is_named(target: SshTarget) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert refused(replace(target, port=port)).startswith(f"127.0.0.1 port {port}: ")


def test_a_port_that_says_nothing_ends_by_timeout(target: SshTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_ssh, "LOGIN_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer within" in refused(replace(target, port=silent.getsockname()[1]))


def test_a_command_that_is_not_allowed_is_named(target: SshTarget) -> None:
    assert "`diagnose sys top` was refused (command parse error" in refused(target, "diagnose sys top")


# --- what no stand-in does, by a scripted terminal ------------------------------------------------------------------


class Terminal:
    """Plays pieces of output; a piece after a callable is given only once that has been typed."""

    def __init__(self, *script: str | tuple[str, str]):
        self._script = list(script)
        self.typed: list[str] = []
        self.stdin = self.stdout = self

    def write(self, text: str) -> None:
        self.typed.append(text)

    async def read(self, _: int) -> str:
        if not self._script:
            await asyncio.sleep(3600)
        piece = self._script.pop(0)
        if isinstance(piece, tuple):
            wanted, piece = piece
            assert self.typed[-1] == wanted
        return piece


def test_a_pager_is_turned_and_not_kept() -> None:
    terminal = Terminal("get x\r\none\r\n--Mo", "re-- ", (" ", "\r         \rtwo\r\n"), "\r\nfgt-a # ")
    _, output = asyncio.run(Cli(terminal).run("get x"))  # type: ignore[arg-type]
    assert output.split() == ["one", "two"]
    assert terminal.typed == ["get x\n", " "]


def test_a_login_banner_is_accepted() -> None:
    terminal = Terminal("Authorised use only\r\n(Press 'a' to accept):", ("a\n", "\r\nfgt-a # "))
    asyncio.run(Cli(terminal).begin())  # type: ignore[arg-type]


def test_a_question_is_answered_with_no_unless_somebody_means_yes() -> None:
    for confirm, typed in ((False, "n\n"), (True, "y\n")):
        asking = "execute x\r\nDo you want to continue? (y/n)"
        terminal = Terminal(asking, (typed, f"{typed.strip()}\r\n\r\nfgt-a # "))
        asyncio.run(Cli(terminal).run("execute x", confirm=confirm))  # type: ignore[arg-type]
        assert terminal.typed == ["execute x\n", typed]


def test_the_old_prompt_is_not_taken_for_the_end() -> None:
    terminal = Terminal("fgt-a # ", "get x\r\n", "out\r\n", "fgt-a # ")
    _, output = asyncio.run(Cli(terminal).run("get x"))  # type: ignore[arg-type]
    assert output.strip() == "out"


def test_output_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_ssh, "COMMAND_TIMEOUT_S", 0.05)
    with pytest.raises(SshError, match="no answer within"):
        asyncio.run(Cli(Terminal("get x\r\n", "and so on")).run("get x"))  # type: ignore[arg-type]
    monkeypatch.setattr(fortigate_ssh, "COMMAND_TIMEOUT_S", 60.0)
    monkeypatch.setattr(fortigate_ssh, "MAX_OUTPUT", 100)
    with pytest.raises(SshError, match="without a prompt"):
        asyncio.run(Cli(Terminal("get x\r\n", "y" * 101)).run("get x"))  # type: ignore[arg-type]
    with pytest.raises(SshError, match="session ended"):
        asyncio.run(Cli(Terminal("")).run("get x"))  # type: ignore[arg-type]
