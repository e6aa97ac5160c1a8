"""One step of `haprobe bench`: `python -m probe.bench_step ...`, in the sender's namespace, at one rate.

Uses the engine just as `measure` does, and besides what became of the probes tells what they cost and how late they
left, which only the process next to the engine can read. Prints one JSON object, `Step` as a dict.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from probe.core.events import FlowSpec, Protocol
from probe.core.fate import COLUMN
from probe.errors import HaprobeError, PeerError
from probe.prober import Prober
from probe.recorder import FlowTrack

UDP_PORT, TCP_PORT = 862, 8620
CONNECT_S = 5.0
SAMPLE_S = 0.1
SETTLE_MARGIN_S = 1.0
Pacing = Literal["fine", "coarse"]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step found. Counts are those of the result document, over all its flows.

    Costs are taken while probes are being sent, without the start of any process; None: not known.
    """

    rate_pps: float  # asked for, all flows together
    seconds: float
    flows: int
    protocols: tuple[str, ...]
    pacing: str
    scheduled: int
    sent: int
    unsent: int
    received: int
    lost: int
    late: int
    dropped_locally: int
    outages: int
    unobserved: int
    sender_cpu: float | None  # cores
    sender_us: float | None  # microseconds of CPU for each probe sent
    reflector_cpu: float | None
    control_cpu: float | None  # of the process next to the engine
    lateness_p99_ns: int | None  # of the worst whole second
    lateness_max_ns: int | None

    @property
    def answered_pps(self) -> float:
        """Round trips per second; the schedule is absolute, so probes spread over exactly `seconds`."""
        return (self.received + self.late) / self.seconds

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Step:
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**known, "protocols": tuple(values["protocols"])})


@dataclass(frozen=True, slots=True)
class Reading:
    """Cumulative figures at an instant (CLOCK_MONOTONIC)."""

    at_ns: int
    sent: int
    cpu_ns: tuple[int | None, int | None, int | None]  # sender engine, reflector engine, this process
    lateness: tuple[int, int]  # p99 and max of the last whole second


def process_cpu_ns(pid: int) -> int | None:
    """CPU time that a process has used, all threads, in ns; None when there is no such process.

    The clock id of a process is made as the kernel's MAKE_PROCESS_CPUCLOCK does: finer than the ticks of
    /proc/PID/stat, and the same figure as the process itself reads.
    """
    if pid <= 0:
        return None
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return None


def step(
    rate_pps: float,
    seconds: float,
    protocols: Sequence[Protocol],
    *,
    target: str,
    flows: int = 1,
    pacing: Pacing = "fine",
    loss_threshold_ns: int = 500_000_000,
    reflector_pid: int = 0,
) -> Step:
    """Probe `target` at one rate.

    Args:
        rate_pps: Of all flows together.
        seconds: How long to send.
        protocols: The flows are shared out among these.
        target: Address of the reflector.
        flows: Flows per protocol.
        pacing: Of every flow.
        loss_threshold_ns: Of every flow.
        reflector_pid: Engine process of the reflector, for its CPU; 0: none.

    Raises:
        HaprobeError: If the engine cannot start or ends, or the target cannot be reached.
    """
    each_pps = rate_pps / (len(protocols) * flows)
    port = {"udp": UDP_PORT, "tcp": TCP_PORT, "icmp": 0}
    specs = [
        FlowSpec(
            name=f"{protocol}-{number}",
            protocol=protocol,
            session="kept",
            path="bench",
            target=target,
            port=port[protocol],
            rate_pps=each_pps,
            loss_threshold_ns=loss_threshold_ns,
            pacing=pacing,
        )
        for protocol in protocols
        for number in range(flows)
    ]
    limit = max(1, round(each_pps * seconds))
    prober = Prober(specs, error_estimate=1)
    try:
        tracks = [prober.add(spec, limit=limit) for spec in specs]
        pids = (prober.engine.process.pid, reflector_pid)
        prober.begin()
        _connect(prober, tracks)
        readings = _watch(prober, tracks, pids, seconds, loss_threshold_ns / 1e9)
        prober.engine.check()
    finally:
        prober.close()
    documents = [prober.recorder.flow_document(track, None, None) for track in tracks]
    counts = {
        name: sum(document["counts"][name] for document in documents)
        for name in ("scheduled", "sent", "unsent", "received", "lost", "late", "dropped_locally")
    }
    sender, reflector, control = (_cores(readings, which) for which in range(3))
    return Step(
        rate_pps=rate_pps,
        seconds=limit / each_pps,
        flows=len(specs),
        protocols=tuple(protocols),
        pacing=pacing,
        **counts,
        outages=sum(len(document["outages"]) for document in documents),
        unobserved=sum(len(document["unobserved"]) for document in documents),
        sender_cpu=sender,
        sender_us=_per_probe_us(readings),
        reflector_cpu=reflector,
        control_cpu=control,
        lateness_p99_ns=_worst(r.lateness[0] for r in readings),
        lateness_max_ns=_worst(r.lateness[1] for r in readings),
    )


