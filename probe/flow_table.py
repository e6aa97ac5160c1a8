"""All flows of an agent as columns, for scrapes and the status: counts as the engine keeps them, and what was told.

What events have told of a flow is worked out again only when its version has gone up, and its verdict only when
something that decides it has changed. So reading ten thousand quiet flows is a few operations on arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from probe.border import FLOW, Snapshot
from probe.core.events import COUNT_NAMES, VERDICTS, Counts, FlowState
from probe.core.fate import COLUMN
from probe.core.histogram import edges_ns
from probe.core.verdict import (
    LOSS_THAT_MATTERS,
    UNOBSERVED_SHARE,
    Condition,
    FlowRecord,
    Span,
    condition,
    decided,
    twins,
)
from probe.export.view import TOLD, FlowKey, FlowTable, Place
from probe.outages import Extent
from probe.recorder import FlowTrack, Recorder

Ints = npt.NDArray[np.int64]
EDGES_S = (*(m * 10.0**e for e in range(-5, 1) for m in (1, 2.5, 5)), 10.0, float("inf"))
# The first bin of each bucket: a bin counts below an edge when all of it lies there.
_BUCKET_STARTS = [0, *np.searchsorted(edges_ns()[1:] / 1e9, EDGES_S[:-1], side="right").tolist()]
_STATE = {state: place for place, state in enumerate(get_args(FlowState))}
_VERDICT = {verdict: place for place, verdict in enumerate(VERDICTS)}
_ROWS_AT_ONCE = 256  # of histograms: half a megabyte stays in the processor's cache
# The counts that a condition depends on.
_CONDITION = {name: COLUMN[name] for name in ("scheduled", "sent", "received", "late", "lost")}
_EXTENT = np.dtype([(name, np.int64) for name in Extent._fields])


class FlowTables:
    """Makes tables of a recorder's flows. Safe to use from any thread."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder
        self._lock = threading.Lock()
        self._rows = _Rows([])

    def renew(self, tracks: Sequence[FlowTrack]) -> None:
        """Take in now what was told since the last time, so that the next table need not."""
        with self._lock:
            self._renewed(tracks, self._recorder.history.latest)

    def _renewed(self, tracks: Sequence[FlowTrack], latest: Snapshot | None) -> tuple[_Rows, Ints]:
        if [*map(id, tracks)] != [*map(id, self._rows.tracks)]:
            self._rows = _Rows(tracks)
        counts = _counts(latest, self._rows.index)
        self._rows.renew(self._recorder, counts)
        return self._rows, counts

    def read(self, tracks: Sequence[FlowTrack]) -> FlowTable:
        """These flows as they stand."""
        with self._lock:
            latest = self._recorder.history.latest
            rows, counts = self._renewed(tracks, latest)
            told, places = rows.told.copy(), rows.places
        # RSTs are answers to the probes of a fresh flow: the engine counts them, and tells of none.
        told["rst"] = np.where(rows.fresh, counts[:, COLUMN["reset"]], told["rst"])
        flows = np.zeros(len(tracks), FLOW) if latest is None else latest.flows[rows.index]
        return FlowTable(
            flows=rows.keys,
            places=places,
            streams=rows.streams,
            interval_ns=rows.interval_ns,
            counts=counts,
            last_answered_ns=flows["last_answered"],
            rtt_edges_s=EDGES_S,
            rtt_buckets=_buckets(latest, rows.index),
            rtt_sum_s=flows["rtt_sum"] / 1e9,
            told=told,
        )


def _counts(latest: Snapshot | None, index: Ints) -> Ints:
    """Shape (flows, COUNT_NAMES), probes whose fate is open as `pending`."""
    if latest is None:
        return np.zeros((len(index), len(COUNT_NAMES)), np.int64)
    counts: Ints = latest.live[index]
    settled = [COLUMN[name] for name in ("received", "late", "lost", "dropped_locally")]
    counts[:, COLUMN["pending"]] = counts[:, COLUMN["sent"]] - counts[:, settled].sum(axis=1)
    return counts


def _buckets(latest: Snapshot | None, index: Ints) -> Ints:
    """Cumulative counts by the edges EDGES_S, shape (flows, edges)."""
    buckets = np.zeros((len(index), len(EDGES_S)), np.int64)
    if latest is not None:
        for start in range(0, len(index), _ROWS_AT_ONCE):
            histograms = latest.histogram[index[start : start + _ROWS_AT_ONCE]]
            counted = np.add.reduceat(histograms, _BUCKET_STARTS, axis=1, dtype=np.int64)
            np.cumsum(counted, axis=1, out=buckets[start : start + _ROWS_AT_ONCE])
    return buckets


