from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from probe.core.evidence import Evidence
from probe.core.fate import LOST, PENDING
from probe.core.ledger import Ledger
from probe.session import recording as module
from probe.session.recording import STEP_NS, Recording
from probe.spool import END_BLOCK, FATE_BLOCK, REPLY_BLOCK, SENT_BLOCK, blocks
from tests.core.network import exact

T0 = 10**12
MS = 1_000_000


def send(evidence: Evidence, first: int, count: int) -> None:
    sequence = np.arange(first, first + count)
    at = T0 + sequence * MS
    evidence.sent(np.zeros(count, np.int64), sequence, at, at - 5, exact(count))


def sequences(file: Path, kind: int) -> list[int]:
    found = [block.columns["sequence"] for block in blocks(file.read_bytes()) if block.kind == kind]
    return np.concatenate(found).tolist() if found else []


def kinds(file: Path) -> list[int]:
    return [block.kind for block in blocks(file.read_bytes())]


@pytest.fixture
def spool(tmp_path: Path):
    file = tmp_path / "spool"
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield file, fd
    os.close(fd)


def test_everything_is_written_once_and_ends_with_its_mark(spool) -> None:
    file, fd = spool
    evidence, recording = Evidence(), Recording(fd)
    for n in range(20):
        send(evidence, n * 1000, 1000)  # wraps around the log of 4096 rows
        sequence = np.arange(n * 1000, n * 1000 + 500)
        zeros = np.zeros(500, np.uint64)
        evidence.received(np.zeros(500, np.int64), sequence, T0 + sequence * MS + 7, zeros, zeros, zeros + 60)
        recording.tick(evidence, T0 + n * STEP_NS)
    recording.close(evidence)
    assert recording.error == ""
    assert sequences(file, SENT_BLOCK) == list(range(20_000))
    assert sequences(file, REPLY_BLOCK) == [s for s in range(20_000) if s % 1000 < 500]
    assert kinds(file)[-1] == END_BLOCK and kinds(file).count(END_BLOCK) == 1


def test_it_is_handed_on_in_steps(spool) -> None:
    file, fd = spool
    evidence, recording = Evidence(), Recording(fd)
    for ms in range(200):
        send(evidence, ms, 1)
        recording.tick(evidence, T0 + ms * MS)
    recording.close(evidence)
    assert len([kind for kind in kinds(file) if kind == SENT_BLOCK]) == 200 * MS // STEP_NS + 1


def test_changes_of_fate_are_as_the_ledger_makes_them(spool) -> None:
    file, fd = spool
    evidence, recording, ledger = Evidence(), Recording(fd), Ledger(1)
    recording.follow(ledger)
    ledger.add(0, "f", 1000, 100 * MS, 3)
    flow = np.zeros(10, np.int64)
    at = T0 + np.arange(10) * MS
    ledger.stamp(flow, ledger.allocate(flow, at), at)
    ledger.receive(flow[:4], np.arange(4), at[:4] + 5)
    ledger.settle(T0 + 1000 * MS)
    recording.close(evidence)
    [fates] = [block.columns for block in blocks(file.read_bytes()) if block.kind == FATE_BLOCK]
    assert fates["first"].tolist() == fates["last"].tolist() == [4, 5, 6, 7, 8, 9]
    assert fates["was"].tolist() == [PENDING] * 6 and fates["fate"].tolist() == [LOST] * 6


def test_a_full_disk_ends_the_recording_and_nothing_else() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        evidence, recording = Evidence(), Recording(fd)
        send(evidence, 0, 100)
        recording.tick(evidence, T0)
        recording.close(evidence)
        assert recording.error == "the disk is full"
        send(evidence, 100, 100)
        recording.tick(evidence, T0 + 1000 * MS)
    finally:
        os.close(fd)


def test_a_disk_that_takes_nothing_is_not_waited_for(monkeypatch) -> None:
    """A pipe that nobody reads blocks the writing thread for good."""
    monkeypatch.setattr(module, "MOST_WAITING", 100_000)
    monkeypatch.setattr(module, "CLOSE_S", 0.01)
    reader, writer = os.pipe()
    evidence, recording = Evidence(), Recording(writer)
    for n in range(10):
        send(evidence, n * 1000, 1000)
        recording.tick(evidence, T0 + n * STEP_NS)
    recording.close(evidence)
    assert recording.error == "the disk takes too long to write"
    os.close(reader)  # lets the thread go, with an error that nobody hears
    recording._thread.join(10)
    os.close(writer)


def test_a_log_that_ran_ahead_of_its_reader_is_noticed(spool) -> None:
    file, fd = spool
    evidence, recording = Evidence(), Recording(fd)
    send(evidence, 0, 5000)
    recording.tick(evidence, T0)
    recording.close(evidence)
    assert "too busy" in recording.error
    assert END_BLOCK not in kinds(file)
