"""The text of the flow families of a scrape, for thousands of flows.

prometheus-client makes an object of every sample, which takes seconds for ten thousand flows. Here each series keeps
its name and labels as a string, and a scrape only adds the values, column by column of a `FlowTable`. A part whose
values are those of the last scrape keeps its text. The text is the same in both formats but for the families' heads,
which prometheus-client writes (`collector.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from probe.core.events import COUNT_NAMES, VERDICTS, FlowState
from probe.export.metrics import FAMILIES, FLOW, PROBE_COUNTS
from probe.export.view import FlowKey, FlowTable, Place

Column = npt.NDArray[Any]  # a value per flow

FLOW_STATES: tuple[FlowState, ...] = get_args(FlowState)
LOSS_DIRECTIONS = ("forward", "reverse", "unattributed")
RESET_CAUSES = ("fin", "icmp", "rst")
BOUNDS = ("lower", "estimate", "upper")
_UP = [FLOW_STATES.index("up"), FLOW_STATES.index("suspect")]
_LINES_AT_ONCE = 5000  # what is made without letting other threads run: about a millisecond
_INFO = "haprobe_flow_info"


@dataclass(frozen=True, slots=True)
class Series:
    """Series that each flow has of one family.

    Attributes:
        label: The label they differ by; "" when there is one.
        values: Of that label, one for each column.
        columns: From a table to their values.
        streams: Whether only streams have them.
    """

    family: str
    columns: Callable[[FlowTable], Sequence[Column]]
    label: str = ""
    values: tuple[str, ...] = ("",)
    streams: bool = False

    @property
    def names(self) -> list[str]:
        """The name of each column's series."""
        if FAMILIES[self.family].kind == "histogram":
            return [*[f"{self.family}_bucket"] * (len(self.values) - 2), f"{self.family}_count", f"{self.family}_sum"]
        return [self.family] * len(self.values)


def _count(name: str) -> Callable[[FlowTable], Sequence[Column]]:
    place = COUNT_NAMES.index(name)
    return lambda table: [table.counts[:, place]]


def _told(*names: str) -> Callable[[FlowTable], Sequence[Column]]:
    return lambda table: [table.told[name] for name in names]


def _one_hot(name: str, choices: int) -> Callable[[FlowTable], Sequence[Column]]:
    return lambda table: [(table.told[name] == choice).astype(np.int8) for choice in range(choices)]


def _histogram(table: FlowTable) -> Sequence[Column]:
    return [*table.rtt_buckets.T, table.rtt_buckets[:, -1], table.rtt_sum_s]


def _series(edges_s: Sequence[float]) -> list[Series]:
    """All of a flow's series, in the order of the families."""
    last = "haprobe_last_outage"
    edges = tuple("+Inf" if edge == float("inf") else repr(float(edge)) for edge in edges_s)
    return [
        *(Series(f"haprobe_probes_{count}_total", _count(count)) for count in PROBE_COUNTS),
        Series(
            "haprobe_probes_lost_by_direction_total",
            lambda table: [table.counts[:, COUNT_NAMES.index(f"lost_{way}")] for way in LOSS_DIRECTIONS],
            "direction",
            LOSS_DIRECTIONS,
        ),
        Series("haprobe_probes_pending", _count("pending")),
        Series("haprobe_resets_total", _told(*RESET_CAUSES), "cause", RESET_CAUSES),
        Series("haprobe_resets_total", _told("silent"), "cause", ("silent",), streams=True),
        Series("haprobe_icmp_errors_total", _count("icmp_error")),
        Series("haprobe_rtt_seconds", _histogram, "le", (*edges, "", "")),
        Series("haprobe_flow_up", lambda table: [np.isin(table.told["state"], _UP).astype(np.int8)]),
        Series("haprobe_flow_state", _one_hot("state", len(FLOW_STATES)), "state", FLOW_STATES),
        Series("haprobe_flow_interval_seconds", lambda table: [table.interval_ns / 1e9]),
        Series("haprobe_stream_stalls_total", _told("stalls"), streams=True),
        Series("haprobe_stream_stall_seconds_total", _told("stall_s"), streams=True),
        Series("haprobe_stream_retransmissions_total", _told("retransmissions"), streams=True),
        Series("haprobe_outages_total", _told("outages")),
        Series("haprobe_outage_seconds_total", _told("outage_s")),
        Series("haprobe_unobserved_seconds_total", _told("unobserved_s")),
        Series(f"{last}_start_timestamp_seconds", _told("last_start_s")),
        Series(f"{last}_end_timestamp_seconds", _told("last_end_s")),
        Series(f"{last}_duration_seconds", _told(*(f"last_{bound}_s" for bound in BOUNDS)), "bound", BOUNDS),
        Series(f"{last}_lost_probes", _told("last_lost")),
        Series(f"{last}_open", _told("last_open")),
        Series("haprobe_flow_verdict", _one_hot("verdict", len(VERDICTS)), "verdict", VERDICTS),
        Series(_INFO, lambda table: [np.ones(len(table.flows), np.int8)]),
    ]


FLOW_FAMILIES = tuple(dict.fromkeys(series.family for series in _series(())))


