"""What a FortiGate's awsd does on the unit that has just become primary: addresses first, then routes.

Across zones the Elastic IPs are associated anew. In one zone the secondary private addresses of the data ports are
taken over (AssignPrivateIpAddresses with AllowReassignment), and take their Elastic IPs along; what awsd prints about
that is in no public sample, so the lines here are our own.

Every call is made after the previous one has been answered, as the real daemon does, which is why ingress and
east-west come back at different times. Its log speaks the newer wording of the real one, so that a person, or
a parser, finds what they know from `diagnose debug application awsd -1`.

The real daemon learns its instance id, role, region and VPC from the metadata service; here they come from
STATE/cloud.json. Everything else it asks the cloud.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError, EndpointConnectionError
from urllib3.exceptions import NameResolutionError

from probe.core.events import TimelineEvent
from probe.lab.client import lab_client
from probe.lab.ids import CloudIds
from probe.lab.plan import Plan, peer_of
from probe.lab.state import append_event
from probe.watch.access import result_of

DATA_PORTS = (0, 1)  # device indexes of port1 and port2; an EIP of the management port stays with its unit
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
ROLE = "haprobe-lab-fortigate"


class _Failed(Exception):
    """A call failed; it has been logged and recorded."""


class Awsd:
    """The cloud side of one unit's failover. Make it long before it is needed: that is the slow part.

    Args:
        plan: The lab.
        unit: The unit this runs on; signs its calls by that name.
        endpoint_url: The cloud's API.
        log: File for the daemon's output; STATE/UNIT-awsd.log when None.
        events: Takes an `api_call` event for each call; the lab's event log when None.
    """

    def __init__(
        self,
        plan: Plan,
        unit: str,
        endpoint_url: str,
        log: Path | None = None,
        events: Callable[[TimelineEvent], None] | None = None,
    ):
        self._plan = plan
        self._unit = unit
        self._log = log or plan.state / f"{unit}-awsd.log"
        self._events = events or (lambda event: append_event(plan, event))
        self._client = lab_client(
            endpoint_url, unit, connect_timeout_s=CONNECT_TIMEOUT_S, read_timeout_s=READ_TIMEOUT_S
        )
        self._stood_down = threading.Event()
        self._one_at_a_time = threading.Lock()
        _warm_up(self._client)
        if not plan.options.awsd_dns:
            self._client.meta.events.register("before-send.ec2", _unresolved)

    def stand_down(self) -> None:
        """This unit is secondary (again): a take-over under way ends before its next call."""
        self._stood_down.set()

    def take_over(self) -> bool:
        """Point everything of the other unit's data ports at this one. Takes as long as its calls take.

        A failed call is logged and does not keep the others from being made.

        Returns:
            Whether every call succeeded.
        """
        with self._one_at_a_time:
            self._stood_down.clear()
            self._print("HA event", "HA state: primary")
            for port in ("port1", "port2"):
                address = self._plan.eni_of(self._unit, port).port_address
                self._print(f"send_vip_arp: vd root primary 1 intf {port} ip {address}")
            ids = CloudIds.load(self._plan.cloud_file)
            self._print(
                f"awsd get iam role {ROLE}",
                f"awsd get instance id {ids.instances[self._unit]}",
                f"awsd get region {ids.region}",
                f"awsd get vpc id {ids.vpc}",
                "awsd checking ha status for vdom root",
            )
            try:
                ours, peer = self._interfaces(ids)
            except _Failed:
                return False
            theirs = {eni["NetworkInterfaceId"]: index for index, eni in peer.items()}
            forgotten = {ids.route_tables[name] for name in self._plan.options.forgotten_tables}
            moved = [
                self._move_private_ips(ours, peer),
                self._move_eips(ours, theirs),
                self._move_routes(ids.vpc, ours, theirs, forgotten),
            ]
            return all(moved)

    def _interfaces(self, ids: CloudIds) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
        """Our interfaces and the peer's, by device index."""
        own, peer = ids.instances[self._unit], ids.instances[peer_of(self._unit)]
        with self._call("DescribeInstances", own):
            answer = self._client.describe_instances(InstanceIds=[own, peer])
        found: dict[str, dict[int, dict[str, Any]]] = {own: {}, peer: {}}
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                for eni in instance["NetworkInterfaces"]:
                    found[instance["InstanceId"]][eni["Attachment"]["DeviceIndex"]] = eni
        return found[own], found[peer]

    def _move_private_ips(self, ours: dict[int, dict[str, Any]], peer: dict[int, dict[str, Any]]) -> bool:
        moved = True
        for index in DATA_PORTS:
            for address in peer[index].get("PrivateIpAddresses", ()):
                if not address.get("Primary"):
                    moved = self._move_private_ip(address["PrivateIpAddress"], ours[index]) and moved
        return moved

    def _move_private_ip(self, address: str, to: dict[str, Any]) -> bool:
        eni = to["NetworkInterfaceId"]
        self._print(f"awsd assign private ip {address} to eni {eni}")
        try:
            with self._call("AssignPrivateIpAddresses", address, eni):
                self._client.assign_private_ip_addresses(
                    NetworkInterfaceId=eni, PrivateIpAddresses=[address], AllowReassignment=True
                )
        except _Failed:
            return False
        self._print(f"awsd assign private ip {address} successfully")
        return True

    def _move_eips(self, ours: dict[int, dict[str, Any]], theirs: dict[str, int]) -> bool:
        try:
            with self._call("DescribeAddresses"):
                addresses = self._client.describe_addresses()["Addresses"]
        except _Failed:
            return False
        moved = True
        for index in DATA_PORTS:
            self._print(f"awsd checking elastic ip for port{index + 1}")
            for one in addresses:
                if theirs.get(one.get("NetworkInterfaceId", "")) == index:
                    moved = self._move_eip(one, ours[index]) and moved
        return moved

    def _move_eip(self, eip: dict[str, Any], to: dict[str, Any]) -> bool:
        address, private_ip, eni = eip["PublicIp"], to["PrivateIpAddress"], to["NetworkInterfaceId"]
        self._print(f"awsd associate elastic ip {address} to {private_ip} of eni {eni}")
        try:
            with self._call("AssociateAddress", address, eni):
                self._client.associate_address(
                    AllocationId=eip["AllocationId"],
                    NetworkInterfaceId=eni,
                    PrivateIpAddress=private_ip,
                    AllowReassociation=True,
                )
        except _Failed:
            return False
        self._print(f"awsd associate elastic ip {address} successfully")
        return True

    def _move_routes(
        self, vpc: str, ours: dict[int, dict[str, Any]], theirs: dict[str, int], forgotten: Collection[str]
    ) -> bool:
        try:
            with self._call("DescribeRouteTables"):
                filters = [{"Name": "vpc-id", "Values": [vpc]}]
                tables = self._client.describe_route_tables(Filters=filters)["RouteTables"]
            tables = [one for one in tables if one["RouteTableId"] not in forgotten]
        except _Failed:
            return False
        moved = True
        for table in tables:
            routes = [one for one in table["Routes"] if one.get("NetworkInterfaceId", "") in theirs]
            if routes:
                self._print(f"awsd checking route table {table['RouteTableId']}")
            for route in routes:
                to = ours[theirs[route["NetworkInterfaceId"]]]["NetworkInterfaceId"]
                moved = self._move_route(table["RouteTableId"], route["DestinationCidrBlock"], to) and moved
        return moved

    def _move_route(self, table: str, destination: str, eni: str) -> bool:
        self._print(f"awsd update route table {table}, replace route of dst {destination} to {eni}")
        try:
            with self._call("ReplaceRoute", f"{table} {destination}", eni):
                self._client.replace_route(RouteTableId=table, DestinationCidrBlock=destination, NetworkInterfaceId=eni)
        except _Failed:
            return False
        self._print("awsd update route successfully")
        return True

    @contextmanager
    def _call(self, operation: str, target: str = "", to: str = "") -> Iterator[None]:
        """Around one API call: records it, logs its failure.

        Raises:
            _Failed: If it fails, or is not made any more because this unit stands down.
        """
        if self._stood_down.is_set():
            self._print("awsd running in secondary mode, won't update")
            raise _Failed
        detail = {"unit": self._unit, "operation": operation, "target": target, "to": to, "result": "ok", "error": ""}
        at_ns, started_ns = time.time_ns(), time.monotonic_ns()
        try:
            yield
        except Exception as error:
            detail |= {"result": "error", "error": result_of(error)}
            self._print(*_error_lines(error))
            raise _Failed from error
        finally:
            duration_ms = round((time.monotonic_ns() - started_ns) / 1e6, 3)
            self._events(TimelineEvent(at_ns, "lab", "api_call", 0, {**detail, "duration_ms": duration_ms}))

    def _print(self, *lines: str) -> None:
        with self._log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


