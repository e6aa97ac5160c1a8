"""The Session-Reflector: answers STAMP over UDP (RFC 8762, stateful) and our probes over raw TCP.

A reply is the request turned round in place: addresses and ports swapped, its own fields filled in, sent back out of
the interface and to the MAC address that the request came from. It carries when the request arrived (the kernel's
stamp) and when the reply left, so that time spent here can be told from the network's.

TCP is answered without the kernel's stack: SYN with SYN/ACK, and after the handshake one extra acknowledgement whose
window is scaled (session/tcp.py says why); data with data of the same length.
"""

from __future__ import annotations

import gc
import hmac
import ipaddress
import random
import select
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.border import Channel, SharedState
from probe.clock import Clock
from probe.core.arrays import distinct, pick, where_all
from probe.link.base import FrameReceiver, FrameSender
from probe.session.peers import Answer, Peers, Session
from probe.session.tcp import SERIAL, SYN_OPTIONS, control_segment
from probe.wire import layout, sizes
from probe.wire.checksum import complements, row_sums
from probe.wire.dissect import Batch, frame_ends, intact, split
from probe.wire.stamp import TLV_EXTRA_PADDING, TLV_REPORT, TLV_UNKNOWN, ntp_from_unix_ns, sign

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

MAX_BATCH = 1024
TICK_NS = 200_000_000
REPLY_TTL = 255  # RFC 5357, section 4.2.1
SHORTEST_REQUEST = 14  # octets of a TWAMP sender's packet without padding (RFC 8762, section 4.6)
_U64 = np.uint64


class ReflectorLinks(Protocol):
    """Where a reflector's links come from."""

    def receivers(self) -> list[FrameReceiver]: ...

    def transmitter_on(self, ifindex: int) -> FrameSender: ...

    def expect(self, rate_pps: float) -> None:
        """How many replies a second there are at present: links may be chosen by it."""


