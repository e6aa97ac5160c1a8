from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from probe.lab import conntrackd, firewall, namespace
from probe.lab.plan import LabOptions, Plan

from .talk import needs_root, prefix


def test_each_unit_translates_to_its_own_port1():
    for unit, address in (("fgt-a", "10.99.99.90"), ("fgt-b", "10.99.99.10")):
        text = firewall.ruleset(firewall.options_for(unit, LabOptions()))
        assert f"snat to {address}" in text
        assert f"ip daddr {address} dnat to 10.99.98.10" in text


def test_in_one_zone_both_units_translate_alike():
    options = LabOptions(single_az=True)
    a, b = (firewall.ruleset(firewall.options_for(unit, options)) for unit in ("fgt-a", "fgt-b"))
    assert a == b
    assert "ip daddr 10.99.99.92 dnat to 10.99.98.10" in a
    assert "snat to 10.99.99.108" in a


def test_a_fixed_vip_is_bound_to_the_first_units_address_on_both():
    for unit in ("fgt-a", "fgt-b"):
        options = firewall.options_for(unit, LabOptions(vip_extip="fixed"))
        assert "ip daddr 10.99.99.90 dnat to 10.99.98.10" in firewall.ruleset(options)


def test_sessionless_tcp_is_answered_only_when_told():
    assert "reject" not in firewall.ruleset(firewall.options_for("fgt-a", LabOptions()))
    options = firewall.options_for("fgt-a", LabOptions(reset_sessionless_tcp=True))
    assert "reject with tcp reset" in firewall.ruleset(options)


@pytest.fixture
def empty_namespace():
    name = prefix("fw") + "x"
    namespace.create(name)
    yield Path("/run/netns") / name
    namespace.remove(name)


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize("reset", [False, True])
def test_rules_install_repeatedly_and_start_as_secondary(empty_namespace, reset):
    options = firewall.options_for("fgt-b", LabOptions(reset_sessionless_tcp=reset))
    for _ in range(2):
        namespace.inside(empty_namespace, firewall.install, options)
        assert "table inet passive" in _rules(empty_namespace)
    for enabled in (True, True, False, False):
        namespace.inside(empty_namespace, firewall.set_forwarding, enabled)
        assert ("table inet passive" in _rules(empty_namespace)) is not enabled
    loose = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
    assert namespace.inside(empty_namespace, loose.read_text).strip() == "0"
    assert loose.read_text().strip() == "1", "the host's own setting is not ours to change"


@needs_root
@pytest.mark.netns
def test_what_nftables_refuses_is_told(empty_namespace):
    bad = firewall.FirewallOptions("not-an-address", "10.0.0.2", "10.0.0.1")
    with pytest.raises(namespace.LabError, match="not-an-address"):
        namespace.inside(empty_namespace, firewall.install, bad)


def test_the_two_conntrackds_talk_to_each_other_and_share_no_file(tmp_path):
    a, b = (conntrackd.config(Plan(state=tmp_path), unit) for unit in ("fgt-a", "fgt-b"))
    assert "IPv4_address 10.99.99.138\n        IPv4_Destination_Address 10.99.99.58" in a
    assert "IPv4_address 10.99.99.58\n        IPv4_Destination_Address 10.99.99.138" in b
    files = [{word for word in text.split() if word.startswith(str(tmp_path))} for text in (a, b)]
    assert len(files[0]) == 3
    assert not files[0] & files[1]


def test_udp_and_icmp_are_synchronised_when_told(tmp_path):
    plain, all_of_them = (
        conntrackd.config(Plan(state=tmp_path, options=LabOptions(session_pickup_connectionless=on)), "fgt-a")
        for on in (False, True)
    )
    accepted = all_of_them.split("Protocol Accept {")[1].split("}")[0].split()
    assert accepted == ["TCP", "UDP", "ICMP"]
    assert plain.split("Protocol Accept {")[1].split("}")[0].split() == ["TCP"]


def _rules(path: Path) -> str:
    argv = namespace.command_inside(path, ["nft", "list", "ruleset"])
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
