from __future__ import annotations

import argparse

import pytest

from probe.cli import main
from probe.errors import PeerError
from probe.lab import command
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions, Plan

STATUS = {
    "active_unit": "fgt-b",
    "units": {
        "fgt-a": {"role": "secondary", "failover_set": True, "forwarding": False, "session_pickup": True},
        "fgt-b": {"role": "primary", "failover_set": False, "forwarding": True, "session_pickup": True},
    },
    "eips": {"203.0.113.10": "10.99.99.10"},
    "routes": {"transit": {"0.0.0.0/0": "fgt-b-port2"}},
    "endpoint_url": "http://127.0.0.1:5000",
    "ssh": {"fgt-a": {"host": "127.0.0.1", "port": 2222, "user": "haprobe", "key_file": "/k", "known_hosts": "/h"}},
    "agents": {"jumphost": "http://127.0.0.1:1234"},
    "processes": [{"name": "cloud", "pid": 1, "alive": False}],
    "state": "/run/haprobe/lab",
}


class FakeLab:
    def __init__(self):
        self.done: list[str] = []

    def active_unit(self):
        return "fgt-a"

    def failover(self, kind):
        self.done.append(f"failover {kind}")

    def wait_moved(self, before, limit_s=30.0):
        self.done.append(f"moved from {before}")

    def unset(self):
        self.done.append("unset")

    def status(self):
        return STATUS


@pytest.fixture
def lab(monkeypatch):
    fake = FakeLab()
    monkeypatch.setattr(Lab, "load", staticmethod(lambda: fake))
    return fake


def stored(monkeypatch, events):
    flows = [{"name": name, "session": "kept", "verdict": "survived"} for name in ("east-west-tcp", "egress-tcp")]
    flows.append({"name": "egress-tcp-fresh", "session": "fresh", "verdict": "survived"})
    document = {"run": {"config": {"lab": {}}}, "flows": flows, "timeline": events}
    monkeypatch.setattr(command.runs, "load", {"a-run": document}.__getitem__)


def reading(moment, unit, egress):
    entry = {"known": "kept", "state": "ESTABLISHED", "seen_as": "x:1", "translated": "x", "way": True}
    alive = {**entry, "out": 9, "back": 9}
    flows = {"east-west-tcp": alive, "egress-tcp": alive if egress else None}
    return {"event": "sessions", "detail": {"moment": moment, "unit": unit, "flows": flows}}


def test_the_tables_of_a_run_are_told_beside_its_verdicts(monkeypatch, capsys):
    stored(monkeypatch, [reading("before", "fgt-a", True), reading("end", "fgt-b", False)])
    assert main(["lab", "truth", "a-run"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["east-west-tcp", "survived", "tables:", "survived"]
    assert "DIFFERENT" not in first
    assert second.split()[:4] == ["egress-tcp", "survived", "tables:", "lost"]
    assert second.endswith("fgt-b does not know the session   DIFFERENT")


def test_a_run_without_readings_is_refused(monkeypatch, capsys):
    stored(monkeypatch, [])
    assert main(["lab", "truth", "a-run"]) == 2
    assert "the session tables were not read in this run" in capsys.readouterr().err


def test_options_come_from_the_command_line():
    args = argparse.Namespace(session_pickup="off", reset_sessionless_tcp="on", api_latency=0.25, propagation=None)
    assert command.options_of(args) == LabOptions(session_pickup=False, reset_sessionless_tcp=True, api_latency_ms=250)
    assert command.options_of(argparse.Namespace()) == LabOptions()


def test_the_status_tells_who_owns_what(lab, capsys):
    assert main(["lab", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "active unit   fgt-b" in lines
    assert "fgt-a         secondary (failover_set, session_pickup)" in lines
    assert "cluster EIP   203.0.113.10 -> 10.99.99.10 (fgt-b)" in lines
    assert "transit route 0.0.0.0/0 -> fgt-b-port2" in lines
    assert "fgt-a         ssh -p 2222 -i /k haprobe@127.0.0.1" in lines
    assert "agent         jumphost http://127.0.0.1:1234" in lines
    assert "dead process  cloud" in lines


@pytest.mark.parametrize(
    ("words", "done"),
    [
        ([], ["failover graceful", "moved from fgt-a"]),
        (["--crash"], ["failover crash", "moved from fgt-a"]),
        (["--unset"], ["unset"]),
    ],
)
def test_failover(lab, words, done):
    assert main(["lab", "failover", *words]) == 0
    assert lab.done == done


def test_without_a_lab_it_says_how_to_raise_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Lab, "load", staticmethod(lambda: None))
    monkeypatch.setattr(command, "Plan", lambda: Plan("nolab-", tmp_path / "lab"))
    assert main(["lab", "status"]) == PeerError.exit_status
    assert "haprobe lab up" in capsys.readouterr().err


def test_down_without_a_lab_is_no_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "Plan", lambda: Plan("nolab-", tmp_path / "lab"))
    assert main(["lab", "down"]) == 0
    assert "no lab is up" in capsys.readouterr().err


def test_scenarios_are_listed(capsys):
    assert main(["lab", "scenarios"]) == 0
    assert "vip-trap" in capsys.readouterr().out
