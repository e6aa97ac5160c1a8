"""The composition root of `haprobe run`: builds the parts, owns processes, signals and the order of shutdown.

main thread     readings of the engine's counters, signals, liveness
engine          (process) Session-Sender; started always, so that a reload can add the first flow
reflector       (process) Session-Reflector, when configured
echo            (process) echo service for streams, when configured
watchers        a thread each
path monitor    a thread
web             a thread (export/http.py)
remote write    two threads (export/remote_write.py), when configured
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from probe import __version__
from probe.border import SharedState, Snapshot
from probe.clock import SystemClock, wall_offset_ns
from probe.config import AgentConfig, load, resolve_hosts
from probe.core.events import COUNT_NAMES, VERDICTS, Counts, TimelineEvent
from probe.core.fate import COLUMN
from probe.core.sight import untold_ups
from probe.core.timeline import within
from probe.errors import ConfigError, HaprobeError
from probe.export.http import Server, serve
from probe.export.listen import activated_sockets
from probe.export.remote_lines import FlowPicture, stall_outage
from probe.export.remote_write import RemoteWriter
from probe.export.view import FlowSnapshot, FlowTable, Ownership, RemoteWriteSnapshot, WatcherSnapshot
from probe.flow_table import FlowTables
from probe.keys import read_key
from probe.past import Past
from probe.privileges import drop_privileges
from probe.prober import Prober
from probe.recorder import FlowTrack
from probe.reflect import echo_engine, reflector_engine
from probe.report.document import new_document
from probe.store.journal import Journal
from probe.supervise import Engine, Placement
from probe.timesync import HostClock, host_clock
from probe.watch.aws import AwsWatcher
from probe.watch.fortigate import FortigateWatcher
from probe.watch.poller import NO_ANSWER_YET, Vigil

log = logging.getLogger(__name__)
SAMPLE_S = 0.25
FAST_WATCH_S = 10.0  # watchers poll fast for this long at least after a flow went dark
EVENTS_KEPT = 10_000
WATCHER_PATIENCE_NS = 10_000_000_000  # for the first answer of a watcher whose question hangs, in a resolver say
NEEDS_RESTART = ("reflector", "engines", "remote_write")  # of a config file
STEP_TOLD_NS = 10_000_000
TOLD = {"outage", "flow_state", "session_end", "ha_change", "watcher"}


class Agent:
    """One running agent; what `export.view.AgentView` asks for.

    Args:
        config_path: The config file.
        journal_dir: Where outages and HA changes are written as they are found.
    """

    version = __version__

    def __init__(self, config_path: Path, journal_dir: Path):
        self._config_path = config_path
        self.config: AgentConfig = load(config_path)
        resolve_hosts(self.config)
        for notice in self.config.notices:
            log.warning("%s", notice)
        self._clock = SystemClock()
        self._anchor = wall_offset_ns(self._clock)
        self._started_ns = self._now_ns()
        self._host = socket.gethostname()
        self.name = os.environ.get("HAPROBE_AGENT") or self._host
        self._lock = threading.RLock()
        self._listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self._events: list[TimelineEvent] = []
        self._reload_ok = True
        self._begun = False
        self._fortigate = self._make_fortigate(self.config)
        self._past = Past.replay(journal_dir)
        self._journal = Journal(journal_dir, self._clock)
        self._journal.append("start", {"agent": self.name, "version": __version__, "config": self._config_dump()})
        self._remote = self._make_remote(journal_dir)
        self._aws: AwsWatcher | None = None
        self._vigil = Vigil()
        self._reflector: Engine | None = None
        self._echo: Engine | None = None
        self._tracks: dict[str, FlowTrack] = {}
        engines = self.config.engines
        try:
            self._start_reflector()
            estimate = host_clock().error_estimate()
            self._prober = Prober(
                self.config.flow_specs(),
                error_estimate=estimate,
                listener=self._heard,
                placement=Placement(engines.sender_cpu, engines.realtime),
            )
        except BaseException:
            self._stop_reflector()
            raise
        self._anchor = int(self._prober.engine.shared.header["wall_anchor"][0])  # the one clock of all that is told
        self._told_step_ns = 0
        self._tables = FlowTables(self._prober.recorder)
        drop_privileges()

    def _start_reflector(self) -> None:
        """The Session-Reflector and the echo service, each where it has a port."""
        reflector, engines = self.config.reflector, self.config.engines
        if reflector is None:
            return
        allow = tuple(str(network) for network in reflector.allow)
        if reflector.udp or reflector.tcp:
            self._reflector = reflector_engine(
                reflector.udp,
                reflector.tcp,
                allow=allow,
                key_file=None if reflector.key_file is None else str(reflector.key_file),
                placement=Placement(engines.reflector_cpu, engines.realtime),
            )
        if reflector.echo:
            self._echo = echo_engine(reflector.echo, allow=allow)

    def start(self) -> None:
        """Begin probing and watching."""
        for spec in self.config.flow_specs():
            self._tracks[spec.name] = self._prober.add(spec, patient=True)
        self._prober.begin()
        self._prober.follow_paths()
        self._start_watchers()
        if self._remote is not None:
            self._remote.start()
        self._begun = True

    def sample(self) -> None:
        """Read the engine's counters; call a few times a second.

        Raises:
            HaprobeError: If an engine has ended: without it the agent is worth nothing, and a supervisor should know.
        """
        self._prober.recorder.sample()
        self._notice_step()
        self._tables.renew(self._ordered())
        for engine in (self._prober.engine, self._reflector, self._echo):
            if engine is not None:
                engine.check()
        now_ns = self._clock.mono_ns()
        dark = {track.spec.name for track in self._ordered() if track.state in ("suspect", "down")}
        until_ns = self._vigil.until(dark, now_ns)
        if until_ns:
            self._watch_fast((until_ns - now_ns) / 1e9)

    def close(self) -> None:
        """End everything, in the order that loses nothing."""
        for watcher in self._watching():
            watcher.stop()
        self._prober.close()
        self._stop_reflector()
        if self._remote is not None:
            self._remote.stop()  # the engine's last words were the last thing to write
        self._journal.append("stop", {}, sync=True)
        self._journal.close()

    def _stop_reflector(self) -> None:
        for engine in (self._reflector, self._echo):
            if engine is not None:
                engine.stop()

    # --- events ------------------------------------------------------------------------------------------------

    def _heard(self, kind: str, data: dict[str, Any]) -> None:
        """From the recorder, on the engine's event thread."""
        if kind in ("outage", "session_end", "unobserved"):
            self._journal.append(kind, {**data, **self._flow_labels(data["flow"])}, sync=kind == "outage")
        if kind == "flow_state" and data["state"] in ("suspect", "down"):
            self._watch_fast(FAST_WATCH_S)  # at once: the next sample may be some time away
        if kind in TOLD:
            self._tell(kind, data)

    def _watched(self, event: TimelineEvent) -> None:
        """From a watcher, on its thread."""
        with self._lock:
            self._events.append(event)
            del self._events[:-EVENTS_KEPT]
        document = event.to_document()
        self._journal.append("ha_change", document, sync=True)
        if self._remote is not None:
            self._remote.heard(event)
        self._tell("watcher" if event.event.startswith("watcher_") else "ha_change", document)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(kind, data)

    def _flow_labels(self, name: str) -> dict[str, str]:
        track = self._tracks.get(name)
        if track is None:
            return {}
        return {"protocol": track.spec.protocol, "session": track.spec.session, "path": track.spec.path}

    def subscribe(self, callback: Callable[[str, dict[str, Any]], None]) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(callback)

        def end() -> None:
            with self._lock:
                if callback in self._listeners:
                    self._listeners.remove(callback)

        return end

    # --- config ------------------------------------------------------------------------------------------------

    def _config_dump(self) -> dict[str, Any]:
        """The config as read. Secrets are in files and in none of it."""
        dumped: dict[str, Any] = json.loads(self.config.model_dump_json())
        return dumped

    def reload(self) -> None:
        """Read the config again. Flows that are the same keep their counters and sessions.

        Raises:
            ConfigError: If it is bad; everything stays as it is.
        """
        try:
            self._take_over()
        except BaseException:
            self._reload_ok = False
            raise
        self._reload_ok = True
        self._journal.append("reload", {"config": self._config_dump()})

    def _take_over(self) -> None:
        config = load(self._config_path)
        addresses = resolve_hosts(config)
        self._check_reload(config)
        changed = config.watchers != self.config.watchers
        fortigate = self._make_fortigate(config) if changed else None
        with self._lock:
            wanted = {spec.name: spec for spec in config.flow_specs()}
            gone = {name for name, track in self._tracks.items() if wanted.get(name) != track.spec}
            if self._remote is not None and gone:
                self._remote.retire(gone)
            for name, track in list(self._tracks.items()):
                if name in gone:
                    self._past.outages += self._found(track)  # a flow that is gone takes nothing with it
                    self._prober.remove(track)
                    del self._tracks[name]
            for name, spec in wanted.items():
                if name not in self._tracks:
                    self._tracks[name] = self._prober.add(
                        spec, patient=True, address=addresses[spec.target, spec.source]
                    )
            self._prober.begin()
            self.config = config
        if changed:
            self._change_watchers(fortigate)

    def _change_watchers(self, fortigate: FortigateWatcher | None) -> None:
        for watcher in self._watching():
            watcher.stop()
        now_ns = self._now_ns()
        for event in untold_ups(self._events, now_ns, "the watchers were configured anew"):
            self._watched(event)
        self._aws, self._fortigate = None, fortigate
        self._start_watchers()

    def _check_reload(self, config: AgentConfig) -> None:
        """All that can go wrong with a config, before anything is touched.

        Raises:
            ConfigError: If it asks for what needs a restart, or a new flow's key cannot be read.
        """
        for part in NEEDS_RESTART:
            if getattr(config, part) != getattr(self.config, part):
                raise ConfigError(f"{self._config_path}: {part}: cannot be changed by a reload; restart the agent")
        specs, room = config.flow_specs(), self._prober.capacity
        if len(specs) > room:
            raise ConfigError(
                f"{self._config_path}: flows: {len(specs)} of them; allowed: up to {room} until the agent is restarted"
            )
        running = [track.spec for track in self._tracks.values()]
        for spec in specs:
            if spec.key_file is not None and spec not in running:
                read_key(spec.key_file)

    def last_reload_successful(self) -> bool:
        return self._reload_ok

    def _make_remote(self, journal_dir: Path) -> RemoteWriter | None:
        """What earlier processes found and may not have written is in the journal."""
        config = self.config.remote_write
        if config is None:
            return None
        directory = Path(config.spool) if config.spool is not None else journal_dir / "remote-write"
        return RemoteWriter(
            config, directory, self.name, self.pictures, self._past.outages_by_flow(), events=self._past.events
        )

    def pictures(self, since_ns: Mapping[str, int]) -> list[FlowPicture]:
        """What is known of every flow that has sent a probe, up to the settled instant; for remote write.

        Args:
            since_ns: From when on outages and unobserved spans are wanted, by flow; all when it is not there.
        """
        recorder = self._prober.recorder
        reading = recorder.history.latest
        # What the engine had found before that reading must have been taken in. When it has ended, that is everything.
        if reading is None or (not self._prober.refresh() and self._prober.engine.alive()):
            return []
        return [
            self._picture(track, reading, since_ns.get(track.spec.name, 0))
            for track in self._ordered()
            if reading.flows[track.index]["last_sent"] or any(_sessions_ns(track))
        ]

    def _picture(self, track: FlowTrack, reading: Snapshot, since_ns: int) -> FlowPicture:
        outages, unobserved = self._prober.recorder.since(track, since_ns)
        stalls = [(number, stall) for number, stall in list(track.stalls.items()) if stall["end_ns"] > since_ns]
        outages += [stall_outage(track.spec.name, number, stall) for number, stall in stalls]
        last_sent_ns, sessions_ns = int(reading.flows[track.index]["last_sent"]), _sessions_ns(track)
        due = int(reading.live[track.index, COLUMN["scheduled"]])
        newest_ns = last_sent_ns or max(sessions_ns)
        first_ns = min([newest_ns - (due - 1) * track.spec.interval_ns, *(o.start_ns for o in outages)])
        return FlowPicture(
            track.spec,
            max(first_ns, self._started_ns),
            reading.settled_to,
            last_sent_ns,
            outages,
            unobserved,
            track.done or track.state == "ended" or not last_sent_ns,
            *sessions_ns,
        )

    def remote_write(self) -> RemoteWriteSnapshot | None:
        return None if self._remote is None else self._remote.snapshot()

    def _start_watchers(self) -> None:
        if self.config.watchers.aws is not None:
            self._aws = AwsWatcher(self.config.watchers.aws, on_event=self._watched, offset_ns=self._anchor)
            self._aws.start()
        if self._fortigate is not None:
            self._fortigate.start()

    def _make_fortigate(self, config: AgentConfig) -> FortigateWatcher | None:
        """Made before anything depends on it: a secret that cannot be read is a mistake in the config."""
        if config.watchers.fortigate is None:
            return None
        return FortigateWatcher(config.watchers.fortigate, on_event=self._watched, offset_ns=self._anchor)

    def _watching(self) -> list[AwsWatcher | FortigateWatcher]:
        return [watcher for watcher in (self._aws, self._fortigate) if watcher is not None]

    def _watch_fast(self, seconds: float) -> None:
        for watcher in self._watching():
            watcher.arm(self._clock.mono_ns() + round(seconds * 1e9))

    def watch(self, seconds: float) -> None:
        """Have the watchers poll fast, and capture awsd's output, for so long; with 0, end the captures."""
        self._watch_fast(seconds)
        if self._fortigate is None:
            return
        if seconds > 0:
            self._fortigate.capture(self._clock.mono_ns() + round(seconds * 1e9))
        else:
            self._fortigate.end_captures()

    def captures(self, since_ns: int = 0) -> list[dict[str, Any]]:
        """What was captured of awsd, verbatim."""
        records = self._fortigate.captures() if self._fortigate is not None else []
        return [
            {
                "unit": one.unit,
                "state": one.state,
                "reason": one.reason,
                "started_ns": one.started_ns,
                "ended_ns": one.ended_ns,
                "text": one.text,
            }
            for one in records
            if one.lines and (one.ended_ns or since_ns) >= since_ns
        ]

    def renew(self) -> list[str]:
        """Begin new sessions for kept TCP flows whose session has ended or stays dark; which ones."""
        kept = [t for t in self._ordered() if t.spec.protocol == "tcp" and t.spec.session == "kept"]
        ended = [t for t in kept if t.state in ("ended", "down")]
        for track in ended:
            self._prober.renew(track)
        return [t.spec.name for t in ended]

    # --- answers -----------------------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, str]:
        if not self._begun:
            return False, "starting"
        unheard = [t for t in self._ordered() if not t.answered]
        waiting = [t.spec.name for t in unheard]
        if waiting:
            detail = next((f" ({t.detail})" for t in unheard if t.detail), "")
            return False, f"flows that have not been answered yet: {', '.join(waiting)}{detail}"
        for one in self.watchers():
            # A watcher that cannot see says so from then on; probing does not wait for it.
            waited_ns = self._now_ns() - self._started_ns
            if NO_ANSWER_YET in one.reason and waited_ns < WATCHER_PATIENCE_NS:
                return False, f"the {one.name} watcher: {one.reason}"
        return True, ""

    def clock_max_error_ns(self) -> int | None:
        return self._host_clock().max_error_ns

    def _now_ns(self) -> int:
        """Unix time on the clock of the measurements, which goes on as it was when the agent began."""
        return self._clock.mono_ns() + self._anchor

    def _host_clock(self) -> HostClock:
        """How far off our times may be: steps of the wall clock do not move them."""
        return host_clock().stepped(self._prober.engine.shared.clock_step_ns())

    def _notice_step(self) -> None:
        step_ns = self._prober.engine.shared.clock_step_ns()
        if abs(step_ns - self._told_step_ns) > STEP_TOLD_NS:
            self._told_step_ns = step_ns
            log.warning(
                "the clock was set by %+.3f s since this agent began: durations stay exact, but its times are those of "
                "the clock as it was; restart it to take over the new one",
                step_ns / 1e9,
            )

    def watchers(self) -> Sequence[WatcherSnapshot]:
        return [watcher.snapshot() for watcher in self._watching()]

    def timeline(self, since_ns: int = 0) -> list[TimelineEvent]:
        with self._lock:
            return [e for e in (*self._past.events, *self._events) if e.at_ns >= since_ns]

    def table(self) -> FlowTable:
        return self._tables.read(self._ordered())

    def flows(self, names: Collection[str] | None = None) -> Sequence[FlowSnapshot]:
        tracks = self._ordered()
        table = self._tables.read(tracks)
        shown = [row for row, track in enumerate(tracks) if names is None or track.spec.name in names]
        return [self._flow_snapshot(tracks[row], table, row) for row in shown]

    def _ordered(self) -> list[FlowTrack]:
        return list(self._tracks.values())  # in one step; a reload of thousands of flows holds the lock for long

    def _flow_snapshot(self, track: FlowTrack, table: FlowTable, row: int) -> FlowSnapshot:
        recorder, spec, told = self._prober.recorder, track.spec, table.told[row]
        outages = recorder.last_outages(track, 1)
        return FlowSnapshot(
            name=spec.name,
            protocol=spec.protocol,
            session=spec.session,
            path=spec.path,
            target=spec.target,
            address=track.address,
            port=spec.port,
            interface=track.interface,
            source=track.source,
            interval_ns=spec.interval_ns,
            state=track.state,
            counts=Counts(*table.counts[row].tolist()),
            rtt_ns=recorder.rtt_ns(track),
            last_outage=outages[-1] if outages else None,
            verdict=VERDICTS[int(told["verdict"])],
            stack=spec.stack,
        )

    def outages(self, since_ns: int = 0) -> list[dict[str, Any]]:
        found = [dict(o, restored=True) for o in self._past.outages if o["end_ns"] > since_ns]
        for track in self._ordered():
            found += self._found(track, since_ns)
        return sorted(found, key=lambda o: (o["start_ns"], o["flow"]))

    def last_outages(self, most: int) -> list[dict[str, Any]]:
        recorder = self._prober.recorder
        told = [(t.spec.name, o) for t in self._ordered() for o in recorder.last_outages(t, most)]
        found = [
            {"flow": name, **self._flow_labels(name), "id": outage.id, **outage.to_document()}
            for name, outage in heapq.nlargest(most, told, key=lambda one: one[1].start_ns)
        ]
        found += [dict(o, restored=True) for o in heapq.nlargest(most, self._past.outages, key=itemgetter("start_ns"))]
        return heapq.nlargest(most, found, key=itemgetter("start_ns"))

    def _found(self, track: FlowTrack, since_ns: int = 0) -> list[dict[str, Any]]:
        """A flow's outages that end after an instant, in the contract's form, with its labels."""
        name = track.spec.name
        # One that goes on is told to end with the last probe known as lost, which is a loss threshold ago.
        outages = [o for o in self._prober.recorder.outages(track) if o.end_ns > since_ns or o.first_ok_ns == 0]
        return [{"flow": name, **self._flow_labels(name), "id": o.id, **o.to_document()} for o in outages]

    def about(self) -> dict[str, Any]:
        return {
            "agent": self.name,
            "host": self._host,
            "version": __version__,
            "started_ns": self._started_ns,
            "now_ns": self._now_ns(),
        }

    def status(self) -> dict[str, Any]:
        is_ready, why = self.ready()
        tracks = self._ordered()
        table = self._tables.read(tracks)
        columns = (table.counts.tolist(), table.last_answered_ns.tolist(), table.told["verdict"].tolist())
        return {
            **self.about(),
            "ready": is_ready,
            "not_ready": why,
            "flows": [_flow_status(*flow) for flow in zip(tracks, *columns, strict=True)],
            "watchers": [_watcher_status(w) for w in self.watchers()],
            "reflector": self._reflector_status(),
            "engine": engine_status(self._prober.engine.shared),
            "journal_failures": self._journal.failures,
            "remote_write": None if (remote := self.remote_write()) is None else asdict(remote),
        }

    def _reflector_status(self) -> dict[str, Any] | None:
        ports = self.config.reflector
        if ports is None:
            return None
        names = ("reflected", "sessions", "ring_drops")
        headers = [e.shared.read().header for e in (self._reflector, self._echo) if e is not None]
        counts = {name: sum(int(header[name]) for header in headers) for name in names}
        return {"udp": ports.udp, "tcp": ports.tcp, "echo": ports.echo, **counts}

    def report(self, start_ns: int | None = None, end_ns: int | None = None) -> dict[str, Any]:
        self._prober.refresh()
        clock = self._host_clock()
        now = self._now_ns()
        recorder = self._prober.recorder
        with recorder.counting(start_ns, end_ns) as (begin, end):
            flows = [recorder.flow_document(track, begin, end) for track in self._ordered()]
        first, last = _span(begin, end, self._started_ns, now)  # whoever asks is told which span the answer is about
        return new_document(
            run={
                "id": "",
                "started_ns": first,
                "ended_ns": last,
                "host": self.name,
                "version": __version__,
                "labels": self._fortigate.labels() if self._fortigate is not None else {},
                "config": self._config_dump(),
                "clock": clock.to_document(),
            },
            flows=flows,
            timeline=within(self.timeline(), first, last),
        )


