"""How kept TCP sessions end, and how they do not: forged and repeated segments, and silence through a firewall that
follows their windows.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from probe.report.document import laws
from probe.wire import layout
from probe.wire.checksum import complement
from probe.wire.packet import transport_sum

from .stateful import Firewall
from .world import L4, MS, S, Weather, World, world

RST, FIN, SYN, ACK = layout.TCP_RST, layout.TCP_FIN, layout.TCP_SYN, layout.TCP_ACK


def segments(network: World) -> tuple[list[bytes], list[bytes]]:
    """Frames on their way out and back, from now on."""
    out: list[bytes] = []
    back: list[bytes] = []
    network.out.before, network.back.behind = (
        (lambda frame: not out.append(frame)),
        (lambda frame: not back.append(frame)),
    )
    return out, back


def fields(frame: bytes) -> tuple[int, int, int]:
    """(flags, sequence, acknowledgement)."""
    seq, ack = struct.unpack_from("!II", frame, L4 + 4)
    return frame[L4 + 13], seq, ack


def answer(frame: bytes, flags: int, seq: int, *, ttl: int = 253, ack: int = 0) -> bytes:
    """A segment without data, back to the sender of `frame`."""
    packet = bytearray(frame[: L4 + 20])
    packet[26:30], packet[30:34] = frame[30:34], frame[26:30]
    packet[L4 : L4 + 4] = frame[L4 + 2 : L4 + 4] + frame[L4 : L4 + 2]
    packet[16:18], packet[22], packet[L4 + 12] = struct.pack("!H", 40), ttl, 5 << 4
    struct.pack_into("!IIxBHHH", packet, L4 + 4, seq % (1 << 32), ack, flags, 0, 0, 0)
    struct.pack_into("!H", packet, L4 + 16, complement(transport_sum(bytes(packet), 4)))
    return bytes(packet)


def guard(network: World, where: str) -> Firewall:
    """A firewall near the sender or near the reflector; faults are on the other side of it."""
    wall = Firewall()
    for wire in (network.out, network.back):
        setattr(wire, "before" if (wire is network.out) == (where == "near") else "behind", wall.passes)
    return wall


def running(network: World) -> tuple[list[bytes], list[bytes]]:
    """A kept TCP flow that has been answered for a while; frames as of `segments`."""
    seen = segments(network)
    network.add(0, "tcp", rate=500)
    network.run(S)
    assert network.recorder.tracks()[0].state == "up"
    return seen


def end_of(network: World) -> dict[str, Any]:
    document = network.document()
    assert laws(document, settled=True) == []
    return document["flows"][0]["session_end"]


def test_a_forged_end_ends_nothing():
    forged = [(flags, ahead) for flags in (RST, RST | ACK, FIN | ACK) for ahead in (1 << 20, -(1 << 20), 1 << 31)]
    with world(1) as network:
        out, _ = running(network)
        for flags, ahead in forged:
            _, seq, ack = fields(out[-1])
            network.back.carry(answer(out[-1], flags, ack + ahead, ack=seq))
            network.run(30 * MS)
        network.settle()
        network.check()
        assert end_of(network)["cause"] == "none"
        assert network.document()["flows"][0]["counts"]["reset"] == 0
        assert int(network.shared.header["unknown_frames"][0]) == len(forged)


@pytest.mark.parametrize(("ttl", "by"), [(253, "firewall"), (255, "peer"), (64, "peer"), (62, "firewall")])
def test_an_end_by_reset_says_whose_it_was(ttl, by):
    with world(2) as network:
        out, _ = running(network)
        flags, _, ack = fields(out[-1])
        before = len(out)
        network.back.carry(answer(out[-1], RST, ack, ttl=ttl))
        at = network.clock.wall + network.back.latency
        network.run(S)
        network.settle()
        end = end_of(network)
        # On these wires there is no router: replies come with the TTL that they were sent with.
        distance = {"peer": "peer", "firewall": "unknown"}[by]
        assert (end["cause"], end["from"], end["ttl"], end["peer_ttl"]) == ("rst", "192.0.2.2", ttl, 255)
        assert end["by"] == distance and end["at_ns"] == at
        assert flags & ACK and len(out) - before < 20  # of 1250: none was sent once it was known


def test_a_fin_in_the_middle_is_answered_by_an_exact_reset():
    with world(3) as network:
        wall = guard(network, "far")
        out, _ = running(network)
        _, _, ack = fields(out[-1])
        network.back.carry(answer(out[-1], FIN | ACK, ack, ack=fields(out[-1])[1]))
        network.run(100 * MS)
        flags, seq, _ = fields(out[-1])
        sent = int(network.sender.ledger.next_seq[0])
        first = fields(out[2])[1]
        step = len(out[2]) - L4 - 20
        assert flags == RST | ACK and seq == (first + sent * step) % (1 << 32)
        network.settle()
        assert end_of(network)["cause"] == "fin" and all(session.closed for session in wall.sessions.values())
        # It reached the far end, which has forgotten the session: nothing waits for anything on either side.
        assert len(network.reflector._listener) == 0


def test_a_repeated_syn_ack_does_no_harm():
    with world(4) as network:
        _, back = running(network)
        syn_ack = next(frame for frame in back if fields(frame)[0] == SYN | ACK)
        for _ in range(20):
            network.back.carry(syn_ack)
            network.run(30 * MS)
        network.settle()
        network.check()
        flow = network.document()["flows"][0]
        assert (flow["outages"], flow["counts"]["lost"], flow["session_end"]["cause"]) == ([], 0, "none")


def test_a_renewed_session_is_not_taken_for_another_translation():
    with world(5) as network:
        out, _ = running(network)
        network.back.carry(answer(out[-1], RST, fields(out[-1])[2]))
        network.run(200 * MS)
        network.sender.renew(0)
        network.run(S)
        network.settle()
        flow = network.document()["flows"][0]
        assert flow["session_end"]["cause"] == "rst" and not flow["rebound"]
        assert flow["session_end"]["again_ns"] == network.recorder.tracks()[0].established_ns
        # Nor does what ended the old one end the new one.
        assert network.recorder.tracks()[0].session_ends == 1


# --- silence ---------------------------------------------------------------------------------------------------------

RATE, SILENCE = 1000, 600 * S
SHORT = S


@pytest.mark.parametrize("where", ["near", "far"])
@pytest.mark.parametrize("way", ["out", "back"])
def test_a_session_does_not_leave_its_windows_in_a_short_silence(way, where):
    with world(6) as network:
        wall = guard(network, where)
        network.add(0, "tcp", rate=RATE)
        network.run(S)
        for wire in (network.out, network.back):
            wire.weather = Weather(dark=way == ("out" if wire is network.out else "back"))
        network.run(SHORT)
        network.settle()
        network.check()
        assert wall.dropped == []
        flow = network.document()["flows"][0]
        assert (flow["verdict"], len(flow["outages"])) == ("survived", 1)
        assert flow["outages"][0]["lost"] == pytest.approx(SHORT // S * RATE, abs=RATE / 100)


def test_ten_minutes_at_a_thousand_a_second_are_not_the_death_of_a_session():
    """Most probes of the silence at once: neither the firewall nor the reflector saw any of them."""
    with world(7) as network:
        wall = guard(network, "far")
        network.add(0, "tcp", rate=RATE)
        network.run(S)
        network.out.weather = Weather(dark=True)
        network.run(S)
        ledger, many = network.sender.ledger, SILENCE // S * RATE
        for _ in range(many // 50_000):
            at = network.clock.mono - np.arange(50_000, 0, -1)
            flow = np.zeros(50_000, np.int64)
            ledger.stamp(flow, ledger.allocate(flow, at), at)
            network.run(400 * MS)
        jumped = int(ledger.next_seq[0])
        network.settle()
        assert jumped > many and wall.dropped == []
        assert network.document()["flows"][0]["verdict"] == "survived"
