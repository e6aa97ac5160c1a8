"""Which span a report of an agent is about, whatever was asked for; which outages are after an instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from probe.agent import Agent, _span
from probe.border import SharedState
from probe.core.events import FlowSpec, Outage
from probe.core.fate import COLUMN
from probe.recorder import FlowTrack, Recorder
from probe.report.document import laws
from probe.timesync import HostClock

S, MS = 1_000_000_000, 1_000_000
BEGAN, NOW = 1_000, 9_000
T0 = 1_700_000_000 * S


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ((None, None), (BEGAN, NOW)),
        ((3_000, 4_000), (3_000, 4_000)),
        ((3_000, 99_000), (3_000, NOW)),
        ((1, 2), (1, 2)),
        ((None, 5), (5, 5)),  # before it began
        ((20_000, None), (20_000, 20_000)),  # in the future
        ((20_000, 30_000), (20_000, 20_000)),
    ],
)
def test_a_span_never_runs_backwards(asked: tuple[int | None, int | None], span: tuple[int, int]) -> None:
    assert _span(*asked, BEGAN, NOW) == span


@pytest.fixture
def agent() -> Iterator[Any]:
    """The few parts of an agent that have to do with it, of one flow that was read every 250 ms for ten seconds."""
    bare: Any = object.__new__(Agent)
    recorder, shared = Recorder(), SharedState.create(1)
    recorder.attach(shared)
    bare.shared, bare.track = shared, FlowTrack(FlowSpec("f", "udp", "kept", "p", "x", 862, 1000.0), 0, "192.0.2.1")
    recorder.add(bare.track)
    bare._prober = SimpleNamespace(recorder=recorder, refresh=lambda: True)
    bare._past = SimpleNamespace(outages=[], events=[])
    bare._tracks = {"f": bare.track}
    bare._started_ns, bare.name, bare._fortigate = T0, "a", None
    bare._ordered = lambda: [bare.track]
    bare._host_clock = lambda: HostClock(True, 0, "")
    bare._now_ns = lambda: T0 + 12 * S
    bare._config_dump = dict
    bare.timeline = list
    for quarter in range(40):
        shared.live[0, [COLUMN[name] for name in ("scheduled", "sent", "received")]] = 250 * (quarter + 1)
        shared.publish(T0 + (quarter + 1) * 250 * MS, shared.live.copy())
        recorder.sample()
    yield bare
    shared.close()


@pytest.mark.parametrize(
    ("asked_ms", "told_ms"),
    [
        ((1100, 2100), (1000, 2250)),
        ((1000, 2250), (1000, 2250)),
        ((None, 2100), (0, 2250)),
        ((1100, None), (1000, 12_000)),
        ((1100, 11_900), (1000, 12_000)),  # not settled yet: all that is known so far
        ((-5000, 2100), (0, 2250)),  # of the time before it began it knows nothing
    ],
)
def test_a_report_says_which_span_its_counts_are_of(
    agent: Any, asked_ms: tuple[int | None, int | None], told_ms: tuple[int, int]
) -> None:
    document = agent.report(*(None if ms is None else T0 + ms * MS for ms in asked_ms))
    assert laws(document) == []
    run, [flow] = document["run"], document["flows"]
    assert ((run["started_ns"] - T0) // MS, (run["ended_ns"] - T0) // MS) == told_ms
    assert flow["counts"]["sent"] == min(told_ms[1], 10_000) - told_ms[0]


STREAM = FlowSpec("s", "tcp", "kept", "p", "x", 7, 10.0, stack="kernel")


@pytest.fixture
def streaming() -> Iterator[Any]:
    """The parts of an agent that tell remote write of its flow, a stream that has typed for ten seconds."""
    bare: Any = object.__new__(Agent)
    recorder, shared = Recorder(), SharedState.create(1)
    recorder.attach(shared)
    bare.track = FlowTrack(STREAM, 0, "192.0.2.1")
    recorder.add(bare.track)
    bare._prober = SimpleNamespace(recorder=recorder, refresh=lambda: True)
    bare._started_ns, bare._ordered = T0, lambda: [bare.track]
    bare.take = lambda event, **detail: recorder.take({"event": event, "flow": 0, **detail})

    def published(settled_s: int, sent_s: int | None) -> None:
        """A reading of the engine: settled up to then, and the last keystroke if there is a session."""
        shared.flows[0]["last_sent"] = 0 if sent_s is None else T0 + sent_s * S
        shared.live[0, COLUMN["scheduled"]] = 101
        shared.publish(T0 + settled_s * S, shared.live.copy())
        recorder.sample()

    bare.published = published
    bare.take("established", at_ns=T0 + MS)
    published(8, 10)
    yield bare
    shared.close()


def stall(start_s: int, end_s: int, censored: str) -> dict[str, Any]:
    times = {"start_ns": T0 + start_s * S, "end_ns": T0 + end_s * S, "duration_ns": (end_s - start_s) * S}
    return {"id": 1, "total_retransmissions": 3, "first_seq": 50, "censored": censored, **times}


def test_remote_write_hears_of_stalls(streaming: Any) -> None:
    streaming.take("stall", **stall(5, 9, "no"))
    [picture] = streaming.pictures({})
    [outage] = picture.outages
    assert (outage.direction, outage.start_ns, outage.end_ns) == ("round_trip", T0 + 5 * S, T0 + 9 * S)
    assert outage.lower_ns == outage.upper_ns == 4 * S
    assert (picture.first_ns, picture.last_sent_ns, picture.ended) == (T0, T0 + 10 * S, False)
    [later] = streaming.pictures({"s": T0 + 9 * S})
    assert later.outages == []


def test_remote_write_hears_of_a_stream_that_has_no_session(streaming: Any) -> None:
    streaming.take("stall", **stall(10, 12, "end"))
    streaming.take("session_end", cause="silent", at_ns=T0 + 12 * S, **{"from": ""}, ttl=0, peer_ttl=0)
    streaming.published(60, None)
    [picture] = streaming.pictures({})
    assert (picture.last_sent_ns, picture.over_ns, picture.ended) == (0, T0 + 12 * S, True)
    streaming.take("established", at_ns=T0 + 612 * S)
    streaming.published(620, 622)
    [picture] = streaming.pictures({})
    assert (picture.began_ns, picture.over_ns, picture.ended) == (T0 + 612 * S, T0 + 12 * S, False)


def test_remote_write_hears_of_no_stream_that_never_had_a_session(streaming: Any) -> None:
    streaming.track.established_ns = 0
    streaming.published(60, None)
    assert streaming.pictures({}) == []


def tells_an_outage(agent: Any, number: int, start_ms: int, end_ms: int, *, still_open: bool) -> None:
    start, end = T0 + start_ms * MS, T0 + end_ms * MS
    edges = (start - MS, start, end - (not still_open) * MS, 0 if still_open else end)
    one = Outage("", number, "round_trip", start, end, *edges, 1, 2, 3, 3, 0, 2, "end" if still_open else "no")
    message = {k: v for k, v in asdict(one).items() if k != "flow"}
    agent._prober.recorder.take({"event": "outage", "flow": 0, "lost_before": -1, **message})


def test_an_outage_that_goes_on_is_after_every_instant(agent: Any) -> None:
    """It is known up to a loss threshold ago; who asks for the last second is in the midst of it."""
    tells_an_outage(agent, 1, 1000, 2000, still_open=False)
    tells_an_outage(agent, 2, 5000, 9000, still_open=True)
    agent._past.outages = [{"flow": "gone", "start_ns": T0, "end_ns": T0 + S, "edges_ns": {"first_ok": 0}}]
    assert [o["id"] for o in agent.outages(T0 + 11 * S)] == [2]
    assert [o["id"] for o in agent.outages(T0 + 2 * S - 1)] == [1, 2]
    assert len(agent.outages()) == 3
    tells_an_outage(agent, 2, 5000, 9500, still_open=False)
    assert agent.outages(T0 + 11 * S) == []
