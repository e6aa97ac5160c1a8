"""The frozen records that cross module borders. No behaviour beyond what a field means.

Times are integers of nanoseconds. `*_ns` on a record that leaves the engine is Unix epoch; the engine has
converted it with one fixed anchor, so differences are exact whatever the wall clock did meanwhile.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Protocol = Literal["icmp", "udp", "tcp"]
Session = Literal["kept", "fresh"]
Stack = Literal["packet", "kernel"]
Direction = Literal["round_trip", "forward", "reverse"]
Censored = Literal["no", "start", "end"]
Verdict = Literal["unaffected", "survived", "lost", "reset", "dark", "half", "rebound", "unobserved"]
VERDICTS: tuple[Verdict, ...] = ("unaffected", "survived", "lost", "reset", "dark", "half", "rebound", "unobserved")
FlowState = Literal["connecting", "up", "suspect", "down", "ended"]
Cause = Literal["stall", "ring_drop", "link_down", "send_error"]
EndCause = Literal["rst", "fin", "icmp", "silent", "none"]
EndedBy = Literal["peer", "firewall", "unknown"]
ProbeFate = Literal["received", "late", "lost", "lost_forward", "lost_reverse", "dropped_locally", "pending"]


DEFAULT_RATE_PPS = 1000.0  # 1 ms between probes: an outage is known to within about a millisecond
STREAM_RATE_PPS, MAX_STREAM_RATE_PPS = 10.0, 1000  # keystrokes: a fast typist's; beyond any


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """One flow to probe, as configured: names and numbers, nothing resolved yet.

    `session: both` in a config has already become two of these, NAME and NAME-fresh.
    """

    name: str
    protocol: Protocol
    session: Session
    path: str
    target: str  # address or host name, as the user wrote it
    port: int  # 0 for icmp
    rate_pps: float
    stack: Stack = "packet"
    size: int | None = None  # octets of IP packet; None: the smallest that carries everything we need
    dscp: int = 0
    ttl: int = 64
    interface: str | None = None
    source: str | None = None
    loss_threshold_ns: int = 2_000_000_000
    outage_min_probes: int = 3
    pacing: Literal["fine", "coarse"] = "fine"
    key_file: str | None = None  # udp: authenticated STAMP with the key in this file

    @property
    def interval_ns(self) -> int:
        """Nominal gap between two probes."""
        return round(1e9 / self.rate_pps)


@dataclass(slots=True)
class Counts:
    """What became of the probes of a flow (contract: result document, `counts`)."""

    scheduled: int = 0
    unsent: int = 0
    sent: int = 0
    received: int = 0
    lost: int = 0
    lost_forward: int = 0
    lost_reverse: int = 0
    lost_unattributed: int = 0
    late: int = 0
    duplicate: int = 0
    reordered: int = 0
    corrupt: int = 0
    dropped_locally: int = 0
    reset: int = 0
    icmp_error: int = 0
    pending: int = 0

    def broken_laws(self) -> list[str]:
        """The contract's laws that these counts break; empty when they are sound."""
        broken = []
        if self.scheduled != self.sent + self.unsent:
            broken.append("scheduled = sent + unsent")
        if self.sent != self.received + self.late + self.lost + self.dropped_locally + self.pending:
            broken.append("sent = received + late + lost + dropped_locally + pending")
        if self.lost != self.lost_forward + self.lost_reverse + self.lost_unattributed:
            broken.append("lost = lost_forward + lost_reverse + lost_unattributed")
        if any(getattr(self, f.name) < 0 for f in fields(self)):
            broken.append("no count is negative")
        return broken


COUNT_NAMES: tuple[str, ...] = tuple(f.name for f in fields(Counts))


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One probe as it was sent and answered, raw. Instants are Unix ns; None: there is none, or it is not known."""

    sequence: int
    tx_ns: int
    rx_ns: int | None
    reflector_rx_ns: int | None  # by the reflector's clock
    reflector_tx_ns: int | None
    ttl: int | None  # of the reply, on arrival
    fate: ProbeFate  # `lost`: in a direction that is not known

    def to_document(self) -> dict[str, Any]:
        """The contract's form of a record."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outage:
    """One loss period of at least K probes in one direction, bounded from TX times.

    `id` numbers the outages of a flow from 1; a revision (a late reply that trims a published window, the
    end of one that was open) carries the same id, and the newest record with an id is the one that counts.
    `withdrawn` says that the revision left nothing of it.
    """

    flow: str
    id: int
    direction: Direction
    start_ns: int  # TX time of the first lost probe
    end_ns: int  # TX time of the first probe that was answered again; of the last lost one when censored at the end
    last_ok_ns: int
    first_lost_ns: int
    last_lost_ns: int
    first_ok_ns: int  # 0 while the outage is open
    lower_ns: int
    estimate_ns: int
    upper_ns: int
    lost: int
    first_lost_seq: int
    last_lost_seq: int
    censored: Censored = "no"
    unobserved_ns: int = 0
    tx_error_ns: int = 0  # how much further apart the bounds are because TX times are not known better
    episode: int = 0
    withdrawn: bool = False
    evidence: tuple[ProbeRecord, ...] = ()  # of the probes around both edges; the engine tells it beside the outage
    last_ok_seq: int = -1  # the engine's, for the evidence; -1: none, or not known
    first_ok_seq: int = -1

    def to_document(self) -> dict[str, Any]:
        """The contract's form of an outage."""
        return {
            "direction": self.direction,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "edges_ns": {
                "last_ok": self.last_ok_ns,
                "first_lost": self.first_lost_ns,
                "last_lost": self.last_lost_ns,
                "first_ok": self.first_ok_ns,
            },
            "duration_ns": {"lower": self.lower_ns, "estimate": self.estimate_ns, "upper": self.upper_ns},
            "episode": self.episode,
            "lost": self.lost,
            "first_lost_seq": self.first_lost_seq,
            "last_lost_seq": self.last_lost_seq,
            "censored": self.censored,
            "unobserved_ns": self.unobserved_ns,
            "tx_error_ns": self.tx_error_ns,
            "evidence": [record.to_document() for record in self.evidence],
        }


