from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core.events import Outage
from probe.core.fate import DROPPED, LATE, LOST, LOST_FORWARD, LOST_REVERSE, RECEIVED
from probe.core.outage import EPISODE_GAP_NS, FlowOutages, RunFinder, TxError, with_episodes

from .network import as_expected, expected_outages

MS = 1_000_000
S = 1000 * MS
T0 = 10**12
FATES = [RECEIVED, LATE, LOST, LOST_FORWARD, LOST_REVERSE, DROPPED]


def fates_of(picture: str) -> np.ndarray:
    """One letter a probe: . received, x lost, f and r lost forward and on the way back, d dropped by us, l late."""
    letters = {".": RECEIVED, "x": LOST, "f": LOST_FORWARD, "r": LOST_REVERSE, "d": DROPPED, "l": LATE}
    return np.array([letters[c] for c in picture], np.uint8)


def feed(outages: FlowOutages, picture: str, start: int = 0) -> None:
    n = len(picture)
    outages.feed(np.arange(start, start + n), T0 + np.arange(start, start + n) * MS, fates_of(picture))


def found(picture: str, k: int = 3) -> list[Outage]:
    outages = FlowOutages("a", k)
    feed(outages, picture)
    return outages.drain(open_too=True)


def runs(picture: str) -> list[tuple[str, int, int]]:
    finder = RunFinder()
    n = len(picture)
    closed = finder.feed(np.arange(n), np.arange(n) * MS, fates_of(picture))
    return [(s.direction, s.first_seq, s.count) for s in [*closed, *finder.open_runs()]]


def test_the_example_of_rfc_3357():
    # RFC 3357, section 6.5, numbered from 1: packets 2, 5, 7, 9 and 10 are lost.
    spans = runs(".x..x.x.xx")
    assert [count for _, _, count in spans] == [1, 1, 1, 2]  # Loss-Period-Lengths
    assert len(spans) == 4  # Loss-Period-Total
    first = [start + 1 for _, start, _ in spans]
    last = [start + count for _, start, count in spans]
    assert first == [2, 5, 7, 9]
    assert [0, *(b - a for a, b in zip(last, first[1:], strict=False))] == [0, 3, 2, 2]  # Inter-Loss-Period-Lengths


def test_bounds_are_those_of_the_tx_times():
    # Jittered send times: the bounds come from what was measured, not from the nominal interval.
    at = T0 + np.array([0, 1_100, 1_900, 3_050, 4_000, 5_200, 6_000]) * 1000
    outages = FlowOutages("a", 3)
    outages.feed(np.arange(7), at, fates_of("..xxx.."))
    [outage] = outages.drain(open_too=False)
    assert outage.lower_ns == 2_100_000 and outage.upper_ns == 4_100_000 and outage.estimate_ns == 3_100_000
    assert (outage.start_ns, outage.end_ns) == (at[2], at[5])
    assert (outage.last_ok_ns, outage.first_lost_ns, outage.last_lost_ns, outage.first_ok_ns) == tuple(at[[1, 2, 4, 5]])
    assert (outage.first_lost_seq, outage.last_lost_seq, outage.lost, outage.censored) == (2, 4, 3, "no")


def test_shorter_than_k_is_no_outage():
    assert found("..xx..x.") == []
    assert len(found("..xx..x.", k=2)) == 1


@pytest.mark.parametrize(
    ("picture", "censored"), [("xxx..", "start"), ("..xxx", "end"), ("xxxxx", "end"), ("..xxx.", "no")]
)
def test_open_edges_are_censored(picture, censored):
    [outage] = found(picture)
    assert outage.censored == censored
    assert outage.lower_ns <= outage.estimate_ns <= outage.upper_ns
    assert (outage.last_ok_ns == 0) == picture.startswith("x")
    assert (outage.first_ok_ns == 0) == (censored == "end")


def test_each_direction_has_its_own_edges():
    # The way out fails from 2 to 7, the way back from 1 to 9. What never arrived is silent about the way back.
    outages = {o.direction: o for o in found(".rffffffrr..", k=1)}
    assert set(outages) == {"forward", "reverse"}
    assert (outages["forward"].first_lost_seq, outages["forward"].last_lost_seq) == (2, 7)
    assert outages["forward"].last_ok_ns == T0 + MS and outages["forward"].first_ok_ns == T0 + 8 * MS
    assert (outages["reverse"].first_lost_seq, outages["reverse"].last_lost_seq) == (1, 9)
    assert outages["reverse"].lost == 3


