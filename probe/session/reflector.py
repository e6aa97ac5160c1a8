"""The Session-Reflector: answers STAMP over UDP (RFC 8762, stateful) and our probes over raw TCP.

A reply is the request turned round in place: addresses and ports swapped, its own fields filled in, sent back out of
the interface and to the MAC address that the request came from. It carries when the request arrived (the kernel's
stamp) and when the reply left, so that time spent here can be told from the network's.

TCP has its own side in `listener.py`; `turning.py` turns frames round, `replier.py` sends them. A few probes of our
own at once go a way without arrays, with the same answers (`prompt.py`).
"""

from __future__ import annotations

import gc
import hmac
import ipaddress
import random
import select
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.border import Channel, SharedState
from probe.clock import Clock
from probe.core.arrays import distinct, pick, where_all
from probe.link.base import FrameReceiver, Frames
from probe.session.listener import Listener
from probe.session.ours import Ours
from probe.session.peers import SEQUENCES, Peers
from probe.session.prompt import FEW, Prompt, parts
from probe.session.replier import ReflectorLinks, Replier
from probe.session.tlv import Extensions
from probe.session.turning import (
    LONGEST_REQUEST,
    connection_key,
    extended,
    rows_as,
    sender_key,
    turn_round,
    write_report,
)
from probe.wire import layout, sizes
from probe.wire.dissect import Batch, frame_ends, intact, split
from probe.wire.stamp import TLV_REPORT, ntp_from_unix_ns, sign

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