def _span(start_ns: int | None, end_ns: int | None, began_ns: int, now_ns: int) -> tuple[int, int]:
    """What a report asked for is about: never later than now, and never backwards; a future span is empty."""
    last = min(end_ns or now_ns, now_ns)
    first = start_ns or min(began_ns, last)
    return first, max(first, last)


def _sessions_ns(track: FlowTrack) -> tuple[int, int]:
    """When a stream's newest session began, and when one was ended last; 0: never, as of flows of packets, whose
    schedule goes on through all sessions.
    """
    if track.spec.stack != "kernel":
        return 0, 0
    return track.established_ns, track.session_end.at_ns if track.session_end is not None else 0


def _flow_status(track: FlowTrack, counts: list[int], last_answered_ns: int, verdict: int) -> dict[str, Any]:
    spec = track.spec
    return {
        "name": spec.name,
        "protocol": spec.protocol,
        "session": spec.session,
        "path": spec.path,
        "target": spec.target,
        "address": track.address,
        "port": spec.port,
        "state": track.state,
        "detail": track.detail,
        "interval_ns": spec.interval_ns,
        "loss_threshold_ns": spec.loss_threshold_ns,
        "last_rx_ns": last_answered_ns,
        "counts": dict(zip(COUNT_NAMES, counts, strict=True)),
        "outages": track.outages.total.count,
        "stack": spec.stack,
        "stalls": len(track.stalls),
        "seen_as": track.translation,
        "verdict": VERDICTS[verdict],
    }


