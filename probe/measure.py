"""`haprobe measure`: the agent's own engine as a one-off tool, no daemon and no config."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probe import __version__
from probe.core.events import DEFAULT_RATE_PPS, MAX_STREAM_RATE_PPS, STREAM_RATE_PPS, FlowSpec, Session
from probe.errors import HaprobeError, PeerError, UsageError
from probe.files import write
from probe.interrupts import interruptible
from probe.prober import Prober
from probe.progress import Progress
from probe.recorder import FlowTrack, Listener
from probe.report.document import new_document
from probe.store.record import RecordFile
from probe.store.runs import new_run_id
from probe.supervise import ANYWHERE, Placement
from probe.targets import Target
from probe.timesync import host_clock

CONNECT_S = 5.0
SETTLE_MARGIN_S = 0.5
PORTLESS = {"icmp": 0}


def measure(
    targets: Sequence[Target],
    *,
    rate_pps: float | None,
    duration_s: float,
    sessions: Sequence[Session],
    path: str,
    interface: str | None,
    loss_threshold_ns: int,
    json_path: str | None,
    html_path: str | None,
    quiet: bool,
    record_path: str | None = None,
    placement: Placement = ANYWHERE,
) -> int:
    """Probe the targets for a while and print the result.

    Args as on the command line; `rate_pps` None: each kind's usual rate.

    Returns:
        0, also when ended before the first probe; 5 when a target never answered.

    Raises:
        UsageError: If nothing can be recorded at `record_path`, or a stream is asked for what streams have not.
        PeerError: If there is no way to a target, or a TCP reflector does not accept the session.
        PrivilegeError: Without the capabilities that raw sockets need.
        ConfigError: If a target's name does not resolve.
        HaprobeError: If the engine ends by itself; what it had measured is printed first.
    """
    specs = flow_specs(targets, rate_pps, sessions, path, interface, loss_threshold_ns)
    if record_path and any(spec.stack == "kernel" for spec in specs):
        raise UsageError("--record keeps packets, and a stream has none of its own; leave out the tcp+stream targets")
    clock = host_clock()
    started_ns = time.time_ns()
    run = {
        "id": new_run_id(started_ns),
        "started_ns": started_ns,
        "host": socket.gethostname(),
        "version": __version__,
        "labels": {},
        "config": {
            "targets": [str(t) for t in targets],
            "rate": rate_pps or max(spec.rate_pps for spec in specs),
            "duration_s": duration_s,
        },
        "clock": clock.to_document(),
    }
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=quiet))
        record = stack.enter_context(RecordFile(Path(record_path))) if record_path else None
        with interruptible() as interrupted:
            prober = Prober(
                specs,
                error_estimate=clock.error_estimate(),
                listener=None if record is None else _ending(record, progress),
                spool_fd=None if record is None else record.fd,
                placement=placement,
            )
            try:
                tracks = [prober.add(spec, limit=_probes(spec, duration_s)) for spec in specs]
                if record is not None:
                    record.remove_older()
                tried = not interrupted.is_set()
                if tried:
                    prober.begin()
                    prober.follow_paths()
                    _connect(prober, tracks, interrupted)
                    _wait(prober, tracks, duration_s, loss_threshold_ns / 1e9, progress, interrupted)
                failure = _failure(prober)
                run["clock"] = clock.stepped(prober.engine.shared.clock_step_ns()).to_document()
            finally:
                answered = prober.close()
        run["ended_ns"] = time.time_ns()
        if record is not None:
            run["record"] = _finish(record, prober, specs, run, progress)
    flows = [prober.recorder.flow_document(t, None, None) for t in tracks]
    document = new_document(run=run, flows=flows)
    _write(document, json_path, html_path)
    if not answered:
        print(
            f"haprobe: the probing process (pid {prober.engine.process.pid}) did not answer any more, "
            "so what it knew last is missing from this result",
            file=sys.stderr,
        )
    if failure is not None:
        raise failure
    tried = any(f["counts"]["scheduled"] for f in flows) or (tried and any(_opening(t) for t in tracks))
    if interrupted.is_set() and not tried:
        print("haprobe: ended before the first probe; nothing was measured", file=sys.stderr)
        return 0
    silent = [f for f in flows if f["counts"]["received"] + f["counts"]["late"] == 0]
    for flow, spec in ((f, s) for f, s in zip(flows, specs, strict=True) if f in silent):
        print(f"haprobe: {_silence(flow, spec)}", file=sys.stderr)
    return PeerError.exit_status if silent else 0


def flow_specs(
    targets: Sequence[Target],
    rate_pps: float | None,
    sessions: Sequence[Session],
    path: str,
    interface: str | None,
    loss_threshold_ns: int,
) -> list[FlowSpec]:
    """One flow per target and session kind, named after them; the same target twice gets a number.

    Raises:
        UsageError: If a stream is to be fresh, or faster than streams are.
    """
    specs: list[FlowSpec] = []
    for target in targets:
        stream = target.stack == "kernel"
        if stream and tuple(sessions) == ("fresh",):
            raise UsageError(f"{target}: a stream is one kept session; allowed: --session kept or both")
        if stream and (rate_pps or 0) > MAX_STREAM_RATE_PPS:
            raise UsageError(f"{target}: --rate {rate_pps:g}; allowed for a stream: up to {MAX_STREAM_RATE_PPS}")
        for session in ("kept",) if stream else sessions:
            port = f"-{target.port}" if target.port else ""
            kind = "stream" if stream else target.protocol
            name = f"{kind}-{target.host.replace(':', '.')}{port}{'-fresh' if session == 'fresh' else ''}"
            taken = sum(s.name == name or s.name.startswith(f"{name}.") for s in specs)
            specs.append(
                FlowSpec(
                    name=f"{name}.{taken + 1}" if taken else name,
                    protocol=target.protocol,
                    session=session,
                    path=path,
                    target=target.host,
                    port=target.port or 0,
                    rate_pps=rate_pps or (STREAM_RATE_PPS if stream else DEFAULT_RATE_PPS),
                    stack=target.stack,
                    interface=interface,
                    loss_threshold_ns=loss_threshold_ns,
                )
            )
    return specs


def _probes(spec: FlowSpec, duration_s: float) -> int:
    return max(1, round(spec.rate_pps * duration_s))


def _opening(track: FlowTrack) -> bool:
    """Whether the flow is a kept TCP session that is not established yet."""
    return track.spec.protocol == "tcp" and track.spec.session == "kept" and not track.established_ns


def _connect(prober: Prober, tracks: list[FlowTrack], interrupted: threading.Event) -> None:
    """Wait until every kept TCP session is established."""
    waiting = tracks
    deadline = time.monotonic() + CONNECT_S
    while waiting and not interrupted.is_set() and prober.engine.alive():
        waiting = [t for t in waiting if _opening(t)]
        if waiting and time.monotonic() > deadline:
            raise PeerError(_refused(waiting[0].spec))
        time.sleep(0.02)


def _wait(
    prober: Prober,
    tracks: list[FlowTrack],
    duration_s: float,
    threshold_s: float,
    progress: Progress,
    interrupted: threading.Event,
) -> None:
    """Show progress until every probe is sent and its fate is decided."""
    started = time.monotonic()
    # The first probe of a flow leaves somewhere in its first interval, and one is always sent.
    sending_s = max(_probes(t.spec, duration_s) * t.spec.interval_ns / 1e9 for t in tracks)
    deadline = started + sending_s + threshold_s + CONNECT_S
    ended: float | None = None
    halted = False
    while time.monotonic() < deadline:
        if interrupted.is_set() and not halted:  # not from the signal's handler: we may be just sending a command
            prober.halt()
            halted = True
            deadline = min(deadline, time.monotonic() + threshold_s + CONNECT_S)
        time.sleep(0.1)
        # Asked before the counts are read: only then do they hold every flow's last probe.
        over = all(t.done or _gone(t) for t in tracks)
        prober.recorder.sample()
        if not prober.engine.alive():
            return
        counts = [prober.recorder.history.counts(t.index, None, None) for t in tracks]
        sent, received = sum(c.sent for c in counts), sum(c.received for c in counts)
        lost, pending = sum(c.lost for c in counts), sum(c.pending for c in counts)
        elapsed = min(time.monotonic() - started, duration_s)
        so_far = f"sent {sent}  answered {received}  lost {lost}"
        progress.update(f"{elapsed:.1f}/{duration_s:g} s  {so_far}  {_state(tracks)}")
        if over and ended is None:
            ended = time.monotonic()
        if ended is not None and (not pending or time.monotonic() > ended + threshold_s + SETTLE_MARGIN_S):
            return


def _ending(record: RecordFile, progress: Progress) -> Listener:
    """Hear that the engine had to end the recording; the measurement goes on."""

    def heard(kind: str, data: dict[str, Any]) -> None:
        if kind == "recording_ended":
            record.ended = data["reason"]
            progress.line(f"recording ended: {record.ended}; the measurement goes on")

    return heard


def _finish(
    record: RecordFile, prober: Prober, specs: Sequence[FlowSpec], run: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Turn what was recorded into its file, and say how that went."""
    result = record.finish(
        specs,
        run=run,
        anchor_ns=int(prober.engine.shared.header["wall_anchor"][0]),
        progress=lambda part: progress.update(f"writing {record.target}: {part:.0%}"),
    )
    progress.done()
    if result["complete"]:
        progress.line(f"recorded {result['probes']} probes in {result['file']}")
    else:
        kept = f"what there is of it: {result['file']}" if result["file"] else "nothing of it is kept"
        print(f"haprobe: {record.target} was not recorded whole: {result['reason']}; {kept}", file=sys.stderr)
    return result


