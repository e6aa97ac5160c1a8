"""What is written of flows and HA events: series of samples stamped with the true millisecond. Sans-IO.

A store without an out-of-order window takes a series' samples in the order of their stamps only, and keeps what it
took. So a line is written up to an instant at which nothing is open any more: every probe sent until then is settled,
and a loss run that began before has either become an outage or ended. A late reply that corrects an outage after it
was written is counted (`FlowLines.revised`): the store has the old edge, the result document the true one. Stalls of a
stream are outages of round trips here.

    value      1 ─────────────────┐                           ┌──────── 1
               0                  └───────────────────────────┘
    samples    every 15 s   start - 1 ms, start      end - 1 ms, end    every 15 s
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from probe.core.events import FlowSpec, Outage, TimelineEvent
from probe.core.outage import DIRECTIONS
from probe.export.remote_format import STALE, label_octets, series_octets

OUTAGE, UP, UNOBSERVED = 0.0, 1.0, 2.0
FLOW_STATE = "haprobe_flow_state"
OUTAGE_SECONDS = "haprobe_flow_outage_seconds"
HA_EVENT = "haprobe_ha_event_timestamp_seconds"
HEARTBEAT_MS = 15_000  # well within the 5 minutes after which a query takes a series to have ended
UNOBSERVED_FROM_NS = 100_000_000  # a host that stalls dozens of times a second must not write each; counters have them
CORRECTED_WITHIN_MS = 120_000  # so long a written outage is compared with what is known of it
ANY = "any"  # a line of all outages, whichever way
BOUNDS = ("lower", "estimate", "upper")
SUBJECTS = ("address", "route_table", "destination", "instance_id", "operation", "target", "role", "watcher")

PAST = 0  # id of every outage that an earlier process found
_EVER_NS = 1 << 62

Span = tuple[int, int]  # start and end in ms, the end not in it


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: the series' labels as octets, the stamp in Unix ms, the value."""

    labels: bytes
    ms: int
    value: float

    def octets(self) -> bytes:
        return series_octets(self.labels, self.ms, self.value)


class StateLine:
    """A series of states, continued from what was written before.

    Args:
        labels: Its labels, encoded.
        after_ms: Everything up to here has been written, or is not to be.
    """

    def __init__(self, labels: bytes, after_ms: int):
        self._labels = labels
        self._known_ms = after_ms
        self._stamp_ms = after_ms  # of the last sample
        self._value: float | None = None

    def advance(
        self, upto_ms: int, outages: Iterable[Span], unobserved: Iterable[Span], every_ms: int = HEARTBEAT_MS
    ) -> list[Sample]:
        """Samples of the time since the last call up to `upto_ms`, which is included; ascending.

        An outage shows from its start to its end, as in the result document, also where a part of it was not observed.
        Anything else that was not is no state at all, and what is left is up. However little happens, there is a
        sample `every_ms`.
        """
        if upto_ms <= self._known_ms:
            return []
        samples: list[Sample] = []
        for ms, value in _steps(self._known_ms + 1, upto_ms, outages, unobserved):
            if value == self._value:
                continue
            if self._value is not None and ms - 1 > self._stamp_ms:
                samples.append(Sample(self._labels, ms - 1, self._value))
            samples.append(Sample(self._labels, ms, value))
            self._value, self._stamp_ms = value, ms
        assert self._value is not None
        if upto_ms - self._stamp_ms >= every_ms:
            samples.append(Sample(self._labels, upto_ms, self._value))
            self._stamp_ms = upto_ms
        self._known_ms = upto_ms
        return samples

    def end(self) -> Sample:
        """The marker behind a series that has ended."""
        return Sample(self._labels, self._stamp_ms + 1, STALE)


def _steps(
    first_ms: int, last_ms: int, outages: Iterable[Span], unobserved: Iterable[Span]
) -> Iterable[tuple[int, float]]:
    """(ms, value from there on) at `first_ms` and wherever spans begin or end up to `last_ms`."""
    changes: dict[int, list[int]] = {first_ms: [0, 0]}
    for kind, spans in enumerate((outages, unobserved)):
        for start, end in spans:
            if end > first_ms and start <= last_ms:
                changes.setdefault(max(start, first_ms), [0, 0])[kind] += 1
                changes.setdefault(end, [0, 0])[kind] -= 1
    dark = unseen = 0
    for ms in sorted(changes):
        if ms > last_ms:
            return
        dark, unseen = dark + changes[ms][0], unseen + changes[ms][1]
        yield ms, OUTAGE if dark else UNOBSERVED if unseen else UP