def test_our_own_drops_neither_end_nor_make_an_outage():
    assert found("..ddddd..") == []
    [outage] = found("..xxddxx..")
    assert outage.lost == 4 and (outage.first_lost_seq, outage.last_lost_seq) == (2, 7)


def test_flaps_stay_apart():
    assert [(o.first_lost_seq, o.lost) for o in found("..xxx.xxxx.xxx.")] == [(2, 3), (6, 4), (11, 3)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(FATES), max_size=60), st.integers(1, 4), st.lists(st.integers(1, 60), max_size=6))
def test_outages_are_the_runs_however_they_are_fed(fates, k, cuts):
    at = (T0 + np.cumsum(np.arange(len(fates)) % 3 + 1) * MS).astype(np.int64)
    outages = FlowOutages("a", k)
    told: dict[int, Outage] = {}
    for part in np.split(np.arange(len(fates)), sorted({c for c in cuts if c < len(fates)})):
        outages.feed(part, at[part], np.array(fates, np.uint8)[part])
        told.update({o.id: o for o in outages.drain(open_too=bool(len(part) % 2))})
    told.update({o.id: o for o in outages.drain(open_too=True)})
    assert {as_expected(o) for o in told.values()} == expected_outages(fates, at.tolist(), k)
    assert not outages.drain(open_too=True), "told again, though nothing has changed"


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_truth_lies_within_the_bounds(seed):
    """facts of the method: L < D < U, and the estimate is off by one interval at most."""
    rng = random.Random(seed)
    interval = 1000
    down = 40_000 + rng.random() * interval
    up = down + rng.choice([2.5, 3, 7, 100]) * interval * (0.5 + rng.random())
    times, t, gap = [], 0.0, 0.0
    while len(times) < 400:
        # Actual send times: jitter, and at times slots that were not sent.
        if rng.random() < 0.03:
            t += rng.randint(1, 3) * interval
        times.append(int(t + rng.random() * 0.4 * interval))
        t += interval
    fates = [LOST if down <= at < up else RECEIVED for at in times]
    outages = FlowOutages("a", 1)
    outages.feed(np.arange(400), np.array(times), np.array(fates, np.uint8))
    if LOST not in fates or up > times[-1]:
        return
    for a, b in pairwise(times):
        if b - a > 1.5 * interval:
            outages.unobserved(a, b)
        gap = max(gap, b - a)
    [outage] = outages.drain(open_too=True)
    assert outage.lower_ns <= up - down <= outage.upper_ns
    if outage.unobserved_ns == 0:
        assert abs(outage.estimate_ns - (up - down)) <= 1.4 * interval  # the longest gap that jitter makes


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_truth_lies_within_the_bounds_where_tx_times_are_known_to_a_call(seed):
    """Several probes share a call, one of which may take long; each left at some time in its call."""
    rng = random.Random(seed)
    before, after, left = [], [], []
    t = 0
    while len(left) < 300:
        n, took = rng.choice([1, 8, 16]), rng.choice([10_000, 30_000, 30_000, 400_000])
        left += sorted(t + rng.random() * took for _ in range(n))
        before += [t] * n
        after += [t + took] * n
        t += took + rng.choice([0, 1000, 200_000])
    at = np.array([rng.randint(b, a) for b, a in zip(before, after, strict=True)])
    at = np.maximum.accumulate(at)
    error = TxError((at - before).astype(np.uint32), (np.array(after) - at).astype(np.uint32))
    # It begins and ends just before or behind a probe, where the bounds are put to the test.
    down = left[rng.randint(40, 200)] + rng.choice([-1, 1])
    up = left[rng.randint(201, 280)] + rng.choice([-1, 1])
    gone = (np.array(left) >= down) & (np.array(left) < up)
    if not gone.any() or gone[-1]:
        return
    outages = FlowOutages("a", 1)
    fates = np.where(gone, LOST, RECEIVED).astype(np.uint8)
    cuts = sorted(rng.sample(range(1, len(left)), 3))
    for start, end in pairwise([0, *cuts, len(left)]):
        part = slice(start, end)
        outages.feed(np.arange(start, end), at[part], fates[part], TxError(error.earlier[part], error.later[part]))
    [outage] = outages.drain(open_too=True)
    assert outage.lower_ns <= up - down <= outage.upper_ns
    assert outage.lower_ns <= outage.estimate_ns <= outage.upper_ns
    assert outage.last_ok_ns <= outage.first_lost_ns <= outage.last_lost_ns <= outage.first_ok_ns
    exact = outage.first_ok_ns - outage.last_ok_ns - (outage.last_lost_ns - outage.first_lost_ns)
    assert outage.tx_error_ns == outage.upper_ns - outage.lower_ns - exact >= 0


