"""`python -m tests.bench scenarios [NAME ...] [--group sessions] [--runs 20] [--jobs 2] [--out DIR]`

Drills of the lab's scenarios, and what they should give. Every run is a whole drill with real probes. Its verdicts are
held twice: to the scenario's expectation, and to what the stand-ins' session tables imply (`probe.lab.truth`), which
know nothing of the probes. A run that our own host spoiled is said so, not left out.

DIR keeps each run's document; started again with the same DIR, the bench goes on where it ended. A run that failed is
kept as well: remove its directory to have it repeated. `--summary DIR` tells at any time what is there.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.drill.scenarios import GROUPS, SCENARIOS
from probe.drill.stage import termination_as_interrupt
from probe.errors import HaprobeError, UsageError

from .bed import ROOT
from .drills import Shelf, drill
from .tally import Tally

BATCH = 5  # runs of a scenario one after the other, on one lab where it may be kept; then the next scenario's
SHARED = ("rate", "steady", "validation")  # what all runs in a directory have in common
LOOK_S = 1.0
AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run, by its place among those of its scenario: from 1 on."""

    scenario: str
    number: int

    def place(self, out: Path) -> Path:
        return out / f"{self.scenario}-{self.number}"

    def result(self, out: Path) -> dict[str, Any] | None:
        """What became of it; None while it has not ended."""
        try:
            found: dict[str, Any] = json.loads((self.place(out) / "result.json").read_text())
        except FileNotFoundError:
            return None
        return found

    def add_to(self, tally: Tally, out: Path, result: Mapping[str, Any]) -> list[str]:
        """Count it; what is wrong with it, in a line each."""
        if result["failed"]:
            return tally.fail(self.scenario, self.number, result["failed"])
        document = json.loads((self.place(out) / result["report"]).read_text())
        return tally.add(SCENARIOS[self.scenario], self.number, document)


def batches(names: Sequence[str], runs: int) -> list[list[Run]]:
    """All runs, some of each scenario in turn: trouble of the machine does not hit one scenario alone."""
    rounds = [range(first, min(first + BATCH, runs + 1)) for first in range(1, runs + 1, BATCH)]
    return [[Run(name, number) for number in numbers] for numbers in rounds for name in names]


def stored(out: Path) -> list[Run]:
    """The runs of a directory that have ended, by scenario and number."""
    found = []
    for path in out.glob("*/result.json"):
        name, _, number = path.parent.name.rpartition("-")
        if name in SCENARIOS and number.isdigit():
            found.append(Run(name, int(number)))
    order = list(SCENARIOS)
    return sorted(found, key=lambda run: (order.index(run.scenario), run.number))


def summary(out: Path) -> tuple[Tally, str]:
    """All that a directory holds, and the same in words."""
    tally, seconds = Tally(), []
    for run in stored(out):
        result = run.result(out)
        if result is not None:
            run.add_to(tally, out, result)
            seconds.append(result["seconds"])
    mean = f"{tally.runs} runs, {sum(seconds) / len(seconds):.1f} s each on average\n\n" if seconds else ""
    return tally, mean + tally.text()


def perform(run: Run, out: Path, shelf: Shelf, settings: Mapping[str, Any]) -> None:
    """One run, from an empty directory to its `result.json`."""
    place = run.place(out)
    shutil.rmtree(place, ignore_errors=True)  # of a run that was interrupted
    place.mkdir()
    failed, report, began = "", "", time.monotonic()
    try:
        drill(
            SCENARIOS[run.scenario],
            place,
            shelf,
            rate=settings["rate"],
            steady_s=settings["steady"],
            validation_s=settings["validation"],
        )
        (found,) = place.glob("*/report.json")
        report = str(found.relative_to(place))
    except (HaprobeError, OSError, ValueError) as error:
        failed = str(error) or type(error).__name__
        shelf.clear()
    result = {"failed": failed, "report": report, "lab": shelf.used, "seconds": round(time.monotonic() - began, 1)}
    scratch = place / "result.new"
    scratch.write_text(json.dumps(result) + "\n")
    scratch.replace(place / "result.json")


def work(slot: int, todo: Sequence[Sequence[Run]], following: Any, out: Path, settings: Mapping[str, Any]) -> None:
    """One worker: takes batch after batch until none is left, Ctrl-C, or its parent has gone.

    Args:
        slot: Its number, for namespaces of its own.
        todo: All batches.
        following: multiprocessing.Value: index of the next one to take.
        out: The directory.
        settings: SHARED.
    """
    os.setsid()  # Ctrl-C of a terminal goes to the parent alone, which hands it on once
    parent = os.getppid()
    # Known from the directory: what a killed bench left is removed when the next one raises its lab.
    shelf = Shelf(f"hpb{zlib.crc32(str(out).encode()):08x}{slot}-", out / f"lab-{slot}")
    try:
        with termination_as_interrupt():
            while True:
                with following.get_lock():
                    index, following.value = following.value, following.value + 1
                if index >= len(todo):
                    return
                for run in todo[index]:
                    if os.getppid() != parent:
                        return
                    perform(run, out, shelf, settings)
                shelf.clear()
    except KeyboardInterrupt:
        pass
    finally:
        shelf.clear()


