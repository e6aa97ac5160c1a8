"""What the web endpoints and metrics see of an agent: a narrow, read-mostly border.

`probe.agent` implements `AgentView`; tests of `export` implement it with a few lines of literals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from probe.core.events import Counts, FlowState, Outage, Stack, TimelineEvent, Verdict


@dataclass(frozen=True, slots=True)
class FlowSnapshot:
    """One flow at one instant."""

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
    resets: dict[str, int]  # cause ("rst", "fin", "icmp") to count
    rtt_buckets: Sequence[tuple[float, int]]  # (upper edge in seconds, cumulative count), last edge is inf
    rtt_sum_s: float
    rtt_ns: dict[str, int]  # min, p50, p99, max over the whole life
    outages_total: int
    outage_seconds_total: float
    unobserved_seconds_total: float
    last_outage: Outage | None
    verdict: Verdict
    stack: Stack = "packet"
    stalls_total: int = 0  # these three: of streams
    stall_seconds_total: float = 0.0
    retransmissions_total: int = 0


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

    def flows(self) -> Sequence[FlowSnapshot]: ...

    def watchers(self) -> Sequence[WatcherSnapshot]: ...

    def remote_write(self) -> RemoteWriteSnapshot | None:
        """None when it is not configured."""

    def clock_max_error_ns(self) -> int | None:
        """Bound on this host's offset from UTC; None when unknown."""

    def status(self) -> dict[str, Any]:
        """Body of /api/v1/status: agent, host, version, started_ns, now_ns, ready, flows[], watchers[], reflector."""

    def outages(self, since_ns: int = 0) -> list[dict[str, Any]]:
        """Contract-form outages with `flow`, `protocol`, `session`, `path` added, that end after `since_ns`; oldest
        first.
        """

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
