"""When to poll next. Pure: time is an argument, CLOCK_MONOTONIC in nanoseconds.

The watched API's request budget is shared by the whole account and region, the firewall's own failover calls
among them. So the pace is slow by default, fast only while something is going on, and slow again at once when
the API says that the budget is spent.
"""

from __future__ import annotations


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
