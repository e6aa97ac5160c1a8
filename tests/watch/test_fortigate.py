"""The FortiGate watcher against the lab's stand-ins: real TLS and SSH on loopback, with faults."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from probe import config, yamlfile
from probe.errors import ConfigError
from probe.lab import fortios
from probe.lab.credentials import make
from probe.tls import server_context
from probe.watch import fortigate, fortigate_capture, fortigate_rest
from probe.watch.fortigate import FortigateWatcher
from probe.watch.fortigate_rest import AskError

from .pair import DEADLINE_S, UNITS, Pair, polled, wait_for

MINUTE_NS = 60_000_000_000


@pytest.fixture(name="pair")
def _pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


@pytest.fixture(name="running")
def _running(pair: Pair) -> Iterator[FortigateWatcher]:
    watcher = pair.watcher()
    watcher.start()
    yield watcher
    watcher.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_capture, "RETRY_S", 0.05)


@pytest.mark.parametrize("dialect", ["new", "old"])
def test_both_units_are_asked_for_role_version_and_serial(tmp_path: Path, dialect: fortios.Dialect) -> None:
    pair = Pair(tmp_path, dialect)
    try:
        watcher = pair.watcher(ssh=False)
        before = watcher.snapshot()
        assert (before.up, before.roles) == (False, dict.fromkeys(UNITS, "unknown"))
        state = polled(watcher)
        assert (state.up, state.reason, state.active_unit) == (True, "", "fgt-a")
        assert state.roles == {"fgt-a": "primary", "fgt-b": "secondary"}
        version = fortios.VERSIONS[dialect].removeprefix("v")
        assert [one["serial"] for one in state.info] == [fortios.SERIALS[name] for name in UNITS]
        assert {one["version"] for one in state.info} == {version}
        assert watcher.labels() == {"fortios": version, "fortios_build": "0"}
        assert pair.events == []
        watcher.stop()
    finally:
        pair.close()


def test_a_role_change_lies_in_the_interval_that_is_told(pair: Pair) -> None:
    watcher = pair.watcher(ssh=False)
    polled(watcher)
    before_ns = time.time_ns()
    pair.fail_over()
    after_ns = time.time_ns()
    assert polled(watcher).active_unit == "fgt-b"
    changes = pair.named("role_change")
    assert [(one.detail["unit"], one.detail["from"], one.detail["role"]) for one in changes] == [
        ("fgt-a", "primary", "secondary"),
        ("fgt-b", "secondary", "primary"),
    ]
    for one in changes:
        assert one.source == "fortigate"
        # The agent's anchor was measured at another moment than these: a wall clock may be slewed meanwhile.
        slack_ns = 50_000_000
        assert one.at_ns - one.uncertainty_ns <= before_ns + slack_ns
        assert after_ns <= one.at_ns + one.uncertainty_ns + slack_ns
    watcher.stop()


def test_a_change_while_the_last_old_answer_was_on_its_way_lies_in_the_interval(pair: Pair) -> None:
    watcher = pair.watcher(ssh=False)
    good = pair.units["fgt-b"].answer
    changed_ns = []

    def answer_then_change(path: str) -> tuple[int, bytes]:
        body = good(path)
        if not changed_ns:
            time.sleep(0.3)  # far beyond what two readings of the clocks may differ by
            changed_ns.append(time.time_ns())
            pair.fail_over()
            time.sleep(0.3)
        return body

    pair.units["fgt-b"].answer = answer_then_change
    polled(watcher, "fgt-b")
    polled(watcher, "fgt-b")
    (change,) = pair.named("role_change")
    assert change.at_ns - change.uncertainty_ns <= changed_ns[0] <= change.at_ns + change.uncertainty_ns
    watcher.stop()


@pytest.mark.parametrize(("role", "other"), [("primary", "primary"), ("secondary", "secondary")])
def test_two_primaries_or_none_are_shown_as_they_are(pair: Pair, role: str, other: str) -> None:
    watcher = pair.watcher(ssh=False)
    pair.roles = {"fgt-a": role, "fgt-b": other}
    state = polled(watcher)
    # Nobody is flagged where none is primary: FortiOS then tells neither role.
    shown = role if role == "primary" else "unknown"
    assert state.roles == dict.fromkeys(UNITS, shown)
    assert (state.up, state.active_unit) == (True, "")
    assert len(state.notes) == (0 if role == "primary" else 2)
    watcher.stop()


def test_two_primaries_are_told_once_they_have_said_so_for_a_while(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = pair.watcher(ssh=False)
    polled(watcher)
    pair.roles = {"fgt-a": "primary", "fgt-b": "primary"}
    polled(watcher)
    assert pair.named("two_primaries") == [], "the old primary was asked before the other took over"
    monkeypatch.setattr(fortigate, "SPLIT_NS", 1)
    polled(watcher)
    polled(watcher)
    (split,) = pair.named("two_primaries")
    assert split.detail == {"units": list(UNITS)}
    pair.roles = {"fgt-a": "secondary", "fgt-b": "primary"}
    polled(watcher)
    assert [one.detail for one in pair.named("one_primary")] == [{"unit": "fgt-b"}]
    watcher.stop()


def test_a_unit_that_is_gone_is_unknown_and_the_watcher_down(pair: Pair) -> None:
    watcher = pair.watcher(ssh=False)
    first = polled(watcher)
    pair.shut("fgt-a")
    state = polled(watcher)
    assert not state.up
    assert state.reason.startswith("fgt-a: unreachable")
    assert state.roles == {"fgt-a": "unknown", "fgt-b": "secondary"}
    assert [one["unit"] for one in state.info] == ["fgt-b"], "what cannot be seen now is absent"
    assert state.last_success_ns == first.last_success_ns or state.last_success_ns < time.time_ns()
    assert state.active_unit == ""
    (down,) = pair.named("watcher_down")
    assert (down.detail["unanswering"], down.detail["answering"]) == (["fgt-a"], ["fgt-b"])
    polled(watcher)
    assert len(pair.named("watcher_down")) == 1, "told once"
    watcher.stop()


def test_a_connection_closed_between_two_polls_is_no_absence(pair: Pair) -> None:
    watcher = pair.watcher(ssh=False)
    polled(watcher)
    good = pair.units["fgt-a"].answer
    hung_up = []

    def hang_up_once(path: str) -> tuple[int, bytes]:
        if not hung_up:
            hung_up.append(path)
            raise ConnectionAbortedError
        return good(path)

    pair.units["fgt-a"].answer = hang_up_once
    assert polled(watcher, "fgt-a").up
    assert hung_up
    assert pair.named("watcher_down") == []
    watcher.stop()


def test_what_changed_while_nobody_answered_lies_in_the_whole_gap(pair: Pair) -> None:
    watcher = pair.watcher(ssh=False)
    polled(watcher)
    good = pair.units["fgt-b"].answer
    pair.units["fgt-b"].answer = lambda path: (503, b"")
    gap_ns = time.time_ns()
    assert "HTTP 503" in polled(watcher, "fgt-b").reason
    pair.units["fgt-b"].answer = good
    pair.fail_over()
    assert polled(watcher, "fgt-b").up
    (change,) = pair.named("role_change")
    assert change.detail["last_seen_old_ns"] < gap_ns + 50_000_000
    assert [one.event for one in pair.events if one.event.startswith("watcher")] == ["watcher_down", "watcher_up"]
    watcher.stop()


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, b"<html>", "garbage (monitor/system/ha-checksums): not JSON"),
        (200, b"{}", "garbage"),
        (200, b"[" * 200_000, "garbage"),
        (404, b"", "HTTP 404"),
        (500, b"", "HTTP 500"),
        (302, b"", "HTTP 302"),
    ],
)
def test_garbage_is_an_observation(pair: Pair, status: int, body: bytes, why: str) -> None:
    watcher = pair.watcher(ssh=False)
    pair.units["fgt-b"].answer = lambda path: (status, body)
    state = polled(watcher)
    assert not state.up
    assert state.reason.startswith(f"fgt-b: {why}")
    assert state.roles == {"fgt-a": "primary", "fgt-b": "unknown"}
    watcher.stop()


def test_a_wrong_token_is_named_and_a_new_one_taken_up(pair: Pair, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("stale\n")
    watcher = pair.watcher(ssh=False, fgt_b={"token_file": str(token)})
    assert "fgt-b: HTTP 401" in polled(watcher).reason
    token.write_text(pair.credentials.token("fgt-b").read_text())
    polled(watcher, "fgt-b")  # is refused once more, and reads the file again
    assert polled(watcher, "fgt-b").up
    assert "stale" not in str(pair.events)
    watcher.stop()


def test_a_certificate_of_another_ca_is_refused(pair: Pair, tmp_path: Path) -> None:
    other = make(tmp_path / "other", {"fgt-b": ["127.0.0.1"]})
    watcher = pair.watcher(ssh=False, fgt_b={"ca_file": str(other.ca)})
    reason = polled(watcher).reason
    assert reason.startswith("fgt-b: tls: ")
    assert "ca_file" in reason
    watcher.stop()


def test_a_certificate_for_another_name_is_refused_unless_that_is_asked_for(pair: Pair) -> None:
    watcher = pair.watcher(ssh=False, fgt_b={"host": "localhost"})
    assert "fgt-b: tls: " in polled(watcher).reason
    watcher.stop()
    watcher = pair.watcher(ssh=False, fgt_b={"host": "localhost", "tls_name": "127.0.0.1"})
    assert polled(watcher).up
    watcher.stop()


def test_an_answer_that_hangs_ends_by_timeout_and_does_not_hold_up_the_other_unit(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fortigate_rest, "READ_TIMEOUT_S", 0.5)
    release = threading.Event()
    good = pair.units["fgt-a"].answer

    def hang(path: str) -> tuple[int, bytes]:
        release.wait(170)
        return good(path)

    watcher = pair.watcher(ssh=False)
    pair.units["fgt-a"].answer = hang
    watcher.start()
    try:
        wait_for(lambda: watcher.snapshot().roles["fgt-b"] == "secondary")
        wait_for(lambda: watcher.snapshot().reason.startswith("fgt-a: timeout"))
        pair.fail_over()
        wait_for(lambda: watcher.snapshot().roles["fgt-b"] == "primary")
        assert watcher.snapshot().roles["fgt-a"] == "unknown"
    finally:
        release.set()
        watcher.stop()


def test_an_answer_that_trickles_ends_by_timeout(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_rest, "TOTAL_TIMEOUT_S", 0.0)
    assert "fgt-a: timeout" in polled(pair.watcher(ssh=False)).reason


def test_an_answer_too_long_to_be_one_is_cut_off(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_rest, "MAX_BODY", 100)
    assert "fgt-a: garbage" in polled(pair.watcher(ssh=False)).reason


def test_a_connection_that_was_being_made_when_asking_ended_is_closed(tmp_path: Path) -> None:
    keys = make(tmp_path, {"fgt-a": ["127.0.0.1"]})
    context = server_context(keys.certificate("fgt-a"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        unit = SimpleNamespace(
            host="127.0.0.1", port=listener.getsockname()[1], tls_name=None, ca_file=str(keys.ca),
            token_file=str(keys.token("fgt-a")), token_env=None,
        )  # fmt: skip
        client = fortigate_rest.RestClient("fgt-a", unit)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.ask)
            raw, _ = listener.accept()
            client.close()
    assert isinstance(asked.exception(), AskError)
    gc.disable()  # it may not be the collector that closes it
    try:
        raw.settimeout(DEADLINE_S)
        with context.wrap_socket(raw, server_side=True) as peer:
            assert peer.recv(65_536).startswith(b"GET ")
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            peer.settimeout(DEADLINE_S / 4)
            assert peer.recv(1) == b""
    finally:
        gc.enable()


def test_a_silent_port_ends_by_timeout(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fortigate_rest, "CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        watcher = pair.watcher(ssh=False, fgt_a={"port": silent.getsockname()[1]})
        assert polled(watcher, "fgt-a").reason.startswith("fgt-a: timeout")
        watcher.stop()


def test_new_entries_of_the_ha_history_become_events(pair: Pair) -> None:
    pair.history = ((1_700_000_000, "before we looked"),)
    watcher = pair.watcher(ssh=False)
    polled(watcher)
    assert pair.named("ha_history") == []
    pair.history = ((1_700_000_050, "member fgt-b lost heartbeat on hbdev port3"), *pair.history)
    pair.fail_over()  # a change of role asks for the history at once
    polled(watcher, "fgt-a")
    (entry,) = pair.named("ha_history")
    assert entry.detail["text"] == "member fgt-b lost heartbeat on hbdev port3"
    assert entry.at_ns - entry.uncertainty_ns == 1_700_000_050 * 1_000_000_000
    polled(watcher, "fgt-a")
    assert len(pair.named("ha_history")) == 1
    watcher.stop()


def test_the_new_primary_is_asked_why(pair: Pair, running: FortigateWatcher) -> None:
    wait_for(lambda: running.snapshot().up)
    pair.fail_over()
    chosen = wait_for(lambda: pair.named("primary_selected"))[0]
    assert chosen.detail["unit"] == "fgt-b"
    assert chosen.detail["reason"] == fortios.FLAG_SET
    change = next(one for one in pair.named("role_change") if one.detail["unit"] == "fgt-b")
    assert (chosen.at_ns, chosen.uncertainty_ns) == (change.at_ns, change.uncertainty_ns)


def captured(watcher: FortigateWatcher) -> str:
    return "".join(record.text for record in watcher.captures())


def capturing(watcher: FortigateWatcher) -> list[str]:
    return [one.unit for one in watcher.snapshot().captures if one.state == "running"]


def test_awsd_of_the_passive_unit_is_captured_and_told(pair: Pair, running: FortigateWatcher) -> None:
    pair.units["fgt-b"].print("awsd before anybody looked")
    wait_for(lambda: running.snapshot().up)
    running.capture(time.monotonic_ns() + 10 * MINUTE_NS)
    running.capture(time.monotonic_ns() + 10 * MINUTE_NS)  # asked twice, held once
    wait_for(lambda: capturing(running) == ["fgt-b"])
    pair.units["fgt-b"].print(
        "HA event",
        "HA state: primary",
        "awsd associate elastic ip 203.0.113.10 to 10.0.0.1 of eni eni-08bfa15d84e7cdea8",
    )
    wait_for(lambda: "associate elastic ip" in captured(running))
    pair.units["fgt-b"].print("awsd associate elastic ip 203.0.113.10 successfully")
    wait_for(lambda: "successfully" in captured(running))
    assert pair.named("api_call") == [], "told when it is final"
    running.end_captures()
    (call,) = pair.named("api_call")
    assert (call.detail["operation"], call.detail["result"]) == ("AssociateAddress", "ok")
    assert [one.detail["role"] for one in pair.named("role_change") if one.detail.get("via")] == ["primary"]
    assert "before anybody looked" not in captured(running)
    assert "diagnose debug reset" in captured(running), "and left as it was found"
    assert [one.state for one in running.snapshot().captures] == ["ended"]


def test_who_is_passive_by_now_is_captured_too_but_a_blind_moment_adds_nobody(
    pair: Pair, running: FortigateWatcher
) -> None:
    wait_for(lambda: running.snapshot().up)
    running.capture(time.monotonic_ns() + 10 * MINUTE_NS)
    wait_for(lambda: capturing(running) == ["fgt-b"])
    pair.roles = {"fgt-a": "primary", "fgt-b": "primary"}
    wait_for(lambda: running.snapshot().roles["fgt-b"] == "primary")
    running.capture(time.monotonic_ns() + 10 * MINUTE_NS)
    assert [one.unit for one in running.captures()] == ["fgt-b"]
    pair.fail_over()
    wait_for(lambda: running.snapshot().roles["fgt-a"] == "secondary")
    running.capture(time.monotonic_ns() + 10 * MINUTE_NS)
    wait_for(lambda: sorted(capturing(running)) == ["fgt-a", "fgt-b"])


def test_a_capture_ends_by_itself(pair: Pair, running: FortigateWatcher) -> None:
    wait_for(lambda: running.snapshot().up)
    running.capture(time.monotonic_ns() + 50_000_000)
    wait_for(lambda: [one.state for one in running.snapshot().captures] in (["ended"], ["failed"]))


def test_a_session_that_breaks_is_begun_again_and_what_it_told_is_kept(pair: Pair, running: FortigateWatcher) -> None:
    wait_for(lambda: running.snapshot().up)
    running.capture(time.monotonic_ns() + 10 * MINUTE_NS)
    wait_for(lambda: capturing(running) == ["fgt-b"])
    pair.units["fgt-b"].print("HA event", "HA state: primary")
    wait_for(lambda: "HA state" in captured(running))
    pair.drop_sessions("fgt-b")
    wait_for(lambda: [one.state for one in running.snapshot().captures] == ["failed", "running"])
    assert [one.detail["role"] for one in pair.named("role_change") if one.detail.get("via")] == ["primary"]
    pair.units["fgt-b"].print("awsd running in secondary mode, won't update")
    wait_for(lambda: "won't update" in captured(running))


def test_an_unknown_host_key_is_told_with_its_fingerprint(pair: Pair) -> None:
    watcher = pair.watcher(
        fgt_a={"ssh": {"fingerprint": None}}, fgt_b={"ssh": {"fingerprint": pair.fingerprint("fgt-a")}}
    )
    watcher.start()
    try:
        notes = wait_for(lambda: len(found := watcher.snapshot().notes) == 2 and found)
        assert f"put fingerprint: {pair.fingerprint('fgt-a')} in watchers.fortigate.units.fgt-a.ssh" in notes[0]
        assert "is unknown" in notes[0]
        assert f"is not watchers.fortigate.units.fgt-b.ssh.fingerprint ({pair.fingerprint('fgt-a')})" in notes[1]
        assert pair.fingerprint("fgt-b") in notes[1]
        wait_for(lambda: watcher.snapshot().up)
        watcher.capture(time.monotonic_ns() + 10 * MINUTE_NS)
        wait_for(lambda: ["host key" in one.reason for one in watcher.snapshot().captures] == [True])
        assert captured(watcher) == ""
    finally:
        watcher.stop()


# --- the configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), ("", "holds no token"), ("\n\n", "holds no token"), ("a\nb", "holds no token")],
)
def test_a_token_that_cannot_be_used_is_a_mistake_in_the_config(
    pair: Pair, tmp_path: Path, content: str | None, why: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=rf"fgt-a\.token_file: .*{why}.*; allowed: "):
        pair.watcher(fgt_a={"token_file": str(file)})


def test_secrets_may_come_by_the_environment(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = pair.settings(ssh=False)
    del settings["units"]["fgt-a"]["token_file"]
    settings["units"]["fgt-a"]["token_env"] = "FGT_A_TOKEN"
    text = json.dumps({"watchers": {"fortigate": settings}})
    loaded = config.from_yaml(yamlfile.parse(text, "f.yml")).watchers.fortigate
    with pytest.raises(ConfigError, match="environment variable FGT_A_TOKEN holds no token"):
        FortigateWatcher(loaded)
    monkeypatch.setenv("FGT_A_TOKEN", pair.credentials.token("fgt-a").read_text())
    watcher = FortigateWatcher(loaded)
    assert polled(watcher).up
    watcher.stop()


def test_a_ca_file_that_is_none_is_a_mistake_in_the_config(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"fgt-b\.ca_file: .*; allowed: a PEM file"):
        pair.watcher(fgt_b={"ca_file": str(tmp_path / "ca.pem")})
