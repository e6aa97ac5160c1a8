"""One unit's questions: its role and, at a slow pace, its HA history; the bounds of each poll; its SSH login."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from probe.clock import Clock
from probe.core.events import TimelineEvent
from probe.watch import fortigate_cli as cli
from probe.watch.fortigate_answers import HistoryEntry
from probe.watch.fortigate_rest import AskError, RestClient, UnitAnswer
from probe.watch.fortigate_ssh import SshError, SshTarget, ask

log = logging.getLogger(__name__)

_HALF_SECOND_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class UnitPoll:
    """What came of one poll. Times are Unix epoch ns; `failure` says why there is no answer."""

    requested_ns: int
    received_ns: int
    answer: UnitAnswer | None
    failure: str = ""
    history: list[TimelineEvent] = field(default_factory=list)


class UnitPoller:
    """Asks one unit by REST. For one thread.

    Args:
        name: Our name of the unit.
        client: Its REST API.
        history_every_ns: Its history is asked for no more often than this, and after each change of its role.
        clock: Time source.
        offset_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC.
    """

    def __init__(self, name: str, client: RestClient, history_every_ns: int, clock: Clock, offset_ns: int):
        self._name = name
        self._client = client
        self._every_ns = history_every_ns
        self._clock = clock
        self._offset_ns = offset_ns
        self._role = ""
        self._history_due_ns = 0
        self._seen: set[HistoryEntry] | None = None  # None: the entries there at the first look are no news

    def poll(self) -> UnitPoll:
        """Ask once."""
        requested_ns = self._now_ns()
        try:
            answer = self._client.ask()
            received_ns = self._now_ns()
        except AskError as error:
            return UnitPoll(requested_ns, self._now_ns(), None, str(error))
        except Exception as error:  # an answer that nobody thought of: an observation like any other
            log.warning("FortiGate watcher: %s: %.300r", self._name, error)
            return UnitPoll(requested_ns, self._now_ns(), None, f"garbage ({type(error).__name__})")
        changed = self._role not in ("", answer.role)
        self._role = answer.role
        news: list[HistoryEntry] = []
        if changed or self._clock.mono_ns() >= self._history_due_ns:
            news = self._news()
        return UnitPoll(requested_ns, received_ns, answer, "", [self._event(entry) for entry in news])

    def give_up(self) -> None:
        """Wait for no answer any more; from any thread."""
        self._client.give_up()

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def _news(self) -> list[HistoryEntry]:
        """Entries of the HA history that were not there before; none when it cannot be had."""
        self._history_due_ns = self._clock.mono_ns() + self._every_ns
        try:
            entries = self._client.history()
        except AskError:
            return []  # older versions have none, and a unit that is gone shows in its role
        seen, self._seen = self._seen, set(entries)
        return [] if seen is None else [entry for entry in entries if entry not in seen]

    def _event(self, entry: HistoryEntry) -> TimelineEvent:
        """The unit's clock, to the second: whatever offset that clock has is in it."""
        at_ns = entry.time_s * 1_000_000_000 + _HALF_SECOND_NS
        detail = {"unit": self._name, "text": entry.text, "clock": "unit"}
        return TimelineEvent(at_ns, "fortigate", "ha_history", _HALF_SECOND_NS, detail)

    def _now_ns(self) -> int:
        return self._clock.mono_ns() + self._offset_ns


def ssh_target(name: str, unit: Any) -> SshTarget:
    """How to log in to a unit, its secret read.

    Raises:
        ConfigError: If that cannot be read.
    """
    return SshTarget.configured(f"watchers.fortigate.units.{name}.ssh", name, unit.host, unit.ssh)


def status_by_ssh(target: SshTarget) -> tuple[cli.HaStatus | None, str]:
    """`get system ha status` of a unit; None and why, when it cannot be had. Takes as long as a login takes."""
    try:
        output = asyncio.run(ask(target, cli.HA_STATUS))
    except SshError as error:
        return None, str(error)
    status = cli.ha_status(output)
    return status, "" if status is not None else f"`{cli.HA_STATUS}` printed something else"
