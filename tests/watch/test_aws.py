"""The AWS watcher: real boto3 against a real moto server, with faults in front of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from probe.clock import ManualClock
from probe.core.events import TimelineEvent
from probe.export.view import WatcherSnapshot
from probe.lab.faults import FaultRule
from probe.watch import aws
from probe.watch.access import make_client
from probe.watch.aws import AwsWatcher

from .account import Config, Lab


@pytest.fixture(name="events")
def _events() -> list[TimelineEvent]:
    return []


def wait_for(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)
    return value


def named(events: list[TimelineEvent], name: str) -> list[TimelineEvent]:
    return [event for event in events if event.event == name]


def test_the_first_round_shows_who_owns_what(lab: Lab) -> None:
    watcher = AwsWatcher(lab.config())
    assert not watcher.snapshot().up, "nothing is known before the first answer"
    state = watcher.poll()
    assert (state.up, state.reason, state.active_unit) == (True, "", "fgt-a")
    eip, route = state.ownership
    assert eip.kind == "eip"
    assert eip.labels == {"address": "203.0.113.10", "allocation_id": lab.ids.allocations["cluster"]}
    assert (eip.owner, eip.unit) == (lab.ids.enis["fgt-a-port1"], "fgt-a")
    assert route.labels == {"route_table": lab.ids.route_tables["transit"], "destination": "0.0.0.0/0"}
    assert (route.owner, route.unit, route.state) == (lab.ids.enis["fgt-a-port2"], "fgt-a", "active")
    calls = {one.operation: one for one in state.api}
    assert calls.keys() == {"DescribeAddresses", "DescribeRouteTables"}, "what is not configured is not asked"
    assert calls["DescribeAddresses"].results == {"ok": 1, "timeout": 0}
    assert calls["DescribeAddresses"].seconds_buckets[-1] == (float("inf"), 1)
    assert 0 < calls["DescribeAddresses"].seconds_sum < 3


def test_a_failover_is_seen_as_two_changes_whose_intervals_hold_the_truth(
    lab: Lab, events: list[TimelineEvent]
) -> None:
    watcher = AwsWatcher(lab.config(), events.append)
    watcher.poll()
    eip_moved = lab.move_eip("fgt-b-port1")
    assert watcher.poll().active_unit == "", "mid-failover, the signals disagree"
    route_moved = lab.move_route("fgt-b-port2")
    state = watcher.poll()
    assert state.active_unit == "fgt-b"
    assert [event.event for event in events] == ["eip_moved", "signals_disagree", "route_moved", "signals_agree"]
    for event, (asked_ns, done_ns) in zip(events[::2], (eip_moved, route_moved), strict=True):
        assert event.source == "aws"
        assert (event.detail["from_unit"], event.detail["to_unit"]) == ("fgt-a", "fgt-b")
        # The true instant lies in [asked, done], and that whole span lies in the interval.
        assert event.at_ns - event.uncertainty_ns <= asked_ns
        assert done_ns <= event.at_ns + event.uncertainty_ns
    assert [one.last_change_ns for one in state.ownership] == [event.at_ns for event in events[::2]]
    split, agreed = events[1::2]
    route = f"route {lab.ids.route_tables['transit']} 0.0.0.0/0"
    assert split.detail["signals"] == {"eip 203.0.113.10": "fgt-b", route: "fgt-a"}, "each signal as it is"
    assert (split.detail["unit"], split.at_ns, split.uncertainty_ns) == ("", events[0].at_ns, events[0].uncertainty_ns)
    assert (agreed.detail["unit"], agreed.at_ns) == ("fgt-b", events[2].at_ns)
    assert state.signals == {"eip 203.0.113.10": "fgt-b", route: "fgt-b"}


def test_a_secondary_private_address_is_watched(lab: Lab, events: list[TimelineEvent]) -> None:
    enis = [lab.ids.enis["fgt-a-port1"], lab.ids.enis["fgt-b-port1"]]
    lab.client.assign_private_ip_addresses(NetworkInterfaceId=enis[0], PrivateIpAddresses=["10.99.99.92"])
    config = replace(lab.config(), addresses=[], route_tables=[], network_interfaces=enis)
    watcher = AwsWatcher(config, events.append)
    state = watcher.poll()
    assert [(one.labels["address"], one.unit) for one in state.ownership] == [("10.99.99.92", "fgt-a")]
    lab.client.unassign_private_ip_addresses(NetworkInterfaceId=enis[0], PrivateIpAddresses=["10.99.99.92"])
    lab.client.assign_private_ip_addresses(NetworkInterfaceId=enis[1], PrivateIpAddresses=["10.99.99.92"])
    assert watcher.poll().active_unit == "fgt-b"
    assert [event.event for event in events] == ["private_ip_moved", "signals_agree"]


def test_an_elastic_ip_comes_along_with_its_secondary_address(events: list[TimelineEvent]) -> None:
    """Recorded shape of EC2's answer: moto never fills a secondary address's Association."""

    class Moving:
        holder = "eni-a1"

        def describe_network_interfaces(self, **asked: Any) -> dict[str, Any]:
            assert asked == {"NetworkInterfaceIds": ["eni-a1", "eni-b1"]}
            secondary = {"PrivateIpAddress": "10.0.0.9", "Primary": False, "Association": {"PublicIp": "203.0.113.9"}}
            return {
                "NetworkInterfaces": [
                    {
                        "NetworkInterfaceId": eni,
                        "PrivateIpAddresses": [
                            {"PrivateIpAddress": f"10.0.0.{n}", "Primary": True},
                            *([secondary] if eni == self.holder else []),
                        ],
                    }
                    for n, eni in enumerate(("eni-a1", "eni-b1"), 1)
                ]
            }

    client = Moving()
    config = Config(network_interfaces=["eni-a1", "eni-b1"], units={"fgt-a": ["eni-a1"], "fgt-b": ["eni-b1"]})
    watcher = AwsWatcher(config, events.append, client=client)
    (owned,) = watcher.poll().ownership
    assert (owned.labels, owned.unit) == ({"address": "10.0.0.9", "public_ip": "203.0.113.9"}, "fgt-a")
    client.holder = "eni-b1"
    assert watcher.poll().active_unit == "fgt-b"
    assert events[0].event == "private_ip_moved"
    assert events[0].detail["public_ip"] == "203.0.113.9"


def test_an_instance_that_stops_is_seen_with_the_black_hole_it_leaves(lab: Lab, events: list[TimelineEvent]) -> None:
    watcher = AwsWatcher(replace(lab.config(), instances=lab.ids.instances), events.append)
    first = watcher.poll()
    states = {one.labels["instance"]: (one.unit, one.state) for one in first.ownership if one.kind == "instance"}
    assert states == {i: (unit, "running") for unit, i in lab.ids.instances.items()}
    assert first.active_unit == "fgt-a", "an instance that runs is no signal"
    lab.client.stop_instances(InstanceIds=[lab.ids.instances["fgt-a"]])
    assert watcher.poll().active_unit == ""
    changed = {event.event: event for event in events}
    assert changed.keys() == {"route_state_changed", "instance_state_changed", "signals_disagree"}
    assert (changed["instance_state_changed"].detail["unit"], changed["instance_state_changed"].detail["to"]) == (
        "fgt-a",
        "stopped",
    )


def test_a_question_whose_share_is_spent_keeps_its_last_answer(lab: Lab, events: list[TimelineEvent]) -> None:
    clock = ManualClock()
    # A hundredth of the smaller bucket is one call, and a tenth of one per second.
    config = replace(lab.config(), instances=lab.ids.instances, api_share=0.01)
    watcher = AwsWatcher(config, events.append, clock=clock)
    watcher.poll()
    clock.advance(250_000_000)
    state = watcher.poll()
    assert (state.up, state.active_unit, len(state.ownership)) == (True, "fgt-a", 4)
    assert {one.operation: one.results["ok"] for one in state.api} == {
        "DescribeAddresses": 1,
        "DescribeRouteTables": 1,
        "DescribeInstances": 1,
    }
    clock.advance(5_000_000_000)  # a fifth of a call per second for the larger buckets, a tenth for the smaller
    calls = {one.operation: one.results["ok"] for one in watcher.poll().api}
    assert calls == {"DescribeAddresses": 2, "DescribeRouteTables": 2, "DescribeInstances": 1}


def test_a_failure_stays_one_until_its_question_is_answered(lab: Lab) -> None:
    """A round that may not ask again must not pass for a good one."""
    clock = ManualClock()
    watcher = AwsWatcher(replace(lab.config(), api_share=0.01), clock=clock)
    lab.fault("denied", "DescribeRouteTables")
    reason = "UnauthorizedOperation (DescribeRouteTables)"
    assert watcher.poll().reason == reason
    lab.heal()
    clock.advance(250_000_000)
    assert watcher.poll().reason == reason
    clock.advance(6_000_000_000)
    assert watcher.poll().up


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("denied", "UnauthorizedOperation (DescribeAddresses)"),
        ("throttled", "RequestLimitExceeded (DescribeAddresses)"),
        ("error", "InternalError (DescribeAddresses)"),
    ],
)
def test_a_refusal_is_an_observation(lab: Lab, events: list[TimelineEvent], kind: str, reason: str) -> None:
    watcher = AwsWatcher(lab.config(), events.append)
    seen = watcher.poll()
    lab.fault(kind)
    state = watcher.poll()
    assert (state.up, state.reason, state.active_unit, state.ownership) == (False, reason, "", ())
    assert state.last_success_ns == seen.last_success_ns
    assert watcher.poll().reason == reason
    (down,) = events
    assert (down.event, down.detail["watcher"], down.detail["reason"]) == ("watcher_down", "aws", reason)

    moved = lab.move_eip("fgt-b-port1")
    lab.heal()
    assert watcher.poll().up
    assert [event.event for event in events[1:]] == ["eip_moved", "signals_disagree", "watcher_up"]
    # Blind in between: the interval reaches back to the last answer from before the blindness.
    assert events[1].detail["last_seen_old_ns"] <= seen.last_success_ns
    assert events[1].at_ns - events[1].uncertainty_ns <= moved[0]


def test_one_denied_question_leaves_the_other_answered(lab: Lab, events: list[TimelineEvent]) -> None:
    watcher = AwsWatcher(lab.config(), events.append)
    watcher.poll()
    lab.fault("denied", "DescribeRouteTables")
    lab.move_eip("fgt-b-port1")
    state = watcher.poll()
    assert (state.up, state.ownership) == (False, ())
    assert [event.event for event in events] == ["eip_moved", "signals_disagree", "watcher_down"]
    results = {one.operation: one.results for one in state.api}
    assert results["DescribeRouteTables"] == {"ok": 1, "timeout": 0, "UnauthorizedOperation": 1}
    assert results["DescribeAddresses"]["ok"] == 2


def test_a_lost_call_times_out_once_and_is_not_retried(lab: Lab) -> None:
    watcher = AwsWatcher(lab.config())
    watcher.poll()
    lab.fault("lost", delay_ms=10_000)
    started = time.monotonic()
    state = watcher.poll()
    assert 1.5 < time.monotonic() - started < 4, "one read timeout for the whole round"
    assert (state.up, state.reason) == (False, "timeout (DescribeAddresses)")
    assert [rule["applied"] for rule in lab.cloud.faults.book.to_document()] == [1]


def test_a_server_that_refuses_connections_and_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    config = Config(addresses=["eipalloc-1"], endpoint_url=f"http://127.0.0.1:{port}")
    assert AwsWatcher(config).poll().reason == "unreachable (DescribeAddresses)"

    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    config = Config(addresses=["eipalloc-1"], endpoint_url="http://ec2.test.invalid")
    assert AwsWatcher(config).poll().reason == "dns (DescribeAddresses)"


def test_missing_credentials_and_unknown_ids_are_reasons(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    state = AwsWatcher(replace(lab.config(), addresses=["eipalloc-0123"])).poll()
    assert state.reason == "InvalidAllocationID.NotFound (DescribeAddresses)"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert AwsWatcher(lab.config()).poll().reason == "no_credentials (DescribeAddresses)"


@pytest.mark.parametrize(
    ("before", "reason"),
    [("", "no_credentials (DescribeAddresses)"), ("expired", "ExpiredToken (DescribeAddresses)")],
)
def test_credentials_that_come_later_or_are_rotated_are_found(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str, reason: str
) -> None:
    file = tmp_path / "credentials"
    keys = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\n"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    lab.cloud.faults.book.replace([FaultRule("error", "expired", code="ExpiredToken")])
    file.write_text(keys.format(before) if before else "")
    made: list[Any] = []
    monkeypatch.setattr(aws, "make_client", lambda config: made.append(config) or make_client(config))
    clock = ManualClock()
    watcher = AwsWatcher(lab.config(), clock=clock)
    assert watcher.poll().reason == watcher.poll().reason == reason
    file.write_text(keys.format("new"))
    clock.advance(60_000_000_000)
    watcher.poll()
    assert watcher.poll().up
    assert len(made) == 2, "clients are dear: not one for each round"


def test_a_client_that_cannot_be_made_is_a_reason() -> None:
    state = AwsWatcher(Config(region="", addresses=["eipalloc-1"])).poll()
    assert not state.up
    assert "(client)" in state.reason


class HangingClient:
    """Answers once, then hangs, as in a resolver without a time limit."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls = 0

    def describe_addresses(self, **_: Any) -> dict[str, Any]:
        self.calls += 1
        if self.calls > 1:
            self.released.wait(20)
        return {"Addresses": [{"AllocationId": "e", "PublicIp": "203.0.113.10", "NetworkInterfaceId": "eni-a1"}]}


