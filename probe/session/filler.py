"""Writing a batch of probes into the slots of a link: template rows first, then the fields that vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.arrays import distinct, only
from probe.link.base import FrameSender
from probe.session.flows import SYN_STEP, FlowTable
from probe.wire import layout, sizes
from probe.wire.checksum import complements, word_sum
from probe.wire.stamp import ntp_from_unix_ns, sign

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
_U32 = np.uint64(0xFFFFFFFF)

_LAYOUT = {
    layout.ICMP4: "icmp",
    layout.ICMP6: "icmp",
    layout.UDP: "udp_sender",
    layout.UDP_BASE: "udp_base",
    layout.UDP_AUTH: "udp_auth",
    layout.TCP: "tcp",
    layout.SYN: "tcp_header",
}


class Filler:
    """Fills the slots of one link from a flow table."""

    def __init__(self, link: FrameSender, table: FlowTable):
        self._table = table
        self._raw = link.view(layout.raw_dtype(link.slot_octets))
        self._views: dict[tuple[str, int], npt.NDArray[Any]] = {}
        self._link = link
        self._octets = min(link.slot_octets, table.template.shape[1])
        self._held = np.full(link.slots, -1, np.int64)  # whose template each slot holds, by its number

    def fill(self, first: int, flow: Ints, sequence: Ints, wall_ns: Ints) -> npt.NDArray[np.int32]:
        """Write the frames of a batch into consecutive slots.

        Args:
            first: The first slot; the batch must not wrap.
            flow: Flow index of each probe.
            sequence: Its sequence.
            wall_ns: When each is due, Unix time: written into the probe as its TX time.

        Returns:
            Frame lengths, for the link.
        """
        table = self._table
        n = len(flow)
        lengths = table.length[flow]
        held, wanted = self._held[first : first + n], table.template_number[flow]
        if not (held == wanted).all():  # a slot's last frame was another's
            octets = min(int(lengths.max()), self._octets)
            one = only(flow)
            self._raw[first : first + n, :octets] = table.template[flow if one is None else one, :octets]
            held[:] = wanted
        shape = table.kind[flow] * 8 + table.family[flow]
        ids = table.ids(flow, sequence)
        for which in distinct(shape):
            kind, family = divmod(which, 8)
            slots = self._slots(_LAYOUT[kind], family, first, n)
            mine = shape == which
            at = slice(None) if mine.all() else np.flatnonzero(mine)
            self._patch(
                kind, slots, at, flow[at], sequence[at].astype(np.uint64), ids[at].astype(np.uint64), wall_ns[at]
            )
        return lengths

    def fill_resets(self, first: int, flow: Ints, ids: Ints, seq: Ints) -> npt.NDArray[np.int32]:
        """Write RSTs that close half-open connections of fresh TCP flows.

        Args:
            first: The first slot.
            flow: Flow index of each.
            ids: Our port.
            seq: Their sequence number: what the peer's SYN/ACK acknowledged.
        """
        table = self._table
        n = len(flow)
        lengths = table.reset_length[flow]
        self._held[first : first + n] = -1
        self._raw[first : first + n, : int(lengths.max())] = table.reset_template[flow, : int(lengths.max())]
        for family in np.unique(table.family[flow]).tolist():
            at = np.flatnonzero(table.family[flow] == family)
            slots = self._slots("tcp_header", family, first, n)
            port, number = ids[at].astype(np.uint64), seq[at].astype(np.uint64)
            slots["sport"][at] = port
            slots["seq"][at] = number
            slots["checksum"][at] = complements(table.reset_rest[flow[at]] + port + number)
        return lengths

    def _slots(self, name: str, family: int, first: int, n: int) -> npt.NDArray[Any]:
        key = (name, family)
        if key not in self._views:
            self._views[key] = self._link.view(layout.frame_dtype(name, family))
        return self._views[key][first : first + n]

    def _patch(
        self, kind: int, slots: Any, at: slice | Ints, flow: Ints, sequence: UInt64s, ids: UInt64s, wall_ns: Ints
    ) -> None:
        # A field of any width adds its value modulo 65535 to the checksum (wire/checksum.py). Terms are reduced where
        # their sum could pass 2^64.
        table = self._table
        wall = wall_ns.astype(np.uint64)
        if kind in (layout.ICMP4, layout.ICMP6):
            low = sequence & np.uint64(0xFFFF)
            slots["id"][at] = ids
            slots["seq16"][at] = low
            slots["sequence"][at] = sequence
            slots["sent"][at] = wall
            slots["comp"][at] = complements(ids + low + sequence + wall)
        elif kind in (layout.UDP, layout.UDP_BASE):
            stamp = ntp_from_unix_ns(wall_ns)
            number = sequence & _U32
            slots["sport"][at] = ids
            total = ids + number + stamp % np.uint64(0xFFFF)
            if kind == layout.UDP:
                slots["stamp_seq"][at] = number
                slots["stamp_time"][at] = stamp
                slots["sequence"][at] = sequence
                slots["comp"][at] = complements(total + sequence)
            else:
                slots["stamp_seq"][at] = number
                slots["stamp_time"][at] = stamp
                slots["checksum"][at] = complements(total + table.rest[flow])
        elif kind == layout.UDP_AUTH:
            stamp = ntp_from_unix_ns(wall_ns)
            number = sequence & _U32
            slots["sport"][at], slots["stamp_seq"][at], slots["stamp_time"][at] = ids, number, stamp
            total = table.rest[flow] + ids + number + stamp % np.uint64(0xFFFF)
            slots["checksum"][at] = complements(total + self._sign(slots, at, flow))
        elif kind == layout.TCP:
            number = (table.tcp_base[flow].astype(np.uint64) + sequence * table.tcp_step[flow].astype(np.uint64)) & _U32
            ack = table.tcp_ack[flow].astype(np.uint64)
            slots["sport"][at] = ids
            slots["seq"][at] = number
            slots["ack"][at] = ack
            slots["sequence"][at] = sequence
            slots["sent"][at] = wall
            slots["comp"][at] = complements(ids + number + ack + sequence + wall)
        else:
            number = syn_number(table.tcp_base[flow], sequence)
            slots["sport"][at] = ids
            slots["seq"][at] = number
            slots["checksum"][at] = complements(table.rest[flow] + ids + number)

    def _sign(self, slots: Any, at: slice | Ints, flow: Ints) -> UInt64s:
        """Write each frame's HMAC; returns the word sum of each."""
        signed_at = slots.dtype.fields["stamp_seq"][1]
        sums = np.zeros(len(flow), np.uint64)
        for row, (i, f) in enumerate(zip(np.arange(len(slots))[at].tolist(), flow.tolist(), strict=True)):
            packet = slots[i].tobytes()[signed_at : signed_at + sizes.STAMP_SIGNED]
            signature = sign(self._table.flows[f].key, packet)
            slots["hmac"][i] = np.void(signature)
            sums[row] = word_sum(signature)
        return sums


def syn_number(base: Ints, sequence: UInt64s) -> UInt64s:
    """The TCP sequence number of the SYN that is probe `sequence`."""
    return (base.astype(np.uint64) + (sequence & _U32) * np.uint64(SYN_STEP)) & _U32