def _connect(prober: Prober, tracks: list[FlowTrack]) -> None:
    waiting = [track for track in tracks if track.spec.protocol == "tcp"]
    deadline = time.monotonic() + CONNECT_S
    while waiting and prober.engine.alive():
        if time.monotonic() > deadline:
            raise PeerError(f"{waiting[0].spec.name}: the reflector accepts no TCP session within {CONNECT_S:g} s")
        time.sleep(0.02)
        waiting = [track for track in waiting if not track.established_ns]


def _watch(
    prober: Prober, tracks: list[FlowTrack], pids: tuple[int, int], seconds: float, threshold_s: float
) -> list[Reading]:
    """Readings until every probe is sent and its fate is decided."""
    shared = prober.engine.shared
    readings: list[Reading] = []
    deadline = time.monotonic() + seconds + threshold_s + CONNECT_S
    ended: float | None = None
    sampled = 0.0
    while time.monotonic() < deadline and prober.engine.alive():
        live = shared.live.sum(axis=0)
        header = shared.header[0]
        cpu = (process_cpu_ns(pids[0]), process_cpu_ns(pids[1]), time.process_time_ns())
        lateness = (int(header["lateness_p99"]), int(header["lateness_max"]))
        readings.append(Reading(time.monotonic_ns(), int(live[COLUMN["sent"]]), cpu, lateness))
        if ended is None and all(track.done or track.session_end is not None for track in tracks):
            ended = time.monotonic()
        if ended is not None and (
            not live[COLUMN["pending"]] or time.monotonic() > ended + threshold_s + SETTLE_MARGIN_S
        ):
            break
        if time.monotonic() > sampled + 1.0:  # the history of many flows is no cheap reading
            prober.recorder.sample()
            sampled = time.monotonic()
        time.sleep(SAMPLE_S)
    return readings


def busy(readings: Sequence[Reading]) -> tuple[Reading, Reading] | None:
    """First and last reading between which probes were being sent all the time."""
    most = readings[-1].sent if readings else 0
    inside = [reading for reading in readings if 0 < reading.sent < most]
    return (inside[0], inside[-1]) if len(inside) > 1 else None


def _cores(readings: Sequence[Reading], which: int) -> float | None:
    span = busy(readings)
    if span is None:
        return None
    first, last = (reading.cpu_ns[which] for reading in span)
    return None if first is None or last is None else (last - first) / (span[1].at_ns - span[0].at_ns)


def _per_probe_us(readings: Sequence[Reading]) -> float | None:
    span = busy(readings)
    if span is None or span[0].cpu_ns[0] is None or span[1].cpu_ns[0] is None:
        return None
    return (span[1].cpu_ns[0] - span[0].cpu_ns[0]) / (span[1].sent - span[0].sent) / 1e3


def _worst(values: Iterable[int]) -> int | None:
    """The largest of a second's figures. The first is over the run's first milliseconds only, and left out."""
    seen: list[int] = []
    for value in values:
        if value and (not seen or seen[-1] != value):
            seen.append(value)
    return max(seen[1:] or seen, default=None)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="haprobe-bench-step")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--protocols", required=True, help="comma-separated")
    parser.add_argument("--target", required=True)
    parser.add_argument("--flows", type=int, default=1, help="per protocol")
    parser.add_argument("--pacing", choices=get_args(Pacing), default="fine")
    parser.add_argument("--loss-threshold-ns", type=int, default=500_000_000)
    parser.add_argument("--reflector-pid", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        found = step(
            options.rate,
            options.seconds,
            [cast(Protocol, word) for word in options.protocols.split(",")],
            target=options.target,
            flows=options.flows,
            pacing=options.pacing,
            loss_threshold_ns=options.loss_threshold_ns,
            reflector_pid=options.reflector_pid,
        )
    except HaprobeError as error:
        print(f"{error}", file=sys.stderr)
        return error.exit_status
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
