"""Flows, their engine, their paths and their record: what `run` and `measure` have in common."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Iterable
from typing import Any

from probe.core.events import FlowSpec
from probe.engine import HIGH_RATE_PPS
from probe.errors import HaprobeError, PeerError
from probe.link.offload import cut_options
from probe.link.path import Path, PathMonitor
from probe.prepare import PreparedFlow, host_address, prepare, stream_command
from probe.recorder import FlowTrack, Listener, Recorder
from probe.supervise import ANYWHERE, Engine, Placement

log = logging.getLogger(__name__)
SPARE_FLOWS = 256
PATH_KEPT_S = 2.0


class Prober:
    """One Session-Sender engine and its flows.

    Args:
        expected: Flows to expect, for sizing rings and tables. They are started by `add`.
        error_estimate: STAMP Error Estimate of this host's clock.
        listener: See `Recorder`.
        spool_fd: A file to record every probe in (probe/spool.py), open for appending.
        placement: Where the engine runs.

    Raises:
        HaprobeError: If the engine cannot start, for example without privileges.
    """

    def __init__(
        self,
        expected: Iterable[FlowSpec],
        *,
        error_estimate: int,
        listener: Listener | None = None,
        spool_fd: int | None = None,
        placement: Placement = ANYWHERE,
    ):
        specs = list(expected)
        self.recorder = Recorder(listener)
        self._error_estimate = error_estimate
        self._flows: dict[int, PreparedFlow | None] = {}
        self._limits: dict[int, int | None] = {}
        self._lock = threading.RLock()
        rate = sum(spec.rate_pps for spec in specs)
        capacity = len(specs) + SPARE_FLOWS
        options, inherit = ["--rate", str(rate), *placement.options()], [] if spool_fd is None else [spool_fd]
        if rate > HIGH_RATE_PPS:  # many are due at once
            options += cut_options()
        if spool_fd is not None:
            options += ["--record", str(spool_fd)]
        self.engine = Engine("sender", options, self._take, capacity, inherit=inherit)
        self._capacity = capacity
        self._next_index = 0
        self.recorder.attach(self.engine.shared)
        self._monitor: PathMonitor | None = None
        # By address, source and interface: the way that was found last, and when.
        self._found: dict[tuple[str, str | None, str | None], tuple[Path, float]] = {}

    def follow_paths(self) -> None:
        """From now on, follow changes of routes, neighbours, links and addresses."""
        monitor = PathMonitor(self._path_changed)
        monitor.start()
        with self._lock:
            self._monitor = monitor
            for track in self.recorder.tracks():
                self._watch(track)

    def begin(self) -> None:
        """Start every flow added so far, together: making a flow ready takes the engine a while, and must delay no
        probe.
        """
        self.engine.send({"command": "begin"})

    @property
    def capacity(self) -> int:
        """How many flows there may be at one time."""
        return self._capacity

    def add(
        self, spec: FlowSpec, *, limit: int | None = None, patient: bool = False, address: str | None = None
    ) -> FlowTrack:
        """Make a flow ready; `begin` starts it.

        Args:
            spec: The flow.
            limit: Probes to send in all; None: until removed.
            patient: When there is no way to the target yet, wait for one instead of failing.
            address: Of the target, where it has been looked up.

        Raises:
            ConfigError: If the target's name does not resolve.
            PeerError: If there is no way to the target, unless `patient`.
            HaprobeError: If the engine is full.
        """
        with self._lock:
            # Round robin: the readings of a removed flow stay apart from those of the next for as long as possible.
            places = ((self._next_index + i) % self._capacity for i in range(self._capacity))
            index = next((i for i in places if i not in self._flows), None)
            if index is None:
                raise HaprobeError(f"no room for flow {spec.name}: restart the agent to make room for more flows")
            track = FlowTrack(spec, index, address or host_address(spec.target, like=spec.source))
            self._next_index = index + 1
            if spec.stack == "kernel":
                self._flows[index] = None
                self.recorder.add(track)
                self.engine.send(stream_command(spec, index, track.address, limit=limit))
                return track
            try:
                path = self._recent_path(spec, track.address)
                prepared = prepare(spec, index, error_estimate=self._error_estimate, address=track.address, path=path)
                self._found[track.address, spec.source, spec.interface] = (prepared.path, time.monotonic())
            except PeerError as error:
                if not patient:
                    raise
                track.detail = str(error)
                log.warning("flow %s: %s; waiting for a way", spec.name, error)
                prepared = None
            self._flows[index] = prepared
            self._limits[index] = limit
            self.recorder.add(track)
            if prepared is not None:
                self._note_path(track, prepared.path)
                self.engine.send(prepared.add_command(limit=limit))
            self._watch(track)
            return track

    def _recent_path(self, spec: FlowSpec, address: str) -> Path | None:
        """The way to a target that another flow has just found: thousands of flows may have one in common."""
        path, found_at = self._found.get((address, spec.source, spec.interface), (None, 0.0))
        return path if time.monotonic() - found_at < PATH_KEPT_S else None

    def remove(self, track: FlowTrack) -> None:
        """End a flow and forget it."""
        with self._lock:
            if self._monitor is not None:
                self._monitor.unwatch(track.index)
            self.engine.send({"command": "remove", "index": track.index})
            self._flows.pop(track.index, None)
            self.recorder.remove(track.index)

    def halt(self) -> None:
        """Send no further probe."""
        self.engine.send({"command": "halt"})

    def refresh(self) -> bool:
        """Bring the record up to date, open outages included; whether the engine has answered."""
        return self.engine.alive() and self.recorder.refresh(lambda: self.engine.send({"command": "tell"}))

    def renew(self, track: FlowTrack) -> None:
        """Begin a new session for a kept TCP flow whose session has ended, from the address that the kernel prefers."""
        with self._lock:
            self.engine.send({"command": "renew", "index": track.index})
            self._watch(track, anew=True)

    def close(self) -> bool:
        """End every session and the engine; the record stays readable.

        Returns:
            Whether the engine ended when asked. Else what it knew last is not in the record.
        """
        with self._lock:
            monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()
        self.recorder.sample()
        answered = self.engine.stop()
        self.recorder.sample()
        return answered

    def _take(self, message: dict[str, Any]) -> None:
        """Take in one event of the engine. A flow that it refused it is given again when there is another way."""
        if message["event"] == "refused" and message["command"] == "add":
            with self._lock:
                if message["flow"] in self._flows:
                    self._flows[message["flow"]] = None
        self.recorder.take(message)

    def _watch(self, track: FlowTrack, *, anew: bool = False) -> None:
        """Follow the way of a flow. A kept one keeps its source address, or, `anew`, the next that is found."""
        if track.spec.stack == "kernel":
            return  # the kernel follows the way of its connections by itself
        prepared = self._flows.get(track.index)
        if self._monitor is not None:
            path = prepared.path if prepared is not None else None
            spec = track.spec
            keep = None if spec.session == "fresh" else "" if path is None or anew else path.source_ip
            self._monitor.watch(
                track.index, track.address, source=spec.source, interface=spec.interface, path=path, keep=keep
            )

    def _path_changed(self, key: Hashable, path: Path | None) -> None:
        with self._lock:
            index = key if isinstance(key, int) else -1
            track = next((t for t in self.recorder.tracks() if t.index == index), None)
            if track is None:
                return
            if path is None:
                track.detail = "this host has no way to the target"
                log.warning("flow %s: no way to %s any more", track.spec.name, track.address)
                return
            prepared = self._flows.get(index)
            self._note_path(track, path)
            if prepared is None:
                estimate = self._error_estimate
                prepared = prepare(track.spec, index, error_estimate=estimate, address=track.address, path=path)
                self._flows[index] = prepared
                self.engine.send(prepared.add_command(limit=self._limits.get(index)))
                self.begin()
            else:
                prepared.path = path
                self.engine.send({"command": "retarget", "index": index, **prepared.frame_fields()})

    @staticmethod
    def _note_path(track: FlowTrack, path: Path) -> None:
        track.detail = ""
        track.interface, track.source = path.interface, path.source_ip
        track.version += 1
