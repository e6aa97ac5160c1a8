"""The shipped policies against what is really called: every way into AWS driven once, and the code read for others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest

from probe import cli
from probe.drill.triggers_aws import InstanceTrigger
from probe.watch import cloudtrail, iam
from probe.watch.access import Account
from probe.watch.aws import AwsWatcher
from probe.watch.discover import Wanted, discover

from .account import Config, Lab, warm_sts
from .trail import a_trail, record

PROBE = Path(__file__).parent.parent.parent / "probe"
ROLE = "arn:aws:iam::123456789012:role/haprobe"


@pytest.fixture(name="called")
def _called(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Every operation that any botocore client of this process is about to send, as its IAM action."""
    called: set[str] = set()
    create = botocore.session.Session.create_client

    def note(model: Any, **_: Any) -> None:
        called.add(f"{model.service_model.service_name}:{model.name}")

    def recording(self: Any, *args: Any, **kwargs: Any) -> Any:
        client = create(self, *args, **kwargs)
        if kwargs.get("aws_access_key_id") not in ("lab", "fabric"):  # the tests' own
            client.meta.events.register("before-call", note)
        return client

    monkeypatch.setattr(botocore.session.Session, "create_client", recording)
    yield called


def test_what_is_called_is_what_the_policies_allow(
    lab: Lab, called: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", lab.url)
    warm_sts(lab.url)
    enis = [lab.ids.enis[name] for name in ("fgt-a-port1", "fgt-b-port1")]
    config = Config(
        addresses=[lab.ids.allocations["cluster"]],
        route_tables=[lab.ids.route_tables["transit"]],
        network_interfaces=enis,
        units=lab.ids.units(),
        instances=lab.ids.instances,
        endpoint_url=lab.url,
        role_arn=ROLE,
    )
    assert AwsWatcher(config).poll().up
    assert called - set(iam.ASSUME) == set(iam.WATCH)
    assert "sts:AssumeRole" in called

    called.clear()
    account = Account("eu-west-2", endpoint_url=lab.url)
    discover(account, Wanted())
    discover(account, Wanted(tuple(lab.ids.instances.values())))
    assert called == set(iam.DISCOVER)

    called.clear()
    for how in ("stop", "reboot"):
        trigger = InstanceTrigger(how, account, lab.ids.instances["fgt-a"], undo=True)  # type: ignore[arg-type]
        trigger.rehearse()
        trigger.fire()
        trigger.revert()
    assert called == {*iam.TRIGGER, *iam.TRIGGER_WATCH}

    called.clear()
    with a_trail(record("ReplaceRoute", 1_700_000_000)) as trail:
        there = Account("eu-west-2", endpoint_url=trail.url)
        cloudtrail.look_up(there, 1_699_999_000 * 10**9, 1_700_001_000 * 10**9, sleep=lambda s: None)
    assert called == set(iam.BACKFILL)


def test_no_other_call_is_written_anywhere_in_the_code() -> None:
    """Outside the lab, which plays the pair: every name of an API method that is used as one, whoever would call it."""
    session = boto3.session.Session(region_name="eu-west-2", aws_access_key_id="x", aws_secret_access_key="x")
    actions = {
        method: f"{service}:{operation}"
        for service in ("ec2", "cloudtrail", "sts")
        for method, operation in session.client(service).meta.method_to_api_mapping.items()
    }
    written = {
        actions[node.attr]
        for file in PROBE.rglob("*.py")
        if file.relative_to(PROBE).parts[0] != "lab"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in actions
    }
    assert written == iam.ACTIONS - set(iam.ASSUME), "AssumeRole is botocore's own call"


def test_policies_are_least() -> None:
    policies = iam.policies()
    statements = [statement for policy in policies.values() for statement in policy["Statement"]]
    allowed = [action for statement in statements for action in statement["Action"]]
    assert set(allowed) == iam.ACTIONS
    assert not [action for action in allowed if "*" in action]
    (drill,) = [s for s in policies["drill"]["Statement"] if s["Resource"] != "*"]
    assert set(drill["Action"]) == set(iam.TRIGGER)
    assert drill["Condition"] == {"StringEquals": {"aws:ResourceTag/haprobe": "drill"}}
    for statement in statements:
        reads = all(action.split(":")[1].startswith(("Describe", "Lookup")) for action in statement["Action"])
        assert (statement["Resource"] == "*") == reads, "whatever changes something has a resource"


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["discover", "aws", "--policy"]) == 0
    assert '"ec2:DescribeAddresses"' in capsys.readouterr().out
