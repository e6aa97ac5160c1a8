from __future__ import annotations

from contextlib import closing

import pytest

from probe.link.neighbour import changed_interfaces, notifications

pytestmark = pytest.mark.netns


@pytest.fixture
def doorbell(wire):
    with wire[0].inside(), closing(notifications()) as sock:
        yield sock


def test_nothing_has_changed(doorbell):
    assert changed_interfaces(doorbell) == set()


def test_a_neighbour_names_its_interface(doorbell, wire):
    a, _ = wire
    a.ip("neigh", "replace", "10.66.0.9", "lladdr", "02:00:00:00:00:09", "dev", "veth0")
    assert changed_interfaces(doorbell) == {a.ifindex}
    assert changed_interfaces(doorbell) == set()


@pytest.mark.parametrize(
    "command",
    [
        "addr add 10.66.7.1/24 dev veth0",
        "-6 addr add fd77::1/64 dev veth0",
        "route add 203.0.113.0/24 via 10.66.0.2",
        "-6 route add 2001:db8::/64 via fd66::2",
        "rule add from 10.66.0.1 lookup 77",
        "-6 rule add from fd66::1 lookup 77",
        "link set veth0 mtu 1400",
    ],
)
def test_anything_else_may_concern_everyone(doorbell, wire, command):
    wire[0].ip(*command.split())
    assert changed_interfaces(doorbell) is None


def test_an_overflow_may_hide_anything(doorbell, wire):
    import socket

    doorbell.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(60):
        wire[0].ip("neigh", "replace", f"10.66.0.{100 + number}", "lladdr", "02:00:00:00:00:09", "dev", "veth0")
    assert changed_interfaces(doorbell) is None