def outage_of(document: dict[str, Any]) -> Outage:
    """The outage of a contract-form entry that also names its flow; without id and evidence."""
    edges, duration = document["edges_ns"], document["duration_ns"]
    return Outage(
        flow=document["flow"],
        id=0,
        direction=document["direction"],
        start_ns=document["start_ns"],
        end_ns=document["end_ns"],
        last_ok_ns=edges["last_ok"],
        first_lost_ns=edges["first_lost"],
        last_lost_ns=edges["last_lost"],
        first_ok_ns=edges["first_ok"],
        lower_ns=duration["lower"],
        estimate_ns=duration["estimate"],
        upper_ns=duration["upper"],
        lost=document["lost"],
        first_lost_seq=document["first_lost_seq"],
        last_lost_seq=document["last_lost_seq"],
        censored=document["censored"],
        unobserved_ns=document["unobserved_ns"],
        tx_error_ns=document.get("tx_error_ns", 0),
        episode=document["episode"],
    )


@dataclass(frozen=True, slots=True)
class Unobserved:
    """A span in which a flow did not probe on schedule, or our own rings dropped: neither up nor down."""

    flow: str
    start_ns: int
    end_ns: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a kept session ended, as far as seen."""

    flow: str
    cause: EndCause = "none"
    at_ns: int = 0
    source: str = ""  # address the RST, FIN or ICMP error came from (document field: "from")
    ttl: int = 0
    peer_ttl: int = 0  # of the peer's last reply, to set beside it; 0: none came
    by: EndedBy = "unknown"  # whose packet it was (core/ending.py)
    icmp_type: int | None = None  # cause "icmp" alone
    icmp_code: int | None = None
    again_ns: int | None = None  # when a new session worked

    def to_document(self) -> dict[str, Any]:
        """The contract's form of a session end."""
        return {
            "cause": self.cause,
            "at_ns": self.at_ns,
            "from": self.source,
            "ttl": self.ttl,
            "peer_ttl": self.peer_ttl,
            "by": self.by,
            "icmp_type": self.icmp_type,
            "icmp_code": self.icmp_code,
            "again_ns": self.again_ns,
        }


@dataclass(frozen=True, slots=True)
class StallRecord:
    """A time in which what was typed on a stream did not come back (core/stream.py says when it begins and ends)."""

    start_ns: int
    end_ns: int  # the first echo; where it is censored, as far as was seen
    censored: Censored = "no"

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class FlowStateChange:
    """Live state of a flow, for the status page, the event stream and `haprobe_flow_up`."""

    flow: str
    state: FlowState
    at_ns: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that happened at an instant, give or take `uncertainty_ns`, as told by `source`.

    For a change seen by polling, `at_ns` is the middle of the interval (last seen old, first seen new) and
    `uncertainty_ns` half its length; `detail` holds both ends.

    Event names (anything else is allowed, these are what phases and diagnosis look for):
        trigger             the drill's trigger was pulled
        role_change         a unit became primary or secondary: detail {unit, role}
        eip_moved           detail {address, allocation_id, from, to, from_unit, to_unit}
        route_moved         detail {route_table, destination, from, to, from_unit, to_unit}
        private_ip_moved    detail {address, from, to, from_unit, to_unit}
        api_call            a unit's call to the cloud: detail {unit, operation, target, result, error}; those of
                            CloudTrail also {via, event_id, caller, message}
        instance_call       somebody stopped, started or rebooted an instance: detail as of api_call
        instance_state_changed      detail {instance_id, unit, from, to}
        signals_disagree / signals_agree   addresses and routes began to point at different units, or at one:
                            detail {unit, from_unit, signals}
        applied             the data plane took over a cloud change (lab only): detail {what, target, to}
        two_primaries / one_primary     units that answer as primary at the same time: detail {units}; the one that
                            is left: detail {unit}
        primary_selected    why a unit is primary, in its own words: detail {unit, serial, reason, unit_time}
        ha_history          an entry of a unit's HA history, by the unit's clock: detail {unit, text}
        awsd_error          a refusal of what is no known request: detail {unit, error, meaning, actions}
        watcher_down / watcher_up   detail {watcher, reason, last_success_ns}; fortigate: unanswering, answering,
                            last_answer_ns; in a run of several agents: agent
        outage_start / outage_end   detail {flow, agent, direction}
        session_end         detail {flow, agent, cause}; of rst, fin and icmp also {by, from, ttl, peer_ttl}
        stall_start / stall_end     of a stream: detail {flow, agent}
    """

    at_ns: int
    source: Literal["probe", "aws", "fortigate", "lab", "user"]
    event: str
    uncertainty_ns: int = 0
    detail: dict[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The contract's form of a timeline entry."""
        return asdict(self)
