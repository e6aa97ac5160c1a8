"""`python -m tests.bench.changes [--failovers 100]`: does each change that the AWS watcher tells hold its true time?

The lab's cloud, awsd and the watcher in one process, without namespaces and probes. The pair fails over again and
again; the watcher polls at its fast pace. The truth is read where nobody can ask: inside the cloud, under the lock that
every call takes, right after the change was made. So an interval either holds it or is wrong; there is no slack.

The requests that this cost are held against EC2's token buckets (`ec2.API_BUCKETS`): all of them against what the
bucket held and got back meanwhile, and the most that was ever missing from a bucket which nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.clock import SystemClock, wall_offset_ns
from probe.config import AwsWatcher as WatcherConfig
from probe.core.events import TimelineEvent
from probe.core.ha import KINDS, Kind
from probe.lab.awsd import Awsd
from probe.lab.client import lab_client
from probe.lab.cloud import Cloud, seed
from probe.lab.ids import CloudIds
from probe.lab.plan import REGION, UNITS, LabOptions, Plan
from probe.lab.query import Environ, StartResponse, WsgiApp, read_call
from probe.watch.aws import AwsWatcher
from probe.watch.ec2 import API_BUCKETS, OPERATIONS

TOLD_WITHIN_S = 60.0  # even by a machine that is very busy
_SUBJECT = {"AssociateAddress": "eip_moved", "ReplaceRoute": "route_moved"}


@dataclass
class Truth:
    """Stands between the corrections and moto, under their lock: when each change was made."""

    app: WsgiApp
    offset_ns: int
    made: list[tuple[str, int]] = field(default_factory=list)  # event, instant

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        action = read_call(environ).action
        body = self.app(environ, start_response)
        if action in _SUBJECT:
            self.made.append((_SUBJECT[action], time.monotonic_ns() + self.offset_ns))
        return body


@dataclass
class Requests:
    """A client's calls, by operation: when each was sent (CLOCK_MONOTONIC)."""

    client: Any
    sent: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client.meta.events.register("before-send.ec2", self._count)

    def _count(self, request: Any, event_name: str = "", **_: Any) -> None:
        self.sent.setdefault(event_name.rsplit(".", 1)[-1], []).append(time.monotonic_ns())

    def cost(self, kind: Kind, seconds: float) -> tuple[float, float]:
        """(calls as a share of all that the bucket would have given, the most that was missing as a share of it)."""
        size, refill = API_BUCKETS[kind]
        sent = self.sent.get(OPERATIONS[kind], [])
        missing = worst = 0.0
        last = sent[0] if sent else 0
        for at in sent:
            missing = max(0.0, missing - (at - last) / 1e9 * refill) + 1
            worst, last = max(worst, missing), at
        return len(sent) / (size + refill * seconds), worst / size


@dataclass
class Outcome:
    """What came of all failovers."""

    changes: int
    missed: list[str]
    widths_ms: list[float]
    seconds: float
    costs: dict[str, tuple[float, float]]

    @property
    def ok(self) -> bool:
        return not self.missed and all(share <= 0.1 for cost in self.costs.values() for share in cost)

    def text(self) -> str:
        middle, widest = statistics.median(self.widths_ms), max(self.widths_ms)
        lines = [f"{self.changes} changes in {self.seconds:.0f} s; {len(self.missed)} without their true time inside"]
        lines += self.missed
        lines.append(f"interval: median {middle:.0f} ms, widest {widest:.0f} ms")
        for operation, (rate, draw) in self.costs.items():
            lines.append(f"{operation}: {rate:.1%} of what the bucket gives, {draw:.1%} of it missing at most")
        return "\n".join(lines)


def measure(failovers: int, latency_ms: int, pause_s: float, directory: Path) -> Outcome:
    """Fail over that many times; `pause_s` between two, on top of what the calls take."""
    cloud = Cloud({"fgt-*": latency_ms})
    url = cloud.serve(socket.create_server(("127.0.0.1", 0)))
    try:
        ids = seed(lab_client(url, "lab"))
        plan = Plan("unused-", directory, LabOptions(api_latency_ms=latency_ms))
        ids.save(plan.cloud_file)
        clock = SystemClock()
        offset_ns = wall_offset_ns(clock)
        corrections: Any = cloud.faults._app
        truth = corrections._app = Truth(corrections._app, offset_ns)
        told: list[TimelineEvent] = []
        arrived = threading.Condition()

        def heard(event: TimelineEvent) -> None:
            with arrived:
                told.append(event)
                arrived.notify_all()

        config = WatcherConfig.model_validate(_config(ids, url))
        requests = Requests(lab_client(url, "watcher"))  # no credentials of this machine are looked for
        watcher = AwsWatcher(config, heard, clock=clock, offset_ns=offset_ns, client=requests.client)
        units = {unit: Awsd(plan, unit, url) for unit in UNITS}
        begun_ns = time.monotonic_ns()
        watcher.poll()
        watcher.start()
        try:
            for number in range(1, failovers + 1):
                watcher.arm(time.monotonic_ns() + 60_000_000_000)
                assert units[UNITS[number % 2]].take_over(), "a call of the failover failed"
                with arrived:  # one move of each kind for each failover, or they would merge into one
                    seen = arrived.wait_for(lambda n=number: _moves(told) >= 2 * n, TOLD_WITHIN_S)  # type: ignore[misc]
                assert seen, f"the watcher did not tell failover {number} within {TOLD_WITHIN_S:g} s"
                time.sleep(pause_s)
        finally:
            watcher.stop()
        seconds = (time.monotonic_ns() - begun_ns) / 1e9
        return _compare(truth.made, told, requests, seconds)
    finally:
        cloud.close()


def _config(ids: CloudIds, url: str) -> dict[str, Any]:
    """As in the lab, at the default pace and share of the API."""
    return {
        "region": REGION,
        "addresses": [ids.allocations["cluster"]],
        "route_tables": [ids.route_tables["transit"]],
        "units": ids.units(),
        "instances": dict(ids.instances),
        "endpoint_url": url,
    }


def _moves(told: Sequence[TimelineEvent]) -> int:
    return sum(event.event in _SUBJECT.values() for event in told)


def _compare(
    made: Sequence[tuple[str, int]], told: Sequence[TimelineEvent], requests: Requests, seconds: float
) -> Outcome:
    missed, widths = [], []
    for name in _SUBJECT.values():
        true = [at for what, at in made if what == name]
        found = [event.detail for event in told if event.event == name]
        if len(true) != len(found):
            missed.append(f"{name}: {len(true)} made, {len(found)} told")
        for at, detail in zip(true, found, strict=False):
            first, last = detail["last_seen_old_ns"], detail["first_seen_new_ns"]
            widths.append((last - first) / 1e6)
            if not first <= at <= last:
                missed.append(f"{name}: {(at - first) / 1e6:+.3f} ms from the start of {(last - first) / 1e6:.3f} ms")
    costs = {OPERATIONS[kind]: requests.cost(kind, seconds) for kind in KINDS if OPERATIONS[kind] in requests.sent}
    return Outcome(len(made), missed, widths, seconds, costs)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.changes", description=__doc__.splitlines()[0])
    parser.add_argument("--failovers", type=int, default=100)
    parser.add_argument("--latency-ms", type=int, default=150, help="of each call of a unit (default: 150)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between failovers (default: 1)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="haprobe-changes-") as directory:
        outcome = measure(given.failovers, given.latency_ms, given.pause, Path(directory))
    print(outcome.text())
    if given.json:
        given.json.write_text(json.dumps(vars(outcome), indent=1) + "\n")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
