"""All that an engine has told, in the control process: states, outages, unobserved spans, session ends, counts.

Fed by the engine's events and by readings of its counters; asked by the web endpoints, the journal and the reports.
Safe to use from any thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probe.border import SharedState
from probe.core.ending import IcmpRun, ended_by, standing
from probe.core.events import (
    Counts,
    Direction,
    FlowSpec,
    FlowState,
    Outage,
    SessionEnd,
    StallRecord,
    Unobserved,
)
from probe.core.fate import DIRECTION_FATE, FATE_COLUMN
from probe.core.histogram import BINS, edges_ns, quantile_ns
from probe.core.verdict import FlowRecord
from probe.cutting import is_open, outage_within, stall_within, unobserved_within
from probe.history import History
from probe.outage_records import OutageRecords
from probe.outages import Outages, Total

log = logging.getLogger(__name__)

MOST_SPANS = 10_000  # unobserved spans and stalls kept per flow; older unobserved spans are in the journal
MOST_ICMP_RUNS = 100
MOST_ENDS = 1000  # of sessions, per flow; older ones are in the journal
Listener = Callable[[str, dict[str, Any]], None]


@dataclass(slots=True)
class FlowTrack:
    """What is known of one flow."""

    spec: FlowSpec
    index: int
    address: str
    interface: str = ""
    source: str = ""
    state: FlowState = "connecting"
    detail: str = ""
    outages: Outages = field(default_factory=Outages)
    lost_before: dict[int, tuple[Direction, int]] = field(
        default_factory=dict
    )  # per open outage: lost before its start
    unobserved: list[Unobserved] = field(default_factory=list)
    unobserved_so_far: Unobserved | None = None  # the one of these that goes on
    unobserved_total: Total = field(default_factory=Total)
    ends: list[SessionEnd] = field(default_factory=list)  # as told, each with when the session after it worked
    session_ends: int = 0
    icmp: list[IcmpRun] = field(default_factory=list)
    resets: dict[str, int] = field(default_factory=lambda: {"rst": 0, "fin": 0, "icmp": 0})
    established_ns: int = 0
    translation: str = ""
    translations_ns: list[int] = field(default_factory=list)  # when it changed
    stalls: dict[int, dict[str, Any]] = field(default_factory=dict)  # of a stream, in the contract's form
    stalls_total: Total = field(default_factory=Total)
    retransmissions: int = 0
    reconnected: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    answered: bool = False
    version: int = 0  # goes up with every change of the above, after it

    @property
    def session_end(self) -> SessionEnd | None:
        """How its last session that ended did."""
        return self.ends[-1] if self.ends else None


class Recorder:
    """The record of one engine's flows.

    Args:
        listener: Called with (kind, data) for each event worth telling: `outage`, `flow_state`, `session_end`,
            `unobserved`, `established`, `stall`, `translation`, `recording_ended`.
    """

    def __init__(self, listener: Listener | None = None):
        self._lock = threading.RLock()
        self._listener = listener or (lambda kind, data: None)
        self._tracks: dict[int, FlowTrack] = {}
        self._shared: SharedState | None = None
        self._told = threading.Condition()
        self._asking = threading.Lock()
        self._asked = self._answered = 0
        self._records = OutageRecords()
        self.history = History()

    def attach(self, shared: SharedState) -> None:
        """Read the counters of this engine from now on."""
        self._shared = shared

    def add(self, track: FlowTrack) -> None:
        with self._lock:
            self._tracks[track.index] = track

    def remove(self, index: int) -> None:
        with self._lock:
            self._tracks.pop(index, None)
            self._records.forget_flow(index)
            self.history.forget(index)

    def tracks(self) -> list[FlowTrack]:
        """Every flow, in the order of its index."""
        with self._lock:
            return [self._tracks[i] for i in sorted(self._tracks)]

    def sample(self) -> None:
        """Read the engine's counters into the history."""
        if self._shared is None:
            return
        snapshot = self._shared.read()
        with self._lock:
            self.history.add(snapshot, max(self._tracks, default=-1) + 1)

    # --- events ------------------------------------------------------------------------------------------------

    def take(self, message: dict[str, Any]) -> None:
        """Take in one event of the engine."""
        if message["event"] == "told":
            with self._told:
                self._answered += 1
                self._told.notify_all()
        if message["event"] == "recording_ended":
            self._listener("recording_ended", {"reason": message["reason"]})
        if message["event"] == "unobserved":
            self._take_unobserved(message)
        handler = getattr(self, f"_take_{message['event']}", None) if "flow" in message else None
        if handler is None:
            return
        with self._lock:
            track = self._tracks.get(message["flow"])
            if track is not None:
                handler(track, message)
                track.version += 1

    def _take_refused(self, track: FlowTrack, message: dict[str, Any]) -> None:
        track.detail = message["reason"]
        log.warning("flow %s: %s; it is not probed", track.spec.name, track.detail)

    def _take_stayed(self, track: FlowTrack, message: dict[str, Any]) -> None:
        # No detail of the flow: it may have the next way by now, of which the engine tells nothing.
        log.warning(
            "flow %s: its new way cannot be taken: %s; it stays on the old one", track.spec.name, message["reason"]
        )

    def _take_moved(self, track: FlowTrack, message: dict[str, Any]) -> None:
        if track.spec.session == "kept":  # probes are answered again, but not those of the session that was
            track.translations_ns.append(message["at_ns"])
            log.warning("flow %s: this host has lost the address that it was sent from", track.spec.name)

    def _take_state(self, track: FlowTrack, message: dict[str, Any]) -> None:
        track.state = message["state"]
        track.answered |= track.state == "up"
        self._listener("flow_state", {"flow": track.spec.name, "state": track.state, "at_ns": message["at_ns"]})

    def _take_outage(self, track: FlowTrack, message: dict[str, Any]) -> None:
        fields = {k: v for k, v in message.items() if k not in ("event", "flow", "lost_before", "evidence")}
        outage = Outage(flow=track.spec.name, **fields)
        if outage.censored != "end" or outage.withdrawn:
            track.lost_before.pop(outage.id, None)
        elif message["lost_before"] >= 0:
            track.lost_before[outage.id] = (outage.direction, message["lost_before"])
        if outage.withdrawn:
            self._records.forget(track.index, outage.id)
        elif "evidence" in message:  # told when there is something new in it
            self._records.tell(track.index, outage.id, message["evidence"])
        told = self._records.with_records(track.index, track.outages.take(outage))
        data = {"flow": track.spec.name, "id": outage.id, "withdrawn": outage.withdrawn, **told.to_document()}
        self._listener("outage", data)

    def _take_unobserved(self, message: dict[str, Any]) -> None:
        """One message tells of many flows: what keeps an engine from sending keeps it from sending any."""
        for flow, start, end in zip(message["flows"], message["start_ns"], message["end_ns"], strict=True):
            with self._lock:
                track = self._tracks.get(flow)
                if track is not None:
                    span = Unobserved(track.spec.name, start, end, message["cause"])
                    self._take_unobserved_of(track, span, message.get("goes_on", False))
                    track.version += 1

    def _take_unobserved_of(self, track: FlowTrack, span: Unobserved, goes_on: bool) -> None:
        before = track.unobserved_so_far
        if before is not None and (before.end_ns, before.cause) == (span.start_ns, span.cause):
            span, track.unobserved_so_far = replace(span, start_ns=before.start_ns), None
            track.unobserved_total.remove(before.end_ns - before.start_ns)
            with suppress(ValueError):  # so many came meanwhile that it was let go
                track.unobserved.remove(before)
        if goes_on:
            track.unobserved_so_far = span
        track.unobserved.append(span)
        track.unobserved_total.add(span.end_ns - span.start_ns)
        del track.unobserved[:-MOST_SPANS]
        if not goes_on:
            data = {"flow": span.flow, "start_ns": span.start_ns, "end_ns": span.end_ns, "cause": span.cause}
            self._listener("unobserved", data)

    def _take_session_end(self, track: FlowTrack, message: dict[str, Any]) -> None:
        cause, source, ttl, peer_ttl = (message[name] for name in ("cause", "from", "ttl", "peer_ttl"))
        by = ended_by(_without_zone(source), _without_zone(track.address), ttl, peer_ttl)
        end = SessionEnd(track.spec.name, cause, message["at_ns"], source, ttl, peer_ttl, by)
        if track.established_ns > end.at_ns:  # the next session was told of first
            end = replace(end, again_ns=track.established_ns)
        track.ends.append(end)
        del track.ends[:-MOST_ENDS]
        track.session_ends += 1
        track.resets[cause] = track.resets.get(cause, 0) + 1
        self._listener("session_end", {"flow": track.spec.name, **end.to_document()})

    def _take_icmp_error(self, track: FlowTrack, message: dict[str, Any]) -> None:
        at_ns = message["at_ns"]
        run = IcmpRun(at_ns, at_ns, *(message[name] for name in ("type", "code", "from", "ttl", "peer_ttl")))
        n = next((n for n, before in enumerate(track.icmp) if before.goes_on(run)), None)
        if n is not None:
            track.icmp[n] = replace(track.icmp[n], last_ns=at_ns)
            return
        track.icmp.append(run)
        del track.icmp[:-MOST_ICMP_RUNS]

    def _take_established(self, track: FlowTrack, message: dict[str, Any]) -> None:
        track.established_ns = message["at_ns"]
        last = track.session_end
        if last is not None and last.again_ns is None and last.at_ns < track.established_ns:
            track.ends[-1] = replace(last, again_ns=track.established_ns)
        if "local" in message:  # a stream: the kernel chose the way
            track.source, track.detail = message["local"], ""
        if message.get("connection", 1) > 1:
            track.reconnected.append({"at_ns": message["at_ns"], "attempts": message["attempts"]})
            del track.reconnected[:-MOST_SPANS]
        self._listener("established", {"flow": track.spec.name, "at_ns": message["at_ns"]})

    def _take_stall(self, track: FlowTrack, message: dict[str, Any]) -> None:
        beside = ("event", "flow", "id", "total_retransmissions")
        stall = {k: v for k, v in message.items() if k not in beside}
        before = track.stalls.get(message["id"])
        if before is not None:
            track.stalls_total.remove(before["duration_ns"])
        track.stalls[message["id"]] = stall
        track.stalls_total.add(stall["duration_ns"])
        track.retransmissions = message["total_retransmissions"]
        while len(track.stalls) > MOST_SPANS:
            del track.stalls[next(iter(track.stalls))]
        self._listener("stall", {"flow": track.spec.name, "id": message["id"], **stall})

    def _take_stream_foreign(self, track: FlowTrack, message: dict[str, Any]) -> None:
        track.detail = message["detail"]

    def _take_translation(self, track: FlowTrack, message: dict[str, Any]) -> None:
        track.translation = f"{message['address']}:{message['port']}"
        if message["changed"]:
            track.translations_ns.append(message["at_ns"])
        self._listener("translation", {"flow": track.spec.name, "seen_as": track.translation})

    def refresh(self, ask: Callable[[], None], timeout_s: float = 1.0) -> bool:
        """Have the engine tell how open outages stand: `ask` sends the command, this waits until it is answered.

        Returns:
            Whether it was. Then all that the engine had found when it was asked has been taken in.
        """
        with self._asking:
            self._asked += 1
            mine = self._asked  # it answers in the order of asking, each once
            ask()
        with self._told:
            answered = self._told.wait_for(lambda: self._answered >= mine, timeout_s)
        self.sample()
        return answered

    def _take_done(self, track: FlowTrack, message: dict[str, Any]) -> None:
        track.done = True

    def _take_correction(self, track: FlowTrack, message: dict[str, Any]) -> None:
        for at_ns, count in zip(message["at_ns"], message["count"], strict=True):
            self.history.correct(track.index, at_ns, message["from"], message["to"], count, message["generation"])

    # --- answers -----------------------------------------------------------------------------------------------

    def outages(self, track: FlowTrack) -> list[Outage]:
        """A flow's outages with their episodes and records, oldest first."""
        with self._lock:
            return [self._records.with_records(track.index, outage) for outage in track.outages.numbered()]

    def last_outages(self, track: FlowTrack, most: int) -> list[Outage]:
        """Those of a flow's outages that began last, at most so many, without episodes and records; oldest first."""
        with self._lock:
            return track.outages.last(most)

    def since(self, track: FlowTrack, since_ns: int) -> tuple[list[Outage], list[tuple[int, int]]]:
        """A flow's outages and unobserved spans that end after an instant, without episodes."""
        with self._lock:
            outages = [o for o in track.outages.values() if o.end_ns > since_ns or o.first_ok_ns == 0]
            return outages, [(u.start_ns, u.end_ns) for u in track.unobserved if u.end_ns > since_ns]

    def flow_document(self, track: FlowTrack, start_ns: int | None, end_ns: int | None) -> dict[str, Any]:
        """A flow of the result document, for a span of Unix nanoseconds as `counted` widens it."""
        with self._lock:
            begin, end = self.counted(start_ns, end_ns)
            # No upper end up to now: the engine's times do not follow steps of the wall clock.
            first, last = begin or 0, 1 << 63 if end is None else end
            counts = self.history.counts(track.index, start_ns, end_ns)
            outages = self._within(track, counts, begin, end)
            unobserved = [part for u in track.unobserved if (part := unobserved_within(u, first, last)) is not None]
            rtt = self._rtt(track, start_ns, end_ns)
            rebound = any(first <= at <= last for at in track.translations_ns)
            ended = self._session_end(track, outages, first, last)
            stream = self._stream(track, first, last) if track.spec.stack == "kernel" else None
        return {
            "name": track.spec.name,
            "agent": "",
            "target": track.address,
            "protocol": track.spec.protocol,
            "session": track.spec.session,
            "path": track.spec.path,
            "interval_ns": track.spec.interval_ns,
            "counts": {name: getattr(counts, name) for name in counts.__slots__},
            "rtt_ns": rtt,
            "outages": [o.to_document() for o in outages],
            "unobserved": [{"start_ns": u.start_ns, "end_ns": u.end_ns, "cause": u.cause} for u in unobserved],
            "session_end": ended.to_document(),
            "verdict": "unobserved",
            "rebound": rebound,
            **({} if stream is None else {"stack": "kernel", "stream": stream}),
        }

    def record(self, track: FlowTrack, counts: Counts) -> FlowRecord:
        """A flow's whole life as verdicts look at it, with these counts; of its outages those that say how it stands,
        as told, oldest first.
        """
        spec = track.spec
        with self._lock:
            outages = track.outages.recent()
            return FlowRecord(
                spec.name,
                spec.protocol,
                spec.session,
                spec.path,
                target=track.address,
                interval_ns=spec.interval_ns,
                counts=counts,
                outages=tuple(outages),
                unobserved=tuple(track.unobserved),
                session_end=self._session_end(track, outages, 0, 1 << 63),
                stack=spec.stack,
                stalls=tuple(StallRecord(s["start_ns"], s["end_ns"], s["censored"]) for s in track.stalls.values()),
                reconnected=spec.stack == "kernel" and bool(track.reconnected),
                rebound=bool(track.translations_ns),
            )

    @staticmethod
    def _stream(track: FlowTrack, first: int, last: int) -> dict[str, Any]:
        """What a stream has beside other flows, for a span; a stall that goes on beyond it is cut there."""
        stalls = [
            stall_within(s, first, last) for s in track.stalls.values() if s["start_ns"] < last and s["end_ns"] > first
        ]
        return {
            "stalls": sorted(stalls, key=lambda stall: int(stall["start_ns"])),
            "retransmissions": track.retransmissions,
            "reconnected": [one for one in track.reconnected if first <= one["at_ns"] <= last],
        }

    def counted(self, start_ns: int | None, end_ns: int | None) -> tuple[int | None, int | None]:
        """The span that a document is about when asked for this one: as far as counts are known by instants.

        Returns:
            Where it begins and ends, Unix ns; None: with the first probe, now.
        """
        return self.history.begin(start_ns), self.history.end(end_ns)

    @contextmanager
    def counting(self, start_ns: int | None, end_ns: int | None) -> Iterator[tuple[int | None, int | None]]:
        """The same for the documents of many flows: what it rests on stays meanwhile, so that all are of one span."""
        with self._lock:
            self.history.holders += 1
            span = self.counted(start_ns, end_ns)
        try:
            yield span
        finally:
            with self._lock:
                self.history.holders -= 1

    def _within(self, track: FlowTrack, counts: Counts, begin: int | None, end: int | None) -> list[Outage]:
        """Outages as far as the span's counts hold their losses: those of a part follow from its time, and the counts
        are the limit.
        """
        latest = self.history.latest
        settled_to = end if end is not None else latest.settled_to if latest is not None else None
        outages = [
            self._records.with_records(track.index, outage)
            for outage in track.outages.numbered()
            if (end is None or outage.start_ns <= end) and (begin is None or outage.end_ns > begin)
        ]
        outages = [self._grown(track, o) for o in outages] if end is None else outages
        found = []
        for direction, fate in DIRECTION_FATE.items():
            room = getattr(counts, FATE_COLUMN[fate])
            cut = []
            for outage in (o for o in outages if o.direction == direction):
                started = begin is None or outage.first_lost_ns > begin
                if started and (settled_to is None or outage.end_ns <= settled_to):
                    found.append(outage)
                    room -= outage.lost
                else:
                    cut.append(outage)
            for outage in cut:
                part = outage_within(outage, begin, end, room, track.spec.interval_ns, track.unobserved)
                if part is not None:
                    found.append(part)
                    room -= part.lost
        return sorted(found, key=lambda o: (o.start_ns, o.id))

    def _grown(self, track: FlowTrack, outage: Outage) -> Outage:
        """An open outage with the losses since it was last told."""
        direction, before = track.lost_before.get(outage.id, (outage.direction, -1))
        if outage.censored != "end" or before < 0 or direction != outage.direction:
            return outage
        lost = max(outage.lost, self.history.live(track.index, FATE_COLUMN[DIRECTION_FATE[direction]]) - before)
        last = max(outage.last_lost_seq, outage.first_lost_seq + lost - 1)
        return replace(outage, lost=lost, last_lost_seq=last)

    @staticmethod
    def _session_end(track: FlowTrack, outages: list[Outage], first: int, last: int) -> SessionEnd:
        name = track.spec.name
        end = next((end for end in reversed(track.ends) if first <= end.at_ns <= last), None)
        if end is not None:
            return replace(end, again_ns=None) if end.again_ns is not None and end.again_ns > last else end
        dark = [o.start_ns for o in outages if o.censored == "end"]
        dark += [s["start_ns"] for s in track.stalls.values() if s["start_ns"] < last and is_open(s, first, last)]
        if track.spec.session != "kept" or not dark:
            return SessionEnd(name)
        open_outage = next((o for o in outages if o.censored == "end"), None)
        run = standing(track.icmp, open_outage) if open_outage is not None else None
        if run is None:
            return SessionEnd(name, "silent", dark[0])
        by = ended_by(run.source, _without_zone(track.address), run.ttl, run.peer_ttl)
        at_ns = max(run.first_ns, dark[0])
        return SessionEnd(name, "icmp", at_ns, run.source, run.ttl, run.peer_ttl, by, run.type, run.code)

    def rtt_ns(self, track: FlowTrack) -> dict[str, int]:
        """Minimum, quantiles and maximum of a flow's delays over its whole life."""
        return self._rtt(track, None, None)

    def _rtt(self, track: FlowTrack, start_ns: int | None, end_ns: int | None) -> dict[str, int]:
        counts = self.history.delays(track.index, start_ns, end_ns)
        latest = self.history.latest
        filled = np.flatnonzero(counts)
        if latest is None or not len(filled):
            return {"min": 0, "p50": 0, "p99": 0, "max": 0}
        # The extremes of the whole life are exact; those of a span are known to within their bin.
        edges, row = edges_ns(), latest.flows[track.index]
        low = max(int(row["rtt_min"]), int(edges[filled[0]]) if filled[0] else 0)
        high = min(int(row["rtt_max"]), int(edges[filled[-1] + 1]) if filled[-1] < BINS - 1 else int(row["rtt_max"]))
        p50, p99 = (min(max(quantile_ns(counts, q), low), high) for q in (0.5, 0.99))
        return {"min": low, "p50": p50, "p99": p99, "max": high}


def _without_zone(address: str) -> str:
    """A link-local address as packets carry it."""
    return address.partition("%")[0]
