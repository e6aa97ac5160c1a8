"""What the web endpoints and metrics see of an agent: a narrow, read-mostly border.

`probe.agent` implements `AgentView`; tests of `export` implement it with a few lines of literals.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.core.events import Counts, FlowState, Outage, Stack, TimelineEvent, Verdict

FlowKey = tuple[str, str, str, str]  # name, protocol, session, path
Place = tuple[str, str, int, str, str]  # target, address, port, interface, source

# What events have told of a flow: changes at the rate of events, unlike counts.
TOLD = np.dtype(
    [
        ("state", np.int64),  # index into FLOW_STATES of probe.border
        ("verdict", np.int64),  # index into VERDICTS of probe.core.events
        ("rst", np.int64),  # session ends by cause
        ("fin", np.int64),
        ("icmp", np.int64),
        ("silent", np.int64),
        ("outages", np.int64),
        ("outage_s", np.float64),
        ("unobserved_s", np.float64),
        ("last_start_s", np.float64),  # these seven: of the last outage, 0 before any; Unix epoch
        ("last_end_s", np.float64),
        ("last_lower_s", np.float64),
        ("last_estimate_s", np.float64),
        ("last_upper_s", np.float64),
        ("last_lost", np.int64),
        ("last_open", np.int64),
        ("stalls", np.int64),  # these three: of streams
        ("stall_s", np.float64),
        ("retransmissions", np.int64),
    ]
)


@dataclass(frozen=True, slots=True)
class FlowTable:
    """All flows at one instant, a row each, always in the same order. Nobody changes one that has been handed out."""

    flows: Sequence[FlowKey]
    places: Sequence[Place]
    streams: npt.NDArray[np.bool_]
    interval_ns: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]  # (flows, COUNT_NAMES)
    last_answered_ns: npt.NDArray[np.int64]  # TX time of the newest probe that was answered, Unix epoch; 0: none
    rtt_edges_s: Sequence[float]  # upper edges of the buckets, the last one inf
    rtt_buckets: npt.NDArray[np.int64]  # (flows, edges), cumulative
    rtt_sum_s: npt.NDArray[np.float64]
    told: npt.NDArray[np.void]  # TOLD


@dataclass(frozen=True, slots=True)
class FlowSnapshot:
    """One flow at one instant, as a person looks at it."""

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
    state: FlowState
    counts: Counts
    rtt_ns: dict[str, int]  # min, p50, p99, max over the whole life
    last_outage: Outage | None
    verdict: Verdict
    stack: Stack = "packet"


@dataclass(frozen=True, slots=True)
class ApiCalls:
    """Calls of one operation of a watched API."""

    operation: str
    results: dict[str, int]  # "ok", "timeout", or the API's error code
    seconds_sum: float
    seconds_buckets: Sequence[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who an address or a route points at, as last seen. `unit` is "" when no known unit owns it."""

    kind: str  # "eip" | "route" | "private_ip" | "instance"
    # eip: address, allocation_id; route: route_table, destination; private_ip: address, public_ip; instance: instance
    labels: dict[str, str]
    owner: str  # network interface id, "" when none
    unit: str
    state: str = ""  # of a route or an instance
    last_change_ns: int = 0


@dataclass(frozen=True, slots=True)
class CaptureSnapshot:
    """A capture of a unit's awsd at one instant."""

    unit: str
    state: str  # connecting | running | ended | failed
    reason: str = ""  # why it failed
    started_ns: int = 0  # Unix epoch; 0 before it runs
    lines: int = 0


@dataclass(frozen=True, slots=True)
class WatcherSnapshot:
    """One HA watcher at one instant. `up` is False while its state is unknown; `ownership` is then empty."""

    name: str  # "aws" | "fortigate"
    up: bool
    last_success_ns: int
    reason: str = ""  # why not up
    ownership: Sequence[Ownership] = ()
    active_unit: str = ""  # "" unknown or mid-failover
    signals: dict[str, str] = field(default_factory=dict)  # aws: what is watched to the unit it points at
    units: Sequence[str] = ()
    api: Sequence[ApiCalls] = ()
    roles: dict[str, str] = field(default_factory=dict)  # unit to role (fortigate)
    info: Sequence[dict[str, str]] = ()  # fortigate: unit, version, build, serial; of units that answer now
    notes: Sequence[str] = ()  # what is wrong although it is up, such as a login that is refused
    captures: Sequence[CaptureSnapshot] = ()


@dataclass(frozen=True, slots=True)
class RemoteWriteSnapshot:
    """How remote write goes. Counts are samples of this process's life."""

    sent: int
    refused: int  # by the store, for good
    dropped: int  # by the limit of the spool
    revised: int  # outages corrected after they were written
    spooled_octets: int
    last_success_ns: int  # Unix epoch; 0 before any
    reason: str  # why the last request failed; "" when it did not


class AgentView(Protocol):
    """All that `export` may ask of an agent. Every method is quick and safe to call from any thread."""

    version: str

    def table(self) -> FlowTable: ...

    def flows(self, names: Collection[str] | None = None) -> Sequence[FlowSnapshot]:
        """The flows of these names, or all; thousands of them take a while."""

    def watchers(self) -> Sequence[WatcherSnapshot]: ...

    def remote_write(self) -> RemoteWriteSnapshot | None:
        """None when it is not configured."""

    def clock_max_error_ns(self) -> int | None:
        """Bound on this host's offset from UTC; None when unknown."""

    def about(self) -> dict[str, Any]:
        """What of the status is no work to tell: agent, host, version, started_ns, now_ns."""

    def status(self) -> dict[str, Any]:
        """Body of /api/v1/status: agent, host, version, started_ns, now_ns, ready, flows[], watchers[], reflector."""

    def outages(self, since_ns: int = 0) -> list[dict[str, Any]]:
        """Contract-form outages with `flow`, `protocol`, `session`, `path` added, that end after `since_ns`; oldest
        first.
        """

    def last_outages(self, most: int) -> list[dict[str, Any]]:
        """The same of the outages that began last, newest first, without episodes."""

    def report(self, start_ns: int | None = None, end_ns: int | None = None) -> dict[str, Any]:
        """A result document for a span of Unix epoch nanoseconds; None: from the start / up to now."""

    def timeline(self, since_ns: int = 0) -> list[TimelineEvent]: ...

    def ready(self) -> tuple[bool, str]:
        """Whether every flow and watcher has started, and if not, what is missing."""

    def reload(self) -> None:
        """Read the config file again.

        Raises:
            ConfigError: If it is bad; the running config stays.
        """

    def renew(self) -> list[str]:
        """Begin a new session for every kept TCP flow whose session is over or dark; the names of those flows."""

    def watch(self, seconds: float) -> None:
        """Have the watchers poll fast, and capture what only a live session shows, for so long; 0 ends the captures."""

    def captures(self, since_ns: int = 0) -> list[dict[str, Any]]:
        """Captures that ended after `since_ns` or run still: unit, state, reason, started_ns, ended_ns, text."""

    def last_reload_successful(self) -> bool: ...

    def subscribe(self, callback: Any) -> Any:
        """Call `callback(kind: str, data: dict)` for every event from now on, from an agent thread.

        Kinds: `outage`, `flow_state`, `ha_change`, `session_end`, `watcher`. Returns a function that ends it.
        """
