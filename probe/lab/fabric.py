"""Makes the data plane obey the cloud: what its route tables and EIP associations say is what routers forward.

The fabric reads the cloud as any client would (caller "fabric", which no fault rule concerns), right after
each change and every 200 ms besides. A difference is applied when the propagation delay after the change has
passed, in the order in which the changes were made, and the moment the kernel took it is recorded. So the
cloud's state is the cause of an outage, and the time between the two is known.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from probe.core.events import TimelineEvent
from probe.core.ha import HaChange, HaSnapshot, RouteTarget, changes
from probe.lab import plan as lab_plan
from probe.lab.ids import CloudIds
from probe.lab.query import Call
from probe.watch.ec2 import read_eips, read_private_ips, read_routes

log = logging.getLogger(__name__)

POLL_NS = 200_000_000
RETRY_NS = 200_000_000


class DataPlane(Protocol):
    """What the cloud controls, in the plan's names."""

    def set_route(self, table: str, destination: str, target: str | None) -> None: ...

    def set_eips(self, mapping: Mapping[str, str]) -> None: ...

    def set_private_ip(self, address: str, eni: str | None) -> None: ...


class KernelPlane:
    """The lab's namespaces."""

    def __init__(self, plan: lab_plan.Plan):
        # Not at the top: pyroute2 is of no use to a cloud without a data plane.
        from probe.lab import topology

        self._plan = plan
        self._topology = topology

    def set_route(self, table: str, destination: str, target: str | None) -> None:
        self._topology.set_route(self._plan, table, destination, target)

    def set_eips(self, mapping: Mapping[str, str]) -> None:
        self._topology.set_eips(self._plan, mapping)

    def set_private_ip(self, address: str, eni: str | None) -> None:
        self._topology.set_private_ip(self._plan, address, eni)