MAX_BATCH = 1024
LISTEN_NS = 1_000_000_000  # for the control process, at least so often
TICK_NS = 200_000_000
MANY = 64  # frames that share the cost of a batch
MANY_PAUSE_NS = 500_000
COSTS = 16  # small batches over which their cost is averaged
SHORTEST_PAUSE_NS, LONGEST_PAUSE_NS = 20_000, 4_000_000
SHORTEST_REQUEST = 14  # octets of a TWAMP sender's packet without padding (RFC 8762, section 4.6)
PERMITS = 4096  # source addresses whose permission is remembered
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
        sync_source: How our clock is kept (wire/tlv.py).
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
        sync_source: int = 0,
        rng: random.Random | None = None,
    ):
        self._links, self._clock, self._shared = links, clock, shared
        self._udp, self._tcp = udp, tcp
        self._allow = [ipaddress.ip_network(net) for net in allow]
        self._permitted = lru_cache(PERMITS)(self._is_allowed)
        self._ours = Ours(links.is_local, clock)
        self._error_estimate = error_estimate
        self._key = key
        self._rng = rng or random.SystemRandom()
        self._probes = Peers(self._rng)
        self._listener = Listener(self._rng)
        self._replier = Replier(links, clock, shared)
        self._extensions = Extensions(clock, key, sync_source)
        self._prompt = Prompt(
            clock,
            self._probes,
            self._listener,
            self._replier,
            ports={layout.IPPROTO_TCP: tcp} if key else {layout.IPPROTO_UDP: udp, layout.IPPROTO_TCP: tcp},
            allowed=self._permitted,
            ours=self._ours.one,
            error_estimate=error_estimate,
        )
        self._drops = 0  # requests that our ring or interface had no room for, and replies that could not be sent
        self._next_tick = 0
        self._reflected = self._ticked = 0  # replies at the last tick, and its time
        self._pause = SHORTEST_PAUSE_NS  # by the busiest session's rate
        self._cost = 0  # of the last small batches, ns on average

    def tell_clock(self, error_estimate: int, sync_source: int) -> None:
        """How good our clock is has changed: a daemon has synchronised it, or has lost its sources."""
        self._error_estimate = self._prompt.error_estimate = error_estimate
        self._extensions.sync_source = sync_source

    def turn(self) -> int:
        """Answer what has arrived; how many frames there were."""
        began = self._clock.mono_ns()
        total = 0
        for receiver in self._links.receivers():
            frames = receiver.take(MAX_BATCH)
            if len(frames.octets):
                total += len(frames.octets)
                self._drops += receiver.drops()  # before the answers, which tell of them
                if len(frames.octets) <= FEW:
                    self._take_few(frames)
                else:
                    self._take(frames)
        now = self._clock.mono_ns()
        if 0 < total < MANY:
            self._cost += (min(now - began, LONGEST_PAUSE_NS) - self._cost) // COSTS
        if now >= self._next_tick:
            self._next_tick = now + TICK_NS
            self._tick(now)
        return total

    def pause_ns(self, answered: int) -> int:
        """How long to leave the next packets waiting, after a batch of so many.

        A full batch: not at all, as more have come meanwhile. Of many: MANY_PAUSE_NS, so that they stay many. Of few: a
        quarter of the busiest session's interval, and twice what such batches cost of late if that is longer. So
        they never take more than a third of the time, however many come and however slow the host; and where that
        leaves room for it, no reply waits longer than the quarter.
        """
        if answered >= MAX_BATCH:
            return 0
        return MANY_PAUSE_NS if answered >= MANY else min(max(self._pause, 2 * self._cost), LONGEST_PAUSE_NS)

    def _tick(self, now: int) -> None:
        self._drops += self._links.interface_drops()  # anybody's frames; a sender excuses no more than it misses
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

    def _take_few(self, frames: Frames) -> None:
        """Parts of nothing but probes of ours one frame after the other, all others as arrays."""
        for kind, rows in parts(frames):
            requests = self._prompt.read(kind, frames, rows)  # connections may have begun or ended in an earlier part
            if requests is not None:
                self._drops += self._prompt.answer(kind, requests, self._drops)
            elif len(rows) == len(frames.octets):
                self._take(frames)
            else:
                self._take(frames.only(rows))

    def _take(self, frames: Frames) -> None:
        octets = frames.octets
        for batch in split(octets):
            ends, kept = frame_ends(batch, octets), pick(frames.kept, batch.rows)
            good = intact(octets, batch, ends, pick(frames.status, batch.rows), kept)
            good &= ends <= np.minimum(kept, LONGEST_REQUEST)  # a header may claim more than has come, or was kept
            if self._allow:
                good &= self._allowed(pick(layout.records(octets, "network", batch.family)["src"], batch.rows))
            came_by = pick(frames.ifindex, batch.rows)
            for index in distinct(came_by):
                rows, part_ends = where_all(good & (came_by == index), batch.rows, ends)
                if len(rows):
                    ours = self._ours.among(pick(layout.records(octets, "network", batch.family), rows), index)
                    if ours is not True:
                        rows, part_ends = where_all(np.broadcast_to(ours, len(rows)), rows, part_ends)
                if not len(rows):
                    continue
                part = Batch(batch.family, batch.proto, rows)
                stamps = pick(frames.stamps_ns, rows)
                if batch.proto == layout.IPPROTO_UDP and self._key:
                    self._answer_signed(octets, part, part_ends, stamps, index)
                elif batch.proto == layout.IPPROTO_UDP:
                    self._answer_udp(octets, part, part_ends, stamps, index)
                elif batch.proto == layout.IPPROTO_TCP:
                    self._answer_tcp(octets, part, part_ends, stamps, index)

    def _allowed(self, sources: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        unique, where = np.unique(sources, return_inverse=True)
        verdict = np.array([self._permitted(bytes(source)) for source in unique], bool)
        return verdict[where]

    def _is_allowed(self, source: bytes) -> bool:
        return not self._allow or any(ipaddress.ip_address(source) in network for network in self._allow)

    # --- UDP ---------------------------------------------------------------------------------------------------

    def _answer_udp(self, octets: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        l4 = layout.l4_offset(batch.family)
        view = rows_as(octets, batch.rows, "udp_sender", batch.family)
        mine = (view["dport"] == self._udp) & (ends >= l4 + 8 + SHORTEST_REQUEST) & (view["udp_length"] == ends - l4)
        if not mine.any():
            return
        rows, ends, stamps, view = where_all(mine, batch.rows, ends, stamps, view)
        base = l4 + 8 + sizes.STAMP_BASE
        ours = (ends >= base + sizes.TLV_HEADER + sizes.TLV_VALUE) & (view["tlv_type"] == TLV_REPORT)
        ours &= (view["tlv_length"] == sizes.TLV_VALUE) & (view["version"] == layout.VERSION)
        ours &= view["sequence"] < SEQUENCES
        key, sequence = view["session"].astype(_U64), view["sequence"].astype(np.int64)
        if not ours.all():
            ssid = np.where(extended(octets, rows, ends, batch.family), view["ssid"], 0)
            key = np.where(ours, key, sender_key(view, batch.family, ssid))
            sequence = np.where(ours, sequence, self._unwrapped(key, view["stamp_seq"].astype(np.int64)))
        now = self._clock.mono_ns()
        answer = self._probes.answer(key, sequence, now)
        frames = pick(octets, rows)  # turned round where they lie
        reply = layout.records(frames, "udp", batch.family)
        request_ttl = reply["ttl"].copy()
        turn_round(reply)
        grown = ends < base  # a shorter request gets the whole base packet (RFC 8762, section 4.6)
        if grown.any():
            self._grow(frames, reply, grown, ends, batch.family)
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
        self._extensions.answer(frames, batch.family, l4 + 8, sizes.STAMP_BASE, ends, ours, key, answer.q)
        unsent = self._replier.send(frames, reply, ends, batch.family, ifindex, ours, "stamp_time")
        self._extensions.left(len(rows) - unsent)
        self._drops += unsent

    def _answer_signed(
        self, octets: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int
    ) -> None:
        """Authenticated STAMP (RFC 8762, sections 4.2.2 and 4.3.2): the signature is looked at first."""
        l4 = layout.l4_offset(batch.family)
        start = l4 + sizes.UDP_HEADER
        view = rows_as(octets, batch.rows, "udp_auth", batch.family)
        mine = (view["dport"] == self._udp) & (ends >= start + sizes.STAMP_AUTH) & (view["udp_length"] == ends - l4)
        for i in np.flatnonzero(mine).tolist():
            packet = octets[batch.rows[i], start : start + sizes.STAMP_AUTH].tobytes()
            genuine = sign(self._key, packet[: sizes.STAMP_SIGNED])
            mine[i] = hmac.compare_digest(genuine, packet[sizes.STAMP_SIGNED :])
        if not mine.any():
            return
        rows, ends, stamps, view = batch.rows[mine], ends[mine], stamps[mine], view[mine]
        key = sender_key(view, batch.family, view["ssid"])
        sequence = self._unwrapped(key, view["stamp_seq"].astype(np.int64))
        answer = self._probes.answer(key, sequence, self._clock.mono_ns())
        frames = pick(octets, rows)
        reply = layout.records(frames, "udp_auth_reply", batch.family)
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
        none = np.zeros(len(rows), bool)
        self._extensions.answer(frames, batch.family, start, sizes.STAMP_AUTH, ends, none, key, answer.q)
        for i in range(len(rows)):
            signature = sign(self._key, frames[i, start : start + sizes.STAMP_SIGNED].tobytes())
            frames[i, start + sizes.STAMP_SIGNED : start + sizes.STAMP_AUTH] = np.frombuffer(signature, np.uint8)
        unsent = self._replier.send(frames, reply, ends, batch.family, ifindex, none)
        self._extensions.left(len(rows) - unsent)
        self._drops += unsent

    def _unwrapped(self, key: UInt64s, wire: Ints) -> Ints:
        """Sequences of senders that send 32 bits, continued from what their session has seen."""
        near = np.array([s.newest if (s := self._probes.sessions.get(k)) else -1 for k in key.tolist()], np.int64)
        near = np.where(near < 0, wire, near)
        distance = (wire - near) & 0xFFFFFFFF
        return near + np.where(distance >= 1 << 31, distance - (1 << 32), distance)

    @staticmethod
    def _grow(frames: npt.NDArray[np.uint8], reply: npt.NDArray[Any], grown: Any, ends: Ints, family: int) -> None:
        whole = 8 + sizes.STAMP_BASE
        base = layout.l4_offset(family) + whole
        for i in np.flatnonzero(grown).tolist():
            frames[i, ends[i] : base] = 0
        reply["udp_length"][grown] = whole
        if family == 4:
            reply["ip_length"][grown] = 20 + whole
        else:
            reply["payload_length"][grown] = whole

    # --- TCP ---------------------------------------------------------------------------------------------------

    def _answer_tcp(self, octets: npt.NDArray[np.uint8], batch: Batch, ends: Ints, stamps: Ints, ifindex: int) -> None:
        view = rows_as(octets, batch.rows, "tcp", batch.family)
        mine = view["dport"] == self._tcp
        control = view["flags"] & (layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN) != 0
        l4 = layout.l4_offset(batch.family)
        data = mine & ~control & (ends >= l4 + 20 + sizes.TCP_PAYLOAD) & (view["magic"] == layout.MAGIC)
        data &= (view["offset"] == 5 << 4) & (view["sequence"] < SEQUENCES)
        key = connection_key(view, batch.family)
        now = self._clock.mono_ns()
        for i in np.flatnonzero(mine & ~(data & self._listener.connected(key))).tolist():
            end = int(ends[i])
            frame = bytes(octets[batch.rows[i], :end])
            answer = self._listener.receive(frame, batch.family, int(key[i]), view[i], bool(data[i]), now)
            if answer is not None:
                self._replier.send_one(answer, ifindex)
        data &= self._listener.connected(key)  # a handshake or a reset may have been among them
        if data.any():
            self._answer_data(octets, batch, ends, stamps, key, data, ifindex)

    def _answer_data(
        self,
        octets: npt.NDArray[np.uint8],
        batch: Batch,
        ends: Ints,
        stamps: Ints,
        key: UInt64s,
        data: Any,
        ifindex: int,
    ) -> None:
        l4 = layout.l4_offset(batch.family)
        rows, ends, stamps, key = batch.rows[data], ends[data], stamps[data], key[data]
        frames = pick(octets, rows)
        reply = layout.records(frames, "tcp", batch.family)
        ttl = reply["ttl"].copy()
        carried = ends - l4 - 20
        now = self._clock.mono_ns()
        answer = self._probes.answer(reply["session"].astype(_U64), reply["sequence"].astype(np.int64), now)
        turn_round(reply)
        seq, ack = self._listener.numbers(key, reply["seq"].astype(np.int64), carried, now)
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
    listened_ns = 0
    while not stop():
        answered = reflector.turn()
        now = time.monotonic_ns()
        if now >= listened_ns + LISTEN_NS:
            listened_ns = now
            for message in channel.receive():
                reflector.tell_clock(int(message["error_estimate"]), int(message["sync_source"]))
        if answered:
            time.sleep(reflector.pause_ns(answered) / 1e9)
            continue
        for fd, event in poll.poll(100):
            if fd == channel.fileno():
                listened_ns = 0
            elif event & select.POLLERR:
                for receiver in receivers:
                    receiver.take_error()
        channel.flush()
        if channel.closed:
            break
