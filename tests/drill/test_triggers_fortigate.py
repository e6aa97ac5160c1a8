"""`execute ha failover` over real SSH, against the lab's stand-in for the FortiGate's command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from probe.config import Trigger
from probe.drill.triggers_fortigate import FortigateTrigger
from probe.errors import ConfigError, HaprobeError, PeerError, PrivilegeError
from probe.watch import fortigate_ssh
from probe.watch.fortigate_ssh import SshTarget

from .fortios import PASSWORD, FortiOs, running


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[FortiOs]:
    with running(FortiOs(tmp_path)) as unit:
        yield unit


@pytest.fixture
def target(unit: FortiOs, tmp_path: Path) -> SshTarget:
    """As a config file says it."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    settings = Trigger(
        kind="fortigate",
        port=unit.port,
        user="haprobe",
        password_file=str(password),
        known_hosts=str(unit.known_hosts(tmp_path)),
    )
    return SshTarget.configured("drill.trigger", "fgt-a", "127.0.0.1", settings)


def test_set_is_confirmed_and_stamped_between_login_and_answer(unit: FortiOs, target: SshTarget) -> None:
    one = FortigateTrigger(target)
    before = time.time_ns()
    at_ns = one.fire()
    assert unit.failed_over
    assert unit.executed == ["execute ha failover set 1"]
    event = one.event(at_ns)
    assert before < at_ns < event.detail["answered_ns"] <= time.time_ns()
    assert (event.source, event.detail["unit"]) == ("fortigate", "fgt-a")
    assert one.revert() == "", "nobody asked for it"
    assert unit.failed_over, "sticky"
    assert "execute ha failover unset 1" in one.undo()


def test_unset_afterwards_when_asked(unit: FortiOs, target: SshTarget) -> None:
    one = FortigateTrigger(target, undo=True, vcluster=2)
    assert one.revert() == "", "nothing was set yet"
    one.fire()
    assert one.revert() == "execute ha failover unset 2 on fgt-a"
    assert not unit.failed_over
    assert unit.executed == ["execute ha failover set 2", "execute ha failover unset 2"]
    assert unit.sessions == 2, "an idle one would have been ended by FortiOS meanwhile"


def test_a_rehearsal_changes_nothing(unit: FortiOs, target: SshTarget) -> None:
    one = FortigateTrigger(target)
    assert one.rehearse() == "fgt-a answers `execute ha failover status`: failover status: unset"
    assert unit.executed == []
    assert one.describe().startswith("graceful failover: execute ha failover set 1 on fgt-a (haprobe@127.0.0.1:")


def test_a_refused_command_is_an_error_and_was_not_carried_out(unit: FortiOs, target: SshTarget) -> None:
    unit.may_fail_over = False
    with pytest.raises(PeerError, match=r"`execute ha failover set 1` was refused.*Return code -1") as caught:
        FortigateTrigger(target).fire()
    assert "may have been carried out" not in str(caught.value)


def test_a_host_key_is_checked_by_fingerprint_or_file(unit: FortiOs, target: SshTarget, tmp_path: Path) -> None:
    FortigateTrigger(replace(target, known_hosts=None, fingerprint=unit.fingerprint)).rehearse()
    other = asyncssh.generate_private_key("ssh-ed25519")
    strange = tmp_path / "strange"
    strange.write_text(f"[127.0.0.1]:{unit.port} {other.export_public_key().decode()}")
    for bad in (
        replace(target, known_hosts=None, fingerprint=other.get_fingerprint()),
        replace(target, known_hosts=str(strange)),
    ):
        with pytest.raises(PeerError) as caught:
            FortigateTrigger(bad).fire()
        assert f"put fingerprint: {unit.fingerprint} in drill.trigger" in str(caught.value)
    assert unit.sessions == 1, "nobody logs in to a stranger"


def test_every_way_not_to_get_in_says_what_to_do(unit: FortiOs, target: SshTarget, tmp_path: Path) -> None:
    def failing(kind: type[HaprobeError], **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            FortigateTrigger(replace(target, **changes)).fire()
        assert "may have been carried out" not in str(caught.value)
        return str(caught.value)

    wrong = tmp_path / "wrong"
    wrong.write_text("no\n")
    assert "login of haprobe refused: check the password" in failing(PrivilegeError, password="no")
    assert f"drill.trigger.key_file: {wrong} holds no usable key" in failing(ConfigError, key_file=str(wrong))
    gone = str(tmp_path / "gone")
    assert f"drill.trigger.known_hosts: {gone} cannot be used" in failing(ConfigError, known_hosts=gone)
    assert "is SSH allowed" in failing(PeerError, port=1)
    assert unit.executed == []


def test_a_console_that_hangs_is_given_up(unit: FortiOs, target: SshTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_ssh, "COMMAND_TIMEOUT_S", 1.0)
    unit.hangs = True
    with pytest.raises(PeerError, match=r"no answer within 1 s .* it may have been carried out"):
        FortigateTrigger(target).fire()
