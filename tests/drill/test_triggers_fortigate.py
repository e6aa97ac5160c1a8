"""`execute ha failover` over real SSH, against a stand-in for the FortiGate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from probe.drill import console
from probe.drill.console import SshConsole, SshUnit
from probe.drill.triggers_fortigate import FortigateTrigger
from probe.errors import ConfigError, HaprobeError, PeerError, PrivilegeError

from .fortios import FortiOs, running


@pytest.fixture
def unit() -> Iterator[FortiOs]:
    with running(FortiOs()) as unit:
        yield unit


@pytest.fixture
def login(unit: FortiOs, tmp_path: Path) -> SshUnit:
    password = tmp_path / "password"
    password.write_text("pw\n")
    return SshUnit("127.0.0.1", "drill", unit.port, password_file=password, known_hosts=unit.known_hosts(tmp_path))


def trigger(login: SshUnit, **more: object) -> FortigateTrigger:
    return FortigateTrigger(SshConsole({"fgt-a": login}), "fgt-a", **more)  # type: ignore[arg-type]


def test_set_is_confirmed_and_stamped_between_login_and_answer(unit: FortiOs, login: SshUnit) -> None:
    one = trigger(login)
    before = time.time_ns()
    at_ns = one.fire()
    assert unit.failed_over
    assert unit.typed[:2] == ["execute ha failover set 1", "y"]
    event = one.event(at_ns)
    assert before < at_ns < event.detail["answered_ns"] <= time.time_ns()
    assert (event.source, event.detail["unit"]) == ("fortigate", "fgt-a")
    assert one.revert() == "", "nobody asked for it"
    assert unit.failed_over, "sticky"
    assert "execute ha failover unset 1" in one.undo()
    one.close()


def test_unset_afterwards_when_asked(unit: FortiOs, login: SshUnit) -> None:
    one = trigger(login, undo=True, vcluster=2)
    assert one.revert() == "", "nothing was set yet"
    one.fire()
    assert one.revert() == "execute ha failover unset 2 on fgt-a"
    assert not unit.failed_over
    assert [text for text in unit.typed if text.startswith("execute")] == [
        "execute ha failover set 2",
        "execute ha failover unset 2",
    ]
    assert unit.logins == 1, "one connection for both"
    one.close()


def test_a_rehearsal_changes_nothing(unit: FortiOs, login: SshUnit) -> None:
    one = trigger(login)
    assert one.rehearse() == "fgt-a answers `execute ha failover status`: failover status: unset"
    assert not unit.failed_over
    assert one.describe().startswith("graceful failover: execute ha failover set 1 on fgt-a (drill@127.0.0.1:")
    one.close()


def test_a_refused_command_is_an_error(unit: FortiOs, login: SshUnit) -> None:
    unit.may_fail_over = False
    one = trigger(login)
    with pytest.raises(PeerError, match="refused `execute ha failover set 1`: Unknown action 0 Command fail"):
        one.fire()
    one.close()


def test_a_host_key_is_checked_by_fingerprint_or_file(unit: FortiOs, login: SshUnit, tmp_path: Path) -> None:
    one = trigger(replace(login, known_hosts=None, fingerprint=unit.fingerprint))
    one.rehearse()
    one.close()
    other = asyncssh.generate_private_key("ssh-ed25519")
    strange = tmp_path / "strange"
    strange.write_text(f"[127.0.0.1]:{unit.port} {other.export_public_key().decode()}")
    for bad in (
        replace(login, known_hosts=None, fingerprint=other.get_fingerprint()),
        replace(login, known_hosts=strange),
    ):
        one = trigger(bad)
        with pytest.raises(PeerError) as caught:
            one.fire()
        assert f"its host key is {unit.fingerprint}" in str(caught.value)
        assert "drill.trigger.fingerprint" in str(caught.value)
        one.close()
    assert unit.logins == 1, "no password is given to a stranger"


def test_every_way_not_to_get_in_says_what_to_do(unit: FortiOs, login: SshUnit, tmp_path: Path) -> None:
    def failing(kind: type[HaprobeError], **changes: object) -> str:
        one = trigger(replace(login, **changes))  # type: ignore[arg-type]
        with pytest.raises(kind) as caught:
            one.fire()
        one.close()
        return str(caught.value)

    wrong = tmp_path / "wrong"
    wrong.write_text("no\n")
    assert "check the user, and key_file or password_file" in failing(PrivilegeError, password_file=wrong)
    assert "cannot read the secret" in failing(ConfigError, password_file=tmp_path / "none")
    assert "cannot be used" in failing(ConfigError, password_file=None, key_file=wrong)
    assert "is SSH allowed" in failing(PeerError, port=1)


def test_a_console_that_hangs_is_given_up(unit: FortiOs, login: SshUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "COMMAND_TIMEOUT_S", 1.0)
    unit.hangs = True
    one = trigger(login)
    with pytest.raises(PeerError, match="no answer in time; it may have been carried out"):
        one.fire()
    one.close()
