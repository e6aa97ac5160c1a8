"""The collector that fills the metric families from an `AgentView`, and its exposition.

Values are computed at scrape time from one snapshot per scrape. The agent's nanoseconds become seconds only here.

The only state is a high-water mark per counter. Inside the agent a count may go down again: an answer that comes after
all turns a lost probe into a late one, and may shorten or withdraw an outage. Prometheus reads any decrease of a
counter as a restart and adds the whole value once more, so what was exposed stays a floor, until the flow restarts.
"""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from probe.core.events import VERDICTS, FlowState
from probe.export.metrics import FAMILIES, PROBE_COUNTS
from probe.export.view import AgentView, FlowSnapshot, Ownership, RemoteWriteSnapshot, WatcherSnapshot

FlowKey = tuple[str, str, str, str]  # values of the labels metrics.FLOW

FLOW_STATES: tuple[FlowState, ...] = get_args(FlowState)
LOSS_DIRECTIONS = ("forward", "reverse", "unattributed")
RESET_CAUSES = ("rst", "fin", "icmp")
BOUNDS = ("lower", "estimate", "upper")
# "unknown" also stands for a role that we have no word for: the label stays bounded.
ROLES = ("primary", "secondary", "standalone", "unknown")


class AgentCollector:
    """A prometheus-client collector over an agent. Safe to collect from any thread, as the view is."""

    def __init__(self, view: AgentView):
        self._view = view
        self._lock = threading.Lock()
        self._floors: dict[FlowKey, _Floor] = {}

    def describe(self) -> list[Metric]:
        """Families without samples, so that registering does not touch the agent."""
        return [family.empty() for family in FAMILIES.values()]

    def collect(self) -> Iterable[Metric]:
        """All families, in the order of the table, from one snapshot of the agent."""
        page = _Page()
        with self._lock:
            flows = {_key(flow): flow for flow in self._view.flows()}
            self._floors = {key: self._floor(key, flow.counts.scheduled) for key, flow in flows.items()}
            for key, flow in flows.items():
                _add_flow(page, key, flow, self._floors[key])
        for watcher in self._view.watchers():
            _add_watcher(page, watcher)
        _add_agent(page, self._view)
        return page.metrics.values()

    def _floor(self, key: FlowKey, scheduled: int) -> _Floor:
        floor = self._floors.get(key)
        # Probes are never unscheduled: fewer than before means a new life of the flow, hence a true counter restart.
        if floor is None or scheduled < floor.scheduled:
            return _Floor(scheduled)
        floor.scheduled = scheduled
        return floor


class _Floor:
    """The highest value exposed so far of each counter of one flow."""

    def __init__(self, scheduled: int):
        self.scheduled = scheduled
        self._values: dict[tuple[str, ...], float] = {}

    def raised(self, series: tuple[str, ...], value: float) -> float:
        highest = self._values[series] = max(value, self._values.get(series, 0.0))
        return highest


class _Page:
    """The families of one scrape while they fill up."""

    def __init__(self) -> None:
        self.metrics = {name: family.empty() for name, family in FAMILIES.items()}

    def add(self, name: str, labels: Sequence[str], value: float = 1.0) -> None:
        metric = self.metrics[name]
        if isinstance(metric, InfoMetricFamily):
            metric.add_metric((), dict(zip(FAMILIES[name].labels, labels, strict=True)))
        else:
            assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily)
            metric.add_metric(labels, float(value))

    def add_one_hot(self, name: str, labels: Sequence[str], choices: Iterable[str], current: str) -> None:
        for choice in choices:
            self.add(name, (*labels, choice), float(choice == current))

    def add_histogram(
        self, name: str, labels: Sequence[str], buckets: Sequence[tuple[float, int]], sum_s: float
    ) -> None:
        metric = self.metrics[name]
        assert isinstance(metric, HistogramMetricFamily)
        cumulative = list(buckets) or [(math.inf, 0)]
        metric.add_metric(labels, [(_edge(edge), float(count)) for edge, count in cumulative], sum_s)


def _key(flow: FlowSnapshot) -> FlowKey:
    return (flow.name, flow.protocol, flow.session, flow.path)


def _flow_counters(flow: FlowSnapshot) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """(family, labels beyond the flow's own, value) of every counter."""
    counts = flow.counts
    for count in PROBE_COUNTS:
        yield f"haprobe_probes_{count}_total", (), getattr(counts, count)
    for direction in LOSS_DIRECTIONS:
        yield "haprobe_probes_lost_by_direction_total", (direction,), getattr(counts, f"lost_{direction}")
    for cause in sorted({*RESET_CAUSES, *flow.resets}):
        yield "haprobe_resets_total", (cause,), flow.resets.get(cause, 0)
    yield "haprobe_icmp_errors_total", (), counts.icmp_error
    yield "haprobe_outages_total", (), flow.outages_total
    yield "haprobe_outage_seconds_total", (), flow.outage_seconds_total
    yield "haprobe_unobserved_seconds_total", (), flow.unobserved_seconds_total
    if flow.stack == "kernel":
        yield "haprobe_stream_stalls_total", (), flow.stalls_total
        yield "haprobe_stream_stall_seconds_total", (), flow.stall_seconds_total
        yield "haprobe_stream_retransmissions_total", (), flow.retransmissions_total