def span_ms(start_ns: int, end_ns: int) -> Span:
    """A span in whole milliseconds; one that is shorter still shows."""
    start = start_ns // 1_000_000
    return start, max(end_ns // 1_000_000, start + 1)


@dataclass(frozen=True, slots=True)
class FlowPicture:
    """What is known of a flow, in Unix ns: outages and unobserved spans, those that end after `since_ns` at least."""

    spec: FlowSpec
    first_ns: int  # when its first probe was sent
    settled_ns: int
    last_sent_ns: int  # 0: a stream without a session
    outages: list[Outage]
    unobserved: list[tuple[int, int]]
    ended: bool = False  # its session is over: nothing more is sent
    began_ns: int = 0  # of a stream: when its newest session began
    over_ns: int = 0  # of a stream: when one was ended last


def stall_outage(flow: str, number: int, stall: Mapping[str, Any]) -> Outage:
    """A stall of a stream, in the contract's form, as an outage of round trips: its times are exact."""
    start, end, length, key = (stall[name] for name in ("start_ns", "end_ns", "duration_ns", "first_seq"))
    over = stall["censored"] == "no"
    edges, bounds = (start, start, end, end if over else 0), (length, length, length)
    return Outage(flow, number, "round_trip", start, end, *edges, *bounds, 0, key, key, censored=stall["censored"])


class FlowLines:
    """All series of one flow.

    Args:
        spec: The flow.
        common: Labels of every series of this agent.
        first_ns: When its first probe was sent, Unix ns.
        lag_ms: How long to wait beyond the settled instant for replies that are late.
        after_ms: How far an earlier process had written; None: nothing.
        past: Outages of earlier processes that may not have been written.
    """

    def __init__(
        self,
        spec: FlowSpec,
        common: Mapping[str, str],
        first_ns: int,
        lag_ms: int,
        after_ms: int | None = None,
        past: Iterable[Outage] = (),
    ):
        first_ms = first_ns // 1_000_000
        self.written_ms = first_ms - 1 if after_ms is None else after_ms
        self.revised = 0
        # A loss run is known to be an outage once K probes of it have settled.
        self._hold_ms = lag_ms + (spec.outage_min_probes + 1) * spec.interval_ns // 1_000_000
        self._slack_ns = 2 * spec.interval_ns + 100_000_000
        flow = {"flow": spec.name, "protocol": spec.protocol, "session": spec.session, "path": spec.path}
        self._lines: dict[str, StateLine] = {}
        self._seconds: dict[tuple[str, str], tuple[bytes, int]] = {}
        for direction in (*DIRECTIONS, ANY):
            labels = {**common, **flow, "direction": direction}
            self._lines[direction] = StateLine(label_octets({"__name__": FLOW_STATE, **labels}), self.written_ms)
            for bound in BOUNDS if direction != ANY else ():
                series = label_octets({"__name__": OUTAGE_SECONDS, **labels, "bound": bound})
                self._seconds[direction, bound] = series, self.written_ms
        self._past = [o for o in past if o.end_ns // 1_000_000 > self.written_ms]
        self._first_ms = max(first_ms, self.written_ms + 1)
        self._shown: dict[tuple[int, str], Span] = {}
        self._heard_ns = 0  # up to when its newest session is known to have been there
        self._gaps: list[Span] = []  # between two sessions of a stream

    @property
    def since_ns(self) -> int:
        """What ended before this is of no more use here."""
        return (self.written_ms - CORRECTED_WITHIN_MS - 1000) * 1_000_000

    def advance(self, picture: FlowPicture, *, last: bool = False) -> list[Sample]:
        """Samples of all that has become certain since the last call; ascending within each series.

        Args:
            picture: What is known, since `since_ns`.
            last: Nothing more is to come: no run is open any more.
        """
        self._note_session(picture)
        upto_ms = picture.settled_ns // 1_000_000 - (0 if last else self._hold_ms)
        if upto_ms <= self.written_ms:
            return []
        unobserved = [span_ms(start, end) for start, end in picture.unobserved if end - start >= UNOBSERVED_FROM_NS]
        unobserved += self._gaps
        if self._first_ms > self.written_ms + 1:  # since an earlier process
            unobserved.append((self.written_ms + 1, self._first_ms))
        if picture.settled_ns - self._heard_ns > self._slack_ns:  # its session is over, or nothing can be sent
            unobserved.append((self._heard_ns // 1_000_000, upto_ms + 1))
        self._compare(picture)
        samples: list[Sample] = []
        for direction, line in self._lines.items():
            outages = [o for o in (*self._past, *picture.outages) if direction in (o.direction, ANY)]
            spans = [_span(o, picture) for o in outages]
            samples += line.advance(upto_ms, spans, unobserved, 1 if last else HEARTBEAT_MS)
        for outage in (*self._past, *picture.outages):
            samples += self._length(outage, upto_ms)
        self._shown = {key: _cut(span, upto_ms) for key, span in _spans(picture) if span[0] <= upto_ms}
        self.written_ms = upto_ms
        self._past = [o for o in self._past if o.end_ns // 1_000_000 > upto_ms]
        self._gaps = [gap for gap in self._gaps if gap[1] > upto_ms]
        return samples

    def end(self) -> list[Sample]:
        """The markers behind its series, when the flow is removed."""
        return [line.end() for line in self._lines.values()]

    def _note_session(self, picture: FlowPicture) -> None:
        """A session may end and another begin between two looks: of the time between them nothing is known."""
        if 0 < self._heard_ns < picture.began_ns:
            over_ns = max(self._heard_ns, min(picture.over_ns, picture.began_ns))
            self._gaps.append(span_ms(over_ns, picture.began_ns))
        self._heard_ns = max(self._heard_ns, picture.last_sent_ns, picture.began_ns, picture.over_ns)

    def _length(self, outage: Outage, upto_ms: int) -> list[Sample]:
        """The duration of an outage that has ended since the last call, stamped with its end."""
        end_ms = span_ms(outage.start_ns, outage.end_ns)[1]
        if outage.first_ok_ns == 0 or not self.written_ms < end_ms <= upto_ms:
            return []
        samples = []
        for bound in BOUNDS:
            labels, before_ms = self._seconds[outage.direction, bound]
            stamp_ms = max(end_ms, before_ms + 1)  # at high rates two may end in one millisecond
            self._seconds[outage.direction, bound] = labels, stamp_ms
            samples.append(Sample(labels, stamp_ms, getattr(outage, f"{bound}_ns") / 1e9))
        return samples

    def _compare(self, picture: FlowPicture) -> None:
        """Count what was written of outages and is no longer so."""
        now = {key: _cut(span, self.written_ms) for key, span in _spans(picture) if span[0] <= self.written_ms}
        kept_from = self.written_ms - CORRECTED_WITHIN_MS
        before = {key: span for key, span in self._shown.items() if span[1] > kept_from}
        now = {key: span for key, span in now.items() if span[1] > kept_from or key in before}
        self.revised += sum(now.get(key) != before.get(key) for key in now.keys() | before.keys())


def _spans(picture: FlowPicture) -> list[tuple[tuple[int, str], Span]]:
    return [((o.id, o.direction), _span(o, picture)) for o in picture.outages]


def _span(outage: Outage, picture: FlowPicture) -> Span:
    # An open one goes on behind the last loss that was told, unless nothing goes on there any more: what a stream was
    # in when its session ended is over when the next one begins.
    there = outage.id != PAST and not picture.ended and outage.end_ns >= picture.began_ns
    goes_on = outage.first_ok_ns == 0 and there
    return span_ms(outage.start_ns, _EVER_NS if goes_on else outage.end_ns)


def _cut(span: Span, last_ms: int) -> Span:
    return span[0], min(span[1], last_ms + 1)


class EventLines:
    """HA events: a sample each, stamped with its instant; the value is the instant as well, to the microsecond.

    Args:
        common: Labels of every series of this agent.
        after_ns: Events up to this instant were written by an earlier process.
    """

    def __init__(self, common: Mapping[str, str], after_ns: int = 0):
        self.written_ns = after_ns
        self._common = common
        self._after_ms = after_ns // 1_000_000
        self._stamps: dict[bytes, int] = {}

    def take(self, event: TimelineEvent) -> Sample:
        """The sample of an event. Of one series each is stamped behind the last, however late it was learnt of."""
        detail = event.detail
        labels = {
            "__name__": HA_EVENT,
            **self._common,
            "source": event.source,
            "event": event.event,
            "unit": str(detail.get("to_unit") or detail.get("unit") or ""),
            "subject": " ".join(str(detail[key]) for key in SUBJECTS if detail.get(key)),
        }
        series = label_octets(labels)
        stamp_ms = max(event.at_ns // 1_000_000, self._stamps.get(series, self._after_ms) + 1)
        self._stamps[series] = stamp_ms
        self.written_ns = max(self.written_ns, event.at_ns)
        return Sample(series, stamp_ms, event.at_ns / 1e9)
