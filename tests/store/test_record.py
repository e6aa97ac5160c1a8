"""The Parquet file of a recording, from a spool written by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from probe.core.events import FlowSpec
from probe.core.fate import LOST_FORWARD, PENDING
from probe.errors import UsageError
from probe.spool import END_BLOCK, FATE_BLOCK, KINDS, REPLY_BLOCK, SENT_BLOCK, pack
from probe.store import record as module
from probe.store.record import RecordFile
from probe.wire.stamp import ntp_from_unix_ns

S = 1_000_000_000
MONO = 10**12
ANCHOR = 1_700_000_000 * S - MONO
FLOWS = [
    FlowSpec("a", "udp", "kept", "egress", "192.0.2.1", 862, 1000.0),
    FlowSpec("b", "tcp", "kept", "egress", "192.0.2.2", 8620, 1000.0),
    FlowSpec("c", "icmp", "kept", "egress", "192.0.2.3", 0, 1000.0, loss_threshold_ns=1000),
]
RUN = {"id": "20260101T000000.000Z", "clock": {"synchronised": True}}


def put(fd: int, kind: int, *rows: tuple[Any, ...]) -> None:
    columns = {}
    for i, (name, dtype) in enumerate(KINDS[kind].items()):
        columns[name] = np.array([row[i] for row in rows], dtype)
    for part in pack(kind, columns):
        os.write(fd, part)


def fill(fd: int) -> None:
    """A reply to each flow's first probe; the second of `a` was lost on the way out, that of `c` came late."""
    put(
        fd,
        SENT_BLOCK,
        *((f, s, MONO + 1000 * s + f, MONO + 1000 * s + f - 5, f, 40) for s in range(2) for f in range(3)),
    )
    there = ntp_from_unix_ns(np.array([ANCHOR + MONO + 100, ANCHOR + MONO + 130])).tolist()
    put(fd, REPLY_BLOCK, (0, 0, MONO + 500, *there, 61), (2, 0, MONO + 502, 0, 0, 62))
    put(fd, FATE_BLOCK, (0, 1, 1, PENDING, LOST_FORWARD))
    unix = (ANCHOR + MONO + 200, ANCHOR + MONO + 210)
    put(fd, REPLY_BLOCK, (1, 0, MONO + 601, *unix, 63), (2, 1, MONO + 1000 + 2 + 1001, 0, 0, 62))


def finish(record: RecordFile, steps: list[float] | None = None) -> dict[str, Any]:
    return record.finish(FLOWS, run=RUN, anchor_ns=ANCHOR, progress=(steps if steps is not None else []).append)


def leftovers(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_one_row_a_probe_with_all_that_is_known(tmp_path: Path) -> None:
    steps: list[float] = []
    with RecordFile(tmp_path / "p.parquet") as record:
        fill(record.fd)
        put(record.fd, END_BLOCK)
        result = finish(record, steps)
    assert result == {"file": str(tmp_path / "p.parquet"), "probes": 6, "complete": True, "reason": ""}
    assert leftovers(tmp_path) == ["p.parquet"]
    assert steps[-1] == 1.0
    table = pq.read_table(tmp_path / "p.parquet")
    unix = ANCHOR + MONO
    none = dict.fromkeys(("rx_ns", "rtt_ns", "reflector_rx_ns", "reflector_tx_ns", "ttl"))

    def row(flow: str, sequence: int, **more: Any) -> dict[str, Any]:
        tx = unix + 1000 * sequence + "abc".index(flow)
        error = {"tx_earlier_ns": "abc".index(flow), "tx_later_ns": 40}
        return {"flow": flow, "sequence": sequence, "due_ns": tx - 5, "tx_ns": tx, **error, **none, **more}

    there = {"reflector_rx_ns": unix + 100, "reflector_tx_ns": unix + 130}
    unix_there = {"reflector_rx_ns": unix + 200, "reflector_tx_ns": unix + 210}
    assert table.to_pylist() == [
        row("a", 0, rx_ns=unix + 500, rtt_ns=470, **there, ttl=61, fate="received"),
        row("b", 0, rx_ns=unix + 601, rtt_ns=590, **unix_there, ttl=63, fate="received"),
        row("c", 0, rx_ns=unix + 502, rtt_ns=500, ttl=62, fate="received"),
        row("a", 1, fate="lost_forward"),
        row("b", 1, fate="pending"),
        row("c", 1, rx_ns=unix + 2003, rtt_ns=1001, ttl=62, fate="late"),
    ]
    about = json.loads(table.schema.metadata[b"haprobe"])
    assert (about["schema"], about["complete"], about["anchor_ns"]) == ("haprobe.record/1", True, ANCHOR)
    assert about["run"] == RUN
    assert [flow["name"] for flow in about["flows"]] == ["a", "b", "c"]
    assert about["flows"][2]["loss_threshold_ns"] == 1000


@pytest.mark.parametrize(
    ("ended", "reason"), [("the disk is full", "the disk is full"), ("", "the engine ended before it had written all")]
)
def test_one_that_lacks_something_has_another_name(tmp_path: Path, ended: str, reason: str) -> None:
    with RecordFile(tmp_path / "p.parquet") as record:
        fill(record.fd)
        record.ended = ended
        if ended:
            put(record.fd, END_BLOCK)
        result = finish(record)
    file = tmp_path / "p.incomplete.parquet"
    assert result == {"file": str(file), "probes": 6, "complete": False, "reason": reason}
    assert leftovers(tmp_path) == [file.name]
    about = json.loads(pq.read_schema(file).metadata[b"haprobe"])
    assert (about["complete"], about["reason"]) == (False, reason)


def test_nothing_was_sent(tmp_path: Path) -> None:
    with RecordFile(tmp_path / "p.parquet") as record:
        put(record.fd, END_BLOCK)
        assert finish(record)["complete"]
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with RecordFile(tmp_path / "p.parquet") as record:
        fill(record.fd)
        put(record.fd, END_BLOCK)
        result = finish(record)
    assert result["file"] == "" and not result["complete"] and "No space left on device" in result["reason"]
    assert leftovers(tmp_path) == []


def test_ctrl_c_while_it_is_written_keeps_the_result(tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write", interrupted)
    with RecordFile(tmp_path / "p.parquet") as record:
        put(record.fd, END_BLOCK)
        result = finish(record)
    assert result["file"] == "" and not result["complete"] and "interrupted" in result["reason"]
    assert leftovers(tmp_path) == []


def test_an_older_file_does_not_pass_for_this_run(tmp_path: Path) -> None:
    target = tmp_path / "p.parquet"
    target.write_text("old")
    with RecordFile(target) as record:
        assert target.exists(), "until there is something to measure"
        record.remove_older()
        assert not target.exists()


def test_a_directory_that_takes_no_file_is_an_error_of_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot record there"):
        RecordFile(tmp_path / "none" / "p.parquet")
