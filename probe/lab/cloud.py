"""The lab's cloud: a real moto server, corrected, with faults in front, and the fabric that makes routers obey it.

    faults -> corrections -> moto

It runs as one process in the namespace "cloud" and listens twice: at the plan's address there, for the
firewalls and the jumphost, and at a socket inherited from the root namespace, for the drill and for curl.
STATE/cloud.json appears when everything is seeded, applied and answering.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # before moto is imported: half a second less

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from probe.lab import plan as lab_plan
from probe.lab.client import PATIENT_S, lab_client
from probe.lab.corrections import Corrections, correct_models
from probe.lab.fabric import DataPlane, Fabric, KernelPlane
from probe.lab.faults import FaultBook, FaultRule, Faults
from probe.lab.ids import CloudIds
from probe.lab.plan import ELASTIC_IPS, REGION, SUBNETS, UNITS, VPC_CIDR, Plan, RouteTable
from probe.lab.query import Call
from probe.lab.state import append_event

log = logging.getLogger(__name__)

ACCOUNT = "123456789012"  # where moto puts the callers whose access key it does not know
IMAGE = "ami-0f0e1d2c3b4a59687"  # moto takes any
FIREWALLS = "fgt-*"


class _QuietHandler(WSGIRequestHandler):
    """No line per request: the fabric alone makes ten a second."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Cloud:
    """The API of one region, in this process; one per process, since moto's state is global.

    Args:
        latency_ms: Caller pattern to milliseconds added to each of its calls.
        book: Fault rules to start with.
    """

    def __init__(self, latency_ms: Mapping[str, int] | None = None, book: FaultBook | None = None):
        correct_models()
        backend = get_backend("ec2")[ACCOUNT][REGION]
        backend.reset()
        self.on_change: Callable[[Call], None] | None = None
        moto = DomainDispatcherApplication(create_backend_app)
        self.faults = Faults(Corrections(moto, backend, self._changed), book, latency_ms)
        self._servers: list[tuple[BaseWSGIServer, threading.Thread]] = []

    def serve(self, listener: socket.socket) -> str:
        """Answer at a listening socket, from threads of our own; returns its URL. The socket is taken over."""
        host, port = listener.getsockname()[:2]
        # With a descriptor werkzeug neither binds nor looks its own name up, which takes long without a resolver.
        server = make_server(
            host, port, self.faults, threaded=True, request_handler=_QuietHandler, fd=listener.fileno()
        )
        listener.close()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=f"cloud {host}:{port}", daemon=True)
        thread.start()
        self._servers.append((server, thread))
        return f"http://{host}:{port}"

    def close(self) -> None:
        """Stop answering; calls held by a fault rule are let go."""
        self.faults.close()
        for server, thread in self._servers:
            server.shutdown()
            server.server_close()
            thread.join()

    def _changed(self, call: Call) -> None:
        if self.on_change is not None:
            self.on_change(call)


def seed(client: Any, plan: Plan | None = None) -> CloudIds:
    """Make everything the plan has, through the API like anybody else.

    Args:
        client: Of the cloud.
        plan: The lab; one with all defaults when None.

    Returns:
        The ids that the cloud gave.
    """
    plan = plan or Plan()
    vpc = client.create_vpc(CidrBlock=VPC_CIDR, **_tags("vpc", "fortigate"))["Vpc"]["VpcId"]
    igw = client.create_internet_gateway(**_tags("internet-gateway", "igw"))["InternetGateway"]["InternetGatewayId"]
    client.attach_internet_gateway(InternetGatewayId=igw, VpcId=vpc)
    tgw = client.create_transit_gateway(Description="tgw")["TransitGateway"]["TransitGatewayId"]
    subnets = {
        one.name: client.create_subnet(
            VpcId=vpc,
            CidrBlock=one.cidr,
            AvailabilityZone=SUBNETS[0].az if plan.options.single_az else one.az,
            **_tags("subnet", one.name),
        )["Subnet"]["SubnetId"]
        for one in SUBNETS
    }
    enis, instances = _seed_units(client, plan, subnets)
    targets = {**enis, "igw": igw, "tgw": tgw}
    return CloudIds(
        region=REGION,
        vpc=vpc,
        igw=igw,
        tgw=tgw,
        subnets=subnets,
        enis=enis,
        instances=instances,
        route_tables=_seed_route_tables(client, vpc, subnets, targets, plan.route_tables),
        allocations=_seed_eips(client, plan, enis),
    )