def _state(tracks: list[FlowTrack]) -> str:
    """How the flows stand, in a few words."""
    for word, states in (("dark", ("down", "suspect")), ("no answer yet", ("connecting",)), ("ended", ("ended",))):
        names = [t.spec.name for t in tracks if t.state in states]
        if names:
            return f"{word}: {', '.join(names)}"
    return "all answering"


def _gone(track: FlowTrack) -> bool:
    """Whether its session has ended, and no other comes; a stream tries new ones."""
    return track.session_end is not None and track.spec.stack == "packet"


def _refused(spec: FlowSpec) -> str:
    if spec.stack == "kernel":
        return (
            f"nothing accepts a TCP session at {spec.target} port {spec.port} within {CONNECT_S:g} s: "
            f"a stream needs an echo service there, such as `haprobe reflect --echo {spec.port}`"
        )
    return (
        f"no reflector accepts a TCP session at {spec.target} port {spec.port} within {CONNECT_S:g} s: "
        f"start `haprobe reflect --tcp {spec.port}` there, or probe any listener with --session fresh"
    )


def _failure(prober: Prober) -> HaprobeError | None:
    """Why the engine has ended by itself, if it has."""
    try:
        prober.engine.check()
    except HaprobeError as error:
        return error
    return None


def _silence(flow: dict[str, Any], spec: FlowSpec) -> str:
    if flow["counts"]["sent"] == 0 and flow["counts"]["unsent"] == 0:
        return f"{flow['name']}: nothing was sent to {spec.target} yet"
    if flow["counts"]["sent"] == 0:
        return f"{flow['name']}: nothing could be sent to {spec.target}; is the interface up?"
    needs = {
        "udp": f"; is a STAMP reflector running there (`haprobe reflect --udp {spec.port}`)?",
        "tcp": f"; does anything listen on port {spec.port}?",
        "icmp": "",
    }[spec.protocol]
    if spec.stack == "kernel":
        needs = f"; is an echo service running there (`haprobe reflect --echo {spec.port}`)?"
    return f"{flow['name']}: no reply from {spec.target} to any of {flow['counts']['sent']} probes{needs}"


def _write(document: dict[str, Any], json_path: str | None, html_path: str | None) -> None:
    """Write the result to all places; what one of them does not take is still told in the others.

    Raises:
        UsageError: If a file could not be written.
    """
    from rich.console import Console

    from probe.report import html, text
    from probe.store.runs import to_json

    failure: UsageError | None = None
    for file, written in ((html_path, html.render), (json_path, to_json)):
        try:
            if file:
                write(file, written(document))
        except UsageError as error:
            failure = error
    if "-" not in (json_path, html_path):
        text.render_measure(document, Console())
    if failure is not None:
        raise failure
