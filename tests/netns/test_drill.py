"""`haprobe drill --lab` as a user types it, judged by the stored run alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe.lab import namespace, state
from probe.lab.plan import DEFAULT_PREFIX, DEFAULT_STATE, LabOptions, Plan
from probe.report.document import laws

from .triple import haprobe, wait_for

TOOLS = ("ip", "nft", "conntrack", "conntrackd", "ethtool", "nsenter", "setpriv")
pytestmark = [
    pytest.mark.netns,
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.timeout(170),
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"),
]
PATHS = ("east-west", "ingress", "egress")
BUSY = "uses this lab"  # another program on this machine
LOADED = "not sent by our own host"  # this machine was too busy for a steady state; it says so, rightly


def start(directory: Path, *options: str) -> subprocess.Popen[bytes]:
    with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
        command = ["setpriv", "--pdeathsig", "KILL", *haprobe("drill", "--lab", "--out", str(directory), *options)]
        return subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)


def drill(directory: Path, *options: str) -> dict[str, Any]:
    """Run one drill; its stored document. Tries again when other work on this machine kept it from starting."""
    directory.mkdir()
    deadline = time.monotonic() + 80
    while True:
        status = start(directory, *options).wait(120)
        said = (directory / "stderr").read_text()
        elsewhere = status != 0 and (BUSY in said or LOADED in said)
        if not elsewhere or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert status == 0, said
    assert "Traceback" not in said
    (stored,) = directory.glob("*/report.json")
    assert (stored.parent / "report.html").stat().st_size > 10_000
    captured = (stored.parent / "awsd-fgt-b.log").read_text()
    assert "awsd update route successfully" in captured, "the passive unit's awsd stands beside the report"
    document: dict[str, Any] = json.loads(stored.read_text())
    return document


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    """Neither namespaces nor processes of the lab stay behind."""
    yield
    plan = Plan(DEFAULT_PREFIX, DEFAULT_STATE, LabOptions())
    try:
        state.Claim(plan).release()
    except namespace.LabError:
        return  # another program's lab is up
    assert state.leftovers(plan) == []


@pytest.fixture(scope="module")
def graceful(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A drill with all defaults, which finds what an earlier one left behind that was killed in its midst."""
    directory = tmp_path_factory.mktemp("drills")
    (directory / "killed").mkdir()
    killed = start(directory / "killed")
    try:
        told = directory / "killed" / "stderr"
        wait_for(lambda: "steady" in told.read_text() or BUSY in told.read_text(), 60, "for the steady state")
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
    if BUSY not in told.read_text():
        assert namespace.existing(DEFAULT_PREFIX) != []
    return drill(directory / "graceful")


