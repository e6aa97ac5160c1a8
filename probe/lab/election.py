"""Which unit is primary: the election, without sockets or clocks. `unit` feeds it heartbeats and the time.

    situation                                       this unit becomes
    the peer is silent for `lost_ns`                primary ("only member")
    primary, `failover set` here, not at the peer   secondary
    primary, the peer claims the role back          secondary
    both primary (a split that healed)              the lower rank becomes secondary
    both secondary                                  the higher rank becomes primary
    anything else                                   what it is: uptime and priority alone change nothing

Rank is, in this order: not failed over by command, claiming the role back, priority. The old primary always
steps down first and says so in its heartbeat; only then does the other take over. `failover set` is sticky:
nothing but `unset` ends it (while the peer lives). `unset` lets priority decide again, which makes a unit of
higher priority claim its role back: the second failover of a test cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["init", "primary", "secondary"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a unit tells its peer."""

    unit: str
    role: Role
    failover_set: bool
    claim: bool
    priority: int


@dataclass
class Election:
    """One unit's view of its cluster. After every call that takes `now_ns`, `role` is what it is to be.

    Args:
        unit: This unit.
        priority: Higher wins where priority decides.
        lost_ns: Silence of the peer after which it counts as dead.
        failback_on_unset: Whether `unset` lets priority decide again.
        started_ns: When this unit started; the peer has until `lost_ns` later to show up. Same clock as `now_ns`.
    """

    unit: str
    priority: int
    lost_ns: int
    failback_on_unset: bool
    started_ns: int
    role: Role = "init"
    failover_set: bool = False
    claim: bool = False
    peer: Heartbeat | None = None
    heard_ns: int = 0

    def peer_alive(self, now_ns: int) -> bool:
        """Whether the peer was heard within the lost threshold."""
        return self.peer is not None and now_ns < self.deadline_ns

    @property
    def deadline_ns(self) -> int:
        """When the peer is dead unless heard before."""
        return (self.started_ns if self.peer is None else self.heard_ns) + self.lost_ns

    def heartbeat(self) -> Heartbeat:
        """What to tell the peer now."""
        return Heartbeat(self.unit, self.role, self.failover_set, self.claim, self.priority)

    def heard(self, peer: Heartbeat, now_ns: int) -> None:
        """A heartbeat of the peer came in."""
        self.peer, self.heard_ns = peer, now_ns
        self.decide(now_ns)

    def set_failover(self, now_ns: int) -> None:
        """`execute ha failover set`: this unit shall be secondary until `unset`."""
        self.failover_set, self.claim = True, False
        self.decide(now_ns)

    def unset_failover(self, now_ns: int) -> None:
        """`execute ha failover unset`."""
        was_set, self.failover_set = self.failover_set, False
        higher = self.peer is not None and self.priority > self.peer.priority
        self.claim = was_set and self.failback_on_unset and higher and self.role != "primary"
        self.decide(now_ns)

    def decide(self, now_ns: int) -> None:
        """Apply the table above."""
        if not self.peer_alive(now_ns):
            if now_ns >= self.deadline_ns:
                self._become("primary")
            return
        assert self.peer is not None
        outranked = self._rank(self.heartbeat()) < self._rank(self.peer)
        if self.role == "primary":
            yields = self.failover_set and not self.peer.failover_set
            claimed = self.peer.claim and not self.claim
            if yields or claimed or (self.peer.role == "primary" and outranked):
                self._become("secondary")
        elif self.peer.role == "primary" or outranked:
            self._become("secondary")
        else:
            self._become("primary")

    def _become(self, role: Role) -> None:
        self.role = role
        if role == "primary":
            self.claim = False

    @staticmethod
    def _rank(one: Heartbeat) -> tuple[bool, bool, int]:
        return (not one.failover_set, one.claim, one.priority)
