"""What is answered one by one is answered as in arrays, octet for octet, and leaves the same behind."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.link.base import NO_FRAMES
from probe.session.listener import Connection
from probe.session.prompt import FEW
from probe.wire import layout
from tests.wire import rfc

from .reflecting import WALL, Bench, remembered

ENDS = {
    4: [("192.0.2.1", "192.0.2.2"), ("198.51.100.9", "192.0.2.2")],
    6: [("2001:db8::1", "2001:db8::2"), ("2001:db8:ffff:1::9", "2001:db8::2")],
}
ALLOWED = ["192.0.2.0/24", "2001:db8::/48"]
PORTS = (40_000, 40_001)
NOT_READY = 8
READY = 1


def report(session: int, sequence: int, version: int = 1) -> bytes:
    return rfc.tlv(240, struct.pack("!QQHHI", session, sequence, version, 0xABCD, 0) + bytes(52))


def cookie(session: int, sequence: int) -> bytes:
    return struct.pack("!IBBHQQQ", 0x68617072, 1, 0, 0xABCD, session, sequence, WALL) + bytes(16 + 52)


class Twin(Bench):
    """A reflector whose batches are given with interface and status of each frame, and what it leaves behind.

    Args:
        arrays: Whether it answers everything as arrays.
        **more: For the reflector.
    """

    def __init__(self, arrays: bool, **more):
        super().__init__(**more)
        self.asked: list[tuple[int, int]] = []  # interface and longest frame of each part that was sent
        self._given, self._drops = NO_FRAMES, 0
        if arrays:
            self.reflector._take_few = self.reflector._take

    def receivers(self):
        return [self]

    def transmitter_on(self, ifindex, octets):
        self.asked.append((ifindex, octets))
        return self.outward.sender

    def take(self, limit):
        given, self._given = self._given, NO_FRAMES
        return given

    def drops(self):
        drops, self._drops = self._drops, 0
        return drops

    def answer(self, batch: list[tuple[bytes, int, int]], drops: int = 0) -> list[bytes]:
        """What comes back for (frame, interface, status) of each."""
        for frame, _, _ in batch:
            self.inward.carry(frame)
        self._given, self._drops = self.inward.receiver.take(), drops
        self._given = self._given._replace(
            ifindex=np.array([index for _, index, _ in batch], np.int32),
            status=np.array([status for _, _, status in batch], np.uint32),
            stamps_ns=self._given.stamps_ns + np.arange(len(batch)) * 1001,
        )
        self.clock.advance(12_345)
        self.reflector.turn()
        return [frame for _, frame in self.outward.arrived()]

    def connect(self, family: int, sport: int) -> None:
        """Set a connection up that begins with sequence numbers about to go round."""
        [syn_ack] = self.answers_to(rfc.tcp_frame(family, 0x02, 0xFFFFFF00, 0, sport=sport))
        l4 = layout.l4_offset(family)
        ours = struct.unpack_from("!I", syn_ack, l4 + 4)[0]
        assert len(self.answers_to(rfc.tcp_frame(family, 0x10, 0xFFFFFF01, ours + 1, sport=sport))) == 1

    def answers_to(self, frame: bytes) -> list[bytes]:
        return self.answer([(frame, 1, READY)])

    def forget(self) -> None:
        """As after a restart, but for the random numbers."""
        self.reflector._probes.sessions.clear()
        self.reflector._listener._connections.clear()

    def state(self) -> dict[str, object]:
        reflector = self.reflector
        sessions = reflector._probes.sessions
        connections: dict[int, Connection] = reflector._listener._connections
        return {
            "sessions": [(key, remembered(session)) for key, session in sessions.items()],
            "connections": list(connections.items()),
            "half open": reflector._listener._half_open,
            "drops": reflector._drops,
            "reflected": int(reflector._shared.header["reflected"][0]),
            "followed": reflector._extensions._left,
            "random": reflector._rng.getstate(),
            "asked": self.asked,
        }


# --- frames ----------------------------------------------------------------------------------------------------------

families = st.sampled_from([4, 6])
sessions = st.sampled_from([1, 2, 1 << 63 | 7, (1 << 64) - 1])
# Gaps, copies, late ones, restarts from zero, and numbers that no probe has.
sequences = st.integers(0, 12) | st.sampled_from([1000, (1 << 32) + 5, (1 << 62) - 1, 1 << 62, (1 << 64) - 1])
heads = st.tuples(st.integers(0, 255), st.integers(0, 255))  # traffic class, TTL
padding = st.one_of(
    st.just(b""),
    st.binary(max_size=9).map(lambda content: rfc.tlv(1, content)),
    st.sampled_from(
        [rfc.tlv(1, bytes(1400 - 128)), rfc.tlv(1, b"", length=1), rfc.tlv(1, b"ab", length=1), b"\0", b"ab"]
    ),
)
chains = st.sampled_from(
    [rfc.tlv(4, bytes(4)), rfc.tlv(7, bytes(16)), rfc.tlv(1, b"a") + rfc.tlv(99), rfc.tlv(99, b"a")]
)


@st.composite
def udp(draw, tails=padding, version=1):
    family, session, sequence = draw(families), draw(sessions), draw(sequences)
    tos, ttl = draw(heads)
    payload = rfc.request(
        draw(st.integers(0, 9)), (draw(st.integers(0, 1 << 32 - 1)), 5), 0x8587, draw(st.integers(0, 3)),
        report(session, sequence, version=version) + draw(tails),
    )  # fmt: skip
    ends, sport = draw(st.sampled_from(ENDS[family])), draw(st.sampled_from(PORTS))
    bare = draw(st.booleans()) and family == 4
    return rfc.udp_frame(family, payload, sport=sport, no_checksum=bare, tos=tos, ttl=ttl, ends=ends)


@st.composite
def foreign(draw):
    family = draw(families)
    payload = draw(
        st.sampled_from(
            [rfc.request(3, (1, 2), 4, 5), rfc.twamp_request(1, (2, 3), 4), rfc.request(4, (1, 2)), b"short"]
        )
    )
    return rfc.udp_frame(family, payload, dport=draw(st.sampled_from([862, 862, 863])))


push = st.just(0x18)


@st.composite
def tcp(draw, flags=push):
    family, session, sequence = draw(families), draw(sessions), draw(sequences)
    tos, ttl = draw(heads)
    seq = (0xFFFFFF01 + draw(st.integers(-300, 600) | st.integers(1 << 31, (1 << 31) + 600))) % (1 << 32)
    data = cookie(session, sequence) + bytes(draw(st.sampled_from([0, 0, 1, 33])))
    sport, ends = draw(st.sampled_from(PORTS)), draw(st.sampled_from(ENDS[family][:1] * 5 + ENDS[family]))
    return rfc.tcp_frame(family, draw(flags), seq, 1, data, sport=sport, tos=tos, ttl=ttl, ends=ends)


@st.composite
def changed(draw, frames):
    """A few octets other than they were, or fewer of them than the headers say, or more."""
    frame = bytearray(draw(frames))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)):
        frame[place % len(frame)] = value
    cut = draw(st.sampled_from([0, 0, 1, 40]))
    return bytes(frame[: len(frame) - cut]) + bytes(draw(st.sampled_from([0, 0, 6])))


common = udp() | tcp()
others = st.one_of(
    udp(tails=chains),
    udp(version=2),
    foreign(),
    tcp(flags=st.sampled_from([0x02, 0x04, 0x10, 0x11, 0x18])),
    st.just(rfc.MACS + b"\x08\x06" + bytes(28)),
    changed(udp() | tcp() | foreign()),
)
statuses = st.sampled_from([READY, READY, READY, NOT_READY])


def batches(frames):
    of_one = st.lists(st.tuples(frames, st.sampled_from([1, 1, 1, 2]), statuses), min_size=1, max_size=FEW)
    return st.tuples(of_one, st.integers(0, 2), st.booleans(), st.booleans())


def compare(steps, *, reconnect: bool = False, **more) -> None:
    """Both ways, step by step; with `reconnect`, over new connections each time."""
    few, arrays = Twin(False, **more), Twin(True, **more)
    for bench in (few, arrays):
        bench.inward.receiver.stale = bytes(range(256)) * 7
    for number, (batch, drops, fails, forgets) in enumerate(steps):
        for bench in (few, arrays):
            if reconnect or not number:
                for family, sport in itertools.product((4, 6), PORTS):
                    bench.connect(family, sport)
            if fails:
                bench.outward.sender.fail_next(0, "link_down")
            if forgets:
                bench.forget()
        assert few.answer(batch, drops) == arrays.answer(batch, drops)
        assert few.state() == arrays.state()


some = settings(deadline=None, max_examples=300)


@some
@given(st.lists(batches(common), min_size=1, max_size=4))
def test_probes_of_ours_one_by_one_are_answered_as_in_arrays(steps):
    compare([(batch, drops, False, False) for batch, drops, _, _ in steps])


@some
@given(st.lists(batches(common | others), min_size=1, max_size=4), st.sampled_from([[], ALLOWED]))
def test_so_are_batches_of_anything(steps, allow):
    compare(steps, allow=allow)


@settings(deadline=None, max_examples=50)
@given(st.lists(batches(common | others), min_size=1, max_size=3))
def test_and_with_a_key(steps):
    compare(steps, key=b"0123456789abcdef")


@pytest.mark.parametrize("status", [READY, NOT_READY])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_whatever_octet_is_another(transport, family, status):
    """Each by itself, whether its checksum is judged or not; then it stands between two that are whole."""
    made = iter(range(10_000))

    def probe() -> bytes:
        if transport == "tcp":
            return rfc.tcp_frame(family, 0x18, 0xFFFFFF01, 1, cookie(6, next(made)) + b"abc")
        payload = rfc.request(3, (1, 2), 4, 5, report(6, next(made)) + rfc.tlv(1, b"abc"))
        return rfc.udp_frame(family, payload, no_checksum=family == 4 and status == READY)

    steps = []
    for place in range(len(probe())):
        for bit in (0, 2, 7):
            frames = [probe() for _ in range(3)]
            frames[1] = frames[1][:place] + bytes([frames[1][place] ^ 1 << bit]) + frames[1][place + 1 :]
            steps.append(([(frame, 1, status) for frame in frames], 0, False, False))
    compare(steps, reconnect=transport == "tcp")  # the one before may have ended it


# --- which way a batch goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allow", [[], ["192.0.2.0/24", "2001:db8::/48"]])
def test_a_packet_that_ends_within_its_headers_is_no_request(allow):
    frame = bytearray(rfc.tcp_frame(4, 0x18, 1, 1))
    frame[16:18] = b"\0\0"  # its total length, by the IP header
    not_ready = 8
    compare([([(bytes(frame), 1, READY | not_ready)], 0, False, False)], allow=allow)


def refuse(frames):
    raise AssertionError("taken as arrays")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tail", [b"", rfc.tlv(1, b""), rfc.tlv(1, bytes(7)), rfc.tlv(1, bytes(1344))])
def test_probes_of_ours_never_become_arrays(family, tail):
    bench = Twin(False, allow=ALLOWED)
    bench.connect(family, 40_000)
    bench.reflector._take = refuse
    for n in range(0, 4 * FEW, FEW):
        frames = [
            rfc.udp_frame(family, rfc.request(s, (1, 2), tlvs=report(5, s) + tail)) for s in range(n, n + FEW - 2)
        ]
        frames += [rfc.tcp_frame(family, 0x18, 0xFFFFFF01, 1, cookie(6, s)) for s in (n, n + 1)]
        assert len(bench.answer([(frame, 1, READY) for frame in frames])) == FEW


def test_nor_do_those_whose_checksum_cannot_be_judged():
    """UDP over IPv4 may have none; a sender on this host leaves it to a card that never sees the frame."""
    bench = Twin(False)
    bench.reflector._take = refuse
    payload = rfc.request(0, (1, 2), tlvs=report(5, 1))
    bare = rfc.udp_frame(4, payload, no_checksum=True)
    assert len(bench.answer([(bare, 1, READY)])) == 1
    for family in (4, 6):
        left = bytearray(rfc.udp_frame(family, payload))
        left[layout.l4_offset(family) + 6] ^= 1
        assert len(bench.answer([(bytes(left), 1, NOT_READY)])) == 1


def test_many_become_arrays_and_so_does_a_part_with_anything_else():
    bench = Twin(False)
    taken: list[int] = []
    take = bench.reflector._take
    bench.reflector._take = lambda frames: (taken.append(len(frames.octets)), take(frames))[1]

    def probe(sequence: int, family: int = 4) -> tuple[bytes, int, int]:
        return rfc.udp_frame(family, rfc.request(0, (1, 2), tlvs=report(5, sequence))), 1, READY

    assert len(bench.answer([probe(n) for n in range(FEW + 1)])) == FEW + 1
    assert taken == [FEW + 1]
    other = rfc.udp_frame(4, rfc.request(0, (1, 2))), 1, READY
    batch = [probe(9), other, probe(10, family=6), probe(11), (*probe(12)[:1], 2, READY)]
    assert len(bench.answer(batch)) == 5
    assert taken == [FEW + 1, 3]  # IPv4 on the first interface; the rest one by one


# --- the pause -------------------------------------------------------------------------------------------------------


class Slow(Bench):
    """A reflector on a host where each reply takes as long as it says."""

    def __init__(self, cost_ns: int):
        super().__init__()
        self.cost_ns = cost_ns

    def transmitter_on(self, ifindex, octets):
        self.clock.advance(self.cost_ns)
        return self.outward.sender

    def reflect(self, count: int, interval_ns: int, frames: int = 1) -> None:
        """Batches of so many frames of one session, the batches that far apart."""
        for n in range(count):
            probes = [rfc.request(0, (1, 2), tlvs=report(5, n * frames + i)) for i in range(frames)]
            assert len(self.answers(*(rfc.udp_frame(4, p) for p in probes))) == frames
            self.clock.advance(interval_ns - 1000)


MS = 1_000_000


def test_a_reply_waits_a_quarter_of_the_interval_where_that_costs_little():
    bench = Slow(0)
    bench.reflect(1000, MS)
    assert MS // 5 < bench.reflector.pause_ns(1) <= MS // 4
    bench.reflect(3000, MS // 10)
    assert MS // 50 <= bench.reflector.pause_ns(1) <= MS // 40


@pytest.mark.parametrize("cost_ns", [30_000, 300_000, 1_000_000])
def test_small_batches_take_a_third_of_the_time_at_most(cost_ns):
    bench = Slow(cost_ns)
    bench.reflect(200, 400_000, frames=8)
    assert 1.9 * cost_ns < bench.reflector.pause_ns(1) < 2.1 * cost_ns
    bench.cost_ns = 0  # a host that was busy is so no more
    bench.reflect(1200, 400_000, frames=8)  # two ticks
    assert bench.reflector.pause_ns(1) == 20_000


def test_one_stall_is_no_habit():
    bench = Slow(0)
    bench.reflect(400, 50_000)
    bench.cost_ns = 10_000 * MS
    bench.reflect(1, 50_000)
    assert bench.reflector.pause_ns(1) < MS


def test_no_reply_waits_for_long_and_full_batches_not_at_all():
    bench = Slow(100 * MS)
    bench.reflect(100, 200 * MS)
    assert bench.reflector.pause_ns(1) == 4 * MS
    assert bench.reflector.pause_ns(64) == bench.reflector.pause_ns(1023) == MS // 2
    assert bench.reflector.pause_ns(1024) == bench.reflector.pause_ns(5000) == 0
    bench = Slow(0)
    bench.reflect(20, 0, frames=64)  # they say nothing about small ones
    bench.cost_ns = MS
    bench.reflect(20, 0, frames=64)
    assert bench.reflector.pause_ns(1) < MS // 10
