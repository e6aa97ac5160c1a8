"""Stopping and rebooting an instance, against a real moto server, corrected, with faults in front of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probe.drill.triggers_aws import InstanceTrigger
from probe.errors import HaprobeError, PeerError, PrivilegeError, UsageError
from probe.lab.faults import FaultRule
from probe.watch.access import PATIENT, Account
from tests.watch.account import Lab, an_account


@pytest.fixture(name="lab")
def _lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lab]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "drill")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    with an_account() as lab:
        yield lab


def trigger(lab: Lab, how: Any = "stop", **more: Any) -> InstanceTrigger:
    access = Account(region="eu-west-2", endpoint_url=lab.url)
    return InstanceTrigger(how, access, lab.ids.instances["fgt-a"], unit="fgt-a", **more)


def state(lab: Lab) -> str:
    answer = lab.client.describe_instances(InstanceIds=[lab.ids.instances["fgt-a"]])
    return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])


def test_stop_and_start_again_when_asked(lab: Lab) -> None:
    one = trigger(lab, undo=True)
    assert one.revert() == "", "nothing was stopped yet"
    at_ns = one.fire()
    assert state(lab) == "stopped"
    event = one.event(at_ns)
    assert (event.source, event.detail["instance_id"]) == ("aws", lab.ids.instances["fgt-a"])
    assert at_ns <= event.detail["answered_ns"]
    assert one.undo() == f"aws ec2 start-instances --region eu-west-2 --instance-ids {lab.ids.instances['fgt-a']}"
    assert one.revert() == f"started {lab.ids.instances['fgt-a']} again (it was stopped)"
    assert state(lab) == "running"


def test_stopped_it_stays_unless_asked(lab: Lab) -> None:
    one = trigger(lab)
    one.fire()
    assert one.revert() == ""
    assert state(lab) == "stopped"


def test_an_instance_that_is_still_stopping_is_waited_for() -> None:
    """EC2 takes its time and refuses to start one that is stopping; moto stops at once."""

    class Slow:
        def __init__(self) -> None:
            self.states = ["stopping", "stopping", "stopped"]
            self.started: list[Any] = []

        def stop_instances(self, **asked: Any) -> None:
            assert asked["Force"] is True

        def describe_instances(self, **_: Any) -> Any:
            return {"Reservations": [{"Instances": [{"State": {"Name": self.states.pop(0)}}]}]}

        def start_instances(self, InstanceIds: list[str]) -> None:
            self.started.append(InstanceIds)

    waits: list[float] = []
    one = InstanceTrigger("stop", Account("eu-west-2"), "i-1", undo=True, force=True, sleep=waits.append)
    one._client = client = Slow()
    one.fire()
    assert one.revert() == "started i-1 again (it was stopped)"
    assert (len(waits), client.started) == (2, [["i-1"]])


def test_reboot(lab: Lab) -> None:
    one = trigger(lab, "reboot")
    assert one.kind == "aws-reboot-instance"
    one.fire()
    assert state(lab) == "running"
    assert "nothing to do" in one.undo()
    assert one.revert() == ""


@pytest.mark.parametrize("how", ["stop", "reboot"])
def test_a_rehearsal_asks_ec2_and_changes_nothing(lab: Lab, how: str) -> None:
    assert trigger(lab, how).rehearse().startswith("EC2 would carry out ")
    assert state(lab) == "running"


def test_what_is_denied_names_the_missing_action(lab: Lab) -> None:
    lab.cloud.faults.book.replace([FaultRule("denied", "drill")])
    for act in ("rehearse", "fire"):
        with pytest.raises(PrivilegeError, match="allow ec2:StopInstances"):
            getattr(trigger(lab), act)()
    with pytest.raises(PrivilegeError, match="allow ec2:RebootInstances"):
        trigger(lab, "reboot").fire()
    assert state(lab) == "running"


def test_an_undo_that_fails_says_what_to_do_by_hand(lab: Lab) -> None:
    one = trigger(lab, undo=True)
    one.fire()
    lab.cloud.faults.book.replace([FaultRule("denied", "drill", ("StartInstances",))])
    with pytest.raises(PrivilegeError, match=r"not undone: .*ec2:StartInstances.*by hand: aws ec2 start-instances"):
        one.revert()


def test_no_answer_may_mean_done(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.drill.triggers_aws.PATIENT", replace(PATIENT, read_timeout_s=1.0))
    lab.cloud.faults.book.replace([FaultRule("lost_answer", "drill", delay_ms=20_000)])
    with pytest.raises(PeerError, match=r"may have been carried out\. To undo it: aws ec2 start-instances"):
        trigger(lab).fire()
    lab.heal()
    deadline = time.monotonic() + 30
    while state(lab) != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"region": ""}, UsageError, "no AWS region; give --region"),
        ({"profile": "nobody"}, UsageError, "there is no AWS profile 'nobody'"),
        ({"endpoint_url": "http://127.0.0.1:1"}, PeerError, "could not be reached for ec2:StopInstances"),
    ],
)
def test_no_way_to_ask(lab: Lab, changes: dict[str, Any], kind: type[HaprobeError], said: str) -> None:
    access = replace(Account(region="eu-west-2", endpoint_url=lab.url), **changes)
    with pytest.raises(kind, match=said):
        InstanceTrigger("stop", access, "i-1").fire()
