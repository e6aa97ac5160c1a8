"""What the stand-ins say is what the lab does, and what the watcher reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probe.core.events import TimelineEvent
from probe.lab.fortios import FLAG_SET, ONLY_MEMBER, SERIALS, Dialect, answer, cluster, ha_status
from probe.watch import fortigate_answers as answers
from probe.watch import fortigate_cli as cli

S = 1_000_000_000
STATUS = {"unit": "fgt-b", "role": "primary", "peer_alive": True, "peer_role": "secondary", "failover_set": False}
DIALECTS: list[Dialect] = ["new", "old"]


def event(at_s: int, name: str, **detail: Any) -> TimelineEvent:
    return TimelineEvent(at_s * S + 5, "lab", name, detail=detail)


EVENTS = [
    event(10, "role_change", unit="fgt-a", role="primary", reason=ONLY_MEMBER),
    event(20, "role_change", unit="fgt-a", role="secondary"),
    event(20, "role_change", unit="fgt-b", role="primary", reason=FLAG_SET),
    event(30, "heartbeat_lost", unit="fgt-b", peer="fgt-a"),
]


def read(path: str, dialect: Dialect, **status: Any) -> answers.Answer:
    return answers.read(json.dumps(answer(path, cluster({**STATUS, **status}, EVENTS), dialect)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_roles_read_back_as_they_are(dialect: Dialect) -> None:
    assert answers.role_by_checksums(read(answers.CHECKSUMS, dialect)) == "primary"
    assert answers.role_by_peers(read(answers.PEERS, dialect)) == "primary"
    turned = {"role": "secondary", "peer_role": "primary"}
    assert answers.role_by_checksums(read(answers.CHECKSUMS, dialect, **turned)) == "secondary"
    assert answers.role_by_peers(read(answers.PEERS, dialect, **turned)) == "secondary"
    assert not answers.standalone(read(answers.SETTINGS, dialect))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_status_names_roles_and_the_reason(dialect: Dialect) -> None:
    status = cli.ha_status(ha_status(cluster(STATUS, EVENTS), dialect))
    assert status is not None
    assert status.roles == {SERIALS["fgt-a"]: "secondary", SERIALS["fgt-b"]: "primary"}
    assert [(one.serial, one.reason) for one in status.selections] == [
        (SERIALS["fgt-b"], FLAG_SET),
        (SERIALS["fgt-a"], ONLY_MEMBER),
    ]


def test_a_dead_peer_is_no_member() -> None:
    seen = cluster({**STATUS, "peer_alive": False}, EVENTS)
    assert seen.roles == {"fgt-b": "primary"}
    status = cli.ha_status(ha_status(seen))
    assert status is not None
    assert status.primaries == list(status.roles) == [SERIALS["fgt-b"]]
    assert status.health == ""


def test_the_history_is_the_units_own() -> None:
    found = answers.history(read(answers.HISTORY, "new"))
    assert [(one.time_s, one.text) for one in found] == [
        (20, "fgt-b becomes primary"),
        (30, "member fgt-a lost heartbeat on hbdev port3"),
    ]
    assert answer(answers.HISTORY, cluster(STATUS, EVENTS), "old") is None


def test_nothing_pretends_to_be_a_fortigate() -> None:
    assert "standin" in read(answers.CHECKSUMS, "new").version
    assert all("STANDIN" in serial for serial in SERIALS.values())
    assert answer("monitor/system/anything", cluster(STATUS, EVENTS)) is None
