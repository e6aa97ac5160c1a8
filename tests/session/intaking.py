"""The receiving side of a sender with one flow of each kind, whose probes are known: replies in, counts out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from probe.border import FLOW, HEADER
from probe.clock import ManualClock
from probe.core.fate import COLUMN, COLUMNS
from probe.core.histogram import BINS
from probe.core.ledger import Ledger
from probe.link.memory import MemoryLink
from probe.session.filler import Filler
from probe.session.flows import FlowTable
from probe.session.intake import Intake

from .flow import KINDS, add

PROBES = 10
NAMES = tuple(f"{kind}{family}" for kind in KINDS for family in (4, 6))


class NoConnections:
    """TCP segments that are no replies end here."""

    def acknowledge(self, *_: Any) -> None: ...

    def take(self, *_: Any) -> None: ...

    def send_resets(self, *_: Any) -> None: ...


class Desk:
    """Flows 0, 1, ..., each with an id of its own, from 50,000 on; each has sent PROBES probes.

    Args:
        *names: Kinds with their family, as in NAMES; none: one flow of each.
    """

    def __init__(self, *names: str) -> None:
        self.clock = ManualClock()
        names = names or NAMES
        self.shared = SimpleNamespace(  # counters as an engine shares them, without a memory file
            header=np.zeros(1, HEADER),
            live=np.zeros((len(names), COLUMNS), np.int64),
            flows=np.zeros(len(names), FLOW),
            histogram=np.zeros((len(names), BINS), np.uint32),
        )
        self.table = FlowTable(len(names), 1600)
        self.ledger = Ledger(len(names), live=self.shared.live)
        self.index = {name: n for n, name in enumerate(names)}
        self.ids = {name: 50_000 + NAMES.index(name) for name in names}
        for name, n in self.index.items():
            flow = add(self.table, n, name[:-1], int(name[-1]), [self.ids[name]])
            self.ledger.add(n, name, 1000.0, flow.threshold_ns, flow.min_probes)
        self.link = MemoryLink(self.clock, slot_octets=190)
        self.told: list[dict[str, Any]] = []
        nothing = lambda *_: None  # noqa: E731
        self.intake = Intake(
            self.table,
            self.ledger,
            NoConnections(),  # type: ignore[arg-type]
            self.clock,
            self.shared,  # type: ignore[arg-type]
            self.told.append,
            nothing,
            nothing,
        )
        self.sent = {name: self._send(name) for name in names}

    def _send(self, name: str) -> list[bytes]:
        flow = np.full(PROBES, self.index[name], np.int64)
        sequence = self.ledger.allocate(flow, np.full(PROBES, self.clock.mono, np.int64))
        self.ledger.stamp(flow, sequence, np.full(PROBES, self.clock.mono, np.int64))
        out = MemoryLink(self.clock, slot_octets=256)
        lengths = Filler(out.sender, self.table).fill(0, flow, sequence, np.full(PROBES, self.clock.wall, np.int64))
        raw = out.sender.view((bytes, out.sender.slot_octets))
        return [raw[n].ljust(256, b"\0")[: int(lengths[n])] for n in range(PROBES)]

    def receive(self, *frames: bytes, after_ns: int = 1_000_000) -> None:
        """These frames arrive, so much later."""
        self.clock.advance(after_ns)
        for frame in frames:
            self.link.carry(frame)
        self.intake.drain([self.link.receiver])

    def count(self, name: str, column: str) -> int:
        return int(self.shared.live[self.index[name], COLUMN[column]])

    def errors(self) -> dict[str, int]:
        """ICMP errors by flow, where there are any."""
        return {name: n for name in self.index if (n := self.count(name, "icmp_error"))}

    @property
    def foreign(self) -> int:
        return int(self.shared.header["unknown_frames"][0])
