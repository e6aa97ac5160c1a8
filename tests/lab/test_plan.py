from __future__ import annotations

import ipaddress

import pytest

from probe.lab.plan import (
    ELASTIC_IPS,
    ENIS,
    HOSTS,
    LINKS,
    ROUTE_TABLES,
    SUBNETS,
    VPC_CIDR,
    LabOptions,
    Plan,
    eni,
    eni_of,
    peer_of,
    subnet,
    table,
)

# The workshop's table: unit, port, address, subnet.
WORKSHOP = [
    ("fgt-a", "port1", "10.99.99.90", "10.99.99.80/28"),
    ("fgt-a", "port2", "10.99.99.106", "10.99.99.96/28"),
    ("fgt-a", "port3", "10.99.99.138", "10.99.99.128/28"),
    ("fgt-a", "port4", "10.99.99.122", "10.99.99.112/28"),
    ("fgt-b", "port1", "10.99.99.10", "10.99.99.0/28"),
    ("fgt-b", "port2", "10.99.99.26", "10.99.99.16/28"),
    ("fgt-b", "port3", "10.99.99.58", "10.99.99.48/28"),
    ("fgt-b", "port4", "10.99.99.42", "10.99.99.32/28"),
]


@pytest.mark.parametrize(("unit", "port", "address", "cidr"), WORKSHOP)
def test_interfaces_have_the_workshops_addresses(unit, port, address, cidr):
    one = eni_of(unit, port)
    assert (one.address, one.subnet.cidr) == (address, cidr)
    assert eni(one.name) is one


def test_subnets_lie_apart_in_the_vpc_and_the_gateway_is_the_first_address():
    networks = [ipaddress.ip_network(one.cidr) for one in SUBNETS]
    assert all(one.subnet_of(ipaddress.ip_network(VPC_CIDR)) for one in networks)
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    for one, network in zip(SUBNETS, networks, strict=True):
        assert ipaddress.ip_address(one.gateway) == network.network_address + 1


def test_both_zones_share_one_transit_table_that_points_at_the_first_unit():
    assert subnet("transit-a").table == subnet("transit-b").table == "transit"
    assert table("transit").routes == (("0.0.0.0/0", "fgt-a-port2"),)


def test_in_one_zone_the_data_ports_share_a_subnet_and_an_address_in_it():
    plan = Plan(options=LabOptions(single_az=True))
    for port, subnet_name, shared in (("port1", "public-a", "10.99.99.92"), ("port2", "private-a", "10.99.99.108")):
        a, b = (plan.eni_of(unit, port) for unit in ("fgt-a", "fgt-b"))
        assert a.subnet is b.subnet is subnet(subnet_name)
        assert a.shared == b.shared == a.port_address == b.port_address == shared
        assert a.address == eni_of("fgt-a", port).address
        addresses = [ipaddress.ip_address(one) for one in (a.address, b.address, shared)]
        assert len(set(addresses)) == 3
        assert all(one in ipaddress.ip_network(a.subnet.cidr) for one in addresses)
    for port in ("port3", "port4"):
        assert [plan.eni_of(unit, port) for unit in ("fgt-a", "fgt-b")] == [
            eni_of("fgt-a", port),
            eni_of("fgt-b", port),
        ]
    assert len({one.mac for one in plan.enis}) == len(plan.enis)
    assert Plan().enis is ENIS


def test_names_and_numbers_are_unique():
    for values in (
        [one.name for one in ENIS],
        [one.mac for one in ENIS],
        [one.address for one in ENIS],
        [one.number for one in ROUTE_TABLES],
        [one.address for one in ELASTIC_IPS],
        [(end.host, end.interface) for link in LINKS for end in (link.a, link.b)],
    ):
        assert len(values) == len(set(values))


def test_links_join_hosts_of_the_lab_in_one_network():
    for link in LINKS:
        assert {link.a.host, link.b.host} <= set(HOSTS)
        assert ipaddress.ip_interface(link.a.address).network == ipaddress.ip_interface(link.b.address).network
        assert max(len(link.a.interface), len(link.b.interface)) <= 15  # IFNAMSIZ without its NUL


def test_a_plan_is_read_back_as_it_was_saved(tmp_path):
    rule = {"kind": "denied", "caller": "fgt-*", "actions": ["ReplaceRoute"]}
    options = LabOptions(session_pickup=False, vip_extip="fixed", api_faults=(rule,), forgotten_tables=("transit",))
    plan = Plan("other-", tmp_path / "lab", options)
    assert Plan.load(plan.save()) == plan


@pytest.mark.parametrize("text", ["{}", "[]", '{"prefix": "x", "state": "/x", "options": {"nothing": 1}}'])
def test_what_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match="no lab plan"):
        Plan.load(tmp_path / "plan.json")


def test_an_unknown_host_is_named():
    with pytest.raises(KeyError, match="wl-c"):
        Plan().namespace("wl-c")


def test_the_peer_of_the_peer_is_the_unit():
    assert peer_of("fgt-a") == "fgt-b"
    assert peer_of("fgt-b") == "fgt-a"
