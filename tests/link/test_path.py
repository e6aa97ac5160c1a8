from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from probe.errors import PeerError, UsageError
from probe.link import path as path_module
from probe.link.path import Path, PathMonitor, resolve

from .netns import End, inside, ip, namespace, need_namespaces, tun, wait_for

pytestmark = pytest.mark.netns


class Changes:
    """What a monitor told, to be waited for."""

    def __init__(self) -> None:
        self._told: queue.Queue[tuple[object, Path | None]] = queue.Queue()

    def __call__(self, key: object, path: Path | None) -> None:
        self._told.put((key, path))

    def next(self, within_s: float = 5.0) -> tuple[object, Path | None]:
        return self._told.get(timeout=within_s)

    def none_so_far(self) -> bool:
        return self._told.empty()


@contextmanager
def monitoring(end: End | str, *targets: str, refresh_s: float = 60.0) -> Iterator[tuple[PathMonitor, Changes]]:
    """A monitor that knows the paths of its targets already."""
    changes = Changes()
    monitor = PathMonitor(changes, refresh_s=refresh_s)
    try:
        with inside(end if isinstance(end, str) else end.namespace):
            for target in targets:
                monitor.watch(target, target, path=resolve(target))
            monitor.start()
        yield monitor, changes
    finally:
        monitor.close()


@pytest.mark.parametrize("version", [4, 6])
def test_on_link(wire, version):
    a, b = wire
    target, source = (b.ipv4, a.ipv4) if version == 4 else (b.ipv6, a.ipv6)
    with a.inside():
        path = resolve(target)
    assert path == Path("ethernet", a.ifindex, "veth0", source, "", a.mac, b.mac, 1500, target)
    assert path.next_hop == target


@pytest.mark.parametrize(("target", "gateway_of"), [("203.0.113.7", "ipv4"), ("2001:db8::7", "ipv6")])
def test_behind_a_gateway(wire, target, gateway_of):
    a, b = wire
    gateway = getattr(b, gateway_of)
    a.ip("route", "add", "default", "via", b.ipv4)
    a.ip("-6", "route", "add", "default", "via", b.ipv6, "mtu", "1400")
    with a.inside():
        path = resolve(target)
    assert (path.gateway, path.destination_mac) == (gateway, b.mac)
    assert path.mtu == (1500 if gateway_of == "ipv4" else 1400)
    assert path.target == target


def test_ipv4_behind_an_ipv6_gateway(wire):
    a, b = wire
    a.ip("route", "add", "198.51.100.0/24", "via", "inet6", b.ipv6, "dev", "veth0")
    with a.inside():
        path = resolve("198.51.100.1")
    assert (path.gateway, path.destination_mac, path.source_ip) == (b.ipv6, b.mac, a.ipv4)


def test_link_local(wire):
    a, b = wire
    with b.inside():
        link_local = b.ip("-6", "-br", "addr", "show", "dev", "veth0", "scope", "link").split()[2].split("/")[0]
    wait_for(lambda: "tentative" not in b.ip("-6", "addr", "show", "dev", "veth0"))
    with a.inside():
        wait_for(lambda: "tentative" not in a.ip("-6", "addr", "show", "dev", "veth0"))
        path = resolve(f"{link_local}%veth0")
        assert path.destination_mac == b.mac
        assert resolve(link_local, interface="veth0").destination_mac == b.mac


def test_source_and_interface_are_honoured(wire):
    a, b = wire
    a.ip("addr", "add", "10.66.0.77/24", "dev", "veth0")
    with a.inside():
        path = resolve(b.ipv4, source="10.66.0.77", interface="veth0")
    assert (path.source_ip, path.interface) == ("10.66.0.77", "veth0")


def test_policy_routing_by_source(wire):
    a, b = wire
    a.ip("addr", "add", "10.66.0.77/24", "dev", "veth0")
    a.ip("rule", "add", "from", "10.66.0.77", "lookup", "77")
    a.ip("route", "add", "203.0.113.0/24", "via", b.ipv4, "table", "77")
    with a.inside():
        assert resolve("203.0.113.1", source="10.66.0.77").gateway == b.ipv4
        with pytest.raises(PeerError, match=r"no route to 203\.0\.113\.1$"):
            resolve("203.0.113.1")


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_loopback_is_local(lone_namespace, target):
    with inside(lone_namespace):
        path = resolve(target)
    assert (path.kind, path.ifindex, path.interface, path.source_ip) == ("local", 1, "lo", target)
    assert path.destination_mac == bytes(6)
    assert path.mtu == 65536


def test_an_own_address_is_local(wire):
    a, _ = wire
    with a.inside():
        assert resolve(a.ipv4).kind == resolve(a.ipv6).kind == "local"


