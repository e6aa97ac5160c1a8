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
    trigger: Literal["graceful", "crash", "split"] = "graceful"
    first: str = ""  # the diagnosis code that a report of it gives first
    also: frozenset[str] = frozenset()  # further codes that are right; any other is wrong
    limit_s: int = (
        60  # from the trigger to sustained recovery; where something stays dark, waiting longer tells nothing
    )


NAT = frozenset({"nat_sessions_lost"})
_DARK_S = 20

_ALL = (
    Scenario(
        "failover",
        "graceful failover with session-pickup: the exercise as taught",
        "kept TCP survives east-west, is lost behind NAT; new sessions recover everywhere",
        first="failover_clean",
        also=NAT,
    ),
    Scenario(
        "crash",
        "the active unit dies: its heartbeat must be missed first",
        "as failover, after 4 s more of darkness",
        trigger="crash",
        first="failover_clean",
        also=NAT,
    ),
    Scenario(
        "no-session-pickup",
        "TCP sessions are not synchronised",
        "every kept TCP session is lost; sessions_not_synchronised",
        {"session_pickup": False},
        first="sessions_not_synchronised",
        also=NAT,
    ),
    Scenario(
        "reset-sessionless",
        "as no-session-pickup, and the firewall answers unknown TCP with a reset",
        "kept TCP is reset by the firewall; firewall_resets_sessions",
        {"session_pickup": False, "reset_sessionless_tcp": True},
        first="firewall_resets_sessions",
        also=NAT,
    ),
    Scenario(
        "vip-trap",
        "the VIP stays bound to the first unit's address",
        "ingress stays dark, all else comes back; moved_but_ingress_dark",
        {"vip_extip": "fixed"},
        first="moved_but_ingress_dark",
        also=NAT,
    ),
)


def _refused(kind: str, *actions: str, caller: str = "fgt-*", **more: Any) -> dict[str, Any]:
    """Options of a lab whose cloud treats these calls so (`lab.faults`)."""
    return {"api_faults": ({"kind": kind, "caller": caller, "actions": list(actions) or ["*"], **more},)}


_MOVES = ("AssociateAddress", "ReplaceRoute")
_CUT_OFF = NAT | {"watcher_blind"}

# How the cloud's part of a failover goes wrong, and how its watchers fail.
_CLOUD = (
    Scenario(
        "iam-denied-eip",
        "the new primary's role may not move Elastic IPs",
        "east-west comes back, ingress and egress stay dark; routes_moved_eip_not, with the refusal",
        _refused("denied", "AssociateAddress"),
        first="routes_moved_eip_not",
        also=NAT,
        limit_s=_DARK_S,
    ),
    Scenario(
        "iam-denied-routes",
        "the new primary's role may not replace routes",
        "ingress comes back, east-west and egress stay dark; eip_moved_routes_not, with the refusal",
        _refused("denied", "ReplaceRoute"),
        first="eip_moved_routes_not",
        also=NAT,
        limit_s=_DARK_S,
    ),
    Scenario(
        "iam-denied",
        "the new primary's role may move neither Elastic IPs nor routes",
        "everything stays dark; eip_routes_not_moved, with both refusals",
        _refused("denied", *_MOVES),
        first="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "endpoint-unreachable",
        "the units' way to the EC2 API is cut: no call is answered",
        "everything stays dark; eip_routes_not_moved: no answer",
        {"endpoint": "unreachable"},
        first="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "dns-fails",
        "the units cannot resolve the name of the EC2 API",
        "everything stays dark; eip_routes_not_moved: the name was not resolved",
        {"awsd_dns": False},
        first="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "api-throttled",
        "the account's API budget is spent: what would move things is refused",
        "everything stays dark; eip_routes_not_moved: RequestLimitExceeded",
        _refused("throttled", *_MOVES),
        first="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "api-slow",
        "every call to the EC2 API takes 1.5 s",
        "as failover, but most of the outage is spent in the cloud's API; failover_clean",
        _refused("slow", delay_ms=1500),
        first="failover_clean",
        also=NAT,
    ),
    Scenario(
        "route-forgotten",
        "awsd does not find the route table of the transit subnets, as one of another VPC",
        "ingress comes back, east-west and egress stay dark; eip_moved_routes_not, with the route left behind",
        {"forgotten_tables": ("transit",)},
        first="eip_moved_routes_not",
        also=NAT,
        limit_s=_DARK_S,
    ),
    Scenario(
        "edge-route-rewritten",
        "an earlier failover rewrote the edge route to the standby's management: it is cut off from the API",
        "everything stays dark; eip_routes_not_moved: no answer",
        {"edge_route_rewritten": True},
        first="eip_routes_not_moved",
        also=frozenset({"watcher_blind"}),
        limit_s=_DARK_S,
    ),
    Scenario(
        "split-brain",
        "the heartbeat is cut while both units live: both are primary",
        "traffic moves to the other unit, as failover; split_brain",
        trigger="split",
        first="split_brain",
        also=NAT,
    ),
    Scenario(
        "watcher-cut-off",
        "the watchers run behind the pair and lose their way to the API and the units in the outage",
        "as failover; failover_clean, with watcher_blind as a caveat",
        {"watch_from": "workload-a"},
        first="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-denied",
        "the watcher's role may not read the cloud, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("denied", caller="watcher"),
        first="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-throttled",
        "the watcher's calls are throttled, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("throttled", caller="watcher"),
        first="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-garbage",
        "the watcher is answered by something that is not EC2, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("garbage", caller="watcher"),
        first="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-unanswered",
        "the watcher's calls are never answered, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("lost", caller="watcher"),
        first="failover_clean",
        also=_CUT_OFF,
    ),
)
SCENARIOS: Mapping[str, Scenario] = {one.name: one for one in (*_ALL, *_CLOUD)}
