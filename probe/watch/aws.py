"""Watches who owns the cluster's Elastic IPs, routes and secondary addresses, by asking EC2 again and again.

Owns the rounds of questions, their time stamps and the state they add up to. How to ask is `ec2`'s, what a
difference means is `core.ha`'s, when to ask is `poller`'s. It asks by id only (no filter exists on a route's
interface, and asking by id is cheap on the account's request budget), never retries behind our back, and takes
every failure as an observation: the watcher is then down, with a reason, and knows nothing, rather than
repeating what it knew.

Permissions needed: those of `iam.WATCH`, each only where something of its kind is configured.
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
from probe.core.ha import HaChange, HaSnapshot, Kind, Span, Units, active_unit, changes, signals, unit_of
from probe.export.view import Ownership, WatcherSnapshot
from probe.watch.access import CONNECT_TIMEOUT_S, OTHER_KEYS, READ_TIMEOUT_S, TOTAL_TIMEOUT_S, make_client, result_of
from probe.watch.asking import Asker, OverdueError
from probe.watch.ec2 import API_BUCKETS, OPERATIONS, READ, AwsWatcherConfig, CallStatistics
from probe.watch.poller import NO_ANSWER_YET, Cadence, Share

log = logging.getLogger(__name__)

# One change is rarely alone (the EIP, then each route), so the first one found puts the fast pace in force.
FAST_AFTER_CHANGE_NS = 30_000_000_000
_STOP_S = 2.0  # for a thread that waits for nothing any more
THROTTLED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"})
QUESTION_LIMIT_S = CONNECT_TIMEOUT_S + TOTAL_TIMEOUT_S  # with the resolver, headers and credentials before it
NEW_CLIENT_NS = 30_000_000_000  # to make one takes a fifth of a second of a processor that should probe
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
        self._own_client = client is None
        self._client_made_ns = 0  # monotonic
        self._asker = Asker("ask-aws")
        asked: tuple[tuple[Kind, list[str]], ...] = (
            ("eip", config.addresses),
            ("route", config.route_tables),
            ("private_ip", config.network_interfaces),
            ("instance", list(config.instances.values())),
        )
        # An empty list of ids would mean *everything* to EC2.
        self._kinds: dict[Kind, list[str]] = {kind: ids for kind, ids in asked if ids}
        self._units: Units = {
            name: [*config.units.get(name, ()), *([config.instances[name]] if name in config.instances else [])]
            for name in dict.fromkeys((*config.units, *config.instances))
        }
        self._shares = {kind: Share(*API_BUCKETS[kind], config.api_share) for kind in self._kinds}
        slow_ns, fast_ns = round(config.interval * 1e9), round(config.fast_interval * 1e9)
        self._cadence = Cadence(slow_ns, min(slow_ns, fast_ns))
        self._stale_after_ns = slow_ns + round((CONNECT_TIMEOUT_S + READ_TIMEOUT_S) * 1e9) * len(self._kinds)
        self._calls = {kind: CallStatistics(OPERATIONS[kind]) for kind in self._kinds}
        self._known: HaSnapshot | None = None  # the newest answer to each question, for comparison only
        self._changed_ns: dict[tuple[str, ...], int] = {}
        self._failures: dict[Kind, str] = {}  # what each question failed with when it was last asked
        self._reason = NO_ANSWER_YET  # "" while up
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
        """Stop polling and wait for the thread; a question that is under way holds nobody up."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._asker.close()
        if self._thread is not None:
            self._thread.join(_STOP_S)

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
            if self._stopping:  # what was given up for that says nothing about the cloud
                return self.snapshot()
            before = self._known
            answers = answers.up_to_date(before)
            found = self._learn(answers)
            self._cadence.throttled(failure.split(" ")[0] in THROTTLED)
            if found:
                self._cadence.arm(self._clock.mono_ns() + FAST_AFTER_CHANGE_NS)
            if not failure and answers.spans:
                self._last_success_ns = answers.received_ns
                self._last_success_mono_ns = self._clock.mono_ns()
            events = [change.to_timeline() for change in found]
            events += self._agreement(before, found)
            events += self._turn(failure, now)
        for event in events:
            self._tell(self._on_event, event)
        snapshot = self.snapshot()
        self._tell(self._on_state, snapshot)
        return snapshot

    def _ask_all(self) -> tuple[HaSnapshot, str]:
        """One round of calls, and why our picture is incomplete; "" when it is complete.

        A question for which our share of the API is spent is left out of the round: its last answer stays.
        """
        started_ns = self._now_ns()
        round_ = HaSnapshot(started_ns, started_ns, spans={})
        if self._client is None:
            try:
                self._client = self._asker.ask(lambda: make_client(self._config), QUESTION_LIMIT_S)
                self._client_made_ns = self._clock.mono_ns()
            except Exception as error:  # bad region, unreadable profile, ...: all of them observations
                return round_, f"{result_of(error)} (client): {error}"
        spans: dict[Kind, Span] = {}
        for kind, ids in self._kinds.items():
            if not self._shares[kind].take(self._clock.mono_ns()):
                continue
            requested_ns = self._now_ns()
            parts, result = self._ask(kind, ids)
            received_ns = self._now_ns()
            with self._wake:
                self._calls[kind].add(result, (received_ns - requested_ns) / 1e9)
            if result == "ok":
                spans[kind] = Span(requested_ns, received_ns)
                round_ = replace(round_, received_ns=received_ns, spans=dict(spans), **parts)
                self._failures.pop(kind, None)
                continue
            self._failures[kind] = f"{result} ({OPERATIONS[kind]})"
            if result in UNREACHED:
                break  # the other questions go to the same endpoint: do not wait out the timeout again
        self._look_for_keys()
        return round_, next((self._failures[kind] for kind in self._kinds if kind in self._failures), "")

    def _ask(self, kind: Kind, ids: list[str]) -> tuple[dict[str, Any], str]:
        client = self._client
        try:
            return self._asker.ask(lambda: READ[kind](client, ids), QUESTION_LIMIT_S), "ok"
        except OverdueError:
            if self._own_client:
                self._client = None  # its connection is still busy with that question
            return {}, "timeout"
        except (ClientError, BotoCoreError) as error:
            return {}, result_of(error)
        except Exception as error:  # e.g. an answer of an unexpected shape
            log.warning("AWS watcher: %s: %.300r", OPERATIONS[kind], error)  # it may quote all of the answer
            return {}, result_of(error)

    def _look_for_keys(self) -> None:
        """A client keeps the credentials it found when it was made: for others, of a later day, make a new one."""
        refused = any(failure.split(" ")[0] in OTHER_KEYS for failure in self._failures.values())
        if refused and self._own_client and self._clock.mono_ns() - self._client_made_ns >= NEW_CLIENT_NS:
            self._client = None

    def _learn(self, answers: HaSnapshot) -> list[HaChange]:
        found = [] if self._known is None else changes(self._known, answers, self._units)
        self._known = answers.on_top_of(self._known)
        for change in found:
            self._changed_ns[_change_key(change)] = change.at_ns
        return found

    def _agreement(self, before: HaSnapshot | None, found: list[HaChange]) -> list[TimelineEvent]:
        """Events of signals that begin to disagree, or agree again, somewhere within the changes that made them."""
        if before is None or self._known is None or not found:
            return []
        old, new = active_unit(before, self._units), active_unit(self._known, self._units)
        if old == new:
            return []
        first, last = min(c.last_seen_old_ns for c in found), max(c.first_seen_new_ns for c in found)
        name = "signals_agree" if new else "signals_disagree"
        detail = {"unit": new, "from_unit": old, "signals": signals(self._known, self._units)}
        return [TimelineEvent((first + last) // 2, "aws", name, (last - first + 1) // 2, detail)]

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
                active_unit=active_unit(fresh, self._units) if fresh else "",
                signals=signals(fresh, self._units) if fresh else {},
                units=tuple(self._units),
                api=tuple(calls.snapshot() for calls in self._calls.values()),
            )

    def _staleness(self) -> str:
        """Why a state that was right once is too old to show, e.g. while a call hangs in the resolver."""
        age_ns = self._clock.mono_ns() - self._last_success_mono_ns
        return f"no answer for {age_ns / 1e9:.0f} s" if age_ns > self._stale_after_ns else ""

    def _ownership(self, state: HaSnapshot) -> Iterator[Ownership]:
        units = self._units
        for allocation, eip in state.eips.items():
            labels = {"address": eip.address, "allocation_id": allocation}
            changed = self._changed_ns.get(("eip", allocation), 0)
            yield Ownership("eip", labels, eip.eni, unit_of(units, eip.eni), "", changed)
        for (table, destination), route in state.routes.items():
            labels = {"route_table": table, "destination": destination}
            changed = self._changed_ns.get(("route", table, destination), 0)
            yield Ownership("route", labels, route.target, unit_of(units, route.target), route.state, changed)
        for address, owner in state.private_ips.items():
            changed = self._changed_ns.get(("private_ip", address), 0)
            labels = {"address": address, "public_ip": owner.public_ip}
            yield Ownership("private_ip", labels, owner.eni, unit_of(units, owner.eni), "", changed)
        for instance, running in state.instances.items():
            changed = self._changed_ns.get(("instance", instance), 0)
            yield Ownership("instance", {"instance": instance}, "", unit_of(units, instance), running, changed)

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
    if change.kind == "instance_state":
        return ("instance", key["instance_id"])
    return ("private_ip", key["address"])
