"""From an engine's spool to one row a probe: what was sent, joined with what came back and what became of it.

A spool may be larger than memory. It is gone through a stretch of sent probes at a time; of the replies and fates,
which stand anywhere behind, only the parts that touch the stretch are looked at.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from probe.core.arrays import cumcount
from probe.core.fate import LATE, PENDING, RECEIVED
from probe.spool import END_BLOCK, FATE_BLOCK, KINDS, REPLY_BLOCK, SENT_BLOCK, Block, Columns, blocks

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

STRETCH_ROWS: Final = 1 << 19  # sent probes joined at a time
PART_ROWS: Final = 1 << 16  # replies or fates looked at together
_SEQUENCE_BITS: Final = 44


@dataclass(frozen=True, slots=True)
class Joined:
    """Probes in the order in which they left, column by column. Instants are CLOCK_MONOTONIC, ns."""

    flow: Array
    sequence: Ints
    due: Ints
    sent: Ints
    earlier: npt.NDArray[np.uint32]  # by how much it may have left before and after that
    later: npt.NDArray[np.uint32]
    arrived: Ints  # 0: no reply
    received_there: npt.NDArray[np.uint64]  # as they stood in the reply
    replied_there: npt.NDArray[np.uint64]
    ttl: npt.NDArray[np.uint8]
    fate: npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Part:
    """Consecutive blocks of one kind, and which sequences of each flow they are about: lowest and highest."""

    blocks: list[Block]
    low: Ints
    high: Ints

    def touches(self, low: Ints, high: Ints) -> bool:
        return bool(((self.low <= high) & (self.high >= low)).any())

    def columns(self) -> Columns:
        names = self.blocks[0].columns
        return {name: np.concatenate([block.columns[name] for block in self.blocks]) for name in names}


class Spool:
    """A spool that its writer has finished with.

    Args:
        memory: Its content.
        thresholds_ns: Loss threshold by flow index; as many as there are flows.
    """

    def __init__(self, memory: mmap.mmap | bytes, thresholds_ns: Sequence[int]):
        self._thresholds = np.array(thresholds_ns, np.int64)
        by_kind: dict[int, list[Block]] = {kind: [] for kind in KINDS}
        for block in blocks(memory):
            by_kind[block.kind].append(block)
        self.whole = bool(by_kind[END_BLOCK])  # its writer came to its end in order
        self.rows = sum(block.rows for block in by_kind[SENT_BLOCK])
        self._sent = by_kind[SENT_BLOCK]
        self._replies = [self._part(part, "sequence", "sequence") for part in _parts(by_kind[REPLY_BLOCK], PART_ROWS)]
        self._fates = [self._part(part, "first", "last") for part in _parts(by_kind[FATE_BLOCK], PART_ROWS)]

    def joined(self) -> Iterator[Joined]:
        """Every probe, some STRETCH_ROWS at a time."""
        for stretch in _parts(self._sent, STRETCH_ROWS):
            yield self._join(self._part(stretch, "sequence", "sequence"))

    def _part(self, part: list[Block], first: str, last: str) -> _Part:
        low = np.full(len(self._thresholds), np.iinfo(np.int64).max)
        high = np.full(len(self._thresholds), -1, np.int64)
        for block in part:
            np.minimum.at(low, block.columns["flow"], block.columns[first])
            np.maximum.at(high, block.columns["flow"], block.columns[last])
        return _Part(part, low, high)

    def _join(self, stretch: _Part) -> Joined:
        sent = stretch.columns()
        key = _key(sent["flow"], sent["sequence"])
        order = np.argsort(key, kind="stable")
        keys = key[order]
        fate = np.full(len(key), PENDING, np.uint8)
        for part in self._fates:
            if part.touches(stretch.low, stretch.high):
                _change(keys, fate, part.columns())
        replies = {name: np.zeros(len(key), kind) for name, kind in KINDS[REPLY_BLOCK].items() if name != "flow"}
        for part in self._replies:
            if part.touches(stretch.low, stretch.high):
                columns = part.columns()
                place, known = _places(keys, _key(columns["flow"], columns["sequence"]))
                for name, column in replies.items():
                    column[place] = columns[name][known]
        at = sent["at"][order]
        answered = replies["at"] > 0
        in_time = replies["at"] - at <= self._thresholds[sent["flow"][order]]
        fate[answered] = np.where(in_time, RECEIVED, LATE)[answered]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        # An arrival is mapped from the wall clock; after a step of that it may seem to lie before the probe.
        arrived = np.where(answered, np.maximum(replies["at"], at), 0)
        return Joined(
            flow=sent["flow"],
            sequence=sent["sequence"],
            due=sent["due"],
            sent=sent["at"],
            earlier=sent["earlier"],
            later=sent["later"],
            arrived=arrived[back],
            received_there=replies["received_there"][back],
            replied_there=replies["replied_there"][back],
            ttl=replies["ttl"][back],
            fate=fate[back],
        )


def _parts(found: Iterable[Block], rows: int) -> Iterator[list[Block]]:
    """Blocks in groups of at least `rows` rows, but for the last."""
    part: list[Block] = []
    held = 0
    for block in found:
        part.append(block)
        held += block.rows
        if held >= rows:
            yield part
            part, held = [], 0
    if part:
        yield part


def _key(flow: Array, sequence: Ints) -> Ints:
    return flow.astype(np.int64) << _SEQUENCE_BITS | sequence


def _places(keys: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Where those of `wanted` that are there stand in `keys`, and which these are."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[place] == wanted
    return place[known], known


def _change(keys: Ints, fate: npt.NDArray[np.uint8], rows: Columns) -> None:
    """Apply changes of fate in their order. Most are of one probe each; runs stand alone between them."""
    runs = np.flatnonzero(rows["first"] != rows["last"])
    edges = np.r_[-1, runs, len(rows["first"])]
    for i in range(len(edges) - 1):
        _change_singly(keys, fate, {name: column[edges[i] + 1 : edges[i + 1]] for name, column in rows.items()})
        if i < len(runs):
            flow, was, to = (rows[name][runs[i]] for name in ("flow", "was", "fate"))
            ends = _key(np.array([flow] * 2), np.array([rows["first"][runs[i]], rows["last"][runs[i]]]))
            run = slice(*(int(np.searchsorted(keys, end, side)) for end, side in zip(ends, _SIDES, strict=True)))
            fate[run][fate[run] == was] = to


_SIDES: tuple[Any, Any] = ("left", "right")


def _change_singly(keys: Ints, fate: npt.NDArray[np.uint8], rows: Columns) -> None:
    place, known = _places(keys, _key(rows["flow"], rows["first"]))
    was, to = rows["was"][known], rows["fate"][known]
    turn = cumcount(place)
    for n in range(int(turn.max(initial=-1)) + 1):
        now = (turn == n) & (fate[place] == was)
        fate[place[now]] = to[now]
