from __future__ import annotations

import errno
import logging
from contextlib import closing

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from probe.errors import PeerError
from probe.link.rx_ring import RxRing
from probe.link.tx_gso import MOST, TxGso

from .frames import FILTER, FRAME, FRAME6, PORT, nothing_stale_leaves, receive, send, sequences, taken, template, write
from .netns import inside, wait_for

pytestmark = pytest.mark.netns
UDP_AT = 34


@pytest.fixture
def ends(wire):
    """A sender at one end of a wire, whose kernel cuts up pieces and fills in checksums; a receiver at the other."""
    a, b = wire
    a.run("ethtool", "-K", "veth0", "tx-udp-segmentation", "off", "tx", "off")
    with a.inside():
        tx = TxGso(a.ifindex, slots=256, slot_octets=118)
    with b.inside():
        rx = RxRing(b.ifindex, FILTER)
    with closing(tx), closing(rx):
        yield tx, rx, template(a, b)


def lengths(count: int, frame: bytes) -> np.ndarray:
    return np.full(count, len(frame), np.int32)


def pieces(result) -> list[int]:
    return [frames for frames, _, _, _ in result.calls]


def counted(end) -> int:
    """Packets to PORT that the kernel of this end has seen come in."""
    found = end.run("nft", "-j", "list", "counter", "netdev", "t", "seen")
    return int(found.stdout.split(b'"packets": ')[1].split(b",")[0])


def test_each_datagram_is_a_packet_of_its_own(ends, wire):
    tx, rx, frame = ends
    rule = f"udp dport {PORT} counter name seen"
    wire[1].run(
        "nft",
        "add table netdev t; add counter netdev t seen;"
        "add chain netdev t c { type filter hook ingress device veth0 priority 0; }; add rule netdev t c " + rule,
    )
    got: list[int] = []
    sent = 0
    while sent < 5000:
        count = write(tx, frame, range(sent, min(sent + 200, 5000)))
        assert tx.send(count, lengths(count, frame)).sent == count
        sent += count
        got += sequences(rx)
    got += receive(rx, 5000 - len(got)) if len(got) < 5000 else []
    assert got == list(range(5000))
    assert counted(wire[1]) == 5000


@pytest.mark.parametrize("version", [4, 6])
def test_octets_arrive_as_written_with_sums_that_are_right(ends, wire, version):
    tx, rx, _ = ends
    a, b = wire
    network = IP(src=a.ipv4, dst=b.ipv4, ttl=61, tos=0xB8) if version == 4 else IPv6(src=a.ipv6, dst=b.ipv6, hlim=61)
    frame = bytes(Ether(src=a.mac.hex(":"), dst=b.mac.hex(":")) / network / UDP(sport=4711, dport=PORT) / Raw(bytes(8)))
    layout = FRAME if version == 4 else FRAME6
    result = send(tx, frame, range(70, 80), layout)
    assert pieces(result) == [1, 9]  # the first by the ring, which tells whether there is a carrier
    frames = taken(rx, 10)
    assert frames.kept.tolist() == [len(frame)] * 10
    for row, sequence in zip(frames.octets[1:], range(71, 80), strict=True):  # its sums are as they were written
        arrived = row[: len(frame)].tobytes()
        packet = Ether(arrived)
        del packet[UDP].chksum
        if version == 4:
            del packet[IP].chksum
        assert bytes(packet) == arrived  # lengths and sums are those that Scapy writes
        packet[Raw].load = bytes(8)
        if version == 4:
            packet[IP].id = 1
        assert bytes(packet) == frame
        assert arrived.endswith(sequence.to_bytes(8, "big"))


def test_many_share_a_call_whose_times_are_told(ends):
    tx, rx, frame = ends
    count = write(tx, frame, range(200))
    result = tx.send(count, lengths(count, frame), together=16)
    assert (result.sent, result.error) == (200, "")
    assert pieces(result) == [1, MOST, MOST, MOST, 199 - 3 * MOST]
    times = [at for _, before, after, _ in result.calls for at in (before, after)]
    assert times == sorted(times)
    assert receive(rx, 200) == list(range(200))


def test_more_share_a_call_where_more_may(ends):
    tx, rx, frame = ends
    count = write(tx, frame, range(200))
    assert pieces(tx.send(count, lengths(count, frame), together=128)) == [1, 128, 71]
    assert receive(rx, 200) == list(range(200))


def test_two_flows_are_two_pieces(ends):
    tx, rx, frame = ends
    other = Ether(frame)
    other[UDP].sport = 1234
    count = write(tx, frame, range(30))
    tx.view(f"V{len(frame)}")[10:20] = np.void(bytes(other))
    tx.view(FRAME)["seq"][10:20] = range(10, 20)
    result = tx.send(count, lengths(count, frame))
    assert pieces(result) == [1, 9, 10, 10]
    frames = taken(rx, 30)
    ports = frames.octets[:, UDP_AT : UDP_AT + 2].copy().view(">u2")[:, 0].tolist()
    assert ports == [53] * 10 + [1234] * 10 + [53] * 10


def test_a_single_one_between_two_runs(ends):
    tx, rx, frame = ends
    count = write(tx, frame, range(31))
    other = bytearray(frame)
    other[15] = 0xB8  # another DSCP
    tx.view(f"V{len(frame)}")[15] = np.void(bytes(other))
    tx.view(FRAME)["seq"][15] = 15
    assert pieces(tx.send(count, lengths(count, frame))) == [1, 14, 1, 15]
    assert receive(rx, 31) == list(range(31))


