"""The flow families as prometheus-client writes them, an object per sample: what `flow_text.py` is held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily, InfoMetricFamily, Metric

from probe.core.events import VERDICTS
from probe.export.flow_text import FLOW_FAMILIES, FLOW_STATES
from probe.export.metrics import FAMILIES, PROBE_COUNTS

from .fakes import FakeFlow

Key = tuple[str, str, str, str]


class Oracle:
    """A collector over flows; counters never go down, as long as `scheduled` does not."""

    def __init__(self) -> None:
        self.flows: Sequence[FakeFlow] = ()
        self._floors: dict[Key, dict[tuple[str, ...], float]] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        page = {name: FAMILIES[name].empty() for name in FLOW_FAMILIES}
        floors = {}
        for flow in self.flows:
            key = (flow.name, flow.protocol, flow.session, flow.path)
            floor = self._floors.get(key, {})
            if flow.counts.scheduled < floor.get(("haprobe_probes_scheduled_total",), 0):
                floor = {}
            floors[key] = floor
            for name, labels, value in _counters(flow):
                highest = floor[name, *labels] = max(value, floor.get((name, *labels), 0))
                page[name].add_metric((*key, *labels), highest)
            _add_gauges(page, key, flow)
        for flow, (key, floor) in zip(self.flows, floors.items(), strict=True):
            if flow.stack == "kernel":  # behind those that every flow has
                name = "haprobe_resets_total"
                floor["silent",] = max(flow.resets.get("silent", 0), floor.get(("silent",), 0))
                page[name].add_metric((*key, "silent"), floor["silent",])
        self._floors = floors
        return page.values()


def _counters(flow: FakeFlow) -> Iterator[tuple[str, tuple[str, ...], float]]:
    counts = flow.counts
    for count in PROBE_COUNTS:
        yield f"haprobe_probes_{count}_total", (), getattr(counts, count)
    for direction in ("forward", "reverse", "unattributed"):
        yield "haprobe_probes_lost_by_direction_total", (direction,), getattr(counts, f"lost_{direction}")
    for cause in ("fin", "icmp", "rst"):
        yield "haprobe_resets_total", (cause,), flow.resets.get(cause, 0)
    yield "haprobe_icmp_errors_total", (), counts.icmp_error
    yield "haprobe_outages_total", (), flow.outages_total
    yield "haprobe_outage_seconds_total", (), flow.outage_seconds_total
    yield "haprobe_unobserved_seconds_total", (), flow.unobserved_seconds_total
    if flow.stack == "kernel":
        yield "haprobe_stream_stalls_total", (), flow.stalls_total
        yield "haprobe_stream_stall_seconds_total", (), flow.stall_seconds_total
        yield "haprobe_stream_retransmissions_total", (), flow.retransmissions_total


def _add_gauges(page: dict[str, Metric], key: Key, flow: FakeFlow) -> None:
    def add(name: str, value: float, *labels: str) -> None:
        page[name].add_metric((*key, *labels), value)

    add("haprobe_probes_pending", flow.counts.pending)
    rtt = page["haprobe_rtt_seconds"]
    assert isinstance(rtt, HistogramMetricFamily)
    edges = [("+Inf" if edge == float("inf") else repr(edge), count) for edge, count in flow.rtt_buckets]
    rtt.add_metric(key, edges, flow.rtt_sum_s)
    add("haprobe_flow_up", flow.state in ("up", "suspect"))
    for state in FLOW_STATES:
        add("haprobe_flow_state", flow.state == state, state)
    add("haprobe_flow_interval_seconds", flow.interval_ns / 1_000_000_000)
    for verdict in VERDICTS:
        add("haprobe_flow_verdict", flow.verdict == verdict, verdict)
    info = page["haprobe_flow_info"]
    assert isinstance(info, InfoMetricFamily)
    place = (flow.target, flow.address, str(flow.port), flow.interface, flow.source)
    info.add_metric((), dict(zip(FAMILIES["haprobe_flow_info"].labels, (*key, *place), strict=True)))
    last = flow.last_outage
    for edge in ("start", "end"):
        add(f"haprobe_last_outage_{edge}_timestamp_seconds", getattr(last, f"{edge}_ns") / 1_000_000_000 if last else 0)
    for bound in ("lower", "estimate", "upper"):
        duration_s = getattr(last, f"{bound}_ns") / 1_000_000_000 if last else 0
        add("haprobe_last_outage_duration_seconds", duration_s, bound)
    add("haprobe_last_outage_lost_probes", last.lost if last else 0)
    add("haprobe_last_outage_open", bool(last and last.first_ok_ns == 0))