class _Rows:
    """What is remembered of one set of flows."""

    def __init__(self, tracks: Sequence[FlowTrack]):
        specs = [track.spec for track in tracks]
        self.tracks = list(tracks)
        self.keys: list[FlowKey] = [(s.name, s.protocol, s.session, s.path) for s in specs]
        self.places: list[Place] = [_place(track) for track in tracks]
        self.index = np.array([track.index for track in tracks], np.int64)
        self.streams = np.array([spec.stack == "kernel" for spec in specs], np.bool_)
        self.fresh = np.array([spec.session == "fresh" for spec in specs], np.bool_)
        self.interval_ns = np.array([spec.interval_ns for spec in specs], np.int64)
        self.told = np.zeros(len(tracks), TOLD)
        self._versions = np.full(len(tracks), -1, np.int64)
        self._records = [FlowRecord(s.name, s.protocol, s.session, s.path) for s in specs]
        self._conditions: list[Condition] = ["unknown"] * len(tracks)
        self._kinds = np.full(len(tracks), -1, np.int64)
        self._blind_ns = np.zeros(len(tracks), np.int64)
        self._extents = np.full(len(tracks), np.array(Extent(), _EXTENT))
        self._incident: Span | None = None
        self._twin: dict[int, int] | None = None
        self._twin_of: dict[int, list[int]] = {}

    def renew(self, recorder: Recorder, counts: Ints) -> None:
        """Bring `told` up to date."""
        versions = np.array([track.version for track in self.tracks], np.int64)  # first: an event may come meanwhile
        changed = versions != self._versions
        for row in np.flatnonzero(changed).tolist():
            self._tell(row, recorder)
        if changed.any():
            self.places = [_place(track) for track in self.tracks]
        self._versions = versions
        self._judge(changed, counts)

    def _tell(self, row: int, recorder: Recorder) -> None:
        track = self.tracks[row]
        record = self._records[row] = recorder.record(track, Counts())
        last = record.outages[-1] if record.outages else None
        outages, stalls, blind_ns = track.outages.total, track.stalls_total, track.unobserved_total.length_ns
        self._blind_ns[row] = blind_ns
        # Integers are divided here: as float64 they would have been rounded before.
        self.told[row] = (
            _STATE[track.state],
            self.told[row]["verdict"],
            *(track.resets.get(cause, 0) for cause in ("rst", "fin", "icmp", "silent")),
            outages.count,
            outages.length_ns / 1e9,
            blind_ns / 1e9,
            last.start_ns / 1_000_000_000 if last else 0.0,
            last.end_ns / 1_000_000_000 if last else 0.0,
            *(ns / 1_000_000_000 for ns in ((last.lower_ns, last.estimate_ns, last.upper_ns) if last else (0, 0, 0))),
            last.lost if last else 0,
            last is not None and last.first_ok_ns == 0,
            stalls.count,
            stalls.length_ns / 1e9,
            track.retransmissions,
        )
        self._extents[row] = track.outages.extent()

    def _judge(self, changed: npt.NDArray[np.bool_], counts: Ints) -> None:
        """Give every flow its verdict again of which something changed that decides it (`core.verdict`)."""
        kinds = self._kinds_of(counts)
        changed = changed | (kinds != self._kinds)
        self._kinds = kinds
        incident = self._span()
        if incident != self._incident:
            changed = changed | (self._blind_ns > 0)
            self._incident = incident
        if not changed.any():
            return
        if self._twin is None:
            self._twin = twins(self._records)
            for row, twin in self._twin.items():
                self._twin_of.setdefault(twin, []).append(row)
        again: set[int] = set()
        for row in np.flatnonzero(changed).tolist():
            record = self._records[row]
            for name, place in _CONDITION.items():
                setattr(record.counts, name, int(counts[row, place]))
            self._conditions[row] = condition(record, incident)
            again.update((row, *self._twin_of.get(row, ())))
        for row in again:
            other = self._conditions[self._twin[row]] if row in self._twin else None
            rule = decided(self._records[row], self._conditions[row], other)
            self.told[row]["verdict"] = _VERDICT[rule.verdict]

    def _kinds_of(self, counts: Ints) -> Ints:
        """A number per flow that changes whenever its counts may change its condition."""
        column = {name: counts[:, place] for name, place in _CONDITION.items()}
        answered = column["received"] + column["late"]
        matters = column["lost"] >= LOSS_THAT_MATTERS * column["sent"]
        blind = self._blind_ns > UNOBSERVED_SHARE * column["scheduled"] * self.interval_ns
        kinds: Ints = (answered + column["lost"] > 0) * 8 + (answered > 0) * 4 + matters * 2 + blind * 1
        return kinds

    def _span(self) -> Span | None:
        """As `core.verdict.incident_of` has it."""
        extents = self._extents
        if not len(extents) or not extents["end"].max():
            return None
        end = extents["ended"].max() or extents["end"].max()
        return int(extents["first"].min()), int(max(extents["last"].max(), end))


def _place(track: FlowTrack) -> Place:
    return track.spec.target, track.address, track.spec.port, track.interface, track.source