def flow(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [f for f in document["flows"] if f["name"] == name]
    return found  # type: ignore[no-any-return]


def first(document: dict[str, Any], event: str, source: str, match: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    found = [e for e in document["timeline"] if (e["event"], e["source"]) == (event, source) and match(e["detail"])]
    assert found, f"no {event} of {source}"
    return found[0]  # type: ignore[no-any-return]


def test_the_run_obeys_every_law(graceful):
    assert laws(graceful, settled=True) == []
    assert len(graceful["flows"]) == 20  # of them two streams


def test_old_sessions_survive_where_they_can(graceful):
    matrix = graceful["matrix"]
    assert set(matrix) == set(PATHS)
    assert matrix["east-west"]["tcp"] == "survived"
    for path in ("ingress", "egress"):  # translated to another address: multi-AZ
        assert matrix[path]["tcp"] in {"lost", "reset", "dark"}
        assert matrix[path]["tcp"] != "dark", "new sessions work, so the old one is lost and not merely dark"


def test_new_sessions_and_icmp_and_udp_come_back_on_every_path(graceful):
    for path, row in graceful["matrix"].items():
        assert row["tcp-new"] == "recovered", path
        for protocol in ("icmp", "udp"):
            assert row[f"{protocol}-new"] == "recovered", (path, protocol)
            assert row[protocol] in {"survived", "rebound"}, (path, protocol)
    for one in graceful["flows"]:
        if one["protocol"] != "tcp" or one["session"] == "fresh":
            assert one["outages"], one["name"]
            assert [o["censored"] for o in one["outages"] if o["censored"] == "end"] == [], one["name"]


def test_each_path_is_dark_until_its_own_change_in_the_cloud(graceful):
    """Ingress comes back with the Elastic IP, east-west with the route, which is moved later."""
    eip = first(graceful, "eip_moved", "aws", lambda d: d["address"] == "203.0.113.10")
    route = first(graceful, "route_moved", "aws", lambda d: d["destination"] == "0.0.0.0/0")
    ends = {}
    for path, change in (("ingress", eip), ("east-west", route)):
        windows = [f["outages"] for f in graceful["flows"] if f["path"] == path and f["session"] == "fresh"]
        for outages in windows:
            last = outages[-1]
            assert last["start_ns"] >= graceful["run"]["trigger"]["at_ns"] - last["duration_ns"]["upper"]
            assert last["end_ns"] >= change["at_ns"] - change["uncertainty_ns"], path
        ends[path] = [outages[-1]["end_ns"] for outages in windows]
    assert max(ends["ingress"]) < min(ends["east-west"])


def test_the_timeline_is_in_order(graceful):
    trigger = first(graceful, "trigger", "lab", lambda d: True)
    role = first(graceful, "role_change", "lab", lambda d: (d["unit"], d["role"]) == ("fgt-b", "primary"))
    eip = first(graceful, "eip_moved", "aws", lambda d: d["address"] == "203.0.113.10")
    routes = [e for e in graceful["timeline"] if e["event"] == "route_moved"]
    assert trigger["at_ns"] == graceful["run"]["trigger"]["at_ns"]
    assert trigger["at_ns"] < role["at_ns"]
    assert role["at_ns"] < eip["at_ns"] + eip["uncertainty_ns"]
    assert routes
    for route in routes:
        assert eip["at_ns"] - eip["uncertainty_ns"] < route["at_ns"] + route["uncertainty_ns"]
    order = [graceful["timeline"].index(e) for e in (trigger, role, eip, routes[0])]
    assert order == sorted(order)
    codes = {d["code"] for d in graceful["diagnosis"]}
    assert codes <= {"failover_clean", "nat_sessions_lost", "probe_unreliable", "watcher_blind"}, codes


def test_the_units_tell_their_part_of_it(graceful):
    assert graceful["run"]["labels"] == {"fortios": "7.6-standin", "fortios_build": "0"}
    slack_ns = 50_000_000  # the agent's anchor and the lab's clock are read at different times
    for unit, role in (("fgt-a", "secondary"), ("fgt-b", "primary")):

        def told(d: dict[str, Any], unit: str = unit, role: str = role) -> bool:
            return (d["unit"], d["role"]) == (unit, role) and "via" not in d

        polled = first(graceful, "role_change", "fortigate", told)
        true_ns = first(graceful, "role_change", "lab", told)["at_ns"]
        assert abs(polled["at_ns"] - true_ns) <= polled["uncertainty_ns"] + slack_ns, (unit, role)
    for operation, what in (("AssociateAddress", "203.0.113.10"), ("ReplaceRoute", "0.0.0.0/0")):
        call = first(graceful, "api_call", "fortigate", lambda d, o=operation: d["operation"] == o)
        assert (call["detail"]["unit"], call["detail"]["result"]) == ("fgt-b", "ok")
        assert call["detail"]["target"].endswith(what)


def test_a_firewall_that_resets_unknown_sessions_is_seen_to(tmp_path: Path):
    document = drill(tmp_path / "reset", "--session-pickup", "off", "--reset-sessionless-tcp", "on")
    assert laws(document, settled=True) == []
    assert document["matrix"]["east-west"]["tcp"] == "reset"
    assert document["matrix"]["east-west"]["tcp-new"] == "recovered"
    end = flow(document, "east-west-tcp")["session_end"]
    assert end["cause"] == "rst"
    assert end["at_ns"] > document["run"]["trigger"]["at_ns"]
    assert "firewall_resets_sessions" in [d["code"] for d in document["diagnosis"]]