def test_an_interface_without_ethernet_is_local(lone_namespace):
    with inside(lone_namespace), tun("t0"):
        ip("-n", lone_namespace, "link", "set", "t0", "up", "mtu", "1420")
        ip("-n", lone_namespace, "addr", "add", "10.9.0.1/24", "dev", "t0")
        path = resolve("10.9.0.2")
    assert (path.kind, path.interface, path.source_ip, path.mtu) == ("local", "t0", "10.9.0.1", 1420)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("203.0.113.7", {}, "no route to 203.0.113.7"),
        ("2001:db8::7", {}, "no route to 2001:db8::7"),
        ("10.66.0.255", {}, "no route to 10.66.0.255: not a host's address"),
        ("198.51.100.1", {}, "no route to 198.51.100.1"),
        (
            "10.66.0.9",
            {"timeout_s": 0.05},
            "cannot reach 10.66.0.9: next hop 10.66.0.9 on veth0 does not answer ARP",
        ),
        (
            "192.0.2.1",
            {"timeout_s": 0.05},
            "cannot reach 192.0.2.1: next hop 10.66.0.8 on veth0 does not answer ARP",
        ),
        (
            "fd66::9",
            {"timeout_s": 0.05},
            "cannot reach fd66::9: next hop fd66::9 on veth0 does not answer neighbour discovery",
        ),
    ],
)
def test_unreachable(wire, target, options, message):
    a, _ = wire
    a.ip("route", "add", "192.0.2.0/24", "via", "10.66.0.8")
    a.ip("route", "add", "blackhole", "198.51.100.0/24")
    with a.inside(), pytest.raises(PeerError) as caught:
        resolve(target, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("10.66.0.2", {"interface": "eth9"}, "no interface eth9"),
        ("10.66.0.2", {"source": "10.1.2.3"}, "source 10.1.2.3 is not an address of this host"),
        ("fd66::2", {"source": "fd66::77"}, "source fd66::77 is not an address of this host"),
        ("10.66.0.2", {"source": "host"}, "'host' is not an IP address"),
        ("reflector", {}, "'reflector' is not an IP address"),
    ],
)
def test_mistakes(wire, target, options, message):
    with wire[0].inside(), pytest.raises(UsageError, match=message):
        resolve(target, **options)


def test_from_a_coroutine(wire):
    """The control process has an event loop; a thread keeps it free."""
    a, b = wire

    async def main() -> Path:
        return await asyncio.to_thread(resolve, b.ipv4)

    with a.inside():  # threads of the pool start here, in the namespace
        assert asyncio.run(main()).destination_mac == b.mac


def test_nothing_is_told_while_nothing_changes(wire):
    a, b = wire
    with monitoring(a, b.ipv4, b.ipv6, refresh_s=0.05) as (monitor, changes):
        a.ip("neigh", "replace", "10.66.0.200", "lladdr", "02:00:00:00:00:09", "dev", "veth0")
        monitor.watch("late", b.ipv4)  # looked up after what came before it
        assert changes.next()[0] == "late"
        assert changes.none_so_far()


def test_a_target_watched_later_is_resolved(wire):
    a, b = wire
    with monitoring(a) as (monitor, changes):
        monitor.watch("b", b.ipv4)
        key, path = changes.next()
        assert key == "b"
        assert path is not None
        assert path.destination_mac == b.mac
        monitor.unwatch("b")
        monitor.unwatch("b")


def test_a_new_mac_announced(wire):
    a, b = wire
    with monitoring(a, b.ipv4) as (_, changes):
        a.ip("neigh", "replace", b.ipv4, "lladdr", "02:00:00:00:00:42", "dev", "veth0", "nud", "reachable")
        key, path = changes.next()
        assert key == b.ipv4
        assert path is not None
        assert path.destination_mac == bytes.fromhex("020000000042")


def test_a_new_mac_without_announcement_is_found_by_poking(wire):
    a, b = wire
    for end, setting in ((a, "delay_first_probe_time"), (a, "base_reachable_time")):
        end.run("sysctl", "-qw", f"net.ipv4.neigh.veth0.{setting}=1")
    a.run("sysctl", "-qw", "net.ipv4.neigh.veth0.retrans_time_ms=50")
    new_mac = bytes.fromhex("020000000043")
    with monitoring(a, b.ipv4, refresh_s=0.1) as (_, changes):
        b.run("sysctl", "-qw", "net.ipv4.conf.all.arp_notify=0")
        b.ip("link", "set", "veth0", "address", new_mac.hex(":"))
        key, path = changes.next(within_s=20)
        assert key == b.ipv4
        assert path is not None
        assert path.destination_mac == new_mac


