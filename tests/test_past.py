from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from probe.clock import ManualClock
from probe.core.timeline import within
from probe.past import Past
from probe.store.journal import Journal

HA = {"at_ns": 5, "source": "aws", "event": "eip_moved", "uncertainty_ns": 1, "detail": {"to": "b"}}


def outage(number: int, start: int, **more: Any) -> dict[str, Any]:
    return {"flow": "a", "id": number, "start_ns": start, "lost": 3, "withdrawn": False, **more}


def write(directory: Path, *records: tuple[str, dict[str, Any]]) -> None:
    """One process's journal."""
    clock = ManualClock(wall=1_700_000_000_000_000_000 + 10**10 * len(list(directory.glob("*"))))
    journal = Journal(directory, clock)
    for kind, data in (("start", {}), *records):
        journal.append(kind, data)
    journal.close()


def test_no_journal_no_past(tmp_path):
    assert Past.replay(tmp_path / "absent") == Past.replay(tmp_path) == Past()


def test_outages_and_ha_events_come_back_oldest_first(tmp_path):
    write(tmp_path, ("outage", outage(2, 50)), ("ha_change", HA), ("outage", outage(1, 20)), ("started", {"x": 1}))
    past = Past.replay(tmp_path)
    assert [o["start_ns"] for o in past.outages] == [20, 50]
    assert "withdrawn" not in past.outages[0]
    [event] = past.events
    assert (event.at_ns, event.source, event.event, event.detail) == (5, "aws", "eip_moved", {"to": "b"})


def test_the_newest_record_of_an_outage_counts(tmp_path):
    write(tmp_path, ("outage", outage(1, 20)), ("outage", outage(1, 20, lost=9)), ("outage", outage(2, 30)))
    assert [(o["id"], o["lost"]) for o in Past.replay(tmp_path).outages] == [(1, 9), (2, 3)]


def test_a_withdrawn_outage_is_gone(tmp_path):
    write(tmp_path, ("outage", outage(1, 20)), ("outage", outage(1, 20, withdrawn=True)))
    assert Past.replay(tmp_path).outages == []


def test_processes_count_from_one_again(tmp_path):
    write(tmp_path, ("outage", outage(1, 20)))
    write(tmp_path, ("outage", outage(1, 90)))
    assert [o["start_ns"] for o in Past.replay(tmp_path).outages] == [20, 90]


def test_flows_have_numbers_of_their_own(tmp_path):
    write(tmp_path, ("outage", outage(1, 20)), ("outage", outage(1, 30, flow="b")))
    assert len(Past.replay(tmp_path).outages) == 2


def blind(at_ns: int, watcher: str = "aws", event: str = "watcher_down") -> tuple[str, dict[str, Any]]:
    return "ha_change", {**HA, "at_ns": at_ns, "event": event, "detail": {"watcher": watcher}}


def test_a_watcher_that_was_blind_when_its_process_ended_is_not_for_ever(tmp_path):
    """The next process's watcher tells nothing while it sees."""
    write(tmp_path, blind(5), blind(6, "fortigate"), blind(7, event="watcher_up"))
    write(tmp_path, blind(8))
    second_ns = 1_700_000_010_000_000_000
    past = Past.replay(tmp_path, now_ns=second_ns + 9)
    told = [(e.at_ns, e.event, e.detail["watcher"]) for e in past.events[3:]]
    assert told == [
        (second_ns, "watcher_up", "fortigate"),
        (8, "watcher_down", "aws"),
        (second_ns + 9, "watcher_up", "aws"),
    ]
    assert within(past.events, second_ns + 20, second_ns + 30) == []


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("outage", {"flow": "a"}),
        ("outage", outage(1, 5) | {"id": "x"}),
        ("outage", outage(1, 5) | {"start_ns": None}),
        ("ha_change", {**HA, "colour": "green"}),
        ("ha_change", {**HA, "event": "watcher_down", "detail": None}),
        ("ha_change", {}),
    ],
)
def test_a_record_of_another_version_does_not_hide_the_rest(tmp_path, caplog, kind, data):
    write(tmp_path, ("outage", outage(7, 20)), (kind, data), ("ha_change", HA))
    with caplog.at_level(logging.WARNING):
        past = Past.replay(tmp_path)
    assert [o["id"] for o in past.outages] == [7] and len(past.events) == 1
    assert "1 records not understood" in caplog.text


def test_damaged_lines_are_skipped_and_told(tmp_path, caplog):
    write(tmp_path, ("outage", outage(1, 20)))
    [file] = tmp_path.glob("journal-*")
    file.write_bytes(file.read_bytes() + b'{"kind": "outa')
    with caplog.at_level(logging.WARNING):
        assert len(Past.replay(tmp_path).outages) == 1
    assert "1 damaged" in caplog.text


def test_the_past_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("probe.past.MOST_OUTAGES", 3)
    write(
        tmp_path,
        *(("outage", outage(n, n)) for n in range(1, 9)),
        *(("ha_change", {**HA, "at_ns": n}) for n in range(5)),
    )
    past = Past.replay(tmp_path)
    assert [o["id"] for o in past.outages] == [6, 7, 8] and [e.at_ns for e in past.events] == [2, 3, 4]


def test_raw_records_come_back_with_the_newest_outages(tmp_path, monkeypatch):
    monkeypatch.setattr("probe.past.MOST_EVIDENCE", 2)
    records = [{"sequence": 7, "tx_ns": 1, "fate": "lost"}]
    write(tmp_path, *(("outage", outage(n, n * 10, evidence=records)) for n in range(1, 5)))
    assert [o["evidence"] for o in Past.replay(tmp_path).outages] == [[], [], records, records]
