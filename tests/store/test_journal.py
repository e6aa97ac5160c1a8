"""The journal on a healthy disk, on a broken one, and after a kill."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from probe.clock import ManualClock
from probe.errors import UsageError
from probe.store.journal import FORMAT, Journal, Record, journal_files, replay

SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def journal(tmp_path, clock):
    made = Journal(tmp_path / "journal", clock)
    yield made
    made.close()


def data_of(directory):
    return [record.data for record in replay(directory)]


def test_records_come_back_in_order_with_kind_and_time(journal, clock):
    assert journal.append("outage", {"flow": "a"})
    clock.advance(5)
    assert journal.append("ha_change", {"unit": "fgt-b"}, at_ns=42)
    journal.append("outage", {"flow": "ü"})
    assert list(replay(journal.directory)) == [
        Record("outage", 1_700_000_000_000_000_000, {"flow": "a"}),
        Record("ha_change", 42, {"unit": "fgt-b"}),
        Record("outage", 1_700_000_000_000_000_005, {"flow": "ü"}),
    ]
    assert journal.failures == 0


def test_file_is_named_after_its_creation_and_names_its_format(journal):
    assert journal.path.name == "journal-20231114T221320.jsonl"
    assert json.loads(journal.path.read_text().splitlines()[0]) == {"journal": FORMAT}


def test_a_record_is_one_write_to_an_appending_descriptor(journal, monkeypatch):
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or real(fd, data))
    journal.append("outage", {"text": "line\nbreak"})
    assert len(writes) == 1 and writes[0].endswith(b"}\n") and writes[0].count(b"\n") == 1
    with journal.path.open("rb") as other:
        assert other.read().endswith(writes[0])


def test_dataclasses_and_numpy_numbers_are_written_as_plain_values(journal):
    @dataclass
    class Window:
        lost: int

    journal.append("outage", {"window": Window(3), "count": np.int64(7), "path": journal.path})
    assert data_of(journal.directory) == [{"window": {"lost": 3}, "count": 7, "path": str(journal.path)}]


def test_a_new_process_starts_a_new_file_after_the_old_one(tmp_path, clock):
    for number in range(3):  # within the same second of the clock
        journal = Journal(tmp_path, clock)
        journal.append("outage", {"n": number})
        journal.close()
    assert len(journal_files(tmp_path)) == 3
    assert data_of(tmp_path) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_order_survives_a_wall_clock_stepped_back(tmp_path, clock):
    Journal(tmp_path, clock).append("outage", {"n": 0})
    clock.step_wall(-600 * SECOND)
    Journal(tmp_path, clock).append("outage", {"n": 1})
    assert data_of(tmp_path) == [{"n": 0}, {"n": 1}]


def test_torn_last_line_is_reported_and_the_next_process_is_not_disturbed(tmp_path, clock):
    first = Journal(tmp_path, clock)
    first.append("outage", {"n": 0})
    first.append("outage", {"n": 1})
    first.close()
    os.truncate(first.path, first.path.stat().st_size - 4)
    second = Journal(tmp_path, clock)
    second.append("outage", {"n": 2})
    reading = replay(tmp_path)
    assert [record.data for record in reading] == [{"n": 0}, {"n": 2}]
    assert reading.torn == 1
    assert reading.damage[0].startswith(f"{first.path}:3: not JSON")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe\n",
        b"not json\n",
        b"[1, 2]\n",
        b'{"kind": "outage"}\n',
        b'{"kind": 1, "at_ns": 2, "data": {}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (3 << 20) + b"\n",
    ],
    ids=["octets", "text", "list", "incomplete", "types", "deep", "huge"],
)
def test_garbage_between_records_is_counted_and_skipped(journal, garbage):
    journal.append("outage", {"n": 0})
    with journal.path.open("ab") as file:
        file.write(garbage)
    journal.append("outage", {"n": 1})
    reading = replay(journal.directory)
    assert [record.data for record in reading] == [{"n": 0}, {"n": 1}]
    assert reading.damage
    assert all(str(journal.path) in line for line in reading.damage)
    assert reading.torn == 0


def test_empty_or_absent_directory_is_an_empty_journal(tmp_path):
    assert list(replay(tmp_path)) == []
    assert list(replay(tmp_path / "absent")) == []


def test_rotation_by_size_loses_nothing(tmp_path, clock):
    journal = Journal(tmp_path, clock, max_file_octets=400)
    for number in range(50):
        journal.append("outage", {"n": number})
    files = journal_files(tmp_path)
    assert len(files) > 5
    assert max(path.stat().st_size for path in files) <= 400
    assert data_of(tmp_path) == [{"n": n} for n in range(50)]
    assert journal.path == files[-1]
    journal.close()


def test_retention_removes_the_oldest_files_only(tmp_path, clock):
    journal = Journal(tmp_path, clock, max_file_octets=400, max_total_octets=1200)
    (tmp_path / "keep.txt").write_text("not ours")
    for number in range(100):
        journal.append("outage", {"n": number})
    kept = [record["n"] for record in data_of(tmp_path)]
    assert kept == list(range(kept[0], 100)) and kept[0] > 0
    assert sum(path.stat().st_size for path in journal_files(tmp_path)) <= 1200 + 400
    assert (tmp_path / "keep.txt").exists()
    journal.close()


def test_the_file_being_written_is_never_removed(tmp_path, clock):
    journal = Journal(tmp_path, clock, max_total_octets=1)
    journal.append("outage", {"n": 0})
    assert data_of(tmp_path) == [{"n": 0}]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_directory_that_cannot_be_written_is_a_usage_error(tmp_path, clock, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--journal\.dir: cannot write to .*file") as caught:
        Journal(tmp_path / place, clock)
    assert caught.value.exit_status == 2


def test_a_full_disk_at_start_is_a_usage_error_and_leaves_no_file(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(os, "write", lambda _fd, _data: 0)
    with pytest.raises(UsageError, match="space left"):
        Journal(tmp_path, clock)
    assert journal_files(tmp_path) == []


def test_a_full_disk_later_is_counted_and_writing_goes_on_when_there_is_space(journal, monkeypatch):
    real = os.write

    def half(fd, data):
        return real(fd, data[: len(data) // 2])

    def full(_fd, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal.append("outage", {"n": 0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        assert not journal.append("outage", {"n": 1})
        patch.setattr(os, "write", full)
        assert not journal.append("outage", {"n": 2})
    assert (journal.failures, journal.last_failure) == (2, "No space left on device")
    assert journal.append("outage", {"n": 3})
    reading = replay(journal.directory)
    assert [record.data for record in reading] == [{"n": 0}, {"n": 3}]
    assert len(reading.damage) == 1


def test_a_failed_rotation_keeps_the_old_file_in_use(tmp_path, clock, monkeypatch):
    journal = Journal(tmp_path, clock, max_file_octets=200)
    journal.append("outage", {"n": 0})

    def refused(*_args):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        for number in range(1, 6):
            assert journal.append("outage", {"n": number})
        assert len(journal_files(tmp_path)) == 1
    assert journal.failures > 0
    assert journal.last_failure == os.strerror(errno.EMFILE)
    journal.append("outage", {"n": 6})
    assert len(journal_files(tmp_path)) == 2
    assert data_of(tmp_path) == [{"n": n} for n in range(7)]


def test_data_that_cannot_be_written_is_a_failure_not_a_crash(journal):
    loop = {}
    loop["self"] = loop
    assert not journal.append("outage", loop)
    assert journal.failures == 1
    assert journal.append("outage", {"n": 0})


def test_fsync_on_demand_and_at_most_every_interval(journal, clock, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal.append("outage", {})
    assert synced == []
    journal.append("outage", {}, sync=True)
    assert len(synced) == 1
    clock.advance(5 * SECOND)
    journal.append("outage", {})
    journal.append("outage", {})
    assert len(synced) == 2


def test_closed_journal_counts_failures(journal):
    journal.close()
    journal.close()
    assert not journal.append("outage", {})
    assert journal.failures == 1


def test_threads_do_not_mix_their_lines(tmp_path, clock):
    journal = Journal(tmp_path, clock, max_file_octets=5000)

    def write(worker):
        for number in range(100):
            journal.append("outage", {"worker": worker, "n": number})

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading = replay(tmp_path)
    seen = [(record.data["worker"], record.data["n"]) for record in reading]
    assert reading.damage == [] and len(seen) == 400
    for worker in range(4):
        assert [n for w, n in seen if w == worker] == list(range(100))


def test_records_of_a_killed_process_are_there(tmp_path):
    script = """
        import itertools, sys
        from probe.clock import SystemClock
        from probe.store.journal import Journal
        journal = Journal(sys.argv[1], SystemClock())
        for n in itertools.count():
            journal.append("outage", {"n": n})
            if n == 20:
                print("going", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"going\n"
        writer.send_signal(signal.SIGKILL)
    reading = replay(tmp_path)
    numbers = [record.data["n"] for record in reading]
    assert len(numbers) > 20 and numbers == list(range(len(numbers)))
    assert len(reading.damage) == reading.torn <= 1


def test_a_file_from_the_far_future_does_not_pull_names_along(tmp_path, clock):
    (tmp_path / "journal-20990101T000000.jsonl").write_text("")
    assert Journal(tmp_path, clock).path.name == "journal-20231114T221320.jsonl"
