"""The Session-Reflector: answers STAMP over UDP (RFC 8762, stateful) and our probes over raw TCP.

A reply is the request turned round in place: addresses and ports swapped, its own fields filled in, sent back out of
the interface and to the MAC address that the request came from. It carries when the request arrived (the kernel's
stamp) and when the reply left, so that time spent here can be told from the network's.

TCP has its own side in `listener.py`; `turning.py` turns frames round, `replier.py` sends them.
"""

from __future__ import annotations

import gc
import hmac
import ipaddress
import random
import select
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.border import Channel, SharedState
from probe.clock import Clock
from probe.core.arrays import distinct, where_all
from probe.link.base import FrameReceiver, FrameSender
from probe.session.listener import Listener
from probe.session.peers import Peers
from probe.session.replier import ReflectorLinks, Replier
from probe.session.turning import as_records, connection_key, copied, rows_as, sender_key, turn_round, write_report
from probe.wire import layout, sizes
from probe.wire.dissect import Batch, frame_ends, intact, split
from probe.wire.stamp import TLV_EXTRA_PADDING, TLV_REPORT, TLV_UNKNOWN, ntp_from_unix_ns, sign

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

MAX_BATCH = 1024
TICK_NS = 200_000_000
SHORTEST_PAUSE_NS, LONGEST_PAUSE_NS = 100_000, 4_000_000
SHORTEST_REQUEST = 14  # octets of a TWAMP sender's packet without padding (RFC 8762, section 4.6)
_U64 = np.uint64


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
        self._listener = Listener(self._rng)
        self._replier = Replier(links, clock, shared)
        self._drops = 0  # requests that our ring had no room for, and replies that could not be sent
        self._next_tick = 0
        self._reflected = self._ticked = 0  # replies at the last tick, and its time
        self._pause = SHORTEST_PAUSE_NS
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
                self._drops += receiver.drops()  # before the answers, which tell of them
                self._take(receiver, first, count)
                receiver.release(count)
        now = self._clock.mono_ns()
        if now >= self._next_tick:
            self._next_tick = now + TICK_NS
            self._tick(now)
        return total

    def pause_ns(self, answered: int) -> int:
        """How long to leave the next packets waiting, after a batch of so many."""
        return 2 * SHORTEST_PAUSE_NS if answered >= 64 else self._pause

    def _tick(self, now: int) -> None:
        self._probes.expire(now)
        self._listener.expire(now)
        # Replies that wait cross the way back together, and its outages are measured in steps of the wait. So it is
        # short beside the interval of any session; it grows slowly, as a session that was dark shows few packets.
        most = self._probes.busiest(self._ticked)
        if most:
            quarter = max((now - self._ticked) // (4 * most), SHORTEST_PAUSE_NS)
            self._pause = min(quarter, 2 * self._pause, LONGEST_PAUSE_NS)
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
        view = rows_as(raw, batch.rows, "udp_sender", batch.family)
        mine = (view["dport"] == self._udp) & (ends >= l4 + 8 + SHORTEST_REQUEST)
        if not mine.any():
            return
        rows, ends, stamps, view = where_all(mine, batch.rows, ends, stamps, view)
        base = l4 + 8 + sizes.STAMP_BASE
        ours = (ends >= base + sizes.TLV_HEADER + sizes.TLV_VALUE) & (view["tlv_type"] == TLV_REPORT)
        ours &= (view["tlv_length"] == sizes.TLV_VALUE) & (view["version"] == layout.VERSION)
        key, sequence = view["session"].astype(_U64), view["sequence"].astype(np.int64)
        if not ours.all():
            key = np.where(ours, key, sender_key(view, batch.family))
            sequence = np.where(ours, sequence, self._unwrapped(key, view["stamp_seq"].astype(np.int64)))
        now = self._clock.mono_ns()
        answer = self._probes.answer(key, sequence, now)
        frames = copied(raw, rows, np.maximum(ends, base))
        reply = as_records(frames, "udp", batch.family)
        request_ttl = reply["ttl"].copy()
        turn_round(reply)
        grown = ends < base  # a shorter request gets the whole base packet (RFC 8762, section 4.6)
        if grown.any():
            self._grow(frames, reply, grown, l4, batch.family)
            ends = np.maximum(ends, base)
        sender = {name: reply[name].copy() for name in ("stamp_seq", "stamp_time", "error_estimate")}
        reply["stamp_seq"] = answer.q & 0xFFFFFFFF
        reply["stamp_time"] = 0
        reply["error_estimate"] = self._error_estimate
        reply["received_time"] = ntp_from_unix_ns(stamps)
        reply["sender_seq"], reply["sender_time"] = sender["stamp_seq"], sender["stamp_time"]
        reply["sender_error"] = sender["error_estimate"]
        reply["sender_mbz"] = 0
        reply["sender_ttl"] = request_ttl
        reply["mbz3"] = b"\0\0\0"
        if ours.any():
            write_report(reply, ours, answer, request_ttl, batch.family, self._drops)
            reply["tlv_flags"][ours] = 0
        self._understand_padding(frames, ends, base, ours)
        self._drops += self._replier.send(frames, reply, ends, batch.family, ifindex, ours, "stamp_time")

    def _answer_signed(self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        """Authenticated STAMP (RFC 8762, sections 4.2.2 and 4.3.2): the signature is looked at first."""
        l4 = layout.l4_offset(batch.family)
        start = l4 + sizes.UDP_HEADER
        view = rows_as(raw, batch.rows, "udp_auth", batch.family)
        mine = (view["dport"] == self._udp) & (ends >= start + sizes.STAMP_AUTH)
        for i in np.flatnonzero(mine).tolist():
            packet = raw[batch.rows[i], start : start + sizes.STAMP_AUTH].tobytes()
            genuine = sign(self._key, packet[: sizes.STAMP_SIGNED])
            mine[i] = hmac.compare_digest(genuine, packet[sizes.STAMP_SIGNED :])
        if not mine.any():
            return
        rows, ends, stamps, view = batch.rows[mine], ends[mine], stamps[mine], view[mine]
        key = sender_key(view, batch.family)
        sequence = self._unwrapped(key, view["stamp_seq"].astype(np.int64))
        answer = self._probes.answer(key, sequence, self._clock.mono_ns())
        frames = copied(raw, rows, ends)
        reply = as_records(frames, "udp_auth_reply", batch.family)
        ttl = reply["ttl"].copy()
        turn_round(reply)
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
        self._drops += self._replier.send(frames, reply, ends, batch.family, ifindex, np.zeros(len(rows), bool))

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

    # --- TCP ---------------------------------------------------------------------------------------------------

    def _answer_tcp(self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        view = rows_as(raw, batch.rows, "tcp", batch.family)
        mine = view["dport"] == self._tcp
        control = view["flags"] & (layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN) != 0
        l4 = layout.l4_offset(batch.family)
        data = mine & ~control & (ends >= l4 + 20 + sizes.TCP_PAYLOAD) & (view["magic"] == layout.MAGIC)
        data &= view["offset"] == 5 << 4
        key = connection_key(view, batch.family)
        now = self._clock.mono_ns()
        for i in np.flatnonzero(mine & ~(data & self._listener.connected(key))).tolist():
            end = int(ends[i])
            frame = bytes(raw[batch.rows[i], :end])
            answer = self._listener.receive(frame, batch.family, int(key[i]), view[i], bool(data[i]), now)
            if answer is not None:
                self._replier.send_one(answer, ifindex)
        data &= self._listener.connected(key)  # a handshake or a reset may have been among them
        if data.any():
            self._answer_data(raw, batch, ends, stamps, key, data, ifindex)

    def _answer_data(
        self, raw: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, key: UInt64s, data: Any, ifindex: int
    ) -> None:
        l4 = layout.l4_offset(batch.family)
        rows, ends, stamps, key = batch.rows[data], ends[data], stamps[data], key[data]
        frames = copied(raw, rows, ends)
        reply = as_records(frames, "tcp", batch.family)
        ttl = reply["ttl"].copy()
        octets = ends - l4 - 20
        now = self._clock.mono_ns()
        answer = self._probes.answer(reply["session"].astype(_U64), reply["sequence"].astype(np.int64), now)
        turn_round(reply)
        seq, ack = self._listener.numbers(key, reply["seq"].astype(np.int64), octets, now)
        reply["seq"], reply["ack"] = seq, ack
        reply["flags"] = layout.TCP_PSH | layout.TCP_ACK
        reply["window"] = layout.PROBE_WINDOW
        reply["received_time"] = stamps
        reply["reply_time"] = 0
        every = np.ones(len(rows), bool)
        write_report(reply, every, answer, ttl, batch.family, self._drops)
        self._drops += self._replier.send(frames, reply, ends, batch.family, ifindex, every, "reply_time")


def run(reflector: Reflector, channel: Channel, receivers: list[FrameReceiver], stop: Callable[[], bool]) -> None:
    """Answer until told to stop or the control process is gone.

    After a batch the loop pauses, so that packets are answered many at a time and the cost of a batch is shared. The
    pause lies between the receive and send times that a reply carries, so it is in nobody's delay.
    """
    gc.disable()
    poll = select.poll()
    for receiver in receivers:
        poll.register(receiver.fileno(), select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    while not stop():
        answered = reflector.turn()
        if answered:
            time.sleep(reflector.pause_ns(answered) / 1e9)
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
