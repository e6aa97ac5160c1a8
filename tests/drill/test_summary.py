"""Several drills in one table."""

from __future__ import annotations

import io

from rich.console import Console

from probe.drill.summary import summarise, table

from .fakes import MS


def document(*flows: tuple[str, str, list[tuple[int, str]]]) -> dict:
    """(path, protocol, [(estimate ms, censored), ...]) per flow."""
    return {
        "flows": [
            {
                "path": path,
                "protocol": protocol,
                "outages": [{"censored": c, "duration_ns": {"estimate": e * MS}} for e, c in outages],
            }
            for path, protocol, outages in flows
        ]
    }


def test_the_longest_outage_of_a_path_counts_in_each_run() -> None:
    runs = [
        document(("egress", "tcp", [(100, "no"), (900, "no")]), ("egress", "tcp", [(800, "no")])),
        document(("egress", "tcp", [(1500, "no")])),
        document(("egress", "tcp", [(1000, "no")])),
    ]
    (row,) = summarise(runs)
    assert (row.runs, row.median_ns, row.min_ns, row.max_ns, row.open_runs) == (
        3,
        1000 * MS,
        900 * MS,
        1500 * MS,
        0,
    )


def test_a_lost_session_says_nothing_about_its_path() -> None:
    (row,) = summarise([document(("egress", "tcp", [(9000, "end")]), ("egress", "tcp", [(700, "no")]))])
    assert (row.runs, row.max_ns, row.open_runs) == (1, 700 * MS, 0)


def test_a_path_that_never_came_back_is_told_apart_from_one_without_outage() -> None:
    dark, clean = summarise([document(("ingress", "udp", [(9000, "end")]), ("egress", "udp", []))])
    assert (dark.runs, dark.open_runs) == (0, 1)
    assert (clean.runs, clean.open_runs) == (0, 0)


def test_drawn_in_seconds() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(table(summarise([document(("egress", "udp", [(1234, "no")]), ("x", "udp", []))]), 1))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["egress", "udp", "1", "1.234", "1.234", "1.234", "0"] in lines
    assert ["x", "udp", "0", "–", "–", "–", "0"] in lines
