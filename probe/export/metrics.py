"""Every metric family, declared once: name, type, labels, meaning.

This table is the only place where they are written. The collector (`collector.py`), the generated docs/metrics.md and
the tests of dashboards and rules all read it. Units are in the names: seconds, and epoch seconds for timestamps. A
float64 holds an epoch second to better than a microsecond, so outage edges survive the trip.

`make docs` writes docs/metrics.md again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from probe.export.remote_lines import FLOW_STATE, HA_EVENT, OUTAGE_SECONDS

Kind = Literal["counter", "gauge", "histogram", "info"]

# Flow series carry these four and no address: an address that changes must not start new series.
FLOW = ("flow", "protocol", "session", "path")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family: its exposed name (counters with `_total`, infos with `_info`), type, labels and meaning."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def unit(self) -> str:
        """Base unit as its name says it; "" for counts and flags."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in ("seconds", "bytes") else ""

    def sample_names(self) -> tuple[str, ...]:
        """The series names a query can ask for."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)

    def empty(self) -> Metric:
        """A new prometheus-client family without samples."""
        match self.kind:
            case "counter":
                return CounterMetricFamily(self.name, self.help, labels=self.labels, unit=self.unit)
            case "histogram":
                return HistogramMetricFamily(self.name, self.help, labels=self.labels, unit=self.unit)
            case "info":
                return InfoMetricFamily(self.name.removesuffix("_info"), self.help, labels=self.labels)
            case "gauge":
                return GaugeMetricFamily(self.name, self.help, labels=self.labels, unit=self.unit)


# Counts of a flow that are exposed one to one as haprobe_probes_<name>_total.
PROBE_COUNTS = {
    "scheduled": "Probes that were due: sent plus unsent.",
    "unsent": "Probes that were due but never left this host, because it stalled or sending failed.",
    "sent": "Probes handed to the network.",
    "received": "Probes answered within the loss threshold.",
    "lost": "Probes not answered within the loss threshold, nor dropped by this host.",
    "late": "Probes answered after the loss threshold.",
    "duplicate": "Further answers to a probe that was already answered.",
    "reordered": "Answers that arrived behind the answer to a later probe.",
    "corrupt": "Frames of this flow whose content did not verify.",
    "dropped_locally": "Probes that a ring, interface or link of our own hosts dropped, so that their fate is unknown.",
}


def _families() -> Iterator[Family]:
    for count, meaning in PROBE_COUNTS.items():
        yield Family(f"haprobe_probes_{count}_total", "counter", FLOW, meaning)
    yield from (
        Family(
            "haprobe_probes_lost_by_direction_total",
            "counter",
            (*FLOW, "direction"),
            "Lost probes by direction; unattributed when the reflector does not number its answers.",
        ),
        Family(
            "haprobe_probes_pending", "gauge", FLOW, "Probes sent less than a loss threshold ago, without an answer."
        ),
        Family("haprobe_resets_total", "counter", (*FLOW, "cause"), "Resets and FINs of kept sessions, by cause."),
        Family("haprobe_icmp_errors_total", "counter", FLOW, "ICMP errors that quoted a probe of this flow."),
        Family("haprobe_rtt_seconds", "histogram", FLOW, "Round-trip delay of answered probes."),
        Family(
            "haprobe_flow_up",
            "gauge",
            FLOW,
            "1 while answers arrive: state up, or suspect with fewer losses in a row than an outage needs.",
        ),
        Family(
            "haprobe_flow_state", "gauge", (*FLOW, "state"), "Live state of the flow: 1 for the current one, else 0."
        ),
        Family("haprobe_flow_interval_seconds", "gauge", FLOW, "Nominal gap between two probes."),
        Family(
            "haprobe_stream_stalls_total",
            "counter",
            FLOW,
            "Stalls of a stream: what was typed did not come back in its usual time. Streams only, as the next two.",
        ),
        Family(
            "haprobe_stream_stall_seconds_total", "counter", FLOW, "Sum of the stalls' durations, the open one's too."
        ),
        Family(
            "haprobe_stream_retransmissions_total", "counter", FLOW, "Segments that the kernel sent again for a stream."
        ),
        Family("haprobe_outages_total", "counter", FLOW, "Outages seen, in any direction, the open one included."),
        Family("haprobe_outage_seconds_total", "counter", FLOW, "Sum of the outages' estimated durations."),
        Family(
            "haprobe_unobserved_seconds_total",
            "counter",
            FLOW,
            "Time in which this host did not probe on schedule or dropped answers: neither up nor down.",
        ),
        Family(
            "haprobe_last_outage_start_timestamp_seconds",
            "gauge",
            FLOW,
            "Send time of the first probe lost in the last outage, Unix epoch; 0 before any outage.",
        ),
        Family(
            "haprobe_last_outage_end_timestamp_seconds",
            "gauge",
            FLOW,
            "Send time of the first probe answered after the last outage, Unix epoch; "
            "while it is open, that of the last probe lost so far; 0 before any outage.",
        ),
        Family(
            "haprobe_last_outage_duration_seconds",
            "gauge",
            (*FLOW, "bound"),
            "Duration of the last outage: lower and upper bound from send times, and the estimate between them.",
        ),
        Family("haprobe_last_outage_lost_probes", "gauge", FLOW, "Probes lost in the last outage."),
        Family("haprobe_last_outage_open", "gauge", FLOW, "1 while the end of the last outage has not been seen."),
        Family(
            "haprobe_flow_verdict",
            "gauge",
            (*FLOW, "verdict"),
            "What became of the flow's session so far: 1 for the current verdict, else 0.",
        ),
        Family(
            "haprobe_flow_info",
            "info",
            (*FLOW, "target", "address", "port", "interface", "source"),
            "Addresses of a flow; join on flow.",
        ),
        Family(
            "haprobe_aws_eip_owner_info",
            "info",
            ("address", "allocation_id", "owner", "unit"),
            "Network interface, and unit, that an Elastic IP is associated with; absent while unknown.",
        ),
        Family(
            "haprobe_aws_route_owner_info",
            "info",
            ("route_table", "destination", "owner", "unit", "state"),
            "Network interface, and unit, that a route points at, and the route's state; absent while unknown.",
        ),
        Family(
            "haprobe_aws_private_ip_owner_info",
            "info",
            ("address", "public_ip", "owner", "unit"),
            "Network interface, and unit, that holds a secondary private address and its Elastic IP, if any; absent"
            " while unknown.",
        ),
        Family(
            "haprobe_aws_instance_info",
            "info",
            ("instance", "unit", "state"),
            "State of a unit's instance (running, stopping, ...); absent while unknown.",
        ),
        Family(
            "haprobe_aws_active_unit",
            "gauge",
            ("unit",),
            "1 for the unit that everything watched points at; 0 for all of them mid-failover or while unknown.",
        ),
        Family(
            "haprobe_aws_signals",
            "gauge",
            ("unit",),
            "Addresses and routes that point at a unit; more than one unit with some is a failover under way.",
        ),
        Family(
            "haprobe_aws_last_change_timestamp_seconds",
            "gauge",
            ("kind", "address", "route_table", "destination"),
            "When an address or a route was last seen to change its owner, Unix epoch; 0 before any change.",
        ),
        Family(
            "haprobe_aws_api_requests_total",
            "counter",
            ("operation", "result"),
            "Calls of the AWS API by the watcher; result is ok, timeout or the API's error code.",
        ),
        Family("haprobe_aws_api_seconds", "histogram", ("operation",), "Duration of the watcher's AWS API calls."),
        Family(
            "haprobe_fortigate_role",
            "gauge",
            ("unit", "role"),
            "HA role that a unit gives itself: 1 for the current one, else 0; unknown while it does not answer.",
        ),
        Family(
            "haprobe_fortigate_info",
            "info",
            ("unit", "version", "build", "serial"),
            "Firmware and serial number of a unit; absent while it does not answer.",
        ),
        Family(
            "haprobe_watcher_up",
            "gauge",
            ("watcher",),
            "1 while the watcher's last poll succeeded; of the FortiGates, of every unit.",
        ),
        Family(
            "haprobe_watcher_last_success_timestamp_seconds",
            "gauge",
            ("watcher",),
            "When the watcher last got a good answer, Unix epoch; 0 before any.",
        ),
        Family(
            "haprobe_remote_write_samples_total",
            "counter",
            ("result",),
            "Samples of remote write: sent, refused by the store for good, or dropped as the spool was full.",
        ),
        Family("haprobe_remote_write_spool_bytes", "gauge", (), "Requests on disk that the store has not taken yet."),
        Family(
            "haprobe_remote_write_last_success_timestamp_seconds",
            "gauge",
            (),
            "When the store last took a request, Unix epoch; 0 before any.",
        ),
        Family(
            "haprobe_remote_write_revised_outages_total",
            "counter",
            (),
            "Outages that a late reply corrected after their edges were written; a longer lag makes them fewer.",
        ),
        Family("haprobe_ready", "gauge", (), "1 once every flow and watcher has started."),
        Family(
            "haprobe_clock_max_error_seconds",
            "gauge",
            (),
            "Bound on the offset of this host's clock from UTC; +Inf while nothing bounds it.",
        ),
        Family("haprobe_build_info", "info", ("version", "python"), "Version of haprobe and of its Python."),
        Family("haprobe_config_last_reload_successful", "gauge", (), "1 unless the last reload of the config failed."),
    )


FAMILIES: dict[str, Family] = {family.name: family for family in _families()}

# Series that remote write stamps itself (`remote_lines.py`); a scrape does not show them. The first shares its name
# with a family above and differs by its labels: `direction` here, `state` there.
WRITTEN = (
    Family(
        FLOW_STATE,
        "gauge",
        (*FLOW, "direction"),
        "1 up, 0 in an outage of that direction (`round_trip` `forward` `reverse`, as in the result document; `any`: of"
        " one), 2 unobserved for 100 ms or longer, neither up nor down. An outage is 0 from `start_ns` until just"
        " before `end_ns`; there is a sample at each edge and one 1 ms before it, and one at least every 15 s. Of a"
        " stream: 0 in a stall (as a `round_trip`), 2 without a session.",
    ),
    Family(
        OUTAGE_SECONDS,
        "gauge",
        (*FLOW, "direction", "bound"),
        "Duration of each outage (bounds `lower` `estimate` `upper`): one sample, stamped with its end.",
    ),
    Family(
        HA_EVENT,
        "gauge",
        ("source", "event", "unit", "subject"),
        "An HA event of the timeline (`eip_moved` `route_moved` `role_change` ...): one sample, stamped with its"
        " instant, which is the value as well. `unit` is the one it moved to or that tells, `subject` the address,"
        " route, role or operation.",
    ),
)


def markdown_table() -> str:
    """docs/metrics.md: every family with its type, labels and meaning."""
    rows = [f"| `{f.name}` | {f.kind} | {_markdown_labels(f)} | {f.help} |" for f in FAMILIES.values()]
    head = ["| Metric | Type | Labels | Meaning |", "| --- | --- | --- | --- |"]
    written = [f"| `{f.name}` | {f.kind} | {_markdown_labels(f)} | {f.help} |" for f in WRITTEN]
    return "\n".join([_MARKDOWN_HEAD, *head, *rows, _MARKDOWN_WRITTEN, *head, *written, ""])


def _markdown_labels(family: Family) -> str:
    if family.labels[: len(FLOW)] == FLOW:
        return ", ".join(["*flow*", *(f"`{label}`" for label in family.labels[len(FLOW) :])])
    return ", ".join(f"`{label}`" for label in family.labels) or "none"


_MARKDOWN_HEAD = """\
# Metrics

