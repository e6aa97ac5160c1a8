"""A scrape of an agent: the text of all families, from one table of flows and a prometheus-client collector.

The families of flows are written by `flow_text.py`, all others and every family's head (HELP, TYPE, UNIT) by
prometheus-client, in the format that `negotiation.py` finds out. The agent's nanoseconds become seconds only here and
in `FlowTable`.

The only state is a high-water mark per counter of a flow. Inside the agent a count may go down again: an answer that
comes after all turns a lost probe into a late one, and may shorten or withdraw an outage. Prometheus reads any
decrease of a counter as a restart and adds the whole value once more, so what was exposed stays a floor, until the
flow restarts.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import exposition as text
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics

from probe.export.flow_text import FLOW_FAMILIES, FlowText
from probe.export.metrics import FAMILIES
from probe.export.negotiation import prefers_openmetrics
from probe.export.view import AgentView, Ownership, RemoteWriteSnapshot, WatcherSnapshot

# "unknown" also stands for a role that we have no word for: the label stays bounded.
ROLES = ("primary", "secondary", "standalone", "unknown")
Encoder = Callable[[CollectorRegistry], bytes]


class Exposition:
    """All families of an agent and of its control process (`process_*`), as text. Safe to use from any thread."""

    def __init__(self, view: AgentView):
        self._view = view
        self._flows = FlowText()
        self._rest = CollectorRegistry(auto_describe=False)
        self._rest.register(AgentCollector(view))
        ProcessCollector(registry=self._rest)

    def render(self, accept: str = "") -> list[bytes]:
        """A scrape in pieces, in the format that `content_type` tells for the same `Accept` header."""
        encode: Encoder = openmetrics.generate_latest if prefers_openmetrics(accept) else text.generate_latest
        pieces = []
        for name, lines in self._flows.render(self._view.table()).items():
            pieces += [_head(name, encode), *lines, b"\n"]
        return [*pieces, encode(self._rest)]


def content_type(accept: str) -> str:
    """Of the format that an `Accept` header asks for: OpenMetrics, or else text."""
    return openmetrics.CONTENT_TYPE_LATEST if prefers_openmetrics(accept) else text.CONTENT_TYPE_PLAIN_0_0_4


def _head(name: str, encode: Encoder) -> bytes:
    """A family as prometheus-client begins it, without a line feed at the end: each line of ours begins with one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Family(name))
    return encode(registry).removesuffix(b"# EOF\n").rstrip(b"\n")


class _Family:
    """A collector of one family without samples."""

    def __init__(self, name: str):
        self._name = name

    def collect(self) -> Iterable[Metric]:
        return [FAMILIES[self._name].empty()]


class AgentCollector:
    """A prometheus-client collector of all that is not about single flows. Safe to collect from any thread."""

    def __init__(self, view: AgentView):
        self._view = view

    def describe(self) -> list[Metric]:
        """Families without samples, so that registering does not touch the agent."""
        return list(_Page().metrics.values())

    def collect(self) -> Iterable[Metric]:
        """These families, in the order of the table."""
        page = _Page()
        for watcher in self._view.watchers():
            _add_watcher(page, watcher)
        _add_agent(page, self._view)
        return page.metrics.values()


class _Page:
    """The families of one scrape while they fill up."""

    def __init__(self) -> None:
        self.metrics = {name: family.empty() for name, family in FAMILIES.items() if name not in FLOW_FAMILIES}

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
