"""Steady state: every flow up and clean for a while, before anything is touched.

Time comes in with each poll; nothing here waits. A blemish restarts the count, so that a stutter while the
flows start is forgiven, and a flow that is never clean is named when the drill's patience ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from probe.drill.offsets import ClockOffset
from probe.drill.status import AgentStatus, FlowKey, FlowStatus, Poll, twins

UNCLEAN: Mapping[str, str] = {
    "lost": "lost",
    "late": "late",
    "unsent": "not sent by our own host",
    "dropped_locally": "dropped by our own host",
    "reset": "session resets",
    "icmp_error": "ICMP errors",
}
"""Counts that may not grow in a steady state, and how a person says them."""

ALLOWED: Mapping[str, float] = {"unsent": 0.5, "dropped_locally": 0.5}
"""Share of a flow's slots between two polls that our own host may miss: it costs resolution, which the report
states, and says nothing about the network. Beyond that the host is too busy to measure with."""


@dataclass(frozen=True, slots=True)
class SteadyProgress:
    """Where the check stands after a poll."""

    held_ns: int
    needed_ns: int
    flows: int
    since_wall_ns: int  # Unix epoch; from here on everything was clean. 0 while it is not
    blemishes: tuple[str, ...]  # of the last poll that was not clean

    @property
    def done(self) -> bool:
        """Whether the steady state has held for as long as asked."""
        return self.since_wall_ns > 0 and self.held_ns >= self.needed_ns


class SteadyState:
    """Feed it polls until `done`.

    Args:
        needed_ns: How long every flow must be up and clean without a break.
    """

    def __init__(self, needed_ns: int):
        self._needed_ns = needed_ns
        self._previous: Poll | None = None
        self._first: Poll | None = None  # of the clean streak
        self._blemishes: tuple[str, ...] = ()

    def update(self, poll: Poll) -> SteadyProgress:
        """Judge one more poll. Polls come in the order of their `mono_ns`."""
        found = blemishes(self._previous, poll)
        if not found and self._first is not None and self._held(poll) >= self._needed_ns:
            found = silent(self._first, poll)
        self._previous = poll
        if found:
            self._first, self._blemishes = None, found
        elif self._first is None:
            self._first = poll
        return SteadyProgress(
            held_ns=self._held(poll),
            needed_ns=self._needed_ns,
            flows=len(poll.flows),
            since_wall_ns=self._first.wall_ns if self._first else 0,
            blemishes=self._blemishes,
        )

    def _held(self, poll: Poll) -> int:
        return poll.mono_ns - self._first.mono_ns if self._first else 0


def blemishes(previous: Poll | None, current: Poll) -> tuple[str, ...]:
    """Everything that is not steady in a poll, one sentence each: which agent, which flow, what.

    Growth of the loss counts is taken since the poll before; without one, only states are judged.
    """
    found = [f"agent {name}: does not answer ({why})" for name, why in current.failures.items()]
    found += [f"agent {agent.agent}: not ready ({agent.not_ready})" for agent in current.agents if not agent.ready]
    if not current.flows and not found:
        found.append("no agent has a flow to measure with")
    before: dict[FlowKey, FlowStatus] = previous.by_key if previous else {}
    for agent in current.agents:
        for flow in agent.flows:
            found += _flow_blemishes(agent, before.get(flow.key), flow)
    return tuple(found)


def over(flow: FlowStatus, poll: Poll) -> bool:
    """Whether a kept TCP session has ended, or stays dark while new sessions to the same place work."""
    if flow.protocol != "tcp" or flow.session != "kept":
        return False
    twin = twins(poll.flows).get(flow.key)
    return flow.state == "ended" or (flow.state == "down" and twin is not None and poll.by_key[twin].up)


def silent(first: Poll, last: Poll) -> tuple[str, ...]:
    """Flows that call themselves up but got no reply between two polls: nothing would be measured on them."""
    before = first.by_key
    return tuple(
        f"agent {flow.agent}, flow {flow.name}: no reply in {(last.mono_ns - first.mono_ns) / 1e9:.1f} s"
        for flow in last.flows
        if flow.key in before
        and flow.counts.received <= before[flow.key].counts.received
        # A flow slower than the check itself has nothing to show yet.
        and flow.interval_ns < last.mono_ns - first.mono_ns
    )


def _flow_blemishes(agent: AgentStatus, before: FlowStatus | None, now: FlowStatus) -> list[str]:
    who = f"agent {now.agent}, flow {now.name}"
    if not now.up:
        since = (
            f", last reply {(agent.now_ns - now.last_rx_ns) / 1e9:.1f} s ago" if now.last_rx_ns else ", no reply yet"
        )
        detail = f" ({now.detail})" if now.detail else ""
        return [f"{who}: state {now.state}{detail}{since}"]
    if before is None:
        return []
    if now.counts.scheduled < before.counts.scheduled:
        return [f"{who}: counts went back; the agent restarted"]
    scheduled = now.counts.scheduled - before.counts.scheduled
    return [
        f"{who}: {grown} {meaning}"
        for name, meaning in UNCLEAN.items()
        if (grown := getattr(now.counts, name) - getattr(before.counts, name)) > ALLOWED.get(name, 0) * scheduled
    ]


def clock_warnings(apart: Mapping[str, ClockOffset]) -> list[str]:
    """Agents whose clock is another than ours: their times are moved, and are worth less for it."""
    return [
        f"agent {agent}: its clock is {offset.ahead_ns / 1e9:+.3f} s off ours (± "
        f"{offset.error_ns / 1e9:.3f} s): its times are moved onto ours; synchronise both (chrony), and restart an"
        " agent that began before its clock was right"
        for agent, offset in apart.items()
    ]


def watcher_warnings(poll: Poll) -> list[str]:
    """Watchers that see nothing: the drill can go on, but its timeline will lack what they would have told."""
    return [
        f"agent {agent.agent}: watcher {watcher}; the timeline will lack its events"
        for agent in poll.agents
        for watcher in agent.watchers_down
    ]
