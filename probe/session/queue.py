"""Probes of one link that are written ahead of time and leave when they are due.

Writing a frame costs far more than sending it, and writing many at once costs little more than writing one. So the
frames of the next few milliseconds are prepared together; when a slot comes, the kernel is told to take the next
frame, and the clock is read just before. What the ledger must know is collected and handed over in batches as well.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probe.clock import Clock
from probe.core.ledger import Ledger
from probe.core.outage import TxError
from probe.link.base import Call, FrameSender
from probe.session.filler import Filler
from probe.session.flows import FlowTable

Ints = npt.NDArray[np.int64]

# Frames that are due together leave one by one, each with its own reading of the clock, as long as they are few. Of
# more, so many share a call, whose two readings bracket their times: a call takes about a microsecond a frame.
SINGLY = 8
SINGLY_COARSE = 2
TOGETHER = 16
USUAL_NS = 20_000  # what a call of one frame may take before it counts as interrupted
FAR = 1 << 62
_MOST_ERROR = (1 << 32) - 1
_NONE = np.zeros(0, np.int64)


class Stamps(NamedTuple):
    """Probes that have left: flow, sequence, TX time, due time, and how well the TX time is known."""

    flow: Ints
    sequence: Ints
    at: Ints
    due: Ints
    error: TxError


_NO_STAMPS = Stamps(_NONE, _NONE, _NONE, _NONE, TxError(np.zeros(0, np.uint32), np.zeros(0, np.uint32)))


class Queue:
    """Slots in order of their due time: some written and numbered, the rest waiting for room in the link.

    Args:
        link: Where they leave. Nothing else may be sent on it.
        table: Flows.
        ledger: Numbers probes.
        clock: For TX times.
        anchor: Unix time minus monotonic time.

    Attributes:
        next_due: When the next frame is due; FAR while none is written.
        together: How many frames share a call when many are due.
        singly: Up to how many are too few to share one.
        usual_ns: How long a call of one frame may take before it counts as interrupted.
    """

    def __init__(self, link: FrameSender, table: FlowTable, ledger: Ledger, clock: Clock, anchor: int):
        self.next_due = FAR
        self.together, self.singly, self.usual_ns = TOGETHER, SINGLY, USUAL_NS
        self._link, self._ledger, self._clock, self._anchor = link, ledger, clock, anchor
        self._filler = Filler(link, table)
        self._waiting_flow, self._waiting_due = _NONE, _NONE
        self._flow, self._due, self._sequence = _NONE, _NONE, _NONE  # written
        self._due_list: list[int] = []
        self._length_list: list[int] = []
        self._lengths = np.zeros(0, np.int32)
        self._sent = 0  # how many of the written have left
        self._stamped = 0  # and how many of those the ledger knows
        self._sent_at = 0  # when the last frames were sent together, or were looked for
        self._calls: list[Call] = []  # each that sent any
        self._done: list[tuple[npt.NDArray[Any], ...]] = []

    @property
    def blind_ns(self) -> int:
        """Of the link (`FrameSender.blind_ns`)."""
        return self._link.blind_ns

    def wait(self, flow: Ints, due: Ints) -> None:
        """Add slots. They follow those that are there, but for a flow that has just begun: its own lie between them."""
        if len(due) and self._sent < len(self._flow) and due.min() < self._due[-1]:
            held_flow, held_due = self.recall()
            flow, due = np.concatenate([held_flow, flow]), np.concatenate([held_due, due])
        if len(self._waiting_flow):
            flow, due = np.concatenate([self._waiting_flow, flow]), np.concatenate([self._waiting_due, due])
        if len(due) > 1 and (due[1:] < due[:-1]).any():
            order = np.argsort(due, kind="stable")
            flow, due = flow[order], due[order]
        self._waiting_flow, self._waiting_due = flow, due
        if self._sent == len(self._flow):
            self._write()

    def send(self, now: int) -> str:
        """Send what is due by `now`.

        Returns:
            "" or why the link did not take it; then call `give_up`.
        """
        sent = self._sent
        due = bisect_right(self._due_list, now, sent, len(self._due))
        self._sent_at = now
        error = ""
        if due > sent:
            error = self._send_many(due)
        if self._sent == len(self._flow):
            self._write()
            if due > sent and self.next_due == FAR and len(self._waiting_flow):
                return "send_error"  # the link has no free slot
        else:
            self.next_due = self._due_list[self._sent]
        return error

    def pace(self, end: int, late: int, *, spin: bool = False) -> None:
        """Send each frame that is due before `end` at its time, and sleep in between, or wait without sleeping.

        Returns early when something is amiss: an error, nothing written, or a slot missed by more than `late` ns.
        """
        clock, due = self._clock, self._due_list
        while self.next_due < end:
            at = self.next_due
            if spin:
                clock.spin_until(at)
            elif clock.mono_ns() < at:
                clock.sleep_until(at)
            if clock.mono_ns() - at > late or self._sent + 1 >= len(due) or self._send_next():
                return
            self.next_due = due[self._sent]

    def pace_together(self, end: int, late: int, breath: int) -> None:
        """As `pace`, but after each wake-up sleep for `breath` ns at least, and then send all that is due.

        What comes due during the last breath before `end` is left to be sent then.
        """
        clock, last = self._clock, len(self._due_list) - 1
        wake = max(self.next_due, self._sent_at + breath)
        while self._sent < last:
            if wake >= end:
                clock.sleep_until(end)
                return
            clock.sleep_until(wake)
            now = clock.mono_ns()
            # What is due but for the last frame: behind that one more must be written.
            due = bisect_right(self._due_list, now, self._sent, last)
            if now - self.next_due > late or due == self._sent or self._send_many(due):
                return
            self.next_due = self._due_list[self._sent]
            self._sent_at = now
            wake = max(self.next_due, now + breath)

    def relieve(self, late: int, breath: int = 0) -> None:
        """Send what is due and written, in the middle of something else: it must not wait until that is done.

        The last frame is left to `send`, which writes more then, and so is what is late by more than `late` ns. With
        `breath`, nothing is sent before the oldest has been due for that long, and then all together.
        """
        now = self._clock.mono_ns()
        if breath:
            if not now - late <= self.next_due <= now - breath:
                return
            last = len(self._due_list) - 1
            due = bisect_right(self._due_list, now, self._sent, last)
            if due > self._sent and not self._send_many(due):
                self.next_due = self._due_list[self._sent]
            return
        while now - late <= self.next_due <= now and self._sent + 1 < len(self._due_list):
            if self._send_next():
                return
            self.next_due = self._due_list[self._sent]

    def _send_many(self, end: int) -> str:
        """Send the written frames up to `end`; why some were not sent."""
        sent = self._sent
        if end - sent > self.singly:
            result = self._link.send(end - sent, self._lengths[sent:end], self.together)
            self._calls += result.calls
            self._sent += result.sent
            return result.error or ("" if self._sent == end else "send_error")
        error = ""
        while self._sent < end and not error:
            error = self._send_next()
        return error

    def _send_next(self) -> str:
        """Send one frame; why it was not sent."""
        before, after, error = self._link.send_one(self._length_list[self._sent])
        if not error:
            self._calls.append((1, before, after, 0))
            self._sent += 1
        return error

    def give_up(self, now: int) -> tuple[Ints, Ints]:
        """Drop what is due by `now` and could not be sent: (flow, due) of the slots lost."""
        flow, due = self.recall()
        late = due <= now
        self.wait(flow[~late], due[~late])
        return flow[late], due[late]

    def recall(self) -> tuple[Ints, Ints]:
        """Unwrite everything that has not left, and empty the queue: (flow, due) of all its slots."""
        rest = slice(self._sent, None)
        self._ledger.withdraw(self._flow[rest], self._sequence[rest])
        flow = np.concatenate([self._flow[rest], self._waiting_flow])
        due = np.concatenate([self._due[rest], self._waiting_due])
        self._keep_stamps()
        self._flow = self._due = self._sequence = self._waiting_flow = self._waiting_due = _NONE
        self._sent = 0
        self.next_due = FAR
        return flow, due

    def overdue(self, before: int) -> tuple[Ints, Ints]:
        """(flow, due) of the slots, written or waiting, that were due before that instant and have not left."""
        written, waiting = self._due[self._sent :], self._waiting_due
        late = slice(self._sent, self._sent + int(np.searchsorted(written, before)))
        later = slice(0, int(np.searchsorted(waiting, before)))
        return (
            np.concatenate([self._flow[late], self._waiting_flow[later]]),
            np.concatenate([self._due[late], waiting[later]]),
        )

    def holds(self, flow: int) -> bool:
        """Whether a slot of `flow` is still to come."""
        return bool((self._flow[self._sent :] == flow).any() or (self._waiting_flow == flow).any())

    def stamps(self) -> Stamps:
        """Every probe that has left since the last call, in order."""
        self._collect()
        done, self._done = self._done, []
        if not done:
            return _NO_STAMPS
        columns = done[0] if len(done) == 1 else tuple(np.concatenate(column) for column in zip(*done, strict=True))
        flow, sequence, at, due, earlier, later = columns
        return Stamps(flow, sequence, at, due, TxError(earlier, later))

    def _collect(self) -> None:
        new = slice(self._stamped, self._sent)
        if self._sent > self._stamped:
            count, before, after, apart = np.array(self._calls, np.int64).T
            times, earlier = np.repeat(before, count), np.zeros(self._sent - self._stamped, np.int64)
            # What a call of one frame commonly takes is part of the way; an interruption is not.
            later = np.repeat(np.maximum(after - before - self.usual_ns * (count == 1), 0), count)
            if len(count) < len(times):
                # Frames that shared a call share its time, each placed at the start of its share. Of a call that took
                # long, something else had a part, who knows where: rather a little too early than after the reply.
                place = np.arange(len(times)) - np.repeat(np.cumsum(count) - count, count)
                earlier += place * np.repeat(np.minimum((after - before) // count, apart), count)
                times += earlier
                later -= earlier
            error = (np.minimum(column, _MOST_ERROR).astype(np.uint32) for column in (earlier, later))
            self._done.append((self._flow[new], self._sequence[new], times, self._due[new], *error))
        self._calls = []
        self._stamped = self._sent

    def _keep_stamps(self) -> None:
        self._collect()
        self._stamped = 0

    def _write(self) -> None:
        """Number and write as many waiting slots as the link has room for in one piece."""
        self._keep_stamps()
        self._flow = self._due = self._sequence = _NONE
        self._sent = 0
        self.next_due = FAR
        n = len(self._waiting_flow)
        if n == 0:
            return
        first, count = self._link.free(n)
        if count == 0:
            return
        self._flow, self._waiting_flow = self._waiting_flow[:count], self._waiting_flow[count:]
        self._due, self._waiting_due = self._waiting_due[:count], self._waiting_due[count:]
        self._sequence = self._ledger.allocate(self._flow, self._due)
        self._lengths = self._filler.fill(first, self._flow, self._sequence, self._due + self._anchor)
        self._due_list, self._length_list = self._due.tolist(), self._lengths.tolist()
        self.next_due = self._due_list[0]
