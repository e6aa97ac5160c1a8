"""From a document's flows and events to its verdicts, matrix, timeline, phases and diagnosis, by way of `core`.

The only place that turns contract dicts into core records and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.core import diagnosis, timeline, verdict
from probe.core.events import COUNT_NAMES, Counts, Outage, SessionEnd, StallRecord, TimelineEvent, Unobserved
from probe.core.facts import Facts
from probe.core.verdict import FlowRecord

WATCHERS = ("aws", "fortigate")


@dataclass(frozen=True, slots=True)
class Assessment:
    """All that is concluded rather than measured, in the contract's form."""

    verdicts: list[str]
    again_ns: list[int | None]  # of each flow: when a session worked again after its own had ended
    matrix: dict[str, dict[str, str]]
    timeline: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    diagnosis: list[dict[str, Any]]


def assess(
    run: Mapping[str, Any], flows: Sequence[Mapping[str, Any]], events: Iterable[TimelineEvent | Mapping[str, Any]]
) -> Assessment:
    """Judge flows, join the timeline, cut phases and diagnose; arguments complete, in the contract's form."""
    records = verdict.judge_all([record_of(f) for f in flows])
    told = [e for e in map(event_of, events) if not (e.source == "probe" and e.event in timeline.PROBE_EVENTS)]
    merged = timeline.merge(told, timeline.probe_events(records))
    trigger_ns = int(run.get("trigger", {}).get("at_ns") or 0)
    facts = Facts(
        flows=records,
        events=merged,
        trigger_ns=trigger_ns or next((e.at_ns for e in merged if e.event == "trigger"), 0),
        watched=watched(run.get("config", {})),
        watchers={name: len(_watchers(run.get("config", {}), name)) for name in WATCHERS},
        unwatched=unwatched(run.get("config", {})),
        end_ns=int(run.get("ended_ns") or 0),
    )
    return Assessment(
        verdicts=[r.verdict for r in records],
        again_ns=verdict.again_all(records),
        matrix=verdict.matrix(records),
        timeline=[e.to_document() for e in merged],
        phases=[p.to_document() for p in timeline.phases(merged, records, trigger_ns=trigger_ns)],
        diagnosis=[d.to_document() for d in diagnosis.diagnose(facts)],
    )


def record_of(flow: Mapping[str, Any]) -> FlowRecord:
    """A contract flow as a core record."""
    name = str(flow["name"])
    end = flow.get("session_end") or {}
    stream = flow.get("stream") or {}
    return FlowRecord(
        name=name,
        protocol=flow["protocol"],
        session=flow["session"],
        path=str(flow["path"]),
        agent=str(flow.get("agent", "")),
        target=str(flow.get("target", "")),
        interval_ns=int(flow["interval_ns"]),
        counts=counts_of(flow["counts"]),
        outages=tuple(outage_of(name, i, o) for i, o in enumerate(flow["outages"], 1)),
        unobserved=tuple(Unobserved(name, u["start_ns"], u["end_ns"], u["cause"]) for u in flow["unobserved"]),
        session_end=SessionEnd(
            name,
            end.get("cause", "none"),
            int(end.get("at_ns", 0)),
            str(end.get("from", "")),
            int(end.get("ttl", 0)),
            int(end.get("peer_ttl", 0)),
            end.get("by", "unknown"),
            end.get("icmp_type"),
            end.get("icmp_code"),
            end.get("again_ns"),
        ),
        stack=flow.get("stack", "packet"),
        stalls=tuple(StallRecord(s["start_ns"], s["end_ns"], s["censored"]) for s in stream.get("stalls", ())),
        reconnected=bool(stream.get("reconnected")),
        rebound=bool(flow.get("rebound", False)),
        verdict=flow.get("verdict", "unobserved"),
    )


def counts_of(counts: Mapping[str, Any]) -> Counts:
    """The contract's counts as a record; whatever is missing is 0."""
    return Counts(**{name: int(counts.get(name, 0)) for name in COUNT_NAMES})


def outage_of(flow: str, number: int, outage: Mapping[str, Any]) -> Outage:
    """A contract outage as a record with id `number`."""
    edges, duration = outage["edges_ns"], outage["duration_ns"]
    return Outage(
        flow=flow,
        id=number,
        direction=outage["direction"],
        start_ns=outage["start_ns"],
        end_ns=outage["end_ns"],
        last_ok_ns=edges["last_ok"],
        first_lost_ns=edges["first_lost"],
        last_lost_ns=edges["last_lost"],
        first_ok_ns=edges["first_ok"],
        lower_ns=duration["lower"],
        estimate_ns=duration["estimate"],
        upper_ns=duration["upper"],
        lost=outage["lost"],
        first_lost_seq=outage["first_lost_seq"],
        last_lost_seq=outage["last_lost_seq"],
        censored=outage["censored"],
        unobserved_ns=outage["unobserved_ns"],
        tx_error_ns=outage.get("tx_error_ns", 0),
        episode=outage["episode"],
    )


def event_of(event: TimelineEvent | Mapping[str, Any]) -> TimelineEvent:
    """A contract timeline entry as a record."""
    if isinstance(event, TimelineEvent):
        return event
    return TimelineEvent(
        at_ns=int(event["at_ns"]),
        source=event["source"],
        event=str(event["event"]),
        uncertainty_ns=int(event.get("uncertainty_ns", 0)),
        detail=dict(event.get("detail") or {}),
    )


def watched(config: object) -> frozenset[str]:
    """Names of the HA watchers that a config, or a dict of several agents' configs, sets up."""
    return frozenset(name for name in WATCHERS if _watchers(config, name))


def unwatched(config: object) -> frozenset[str]:
    """What no AWS watcher of a config, or of several agents' configs, is to look at: "Address", "Route".

    Empty where a config does not tell; one without an AWS watcher says nothing either.
    """
    found = [one for one in _watchers(config, "aws") if isinstance(one, Mapping)]
    keys = {"Address": ("addresses", "network_interfaces"), "Route": ("route_tables",)}
    if not found or len(found) < len(_watchers(config, "aws")):
        return frozenset()
    return frozenset(kind for kind, names in keys.items() if not any(one.get(n) for one in found for n in names))


def _watchers(config: object, name: str) -> list[object]:
    """The config of each watcher of a name."""
    if not isinstance(config, Mapping):
        return []
    watchers = config.get("watchers")
    own = [watchers[name]] if isinstance(watchers, Mapping) and watchers.get(name) else []
    return own + [one for key, value in config.items() if key != "watchers" for one in _watchers(value, name)]
