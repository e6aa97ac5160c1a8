from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from probe.core.events import FlowSpec
from probe.session.tcp import RETRY_NS, WINDOW_WAIT_NS, Segment, State, TcpClient, control_segment
from probe.wire import layout
from probe.wire.craft import flow_template
from probe.wire.packet import transport_sum

SYN, ACK, RST, FIN, PSH = layout.TCP_SYN, layout.TCP_ACK, layout.TCP_RST, layout.TCP_FIN, layout.TCP_PSH
ISS, IRS = 0xFFFFFFFF, 0xFFFFFFFE  # numbers that wrap at the first octet
S = 1_000_000_000
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


def template(family: int) -> bytes:
    source, target = ADDRESSES[family]
    spec = FlowSpec("a", "tcp", "kept", "p", target, 8620, 1000.0)
    macs = {"source_mac": bytes.fromhex("020000000001"), "target_mac": bytes.fromhex("020000000002")}
    return flow_template(spec, source=source, target=target, session=1, error_estimate=1, **macs).frame


def client(family: int = 4) -> TcpClient:
    return TcpClient(template(family), family, 50_000, ISS)


def syn_ack(ack: int = (ISS + 1) % (1 << 32)) -> Segment:
    return Segment(SYN | ACK, IRS, ack, 0)


def established() -> TcpClient:
    tcp = client()
    tcp.open(0)
    tcp.receive(syn_ack(), 0)
    tcp.receive(Segment(ACK, 0, 0, 0), 1)
    assert tcp.established
    return tcp


def check(frame: bytes, family: int, flags: str, seq: int, ack: int) -> TCP:
    assert transport_sum(frame, family) == 0
    packet = Ether(frame)
    network = packet[IP if family == 4 else IPv6]
    assert (network.src, network.dst) == ADDRESSES[family]
    assert (network.len if family == 4 else network.plen + 40) == len(frame) - 14
    tcp = packet[TCP]
    assert (tcp.sport, tcp.dport, str(tcp.flags), tcp.seq, tcp.ack) == (50_000, 8620, flags, seq, ack)
    return tcp


@pytest.mark.parametrize("family", [4, 6])
def test_the_handshake(family):
    tcp = client(family)
    syn = check(tcp.open(0), family, "S", ISS, 0)
    options = dict(syn.options)
    assert options["MSS"] == 1460 and options["WScale"] == 14 and "SAckOK" in options
    assert tcp.state is State.SYN_SENT and not tcp.established
    check(tcp.receive(syn_ack(), 5), family, "A", 0, 0xFFFFFFFF)
    # Not before a scaled window has passed: until then a firewall grants 64 KiB.
    assert tcp.state is State.ACKED and not tcp.established
    assert tcp.receive(Segment(ACK, 0xFFFFFFFF, 0, 0), 6) is None
    assert tcp.established


def test_without_the_window_it_goes_on_after_a_while():
    tcp = client()
    tcp.open(0)
    tcp.receive(syn_ack(), 5)
    assert tcp.poll(5 + WINDOW_WAIT_NS - 1) is None and not tcp.established
    assert tcp.poll(5 + WINDOW_WAIT_NS) is None and tcp.established


def test_a_syn_is_resent_with_growing_pauses():
    tcp, at = client(), 0
    first = tcp.open(0)
    for pause in (1 * S, 2 * S, 4 * S, 5 * S, 5 * S):
        assert tcp.poll(at + pause - 1) is None
        at += pause
        assert tcp.poll(at) == first
    assert RETRY_NS[-1] == 5 * S


def test_a_refusal_is_counted_and_tried_again():
    tcp = client()
    first = tcp.open(0)
    assert tcp.receive(Segment(RST | ACK, 0, 0, 0), 10) is None
    assert tcp.refused == 1 and tcp.state is State.SYN_SENT
    assert tcp.poll(S) == first


@pytest.mark.parametrize("segment", [syn_ack(ISS), syn_ack(5), Segment(ACK, IRS, 0, 0), Segment(SYN, IRS, 0, 0)])
def test_what_is_no_answer_to_our_syn_opens_nothing(segment):
    tcp = client()
    tcp.open(0)
    assert tcp.receive(segment, 1) is None and tcp.state is State.SYN_SENT


def test_a_repeated_syn_ack_is_acknowledged_again():
    for tcp in (established(), client()):
        if tcp.state is State.CLOSED:
            tcp.open(0)
            tcp.receive(syn_ack(), 0)
        state = tcp.state
        check(tcp.receive(syn_ack(), 9), 4, "A", 0, 0xFFFFFFFF)
        assert tcp.state is state


@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN | ACK])
def test_the_end(flags):
    tcp = established()
    assert tcp.receive(Segment(flags, 0, 0, 0), 3) is None
    assert tcp.state is State.ENDED and not tcp.established
    assert tcp.close(1, 2) is None and tcp.poll(100 * S) is None


@pytest.mark.parametrize(
    ("ahead", "octets", "ends"),
    [
        (0, 0, True),
        (1, 0, False),
        (-1, 0, False),
        (0, 10_000, True),  # as the far end's kernel, or a firewall without the session, makes it
        (5_000, 10_000, True),  # the far end is ahead of us by what was lost on its way back
        (10_200, 10_000, True),  # and by what was duplicated
        (-9_000, 10_000, True),  # a copy of what we acknowledged a while ago
        (20_001, 10_000, False),
        (-20_001, 10_000, False),
        (1 << 31, 10_000, False),
        (1 << 29, 1 << 50, True),
        (1 << 30, 1 << 50, False),  # never the whole space, however long the session
    ],
)
def test_what_ends_a_session_is_near_what_it_has_acknowledged(ahead, octets, ends):
    for acknowledged in (0, 77, 0xFFFFFFFF):
        segment = Segment(RST, (acknowledged + ahead) % (1 << 32), 0, 0)
        assert client().is_end(segment, acknowledged, octets) is ends


def test_closing_sends_an_exact_reset():
    check(established().close(0x1234, 0x5678), 4, "RA", 0x1234, 0x5678)
    half = client()
    half.open(0)
    assert half.close(1, 2) is None  # no connection that a table could keep
    half = client()
    half.open(0)
    half.receive(syn_ack(), 0)
    check(half.close(1, 2), 4, "RA", 0, 0xFFFFFFFF)


@given(st.lists(st.tuples(st.integers(0, 63), st.sampled_from(["ok", "bad"]), st.booleans()), max_size=30))
def test_any_segment_in_any_state(steps):
    """Nothing raises; what is ended stays so; only a right SYN/ACK leads out of SYN_SENT."""
    tcp, now = client(), 0
    tcp.open(0)
    for flags, ack, polled in steps:
        before = tcp.state
        now += random.Random(flags).randrange(S)
        segment = Segment(flags, IRS, (ISS + 1) % (1 << 32) if ack == "ok" else 77, 0)
        tcp.receive(segment, now)
        if before is State.ENDED:
            assert tcp.state is State.ENDED
        if before is State.SYN_SENT and tcp.state is not State.SYN_SENT:
            assert flags & (SYN | ACK) == SYN | ACK and not flags & RST and ack == "ok"
        if polled:
            tcp.poll(now)


@pytest.mark.parametrize("family", [4, 6])
def test_a_control_segment_carries_no_data(family):
    frame = control_segment(template(family), family, FIN | ACK, 1, 2, source_port=50_000, window=0)
    tcp = check(frame, family, "FA", 1, 2)
    assert tcp.window == 0 and len(frame) == layout.l4_offset(family) + 20
