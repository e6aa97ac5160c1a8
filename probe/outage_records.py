"""The raw records of the probes around outages, of all flows together, as arrays: they are many and seldom asked for.

Of so many octets in all, and so many outages of one flow; what was told longest ago goes first. The journal has all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from probe.core.events import Outage, ProbeFate, ProbeRecord

MEMORY_OCTETS = 32 << 20
MOST = 500  # outages of one flow
ENTRY_OCTETS = 300  # of the objects that hold an outage's records
UNKNOWN = np.iinfo(np.int64).min
_FATES: tuple[ProbeFate, ...] = get_args(ProbeFate)
_FATE_PLACE = {fate: place for place, fate in enumerate(_FATES)}
Rows = npt.NDArray[np.int64]  # shape (probes, fields of ProbeRecord); a fate as its place, UNKNOWN for None


class OutageRecords:
    """Records by flow and outage."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], Rows] = {}  # in the order of telling
        self._outages: dict[int, dict[int, None]] = {}  # per flow the ids, in the same order
        self._octets = 0

    def tell(self, flow: int, number: int, records: Iterable[Sequence[Any]]) -> None:
        """These are the records of an outage now, as an engine tells them."""
        rows = [[UNKNOWN if value is None else value for value in (*r[:-1], _FATE_PLACE[r[-1]])] for r in records]
        self.forget(flow, number)
        if not rows:
            return
        self._rows[flow, number] = found = np.array(rows, np.int64)
        self._octets += ENTRY_OCTETS + found.nbytes
        outages = self._outages.setdefault(flow, {})
        outages[number] = None
        if len(outages) > MOST:
            self.forget(flow, next(iter(outages)))
        while self._octets > MEMORY_OCTETS:
            self.forget(*next(iter(self._rows)))

    def with_records(self, flow: int, outage: Outage) -> Outage:
        """The outage with its records, if they are still there."""
        rows = self._rows.get((flow, outage.id))
        return outage if rows is None else replace(outage, evidence=tuple(map(_record, rows.tolist())))

    def forget(self, flow: int, number: int) -> None:
        """An outage that is there no more."""
        rows = self._rows.pop((flow, number), None)
        if rows is not None:
            self._octets -= ENTRY_OCTETS + rows.nbytes
            del self._outages[flow][number]

    def forget_flow(self, flow: int) -> None:
        for number in [*self._outages.get(flow, ())]:
            self.forget(flow, number)
        self._outages.pop(flow, None)


def _record(row: list[int]) -> ProbeRecord:
    sequence, tx, *others, fate = row
    rx, there, replied, ttl = (None if value == UNKNOWN else value for value in others)
    return ProbeRecord(sequence, tx, rx, there, replied, ttl, _FATES[fate])
