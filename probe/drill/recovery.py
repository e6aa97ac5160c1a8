"""Sustained recovery after the trigger (RFC 6412, sections 3.2.3 and 3.7.5), judged poll by poll.

The measured windows come from the agents' reports; this only decides when there is nothing left to wait for.
Time comes in with each poll; nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe.drill.status import FlowKey, FlowStatus, Poll, twins

Settled = Literal["up", "session_lost", "no"]

OUTAGE_PROBES = 3
"""Fewer lost probes than this are no outage (contract: K)."""


@dataclass(frozen=True, slots=True)
class RecoveryProgress:
    """Where the recovery stands after a poll."""

    since_trigger_ns: int
    up: int
    suspect: int
    dark: int  # everything that is neither up nor suspect
    owner: str
    outage_seen: bool
    failover_seen: bool  # an outage, or another owner than before the trigger
    held_ns: int  # how long everything has been settled without new loss; 0 while it is not
    needed_ns: int
    waiting_for: tuple[str, ...]  # flows and agents that are not settled, one phrase each

    @property
    def done(self) -> bool:
        """Whether there was a failover and its recovery has held for the validation time."""
        return self.failover_seen and not self.waiting_for and self.held_ns >= self.needed_ns


class Recovery:
    """Feed it polls until `done` or the drill's limit.

    Args:
        before: The last poll of the steady state: what to compare with.
        triggered_mono_ns: When the trigger was pulled, on the clock of the polls.
        validation_ns: How long the recovery must hold.
    """

    def __init__(self, before: Poll, triggered_mono_ns: int, validation_ns: int):
        self._before = before.by_key
        self._owner_before = before.owner
        self._triggered_mono_ns = triggered_mono_ns
        self._validation_ns = validation_ns
        self._twins = twins(before.flows)
        self._settled: dict[FlowKey, Settled] = {}
        self._lost: dict[FlowKey, int] = {}
        self._since_mono_ns: int | None = None
        self._outage_seen = False
        self._moved = False

    def update(self, poll: Poll, pending: str = "") -> RecoveryProgress:
        """Judge one more poll. Polls come in the order of their `mono_ns`.

        Args:
            poll: The newest.
            pending: What is still to happen before anything can be called recovered; "" for nothing.
        """
        flows = poll.by_key
        self._outage_seen |= any(self._is_out(flow) for flow in flows.values())
        self._moved |= bool(self._owner_before and poll.owner and poll.owner != self._owner_before)

        settled = {key: self._settle(key, flows) for key in self._before}
        waiting = [_waiting_phrase(key, flows.get(key)) for key, how in settled.items() if how == "no"]
        waiting += [f"agent {name}: {why}" for name, why in poll.failures.items()]
        waiting += [pending] if pending else []
        lost = {key: flow.counts.lost + flow.counts.reset + flow.stalls for key, flow in flows.items()}
        # Losses of the outage itself are counted one loss threshold after the flow is back. Waiting them out
        # costs that much and needs no knowledge of which probe was lost.
        new_loss = any(settled.get(key) == "up" and lost[key] > self._lost.get(key, 0) for key in lost)
        # A session that comes back late must prove itself for the whole time as well.
        if waiting or new_loss or settled != self._settled:
            self._since_mono_ns = None
        if not waiting and self._since_mono_ns is None:
            self._since_mono_ns = poll.mono_ns
        self._settled = settled
        self._lost |= lost

        states = [flow.state for flow in flows.values()]
        up, suspect = states.count("up"), states.count("suspect")
        return RecoveryProgress(
            since_trigger_ns=poll.mono_ns - self._triggered_mono_ns,
            up=up,
            suspect=suspect,
            dark=len(self._before) - up - suspect,
            owner=poll.owner,
            outage_seen=self._outage_seen,
            failover_seen=self._outage_seen or self._moved,
            held_ns=poll.mono_ns - self._since_mono_ns if self._since_mono_ns is not None else 0,
            needed_ns=self._validation_ns,
            waiting_for=tuple(waiting),
        )

    def _is_out(self, flow: FlowStatus) -> bool:
        before = self._before.get(flow.key)
        if flow.state in ("down", "ended"):
            return True
        if before is None:
            return False
        # An outage shorter than the gap between two polls shows in the count alone. A stream loses nothing, it stalls.
        return flow.counts.lost - before.counts.lost >= OUTAGE_PROBES or flow.stalls > before.stalls

    def _settle(self, key: FlowKey, flows: dict[FlowKey, FlowStatus]) -> Settled:
        flow = flows.get(key)
        if flow is None:
            return "no"
        if flow.up:
            return "up"
        if flow.session != "kept":
            return "no"
        twin = flows.get(self._twins[key]) if key in self._twins else None
        if twin is not None:
            return "session_lost" if twin.up else "no"
        # Nothing can bring back a session that was reset, and no twin can tell about its path.
        return "session_lost" if flow.state == "ended" else "no"


def _waiting_phrase(key: FlowKey, flow: FlowStatus | None) -> str:
    agent, name = key
    return f"{agent}/{name}: {flow.state if flow else 'not reported'}"
