"""What became of the keystrokes of a stream: small records on one TCP connection of the kernel, and their echoes.

TCP loses nothing while its connection lives: what the path drops is sent again. So a stream has *stalls* where other
flows have outages, and a keystroke that waits longer than the loss threshold is late. Only when the connection dies is
a keystroke lost that never came back.

A stall begins with the first keystroke that waited longer than its *patience*: 200 ms and twice the usual echo time as
it stood. It starts when that keystroke was written, or at the last echo if that came later, and ends with its echo. Our
clock and the kernel's stamps make both instants exact, as are the times of the kernel's retransmissions. What TCP_INFO
tells (the retransmission timeout, its backoff, what is unacknowledged) is polled.

Time is an argument everywhere: nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from probe.core.account import Correction
from probe.core.fate import COLUMN, COLUMNS, EMPTY, LATE, LOST, PENDING, RECEIVED

Ints = npt.NDArray[np.int64]

PATIENCE_NS = 200_000_000  # no less than TCP's shortest retransmission timeout, nor than a person notices
SMOOTHING = 8  # of the usual echo time, as of TCP's own (RFC 6298, section 2)
MOST_TIMES = 200  # retransmissions of a stall that are told one by one
_COLUMN_OF = {PENDING: "late", RECEIVED: "received", LATE: "late", LOST: "lost_unattributed"}


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """A reading of the kernel's TCP_INFO (include/uapi/linux/tcp.h)."""

    rto_ns: int
    backoff: int  # doublings of it
    total_retrans: int  # segments sent again, over the connection's life
    octets_acked: int  # of our keystrokes


@dataclass(slots=True)
class Keystroke:
    """One record, or a slot in which none could be written (EMPTY)."""

    sequence: int
    at: int
    fate: int = PENDING
    accounted: bool = False  # in the settled counts


@dataclass(slots=True)
class Stall:
    """A time in which what was typed did not come back. Instants are of the monotonic clock; 0: not yet."""

    id: int
    start: int
    first_seq: int
    end: int = 0
    caught_up: int = 0  # all that was typed during it had come back
    over: int = 0  # the connection ended while it lasted
    waiting_max: int = 0  # keystrokes
    retransmissions: int = 0
    retransmitted: list[int] = field(default_factory=list)  # when, by the kernel
    rto_max_ns: int = 0
    backoff_max: int = 0
    unacked_max: int = 0  # octets


