"""Watches who owns the cluster's Elastic IPs, routes and secondary addresses, by asking EC2 again and again.

Owns the rounds of questions, their time stamps and the state they add up to. How to ask is `ec2`'s, what a
difference means is `core.ha`'s, when to ask is `poller`'s. It asks by id only (no filter exists on a route's
interface, and asking by id is cheap on the account's request budget), never retries behind our back, and takes
every failure as an observation: the watcher is then down, with a reason, and knows nothing, rather than
repeating what it knew.

Permissions needed: ec2:DescribeAddresses, ec2:DescribeRouteTables, and ec2:DescribeNetworkInterfaces where
network interfaces are configured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from probe.clock import Clock, SystemClock, wall_offset_ns
from probe.core.events import TimelineEvent
from probe.core.ha import HaChange, HaSnapshot, Kind, Span, active_unit, changes, unit_of
from probe.export.view import Ownership, WatcherSnapshot
from probe.watch.ec2 import (
    CONNECT_TIMEOUT_S,
    OPERATIONS,
    READ,
    READ_TIMEOUT_S,
    AwsWatcherConfig,
    CallStatistics,
    make_client,
    result_of,
)
from probe.watch.poller import Cadence

log = logging.getLogger(__name__)

# One change is rarely alone (the EIP, then each route), so the first one found puts the fast pace in force.
FAST_AFTER_CHANGE_NS = 30_000_000_000
THROTTLED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"})
UNREACHED = frozenset({"timeout", "dns", "unreachable"})


class AwsWatcher:
    """Polls EC2 from a thread of its own until stopped.

    Args:
        config: What to watch.
        on_event: Called with each change and each `watcher_down` / `watcher_up`, from the watcher's thread.
        on_state: Called with the newest snapshot after each round, from the watcher's thread.
        clock: Time source.
        offset_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC, the agent's anchor; measured here when None. Stamps are
            monotonic plus this, so a step of the wall clock cannot turn an interval around.
        client: An EC2 client instead of our own.
    """

    name = "aws"

    def __init__(
        self,
        config: AwsWatcherConfig,
        on_event: Callable[[TimelineEvent], None] | None = None,
        on_state: Callable[[WatcherSnapshot], None] | None = None,
        *,
        clock: Clock | None = None,
        offset_ns: int | None = None,
        client: Any = None,
    ):
        self._config = config
        self._on_event = on_event
        self._on_state = on_state
        self._clock = clock or SystemClock()
        self._offset_ns = wall_offset_ns(self._clock) if offset_ns is None else offset_ns
        self._client = client
        asked: tuple[tuple[Kind, list[str]], ...] = (
            ("eip", config.addresses),
            ("route", config.route_tables),
            ("private_ip", config.network_interfaces),
        )
        # An empty list of ids would mean *everything* to EC2.
        self._kinds: dict[Kind, list[str]] = {kind: ids for kind, ids in asked if ids}
        slow_ns, fast_ns = round(config.interval * 1e9), round(config.fast_interval * 1e9)
        self._cadence = Cadence(slow_ns, min(slow_ns, fast_ns))
        self._stale_after_ns = slow_ns + round((CONNECT_TIMEOUT_S + READ_TIMEOUT_S) * 1e9) * len(self._kinds)
        self._calls = {kind: CallStatistics(OPERATIONS[kind]) for kind in self._kinds}
        self._known: HaSnapshot | None = None  # the newest answer to each question, for comparison only
        self._changed_ns: dict[tuple[str, ...], int] = {}
        self._reason = "no answer yet"  # "" while up
        self._down_told = False
        self._last_success_ns = 0
        self._last_success_mono_ns = 0
        self._wake = threading.Condition()  # guards everything above that changes
        self._stopping = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start polling. Call once."""
        self._thread = threading.Thread(target=self._run, name="watch-aws", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop polling and wait for the thread: at most about as long as one call may take."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not None:
            # Name resolution has no time limit of its own; such a thread is a daemon and ends with the process.
            self._thread.join(CONNECT_TIMEOUT_S + READ_TIMEOUT_S + 1)
            if self._thread.is_alive():
                log.warning("the AWS watcher is still waiting for the resolver")

    def arm(self, until_mono_ns: int) -> None:
        """Poll at the fast pace until then (CLOCK_MONOTONIC), starting now."""
        with self._wake:
            self._cadence.arm(until_mono_ns)
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            started_ns = self._clock.mono_ns()
            try:
                self.poll()
            except Exception:  # a poller's failure is an observation, never the end of watching
                log.exception("AWS watcher: a round failed")
            with self._wake:
                while not self._stopping:
                    wait_ns = self._cadence.wait_ns(started_ns, self._clock.mono_ns())
                    if wait_ns <= 0:
                        break
                    self._wake.wait(wait_ns / 1e9)
                if self._stopping:
                    return

    # ------------------------------------------------------------------ one round

    def poll(self) -> WatcherSnapshot:
        """Ask everything once and tell what came of it. The thread does this; tests may, too."""
        answers, failure = self._ask_all()
        now = self._now_ns()
        with self._wake:
            found = self._learn(answers)
            self._cadence.throttled(failure.split(" ")[0] in THROTTLED)
            if found:
                self._cadence.arm(self._clock.mono_ns() + FAST_AFTER_CHANGE_NS)
            if not failure:
                self._last_success_ns = answers.received_ns
                self._last_success_mono_ns = self._clock.mono_ns()
            events = [change.to_timeline() for change in found]
            events += self._turn(failure, now)
        for event in events:
            self._tell(self._on_event, event)
        snapshot = self.snapshot()
        self._tell(self._on_state, snapshot)
        return snapshot

    def _ask_all(self) -> tuple[HaSnapshot, str]:
        """One round of calls, and why it is incomplete; "" when it is complete."""
        started_ns, failure = self._now_ns(), ""
        round_ = HaSnapshot(started_ns, started_ns, spans={})
        if self._client is None:
            try:
                self._client = make_client(self._config)
            except Exception as error:  # bad region, unreadable profile, ...: all of them observations
                return round_, f"{result_of(error)} (client): {error}"
        spans: dict[Kind, Span] = {}
        for kind, ids in self._kinds.items():
            requested_ns = self._now_ns()
            parts, result = self._ask(kind, ids)
            received_ns = self._now_ns()
            with self._wake:
                self._calls[kind].add(result, (received_ns - requested_ns) / 1e9)
            if result == "ok":
                spans[kind] = Span(requested_ns, received_ns)
                round_ = replace(round_, received_ns=received_ns, spans=dict(spans), **parts)
                continue
            failure = failure or f"{result} ({OPERATIONS[kind]})"
            if result in UNREACHED:
                break  # the other questions go to the same endpoint: do not wait out the timeout again
        return round_, failure

    def _ask(self, kind: Kind, ids: list[str]) -> tuple[dict[str, Any], str]:
        try:
            return READ[kind](self._client, ids), "ok"
        except (ClientError, BotoCoreError) as error:
            return {}, result_of(error)
        except Exception as error:  # e.g. an answer of an unexpected shape
            log.warning("AWS watcher: %s: %r", OPERATIONS[kind], error)
            return {}, result_of(error)

    def _learn(self, answers: HaSnapshot) -> list[HaChange]:
        found = [] if self._known is None else changes(self._known, answers, self._config.units)
        self._known = answers.on_top_of(self._known)
        for change in found:
            self._changed_ns[_change_key(change)] = change.at_ns
        return found

    def _turn(self, failure: str, now_ns: int) -> list[TimelineEvent]:
        """Events of going down or coming back."""
        self._reason = failure
        if bool(failure) == self._down_told:
            return []
        self._down_told = bool(failure)
        detail = {"watcher": self.name, "reason": failure, "last_success_ns": self._last_success_ns}
        return [TimelineEvent(now_ns, "aws", "watcher_down" if failure else "watcher_up", 0, detail)]

    # ------------------------------------------------------------------ state

    def snapshot(self) -> WatcherSnapshot:
        """The state now. Quick, safe from any thread; ownership is empty whenever it is not fresh."""
        with self._wake:
            reason = self._reason or self._staleness()
            fresh = self._known if not reason else None
            return WatcherSnapshot(
                name=self.name,
                up=not reason,
                last_success_ns=self._last_success_ns,
                reason=reason,
                ownership=tuple(self._ownership(fresh)) if fresh else (),
                active_unit=active_unit(fresh, self._config.units) if fresh else "",
                units=tuple(self._config.units),
                api=tuple(calls.snapshot() for calls in self._calls.values()),
            )

    def _staleness(self) -> str:
        """Why a state that was right once is too old to show, e.g. while a call hangs in the resolver."""
        age_ns = self._clock.mono_ns() - self._last_success_mono_ns
        return f"no answer for {age_ns / 1e9:.0f} s" if age_ns > self._stale_after_ns else ""

    def _ownership(self, state: HaSnapshot) -> Iterator[Ownership]:
        units = self._config.units
        for allocation, eip in state.eips.items():
            labels = {"address": eip.address, "allocation_id": allocation}
            changed = self._changed_ns.get(("eip", allocation), 0)
            yield Ownership("eip", labels, eip.eni, unit_of(units, eip.eni), "", changed)
        for (table, destination), route in state.routes.items():
            labels = {"route_table": table, "destination": destination}
            changed = self._changed_ns.get(("route", table, destination), 0)
            yield Ownership("route", labels, route.target, unit_of(units, route.target), route.state, changed)
        for address, eni in state.private_ips.items():
            changed = self._changed_ns.get(("private_ip", address), 0)
            yield Ownership("private_ip", {"address": address}, eni, unit_of(units, eni), "", changed)

    def _now_ns(self) -> int:
        return self._clock.mono_ns() + self._offset_ns

    def _tell(self, callback: Callable[[Any], None] | None, what: Any) -> None:
        if callback is None:
            return
        try:
            callback(what)
        except Exception:
            log.exception("AWS watcher: a listener failed")


def _change_key(change: HaChange) -> tuple[str, ...]:
    key = change.key
    if change.kind in ("eip", "eip_association"):
        return ("eip", key["allocation_id"])
    if change.kind in ("route", "route_state"):
        return ("route", key["route_table"], key["destination"])
    return ("private_ip", key["address"])
