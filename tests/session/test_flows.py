from __future__ import annotations

import numpy as np
import pytest

from probe.session.flows import SYN_STEP, SYN_STEP_INVERSE, FlowTable, describe

from .flow import add, template


def ids(table: FlowTable, index: int, *sequence: int) -> list[int]:
    return table.ids(np.full(len(sequence), index), np.array(sequence)).tolist()


def test_a_kept_flow_never_takes_another_id():
    table = FlowTable(4, 1600)
    add(table, 0, "udp", 4, [50_000])
    assert ids(table, 0, 0, 1, 10**12) == [50_000] * 3


def test_a_fresh_flow_goes_round_its_ids():
    table = FlowTable(4, 1600)
    add(table, 0, "udp", 4, [1, 2, 3], per_id=2)
    add(table, 1, "udp", 6, [8, 9], per_id=1)
    assert ids(table, 0, *range(8)) == [1, 1, 2, 2, 3, 3, 1, 1]
    assert ids(table, 1, *range(4)) == [8, 9, 8, 9]


def test_owners_are_kept_per_port_space():
    table = FlowTable(4, 1600)
    for index, name in enumerate(("icmp", "udp", "tcp")):
        add(table, index, name, 4, [7])
    assert [int(table.owner[space][7]) for space in ("icmp", "udp", "tcp")] == [0, 1, 2]
    table.remove(1)
    assert int(table.owner["udp"][7]) == -1 and int(table.owner["tcp"][7]) == 2


def test_a_new_path_replaces_the_template():
    table = FlowTable(4, 1600)
    flow = add(table, 0, "icmp", 4, [7])
    longer = template("icmp", 4, size=400)
    table.retarget(flow, longer.frame, longer.rest)
    assert table.template[0, : table.length[0]].tobytes() == longer.frame
    shorter = template("icmp", 4)
    table.retarget(flow, shorter.frame, shorter.rest)
    assert table.template[0].tobytes().rstrip(b"\0") == shorter.frame.rstrip(b"\0")
    assert (table.length[0], table.rest[0]) == (len(shorter.frame), shorter.rest)


def test_no_flow_at_all():
    assert FlowTable(2, 100).ids(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_the_step_of_syn_numbers_can_be_undone():
    assert SYN_STEP * SYN_STEP_INVERSE % (1 << 32) == 1


@pytest.mark.parametrize(("name", "kind"), [("udp", "udp"), ("syn", "syn"), ("udp_auth", "udp_auth")])
def test_what_the_control_process_is_told(name, kind):
    table = FlowTable(2, 1600)
    assert describe(add(table, 1, name, 4, [5, 6])) == {"index": 1, "name": name, "ids": [5], "kind": kind}
