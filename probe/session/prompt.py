"""A Session-Reflector's answers to a few probes at once: one frame after the other, in plain Python.

A hundred operations on arrays cost the same for one frame as for hundreds. Where replies leave promptly most batches
hold one frame or two; those are turned round here for a tenth of that, octet for octet as `reflector.py` would. Only
what a flow of ours sends all the time is read: UDP with our report, behind it nothing or one Extra Padding up to the
end, unauthenticated; and data of an established TCP connection. A part of a batch (one family, transport and interface)
with any other frame in it is left to the arrays whole, as its frames may belong to one session and their order counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from probe.clock import Clock
from probe.link.base import Frames
from probe.session.listener import Listener
from probe.session.peers import SEQUENCES, Peers, Told
from probe.session.replier import REPLY_CHECKSUM, Replier
from probe.session.turning import LONGEST_REQUEST, connection_key_one, mapped_one, turn
from probe.wire import layout, sizes
from probe.wire.checksum import MODULUS, complement, word_sum
from probe.wire.dissect import CHECKSUM_NOT_READY
from probe.wire.fields import Run, offset, reader, run
from probe.wire.packet import set_network_length
from probe.wire.stamp import TLV_EXTRA_PADDING, TLV_REPORT, ntp_time

FEW = 8  # more frames than these are cheaper as arrays
_U32 = 0xFFFFFFFF
_CONTROL = layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN
_FAMILIES = {layout.ETH_IP.to_bytes(2, "big"): 4, layout.ETH_IPV6.to_bytes(2, "big"): 6}
_ETH_TYPE = slice(offset("network", 4, "eth_type"), offset("network", 4, "eth_type") + 2)
_NETWORK_END = layout.l4_offset(4)
_PROTO_AT = {family: offset("network", family, "proto") for family in (4, 6)}
_PADDING = struct.Struct(">BH")  # of a TLV's header, behind its flags


class Kind(NamedTuple):
    """What the frames of a part have in common."""

    family: int
    proto: int
    ifindex: int


class Request(NamedTuple):
    """A probe of ours.

    Attributes:
        frame: As it came, without what stands behind the packet.
        stamp_ns: When it came, CLOCK_REALTIME.
        ttl, source, sport: From its headers.
        session, sequence: From our TLV or cookie.
        told: What else its reply is made of: of STAMP the sender's sequence, time and Error Estimate, of TCP the
            connection's key and the segment's sequence number.
    """

    frame: bytearray
    stamp_ns: int
    ttl: int
    source: bytes
    sport: int
    session: int
    sequence: int
    told: tuple[int, ...]


_Found = tuple[int, int, tuple[int, ...]]  # session, sequence and `told` of a Request


@dataclass(frozen=True, slots=True)
class _Form:
    """Where the fields of our frames of one family and transport stand.

    Attributes:
        l4: Where the transport header begins.
        covered: Where the addresses begin, from which on the transport checksum covers everything.
        before_length: Octets that the length in the IP header does not count.
        least: Octets of the shortest frame.
        checksum_at: Where the transport checksum stands.
        read: Length, TTL, source and ports; then what tells a probe of ours.
        header, received, sender, report: What a reply says, in runs.
        left: When it leaves.
        comp: Its compensator.
    """

    l4: int
    covered: int
    before_length: int
    least: int
    checksum_at: int
    read: struct.Struct
    header: Run
    received: Run
    sender: Run | None
    report: Run
    left: Run
    comp: Run


_UDP_TOLD = ("udp_length", "stamp_seq", "stamp_time", "error_estimate")
_UDP_READ = (*_UDP_TOLD, "tlv_type", "tlv_length", "session", "sequence", "version")
_UDP_HEADER = ("checksum", "stamp_seq", "stamp_time", "error_estimate")
_UDP_SENDER = ("sender_seq", "sender_time", "sender_error", "sender_mbz", "sender_ttl", "mbz3", "tlv_flags")
_TCP_READ = ("seq", "offset", "flags", "magic", "session", "sequence")
_TCP_HEADER = ("seq", "ack", "offset", "flags", "window", "checksum")
_GAPS = ("gap_total", "gap_index", "gap_start", "gap_length")
_REPORT = ("boot", "q", *_GAPS, "drops", "seen_address", "seen_port", "seen_ttl")


@cache
def _form(family: int, proto: int) -> _Form:
    udp = proto == layout.IPPROTO_UDP
    name = "udp" if udp else "tcp"
    length = "ip_length" if family == 4 else "payload_length"
    l4 = layout.l4_offset(family)
    read = ("ttl", "src", "dst", "sport", "dport", *(_UDP_READ if udp else _TCP_READ))
    return _Form(
        l4=l4,
        covered=offset(name, family, "src"),
        before_length=sizes.ETHERNET if family == 4 else l4,
        least=l4 + (sizes.UDP_HEADER + sizes.UDP_PAYLOAD if udp else sizes.TCP_HEADER + sizes.TCP_PAYLOAD),
        checksum_at=offset(name, family, "checksum"),
        read=reader("udp_sender" if udp else name, family, length, *read),
        header=run(name, family, *(_UDP_HEADER if udp else _TCP_HEADER)),
        received=run(name, family, "received_time"),
        sender=run(name, family, *_UDP_SENDER) if udp else None,
        report=run(name, family, *_REPORT),
        left=run(name, family, "stamp_time" if udp else "reply_time"),
        comp=run(name, family, "comp"),
    )


def parts(frames: Frames) -> list[tuple[Kind, list[int]]]:
    """Rows of frames of one kind, in the order in which the arrays take them; what is not IP is in none."""
    found: dict[Kind, list[int]] = {}
    for row, index in enumerate(frames.ifindex.tolist()):
        head = frames.octets[row, :_NETWORK_END].tobytes()
        family = _FAMILIES.get(head[_ETH_TYPE])
        if family is not None:
            found.setdefault(Kind(family, head[_PROTO_AT[family]], index), []).append(row)
    return sorted(found.items())


class Prompt:
    """Reads and answers a few probes.

    Args:
        clock: Both clocks.
        peers: Sessions.
        listener: TCP connections.
        replier: Sends.
        ports: Port by transport; what is not in it is not read.
        allowed: Whether a source address may use the reflector.
        ours: Whether an address is this host's, on the interface of that index.
        error_estimate: STAMP Error Estimate of our clock.
    """

    def __init__(
        self,
        clock: Clock,
        peers: Peers,
        listener: Listener,
        replier: Replier,
        *,
        ports: Mapping[int, int],
        allowed: Callable[[bytes], bool],
        ours: Callable[[bytes, int], bool],
        error_estimate: int,
    ):
        self._clock, self._peers, self._listener, self._replier = clock, peers, listener, replier
        self._ports, self._allowed, self._ours, self.error_estimate = ports, allowed, ours, error_estimate

    def read(self, kind: Kind, frames: Frames, rows: list[int]) -> list[Request] | None:
        """The probes in a part; None if anything else is in it, or a probe that is not whole."""
        port = self._ports.get(kind.proto)
        if port is None:
            return None
        form, requests = _form(kind.family, kind.proto), []
        for row in rows:
            octets, status, kept = frames.octets[row].tobytes(), int(frames.status[row]), int(frames.kept[row])
            request = self._read_one(kind, form, port, octets, int(frames.stamps_ns[row]), status, kept)
            if request is None:
                return None
            requests.append(request)
        return requests

    def _read_one(
        self, kind: Kind, form: _Form, port: int, row: bytes, stamp_ns: int, status: int, kept: int
    ) -> Request | None:
        length, ttl, source, target, sport, dport, *rest = form.read.unpack_from(row)
        end = length + form.before_length
        if dport != port or not form.least <= end <= min(kept, LONGEST_REQUEST) or not self._allowed(source):
            return None
        if not self._ours(target, kind.ifindex):
            return None
        frame = bytearray(row[:end])
        if status & CHECKSUM_NOT_READY == 0 and _sum(kind, form, frame) % MODULUS and not _unsummed(kind, form, frame):
            return None
        udp = kind.proto == layout.IPPROTO_UDP
        found = _read_udp(form, frame, rest) if udp else self._read_tcp(source, sport, rest)
        return None if found is None else Request(frame, stamp_ns, ttl, source, sport, *found)

    def _read_tcp(self, source: bytes, sport: int, rest: list[int]) -> _Found | None:
        seq, data_offset, flags, magic, session, sequence = rest
        key = connection_key_one(source, sport)
        ours = magic == layout.MAGIC and data_offset == 5 << 4 and not flags & _CONTROL and sequence < SEQUENCES
        return (session, sequence, (key, seq)) if ours and self._listener.knows(key) else None

    def answer(self, kind: Kind, requests: list[Request], drops: int) -> int:
        """Answer the probes of a part; how many replies could not be sent.

        Args:
            kind: Of them.
            requests: In order of arrival.
            drops: What the reflector has dropped so far.
        """
        form = _form(kind.family, kind.proto)
        now = self._clock.mono_ns()
        answers = self._peers.answer_few([r.session for r in requests], [r.sequence for r in requests], now)
        if kind.proto == layout.IPPROTO_UDP:
            for request, answer in zip(requests, answers, strict=True):
                self._write_udp(form, request, answer[1])
        else:
            self._write_tcp(form, requests, now)
        for request, answer in zip(requests, answers, strict=True):
            _write_report(form, request, answer, drops)
            turn(request.frame, kind.family)
            if kind.family == 4:
                set_network_length(request.frame, 4, len(request.frame) - form.l4)
        return self._replier.send_few([r.frame for r in requests], kind.ifindex, partial(self._finish, kind, form))

    def _write_udp(self, form: _Form, request: Request, q: int) -> None:
        frame, (sequence, sent, estimate) = request.frame, request.told
        form.header.write(frame, REPLY_CHECKSUM, q & _U32, 0, self.error_estimate)
        form.received.write(frame, ntp_time(request.stamp_ns))
        assert form.sender is not None
        form.sender.write(frame, sequence, sent, estimate, 0, request.ttl, bytes(3), 0)
        if len(frame) > form.least:
            frame[form.least] = 0  # flags of the padding: it is understood

    def _write_tcp(self, form: _Form, requests: list[Request], now: int) -> None:
        keys, seqs = [r.told[0] for r in requests], [r.told[1] for r in requests]
        carried = [len(r.frame) - form.l4 - sizes.TCP_HEADER for r in requests]
        numbers = self._listener.numbers_few(keys, seqs, carried, now)
        for request, (seq, ack) in zip(requests, numbers, strict=True):
            flags = layout.TCP_PSH | layout.TCP_ACK
            form.header.write(request.frame, seq, ack, 5 << 4, flags, layout.PROBE_WINDOW, REPLY_CHECKSUM)
            form.received.write(request.frame, request.stamp_ns)
            form.left.write(request.frame, 0)

    def _finish(self, kind: Kind, form: _Form, frame: bytearray) -> None:
        """Write the time at which a reply leaves, last of all, and what makes its checksum right."""
        total = _sum(kind, form, frame)
        wall = self._clock.wall_ns()
        stamp = ntp_time(wall) if kind.proto == layout.IPPROTO_UDP else wall
        form.left.write(frame, stamp)
        form.comp.write(frame, complement(total + stamp))


def _read_udp(form: _Form, frame: bytearray, rest: list[int]) -> _Found | None:
    udp_length, stamp_seq, stamp_time, estimate, tlv_type, tlv_length, session, sequence, version = rest
    ours = tlv_type == TLV_REPORT and tlv_length == sizes.TLV_VALUE and version == layout.VERSION
    if not ours or sequence >= SEQUENCES or udp_length != len(frame) - form.l4:
        return None
    behind = len(frame) - form.least
    if behind:
        padding = behind - sizes.TLV_HEADER
        if padding < 0 or _PADDING.unpack_from(frame, form.least + 1) != (TLV_EXTRA_PADDING, padding):
            return None
    return session, sequence, (stamp_seq, stamp_time, estimate)


def _write_report(form: _Form, request: Request, answer: Told, drops: int) -> None:
    boot, q, total, index, start, length = answer
    told = boot, q & _U32, total & _U32, index & _U32, start, length & _U32, drops & _U32
    form.report.write(request.frame, *told, mapped_one(request.source), request.sport, request.ttl)
    form.comp.write(request.frame, 0)


def _sum(kind: Kind, form: _Form, frame: bytearray) -> int:
    """Word sum of a packet's addresses, transport header, payload, transport length and protocol."""
    return word_sum(frame[form.covered :]) + kind.proto + len(frame) - form.l4


def _unsummed(kind: Kind, form: _Form, frame: bytearray) -> bool:
    """Whether it says that it has no checksum, as UDP over IPv4 may."""
    none = not any(frame[form.checksum_at : form.checksum_at + 2])
    return none and kind.family == 4 and kind.proto == layout.IPPROTO_UDP