def _add_flow(page: _Page, key: FlowKey, flow: FlowSnapshot, floor: _Floor) -> None:
    for name, labels, value in _flow_counters(flow):
        page.add(name, (*key, *labels), floor.raised((name, *labels), value))
    page.add("haprobe_probes_pending", key, flow.counts.pending)
    page.add_histogram("haprobe_rtt_seconds", key, flow.rtt_buckets, flow.rtt_sum_s)
    page.add("haprobe_flow_up", key, flow.state in ("up", "suspect"))
    page.add_one_hot("haprobe_flow_state", key, FLOW_STATES, flow.state)
    page.add("haprobe_flow_interval_seconds", key, _seconds(flow.interval_ns))
    page.add_one_hot("haprobe_flow_verdict", key, VERDICTS, flow.verdict)
    page.add(
        "haprobe_flow_info",
        (*key, flow.target, flow.address, str(flow.port), flow.interface, flow.source),
    )
    _add_last_outage(page, key, flow)


def _add_last_outage(page: _Page, key: FlowKey, flow: FlowSnapshot) -> None:
    last = flow.last_outage
    page.add("haprobe_last_outage_start_timestamp_seconds", key, _seconds(last.start_ns if last else 0))
    page.add("haprobe_last_outage_end_timestamp_seconds", key, _seconds(last.end_ns if last else 0))
    for bound in BOUNDS:
        duration_ns = getattr(last, f"{bound}_ns") if last else 0
        page.add("haprobe_last_outage_duration_seconds", (*key, bound), _seconds(duration_ns))
    page.add("haprobe_last_outage_lost_probes", key, last.lost if last else 0)
    page.add("haprobe_last_outage_open", key, bool(last and last.first_ok_ns == 0))


def _add_watcher(page: _Page, watcher: WatcherSnapshot) -> None:
    page.add("haprobe_watcher_up", (watcher.name,), watcher.up)
    page.add("haprobe_watcher_last_success_timestamp_seconds", (watcher.name,), _seconds(watcher.last_success_ns))
    if watcher.name == "aws":
        _add_aws(page, watcher)
    for unit, role in watcher.roles.items():
        page.add_one_hot("haprobe_fortigate_role", (unit,), ROLES, role if role in ROLES else "unknown")
    for info in watcher.info:
        labels = FAMILIES["haprobe_fortigate_info"].labels
        page.add("haprobe_fortigate_info", [info.get(label, "") for label in labels])


def _add_aws(page: _Page, watcher: WatcherSnapshot) -> None:
    for unit in watcher.units:
        page.add("haprobe_aws_active_unit", (unit,), unit == watcher.active_unit)
        page.add("haprobe_aws_signals", (unit,), sum(pointed_at == unit for pointed_at in watcher.signals.values()))
    for owned in watcher.ownership:
        _add_ownership(page, owned)
    for calls in watcher.api:
        for result in sorted({"ok", "timeout", *calls.results}):
            page.add("haprobe_aws_api_requests_total", (calls.operation, result), calls.results.get(result, 0))
        page.add_histogram("haprobe_aws_api_seconds", (calls.operation,), calls.seconds_buckets, calls.seconds_sum)


def _add_ownership(page: _Page, owned: Ownership) -> None:
    instance = owned.kind == "instance"
    name = "haprobe_aws_instance_info" if instance else f"haprobe_aws_{owned.kind}_owner_info"
    known = {**owned.labels, "owner": owned.owner, "unit": owned.unit, "state": owned.state}
    page.add(name, [known.get(label, "") for label in FAMILIES[name].labels])
    if instance:
        return
    place = [owned.labels.get(label, "") for label in ("address", "route_table", "destination")]
    page.add("haprobe_aws_last_change_timestamp_seconds", (owned.kind, *place), _seconds(owned.last_change_ns))


def _add_agent(page: _Page, view: AgentView) -> None:
    error_ns = view.clock_max_error_ns()
    # An unknown bound is no bound: 0 would claim a perfect clock, and NaN would never trip an alert.
    page.add("haprobe_clock_max_error_seconds", (), math.inf if error_ns is None else _seconds(error_ns))
    _add_remote_write(page, view.remote_write())
    page.add("haprobe_ready", (), view.ready()[0])
    page.add("haprobe_build_info", (view.version, platform.python_version()))
    page.add("haprobe_config_last_reload_successful", (), view.last_reload_successful())


def _add_remote_write(page: _Page, remote: RemoteWriteSnapshot | None) -> None:
    if remote is None:
        return
    for result in ("sent", "refused", "dropped"):
        page.add("haprobe_remote_write_samples_total", (result,), getattr(remote, result))
    page.add("haprobe_remote_write_spool_bytes", (), remote.spooled_octets)
    page.add("haprobe_remote_write_last_success_timestamp_seconds", (), _seconds(remote.last_success_ns))
    page.add("haprobe_remote_write_revised_outages_total", (), remote.revised)


def _edge(seconds: float) -> str:
    return "+Inf" if math.isinf(seconds) else repr(float(seconds))


def _seconds(ns: int) -> float:
    # True division of the integers rounds once; multiplying by 1e-9 would round twice.
    return ns / 1_000_000_000


def registry(view: AgentView) -> CollectorRegistry:
    """A registry with the agent's families and those of its control process (`process_*`)."""
    made = CollectorRegistry(auto_describe=False)
    made.register(AgentCollector(view))
    ProcessCollector(registry=made)
    return made


def exposition(source: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Body and content type for a scrape: OpenMetrics when the `Accept` header asks for it, else text 0.0.4."""
    encode, content_type = choose_encoder(accept)
    return encode(source), content_type
