"""The fabric: the data plane follows the cloud, after the delay, in order, and says when."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from probe.core.events import TimelineEvent
from probe.lab.awsd import Awsd
from probe.lab.client import lab_client
from probe.lab.cloud import Cloud, raise_cloud
from probe.lab.fabric import Fabric
from probe.lab.faults import FaultRule
from probe.lab.ids import CloudIds
from probe.lab.plan import CLUSTER_EIP, ELASTIC_IPS, ROUTE_TABLES, LabOptions, Plan, eni
from probe.lab.state import read_events

PROPAGATION_NS = 80_000_000


class Plane:
    """A data plane in memory that remembers when it was told what."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], str | None] = {}
        self.eips: dict[str, str] = {}
        self.private_ips: dict[str, str | None] = {}
        self.told: list[tuple[int, str]] = []
        self.failures = 0

    def set_route(self, table: str, destination: str, target: str | None) -> None:
        self._note("route")
        self.routes[table, destination] = target

    def set_eips(self, mapping: Mapping[str, str]) -> None:
        self._note("eip")
        self.eips = dict(mapping)

    def set_private_ip(self, address: str, eni: str | None) -> None:
        self._note("private_ip")
        self.private_ips[address] = eni

    def _note(self, what: str) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the kernel is busy")
        self.told.append((time.time_ns(), what))


class Lab(NamedTuple):
    plan: Plan
    plane: Plane
    cloud: Cloud
    fabric: Fabric
    ids: CloudIds
    client: Any

    def applied(self, count: int) -> list[TimelineEvent]:
        wait_for(lambda: len(self.events()) >= count)
        return self.events()

    def events(self) -> list[TimelineEvent]:
        return [event for event in read_events(self.plan) if event.event == "applied"]

    def move_eip(self, to: str = "fgt-b-port1") -> tuple[int, int]:
        before = time.time_ns()
        self.client.associate_address(
            AllocationId=self.ids.allocations["cluster"], NetworkInterfaceId=self.ids.enis[to]
        )
        return before, time.time_ns()

    def move_route(self, to: str = "fgt-b-port2") -> tuple[int, int]:
        before = time.time_ns()
        self.client.replace_route(
            RouteTableId=self.ids.route_tables["transit"],
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=self.ids.enis[to],
        )
        return before, time.time_ns()


