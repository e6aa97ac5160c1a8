"""An account with the lab's pair in it: a real moto server, corrected, with faults in front of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config as BotoConfig

from probe.lab.client import PATIENT_S, lab_client
from probe.lab.cloud import Cloud, seed
from probe.lab.faults import FaultRule
from probe.lab.ids import CloudIds


@dataclass
class Config:
    """As `watchers.aws` of the config file."""

    region: str = "eu-west-2"
    addresses: list[str] = field(default_factory=list)
    route_tables: list[str] = field(default_factory=list)
    network_interfaces: list[str] = field(default_factory=list)
    units: dict[str, list[str]] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    endpoint_url: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    api_share: float = 1.0
    interval: float = 60.0
    fast_interval: float = 0.05


@dataclass
class Lab:
    cloud: Cloud
    url: str
    ids: CloudIds
    client: Any

    def config(self, **more: Any) -> Config:
        return Config(
            addresses=[self.ids.allocations["cluster"]],
            route_tables=[self.ids.route_tables["transit"]],
            units=self.ids.units(),
            endpoint_url=self.url,
            **more,
        )

    def move_eip(self, to: str) -> tuple[int, int]:
        """Move the cluster EIP; returns when we asked for it and when it had been done."""
        before = time.time_ns()
        self.client.associate_address(
            AllocationId=self.ids.allocations["cluster"], NetworkInterfaceId=self.ids.enis[to]
        )
        return before, time.time_ns()

    def move_route(self, to: str) -> tuple[int, int]:
        before = time.time_ns()
        self.client.replace_route(
            RouteTableId=self.ids.route_tables["transit"],
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=self.ids.enis[to],
        )
        return before, time.time_ns()

    def fault(self, kind: str, *actions: str, **more: Any) -> None:
        self.cloud.faults.book.replace([FaultRule(kind, "watcher", actions or ("*",), **more)])  # type: ignore[arg-type]

    def heal(self) -> None:
        self.cloud.faults.book.replace([])


def warm_sts(url: str) -> None:
    """Have moto load its STS before a client with a short timeout asks it."""
    patient = BotoConfig(read_timeout=60)
    keys = {"aws_access_key_id": "lab", "aws_secret_access_key": "lab"}
    boto3.client("sts", region_name="eu-west-2", endpoint_url=url, config=patient, **keys).get_caller_identity()


@contextmanager
def an_account() -> Iterator[Lab]:
    """The account, for as long as the block lasts."""
    cloud = Cloud()
    url = cloud.serve(socket.create_server(("127.0.0.1", 0)))
    client = lab_client(url, "lab", read_timeout_s=PATIENT_S)
    try:
        yield Lab(cloud, url, seed(client), client)
    finally:
        cloud.close()
