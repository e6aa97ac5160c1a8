"""Preflight: each finding from what the kernel says, and the exit status they make together."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe import config, yamlfile
from probe.preflight import check, firewall, host, network, peers
from probe.preflight.check import Check
from probe.preflight.firewall import Service
from probe.preflight.run import preflight
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
    assert [one.level for one in host.capabilities(proc)] == ["ok", "ok"]
    (proc / "self/status").write_text("CapEff:\t0000000000001000\n")
    raw, admin = host.capabilities(proc)
    assert (raw.name, raw.level, raw.exit_status) == ("CAP_NET_RAW", "fail", 3)
    assert "AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN" in raw.remedy
    assert (admin.name, admin.level) == ("CAP_NET_ADMIN", "ok")


def test_engines_may_come_first_or_not(proc: Path) -> None:
    for limit, level in ((0, "warn"), (39, "warn"), (40, "ok"), (-1, "ok")):
        assert host.priority(limit, proc).level == level
    (proc / "self/status").write_text(f"CapEff:\t{1 << 23:016x}\n")
    assert host.priority(0, proc).level == "ok"


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
    assert host.clock(state).level == level


def test_the_finding_says_who_knows() -> None:
    assert "0.400 ms (chrony)" in host.clock(HostClock(True, 400_000, "chrony")).finding


def test_default_routes_name_the_interfaces(proc: Path) -> None:
    assert network.default_interfaces(proc) == {"eth7"}
    (proc / "net/route").write_text("Iface\tDestination\n")
    assert network.default_interfaces(proc) == {"lo"}


def test_offloads_are_read_from_the_kernel() -> None:
    assert set(network.features("lo") or {}) == {network.GRO, network.LRO}
    assert network.features("none-such-if") is None and network.statistics("none-such-if") == {}


def test_offloads_are_best_off() -> None:
    told = {network.GRO: True, network.LRO: False}
    assert [(one.name, one.level) for one in network.offloads("eth7", told)] == [
        ("GRO eth7", "warn"),
        ("LRO eth7", "ok"),
    ]
    assert "lro off" in list(network.offloads("eth7", {network.LRO: True}))[1].remedy
    assert [one.level for one in network.offloads("eth7", None)] == ["warn"]


def test_a_probe_that_does_not_fit_is_told_before_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "class/net/eth7").mkdir(parents=True)
    (tmp_path / "class/net/eth7/mtu").write_text("1400\n")
    [small], [large] = (list(network.mtu("eth7", octets, tmp_path)) for octets in (1400, 1401))
    assert (small.level, large.level) == ("ok", "fail") and "1400" in large.remedy
    text = (
        "flows: [{name: a, protocol: udp, target: 10.0.0.1}, {name: b, protocol: icmp, target: 10.0.0.1, size: 1400}]"
    )
    agent = config.from_yaml(yamlfile.parse(text, "f.yml"))
    assert network.largest(agent, "eth7") == 1400 and network.largest(None, "eth7") == 0


def test_what_a_cloud_refused_is_told_by_name() -> None:
    quiet = dict.fromkeys(network.ALLOWANCES, 0) | {"tx_packets": 9}
    [fine] = network.allowances("eth7", quiet)
    [short] = network.allowances("eth7", {**quiet, "pps_allowance_exceeded": 17})
    assert fine.level == "ok" and short.level == "warn"
    assert short.finding.endswith("packets per second (17)") and "ethtool -S eth7" in short.remedy
    assert list(network.allowances("eth7", {"tx_packets": 9})) == [], "no such card"


ECHO, WEB = Service("icmp", 0, "echo requests"), Service("tcp", 10862, "the web port")
RULES = {
    "": (None, None),
    "type filter hook input priority 0; policy drop;": ("i", "i"),
    "type filter hook input priority 0; policy drop; iifname lo accept; ct state established,related accept;"
    " tcp dport { 22, 10800-10900 } accept": ("i", None),
    "type filter hook input priority 0; policy drop; ct state vmap { established : accept, invalid : drop };"
    " ip protocol icmp accept": (None, "i"),
    "type filter hook input priority 0; policy drop; icmp type echo-request accept; tcp dport 22 accept": (None, "i"),
    "type filter hook input priority 0; tcp dport 10862 reject; icmp type timestamp-request drop": (None, "i"),
    "type filter hook input priority 0; policy drop; ip saddr 10.0.0.0/8 accept": (None, None),
    "type filter hook input priority 0; policy drop; meta l4proto { icmp, udp } jump j": (None, "i"),
    "type filter hook input priority 0; tcp dport != 22 drop; udp dport 862 drop": (None, "i"),
    "type filter hook forward priority 0; policy drop;": (None, None),
}


@pytest.mark.netns
@pytest.mark.parametrize("number", range(len(RULES)))
def test_a_firewall_that_keeps_probes_away_is_named(number: int) -> None:
    chain, wanted = list(RULES.items())[number]
    table = f"table inet t {{\nchain j {{\naccept\n}}\nchain i {{\n{chain}\n}}\n}}\n" if chain else ""
    command = ["unshare", "--net", "sh", "-c", "nft -f - && nft -j list ruleset"]
    told = subprocess.run(command, input=table, capture_output=True, text=True, check=True).stdout
    objects = json.loads(told)["nftables"]
    found = tuple(firewall.refusing(objects, service) for service in (ECHO, WEB))
    assert found == tuple(one and "inet t i" for one in wanted), chain


@pytest.mark.parametrize(("scope", "value", "level"), [("all", 1, "warn"), ("eth7", 1, "warn"), ("eth7", 2, "ok")])
def test_a_strict_reverse_path_filter_is_told(proc: Path, scope: str, value: int, level: str) -> None:
    (proc / f"sys/net/ipv4/conf/{scope}/rp_filter").write_text(f"{value}\n")
    assert network.reverse_path_filter("eth7", proc).level == level


def test_a_loose_filter_wins_over_a_strict_one(proc: Path) -> None:
    (proc / "sys/net/ipv4/conf/all/rp_filter").write_text("2\n")
    (proc / "sys/net/ipv4/conf/eth7/rp_filter").write_text("1\n")
    assert network.reverse_path_filter("eth7", proc).finding == "loose"


def test_limits_are_held_against_what_fresh_flows_take(proc: Path) -> None:
    assert host.open_files(1024, 524288).level == "ok"  # the soft limit is raised by ourselves
    assert host.open_files(1024, 1024).level == "warn"
    assert host.local_ports(proc).level == "ok"
    (proc / "sys/net/ipv4/ip_local_port_range").write_text("1024 65535\n")
    assert host.local_ports(proc).level == "warn"


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_agents_are_tried(listener: int) -> None:
    with socket.socket() as closed:  # bound and not listening: refuses
        closed.bind(("127.0.0.1", 0))
        text = "agents: {a: {url: 'http://127.0.0.1:%d'}, b: {url: 'http://127.0.0.1:%d'}}\n"
        document = yamlfile.parse(text % (listener, closed.getsockname()[1]), "f.yml")
        one, other = peers.agents(config.from_yaml(document, need="any").agents)
    assert (one.name, one.level) == ("agent a", "ok")
    assert (other.name, other.level, other.exit_status) == ("agent b", "fail", 5)


def test_a_bad_config_is_a_finding_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "f.yml"
    file.write_text("flows:\n  - {name: a, protocol: icmp, target: h, ttl: 0}\n")
    found = [check for check in preflight(file) if check.name == "config"]
    assert [(check.level, check.exit_status) for check in found] == [("fail", 2)]
    assert found[0].finding.startswith(f"{file}:2: flows[0].ttl: ")


@pytest.mark.parametrize(("statuses", "expected"), [([], 0), ([1], 1), ([5, 1], 5), ([1, 5, 2], 2), ([2, 5, 3, 1], 3)])
def test_the_exit_status_is_that_of_the_gravest_fail(statuses: list[int], expected: int) -> None:
    checks = [Check("x", "fail", "", "", status) for status in statuses]
    assert check.exit_status([Check("y", "warn", "", "", 3), *checks]) == expected


def test_each_remedy_stands_below_its_finding() -> None:
    text = check.table([Check("a", "ok", "fine"), Check("b", "warn", "bad", "do this")])
    assert text == f"ok    {'a':<22} fine\nwarn  {'b':<22} bad\n{'':<28} -> do this"


def test_fortigates_are_asked_as_the_watcher_would(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    try:
        (tmp_path / "stale").write_text("stale")
        settings = pair.settings(fgt_b={"token_file": str(tmp_path / "stale"), "ssh": {"fingerprint": None}})
        text = json.dumps({"watchers": {"fortigate": settings}})
        watcher = config.from_yaml(yamlfile.parse(text, "f.yml")).watchers.fortigate
        assert watcher is not None
        found = {check.name: check for check in peers.fortigates(watcher)}
    finally:
        pair.close()
    assert found["fortigate fgt-a"].finding.startswith("primary, FortiOS 7.6-standin build 0")
    assert found["ssh fgt-a"].level == "ok"
    assert (found["fortigate fgt-b"].level, found["fortigate fgt-b"].exit_status) == ("fail", 5)
    assert "HTTP 401" in found["fortigate fgt-b"].finding
    assert pair.fingerprint("fgt-b") in found["ssh fgt-b"].finding