class FlowText:
    """Renders tables. The only state that shows is a high-water mark per counter, see `collector.py`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._floors = _Floors()
        self._labels = _Labels()
        self._edges_s: tuple[float, ...] = ()
        self._series: list[Series] = []
        self._parts: list[list[_Part]] = []

    def render(self, table: FlowTable) -> dict[str, list[bytes]]:
        """The lines of every flow family, in pieces; each line begins with its line feed."""
        with self._lock:
            if self._edges_s != tuple(table.rtt_edges_s) or not self._series:
                self._edges_s = tuple(table.rtt_edges_s)
                self._series = _series(self._edges_s)
                self._parts = [[] for _ in self._series]
            self._floors.follow(table)
            self._labels.follow(table)
            pieces: dict[str, list[bytes]] = {name: [] for name in FLOW_FAMILIES}
            for number, (series, parts) in enumerate(zip(self._series, self._parts, strict=True)):
                columns = series.columns(table)
                if FAMILIES[series.family].kind == "counter":
                    columns = self._floors.raised(number, columns)
                labels = self._labels.of_info if series.family == _INFO else self._labels.of_flows
                pieces[series.family] += _rendered(series, parts, labels, table.streams, columns)
            return pieces


def _rendered(
    series: Series,
    parts: list[_Part],
    labels: Sequence[tuple[str, ...]],
    streams: npt.NDArray[np.bool_],
    columns: Sequence[Column],
) -> Iterable[bytes]:
    """The text of one family's series, of flows with these labels; `parts` is what is kept of it."""
    if series.streams:
        rows = np.flatnonzero(streams)
        labels, columns = [labels[row] for row in rows.tolist()], [column[rows] for column in columns]
    size = _LINES_AT_ONCE // len(columns)
    del parts[-(-len(labels) // size) :]
    for number, start in enumerate(range(0, len(labels), size)):
        mine = labels[start : start + size]
        if number == len(parts):
            parts.append(_Part(series, mine))
        elif parts[number].labels != mine:
            parts[number] = _Part(series, mine)
        yield parts[number].text([column[start : start + size] for column in columns])


class _Labels:
    """The values of flows' labels, escaped and in the order of the labels' names, which is that of the text."""

    def __init__(self) -> None:
        self.of_flows: list[tuple[str, ...]] = []
        self.of_info: list[tuple[str, ...]] = []
        self._flows: Sequence[FlowKey] = []
        self._places: Sequence[Place] = []

    def follow(self, table: FlowTable) -> None:
        if self._flows is table.flows and self._places is table.places:
            return
        whole = [(*flow, *place) for flow, place in zip(table.flows, table.places, strict=True)]
        self.of_info = _ordered(whole, FAMILIES[_INFO].labels)
        if self._flows is not table.flows:
            self.of_flows = _ordered(table.flows, FLOW)
        self._flows, self._places = table.flows, table.places


def _ordered(flows: Iterable[tuple[Any, ...]], names: Sequence[str]) -> list[tuple[str, ...]]:
    order = sorted(range(len(names)), key=names.__getitem__)
    return [tuple([_escaped(str(flow[place])) for place in order]) for flow in flows]


class _Part:
    """Some flows' series of one family: the names and labels of its lines, and its text as last rendered."""

    def __init__(self, series: Series, labels: Sequence[tuple[str, ...]]):
        self.labels = labels
        self._width = len(series.values)
        self._words: list[str] = [""] * (2 * len(labels) * self._width)  # by turns: name and labels; value
        self._columns: list[Column] = []
        self._text = b""
        names = FAMILIES[_INFO].labels if series.family == _INFO else FLOW
        for place, (name, value) in enumerate(zip(series.names, series.values, strict=True)):
            shown = dict.fromkeys(names, "%s") | ({series.label: value} if value else {})
            template = ",".join(f'{label}="{shown[label]}"' for label in sorted(shown))
            line = f"\n{name}{{{template}}} "
            self._words[2 * place :: 2 * self._width] = [line % flow for flow in labels]

    def text(self, columns: list[Column]) -> bytes:
        if self._columns and all(map(np.array_equal, columns, self._columns)):
            return self._text
        for place, column in enumerate(columns):
            self._words[2 * place + 1 :: 2 * self._width] = map(str, column.tolist())
        self._columns = [column.copy() for column in columns]
        self._text = "".join(self._words).encode()
        return self._text


class _Floors:
    """The highest values exposed so far of each counter, by flow."""

    def __init__(self) -> None:
        self._flows: Sequence[FlowKey] = []
        self._scheduled = np.zeros(0, np.int64)
        self._highest: dict[int, list[Column]] = {}

    def follow(self, table: FlowTable) -> None:
        """From now on of these flows, at these counts."""
        scheduled = table.counts[:, COUNT_NAMES.index("scheduled")]
        if self._flows is not table.flows and list(self._flows) != list(table.flows):
            self._move(table.flows)
        self._flows = table.flows
        # Probes are never unscheduled: fewer than before means a new life of the flow, hence a true counter restart.
        restarted = scheduled < self._scheduled
        for highest in self._highest.values():
            for column in highest:
                column[restarted] = 0
        self._scheduled = scheduled

    def _move(self, flows: Sequence[FlowKey]) -> None:
        before = {flow: row for row, flow in enumerate(self._flows)}
        rows = np.array([before.get(flow, len(before)) for flow in flows], np.int64)
        kept = [self._scheduled, *(column for highest in self._highest.values() for column in highest)]
        moved = iter([np.append(column, 0)[rows] for column in kept])
        self._scheduled = next(moved)
        self._highest = {number: [next(moved) for _ in highest] for number, highest in self._highest.items()}

    def raised(self, number: int, columns: Sequence[Column]) -> list[Column]:
        """These values, or what was shown before where that was more."""
        before = self._highest.get(number, [np.zeros_like(column) for column in columns])
        self._highest[number] = [np.maximum(*both) for both in zip(columns, before, strict=True)]
        return self._highest[number]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
