"""The result document's model and its JSON Schema.

Readers tolerate fields they do not know (a newer haprobe may add some); the names below never change within
`haprobe.report/1`. All `*_ns` instants are Unix epoch nanoseconds, all durations nanoseconds, all integers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from probe.core.events import (
    Cause,
    Censored,
    Direction,
    EndCause,
    EndedBy,
    ProbeFate,
    Protocol,
    Session,
    Stack,
    Verdict,
)

SCHEMA_ID = "haprobe.report/1"
# 64 bits, as every reader has them: instants to the year 2262, which calendars know.
_MAX = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=_MAX)]
Ns = Annotated[int, Field(ge=0, le=_MAX)]
Amount = Ns | Annotated[float, Field(ge=0, le=_MAX)]


class _Model(BaseModel):
    # Strict, as whoever has checked a document goes on with its raw values: in them "5" is no number, and "no" is true.
    model_config = ConfigDict(extra="allow", populate_by_name=True, strict=True, allow_inf_nan=False)


class CountsModel(_Model):
    """What became of a flow's probes, in probes (RFC 7680; duplicates RFC 5560, reordering RFC 4737)."""

    scheduled: Count = Field(description="Send instants that came up: sent + unsent.")
    unsent: Count = Field(description="Given up after a stall, or refused by our own kernel: never lost.")
    sent: Count = Field(description="Left this host: received + late + lost + dropped_locally + pending.")
    received: Count = Field(description="Answered within the loss threshold.")
    lost: Count = Field(description="Not answered within the loss threshold, by direction below.")
    lost_forward: Count = Field(description="Never reached the reflector.")
    lost_reverse: Count = Field(description="Reached the reflector; the reply was lost.")
    lost_unattributed: Count = Field(description="Lost in a direction that could not be told.")
    late: Count = Field(
        description="Answered after the loss threshold; of a stream also what TCP still holds then, to send it again."
    )
    duplicate: Count = Field(description="Further arrivals of a reply already counted.")
    reordered: Count = Field(description="Arrived behind a later sequence.")
    corrupt: Count = Field(description="Failed a checksum or content check.")
    dropped_locally: Count = Field(description="Lost to a ring, interface or link of ours, here or at the reflector.")
    reset: Count = Field(description="RST segments received.")
    icmp_error: Count = Field(description="ICMP errors received about this flow's probes.")
    pending: Count = Field(description="Within the loss threshold, fate not settled yet.")


class RttModel(_Model):
    """Round-trip times of received probes, in ns; all 0 when none was received."""

    min: Ns
    p50: Ns
    p99: Ns
    max: Ns


class EdgesModel(_Model):
    """TX times of the probes around an outage's edges; 0 where there is none (censored)."""

    last_ok: Ns = Field(description="T[i]: last answered probe before.")
    first_lost: Ns = Field(description="T[i+1].")
    last_lost: Ns = Field(description="T[j-1].")
    first_ok: Ns = Field(description="T[j]: first answered probe after.")


class DurationModel(_Model):
    """Bounds on an outage's true length, from TX times alone (RFC 6414, timestamp-based method), in ns."""

    lower: Ns = Field(description="T[j-1] - T[i+1], less what went unobserved in between, and see tx_error_ns.")
    estimate: Ns = Field(description="(lower + upper) / 2, as if TX times were exact.")
    upper: Ns = Field(description="T[j] - T[i]; see tx_error_ns.")


class ProbeRecordModel(_Model):
    """One probe as it was sent and answered, raw: what an outage's edges can be checked against."""

    sequence: Count
    tx_ns: Ns = Field(description="When it was sent.")
    rx_ns: Ns | None = Field(description="When its reply arrived; null: no reply, or not known any more.")
    reflector_rx_ns: Ns | None = Field(description="When the reflector received it, by the reflector's clock.")
    reflector_tx_ns: Ns | None = Field(description="When the reflector replied, by the reflector's clock.")
    ttl: Count | None = Field(description="TTL or hop limit of the reply on arrival.")
    fate: ProbeFate = Field(description="lost: in a direction that is not known; pending: not settled when told.")


class OutageModel(_Model):
    """One loss period long enough to be an outage, in one direction."""

    direction: Direction
    start_ns: Ns = Field(description="TX time of the first lost probe.")
    end_ns: Ns = Field(description="TX time of the first probe answered again; of the last lost one when censored.")
    edges_ns: EdgesModel
    duration_ns: DurationModel
    episode: Count = Field(description="Outages of one flow that belong together (flaps) share a number, from 1.")
    lost: Count = Field(description="Probes lost in it.")
    first_lost_seq: Count
    last_lost_seq: Count
    censored: Censored = Field(description="start: began before the span; end: still open when the span ended.")
    unobserved_ns: Ns = Field(description="Time within it that we did not observe.")
    tx_error_ns: Ns = Field(
        default=0,
        description="How much further apart the bounds are because TX times are not known exactly: where probes around"
        " its edges shared a call to the kernel, or one's took more than a quarter of the interval or 250 us.",
    )
    evidence: list[ProbeRecordModel] = Field(
        default_factory=list,
        description="Raw records of the probes around both edges, ascending by sequence: up to 8 on each side of an"
        " edge; of an open outage around its start alone.",
    )