def test_an_old_answer_is_never_shown_as_the_present() -> None:
    clock = ManualClock()
    config = Config(addresses=["e"], units={"fgt-a": ["eni-a1"]}, interval=2.0)
    watcher = AwsWatcher(config, clock=clock, client=HangingClient())
    assert watcher.poll().active_unit == "fgt-a"
    clock.advance(4_000_000_000)
    assert watcher.snapshot().up
    clock.advance(2_000_000_000)
    state = watcher.snapshot()
    assert (state.up, state.reason, state.active_unit, state.ownership) == (False, "no answer for 6 s", "", ())


def test_a_hanging_call_stalls_nobody_who_asks_for_the_state() -> None:
    client = HangingClient()
    config = Config(addresses=["e"], interval=0.01, fast_interval=0.01)
    watcher = AwsWatcher(config, client=client)
    watcher.start()
    wait_for(lambda: client.calls == 2)
    started = time.monotonic()
    watcher.snapshot()
    watcher.arm(time.monotonic_ns())
    assert time.monotonic() - started < 0.5
    client.released.set()
    watcher.stop()


def test_a_step_of_the_wall_clock_does_not_turn_an_interval_around(events: list[TimelineEvent]) -> None:
    class Moving:
        owner = "eni-a1"

        def describe_addresses(self, **_: Any) -> dict[str, Any]:
            return {"Addresses": [{"AllocationId": "e", "PublicIp": "203.0.113.10", "NetworkInterfaceId": self.owner}]}

    clock, client = ManualClock(), Moving()
    watcher = AwsWatcher(Config(addresses=["e"]), events.append, clock=clock, client=client)
    watcher.poll()
    clock.advance(1_000)
    clock.step_wall(-3_600_000_000_000)
    client.owner = "eni-b1"
    watcher.poll()
    assert events[0].detail["first_seen_new_ns"] - events[0].detail["last_seen_old_ns"] == 1_000


