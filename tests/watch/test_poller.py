"""The cadence of polling, walked through by hand."""

from __future__ import annotations

import pytest

from probe.watch.poller import Cadence, Share, Vigil

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


def test_a_share_is_of_the_bucket_and_of_its_refill() -> None:
    share = Share(bucket=100, refill_per_s=20, share=0.25)
    at = 10**12
    assert [share.take(at) for _ in range(26)] == [True] * 25 + [False]
    assert not share.take(at + 199 * MS)
    assert share.take(at + 200 * MS), "a quarter of 20 per second is one every 200 ms"
    assert [share.take(at + 3_600_000 * MS) for _ in range(26)].count(True) == 25, "no more than the bucket is saved up"


def test_four_calls_a_second_fit_into_a_quarter_of_a_full_bucket_for_ever() -> None:
    share = Share(bucket=100, refill_per_s=20, share=0.25)
    assert all(share.take(10**12 + i * FAST) for i in range(4 * 3600))
    small = Share(bucket=50, refill_per_s=10, share=0.25)
    taken = sum(small.take(10**12 + i * FAST) for i in range(4 * 600))
    assert taken == 12 + 1500 - 1 or taken == 12 + 1500, "the burst, and 2.5 per second afterwards"


@pytest.mark.parametrize("share", [0, -1, 1.01])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Share(100, 20, share)


def test_a_vigil_lasts_from_the_first_suspicion_until_recovery_has_held() -> None:
    vigil = Vigil(sustained_ns=10_000 * MS, given_up_ns=60_000 * MS)
    assert vigil.until((), 0) == 0
    assert vigil.until({"a"}, 1000 * MS) == 11_000 * MS
    assert vigil.until({"a", "b"}, 31_000 * MS) == 41_000 * MS, "as long as anything is dark, however long"
    assert vigil.until((), 32_000 * MS) == 0, "what was asked for before holds on by itself"


def test_what_stays_dark_for_good_holds_nobody_awake() -> None:
    vigil = Vigil(sustained_ns=10_000 * MS, given_up_ns=60_000 * MS)
    assert vigil.until({"lost"}, 0)
    assert vigil.until({"lost"}, 60_000 * MS)
    assert vigil.until({"lost"}, 60_001 * MS) == 0
    assert vigil.until({"lost", "new"}, 70_000 * MS), "something else is dark now"