class StreamAccount:
    """The keystrokes of one stream, over all its connections.

    Args:
        flow: Row.
        threshold_ns: A keystroke that waits longer is late.
        live: Counters to keep up to date at once; int64, shape (COLUMNS,).
    """

    def __init__(self, flow: int, threshold_ns: int, live: Ints):
        self.live = live
        self.settled: Ints = np.zeros(COLUMNS, np.int64)
        self.retransmissions = 0
        self.next_seq = 0
        self.usual_ns = 0  # smoothed echo time
        self._flow, self._threshold = flow, threshold_ns
        self._waiting: deque[Keystroke] = deque()
        self._unaccounted: deque[Keystroke] = deque()  # ascending in time
        self._sign_of_life = 0  # the last echo, or the handshake
        self._open: Stall | None = None
        self._last: Stall | None = None
        self._stalls = 0
        self._changed: dict[int, Stall] = {}
        self._recent: deque[int] = deque(maxlen=MOST_TIMES)  # retransmissions, before it shows that there is a stall
        self._stamped = False  # the kernel stamps what it sends
        self._info: TcpInfo | None = None
        self._octets = 0  # written to the present connection
        self._corrections: list[Correction] = []

    @property
    def patience_ns(self) -> int:
        """How long a keystroke may wait without a stall."""
        return PATIENCE_NS + 2 * self.usual_ns

    @property
    def waiting(self) -> int:
        """Keystrokes that have not come back."""
        return len(self._waiting)

    @property
    def stalled(self) -> bool:
        """Whether a stall is open."""
        return self._open is not None

    def oldest(self) -> Keystroke | None:
        """The keystroke whose echo comes next."""
        return self._waiting[0] if self._waiting else None

    def quiet_since(self) -> int:
        """Since when something has been waited for; 0: nothing is."""
        return max(self._waiting[0].at, self._sign_of_life) if self._waiting else 0

    # --- what happens --------------------------------------------------------------------------------------------

    def connected(self, at: int, handshake_ns: int) -> None:
        """A new connection; the round trip of its handshake is the first echo time to expect."""
        self.usual_ns = handshake_ns
        self._sign_of_life, self._info, self._octets = at, None, 0
        self._stamped = False
        self._recent.clear()

    def written(self, at: int, octets: int) -> int:
        """The kernel has taken a keystroke; its sequence."""
        key = Keystroke(self.next_seq, at)
        self.next_seq += 1
        self._octets += octets
        self._waiting.append(key)
        self._unaccounted.append(key)
        self._count("scheduled")
        self._count("sent")
        if self._open is not None:
            self._open.waiting_max = max(self._open.waiting_max, len(self._waiting))
        return key.sequence

    def unsent(self, at: int) -> None:
        """A slot in which nothing was written: no room in the send buffer, or we came too late."""
        self._unaccounted.append(Keystroke(-1, at, EMPTY))
        self._count("scheduled")
        self._count("unsent")

    def echoed(self, at: int) -> int | None:
        """The oldest keystroke has come back.

        Returns:
            Its round-trip time if that is within the loss threshold, in ns.
        """
        key = self._waiting[0]
        at = max(at, key.at)
        self.poll(at)
        self._waiting.popleft()
        rtt = at - key.at
        in_time = key.fate == PENDING and rtt <= self._threshold
        if key.fate == PENDING:
            key.fate = RECEIVED if in_time else LATE
            self._count("received" if in_time else "late")
        if rtt <= self.patience_ns:
            self.usual_ns += (rtt - self.usual_ns) // SMOOTHING
        self._sign_of_life = max(self._sign_of_life, at)
        self._progress(at)
        return rtt if in_time else None

    def retransmitted(self, at: int) -> None:
        """The kernel has sent something again."""
        self._stamped = True
        self.retransmissions += 1
        self._recent.append(at)
        for stall in (self._open, self._last):
            if stall is not None and stall.start <= at and not (stall.end and at > stall.end):
                self._note_retransmissions(stall, [at])
                return

    def sampled(self, info: TcpInfo) -> None:
        """A reading of TCP_INFO."""
        before = self._info.total_retrans if self._info is not None else 0
        self._info = info
        more = info.total_retrans - before
        if not self._stamped and more > 0:  # a driver that stamps nothing: the count is all there is
            self.retransmissions += more
            if self._open is not None:
                self._open.retransmissions += more
        if self._open is not None:
            self._note_info(self._open, info)

    def poll(self, now: int) -> None:
        """See whether a stall has begun."""
        since = self.quiet_since()
        if self._open is not None or not since or now - since <= self.patience_ns:
            return
        self._stalls += 1
        self._open = stall = Stall(self._stalls, since, self._waiting[0].sequence, waiting_max=len(self._waiting))
        self._note_retransmissions(stall, [at for at in self._recent if at >= since])
        if self._info is not None:
            self._note_info(stall, self._info)
        self._changed[stall.id] = stall

    def ended(self, at: int) -> None:
        """The connection is no more: what has not come back never will."""
        self.poll(at)
        for key in self._waiting:
            if key.fate == LATE:
                self._count("late", -1)
            self._count("lost")
            self._count("lost_unattributed")
            if key.accounted:
                for name, n in (("late", -1), ("lost", 1), ("lost_unattributed", 1)):
                    self.settled[COLUMN[name]] += n
                self._corrections.append(Correction(self._flow, key.at, "late", "lost_unattributed", 1))
            key.fate = LOST
        self._waiting.clear()
        if self._open is not None:
            self._open.over = at
            self._changed[self._open.id] = self._open
        self._open = self._last = None

    # --- what there is to tell -----------------------------------------------------------------------------------

    def settle(self, now: int, upto: int) -> None:
        """Decide what the loss threshold has passed for, and account for all that was due up to `upto`.

        A keystroke that still waits then is late: it is on its way as long as the connection lives.
        """
        for key in self._waiting:
            if key.at > now - self._threshold and key.at > upto:
                break
            if key.fate == PENDING:
                key.fate = LATE
                self._count("late")
        while self._unaccounted and self._unaccounted[0].at <= upto:
            key = self._unaccounted.popleft()
            key.accounted = True
            names = ["scheduled", "unsent"] if key.fate == EMPTY else ["scheduled", "sent", _COLUMN_OF[key.fate]]
            for name in [*names, "lost"] if key.fate == LOST else names:
                self.settled[COLUMN[name]] += 1

    def drain(self, *, open_too: bool = False) -> list[Stall]:
        """Stalls that are new or have changed since the last call."""
        if open_too and self._open is not None:
            self._changed[self._open.id] = self._open
        changed, self._changed = self._changed, {}
        return list(changed.values())

    def drain_corrections(self) -> list[Correction]:
        """Settled keystrokes that were lost after all."""
        corrections, self._corrections = self._corrections, []
        return corrections

    def next_try_ns(self) -> int:
        """When the kernel sends again, as far as known: before that nothing comes back on its own. 0: not known."""
        if self._open is None or self._info is None or not self._open.retransmitted:
            return 0
        return self._open.retransmitted[-1] + self._info.rto_ns

    def _progress(self, at: int) -> None:
        """Something came back: the open stall is over, and perhaps all that was typed in it has come back."""
        if self._open is not None:
            self._open.end = at
            self._changed[self._open.id] = self._last = self._open
            self._open = None
        last = self._last
        if last is not None and not last.caught_up and (not self._waiting or self._waiting[0].at > last.end):
            last.caught_up = at
            self._changed[last.id] = last

    def _note_retransmissions(self, stall: Stall, times: list[int]) -> None:
        stall.retransmissions += len(times)
        stall.retransmitted += times[: MOST_TIMES - len(stall.retransmitted)]
        self._changed[stall.id] = stall

    def _note_info(self, stall: Stall, info: TcpInfo) -> None:
        stall.rto_max_ns = max(stall.rto_max_ns, info.rto_ns)
        stall.backoff_max = max(stall.backoff_max, info.backoff)
        stall.unacked_max = max(stall.unacked_max, self._octets - info.octets_acked)

    def _count(self, name: str, n: int = 1) -> None:
        self.live[COLUMN[name]] += n
