"""What earlier processes of this agent found, from their journal: a killed agent still reports its outages."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.core.events import Outage, TimelineEvent, outage_of
from probe.core.sight import untold_ups
from probe.store.journal import Record, replay

log = logging.getLogger(__name__)
MOST_OUTAGES = 10_000
MOST_EVIDENCE = 500  # outages whose raw records are kept; those of the others stay in the journal


@dataclass(slots=True)
class Past:
    """Outages (contract form, with the flow's labels) and HA events, oldest first."""

    outages: list[dict[str, Any]] = field(default_factory=list)
    events: list[TimelineEvent] = field(default_factory=list)

    @classmethod
    def replay(cls, directory: Path, now_ns: int | None = None) -> Past:
        """Read every journal file of a directory; none there is no past.

        A process that ended while its watcher was blind could not tell of the end of that, and the watcher of the next
        one tells only what befalls itself. So what was blind is told to see again when the next process begins.

        Args:
            directory: The journal's.
            now_ns: When the present process began, Unix epoch; None: just now.
        """
        past = cls()
        if not directory.is_dir():
            return past
        newest: dict[tuple[int, str, int], dict[str, Any]] = {}
        process = strange = begun = 0
        records = replay(directory)
        for record in records:
            if record.kind == "start":
                process += 1
                begun = past._end_watching(begun, record.at_ns)
            try:
                past._take(record, process, newest)
            except (KeyError, TypeError, ValueError):  # another version's, or edited by hand: the others still count
                strange += 1
        past._end_watching(begun, time.time_ns() if now_ns is None else now_ns)
        past.outages = sorted(newest.values(), key=lambda o: int(o["start_ns"]))[-MOST_OUTAGES:]
        for outage in past.outages[:-MOST_EVIDENCE]:
            outage["evidence"] = []
        past.events = past.events[-MOST_OUTAGES:]
        if strange:
            log.warning("journal %s: %d records not understood", directory, strange)
        if records.damage:
            log.warning("journal %s: %d damaged lines skipped", directory, len(records.damage))
        return past

    def outages_by_flow(self) -> dict[str, list[Outage]]:
        """The outages as records, by flow, all with id 0: they are no outages of this process."""
        found: dict[str, list[Outage]] = {}
        for one in self.outages:
            try:
                found.setdefault(one["flow"], []).append(outage_of(one))
            except (KeyError, TypeError):  # another version's
                continue
        return found

    def _end_watching(self, begun: int, at_ns: int) -> int:
        """Watchers of the process whose events begin there are blind no more; where the next one's begin."""
        self.events += untold_ups(self.events[begun:], at_ns, "the agent was started anew")
        return len(self.events)

    def _take(self, record: Record, process: int, newest: dict[tuple[int, str, int], dict[str, Any]]) -> None:
        if record.kind == "outage":
            # An outage is written anew whenever it is corrected or has grown: the newest record counts.
            key = (process, str(record.data["flow"]), int(record.data["id"]))
            if record.data.get("withdrawn"):
                newest.pop(key, None)
            else:
                int(record.data["start_ns"])  # what they are sorted by
                newest[key] = {k: v for k, v in record.data.items() if k != "withdrawn"}
        elif record.kind == "ha_change":
            self.events.append(TimelineEvent(**{**record.data, "detail": dict(record.data["detail"])}))
