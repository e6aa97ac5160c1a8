"""awsd: what it calls, in which order, what it says, and what it does when a call fails."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from probe.core.events import TimelineEvent
from probe.lab import awsd as module
from probe.lab.awsd import Awsd
from probe.lab.client import PATIENT_S, lab_client
from probe.lab.cloud import Cloud, seed
from probe.lab.faults import FaultRule
from probe.lab.ids import CloudIds
from probe.lab.plan import CLUSTER_EIP, LabOptions, Plan
from probe.lab.state import read_events

OPERATIONS = ["DescribeInstances", "DescribeAddresses", "AssociateAddress", "DescribeRouteTables", "ReplaceRoute"]


class Lab(NamedTuple):
    plan: Plan
    cloud: Cloud
    url: str
    ids: CloudIds
    client: Any

    def awsd(self, unit: str = "fgt-b") -> Awsd:
        return Awsd(self.plan, unit, self.url)

    def calls(self) -> list[TimelineEvent]:
        return [event for event in read_events(self.plan) if event.event == "api_call"]

    def log(self, unit: str = "fgt-b") -> list[str]:
        return (self.plan.state / f"{unit}-awsd.log").read_text().splitlines()

    def fault(self, kind: Any, *actions: str, **more: Any) -> None:
        self.cloud.faults.book.replace([FaultRule(kind, "fgt-b", actions, **more)])

    def owners(self) -> tuple[str | None, str | None]:
        """Names of the interfaces that the cluster EIP and the transit route point at."""
        eips = self.client.describe_addresses(AllocationIds=[self.ids.allocations["cluster"]])["Addresses"]
        tables = self.client.describe_route_tables(RouteTableIds=[self.ids.route_tables["transit"]])["RouteTables"]
        (route,) = [one for one in tables[0]["Routes"] if one["DestinationCidrBlock"] == "0.0.0.0/0"]
        return self.ids.eni_name(eips[0]["NetworkInterfaceId"]), self.ids.eni_name(route["NetworkInterfaceId"])


@pytest.fixture(name="lab")
def _lab(tmp_path: Path) -> Iterator[Lab]:
    cloud = Cloud()
    url = cloud.serve(socket.create_server(("127.0.0.1", 0)))
    client = lab_client(url, "lab", read_timeout_s=PATIENT_S)
    plan = Plan("unused-", tmp_path)
    ids = seed(client)
    ids.save(plan.cloud_file)
    yield Lab(plan, cloud, url, ids, client)
    cloud.close()


def test_making_it_calls_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        Awsd(Plan("unused-", Path("/nonexistent")), "fgt-b", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_everything_moves_eips_first_one_call_after_another(lab: Lab) -> None:
    assert lab.awsd().take_over()
    assert lab.owners() == ("fgt-b-port1", "fgt-b-port2")
    calls = lab.calls()
    assert [call.detail["operation"] for call in calls] == OPERATIONS
    assert {(call.source, call.detail["unit"], call.detail["result"]) for call in calls} == {("lab", "fgt-b", "ok")}
    assert calls[2].detail["target"] == CLUSTER_EIP
    assert calls[4].detail["target"] == f"{lab.ids.route_tables['transit']} 0.0.0.0/0"
    for earlier, later in itertools.pairwise(calls):
        assert later.at_ns >= earlier.at_ns + int(earlier.detail["duration_ms"] * 1e6) - 1_000_000


def test_management_eips_stay_with_their_units(lab: Lab) -> None:
    lab.awsd().take_over()
    addresses = {one["PublicIp"]: one["PrivateIpAddress"] for one in lab.client.describe_addresses()["Addresses"]}
    assert addresses == {CLUSTER_EIP: "10.99.99.10", "203.0.113.11": "10.99.99.122", "203.0.113.12": "10.99.99.42"}


def test_the_log_is_the_firewalls(lab: Lab) -> None:
    lab.awsd().take_over()
    eni1, eni2 = lab.ids.enis["fgt-b-port1"], lab.ids.enis["fgt-b-port2"]
    table = lab.ids.route_tables["transit"]
    log = lab.log()
    assert log[:4] == [
        "HA event",
        "HA state: primary",
        "send_vip_arp: vd root primary 1 intf port1 ip 10.99.99.10",
        "send_vip_arp: vd root primary 1 intf port2 ip 10.99.99.26",
    ]
    assert [line.split()[2] for line in log[4:8]] == ["iam", "instance", "region", "vpc"]
    assert log[8:] == [
        "awsd checking ha status for vdom root",
        "awsd checking elastic ip for port1",
        f"awsd associate elastic ip {CLUSTER_EIP} to 10.99.99.10 of eni {eni1}",
        f"awsd associate elastic ip {CLUSTER_EIP} successfully",
        "awsd checking elastic ip for port2",
        f"awsd checking route table {table}",
        f"awsd update route table {table}, replace route of dst 0.0.0.0/0 to {eni2}",
        "awsd update route successfully",
    ]


def test_every_route_of_the_vpc_that_points_at_the_peer_is_replaced(lab: Lab) -> None:
    edge = lab.client.create_route_table(VpcId=lab.ids.vpc)["RouteTable"]["RouteTableId"]
    for destination, port in (("10.99.99.64/28", "port1"), ("10.99.99.144/28", "port2"), ("10.9.0.0/16", "port4")):
        eni = lab.ids.enis[f"fgt-a-{port}"]
        lab.client.create_route(RouteTableId=edge, DestinationCidrBlock=destination, NetworkInterfaceId=eni)
    lab.awsd().take_over()
    (table,) = lab.client.describe_route_tables(RouteTableIds=[edge])["RouteTables"]
    moved = {r["DestinationCidrBlock"]: lab.ids.eni_name(r.get("NetworkInterfaceId", "")) for r in table["Routes"]}
    # The management interface, too: a surprise of the real daemon that has cut standby units off.
    assert moved["10.99.99.64/28"] == "fgt-b-port1"
    assert moved["10.99.99.144/28"] == "fgt-b-port2"
    assert moved["10.9.0.0/16"] == "fgt-b-port4"
    assert lab.log().count(f"awsd checking route table {edge}") == 1


def test_nothing_to_move_is_no_failure_and_changes_nothing(lab: Lab) -> None:
    assert lab.awsd("fgt-a").take_over()
    assert [call.detail["operation"] for call in lab.calls()] == [
        "DescribeInstances",
        "DescribeAddresses",
        "DescribeRouteTables",
    ]


def test_a_denied_eip_does_not_stop_the_routes(lab: Lab) -> None:
    lab.fault("denied", "AssociateAddress")
    assert not lab.awsd().take_over()
    assert lab.owners() == ("fgt-a-port1", "fgt-b-port2")
    failed = {c.detail["operation"]: c.detail["error"] for c in lab.calls() if c.detail["result"] == "error"}
    assert failed == {"AssociateAddress": "UnauthorizedOperation"}
    log = lab.log()
    at = log.index("aws curl response err, 403")
    assert log[at - 1].startswith(f"awsd associate elastic ip {CLUSTER_EIP} to ")
    assert re.fullmatch(
        r"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>.+</Message></Error></Errors>"
        r"<RequestID>.*</RequestID></Response>",
        log[at + 2],
    )
    assert not [line for line in log if re.match(r"awsd associate elastic ip \S+ successfully", line)]
    assert log[-1] == "awsd update route successfully"


def test_a_throttled_route_is_reported_and_not_retried(lab: Lab) -> None:
    lab.fault("throttled", "ReplaceRoute")
    assert not lab.awsd().take_over()
    assert lab.owners() == ("fgt-b-port1", "fgt-a-port2")
    assert lab.log()[-3] == "aws curl response err, 503"
    assert [call.detail["operation"] for call in lab.calls()].count("ReplaceRoute") == 1


def test_a_lost_call_costs_its_timeout_and_the_rest_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.3)
    lab.fault("lost", "AssociateAddress", delay_ms=5_000)
    assert not lab.awsd().take_over()
    assert lab.owners() == ("fgt-a-port1", "fgt-b-port2")
    (lost,) = [call for call in lab.calls() if call.detail["result"] == "error"]
    assert lost.detail["error"] == "timeout"
    assert 300 <= lost.detail["duration_ms"] < 3_000
    assert "aws curl response err, 0" in lab.log()


def test_without_its_own_description_nothing_can_be_done(lab: Lab) -> None:
    lab.fault("denied", "DescribeInstances")
    assert not lab.awsd().take_over()
    assert lab.owners() == ("fgt-a-port1", "fgt-a-port2")


def test_a_unit_that_stands_down_makes_no_further_call(lab: Lab) -> None:
    lab.fault("slow", "DescribeAddresses", delay_ms=400)
    awsd = lab.awsd()
    thread = threading.Thread(target=awsd.take_over)
    thread.start()
    deadline = time.monotonic() + 10
    while not lab.cloud.faults.book.to_document()[0]["applied"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    awsd.stand_down()
    thread.join()
    assert lab.owners() == ("fgt-a-port1", "fgt-a-port2")
    assert lab.log()[-1] == "awsd running in secondary mode, won't update"


def test_nothing_of_the_users_aws_settings_reaches_the_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        "import sys; from probe.lab.client import lab_client; c = lab_client('http://127.0.0.1:1', 'fgt-a');"
        "print(c._get_credentials().access_key, c.meta.region_name, c.meta.endpoint_url)"
    )
    (tmp_path / "config").write_text("[profile other]\nregion = us-east-1\nendpoint_url = http://192.0.2.1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "real")
    for profile in ("other", "absent"):
        monkeypatch.setenv("AWS_PROFILE", profile)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["fgt-a", "eu-west-2", "http://127.0.0.1:1"]


def test_a_name_that_is_not_resolved_asks_nobody(lab: Lab) -> None:
    deaf = lab._replace(plan=replace(lab.plan, options=LabOptions(awsd_dns=False)))
    assert not deaf.awsd().take_over()
    (call,) = lab.calls()
    assert (call.detail["operation"], call.detail["error"]) == ("DescribeInstances", "dns")
    assert lab.log()[-1] == "aws curl response err, 0"
    assert lab.owners() == ("fgt-a-port1", "fgt-a-port2")


def test_a_forgotten_table_is_left_alone(lab: Lab) -> None:
    blind = lab._replace(plan=replace(lab.plan, options=LabOptions(forgotten_tables=("transit",))))
    assert blind.awsd().take_over(), "awsd knows of nothing that it did not do"
    assert lab.owners() == ("fgt-b-port1", "fgt-a-port2")
    assert "ReplaceRoute" not in [call.detail["operation"] for call in lab.calls()]
