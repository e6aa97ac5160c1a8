"""Which samples are written of a flow: exact edges, in order, nothing before it is certain."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.core.events import FlowSpec, Outage, TimelineEvent
from probe.export.remote_format import label_octets
from probe.export.remote_lines import (
    FLOW_STATE,
    HEARTBEAT_MS,
    OUTAGE_SECONDS,
    PAST,
    EventLines,
    FlowLines,
    FlowPicture,
    Sample,
    StateLine,
    stall_outage,
)

MS = 1_000_000
T0_MS = 1_700_000_000_000
T0 = T0_MS * MS
SPEC = FlowSpec("f", "udp", "kept", "egress", "target", 862, 1000.0)
FLOW = {"flow": "f", "protocol": "udp", "session": "kept", "path": "egress"}
HOLD_MS = 4  # (K + 1) intervals
NEVER = -1


def outage(number: int, start_ms: float, end_ms: float | None, direction: str = "forward", at_ms: float = 0) -> Outage:
    """From and to milliseconds after T0; without an end it is open, and told up to `at_ms`."""
    start, end = T0 + round(start_ms * MS), T0 + round((at_ms if end_ms is None else end_ms) * MS)
    return Outage(
        flow="f",
        id=number,
        direction=direction,
        start_ns=start,
        end_ns=end,
        last_ok_ns=start - MS,
        first_lost_ns=start,
        last_lost_ns=end - MS,
        first_ok_ns=0 if end_ms is None else end,
        lower_ns=end - start - MS,
        estimate_ns=end - start,
        upper_ns=end - start + MS,
        lost=9,
        first_lost_seq=1,
        last_lost_seq=9,
        censored="end" if end_ms is None else "no",
    )


class Bench:
    """A flow over successive looks; stamps are told relative to T0."""

    def __init__(self, **options):
        self.lines = FlowLines(SPEC, {"job": "haprobe"}, **{"first_ns": T0, "lag_ms": 0, **options})
        self.samples: list[Sample] = []

    def look(
        self,
        settled_ms: int,
        *outages: Outage,
        unobserved=(),
        sent_ms: int | None = None,
        last: bool = False,
        ended: bool = False,
        session_ms: tuple[float, float] | None = None,
    ):
        picture = FlowPicture(
            SPEC,
            T0,
            T0 + settled_ms * MS,
            0 if sent_ms == NEVER else T0 + (settled_ms if sent_ms is None else sent_ms) * MS,
            list(outages),
            [(T0 + a * MS, T0 + b * MS) for a, b in unobserved],
            ended,
            *([] if session_ms is None else [T0 + round(at * MS) for at in session_ms]),
        )
        new = self.lines.advance(picture, last=last)
        self.samples += new
        return new

    def states(self, direction: str = "forward") -> list[tuple[int, float]]:
        return self.of(FLOW_STATE, direction=direction)

    def of(self, name: str, **labels: str) -> list[tuple[int, float]]:
        wanted = label_octets({"__name__": name, "job": "haprobe", **FLOW, **labels})
        return [(sample.ms - T0_MS, sample.value) for sample in self.samples if sample.labels == wanted]


def test_edges_stand_at_their_millisecond_with_the_old_state_just_before():
    bench = Bench()
    bench.look(5000, outage(1, 1000.9, 3333.4))
    assert bench.states() == [(0, 1), (999, 1), (1000, 0), (3332, 0), (3333, 1)]
    assert bench.states("reverse") == bench.states("round_trip") == [(0, 1)]


def test_one_line_shows_the_outages_of_all_directions():
    bench = Bench()
    bench.look(9000, outage(1, 1000, 1040), outage(2, 3000, 3333, "reverse"), outage(3, 3100, 4000))
    edges = [(0, 1), (999, 1), (1000, 0), (1039, 0), (1040, 1), (2999, 1), (3000, 0), (3999, 0), (4000, 1)]
    assert bench.states("any") == edges
    assert bench.of(OUTAGE_SECONDS, direction="any", bound="estimate") == []


def test_bounds_are_written_where_the_outage_ends():
    bench = Bench()
    bench.look(5000, outage(1, 1000, 1040), outage(2, 3000, 3333, "reverse"))
    bench.look(6000, outage(1, 1000, 1040), outage(2, 3000, 3333, "reverse"))
    for bound, seconds in (("lower", 0.039), ("estimate", 0.040), ("upper", 0.041)):
        assert bench.of(OUTAGE_SECONDS, direction="forward", bound=bound) == [(1040, seconds)]
    assert bench.of(OUTAGE_SECONDS, direction="reverse", bound="estimate") == [(3333, 0.333)]


def test_nothing_is_written_before_k_losses_could_have_made_an_outage():
    bench = Bench(lag_ms=500)
    bench.look(1000)
    assert bench.lines.written_ms == T0_MS + 1000 - 500 - HOLD_MS
    bench.look(1010, outage(1, 997, None, at_ms=1010))  # three losses later it is one
    bench.look(1600, outage(1, 997, None, at_ms=1600))
    assert bench.states() == [(0, 1), (996, 1), (997, 0)]
    assert bench.lines.revised == 0


def test_an_open_outage_goes_on_until_it_is_told_to_have_ended():
    bench = Bench()
    bench.look(2000, outage(1, 1000, None, at_ms=1200))
    bench.look(40_000, outage(1, 1000, None, at_ms=39_000))
    bench.look(42_000, outage(1, 1000, 41_000))
    assert bench.states() == [(0, 1), (999, 1), (1000, 0), (39_996, 0), (40_999, 0), (41_000, 1)]
    assert bench.lines.revised == 0


def test_a_series_lives_while_nothing_happens():
    bench = Bench()
    for settled in range(1000, 60_000, 1000):
        bench.look(settled)
    stamps = [at for at, _ in bench.states()]
    assert max(b - a for a, b in itertools.pairwise(stamps)) < HEARTBEAT_MS + 1001


def test_unobserved_time_is_not_up_and_moves_no_edge_of_an_outage():
    bench = Bench()
    bench.look(5000, outage(1, 1000, 2000), unobserved=[(1500, 1600), (1910, 2010), (3000, 3100), (4000, 4099)])
    assert bench.states() == [
        *((0, 1), (999, 1), (1000, 0), (1999, 0), (2000, 2), (2009, 2), (2010, 1)),
        *((2999, 1), (3000, 2), (3099, 2), (3100, 1)),
    ]


def test_an_outage_that_a_session_ended_in_lasts_until_its_last_loss():
    bench = Bench()
    bench.look(2000, outage(1, 1000, None, at_ms=1400), sent_ms=1400, ended=True)
    assert bench.states() == [(0, 1), (999, 1), (1000, 0), (1399, 0), (1400, 2)]


def stall(start_ms: int, end_ms: int, censored: str = "no") -> Outage:
    """A stall from and to milliseconds after T0, as the picture of its stream has it."""
    start, end = T0 + start_ms * MS, T0 + end_ms * MS
    told = {"start_ns": start, "end_ns": end, "duration_ns": end - start, "censored": censored, "first_seq": 50}
    return stall_outage("f", 1, told)


def test_a_stall_of_a_stream_is_a_time_without_round_trips():
    bench = Bench()
    bench.look(2000, stall(1000, 2000, "end"), session_ms=(-100, 0))
    bench.look(9000, stall(1000, 6000), session_ms=(-100, 0))
    edges = [(0, 1), (999, 1), (1000, 0), (5999, 0), (6000, 1)]
    assert bench.states("round_trip") == bench.states("any") == edges
    assert bench.states("forward") == [(0, 1)]
    for bound in ("lower", "estimate", "upper"):
        assert bench.of(OUTAGE_SECONDS, direction="round_trip", bound=bound) == [(6000, 5.0)]
    assert bench.lines.revised == 0


def test_a_stream_without_a_session_is_unobserved_until_it_has_a_new_one():
    bench = Bench()
    bench.look(1000, session_ms=(-100, 0))
    for settled in (2000, 3000, 4000):
        bench.look(settled, sent_ms=NEVER, ended=True, session_ms=(-100, 1500))
    bench.look(5000, session_ms=(4500, 1500))
    bench.look(6000, session_ms=(4500, 1500))
    assert bench.states() == [(0, 1), (1499, 1), (1500, 2), (4499, 2), (4500, 1)]


def test_what_a_session_ended_in_is_over_with_it():
    bench = Bench()
    frozen = stall(1000, 2000, "end")
    bench.look(3000, frozen, sent_ms=NEVER, ended=True, session_ms=(-100, 2000))
    bench.look(6000, frozen, session_ms=(4500, 2000))
    edges = [(0, 1), (999, 1), (1000, 0), (1999, 0), (2000, 2), (4499, 2), (4500, 1)]
    assert bench.states("any") == edges
    assert bench.of(OUTAGE_SECONDS, direction="round_trip", bound="lower") == []  # it has no length that is known


def test_a_session_that_is_followed_by_another_between_two_looks_leaves_a_gap():
    bench = Bench()
    bench.look(1000, session_ms=(-100, 0))
    bench.look(5000, session_ms=(3000, 1500))
    bench.look(6000, session_ms=(3000, 1500))
    assert bench.states() == [(0, 1), (1499, 1), (1500, 2), (2999, 2), (3000, 1)]


def test_a_gap_is_kept_until_it_is_written():
    bench = Bench(lag_ms=2000)
    bench.look(1000, session_ms=(-100, 0))
    for settled in (2000, 3000, 4000, 5000, 6000):  # 3 s and then 2 s later everything is there again
        bench.look(settled, session_ms=(1600, 1500))
    assert bench.states() == [(0, 1), (1499, 1), (1500, 2), (1599, 2), (1600, 1)]


def test_time_without_probes_is_unobserved_before_anybody_says_so():
    bench = Bench()
    bench.look(3000, sent_ms=1000)
    assert bench.states() == [(0, 1), (999, 1), (1000, 2)]
    bench.look(5000, unobserved=[(1000, 4000)])
    assert bench.states()[3:] == [(3999, 2), (4000, 1)]


def test_an_outage_that_a_late_reply_corrects_after_it_was_written_is_counted():
    bench = Bench()
    bench.look(5000, outage(1, 1000, 2000))
    bench.look(6000, outage(1, 1000, 2000))
    assert bench.lines.revised == 0
    bench.look(7000, outage(1, 1000, 1990))
    assert bench.lines.revised == 1
    bench.look(8000)
    assert bench.lines.revised == 2
    assert [at for at, _ in bench.states()] == [0, 999, 1000, 1999, 2000]


def test_an_outage_withdrawn_while_open_ends_where_it_was_written_up_to():
    bench = Bench()
    bench.look(2000, outage(1, 1000, None, at_ms=2000))
    bench.look(3000)
    assert bench.states() == [(0, 1), (999, 1), (1000, 0), (1996, 0), (1997, 1)]
    assert bench.lines.revised == 1


def test_after_a_restart_past_outages_are_written_and_the_rest_is_unobserved():
    past = [replace(outage(7, 1000, 2000), id=PAST), replace(outage(9, 4000, None, at_ms=4500), id=PAST)]
    bench = Bench(after_ms=T0_MS + 500, first_ns=T0 + 9000 * MS, past=past)
    bench.look(12_000, outage(1, 10_000, 10_040))
    assert bench.states() == [
        *((501, 2), (999, 2), (1000, 0), (1999, 0), (2000, 2), (3999, 2), (4000, 0), (4499, 0), (4500, 2)),
        *((8999, 2), (9000, 1), (9999, 1), (10_000, 0), (10_039, 0), (10_040, 1)),
    ]
    assert bench.of(OUTAGE_SECONDS, direction="forward", bound="estimate") == [(2000, 1.0), (10_040, 0.04)]
    assert bench.lines.revised == 0


def test_past_outages_written_before_are_not_written_again():
    bench = Bench(after_ms=T0_MS + 3000, first_ns=T0 + 9000 * MS, past=[replace(outage(7, 1000, 2000), id=PAST)])
    bench.look(12_000)
    assert bench.states() == [(3001, 2), (8999, 2), (9000, 1)]
    assert bench.of(OUTAGE_SECONDS, direction="forward", bound="estimate") == []


def test_the_last_look_writes_up_to_the_settled_instant():
    bench = Bench(lag_ms=2000)
    bench.look(5000, outage(1, 4000, 4500), last=True)
    assert bench.states() == [(0, 1), (3999, 1), (4000, 0), (4499, 0), (4500, 1), (5000, 1)]
    (end, *_) = bench.lines.end()
    assert end.ms > T0_MS + 5000
    assert math.isnan(end.value)


def test_outages_shorter_than_a_millisecond_show():
    bench = Bench()
    bench.look(100, outage(1, 10.1, 10.3), outage(2, 10.5, 10.9))
    assert bench.states() == [(0, 1), (9, 1), (10, 0), (11, 1)]
    assert [at for at, _ in bench.of(OUTAGE_SECONDS, direction="forward", bound="upper")] == [11, 12]


spans = st.lists(st.tuples(st.integers(-50, 300), st.integers(1, 60)).map(lambda s: (s[0], s[0] + s[1])), max_size=8)


@given(spans, spans, st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_however_often_one_looks_the_series_says_the_same(dark, unseen, looks):
    line, samples = StateLine(b"", -1), []
    for upto in sorted(looks):
        samples += line.advance(upto, dark, unseen)
    stamps = [sample.ms for sample in samples]
    assert stamps == sorted(set(stamps))
    at = dict(zip(stamps, (sample.value for sample in samples), strict=True))
    said = None
    for ms in range(max(looks) + 1):
        said = at.get(ms, said)
        expected = 0 if any(a <= ms < b for a, b in dark) else 2 if any(a <= ms < b for a, b in unseen) else 1
        assert said == expected, ms


def test_events_carry_their_true_instant_and_stay_in_order():
    lines = EventLines({"instance": "a"})

    def event(at_ns: int, name: str, **detail: str) -> Sample:
        return lines.take(TimelineEvent(at_ns, "aws", name, 5, detail))

    moved = event(T0 + 1_234_567, "eip_moved", address="203.0.113.1", from_unit="fgt-a", to_unit="fgt-b")
    assert (moved.ms, moved.value) == (T0_MS + 1, (T0 + 1_234_567) / 1e9)
    for part in (b"eip_moved", b"fgt-b", b"203.0.113.1", b"instance"):
        assert part in moved.labels
    earlier = event(T0, "eip_moved", address="203.0.113.1", from_unit="fgt-a", to_unit="fgt-b")
    assert (earlier.labels, earlier.ms, earlier.value) == (moved.labels, T0_MS + 2, T0 / 1e9)
    other = event(T0, "route_moved", route_table="rtb-1", destination="0.0.0.0/0", to_unit="fgt-b")
    assert other.ms == T0_MS
    assert b"rtb-1 0.0.0.0/0" in other.labels


@pytest.mark.parametrize("direction", ["forward", "reverse", "round_trip"])
def test_each_direction_has_a_series_of_its_own(direction: str):
    bench = Bench()
    bench.look(5000, outage(1, 1000, 2000, direction))
    assert [d for d in ("forward", "reverse", "round_trip") if len(bench.states(d)) > 1] == [direction]