def test_a_listener_that_fails_does_not_end_the_watching(lab: Lab) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("listener")

    watcher = AwsWatcher(lab.config(), broken, broken)
    watcher.poll()
    lab.move_eip("fgt-b-port1")
    assert watcher.poll().up


def test_the_thread_polls_fast_while_armed_and_after_a_change_and_ends_when_stopped(
    lab: Lab, events: list[TimelineEvent]
) -> None:
    states: list[WatcherSnapshot] = []
    watcher = AwsWatcher(lab.config(), events.append, states.append)  # slow pace: a minute
    watcher.start()
    wait_for(lambda: states)
    lab.move_eip("fgt-b-port1")
    watcher.arm(time.monotonic_ns() + 300_000_000)
    wait_for(lambda: named(events, "eip_moved"))
    time.sleep(0.4)  # the arming is over; the change alone keeps the pace
    lab.move_route("fgt-b-port2")
    wait_for(lambda: named(events, "route_moved"))
    watcher.stop()
    assert not [t for t in threading.enumerate() if t.name == "watch-aws"]
    polled = len(states)
    time.sleep(0.15)
    assert len(states) == polled


def test_moto_knows_no_pages_but_ec2_does() -> None:
    class Paged:
        def describe_route_tables(self, **arguments: Any) -> dict[str, Any]:
            assert arguments["RouteTableIds"] == ["rtb-1", "rtb-2"]
            table = arguments.get("NextToken", "rtb-1")
            route = {"DestinationCidrBlock": "0.0.0.0/0", "NetworkInterfaceId": "eni-a1", "State": "blackhole"}
            local = {"DestinationCidrBlock": "10.0.0.0/8", "GatewayId": "local", "State": "active"}
            more = {} if "NextToken" in arguments else {"NextToken": "rtb-2"}
            return {"RouteTables": [{"RouteTableId": table, "Routes": [local, route]}], **more}

    config = Config(route_tables=["rtb-1", "rtb-2"], units={"fgt-a": ["eni-a1"]})
    state = AwsWatcher(config, client=Paged()).poll()
    assert [one.labels["route_table"] for one in state.ownership] == ["rtb-1", "rtb-2"]
    assert (state.ownership[0].state, state.active_unit) == ("blackhole", "")


