"""The other tools: how each is called, and what its output says. All are bounded by a count and by time."""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .bed import SINK_PORT, Bed, Finished, there, wait_for
from .results import Figure, Row, missing

IRTT_PORT = 2112
PAYLOAD = 44  # octets of UDP payload that the one-way tools send: STAMP's base packet
FPING_MOST = 60_000  # fping has 65,535 sequence numbers, and rests each for ten seconds


@dataclass(frozen=True)
class Sent:
    """What a tool says of itself."""

    sent: int
    answered: int | None  # None: it listens to nothing
    seconds: float


def figures(sent: Sent, cpu_s: float, asked_pps: float | None = None) -> dict[str, Figure]:
    """The columns that all tools share. A lossless round trip is an answered probe; one way, a probe that was sent."""
    rate = sent.sent / sent.seconds if sent.seconds else None
    found: dict[str, Figure] = {
        "asked/s": asked_pps,
        "achieved/s": rate if sent.answered is None or rate is None else sent.answered / sent.seconds,
        "lost": None if sent.answered is None else sent.sent - sent.answered,
        "clean": None if sent.answered is None else sent.sent == sent.answered,
    }
    if sent.sent:
        found["us/probe"] = cpu_s * 1e6 / sent.sent
        found["CPU"] = cpu_s / sent.seconds if sent.seconds else None
    return found


def parse_irtt(text: str) -> Sent | None:
    """Its summary: `packets sent/received: 6148/6148 (0.00% loss)`, `duration: 1.2s (wait 200ms)`."""
    counts = re.search(r"packets sent/received: (\d+)/(\d+)", text)
    spans = re.search(r"duration: (\S+) \(wait (\S+)\)", text)
    if not counts or not spans:
        return None
    return Sent(int(counts[1]), int(counts[2]), go_seconds(spans[1]) - go_seconds(spans[2]))


def parse_irtt_missed(text: str) -> float | None:
    """Slots in which it sent nothing: `timer stats: 3852/10000 (38.52%) missed`."""
    found = re.search(r"timer stats: \d+/\d+ \(([\d.]+)%\) missed", text)
    return float(found[1]) if found else None


def go_seconds(text: str) -> float:
    """A Go duration, such as 1m0.5s or 200ms, in seconds."""
    unit = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    return sum(float(number) * unit[name] for number, name in re.findall(r"([\d.]+)(h|ms|m|s|us|µs|ns)", text))


def parse_ping(text: str) -> Sent | None:
    """`20000 packets transmitted, 20000 received, 0% packet loss, time 206ms`."""
    found = re.search(r"(\d+) packets transmitted, (\d+) received,.*time (\d+)ms", text)
    return Sent(int(found[1]), int(found[2]), max(int(found[3]), 1) / 1e3) if found else None


def parse_fping(text: str, wall_s: float) -> Sent | None:
    """A line for each target: `10.0.0.1 : xmt/rcv/%loss = 1000/999/0%, ...`."""
    lines = re.findall(r"xmt/rcv/%loss = (\d+)/(\d+)/", text)
    return Sent(sum(int(x) for x, _ in lines), sum(int(r) for _, r in lines), wall_s) if lines else None


def parse_outage_ms(text: str) -> float | None:
    """fping -o: `outage(ms) = 500`."""
    found = re.search(r"outage\(ms\) = ([\d.]+)", text)
    return float(found[1]) if found else None


def parse_hping(text: str) -> int | None:
    """`1000 packets tramitted`, which is how it is spelt there."""
    found = re.search(r"(\d+) packets tra(?:ns)?mitted", text)
    return int(found[1]) if found else None


def row(bench: str, tool: str, case: str, done: Finished, sent: Sent | None, asked_pps: float | None = None) -> Row:
    """The row of a tool that has run."""
    if sent is None or not sent.sent:
        return Row(bench, tool, case, note=done.complaint)
    note = "stopped by time" if done.timed_out else ""
    return Row(bench, tool, case, figures(sent, done.cpu_s, asked_pps), note)


# --- round trips -----------------------------------------------------------------------------------------------------


