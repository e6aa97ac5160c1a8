from __future__ import annotations

import pytest

from probe.link.offload import cut_by_kernel

pytestmark = pytest.mark.netns


def test_an_interface_that_would_pass_pieces_on_is_not_given_any(wire):
    a, _ = wire
    with a.inside():
        assert cut_by_kernel() == []  # a veth says that it can cut, and does not
    a.run("ethtool", "-K", "veth0", "tx-udp-segmentation", "off")
    with a.inside():
        assert cut_by_kernel() == [a.ifindex]


@pytest.mark.parametrize(
    ("discipline", "given"), [("pfifo limit 100", True), ("tbf rate 1gbit burst 1mb latency 50ms", False)]
)
def test_a_discipline_that_may_drop_later_gets_none(wire, discipline, given):
    a, _ = wire
    a.run("ethtool", "-K", "veth0", "tx-udp-segmentation", "off")
    a.run("tc", "qdisc", "add", "dev", "veth0", "root", *discipline.split())
    with a.inside():
        assert (cut_by_kernel() == [a.ifindex]) is given
