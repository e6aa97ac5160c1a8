"""A drill as a Prometheus would hold it: the real collector over an agent in literals, scraped every 15 s of its time.

One agent also writes remotely, one does not, and one does so under another name than it is scraped by. All of it
becomes blocks of a Prometheus, without waiting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from probe.core.events import Counts, Outage
from probe.export.collector import Exposition
from probe.export.run_metrics import openmetrics
from probe.export.view import ApiCalls, Ownership
from tests.export import fakes

SECOND = 1_000_000_000
SCRAPE_S = 15
BEGIN_S = 1_764_763_200 - 7  # so that no scrape falls on a step
LENGTH_S = 900
END_S = BEGIN_S + LENGTH_S
GOLDEN = Path(__file__).parents[1] / "golden/report.json"

# (start, end) in ns after the begin; of the failover, and of a blink that no scrape and no step comes near.
FAILOVER = (404_411_123_456, 407_733_987_654)
LONGER = (404_411_623_456, 412_020_987_654)
BLINK = (251_123_000_000, 251_163_000_000)
# By the name that they are scraped by: as whom they write remotely.
AGENTS = {"workload-a": "workload-a", "workload-b": "", "10.99.97.20:10862": "workload-c"}
FLOWS: dict[str, dict[str, Any]] = {
    "ew-icmp": {"protocol": "icmp", "path": "east-west", "outages": [("round_trip", FAILOVER)]},
    "ew-udp": {"protocol": "udp", "path": "east-west", "outages": [("forward", BLINK), ("reverse", FAILOVER)]},
    "ew-tcp": {"protocol": "tcp", "path": "east-west", "outages": [("forward", FAILOVER)]},
    "in-tcp": {"protocol": "tcp", "path": "ingress", "outages": [("forward", LONGER)], "verdict": "lost"},
    "in-tcp-fresh": {"protocol": "tcp", "path": "ingress", "outages": [("forward", FAILOVER)], "session": "fresh"},
    "out-icmp": {"protocol": "icmp", "path": "egress", "outages": []},
}
# Begins between the first scrape and the first step, and is not over at the end.
ENDLESS = (3_200_000_000, 2 * LENGTH_S * SECOND)
SHORT = {
    "b-udp": {"protocol": "udp", "path": "egress", "outages": [("forward", BLINK)]},
    "b-icmp": {"protocol": "icmp", "path": "egress", "outages": [("round_trip", ENDLESS)]},
}
OTHER = {"c-udp": {"protocol": "udp", "path": "egress", "outages": [("forward", BLINK)]}}
FLOWS_OF = dict(zip(AGENTS, (FLOWS, SHORT, OTHER), strict=True))
CHANGED_NS = (BEGIN_S + 405) * SECOND + 250_000_000


def outage_of(flow: str, number: int, direction: str, span: tuple[int, int]) -> Outage:
    start_ns, end_ns = (BEGIN_S * SECOND + at for at in span)
    gap = 1_000_000
    return replace(
        fakes.OUTAGE,
        **{"flow": flow, "id": number, "direction": direction, "start_ns": start_ns, "end_ns": end_ns},
        **{
            "last_ok_ns": start_ns - gap,
            "first_lost_ns": start_ns,
            "last_lost_ns": end_ns - gap,
            "first_ok_ns": end_ns,
        },
        **{"lower_ns": end_ns - start_ns - gap, "estimate_ns": end_ns - start_ns, "upper_ns": end_ns - start_ns + gap},
        lost=(end_ns - start_ns) // gap,
    )


def outages(agent: str) -> dict[str, list[Outage]]:
    """What really happened, by flow."""
    return {
        name: [outage_of(name, i, direction, span) for i, (direction, span) in enumerate(flow["outages"], 1)]
        for name, flow in FLOWS_OF[agent].items()
    }


def snapshot(name: str, flow: dict[str, Any], found: list[Outage], now_ns: int) -> fakes.FakeFlow:
    """The flow as its agent would tell it at an instant."""
    begun = [outage for outage in found if outage.start_ns < now_ns]
    last = begun[-1] if begun else None
    open_now = last is not None and now_ns < last.end_ns
    if last is not None and open_now:
        last = replace(last, end_ns=now_ns, first_ok_ns=0, estimate_ns=now_ns - last.start_ns)
    sent = now_ns // 1_000_000 - BEGIN_S * 1000
    lost = {way: sum(o.lost for o in begun if o.direction == way) for way in ("forward", "reverse", "round_trip")}
    received = sent - sum(lost.values())
    ended = flow.get("verdict") == "lost" and last is not None
    return replace(
        fakes.KEPT,
        **{"name": name, "protocol": flow["protocol"], "path": flow["path"], "session": flow.get("session", "kept")},
        state="down" if open_now else "ended" if ended else "up",
        counts=Counts(
            **{"scheduled": sent + 2, "unsent": 2, "sent": sent, "received": received, "lost": sum(lost.values())},
            **{"lost_forward": lost["forward"], "lost_reverse": lost["reverse"]},
            lost_unattributed=lost["round_trip"],
        ),
        resets={"rst": int(ended)},
        rtt_buckets=[
            (0.0005, received // 2),
            (0.001, received * 95 // 100),
            (0.005, received - 2),
            (math.inf, received),
        ],
        rtt_sum_s=received * 0.0006,
        outages_total=len(begun),
        outage_seconds_total=sum(outage.estimate_ns for outage in begun) / 1e9,
        unobserved_seconds_total=0.012,
        last_outage=last,
        verdict="unaffected" if not begun else flow.get("verdict", "survived"),
    )


def agent_at(name: str, now_ns: int) -> fakes.FakeAgent:
    happened = outages(name)
    flows = FLOWS_OF[name]
    moved = now_ns > CHANGED_NS
    active = "fgt-b" if moved else "fgt-a"
    route = {"route_table": "rtb-1", "destination": "0.0.0.0/0"}
    owned = [
        *fakes.AWS.ownership[:1],
        Ownership("route", route, f"eni-{active[-1]}2", active, "active"),
        *fakes.AWS.ownership[2:],
    ]
    changed = [replace(one, unit=active, last_change_ns=CHANGED_NS if moved else 0) for one in owned[:3]]
    polls = (now_ns // SECOND - BEGIN_S) // 2
    calls = ApiCalls("DescribeAddresses", {"ok": polls}, polls * 0.02, [(0.1, polls), (math.inf, polls)])
    aws = replace(fakes.AWS, active_unit=active, ownership=[*changed, *owned[3:]], api=[calls])
    roles = {"fgt-a": "secondary" if moved else "primary", "fgt-b": "primary" if moved else "secondary"}
    fortigate = replace(fakes.FORTIGATE, up=now_ns // SECOND % 300 > 30, roles=roles)
    return fakes.FakeAgent(
        flow_list=[snapshot(flow, flows[flow], happened[flow], now_ns) for flow in flows],
        watcher_list=[aws, fortigate] if name == "workload-a" else [],
    )


def line(name: str, labels: dict[str, str], value: float, at_s: float) -> str:
    shown = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {floatToGoString(value)} {at_s:.3f}"


def scraped(name: str) -> Iterator[str]:
    """What Prometheus would have stored of an agent, 15 s apart."""
    about = {"job": "haprobe", "instance": name}
    for at_s in range(BEGIN_S + 1, END_S, SCRAPE_S):
        yield line("up", about, 1, at_s)
        text = b"".join(Exposition(agent_at(name, at_s * SECOND)).render()).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield line(sample.name, {**about, **sample.labels}, sample.value, at_s)


def written_remotely(name: str) -> Iterator[str]:
    """Samples at the edges of what happened, one series for each direction, with a sample every 15 s between."""
    for flow, found in outages(name).items():
        about = FLOWS_OF[name][flow]
        labels = {"job": "haprobe", "instance": AGENTS[name], "flow": flow, "protocol": about["protocol"]}
        labels |= {"session": about.get("session", "kept"), "path": about["path"]}
        for direction in ("any", "forward", "reverse", "round_trip"):
            samples = dict.fromkeys(range(BEGIN_S * 1000, END_S * 1000, SCRAPE_S * 1000), 1)
            for outage in (outage for outage in found if direction in (outage.direction, "any")):
                start, end = outage.start_ns // 1_000_000, outage.end_ns // 1_000_000
                samples |= {at: 0 for at in samples if start <= at < end}
                samples |= {start - 1: 1, start: 0, end - 1: 0, end: 1}
            for at, value in sorted(samples.items()):
                yield line("haprobe_flow_state", {**labels, "direction": direction}, value, at / 1000)
    if name != "workload-a":
        return
    event = {"source": "fortigate", "event": "role_change", "unit": "fgt-b", "subject": "primary"}
    yield line("haprobe_ha_event_timestamp_seconds", {"instance": name, **event}, BEGIN_S + 404.987, BEGIN_S + 404.987)


def runs() -> Iterator[str]:
    """Runs of three releases in the weeks before, the golden one shifted, and the drill's own."""
    golden = json.loads(GOLDEN.read_text())
    budget = [{"name": "outage", "limit": 5_000_000_000, "value": 4_500_000_000, "ok": True}]
    for days, release in ((20, "7.2.11"), (13, "7.4.8"), (6, "7.4.8"), (5, "7.6.4"), (0, "7.6.4")):
        text = json.dumps({**golden, "budgets": budget})
        shift = (BEGIN_S - days * 86_400 + 396) * SECOND - golden["run"]["started_ns"]
        document = shifted(json.loads(text), shift)
        document["run"]["labels"] = {"fortios": release, "scenario": "crash"}
        if release == "7.2.11":
            document["budgets"][0]["ok"] = False
        yield from openmetrics(document, stamped=True).splitlines()


def shifted(value: Any, by_ns: int) -> Any:
    """A document at another time: every instant in it is a number of ns beyond 10^18."""
    if isinstance(value, dict):
        return {key: shifted(one, by_ns) for key, one in value.items()}
    if isinstance(value, list):
        return [shifted(one, by_ns) for one in value]
    return value + by_ns if isinstance(value, int) and value > 10**18 else value


def lines() -> Iterable[str]:
    for name, remotely in AGENTS.items():
        yield from scraped(name)
        if remotely:
            yield from written_remotely(name)
    yield from (text for text in runs() if not text.startswith("#"))


def write(file: Path) -> None:
    """An OpenMetrics file for `promtool tsdb create-blocks-from`."""
    file.write_text("\n".join([*lines(), "# EOF", ""]))
