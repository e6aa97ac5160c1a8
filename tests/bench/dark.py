"""`python -m tests.bench dark [--seconds 60]`: a kept TCP session at 1,000/s over a long outage.

Behind a stateful firewall with Linux's default timeouts that picks up no session in its middle. The path is dark before
the firewall, which then sees nothing of the session, or behind it: then it sees all segments of one side and no
acknowledgement. In both cases the session has to live on, by the same entry, without one packet that the firewall finds
invalid, and its outage to be as long as the path was dark.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probe.errors import HaprobeError
from probe.lab import namespace
from probe.progress import Progress

from . import timed
from .bed import ROOT, Bed, Finished, opened, wait_for
from .results import Row, markdown, save

TCP_PORT = 8620
BEFORE_S, AFTER_S, STARTING_S = 3.0, 5.0, 30.0
PLACES = {"before the firewall": ("prerouting", -300), "behind the firewall": ("forward", 10)}
_FIREWALL = """\
table inet firewall {
  counter invalid { }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state invalid counter name invalid drop
    ct state established,related accept
    tcp flags syn / fin,syn,rst,ack accept
  }
}
"""


def dark(bed: Bed, *, seconds: float, rate: int) -> list[Row]:
    """A row for each place where the path is dark."""
    with bed.reflecting():
        return [_row(bed, place, seconds, rate) for place in PLACES]


def _row(bed: Bed, place: str, seconds: float, rate: int) -> Row:
    bed.clear()
    namespace.inside(bed.network.path("router"), _strict)
    bed.nft(_FIREWALL + timed.table(*PLACES[place]))
    with contextlib.ExitStack() as stack:
        stack.callback(bed.clear)
        length = BEFORE_S + seconds + AFTER_S
        ours = bed.measure(f"tcp://{bed.target}:{TCP_PORT}", rate=rate, duration=length, loss_threshold=1)
        wait_for(lambda: timed.SENDING.search(ours.said()) or ours.gone(), "the first probe", STARTING_S)
        entry = _entry(bed)
        bed.progress.line(f"dark {place} for {seconds:g} s")
        switched = timed.Switch(bed).outage(BEFORE_S, seconds)
        time.sleep(AFTER_S / 2)  # the session goes on, or does not, and has not been closed yet
        same = bool(entry) and _entry(bed) == entry
        return judge(place, ours.end(length + STARTING_S), switched, same_entry=same, invalid=_invalid(bed))


def judge(place: str, done: Finished, switched: timed.Switched, *, same_entry: bool, invalid: int) -> Row:
    """What is told of the session, beside the truth; `survived` is true only if nothing speaks against it."""
    if done.status != 0:
        return Row("dark", "haprobe", place, note=done.complaint)
    (flow,) = json.loads(done.stdout)["flows"]
    outage: dict[str, Any] = max(flow["outages"], key=lambda one: one["duration_ns"]["upper"], default={})
    told = {name: value / 1e6 for name, value in outage.get("duration_ns", {}).items()}
    doubt = switched.doubt_ms
    error = told["estimate"] - switched.length_ms if told else None
    bounds = bool(told) and told["lower"] - doubt <= switched.length_ms <= told["upper"] + doubt
    counts = flow["counts"]
    lives = flow["verdict"] == "survived" and flow["session_end"]["cause"] == "none" and not counts["reset"]
    return Row(
        "dark",
        "haprobe",
        place,
        {
            "dark ms": switched.length_ms,
            "error ms": error,
            "truth known to ms": doubt,
            "lower ms": told.get("lower"),
            "upper ms": told.get("upper"),
            "unobserved in it ms": outage.get("unobserved_ns", 0) / 1e6,
            "within its bounds": bounds,
            "verdict": flow["verdict"],
            "sent": counts["sent"],
            "lost": counts["lost"],
            "unsent": counts["unsent"],
            "invalid at the firewall": invalid,
            "same entry": same_entry,
            "survived": lives and same_entry and not invalid and outage.get("censored") == "no",
        },
    )


def _strict() -> None:
    """No session is picked up in its middle; in the namespace of the caller."""
    (Path("/proc/sys/net/netfilter") / "nf_conntrack_tcp_loose").write_text("0")


def _entry(bed: Bed) -> str:
    """The firewall's entry of the session: its id and state; empty while there is not one established session."""
    argv = ["conntrack", "-L", "-p", "tcp", "--dport", str(TCP_PORT), "--state", "ESTABLISHED", "-o", "id"]
    lines = namespace.run(bed.network.command("router", argv)).splitlines()
    return next((word for word in lines[0].split() if word.startswith("id=")), "") if len(lines) == 1 else ""


def _invalid(bed: Bed) -> int:
    listed = json.loads(namespace.run(bed.network.command("router", ["nft", "-j", "list", "counters"])))
    return next(int(item["counter"]["packets"]) for item in listed["nftables"] if "counter" in item)


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench dark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two outages (default: 60)")
    parser.add_argument("--rate", type=int, default=1000, help="probes per second (default: 1000)")
    default = ROOT / f"runs/bench/dark-{time.strftime('%Y%m%dT%H%M%S')}.json"
    parser.add_argument("--out", type=Path, default=default, help="JSON file (default: runs/bench/dark-TIME.json)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    given = options(argv)
    try:
        with Progress(quiet=given.quiet) as progress, opened(progress) as bed:
            rows = dark(bed, seconds=given.seconds, rate=given.rate)
    except HaprobeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    save(rows, {"seconds": given.seconds, "rate": given.rate}, given.out)
    print(markdown(rows))
    print(f"\n{given.out}")
    return 0 if all(row.figures.get("survived") and row.figures.get("within its bounds") for row in rows) else 1
