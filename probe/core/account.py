"""How many probes of each flow had which fate: at this moment, and exactly up to an instant.

`live` is kept up to date at once. `settled` counts the probes sent up to `settled_to`, all of them settled, and moves
on in steps; a fate that changes afterwards is amended in it and told as a `Correction`, so that whoever has kept an
older reading can amend that as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.core.arrays import count_in, distinct, only
from probe.core.fate import COLUMN, COLUMNS, FATE_COLUMN, LOST_FATES

Ints = npt.NDArray[np.int64]

SETTLED_STEP_NS = 250_000_000  # `settled` moves on in steps of at least this
KEPT_STEPS = 1 << 13
UNSENT_STEP_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Correction:
    """Settled probes whose fate has changed: they now count in `to` instead of `fro`.

    Every `settled` of a `settled_to` of `at` or later had them in `fro`, every earlier one did not have them.
    """

    flow: int
    at: int
    fro: str
    to: str
    count: int


class Account:
    """The counts of all flows.

    Args:
        capacity: Number of flow indices, fixed.
        live: Counters to keep up to date at once; int64, shape (capacity, COLUMNS). May live in shared memory.
        settled: The same for probes sent up to `settled_to` alone.

    Attributes:
        closed: Like `settled`, but of all that has been decided.
    """

    def __init__(self, capacity: int, live: Ints | None = None, settled: Ints | None = None):
        self.live: Ints = np.zeros((capacity, COLUMNS), np.int64) if live is None else live
        self.settled: Ints = np.zeros((capacity, COLUMNS), np.int64) if settled is None else settled
        self.closed = self.settled.copy()
        self.settled_to = 0
        self._capacity = capacity
        self._steps = np.zeros(0, np.int64)  # what `settled_to` has been
        self._unsent: dict[int, Ints] = {}  # UNSENT_STEP_NS of due time to the count of each flow
        self._corrections: dict[tuple[int, int, str, str], int] = {}

    def add(self, flow: int) -> None:
        """Begin a flow at zero."""
        self.live[flow] = self.settled[flow] = self.closed[flow] = 0

    def remove(self, flow: int) -> None:
        """Nothing more is told of a flow."""
        for counts in self._unsent.values():
            counts[flow] = 0
        self._corrections = {key: count for key, count in self._corrections.items() if key[0] != flow}

    def unsent(self, flow: Ints, due: Ints) -> None:
        """Slots of the schedule that passed without a probe."""
        step = due // UNSENT_STEP_NS
        for number in distinct(step):
            count = np.bincount(flow[step == number], minlength=self._capacity)
            self.live[:, COLUMN["scheduled"]] += count
            self.live[:, COLUMN["unsent"]] += count
            self._unsent[number] = self._unsent.get(number, 0) + count

    def move(self, flow: int, at: Ints, fate: int, to: str, each: Ints | None = None) -> None:
        """Settled probes sent at `at`, or `each` so many up to that step, count in another column from now on."""
        fro = FATE_COLUMN[fate]
        counts = np.ones(len(at), np.int64) if each is None else each
        shown = at <= self.settled_to
        for table, count in (
            (self.live, int(counts.sum())),
            (self.closed, int(counts.sum())),
            (self.settled, int(counts[shown].sum())),
        ):
            table[flow, COLUMN[fro]] -= count
            table[flow, COLUMN[to]] += count
            if fate in LOST_FATES and not to.startswith("lost_"):
                table[flow, COLUMN["lost"]] -= count
        if not shown.any():
            return
        step = self.step_of(at[shown])
        sums = np.zeros(len(self._steps), np.int64)
        np.add.at(sums, step, counts[shown])
        for n in np.flatnonzero(sums).tolist():
            key = (flow, int(self._steps[n]), fro, to)
            self._corrections[key] = self._corrections.get(key, 0) + int(sums[n])

    def step_of(self, at: Ints) -> Ints:
        """The number of the step with which probes sent at `at` came to be in `settled`."""
        return np.searchsorted(self._steps, at)

    def close(self, horizon: int, *, last: bool = False) -> None:
        """All that was sent or due up to `horizon` has been decided; with `last`, whatever its time."""
        for step in [s for s in self._unsent if last or (s + 1) * UNSENT_STEP_NS <= horizon]:
            count = self._unsent.pop(step)
            self.closed[:, COLUMN["scheduled"]] += count
            self.closed[:, COLUMN["unsent"]] += count
        if last or not len(self._steps) or horizon - self.settled_to >= SETTLED_STEP_NS:
            self.settled[:] = self.closed
            self.settled_to = horizon
            self._steps = np.append(self._steps[-KEPT_STEPS:], horizon)

    def drain_corrections(self) -> list[Correction]:
        """Changes of settled counts since the last call."""
        corrections, self._corrections = self._corrections, {}
        return [Correction(flow, at, fro, to, count) for (flow, at, fro, to), count in corrections.items()]


def tally(table: Ints, columns: tuple[str, ...], flow: Ints) -> None:
    """Add one for each element of `flow` to its columns of a table of shape (capacity, COLUMNS)."""
    one = only(flow)
    for name in columns:
        if one is not None:
            table[one, COLUMN[name]] += len(flow)
        else:
            count_in(table[:, COLUMN[name]], flow)
