from __future__ import annotations

import itertools
import os
import socket
from contextlib import closing

import numpy as np
import pytest

from probe.errors import PeerError
from probe.link.bpf import probe_filter
from probe.link.raw_ip import RawIpSender
from probe.link.rx_blocks import RxBlocks
from probe.link.rx_ring import RxRing

from .frames import (
    FILTER,
    FRAME,
    FRAME6,
    PORT,
    local_template,
    numbers,
    receive,
    send,
    send_all,
    sequences,
    taken,
    write,
)
from .netns import inside, ip, tun

pytestmark = pytest.mark.netns


@pytest.fixture
def loopback(lone_namespace):
    with inside(lone_namespace):
        tx, rx = RawIpSender(slots=64), RxRing(socket.if_nametoindex("lo"), FILTER)
    with closing(tx), closing(rx):
        yield tx, rx


@pytest.mark.parametrize(("version", "address", "layout"), [(4, "127.0.0.1", FRAME), (6, "::1", FRAME6)])
def test_loopback_sees_each_frame_once(loopback, version, address, layout):
    tx, rx = loopback
    send_all(tx, local_template(version, address), range(1000), layout=layout)
    assert receive(rx, 1000, layout) == list(range(1000))
    assert sequences(rx, layout) == []


def test_the_kernel_completes_the_ip_header(loopback):
    tx, rx = loopback
    frame = bytearray(local_template(4, "127.0.0.1"))
    frame[14 + 10 : 14 + 12] = b"\xde\xad"
    send_all(tx, bytes(frame), range(1))
    frames = taken(rx, 1)
    header = frames.octets[0, 14:34].tobytes()
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
    assert total % 0xFFFF == 0  # one's complement sum of a sound header
    assert frames.kept.tolist() == [len(frame)]


def test_both_versions_in_one_batch_keep_their_order(loopback):
    tx, rx = loopback
    frames = [local_template(4, "127.0.0.1"), local_template(6, "::1")]
    first, _ = tx.free(9)
    for slot in range(9):
        frame = frames[(slot // 2) % 2]
        tx.view(f"V{len(frame)}")[first + slot] = np.void(frame)
    lengths = np.array([len(frames[(slot // 2) % 2]) for slot in range(9)], np.int32)
    assert tx.send(9, lengths).sent == 9
    assert (taken(rx, 9).octets[:, 14] >> 4).tolist() == [(4, 6)[(slot // 2) % 2] for slot in range(9)]


def test_a_refusal_in_mid_batch_keeps_the_prefix(loopback):
    tx, rx = loopback
    count = write(tx, local_template(4, "127.0.0.1"), range(10))
    tx.view("V34")[6] = np.void(local_template(4, "203.0.113.9")[:34])  # no route in a namespace without interfaces
    result = tx.send(count, np.full(count, 50, np.int32))
    assert (result.sent, result.error) == (6, "send_error")
    send_all(tx, local_template(4, "127.0.0.1"), range(20, 22))
    assert receive(rx, 8) == [*range(6), 20, 21]


def test_lengths_are_checked(loopback):
    tx, _ = loopback
    for bad in (14, tx.slot_octets + 1):
        with pytest.raises(ValueError, match="octets in slots of"):
            tx.send(1, np.array([bad], np.int32))


def own_packets(tunnel: int, count: int) -> list[bytes]:
    """The next packets out of a tunnel, without the router solicitations that every interface sends."""
    packets: list[bytes] = []
    while len(packets) < count:
        packet = os.read(tunnel, 2048)
        if packet[0] >> 4 == 4 or packet[6] == socket.IPPROTO_UDP:
            packets.append(packet)
    return packets


@pytest.mark.parametrize("kind", [RxRing, RxBlocks])
@pytest.mark.parametrize("everywhere", [False, True])
def test_an_interface_without_ethernet(lone_namespace, kind, everywhere):
    """A tunnel: the layout stays that of an Ethernet frame, with nothing of use before its type."""
    frames = {4: local_template(4, "198.51.100.7"), 6: local_template(6, "2001:db8::7")}
    with inside(lone_namespace), tun("t0") as tunnel:
        ip("-n", lone_namespace, "link", "set", "t0", "up")
        ip("-n", lone_namespace, "route", "add", "198.51.100.0/24", "dev", "t0")
        ip("-n", lone_namespace, "-6", "route", "add", "2001:db8::/64", "dev", "t0")
        ifindex = socket.if_nametoindex("t0")
        program = probe_filter(udp_reflect=PORT, snaplen=128, link_octets=None if everywhere else 0)
        with closing(RawIpSender("t0")) as tx, closing(kind(0 if everywhere else ifindex, program)) as rx:
            for version, layout, type_ in ((4, FRAME, b"\x08\x00"), (6, FRAME6, b"\x86\xdd")):
                send_all(tx, frames[version], range(5), layout=layout)
                packets = own_packets(tunnel, 5)
                assert [packet[-8:] for packet in packets] == [n.to_bytes(8, "big") for n in range(5)]
                for packet in packets:
                    os.write(tunnel, packet)
                got = taken(rx, 5)
                assert numbers(got, layout) == [0, 1, 2, 3, 4]
                assert {row[12:14].tobytes() for row in got.octets} == {type_}
                assert got.kept.tolist() == got.lengths.tolist() == [len(frames[version])] * 5
                assert set(got.ifindex.tolist()) == {ifindex}


@pytest.mark.parametrize("kind", [RxRing, RxBlocks])
def test_frames_with_and_without_ethernet_in_one_batch(lone_namespace, kind):
    frame = local_template(4, "127.0.0.1")
    with inside(lone_namespace), tun("t0") as tunnel:
        ip("-n", lone_namespace, "link", "set", "t0", "up")
        with closing(RawIpSender()) as tx, closing(kind(0, FILTER)) as rx:
            for n in range(4):
                if n % 2:
                    os.write(tunnel, frame[14:-8] + n.to_bytes(8, "big"))
                else:
                    send(tx, frame, range(n, n + 1))
            got = taken(rx, 4)
            assert sorted(numbers(got)) == [0, 1, 2, 3]
            assert got.kept.tolist() == got.lengths.tolist() == [len(frame)] * 4
            assert {row[12:14].tobytes() for row in got.octets} == {b"\x08\x00"}


def test_no_such_interface(lone_namespace):
    with inside(lone_namespace), pytest.raises(PeerError, match="no interface nope0"):
        RawIpSender("nope0")


def test_order_over_many_batches(loopback):
    tx, rx = loopback
    frame = local_template(4, "127.0.0.1")
    for start, size in itertools.pairwise([0, 1, 8, 71, 135]):
        send_all(tx, frame, range(start, size))
    assert receive(rx, 135) == list(range(135))