class UnobservedModel(_Model):
    """A span that says nothing about the network: we did not send on schedule, or dropped replies ourselves."""

    start_ns: Ns
    end_ns: Ns
    cause: Cause = Field(
        description="stall: not scheduled in time; ring_drop: dropped by a ring or interface of ours; others as named."
    )


class SessionEndModel(_Model):
    """How a kept session ended, as far as seen."""

    cause: EndCause = Field(description="silent: dark to the end of the run, without a word.")
    at_ns: Ns = Field(description="When the packet came; of a silent end, when the first probe was lost.")
    from_: str = Field(alias="from", description="Address the RST, FIN or ICMP error came from.")
    ttl: Count = Field(description="TTL of that packet on arrival: tells the firewall from the far end.")
    peer_ttl: Count = Field(
        default=0, description="TTL of the far end's last reply, of a stream: of its SYN/ACK; 0: none came."
    )
    by: EndedBy = Field(
        default="unknown",
        description="peer: as many routers away as the far end. firewall: nearer, or under another address."
        " unknown: farther away, or nothing to compare with.",
    )
    icmp_type: Count | None = Field(default=None, description="Of the ICMP error that ended it.")
    icmp_code: Count | None = Field(default=None, description="Likewise.")
    again_ns: Ns | None = Field(
        default=None,
        description="When a session worked again: this flow's next one, else the first probe of its fresh twin that was"
        " answered after the outage in which it ended. null: not within the run, or there is no twin.",
    )


class StallModel(_Model):
    """A time in which what was typed on a stream did not come back.

    It begins with the first keystroke that waited longer than 200 ms and twice the usual echo time. Start, end and the
    times of retransmissions are exact (our clock, the kernel's stamps); what TCP_INFO tells is polled every 20 ms and
    right after each retransmission.
    """

    start_ns: Ns = Field(description="When that keystroke was written; the last echo before, if that came later.")
    end_ns: Ns = Field(description="When its echo came: the next keystroke comes back; as far as seen when censored.")
    duration_ns: Ns
    censored: Censored = Field(description="end: frozen when the span or the connection ended; start: before the span.")
    first_echo_ns: Ns = Field(description="When its echo came; 0: never, or not yet.")
    caught_up_ns: Ns = Field(description="When all that was typed meanwhile had come back; 0: not yet.")
    next_try_ns: Ns = Field(description="While it lasts: when the kernel sends again; 0: not known, or it is over.")
    first_seq: Count = Field(description="The keystroke it began with.")
    waiting_max: Count = Field(description="Keystrokes that waited at once.")
    retransmissions: Count = Field(description="Segments that our kernel sent again meanwhile.")
    retransmitted_ns: list[Ns] = Field(description="When, by the kernel; the first 200.")
    rto_max_ns: Ns = Field(description="The retransmission timeout at the worst.")
    backoff_max: Count = Field(description="How often it had doubled.")
    unacked_max: Count = Field(description="Octets that the far end had not acknowledged.")


class ReconnectModel(_Model):
    """A new session of a stream whose session had ended."""

    at_ns: Ns = Field(description="When its handshake was done.")
    attempts: Count = Field(description="Handshakes that it took, one a second.")


class StreamModel(_Model):
    """What the kernel's TCP made of it."""

    stalls: list[StallModel]
    retransmissions: Count = Field(description="Segments sent again since the flow began, in stalls and outside.")
    reconnected: list[ReconnectModel]


class FlowModel(_Model):
    """One probe stream and what became of it."""

    name: str
    agent: str = Field(description="Whose flow it is; names are unique within an agent.")
    target: str = Field(description="Where its probes are sent.")
    protocol: Protocol
    session: Session = Field(description="kept: one session for the whole run (the old one); fresh: new ones.")
    path: str = Field(description="ingress, east-west, egress, or the user's own word.")
    interval_ns: Count = Field(description="Nominal gap between two probes.")
    counts: CountsModel
    rtt_ns: RttModel
    outages: list[OutageModel]
    unobserved: list[UnobservedModel]
    session_end: SessionEndModel | None
    verdict: Verdict = Field(description="What became of the session; of a fresh flow, survived means recovered.")
    stack: Stack = Field(default="packet", description="kernel: a stream, which has stalls where others have outages.")
    stream: StreamModel | None = Field(default=None, description="Of a stream alone.")
    rebound: bool = Field(default=False, description="Answered again behind another translated address or port.")


class ClockModel(_Model):
    """The clock behind the instants. Durations do not depend on it."""

    synchronised: bool = Field(description="Whether the kernel says that something keeps it.")
    max_error_ns: Ns | None = Field(description="Bound on the offset from UTC; null when unknown.")
    source: str = Field(description="Where that is known from, clockbound, chrony or adjtimex.")


