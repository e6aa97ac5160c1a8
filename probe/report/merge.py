"""Several agents' result documents of one span, joined into the document of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from probe.core.events import TimelineEvent
from probe.core.sight import TURNS
from probe.report.document import new_document


def merge(
    documents: Sequence[Mapping[str, Any]],
    *,
    run: Mapping[str, Any],
    extra_events: Iterable[TimelineEvent | Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Join documents into one.

    Args:
        documents: One per agent, of the same span. A flow without an `agent` gets its document's `run.agent`, else
            its host. Outages and episodes stay as measured; verdicts, matrix, phases and diagnosis are made anew.
        run: The run's own fields (id, labels, trigger, ...). What it leaves out is taken from the documents: span
            from the earliest start to the latest end, config by agent, and the worst clock among them.
        extra_events: Events that no agent knows, such as the trigger and the lab's.

    Returns:
        A complete result document. `run.agents` says which agents took part, with their host, version and clock.
    """
    flows: list[dict[str, Any]] = []
    events: list[TimelineEvent | Mapping[str, Any]] = list(extra_events)
    agents: dict[str, dict[str, Any]] = {}
    configs: dict[str, Any] = {}
    for document in documents:
        own = document["run"]
        name = _agent_name(document)
        flows += [{**f, "agent": f.get("agent") or name} for f in document["flows"]]
        events += [_of_agent(event, name) for event in document.get("timeline", ())]
        agents[name] = {key: own.get(key) for key in ("host", "version", "started_ns", "ended_ns", "clock")}
        configs[name] = own.get("config", {})
    full = {
        "started_ns": min((d["run"]["started_ns"] for d in documents), default=0),
        "ended_ns": max((d["run"]["ended_ns"] for d in documents), default=0),
        "config": configs,
        "clock": worst_clock([d["run"].get("clock") or {} for d in documents]),
        **{key: value for key, value in run.items() if value is not None},
        "agents": agents,
    }
    if not full["config"]:
        full["config"] = configs
    return new_document(run=full, flows=flows, timeline=events)


def worst_clock(clocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The clock statement of a merged run: no better than the worst agent's; unknown where any is unknown."""
    errors = [c.get("max_error_ns") for c in clocks]
    known = [e for e in errors if e is not None]
    return {
        "synchronised": bool(clocks) and all(c.get("synchronised", False) for c in clocks),
        "max_error_ns": max(known) if known and len(known) == len(errors) else None,
        "source": ", ".join(dict.fromkeys(str(c["source"]) for c in clocks if c.get("source"))),
    }


def _of_agent(event: Mapping[str, Any], agent: str) -> Mapping[str, Any]:
    """What several agents see is told once; whether one's watcher sees is its own affair, and told with its name."""
    if event["event"] not in TURNS:
        return event
    return {**event, "detail": {"agent": agent, **(event.get("detail") or {})}}


def _agent_name(document: Mapping[str, Any]) -> str:
    own = document["run"]
    named = next((f["agent"] for f in document["flows"] if f.get("agent")), "")
    return str(own.get("agent") or named or own.get("host") or "agent")
