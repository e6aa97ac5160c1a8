"""When to poll next, and whether the budget allows it. Pure: time is an argument, CLOCK_MONOTONIC in nanoseconds.

The watched API's request budget is shared by the whole account and region, the firewall's own failover calls
among them. So the pace is slow by default, fast only while something is going on, and slow again at once when
the API says that the budget is spent. However fast, it stays within a stated share of the budget.
"""

from __future__ import annotations

from collections.abc import Collection

SUSTAINED_NS = 10_000_000_000  # RFC 6412, section 3.7.5 recommends to see recovery hold for 5 s at least
NO_ANSWER_YET = "no answer yet"  # a watcher's reason until its first question has been answered, or has failed
GIVEN_UP_NS = 600_000_000_000  # what stays dark for so long (a session that is lost for good) is the new normal


class Cadence:
    """Two paces, and the time until which the fast one holds.

    Args:
        slow_ns: Gap between the starts of two polls, normally.
        fast_ns: The same while armed.
    """

    def __init__(self, slow_ns: int, fast_ns: int):
        if not 0 < fast_ns <= slow_ns:
            raise ValueError(f"want 0 < fast <= slow, got {fast_ns} and {slow_ns}")
        self._slow_ns = slow_ns
        self._fast_ns = fast_ns
        self._armed_until_ns = 0
        self._throttled = False

    def arm(self, until_ns: int) -> None:
        """Poll fast until then. Never shortens what was asked before."""
        self._armed_until_ns = max(self._armed_until_ns, until_ns)

    def throttled(self, throttled: bool) -> None:
        """Tell how the last poll fared: a throttled one puts the slow pace in force until one gets through."""
        self._throttled = throttled

    def interval_ns(self, now_ns: int) -> int:
        """The gap that holds at this instant."""
        fast = now_ns < self._armed_until_ns and not self._throttled
        return self._fast_ns if fast else self._slow_ns

    def wait_ns(self, last_start_ns: int, now_ns: int) -> int:
        """Time from now to the start of the next poll; 0 when it is due.

        A poll that took longer than the gap is followed at once by the next, without a burst to catch up.
        """
        return max(0, last_start_ns + self.interval_ns(now_ns) - now_ns)


class Share:
    """Our part of an API's token bucket: so much of its size, and of what is added to it each second.

    Args:
        bucket: Calls that the account may make at once.
        refill_per_s: Calls per second that come back.
        share: Of both, more than 0 and up to 1.
    """

    def __init__(self, bucket: float, refill_per_s: float, share: float):
        if not 0 < share <= 1:
            raise ValueError(f"want a share above 0 and up to 1, got {share}")
        self._size = max(1.0, bucket * share)
        self._refill_per_ns = refill_per_s * share / 1e9
        self._left = self._size
        self._at_ns = 0

    def take(self, now_ns: int) -> bool:
        """Whether one more call is within our share; it is counted if so."""
        self._left = min(self._size, self._left + max(0, now_ns - self._at_ns) * self._refill_per_ns)
        self._at_ns = now_ns
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Vigil:
    """How long to look closely: from the first suspected loss until recovery has held.

    Args:
        sustained_ns: How long nothing may be dark until recovery counts.
        given_up_ns: After so long without anything newly dark, what still is holds nobody awake.
    """

    def __init__(self, sustained_ns: int = SUSTAINED_NS, given_up_ns: int = GIVEN_UP_NS):
        self._sustained_ns = sustained_ns
        self._given_up_ns = given_up_ns
        self._dark: frozenset[str] = frozenset()
        self._newest_ns = 0

    def until(self, dark: Collection[str], now_ns: int) -> int:
        """Tell what is suspect or down now; the instant up to which to look closely, 0: no need."""
        if frozenset(dark) - self._dark:
            self._newest_ns = now_ns
        self._dark = frozenset(dark)
        if not dark or now_ns - self._newest_ns > self._given_up_ns:
            return 0
        return now_ns + self._sustained_ns