class Reflector:
    """Answers on one UDP and one TCP port.

    Args:
        links: Opens links.
        clock: Both clocks.
        shared: Counters for the control process.
        udp: UDP port, 0: none.
        tcp: TCP port, 0: none.
        allow: Networks that may use it; empty: all.
        error_estimate: STAMP Error Estimate of our clock.
        key: For authenticated STAMP: with a key, nothing else is answered over UDP.
        rng: For initial sequence and boot numbers.
    """

    def __init__(
        self,
        links: ReflectorLinks,
        clock: Clock,
        shared: SharedState,
        *,
        udp: int,
        tcp: int,
        allow: list[str],
        error_estimate: int,
        key: bytes = b"",
        rng: random.Random | None = None,
    ):
        self._links, self._clock, self._shared = links, clock, shared
        self._udp, self._tcp = udp, tcp
        self._allow = [ipaddress.ip_network(net) for net in allow]
        self._error_estimate = error_estimate
        self._key = key
        self._rng = rng or random.SystemRandom()
        self._probes = Peers(self._rng)
        self._connections: dict[int, Session] = {}
        self._half_open: dict[int, tuple[int, int]] = {}  # connection key to (our initial number, time)
        self._drops = 0
        self._next_tick = 0
        self._reflected = self._ticked = 0  # replies at the last tick, and its time
        self._views: dict[tuple[int, str, int], npt.NDArray[Any]] = {}

    def turn(self) -> int:
        """Answer what has arrived; how many frames there were."""
        total = 0
        for receiver in self._links.receivers():
            for _ in range(64):
                first, count = receiver.ready(MAX_BATCH)
                if not count:
                    break
                total += count
                self._take(receiver, first, count)
                receiver.release(count)
            self._drops += receiver.drops()
        now = self._clock.mono_ns()
        if now >= self._next_tick:
            self._next_tick = now + TICK_NS
            self._tick(now)
        return total

    def _tick(self, now: int) -> None:
        self._probes.expire(now)
        stale = [key for key, (_, at) in self._half_open.items() if now - at > 10_000_000_000]
        for key in stale:
            del self._half_open[key]
        header = self._shared.header
        header["heartbeat"], header["ring_drops"] = now, self._drops
        header["sessions"] = len(self._probes.sessions)
        header["cpu_ns"] = time.process_time_ns()
        reflected = int(header["reflected"][0])
        self._links.expect((reflected - self._reflected) * 1e9 / (now - self._ticked) if self._ticked else 0.0)
        self._reflected, self._ticked = reflected, now

    def _view(self, link: FrameReceiver | FrameSender, name: str, family: int) -> npt.NDArray[Any]:
        key = (id(link), name, family)
        if key not in self._views:
            dtype = layout.raw_dtype(link.slot_octets) if name == "raw" else layout.frame_dtype(name, family)
            self._views[key] = link.view(dtype)
        return self._views[key]

    def _take(self, receiver: FrameReceiver, first: int, count: int) -> None:
        window = slice(first, first + count)
        network = {f: self._view(receiver, "network", f)[window] for f in (4, 6)}
        raw = self._view(receiver, "raw", 0)[window]
        stamps, status = receiver.stamps_ns(first, count), receiver.status(first, count)
        ifindex = receiver.ifindex(first, count)
        for batch in split(network[4], network[6]):
            ends = frame_ends(batch, network[batch.family])
            good = intact(raw, batch, ends, status[batch.rows]) & (ends <= raw.shape[1])
            if self._allow:
                good &= self._allowed(network[batch.family]["src"][batch.rows])
            for index in distinct(ifindex[batch.rows]):
                rows = good & (ifindex[batch.rows] == index)
                if not rows.any():
                    continue
                part = Batch(batch.family, batch.proto, batch.rows[rows])
                if batch.proto == layout.IPPROTO_UDP and self._key:
                    self._answer_signed(raw, part, ends[rows], stamps[part.rows], index)
                elif batch.proto == layout.IPPROTO_UDP:
                    self._answer_udp(raw, part, ends[rows], stamps[part.rows], index)
                elif batch.proto == layout.IPPROTO_TCP:
                    self._answer_tcp(raw, part, ends[rows], stamps[part.rows], index)

    def _allowed(self, sources: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        unique, where = np.unique(sources, return_inverse=True)
        verdict = np.array([any(ipaddress.ip_address(bytes(u)) in net for net in self._allow) for u in unique], bool)
        return verdict[where]

    # --- UDP ---------------------------------------------------------------------------------------------------

    def _answer_udp(self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        l4 = layout.l4_offset(batch.family)
        view = _rows(raw, batch.rows, "udp_sender", batch.family)
        mine = (view["dport"] == self._udp) & (ends >= l4 + 8 + SHORTEST_REQUEST)
        if not mine.any():
            return
        rows, ends, stamps, view = where_all(mine, batch.rows, ends, stamps, view)
        base = l4 + 8 + sizes.STAMP_BASE
        ours = (ends >= base + sizes.TLV_HEADER + sizes.TLV_VALUE) & (view["tlv_type"] == TLV_REPORT)
        ours &= (view["tlv_length"] == sizes.TLV_VALUE) & (view["version"] == layout.VERSION)
        key, sequence = view["session"].astype(_U64), view["sequence"].astype(np.int64)
        if not ours.all():
            key = np.where(ours, key, _sender_key(view, batch.family))
            sequence = np.where(ours, sequence, self._unwrapped(key, view["stamp_seq"].astype(np.int64)))
        now = self._clock.mono_ns()
        answer = self._probes.answer(key, sequence, now)
        frames = _padded(raw, rows, np.maximum(ends, base))
        reply = _as(frames, "udp", batch.family)
        request_ttl = reply["ttl"].copy()
        _turn_round(reply)
        grown = ends < base  # a shorter request gets the whole base packet (RFC 8762, section 4.6)
        if grown.any():
            self._grow(frames, reply, grown, l4, batch.family)
            ends = np.maximum(ends, base)
        wall = self._clock.wall_ns()
        sender = {name: reply[name].copy() for name in ("stamp_seq", "stamp_time", "error_estimate")}
        reply["stamp_seq"] = answer.q & 0xFFFFFFFF
        reply["stamp_time"] = ntp_from_unix_ns(np.array([wall], np.int64))[0]
        reply["error_estimate"] = self._error_estimate
        reply["received_time"] = ntp_from_unix_ns(stamps)
        reply["sender_seq"], reply["sender_time"] = sender["stamp_seq"], sender["stamp_time"]
        reply["sender_error"] = sender["error_estimate"]
        reply["sender_mbz"] = 0
        reply["sender_ttl"] = request_ttl
        reply["mbz3"] = b"\0\0\0"
        if ours.any():
            self._report(reply, ours, answer, request_ttl, batch.family)
            reply["tlv_flags"][ours] = 0
        self._understand_padding(frames, ends, base, ours)
        self._send(frames, reply, ends, batch.family, ifindex, ours)

    def _answer_signed(self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        """Authenticated STAMP (RFC 8762, sections 4.2.2 and 4.3.2): the signature is looked at first."""
        l4 = layout.l4_offset(batch.family)
        start = l4 + sizes.UDP_HEADER
        view = _rows(raw, batch.rows, "udp_auth", batch.family)
        mine = (view["dport"] == self._udp) & (ends >= start + sizes.STAMP_AUTH)
        for i in np.flatnonzero(mine).tolist():
            packet = raw[batch.rows[i], start : start + sizes.STAMP_AUTH].tobytes()
            genuine = sign(self._key, packet[: sizes.STAMP_SIGNED])
            mine[i] = hmac.compare_digest(genuine, packet[sizes.STAMP_SIGNED :])
        if not mine.any():
            return
        rows, ends, stamps, view = batch.rows[mine], ends[mine], stamps[mine], view[mine]
        key = _sender_key(view, batch.family)
        sequence = self._unwrapped(key, view["stamp_seq"].astype(np.int64))
        answer = self._probes.answer(key, sequence, self._clock.mono_ns())
        frames = _padded(raw, rows, ends)
        reply = _as(frames, "udp_auth_reply", batch.family)
        ttl = reply["ttl"].copy()
        _turn_round(reply)
        sender = {name: reply[name].copy() for name in ("stamp_seq", "stamp_time", "error_estimate")}
        for name in ("mbz1", "mbz2", "mbz3", "mbz4", "mbz5", "mbz6"):
            reply[name] = np.zeros((), reply.dtype[name])
        reply["stamp_seq"] = answer.q & 0xFFFFFFFF
        reply["stamp_time"] = ntp_from_unix_ns(np.array([self._clock.wall_ns()], np.int64))[0]
        reply["error_estimate"] = self._error_estimate
        reply["received_time"] = ntp_from_unix_ns(stamps)
        reply["sender_seq"], reply["sender_time"] = sender["stamp_seq"], sender["stamp_time"]
        reply["sender_error"], reply["sender_ttl"] = sender["error_estimate"], ttl
        self._understand_padding(frames, ends, start + sizes.STAMP_AUTH, np.zeros(len(rows), bool))
        for i in range(len(rows)):
            signature = sign(self._key, frames[i, start : start + sizes.STAMP_SIGNED].tobytes())
            frames[i, start + sizes.STAMP_SIGNED : start + sizes.STAMP_AUTH] = np.frombuffer(signature, np.uint8)
        self._send(frames, reply, ends, batch.family, ifindex, np.zeros(len(rows), bool))

    def _unwrapped(self, key: UInt64s, wire: Ints) -> Ints:
        """Sequences of senders that send 32 bits, continued from what their session has seen."""
        near = np.array([s.newest if (s := self._probes.sessions.get(k)) else -1 for k in key.tolist()], np.int64)
        near = np.where(near < 0, wire, near)
        distance = (wire - near) & 0xFFFFFFFF
        return near + np.where(distance >= 1 << 31, distance - (1 << 32), distance)

    @staticmethod
    def _grow(frames: npt.NDArray[np.uint8], reply: npt.NDArray[Any], grown: Any, l4: int, family: int) -> None:
        octets = 8 + sizes.STAMP_BASE
        reply["udp_length"][grown] = octets
        if family == 4:
            reply["ip_length"][grown] = 20 + octets
        else:
            reply["payload_length"][grown] = octets

    @staticmethod
    def _understand_padding(frames: npt.NDArray[np.uint8], ends: Ints, base: int, ours: Any) -> None:
        """Extra Padding is a TLV we understand: its U flag is cleared (RFC 8972, section 4.1). Others keep it."""
        for at, rows in ((base, ~ours), (base + sizes.TLV_HEADER + sizes.TLV_VALUE, ours)):
            if frames.shape[1] <= at + 1:
                continue
            padding = rows & (ends >= at + sizes.TLV_HEADER) & (frames[:, at + 1] == TLV_EXTRA_PADDING)
            frames[padding, at] &= ~np.uint8(TLV_UNKNOWN)

    def _report(self, reply: npt.NDArray[Any], which: Any, answer: Answer, ttl: Any, family: int) -> None:
        for name in ("boot", "q", "gap_total", "gap_index", "gap_length"):
            reply[name][which] = getattr(answer, name)[which] & 0xFFFFFFFF
        reply["gap_start"][which] = answer.gap_start[which]
        reply["drops"][which] = self._drops & 0xFFFFFFFF
        reply["seen_address"][which] = _mapped(reply["dst"], family)[which]  # turned round already: dst is the sender
        reply["seen_port"][which] = reply["dport"][which]
        reply["seen_ttl"][which] = ttl[which]

    # --- TCP ---------------------------------------------------------------------------------------------------

    def _answer_tcp(self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        view = _rows(raw, batch.rows, "tcp", batch.family)
        mine = view["dport"] == self._tcp
        control = view["flags"] & (layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN) != 0
        l4 = layout.l4_offset(batch.family)
        data = mine & ~control & (ends >= l4 + 20 + sizes.TCP_PAYLOAD) & (view["magic"] == layout.MAGIC)
        data &= view["offset"] == 5 << 4
        key = _connection_key(view, batch.family)
        for i in np.flatnonzero(mine & ~(data & self._connected(key))).tolist():
            end = int(ends[i])
            self._control(bytes(raw[batch.rows[i], :end]), batch.family, int(key[i]), view[i], bool(data[i]), ifindex)
        data &= self._connected(key)  # a handshake or a reset may have been among them
        if data.any():
            self._answer_data(raw, batch, ends, stamps, key, data, ifindex)

    def _connected(self, key: UInt64s) -> npt.NDArray[np.bool_]:
        """Which frames belong to an established connection."""
        known = {k: k in self._connections for k in distinct(key)}
        return np.array([known[k] for k in key.tolist()], bool)

    def _answer_data(
        self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, key: UInt64s, data: Any, ifindex: int
    ) -> None:
        l4 = layout.l4_offset(batch.family)
        rows, ends, stamps, key = batch.rows[data], ends[data], stamps[data], key[data]
        frames = _padded(raw, rows, ends)
        reply = _as(frames, "tcp", batch.family)
        ttl = reply["ttl"].copy()
        octets = ends - l4 - 20
        now = self._clock.mono_ns()
        answer = self._probes.answer(reply["session"].astype(_U64), reply["sequence"].astype(np.int64), now)
        _turn_round(reply)
        seq, ack = self._numbers(key, reply["seq"].astype(np.int64), octets)
        reply["seq"], reply["ack"] = seq, ack
        reply["flags"] = layout.TCP_PSH | layout.TCP_ACK
        reply["window"] = layout.PROBE_WINDOW
        reply["received_time"] = stamps
        reply["reply_time"] = self._clock.wall_ns()
        every = np.ones(len(rows), bool)
        self._report(reply, every, answer, ttl, batch.family)
        self._send(frames, reply, ends, batch.family, ifindex, every)

    def _numbers(self, key: UInt64s, seq: Ints, octets: Ints) -> tuple[Ints, Ints]:
        """Our sequence and acknowledgement numbers for replies to a batch: acknowledge the furthest octet seen."""
        ours, acks = np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
        for k in distinct(key):
            connection = self._connections[k]
            rows = np.flatnonzero(key == k)
            ahead = (seq[rows] + octets[rows] - connection.ack) % SERIAL
            ahead = np.maximum.accumulate(np.where(ahead < SERIAL // 2, ahead, 0))
            acks[rows] = (connection.ack + ahead) % SERIAL
            connection.ack = int(acks[rows[-1]])
            sent = np.cumsum(octets[rows])
            ours[rows] = (connection.snd_base + np.r_[0, sent[:-1]]) % SERIAL
            connection.snd_base = int((connection.snd_base + sent[-1]) % SERIAL)
        return ours, acks

    def _control(self, frame: bytes, family: int, key: int, view: Any, data: bool, ifindex: int) -> None:
        flags, seq, ack = int(view["flags"]), int(view["seq"]), int(view["ack"])
        back = _turned(frame, family)
        if flags & layout.TCP_RST:
            self._connections.pop(key, None)
            self._half_open.pop(key, None)
        elif flags & layout.TCP_SYN:
            self._connections.pop(key, None)
            iss, _ = self._half_open.get(key, (self._rng.getrandbits(32), 0))
            self._half_open[key] = (iss, self._clock.mono_ns())
            answer = layout.TCP_SYN | layout.TCP_ACK
            self._send_one(control_segment(back, family, answer, iss, (seq + 1) % SERIAL, SYN_OPTIONS), ifindex)
        elif key in self._half_open and ack == (self._half_open[key][0] + 1) % SERIAL:
            iss, _ = self._half_open.pop(key)
            connection = self._connections[key] = Session(0, 0)
            connection.snd_base, connection.ack = (iss + 1) % SERIAL, seq
            self._send_one(control_segment(back, family, layout.TCP_ACK, connection.snd_base, seq), ifindex)
        elif flags & layout.TCP_FIN and key in self._connections:
            connection = self._connections.pop(key)
            answer = layout.TCP_FIN | layout.TCP_ACK
            frame = control_segment(back, family, answer, connection.snd_base, (seq + 1) % SERIAL)
            self._send_one(frame, ifindex)
        elif key not in self._connections and (data or flags & layout.TCP_FIN):
            # As any host would: no such connection (RFC 9293, section 3.10.7.1).
            self._send_one(control_segment(back, family, layout.TCP_RST, ack, 0, window=0), ifindex)

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(
        self,
        frames: npt.NDArray[np.uint8],
        reply: npt.NDArray[Any],
        ends: Ints,
        family: int,
        ifindex: int,
        compensated: Any,
    ) -> None:
        """Finish checksums and send. A compensated reply keeps one checksum for the whole session."""
        l4 = layout.l4_offset(family)
        reply["ttl"] = REPLY_TTL
        if family == 4:
            reply["ip_checksum"] = 0
            reply["ip_checksum"] = complements(row_sums(frames, 14, 34))
        proto = np.uint64(int(reply["proto"][0]))
        reply["checksum"] = np.where(compensated, 0x5A5A, 0)
        if compensated.any():
            reply["comp"][compensated] = 0
        for end in distinct(ends):
            rows = np.flatnonzero(ends == end)
            part = frames[rows, : end + end % 2]
            total = row_sums(part, l4, part.shape[1]) + row_sums(part, *((26, 34) if family == 4 else (22, 54)))
            word = complements(total + proto + np.uint64(end - l4))
            constant = compensated[rows]
            if constant.any():
                reply["comp"][rows[constant]] = word[constant]
            reply["checksum"][rows[~constant]] = word[~constant]
        link = self._links.transmitter_on(ifindex)
        slots = self._view(link, "raw", 0)
        done = 0
        while done < len(frames):
            first, count = link.free(len(frames) - done)
            if not count:
                return  # our own queue is full; the sender counts it as lost, and `drops` tells whose fault it was
            slots[first : first + count, : frames.shape[1]] = frames[done : done + count]
            result = link.send(count, ends[done : done + count].astype(np.int32))
            self._shared.header["reflected"] += result.sent
            done += count
            if result.error:
                return

    def _send_one(self, frame: bytes, ifindex: int) -> None:
        link = self._links.transmitter_on(ifindex)
        first, count = link.free(1)
        if count:
            self._view(link, "raw", 0)[first, : len(frame)] = np.frombuffer(frame, np.uint8)
            link.send(1, np.array([len(frame)], np.int32))


def _rows(raw: npt.NDArray[np.uint8], rows: Ints, name: str, family: int) -> npt.NDArray[Any]:
    """The given slots as records. They may share the ring's memory: good until the slots are released."""
    return _as(pick(raw, rows), name, family)


def _as(frames: npt.NDArray[np.uint8], name: str, family: int) -> npt.NDArray[Any]:
    """Rows of octets as records that share their memory."""
    dtype = layout.frame_dtype(name, family)
    view: npt.NDArray[Any] = frames[:, : dtype.itemsize].view(dtype)[:, 0]
    return view


def _padded(raw: npt.NDArray[np.uint8], rows: Ints, ends: Ints) -> npt.NDArray[np.uint8]:
    """A copy of the frames, wide enough for every layout, with zeros behind each one's end."""
    longest = int(ends.max())
    width = max(longest + longest % 2, 192)
    frames = np.empty((len(rows), width), np.uint8)
    frames[:, :longest] = pick(raw, rows)[:, :longest]
    frames[:, longest:] = 0
    if (ends != longest).any():
        frames[np.arange(width) >= ends[:, None]] = 0
    return frames


def _turn_round(reply: npt.NDArray[Any]) -> None:
    for a, b in (("eth_src", "eth_dst"), ("src", "dst"), ("sport", "dport")):
        first = reply[a].copy()
        reply[a] = reply[b]
        reply[b] = first


def _turned(frame: bytes, family: int) -> bytes:
    """A TCP frame's headers with both ends swapped."""
    l4 = layout.l4_offset(family)
    source, octets = (26, 4) if family == 4 else (22, 16)
    target = source + octets
    packet = bytearray(frame[: l4 + 20])
    packet[0:6], packet[6:12] = frame[6:12], frame[0:6]
    packet[source:target], packet[target : target + octets] = frame[target : target + octets], frame[source:target]
    packet[l4 : l4 + 2], packet[l4 + 2 : l4 + 4] = frame[l4 + 2 : l4 + 4], frame[l4 : l4 + 2]
    packet[22 if family == 4 else 21] = REPLY_TTL
    return bytes(packet)


def _mapped(address: npt.NDArray[Any], family: int) -> npt.NDArray[Any]:
    """Addresses as 16 octets, IPv4 in its mapped form (RFC 4291, section 2.5.5.2)."""
    if family == 6:
        return address
    out = np.zeros((len(address), 16), np.uint8)
    out[:, 10:12] = 0xFF
    out[:, 12:] = np.frombuffer(address.tobytes(), np.uint8).reshape(-1, 4)
    return out.view("V16").reshape(-1)


def _address_digest(view: npt.NDArray[Any], family: int) -> UInt64s:
    if family == 4:
        return view["src32"].astype(_U64)
    halves = np.frombuffer(view["src"].tobytes(), ">u8").reshape(-1, 2).astype(_U64)
    return halves[:, 0] * _U64(0x9E3779B97F4A7C15) ^ halves[:, 1]


def _sender_key(view: npt.NDArray[Any], family: int) -> UInt64s:
    """Session of a sender that is not ours: address, port, SSID."""
    low = view["sport"].astype(_U64) << _U64(16) | view["ssid"].astype(_U64)
    return (_address_digest(view, family) << _U64(32)) ^ low ^ _U64(1 << 63)


def _connection_key(view: npt.NDArray[Any], family: int) -> UInt64s:
    return (_address_digest(view, family) << _U64(16)) ^ view["sport"].astype(_U64)


def run(reflector: Reflector, channel: Channel, receivers: list[FrameReceiver], stop: Callable[[], bool]) -> None:
    """Answer until told to stop or the control process is gone.

    After a batch the loop pauses, so that packets are answered many at a time and the cost of a batch is shared:
    longer after a small batch, which costs about as much as a large one. The pause lies between the receive and send
    times that a reply carries, so it is in nobody's delay.
    """
    gc.disable()
    poll = select.poll()
    for receiver in receivers:
        poll.register(receiver.fileno(), select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    while not stop():
        answered = reflector.turn()
        if answered:
            time.sleep(0.0002 if answered >= 64 else 0.003)
            continue
        for fd, event in poll.poll(100):
            if fd == channel.fileno():
                list(channel.receive())
            elif event & select.POLLERR:
                for receiver in receivers:
                    receiver.take_error()
        channel.flush()
        if channel.closed:
            break