def _seed_units(client: Any, plan: Plan, subnets: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    enis, instances = {}, {}
    for one in plan.enis:
        answer = client.create_network_interface(
            SubnetId=subnets[one.subnet.name],
            PrivateIpAddress=one.address,
            Description=one.name,
            **_tags("network-interface", one.name),
        )
        enis[one.name] = answer["NetworkInterface"]["NetworkInterfaceId"]
        client.modify_network_interface_attribute(NetworkInterfaceId=enis[one.name], SourceDestCheck={"Value": False})
        if one.shared and one.unit == UNITS[0]:
            client.assign_private_ip_addresses(NetworkInterfaceId=enis[one.name], PrivateIpAddresses=[one.shared])
    for unit in UNITS:
        nics = [
            {"DeviceIndex": e.device_index, "NetworkInterfaceId": enis[e.name]} for e in plan.enis if e.unit == unit
        ]
        answer = client.run_instances(
            ImageId=IMAGE,
            InstanceType="c6i.xlarge",
            MinCount=1,
            MaxCount=1,
            NetworkInterfaces=nics,
            **_tags("instance", unit),
        )
        instances[unit] = answer["Instances"][0]["InstanceId"]
    return enis, instances


def _seed_route_tables(
    client: Any, vpc: str, subnets: Mapping[str, str], targets: Mapping[str, str], wanted: Sequence[RouteTable]
) -> dict[str, str]:
    tables = {}
    for table in wanted:
        answer = client.create_route_table(VpcId=vpc, **_tags("route-table", table.name))
        tables[table.name] = answer["RouteTable"]["RouteTableId"]
        for destination, target in table.routes:
            kind = {"igw": "GatewayId", "tgw": "TransitGatewayId"}.get(target, "NetworkInterfaceId")
            client.create_route(
                RouteTableId=tables[table.name], DestinationCidrBlock=destination, **{kind: targets[target]}
            )
    for one in SUBNETS:
        client.associate_route_table(RouteTableId=tables[one.table], SubnetId=subnets[one.name])
    return tables


def _seed_eips(client: Any, plan: Plan, enis: Mapping[str, str]) -> dict[str, str]:
    """Moto draws random addresses, even in 127/8, unless told which: the plan says which."""
    allocations = {}
    for one in ELASTIC_IPS:
        answer = client.allocate_address(Domain="vpc", Address=one.address, **_tags("elastic-ip", one.name))
        allocations[one.name] = answer["AllocationId"]
        client.associate_address(
            AllocationId=allocations[one.name],
            NetworkInterfaceId=enis[one.eni],
            PrivateIpAddress=plan.eni(one.eni).port_address,
        )
    return allocations


def _tags(kind: str, name: str) -> dict[str, Any]:
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]}


def raise_cloud(plan: Plan, listeners: Sequence[socket.socket], plane: DataPlane) -> tuple[Cloud, Fabric, CloudIds]:
    """Everything `python -m probe.lab.cloud` does, in this process.

    Args:
        plan: The lab; STATE/cloud.json and STATE/events.jsonl are written.
        listeners: Sockets to answer at. The fabric talks to the first.
        plane: The data plane that has to obey.
    """
    book = FaultBook([FaultRule.from_document(one) for one in plan.options.api_faults])
    cloud = Cloud({FIREWALLS: plan.options.api_latency_ms}, book)
    urls = [cloud.serve(listener) for listener in listeners]
    url = urls[0]
    ids = seed(lab_client(url, "lab", read_timeout_s=PATIENT_S), plan)
    fabric = Fabric(
        ids,
        lab_client(url, "fabric"),
        plane,
        lambda event: append_event(plan, event),
        plan.options.propagation_ms * 1_000_000,
        [one.name for one in plan.enis if one.shared],
    )
    cloud.on_change = fabric.changed
    fabric.start()
    ids.save(plan.cloud_file)
    return cloud, fabric, ids


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the lab's cloud process; ends by SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m probe.lab.cloud", description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="the lab's plan, as saved by Plan.save")
    parser.add_argument("--state", type=Path, help="the lab's state directory, if not the plan's")
    parser.add_argument("--listen-fd", type=int, help="a listening TCP socket inherited from the root namespace")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")

    plan = Plan.load(options.plan)
    if options.state is not None:
        plan = Plan(plan.prefix, options.state, plan.options)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    listeners = [socket.create_server((lab_plan.CLOUD_ADDRESS, lab_plan.CLOUD_PORT), backlog=64)]
    if options.listen_fd is not None:
        listeners.append(socket.socket(fileno=options.listen_fd))
    cloud, fabric, _ = raise_cloud(plan, listeners, KernelPlane(plan))
    done.wait()
    fabric.stop()
    cloud.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