def test_a_next_hop_that_falls_silent_keeps_its_mac(wire):
    """That outage is the network's: probes must go on to be sent, to be counted as lost."""
    a, b = wire
    with monitoring(a, b.ipv4) as (monitor, changes):
        b.ip("addr", "del", f"{b.ipv4}/24", "dev", "veth0")
        a.ip("neigh", "flush", "dev", "veth0")
        # the monitor has the kernel ask, in vain
        wait_for(lambda: f"{b.ipv4} INCOMPLETE" in a.ip("neigh", "show", "dev", "veth0"))
        monitor.watch("mark", a.ipv4)
        assert changes.next()[0] == "mark"
        assert changes.none_so_far()


def test_link_down_and_up(wire):
    a, b = wire
    with monitoring(a, b.ipv4) as (_, changes):
        a.set_link("down")
        assert changes.next() == (b.ipv4, None)
        a.set_link("up")
        key, path = changes.next()
        assert key == b.ipv4
        assert path is not None
        assert path.destination_mac == b.mac


def test_a_route_moves_to_another_gateway(wire):
    a, b = wire
    b.ip("addr", "add", "10.66.0.3/24", "dev", "veth0")
    a.ip("route", "add", "203.0.113.0/24", "via", b.ipv4)
    with monitoring(a, "203.0.113.1") as (_, changes):
        a.ip("route", "replace", "203.0.113.0/24", "via", "10.66.0.3")
        _, path = changes.next()
        assert path is not None
        assert (path.gateway, path.destination_mac) == ("10.66.0.3", b.mac)
        # to one that nobody answers for: told once it has had its chance
        a.ip("route", "replace", "203.0.113.0/24", "via", "10.66.0.99")
        assert changes.next() == ("203.0.113.1", None)
        a.ip("route", "replace", "203.0.113.0/24", "via", b.ipv4)
        _, path = changes.next()
        assert path is not None
        assert path.gateway == b.ipv4


def test_a_new_source_address(wire):
    a, b = wire
    with monitoring(a, b.ipv4) as (_, changes):
        a.ip("addr", "add", "10.66.0.50/24", "dev", "veth0")
        a.ip("addr", "del", f"{a.ipv4}/24", "dev", "veth0")  # takes the second address with it
        assert changes.next() == (b.ipv4, None)
        a.ip("addr", "add", "10.66.0.51/24", "dev", "veth0")
        _, path = changes.next()
        assert path is not None
        assert path.source_ip == "10.66.0.51"


@pytest.fixture
def two_uplinks(wire):
    """a with a second address and uplink, veth9, to b; b is the router of both."""
    a, b = wire
    a.ip("link", "add", "veth9", "type", "veth", "peer", "name", "veth9", "netns", b.namespace)
    for end, number in ((a, 1), (b, 2)):
        end.ip("addr", "add", f"10.99.0.{number}/24", "dev", "veth9")
        end.ip("-6", "addr", "add", f"fd99::{number}/64", "dev", "veth9", "nodad")
        end.ip("link", "set", "veth9", "up")
    a.ip("route", "add", "default", "via", b.ipv4)
    a.ip("-6", "route", "add", "default", "via", b.ipv6)
    return a, b


@pytest.mark.parametrize(
    ("target", "own", "other", "router"),
    [("203.0.113.1", "10.66.0.1/24", "10.99.0.1", "10.99.0.2"), ("2001:db8::1", "fd66::1/64", "fd99::1", "fd99::2")],
    ids=["4", "6"],
)
def test_a_session_keeps_its_address_as_long_as_this_host_has_it(two_uplinks, target, own, other, router):
    a, _ = two_uplinks
    changes = Changes()
    address = own.split("/")[0]
    with a.inside():
        monitor = PathMonitor(changes, refresh_s=60)
        for key, keep in (("fresh", None), ("kept", address)):
            monitor.watch(key, target, path=resolve(target), keep=keep)
        monitor.start()
    try:
        a.ip("route", "replace", "default", "via", router)  # the kernel prefers the other address now
        told = dict(changes.next() for _ in range(2))
        assert {path.interface for path in told.values()} == {"veth9"}
        assert (told["fresh"].source_ip, told["kept"].source_ip) == (other, address)
        if target == "203.0.113.1":  # of IPv6 the kernel takes the addresses away with the link
            a.set_link("down")
            a.set_link("up")
        a.ip("addr", "del", own, "dev", "veth0")
        key, path = changes.next()
        assert (key, path.source_ip) == ("kept", other)
        a.ip("addr", "add", own, "dev", "veth0", "nodad")  # a session that has moved stays where it is
        a.ip("route", "del", "default", "via", router)
        assert dict(changes.next() for _ in range(2)) == {"fresh": None, "kept": None}
        a.ip("route", "add", "default", "via", router, "src", address)
        told = dict(changes.next() for _ in range(2))
        assert (told["fresh"].source_ip, told["kept"].source_ip) == (address, other)
    finally:
        monitor.close()


