"""The terminal report: complete, and inside its width, with and without a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from probe.report import text
from probe.report.document import new_document

from . import build


def printed(document: dict[str, Any], width: int, *, terminal: bool = False, measure: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    (text.render_measure if measure else text.render)(document, console)
    return stream.getvalue()


def one_line(output: str) -> str:
    return " ".join(output.split())


@pytest.mark.parametrize("width", [80, 140])
def test_everything_is_there_and_nothing_is_wider(width: int) -> None:
    output = printed(build.drill(), width)
    assert max(len(line) for line in output.splitlines()) <= width
    assert "…" not in output  # no figure is cut off
    flat = one_line(output)
    for words in (
        "The failover worked",
        "✗ lost",
        "↻ recovered 5.06 s",
        "12:00:05.014",
        "5.062 s ± 2.0 ms",
        "5.0600 .. 5.0640 s",
        "> 20.982 s, still open",
        "nat_sessions_lost",
        "full_recovery +0.000 s 5.065 s",
        "fgt-b becomes primary",
        "EIP 203.0.113.10 moved from fgt-a to fgt-b",
        "34.0 ms unobserved (stall)",
        "within 812 µs of UTC",
    ):
        assert words in flat, words


def test_old_and_new_sessions_stand_side_by_side() -> None:
    lines = printed(build.drill(), 80).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("ingress "))
    assert one_line(lines[start]) == "ingress old ↻ survived 5.06 s ↻ survived 5.06 s ✗ lost"
    assert one_line(lines[start + 1]) == "new ↻ recovered 5.06 s ↻ recovered 5.06 s ↻ recovered 5.06 s"


def test_colour_only_on_a_terminal() -> None:
    assert "\x1b[" in printed(build.drill(), 100, terminal=True)
    assert "\x1b" not in printed(build.drill(), 100)


def test_events_are_in_order_and_bunched() -> None:
    output = printed(build.drill(), 140)
    order = ["trigger crash", "loss begins", "becomes primary", "AssociateAddress", "ReplaceRoute", "16 of 18"]
    positions = [output.index(words) for words in order]
    assert positions == sorted(positions)


def test_names_from_a_document_are_not_markup() -> None:
    flow = build.flow("[red]x[/]", path="[bold]p", faults=(build.Fault(build.DOWN, build.EIP),))
    document = new_document(run={**build.RUN, "labels": {"[a]": "[/b]"}}, flows=[flow], timeline=build.events())
    output = printed(document, 100)
    assert "[red]x[/]" in output
    assert "[bold]p" in output


def test_failed_budget_and_pending_probes_are_said() -> None:
    document = build.drill()
    document["budgets"] = [{"name": "fast", "limit": 5_000_000_000, "value": 5_064_000_000, "ok": False}]
    document["flows"][0]["counts"]["pending"] = 7
    output = printed(document, 100)
    assert "budget fast: 5.064 s (limit 5.000 s): EXCEEDED" in output
    assert "7 probes were still pending" in output


@pytest.mark.parametrize("width", [80, 140])
def test_measure_is_compact(width: int) -> None:
    quiet = new_document(run=build.RUN, flows=[build.flow("udp-10.99.97.10")])
    output = printed(quiet, width, measure=True)
    assert "No outage." in output
    assert "✓ unaffected" in output
    assert "0.000 %" in output
    assert len(output.splitlines()) < 8


def test_a_session_that_was_ended_is_not_passed_over() -> None:
    end = {"cause": "rst", "at_ns": build.PRIMARY, "from": "10.99.97.10", "ttl": 62, "peer_ttl": 62, "by": "peer"}
    reset = new_document(run=build.RUN, flows=[build.flow("a", protocol="tcp", session_end=end)])
    for measure in (True, False):
        output = printed(reset, 140, measure=measure)
        assert "No outage.\n" not in output
        assert "RST from 10.99.97.10" in output


def test_measure_tells_outages() -> None:
    document = new_document(
        run=build.RUN, flows=[build.flow("u", faults=(build.Fault(build.DOWN, build.EIP, "reverse"),))]
    )
    output = one_line(printed(document, 80, measure=True))
    assert "← rev 12:00:05.014 4.654 s ± 2.0 ms" in output


def test_flows_of_several_agents_can_be_told_apart() -> None:
    _, _, tables = printed(build.alike(), 140).partition("Outages: ")
    for name in ("a/u", "a/u-fresh", "b/u", "b/u-fresh"):  # among the outages and among the probes
        assert sum(line.split()[:1] == [name] for line in tables.splitlines()) == 2


def test_a_flapping_path_does_not_flood_the_terminal() -> None:
    flaps = tuple(
        build.Fault(build.START + i * 40 * build.MS, build.START + (i * 40 + 20) * build.MS) for i in range(1, 201)
    )
    output = printed(new_document(run=build.RUN, flows=[build.flow("f", faults=flaps)]), 140)
    assert "and 100 more, in the stored report" in output
    assert len(output.splitlines()) < 280


def test_nothing_measured_is_no_crash() -> None:
    assert "Nothing was measured" in printed(new_document(run={}, flows=[]), 80)
