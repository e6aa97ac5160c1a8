"""What watchers that see nothing cost the probing: an agent beside APIs that work, refuse, are silent or talk garbage.

Its AWS and FortiGate watchers ask servers in the router's namespace; the probes go through it to the far end. In the
middle of each case the router drops all probes for a second, and the report of the span has to tell of that outage,
whatever the watchers met. The baseline has no watcher at all. Engines run with realtime priority.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probe.lab import fortios, namespace
from probe.lab.client import lab_client
from probe.lab.cloud import Cloud, seed
from probe.lab.credentials import Credentials, make
from probe.lab.ids import CloudIds
from probe.lab.management import RestServer, rest_answer
from probe.report.document import laws
from probe.tls import server_context

from .bed import Bed, haprobe, wait_for
from .hostile import MODES, HostileServer
from .lateness import _get, _ready, _start
from .results import Row, ratio
from .scrape import _cpu_s

SERVER = "10.213.1.1"  # the router's side of the sender's link
PORTS = {"working aws": 5001, "aws": 5000, "fgt-a": 8443, "fgt-b": 8444}
UNITS = ("fgt-a", "fgt-b")
_CUT = f"tcp dport {{ {', '.join(map(str, PORTS.values()))} }} drop"
BASELINE = "none configured"
CASES = (BASELINE, "work", "refused", "dropped", *MODES)
DARK_S = 1.0
SETTLES_S = 6.0  # for a watcher to find out, before the figures begin
STOPS_S = 15.0
_WORST_RATIO, _WORST_US = 2.0, 100.0  # of the lateness without watchers, or this much more


@dataclass
class Bench:
    """What all cases share."""

    bed: Bed
    directory: Path
    credentials: Credentials
    ids: CloudIds
    cloud: Cloud
    rate_pps: float
    seconds: float


def watchers(bed: Bed, *, rate_pps: float, seconds: float) -> list[Row]:
    """One row for each case, in the order of `CASES`."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, bed.reflecting():
        directory = Path(name)
        cloud = Cloud()
        try:
            ids = seed(lab_client(cloud.serve(socket.create_server(("127.0.0.1", 0))), "lab"))
            credentials = make(directory / "credentials", {unit: [SERVER] for unit in UNITS})
            bench = Bench(bed, directory, credentials, ids, cloud, rate_pps, seconds)
            for case in CASES:
                bed.progress.line(f"watchers: {case}, {rate_pps:,.0f}/s for {seconds:g} s")
                rows.append(_row(bench, case, rows[0] if rows else None))
        finally:
            cloud.close()
    return rows


def _row(bench: Bench, case: str, baseline: Row | None) -> Row:
    what = f"{case}, {bench.rate_pps:,.0f}/s"
    try:
        with _servers(bench, case):
            figures = _measured(bench, case)
    except (OSError, TimeoutError) as error:
        return Row("watchers", "haprobe", what, note=f"failed: {error}")
    finally:
        bench.bed.clear()
    if baseline is not None:
        for name in ("p99 us", "engine us/probe"):
            figures[f"{name}, ratio"] = ratio(figures[name], baseline.number(name))
        late = baseline.number("p99 us") or 0.0
        figures["met"] &= figures["p99 us"] <= max(_WORST_RATIO * late, late + _WORST_US)
    return Row("watchers", "haprobe", what, figures)


@contextmanager
def _servers(bench: Bench, case: str) -> Iterator[None]:
    """What the watchers meet, for as long as the block lasts."""
    with ExitStack() as stack:
        if case == "dropped":
            bench.bed.nft(_RULES.format(_CUT))
        if case == "work":
            bench.cloud.serve(_listener(bench, "working aws"))
            for unit in UNITS:
                stack.callback(_rest(bench, unit).close)
        elif case in MODES:
            mode: Any = case
            stack.callback(HostileServer(_listener(bench, "aws"), mode, xml=True).close)
            for unit in UNITS:
                context = server_context(bench.credentials.certificate(unit))
                stack.callback(HostileServer(_listener(bench, unit), mode, xml=False, tls=context).close)
        yield


_RULES = """flush ruleset
table inet bench {{
  chain pre {{
    type filter hook prerouting priority raw;
    {}
  }}
}}
"""


def _listener(bench: Bench, name: str) -> socket.socket:
    def listen() -> socket.socket:
        return socket.create_server((SERVER, PORTS[name]), backlog=64)

    return namespace.inside(bench.bed.network.path("router"), listen)


def _rest(bench: Bench, unit: str) -> RestServer:
    roles = {"fgt-a": "primary", "fgt-b": "secondary"}
    answer = rest_answer(lambda: fortios.Cluster(unit, roles, (), ()))
    token = bench.credentials.token(unit).read_text().strip()

    def serve() -> RestServer:
        return RestServer((SERVER, PORTS[unit]), bench.credentials.certificate(unit), token, answer)

    return namespace.inside(bench.bed.network.path("router"), serve)