def _error_lines(error: Exception) -> list[str]:
    """How the daemon shows a failed call: the HTTP status (0: no answer), and what the API said.

    No public sample shows one during a failover; this is the form known from its SDN connector.
    """
    if not isinstance(error, ClientError):
        return ["aws curl response err, 0"]
    answer = error.response
    code, message = answer["Error"].get("Code", ""), answer["Error"].get("Message", "")
    return [
        f"aws curl response err, {answer['ResponseMetadata'].get('HTTPStatusCode', 0)}",
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        f"<RequestID>{answer['ResponseMetadata'].get('RequestId', '')}</RequestID></Response>",
    ]


def _unresolved(request: Any, **_: Any) -> None:
    """What a name that cannot be resolved comes to, without asking a resolver of this machine.

    Raises:
        EndpointConnectionError: Always.
    """
    host = urlsplit(request.url).hostname or ""
    reason = NameResolutionError(host, None, socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))  # type: ignore[arg-type]
    raise EndpointConnectionError(endpoint_url=request.url, error=reason)


def _warm_up(client: Any) -> None:
    """Run each operation once against a canned answer, so that the first real one pays for no lazy loading."""

    def answer(request: Any, **_: Any) -> AWSResponse:
        response = AWSResponse(request.url, 200, {"Content-Type": "text/xml"}, None)
        response._content = b"<Response><requestId>warm-up</requestId></Response>"
        return response

    client.meta.events.register("before-send.ec2", answer, unique_id="warm-up")
    client.describe_instances(InstanceIds=["i-0"])
    client.describe_addresses()
    client.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": ["vpc-0"]}])
    client.associate_address(
        AllocationId="eipalloc-0", NetworkInterfaceId="eni-0", PrivateIpAddress="192.0.2.1", AllowReassociation=True
    )
    client.assign_private_ip_addresses(
        NetworkInterfaceId="eni-0", PrivateIpAddresses=["192.0.2.1"], AllowReassignment=True
    )
    client.replace_route(RouteTableId="rtb-0", DestinationCidrBlock="0.0.0.0/0", NetworkInterfaceId="eni-0")
    client.meta.events.unregister("before-send.ec2", unique_id="warm-up")
