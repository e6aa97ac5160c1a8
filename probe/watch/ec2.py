"""EC2 as a watcher asks it: a client that fails fast, the three questions, and names for what goes wrong.

Raw answers become the records of `core.ha` here; when to ask and what a difference means is for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import NameResolutionError

from probe.core.ha import EipOwner, Kind, RouteTarget
from probe.export.view import ApiCalls

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 2.0
BUCKET_EDGES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, float("inf"))
OPERATIONS: dict[Kind, str] = {
    "eip": "DescribeAddresses",
    "route": "DescribeRouteTables",
    "private_ip": "DescribeNetworkInterfaces",
}


class AwsWatcherConfig(Protocol):
    """What the watcher reads of its configuration (`watchers.aws` in the config file)."""

    region: str
    addresses: list[str]  # allocation ids
    route_tables: list[str]
    network_interfaces: list[str]
    units: dict[str, list[str]]  # unit name to interface ids
    endpoint_url: str | None
    interval: float  # seconds
    fast_interval: float  # seconds


def make_client(config: AwsWatcherConfig) -> Any:
    """An EC2 client that fails fast and says so: explicit timeouts, one attempt.

    The SDK's own retries would hide in one slow answer what we want to see as failures.
    """
    settings = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent_extra="haprobe",
    )
    # An own session: the module-level default one is not safe to share between threads.
    session = boto3.session.Session(region_name=config.region)
    return session.client("ec2", endpoint_url=config.endpoint_url, config=settings)


def result_of(error: Exception) -> str:
    """A short name for what went wrong: the API's error code, or the way in which it was not reached."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code")
        return str(code or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "error"))
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return "timeout"
    if isinstance(error, EndpointConnectionError):
        return "dns" if isinstance(error.kwargs.get("error"), NameResolutionError) else "unreachable"
    if isinstance(error, ConnectionClosedError):
        return "connection_closed"
    if isinstance(error, SSLError):
        return "tls"
    if isinstance(error, NoCredentialsError):
        return "no_credentials"
    return type(error).__name__


class CallStatistics:
    """Counts and latency of one operation, failures included."""

    def __init__(self, operation: str):
        self.operation = operation
        self._results = {"ok": 0, "timeout": 0}
        self._seconds_sum = 0.0
        self._buckets = [0] * len(BUCKET_EDGES_S)

    def add(self, result: str, seconds: float) -> None:
        self._results[result] = self._results.get(result, 0) + 1
        self._seconds_sum += seconds
        for i, edge in enumerate(BUCKET_EDGES_S):
            self._buckets[i] += seconds <= edge

    def snapshot(self) -> ApiCalls:
        buckets = tuple(zip(BUCKET_EDGES_S, self._buckets, strict=True))
        return ApiCalls(self.operation, dict(self._results), self._seconds_sum, buckets)


def read_eips(client: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Ask who owns these allocations: `HaSnapshot.eips`, under that name."""
    answer = client.describe_addresses(AllocationIds=list(ids))
    return {
        "eips": {
            a["AllocationId"]: EipOwner(
                a.get("PublicIp", ""),
                a.get("NetworkInterfaceId", ""),
                a.get("PrivateIpAddress", ""),
                a.get("AssociationId", ""),
            )
            for a in answer["Addresses"]
        }
    }


def read_routes(client: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Ask where the routes of these tables point: `HaSnapshot.routes`, under that name."""
    routes: dict[tuple[str, str], RouteTarget] = {}
    for table in _pages(client.describe_route_tables, {"RouteTableIds": list(ids)}, "RouteTables"):
        for route in table["Routes"]:
            target = _target(route)
            if target != "local":  # cannot be moved
                routes[table["RouteTableId"], _destination(route)] = RouteTarget(target, route.get("State", "active"))
    return {"routes": routes}


def read_private_ips(client: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Ask for the secondary addresses of these interfaces: `HaSnapshot.private_ips`, under that name."""
    # Primary addresses never leave their interface, so only the secondary ones tell who is active.
    owners: dict[str, str] = {}
    for eni in _pages(client.describe_network_interfaces, {"NetworkInterfaceIds": list(ids)}, "NetworkInterfaces"):
        for address in eni["PrivateIpAddresses"]:
            if not address.get("Primary"):
                owners[address["PrivateIpAddress"]] = eni["NetworkInterfaceId"]
    return {"private_ips": owners}


# Each gives the fields of a HaSnapshot that it has an answer for.
READ: dict[Kind, Callable[[Any, Sequence[str]], dict[str, Any]]] = {
    "eip": read_eips,
    "route": read_routes,
    "private_ip": read_private_ips,
}


def _pages(call: Callable[..., Mapping[str, Any]], arguments: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    answer = call(**arguments)
    yield from answer[key]
    while token := answer.get("NextToken"):
        answer = call(NextToken=token, **arguments)
        yield from answer[key]


def _destination(route: Mapping[str, Any]) -> str:
    fields = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
    return next((str(route[name]) for name in fields if route.get(name)), "")


def _target(route: Mapping[str, Any]) -> str:
    """The id a route points at. The interface comes first: a route to one also names its instance."""
    fields = (
        "NetworkInterfaceId",
        "GatewayId",
        "TransitGatewayId",
        "NatGatewayId",
        "VpcPeeringConnectionId",
        "EgressOnlyInternetGatewayId",
        "LocalGatewayId",
        "CarrierGatewayId",
        "InstanceId",
    )
    return next((str(route[name]) for name in fields if route.get(name)), "")