def _config(bench: Bench, case: str) -> dict[str, Any]:
    to = {"target": bench.bed.target, "loss_threshold": "500ms"}
    flows = [
        {"name": "udp", "protocol": "udp", "rate": bench.rate_pps, **to},
        {"name": "icmp", "protocol": "icmp", "rate": min(bench.rate_pps, 1000), **to},
    ]
    # What a machine does to probes by itself would hide what the watchers do.
    common = {"flows": flows, "engines": {"realtime": True}}
    if case == BASELINE:
        return common
    aws = {
        "region": "eu-west-2",
        "addresses": [bench.ids.allocations["cluster"]],
        "route_tables": [bench.ids.route_tables["transit"]],
        "units": bench.ids.units(),
        "endpoint_url": f"http://{SERVER}:{PORTS['working aws' if case == 'work' else 'aws']}",
        "interval": "1s",
    }
    units = {
        unit: {
            "host": SERVER,
            "port": PORTS[unit],
            "token_file": str(bench.credentials.token(unit)),
            "ca_file": str(bench.credentials.ca),
        }
        for unit in UNITS
    }
    return {**common, "watchers": {"aws": aws, "fortigate": {"units": units, "interval": "1s"}}}


def _measured(bench: Bench, case: str) -> dict[str, Any]:
    file = bench.directory / "agent.yml"
    file.write_text(yaml.safe_dump(_config(bench, case)))
    journal = Path(tempfile.mkdtemp(dir=bench.directory))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = ["--config.file", str(file), "--journal.dir", str(journal)]
        words += ["--web.listen-address", url.removeprefix("http://")]
        keys = ["env", "AWS_ACCESS_KEY_ID=watcher", "AWS_SECRET_ACCESS_KEY=none", "AWS_EC2_METADATA_DISABLED=true"]
        program = _start(bench.bed, listener, [*keys, *haprobe("run", *words)])
    try:
        wait_for(lambda: _ready(url), "the agent", 60.0)
        time.sleep(SETTLES_S)
        figures = _span(bench, case, url, program.pid)
        figures["stop s"] = round(_stopped(program), 2)
        figures["met"] &= figures["stop s"] < STOPS_S
        return figures
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()


def _stopped(program: subprocess.Popen[bytes]) -> float:
    """How long it takes to end."""
    began = time.monotonic()
    program.terminate()
    try:
        program.wait(STOPS_S)
    except subprocess.TimeoutExpired:
        return STOPS_S
    return time.monotonic() - began


def _span(bench: Bench, case: str, url: str, pid: int) -> dict[str, Any]:
    """The figures of `seconds`, with the outage in their middle."""
    began_ns, began, cpu_s = time.time_ns(), time.monotonic(), _cpu_s(pid)
    before = _status(url)
    late: list[float] = []
    memory: list[float] = []
    darkened = False
    while time.monotonic() < began + bench.seconds:
        if not darkened and time.monotonic() > began + bench.seconds / 2:
            darkened = True
            _darken(bench, case)
        time.sleep(1.0)
        late.append(_status(url)["engine"]["lateness_p99_ns"] / 1e3)
        memory.append(_resident_mib(pid))
    status, took = _status(url), time.monotonic() - began
    time.sleep(2.0)  # what is still on its way is settled
    document = json.loads(_get(f"{url}/api/v1/report?start_ns={began_ns}&end_ns={began_ns + round(took * 1e9)}"))
    sent, unsent = (_counted(status, name) - _counted(before, name) for name in ("sent", "unsent"))
    engine_ns = status["engine"]["cpu_ns"] - before["engine"]["cpu_ns"]
    up = {one["name"]: one["up"] for one in status["watchers"]}
    codes = [one["code"] for one in document["diagnosis"]]
    whole = _whole(document)
    blind = "watcher_blind" in codes
    seeing = case in (BASELINE, "work")
    return {
        "sent": sent,
        "unsent": unsent,
        "p99 us": sorted(late)[len(late) // 2],
        "p99 us, worst second": max(late),
        "engine us/probe": engine_ns / 1e3 / sent if sent else None,
        "agent CPU share": (_cpu_s(pid) - cpu_s) / took,
        "agent MiB, most": max(memory),
        "watchers up": ", ".join(name for name, one in up.items() if one) or "-",
        "watcher_blind": blind,
        "whole": whole or "yes",
        "met": not unsent and not whole and blind != seeing and all(one == seeing for one in up.values()),
    }


def _darken(bench: Bench, case: str) -> None:
    """Drop all probes for a moment, besides what the case drops already."""
    keep = _CUT if case == "dropped" else ""
    bench.bed.nft(_RULES.format(f"{keep}\n    ip daddr {bench.bed.target} drop"))
    time.sleep(DARK_S)
    bench.bed.nft(_RULES.format(keep))


def _whole(document: dict[str, Any]) -> str:
    """What is missing in the report; "" when nothing is."""
    checks: dict[str, Callable[[], bool]] = {
        "laws": lambda: laws(document) == [],
        "flows": lambda: {one["name"] for one in document["flows"]} == {"udp", "icmp"},
        "outages": lambda: all(len(one["outages"]) == 1 for one in document["flows"]),
        "verdicts": lambda: {one["verdict"] for one in document["flows"]} == {"survived"},
        "matrix": lambda: bool(document["matrix"]),
        "timeline": lambda: {"outage_start", "outage_end"} <= {one["event"] for one in document["timeline"]},
        "clock": lambda: bool(document["run"]["clock"]),
    }
    return ", ".join(name for name, holds in checks.items() if not holds())


def _status(url: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(_get(f"{url}/api/v1/status"))
    return status


def _counted(status: dict[str, Any], name: str) -> int:
    return sum(flow["counts"][name] for flow in status["flows"])


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20
