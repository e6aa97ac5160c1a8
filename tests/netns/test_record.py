"""`--record`: the file alone tells what the report tells, and what the router did."""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from probe.core.events import COUNT_NAMES
from probe.report.document import laws

from .test_truth import BLACKOUTS, COUNT_OF, LOST, flow_of
from .triple import MS, TARGETS, Run, Triple, wait_for

pytestmark = pytest.mark.netns

README = Path(__file__).parents[2] / "README.md"
PASSED = {  # what a fate says of each direction: passed or not; nothing if absent
    "round_trip": {"received": True, "late": True, "lost": False},
    "forward": {"received": True, "late": True, "lost_reverse": True, "lost_forward": False},
    "reverse": {"received": True, "late": True, "lost_reverse": False},
}
COUNT = {"lost": "lost_unattributed"}


@pytest.fixture(scope="module")
def recorded(network: Triple, tmp_path_factory):
    """(document, file) of one run with all the blackouts."""
    file = tmp_path_factory.mktemp("record") / "probes.parquet"
    try:
        network.reflect()
        network.drop(*(drop for _, drop in BLACKOUTS.values()))
        run = network.start_measure(*TARGETS.values(), rate=1000, duration=6, loss_threshold=0.4, record=file)
        document = run.document()
    finally:
        network.reset()
    assert f"in {file}" in run.said()
    return document, file


def rows_of(file: Path, flow: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file, filters=[("flow", "=", flow)]).to_pylist()
    return rows


def recomputed(rows: list[dict[str, Any]], direction: str) -> list[tuple[dict[str, Any], ...]]:
    """The rows at the edges of each outage: last_ok, first_lost, last_lost, first_ok; probe by probe."""
    found: list[tuple[dict[str, Any], ...]] = []
    ok: dict[str, Any] = {}
    run: list[dict[str, Any]] = []
    for row in rows:
        passed = PASSED[direction].get(row["fate"])
        if passed is False:
            run.append(row)
        if passed:
            if len(run) >= 3:
                found.append((ok, run[0], run[-1], row))
            ok, run = row, []
    return found


def earliest(row: dict[str, Any]) -> int:
    """When a probe left at the earliest."""
    return row["tx_ns"] - row["tx_earlier_ns"]  # type: ignore[no-any-return]


def latest(row: dict[str, Any]) -> int:
    return row["tx_ns"] + row["tx_later_ns"]  # type: ignore[no-any-return]


