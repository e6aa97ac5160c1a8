"""What can be rehearsed in the lab: `haprobe lab scenarios`, `haprobe drill --lab --scenario NAME`.

A scenario is a lab that behaves in some way, a trigger, and what a drill of it is expected to give. Tests hold each to
that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Scenario:
    """A lab and a trigger that belong together. Options on the command line win over it."""

    name: str
    summary: str
    expects: str  # the verdicts and the diagnosis it gives, for a reader
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of LabOptions that differ from the default
    trigger: Literal["graceful", "crash"] = "graceful"


_ALL = (
    Scenario(
        "failover",
        "graceful failover with session-pickup: the exercise as taught",
        "kept TCP survives east-west, is lost behind NAT; new sessions recover everywhere",
    ),
    Scenario(
        "crash",
        "the active unit dies: its heartbeat must be missed first",
        "as failover, after 4 s more of darkness",
        trigger="crash",
    ),
    Scenario(
        "no-session-pickup",
        "TCP sessions are not synchronised",
        "every kept TCP session is lost; sessions_not_synchronised",
        {"session_pickup": False},
    ),
    Scenario(
        "reset-sessionless",
        "as no-session-pickup, and the firewall answers unknown TCP with a reset",
        "kept TCP is reset by the firewall; firewall_resets_sessions",
        {"session_pickup": False, "reset_sessionless_tcp": True},
    ),
    Scenario(
        "vip-trap",
        "the VIP stays bound to the first unit's address",
        "ingress stays dark, all else comes back; moved_but_ingress_dark",
        {"vip_extip": "fixed"},
    ),
)
SCENARIOS: Mapping[str, Scenario] = {one.name: one for one in _ALL}
