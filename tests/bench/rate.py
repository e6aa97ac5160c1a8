"""How fast, and at what cost: haprobe and the others over the same namespaces, one after the other.

Each runs as a user would run it: haprobe's engines with the priority they give themselves, the others with theirs. The
CPU of haprobe is its engine's while it sends (the process beside it is a column of its own), that of the others all
that they use from start to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from probe.bench import clean, run_step, why_unclean
from probe.bench_step import Step
from probe.errors import HaprobeError

from . import peers
from .bed import Bed
from .results import Figure, Row, best, ratio

OURS = "haprobe"
WAYS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("udp, 1 flow", ("udp",), 1),
    ("udp, 100 flows", ("udp",), 100),
    ("icmp+udp+tcp", ("icmp", "udp", "tcp"), 1),
)


def rate(bed: Bed, *, rates: Sequence[float], seconds: float, peer_seconds: float) -> list[Row]:
    """(1) Achieved rate without loss, and CPU per probe."""
    rows: list[Row] = []
    with bed.reflecting() as reflector:
        for way, protocols, flows in WAYS:
            rows += [ours(bed, "rate", way, protocols, pps, seconds, reflector, flows=flows) for pps in rates]
    rows += [peers.irtt(bed, "rate", pps, peer_seconds, timer) for timer, pps in (("comp", 100e3), ("busy", 100e3))]
    rows.append(peers.ping_flood(bed, "rate", peer_seconds))
    rows += [peers.fping(bed, "rate", 10, period, peer_seconds) for period in (1.0, 0.0)]
    rows.append(peers.hping(bed, "rate", peer_seconds))
    rows.append(peers.trafgen(bed, "rate", round(1e6 * peer_seconds), 3 * peer_seconds + 10))
    rows += [peers.scapy(bed, "rate", way, min(peer_seconds, 5.0)) for way in ("send()", "L2socket")]
    return [*rows, *rate_ratios(rows)]


def rate_ratios(rows: Sequence[Row]) -> list[Row]:
    """Our highest clean rate against the highest of each other tool; where the host's own stalls left slots unsent in
    every run, the highest at which nothing was lost.
    """
    found: list[Row] = []
    cases = [
        ("irtt", "--timer=comp", 0.0),
        ("irtt", "--timer=busy", 20.0),
        ("ping", "-f", 2.5),
        ("fping", "", 0.0),
        ("hping3", "", 0.0),
        ("trafgen", "", 0.0),
        ("Scapy", "send()", 200.0),
        ("Scapy", "L2socket", 200.0),
    ]
    for way, _, _ in WAYS:
        mine, unclean = _ours([row for row in rows if row.tool == OURS and row.case == way])
        for tool, case, wanted in cases:
            theirs = best([row for row in rows if case in row.case], tool, "achieved/s")
            times = ratio(mine.number("achieved/s") if mine else None, theirs.number("achieved/s") if theirs else None)
            name, note = f"{way} / {tool} {case}".rstrip(), unclean if theirs else "no figure of theirs"
            row = _verdict("rate ratios", name, times, at_least=wanted, note=note)
            found.append(replace(row, figures={**row.figures, "met": False}) if unclean and wanted else row)
    return found


def _ours(rows: Sequence[Row]) -> tuple[Row | None, str]:
    """Our best run of a case, and why it is not clean."""
    clean_one = best(rows, OURS, "achieved/s", only="clean")
    if clean_one is not None:
        return clean_one, ""
    whole = [row for row in rows if row.number("lost") == 0 and row.number("dropped here") == 0]
    found = best(whole, OURS, "achieved/s")
    if found is None:
        return None, "no clean rate of ours"
    return found, f"not clean: nothing lost, {found.number('unsent %') or 0.0:.2g} % unsent"


def cpu(bed: Bed, *, seconds: float) -> list[Row]:
    """(2) CPU per probe at 10 k/s and 100 k/s."""
    rows: list[Row] = []
    with bed.reflecting() as reflector:
        for pps, pacing in ((10e3, "fine"), (10e3, "coarse"), (100e3, "fine")):
            way = f"udp, {pps:,.0f}/s, {pacing}"
            rows.append(ours(bed, "cpu", way, ("udp",), pps, seconds, reflector, pacing=pacing))
    rows += [peers.sleeping(bed, "cpu", 10e3, wakes, seconds) for wakes in (10e3, 1e3)]
    rows += [peers.fping(bed, "cpu", targets, 1.0, seconds) for targets in (10, 100)]
    rows += [peers.irtt(bed, "cpu", pps, min(seconds, 10.0), "busy") for pps in (10e3, 100e3)]
    return [*rows, *cpu_ratios(rows)]


def cpu_ratios(rows: Sequence[Row]) -> list[Row]:
    """Our CPU per probe as a share of theirs."""
    fping = best([row for row in rows if row.case.startswith("10 targets")], "fping", "us/probe", least=True)
    busy = {
        pps: best([r for r in rows if r.case.endswith(f" {pps}/s")], "irtt", "us/probe")
        for pps in ("10,000", "100,000")
    }
    found = []
    for row in rows:
        if row.tool != OURS:
            continue
        at = "100,000" if "100,000" in row.case else "10,000"
        at_most = 0.5 if at == "100,000" else 1.0 if row.case.endswith("coarse") else None
        for name, theirs, wanted in (("fping at 10,000/s", fping, at_most), ("irtt busy", busy[at], 0.1)):
            times = ratio(row.number("us/probe"), theirs.number("us/probe") if theirs else None)
            found.append(_verdict("cpu ratios", f"{row.case} / {name}", times, at_most=wanted))
    return found


def _verdict(
    bench: str, case: str, times: float | None, *, at_least: float = 0.0, at_most: float | None = None, note: str = ""
) -> Row:
    figures: dict[str, Figure] = {"ratio": times}
    if at_least:
        figures |= {"wanted": f">= {at_least:g}", "met": None if times is None else times >= at_least}
    if at_most is not None:
        figures |= {"wanted": f"<= {at_most:g}", "met": None if times is None else times <= at_most}
    return Row(bench, OURS, case, figures, note)


def ours(
    bed: Bed,
    bench: str,
    case: str,
    protocols: Sequence[str],
    rate_pps: float,
    seconds: float,
    reflector: int,
    *,
    flows: int = 1,
    pacing: str = "fine",
) -> Row:
    """One run of haprobe."""
    bed.progress.line(f"{bench}: haprobe {case} at {rate_pps:,.0f}/s, {seconds:g} s")
    try:
        step = run_step(bed.network, protocols, rate_pps, seconds, reflector, flows=flows, pacing=pacing)
    except HaprobeError as error:
        return Row(bench, OURS, case, note=f"failed: {error}")
    return Row(bench, OURS, case, step_figures(step), why_unclean(step))


def step_figures(step: Step) -> dict[str, Figure]:
    return {
        "asked/s": step.rate_pps,
        "achieved/s": step.answered_pps,
        "lost": step.lost,
        "clean": clean(step),
        "us/probe": step.sender_us,
        "CPU": step.sender_cpu,
        "dropped here": step.dropped_locally,
        "unsent %": 100 * step.unsent / step.scheduled if step.scheduled else None,
        "reflector CPU": step.reflector_cpu,
        "control CPU": step.control_cpu,
        "late p99 us": None if step.lateness_p99_ns is None else step.lateness_p99_ns / 1e3,
        "outages": step.outages,
    }
