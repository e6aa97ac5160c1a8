"""A stored run's document, completed by what a slow source told afterwards. Doing it again changes nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probe.core.events import TimelineEvent
from probe.report.document import new_document


def backfilled(document: Mapping[str, Any], events: Sequence[TimelineEvent], source: str) -> dict[str, Any]:
    """The document with these events in its timeline, and everything that is concluded from it made anew.

    Args:
        document: A complete result document; left as it is.
        events: Each has `via` (the source) and `event_id` in its detail.
        source: Where they came from; `run.backfill` says how many events of it the timeline holds.
    """
    given = {str(event.detail["event_id"]) for event in events}
    kept = [
        event
        for event in document["timeline"]
        if event["detail"].get("via") != source or event["detail"].get("event_id") not in given
    ]
    held = len(events) + sum(event["detail"].get("via") == source for event in kept)
    run = {**document["run"], "backfill": {**document["run"].get("backfill", {}), source: held}}
    made = new_document(
        run=run, flows=document["flows"], timeline=[*kept, *events], budgets=document.get("budgets", ())
    )
    return {**document, **made}
