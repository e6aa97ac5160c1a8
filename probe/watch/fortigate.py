"""Watches the HA roles of a FortiGate pair, by asking each unit for itself again and again.

Owns the threads, the time stamps and what the answers add up to. How to ask is `fortigate_rest`'s and
`fortigate_ssh`'s, what an answer says `fortigate_answers`' and `fortigate_cli`'s. Each unit has a thread, so that one
that hangs does not hold up the other, which is the one worth watching then. A unit that cannot be asked has the role
"unknown", never its last one, and the watcher is down with the reason; two primaries, or none, are shown as they are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probe.clock import Clock, SystemClock, wall_offset_ns
from probe.core.events import TimelineEvent
from probe.core.ha import RoleChange, sole_primary
from probe.export.view import CaptureSnapshot, WatcherSnapshot
from probe.watch.fortigate_capture import AwsdCapture, Record
from probe.watch.fortigate_cli import HaStatus
from probe.watch.fortigate_rest import TOTAL_TIMEOUT_S, RestClient, UnitAnswer
from probe.watch.fortigate_unit import UnitPoll, UnitPoller, ssh_target, status_by_ssh
from probe.watch.poller import NO_ANSWER_YET, Cadence

log = logging.getLogger(__name__)

FAST_AFTER_CHANGE_NS = 30_000_000_000
SPLIT_NS = 1_000_000_000  # two primaries for less are a role change on its way
_CALLS = 4  # at most, of one poll
_STOP_S = 2.0  # for a thread that waits for nothing any more
_CAPTURES_KEPT = 16


@dataclass
class _Known:
    """What is known of one unit. `answer` is the newest, `role` the newest that was known."""

    answer: UnitAnswer | None = None
    reason: str = NO_ANSWER_YET  # why there is no present answer; "" while there is one
    note: str = ""  # what is wrong besides, such as SSH
    role: str = ""
    role_requested_ns: int = 0
    primary_ns: int = 0  # first heard to be primary, this time
    success_ns: int = 0
    success_mono_ns: int = 0


class FortigateWatcher:
    """Polls both units until stopped.

    Args:
        config: `watchers.fortigate` of the config file.
        on_event: Called with each role change, each entry of a unit's HA history, what a capture of awsd told, two
            units being primary at once, and `watcher_down` / `watcher_up`, from the watcher's threads.
        clock: Time source.
        offset_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC, the agent's anchor; measured here when None.

    Raises:
        ConfigError: If a secret or a CA cannot be read.
    """

    name = "fortigate"

    def __init__(
        self,
        config: Any,
        on_event: Callable[[TimelineEvent], None] | None = None,
        *,
        clock: Clock | None = None,
        offset_ns: int | None = None,
    ):
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._offset_ns = wall_offset_ns(self._clock) if offset_ns is None else offset_ns
        slow_ns, fast_ns = round(config.interval * 1e9), round(config.fast_interval * 1e9)
        self._cadence = Cadence(slow_ns, min(slow_ns, fast_ns))
        self._stale_after_ns = slow_ns + round(TOTAL_TIMEOUT_S * 1e9) * _CALLS
        self._pollers = {
            name: UnitPoller(name, RestClient(name, unit), slow_ns, self._clock, self._offset_ns)
            for name, unit in config.units.items()
        }
        self._targets = {n: ssh_target(n, unit) for n, unit in config.units.items() if unit.ssh is not None}
        self._known = {name: _Known() for name in config.units}
        self._told_down: dict[str, str] = {}
        self._split_told = False
        self._captures: list[AwsdCapture] = []
        self._wake = threading.Condition()  # guards everything above that changes
        self._stopping = False
        self._threads: list[threading.Thread] = []

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start polling. Call once."""
        for name in self._targets:
            self._by_ssh(self._try_ssh, name)
        for name in self._pollers:
            thread = threading.Thread(target=self._run, args=(name,), name=f"watch-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop polling and capturing, and wait for the threads; a question that is under way holds nobody up."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for poller in self._pollers.values():
            poller.give_up()
        self.end_captures()
        for thread in self._threads:
            thread.join(_STOP_S)
        for poller in self._pollers.values():
            poller.close()

    def arm(self, until_mono_ns: int) -> None:
        """Poll at the fast pace until then (CLOCK_MONOTONIC), starting now."""
        with self._wake:
            self._cadence.arm(until_mono_ns)
            self._wake.notify_all()

    def _run(self, name: str) -> None:
        while True:
            started_ns = self._clock.mono_ns()
            try:
                self.poll(name)
            except Exception:  # a poller's failure is an observation, never the end of watching
                log.exception("FortiGate watcher: a poll of %s failed", name)
            with self._wake:
                while not self._stopping:
                    wait_ns = self._cadence.wait_ns(started_ns, self._clock.mono_ns())
                    if wait_ns <= 0:
                        break
                    self._wake.wait(wait_ns / 1e9)
                if self._stopping:
                    return

    # ------------------------------------------------------------------ one poll

    def poll(self, name: str) -> None:
        """Ask one unit once, and tell what came of it. Its thread does this; tests may, too."""
        found = self._pollers[name].poll()
        with self._wake:
            if self._stopping:
                return
            change = self._learn(name, found)
            if change is not None:
                self._cadence.arm(self._clock.mono_ns() + FAST_AFTER_CHANGE_NS)
                self._wake.notify_all()
            events = [*found.history, *([change.to_timeline()] if change else []), *self._turn(), *self._split()]
        for event in events:
            self._tell(event)
        if change is not None and change.new == "primary" and name in self._targets:
            self._by_ssh(self._ask_why, name, change)

    def _learn(self, name: str, found: UnitPoll) -> RoleChange | None:
        known = self._known[name]
        known.reason = found.failure
        if found.answer is None:
            return None
        known.answer = found.answer
        known.success_ns, known.success_mono_ns = found.received_ns, self._clock.mono_ns()
        role, old = found.answer.role, known.role
        if role == "unknown":
            return None
        change = None
        if old and role != old:
            change = RoleChange(name, old, role, known.role_requested_ns, found.received_ns)
        if role == "primary" and old != "primary":
            known.primary_ns = found.received_ns
        known.role, known.role_requested_ns = role, found.requested_ns
        return change

    def _turn(self) -> list[TimelineEvent]:
        """Events of going down, of another unit going down, and of being back."""
        down = {name: known.reason for name, known in self._known.items() if known.reason}
        if down.keys() == self._told_down.keys() or NO_ANSWER_YET in down.values():
            return []
        self._told_down = down
        detail = {
            "watcher": self.name,
            "reason": _because(down),
            "unanswering": sorted(down),
            "answering": sorted(self._known.keys() - down.keys()),
            "last_success_ns": self._last_success_ns(),
            "last_answer_ns": max((known.success_ns for known in self._known.values()), default=0),
        }
        now_ns = self._clock.mono_ns() + self._offset_ns
        return [TimelineEvent(now_ns, "fortigate", "watcher_down" if down else "watcher_up", 0, detail)]

    def _split(self) -> list[TimelineEvent]:
        """Events of two units being primary at once, and of that being over.

        A unit that was asked before the other took over proves nothing: each must have said so again, a while later.
        """
        roles = self._roles()
        primaries = sorted(name for name, role in roles.items() if role == "primary")
        both_ns = max((self._known[name].primary_ns for name in primaries), default=0)
        asked_ns = min((self._known[name].role_requested_ns for name in primaries), default=0)
        if len(primaries) > 1:
            if self._split_told or asked_ns - both_ns < SPLIT_NS:
                return []
            self._split_told = True
            detail: dict[str, Any] = {"units": primaries}
            # They have been so since the later one was first heard to be, up to now.
            middle_ns, half_ns = (both_ns + asked_ns) // 2, (asked_ns - both_ns + 1) // 2
            return [TimelineEvent(middle_ns, "fortigate", "two_primaries", half_ns, detail)]
        if not self._split_told or not sole_primary(roles):
            return []
        self._split_told = False
        now_ns = self._clock.mono_ns() + self._offset_ns
        return [TimelineEvent(now_ns, "fortigate", "one_primary", 0, {"unit": sole_primary(roles)})]

    # ------------------------------------------------------------------ the command line

    def _by_ssh(self, do: Callable[..., None], *arguments: Any) -> None:
        """On a thread that holds up nobody's end; one for each start and each change of a role."""
        threading.Thread(target=do, args=arguments, name=f"ssh-{arguments[0]}", daemon=True).start()

    def _try_ssh(self, name: str) -> None:
        """Log in once at the start: a host key that is unknown should show before a drill needs the session."""
        self._status(name)

    def _ask_why(self, name: str, change: RoleChange) -> None:
        """What the new primary gives as the reason of its role; told at the time of the change."""
        status = self._status(name)
        answer = self._known[name].answer
        if status is None or answer is None:
            return
        chosen = next((one for one in status.selections if one.serial == answer.serial), None)
        if chosen is not None:
            event = change.to_timeline()
            detail = {"unit": name, "serial": chosen.serial, "reason": chosen.reason, "unit_time": chosen.when}
            self._tell(TimelineEvent(event.at_ns, "fortigate", "primary_selected", event.uncertainty_ns, detail))

    def _status(self, name: str) -> HaStatus | None:
        status, why = status_by_ssh(self._targets[name])
        with self._wake:
            told, self._known[name].note = self._known[name].note, why
        if why and why != told:
            log.warning("FortiGate watcher: %s: ssh: %s", name, why)
        return status

    def capture(self, until_mono_ns: int) -> None:
        """Capture awsd's debug output of the passive unit until then (CLOCK_MONOTONIC); returns at once.

        What is being captured goes on; a unit that is passive by now, and may act next, comes to it. When it is not
        known which one is passive and nothing is being captured yet: of every unit with SSH.
        """
        with self._wake:
            running = [one for one in self._captures if one.alive]
            for one in running:
                one.extend(until_mono_ns)
            wanted = {name for name, role in self._roles().items() if role == "secondary"}
            if not wanted and not running:
                wanted = set(self._known)
            wanted -= {one.unit for one in running}
            fresh = [
                AwsdCapture(self._targets[name], until_mono_ns, self._clock, self._offset_ns, self._captured)
                for name in self._targets
                if name in wanted
            ]
            self._captures = [*self._captures, *fresh][-_CAPTURES_KEPT:]
        for capture in fresh:
            capture.start()

    def end_captures(self) -> None:
        """End every capture; their events have been told on return, unless a unit hangs."""
        with self._wake:
            running = [one for one in self._captures if one.alive]
        for one in running:
            one.stop()

    def captures(self) -> list[Record]:
        """What has been captured, oldest first."""
        with self._wake:
            return [record for one in self._captures for record in one.records()]

    def _captured(self, record: Record) -> None:
        for event in record.events():
            self._tell(event)

    # ------------------------------------------------------------------ state

    def snapshot(self) -> WatcherSnapshot:
        """The state now. Quick, safe from any thread; a unit that is not fresh is "unknown" and has no info."""
        with self._wake:
            roles = self._roles()
            down = {name: why for name in self._known if (why := self._why_unknown(name))}
            info = [
                {"unit": name, "version": one.answer.version, "build": one.answer.build, "serial": one.answer.serial}
                for name, one in self._known.items()
                if one.answer is not None and name not in down
            ]
            notes = [f"{n}: ssh: {one.note}" for n, one in self._known.items() if one.note]
            notes += [f"{n}: {one.answer.note}" for n, one in self._known.items() if one.answer and one.answer.note]
            last_success_ns = self._last_success_ns()
        return WatcherSnapshot(
            name=self.name,
            up=not down,
            last_success_ns=last_success_ns,
            reason=_because(down),
            active_unit=sole_primary(roles),
            units=tuple(roles),
            roles=roles,
            info=info,
            notes=notes,
            captures=[CaptureSnapshot(r.unit, r.state, r.reason, r.started_ns, len(r.lines)) for r in self.captures()],
        )

    def labels(self) -> dict[str, str]:
        """Labels of a run: the units' firmware, as last seen, since it outlives a unit that is gone."""
        with self._wake:
            seen = [one.answer for one in self._known.values() if one.answer is not None]
        versions, builds = sorted({one.version for one in seen}), sorted({one.build for one in seen} - {""})
        found = {"fortios": ", ".join(versions), "fortios_build": ", ".join(builds)}
        return {key: value for key, value in found.items() if value}

    def _roles(self) -> dict[str, str]:
        return {
            name: "unknown" if self._why_unknown(name) or one.answer is None else one.answer.role
            for name, one in self._known.items()
        }

    def _why_unknown(self, name: str) -> str:
        """Why the last answer of a unit is not its present state; "" while it is."""
        known = self._known[name]
        age_ns = self._clock.mono_ns() - known.success_mono_ns
        if not known.reason and age_ns > self._stale_after_ns:
            return f"no answer for {age_ns / 1e9:.0f} s"
        return known.reason

    def _last_success_ns(self) -> int:
        """When the picture was last complete: of the unit that has been silent for longest."""
        return min((known.success_ns for known in self._known.values()), default=0)

    def _tell(self, event: TimelineEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("FortiGate watcher: a listener failed")


def _because(down: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in sorted(down.items()))
