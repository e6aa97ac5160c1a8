"""A realistic run to test against: an 18-flow multi-AZ drill, three paths x three protocols x kept and fresh.

Every outage is cut out of a sending schedule by a fault window, so that edges, bounds and counts agree as they
would in a real run. Regenerate the committed files with `python tests/report/build.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.core import diagnosis, verdict
from probe.core.events import TimelineEvent
from probe.report.document import json_schema, new_document

MS = 1_000_000
S = 1_000 * MS
START = 1_764_763_200 * S  # 2025-12-03T12:00:00Z
TRIGGER = START + 5 * S + 12 * MS
END = START + 26 * S
INTERVAL = 2 * MS

DOWN = TRIGGER + 900_000  # crash: traffic stops at once
HEARTBEAT_LOST = TRIGGER + 4_021 * MS
PRIMARY = TRIGGER + 4_060 * MS
EIP = TRIGGER + 4_655 * MS
ROUTE = TRIGGER + 4_982 * MS
ROUTE_2 = TRIGGER + 5_170 * MS
PROPAGATION = 82 * MS

GOLDEN = Path(__file__).parent.parent / "golden" / "report.json"
SCHEMA = Path(__file__).parent.parent / "report.schema.json"
VERDICTS = Path(__file__).parent.parent.parent / "docs" / "verdicts.md"


@dataclass(frozen=True)
class Fault:
    """Probes sent in [down, up) are lost in this direction; `up` None: for good."""

    down: int
    up: int | None
    direction: str = "round_trip"


def flow(
    name: str,
    *,
    protocol: str = "udp",
    session: str = "kept",
    path: str = "east-west",
    agent: str = "workload-a",
    target: str = "10.99.97.10",
    faults: tuple[Fault, ...] = (),
    phase_ns: int = 0,
    scattered: int = 0,
    interval_ns: int = INTERVAL,
    stall: tuple[int, int] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One flow of the run, probed every `interval_ns` from START to END and cut by `faults`."""
    total = (END - START - phase_ns) // interval_ns
    first = START + phase_ns

    def at(sequence: int) -> int:
        return first + sequence * interval_ns

    unsent = 0 if stall is None else (stall[1] - stall[0]) // interval_ns

    def record(sequence: int) -> dict[str, Any]:
        """What evidence tells of a probe; the first fault that it falls into decides."""
        tx = at(sequence)
        hit = next((f for f in faults if tx >= f.down and (f.up is None or tx < f.up)), None)
        fate = "received" if hit is None else {"round_trip": "lost"}.get(hit.direction, f"lost_{hit.direction}")
        times = {"rx_ns": tx + 538_000, "reflector_rx_ns": tx + 200_000, "reflector_tx_ns": tx + 210_000, "ttl": 62}
        return {"sequence": sequence, "tx_ns": tx, **(times if hit is None else dict.fromkeys(times)), "fate": fate}

    outages, lost = [], {"forward": 0, "reverse": 0, "round_trip": scattered}
    for fault in faults:
        low = -(-(fault.down - first) // interval_ns)
        high = total - 1 if fault.up is None else -(-(fault.up - first) // interval_ns) - 1
        closed = fault.up is not None
        edges = {"last_ok": at(low - 1), "first_lost": at(low), "last_lost": at(high)}
        edges["first_ok"] = at(high + 1) if closed else 0
        lower = edges["last_lost"] - edges["first_lost"]
        upper = (edges["first_ok"] if closed else edges["last_lost"]) - edges["last_ok"]
        outages.append(
            {
                "direction": fault.direction,
                "start_ns": edges["first_lost"],
                "end_ns": edges["first_ok"] or edges["last_lost"],
                "edges_ns": edges,
                "duration_ns": {"lower": lower, "estimate": (lower + upper) // 2, "upper": upper},
                "episode": 1,
                "lost": high - low + 1,
                "first_lost_seq": low,
                "last_lost_seq": high,
                "censored": "no" if closed else "end",
                "unobserved_ns": 0,
                "evidence": [record(n) for n in (low - 1, low, low + 1, *((high, high + 1) if closed else ()))],
            }
        )
        lost[fault.direction] += high - low + 1
    missing = sum(lost.values())
    sent = total - unsent
    counts = {
        "scheduled": total,
        "unsent": unsent,
        "sent": sent,
        "received": sent - missing,
        "lost": missing,
        "lost_forward": lost["forward"],
        "lost_reverse": lost["reverse"],
        "lost_unattributed": lost["round_trip"],
    }
    return {
        "name": name,
        "agent": agent,
        "target": target,
        "protocol": protocol,
        "session": session,
        "path": path,
        "interval_ns": interval_ns,
        "counts": counts,
        "rtt_ns": {"min": 412_000, "p50": 538_000, "p99": 911_000, "max": 4_120_000},
        "outages": outages,
        "unobserved": [] if stall is None else [{"start_ns": stall[0], "end_ns": stall[1], "cause": "stall"}],
        "session_end": {"cause": "none", "at_ns": 0, "from": "", "ttl": 0},
        **more,
    }


def path_faults(path: str) -> tuple[Fault, ...]:
    """What a multi-AZ failover does to a new session: EIP and routes come back at different instants."""
    eip, route = EIP + PROPAGATION, ROUTE + PROPAGATION
    if path == "ingress":  # requests pass when the EIP has moved, replies only with the route
        return (Fault(DOWN, eip, "forward"), Fault(eip, route, "reverse"))
    return (Fault(DOWN, route, "forward"),)


PATHS = {
    "east-west": ("workload-a", "10.99.97.10"),
    "ingress": ("jumphost", "203.0.113.10"),
    "egress": ("workload-a", "198.51.100.130"),
}


def flows(*, pickup: bool = True, resets: bool = False, ingress_dark: bool = False) -> list[dict[str, Any]]:
    """All 18 flows. Options rehearse the drills that end otherwise."""
    made = []
    for path, (agent, target) in PATHS.items():
        for protocol in ("icmp", "udp", "tcp"):
            for session in ("kept", "fresh"):
                faults, more = path_faults(path), {}
                nat = path != "east-west"
                if path == "ingress" and ingress_dark:
                    faults = (Fault(DOWN, None),)
                elif protocol == "tcp" and session == "kept" and (nat or not pickup):
                    faults = (Fault(DOWN, None),)
                    if resets:
                        more["session_end"] = {"cause": "rst", "at_ns": ROUTE, "from": "10.99.97.10", "ttl": 63}
                    else:
                        more["session_end"] = {"cause": "silent", "at_ns": DOWN, "from": "", "ttl": 0}
                made.append(
                    flow(
                        f"{path}-{protocol}" + ("-fresh" if session == "fresh" else ""),
                        protocol=protocol,
                        session=session,
                        path=path,
                        agent=agent,
                        target=target,
                        faults=faults,
                        phase_ns=len(made) * 37_000,
                        scattered=2 if protocol == "udp" else 0,
                        stall=(START + 2 * S, START + 2 * S + 34 * MS) if agent == "jumphost" else None,
                        **more,
                    )
                )
    return made


def call(at_ns: int, operation: str, target: str, error: str = "") -> TimelineEvent:
    result = {"result": "error", "error": error} if error else {"result": "ok"}
    detail = {"unit": "fgt-b", "operation": operation, "target": target, **result, "duration_ms": 152}
    return TimelineEvent(at_ns, "lab", "api_call", 0, detail)


def moved(event: str, at_ns: int, uncertainty_ns: int = 131 * MS, **detail: str) -> TimelineEvent:
    units = {"from_unit": "fgt-a", "to_unit": "fgt-b"}
    return TimelineEvent(at_ns, "aws", event, uncertainty_ns, {**detail, **units})


def role(at_ns: int, unit: str, role_name: str = "primary") -> TimelineEvent:
    return TimelineEvent(at_ns, "lab", "role_change", 0, {"unit": unit, "role": role_name})


TRIGGERED = TimelineEvent(TRIGGER, "lab", "trigger", 0, {"kind": "crash", "unit": "fgt-a"})


def events(*, eip: str = "ok", routes: str = "ok") -> list[TimelineEvent]:
    """The lab's and the watcher's events; `eip` and `routes`: ok, denied, or none (not even tried)."""
    told = [
        TRIGGERED,
        TimelineEvent(HEARTBEAT_LOST, "lab", "heartbeat_lost", 0, {"unit": "fgt-b"}),
        role(PRIMARY, "fgt-b"),
    ]
    if eip != "none":
        told.append(call(EIP, "AssociateAddress", "eipalloc-0c1", "UnauthorizedOperation" if eip == "denied" else ""))
    if eip == "ok":
        told.append(TimelineEvent(EIP + PROPAGATION, "lab", "applied", 0, {"what": "eip", "target": "203.0.113.10"}))
        ids = {"address": "203.0.113.10", "allocation_id": "eipalloc-0c1"}
        told.append(moved("eip_moved", EIP + 40 * MS, **ids, **{"from": "eni-a1", "to": "eni-b1"}))
    tables = {ROUTE: ("rtb-0transit", "0.0.0.0/0"), ROUTE_2: ("rtb-0edge", "10.99.98.0/24")}
    for at_ns, (table, destination) in tables.items():
        if routes != "none":
            error = "UnauthorizedOperation" if routes == "denied" else ""
            told.append(call(at_ns, "ReplaceRoute", f"{table} {destination}", error))
        if routes == "ok":
            told.append(TimelineEvent(at_ns + PROPAGATION, "lab", "applied", 0, {"what": "route", "target": table}))
            ids = {"route_table": table, "destination": destination}
            told.append(moved("route_moved", at_ns + 25 * MS, **ids, **{"from": "eni-a2", "to": "eni-b2"}))
    return told


RUN: dict[str, Any] = {
    "id": "20251203T120000.000Z",
    "started_ns": START,
    "ended_ns": END,
    "host": "lab",
    "version": "0.1.0",
    "labels": {"fortios": "7.6.4", "scenario": "crash"},
    "config": {"jumphost": {"watchers": {"aws": {"region": "eu-west-2", "addresses": ["eipalloc-0c1"]}}}},
    "clock": {"synchronised": True, "max_error_ns": 812_000, "source": "chrony"},
    "trigger": {"kind": "crash", "at_ns": TRIGGER},
}


def drill(**options: Any) -> dict[str, Any]:
    """The document of a clean crash failover; options as for `flows`."""
    return new_document(run=RUN, flows=flows(**options), timeline=events())


def alike() -> dict[str, Any]:
    """A run of two agents whose flows have the same names, all four of which are dark for a second."""
    down = (Fault(DOWN, DOWN + S),)
    names = [(f"u{end}", session) for end, session in (("", "kept"), ("-fresh", "fresh"))]
    made = [flow(name, session=session, agent=agent, faults=down) for agent in "ab" for name, session in names]
    return new_document(run=RUN, flows=made)


def verdicts_page() -> str:
    """docs/verdicts.md: the tables that judge and diagnose, drawn from the code that uses them."""
    return (
        "# Verdicts and diagnosis\n\nGenerated by `python tests/report/build.py` from `probe/core/verdict.py` and"
        " `probe/core/diagnosis.py`.\n\n## From a flow's end to its verdict\n\nFirst match wins. The twin of a kept"
        " flow (old session) is the fresh one (new sessions) beside it; a fresh flow is judged by itself, and where it"
        " survived its cell says `recovered`.\n\n"
        + verdict.table_markdown()
        + "\n## From one verdict to another\n\nWhat may happen to a kept flow while it runs, and the verdict before and"
        " after, drawn from the table above and from `HAPPENINGS`. A session that was ended stays so.\n\n```mermaid\n"
        + verdict.machine_mermaid()
        + "```\n\nWhich translation a probe went through only a reflector of ours can tell, for UDP and TCP. An echo"
        " reply comes back under the identifier that it was sent with, whatever the translation on the way: ICMP is"
        " never `rebound`.\n" + "\n## How a session ended\n\n"
        "| `session_end.cause` | means |\n|---|---|\n"
        "| `rst`, `fin` | A segment of this session (by its sequence number; a forged one is ignored). |\n"
        "| `icmp` | Dark to the end of the run, with ICMP errors about its probes coming on. Errors after which it was"
        " answered again, or that stopped for longer than 5 s, are counted and nothing else. |\n"
        "| `silent` | Dark to the end of the run, without a word. |\n\n"
        "`by` says whose packet it was. Every router takes one from the TTL, and senders begin with 64, 128 or 255:"
        " what has passed fewer routers than the far end's replies (`peer_ttl`) comes from something nearer, a"
        " `firewall` that answers in the far end's name.\n" + "\n## Diagnosis codes\n\n" + diagnosis.table_markdown()
    )


def main() -> None:
    GOLDEN.write_text(json.dumps(drill(), indent=1) + "\n")
    SCHEMA.write_text(json.dumps(json_schema(), indent=1) + "\n")
    VERDICTS.write_text(verdicts_page())


if __name__ == "__main__":
    main()