def _watcher_status(watcher: WatcherSnapshot) -> dict[str, Any]:
    def owned(entry: Ownership) -> dict[str, Any]:
        return {"kind": entry.kind, **entry.labels, "owner": entry.owner, "unit": entry.unit, "state": entry.state}

    return {
        "name": watcher.name,
        "up": watcher.up,
        "reason": watcher.reason,
        "last_success_ns": watcher.last_success_ns,
        "active_unit": watcher.active_unit,
        "signals": watcher.signals,
        "ownership": [owned(o) for o in watcher.ownership],
        "roles": watcher.roles,
        "info": list(watcher.info),
        "notes": list(watcher.notes),
        "captures": [asdict(one) for one in watcher.captures],
    }


def engine_status(shared: SharedState) -> dict[str, int]:
    """How well the engine itself is doing: whether it sends on time and keeps up with its ring."""
    header = shared.header[0]
    names = ("ring_drops", "unknown_frames", "lateness_max", "lateness_p99", "cpu_ns")
    return {
        name if name.endswith(("drops", "frames")) else f"{name.removesuffix('_ns')}_ns": int(header[name])
        for name in names
    }


def notify(state: str) -> None:
    """Tell systemd, if it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            log.warning("cannot notify systemd: %s", error)


def run(config_path: Path, listen: str, web_config: Path | None, journal_dir: Path) -> int:
    """Run an agent until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: If the config is bad.
        PrivilegeError: Without the capabilities that raw sockets need.
        UsageError: If the address cannot be bound or the journal not be written.
        HaprobeError: If an engine ends by itself.
    """
    logging.basicConfig(level=logging.INFO, format="haprobe: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "asyncssh"):  # a line per request, a dozen per session
        logging.getLogger(chatty).setLevel(logging.WARNING)
    passed = activated_sockets()  # before any child can inherit them
    agent = Agent(config_path, journal_dir)
    stop, reload = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    server: Server | None = None
    try:
        server = serve(agent, passed[0] if passed else listen, web_config)
        agent.start()
        log.info("agent %s, %d flows, %s", agent.name, len(agent.config.flow_specs()), server.url)
        notify("READY=1")
        while not stop.wait(SAMPLE_S):
            agent.sample()
            notify("WATCHDOG=1")
            if reload.is_set():
                reload.clear()
                _reload(agent, server)
    finally:
        notify("STOPPING=1")
        if server is not None:
            server.stop()
        agent.close()
    return 0


def _reload(agent: Agent, server: Server) -> None:
    try:
        agent.reload()
        server.reload_web_config()
        log.info("config reloaded")
    except HaprobeError as error:
        log.error("reload refused, running on as before:\n%s", error)
    except Exception:  # a fault here must not end what is being measured
        log.exception("reload failed")
