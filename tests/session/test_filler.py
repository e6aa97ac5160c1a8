"""Frames as they leave, judged by Scapy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.stamp import STAMPSessionSenderTestUnauthenticated
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from probe.clock import ManualClock
from probe.link.memory import MemoryLink
from probe.session.filler import Filler, syn_number
from probe.session.flows import SYN_STEP, SYN_STEP_INVERSE, FlowTable
from probe.wire import layout
from probe.wire.packet import transport_sum
from probe.wire.stamp import sign, unix_ns_from_ntp

from .flow import KEY, KINDS, add

WALL = 1_763_800_000_123_456_789
U32 = 0xFFFFFFFF


def fill(table: FlowTable, flow, sequence, wall=None, *, slot_octets: int = 256) -> list[bytes]:
    """The frames of a batch, as the link would send them."""
    link = MemoryLink(ManualClock(), slots=1024, slot_octets=slot_octets)
    raw = link.sender.view(layout.raw_dtype(link.sender.slot_octets))
    raw[:] = 0xEE  # what earlier frames left behind
    flow, sequence = np.array(flow, np.int64), np.array(sequence, np.int64)
    wall = np.full(len(flow), WALL) if wall is None else np.array(wall, np.int64)
    lengths = Filler(link.sender, table).fill(3, flow, sequence, wall)
    return [raw[3 + n, : int(length)].tobytes() for n, length in enumerate(lengths)]


def one_flow(name: str, family: int, ids=(50_000,), **more) -> FlowTable:
    table = FlowTable(4, 1600)
    add(table, 1, name, family, list(ids), **more)
    table.tcp_base[1], table.tcp_step[1], table.tcp_ack[1] = 0xFFFFFF00, 100, 0x89ABCDEF
    return table


def checksum_of(frame: bytes, name: str, family: int) -> int:
    kind = {"icmp": "icmp", "tcp": "tcp_header", "syn": "tcp_header"}.get(name, "udp_base")
    return int(np.frombuffer(frame, layout.frame_dtype(kind, family), 1)["checksum"][0])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    sequences=st.lists(st.integers(0, 1 << 48) | st.integers(0, 70_000), min_size=1, max_size=20),
    wall=st.integers(WALL, WALL + (1 << 60)),
)
def test_every_frame_has_a_right_checksum(name, family, sequences, wall):
    table = one_flow(name, family, ids=(50_000, 50_001, 7), per_id=1)
    for frame in fill(table, [1] * len(sequences), sequences, [wall + 7 * n for n in range(len(sequences))]):
        assert transport_sum(frame, family) == 0
        packet = (IP if family == 4 else IPv6)(frame[14:])
        field = "cksum" if name == "icmp" and family == 6 else "chksum"
        told = getattr(packet.payload, field)
        delattr(packet.payload, field)
        right = getattr(type(packet)(bytes(packet)).payload, field)
        assert told % 0xFFFF == right % 0xFFFF and not (name.startswith("udp") and told == 0)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", ["icmp", "udp", "tcp"])
def test_the_checksum_of_a_kept_flow_never_changes(name, family):
    # Per-flow balancers hash the first octets behind the IP header, in ICMP the checksum among them.
    table = one_flow(name, family)
    sequences = np.r_[0:2000, 65_530:65_540, 2**32 - 2 : 2**32 + 2, 2**40]
    seen = set()
    for part in np.array_split(sequences, 8):
        walls = WALL + part * 999_983
        seen |= {checksum_of(f, name, family) for f in fill(table, [1] * len(part), part, walls)}
    assert len(seen) == 1


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_carries_its_number(family):
    [frame] = fill(one_flow("icmp", family), [1], [(3 << 32) + 70_000])
    view = np.frombuffer(frame, layout.frame_dtype("icmp", family), 1)[0]
    assert (view["id"], view["seq16"], view["sequence"]) == (50_000, 70_000 & 0xFFFF, (3 << 32) + 70_000)
    assert view["sent"] == WALL and view["magic"] == layout.MAGIC and view["session"] == 0x1234567890ABCDEF


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", ["udp", "udp_base", "udp_auth"])
def test_udp_carries_stamp(name, family):
    [frame] = fill(one_flow(name, family), [1], [(3 << 32) + 5])
    assert Ether(frame)[UDP].sport == 50_000
    layouts = {"udp": "udp_sender", "udp_base": "udp_base", "udp_auth": "udp_auth"}
    view = np.frombuffer(frame, layout.frame_dtype(layouts[name], family), 1)[0]
    # The low 32 bits (contract); our own TLV has them all.
    assert view["stamp_seq"] == 5 and view["error_estimate"] == 0x8587 and view["ssid"] == 0xCDEF
    stamp = np.array([view["stamp_time"]], np.uint64)
    assert unix_ns_from_ntp(stamp, WALL // 10**9).tolist() == [WALL]
    if name == "udp":
        assert view["sequence"] == (3 << 32) + 5
    if name == "udp_auth":
        content = frame[layout.l4_offset(family) + 8 :]
        assert bytes(view["hmac"]) == sign(KEY, content[:96])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", ["udp", "udp_base"])
def test_scapy_s_stamp_layer_reads_what_we_send(name, family):
    """The base packet. Scapy reads TLV flags from the wrong end, so of the TLV only type and length are compared."""
    [frame] = fill(one_flow(name, family), [1], [77])
    read = Ether(frame)[STAMPSessionSenderTestUnauthenticated]
    assert (read.seq, read.ssid, read.mbz) == (77, 0xCDEF, 0)
    estimate = read.err_estimate
    assert (estimate.S, estimate.Z, estimate.scale, estimate.multiplier) == (1, 0, 5, 0x87)
    assert abs(float(read.ts) - 2_208_988_800 - WALL / 1e9) < 1e-5
    assert [(tlv.type, tlv.len) for tlv in read.tlv_objects] == ([(240, 76)] if name == "udp" else [])


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_goes_on_where_the_last_probe_ended(family):
    frames = fill(one_flow("tcp", family), [1, 1, 1], [0, 1, 3])
    segments = [Ether(f)[TCP] for f in frames]
    assert [s.seq for s in segments] == [0xFFFFFF00, 0xFFFFFF64, 0x2C]  # modulo 2^32
    assert {(s.sport, s.ack, str(s.flags)) for s in segments} == {(50_000, 0x89ABCDEF, "PA")}


@pytest.mark.parametrize("family", [4, 6])
def test_a_syn_tells_which_probe_it_is(family):
    table = one_flow("syn", family, ids=tuple(range(50_000, 50_010)), per_id=1)
    sequences = [0, 1, 9, 10, 2**32 - 1, 2**32]
    for frame, sequence in zip(fill(table, [1] * 6, sequences), sequences, strict=True):
        syn = Ether(frame)[TCP]
        assert str(syn.flags) == "S" and syn.sport == 50_000 + sequence % 10
        assert (syn.seq - 0xFFFFFF00) * SYN_STEP_INVERSE % (1 << 32) == sequence & U32


@given(st.integers(0, U32), st.integers(0, 1 << 62))
def test_the_number_of_a_syn_can_be_undone(base, sequence):
    number = int(syn_number(np.array([base]), np.array([sequence], np.uint64))[0])
    assert number == (base + sequence * SYN_STEP) % (1 << 32)
    assert (number - base) * SYN_STEP_INVERSE % (1 << 32) == sequence & U32


def test_a_batch_of_many_kinds_is_filled_row_by_row():
    table = FlowTable(16, 1600)
    shapes = [(name, family) for name in KINDS for family in (4, 6)]
    for index, (name, family) in enumerate(shapes):
        add(table, index, name, family, [40_000 + index])
        table.tcp_step[index] = 100
    order = list(np.random.default_rng(1).permutation(np.repeat(np.arange(len(shapes)), 5)))
    sequences = list(range(100, 100 + len(order)))
    for frame, index, sequence in zip(fill(table, order, sequences), order, sequences, strict=True):
        name, family = shapes[index]
        alone = fill(table, [index], [sequence])[0]
        assert frame == alone and transport_sum(frame, family) == 0, name


@pytest.mark.parametrize("family", [4, 6])
def test_resets_close_half_open_connections(family):
    table = one_flow("syn", family, ids=(50_000, 50_001), per_id=1)
    link = MemoryLink(ManualClock(), slot_octets=128)
    raw = link.sender.view(layout.raw_dtype(link.sender.slot_octets))
    raw[:] = 0xEE
    one = np.array([1, 1])
    lengths = Filler(link.sender, table).fill_resets(0, one, np.array([50_000, 50_001]), np.array([5, U32]))
    for n, (port, seq) in enumerate([(50_000, 5), (50_001, U32)]):
        frame = raw[n, : int(lengths[n])].tobytes()
        assert transport_sum(frame, family) == 0
        segment = Ether(frame)[TCP]
        assert (str(segment.flags), segment.sport, segment.seq, segment.dataofs) == ("R", port, seq, 5)
        if family == 4:
            right = IP(frame[14:])
            del right.chksum
            assert IP(frame[14:]).chksum == IP(bytes(right)).chksum