def check_counts(flow: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The file holds every probe that was sent, with the fate that it was counted under."""
    assert [row["sequence"] for row in rows] == list(range(flow["counts"]["sent"]))
    fates = Counter(COUNT.get(row["fate"], row["fate"]) for row in rows)
    settled = ("received", "late", "lost_forward", "lost_reverse", "lost_unattributed", "dropped_locally", "pending")
    assert set(settled) < set(COUNT_NAMES)
    assert {name: fates[name] for name in settled} == {name: flow["counts"][name] for name in settled}


def test_the_document_says_where_it_is_and_obeys_the_laws(recorded) -> None:
    document, file = recorded
    sent = sum(flow["counts"]["sent"] for flow in document["flows"])
    assert document["run"]["record"] == {"file": str(file), "probes": sent, "complete": True, "reason": ""}
    assert laws(document, settled=True) == []
    assert [found.name for found in file.parent.iterdir()] == [file.name]
    about = json.loads(pq.read_schema(file).metadata[b"haprobe"])
    assert about["complete"] and about["run"]["id"] == document["run"]["id"] != ""
    assert [flow["name"] for flow in about["flows"]] == [flow["name"] for flow in document["flows"]]


@pytest.mark.parametrize("kind", BLACKOUTS)
def test_every_probe_is_there_with_its_fate_and_delay(recorded, kind: str) -> None:
    document, file = recorded
    flow = flow_of(document, kind)
    rows = rows_of(file, flow["name"])
    check_counts(flow, rows)
    delays = [row["rtt_ns"] for row in rows if row["fate"] == "received"]
    assert abs(min(delays) - flow["rtt_ns"]["min"]) <= 2 and abs(max(delays) - flow["rtt_ns"]["max"]) <= 2
    stateful = not kind.startswith("icmp")
    for row in rows:
        answered = row["fate"] == "received"
        assert (row["rx_ns"] is not None) == (row["ttl"] is not None) == answered
        assert (row["reflector_rx_ns"] is not None) == (row["reflector_tx_ns"] is not None) == (answered and stateful)
        assert row["due_ns"] <= row["tx_ns"]
        if answered and stateful:  # one host, one clock: give or take how well wall and monotonic time are mapped
            assert row["tx_ns"] - MS < row["reflector_rx_ns"] <= row["reflector_tx_ns"] < row["rx_ns"] + MS


@pytest.mark.parametrize("kind", BLACKOUTS)
def test_the_outage_from_the_file_alone_is_that_of_the_report(recorded, kind: str) -> None:
    document, file = recorded
    direction, _ = BLACKOUTS[kind]
    flow = flow_of(document, kind)
    (outage,) = flow["outages"]
    (found,) = recomputed(rows_of(file, flow["name"]), direction)
    last_ok, first_lost, last_lost, first_ok = found
    assert (first_lost["sequence"], last_lost["sequence"]) == (LOST.start, LOST.stop - 1)
    assert (outage["first_lost_seq"], outage["last_lost_seq"], outage["lost"]) == (LOST.start, LOST.stop - 1, len(LOST))
    assert [row["tx_ns"] for row in found] == list(outage["edges_ns"].values())
    told = outage["duration_ns"]
    assert told["upper"] == latest(first_ok) - earliest(last_ok)
    # What went unobserved within it is taken off the lower bound as well; beyond the edges it is not.
    assert 0 <= earliest(last_lost) - latest(first_lost) - told["lower"] <= outage["unobserved_ns"]
    assert outage["tx_error_ns"] == sum(latest(row) - row["tx_ns"] for row in (first_lost, first_ok)) + sum(
        row["tx_ns"] - earliest(row) for row in (last_ok, last_lost)
    )
    assert flow["counts"][COUNT_OF[direction]] == len(LOST)


@pytest.mark.parametrize("kind", BLACKOUTS)
def test_the_evidence_of_the_outage_is_what_the_file_has_of_these_probes(recorded, kind: str) -> None:
    document, file = recorded
    flow = flow_of(document, kind)
    (outage,) = flow["outages"]
    numbers = [*range(LOST.start - 8, LOST.start + 8), *range(LOST.stop - 8, LOST.stop + 8)]
    assert [record["sequence"] for record in outage["evidence"]] == numbers
    rows = rows_of(file, flow["name"])
    for record in outage["evidence"]:
        row = rows[record["sequence"]]
        assert record == {name: row[name] for name in record}


def test_the_example_of_the_readme(recorded, tmp_path, monkeypatch) -> None:
    document, file = recorded
    flow = flow_of(document, "udp")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(file.parent)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("udp-10.99.97.10-862", flow["name"]), {})
    (outage,) = flow["outages"]
    lower, upper = outage["duration_ns"]["lower"], outage["duration_ns"]["upper"]
    if outage["unobserved_ns"]:  # the report takes this off; the file does not tell of it
        ((_, first_lost, last_lost, _),) = recomputed(rows_of(file, flow["name"]), BLACKOUTS["udp"][0])
        lower = earliest(last_lost) - latest(first_lost)
    assert out.getvalue() == f"2000..2499: {lower / 1e6:.3f} ms < outage < {upper / 1e6:.3f} ms\n"


def test_ctrl_c_still_leaves_a_whole_file(triple: Triple, reflector: Run, tmp_path: Path) -> None:
    file = tmp_path / "probes.parquet"
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], rate=1000, duration=60, loss_threshold=0.3, record=file)
    capture.wait_for("udp", 500)
    run.interrupt()
    document = run.document()
    assert document["run"]["record"]["complete"]
    (flow,) = document["flows"]
    assert 500 <= flow["counts"]["sent"] < 60_000
    check_counts(flow, rows_of(file, flow["name"]))


def test_a_killed_run_leaves_no_file_of_that_name(triple: Triple, reflector: Run, tmp_path: Path) -> None:
    file = tmp_path / "probes.parquet"
    file.write_text("of an earlier run")
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], rate=1000, duration=60, loss_threshold=0.3, record=file)
    capture.wait_for("udp", 500)
    run.kill()
    assert [found.suffix for found in tmp_path.iterdir()] == [".spool"]
    assert all(found.name.startswith(".probes.parquet.") for found in tmp_path.iterdir())


def test_an_engine_that_dies_leaves_what_it_had_written_under_another_name(
    triple: Triple, reflector: Run, tmp_path: Path
) -> None:
    file = tmp_path / "probes.parquet"
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], rate=1000, duration=60, loss_threshold=0.3, record=file)
    capture.wait_for("udp", 500)
    (spool,) = tmp_path.iterdir()
    wait_for(lambda: spool.stat().st_size > 0, what="for the spool")
    triple.run(triple.sender, "kill", "-KILL", str(run.engine()))
    assert run.end() == 1
    assert "was not recorded whole: the engine ended before it had written all" in run.said()
    (left,) = tmp_path.iterdir()
    assert left.name == "probes.incomplete.parquet"
    assert not json.loads(pq.read_schema(left).metadata[b"haprobe"])["complete"]


def test_a_disk_that_takes_no_more_ends_the_recording_and_not_the_measurement(
    triple: Triple, reflector: Run, tmp_path: Path
) -> None:
    """A limit on the engine's file sizes stands in for the full disk."""
    file = tmp_path / "probes.parquet"
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], rate=1000, duration=60, loss_threshold=0.3, record=file)
    capture.wait_for("udp", 500)
    (spool,) = tmp_path.iterdir()
    wait_for(lambda: spool.stat().st_size > 1000, what="for the spool")
    resource.prlimit(run.engine(), resource.RLIMIT_FSIZE, (spool.stat().st_size + 1000,) * 2)
    wait_for(lambda: "recording ended: " in run.said(), what="for the end of the recording")
    assert "the measurement goes on" in run.said()
    capture.wait_for("udp", max(capture.probes("udp")) + 500)
    run.interrupt()
    document = run.document()
    (flow,) = document["flows"]
    assert flow["counts"]["lost"] == flow["counts"]["pending"] == 0
    assert laws(document, settled=True) == []
    record = document["run"]["record"]
    assert not record["complete"] and record["reason"]
    assert f"{file} was not recorded whole: {record['reason']}" in run.said()
    (left,) = tmp_path.iterdir()
    assert (left.name, record["file"]) == ("probes.incomplete.parquet", str(left))
    rows = rows_of(left, flow["name"])
    assert 0 < len(rows) == record["probes"] <= flow["counts"]["sent"] - 500
    assert [row["sequence"] for row in rows] == list(range(len(rows)))
