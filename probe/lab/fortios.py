"""What the FortiGate stand-ins say of themselves: answers of the REST API and of the command line. Sans-IO.

The words are those of FortiOS in either dialect (see `watch.fortigate_answers`, `watch.fortigate_cli`), the facts are
the lab's own: roles from the HA daemon, reasons and history from its events. Serial numbers and version say that no
FortiGate is behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from probe.core.events import TimelineEvent
from probe.lab.plan import PORTS, eni_of, peer_of

Dialect = Literal["new", "old"]
VERSIONS: dict[Dialect, str] = {"new": "v7.6-standin", "old": "v6.0-standin"}
BUILD = 0
SERIALS = {"fgt-a": "FGVMSTANDIN0000A", "fgt-b": "FGVMSTANDIN0000B"}
PRIORITY = {"fgt-a": 255, "fgt-b": 100}
ONLY_MEMBER = "it's the only member in the cluster"
FLAG_SET = "EXE_FAIL_OVER flag is set on peer member"
HIGHER_PRIORITY = "its override priority is larger than peer member"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What one unit knows. `roles` has the peer only while it is heard; `selections` is newest first (epoch s)."""

    unit: str
    roles: dict[str, str]
    selections: tuple[tuple[int, str, str], ...] = ()  # (when, unit, reason)
    history: tuple[tuple[int, str], ...] = ()  # (when, text), newest first
    failover_set: bool = False


def cluster(status: dict[str, Any], events: Sequence[TimelineEvent]) -> Cluster:
    """The cluster as a unit's HA daemon answers `status`, and as the lab's events tell its past."""
    unit = status["unit"]
    roles = {unit: status["role"]}
    if status["peer_alive"]:
        roles[peer_of(unit)] = status["peer_role"]
    selections, history = [], []
    for event in reversed(events):
        when, who = event.at_ns // 1_000_000_000, str(event.detail.get("unit"))
        if event.event == "role_change" and event.detail.get("role") == "primary":
            selections.append((when, who, str(event.detail.get("reason") or ONLY_MEMBER)))
        if who == unit and event.event == "role_change":
            history.append((when, f"{unit} becomes {event.detail.get('role')}"))
        elif who == unit and event.event == "heartbeat_lost":
            history.append((when, f"member {event.detail.get('peer')} lost heartbeat on hbdev port3"))
    return Cluster(unit, roles, tuple(selections), tuple(history), bool(status["failover_set"]))


def answer(path: str, seen: Cluster, dialect: Dialect = "new") -> dict[str, Any] | None:
    """The REST answer to a GET of `/api/v2/PATH`; None where there is no such endpoint."""
    results: Any
    if path == "monitor/system/ha-checksums":
        results = [_checksums(unit, role == "primary", dialect) for unit, role in seen.roles.items()]
    elif path == "monitor/system/ha-peer":
        results = [_peer(unit, role == "primary", dialect) for unit, role in seen.roles.items()]
    elif path == "monitor/system/ha-history" and dialect == "new":
        entries = [{"time": when, "event": text} for when, text in seen.history]
        results = {"start_time": 0, "last_change": entries[0]["time"] if entries else 0, "history": entries}
    elif path == "monitor/system/status":
        results = {"hostname": seen.unit, "model_name": "stand-in"}
    elif path == "cmdb/system/ha":
        results = {"mode": "a-p", "priority": PRIORITY[seen.unit], "override": "disable"}
    else:
        return None
    return {
        "http_method": "GET",
        "results": results,
        "vdom": "root",
        "path": path.rpartition("/")[0].rpartition("/")[2],
        "name": path.rpartition("/")[2],
        "status": "success",
        "serial": SERIALS[seen.unit],
        "version": VERSIONS[dialect],
        "build": BUILD,
    }


def _checksums(unit: str, primary: bool, dialect: Dialect) -> dict[str, Any]:
    row: dict[str, Any] = {"serial_no": SERIALS[unit], "checksum": {"global": "00", "root": "00", "all": "00"}}
    if dialect == "old":
        return {"is_manage_master": int(primary), "is_root_master": int(primary), **row}
    return {"is_manage_primary": True, "is_root_primary": True, **row} if primary else row


def _peer(unit: str, primary: bool, dialect: Dialect) -> dict[str, Any]:
    row = {"serial_no": SERIALS[unit], "vcluster_id": 0, "priority": PRIORITY[unit], "hostname": unit}
    flags = {"master": True} if dialect == "old" else {"master": True, "primary": True}
    return {**row, **flags} if primary else row


def ha_status(seen: Cluster, dialect: Dialect = "new") -> str:
    """`get system ha status`."""
    own, peer = (eni_of(unit, "port3").address for unit in (seen.unit, peer_of(seen.unit)))
    new = dialect == "new"
    change = _local(seen.selections[0][0]).replace("/", "-") if seen.selections else "N/A"
    lines = [
        "HA Health Status: OK" if len(seen.roles) == 2 else "HA Health Status:",
        *([] if len(seen.roles) == 2 else ["    WARNING: a member is lost"]),
        "Model: FortiGate stand-in of the haprobe lab",
        "Mode: HA A-P",
        *(["Group Name: haprobe-lab", "Group ID: 0"] if new else ["Group: 0"]),
        "Debug: 0",
        f"Cluster state change time: {change}",
        "Primary selected using:" if new else "Master selected using:",
        *(_selection(*one, new=new) for one in seen.selections[:4]),
        "override: disable",
        f"unicast_hb: peerip={peer}, myip={own}, hasync_port='{PORTS[2]}'",
        *(_member(unit, role, new=new) for unit, role in sorted(seen.roles.items(), key=lambda one: one[1])),
        "number of vcluster: 1",
    ]
    return "\n".join(lines) + "\n"


def _selection(when: int, unit: str, reason: str, *, new: bool) -> str:
    prefix, role = ("vcluster-1: ", "primary") if new else ("", "master")
    return f"    <{_local(when)}> {prefix}{SERIALS[unit]} is selected as the {role} because {reason}."


def _member(unit: str, role: str, *, new: bool) -> str:
    old_words = {"primary": "Master", "secondary": "Slave"}
    word = role.capitalize() if new else old_words.get(role, role.capitalize())
    index = sorted(SERIALS).index(unit)
    return f"{word:<12}: {unit:<16}, {SERIALS[unit]}, {'HA ' if new else ''}cluster index = {index}"


def _local(when: int) -> str:
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(when))
