"""`python -m dashboards`: write every dashboard's JSON."""

import sys
from pathlib import Path

from . import drill, fleet, flow, releases
from .board import as_json

BOARDS = {
    "haprobe-drill.json": drill.dashboard,
    "haprobe-flow.json": flow.dashboard,
    "haprobe-fleet.json": fleet.dashboard,
    "haprobe-releases.json": releases.dashboard,
}


def main() -> int:
    for name, board in BOARDS.items():
        (Path(__file__).parent / name).write_text(as_json(board))
    return 0


if __name__ == "__main__":
    sys.exit(main())
