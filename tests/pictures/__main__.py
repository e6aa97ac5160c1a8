"""`python -m tests.pictures`: plays a drill in the lab and draws docs/pictures from what it measured. Needs root.

  terminal.svg   the report as `haprobe drill` prints it, down to the matrix and the diagnosis
  report.png     the stored report.html
  live.png       the landing page of the agent on the jumphost, just after the drill

The lab has namespaces of its own, beside any other lab. Chromium, which draws the pages, opens a file and an address on
loopback. The stored run is kept where --out says: the examples in docs/reading-a-result.md are taken from it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from probe.drill.plan import DrillPlan, from_args
from probe.drill.run import Drill
from probe.drill.stage import LabStage
from probe.drill.wall import Wall
from probe.errors import HaprobeError, PeerError
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions

from . import draw

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
PREFIX = "hppic-"
TOOLS = ("chromium", "pngquant")
PATIENCE_S = 180  # for agents to start and flows to get clean: pictures are drawn on busy machines, too


class OwnLab:
    """`Lab` under a prefix and in a directory of its own."""

    def __init__(self, directory: Path):
        self._directory = directory

    def up(self, options: LabOptions, progress: Callable[[str], None]) -> Lab:
        return Lab.up(options, progress, prefix=PREFIX, state_dir=self._directory)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="keep the stored run there (default: it is removed)")
    parser.add_argument("--pictures", metavar="DIR", type=Path, default=PICTURES, help="default: %(default)s")
    parser.add_argument("--rate", metavar="PPS", type=int, default=100, help="of each flow (default: %(default)s)")
    return parser.parse_args(argv)


def planned(rate_pps: int, out: Path) -> DrillPlan:
    """`haprobe drill --lab`, with more patience."""
    plan = from_args(argparse.Namespace(lab=True, out=out))
    assert plan.lab is not None
    return replace(plan, lab=replace(plan.lab, agent_rate_pps=rate_pps), patience_ns=PATIENCE_S * 10**9)


def play(plan: DrillPlan, directory: Path, look: Callable[[str], None]) -> tuple[dict[str, Any], Path]:
    """Play one drill; its document, and where it is stored.

    Args:
        plan: What to play.
        directory: For the lab's files.
        look: Called with the URL of the jumphost's agent after the drill, while the lab still stands.

    Raises:
        HaprobeError: If the drill could not be played, or did not measure a failover.
    """
    assert plan.lab is not None
    stage = LabStage(plan.lab, "graceful", lab_type=OwnLab(directory / "lab"))
    stage.ready_timeout_s = PATIENCE_S
    wall = Wall()
    try:
        stage.prepare(wall.say)
        result = Drill(plan, stage, wall, Console(highlight=False)).run()
        if result.problem is not None:
            raise result.problem
        look(next(agent.url for agent in stage.endpoints() if agent.name == "jumphost"))
    finally:
        stage.close(wall.say)
    return result.document, result.path


def main(argv: Sequence[str] | None = None) -> int:
    args = options(argv)
    try:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise PeerError(f"not installed: {', '.join(missing)}; on Debian: apt-get install {' '.join(missing)}")
        with tempfile.TemporaryDirectory(prefix="haprobe-pictures-") as name:
            scratch = Path(name)
            plan = planned(args.rate, args.out or scratch / "runs")
            args.pictures.mkdir(parents=True, exist_ok=True)
            live, report = args.pictures / "live.png", args.pictures / "report.png"
            document, run = play(plan, scratch, lambda url: draw.page("chromium", url, live, draw.LIVE_SIZE))
            draw.terminal(document, args.pictures / "terminal.svg")
            draw.page("chromium", (run.resolve() / "report.html").as_uri(), report, draw.REPORT_SIZE)
    except HaprobeError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