def play(todo: Sequence[Sequence[Run]], out: Path, settings: Mapping[str, Any], jobs: int) -> None:
    """All runs that are to be done, in so many labs side by side; tells each on stderr as it ends.

    Raises:
        HaprobeError: If the workers ended before their work.
    """
    left = [run for batch in todo for run in batch]
    total, began = len(left), time.monotonic()
    spawning = multiprocessing.get_context("spawn")
    following = spawning.Value("i", 0)
    workers = [
        spawning.Process(target=work, args=(slot, todo, following, out, settings))
        for slot in range(min(jobs, len(todo)))
    ]
    for worker in workers:
        worker.start()
    try:
        while left:
            ended = not any(worker.is_alive() for worker in workers)  # before looking: nothing comes after it
            for run in [one for one in left if (one.place(out) / "result.json").exists()]:
                left.remove(run)
                done = total - len(left)
                minutes = (time.monotonic() - began) / done * len(left) / 60
                _tell(run, out, f"[{done}/{total}, about {minutes:.0f} min left]")
            if ended and left:
                raise HaprobeError(f"the workers ended, and {len(left)} runs are missing; start again to go on")
            time.sleep(LOOK_S if left else 0)
    except KeyboardInterrupt:
        print("interrupted: ending the drills under way; start again to go on", file=sys.stderr, flush=True)
        while running := [worker for worker in workers if worker.is_alive()]:
            for worker in running:
                # Not SIGINT, which a shell has ignored for what it runs in the background; and again, as a worker is
                # deaf while it raises a lab or takes it down.
                worker.terminate()
            running[0].join(AGAIN_S)
        raise
    finally:
        for worker in workers:
            worker.join()


def _tell(run: Run, out: Path, where: str) -> None:
    result = run.result(out)
    assert result is not None, "told before its end"
    wrong = run.add_to(Tally(), out, result)
    state = "" if not wrong else ":"
    said = f"{where} {run.scenario} {run.number}, {result['seconds']:.0f} s, {result['lab']} lab{state}"
    print("\n  ".join([said, *wrong]), file=sys.stderr, flush=True)


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The directory for us alone.

    Raises:
        UsageError: If another bench writes to it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another bench writes to {out}; wait for it, or take another --out") from error
        yield


def settle(out: Path, settings: Mapping[str, Any]) -> None:
    """Have all runs of a directory made alike.

    Raises:
        UsageError: If there are runs made otherwise.
    """
    path = out / "settings.json"
    if path.exists() and (before := json.loads(path.read_text())) != settings:
        said = " ".join(f"--{name} {value:g}" for name, value in before.items())
        raise UsageError(f"the runs in {out} were made with {said}; go on with these, or take another --out")
    path.write_text(json.dumps(settings) + "\n")


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench scenarios",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="*", choices=[[], *SCENARIOS], metavar="NAME", help="which (default: the group)")
    parser.add_argument("--group", choices=list(GROUPS), default="all", help="without names (default: all)")
    parser.add_argument("--runs", type=_natural, default=1, help="of each (default: 1)")
    parser.add_argument("--jobs", type=_natural, default=1, help="labs side by side (default: 1)")
    parser.add_argument("--steady", type=float, default=2.0, help="seconds (default: 2)")
    parser.add_argument("--validation", type=float, default=3.0, help="seconds (default: 3)")
    parser.add_argument("--rate", type=_natural, default=100, help="probes per second of each flow (default: 100)")
    default = ROOT / f"runs/bench/scenarios-{time.strftime('%Y%m%dT%H%M%S')}"
    parser.add_argument("--out", type=Path, default=default, help="directory (default: runs/bench/scenarios-TIME)")
    parser.add_argument("--summary", type=Path, metavar="DIR", help="only tell what this directory holds")
    return parser.parse_args(argv)


def _natural(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 1 and more")
    return int(text)


def main(argv: Sequence[str]) -> int:
    given = options(argv)
    out = (given.summary or given.out).resolve()
    status = 0
    try:
        if given.summary is None:
            names = list(dict.fromkeys(given.name)) or list(GROUPS[given.group])
            with claimed(out), termination_as_interrupt():
                settings = {name: getattr(given, name) for name in SHARED}
                settle(out, settings)
                todo = [[run for run in batch if run.result(out) is None] for batch in batches(names, given.runs)]
                play([batch for batch in todo if batch], out, settings, given.jobs)
        elif not stored(out):
            raise UsageError(f"{out} holds no run of a scenario; `--out {out}` makes some")
    except HaprobeError as error:
        print(f"bench: {error}", file=sys.stderr)
        if isinstance(error, UsageError):
            return error.exit_status
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    tally, text = summary(out)
    if given.summary is None:
        (out / "scenarios.md").write_text(text)
        (out / "scenarios.json").write_text(json.dumps(tally.document(), indent=1) + "\n")
    print(text, end="")
    print(f"\n{out}")
    return status or (0 if tally.good else 1)
