"""Preflight: each finding from what the kernel says, and the exit status they make together."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe import config, preflight, yamlfile
from probe.preflight import Check
from probe.timesync import HostClock

from .watch.pair import Pair


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of a healthy host."""
    for name, text in {
        "self/status": "Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000003000\n",
        "net/route": "Iface\tDestination\tGateway\neth7\t00000000\t0101A8C0\neth8\t0000A8C0\t00000000\n",
        "sys/net/ipv4/conf/all/rp_filter": "0\n",
        "sys/net/ipv4/conf/eth7/rp_filter": "0\n",
        "sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_both_capabilities_are_looked_for(proc: Path) -> None:
    assert [check.level for check in preflight.capabilities(proc)] == ["ok", "ok"]
    (proc / "self/status").write_text("CapEff:\t0000000000001000\n")
    raw, admin = preflight.capabilities(proc)
    assert (raw.name, raw.level, raw.exit_status) == ("CAP_NET_RAW", "fail", 3)
    assert "AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN" in raw.remedy
    assert (admin.name, admin.level) == ("CAP_NET_ADMIN", "ok")


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (HostClock(True, 400_000), "ok"),
        (HostClock(True, 500_000_000), "warn"),
        (HostClock(False, None), "warn"),
        (HostClock(False, 400_000), "warn"),
    ],
)
def test_the_clock_is_judged_by_its_bound(state: HostClock, level: str) -> None:
    assert preflight.clock(state).level == level


def test_the_finding_says_who_knows() -> None:
    assert "0.400 ms (chrony)" in preflight.clock(HostClock(True, 400_000, "chrony")).finding


def test_default_routes_name_the_interfaces(proc: Path) -> None:
    assert preflight.default_interfaces(proc) == {"eth7"}
    (proc / "net/route").write_text("Iface\tDestination\n")
    assert preflight.default_interfaces(proc) == {"lo"}


def test_gro_is_read_from_the_kernel() -> None:
    assert preflight.gro("lo") in (True, False)
    assert preflight.gro("none-such-if") is None


@pytest.mark.parametrize(("enabled", "level"), [(True, "warn"), (False, "ok"), (None, "warn")])
def test_gro_is_best_off(enabled: bool | None, level: str) -> None:
    assert preflight.offload("eth7", enabled).level == level


@pytest.mark.parametrize(("scope", "value", "level"), [("all", 1, "warn"), ("eth7", 1, "warn"), ("eth7", 2, "ok")])
def test_a_strict_reverse_path_filter_is_told(proc: Path, scope: str, value: int, level: str) -> None:
    (proc / f"sys/net/ipv4/conf/{scope}/rp_filter").write_text(f"{value}\n")
    assert preflight.reverse_path_filter("eth7", proc).level == level


def test_a_loose_filter_wins_over_a_strict_one(proc: Path) -> None:
    (proc / "sys/net/ipv4/conf/all/rp_filter").write_text("2\n")
    (proc / "sys/net/ipv4/conf/eth7/rp_filter").write_text("1\n")
    assert preflight.reverse_path_filter("eth7", proc).finding == "loose"


def test_limits_are_held_against_what_fresh_flows_take(proc: Path) -> None:
    assert preflight.open_files(1024, 524288).level == "ok"  # the soft limit is raised by ourselves
    assert preflight.open_files(1024, 1024).level == "warn"
    assert preflight.local_ports(proc).level == "ok"
    (proc / "sys/net/ipv4/ip_local_port_range").write_text("1024 65535\n")
    assert preflight.local_ports(proc).level == "warn"


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_agents_are_tried(listener: int) -> None:
    with socket.socket() as closed:  # bound and not listening: refuses
        closed.bind(("127.0.0.1", 0))
        text = "agents: {a: {url: 'http://127.0.0.1:%d'}, b: {url: 'http://127.0.0.1:%d'}}\n"
        document = yamlfile.parse(text % (listener, closed.getsockname()[1]), "f.yml")
        one, other = preflight.agents(config.from_yaml(document, need="any").agents)
    assert (one.name, one.level) == ("agent a", "ok")
    assert (other.name, other.level, other.exit_status) == ("agent b", "fail", 5)


def test_a_bad_config_is_a_finding_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "f.yml"
    file.write_text("flows:\n  - {name: a, protocol: icmp, target: h, ttl: 0}\n")
    found = [check for check in preflight.preflight(file) if check.name == "config"]
    assert [(check.level, check.exit_status) for check in found] == [("fail", 2)]
    assert found[0].finding.startswith(f"{file}:2: flows[0].ttl: ")


@pytest.mark.parametrize(("statuses", "expected"), [([], 0), ([1], 1), ([5, 1], 5), ([1, 5, 2], 2), ([2, 5, 3, 1], 3)])
def test_the_exit_status_is_that_of_the_gravest_fail(statuses: list[int], expected: int) -> None:
    checks = [Check("x", "fail", "", "", status) for status in statuses]
    assert preflight.exit_status([Check("y", "warn", "", "", 3), *checks]) == expected


def test_each_remedy_stands_below_its_finding() -> None:
    text = preflight.table([Check("a", "ok", "fine"), Check("b", "warn", "bad", "do this")])
    assert text == f"ok    {'a':<22} fine\nwarn  {'b':<22} bad\n{'':<28} -> do this"


def test_fortigates_are_asked_as_the_watcher_would(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    try:
        (tmp_path / "stale").write_text("stale")
        settings = pair.settings(fgt_b={"token_file": str(tmp_path / "stale"), "ssh": {"fingerprint": None}})
        text = json.dumps({"watchers": {"fortigate": settings}})
        watcher = config.from_yaml(yamlfile.parse(text, "f.yml")).watchers.fortigate
        assert watcher is not None
        found = {check.name: check for check in preflight.fortigates(watcher)}
    finally:
        pair.close()
    assert found["fortigate fgt-a"].finding.startswith("primary, FortiOS 7.6-standin build 0")
    assert found["ssh fgt-a"].level == "ok"
    assert (found["fortigate fgt-b"].level, found["fortigate fgt-b"].exit_status) == ("fail", 5)
    assert "HTTP 401" in found["fortigate fgt-b"].finding
    assert pair.fingerprint("fgt-b") in found["ssh fgt-b"].finding
