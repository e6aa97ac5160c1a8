"""Captures awsd's debug output of one unit, live, for as long as somebody asks for it.

FortiOS prints it only to the session that enabled it, and stops after 30 minutes; so a session of our own is held
open, and the request repeated. Each line gets the time at which it reached us. A session that ends early is begun
again; what the earlier one had captured stays, as a record of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from probe.clock import Clock
from probe.core.events import TimelineEvent
from probe.watch import fortigate_cli as cli
from probe.watch.fortigate_events import CapturedLine, awsd_events
from probe.watch.fortigate_ssh import Cli, SshError, SshTarget, login

log = logging.getLogger(__name__)

BEGIN = (
    "diagnose debug console timestamp enable",
    "diagnose debug application awsd -1",
    "diagnose debug enable",
)
END = ("diagnose debug disable", "diagnose debug reset")
AGAIN_S = 20 * 60.0  # FortiOS ends debugging 30 minutes after the last request
RETRY_S = 5.0
MAX_CHARACTERS = 8 << 20  # kept of one session
_LEAVE_S = 2.0

State = Literal["connecting", "running", "ended", "failed"]


@dataclass
class Record:
    """One session's capture. Times are Unix epoch ns; `started_ns` is 0 until debugging was on."""

    unit: str
    state: State = "connecting"
    reason: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    round_trip_ns: int = 0
    lines: list[CapturedLine] = field(default_factory=list)
    characters: int = 0
    pending: str = ""  # begun, but not ended by a line feed yet

    @property
    def text(self) -> str:
        """All that came, verbatim."""
        return "".join(line.text + line.ending for line in self.lines) + self.pending

    def take(self, piece: str, at_ns: int) -> None:
        """Add what came at that instant."""
        if self.characters > MAX_CHARACTERS:
            return
        self.characters += len(piece)
        *whole, self.pending = (self.pending + piece).split("\n")
        self.lines += [CapturedLine(at_ns, line) for line in whole]

    def events(self) -> list[TimelineEvent]:
        """What it adds to the timeline; final once it has ended."""
        tail = [CapturedLine(self.ended_ns, self.pending, "")] if self.pending else []
        return awsd_events(self.unit, [*self.lines, *tail], self.round_trip_ns)


class AwsdCapture:
    """Captures from a thread of its own until told to stop or the time is over.

    Args:
        target: Whom to log in to.
        until_mono_ns: When to end by itself, CLOCK_MONOTONIC.
        clock: Time source.
        offset_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC, the agent's anchor.
        on_end: Called with each record that has ended, from the capture's thread.
    """

    def __init__(
        self, target: SshTarget, until_mono_ns: int, clock: Clock, offset_ns: int, on_end: Callable[[Record], None]
    ):
        self._target = target
        self._until_mono_ns = until_mono_ns
        self._clock = clock
        self._offset_ns = offset_ns
        self._on_end = on_end
        self._lock = threading.Lock()
        self._records = [Record(target.unit)]
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"awsd-{target.unit}", daemon=True)

    def start(self) -> None:
        """Begin. Call once."""
        self._thread.start()

    @property
    def unit(self) -> str:
        """Our name of the unit."""
        return self._target.unit

    @property
    def alive(self) -> bool:
        """Whether it captures, or tries to."""
        return self._thread.is_alive() and not self._stopping

    def extend(self, until_mono_ns: int) -> None:
        """Go on at least until then."""
        with self._lock:
            self._until_mono_ns = max(self._until_mono_ns, until_mono_ns)

    def stop(self, wait_s: float = 2 * _LEAVE_S) -> None:
        """End it: debugging is switched off, and `on_end` has been called on return unless the unit hangs."""
        with self._lock:
            self._stopping = True
            if self._loop is not None and self._stop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(wait_s)

    def records(self) -> list[Record]:
        """All sessions so far, oldest first; those that came to nothing only while they are the last."""
        with self._lock:
            return [one for one in self._records if one.lines or one is self._records[-1]]

    def _run(self) -> None:
        try:
            asyncio.run(self._sessions())
        except Exception:  # a capture that fails is an observation, never the end of watching
            log.exception("capture of awsd on %s failed", self._target.unit)

    async def _sessions(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._stopping:
                stop.set()
        record = self._records[-1]
        while True:
            await self._session(record, stop)
            if not await self._wanted(stop, RETRY_S):
                return
            record = Record(self._target.unit, reason=record.reason)  # why it is another attempt, until it works
            with self._lock:
                self._records.append(record)

    async def _session(self, record: Record, stop: asyncio.Event) -> None:
        reason = ""
        try:
            async with login(self._target) as line:
                await self._begin(line, record)
                await self._listen(line, record, stop)
                await self._leave(line, record)
        except SshError as error:
            reason = str(error)
            log.warning("capture of awsd on %s: %s", self._target.unit, reason)
        with self._lock:
            record.ended_ns = self._now_ns()
            record.state, record.reason = ("failed" if reason else "ended"), reason
        if record.started_ns:
            self._on_end(record)

    async def _begin(self, line: Cli, record: Record) -> None:
        for command in BEGIN:
            text, output = await line.run(command)
            with self._lock:
                record.take(text, self._now_ns())
            if refused := cli.refusal(output):
                raise SshError(f"`{command}` was refused ({refused}); the profile needs cli-diagnose")
        with self._lock:
            record.round_trip_ns = line.round_trip_ns
            record.started_ns, record.state, record.reason = self._now_ns(), "running", ""

    async def _listen(self, line: Cli, record: Record, stop: asyncio.Event) -> None:
        again_ns = self._clock.mono_ns() + round(AGAIN_S * 1e9)
        stopped: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
        reading: asyncio.Task[Any] = asyncio.ensure_future(line.listen())
        try:
            while not stop.is_set() and (left_ns := self._left_ns()) > 0:
                await asyncio.wait({reading, stopped}, timeout=min(left_ns / 1e9, 1.0), return_when="FIRST_COMPLETED")
                if reading.done():
                    piece = reading.result()
                    if not piece:
                        raise SshError("the session ended")
                    with self._lock:
                        record.take(piece, self._now_ns())
                    reading = asyncio.ensure_future(line.listen())
                if self._clock.mono_ns() > again_ns:
                    line.type(BEGIN[-1])
                    again_ns = self._clock.mono_ns() + round(AGAIN_S * 1e9)
        finally:
            for task in (reading, stopped):
                task.cancel()
            await asyncio.gather(reading, stopped, return_exceptions=True)

    async def _leave(self, line: Cli, record: Record) -> None:
        """Switch debugging off, as far as the unit still listens: it would end with the session as well."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                for command in END:
                    text, _ = await line.run(command)
                    with self._lock:
                        record.take(text, self._now_ns())
        except (SshError, TimeoutError) as error:
            log.info("capture of awsd on %s: left without a farewell: %s", self._target.unit, error)

    async def _wanted(self, stop: asyncio.Event, pause_s: float) -> bool:
        """Wait before another session; whether there is to be one."""
        if stop.is_set() or self._left_ns() <= 0:
            return False
        try:
            await asyncio.wait_for(stop.wait(), pause_s)
        except TimeoutError:
            return self._left_ns() > 0
        return False

    def _left_ns(self) -> int:
        with self._lock:
            return self._until_mono_ns - self._clock.mono_ns()

    def _now_ns(self) -> int:
        return self._clock.mono_ns() + self._offset_ns
