"""The links of the probing process: which rings it opens, and what it makes of interfaces that come and go."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from probe.engine import ReflectorLinks, SenderLinks
from probe.errors import PeerError

from .link.frames import taken
from .link.netns import inside, ip, namespace, need_namespaces, tun

pytestmark = pytest.mark.netns
NOTHING: dict[str, list[int]] = {"udp": [], "tcp": [], "icmp": []}


@pytest.fixture
def lone_namespace() -> Iterator[str]:
    need_namespaces()
    with namespace() as name:
        yield name


def test_an_interface_that_is_gone_is_not_listened_on_and_ends_nothing(lone_namespace):
    """What would be heard there could not be sent either, which is told when it is tried."""
    with inside(lone_namespace), closing(SenderLinks(1)) as links:
        links.listen(("ethernet", 4711), NOTHING)
        assert links.receivers() == []
        links.listen(("local", 1), NOTHING)
        assert len(links.receivers()) == 1


@pytest.mark.parametrize("on", ["all", "the tunnel"])
def test_a_reflector_keeps_packets_of_a_tunnel_whole_whatever_their_length(lone_namespace, on):
    lengths = [60, *range(150, 260, 7), 1400]
    with inside(lone_namespace), tun("t0") as tunnel:
        ip("-n", lone_namespace, "link", "set", "t0", "up")
        ifindex = socket.if_nametoindex("t0")
        with closing(ReflectorLinks(0 if on == "all" else ifindex, 862, 0)) as links:
            for octets in lengths:
                os.write(tunnel, bytes(IP(src="10.1.0.2", dst="10.1.0.1") / UDP(dport=862) / Raw(bytes(octets - 28))))
            got = [frames for receiver in links.receivers() for frames in (receiver.take(),)]
            assert sorted(n for frames in got for n in frames.kept.tolist()) == [14 + n for n in lengths]
            assert all((frames.kept == frames.lengths).all() for frames in got)


def test_packets_leave_by_the_tunnel_that_they_are_meant_for(lone_namespace):
    """Though the only route leads through another."""
    packet = bytes(IP(src="10.1.0.1", dst="10.1.0.2") / UDP(dport=862))
    with inside(lone_namespace), tun("t0"), tun("t1") as asked:
        for name, number in (("t0", 1), ("t1", 3)):
            ip("-n", lone_namespace, "addr", "add", f"10.{number}.0.1/24", "dev", name)
            ip("-n", lone_namespace, "link", "set", name, "up")
        ifindex = socket.if_nametoindex("t1")
        with closing(SenderLinks(1)) as sender, closing(ReflectorLinks(0, 862, 0)) as reflector:
            for link in (sender.transmitter(("local", ifindex)), reflector.transmitter_on(ifindex, 100)):
                first, _ = link.free(1)
                link.view("V42")[first] = np.void(bytes(14) + packet)
                assert link.send_one(14 + len(packet))[2] == ""
        sent = []
        with contextlib.suppress(BlockingIOError):
            while True:
                sent.append(os.read(asked, 2048))
        assert [one[12:20] for one in sent if one[0] >> 4 == 4] == [packet[12:20]] * 2


def test_interfaces_of_both_kinds_are_listened_on(lone_namespace):
    owned = {**NOTHING, "udp": [50_000]}
    reply = bytes(IP(src="10.1.0.2", dst="10.1.0.1") / UDP(dport=50_000))
    with inside(lone_namespace), tun("t0") as tunnel, closing(SenderLinks(1)) as links:
        ip("-n", lone_namespace, "link", "set", "t0", "up")
        for ifindex in (1, socket.if_nametoindex("t0")):
            links.listen(("local", ifindex), owned)
        os.write(tunnel, reply)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", 50_000))
        for receiver in links.receivers():
            assert taken(receiver, 1).octets[0, 36:38].tobytes() == (50_000).to_bytes(2, "big")


def test_an_interface_that_is_gone_is_no_way_out(lone_namespace):
    with inside(lone_namespace), closing(SenderLinks(1)) as sender, closing(ReflectorLinks(0, 862, 0)) as reflector:
        for kind in ("local", "ethernet"):
            with pytest.raises(PeerError, match="no interface with index 4711"):
                sender.transmitter((kind, 4711))
        with pytest.raises(PeerError, match="no interface with index 4711"):
            reflector.transmitter_on(4711, 100)
