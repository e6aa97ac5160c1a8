"""Requests on disk: in order, whole ticks only, bounded, taken up by the next process."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.errors import UsageError
from probe.export.remote_spool import Spool

LIMIT = 1 << 20


def waiting(spool: Spool) -> list[bytes]:
    """What is in a spool, which is emptied by it."""
    found = []
    while (batch := spool.next(0)) is not None:
        found.append(batch.path.read_bytes())
        spool.done(batch)
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", LIMIT)


def again(spool: Spool, limit: int = LIMIT) -> Spool:
    """The spool as the next process finds it."""
    spool.close()
    return Spool(spool.directory, limit)


def test_requests_come_in_the_order_they_were_written(spool: Spool):
    spool.commit([(b"1", 1), (b"2", 2)], {}, sync=True)
    spool.commit([(b"3", 3)], {}, sync=False)
    assert spool.octets == 3
    assert waiting(spool) == [b"1", b"2", b"3"]
    assert spool.octets == 0
    assert list(spool.directory.glob("*.write")) == []


def test_the_next_process_takes_up_what_waits_and_the_state(spool: Spool):
    for number in range(12):
        spool.commit([(b"%d" % number, 1)], {"written_ms": {"f": number}}, sync=False)
    first = spool.next(0)
    assert first is not None
    spool.done(first)
    second = again(spool)
    assert second.state["written_ms"] == {"f": 11}
    second.commit([(b"12", 1)], {}, sync=False)
    assert waiting(second) == [b"%d" % number for number in range(1, 13)]


def test_a_tick_that_was_not_finished_never_was(spool: Spool):
    spool.commit([(b"1", 1)], {"written_ms": {"f": 1}}, sync=False)
    (spool.directory / "000000000002-0000-1.write").write_bytes(b"torn")  # killed before the state was replaced
    (spool.directory / "state.json.new").write_bytes(b"{")
    second = again(spool)
    assert second.state["written_ms"] == {"f": 1}
    second.commit([(b"2", 1)], {}, sync=False)
    assert waiting(second) == [b"1", b"2"]


def test_a_tick_that_cannot_be_written_leaves_nothing(spool: Spool):
    (spool.directory / "state.json.new").mkdir()
    with pytest.raises(OSError):
        spool.commit([(b"1", 1)], {}, sync=False)
    assert waiting(spool) == []
    (spool.directory / "state.json.new").rmdir()
    spool.commit([(b"1", 1)], {}, sync=False)
    assert waiting(spool) == [b"1"]


def test_beyond_its_limit_the_oldest_goes_and_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    spool = Spool(tmp_path, 25)
    for number in range(5):
        spool.commit([(b"%d" % number * 10, 7)], {}, sync=False)
    assert spool.dropped == 21
    assert waiting(spool) == [b"3" * 10, b"4" * 10]
    assert "its oldest 7 samples were dropped" in caplog.text


def test_what_was_dropped_while_it_was_sent_is_done(tmp_path: Path):
    spool = Spool(tmp_path, 15)
    spool.commit([(b"a" * 10, 1)], {}, sync=False)
    sending = spool.next(0)
    assert sending is not None
    spool.commit([(b"b" * 10, 1)], {}, sync=False)
    spool.done(sending)
    assert waiting(spool) == [b"b" * 10]


def test_a_damaged_state_costs_no_request(spool: Spool, caplog: pytest.LogCaptureFixture):
    spool.commit([(b"1", 1)], {"written_ms": {"f": 1}}, sync=False)
    (spool.directory / "state.json").write_text("[]")
    second = again(spool)
    assert "series go on from now" in caplog.text
    second.commit([(b"2", 1)], {}, sync=False)
    assert waiting(second) == [b"1", b"2"]


def test_two_agents_do_not_share_one(spool: Spool):
    with pytest.raises(UsageError, match=r"in use by another agent; give each"):
        Spool(spool.directory, LIMIT)


def test_a_place_that_cannot_be_written_to_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"remote_write\.spool: cannot write to .*file"):
        Spool(tmp_path / "file" / "spool", LIMIT)
