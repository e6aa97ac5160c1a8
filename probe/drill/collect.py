"""From the agents' result documents to the one document of a run."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import probe
from probe.core.events import TimelineEvent
from probe.drill.client import AgentPool
from probe.drill.plan import DrillPlan
from probe.drill.status import DEFAULT_LOSS_THRESHOLD_NS, Poll
from probe.errors import PeerError

MARGIN_S = 0.3
"""Beyond the loss threshold, for the agent to have counted and published what it waited for."""
RETRY_S = 0.25
PATIENCE_S = 10.0
"""For probes still pending, or agents not reachable, after the loss threshold has passed."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a run covers; Unix epoch nanoseconds."""

    start_ns: int  # of the steady state
    end_ns: int
    trigger_kind: str
    trigger_ns: int  # 0: never fired


def settle_s(poll: Poll) -> float:
    """Seconds after the end of a span until no probe of it can be pending: the longest loss threshold and a margin."""
    thresholds = [flow.loss_threshold_ns for flow in poll.flows]
    return max(thresholds, default=DEFAULT_LOSS_THRESHOLD_NS) / 1e9 + MARGIN_S


def fetch(
    pool: AgentPool, start_ns: int, end_ns: int, patience_s: float = PATIENCE_S
) -> tuple[dict[str, dict[str, Any]], dict[str, PeerError]]:
    """Every agent's document of a span, asked for again while probes are pending or an agent does not answer.

    Returns:
        Documents by agent, and why there is none of the other agents.
    """
    deadline = time.monotonic() + patience_s
    best: dict[str, dict[str, Any]] = {}
    while True:
        documents, missing = pool.reports(start_ns, end_ns)
        best |= documents
        missing = {name: error for name, error in missing.items() if name not in best}
        unfinished = missing or any(pending(document) for document in documents.values())
        if not unfinished or time.monotonic() >= deadline:
            return best, missing
        time.sleep(RETRY_S)


def pending(document: Mapping[str, Any]) -> int:
    """Probes whose fate is still open."""
    return sum(int(flow.get("counts", {}).get("pending", 0)) for flow in document["flows"])


def assemble(
    documents: Mapping[str, dict[str, Any]],
    plan: DrillPlan,
    span: Span,
    events: Sequence[TimelineEvent],
    merge: Callable[..., dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """One run's document.

    Args:
        documents: By the name the drill gave the agent; the documents and their flows are labelled with it.
        plan: What was to be done.
        span: What was done.
        events: What happened around the agents; those outside of the span are left out.
        merge: `probe.report.merge.merge`.
    """
    if merge is None:
        from probe.report.merge import merge as merge_documents

        merge = merge_documents
    from probe.store.runs import new_run_id

    for name, document in documents.items():
        document["run"] = {**_run(document), "agent": name}
        for flow in document["flows"]:
            flow["agent"] = name
    run = {
        "id": new_run_id(span.start_ns),
        "started_ns": span.start_ns,
        "ended_ns": span.end_ns,
        "host": socket.gethostname(),
        "version": probe.__version__,
        "labels": {**_labels(documents.values()), **plan.labels},
        "config": {**plan.config(), "agents": {name: d["run"].get("config", {}) for name, d in documents.items()}},
        "trigger": {"kind": span.trigger_kind, "at_ns": span.trigger_ns},
    }
    inside = [event for event in events if span.start_ns <= event.at_ns <= span.end_ns]
    return merge(list(documents.values()), run=run, extra_events=inside)


def shows_failover(document: Mapping[str, Any], since_ns: int) -> bool:
    """Whether a run's document holds any sign of a failover after an instant: outage, stall, move or role change.

    Not an outage of which the diagnosis knows, from watchers that saw nothing move, that no failover was its cause.
    """
    if any(finding["code"] == "no_failover_seen" for finding in document.get("diagnosis", ())):
        return False
    dark = (span for flow in document["flows"] for span in (*flow["outages"], *_stalls(flow)))
    signs = ("eip_moved", "route_moved", "private_ip_moved", "role_change")
    return any(span["end_ns"] >= since_ns for span in dark) or any(
        entry["event"] in signs and entry["at_ns"] + entry.get("uncertainty_ns", 0) >= since_ns
        for entry in document["timeline"]
    )


def _stalls(flow: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Where a stream has no outages."""
    return (flow.get("stream") or {}).get("stalls") or ()


def _labels(documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What the agents found out for themselves, such as the firmware; different values stand side by side."""
    found: dict[str, list[str]] = {}
    for document in documents:
        for key, value in (_run(document).get("labels") or {}).items():
            found.setdefault(key, []).append(str(value))
    return {key: ", ".join(dict.fromkeys(values)) for key, values in found.items()}


def _run(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document.get("run") or {}