def test_the_estimate_is_within_one_interval_when_slots_are_kept():
    for phase in range(0, 1000, 37):
        for length in (3000, 3500, 3999, 50_123):
            times = np.arange(200) * 1000
            lost = (times >= 20_000 + phase) & (times < 20_000 + phase + length)
            outages = FlowOutages("a", 1)
            outages.feed(np.arange(200), times, np.where(lost, LOST, RECEIVED).astype(np.uint8))
            [outage] = outages.drain(open_too=True)
            assert outage.lower_ns <= length <= outage.upper_ns
            assert abs(outage.estimate_ns - length) <= 1000


def test_time_in_which_we_did_not_probe_is_not_vouched_for():
    outages = FlowOutages("a", 3)
    outages.unobserved(T0 + 4 * MS, T0 + 10 * MS)
    outages.feed(np.arange(8), T0 + np.array([0, 1, 2, 3, 4, 10, 11, 12]) * MS, fates_of("..xxxxx."))
    [outage] = outages.drain(open_too=True)
    assert outage.lower_ns == (11 - 2 - 6) * MS
    assert outage.unobserved_ns == 6 * MS and outage.upper_ns == 11 * MS


def test_overlapping_unobserved_spans_count_once():
    # A stall, and drops of our ring within it, are told separately.
    outages = FlowOutages("a", 3)
    feed(outages, "..xxxxxxxxxx..")
    for start, end in ((3, 6), (5, 8), (4, 7), (10, 10), (8, 9)):
        outages.unobserved(T0 + start * MS, T0 + end * MS)
    [outage] = outages.drain(open_too=True)
    assert outage.unobserved_ns == 6 * MS and outage.lower_ns == (9 - 6) * MS


def test_an_unobserved_span_told_afterwards_revises_the_outage():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxxxxxx..")
    [before] = outages.drain(open_too=True)
    outages.unobserved(T0 + 4 * MS, T0 + 5 * MS)
    [after] = outages.drain(open_too=False)
    assert after.id == before.id and after.unobserved_ns == MS


def test_an_open_outage_is_told_at_once_and_then_only_when_asked():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxx")
    assert [o.lost for o in outages.drain(open_too=False)] == [3]
    feed(outages, "xx", 5)
    assert outages.drain(open_too=False) == []
    assert [o.lost for o in outages.drain(open_too=True)] == [5]
    feed(outages, ".", 7)
    [closed] = outages.drain(open_too=False)
    assert closed.censored == "no" and closed.id == 1


def again(outages: FlowOutages, picture: str, *, start: int = 0) -> list[Outage]:
    """Feed everything from `start` on anew, as after a correction."""
    finder = RunFinder()
    if start:
        finder.passed(T0 + (start - 1) * MS, start - 1)
    forgotten = outages.restart(start, finder)
    feed(outages, picture[start:], start)
    outages.rematch(forgotten)
    return outages.drain(open_too=True)


def test_a_correction_keeps_ids_and_leaves_others_alone():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxx...xxxxxxx...xxx")
    first, second, third = outages.drain(open_too=True)
    told = again(outages, "..xxx...xxxxxll...xxx", start=6)
    assert [(o.id, o.lost) for o in told] == [(second.id, 5)]
    told = again(outages, "..xxx...lllllll...xxx", start=6)
    assert [(o.id, o.withdrawn) for o in told] == [(second.id, True)]
    assert again(outages, "..xxx...lllllll...xxx", start=6) == []
    assert len({first.id, second.id, third.id}) == 3


