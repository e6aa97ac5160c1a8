"""What holds for both kinds of receive ring: a slot for each frame, and blocks."""

from __future__ import annotations

import select
import time
from contextlib import closing

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from probe.errors import PeerError
from probe.link import abi
from probe.link.bpf import probe_filter
from probe.link.rx_blocks import RxBlocks
from probe.link.rx_ring import RxRing
from probe.link.tx_ring import TxRing

from .frames import FILTER, OCTETS, PORT, numbers, receive, send, send_all, sequences, taken, template
from .netns import inside, wait_for

pytestmark = pytest.mark.netns


@pytest.fixture(params=[RxRing, RxBlocks])
def kind(request):
    return request.param


def open_rings(kind, wire, *, program=FILTER):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=512)
    with b.inside():
        rx = kind(b.ifindex, program)
    return tx, rx


def open_wide(kind, end):
    program = probe_filter(udp_ports=[(PORT, PORT)], snaplen=1500)
    return kind(end.ifindex, program, slots=1024, slot_octets=600) if kind is RxRing else kind(end.ifindex, program)


def test_stamps_are_the_drivers_and_between_send_and_now(kind, wire):
    tx, rx = open_rings(kind, wire)
    with closing(tx), closing(rx):
        before_ns = time.time_ns()
        send_all(tx, template(*wire), range(100))
        frames = taken(rx, 100)
        after_ns = time.time_ns()
        stamps = frames.stamps_ns
        assert stamps.dtype == np.int64
        assert before_ns <= stamps[0]
        assert stamps[-1] <= after_ns
        assert (np.diff(stamps) >= 0).all()
        assert (frames.status & abi.TP_STATUS_TS_SOFTWARE).all()
        assert (frames.ifindex == wire[1].ifindex).all()


@pytest.mark.parametrize("rounds", [1, 40])
def test_frames_of_any_lengths_in_any_order(kind, wire, rounds):
    """Alike, they lie evenly in a block; these do not."""
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=512, slot_octets=600)
    with b.inside():
        rx = open_wide(kind, b)
    with closing(tx), closing(rx):
        sizes = [0, 0, 0, 100, 0, 7, 8, 9, 500, 500, 1, 0, 300] * rounds
        for sequence, more in enumerate(sizes):
            send(tx, template(a, b) + bytes([sequence % 251]) * more, range(sequence, sequence + 1))
        frames = taken(rx, len(sizes))
        assert numbers(frames) == list(range(len(sizes)))
        assert frames.kept.tolist() == [OCTETS + more for more in sizes]
        for sequence, more in enumerate(sizes):
            tail = frames.octets[sequence, OCTETS : OCTETS + more]
            assert (tail == sequence % 251).all(), sequence


def test_long_frames_are_cut(kind, wire):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=64, slot_octets=600)
    with b.inside():
        rx = kind(b.ifindex, probe_filter(udp_ports=[(PORT, PORT)], snaplen=60))
    with closing(tx), closing(rx):
        send(tx, template(a, b) + bytes(100), range(1))
        assert taken(rx, 1).kept.tolist() == [60]


def test_rows_are_wide_enough_for_any_layout(kind, wire):
    tx, rx = open_rings(kind, wire)
    with closing(tx), closing(rx):
        send(tx, template(*wire), range(1))
        assert taken(rx, 1).octets.shape[1] >= 190


def test_all_interfaces_and_nothing_of_our_own(kind, wire):
    """A ring on every interface of the sending host hears the answer, and not what the host sends itself."""
    a, b = wire
    with a.inside():
        tx, rx = TxRing(a.ifindex, slots=64), kind(0, FILTER)
    with b.inside():
        reply = TxRing(b.ifindex, slots=64)
    with closing(tx), closing(rx), closing(reply):
        send(tx, template(a, b), range(5))
        send(reply, template(b, a), range(100, 105))
        assert receive(rx, 5) == list(range(100, 105))
        assert sequences(rx) == []


def test_the_socket_itself_hides_what_we_send(kind, wire):
    """Before any filter is asked, so that sending fast does not cost receiving."""
    a, b = wire
    everything = (abi.Instruction(0x06, 0, 0, 128),)
    with a.inside():
        tx, rx = TxRing(a.ifindex, slots=64, qdisc_bypass=False), kind(a.ifindex, everything)
    with b.inside():
        reply = TxRing(b.ifindex, slots=64)
    with closing(tx), closing(rx), closing(reply):
        send(tx, template(a, b), range(7001, 7006))
        send(reply, template(b, a), range(100, 105))
        got: list[int] = []

        def all_came() -> bool:
            got.extend(sequences(rx))
            return set(range(100, 105)) <= set(got)

        wait_for(all_came)
        assert not set(range(7001, 7006)) & set(got)