Generated from `probe/export/metrics.py` by `make docs`; do not edit.

*flow* stands for the labels `flow`, `protocol`, `session`, `path`. A flow's addresses are on `haprobe_flow_info` only,
so that an address that changes does not start new series. Timestamps are Unix epoch in seconds, exact to the
microsecond whatever the scrape interval. Every series of a flow exists from its start, at zero. What a watcher
cannot see now is absent, never a stale answer.
"""

_MARKDOWN_WRITTEN = """
## By remote write

With `remote_write` in the config, an agent also writes these series, stamped to the millisecond (floor), so that an
outage stands in Grafana where it was at any scrape interval. Ask for raw samples by an instant query of a range, such
as `haprobe_flow_state{direction!=""}[$__range]`. `job` is `haprobe` and `instance` the agent's name unless
`external_labels` says otherwise. Samples lag by the loss threshold, K probes and `lag`, as nothing is written before it
is certain: so they come in order, and no out-of-order window is needed. Only if the path to the store may be down for
longer than an hour, give Prometheus one (`storage.tsdb.out_of_order_time_window`, a day in the `prometheus.yml` that
`haprobe dashboards` writes): it refuses what is older than that, and the agent counts it (`result="refused"`).
A series of a removed flow ends; after a restart, what no process has observed is 2. A 1 before a restart that nobody
could write any more is 2 as well, an outage in the journal is not lost.
"""


if __name__ == "__main__":
    print(markdown_table(), end="")
