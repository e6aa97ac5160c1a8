"""Clocks beside each other, and a document moved from one to the other."""

from __future__ import annotations

from typing import Any

from probe.drill.offsets import ClockOffset, Offsets, compared, placed
from probe.timesync import HostClock

from .fakes import MS, S

NOW_NS = 1_700_000_000 * S
OURS = HostClock(synchronised=True, max_error_ns=2 * MS, source="chrony")


def test_a_clock_was_read_some_time_between_question_and_answer() -> None:
    for read_after_ns in (0, 15 * MS, 40 * MS):
        found = compared(NOW_NS, 40 * MS, NOW_NS + read_after_ns - 8 * S)
        assert abs(found.ahead_ns + 8 * S) <= found.error_ns
        assert found.error_ns == 20 * MS


def test_only_clocks_that_are_certainly_apart_are() -> None:
    offsets = Offsets()
    offsets.add("slow answer", ClockOffset(300 * MS, 295 * MS, NOW_NS))
    offsets.add("kept", ClockOffset(4 * MS, MS, NOW_NS))
    offsets.add("off", ClockOffset(300 * MS, 200 * MS, NOW_NS))
    assert list(offsets.apart()) == ["off"]


def test_the_tightest_comparison_counts_and_old_ones_do_not() -> None:
    offsets = Offsets()
    offsets.add("a", ClockOffset(5 * S, MS, NOW_NS))
    offsets.add("a", ClockOffset(5 * S + 3 * MS, 50 * MS, NOW_NS + S))
    assert offsets.apart()["a"].error_ns == MS
    for n in range(100):  # it was started again, with another clock
        offsets.add("a", ClockOffset(0, 2 * MS, NOW_NS + n * S))
    assert offsets.apart() == {}


def document() -> dict[str, Any]:
    at = {name: NOW_NS + n * S for n, name in enumerate(("last_ok", "first_lost", "last_lost", "first_ok"))}
    record = {"sequence": 7, "tx_ns": NOW_NS, "rx_ns": None, "reflector_rx_ns": NOW_NS, "reflector_tx_ns": NOW_NS}
    outage = {"start_ns": NOW_NS + S, "end_ns": NOW_NS + 3 * S, "edges_ns": at, "evidence": [record]}
    stall = {"start_ns": NOW_NS, "first_echo_ns": 0, "retransmitted_ns": [NOW_NS + S, NOW_NS + 2 * S]}
    return {
        "run": {"started_ns": NOW_NS, "ended_ns": NOW_NS + 20 * S, "config": {"seed": NOW_NS}, "clock": {}},
        "flows": [
            {
                "interval_ns": MS,
                "outages": [{**outage, "duration_ns": {"lower": S, "estimate": 2 * S, "upper": 3 * S}}],
                "stream": {"stalls": [stall]},
                "rebound": True,
            }
        ],
        "timeline": [
            {"at_ns": NOW_NS, "uncertainty_ns": S, "event": "eip_moved", "detail": {"last_seen_old_ns": NOW_NS - S}},
            {"at_ns": NOW_NS, "uncertainty_ns": S, "event": "ha_history", "detail": {"clock": "unit"}},
        ],
    }


def test_instants_are_moved_and_nothing_else() -> None:
    moved = placed(document(), ClockOffset(-8 * S, MS, NOW_NS + 8 * S), OURS)
    (flow,) = moved["flows"]
    (outage,) = flow["outages"]
    assert (outage["start_ns"], outage["end_ns"]) == (NOW_NS + 9 * S, NOW_NS + 11 * S)
    assert outage["edges_ns"]["first_ok"] == NOW_NS + 11 * S
    assert outage["duration_ns"] == {"lower": S, "estimate": 2 * S, "upper": 3 * S}
    (record,) = outage["evidence"]
    assert (record["sequence"], record["tx_ns"], record["rx_ns"]) == (7, NOW_NS + 8 * S, None)
    assert record["reflector_rx_ns"] == record["reflector_tx_ns"] == NOW_NS, "another clock's"
    (stall,) = flow["stream"]["stalls"]
    assert stall["retransmitted_ns"] == [NOW_NS + 9 * S, NOW_NS + 10 * S]
    assert (stall["first_echo_ns"], flow["interval_ns"], flow["rebound"]) == (0, MS, True)
    polled, history = moved["timeline"]
    assert (polled["at_ns"], polled["uncertainty_ns"]) == (NOW_NS + 8 * S, S)
    assert polled["detail"]["last_seen_old_ns"] == NOW_NS + 7 * S
    assert history["at_ns"] == NOW_NS, "by the unit's own clock"
    assert moved["run"]["config"] == {"seed": NOW_NS}


def test_moved_times_are_worth_what_our_clock_the_comparison_and_drift_leave() -> None:
    moved = placed(document(), ClockOffset(-8 * S, 3 * MS, NOW_NS + 8 * S), OURS)
    clock = moved["run"]["clock"]
    assert (clock["synchronised"], clock["source"], clock["offset_ns"]) == (True, "chrony", -8 * S)
    assert clock["offset_error_ns"] == 3 * MS + 10 * MS, "500 us a second for 20 s"
    assert clock["max_error_ns"] == 2 * MS + clock["offset_error_ns"]
