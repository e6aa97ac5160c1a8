"""Flows as columns: what is kept from one table to the next is what would be found anew."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probe.border import SharedState
from probe.core.events import VERDICTS, FlowSpec, Outage
from probe.core.fate import COLUMN
from probe.core.histogram import BINS, edges_ns
from probe.core.verdict import judge_all
from probe.export.view import FlowTable
from probe.flow_table import EDGES_S, FlowTables
from probe.recorder import FlowTrack, Recorder
from probe.report.assess import record_of

S = 1_000_000_000
T0 = 1_700_000_000 * S
FLOWS = (("a", "kept", "packet"), ("a-fresh", "fresh", "packet"), ("b", "kept", "packet"), ("s", "kept", "kernel"))

seconds = st.integers(1, 100)
flow = st.integers(0, len(FLOWS) - 1)
events = st.one_of(
    st.tuples(st.just("outage"), flow, seconds, st.booleans(), st.sampled_from(["round_trip", "forward", "reverse"])),
    st.tuples(st.just("withdrawn"), flow),
    st.tuples(st.just("unobserved"), flow, seconds, seconds),
    st.tuples(st.just("end"), flow, st.sampled_from(["rst", "fin", "silent"]), seconds),
    st.tuples(st.just("translation"), flow, seconds),
    st.tuples(st.just("established"), flow, seconds, st.integers(1, 2)),
    st.tuples(st.just("stall"), st.just(3), seconds, st.booleans()),
    st.tuples(st.just("state"), flow, st.sampled_from(["up", "suspect", "down", "ended"])),
    st.tuples(st.just("counts"), flow, st.sampled_from(["received", "late", "lost", "dropped_locally"]), seconds),
)


class Told:
    """A recorder whose engine tells what a test says."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.shared = SharedState.create(len(FLOWS) + 1)
        self.recorder.attach(self.shared)
        # The rows of the engine in another order than the flows.
        self.tracks = [
            FlowTrack(
                FlowSpec(name, "tcp" if stack == "kernel" else "udp", session, "p", "x", 862, 1.0, stack=stack),
                len(FLOWS) - place,
                "192.0.2.1",
            )
            for place, (name, session, stack) in enumerate(FLOWS)
        ]
        for track in self.tracks:
            self.recorder.add(track)
        self.number = 0
        self.settled_to = T0 + 1000 * S

    def take(self, event: str, place: int, **more: Any) -> None:
        self.recorder.take({"event": event, "flow": self.tracks[place].index, **more})

    def happens(self, kind: str, place: int, *more: Any) -> None:
        track = self.tracks[place]
        match kind, more:
            case "outage", (start, still_open, direction):
                self.number += 1
                self._outage(place, self.number, T0 + start * S, bool(still_open), direction)
            case "withdrawn", () if track.outages:
                self._outage(place, max(track.outages), T0, False, "round_trip", withdrawn=True)
            case "unobserved", (start, length):
                spans = {"flows": [track.index], "start_ns": [T0 + start * S], "end_ns": [T0 + (start + length) * S]}
                self.recorder.take({"event": "unobserved", "cause": "stall", "goes_on": False, **spans})
            case "end", (cause, at):
                about = {"cause": cause, "at_ns": T0 + at * S, "from": "192.0.2.1", "ttl": 60, "peer_ttl": 60}
                self.take("session_end", place, **about)
            case "translation", (at,):
                self.take("translation", place, at_ns=T0 + at * S, address="192.0.2.9", port=9, changed=True)
            case "established", (at, connection):
                self.take("established", place, at_ns=T0 + at * S, connection=connection, attempts=1)
            case "stall", (start, still_open):
                self.number += 1
                span = {"start_ns": T0 + start * S, "end_ns": T0 + (start + 1) * S, "duration_ns": S}
                rest = {"first_echo_ns": 0, "caught_up_ns": 0, "retransmitted_ns": [], "retransmissions": 2}
                censored = "end" if still_open else "no"
                self.take("stall", place, id=self.number, censored=censored, total_retransmissions=2, **span, **rest)
            case "state", (state,):
                self.take("state", place, state=state, at_ns=T0)
            case "counts", (name, n):
                row = self.shared.live[track.index]
                for column in ("scheduled", "sent", name, *(["lost_unattributed"] if name == "lost" else [])):
                    row[COLUMN[column]] += n
                row[COLUMN["reset"]] += 1
                self.shared.histogram[track.index, n] += n
                self.shared.flows["rtt_sum"][track.index] += n

    def _outage(self, place: int, number: int, start: int, still_open: bool, direction: Any, **more: Any) -> None:
        end = start + 3 * S
        edges = (start - S, start, end - S, 0 if still_open else end)
        censored = "end" if still_open else "no"
        one = Outage("", number, direction, start, end, *edges, 2 * S, 3 * S, 4 * S, 3, 0, 2, censored)
        self.take("outage", place, lost_before=-1, **{k: v for k, v in {**asdict(one), **more}.items() if k != "flow"})

    def read(self) -> None:
        self.settled_to += S
        self.shared.publish(self.settled_to, self.shared.live.copy())
        self.recorder.sample()


