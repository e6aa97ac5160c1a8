"""Taking in what the receive rings hold: replies to the ledger, delays to the histogram, the rest where it belongs."""

from __future__ import annotations

import hmac
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.border import SharedState
from probe.clock import Clock, wall_offset_ns
from probe.core.arrays import all_are, only, pick, where_all
from probe.core.histogram import BINS, bins_of
from probe.core.ledger import Arrivals, Ledger
from probe.core.sequence import unwrap_below
from probe.core.told import Reports
from probe.link.base import FrameReceiver, Frames
from probe.session.connections import Connections
from probe.session.flows import ONE_ID, SYN_STEP_INVERSE, FlowTable
from probe.session.tcp import SERIAL
from probe.wire import layout, sizes
from probe.wire.dissect import Batch, IcmpError, address_text, frame_ends, icmp_error, intact, split
from probe.wire.stamp import TLV_REPORT, TLV_UNKNOWN, elapsed_ns, sign

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
OnReplies = Callable[[Ints, Ints, Ints, Arrivals, Array, tuple[Array, Array] | None], None]
MAX_BATCH = 4096  # frames taken from a ring at a time
MAX_BATCHES = 256
ERROR_TELL_NS = 1_000_000_000  # ICMP errors of one kind are told this often, and of at most so many kinds a flow
ERROR_KINDS = 16
STEP_NS = 500_000  # a change of the wall clock by this much between two drains is a step
PAUSES = 5  # a pause longer than a ring's lag counts as one of so many parts of it
_PORT_SPACE = {
    layout.IPPROTO_ICMP: "icmp",
    layout.IPPROTO_ICMPV6: "icmp",
    layout.IPPROTO_UDP: "udp",
    layout.IPPROTO_TCP: "tcp",
}


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
        on_replies: Called with the flows, sequences, arrival times, what the ledger made of them, TTLs, and the
            reflector's receive and send times of every batch of replies.
        catch_up: Called when frames have been taken from a ring: the ledger must know of their probes before they are
            looked at.
        relieve: Called between steps of the work, which may send probes that have come due.
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
        on_replies: OnReplies,
        catch_up: Callable[[], None] = lambda: None,
        relieve: Callable[[], None] = lambda: None,
    ):
        self._table, self._ledger, self._connections = table, ledger, connections
        self._clock, self._shared, self._tell, self._on_drops = clock, shared, tell, on_drops
        self._on_replies, self._catch_up, self._relieve = on_replies, catch_up, relieve
        capacity = table.capacity
        self.rtt_recent = np.zeros(capacity, np.int64)
        self.drained_to = clock.mono_ns()  # every reply that arrived by then is in the ledger
        self._drained_at = self.drained_to
        self._pauses: deque[tuple[int, int]] = deque(maxlen=PAUSES)  # in which we stood still for long: start, end
        self.offset = self._offset_before = wall_offset_ns(clock)
        self._errors: dict[int, dict[tuple[int, int, bytes], int]] = {}  # of kept flows: when each kind was last told
        self._seen = np.zeros(capacity, np.int64)  # digest of the address and port its reflector saw; 0: none yet
        shared.flows["rtt_min"] = np.iinfo(np.int64).max

    def reset(self, flow: int) -> None:
        """Forget what is known of a row; it is about to be another flow."""
        self.rtt_recent[flow] = 0
        self._shared.histogram[flow] = 0
        self.renew(flow)

    def renew(self, flow: int) -> None:
        """Forget what is known of a flow's session; it is about to have another one."""
        self._seen[flow] = 0
        self._errors.pop(flow, None)

    def drain(self, receivers: list[FrameReceiver], batches: int = MAX_BATCHES) -> bool:
        """Take in what has arrived, at most `batches` batches of each receiver: longer would keep us from sending.

        Returns:
            Whether that was all.
        """
        self._offset_before, self.offset = self.offset, wall_offset_ns(self._clock)
        self._relieve()
        started = reached = self._clock.mono_ns()
        emptied = True
        for receiver in receivers:
            last = self.drained_to
            for _ in range(batches):
                frames = receiver.take(MAX_BATCH)
                if not len(frames.stamps_ns):
                    break
                self._relieve()
                last = min(max(int(frames.stamps_ns[-1]) - self.offset, last), started)
                self._catch_up()
                self._relieve()
                self._take(frames)
                if len(frames.stamps_ns) < MAX_BATCH // 2:  # there was no more: another look costs as much
                    break
            else:
                emptied = False
                reached = min(reached, last)
            drops = receiver.drops()
            if drops:
                now = self._clock.mono_ns()
                self._shared.header["ring_drops"] += drops
                self._on_drops(min(last, now), now, drops)
        lag = max((receiver.lag_ns for receiver in receivers), default=0)
        if 0 < lag < started - self._drained_at:
            self._pauses.append((self._drained_at, started))
        self._drained_at = started
        self.drained_to = max(self.drained_to, min(self._handed_over(started, lag), reached - lag))
        return emptied

    def _handed_over(self, now: int, lag: int) -> int:
        """Up to when all that arrived can be taken: a ring hands it over within `lag` ns, of time in which it runs.

        When we stood still for longer, perhaps the machine did with us, so such a pause counts for little. It counts
        for something, or where pauses come again and again, as a limit of processor time makes them, the ring would
        never seem to have caught up.
        """
        since = now - lag
        for start, end in reversed(self._pauses):
            if since >= end:
                break
            since = start - max(0, end - since - lag // PAUSES)
        return since

    def _take(self, frames: Frames) -> None:
        octets = frames.octets
        # A kernel stamp cannot lie ahead of now, nor before the last drain; if it seems to, the wall clock was stepped
        # between the two, after the stamp.
        now = self._clock.mono_ns()
        at = frames.stamps_ns - self.offset
        if abs(self.offset - self._offset_before) > STEP_NS:
            at = np.where((at < self.drained_to) | (at > now), frames.stamps_ns - self._offset_before, at)
        at = np.minimum(at, now)
        self._relieve()
        for batch in split(octets):
            self._relieve()
            ends = frame_ends(batch, octets)
            kept = pick(frames.kept, batch.rows)
            self._relieve()
            good = intact(octets, batch, ends, pick(frames.status, batch.rows), kept)
            good &= ends <= pick(frames.lengths, batch.rows)  # a header may claim more than has come
            self._relieve()
            slots = lambda name, b=batch: layout.records(octets, name, b.family)  # noqa: E731
            if batch.proto == layout.IPPROTO_UDP:
                self._take_udp(batch, slots, good, at, ends)
            elif batch.proto == layout.IPPROTO_TCP:
                self._take_tcp(batch, slots, good, at, ends)
            elif batch.proto in (layout.IPPROTO_ICMP, layout.IPPROTO_ICMPV6):
                self._take_icmp(batch, slots, good, at, octets, ends)

    def _foreign(self, count: int) -> None:
        self._shared.header["unknown_frames"] += count

    def _owned_rows(self, proto: str, ids: npt.NDArray[Any], good: Bools) -> tuple[Ints, Bools]:
        """(owner, mask): which frames are some flow's and intact; damaged ones are counted."""
        one = only(ids)
        table = self._table.owner[proto]
        owner = table[ids.astype(np.int64)] if one is None else np.full(len(ids), table[one])
        mine = owner >= 0
        if mine.all() and good.all():
            return owner, mine
        self._foreign(int((~mine).sum()))
        for f in owner[mine & ~good].tolist():
            self._ledger.count(f, "corrupt")
        return owner, mine & good

    def _of_session(self, numbers: npt.NDArray[Any], flow: Ints) -> Bools:
        """Which cookies or TLVs name the session of the flow that they came to."""
        one = only(flow)
        if one is not None and all_are(numbers, int(self._table.session[one])):
            return np.ones(len(flow), bool)
        same: Bools = numbers == self._table.session[flow]
        return same

    def _take_icmp(self, batch: Batch, slots: Any, good: Any, at: Ints, raw: Any, ends: Ints) -> None:
        view = pick(slots("icmp"), batch.rows)
        reply = view["type"] == (0 if batch.family == 4 else 129)
        for i in np.flatnonzero(~reply & good).tolist():
            row = batch.rows[i]
            self._take_error(bytes(raw[row, : int(ends[i])]), batch.family, int(view["ttl"][i]), int(at[row]))
        rows, view, good = where_all(reply, batch.rows, view, good)
        owner, mine = self._owned_rows("icmp", view["id"], good)
        mine &= (view["magic"] == layout.MAGIC) & self._of_session(view["session"], owner)
        rows, flow, view = where_all(mine, rows, owner, view)
        self._account(flow, view["sequence"].astype(np.int64), pick(at, rows), view["ttl"])

    def _take_udp(self, batch: Batch, slots: Any, good: Any, at: Ints, ends: Ints) -> None:
        view = pick(slots("udp_base_reply"), batch.rows)
        owner, mine = self._owned_rows("udp", view["dport"], good)
        l4 = layout.l4_offset(batch.family)
        mine &= ends >= l4 + sizes.UDP_HEADER + sizes.TWAMP_REPLY
        signed = mine & (self._table.kind[owner] == layout.UDP_AUTH)
        if signed.any():
            self._take_signed(
                slots("udp_auth_reply")[batch.rows[signed]], owner[signed], at[batch.rows[signed]], ends[signed] - l4
            )
            mine &= ~signed
        if not mine.any():
            return
        self._relieve()
        rows, flow, ends = where_all(mine, batch.rows, owner, ends)
        view = pick(slots("udp"), rows)
        sequence = unwrap_below(view["sender_seq"].astype(np.int64), self._ledger.next_seq[flow], 32)
        ours = (ends >= l4 + sizes.UDP_HEADER + sizes.UDP_PAYLOAD) & (view["tlv_type"] == TLV_REPORT)
        ours &= self._of_session(view["session"], flow)
        reported = ours & (view["tlv_flags"] & TLV_UNKNOWN == 0)
        self._relieve()
        times = _stamps(view)
        inside = elapsed_ns(*times, view["error_estimate"])
        self._relieve()
        known = self._account(flow, sequence, pick(at, rows), view["ttl"], times, inside)
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
        times = _stamps(view)
        known = self._account(flow, sequence, at, view["ttl"], times, elapsed_ns(*times, view["error_estimate"]))
        self._numbered(view, flow, sequence, known)

    def _numbered(self, view: npt.NDArray[Any], flow: Ints, sequence: Ints, which: Bools) -> None:
        """Replies without our report: the reflector's own number is all there is to tell a loss's direction by. It
        counts for each port by itself (RFC 8762, section 4), so those of a fresh flow cannot be compared.
        """
        which = which & (self._table.per_id[flow] == ONE_ID)
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
        data &= self._of_session(view["session"], owner)
        data &= self._table.kind[owner] == layout.TCP
        if data.any():
            part, flow, rows, part_ends = where_all(data, view, owner, batch.rows, ends)
            sequence = part["sequence"].astype(np.int64)
            times = (part["received_time"], part["reply_time"])
            residence = (times[1] - times[0]).astype(np.int64)
            known = self._account(flow, sequence, pick(at, rows), part["ttl"], times, residence)
            self._reported(part, flow, sequence, pick(at, rows), known)
            self._connections.acknowledge(*where_all(known, flow, part, part_ends - l4 - 20))
        rest = mine & ~data
        if not rest.any():
            return
        fresh = rest & (self._table.kind[owner] == layout.SYN)
        if fresh.any():
            self._take_answers(view[fresh], owner[fresh], at[batch.rows[fresh]])
        for i in np.flatnonzero(rest & ~fresh).tolist():
            flow_of = self._table.flows[int(owner[i])]
            if not self._connections.take(flow_of, view[i], int(at[batch.rows[i]]), int(ends[i]), batch.family):
                self._foreign(1)

    def _take_answers(self, view: npt.NDArray[Any], flow: Ints, at: Ints) -> None:
        """SYN/ACKs and RSTs: answers to fresh TCP probes. A half-open connection is closed at once."""
        syn_ack = view["flags"] & (layout.TCP_SYN | layout.TCP_ACK) == layout.TCP_SYN | layout.TCP_ACK
        reset = view["flags"] & (layout.TCP_RST | layout.TCP_ACK) == layout.TCP_RST | layout.TCP_ACK
        answer = syn_ack | reset
        distance = (view["ack"].astype(np.int64) - 1 - self._table.tcp_base[flow]) % SERIAL
        number = (distance.astype(np.uint64) * np.uint64(SYN_STEP_INVERSE)) & np.uint64(SERIAL - 1)
        sequence = unwrap_below(number.astype(np.int64), self._ledger.next_seq[flow], 32)
        answer &= (sequence >= 0) & (self._table.ids(flow, np.maximum(sequence, 0)) == view["dport"])
        self._account(flow[answer], sequence[answer], at[answer], view["ttl"][answer])
        for f in flow[answer & reset].tolist():
            self._ledger.count(f, "reset")
        close = answer & syn_ack
        if close.any():
            self._connections.send_resets(
                flow[close], view["dport"][close].astype(np.int64), view["ack"][close].astype(np.int64)
            )

    def _take_error(self, frame: bytes, family: int, ttl: int, at: int) -> None:
        """An ICMP error about a probe counts for its flow, whoever sent it. Those about kept flows are told as well."""
        error = icmp_error(frame, family)
        owner = -1 if error is None else int(self._table.owner[_PORT_SPACE[error.proto]][error.number])
        if error is None or owner < 0 or family != self._table.family[owner] or not self._quoted(error.data, owner):
            self._foreign(1)
            return
        self._ledger.count(owner, "icmp_error")
        if self._table.per_id[owner] == ONE_ID:
            self._tell_error(error, owner, ttl, at)

    def _tell_error(self, error: IcmpError, flow: int, ttl: int, at: int) -> None:
        told, kind = self._errors.setdefault(flow, {}), (error.type, error.code, error.source)
        if at - told.get(kind, -ERROR_TELL_NS) < ERROR_TELL_NS or (kind not in told and len(told) >= ERROR_KINDS):
            return
        told[kind] = at
        self._tell(
            {
                "event": "icmp_error",
                "flow": flow,
                "at_ns": at + int(self._shared.header["wall_anchor"][0]),
                "from": address_text(error.source),
                "ttl": ttl,
                "peer_ttl": int(self._table.peer_ttl[flow]),
                "type": error.type,
                "code": error.code,
            }
        )

    def _quoted(self, data: bytes, owner: int) -> bool:
        """Whether an echo request's data is ours, as far as it is quoted: nobody can reserve an identifier."""
        if len(data) < 16:
            return True
        magic, session = struct.unpack_from("!I4xQ", data)
        return bool(magic == layout.MAGIC and session == self._table.session[owner])

    def _reported(self, view: npt.NDArray[Any], flow: Ints, sequence: Ints, at: Ints, which: Any) -> None:
        if not which.any():
            return
        part, flow, sequence, at = where_all(which, view, flow, sequence, at)
        columns = (part[name] for name in ("boot", "q", "gap_total", "gap_index", "gap_start", "gap_length"))
        self._ledger.reports(flow, sequence, Reports(*columns))
        self._relieve()
        self._ledger.their_drops(flow, at, part["drops"])
        self._relieve()
        self._translations(part, flow, sequence)

    def _translations(self, part: npt.NDArray[Any], flow: Ints, sequence: Ints) -> None:
        """Tell when the reflector sees a kept flow come from another address or port than before."""
        address = np.ascontiguousarray(part["seen_address"]).view(np.uint64).reshape(len(part), 2)
        key = (part["seen_port"] ^ address[:, 0] ^ address[:, 1]).astype(np.int64)
        one = only(key)
        if one is not None and (self._seen[flow] == one).all():
            return
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

    def _account(
        self,
        flow: Ints,
        sequence: Ints,
        at: Ints,
        ttl: Array,
        times: tuple[Array, Array] | None = None,
        residence: Ints | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Hand replies to the ledger and their delays to the histogram; which of them answer a probe of ours."""
        if not len(flow):
            return np.zeros(0, bool)
        arrivals = self._ledger.receive(flow, sequence, at)
        self._relieve()
        # No reply comes before its probe has left. Over a path without length, one may seem to: the stamp is on another
        # clock than the TX time, and its conversion is off by a fraction of a microsecond.
        at = np.maximum(at, at - arrivals.rtt_ns + 1)
        self._on_replies(flow, sequence, at, arrivals, ttl, times)
        self._relieve()
        self._foreign(int(np.count_nonzero(arrivals.unknown)))
        if arrivals.answered.any():
            rtt, of, ttl = where_all(arrivals.answered, arrivals.rtt_ns, flow, ttl)
            self.rtt_recent[of], self._table.peer_ttl[of] = rtt, ttl
            if residence is not None:  # the time a probe spent inside the reflector is not the network's
                (inside,) = where_all(arrivals.answered, residence)
                rtt = np.where((inside > 0) & (inside < rtt), rtt - inside, rtt)
            self._delays(of, np.maximum(rtt, 1))
        self._relieve()
        return ~arrivals.unknown

    def _delays(self, flow: Ints, rtt: Ints) -> None:
        rows, one = self._shared.flows, only(flow)
        if one is not None:
            self._shared.histogram[one] += np.bincount(bins_of(rtt), minlength=BINS).astype(np.uint32)
            rows["rtt_min"][one] = min(rows["rtt_min"][one], rtt.min())
            rows["rtt_max"][one] = max(rows["rtt_max"][one], rtt.max())
            rows["rtt_sum"][one] += float(rtt.sum())
            return
        np.add.at(self._shared.histogram.reshape(-1), flow * BINS + bins_of(rtt), 1)
        np.minimum.at(rows["rtt_min"], flow, rtt)
        np.maximum.at(rows["rtt_max"], flow, rtt)
        np.add.at(rows["rtt_sum"], flow, rtt)


def _stamps(view: npt.NDArray[Any]) -> tuple[Array, Array]:
    """When the reflector received each STAMP probe and sent its reply, as it says."""
    return view["received_time"].astype(np.uint64), view["stamp_time"].astype(np.uint64)