@contextmanager
def irtt_server(bed: Bed) -> Iterator[bool]:
    """An irtt server at the far end; False where there is none."""
    if not there("irtt"):
        yield False
        return
    with bed.serving("far", ["irtt", "server", "-b", f"{bed.target}:{IRTT_PORT}", "-i", "0"]) as server:
        wait_for(lambda: f":{IRTT_PORT:04X} " in Path(f"/proc/{server.pid}/net/udp").read_text(), "irtt's server")
        yield True


def irtt(bed: Bed, bench: str, rate_pps: float, seconds: float, timer: str) -> Row:
    case = f"--timer={timer}, {rate_pps:,.0f}/s"
    bed.progress.line(f"{bench}: irtt {case}, {seconds:g} s")
    with irtt_server(bed) as served:
        if not served:
            return missing(bench, "irtt", case)
        words = ["-i", f"{1e9 / rate_pps:.0f}ns", "-d", f"{seconds:g}s", "--wait=500ms", f"--timer={timer}", "-q"]
        done = bed.run(["irtt", "client", *words, f"{bed.target}:{IRTT_PORT}"], seconds + 15)
    found = row(bench, "irtt", case, done, parse_irtt(done.said), rate_pps)
    return Row(bench, "irtt", case, {**found.figures, "unsent %": parse_irtt_missed(done.said)}, found.note)


def ping_flood(bed: Bed, bench: str, seconds: float) -> Row:
    bed.progress.line(f"{bench}: ping -f, {seconds:g} s")
    if not there("ping"):
        return missing(bench, "ping", "-f")
    count = str(round(seconds * 1_000_000))
    done = bed.run(["ping", "-f", "-q", "-s", "16", "-c", count, "-w", f"{seconds:.0f}", bed.target], seconds + 10)
    return row(bench, "ping", "-f", done, parse_ping(done.said))


