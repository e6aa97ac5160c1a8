"""Taking in what the receive rings hold: replies to the ledger, delays to the histogram, the rest where it belongs."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.border import SharedState
from probe.clock import Clock, wall_offset_ns
from probe.core.arrays import pick, where_all
from probe.core.histogram import BINS, bins_of
from probe.core.ledger import Ledger, Reports
from probe.core.sequence import unwrap_below
from probe.link.base import FrameReceiver
from probe.session.connections import Connections
from probe.session.flows import ONE_ID, SYN_STEP_INVERSE, FlowTable
from probe.session.tcp import SERIAL
from probe.wire import layout, sizes
from probe.wire.dissect import Batch, address_text, frame_ends, icmp_error, intact, split
from probe.wire.stamp import TLV_REPORT, TLV_UNKNOWN, sign

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
MAX_BATCH = 1024  # frames taken from a ring at a time
MAX_BATCHES = 256
STEP_NS = 500_000  # a change of the wall clock by this much between two drains is a step


class Intake:
    """The receiving side of a sender.

    Args:
        table: Flows.
        ledger: Decides what a reply is.
        connections: Gets TCP segments that are no replies.
        clock: Both clocks.
        shared: Histograms and counters.
        tell: Called with each event.
        on_drops: Called with (start, end, frames) when a ring had no room, CLOCK_MONOTONIC ns.
        on_their_drops: Called with (flow, start, end) when a reflector of ours had none.
    """

    def __init__(
        self,
        table: FlowTable,
        ledger: Ledger,
        connections: Connections,
        clock: Clock,
        shared: SharedState,
        tell: Callable[[dict[str, Any]], None],
        on_drops: Callable[[int, int, int], None],
        on_their_drops: Callable[[int, int, int], None],
    ):
        self._table, self._ledger, self._connections = table, ledger, connections
        self._clock, self._shared, self._tell, self._on_drops = clock, shared, tell, on_drops
        self._on_their_drops = on_their_drops
        capacity = table.capacity
        self.rtt_recent = np.zeros(capacity, np.int64)
        self.drained_to = clock.mono_ns()  # every reply that arrived by then is in the ledger
        self.offset = self._offset_before = wall_offset_ns(clock)
        self._seen = np.zeros(capacity, np.int64)  # digest of the address and port its reflector saw; 0: none yet
        self._views: dict[tuple[int, str, int], npt.NDArray[Any]] = {}
        shared.flows["rtt_min"] = np.iinfo(np.int64).max

    def reset(self, flow: int) -> None:
        """Forget what is known of a row; it is about to be another flow."""
        self.rtt_recent[flow] = self._seen[flow] = 0
        self._shared.histogram[flow] = 0

    def drain(self, receivers: list[FrameReceiver], batches: int = MAX_BATCHES) -> bool:
        """Take in what has arrived, at most `batches` batches of each receiver: longer would keep us from sending.

        Returns:
            Whether that was all.
        """
        self._offset_before, self.offset = self.offset, wall_offset_ns(self._clock, 3)
        started = reached = self._clock.mono_ns()
        emptied = True
        for receiver in receivers:
            last = self.drained_to
            for _ in range(batches):
                first, count = receiver.ready(MAX_BATCH)
                if not count:
                    break
                stamps = receiver.stamps_ns(first, count)
                last = min(max(int(stamps[-1]) - self.offset, last), started)
                self._take(receiver, first, count, stamps)
                receiver.release(count)
            if receiver.ready(1)[1]:
                emptied = False
                reached = min(reached, last)
            drops = receiver.drops()
            if drops:
                now = self._clock.mono_ns()
                self._shared.header["ring_drops"] += drops
                self._on_drops(min(last, now), now, drops)
        self.drained_to = max(self.drained_to, reached)
        return emptied

    def _view(self, receiver: FrameReceiver, name: str, family: int) -> npt.NDArray[Any]:
        key = (id(receiver), name, family)
        if key not in self._views:
            dtype = layout.raw_dtype(receiver.slot_octets) if name == "raw" else layout.frame_dtype(name, family)
            self._views[key] = receiver.view(dtype)
        return self._views[key]

    def _take(self, receiver: FrameReceiver, first: int, count: int, stamps: Ints) -> None:
        window = slice(first, first + count)
        network = {f: self._view(receiver, "network", f)[window] for f in (4, 6)}
        raw = self._view(receiver, "raw", 0)[window]
        status = receiver.status(first, count)
        # A kernel stamp cannot lie ahead of now, nor before the last drain; if it seems to, the wall clock was stepped
        # between the two, after the stamp.
        now = self._clock.mono_ns()
        at = stamps - self.offset
        if abs(self.offset - self._offset_before) > STEP_NS:
            at = np.where((at < self.drained_to) | (at > now), stamps - self._offset_before, at)
        at = np.minimum(at, now)
        for batch in split(network[4], network[6]):
            ends = frame_ends(batch, network[batch.family])
            good = intact(raw, batch, ends, pick(status, batch.rows))
            slots = lambda name, b=batch: self._view(receiver, name, b.family)[window]  # noqa: E731
            if batch.proto == layout.IPPROTO_UDP:
                self._take_udp(batch, slots, good, at, ends)
            elif batch.proto == layout.IPPROTO_TCP:
                self._take_tcp(batch, slots, good, at, ends)
            elif batch.proto in (layout.IPPROTO_ICMP, layout.IPPROTO_ICMPV6):
                self._take_icmp(batch, slots, good, at, raw, ends)

    def _foreign(self, count: int) -> None:
        self._shared.header["unknown_frames"] += count

    def _owned_rows(
        self, proto: str, ids: npt.NDArray[Any], good: npt.NDArray[np.bool_]
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """(owner, mask): which frames are some flow's and intact; damaged ones are counted."""
        owner = self._table.owner[proto][ids.astype(np.int64)]
        mine = owner >= 0
        self._foreign(int((~mine).sum()))
        for f in owner[mine & ~good].tolist():
            self._ledger.count(f, "corrupt")
        return owner, mine & good

    def _take_icmp(self, batch: Batch, slots: Any, good: Any, at: Ints, raw: Any, ends: Ints) -> None:
        view = pick(slots("icmp"), batch.rows)
        reply = view["type"] == (0 if batch.family == 4 else 129)
        for i in np.flatnonzero(~reply & good).tolist():
            self._take_error(bytes(raw[batch.rows[i], : int(ends[i])]), batch.family)
        rows, view, good = where_all(reply, batch.rows, view, good)
        owner, mine = self._owned_rows("icmp", view["id"], good)
        mine &= (view["magic"] == layout.MAGIC) & (view["session"] == self._table.session[owner])
        self._account(owner[mine], view["sequence"][mine].astype(np.int64), at[rows[mine]])

    def _take_udp(self, batch: Batch, slots: Any, good: Any, at: Ints, ends: Ints) -> None:
        view = pick(slots("udp_base_reply"), batch.rows)
        owner, mine = self._owned_rows("udp", view["dport"], good)
        l4 = layout.l4_offset(batch.family)
        mine &= ends >= l4 + sizes.UDP_HEADER + sizes.STAMP_BASE
        signed = mine & (self._table.kind[owner] == layout.UDP_AUTH)
        if signed.any():
            self._take_signed(
                slots("udp_auth_reply")[batch.rows[signed]], owner[signed], at[batch.rows[signed]], ends[signed] - l4
            )
            mine &= ~signed
        if not mine.any():
            return
        rows, flow, ends = where_all(mine, batch.rows, owner, ends)
        view = pick(slots("udp"), rows)
        sequence = unwrap_below(view["sender_seq"].astype(np.int64), self._ledger.next_seq[flow], 32)
        ours = (ends >= l4 + sizes.UDP_HEADER + sizes.UDP_PAYLOAD) & (view["tlv_type"] == TLV_REPORT)
        ours &= view["session"] == self._table.session[flow]
        reported = ours & (view["tlv_flags"] & TLV_UNKNOWN == 0)
        known = self._account(
            flow, sequence, pick(at, rows), _ntp_difference(view["received_time"], view["stamp_time"])
        )
        self._reported(view, flow, sequence, pick(at, rows), reported & known)
        self._numbered(view, flow, sequence, known & ~reported)

    def _take_signed(self, view: npt.NDArray[Any], flow: Ints, at: Ints, octets: Ints) -> None:
        """Authenticated replies (RFC 8762, section 4.3.2). A wrong signature makes a packet corrupt."""
        start = view.dtype.fields["stamp_seq"][1] if view.dtype.fields is not None else 0
        genuine = octets >= sizes.UDP_HEADER + sizes.STAMP_AUTH
        for i, f in enumerate(flow.tolist()):
            packet = view[i].tobytes()[start : start + sizes.STAMP_AUTH]
            key = self._table.flows[f].key
            genuine[i] &= hmac.compare_digest(sign(key, packet[: sizes.STAMP_SIGNED]), packet[sizes.STAMP_SIGNED :])
            if not genuine[i]:
                self._ledger.count(f, "corrupt")
        view, flow, at = view[genuine], flow[genuine], at[genuine]
        sequence = unwrap_below(view["sender_seq"].astype(np.int64), self._ledger.next_seq[flow], 32)
        known = self._account(flow, sequence, at, _ntp_difference(view["received_time"], view["stamp_time"]))
        self._numbered(view, flow, sequence, known)

    def _numbered(self, view: npt.NDArray[Any], flow: Ints, sequence: Ints, which: Bools) -> None:
        """Replies without our report: the reflector's own number is all there is to tell a loss's direction by."""
        if which.any():
            self._ledger.numbers(flow[which], sequence[which], view["stamp_seq"][which].astype(np.int64))

    def _take_tcp(self, batch: Batch, slots: Any, good: Any, at: Ints, ends: Ints) -> None:
        view = pick(slots("tcp"), batch.rows)
        owner, mine = self._owned_rows("tcp", view["dport"], good)
        control = view["flags"] & (layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN) != 0
        l4 = layout.l4_offset(batch.family)
        data = (
            mine
            & ~control
            & (ends >= l4 + sizes.TCP_HEADER + sizes.TCP_PAYLOAD)
            & (view["offset"] == 5 << 4)
            & (view["magic"] == layout.MAGIC)
        )
        data &= view["session"] == self._table.session[owner]
        data &= self._table.kind[owner] == layout.TCP
        if data.any():
            part, flow, rows, part_ends = where_all(data, view, owner, batch.rows, ends)
            sequence = part["sequence"].astype(np.int64)
            residence = (part["reply_time"] - part["received_time"]).astype(np.int64)
            known = self._account(flow, sequence, pick(at, rows), residence)
            self._reported(part, flow, sequence, pick(at, rows), known)
            self._connections.acknowledge(*where_all(known, flow, part, part_ends - l4 - 20))
        rest = mine & ~data
        if not rest.any():
            return
        fresh = rest & (self._table.kind[owner] == layout.SYN)
        if fresh.any():
            self._take_answers(view[fresh], owner[fresh], at[batch.rows[fresh]])
        for i in np.flatnonzero(rest & ~fresh).tolist():
            self._connections.take(
                self._table.flows[int(owner[i])], view[i], int(at[batch.rows[i]]), int(ends[i]), batch.family
            )

    def _take_answers(self, view: npt.NDArray[Any], flow: Ints, at: Ints) -> None:
        """SYN/ACKs and RSTs: answers to fresh TCP probes. A half-open connection is closed at once."""
        syn_ack = view["flags"] & (layout.TCP_SYN | layout.TCP_ACK) == layout.TCP_SYN | layout.TCP_ACK
        reset = view["flags"] & (layout.TCP_RST | layout.TCP_ACK) == layout.TCP_RST | layout.TCP_ACK
        answer = syn_ack | reset
        distance = (view["ack"].astype(np.int64) - 1 - self._table.tcp_base[flow]) % SERIAL
        number = (distance.astype(np.uint64) * np.uint64(SYN_STEP_INVERSE)) & np.uint64(SERIAL - 1)
        sequence = unwrap_below(number.astype(np.int64), self._ledger.next_seq[flow], 32)
        answer &= (sequence >= 0) & (self._table.ids(flow, np.maximum(sequence, 0)) == view["dport"])
        self._account(flow[answer], sequence[answer], at[answer])
        for f in flow[answer & reset].tolist():
            self._ledger.count(f, "reset")
        close = answer & syn_ack
        if close.any():
            self._connections.send_resets(
                flow[close], view["dport"][close].astype(np.int64), view["ack"][close].astype(np.int64)
            )

    def _take_error(self, frame: bytes, family: int) -> None:
        error = icmp_error(frame, family)
        proto = {1: "icmp", 58: "icmp", 17: "udp", 6: "tcp"}.get(error.proto) if error is not None else None
        if error is None or proto is None or self._table.owner[proto][error.number] < 0:
            self._foreign(1)
            return
        self._ledger.count(int(self._table.owner[proto][error.number]), "icmp_error")

    def _reported(self, view: npt.NDArray[Any], flow: Ints, sequence: Ints, at: Ints, which: Any) -> None:
        if not which.any():
            return
        part, flow, sequence, at = where_all(which, view, flow, sequence, at)
        columns = (
            part[name].astype(np.int64) for name in ("boot", "q", "gap_total", "gap_index", "gap_start", "gap_length")
        )
        self._ledger.reports(flow, sequence, Reports(*columns))
        for f, start, end in self._ledger.their_drops(flow, at, part["drops"].astype(np.int64)):
            self._on_their_drops(f, start, end)
        self._translations(part, flow, sequence)

    def _translations(self, part: npt.NDArray[Any], flow: Ints, sequence: Ints) -> None:
        """Tell when the reflector sees a kept flow come from another address or port than before."""
        key = part["seen_port"].astype(np.int64)
        address = np.ascontiguousarray(part["seen_address"]).view(np.uint64).reshape(len(part), 2)
        key = key ^ (address[:, 0] ^ address[:, 1]).astype(np.int64)
        moved = (key != self._seen[flow]) & (self._table.per_id[flow] == ONE_ID)
        for i in np.flatnonzero(moved).tolist():
            f = int(flow[i])
            if self._seen[f] == key[i]:
                continue
            first_time, self._seen[f] = self._seen[f] == 0, key[i]
            seen = address_text(bytes(part["seen_address"][i]))
            event = {"event": "translation", "flow": f, "address": seen, "port": int(part["seen_port"][i])}
            event["at_ns"] = self._clock.mono_ns() + int(self._shared.header["wall_anchor"][0])
            self._tell({**event, "changed": not first_time, "sequence": int(sequence[i])})

    def _account(self, flow: Ints, sequence: Ints, at: Ints, residence: Ints | None = None) -> npt.NDArray[np.bool_]:
        """Hand replies to the ledger and their delays to the histogram; which of them answer a probe of ours."""
        if not len(flow):
            return np.zeros(0, bool)
        arrivals = self._ledger.receive(flow, sequence, at)
        self._foreign(int(arrivals.unknown.sum()))
        timed = arrivals.answered
        if timed.any():
            rtt, of = arrivals.rtt_ns[timed], flow[timed]
            self.rtt_recent[of] = rtt
            if residence is not None:  # the time a probe spent inside the reflector is not the network's
                inside = residence[timed]
                rtt = np.where((inside > 0) & (inside < rtt), rtt - inside, rtt)
            self._delays(of, np.maximum(rtt, 0))
        return ~arrivals.unknown

    def _delays(self, flow: Ints, rtt: Ints) -> None:
        rows = self._shared.flows
        np.add.at(self._shared.histogram.reshape(-1), flow * BINS + bins_of(rtt), 1)
        if (flow == flow[0]).all():
            f = int(flow[0])
            rows["rtt_min"][f] = min(rows["rtt_min"][f], rtt.min())
            rows["rtt_max"][f] = max(rows["rtt_max"][f], rtt.max())
            rows["rtt_sum"][f] += float(rtt.sum())
            return
        np.minimum.at(rows["rtt_min"], flow, rtt)
        np.maximum.at(rows["rtt_max"], flow, rtt)
        np.add.at(rows["rtt_sum"], flow, rtt)


def _ntp_difference(earlier: npt.NDArray[Any], later: npt.NDArray[Any]) -> Ints:
    """Later - earlier in nanoseconds, for NTP timestamps less than half an hour apart; 0 for anything longer."""
    difference = (later.astype(np.uint64) - earlier.astype(np.uint64)).astype(np.int64)
    sane = (difference >= 0) & (difference < 1 << 43)
    difference = np.where(sane, difference, 0)
    return (difference >> 16) * 1_000_000_000 >> 16
