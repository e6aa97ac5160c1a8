"""EC2 as a watcher asks it: the four questions, what they may cost, and what each call was like.

Raw answers become the records of `core.ha` here; when to ask and what a difference means is for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from probe.core.ha import EipOwner, Kind, PrivateIpOwner, RouteTarget
from probe.export.view import ApiCalls
from probe.watch.access import Access, TooLongError

MAX_PAGES = 500  # of one answer; a server may name a next one for ever
BUCKET_EDGES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, float("inf"))
OPERATIONS: dict[Kind, str] = {
    "eip": "DescribeAddresses",
    "route": "DescribeRouteTables",
    "private_ip": "DescribeNetworkInterfaces",
    "instance": "DescribeInstances",
}
# The account's token bucket of each operation in a region: (calls at once, refill per second), shared by everybody who
# asks. The last two are the smaller figures that EC2 publishes for questions it takes as unfiltered.
API_BUCKETS: dict[Kind, tuple[float, float]] = {
    "eip": (100, 20),
    "route": (100, 20),
    "private_ip": (50, 10),
    "instance": (50, 10),
}


class AwsWatcherConfig(Access, Protocol):
    """What the watcher reads of its configuration (`watchers.aws` in the config file)."""

    @property
    def addresses(self) -> list[str]:
        """Allocation ids."""

    @property
    def route_tables(self) -> list[str]: ...
    @property
    def network_interfaces(self) -> list[str]: ...
    @property
    def units(self) -> dict[str, list[str]]:
        """Unit name to interface ids."""

    @property
    def instances(self) -> dict[str, str]:
        """Unit name to instance id."""

    @property
    def interval(self) -> float:
        """Seconds."""

    @property
    def fast_interval(self) -> float:
        """Seconds."""

    @property
    def api_share(self) -> float:
        """Of each operation's bucket, more than 0 and up to 1."""


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
            if a["AllocationId"] in ids
        }
    }


def read_routes(client: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Ask where the routes of these tables point: `HaSnapshot.routes`, under that name."""
    routes: dict[tuple[str, str], RouteTarget] = {}
    for table in pages(client.describe_route_tables, {"RouteTableIds": list(ids)}, "RouteTables"):
        for route in table["Routes"]:
            target = target_of(route)
            if target != "local":  # cannot be moved
                routes[table["RouteTableId"], destination_of(route)] = RouteTarget(target, route.get("State", "active"))
    return {"routes": routes}


def read_private_ips(client: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Ask for the secondary addresses of these interfaces: `HaSnapshot.private_ips`, under that name."""
    # Primary addresses never leave their interface, so only the secondary ones tell who is active.
    owners: dict[str, PrivateIpOwner] = {}
    for eni in pages(client.describe_network_interfaces, {"NetworkInterfaceIds": list(ids)}, "NetworkInterfaces"):
        for address in eni.get("PrivateIpAddresses") or ():  # an interface may have IPv6 alone
            if not address.get("Primary"):
                public_ip = (address.get("Association") or {}).get("PublicIp", "")
                owners[address["PrivateIpAddress"]] = PrivateIpOwner(eni["NetworkInterfaceId"], public_ip)
    return {"private_ips": owners}


def read_instances(client: Any, ids: Sequence[str]) -> dict[str, Any]:
    """Ask for the state of these instances: `HaSnapshot.instances`, under that name."""
    reservations = pages(client.describe_instances, {"InstanceIds": list(ids)}, "Reservations")
    return {"instances": {i["InstanceId"]: i["State"]["Name"] for r in reservations for i in r["Instances"]}}


# Each gives the fields of a HaSnapshot that it has an answer for.
READ: dict[Kind, Callable[[Any, Sequence[str]], dict[str, Any]]] = {
    "eip": read_eips,
    "route": read_routes,
    "private_ip": read_private_ips,
    "instance": read_instances,
}


def pages(call: Callable[..., Mapping[str, Any]], arguments: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Everything under `key` of an answer and those that follow it.

    Raises:
        TooLongError: If there is no end of them.
    """
    answer = call(**arguments)
    yield from answer[key]
    for _ in range(MAX_PAGES):
        if not (token := answer.get("NextToken")):
            return
        answer = call(NextToken=token, **arguments)
        yield from answer[key]
    raise TooLongError(limit=MAX_PAGES, what="pages")


def destination_of(route: Mapping[str, Any]) -> str:
    """What a route is for: a CIDR block or a prefix list."""
    fields = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
    return next((str(route[name]) for name in fields if route.get(name)), "")


def target_of(route: Mapping[str, Any]) -> str:
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
