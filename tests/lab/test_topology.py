"""The bare network: routing by route table, Elastic IPs, silence. The units forward like plain routers here."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from probe.lab import namespace, topology
from probe.lab.plan import HOSTS, LabOptions, Plan

from .talk import echo_servers, needs_root, ping, pings, prefix, tcp_works, udp_works

pytestmark = [pytest.mark.netns, needs_root]

EIP_AT_START = {"203.0.113.10": "10.99.99.90", "203.0.113.11": "10.99.99.122", "203.0.113.12": "10.99.99.42"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    plan = Plan(prefix("to"), tmp_path_factory.mktemp("topology"))
    topology.create(plan)
    with echo_servers(plan, "wl-b", "fgt-a", "fgt-b"):
        yield plan
    topology.destroy(plan)
    assert namespace.existing(plan.prefix) == []


@pytest.fixture(autouse=True)
def as_planned(plan):
    yield
    topology.set_eips(plan, EIP_AT_START)
    topology.set_route(plan, "transit", "0.0.0.0/0", "fgt-a-port2")


def test_the_start_is_what_the_plan_says(plan):
    assert topology.eips(plan) == EIP_AT_START
    routes = topology.routes(plan)
    assert routes["transit"] == {"0.0.0.0/0": "fgt-a-port2"}
    assert routes["public-b"] == {"0.0.0.0/0": "igw"}
    assert routes["private-b"] == {"0.0.0.0/0": "tgw"}
    assert routes["hasync"] == {}


@pytest.mark.parametrize("target", ["fgt-a-port2", "fgt-b-port2"])
def test_east_west_passes_the_unit_the_transit_table_names(plan, target):
    topology.set_route(plan, "transit", "0.0.0.0/0", target)
    assert topology.routes(plan)["transit"] == {"0.0.0.0/0": target}
    before = _sent(plan, "port2")
    assert tcp_works(plan, "wl-a", "10.99.97.10")
    assert udp_works(plan, "wl-a", "10.99.97.10")
    assert _grown(before, _sent(plan, "port2")) == {target.removesuffix("-port2")}


def test_without_a_route_packets_vanish_in_silence(plan):
    topology.set_route(plan, "transit", "0.0.0.0/0", None)
    topology.set_route(plan, "transit", "0.0.0.0/0", None)  # nothing to remove: as wished
    assert topology.routes(plan)["transit"] == {}
    assert ping(plan, "wl-a", "10.99.97.10", timeout_s=0.3) == (-1, "")


def test_routers_send_no_icmp_error_of_their_own(plan):
    assert ping(plan, "jump", "198.51.100.130")[0] == 0
    assert ping(plan, "jump", "198.51.100.130", timeout_s=0.3, ttl=1) == (-1, "")
    assert ping(plan, "wl-a", "10.99.97.10", timeout_s=0.3, ttl=2) == (-1, "")


def test_an_elastic_ip_reaches_whom_it_is_associated_with(plan):
    for unit, private in (("fgt-a", "10.99.99.90"), ("fgt-b", "10.99.99.10")):
        topology.set_eips(plan, {"203.0.113.10": private})
        assert topology.eips(plan) == {"203.0.113.10": private}
        before = _sent(plan, "port1")
        # The units answer by themselves here. TCP and UDP prove that checksums are right after translation.
        assert pings(plan, "jump", "203.0.113.10")
        assert tcp_works(plan, "jump", "203.0.113.10")
        assert udp_works(plan, "jump", "203.0.113.10")
        assert _grown(before, _sent(plan, "port1")) == {unit}
    topology.set_eips(plan, {})
    assert topology.eips(plan) == {}
    assert ping(plan, "jump", "203.0.113.10", timeout_s=0.3) == (-1, "")


def test_a_unit_reaches_the_internet_with_its_elastic_ip_only(plan):
    with echo_servers(plan, "inet"):
        assert _seen_as(plan, "fgt-a", "198.51.100.130") == "203.0.113.10"
        assert not udp_works(plan, "fgt-b", "198.51.100.130", timeout_s=0.3)
        topology.set_eips(plan, {"203.0.113.10": "10.99.99.10"})
        assert _seen_as(plan, "fgt-b", "198.51.100.130") == "203.0.113.10"
        assert not udp_works(plan, "fgt-a", "198.51.100.130", timeout_s=0.3)


def test_private_addresses_are_not_reachable_from_the_internet(plan):
    assert not pings(plan, "jump", "10.99.99.90", timeout_s=0.3)
    assert not pings(plan, "jump", "10.99.98.10", timeout_s=0.3)


@pytest.mark.parametrize("host", ["jump", "inet", "fgt-a", "fgt-b"])
def test_the_cloud_is_reached_from_where_it_is_asked(plan, host):
    assert pings(plan, host, "198.18.0.10")


def test_a_unit_reaches_the_cloud_by_its_management_port_alone(plan):
    def down(state: str) -> None:
        for port in ("port1", "port2", "port3"):
            namespace.run(["ip", "link", "set", port, state])

    namespace.inside(plan.namespace_path("fgt-a"), down, "down")
    try:
        assert pings(plan, "fgt-a", "198.18.0.10")
    finally:
        namespace.inside(plan.namespace_path("fgt-a"), down, "up")
        topology.set_ports(plan, "fgt-a", "up")


def test_the_heartbeat_ports_reach_each_other(plan):
    assert pings(plan, "fgt-a", "10.99.99.58")
    assert pings(plan, "fgt-b", "10.99.99.138")


def test_ports_that_were_down_work_again(plan):
    first_ns, last_ns = topology.set_ports(plan, "fgt-a", "down")
    assert first_ns <= last_ns
    assert ping(plan, "wl-a", "10.99.97.10", timeout_s=0.3) == (-1, "")  # and no error comes back either
    topology.set_ports(plan, "fgt-a", "up")
    assert pings(plan, "wl-a", "10.99.97.10")
    assert pings(plan, "fgt-a", "198.18.0.10")
    assert pings(plan, "fgt-a", "10.99.99.58")


def test_the_vpc_never_asks_for_a_hardware_address_of_a_unit(plan):
    argv = ["ip", "-o", "neigh", "show", "nud", "permanent"]
    text = namespace.run(namespace.command_inside(plan.namespace_path("vpc"), argv))
    assert "10.99.99.90 dev fgt-a-port1 lladdr 02:99:00:00:01:01" in text
    assert len(text.splitlines()) == 8


def test_no_interface_joins_two_packets_into_one(plan):
    for host, interface in (("wl-a", "eth0"), ("vpc", "transit-a"), ("fgt-b", "port2")):
        argv = namespace.command_inside(plan.namespace_path(host), ["ethtool", "-k", interface])
        features = namespace.run(argv)
        for name in ("tcp-segmentation-offload", "generic-receive-offload", "tx-checksumming", "rx-checksumming"):
            assert f"{name}: off" in features


def test_no_link_leads_to_the_root_namespace(plan):
    names = {one.name for one in map(plan.namespace_path, HOSTS)}
    for host in HOSTS:
        argv = namespace.command_inside(plan.namespace_path(host), ["ip", "-o", "link", "show", "type", "veth"])
        for line in namespace.run(argv).splitlines():
            assert any(f"link-netns {name} " in f"{line} " for name in names), line


def test_packets_to_workload_a_can_be_lost(plan):
    topology.set_loss(plan, 100)
    assert ping(plan, "wl-a", "10.99.97.10", timeout_s=0.3) == (-1, "")
    for _ in range(2):
        topology.set_loss(plan, 0)
        assert pings(plan, "wl-a", "10.99.97.10")


def test_the_way_to_workload_b_can_be_cut_for_a_known_time(plan):
    def answered() -> bool:
        return ping(plan, "wl-a", "10.99.97.10", timeout_s=0.3) != (-1, "")

    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(topology.cut, plan, 2000)
        deadline = time.monotonic() + 30
        while answered() and not cut.done() and time.monotonic() < deadline:
            pass
        assert not cut.done(), "no packet was lost"
        begun, ended = cut.result()
    assert begun[0] < begun[1] < ended[0] < ended[1]
    assert ended[0] - begun[1] >= 2_000_000_000
    assert any(answered() for _ in range(20))


def test_in_one_zone_a_shared_address_is_reached_where_it_is(tmp_path):
    plan = Plan(prefix("tz"), tmp_path, LabOptions(single_az=True))
    topology.create(plan)
    try:
        assert topology.private_ips(plan) == {"10.99.99.92": "fgt-a-port1", "10.99.99.108": "fgt-a-port2"}
        assert topology.eips(plan) == {**EIP_AT_START, "203.0.113.10": "10.99.99.92"}
        for unit in ("fgt-b", "fgt-a"):
            topology.set_private_ip(plan, "10.99.99.92", f"{unit}-port1")
            topology.set_private_ip(plan, "10.99.99.108", f"{unit}-port2")
            topology.set_route(plan, "transit", "0.0.0.0/0", f"{unit}-port2")
            assert topology.routes(plan)["transit"] == {"0.0.0.0/0": f"{unit}-port2"}
            assert set(topology.private_ips(plan).values()) == {f"{unit}-port1", f"{unit}-port2"}
            for port, client, target in (("port1", "jump", "203.0.113.10"), ("port2", "wl-a", "10.99.97.10")):
                before = _sent(plan, port)
                assert pings(plan, client, target)
                assert _grown(before, _sent(plan, port)) == {unit}
        topology.set_private_ip(plan, "10.99.99.92", None)
        assert "10.99.99.92" not in topology.private_ips(plan)
        assert pings(plan, "fgt-a", "10.99.99.58"), "the heartbeat ports are where they were"
    finally:
        topology.destroy(plan)


def test_an_unknown_target_is_refused(plan):
    with pytest.raises(KeyError):
        topology.set_route(plan, "transit", "0.0.0.0/0", "fgt-c-port2")
    with pytest.raises(KeyError):
        topology.set_route(plan, "no-table", "0.0.0.0/0", "igw")


def _sent(plan: Plan, port: str) -> dict[str, int]:
    """Packets each unit has sent by a port."""
    counts = {}
    for unit in ("fgt-a", "fgt-b"):
        argv = namespace.command_inside(plan.namespace_path(unit), ["cat", "/proc/net/dev"])
        line = next(one for one in namespace.run(argv).splitlines() if one.strip().startswith(f"{port}:"))
        counts[unit] = int(line.split(":")[1].split()[9])
    return counts


def _grown(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {unit for unit, count in after.items() if count > before[unit]}


def _seen_as(plan: Plan, host: str, target: str) -> str:
    """The source address under which `target` (a host that records it) sees a datagram of `host`."""

    def bound() -> socket.socket:
        one = socket.socket(type=socket.SOCK_DGRAM)
        one.bind(("", 5353))
        return one

    with (
        namespace.inside(plan.namespace_path("inet"), bound) as receiver,
        namespace.inside(plan.namespace_path(host), lambda: socket.socket(type=socket.SOCK_DGRAM)) as sender,
    ):
        receiver.settimeout(2)
        sender.sendto(b"?", (target, 5353))
        return receiver.recvfrom(9)[1][0]


@pytest.mark.parametrize(
    ("options", "reached"),
    [
        (LabOptions(endpoint="unreachable"), {"fgt-a": False, "fgt-b": False, "inet": True}),
        # Its packets get there; what comes back is sent to the other unit's interface.
        (LabOptions(edge="taken"), {"fgt-a": True, "fgt-b": False, "inet": True}),
    ],
)
def test_the_way_to_the_cloud_may_be_cut(tmp_path, options, reached):
    cut = Plan(prefix("tc"), tmp_path, options)
    try:
        topology.create(cut)
        # As a firewall does; without, it would hand on what is not meant for it.
        namespace.inside(cut.namespace_path("fgt-a"), Path("/proc/sys/net/ipv4/ip_forward").write_text, "0")
        assert {host: pings(cut, host, "198.18.0.10") for host in reached} == reached
    finally:
        topology.destroy(cut)


def test_the_edge_table_decides_where_ingress_goes(tmp_path):
    edged = Plan(prefix("te"), tmp_path, LabOptions(edge="ingress"))
    try:
        topology.create(edged)
        assert topology.routes(edged)["edge"] == {"10.99.99.80/28": "fgt-a-port1", "10.99.99.0/28": "fgt-a-port1"}
        assert pings(edged, "jump", "203.0.113.10"), "the unit's own address"
        namespace.inside(edged.namespace_path("fgt-b"), Path("/proc/sys/net/ipv4/ip_forward").write_text, "0")
        topology.set_route(edged, "edge", "10.99.99.80/28", "fgt-b-port1")
        assert not pings(edged, "jump", "203.0.113.10"), "it is where the address says, and nothing leads there"
        assert pings(edged, "jump", "203.0.113.11"), "the management subnet is none of the table's"
    finally:
        topology.destroy(edged)


def test_the_watchers_way_can_be_cut_and_nothing_else(plan):
    reached = ("198.18.0.10", "203.0.113.11", "203.0.113.12")
    topology.cut_watchers(plan, True)
    try:
        assert not any(pings(plan, "jump", target, 0.3) for target in reached)
        assert pings(plan, "jump", "203.0.113.10") and pings(plan, "inet", "198.18.0.10")
    finally:
        for _ in range(2):
            topology.cut_watchers(plan, False)
    assert all(pings(plan, "jump", target) for target in reached)
