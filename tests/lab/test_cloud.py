"""The cloud stand-in: what the plan seeds, and every correction of moto against what EC2 does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from probe.lab import namespace, topology
from probe.lab.awsd import Awsd
from probe.lab.client import PATIENT_S, lab_client
from probe.lab.cloud import Cloud, raise_cloud, seed
from probe.lab.faults import FaultRule
from probe.lab.ids import CloudIds
from probe.lab.lab import Lab as RaisedLab
from probe.lab.namespace import LabError
from probe.lab.plan import CLOUD_URL, CLUSTER_EIP, ELASTIC_IPS, ENIS, ROUTE_TABLES, LabOptions, Plan
from probe.lab.state import Record, read_events


class Lab(NamedTuple):
    cloud: Cloud
    client: Any
    ids: CloudIds
    changes: list[str]

    def eip(self) -> dict[str, Any]:
        answer = self.client.describe_addresses(AllocationIds=[self.ids.allocations["cluster"]])
        return dict(answer["Addresses"][0])

    def route(self) -> dict[str, Any]:
        answer = self.client.describe_route_tables(RouteTableIds=[self.ids.route_tables["transit"]])
        routes = answer["RouteTables"][0]["Routes"]
        return next(dict(one) for one in routes if one["DestinationCidrBlock"] == "0.0.0.0/0")

    def eni(self, name: str) -> dict[str, Any]:
        answer = self.client.describe_network_interfaces(NetworkInterfaceIds=[self.ids.enis[name]])
        return dict(answer["NetworkInterfaces"][0])

    def move_eip(self, to: str = "fgt-b-port1", **more: Any) -> None:
        self.client.associate_address(
            AllocationId=self.ids.allocations["cluster"], NetworkInterfaceId=self.ids.enis[to], **more
        )

    def replace_route(self, to: str = "fgt-b-port2", **more: Any) -> None:
        self.client.replace_route(
            RouteTableId=self.ids.route_tables["transit"],
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=self.ids.enis[to],
            **more,
        )


@pytest.fixture(name="lab")
def _lab() -> Iterator[Lab]:
    cloud = Cloud()
    client = lab_client(cloud.serve(socket.create_server(("127.0.0.1", 0))), "lab", read_timeout_s=PATIENT_S)
    ids = seed(client)
    lab = Lab(cloud, client, ids, [])
    cloud.on_change = lambda call: lab.changes.append(call.action)
    yield lab
    cloud.close()


def code_of(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call(*arguments, **more)
    return str(refused.value.response["Error"]["Code"])


# ---------------------------------------------------------------------- what is seeded


def test_the_cloud_starts_as_planned(lab: Lab) -> None:
    addresses = {one["PublicIp"]: one["PrivateIpAddress"] for one in lab.client.describe_addresses()["Addresses"]}
    private = {one.name: one.address for one in ENIS}
    assert addresses == {one.address: private[one.eni] for one in ELASTIC_IPS}
    for table in ROUTE_TABLES:
        answer = lab.client.describe_route_tables(RouteTableIds=[lab.ids.route_tables[table.name]])
        routes = answer["RouteTables"][0]["Routes"]
        found = {
            r["DestinationCidrBlock"]: lab.ids.target_name(
                r.get("NetworkInterfaceId") or r.get("GatewayId") or r.get("TransitGatewayId")
            )
            for r in routes
            if r.get("GatewayId") != "local"
        }
        assert found == dict(table.routes)


def test_the_units_are_instances_with_their_interfaces_in_order(lab: Lab) -> None:
    for unit in ("fgt-a", "fgt-b"):
        answer = lab.client.describe_instances(InstanceIds=[lab.ids.instances[unit]])
        (instance,) = answer["Reservations"][0]["Instances"]
        assert instance["State"]["Name"] == "running"
        found = {n["Attachment"]["DeviceIndex"]: n["PrivateIpAddress"] for n in instance["NetworkInterfaces"]}
        assert found == {one.device_index: one.address for one in ENIS if one.unit == unit}
        assert {n["SourceDestCheck"] for n in instance["NetworkInterfaces"]} == {False}


def test_ids_survive_the_file(lab: Lab, tmp_path: Path) -> None:
    lab.ids.save(tmp_path / "cloud.json")
    assert CloudIds.load(tmp_path / "cloud.json") == lab.ids
    assert lab.ids.units().keys() == {"fgt-a", "fgt-b"}
    assert lab.ids.enis["fgt-b-port3"] in lab.ids.units()["fgt-b"]
    assert lab.ids.target_name("eni-unknown") is None


# ---------------------------------------------------------------------- corrections


def test_an_eip_moves_without_being_asked_to_reassociate(lab: Lab) -> None:
    first = lab.eip()["AssociationId"]
    lab.move_eip()
    assert lab.eip()["NetworkInterfaceId"] == lab.ids.enis["fgt-b-port1"]
    assert lab.eip()["PrivateIpAddress"] == "10.99.99.10"
    assert lab.eip()["AssociationId"] != first


def test_an_eip_stays_when_reassociation_is_forbidden(lab: Lab) -> None:
    assert code_of(lab.move_eip, AllowReassociation=False) == "Resource.AlreadyAssociated"
    assert lab.eip()["NetworkInterfaceId"] == lab.ids.enis["fgt-a-port1"]


def test_only_the_new_interface_shows_an_eip_that_moved(lab: Lab) -> None:
    lab.move_eip()
    assert "Association" not in lab.eni("fgt-a-port1")
    assert lab.eni("fgt-b-port1")["Association"]["PublicIp"] == CLUSTER_EIP
    lab.move_eip("fgt-a-port1")
    assert lab.eni("fgt-a-port1")["Association"]["PublicIp"] == CLUSTER_EIP
    assert "Association" not in lab.eni("fgt-b-port1")


def test_an_association_and_a_route_by_interface_name_the_instance(lab: Lab) -> None:
    lab.move_eip()
    lab.replace_route()
    assert lab.eip()["InstanceId"] == lab.ids.instances["fgt-b"]
    assert lab.route()["InstanceId"] == lab.ids.instances["fgt-b"]


def test_the_private_address_of_an_association_must_be_the_interfaces(lab: Lab) -> None:
    assert code_of(lab.move_eip, PrivateIpAddress="10.99.99.11") == "InvalidParameterValue"
    assert lab.eip()["NetworkInterfaceId"] == lab.ids.enis["fgt-a-port1"]
    lab.client.assign_private_ip_addresses(
        NetworkInterfaceId=lab.ids.enis["fgt-b-port1"], PrivateIpAddresses=["10.99.99.11"]
    )
    for address in ("10.99.99.11", "10.99.99.10"):
        lab.move_eip(PrivateIpAddress=address)
        assert lab.eip()["NetworkInterfaceId"] == lab.ids.enis["fgt-b-port1"]
        assert lab.eip()["PrivateIpAddress"] == address


def secondary(lab: Lab, name: str) -> list[str]:
    return [one["PrivateIpAddress"] for one in lab.eni(name)["PrivateIpAddresses"] if not one["Primary"]]


def test_a_secondary_address_moves_when_told_to_and_takes_its_eip_along(lab: Lab) -> None:
    def assign(to: str, **more: Any) -> None:
        lab.client.assign_private_ip_addresses(
            NetworkInterfaceId=lab.ids.enis[to], PrivateIpAddresses=["10.99.99.92"], **more
        )

    assign("fgt-a-port1")
    lab.move_eip("fgt-a-port1", PrivateIpAddress="10.99.99.92")
    assert code_of(assign, "fgt-b-port1") == "InvalidParameterValue"
    assert (secondary(lab, "fgt-a-port1"), secondary(lab, "fgt-b-port1")) == (["10.99.99.92"], [])
    lab.changes.clear()
    assign("fgt-b-port1", AllowReassignment=True)
    assert (secondary(lab, "fgt-a-port1"), secondary(lab, "fgt-b-port1")) == ([], ["10.99.99.92"])
    assert lab.eip()["NetworkInterfaceId"] == lab.ids.enis["fgt-b-port1"]
    assert lab.eip()["PrivateIpAddress"] == "10.99.99.92"
    assert lab.eip()["InstanceId"] == lab.ids.instances["fgt-b"]
    assert "Association" not in lab.eni("fgt-a-port1")
    assert lab.eni("fgt-b-port1")["Association"]["PublicIp"] == CLUSTER_EIP
    assert lab.changes == ["AssignPrivateIpAddresses"]


def test_an_eip_on_the_primary_address_stays_when_a_secondary_one_moves(lab: Lab) -> None:
    enis = [lab.ids.enis[name] for name in ("fgt-a-port1", "fgt-b-port1")]
    for eni in enis:
        lab.client.assign_private_ip_addresses(
            NetworkInterfaceId=eni, PrivateIpAddresses=["10.99.99.92"], AllowReassignment=True
        )
    assert secondary(lab, "fgt-b-port1") == ["10.99.99.92"]
    assert lab.eip()["NetworkInterfaceId"] == enis[0]


def test_a_dry_run_changes_nothing(lab: Lab) -> None:
    assert code_of(lab.replace_route, DryRun=True) == "DryRunOperation"
    assert code_of(lab.move_eip, DryRun=True) == "DryRunOperation"
    assert lab.route()["NetworkInterfaceId"] == lab.ids.enis["fgt-a-port2"]
    assert lab.eip()["NetworkInterfaceId"] == lab.ids.enis["fgt-a-port1"]
    assert lab.changes == []


def test_a_route_cannot_be_created_twice_nor_replaced_when_absent(lab: Lab) -> None:
    transit = lab.ids.route_tables["transit"]
    target = {"RouteTableId": transit, "NetworkInterfaceId": lab.ids.enis["fgt-b-port2"]}
    assert code_of(lab.client.create_route, DestinationCidrBlock="0.0.0.0/0", **target) == "RouteAlreadyExists"
    assert lab.route()["NetworkInterfaceId"] == lab.ids.enis["fgt-a-port2"]
    assert code_of(lab.client.replace_route, DestinationCidrBlock="10.1.0.0/16", **target) == "InvalidParameterValue"


def test_a_route_to_a_stopped_instance_or_a_deleted_interface_is_a_black_hole(lab: Lab) -> None:
    assert lab.route()["State"] == "active"
    lab.client.stop_instances(InstanceIds=[lab.ids.instances["fgt-a"]])
    assert lab.route()["State"] == "blackhole"
    lab.client.start_instances(InstanceIds=[lab.ids.instances["fgt-a"]])
    assert lab.route()["State"] == "active"
    lab.client.delete_network_interface(NetworkInterfaceId=lab.ids.enis["fgt-a-port2"])
    assert lab.route()["State"] == "blackhole"


def test_only_changes_that_succeeded_are_told(lab: Lab) -> None:
    lab.client.describe_addresses()
    code_of(lab.client.replace_route, RouteTableId="rtb-0", DestinationCidrBlock="0.0.0.0/0", GatewayId=lab.ids.igw)
    assert lab.changes == []
    lab.move_eip()
    assert lab.changes == ["AssociateAddress"]


class Nothing:
    """A data plane that takes everything."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], str | None] = {}

    def set_route(self, table: str, destination: str, target: str | None) -> None:
        self.routes[table, destination] = target

    def set_eips(self, mapping: object) -> None:
        pass