def test_what_was_never_told_is_not_withdrawn():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxx..")
    assert again(outages, "..lll..") == []


def test_an_outage_that_gets_its_direction_keeps_its_id():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxxxx..")
    [before] = outages.drain(open_too=True)
    [after] = again(outages, "..fffff..")
    assert (after.id, after.direction, before.direction) == (before.id, "forward", "round_trip")


def test_ids_do_not_come_back_in_the_other_direction():
    # Half of it was lost on the way out, half on the way back: one keeps the id, the other gets a new one.
    outages = FlowOutages("a", 3)
    feed(outages, "..xxxxxxx..")
    [before] = outages.drain(open_too=True)
    told = again(outages, "..ffffrrr..")
    assert [(o.direction, o.id == before.id) for o in sorted(told, key=lambda o: o.first_lost_seq)] == [
        ("forward", True),
        ("reverse", False),
    ]


def test_an_outage_from_before_the_correction_takes_no_id_over():
    # The way out was dark from 4 to 6, within a longer trouble of the way back that a late reply makes too short.
    picture, outages = "..xrfffrr..", FlowOutages("a", 3)
    feed(outages, picture)
    told = {o.direction: o for o in outages.drain(open_too=True)}
    assert set(told) == {"forward", "reverse"}
    before = RunFinder()
    before.feed(np.arange(8), T0 + np.arange(8) * MS, fates_of(picture[:8]))
    forgotten = outages.restart(8, before)
    feed(outages, "l..", 8)
    outages.rematch(forgotten)
    assert [(o.id, o.withdrawn) for o in outages.drain(open_too=True)] == [(told["reverse"].id, True)]


def test_an_outage_open_where_the_correction_begins_is_not_found_twice():
    picture, outages = "..xxx..xxx.", FlowOutages("a", 3)
    feed(outages, picture)
    first, second = outages.drain(open_too=True)
    before = RunFinder()
    before.feed(np.arange(5), T0 + np.arange(5) * MS, fates_of(picture[:5]))
    forgotten = outages.restart(5, before)  # the run of 2 to 4 ends at 5
    feed(outages, "..xlx.", 5)
    outages.rematch(forgotten)
    assert [(o.id, o.withdrawn) for o in outages.drain(open_too=True)] == [(second.id, True)]
    assert first.id != second.id


def test_thousands_of_outages_are_corrected_without_comparing_all_with_all():
    picture = "..xxx" * 4000
    outages = FlowOutages("a", 3)
    feed(outages, picture + ".")
    assert len(outages.drain(open_too=True)) == 4000
    told = again(outages, picture[:-1] + "l.")
    assert [(o.withdrawn, o.id) for o in told] == [(True, 4000)]


def test_draining_costs_nothing_while_nothing_changes():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxx" * 100 + ".")
    outages.drain(open_too=True)
    outages._record = None  # type: ignore[assignment]  # making a record would fail now
    assert outages.drain(open_too=True) == []


def test_memory_of_what_can_no_longer_be_corrected_is_given_back():
    outages = FlowOutages("a", 3)
    feed(outages, "..xxx" * 100 + ".")
    outages.drain(open_too=True)
    outages.forget_below(490)
    assert len(outages._closed) == len(outages._published) == 3


# --- episodes ------------------------------------------------------------------------------------------------------


def outage(number: int, start_s: float, end_s: float) -> Outage:
    start, end = T0 + round(start_s * S), T0 + round(end_s * S)
    return Outage("a", number, "round_trip", start, end, start, start, end, end, 0, 0, end - start, 3, 0, 2)


def test_an_episode_ends_when_recovery_has_held():
    gap = EPISODE_GAP_NS / S
    told = [outage(1, 0, 1), outage(2, 1 + gap, 3), outage(3, 3 + gap + 0.001, 20)]
    assert [o.episode for o in with_episodes(told)] == [1, 1, 2]


def test_a_long_outage_reaches_over_short_ones_within_it():
    # The way out is dark from 0 to 30, the way back flaps: 31 belongs to the same episode.
    told = [outage(1, 0, 30), outage(2, 1, 2), outage(3, 31, 32)]
    assert [(o.id, o.episode) for o in with_episodes(reversed(told))] == [(1, 1), (2, 1), (3, 1)]
