"""How kept sessions end: who sent a RST, FIN or ICMP error, and which ICMP errors stand for an end. Pure.

Who: every router on the way takes one from the TTL, and senders begin with one of three values. So a packet's TTL tells
how many routers it has passed. A RST that bears the peer's address but has passed fewer than the peer's replies do was
sent by something nearer: a firewall that answers in the peer's name.

This module does not judge (`core/verdict.py`), nor find outages (`core/outage.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from probe.core.events import EndedBy, Outage

INITIAL_TTLS = (64, 128, 255)  # of Unix and most firewalls; of Windows; of routers and of our reflector
# Hosts and routers limit how often they send errors, Linux to one a second. After a longer pause they have stopped.
ICMP_QUIET_NS = 5_000_000_000


@dataclass(frozen=True, slots=True)
class IcmpRun:
    """ICMP errors of one kind, from one sender, about a flow's probes, without a long pause. Instants are Unix ns."""

    first_ns: int
    last_ns: int
    type: int
    code: int
    source: str
    ttl: int = 0
    peer_ttl: int = 0

    def goes_on(self, later: IcmpRun) -> bool:
        """Whether a later error belongs to this run."""
        alike = (self.type, self.code, self.source) == (later.type, later.code, later.source)
        return alike and later.first_ns - self.last_ns <= ICMP_QUIET_NS


def hops(ttl: int) -> int:
    """How many routers a packet has passed that arrives with this TTL (1 to 255)."""
    return next(initial for initial in INITIAL_TTLS if ttl <= initial) - ttl


def ended_by(source: str, target: str, ttl: int, peer_ttl: int) -> EndedBy:
    """Who sent what ended a session.

    Args:
        source: Address that it came from.
        target: Address that the session's probes are sent to.
        ttl: Its TTL or hop limit on arrival; 0: not known.
        peer_ttl: That of the peer's last reply; 0: none came.

    Returns:
        `peer`: as far away as the peer. `firewall`: nearer, or under another address. `unknown`: farther away, or there
        is nothing to compare with.
    """
    if source and source != target:
        return "firewall"
    if not source or not ttl or not peer_ttl or hops(ttl) > hops(peer_ttl):
        return "unknown"
    return "peer" if hops(ttl) == hops(peer_ttl) else "firewall"


def icmp_words(source: str, icmp_type: int | None, code: int | None) -> str:
    """What an ICMP error says: in the words of RFC 792, 1122 and 1812, or RFC 4443, and in numbers.

    Args:
        source: Address of its sender, which tells the version.
        icmp_type: Its type.
        code: Likewise.
    """
    numbers = f"type {icmp_type} code {code}"
    words = (_ICMPV6_WORDS if ":" in source else _ICMP_WORDS).get((icmp_type, code))
    return f"{words} ({numbers})" if words else numbers


_ICMP_WORDS: dict[tuple[int | None, int | None], str] = {
    **{(3, 0): "network unreachable", (3, 1): "host unreachable", (3, 2): "protocol unreachable"},
    **{(3, 3): "port unreachable", (3, 4): "fragmentation needed", (3, 9): "network prohibited"},
    **{(3, 10): "host prohibited", (3, 13): "prohibited", (11, 0): "TTL exceeded", (11, 1): "fragments missing"},
}
_ICMPV6_WORDS: dict[tuple[int | None, int | None], str] = {
    **{(1, 0): "no route", (1, 1): "prohibited", (1, 3): "host unreachable", (1, 4): "port unreachable"},
    **{(1, 5): "source address refused", (1, 6): "route rejects", (2, 0): "packet too big"},
    **{(3, 0): "hop limit exceeded", (3, 1): "fragments missing"},
}


def standing(runs: Iterable[IcmpRun], outage: Outage) -> IcmpRun | None:
    """The first ICMP errors that go on in an outage that is open; None where errors were but passing noise.

    Args:
        runs: A flow's, ascending.
        outage: Its open outage, whose `end_ns` is the last probe known to be lost.
    """
    told = (run for run in runs if run.last_ns >= max(outage.start_ns, outage.end_ns - ICMP_QUIET_NS))
    return min(told, key=lambda run: run.first_ns, default=None)
