from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from probe.border import SharedState
from probe.core.events import FlowSpec, Outage, SessionEnd
from probe.core.fate import COLUMN
from probe.core.histogram import bins_of
from probe.recorder import MOST_ICMP_RUNS, FlowTrack, Recorder
from probe.report.document import laws, new_document

S = 1_000_000_000
MS = 1_000_000
T0 = 1_700_000_000 * S


class Bench:
    """A recorder of two flows, the engine's counters, and what the listener heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.recorder = Recorder(lambda kind, data: self.heard.append((kind, data)))
        self.shared = SharedState.create(2)
        self.shared.flows["rtt_min"] = np.iinfo(np.int64).max
        self.recorder.attach(self.shared)
        self.tracks = [
            FlowTrack(FlowSpec(f"f{n}", "udp", "kept", "east-west", "target", 862, 1000.0), n, f"192.0.2.{n}")
            for n in range(2)
        ]
        for track in self.tracks:
            self.recorder.add(track)
        self.settled = np.zeros_like(self.shared.settled)

    def take(self, event: str, flow: int = 0, **more: Any) -> None:
        self.recorder.take({"event": event, "flow": flow, **more})

    def unobserved(self, start: int, end: int, cause: str = "stall", *, goes_on: bool = False) -> None:
        spans = {"flows": [0], "start_ns": [start], "end_ns": [end]}
        self.recorder.take({"event": "unobserved", "cause": cause, "goes_on": goes_on, **spans})

    def outage(self, number: int, start_s: float, end_s: float, *, flow: int = 0, **more: Any) -> None:
        start, end = T0 + round(start_s * S), T0 + round(end_s * S)
        lost = (end - start) // MS
        edges = (start - MS, start, end - MS, 0 if more.get("censored") == "end" else end)
        record = Outage(
            "", number, "round_trip", start, end, *edges, lost * MS - MS, lost * MS, lost * MS + MS, lost, 0, 0
        )
        message = {k: v for k, v in {**asdict(record), **more}.items() if k != "flow"}
        self.take("outage", flow, lost_before=-1, **message)

    def sample(self, settled_to: int, flow: int = 0, **counts: int) -> None:
        """Count more probes, up to `settled_to`, and read that."""
        row = self.settled[flow]
        for name, n in counts.items():
            row[COLUMN[name]] += n
        row[COLUMN["lost"]] += sum(n for name, n in counts.items() if name.startswith("lost_"))
        sent = sum(counts.values())
        row[COLUMN["sent"]] += sent
        row[COLUMN["scheduled"]] += sent
        self.shared.live[:] = self.settled
        self.shared.publish(settled_to, self.settled)
        self.recorder.sample()

    def document(self, start: int | None = None, end: int | None = None, flow: int = 0) -> dict[str, Any]:
        return self.recorder.flow_document(self.tracks[flow], start, end)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.shared.close()


def test_flows_in_order_and_gone_when_removed(bench):
    assert [t.index for t in bench.recorder.tracks()] == [0, 1]
    bench.recorder.remove(0)
    assert [t.index for t in bench.recorder.tracks()] == [1]
    bench.take("state", 0, state="up", at_ns=T0)  # of a flow that is gone
    bench.take("no_such_event", 1)
    assert bench.heard == []


def test_states(bench):
    bench.take("state", state="up", at_ns=T0)
    bench.take("state", state="down", at_ns=T0 + 1)
    assert bench.tracks[0].state == "down" and bench.tracks[0].answered and not bench.tracks[1].answered
    assert [d["state"] for _, d in bench.heard] == ["up", "down"]


def test_the_newest_record_of_an_outage_counts(bench):
    bench.outage(1, 0, 1, censored="end")
    bench.outage(1, 0, 2)
    bench.outage(2, 10, 11)
    bench.outage(3, 12, 13)
    bench.outage(2, 10, 11, withdrawn=True)
    told = bench.recorder.outages(bench.tracks[0])
    assert [(o.id, o.censored, o.episode) for o in told] == [(1, "no", 1), (3, "no", 2)]
    kinds = [(kind, data["id"], data["withdrawn"]) for kind, data in bench.heard]
    assert kinds == [("outage", n, w) for n, w in ((1, False), (1, False), (2, False), (3, False), (2, True))]


def row(sequence: int, at_s: float, fate: str = "lost") -> list[Any]:
    """A record as the engine tells it."""
    at = T0 + round(at_s * S)
    return [sequence, at, *([at + MS, at + 1, at + 2, 60] if fate == "received" else [None] * 4), fate]


def test_evidence_stays_with_its_outage_until_there_is_more(bench):
    rows = [row(0, -0.001, "received"), row(1, 0), row(2, 0.001)]
    bench.outage(1, 0, 1, censored="end", evidence=rows)
    bench.take("outage", lost_before=-1, **told_without_evidence(1, 0, 2))
    [outage] = bench.document()["outages"]
    assert [record["sequence"] for record in outage["evidence"]] == [0, 1, 2]
    assert outage["evidence"][0] == {
        "sequence": 0,
        "tx_ns": T0 - MS,
        "rx_ns": T0,
        "reflector_rx_ns": T0 - MS + 1,
        "reflector_tx_ns": T0 - MS + 2,
        "ttl": 60,
        "fate": "received",
    }
    assert outage["evidence"][1]["rx_ns"] is outage["evidence"][1]["ttl"] is None
    bench.outage(1, 0, 3, evidence=[*rows, row(9, 3, "received")])
    assert [record["sequence"] for record in bench.document()["outages"][0]["evidence"]] == [0, 1, 2, 9]
    assert [len(data["evidence"]) for _, data in bench.heard] == [3, 3, 4], "the journal gets it as well"


def told_without_evidence(number: int, start_s: float, end_s: float) -> dict[str, Any]:
    other = Bench()
    told: list[dict[str, Any]] = []
    other.recorder.take = told.append  # type: ignore[method-assign]
    other.outage(number, start_s, end_s)
    other.shared.close()
    return {k: v for k, v in told[0].items() if k not in ("event", "flow", "lost_before", "evidence")}


def test_evidence_is_kept_of_the_newest_outages(bench, monkeypatch):
    monkeypatch.setattr("probe.outage_records.MOST", 3)
    for n in range(1, 7):
        bench.outage(n, n * 10, n * 10 + 1, evidence=[row(1, n * 10)])
    kept = {o.id: len(o.evidence) for o in bench.recorder.outages(bench.tracks[0])}
    assert kept == {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1}


def test_evidence_of_all_flows_together_is_bounded(bench, monkeypatch):
    """A dozen take about a thousand octets; what was told longest ago goes first, whosesoever it is."""
    monkeypatch.setattr("probe.outage_records.MEMORY_OCTETS", 5000)
    for n in range(1, 7):
        for flow in (0, 1):
            bench.outage(n, n * 10, n * 10 + 1, flow=flow, evidence=[row(k, n * 10) for k in range(12)])
    bench.outage(4, 40, 41, evidence=[row(k, 40) for k in range(12)])  # told again
    kept = [{o.id for o in bench.recorder.outages(track) if len(o.evidence) == 12} for track in bench.tracks]
    assert kept == [{4, 5, 6}, {5, 6}]
    bench.recorder.remove(0)
    bench.recorder.add(FlowTrack(bench.tracks[0].spec, 0, "192.0.2.9"))
    bench.outage(6, 60, 61)
    [other] = bench.recorder.outages(bench.recorder.tracks()[0])
    assert other.evidence == (), "not that of a flow that is gone"


def test_an_outage_that_is_withdrawn_takes_its_evidence_with_it(bench):
    bench.outage(1, 0, 1, evidence=[row(1, 0)])
    bench.outage(1, 0, 1, withdrawn=True)
    bench.outage(1, 0, 1)
    assert bench.recorder.outages(bench.tracks[0])[0].evidence == ()


def test_evidence_ends_with_the_span(bench):
    """An outage that goes on beyond the end of a span is open there: its own end is not told."""
    bench.sample(T0, received=0)
    bench.sample(T0 + 10 * S, lost_unattributed=5000)
    bench.outage(1, 5, 20, evidence=[row(1, 5), row(2, 5.001), row(9, 19.999), row(10, 20, "received")])
    bench.tracks[0].lost_before[1] = ("round_trip", 0)
    [outage] = bench.document(T0, T0 + 10 * S)["outages"]
    assert outage["censored"] == "end"
    assert [record["sequence"] for record in outage["evidence"]] == [1, 2]


def run_with_an_outage(bench: Bench, first: int, last: int, *, seconds: int = 30, unsent: range = range(0)) -> None:
    """A probe per millisecond from T0 on, read every 250; those numbered `first` to `last` by their instants are lost,
    those of `unsent` never left.
    """
    for begin in range(0, seconds * 1000, 250):
        instants = [n for n in range(begin, begin + 250) if n not in unsent]
        lost = sum(first <= n <= last for n in instants)
        bench.sample(T0 + (begin + 249) * MS, received=len(instants) - lost, lost_unattributed=lost)
    span = (T0 + first * MS, T0 + (last + 1) * MS)
    unobserved = len(unsent) * MS
    lost = last - first + 1 - len(unsent)
    length = span[1] - span[0]
    bench.outage(
        1,
        first / 1000,
        (last + 1) / 1000,
        lost=lost,
        first_lost_seq=first,
        last_lost_seq=first + lost - 1,
        unobserved_ns=unobserved,
        lower_ns=length - MS - unobserved,
        estimate_ns=length - unobserved // 2,
    )
    if unsent:
        bench.unobserved(T0 + unsent[0] * MS, T0 + (unsent[-1] + 1) * MS)


def seconds(bench: Bench, upto: int = 30) -> None:
    """A reading each second from T0 on."""
    for second in range(upto + 1):
        bench.sample(T0 + second * S, received=1000 if second else 0)


def sound(flow: dict[str, Any]) -> dict[str, Any]:
    """The flow as a document has it, which must obey every law."""
    document = new_document(run={}, flows=[flow])
    assert laws(document) == []
    return document["flows"][0]


def edges_of(outage: dict[str, Any]) -> tuple[int, int]:
    """First and last lost, ms since T0."""
    edges = outage["edges_ns"]
    return (edges["first_lost"] - T0) // MS, (edges["last_lost"] - T0) // MS


@pytest.mark.parametrize(("begin_s", "end_s"), [(10, 12), (18, 24), (6, 24.5), (23, 23.5), (24.5, 24.75)])
def test_a_span_within_an_outage_is_dark_from_its_beginning_to_its_end(bench, begin_s, end_s):
    run_with_an_outage(bench, 5000, 24_999)
    begin, end = round(begin_s * 1000), round(end_s * 1000)
    flow = sound(bench.document(T0 + (begin - 1) * MS, T0 + (end - 1) * MS))
    [outage] = flow["outages"]
    assert edges_of(outage) == (begin, end - 1) == (outage["first_lost_seq"], outage["last_lost_seq"])
    assert (outage["lost"], outage["censored"]) == (flow["counts"]["lost"], "end") == (end - begin, "end")
    assert (flow["verdict"], flow["session_end"]["cause"], flow["session_end"]["at_ns"]) == (
        "dark",
        "silent",
        T0 + begin * MS,
    )


@pytest.mark.parametrize(("begin", "end", "last"), [(10_000, 28_000, 24_999), (10_000, 22_000, 21_999)])
def test_a_part_in_which_we_did_not_send_is_as_long_as_the_rest_of_it(bench, begin, end, last):
    run_with_an_outage(bench, 5000, 24_999, unsent=range(12_000, 18_000))
    flow = sound(bench.document(T0 + (begin - 1) * MS, T0 + (end - 1) * MS))
    [outage] = flow["outages"]
    assert edges_of(outage) == (begin, last)
    assert outage["lost"] == flow["counts"]["lost"] == last + 1 - begin - 6000
    assert outage["duration_ns"]["lower"] == (last - begin - 6000) * MS


def test_an_unobserved_span_told_in_parts_is_one(bench):
    bench.unobserved(T0, T0 + S, "link_down", goes_on=True)
    bench.unobserved(T0 + 500 * MS, T0 + 600 * MS, "ring_drop")
    bench.unobserved(T0 + S, T0 + 2 * S, "link_down", goes_on=True)
    assert bench.heard == [
        ("unobserved", {"flow": "f0", "start_ns": T0 + 500 * MS, "end_ns": T0 + 600 * MS, "cause": "ring_drop"})
    ]
    bench.unobserved(T0 + 2 * S, T0 + 3 * S, "link_down")
    bench.unobserved(T0 + 3 * S, T0 + 4 * S, "link_down")
    document = bench.recorder.flow_document(bench.tracks[0], None, None)
    assert [(u["start_ns"] - T0, u["end_ns"] - T0) for u in document["unobserved"]] == [
        (500 * MS, 600 * MS), (0, 3 * S), (3 * S, 4 * S)
    ]  # fmt: skip
    assert [data["end_ns"] - T0 for _, data in bench.heard] == [600 * MS, 3 * S, 4 * S]


def test_a_flow_that_an_engine_refuses_says_why(bench, caplog):
    bench.take("refused", reason="40 ICMP identifiers wanted")
    assert bench.tracks[0].detail == "40 ICMP identifiers wanted"
    assert "flow f0: 40 ICMP identifiers wanted" in caplog.text


def test_the_end_of_a_recording_is_heard_of(bench):
    bench.recorder.take({"event": "recording_ended", "reason": "the disk is full"})
    assert bench.heard == [("recording_ended", {"reason": "the disk is full"})]


def test_outages_are_bounded(bench, monkeypatch):
    monkeypatch.setattr("probe.recorder.MOST_SPANS", 3)
    monkeypatch.setattr("probe.outages.MOST", 3)
    for n in range(1, 7):
        bench.outage(n, n * 10, n * 10 + 1)
        bench.unobserved(T0 + n, T0 + n + 1)
    assert [o.id for o in bench.recorder.outages(bench.tracks[0])] == [4, 5, 6]
    assert [u.start_ns - T0 for u in bench.tracks[0].unobserved] == [4, 5, 6]


def test_an_unobserved_span_goes_on_whatever_was_let_go_meanwhile(bench, monkeypatch):
    monkeypatch.setattr("probe.recorder.MOST_SPANS", 3)
    bench.unobserved(T0, T0 + S, "link_down", goes_on=True)
    for n in range(5):
        bench.unobserved(T0 + n, T0 + n + 1, "ring_drop")
    bench.unobserved(T0 + S, T0 + 2 * S, "link_down")
    track = bench.tracks[0]
    assert [u.end_ns - u.start_ns for u in track.unobserved] == [1, 1, 2 * S]
    assert (track.unobserved_total.count, track.unobserved_total.length_ns) == (6, 2 * S + 5)


def test_a_document_holds_what_touches_its_span(bench):
    for second in range(41):
        dark = second >= 10 and second % 10 < 2
        bench.sample(T0 + second * S + S - MS, **{"lost_unattributed" if dark else "received": 1000})
    for n in range(1, 4):
        bench.outage(n, n * 10, n * 10 + 2)
        bench.unobserved(T0 + n * 10 * S, T0 + n * 10 * S + S)
    document = bench.document(T0 + 21 * S - MS, T0 + 30 * S - MS)
    assert [(edges_of(o), o["censored"]) for o in document["outages"]] == [((21_000, 21_999), "start")]
    assert document["unobserved"] == [{"start_ns": T0 + 21 * S - MS, "end_ns": T0 + 21 * S, "cause": "stall"}]
    document = bench.document(T0 + 12 * S - MS, T0 + 22 * S - MS)
    assert [edges_of(o) for o in document["outages"]] == [(20_000, 21_999)]
    document = bench.document(T0 + 12 * S - MS, T0 + 23 * S - MS)
    assert [(o["start_ns"], o["censored"]) for o in document["outages"]] == [(T0 + 20 * S, "no")]
    assert [u["cause"] for u in document["unobserved"]] == ["stall"]
    assert document["outages"][0]["duration_ns"] == {"lower": 1999 * MS, "estimate": 2000 * MS, "upper": 2001 * MS}
    assert len(bench.document(None, None)["outages"]) == 3


def test_what_went_unobserved_before_a_span_says_nothing_of_it(bench):
    for second in range(100):
        bench.sample(T0 + second * S + S - MS, received=1000 if second >= 70 else 0)
    bench.unobserved(T0 + 5 * S, T0 + 70 * S + 500 * MS, "link_down")
    flow = sound(bench.document(T0 + 70 * S - MS, T0 + 100 * S - MS))
    assert [(u["start_ns"] - T0, u["end_ns"] - T0) for u in flow["unobserved"]] == [(70 * S - MS, 70 * S + 500 * MS)]
    assert (flow["verdict"], flow["counts"]["received"]) == ("unaffected", 30_000)


def test_every_loss_that_a_span_counts_as_one_of_an_outage_is_in_it(bench):
    """A span is widened to what is known: counts, outages and the rest are those of the same span."""
    run_with_an_outage(bench, 5000, 25_199)
    for begin_ms, end_ms in ((25_210, 27_900), (2100, 5010), (24_900, 25_100), (5010, 5020), (25_300, 26_000)):
        asked = (T0 + begin_ms * MS, T0 + end_ms * MS)
        flow = sound(bench.document(*asked))
        begin, end = bench.recorder.counted(*asked)
        assert 0 <= asked[0] - begin < 250 * MS and 0 <= end - asked[1] < 250 * MS
        assert sum(o["lost"] for o in flow["outages"]) == flow["counts"]["lost"]
        for outage in flow["outages"]:
            assert begin < outage["start_ns"] <= outage["end_ns"] <= end
        assert (end - begin) // MS == flow["counts"]["sent"]


def test_documents_of_many_flows_are_about_one_span_although_time_goes_on(bench, monkeypatch):
    """Readings are thinned out with every one that comes, but for those in use."""
    monkeypatch.setattr("probe.history.MEMORY_OCTETS", 20_000)
    seconds(bench, 100)
    asked = (T0 + 31 * S, T0 + 63 * S)
    with bench.recorder.counting(*asked) as span:
        before = bench.document(*span)["counts"]
        for second in range(101, 1000):
            bench.sample(T0 + second * S, received=1000)
        assert bench.recorder.counted(*span) == bench.recorder.counted(*asked) == span
        assert bench.document(*span)["counts"] == before
    bench.sample(T0 + 1000 * S, received=1000)
    begin, end = bench.recorder.counted(*asked)
    assert end - begin > span[1] - span[0], "nobody needs them any more"


def test_what_we_did_not_send_counts_in_the_part_that_it_lies_in(bench):
    """Half of the outage went unobserved, and nothing of its last seconds."""
    run_with_an_outage(bench, 5000, 24_999, unsent=range(6000, 20_000))
    flow = sound(bench.document(T0 + 21_999 * MS, T0 + 24_499 * MS))
    assert (flow["verdict"], flow["outages"][0]["unobserved_ns"]) == ("dark", 0)
    bench.unobserved(T0 + 18 * S, T0 + 20 * S, "ring_drop")  # at the same time
    flow = sound(bench.document(T0 + 16_999 * MS, T0 + 24_499 * MS))
    assert (flow["verdict"], flow["outages"][0]["unobserved_ns"]) == ("dark", 3 * S)


def test_a_document_names_its_flow(bench):
    document = bench.document(flow=1)
    assert (document["name"], document["target"], document["protocol"], document["session"], document["path"]) == (
        "f1",
        "192.0.2.1",
        "udp",
        "kept",
        "east-west",
    )
    assert document["interval_ns"] == MS


def test_counts_are_those_of_the_span(bench):
    bench.sample(T0, received=0)
    bench.sample(T0 + 10 * S, received=10)
    bench.sample(T0 + 20 * S, received=4, late=1)
    counts = bench.document(T0 + 10 * S, T0 + 20 * S)["counts"]
    assert (counts["sent"], counts["received"], counts["late"], counts["pending"]) == (5, 4, 1, 0)
    assert bench.document(T0 + 10 * S, T0 + 20 * S, flow=1)["counts"]["sent"] == 0


def test_a_correction_amends_the_past(bench):
    bench.sample(T0, received=0)
    bench.sample(T0 + 10 * S, lost_unattributed=3)
    bench.take(
        "correction",
        at_ns=[T0 + 10 * S],
        count=[2],
        generation=1 << 40,
        **{"from": "lost_unattributed", "to": "lost_forward"},
    )
    counts = bench.document(T0, T0 + 10 * S)["counts"]
    assert (counts["lost_unattributed"], counts["lost_forward"]) == (1, 2)


def test_delays_of_a_span(bench):
    bench.sample(T0, received=1)
    for delay in (1 * MS, 1 * MS, 1 * MS, 9 * MS):
        bench.shared.histogram[0, bins_of(np.array([delay]))[0]] += 1
    bench.shared.flows[0]["rtt_min"], bench.shared.flows[0]["rtt_max"] = MS, 9 * MS
    bench.shared.flows[0]["rtt_sum"] = 12.0 * MS
    bench.sample(T0 + 10 * S, received=4)
    rtt = bench.document(T0, T0 + 10 * S)["rtt_ns"]
    assert rtt["min"] == MS and rtt["max"] == 9 * MS
    assert rtt["p50"] == pytest.approx(MS, rel=1 / 16) and rtt["p99"] == pytest.approx(9 * MS, rel=1 / 16)
    assert bench.document(T0 + 10 * S, T0 + 20 * S)["rtt_ns"] == {"min": 0, "p50": 0, "p99": 0, "max": 0}


def test_before_anything_is_known(bench):
    assert bench.document()["counts"]["sent"] == 0
    Recorder().sample()  # no engine yet


def test_how_a_session_ended(bench):
    seconds(bench)
    bench.take("established", at_ns=T0)
    assert bench.tracks[0].established_ns == T0
    bench.take("session_end", cause="rst", at_ns=T0 + 5 * S, ttl=63, peer_ttl=252, **{"from": "192.0.2.0"})
    inside = bench.document(T0, T0 + 10 * S)["session_end"]
    told = {"cause": "rst", "at_ns": T0 + 5 * S, "from": "192.0.2.0", "ttl": 63, "peer_ttl": 252, "by": "firewall"}
    assert inside == {**told, "icmp_type": None, "icmp_code": None, "again_ns": None}
    assert bench.document(T0 + 6 * S, T0 + 10 * S)["session_end"]["cause"] == "none"
    assert bench.tracks[0].resets["rst"] == bench.tracks[0].session_ends == 1
    bench.take("established", at_ns=T0 + 7 * S)  # a new session, asked for
    assert bench.document(T0, T0 + 10 * S)["session_end"] == {**inside, "again_ns": T0 + 7 * S}
    assert bench.document(T0, T0 + 6 * S)["session_end"] == inside


def ends(bench: Bench, at_s: int, cause: str = "rst") -> None:
    bench.take("session_end", cause=cause, at_ns=T0 + at_s * S, ttl=63, peer_ttl=252, **{"from": "192.0.2.0"})


def test_a_session_that_ended_did_so_in_the_documents_of_its_time_whatever_came_after_it(bench):
    """Asked again after the next session has ended as well."""
    seconds(bench, 100)
    bench.take("established", at_ns=T0)
    ends(bench, 20)
    bench.take("established", at_ns=T0 + 25 * S)
    early = sound(bench.document(T0 + 10 * S, T0 + 30 * S))
    assert (early["verdict"], early["session_end"]["again_ns"]) == ("reset", T0 + 25 * S)
    ends(bench, 80, "fin")
    assert sound(bench.document(T0 + 10 * S, T0 + 30 * S)) == early
    assert bench.document(T0 + 10 * S, T0 + 24 * S)["session_end"]["again_ns"] is None
    assert bench.document(T0 + 30 * S, T0 + 70 * S)["session_end"]["cause"] == "none"
    for span in ((T0 + 10 * S, T0 + 100 * S), (None, None)):
        last = bench.document(*span)["session_end"]
        assert (last["cause"], last["at_ns"], last["again_ns"]) == ("fin", T0 + 80 * S, None)
    bench.take("established", at_ns=T0 + 90 * S)
    assert bench.document()["session_end"]["again_ns"] == T0 + 90 * S
    assert sound(bench.document(T0 + 10 * S, T0 + 30 * S)) == early


def test_a_next_session_that_is_told_of_before_the_end_of_the_last_one_is_the_next(bench):
    seconds(bench)
    bench.take("established", at_ns=T0 + 7 * S)
    ends(bench, 5)
    assert bench.document()["session_end"]["again_ns"] == T0 + 7 * S


def test_session_ends_are_bounded(bench, monkeypatch):
    monkeypatch.setattr("probe.recorder.MOST_ENDS", 3)
    for n in range(1, 9):
        ends(bench, n)
    assert [(end.at_ns - T0) // S for end in bench.tracks[0].ends] == [6, 7, 8]
    assert bench.tracks[0].session_ends == bench.tracks[0].resets["rst"] == 8


@pytest.mark.parametrize("zone", ["", "%eth0"])  # a packet's address has none, that of a stream's connection does
def test_a_link_local_peer_is_itself_whatever_interface_it_is_named_with(bench, zone):
    bench.tracks[0].address = "fe80::2%eth0"
    bench.take("session_end", cause="rst", at_ns=T0, ttl=255, peer_ttl=255, **{"from": f"fe80::2{zone}"})
    assert bench.document()["session_end"]["by"] == "peer"


def icmp(bench: Bench, at_s: float, code: int = 13) -> None:
    where = {"from": "198.51.100.9", "ttl": 63, "peer_ttl": 252, "type": 3, "code": code}
    bench.take("icmp_error", at_ns=T0 + round(at_s * S), **where)


def test_a_session_that_errors_refuse_to_the_end_ended_by_them(bench):
    icmp(bench, 1)  # long before, and answered again
    bench.outage(1, 2, 3)
    for at_s in range(10, 30):
        icmp(bench, at_s + 0.25)
    bench.outage(2, 10, 30, censored="end")
    expected = SessionEnd("f0", "icmp", T0 + 10 * S + S // 4, "198.51.100.9", 63, 252, "firewall", 3, 13)
    assert bench.document()["session_end"] == expected.to_document()
    assert len(bench.tracks[0].icmp) == 2


def test_errors_that_pass_end_nothing(bench):
    icmp(bench, 5.25)
    icmp(bench, 6.25)
    bench.outage(1, 5, 7)
    assert bench.document()["session_end"] == SessionEnd("f0").to_document()
    bench.outage(2, 20, 30, censored="end")
    assert bench.document()["session_end"] == SessionEnd("f0", "silent", T0 + 20 * S).to_document()
    for n in range(300):
        icmp(bench, 30 + n / 100, code=n)
    assert len(bench.tracks[0].icmp) == MOST_ICMP_RUNS


def test_a_kept_session_that_stays_dark_ended_silently(bench):
    seconds(bench)
    bench.outage(1, 5, 9, censored="end")
    end = bench.document(T0, T0 + 10 * S)["session_end"]
    assert end == SessionEnd("f0", "silent", T0 + 5 * S).to_document()


def test_another_translated_address_is_a_rebound(bench):
    bench.take("translation", address="203.0.113.1", port=4000, changed=False, at_ns=T0)
    assert not bench.document()["rebound"] and bench.tracks[0].translation == "203.0.113.1:4000"
    bench.take("translation", address="203.0.113.2", port=4001, changed=True, at_ns=T0)
    assert bench.document()["rebound"]
    assert [d["seen_as"] for k, d in bench.heard if k == "translation"] == ["203.0.113.1:4000", "203.0.113.2:4001"]


def test_a_flow_that_has_sent_all_it_should_is_done(bench):
    bench.take("done")
    assert bench.tracks[0].done and not bench.tracks[1].done


def test_asking_waits_for_the_answer_and_reads_again(bench):
    def ask() -> None:
        bench.shared.live[0, [COLUMN["scheduled"], COLUMN["sent"], COLUMN["received"]]] = 5
        threading.Timer(0.001, lambda: bench.recorder.take({"event": "told"})).start()

    bench.recorder.refresh(ask, timeout_s=30)
    assert bench.document()["counts"]["received"] == 5


def test_from_many_threads(bench):
    """Events and questions at the same time: nothing raises, nothing is lost."""
    failures: list[BaseException] = []

    def events(flow: int) -> None:
        try:
            for n in range(1, 150):
                bench.outage(n, n, n + 0.5, flow=flow)
        except BaseException as error:
            failures.append(error)

    def questions() -> None:
        try:
            for _ in range(100):
                for flow in (0, 1):
                    bench.document(flow=flow)
                bench.recorder.sample()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=events, args=(n,)) for n in (0, 1)] + [threading.Thread(target=questions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [len(bench.recorder.outages(t)) for t in bench.tracks] == [149, 149]


# --- streams -------------------------------------------------------------------------------------------------------


def a_stall(number: int, start_s: float, length_s: float, *, censored: str = "no") -> dict[str, Any]:
    start, end = T0 + round(start_s * S), T0 + round((start_s + length_s) * S)
    over = end if censored == "no" else 0
    return {
        "id": number,
        "start_ns": start,
        "end_ns": end,
        "duration_ns": end - start,
        "censored": censored,
        "first_echo_ns": over,
        "caught_up_ns": over,
        "next_try_ns": 0,
        "first_seq": 7,
        "waiting_max": 9,
        "retransmissions": 2,
        "retransmitted_ns": [start + S // 5, start + 3 * S],
        "rto_max_ns": S,
        "backoff_max": 1,
        "unacked_max": 36,
        "total_retransmissions": 2,
    }


@pytest.fixture
def streaming() -> Bench:
    bench = Bench()
    spec = FlowSpec("s", "tcp", "kept", "east-west", "target", 7, 10.0, stack="kernel")
    bench.tracks[0] = FlowTrack(spec, 0, "192.0.2.1")
    bench.recorder.add(bench.tracks[0])
    return bench


def test_a_stall_is_kept_under_its_number(streaming: Bench) -> None:
    streaming.take("stall", **a_stall(1, 10, 1, censored="end"))
    streaming.take("stall", **a_stall(1, 10, 4))
    document = streaming.recorder.flow_document(streaming.tracks[0], None, None)
    assert document["stack"] == "kernel"
    (stall,) = document["stream"]["stalls"]
    assert (stall["duration_ns"], stall["censored"]) == (4 * S, "no")
    assert document["stream"]["retransmissions"] == 2
    assert document["session_end"]["cause"] == "none"


def test_a_stall_is_cut_where_the_span_ends(streaming: Bench) -> None:
    seconds(streaming)
    streaming.take("stall", **a_stall(1, 10, 4))
    document = streaming.recorder.flow_document(streaming.tracks[0], T0, T0 + 12 * S)
    (stall,) = document["stream"]["stalls"]
    assert (stall["duration_ns"], stall["censored"], stall["first_echo_ns"]) == (2 * S, "end", 0)
    assert stall["retransmissions"] == len(stall["retransmitted_ns"]) == 1
    assert (document["session_end"]["cause"], document["session_end"]["at_ns"]) == ("silent", T0 + 10 * S)
    later = streaming.recorder.flow_document(streaming.tracks[0], T0 + 12 * S, None)
    assert later["stream"]["stalls"][0]["censored"] == "start"
    assert streaming.recorder.flow_document(streaming.tracks[0], T0 + 20 * S, None)["stream"]["stalls"] == []


def test_a_new_session_of_a_stream_is_noted(streaming: Bench) -> None:
    for number, at in ((1, T0), (2, T0 + 5 * S)):
        streaming.take("established", at_ns=at, connection=number, attempts=number, local="192.0.2.9")
    document = streaming.recorder.flow_document(streaming.tracks[0], None, None)
    assert document["stream"]["reconnected"] == [{"at_ns": T0 + 5 * S, "attempts": 2}]
    assert streaming.tracks[0].source == "192.0.2.9"


def test_other_flows_have_no_such_part(bench: Bench) -> None:
    assert "stream" not in bench.recorder.flow_document(bench.tracks[0], None, None)