def wait_for(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture(name="lab")
def _lab(tmp_path: Path) -> Iterator[Lab]:
    with raised(tmp_path) as lab:
        yield lab


@contextmanager
def raised(tmp_path: Path, **options: Any) -> Iterator[Lab]:
    plan = Plan("unused-", tmp_path, LabOptions(propagation_ms=PROPAGATION_NS // 1_000_000, **options))
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    plane = Plane()
    cloud, fabric, ids = raise_cloud(plan, [listener], plane)
    yield Lab(plan, plane, cloud, fabric, ids, lab_client(url, "lab"))
    fabric.stop()
    cloud.close()
    assert not [t for t in threading.enumerate() if t.name == "fabric"]


def test_the_state_at_the_start_is_applied_before_the_cloud_is_ready(lab: Lab) -> None:
    assert lab.plan.cloud_file.exists()
    assert lab.plane.eips == {one.address: eni(one.eni).address for one in ELASTIC_IPS}
    planned = {(t.name, destination): target for t in ROUTE_TABLES for destination, target in t.routes}
    assert lab.plane.routes == planned
    assert lab.events() == [], "the start is no change"


def test_a_route_is_applied_after_the_delay_and_the_event_says_when(lab: Lab) -> None:
    before_ns, answered_ns = lab.move_route()
    (event,) = lab.applied(1)
    assert lab.plane.routes["transit", "0.0.0.0/0"] == "fgt-b-port2"
    told_ns, _ = lab.plane.told[-1]
    assert before_ns + PROPAGATION_NS <= told_ns < answered_ns + PROPAGATION_NS + 500_000_000
    assert event.at_ns - event.uncertainty_ns <= told_ns <= event.at_ns
    assert (event.source, event.detail["what"], event.detail["table"]) == ("lab", "route", "transit")
    assert event.detail["target"] == f"{lab.ids.route_tables['transit']} 0.0.0.0/0"
    assert (event.detail["from"], event.detail["to"]) == (lab.ids.enis["fgt-a-port2"], lab.ids.enis["fgt-b-port2"])
    assert (event.detail["from_unit"], event.detail["to_unit"]) == ("fgt-a", "fgt-b")


def test_an_eip_moves_and_leaves_the_others_alone(lab: Lab) -> None:
    others = {address: to for address, to in lab.plane.eips.items() if address != CLUSTER_EIP}
    lab.move_eip()
    (event,) = lab.applied(1)
    assert lab.plane.eips == {**others, CLUSTER_EIP: "10.99.99.10"}
    assert (event.detail["what"], event.detail["target"], event.detail["to_name"]) == (
        "eip",
        CLUSTER_EIP,
        "fgt-b-port1",
    )


def test_changes_close_together_are_applied_apart_and_in_order(lab: Lab) -> None:
    lab.plane.told.clear()
    eip_asked_ns, _ = lab.move_eip()
    route_asked_ns, _ = lab.move_route()  # long before the first one has propagated
    lab.applied(2)
    (eip_ns, eip), (route_ns, route) = lab.plane.told
    assert (eip, route) == ("eip", "route")
    assert eip_ns >= eip_asked_ns + PROPAGATION_NS
    assert route_ns >= route_asked_ns + PROPAGATION_NS, "no change overtakes its own delay"


def test_a_disassociated_eip_and_a_deleted_route_lead_nowhere(lab: Lab) -> None:
    association = lab.client.describe_addresses(AllocationIds=[lab.ids.allocations["cluster"]])["Addresses"][0]
    lab.client.disassociate_address(AssociationId=association["AssociationId"])
    lab.client.delete_route(RouteTableId=lab.ids.route_tables["transit"], DestinationCidrBlock="0.0.0.0/0")
    lab.applied(2)
    assert CLUSTER_EIP not in lab.plane.eips
    assert lab.plane.routes["transit", "0.0.0.0/0"] is None


def test_a_black_hole_takes_the_route_away_and_gives_it_back(lab: Lab) -> None:
    lab.client.stop_instances(InstanceIds=[lab.ids.instances["fgt-a"]])
    lab.applied(1)
    assert lab.plane.routes["transit", "0.0.0.0/0"] is None
    lab.client.start_instances(InstanceIds=[lab.ids.instances["fgt-a"]])
    lab.applied(2)
    assert lab.plane.routes["transit", "0.0.0.0/0"] == "fgt-a-port2"


def test_a_change_that_nobody_announced_is_found_by_polling(lab: Lab) -> None:
    lab.cloud.on_change = None
    lab.move_route()
    lab.applied(1)
    assert lab.plane.routes["transit", "0.0.0.0/0"] == "fgt-b-port2"


def test_in_one_zone_private_addresses_move_with_their_eip_by_the_units_own_calls(tmp_path: Path) -> None:
    shared = {"10.99.99.92": "port1", "10.99.99.108": "port2"}
    with raised(tmp_path, single_az=True, api_latency_ms=0) as lab:
        assert lab.plane.private_ips == {address: f"fgt-a-{port}" for address, port in shared.items()}
        assert lab.plane.eips[CLUSTER_EIP] == "10.99.99.92"
        assert Awsd(lab.plan, "fgt-b", lab.client.meta.endpoint_url).take_over()
        wait_for(lambda: {e.detail["what"] for e in lab.events()} == {"private_ip", "eip", "route"})
        wait_for(lambda: lab.plane.private_ips == {address: f"fgt-b-{port}" for address, port in shared.items()})
        assert lab.plane.eips[CLUSTER_EIP] == "10.99.99.92", "the same address, elsewhere"
        assert lab.plane.routes["transit", "0.0.0.0/0"] == "fgt-b-port2"
        calls = [e.detail["operation"] for e in read_events(lab.plan) if e.event == "api_call"]
        moved = ["AssignPrivateIpAddresses"] * 2
        assert calls == ["DescribeInstances", *moved, "DescribeAddresses", "DescribeRouteTables", "ReplaceRoute"]
        found = {e.detail["target"]: e.detail["to_name"] for e in lab.events() if e.detail["what"] == "private_ip"}
        assert found == {address: f"fgt-b-{port}" for address, port in shared.items()}


def test_a_data_plane_that_fails_is_tried_again(lab: Lab) -> None:
    lab.plane.failures = 1
    lab.move_route()
    (event,) = lab.applied(1)
    assert lab.plane.routes["transit", "0.0.0.0/0"] == "fgt-b-port2"
    assert event.at_ns >= lab.plane.told[-1][0]


def test_a_spell_without_the_cloud_ends_in_agreement(lab: Lab) -> None:
    lab.cloud.faults.book.replace([FaultRule("error", "fabric", count=3)])
    lab.move_route()
    lab.applied(1)
    assert lab.plane.routes["transit", "0.0.0.0/0"] == "fgt-b-port2"