def test_the_filter_on_a_real_socket(kind, wire):
    a, b = wire
    ethernet = Ether(src=a.mac.hex(":"), dst=b.mac.hex(":"))
    v4, v6 = IP(src=a.ipv4, dst=b.ipv4), IPv6(src=a.ipv6, dst=b.ipv6)
    wanted: list[Packet] = [
        ethernet / v4 / UDP(dport=PORT),
        ethernet / v4 / UDP(dport=862),
        ethernet / v6 / UDP(dport=PORT),
        ethernet / v4 / TCP(dport=63000),
        ethernet / v6 / TCP(dport=63000),
        ethernet / v4 / ICMP(type=0, id=9),
        ethernet / v6 / ICMPv6EchoReply(id=9),
        ethernet / v4 / ICMP(type=3, code=1) / bytes(v4 / UDP()),
    ]
    unwanted: list[Packet] = [
        ethernet / v4 / UDP(dport=PORT + 1),
        ethernet / Dot1Q(vlan=5) / v4 / UDP(dport=PORT),
        ethernet / v4.copy().__class__(src=a.ipv4, dst=b.ipv4, frag=3) / UDP(dport=PORT),
        Ether(src=a.mac.hex(":"), dst="02:00:00:00:00:99") / v4 / UDP(dport=PORT),
        ethernet / v4 / ICMP(type=8, id=9),
        ethernet / ARP(),
    ]
    program = probe_filter(
        udp_ports=[(PORT, PORT)], tcp_ports=[(63000, 63000)], icmp_ids=[(9, 9)], udp_reflect=862, snaplen=190
    )
    tx, rx = open_rings(kind, wire, program=program)
    with closing(tx), closing(rx):
        for packet in unwanted + wanted:
            octets = bytes(packet)
            first, _ = tx.free(1)
            tx.view(f"V{len(octets)}")[first] = np.void(octets)
            assert tx.send(1, np.array([len(octets)], np.int32)).error == ""
        heads = [row[:34].tobytes() for row in taken(rx, len(wanted)).octets]
        assert heads == [bytes(packet)[:34] for packet in wanted]


def test_a_tag_of_priority_alone_is_looked_past(kind, wire):
    """IEEE 802.1p: VLAN 0 and a priority, as some switches and network cards send."""
    tx, rx = open_rings(kind, wire)
    plain = template(*wire)
    with closing(tx), closing(rx):
        for n, vlan in enumerate((0xA000, 0x0005, 0x0000)):
            tagged = plain[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + plain[12:-8] + n.to_bytes(8, "big")
            first, _ = tx.free(1)
            tx.view(f"V{len(tagged)}")[first] = np.void(tagged)
            assert tx.send(1, np.array([len(tagged)], np.int32)).error == ""
        frames = taken(rx, 2)
        assert numbers(frames) == [0, 2]
        assert frames.octets[0, :34].tobytes() == plain[:34] and frames.kept.tolist() == [OCTETS, OCTETS]


def test_filter_can_be_replaced_while_running(kind, wire):
    tx, rx = open_rings(kind, wire, program=probe_filter(udp_ports=[(1, 1)], snaplen=128))
    with closing(tx), closing(rx):
        send(tx, template(*wire), range(1))
        rx.set_filter(FILTER)
        send(tx, template(*wire), range(7, 8))
        assert receive(rx, 1) == [7]


def test_reception_resumes_after_a_link_down(kind, wire):
    tx, rx = open_rings(kind, wire)
    with closing(tx), closing(rx):
        wire[1].set_link("down")
        assert select.select([rx], [], [], 0)[0]  # POLLERR: would wake the reader for ever
        assert rx.take_error() == "link_down"
        assert rx.take_error() == ""
        assert not select.select([rx], [], [], 0)[0]
        wire[1].set_link("up")
        wait_for(lambda: "LOWER_UP" in wire[0].ip("link", "show", "veth0"))
        send(tx, template(*wire), range(3))
        assert receive(rx, 3) == [0, 1, 2]


def test_closing_twice_is_harmless(kind, wire):
    tx, rx = open_rings(kind, wire)
    with closing(tx):
        send(tx, template(*wire), range(1))
        frames = taken(rx, 1)
        rx.close()
        rx.close()
        assert numbers(frames) == [0]


def test_readable_when_frames_are_there(kind, wire):
    tx, rx = open_rings(kind, wire)
    with closing(tx), closing(rx):
        assert not select.select([rx], [], [], 0)[0]
        send(tx, template(*wire), range(1))
        assert select.select([rx], [], [], 5)[0]


def test_no_such_interface(kind, lone_namespace):
    with inside(lone_namespace), pytest.raises(PeerError, match="no interface with index 4711"):
        kind(4711, FILTER)
