"""A stored run as metrics: what lets releases be compared over months in Prometheus.

    haprobe report RUN --openmetrics FILE

Series carry the run's labels `fortios` and `scenario` but no run id, which is on `haprobe_drill_info`: the next run of
the same release continues them, and their number stays bounded. Without time stamps the file is one for
node_exporter's textfile collector; with them, one for `promtool tsdb create-blocks-from openmetrics`.

`make docs` writes docs/run-metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Timestamp

from probe.core.events import VERDICTS
from probe.export.metrics import Family
from probe.report import phrases as say

RUN = ("fortios", "scenario")
KIND = (*RUN, "path", "protocol", "session")
SECOND = 1_000_000_000

RUN_FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "haprobe_drill_info",
            "info",
            (*RUN, "run", "trigger", "host", "version"),
            "The last run: its id and trigger.",
        ),
        Family("haprobe_drill_start_timestamp_seconds", "gauge", RUN, "When the last run began, Unix epoch."),
        Family("haprobe_drill_end_timestamp_seconds", "gauge", RUN, "When the last run ended, Unix epoch."),
        Family(
            "haprobe_drill_clock_max_error_seconds", "gauge", RUN, "Bound on the offset of the run's clock from UTC."
        ),
        Family(
            "haprobe_drill_outage_seconds",
            "gauge",
            (*KIND, "bound"),
            "Longest outage of such flows in the run, of one direction: its bounds and the estimate; 0 without any. Not"
            " of streams, which have stalls.",
        ),
        Family("haprobe_drill_outages", "gauge", KIND, "Outages of such flows in the run. Not of streams."),
        Family("haprobe_drill_lost_probes", "gauge", KIND, "Probes that such flows lost in the run."),
        Family(
            "haprobe_drill_flows",
            "gauge",
            (*KIND, "verdict"),
            "Such flows of the run by verdict; `protocol` is `stream` of streams.",
        ),
        Family(
            "haprobe_drill_phase_start_timestamp_seconds", "gauge", (*RUN, "phase"), "When a phase began, Unix epoch."
        ),
        Family(
            "haprobe_drill_phase_end_timestamp_seconds", "gauge", (*RUN, "phase"), "When a phase ended, Unix epoch."
        ),
        Family("haprobe_drill_phase_seconds", "gauge", (*RUN, "phase"), "How long a phase took."),
        Family("haprobe_drill_budget_ok", "gauge", (*RUN, "budget"), "1 when the run kept the budget, else 0."),
        Family("haprobe_drill_diagnosis", "gauge", (*RUN, "code"), "1 for each diagnosis of the run."),
    )
}
Row = tuple[str, Sequence[str], float]  # family, label values, value


def openmetrics(document: Mapping[str, Any], *, stamped: bool = False) -> str:
    """The exposition of a complete result document, every sample at the run's end if `stamped`."""
    at_ns = document["run"]["ended_ns"]
    stamp = Timestamp(at_ns // SECOND, at_ns % SECOND) if stamped else None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Run(document, stamp))
    exposed: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return exposed.decode()


class _Run(Collector):
    def __init__(self, document: Mapping[str, Any], stamp: Timestamp | None):
        self._document, self._stamp = document, stamp

    def collect(self) -> Iterable[Metric]:
        made: dict[str, Metric] = {}
        for name, labels, value in _rows(self._document):
            family = RUN_FAMILIES[name]
            # Infos cannot carry time stamps there; as a gauge the exposed series is the same.
            metric = made.setdefault(name, GaugeMetricFamily(name, family.help, labels=family.labels, unit=family.unit))
            assert isinstance(metric, GaugeMetricFamily)
            metric.add_metric(labels, value, timestamp=self._stamp)
        return made.values()


def _rows(document: Mapping[str, Any]) -> Iterator[Row]:
    run = document["run"]
    about = (run["labels"].get("fortios", ""), run["labels"].get("scenario", ""))
    yield "haprobe_drill_info", (*about, run["id"], run["trigger"]["kind"], run["host"], run["version"]), 1
    yield "haprobe_drill_start_timestamp_seconds", about, run["started_ns"] / SECOND
    yield "haprobe_drill_end_timestamp_seconds", about, run["ended_ns"] / SECOND
    error_ns = run["clock"]["max_error_ns"]
    yield "haprobe_drill_clock_max_error_seconds", about, float("inf") if error_ns is None else error_ns / SECOND
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for flow in document["flows"]:
        kinds.setdefault((*about, flow["path"], say.kind(flow), flow["session"]), []).append(flow)
    for kind, flows in kinds.items():
        yield from _kind_rows(kind, flows)
    for phase in document["phases"]:
        where = (*about, phase["name"])
        yield "haprobe_drill_phase_start_timestamp_seconds", where, phase["start_ns"] / SECOND
        yield "haprobe_drill_phase_end_timestamp_seconds", where, phase["end_ns"] / SECOND
        yield "haprobe_drill_phase_seconds", where, (phase["end_ns"] - phase["start_ns"]) / SECOND
    kept: dict[str, bool] = {}  # a budget with two limits has two results
    for budget in document["budgets"]:
        kept[budget["name"]] = kept.get(budget["name"], True) and budget["ok"]
    for name, ok in kept.items():
        yield "haprobe_drill_budget_ok", (*about, name), float(ok)
    for code in sorted({found["code"] for found in document["diagnosis"]}):
        yield "haprobe_drill_diagnosis", (*about, code), 1


def _kind_rows(kind: tuple[str, ...], flows: list[Mapping[str, Any]]) -> Iterator[Row]:
    if not say.is_stream(flows[0]):  # a stall is no outage, and none would be wrong to say
        yield from _outage_rows(kind, flows)
    yield "haprobe_drill_lost_probes", kind, sum(flow["counts"]["lost"] for flow in flows)
    verdicts = [flow["verdict"] for flow in flows]
    for verdict in sorted({*VERDICTS, *verdicts}):
        yield "haprobe_drill_flows", (*kind, verdict), verdicts.count(verdict)


def _outage_rows(kind: tuple[str, ...], flows: list[Mapping[str, Any]]) -> Iterator[Row]:
    outages = [outage["duration_ns"] for flow in flows for outage in flow["outages"]]
    longest = max(outages, key=lambda duration: duration["estimate"], default=None)
    for bound in ("lower", "estimate", "upper"):
        yield "haprobe_drill_outage_seconds", (*kind, bound), longest[bound] / SECOND if longest else 0
    yield "haprobe_drill_outages", kind, len(outages)


def markdown_table() -> str:
    """docs/run-metrics.md: every family of a run with its labels and meaning."""
    rows = [
        f"| `{family.name}` | {', '.join(f'`{label}`' for label in family.labels)} | {family.help} |"
        for family in RUN_FAMILIES.values()
    ]
    return "\n".join([_MARKDOWN_HEAD, "| Metric | Labels | Meaning |", "| --- | --- | --- |", *rows, ""])


_MARKDOWN_HEAD = """\
# Metrics of a stored run

Generated from `probe/export/run_metrics.py` by `make docs`; do not edit.

`haprobe report RUN --openmetrics FILE` writes them, gauges all. `fortios` and `scenario` are the run's labels of those
names, empty when it has none. The file is for node_exporter's textfile collector; with `--stamped` each sample carries
the run's end, for `promtool tsdb create-blocks-from openmetrics FILE DIR`.
"""


if __name__ == "__main__":
    print(markdown_table(), end="")