def test_a_lab_may_start_with_faults_and_with_a_rewritten_edge_route(tmp_path: Path) -> None:
    rule = {"kind": "denied", "caller": "fgt-*", "actions": ["ReplaceRoute"]}
    plan = Plan("unused-", tmp_path, LabOptions(api_faults=(rule,), edge="taken", api_latency_ms=0))
    plane = Nothing()
    cloud, fabric, ids = raise_cloud(plan, [socket.create_server(("127.0.0.1", 0))], plane)
    try:
        assert [(one["kind"], one["caller"]) for one in cloud.faults.book.to_document()] == [("denied", "fgt-*")]
        assert plane.routes["edge", "10.99.99.32/28"] == "fgt-a-port4", "the other unit's management subnet"
        assert CloudIds.load(plan.cloud_file).route_tables["edge"] == ids.route_tables["edge"]
    finally:
        fabric.stop()
        cloud.close()


def test_somebody_may_point_a_route_elsewhere(tmp_path: Path) -> None:
    plan = Plan("unused-", tmp_path, LabOptions(edge="ingress"))
    plane = Nothing()
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    cloud, fabric, ids = raise_cloud(plan, [listener], plane)
    try:
        raised = RaisedLab(plan, Record(endpoint_url=url))
        raised.set_route("10.99.98.0/26", "fgt-a-port2")
        raised.set_route("10.99.99.0/28", "fgt-b-port1", "edge")
        asked = lab_client(url, "lab").describe_route_tables(RouteTableIds=[ids.route_tables["edge"]])
        targets = {
            one["DestinationCidrBlock"]: one.get("NetworkInterfaceId") for one in asked["RouteTables"][0]["Routes"]
        }
        assert targets["10.99.99.0/28"] == ids.enis["fgt-b-port1"]
        told = [(one.event, one.detail["table"]) for one in raised.events() if one.event.startswith("route_")]
        assert told == [("route_added", "transit"), ("route_rewritten", "edge")]
        cloud.faults.book.replace([FaultRule("denied", "operator")])
        with pytest.raises(LabError, match="sets no route"):
            raised.set_route("10.99.97.0/24", "fgt-a-port2")
    finally:
        fabric.stop()
        cloud.close()


