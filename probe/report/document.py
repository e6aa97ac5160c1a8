"""How a result document is made, and the one place to import it from.

The model and its JSON Schema live in `model`, its laws in `laws`, what is concluded from the measurements in
`assess`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from probe.core.events import COUNT_NAMES, SessionEnd, TimelineEvent
from probe.report.assess import assess
from probe.report.laws import laws
from probe.report.model import SCHEMA_ID, Document, json_schema, problems

__all__ = ["SCHEMA_ID", "Document", "json_schema", "laws", "new_document", "problems"]


def new_document(
    *,
    run: Mapping[str, Any],
    flows: Iterable[Mapping[str, Any]],
    timeline: Iterable[TimelineEvent | Mapping[str, Any]] = (),
    budgets: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Make a complete result document out of what was measured.

    Args:
        run: The contract's `run`; whatever is missing is filled with its neutral value.
        flows: Flows in the contract's form. Verdicts in them are replaced: they are judged here, with their twins.
            `rebound: true` says that the reflector saw another translated address or port afterwards.
        timeline: Events of all sources. Outage and session-end events are derived from the flows, so that they
            tell the same edges; any given here are dropped.
        budgets: Results of `report.compare.check`, if any.

    Returns:
        Plain dicts and lists, in the contract's order of fields, ready for JSON.
    """
    full_run = _complete_run(run)
    full_flows = [_complete_flow(f) for f in flows]
    result = assess(full_run, full_flows, timeline)
    for flow, verdict, again_ns in zip(full_flows, result.verdicts, result.again_ns, strict=True):
        flow["verdict"] = verdict
        flow["session_end"] = {**flow["session_end"], "again_ns": again_ns}
    return {
        "schema": SCHEMA_ID,
        "run": full_run,
        "flows": full_flows,
        "matrix": result.matrix,
        "timeline": result.timeline,
        "phases": result.phases,
        "diagnosis": result.diagnosis,
        "budgets": [dict(b) for b in budgets],
    }


def _complete_run(run: Mapping[str, Any]) -> dict[str, Any]:
    neutral: dict[str, Any] = {
        "id": "",
        "started_ns": 0,
        "ended_ns": 0,
        "host": "",
        "version": "",
        "labels": {},
        "config": {},
        "clock": {"synchronised": False, "max_error_ns": None, "source": ""},
        "trigger": {"kind": "", "at_ns": 0},
    }
    full = neutral | dict(run)
    for part in ("clock", "trigger"):
        full[part] = neutral[part] | dict(full[part] or {})
    return full


def _complete_flow(flow: Mapping[str, Any]) -> dict[str, Any]:
    neutral: dict[str, Any] = {
        "name": "",
        "agent": "",
        "target": "",
        "protocol": "icmp",
        "session": "kept",
        "path": "",
        "interval_ns": 0,
        "counts": {},
        "rtt_ns": {},
        "outages": [],
        "unobserved": [],
        "session_end": None,
        "verdict": "unobserved",
    }
    full = neutral | dict(flow)
    full["counts"] = dict.fromkeys(COUNT_NAMES, 0) | dict(full["counts"])
    full["rtt_ns"] = dict.fromkeys(("min", "p50", "p99", "max"), 0) | dict(full["rtt_ns"])
    full["session_end"] = SessionEnd("").to_document() | (full["session_end"] or {})
    return full
