"""Remote write: an agent's flow states and HA events, stamped to the millisecond, into any compatible store.

Two threads. One looks at the agent every `send_interval`, turns what has become certain into samples (`remote_lines`)
and puts them on disk (`remote_spool`); the other sends from there, oldest first, one request at a time, until the store
has taken it. Whatever the store or the path do, nothing is skipped.

No request holds two samples of one series. So one that is sent again, because its answer was lost, brings only samples
that are the newest of their series and equal, which a store takes without a word: a longer one would be out of order.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING

from probe.core.events import FlowSpec, Outage, TimelineEvent
from probe.export.remote_client import Fate, RemoteClient
from probe.export.remote_format import body
from probe.export.remote_lines import EventLines, FlowLines, FlowPicture, Sample
from probe.export.remote_spool import Batch, Spool
from probe.export.view import RemoteWriteSnapshot

if TYPE_CHECKING:
    from probe.config import RemoteWrite

log = logging.getLogger("haprobe.remote_write")
SAMPLES_PER_REQUEST = 2000
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
FAREWELL_S = 2.0  # on shutdown, so long for what waits; the rest is the next process's
MOST_UNSAVED = 200_000  # samples held in memory while the disk is full
# Pictures of all flows; the argument tells since when outages are needed, by flow.
Look = Callable[[Mapping[str, int]], Sequence[FlowPicture]]


class RemoteWriter:
    """Writes an agent to one store. Start it once; `stop` writes what is left.

    Args:
        config: `remote_write` of the config file.
        directory: Of the spool.
        instance: The agent's name, label `instance` unless `external_labels` has one.
        look: The agent.
        outages: Of the agent's earlier processes, by flow.
        events: HA events of theirs.

    Raises:
        ConfigError: If a secret or a certificate cannot be read.
        UsageError: If the spool cannot be used.
    """

    def __init__(
        self,
        config: RemoteWrite,
        directory: Path,
        instance: str,
        look: Look,
        outages: Mapping[str, Sequence[Outage]] | None = None,
        events: Iterable[TimelineEvent] = (),
    ):
        self._config = config
        self._look = look
        self._client = RemoteClient(config)
        self._spool = Spool(directory, config.spool_limit << 20)
        self._common = {"job": "haprobe", "instance": instance, **config.external_labels}
        self._outages = dict(outages or {})
        self._lines: dict[FlowSpec, FlowLines] = {}
        state = self._spool.state
        self._written_ms = {str(name): int(ms) for name, ms in state.get("written_ms", {}).items()}
        self._events = EventLines(self._common, int(state.get("events_ns", 0)))
        self._heard = deque(e for e in events if state and e.at_ns > self._events.written_ns)
        self._unsaved: list[Sample] = []
        self._revised = self._sent = self._refused = self._last_success_ns = 0
        self._reason = ""
        self._lock = threading.Lock()  # one tick at a time
        self._begun_ms = int(state.get("begun_ms", 0))
        if not self._begun_ms:  # what the journal has of the time before remote write is left there
            self._begun_ms = time_ns() // 1_000_000
            self._save([])
        self._stopping = threading.Event()
        self._finished = threading.Event()  # nothing more will be written
        self._leaving = threading.Event()  # and nothing more sent
        self._threads = [
            threading.Thread(target=self._write, name="haprobe-remote-lines", daemon=True),
            threading.Thread(target=self._send, name="haprobe-remote-send", daemon=True),
        ]

    def start(self) -> None:
        """Begin writing."""
        for thread in self._threads:
            thread.start()

    def heard(self, event: TimelineEvent) -> None:
        """Take in an HA event; from any thread."""
        self._heard.append(event)

    def retire(self, names: Collection[str]) -> None:
        """Flows are about to be removed: write what is known of them, and the end of their series."""
        self._tick(retired=names)

    def stop(self) -> None:
        """Write all that is settled, and send what can be sent at once."""
        self._stopping.set()
        if self._threads[0].is_alive():
            self._threads[0].join()
        self._tick(last=True)
        self._finished.set()
        if self._threads[1].is_alive():
            self._spool.wake()
            self._threads[1].join(FAREWELL_S)
        self._leaving.set()
        if not self._threads[1].is_alive():
            self._client.close()
        self._spool.close()

    def snapshot(self) -> RemoteWriteSnapshot:
        """How it goes, now."""
        revised = self._revised + sum(line.revised for line in list(self._lines.values()))
        return RemoteWriteSnapshot(
            self._sent,
            self._refused,
            self._spool.dropped,
            revised,
            self._spool.octets,
            self._last_success_ns,
            self._reason,
        )

    # --- what is written ---------------------------------------------------------------------------------------

    def _write(self) -> None:
        while not self._stopping.wait(self._config.send_interval):
            try:
                self._tick()
            except Exception:  # a fault here must not end the writing of everything that follows
                log.exception("remote write: a tick failed")

    def _tick(self, *, last: bool = False, retired: Collection[str] = ()) -> None:
        with self._lock:
            samples = list(self._unsaved)
            while self._heard:
                samples.append(self._events.take(self._heard.popleft()))
            since = {spec.name: lines.since_ns for spec, lines in self._lines.items()}
            for picture in self._look(since):
                name = picture.spec.name
                lines = self._lines.get(picture.spec) or self._begin(picture)
                samples += lines.advance(picture, last=last or name in retired)
                if name in retired:
                    samples += lines.end()
                    self._revised += lines.revised
                    del self._lines[picture.spec]
                    self._written_ms.pop(name, None)
                else:
                    self._written_ms[name] = lines.written_ms
            if samples:
                self._save(samples)

    def _begin(self, picture: FlowPicture) -> FlowLines:
        spec = picture.spec
        before = self._written_ms.get(spec.name)
        past = self._outages.pop(spec.name, ())
        if before is None:  # it was killed before it wrote anything of this flow, or never had it
            past = [outage for outage in past if outage.start_ns // 1_000_000 > self._begun_ms]
            before = min((outage.start_ns // 1_000_000 - 1 for outage in past), default=None)
        lag_ms = round(self._config.lag * 1000)
        lines = FlowLines(spec, self._common, picture.first_ns, lag_ms, after_ms=before, past=past)
        self._lines[spec] = lines
        return lines

    def _save(self, samples: list[Sample]) -> None:
        state = {"begun_ms": self._begun_ms, "written_ms": self._written_ms, "events_ns": self._events.written_ns}
        try:
            # Regular samples come again soon; an edge or an event does not.
            told = any(sample.value != 1.0 for sample in samples)
            self._spool.commit(requests(samples), state, sync=told)
            self._unsaved = []
        except OSError as error:
            self._reason = f"{self._spool.directory}: {error.strerror or error}"
            log.error("remote write: cannot write to %s; holding %d samples", self._reason, len(samples))
            self._unsaved = samples[-MOST_UNSAVED:]
            self._spool.dropped += len(samples) - len(self._unsaved)

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._leaving.is_set():
            batch = self._spool.next(1.0)
            if batch is None:
                if self._finished.is_set():
                    return
                continue
            try:
                pause_s = self._send_one(batch)
            except Exception as error:  # nor this the sending: what waits on disk can still go
                log.exception("remote write: sending failed")
                self._reason, pause_s = f"{type(error).__name__}: {error}", 0.0
            if pause_s is None:
                wait_s = FIRST_WAIT_S
                continue
            # Many agents that lost the same store must not come back all at once.
            self._leaving.wait(max(pause_s, wait_s * random.uniform(0.5, 1.0)))
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _send_one(self, batch: Batch) -> float | None:
        """Send a request; None when it needs no more care, else how long the store wants to be left alone."""
        try:
            octets = batch.path.read_bytes()
        except OSError:  # the limit has just dropped it, or somebody has removed it
            self._spool.done(batch)
            return None
        answer = self._client.send(octets)
        if answer.fate is Fate.AGAIN:
            if answer.reason != self._reason:
                log.warning("remote write to %s: %s; trying again", self._config.url, answer.reason)
            self._reason = answer.reason
            return answer.wait_s
        self._spool.done(batch)
        if answer.fate is Fate.REFUSED:
            self._refused += batch.samples
            self._reason = answer.reason
            log.error("remote write to %s: %d samples refused: %s", self._config.url, batch.samples, answer.reason)
            return None
        if self._reason:
            log.info("remote write to %s: works again", self._config.url)
        self._sent += batch.samples
        self._reason, self._last_success_ns = "", time_ns()
        return None


def requests(samples: Iterable[Sample]) -> list[tuple[bytes, int]]:
    """Request bodies, each with its number of samples, to be sent in this order; no series is twice in one."""
    waves: list[list[Sample]] = []
    seen: dict[bytes, int] = defaultdict(int)
    for sample in samples:
        place = seen[sample.labels]
        seen[sample.labels] += 1
        if place == len(waves):
            waves.append([])
        waves[place].append(sample)
    parts = [wave[at : at + SAMPLES_PER_REQUEST] for wave in waves for at in range(0, len(wave), SAMPLES_PER_REQUEST)]
    return [(body(sample.octets() for sample in part), len(part)) for part in parts]
