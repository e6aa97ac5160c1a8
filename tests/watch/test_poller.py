"""The cadence of polling, walked through by hand."""

from __future__ import annotations

import pytest

from probe.watch.poller import Cadence

MS = 1_000_000
SLOW, FAST = 2000 * MS, 250 * MS


def test_slow_until_armed_and_slow_again_afterwards() -> None:
    cadence = Cadence(SLOW, FAST)
    assert cadence.wait_ns(last_start_ns=0, now_ns=100 * MS) == 1900 * MS
    cadence.arm(5000 * MS)
    assert cadence.wait_ns(0, 100 * MS) == 150 * MS
    assert cadence.interval_ns(4999 * MS) == FAST
    assert cadence.interval_ns(5000 * MS) == SLOW


def test_arming_never_shortens_what_was_asked_before() -> None:
    cadence = Cadence(SLOW, FAST)
    cadence.arm(5000 * MS)
    cadence.arm(1000 * MS)
    assert cadence.interval_ns(4000 * MS) == FAST


def test_a_poll_that_overran_is_followed_at_once_but_not_by_a_burst() -> None:
    cadence = Cadence(SLOW, FAST)
    assert cadence.wait_ns(last_start_ns=0, now_ns=7000 * MS) == 0
    assert cadence.wait_ns(last_start_ns=7000 * MS, now_ns=7001 * MS) == 1999 * MS


def test_throttling_slows_down_until_a_poll_gets_through() -> None:
    cadence = Cadence(SLOW, FAST)
    cadence.arm(60_000 * MS)
    cadence.throttled(True)
    assert cadence.interval_ns(0) == SLOW
    cadence.throttled(False)
    assert cadence.interval_ns(0) == FAST


@pytest.mark.parametrize(("slow", "fast"), [(0, 0), (1, 2), (5, 0)])
def test_impossible_paces_are_refused(slow: int, fast: int) -> None:
    with pytest.raises(ValueError, match="fast"):
        Cadence(slow, fast)
