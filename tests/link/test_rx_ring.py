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
from probe.link.rx_ring import RxRing
from probe.link.tx_ring import TxRing

from .frames import FILTER, FRAME, OCTETS, PORT, receive, send, send_all, sequences, template
from .netns import inside, wait_for

pytestmark = pytest.mark.netns


def open_rings(wire, *, slots: int = 1024, program=FILTER, all_interfaces: bool = False):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=512)
    with b.inside():
        rx = RxRing(0 if all_interfaces else b.ifindex, program, slots=slots, slot_octets=62)
    return tx, rx


def test_stamps_are_the_drivers_and_between_send_and_now(wire):
    tx, rx = open_rings(wire)
    with closing(tx), closing(rx):
        before_ns = time.time_ns()
        send_all(tx, template(*wire), range(100))
        wait_for(lambda: rx.ready()[1] == 100)
        after_ns = time.time_ns()
        first, count = rx.ready()
        stamps = rx.stamps_ns(first, count)
        assert stamps.dtype == np.int64
        assert before_ns <= stamps[0]
        assert stamps[-1] <= after_ns
        assert (np.diff(stamps) >= 0).all()
        assert (rx.status(first, count) & abi.TP_STATUS_TS_SOFTWARE).all()
        assert (rx.pkttype(first, count) == abi.PACKET_HOST).all()
        assert (rx.ifindex(first, count) == wire[1].ifindex).all()


def test_overflow_is_counted_exactly_and_the_rest_is_kept(wire):
    tx, rx = open_rings(wire, slots=64)
    with closing(tx), closing(rx):
        assert rx.slots == 64
        send_all(tx, template(*wire), range(200))
        drops = 0

        def all_accounted() -> bool:
            nonlocal drops
            drops += rx.drops()
            return drops == 136

        wait_for(all_accounted)
        assert receive(rx, 64) == list(range(64))
        send_all(tx, template(*wire), range(200, 210))
        assert receive(rx, 10) == list(range(200, 210))
        assert rx.drops() == 0


def test_runs_are_bounded_and_do_not_wrap(wire):
    tx, rx = open_rings(wire, slots=64)
    with closing(tx), closing(rx):
        send_all(tx, template(*wire), range(60))
        assert receive(rx, 60) == list(range(60))
        send_all(tx, template(*wire), range(60, 80))
        wait_for(lambda: rx.status(0, 16)[15] & 1)
        assert rx.ready(3) == (60, 3)
        assert rx.ready() == (60, 4)
        with pytest.raises(ValueError, match="5 frames from slot 60 of 64"):
            rx.release(5)
        rx.release(4)
        assert rx.ready() == (0, 16)
        rx.release(6)
        assert rx.ready() == (6, 10)


def test_long_frames_are_cut_but_their_length_is_known(wire):
    tx, rx = open_rings(wire, program=probe_filter(udp_ports=[(PORT, PORT)], snaplen=1500))
    with closing(tx), closing(rx):
        assert rx.slot_octets == 62
        send(tx, template(*wire) + bytes(100), range(1))
        wait_for(lambda: rx.ready()[1])
        assert rx.lengths(0, 1).tolist() == [OCTETS + 100]


def test_all_interfaces_and_nothing_of_our_own(wire):
    """A ring on every interface of the sending host hears the answer, and not what the host sends itself."""
    a, b = wire
    with a.inside():
        tx, rx = TxRing(a.ifindex, slots=64), RxRing(0, FILTER, slots=64, slot_octets=62)
    with b.inside():
        reply = TxRing(b.ifindex, slots=64)
    with closing(tx), closing(rx), closing(reply):
        send(tx, template(a, b), range(5))
        send(reply, template(b, a), range(100, 105))
        assert receive(rx, 5) == list(range(100, 105))
        assert sequences(rx) == []


def test_the_socket_itself_hides_what_we_send(wire):
    """Before any filter is asked, so that sending fast does not cost receiving."""
    a, b = wire
    everything = (abi.Instruction(0x06, 0, 0, 128),)
    with a.inside():
        tx, rx = TxRing(a.ifindex, slots=64, qdisc_bypass=False), RxRing(a.ifindex, everything, slots=512)
    with b.inside():
        reply = TxRing(b.ifindex, slots=64)
    with closing(tx), closing(rx), closing(reply):
        send(tx, template(a, b), range(7001, 7006))
        send(reply, template(b, a), range(100, 105))
        kinds: list[int] = []
        got: list[int] = []

        def all_came() -> bool:
            first, count = rx.ready()
            kinds.extend(rx.pkttype(first, count).tolist())
            got.extend(rx.view(FRAME)["seq"][first : first + count].tolist())
            rx.release(count)
            return set(range(100, 105)) <= set(got)

        wait_for(all_came)
        assert abi.PACKET_OUTGOING not in kinds
        assert not set(range(7001, 7006)) & set(got)


def test_the_filter_on_a_real_socket(wire):
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
    tx, rx = open_rings(wire, program=program)
    with closing(tx), closing(rx):
        for packet in unwanted + wanted:
            octets = bytes(packet)
            first, _ = tx.free(1)
            tx.view(f"V{len(octets)}")[first] = np.void(octets)
            assert tx.send(1, np.array([len(octets)], np.int32)).error == ""
        wait_for(lambda: rx.ready()[1] >= len(wanted))
        first, count = rx.ready()
        heads = [rx.view("V34")[slot].tobytes() for slot in range(first, first + count)]
        assert heads == [bytes(packet)[:34] for packet in wanted]


def test_filter_can_be_replaced_while_running(wire):
    tx, rx = open_rings(wire, program=probe_filter(udp_ports=[(1, 1)], snaplen=128))
    with closing(tx), closing(rx):
        send(tx, template(*wire), range(1))
        rx.set_filter(FILTER)
        send(tx, template(*wire), range(7, 8))
        assert receive(rx, 1) == [7]


def test_reception_resumes_after_a_link_down(wire):
    tx, rx = open_rings(wire)
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


def test_closing_stops_the_ring_though_views_are_held(wire):
    tx, rx = open_rings(wire)
    with closing(tx):
        send(tx, template(*wire), range(1))
        wait_for(lambda: rx.ready()[1])
        sequence = rx.view(FRAME)["seq"]
        assert sequence.tolist()[:2] == [0, 0]
        rx.close()
        rx.close()
        send_all(tx, template(*wire), range(50, 60))
        assert sequence.tolist()[:3] == [0, 0, 0]


def test_readable_when_frames_are_there(wire):
    tx, rx = open_rings(wire)
    with closing(tx), closing(rx):
        assert not select.select([rx], [], [], 0)[0]
        send(tx, template(*wire), range(1))
        assert select.select([rx], [], [], 5)[0]


def test_unexpected_layout_is_refused(wire, monkeypatch):
    tx, rx = open_rings(wire)
    monkeypatch.setattr(abi, "RX_NET_AT", 84)
    with closing(tx), closing(rx):
        send(tx, template(*wire), range(1))
        wait_for(lambda: rx.status(0, 1)[0])
        with pytest.raises(Exception, match="network header at 80 of a slot, expected 84"):
            rx.ready()


def test_no_such_interface(lone_namespace):
    with inside(lone_namespace), pytest.raises(PeerError, match="no interface with index 4711"):
        RxRing(4711, FILTER)
