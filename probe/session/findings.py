"""Telling what the ledger has found: outages with their evidence, and settled counts that have changed since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from probe.border import SharedState
from probe.core.account import Correction
from probe.core.events import Outage
from probe.core.fate import COLUMN, DIRECTION_FATE, FATE_COLUMN
from probe.core.ledger import Ledger
from probe.session.streams import Streams
from probe.session.witness import Witness

MOST_CORRECTIONS = 2000  # in one message
OPEN_OUTAGE_NS = 1_000_000_000  # tell how an open outage has grown
OPEN_AT_ONCE = 32  # of so many flows in a tick
LOST_COLUMN = {direction: COLUMN[FATE_COLUMN[fate]] for direction, fate in DIRECTION_FATE.items()}
_INSTANTS = ("start_ns", "end_ns", "last_ok_ns", "first_lost_ns", "last_lost_ns", "first_ok_ns")


class Findings:
    """What one sender tells of its flows' outages.

    Args:
        ledger: Finds them.
        witness: Adds the raw records around their edges.
        streams: Tells of counts that have changed, as the ledger does.
        shared: Which readings of the counts have been published.
        tell: Called with each event; times in it are Unix nanoseconds.
        anchor: Unix time minus monotonic time.
        relieve: Called between outages: there may be many.
    """

    def __init__(
        self,
        ledger: Ledger,
        witness: Witness,
        streams: Streams,
        shared: SharedState,
        tell: Callable[[dict[str, Any]], None],
        anchor: int,
        relieve: Callable[[], None],
    ):
        self._ledger, self._witness, self._streams, self._shared = ledger, witness, streams, shared
        self._tell, self._anchor, self._relieve = tell, anchor, relieve
        self._next_open = 0
        self._open_left = 0  # flows in an outage that are still to be told of in this round

    def tick(self, now: int, *, everything: bool = False) -> None:
        """Tell what is new of outages, and how open ones have grown: each once a second, or as soon as it can be."""
        again = everything or (now >= self._next_open and self._open_left <= 0)
        if again:
            self._next_open, self._open_left = now + OPEN_OUTAGE_NS, self._ledger.count_open()
        most = self._open_left if everything else min(self._open_left, OPEN_AT_ONCE)
        found = self._ledger.drain_outages(open_too=most > 0, most=most)
        self._open_left -= most
        for index, outage, evidence in self._witness.attest(found, now, again=again):
            # All that is lost in its direction from its start on is lost in it, as long as it is open: with this a
            # reader can tell how much of an open outage lies within a span.
            lost = int(self._ledger.live[index, LOST_COLUMN[outage.direction]])
            before = lost - outage.lost if outage.censored == "end" else -1
            event = {"event": "outage", "flow": index, "lost_before": before, **self._at_wall_time(outage)}
            self._tell({**event, **evidence})
            self._relieve()
        corrections = self._streams.settle(now, open_too=again)
        self._tell_corrections(self._ledger.drain_corrections() + corrections)

    def _tell_corrections(self, corrections: list[Correction]) -> None:
        """One message a flow and kind: the end of a long outage corrects all of it at once."""
        generation = int(self._shared.header["generation"][0])  # readings up to this one lack the correction
        together: dict[tuple[int, str, str], list[Correction]] = {}
        for c in corrections:
            together.setdefault((c.flow, c.fro, c.to), []).append(c)
        for (flow, fro, to), same in together.items():
            for part in (same[i : i + MOST_CORRECTIONS] for i in range(0, len(same), MOST_CORRECTIONS)):
                event = {"event": "correction", "flow": flow, "from": fro, "to": to, "generation": generation}
                self._tell({**event, "at_ns": [c.at + self._anchor for c in part], "count": [c.count for c in part]})

    def _at_wall_time(self, outage: Outage) -> dict[str, Any]:
        """An outage with its instants moved to Unix time; durations are untouched."""
        record = {name: getattr(outage, name) for name in outage.__slots__ if name not in ("flow", "evidence")}
        for name in _INSTANTS:
            if record[name]:
                record[name] += self._anchor
        return record