def test_the_first_address_that_is_found_is_kept_if_none_is_known(two_uplinks):
    a, b = two_uplinks
    a.ip("route", "del", "default")
    changes = Changes()
    with a.inside():
        monitor = PathMonitor(changes, refresh_s=60)
        monitor.watch("kept", "203.0.113.1", keep="")
        monitor.start()
    try:
        a.ip("route", "add", "default", "via", b.ipv4)
        assert changes.next()[1].source_ip == a.ipv4
        a.ip("route", "replace", "default", "via", "10.99.0.2")
        path = changes.next()[1]
        assert (path.source_ip, path.gateway) == (a.ipv4, "10.99.0.2")
    finally:
        monitor.close()


def test_where_only_the_kept_address_has_a_route_that_is_taken(two_uplinks):
    a, b = two_uplinks
    changes = Changes()
    with a.inside():
        monitor = PathMonitor(changes, refresh_s=60)
        monitor.watch("kept", "203.0.113.1", path=resolve("203.0.113.1"), keep=a.ipv4)
        monitor.start()
    try:
        a.ip("rule", "add", "from", a.ipv4, "lookup", "77")
        a.ip("route", "add", "203.0.113.0/24", "via", "10.66.0.99", "table", "77")
        a.ip("neigh", "add", "10.66.0.99", "lladdr", b.mac.hex(":"), "dev", "veth0")
        a.ip("route", "del", "default")
        assert changes.next()[1].gateway == "10.66.0.99"
        assert changes.none_so_far()
    finally:
        monitor.close()


def test_a_listeners_mistake_does_not_end_the_watching(wire, caplog):
    a, b = wire
    changes = Changes()

    def clumsy(key: object, path: Path | None) -> None:
        changes(key, path)
        raise RuntimeError("mistake")

    monitor = PathMonitor(clumsy)
    try:
        with a.inside():
            monitor.start()
        monitor.watch(1, b.ipv4)
        assert changes.next()[0] == 1
        monitor.watch(2, b.ipv4)
        assert changes.next()[0] == 2
    finally:
        monitor.close()
    assert "mistake" in caplog.text


def test_trouble_with_the_tables_does_not_end_the_watching(wire, monkeypatch, caplog):
    a, b = wire
    changes = Changes()
    real, trouble = path_module.look_up, [OSError("no buffer space")]

    def look_up(ipr, want):
        if trouble:
            raise trouble.pop()
        return real(ipr, want)

    monitor = PathMonitor(changes)
    monitor.watch("b", b.ipv4)
    monkeypatch.setattr(path_module, "look_up", look_up)
    monkeypatch.setattr(path_module, "_RESTART_S", 0.01)
    try:
        with a.inside():
            monitor.start()
        assert changes.next()[0] == "b"
    finally:
        monitor.close()
    assert "no buffer space" in caplog.text


def test_what_many_have_in_common_is_looked_up_once(wire, monkeypatch):
    a, b = wire
    changes, asked = Changes(), []
    real = path_module.look_up

    def look_up(ipr, want):
        asked.append(want)
        return real(ipr, want)

    monkeypatch.setattr(path_module, "look_up", look_up)
    monitor = PathMonitor(changes)
    try:
        with a.inside():
            resolve(b.ipv4)  # so that its first look finds all
            asked.clear()
            for key in range(200):
                monitor.watch(key, b.ipv4)
            monitor.start()
        assert [changes.next()[0] for _ in range(200)] == list(range(200))
    finally:
        monitor.close()
    assert len(asked) < 200


def test_a_wrong_belief_is_corrected(wire):
    a, b = wire
    changes = Changes()
    monitor = PathMonitor(changes)
    try:
        with a.inside():
            right = resolve(b.ipv4)
            monitor.watch("b", b.ipv4, path=replace(right, mtu=9000))
            monitor.start()
        assert changes.next() == ("b", right)
    finally:
        monitor.close()


def test_a_monitor_that_never_started_closes():
    PathMonitor(Changes()).close()


def test_two_namespaces_do_not_mix(wire):
    need_namespaces()
    a, b = wire
    with namespace() as lonely, inside(lonely), pytest.raises(PeerError, match="no route"):
        resolve(b.ipv4)
    with a.inside():
        assert resolve(b.ipv4).destination_mac == b.mac