class TriggerModel(_Model):
    """What started the failover; kind is empty and at_ns 0 when nothing did."""

    kind: str = Field(description="graceful or crash in a lab; else as drill.trigger.kind of the config file.")
    at_ns: Ns


class RecordModel(_Model):
    """The file of all probes that was asked for (`--record`)."""

    file: str = Field(description="Empty when there is none; NAME.incomplete.parquet when it is not whole.")
    probes: Count
    complete: bool = Field(description="Whether it holds every probe that was sent.")
    reason: str = Field(description="Why not.")


class RunModel(_Model):
    """Where, when and with what the run was made."""

    id: str = Field(description="Start of the span, which names its directory.")
    started_ns: Ns = Field(description="The span told of: of a drill from the steady state on.")
    ended_ns: Ns
    host: str = Field(description="Name of the host that wrote it.")
    version: str = Field(description="Of haprobe.")
    labels: dict[str, str] = Field(description="--label, and what watchers know: fortios, fortios_build.")
    config: dict[str, Any] = Field(description="What it was made with; no secrets.")
    clock: ClockModel
    trigger: TriggerModel
    record: RecordModel | None = None
    backfill: dict[str, Count] = Field(
        default_factory=dict, description="Events that a slow source, such as cloudtrail, told afterwards."
    )


# What readers tell things apart by in an event's detail; `_Detail` has what they take apart, the rest they only print.
_WORDS = frozenset(
    {"address", "agent", "allocation_id", "by", "destination", "direction"}
    | {"event_id", "from_unit", "route_table", "to_unit", "unit", "watcher"}
)


class _HeldSession(_Model):
    known: str
    way: Any


class _Detail(_Model):
    units: list[str] | None = None
    answering: list[str] | None = None
    signals: dict[str, str | None] | None = None
    flows: dict[str, _HeldSession | None] | None = None
    duration_ms: Annotated[float, Field(ge=0, le=_MAX / 1e6)] | None = None
    began_after_ns: Ns | None = None
    ended_before_ns: Ns | None = None
    last_answer_ns: Ns | None = None
    last_success_ns: Ns | None = None


def _readable(detail: dict[str, Any]) -> dict[str, Any]:
    """The detail, if readers find in it what they expect. All else may be anything: a newer haprobe may add to it."""
    wrong = [f"{key}: is no word" for key in sorted(_WORDS) if isinstance(detail.get(key), dict | list)]
    wrong += _problems(_Detail, detail)
    if wrong:
        raise ValueError(wrong[0])
    return detail


class TimelineModel(_Model):
    """Something that happened at an instant, give or take `uncertainty_ns`."""

    at_ns: Ns
    uncertainty_ns: Ns = Field(description="It happened within this of at_ns, either way.")
    source: Literal["probe", "aws", "fortigate", "lab", "user"]
    event: str
    detail: Annotated[dict[str, Any], AfterValidator(_readable)] = Field(
        description="By event: unit, role, address, operation, result, flow ..."
    )


class PhaseModel(_Model):
    """One stretch of the failover; uncertainty of both edges together."""

    name: Literal["detect", "role_change", "cloud_api", "data_plane", "full_recovery"]
    start_ns: Ns
    end_ns: Ns
    uncertainty_ns: Ns
    share: float | None = Field(default=None, ge=0, description="Of the full recovery; null where that is unknown.")


class DiagnosisModel(_Model):
    """One finding, with its evidence."""

    code: str = Field(description="See verdicts.md.")
    summary: str
    evidence: list[str] = Field(description="The observations it rests on.")
    check_first: list[str] = Field(default_factory=list, description="What to look at first, in order.")


class BudgetModel(_Model):
    """One limit and what was measured against it. Durations in ns; verdicts as words."""

    name: str
    limit: Amount | str | list[str]
    value: Amount | str | None = Field(description="null: nothing was measured that it applies to, which is not ok.")
    ok: bool
    unobserved: list[str] = Field(
        default_factory=list, description="Flows that it applies to and of which nothing is known: not ok either."
    )
    unbounded: list[str] = Field(
        default_factory=list,
        description="Flows that were away for longer than is known, still or since before the run, or whose session was"
        " ended: over every limit.",
    )


class Document(_Model):
    """A haprobe result document (`report.json`)."""

    schema_: Literal["haprobe.report/1"] = Field(alias="schema")
    run: RunModel
    flows: list[FlowModel]
    matrix: dict[str, dict[str, Verdict | Literal["recovered"]]] = Field(
        description="Path to protocol (old sessions), protocol-new (new sessions) and stream to its worst verdict."
    )
    timeline: list[TimelineModel]
    phases: list[PhaseModel]
    diagnosis: list[DiagnosisModel]
    budgets: list[BudgetModel]


def json_schema() -> dict[str, Any]:
    """The document's JSON Schema (Draft 2020-12)."""
    schema = Document.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def problems(document: object) -> list[str]:
    """What keeps `document` from being a result document: one line per field; empty when nothing does."""
    return _problems(Document, document)


def _problems(model: type[BaseModel], value: object) -> list[str]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return []
