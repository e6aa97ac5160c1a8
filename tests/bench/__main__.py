"""`python -m tests.bench [NAME ...]`: benchmarks in namespaces of their own, as root.

  rate      round trips without loss, and CPU per probe: haprobe, irtt, ping -f, fping, hping3, trafgen, Scapy
  cpu       CPU per probe at 10,000/s and 100,000/s: haprobe, fping, irtt
  lateness  of an agent at 10,000/s that is scraped each second
  scrape    what a scrape of 10,000 flows costs and takes, and lateness with and without a scraper
  truth     outages of known probes through haprobe; outages of known length through haprobe, fping and irtt
  watchers  an agent whose watchers meet APIs that work, refuse, are silent, deny or talk garbage; beside one without
  soak      a long time at 100,000/s: clean, with busy CPUs, with the engine stopped for 500 ms

  scenarios [NAME ...] [--group G] [--runs N] [--jobs N] [--out DIR]
             not one of these: drills of the lab's scenarios; `scenarios --help` tells more
  dashboards [--down SECONDS]
             likewise: what Grafana shows of a live drill, held to its report
  dark [--seconds 60]
             likewise: a kept TCP session over a long outage

Progress goes to stderr, a Markdown table to stdout, JSON and the same table to --out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from probe.errors import HaprobeError
from probe.progress import Progress

from . import bed as beds
from . import dark, dashboards, lateness, rate, scenarios, scrape, soak, timed, truth, watchers
from .results import Row, markdown, save

RATES = "100k,300k,600k,1M"
QUICK_RATES = "10k,50k"


def rates(text: str) -> list[float]:
    """`100k,1M` to probes per second."""
    factor = {"k": 1e3, "M": 1e6}
    found = [float(word.rstrip("kM")) * factor.get(word[-1:], 1.0) for word in text.split(",")]
    if not all(0 < value <= 2e6 for value in found):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: rates up to 2M, such as {RATES}")
    return found


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="*", choices=[[], *BENCHES], metavar="NAME", help="which (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds each: does it work? The figures mean little"
    )
    parser.add_argument("--rates", type=rates, help=f"of rate (default: {RATES}; quick: {QUICK_RATES})")
    parser.add_argument(
        "--seconds", type=float, help="of each run of haprobe in rate and cpu, and lateness (20; quick 2)"
    )
    parser.add_argument("--peer-seconds", type=float, help="of each run of another tool (10; quick 1)")
    parser.add_argument("--outages", type=int, help="of truth, by sequence (20; quick 4)")
    parser.add_argument("--timed-outages", type=int, help="of truth, by time, beside fping and irtt (10; quick 2)")
    parser.add_argument("--soak-seconds", type=float, help="of each of the three phases of soak (600; quick 4)")
    parser.add_argument("--soak-rate", type=float, help="probes per second (100000; quick 20000)")
    parser.add_argument("--watched-rate", type=float, help="of watchers, probes per second (5000; quick 1000)")
    parser.add_argument("--scrape-flows", type=int, help="of scrape (10000; quick 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the random outages (default: 1)")
    parser.add_argument("--out", type=Path, help="JSON file (default: runs/bench/peers-TIME.json)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    given = parser.parse_args(argv)
    defaults = {
        "rates": rates(QUICK_RATES if given.quick else RATES),
        "seconds": 2.0 if given.quick else 20.0,
        "peer_seconds": 1.0 if given.quick else 10.0,
        "outages": 4 if given.quick else 20,
        "timed_outages": 2 if given.quick else 10,
        "soak_seconds": 4.0 if given.quick else 600.0,
        "scrape_flows": 100 if given.quick else scrape.FLOWS,
        "watched_rate": 1e3 if given.quick else 5e3,
        "soak_rate": 20e3 if given.quick else 100e3,
        "out": beds.ROOT / f"runs/bench/peers-{time.strftime('%Y%m%dT%H%M%S')}.json",
    }
    for name, value in defaults.items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    given.name = list(dict.fromkeys(given.name)) or list(BENCHES)
    return given


def _truth(bed: beds.Bed, given: argparse.Namespace) -> list[Row]:
    found = truth.truth(bed, outages=given.outages, seed=given.seed) if given.outages else []
    return found + (timed.timed(bed, outages=given.timed_outages, seed=given.seed) if given.timed_outages else [])


BENCHES: dict[str, Callable[[beds.Bed, argparse.Namespace], list[Row]]] = {
    "rate": lambda bed, given: rate.rate(
        bed, rates=given.rates, seconds=given.seconds, peer_seconds=given.peer_seconds
    ),
    "cpu": lambda bed, given: rate.cpu(bed, seconds=given.seconds),
    "lateness": lambda bed, given: lateness.lateness(bed, seconds=given.seconds),
    "scrape": lambda bed, given: scrape.scrape(bed, seconds=given.seconds, flows=given.scrape_flows),
    "truth": _truth,
    "watchers": lambda bed, given: watchers.watchers(bed, rate_pps=given.watched_rate, seconds=given.seconds),
    "soak": lambda bed, given: soak.soak(bed, rate_pps=given.soak_rate, seconds=given.soak_seconds),
}


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["scenarios"]:
        return scenarios.main(words[1:])
    if words[:1] == ["dashboards"]:
        return dashboards.main(words[1:])
    if words[:1] == ["dark"]:
        return dark.main(words[1:])
    given = options(words)
    rows: list[Row] = []
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    status = 0
    try:
        with Progress(quiet=given.quiet) as progress:
            for name in given.name:
                with beds.opened(progress) as bed:  # anew for each: nothing of one is left to the next
                    rows += BENCHES[name](bed, given)
                save(rows, shown, given.out)
    except HaprobeError as error:
        print(f"bench: {error}", file=sys.stderr)
        status = error.exit_status
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        status = 130
    if rows:
        save(rows, shown, given.out)
        print(markdown(rows))
        print(f"\n{given.out}")
    return status


if __name__ == "__main__":
    sys.exit(main())