class Scripted:
    """Answers as it is told to, in EC2's form."""

    def __init__(self) -> None:
        self.eip = ("eni-a1", "eipassoc-1")
        self.routes = {"0.0.0.0/0": "eni-a1"}

    def describe_addresses(self, **_: Any) -> dict[str, Any]:
        eni, association = self.eip
        address = {"AllocationId": "e", "PublicIp": "203.0.113.10"}
        return {"Addresses": [{**address, "NetworkInterfaceId": eni, "AssociationId": association}]}

    def describe_route_tables(self, **_: Any) -> dict[str, Any]:
        routes = [{"DestinationCidrBlock": d, "NetworkInterfaceId": eni} for d, eni in self.routes.items()]
        return {"RouteTables": [{"RouteTableId": "rtb-1", "Routes": routes}]}


UNITS = {"fgt-a": ["eni-a1"], "fgt-b": ["eni-b1"]}
SCRIPTED = Config(addresses=["e"], route_tables=["rtb-1"], units=UNITS)


def test_an_old_answer_of_ec2_is_no_move(events: list[TimelineEvent]) -> None:
    client = Scripted()
    watcher = AwsWatcher(SCRIPTED, events.append, client=client)
    owners = []
    first, moved = ("eni-a1", "eipassoc-1"), ("eni-b1", "eipassoc-2")
    for client.eip in (first, moved, first, moved):
        owners.append(next(one.unit for one in watcher.poll().ownership if one.kind == "eip"))
    assert owners == ["fgt-a", "fgt-b", "fgt-b", "fgt-b"]
    assert [one.event for one in events] == ["eip_moved", "signals_disagree"]
    client.eip = ("eni-a1", "eipassoc-3")
    assert watcher.poll().active_unit == "fgt-a", "it did move back"