# ---------------------------------------------------------------------- the process, in its namespace


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")
def test_the_routers_obey_a_take_over_made_through_the_cloud(tmp_path: Path) -> None:
    plan = Plan("hptc-", tmp_path, LabOptions(api_latency_ms=100, propagation_ms=80))
    plan.save()
    topology.destroy(plan)
    process: subprocess.Popen[bytes] | None = None
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        topology.create(plan)
        topology.set_eips(plan, {})  # the cloud has to bring its own
        fd = listener.fileno()
        argv = [sys.executable, "-m", "probe.lab.cloud", "--plan", str(plan.file), "--listen-fd", str(fd)]
        process = subprocess.Popen(namespace.command_inside(plan.namespace_path("cloud"), argv), pass_fds=[fd])
        deadline = time.monotonic() + 20
        while not plan.cloud_file.exists():
            assert process.poll() is None, "the cloud has died"
            assert time.monotonic() < deadline, "the cloud is not ready in time"
            time.sleep(0.02)
        assert topology.eips(plan)[CLUSTER_EIP] == "10.99.99.90"
        assert topology.routes(plan)["transit"] == {"0.0.0.0/0": "fgt-a-port2"}
        assert len(lab_client(url, "lab").describe_addresses()["Addresses"]) == 3, "answers in the root namespace"

        def take_over() -> bool:
            return Awsd(plan, "fgt-b", CLOUD_URL).take_over()

        assert namespace.inside(plan.namespace_path("fgt-b"), take_over)
        while len(applied := [e for e in read_events(plan) if e.event == "applied"]) < 2:
            assert time.monotonic() < deadline, "the data plane does not follow"
            time.sleep(0.02)
        assert topology.eips(plan)[CLUSTER_EIP] == "10.99.99.10"
        assert topology.routes(plan)["transit"] == {"0.0.0.0/0": "fgt-b-port2"}
        assert [event.detail["what"] for event in applied] == ["eip", "route"]
        calls = {e.detail["operation"]: e for e in read_events(plan) if e.event == "api_call"}
        for event, operation in zip(applied, ("AssociateAddress", "ReplaceRoute"), strict=True):
            answered_ns = calls[operation].at_ns + round(calls[operation].detail["duration_ms"] * 1e6)
            assert event.at_ns > answered_ns, "packets follow the cloud, never precede it"
    finally:
        listener.close()
        if process is not None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        topology.destroy(plan)
