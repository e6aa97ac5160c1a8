"""Identifiers and ports of fresh flows: each probe its own, or else as new as there are, but never another flow's."""

from __future__ import annotations

from itertools import pairwise

import pytest

from probe.errors import PeerError, UsageError
from tests.session.world import S, World, world


def ids(network: World, index: int) -> list[int]:
    return network.sender.table.flows[index].ids


def rest_s(network: World, index: int, rate: int) -> float:
    """How long an identifier rests before it is used again."""
    table = network.sender.table
    return (len(ids(network, index)) - 1) * int(table.per_id[index]) / rate


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rate", [10, 273, 1000, 10_000])
def test_many_fresh_icmp_flows_have_identifiers_of_their_own(rate, seed):
    with world(seed) as network:
        for index in range(8):
            network.add(index, "icmp", rate=rate, session_kind="fresh")
        owned = [one for index in range(8) for one in ids(network, index)]
        assert len(set(owned)) == len(owned) and all(0 < one < 65536 for one in owned)
        for index in range(8):
            # In one piece: a filter for thousands of pieces would not fit into the kernel.
            assert {b - a for a, b in pairwise(ids(network, index))} == {1}
            assert rest_s(network, index, rate) >= 60 * (1 - 2 / len(ids(network, index)))
        assert network.sender.table.per_id[0] == -(-(60 * rate + 1) // 16384), "the first has all that it wants"


def test_a_flow_that_is_gone_gives_its_identifiers_back():
    with world(1) as network:
        for index in range(6):
            network.add(index, "icmp", rate=1000, session_kind="fresh")
        had = []
        for _ in range(20):
            network.remove(0)
            network.add(0, "icmp", rate=1000, session_kind="fresh")
            had.append(len(ids(network, 0)))
        assert len(set(had)) == 1 and had[0] > 5000


def test_where_ports_run_out_more_probes_share_one():
    with world(1) as network:
        network.ports.end = network.ports.next + 3000
        for index in range(3):
            network.add(index, "udp", rate=1000, session_kind="fresh")
        assert [len(ids(network, index)) for index in range(3)] == [2001, 984, 15]
        for index in range(3):
            assert rest_s(network, index, 1000) >= 55


def test_a_flow_for_which_there_is_nothing_is_refused_and_the_others_go_on():
    with world(1) as network:
        network.add(0, "udp", rate=500)
        network.ports.end = network.ports.next
        with pytest.raises(UsageError, match="no port left"):
            network.add(1, "udp", rate=500, session_kind="fresh")
        del network.flows[1]
        network.run(S)
        network.settle()
        assert network.document()["flows"][0]["counts"]["received"] > 400


def test_a_flow_whose_interface_is_gone_takes_no_ports():
    with world(1) as network:
        before = network.ports.next
        network.vanished.add(1)
        with pytest.raises(PeerError, match="no interface with index 1"):
            network.add(0, "udp")
        assert network.ports.next == before
