"""A pair found in an account, and the config that is written for it; every way of not finding one."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from probe import cli, config, yamlfile
from probe.errors import UsageError
from probe.lab.plan import TRANSIT_TABLE
from probe.watch.access import Account
from probe.watch.aws import AwsWatcher
from probe.watch.discover import Wanted, discover
from probe.watch.pair import Pair, analyse, candidates, choose
from probe.watch.pair_config import config_text

from .account import Lab

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def account(lab: Lab) -> Account:
    return Account("eu-west-2", endpoint_url=lab.url)


def written(pair: Pair, access: Account) -> config.AgentConfig:
    return config.from_yaml(yamlfile.parse(config_text(pair, access, NOW), "found.yml"))


# --- the lab's account -----------------------------------------------------------------------------------------------


def test_the_labs_pair_is_found_and_its_config_watches_it(lab: Lab) -> None:
    pair = discover(account(lab), Wanted())
    assert pair.doubts == ()
    assert [unit.management for unit in pair.units] == ["203.0.113.11", "203.0.113.12"]
    assert pair.active == "fgt-a"
    roles = ["public", "private", "heartbeat or unused", "management"]
    assert [[one.role for one in unit.interfaces] for unit in pair.units] == [roles, roles]
    watcher = written(pair, account(lab)).watchers.aws
    assert watcher is not None
    assert watcher.addresses == [lab.ids.allocations["cluster"]], "the management addresses do not move"
    assert watcher.route_tables == [lab.ids.route_tables[TRANSIT_TABLE]]
    assert watcher.units == lab.ids.units()
    assert watcher.instances == lab.ids.instances
    state = AwsWatcher(watcher).poll()
    assert (state.up, state.active_unit) == (True, "fgt-a")


@pytest.mark.parametrize("how", ["ids", "name", "tag"])
def test_it_is_found_by_what_one_knows_of_it(lab: Lab, how: str) -> None:
    vpc = lab.client.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnet = lab.client.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"][0]["SubnetId"]
    tags = [{"Key": "Name", "Value": "fgt-c"}]
    lab.client.run_instances(
        ImageId="ami-1", MinCount=1, MaxCount=1, SubnetId=subnet,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )  # fmt: skip
    ids = tuple(lab.ids.instances.values())
    lab.client.create_tags(Resources=list(ids), Tags=[{"Key": "pair", "Value": "1"}])
    wanted = {"ids": Wanted(ids), "name": Wanted(name="fgt-[ab]"), "tag": Wanted(tags=(("pair", "1"),))}[how]
    if how == "name":
        wanted = Wanted(name="fgt-?", tags=(("pair", "1"),))
    assert {unit.instance for unit in discover(account(lab), wanted).units} == set(ids)


def test_the_command_writes_a_file_that_checks(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "found.yml"
    arguments = ["discover", "aws", "--region", "eu-west-2", "--endpoint-url", lab.url]
    assert cli.main([*arguments, "--out", str(file)]) == 0
    assert cli.main(["run", "--config.check", "--config.file", str(file)]) == 0
    before = file.read_text()
    assert cli.main([*arguments, "--out", str(file)]) == 2
    assert "exists" in capsys.readouterr().err
    assert file.read_text() == before
    assert cli.main([*arguments, "-q"]) == 0
    shown = capsys.readouterr()
    assert lab.ids.allocations["cluster"] in shown.out
    assert shown.err == ""
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert cli.main(["discover", "aws", "--endpoint-url", lab.url, "-q"]) == 0
    assert "region: eu-west-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("DescribeInstances", "ec2:DescribeInstances"),
        ("DescribeImages", "ec2:DescribeImages"),
        ("DescribeAddresses", "ec2:DescribeAddresses"),
        ("DescribeRouteTables", "ec2:DescribeRouteTables"),
    ],
)
def test_a_denied_question_names_its_action(
    lab: Lab, action: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.fault("denied", action)
    assert cli.main(["discover", "aws", "--region", "eu-west-2", "--endpoint-url", lab.url, "-q"]) == 3
    assert f"allow {missing} for these credentials" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "no AWS region"),
        (["--region", "eu-west-2", "--tag", "novalue"], 2, "KEY=VALUE is needed"),
        (
            ["--region", "eu-west-2", "--name", "web-*", "--endpoint-url", "LAB"],
            2,
            "no instance named web-*; two in one",
        ),
        (
            ["--region", "eu-west-2", "--instance", "i-0123456789abcdef0", "--endpoint-url", "LAB"],
            2,
            "InvalidInstanceID",
        ),
        (["--region", "eu-west-2", "--endpoint-url", "http://127.0.0.1:1"], 5, "could not be reached"),
        (["--region", "eu-west-2", "--out", "/no/such/dir/f"], 2, "cannot be written"),
    ],
)
def test_every_way_not_to_find_it(
    lab: Lab, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [lab.url if word == "LAB" else word for word in arguments]
    assert cli.main(["discover", "aws", *given]) == status
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_without_credentials(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert cli.main(["discover", "aws", "--region", "eu-west-2", "--endpoint-url", lab.url]) == 3
    assert "no AWS credentials; give --profile" in capsys.readouterr().err


# --- answers as EC2 gives them ---------------------------------------------------------------------------------------


def instance(unit: str, zone: str = "a", ports: int = 2, secondary: str = "", vpc: str = "vpc-1") -> dict[str, Any]:
    def eni(index: int) -> dict[str, Any]:
        primary = f"10.0.{index}.{ord(unit)}"
        addresses = [{"PrivateIpAddress": primary, "Primary": True}]
        if secondary and index == 0:
            addresses.append({"PrivateIpAddress": secondary, "Primary": False})
        attached = {"Attachment": {"DeviceIndex": index}, "PrivateIpAddress": primary}
        return {"NetworkInterfaceId": f"eni-{unit}{index}", "PrivateIpAddresses": addresses, **attached}

    return {
        "InstanceId": f"i-{unit}",
        "ImageId": "ami-1",
        "VpcId": vpc,
        "State": {"Name": "running"},
        "Placement": {"AvailabilityZone": f"eu-west-2{zone}"},
        "Tags": [{"Key": "Name", "Value": f"unit {unit}"}],
        "NetworkInterfaces": [eni(index) for index in reversed(range(ports))],
    }


def address(number: int, eni: str) -> dict[str, Any]:
    return {"AllocationId": f"eipalloc-{number}", "PublicIp": f"203.0.113.{number}", "NetworkInterfaceId": eni}


def table(table_id: str, eni: str, vpc: str = "vpc-1") -> dict[str, Any]:
    routes = [
        {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local"},
        {"DestinationCidrBlock": "0.0.0.0/0", "NetworkInterfaceId": eni, "State": "active"},
    ]
    return {"RouteTableId": table_id, "VpcId": vpc, "Routes": routes}


def test_a_marketplace_image_is_known_by_its_name() -> None:
    web, fgt = instance("w"), instance("x")
    fgt["ImageId"] = "ami-forti"
    images = {"ami-forti": "FortiGate-VM64-AWS build3596 (7.6.4) GA-1234", "ami-1": "al2023"}
    assert candidates([web, fgt], images) == [fgt]


def test_in_one_zone_the_secondary_addresses_move() -> None:
    pair = analyse("eu-west-2", (instance("a", secondary="10.0.0.100"), instance("b")), [address(1, "eni-a0")], [])
    assert pair.moving_interfaces == ("eni-a0", "eni-b0")
    assert written(pair, Account()).watchers.aws.network_interfaces == ["eni-a0", "eni-b0"]  # type: ignore[union-attr]
    apart = analyse("eu-west-2", (instance("a", secondary="10.0.0.100"), instance("b", "b")), [], [])
    assert apart.moving_interfaces == ()


def test_what_is_not_certain_is_said_in_the_config() -> None:
    stopped = instance("b", ports=3)
    stopped["State"] = {"Name": "stopped"}
    pair = analyse(
        "eu-west-2",
        (instance("a"), stopped),
        [address(1, "eni-a0")],
        [table("rtb-1", "eni-b1"), table("rtb-2", "eni-a1", "vpc-2")],
    )
    text = config_text(pair, Account(profile="it's", role_arn="arn:aws:iam::123456789012:role/x"), NOW)
    for part in (
        "unit-b is stopped, not running",
        "different ports ([0, 1] and [0, 1, 2]",
        "rtb-2 in another VPC",
        "point at different units",
    ):
        assert f"{part}" in text
    assert pair.active == ""
    assert "rtb-2" not in [*pair.tables]
    loaded = config.from_yaml(yamlfile.parse(text, "f.yml")).watchers.aws
    assert loaded is not None
    assert (loaded.profile, loaded.role_arn) == ("it's", "arn:aws:iam::123456789012:role/x")


def test_a_route_at_the_management_port_is_warned_about() -> None:
    both = [address(1, "eni-a1"), address(2, "eni-b1")]
    pair = analyse("eu-west-2", (instance("a"), instance("b")), both, [table("rtb-1", "eni-a1")])
    assert [doubt for doubt in pair.doubts if "looks like the management port" in doubt]


def test_names_that_a_config_does_not_take_are_made_to_fit() -> None:
    first, second = instance("a"), instance("b")
    pair = analyse("eu-west-2", (first, second), [], [])
    assert [unit.name for unit in pair.units] == ["unit-a", "unit-b"]
    alike = copy.deepcopy(second)
    alike["Tags"] = first["Tags"]
    assert [unit.name for unit in analyse("eu-west-2", (first, alike), [], []).units] == ["fgt-a", "fgt-b"]


@pytest.mark.parametrize("vpcs", [["vpc-1"], ["vpc-1", "vpc-2"], ["vpc-1"] * 3, ["vpc-1", "vpc-1", "vpc-2", "vpc-2"]])
def test_what_is_no_pair_is_listed(vpcs: list[str]) -> None:
    found = [instance(chr(97 + n), vpc=vpc) for n, vpc in enumerate(vpcs)]
    with pytest.raises(UsageError) as caught:
        choose(found, "named x")
    for one in found:
        assert one["InstanceId"] in str(caught.value)
    assert "--instance ID --instance ID" in str(caught.value)