def test_flows_that_take_turns_go_by_the_ring(ends):
    tx, rx, frame = ends
    ports = np.dtype([("head", f"V{UDP_AT}"), ("sport", ">u2")])
    count = write(tx, frame, range(100))
    tx.view(ports)["sport"][:100] = 1000 + np.arange(100) % 3
    result = tx.send(count, lengths(count, frame), together=16)
    assert (result.sent, result.error, pieces(result)) == (100, "", [16] * 6 + [4])
    assert receive(rx, 100) == list(range(100))


def test_pieces_go_on_under_another_name(ends, wire):
    tx, rx, frame = ends
    wire[0].set_link("down")
    wire[0].ip("link", "set", "veth0", "name", "wan0")
    wire[0].ip("link", "add", "veth0", "type", "veth", "peer", "name", "peer0")  # which is down
    wire[0].ip("link", "set", "wan0", "up")
    wait_for(lambda: "LOWER_UP" in wire[0].ip("link", "show", "wan0"))

    def sends_all() -> bool:
        count = write(tx, frame, range(40))
        return pieces(tx.send(count, lengths(count, frame))) == [1, 39]

    wait_for(sends_all)
    assert receive(rx, 40)[-40:] == list(range(40))


@pytest.mark.parametrize("what", ["icmp", "without a payload"])
def test_what_is_no_datagram_goes_by_the_ring(ends, wire, what):
    tx, _, frame = ends
    if what == "icmp":
        frame = frame[:14] + bytes(IP(dst=wire[1].ipv4) / ICMP() / Raw(bytes(8)))
    else:
        frame = frame[: UDP_AT + 8]
    first, count = tx.free(20)
    tx.view(f"V{len(frame)}")[first : first + count] = np.void(frame)
    result = tx.send(count, lengths(count, frame), together=5)
    assert (result.sent, result.error, pieces(result)) == (20, "", [5] * 4)


def test_one_by_one(ends):
    tx, rx, frame = ends
    for sequence in range(tx.slots + 5):
        write(tx, frame, range(sequence, sequence + 1))
        assert tx.send_one(len(frame))[2] == ""
        wait_for(lambda: tx._ring.free(1)[1])
    assert receive(rx, tx.slots + 5) == list(range(tx.slots + 5))


def test_what_is_too_long_never_leaves(ends, wire):
    """The kernel cuts up what no link on the way would take."""
    tx, rx, frame = ends
    wire[0].ip("link", "set", "veth0", "mtu", "68")
    count = write(tx, frame + bytes(40), range(10))
    result = tx.send(count, lengths(count, frame + bytes(40)))
    assert (result.sent, result.error) == (0, "send_error")
    count = write(tx, frame, range(20))
    mixed = lengths(count, frame)
    mixed[15:] = len(frame) + 40
    result = tx.send(count, mixed)
    assert (result.sent, result.error, pieces(result)) == (15, "send_error", [15])  # by the ring, which stops there
    assert receive(rx, 15) == list(range(15))
    send(tx, frame, range(50, 60))
    assert receive(rx, 10) == list(range(50, 60))


@pytest.mark.parametrize("who", ["own", "peer"])
def test_link_down_nothing_stale_leaves_later(ends, wire, who):
    tx, rx, frame = ends
    nothing_stale_leaves(tx, rx, frame, wire, who)


def test_a_refused_piece_is_a_send_error(ends, wire):
    tx, rx, frame = ends
    wire[0].run("nft", "add table netdev t; add chain netdev t c { type filter hook egress device veth0 priority 0; }")
    wire[0].run("nft", f"add rule netdev t c udp dport {PORT} drop")
    result = send(tx, frame, range(10))
    assert (result.sent, result.error) == (0, "send_error")
    wire[0].run("nft", "delete table netdev t")
    send(tx, frame, range(30, 40))
    assert receive(rx, 10) == list(range(30, 40))


def test_a_kernel_that_does_not_know_how_gets_them_one_by_one(ends, caplog, monkeypatch):
    """Before Linux 6.2 it says EINVAL (here in its stead)."""
    tx, rx, frame = ends
    calls: list[int] = []

    def refused(parts: list[bytes]) -> int:
        calls.append(len(parts))
        return errno.EINVAL

    monkeypatch.setattr(tx, "_send_raw", refused)
    with caplog.at_level(logging.WARNING):
        for start in (0, 50, 100):
            result = send(tx, frame, range(start, start + 50))
            assert (result.sent, result.error) == (50, "")
    assert receive(rx, 150) == list(range(150))
    assert len(calls) == len(caplog.records) == 1  # asked once
    assert "one by one" in caplog.text


def test_sending_more_than_there_is(ends):
    tx, _, frame = ends
    with pytest.raises(ValueError, match="257 frames from slot 0 of 256"):
        tx.send(257, lengths(257, frame))


def test_layout_must_fit(ends):
    tx, _, _ = ends
    with pytest.raises(ValueError, match=f"octets in slots of {tx.slot_octets}"):
        tx.view(f"V{tx.slot_octets + 1}")


def test_no_such_interface(lone_namespace):
    with inside(lone_namespace), pytest.raises(PeerError, match="no interface with index 4711"):
        TxGso(4711)
