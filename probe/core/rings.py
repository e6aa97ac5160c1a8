"""Where the fates of probes lie: a ring of slots per flow, all of them in arrays that the flows share.

The slot of a probe is its flow's base + (sequence modulo ring size), so that a batch of any mix of flows is looked up
without a loop. A ring's size is a power of two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from probe.core.arrays import only
from probe.core.fate import EMPTY

Ints = npt.NDArray[np.int64]


class Rings:
    """The rings of all flows.

    Args:
        capacity: Number of flow indices, fixed.

    Attributes:
        fate: Of the probe in each slot (core/fate.py), uint8.
        sent_at: When it left or, until then, is due, int64 ns.
        earlier, later: By how much it may have left before and after that, uint32 ns.
        scratch: A number for each slot, for whoever needs one; int32.
        slots: Ring size of each flow, shape (capacity,); 0: it has none.
    """

    def __init__(self, capacity: int):
        self.fate = np.zeros(0, np.uint8)
        self.sent_at = np.zeros(0, np.int64)
        self.earlier, self.later = np.zeros(0, np.uint32), np.zeros(0, np.uint32)
        self.scratch = np.zeros(0, np.int32)
        self.slots = np.zeros(capacity, np.int64)
        self._base = np.zeros(capacity, np.int64)
        self._mask = np.zeros(capacity, np.int64)
        self._used = 0  # slots that belong to a ring or did
        self._free: list[tuple[int, int]] = []  # (base, slots) of rings that nobody has any more

    def add(self, flow: int, slots: int) -> None:
        """Give a flow an empty ring."""
        self._base[flow] = self._acquire(slots)
        self.slots[flow], self._mask[flow] = slots, slots - 1

    def remove(self, flow: int) -> None:
        """Its slots are free for others."""
        self._free.append((int(self._base[flow]), int(self.slots[flow])))
        self._mask[flow] = self.slots[flow] = 0

    def grow(self, flow: int, slots: int, following: int) -> None:
        """Give a flow a larger ring, with what it holds of the sequences below `following`."""
        base, held = int(self._base[flow]), int(self.slots[flow])
        sequence = np.arange(max(0, following - held), following)
        old = self.places(flow, sequence)
        self.add(flow, slots)
        new = self.places(flow, sequence)
        for column in (self.fate, self.sent_at, self.earlier, self.later):
            column[new] = column[old]
        self._free.append((base, held))

    def _acquire(self, slots: int) -> int:
        for index, (base, size) in enumerate(self._free):
            if size == slots:
                del self._free[index]
                self.fate[base : base + slots] = EMPTY
                return base
        base, self._used = self._used, self._used + slots
        if self._used > len(self.fate):
            # By at least a half, so that many flows are not copied once for each.
            more = max(slots, len(self.fate) // 2)
            self.fate = np.concatenate([self.fate, np.zeros(more, np.uint8)])
            self.sent_at = np.concatenate([self.sent_at, np.zeros(more, np.int64)])
            self.earlier = np.concatenate([self.earlier, np.zeros(more, np.uint32)])
            self.later = np.concatenate([self.later, np.zeros(more, np.uint32)])
            self.scratch = np.concatenate([self.scratch, np.zeros(more, np.int32)])
        return base

    def places(self, flow: int | Ints, sequence: Ints) -> Ints:
        """The slots of probes of one flow, or of the flow given for each. They may have become another probe's."""
        slots: Ints = self._base[flow] + (sequence & self._mask[flow])
        return slots

    def index(self, flow: Ints, sequence: Ints) -> slice | Ints:
        """The same, as an index. Neighbours in one ring, as most batches are, need no list of places."""
        one = only(flow)
        run = self.run(one, sequence) if one is not None else None
        return run if run is not None else self.places(flow, sequence)

    def run(self, flow: int, sequence: Ints) -> slice | None:
        """Where probes of one flow lie, if they are consecutive and the ring does not end between them."""
        n = len(sequence)
        start = int(sequence[0]) & int(self._mask[flow])
        if int(sequence[-1]) - int(sequence[0]) != n - 1 or start + n > self.slots[flow]:
            return None
        if n > 2 and not (sequence[1:] - sequence[:-1] == 1).all():
            return None
        start += int(self._base[flow])
        return slice(start, start + n)