class Fabric:
    """Follows the cloud from a thread of its own.

    Args:
        ids: The cloud's ids of the plan's names.
        client: EC2 client of the caller "fabric".
        plane: Where to apply.
        events: Takes each `applied` event.
        propagation_ns: From a change in the cloud until the data plane follows.
        shared: ENI names between which secondary addresses move; none across zones.
    """

    def __init__(
        self,
        ids: CloudIds,
        client: Any,
        plane: DataPlane,
        events: Callable[[TimelineEvent], None],
        propagation_ns: int,
        shared: Sequence[str] = (),
    ):
        self._ids = ids
        self._client = client
        self._plane = plane
        self._events = events
        self._propagation_ns = propagation_ns
        self._shared = [ids.enis[name] for name in shared]
        self._units = ids.units()
        self._seen: HaSnapshot | None = None  # the cloud, as last read
        self._eips: dict[str, str] = {}  # the data plane: public address to private address
        self._pending: list[tuple[int, HaChange]] = []  # (due on CLOCK_MONOTONIC, change), ascending
        self._announced: dict[str, int] = {}  # what was changed, and when (CLOCK_MONOTONIC)
        self._retry_ns = 0  # nothing is applied before that
        self._wake = threading.Condition()
        self._poll_ns = 0  # when to look without being told
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fabric", daemon=True)

    def start(self) -> None:
        """Apply the cloud's present state, then follow it. Returns when the data plane agrees with the cloud."""
        self._seen = self._read()
        self._set_eips(self._seen)
        for (table, destination), route in self._seen.routes.items():
            self._set_route(table, destination, route)
        for address, owner in self._seen.private_ips.items():
            self._plane.set_private_ip(address, self._ids.eni_name(owner.eni))
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def changed(self, call: Call) -> None:
        """Tell that this call has just changed the cloud: now is when the delay of what it changed begins."""
        with self._wake:
            self._announced[_subject_of_call(call)] = time.monotonic_ns()
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._announced and not self._stopping:
                    self._wake.wait(max(0, self._next_ns() - time.monotonic_ns()) / 1e9)
                announced, self._announced = self._announced, {}
                if self._stopping:
                    return
            try:
                self._apply_due()
                if announced or time.monotonic_ns() >= self._poll_ns:
                    self._notice(announced)
            except Exception:  # the data plane must go on obeying whatever one round meets
                log.exception("fabric: a round failed")

    def _next_ns(self) -> int:
        """When there is something to do by itself: a change falls due, or it is time to look."""
        return min(self._poll_ns, max(self._pending[0][0], self._retry_ns)) if self._pending else self._poll_ns

    def _read(self) -> HaSnapshot:
        asked_ns = time.time_ns()
        eips = read_eips(self._client, list(self._ids.allocations.values()))["eips"]
        routes = read_routes(self._client, list(self._ids.route_tables.values()))["routes"]
        addresses = read_private_ips(self._client, self._shared)["private_ips"] if self._shared else {}
        return HaSnapshot(asked_ns, time.time_ns(), eips=eips, routes=routes, private_ips=addresses, spans=None)

    def _notice(self, announced: dict[str, int]) -> None:
        """Read the cloud and schedule what differs.

        Args:
            announced: When what was changed (CLOCK_MONOTONIC). For a change that was not announced the end of
                reading counts: the change is older than that, so its delay never comes out too short.
        """
        self._poll_ns = time.monotonic_ns() + POLL_NS
        now = self._read()
        read_ns = time.monotonic_ns()
        with self._wake:  # what was announced meanwhile may have been read already
            announced |= self._announced
        assert self._seen is not None
        for change in changes(self._seen, now, self._units):
            changed_ns = announced.get(_subject_of_change(change), read_ns)
            self._pending.append((changed_ns + self._propagation_ns, change))
        self._pending.sort(key=lambda one: one[0])
        self._seen = now

    def _apply_due(self) -> None:
        while self._pending and max(self._pending[0][0], self._retry_ns) <= time.monotonic_ns():
            _, change = self._pending[0]
            started_ns = time.time_ns()
            try:
                self._apply(change)
            except Exception as error:  # it stays first in line: a later change of the same must not be undone by it
                log.warning("fabric: %s %s: %s", change.kind, dict(change.key), error)
                self._retry_ns = time.monotonic_ns() + RETRY_NS
                return
            ended_ns = time.time_ns()
            self._pending.pop(0)
            event = self._event(change, started_ns, ended_ns)
            if event is not None:
                self._events(event)

    def _apply(self, change: HaChange) -> None:
        if change.kind == "eip":
            mapping = dict(self._eips)
            mapping.pop(change.key["address"], None)
            if change.key["to_private_ip"]:
                mapping[change.key["address"]] = change.key["to_private_ip"]
            self._plane.set_eips(mapping)
            self._eips = mapping
        elif change.kind == "private_ip":
            self._plane.set_private_ip(change.key["address"], self._ids.eni_name(change.new))
        elif change.kind == "route":
            self._set_route(change.key["route_table"], change.key["destination"], RouteTarget(change.new))
        elif change.kind == "route_state":
            route = RouteTarget(change.key["target"], change.new)
            self._set_route(change.key["route_table"], change.key["destination"], route)

    def _set_eips(self, state: HaSnapshot) -> None:
        self._eips = {eip.address: eip.private_ip for eip in state.eips.values() if eip.private_ip}
        self._plane.set_eips(self._eips)

    def _set_route(self, table_id: str, destination: str, route: RouteTarget) -> None:
        # A black hole, and a target that the lab does not have, both mean: packets go nowhere.
        target = self._ids.target_name(route.target) if route.state == "active" else None
        table = self._ids.table_name(table_id)
        if table is not None:
            self._plane.set_route(table, destination, target)

    def _event(self, change: HaChange, started_ns: int, ended_ns: int) -> TimelineEvent | None:
        """When the kernel took it: somewhere in the call, which ends at the event's time."""
        if change.kind not in ("eip", "route", "route_state", "private_ip"):
            return None
        key = change.key
        what = "route" if change.kind == "route_state" else change.kind
        detail = {
            **key,
            "what": what,
            "target": f"{key['route_table']} {key['destination']}" if what == "route" else key["address"],
            "from": change.old,
            "to": change.new,
            "from_unit": change.old_unit,
            "to_unit": change.new_unit,
            "to_name": self._ids.target_name(change.new) or "",
        }
        if what == "route":
            detail["table"] = self._ids.table_name(key["route_table"]) or ""
        return TimelineEvent(ended_ns, "lab", "applied", ended_ns - started_ns, detail)


def _subject_of_call(call: Call) -> str:
    """What a mutating call changes: an allocation, a private address, or a route; "" for anything else."""
    destination = call.fields.get("DestinationCidrBlock")
    if destination:
        return f"{call.fields.get('RouteTableId')} {destination}"
    return call.fields.get("AllocationId") or call.fields.get("PrivateIpAddress.1", "")


def _subject_of_change(change: HaChange) -> str:
    """The same for a difference between two readings."""
    if change.kind in ("eip", "eip_association"):
        return change.key["allocation_id"]
    if change.kind in ("private_ip", "private_ip_eip"):
        return change.key["address"]
    return f"{change.key.get('route_table')} {change.key.get('destination')}"