def test_a_route_to_another_appliance_does_not_hide_who_is_active(events: list[TimelineEvent]) -> None:
    client = Scripted()
    client.routes["10.50.0.0/16"] = "eni-other"
    watcher = AwsWatcher(SCRIPTED, events.append, client=client)
    assert watcher.poll().active_unit == "fgt-a"
    client.routes["0.0.0.0/0"] = "eni-other"
    assert watcher.poll().active_unit == "", "this one was the pair's"
    assert [one.event for one in events] == ["route_moved", "signals_disagree"]


def test_an_interface_without_ipv4_addresses_has_none() -> None:
    class Ipv6Only:
        def describe_network_interfaces(self, **_: Any) -> dict[str, Any]:
            return {"NetworkInterfaces": [{"NetworkInterfaceId": "eni-a1", "Ipv6Addresses": [{"Ipv6Address": "::1"}]}]}

    state = AwsWatcher(Config(network_interfaces=["eni-a1"], units=UNITS), client=Ipv6Only()).poll()
    assert (state.up, state.reason, state.ownership) == (True, "", ())


def test_an_answer_without_what_was_asked_for_is_a_failure_and_no_move(events: list[TimelineEvent]) -> None:
    """XML of somebody else in between, a captive portal say, must not make addresses vanish."""
    client = Scripted()
    watcher = AwsWatcher(SCRIPTED, events.append, client=client)
    watcher.poll()
    client.describe_addresses = client.describe_route_tables = lambda **_: {}  # type: ignore[method-assign]
    assert watcher.poll().reason == "KeyError (DescribeAddresses)"
    assert [one.event for one in events] == ["watcher_down"]


def test_the_watcher_asks_by_id_only(lab: Lab) -> None:
    """An account has other addresses; asking without ids would read them all."""
    watcher = AwsWatcher(lab.config())
    assert len([one for one in watcher.poll().ownership if one.kind == "eip"]) == 1
    assert len(lab.client.describe_addresses()["Addresses"]) == 3
    with pytest.raises(ClientError):
        lab.client.describe_addresses(AllocationIds=["eipalloc-0123"])