def fping(bed: Bed, bench: str, targets: int, period_ms: float, seconds: float) -> Row:
    """`period_ms` 0: as fast as it can."""
    case = f"{targets} targets, " + (f"-p {period_ms:g}" if period_ms else "fastest")
    bed.progress.line(f"{bench}: fping {case}")
    if not there("fping"):
        return missing(bench, "fping", case)
    wish = seconds * 1e3 / period_ms if period_ms else FPING_MOST
    count = max(1, min(int(wish), FPING_MOST // targets))
    # -i 0: the probes of a period leave in a burst. Spread out they would cost it many times as much.
    pace = ["-p", f"{period_ms or 0.01:g}", "-i", "0", "-t", "500"]
    done = bed.run(["fping", "-q", "-c", str(count), *pace, *bed.network.targets(targets)], seconds + 30)
    # It waits for half a second after the last probe, in which it sends nothing.
    sent = parse_fping(done.said, max(done.wall_s - 0.5, 1e-3) if period_ms else done.wall_s)
    if sent is not None and period_ms:
        sent = Sent(sent.sent, sent.answered, max(count * period_ms / 1e3, done.wall_s - 0.5))
    found = row(bench, "fping", case, done, sent, targets * 1e3 / period_ms if period_ms else None)
    limited = f"only {count * targets:,} probes: its sequence numbers run out" if count < wish else ""
    return Row(bench, "fping", case, found.figures, found.note or limited)


# --- one way, blind --------------------------------------------------------------------------------------------------


def hping(bed: Bed, bench: str, seconds: float) -> Row:
    """Flooding it looks at its count only when something comes back, so time ends it."""
    case = "--flood, one way"
    bed.progress.line(f"{bench}: hping3 {case}, {seconds:g} s")
    if not there("hping3"):
        return missing(bench, "hping3", case)
    bed.sink()
    words = ["--udp", "-p", str(SINK_PORT), "-d", str(PAYLOAD), "-q", "--flood", "-c", str(round(seconds * 2e6))]
    done = bed.run(["hping3", *words, bed.target], seconds, stop=signal.SIGINT)
    arrived, said = bed.sunk(), parse_hping(done.said)
    bed.clear("far")
    found = row(bench, "hping3", case, done, Sent(said or arrived, None, min(done.wall_s, seconds)))
    return Row(bench, "hping3", case, {**found.figures, "arrived": arrived}, found.note)


def trafgen(bed: Bed, bench: str, count: int, limit_s: float) -> Row:
    case = "1 CPU, one way"
    bed.progress.line(f"{bench}: trafgen {case}, {count:,} packets")
    if not there("trafgen"):
        return missing(bench, "trafgen", case)
    bed.sink()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "probe.cfg"
        config.write_text(_trafgen_packet(bed))
        # The last two: it would change settings of the whole host otherwise.
        words = [
            "--dev",
            "a0",
            "--conf",
            str(config),
            "--num",
            str(count),
            "--cpus",
            "1",
            "--no-sock-mem",
            "--notouch-irq",
        ]
        done = bed.run(["trafgen", *words], limit_s)
    arrived = bed.sunk()
    bed.clear("far")
    sent, seconds = parse_trafgen(done.said)
    found = row(bench, "trafgen", case, done, Sent(sent or arrived, None, seconds or done.wall_s))
    return Row(bench, "trafgen", case, {**found.figures, "arrived": arrived}, found.note)


def parse_trafgen(text: str) -> tuple[int, float]:
    """(packets, seconds): `100000 packets outgoing`, `0 sec, 85063 usec on CPU0 (100000 packets)`."""
    packets = re.search(r"(\d+) packets outgoing", text)
    spans = re.findall(r"(\d+) sec, (\d+) usec on CPU", text)
    return int(packets[1]) if packets else 0, max((int(s) + int(us) / 1e6 for s, us in spans), default=0.0)


def _trafgen_packet(bed: Bed) -> str:
    source, hop = bed.macs()
    length = PAYLOAD + 28
    lines = [_hex(hop), _hex(source), "0x08, 0x00", f"0x45, 0, c16({length}), 0, 0, 0x40, 0, 64, 17, csumip(14, 33)"]
    lines += [
        "10, 213, 1, 2",
        ", ".join(bed.target.split(".")),
        f"c16(40000), c16({SINK_PORT}), c16({length - 20}), 0, 0",
    ]
    return "{\n" + ",\n".join([*lines, f"fill(0, {PAYLOAD})"]) + "\n}\n"


def _hex(mac: str) -> str:
    return ", ".join(f"0x{octet}" for octet in mac.split(":"))


def scapy(bed: Bed, bench: str, way: str, seconds: float) -> Row:
    case = f"{way}, one way"
    bed.progress.line(f"{bench}: Scapy {case}, {seconds:g} s")
    bed.sink()
    words = [way, "1000000", str(seconds), bed.target, str(SINK_PORT), *bed.macs()]
    done = bed.run([sys.executable, "-m", "tests.bench.scapy_sender", *words], seconds + 20)
    arrived = bed.sunk()
    bed.clear("far")
    if done.status != 0:
        return Row(bench, "Scapy", case, note=done.complaint)
    said = json.loads(done.stdout)
    shared = figures(Sent(said["sent"], None, said["seconds"]), said["cpu_s"])
    return Row(bench, "Scapy", case, {**shared, "arrived": arrived})


# --- nothing -------------------------------------------------------------------------------------------------------


def sleeping(bed: Bed, bench: str, rate_pps: float, wakes_per_s: float, seconds: float) -> Row:
    """Waking up as often as we do at that rate, for nothing: the floor under everybody's CPU per probe."""
    case = f"{wakes_per_s:,.0f} wake-ups/s for {rate_pps:,.0f}/s"
    bed.progress.line(f"{bench}: sleeping, {case}, {seconds:g} s")
    done = bed.run([sys.executable, "-m", "tests.bench.sleeper", str(wakes_per_s), str(seconds)], seconds + 20)
    if done.status != 0:
        return Row(bench, "sleep", case, note=done.complaint)
    said = json.loads(done.stdout)
    probes = rate_pps * said["seconds"]
    return Row(bench, "sleep", case, {"us/probe": said["cpu_s"] * 1e6 / probes, "CPU": said["cpu_s"] / said["seconds"]})
