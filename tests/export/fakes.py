"""An agent in literals, for everything that only looks at one."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probe.core.events import COUNT_NAMES, VERDICTS, Counts, Outage, TimelineEvent
from probe.export.flow_text import FLOW_STATES
from probe.export.view import TOLD, ApiCalls, FlowTable, Ownership, RemoteWriteSnapshot, WatcherSnapshot

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

COUNTS = Counts(
    scheduled=10_010,
    unsent=10,
    sent=10_000,
    received=9_480,
    late=2,
    lost=500,
    lost_forward=300,
    lost_reverse=150,
    lost_unattributed=50,
    dropped_locally=8,
    pending=10,
    duplicate=3,
    reordered=4,
    corrupt=5,
    icmp_error=6,
)

OUTAGE = Outage(
    flow="a-to-b",
    id=1,
    direction="forward",
    start_ns=START + 2_000_123_456,
    end_ns=START + 2_500_123_456,
    last_ok_ns=START + 1_999_123_456,
    first_lost_ns=START + 2_000_123_456,
    last_lost_ns=START + 2_499_123_456,
    first_ok_ns=START + 2_500_123_456,
    lower_ns=499_000_000,
    estimate_ns=500_000_000,
    upper_ns=501_000_000,
    lost=500,
    first_lost_seq=2000,
    last_lost_seq=2499,
    episode=1,
)


@dataclass(frozen=True)
class FakeFlow:
    """A flow as the page looks at it (`FlowSnapshot`), and what else a scrape shows of it."""

    name: str
    protocol: str
    session: str
    path: str
    target: str
    address: str
    port: int
    interface: str
    source: str
    interval_ns: int
    state: str
    counts: Counts
    resets: dict[str, int]
    rtt_buckets: list[tuple[float, int]]  # (upper edge in seconds, cumulative count), last edge is inf
    rtt_sum_s: float
    rtt_ns: dict[str, int]
    outages_total: int
    outage_seconds_total: float
    unobserved_seconds_total: float
    last_outage: Outage | None
    verdict: str
    stack: str = "packet"
    stalls_total: int = 0
    stall_seconds_total: float = 0.0
    retransmissions_total: int = 0

    def told(self) -> tuple[Any, ...]:
        last = self.last_outage
        edges = (last.start_ns, last.end_ns, last.lower_ns, last.estimate_ns, last.upper_ns) if last else (0,) * 5
        return (
            FLOW_STATES.index(self.state),
            VERDICTS.index(self.verdict),
            *(self.resets.get(cause, 0) for cause in ("rst", "fin", "icmp", "silent")),
            self.outages_total,
            self.outage_seconds_total,
            self.unobserved_seconds_total,
            *(ns / SECOND for ns in edges),
            last.lost if last else 0,
            last is not None and last.first_ok_ns == 0,
            self.stalls_total,
            self.stall_seconds_total,
            self.retransmissions_total,
        )


def table_of(flows: list[FakeFlow]) -> FlowTable:
    """The same flows in columns."""
    edges = [edge for edge, _ in flows[0].rtt_buckets] if flows else [math.inf]
    return FlowTable(
        flows=[(f.name, f.protocol, f.session, f.path) for f in flows],
        places=[(f.target, f.address, f.port, f.interface, f.source) for f in flows],
        streams=np.array([f.stack == "kernel" for f in flows], np.bool_),
        interval_ns=np.array([f.interval_ns for f in flows], np.int64),
        counts=np.array([[getattr(f.counts, n) for n in COUNT_NAMES] for f in flows], np.int64).reshape(
            -1, len(COUNT_NAMES)
        ),
        last_answered_ns=np.zeros(len(flows), np.int64),
        rtt_edges_s=edges,
        rtt_buckets=np.array([[n for _, n in f.rtt_buckets] for f in flows], np.int64).reshape(-1, len(edges)),
        rtt_sum_s=np.array([f.rtt_sum_s for f in flows], np.float64),
        told=np.array([f.told() for f in flows], TOLD),
    )


KEPT = FakeFlow(
    name="a-to-b",
    protocol="udp",
    session="kept",
    path="east-west",
    target="b.example",
    address="10.99.97.10",
    port=862,
    interface="eth0",
    source="10.99.96.10",
    interval_ns=1_000_000,
    state="up",
    counts=COUNTS,
    resets={"rst": 1},
    rtt_buckets=[(0.001, 9000), (0.01, 9470), (math.inf, 9480)],
    rtt_sum_s=6.5,
    rtt_ns={"min": 200_000, "p50": 650_000, "p99": 4_000_000, "max": 12_000_000},
    outages_total=1,
    outage_seconds_total=0.5,
    unobserved_seconds_total=0.25,
    last_outage=OUTAGE,
    verdict="survived",
)

NEW = replace(
    KEPT,
    name="a-to-b-fresh",
    session="fresh",
    state="connecting",
    counts=Counts(),
    resets={},
    rtt_buckets=[(0.001, 0), (0.01, 0), (math.inf, 0)],
    rtt_sum_s=0.0,
    rtt_ns={"min": 0, "p50": 0, "p99": 0, "max": 0},
    outages_total=0,
    outage_seconds_total=0.0,
    unobserved_seconds_total=0.0,
    last_outage=None,
    verdict="unobserved",
)

AWS = WatcherSnapshot(
    name="aws",
    up=True,
    last_success_ns=START + 5 * SECOND,
    ownership=[
        Ownership("eip", {"address": "203.0.113.10", "allocation_id": "eipalloc-1"}, "eni-b1", "fgt-b", "", START),
        Ownership("route", {"route_table": "rtb-1", "destination": "0.0.0.0/0"}, "eni-b2", "fgt-b", "active", START),
        Ownership("private_ip", {"address": "10.0.1.10", "public_ip": "203.0.113.9"}, "eni-b1", "fgt-b"),
        Ownership("instance", {"instance": "i-a"}, "", "fgt-a", "stopping", START),
        Ownership("instance", {"instance": "i-b"}, "", "fgt-b", "running"),
    ],
    active_unit="fgt-b",
    signals={"eip 203.0.113.10": "fgt-b", "route rtb-1 0.0.0.0/0": "fgt-b", "private_ip 10.0.1.10": "fgt-b"},
    units=["fgt-a", "fgt-b"],
    api=[ApiCalls("DescribeAddresses", {"ok": 20, "RequestLimitExceeded": 1}, 0.4, [(0.1, 20), (math.inf, 21)])],
)

FORTIGATE = WatcherSnapshot(
    name="fortigate",
    up=False,
    last_success_ns=0,
    reason="connection refused",
    roles={"fgt-a": "secondary", "fgt-b": "primary"},
    info=[{"unit": "fgt-a", "version": "v7.6.4", "build": "3596", "serial": "FGVM01"}],
)


@dataclass
class FakeAgent:
    """An `AgentView` whose every answer is a field."""

    version: str = "1.2.3"
    flow_list: list[FakeFlow] = field(default_factory=lambda: [KEPT, NEW])
    watcher_list: list[WatcherSnapshot] = field(default_factory=lambda: [AWS, FORTIGATE])
    remote: RemoteWriteSnapshot | None = None
    clock_error_ns: int | None = 2_000_000
    is_ready: tuple[bool, str] = (True, "")
    reload_error: Exception | None = None
    reloads: int = 0
    looks: list[float] = field(default_factory=list)
    report_gate: threading.Event | None = None  # when set, report() waits for it
    report_calls: list[tuple[int | None, int | None]] = field(default_factory=list)
    outage_calls: list[int] = field(default_factory=list)
    subscribers: list[Any] = field(default_factory=list)

    def table(self) -> FlowTable:
        return table_of(self.flow_list)

    def flows(self, names: Any = None) -> list[FakeFlow]:
        return [flow for flow in self.flow_list if names is None or flow.name in names]

    def watchers(self) -> list[WatcherSnapshot]:
        return self.watcher_list

    def remote_write(self) -> RemoteWriteSnapshot | None:
        return self.remote

    def clock_max_error_ns(self) -> int | None:
        return self.clock_error_ns

    def about(self) -> dict[str, Any]:
        times = {"started_ns": START, "now_ns": START + 10 * SECOND}
        return {"agent": "workload-a", "host": "host-a", "version": self.version, **times}

    def status(self) -> dict[str, Any]:
        ready, why = self.is_ready
        return {
            **self.about(),
            "ready": ready,
            "not_ready": why,
            "flows": [{"name": flow.name, "state": flow.state} for flow in self.flow_list],
            "watchers": [{"name": watcher.name, "up": watcher.up} for watcher in self.watcher_list],
            "reflector": None,
        }

    def outages(self, since_ns: int = 0) -> list[dict[str, Any]]:
        self.outage_calls.append(since_ns)
        extra = {"flow": "a-to-b", "protocol": "udp", "session": "kept", "path": "east-west"}
        return [{**OUTAGE.to_document(), **extra}] if OUTAGE.end_ns > since_ns else []

    def last_outages(self, most: int) -> list[dict[str, Any]]:
        return self.outages()[::-1][:most]

    def report(self, start_ns: int | None = None, end_ns: int | None = None) -> dict[str, Any]:
        self.report_calls.append((start_ns, end_ns))
        if self.report_gate is not None:
            assert self.report_gate.wait(30)
        return {"schema": "haprobe.report/1", "flows": []}

    def timeline(self, since_ns: int = 0) -> list[TimelineEvent]:
        return []

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    def reload(self) -> None:
        self.reloads += 1
        if self.reload_error is not None:
            raise self.reload_error

    def renew(self) -> list[str]:
        return ["a-to-b"]

    def watch(self, seconds: float) -> None:
        self.looks.append(seconds)

    def captures(self, since_ns: int = 0) -> list[dict[str, Any]]:
        return [{"unit": "fgt-b", "state": "running", "text": "HA event\n", "since_ns": since_ns}]

    def last_reload_successful(self) -> bool:
        return self.reload_error is None

    def subscribe(self, callback: Any) -> Any:
        self.subscribers.append(callback)
        return lambda: self.subscribers.remove(callback)

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Tell every subscriber, as an agent thread would."""
        for callback in list(self.subscribers):
            callback(kind, data)
