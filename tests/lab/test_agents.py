from __future__ import annotations

from dataclasses import replace

import pytest

from probe import config
from probe.lab import agents
from probe.lab.credentials import Credentials
from probe.lab.ids import CloudIds
from probe.lab.plan import ENIS, LabOptions, Plan

IDS = CloudIds(
    region="eu-west-2",
    vpc="vpc-0123456789abcdef0",
    igw="igw-0123456789abcdef0",
    tgw="tgw-0123456789abcdef0",
    enis={one.name: f"eni-0123456789abcde{index:02x}" for index, one in enumerate(ENIS)},
    instances={"fgt-a": "i-0123456789abcdef0", "fgt-b": "i-0123456789abcdef1"},
    route_tables={"transit": "rtb-0123456789abcdef0"},
    allocations={"cluster": "eipalloc-0123456789abcdef0", "mgmt-a": "eipalloc-0123456789abcdef1"},
)


@pytest.fixture
def loaded(tmp_path):
    paths = agents.write_configs(tmp_path, LabOptions(agent_rate_pps=250), IDS)
    return {name: config.load(path) for name, path in paths.items()}


def test_every_config_is_one_an_agent_takes(loaded):
    assert set(loaded) == {"workload-a", "workload-b", "jumphost", "internet"}


def test_each_path_is_probed_in_all_protocols_with_old_and_new_sessions(loaded):
    specs = [spec for one in loaded.values() for spec in one.flow_specs()]
    wanted = {
        (path, protocol, session)
        for path in ("east-west", "ingress", "egress")
        for protocol in ("icmp", "udp", "tcp")
        for session in ("kept", "fresh")
    }
    packets = [one for one in specs if one.stack == "packet"]
    assert {(one.path, one.protocol, one.session) for one in packets} == wanted
    assert len(packets) == len(wanted)
    assert len(specs) == len({one.name for one in specs})
    assert {one.rate_pps for one in packets} == {250.0}


def test_the_paths_of_people_have_a_stream_each(loaded):
    streams = [spec for one in loaded.values() for spec in one.flow_specs() if spec.stack == "kernel"]
    assert {(one.path, one.rate_pps) for one in streams} == {("east-west", 10.0), ("ingress", 10.0)}


def test_every_target_has_a_reflector_that_answers(loaded):
    where = {"10.99.97.10": "workload-b", "198.51.100.130": "internet", "203.0.113.10": "workload-a"}
    for one in loaded.values():
        for spec in one.flow_specs():
            reflector = loaded[where[spec.target]].reflector
            port = {"icmp": 0, "udp": reflector.udp, "tcp": reflector.tcp}[spec.protocol]
            assert spec.port == (reflector.echo if spec.stack == "kernel" else port)


def test_the_jumphost_watches_what_moves_in_the_lab(loaded):
    watcher = loaded["jumphost"].watchers.aws
    assert watcher.addresses == [IDS.allocations["cluster"]]
    assert watcher.route_tables == [IDS.route_tables["transit"]]
    assert watcher.units["fgt-b"] == [IDS.enis[f"fgt-b-port{number}"] for number in (1, 2, 3, 4)]
    assert watcher.instances == IDS.instances
    assert watcher.endpoint_url == "http://198.18.0.10:5000"
    assert (watcher.interval, watcher.fast_interval) == (1.0, 0.25)


def test_an_agents_calls_can_be_told_from_those_of_the_lab(tmp_path, monkeypatch):
    """Fault rules go by the caller's key: one for the watcher must not hit the fabric or the firewalls."""
    started = {}
    monkeypatch.setattr(agents.processes, "spawn", lambda *args, **more: started.update(more) or Process())
    plan = Plan("haprobe-x-", tmp_path)
    handle, _ = agents.start(plan, "jumphost", tmp_path / "c.yml", tmp_path)
    assert handle.pid == 7
    assert started["env"]["AWS_ACCESS_KEY_ID"] == "watcher"


class Process:
    pid = 7


def test_without_a_cloud_nobody_watches_it():
    assert "watchers" not in agents.configs(LabOptions(), None)["jumphost"]


def test_the_jumphost_watches_both_units_by_their_management_addresses(tmp_path):
    keys = Credentials(tmp_path / "credentials")
    found = config.load(agents.write_configs(tmp_path, LabOptions(), IDS, keys)["jumphost"])
    assert found.notices == []
    units = found.watchers.fortigate.units
    assert {name: one.host for name, one in units.items()} == {"fgt-a": "203.0.113.11", "fgt-b": "203.0.113.12"}
    assert all(one.ssh.known_hosts == str(keys.known_hosts) for one in units.values())


def test_the_watchers_may_stand_behind_the_pair(tmp_path):
    keys = Credentials(tmp_path)
    made = agents.configs(LabOptions(watch_from="workload-a"), IDS, keys)
    assert set(made["workload-a"]["watchers"]) == {"aws", "fortigate"}
    assert "watchers" not in made["jumphost"]


def test_an_edge_table_is_watched_where_there_is_one():
    edge = replace(IDS, route_tables={**IDS.route_tables, "edge": "rtb-0123456789abcdef1"})
    watched = agents.configs(LabOptions(), edge)["jumphost"]["watchers"]["aws"]["route_tables"]
    assert watched == ["rtb-0123456789abcdef0", "rtb-0123456789abcdef1"]
