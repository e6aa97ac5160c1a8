"""REST answers of several FortiOS versions: whose role they tell, and what is no answer at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probe.watch.fortigate_answers import (
    AnswerError,
    HistoryEntry,
    history,
    read,
    role_by_checksums,
    role_by_peers,
    standalone,
)

A, B = "FGVM0000000000AA", "FGVM0000000000BB"


def body(results: Any, serial: str = A, version: str = "v7.6.4", **more: Any) -> bytes:
    document = {"http_method": "GET", "results": results, "vdom": "root", "status": "success", "build": 3596}
    return json.dumps({**document, "serial": serial, "version": version, **more}).encode()


def checksums(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    checksum = {"global": "b6b3", "root": "74cc", "all": "4df9"}
    return [{**first, "checksum": checksum, "serial_no": A}, {**second, "checksum": checksum, "serial_no": B}]


OLD = checksums({"is_manage_master": 1, "is_root_master": 1}, {"is_manage_master": 0, "is_root_master": 0})
NEW = checksums({"is_manage_primary": True, "is_root_primary": True}, {})
# As 7.2.13 sends them: both dialects at once.
BOTH = checksums(
    {"is_manage_primary": True, "is_root_primary": True, "is_manage_master": 1, "is_root_master": 1},
    {"is_manage_primary": False, "is_root_primary": False, "is_manage_master": 0, "is_root_master": 0},
)
PEERS = [
    {"serial_no": A, "vcluster_id": 0, "priority": 200, "hostname": "fgt-a", "master": True, "primary": True},
    {"serial_no": B, "vcluster_id": 0, "priority": 150, "hostname": "fgt-b"},
]


@pytest.mark.parametrize("members", [OLD, NEW, BOTH], ids=["old", "new", "both"])
def test_the_units_own_role_is_found_by_its_serial(members: list[dict[str, Any]]) -> None:
    assert role_by_checksums(read(body(members, A))) == "primary"
    assert role_by_checksums(read(body(members, B))) == "secondary"
    assert role_by_checksums(read(body(members[::-1], B))) == "secondary", "the order says nothing"


def test_a_member_alone_is_primary() -> None:
    assert role_by_checksums(read(body(NEW[:1], A))) == "primary"


@pytest.mark.parametrize(
    "members",
    [[], None, {}, "no list", NEW[1:], checksums({}, {}), [{"is_manage_primary": True}], [7]],
    ids=["empty", "null", "mapping", "text", "secondary alone", "no flags", "no serial", "no mapping"],
)
def test_what_does_not_tell_is_unknown(members: Any) -> None:
    assert role_by_checksums(read(body(members, B))) == "unknown"


def test_a_stranger_among_the_members_is_not_taken_for_us() -> None:
    assert role_by_checksums(read(body(NEW, "FGVM00000000STRANGE"))) == "unknown"


def test_two_primaries_each_say_so() -> None:
    split = checksums({"is_manage_primary": True}, {"is_manage_primary": True})
    assert [role_by_checksums(read(body(split, serial))) for serial in (A, B)] == ["primary", "primary"]


def test_peers_tell_where_they_carry_the_flag() -> None:
    assert [role_by_peers(read(body(PEERS, serial))) for serial in (A, B)] == ["primary", "secondary"]
    old = [{**PEERS[0], "primary": None, "master": 1}, PEERS[1]]
    for row in old:
        row.pop("primary", None)
    assert role_by_peers(read(body(old, B))) == "secondary"
    bare = [{"hostname": "ffw01", "priority": 200, "serial_no": A, "vcluster_id": 0}]  # as 7.2.8 sends it
    assert role_by_peers(read(body(bare, A))) == "unknown"


def test_version_build_and_serial_stand_at_the_top() -> None:
    answer = read(body([], B, "v7.0.12", build=6681))
    assert (answer.serial, answer.version, answer.build) == (B, "7.0.12", "6681")


def test_a_single_unit_says_that_it_is_no_cluster() -> None:
    assert standalone(read(body({"mode": "standalone"})))
    assert not standalone(read(body({"mode": "a-p"})))
    assert not standalone(read(body([])))


def test_history_comes_oldest_first_without_what_is_odd() -> None:
    entries: list[Any] = [
        {"time": 1696696257, "event": "member node01 lost heartbeat on hbdev port2"},
        {"time": 1696696200, "event": "earlier"},
        {"time": "soon", "event": "odd"},
        {"event": "no time"},
        {"time": True, "event": "no number"},
        None,
    ]
    found = history(read(body({"start_time": 1, "last_change": 2, "history": entries})))
    assert found == [
        HistoryEntry(1696696200, "earlier"),
        HistoryEntry(1696696257, "member node01 lost heartbeat on hbdev port2"),
    ]
    assert history(read(body({"history": None}))) == history(read(body([]))) == []


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"<html>login</html>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"", "not JSON"),
        (b"[1, 2]", "not an answer of FortiOS"),
        (b'{"serial": "x", "version": "v7"}', "no results"),
        (b'{"results": []}', "no serial, version"),
        (body([], status="error"), "'error'"),
        (body([], serial=None), "no text"),  # type: ignore[arg-type]
        (body([], serial=""), "no text"),
    ],
)
def test_what_is_no_answer_is_refused(garbage: bytes, why: str) -> None:
    with pytest.raises(AnswerError, match=why):
        read(garbage)