def same(one: FlowTable, other: FlowTable) -> None:
    for name in one.__slots__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right, err_msg=name)
        else:
            assert left == right, name


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(events, max_size=4), max_size=8))
# The old session is dark; then new ones turn out to work.
@example([[("outage", 0, 5, True, "round_trip"), ("counts", 0, "lost", 3)], [("counts", 1, "received", 5)]])
# One flow was not observed for long; then another has an outage just then.
@example([[("unobserved", 2, 1, 60), *3 * [("counts", 2, "received", 100)]], [("outage", 0, 10, False, "forward")]])
# Too little was observed to say anything; then enough.
@example([[("unobserved", 2, 1, 60), ("counts", 2, "received", 5)], *3 * [[("counts", 2, "received", 100)]]])
# Too few losses to matter; then too many.
@example([[("counts", 2, "received", 100), ("counts", 2, "lost", 1)], [("counts", 2, "lost", 5)]])
def test_a_table_says_what_the_documents_say(told):
    bench = Told()
    tables = FlowTables(bench.recorder)
    for together in told:
        for event in together:
            bench.happens(*event)
        bench.read()
        table = tables.read(bench.tracks)
        same(table, FlowTables(bench.recorder).read(bench.tracks))
        documents = [bench.recorder.flow_document(track, None, None) for track in bench.tracks]
        judged = [record.verdict for record in judge_all([record_of(document) for document in documents])]
        assert [VERDICTS[place] for place in table.told["verdict"]] == judged
        for row, (track, document) in enumerate(zip(bench.tracks, documents, strict=True)):
            assert dict(zip(COLUMN, table.counts[row].tolist(), strict=True)) == document["counts"]
            compare_told(table.told[row], track, document)


def compare_told(told: Any, track: FlowTrack, document: dict[str, Any]) -> None:
    outages = document["outages"]
    assert told["outages"] == len(outages)
    assert told["outage_s"] == sum(o["duration_ns"]["estimate"] for o in outages) / 1e9
    assert told["unobserved_s"] == sum(u["end_ns"] - u["start_ns"] for u in document["unobserved"]) / 1e9
    if outages:
        last = outages[-1]
        assert told["last_start_s"] == last["start_ns"] / S and told["last_end_s"] == last["end_ns"] / S
        assert (told["last_lost"], bool(told["last_open"])) == (3, last["censored"] == "end")
        assert (told["last_lower_s"], told["last_estimate_s"], told["last_upper_s"]) == (2.0, 3.0, 4.0)
    resets = document["counts"]["reset"] if track.spec.session == "fresh" else track.resets["rst"]
    assert (told["rst"], told["fin"], told["silent"]) == (resets, track.resets["fin"], track.resets.get("silent", 0))
    stalls = document.get("stream", {"stalls": []})["stalls"]
    assert (told["stalls"], told["stall_s"]) == (len(stalls), len(stalls))
    assert told["retransmissions"] == track.retransmissions


def test_what_is_not_kept_any_more_still_counts(monkeypatch):
    """Counters of Prometheus only go up, however many outages there were."""
    monkeypatch.setattr("probe.outages.MOST", 3)
    monkeypatch.setattr("probe.recorder.MOST_SPANS", 3)
    bench = Told()
    tables = FlowTables(bench.recorder)
    for n in range(1, 9):
        bench.happens("outage", 3, 10 * n, False, "round_trip")
        bench.happens("unobserved", 3, 10 * n, 2)
        bench.happens("stall", 3, 10 * n, False)
        told = tables.read(bench.tracks).told[3]
        assert (told["outages"], told["outage_s"], told["unobserved_s"]) == (n, 3 * n, 2 * n)
        assert (told["stalls"], told["stall_s"]) == (n, n)
    bench._outage(3, 1, T0 + 10 * S, False, "forward")  # told once more, of one that was let go
    told = tables.read(bench.tracks).told[3]
    assert (told["outages"], told["outage_s"], told["last_start_s"]) == (8, 24, (T0 + 80 * S) / S)


def test_another_set_of_flows_is_another_table():
    bench = Told()
    bench.happens("state", 2, "up")
    bench.happens("counts", 2, "received", 5)
    bench.read()
    tables = FlowTables(bench.recorder)
    assert [flow[0] for flow in tables.read(bench.tracks).flows] == ["a", "a-fresh", "b", "s"]
    table = tables.read(bench.tracks[2:])
    assert [flow[0] for flow in table.flows] == ["b", "s"]
    assert table.counts[:, COLUMN["received"]].tolist() == [5, 0]
    assert len(tables.read([]).flows) == 0


def test_what_was_handed_out_stays_as_it_was():
    bench = Told()
    tables = FlowTables(bench.recorder)
    before = tables.read(bench.tracks)
    bench.tracks[0].interface, bench.tracks[0].version = "eth9", 1
    bench.happens("state", 0, "down")
    after = tables.read(bench.tracks)
    assert (before.places[0][3], after.places[0][3]) == ("", "eth9")
    assert (before.told["state"][0], after.told["state"][0]) == (0, 3)


def test_buckets_hold_the_bins_below_their_edge():
    bench = Told()
    track = bench.tracks[1]
    bench.shared.histogram[track.index] = np.arange(BINS)
    bench.shared.flows["rtt_sum"][track.index] = 12e6
    bench.read()
    table = FlowTables(bench.recorder).read(bench.tracks)
    edges = edges_ns()[1:] / 1e9
    wanted = [int(np.arange(BINS)[edges <= edge].sum()) for edge in EDGES_S[:-1]] + [BINS * (BINS - 1) // 2]
    assert table.rtt_buckets[1].tolist() == wanted
    assert table.rtt_buckets[0].tolist() == [0] * len(EDGES_S)
    assert table.rtt_sum_s[1] == pytest.approx(0.012)


def test_before_any_reading():
    table = FlowTables(Recorder()).read(Told().tracks)
    assert not table.counts.any() and not table.rtt_buckets.any() and not table.rtt_sum_s.any()
    assert {VERDICTS[place] for place in table.told["verdict"]} == {"unobserved"}
