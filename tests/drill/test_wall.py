"""The live view: what a person sees, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from probe.drill.wall import Wall
from probe.drill.wall_view import AnswerRate, WallState, plain_line, render

from .fakes import MS, flow, poll

FLOWS = (
    flow("e", "up", protocol="tcp"),
    flow("e-fresh", "down", protocol="tcp"),
    flow("g", "ended", protocol="udp", path="egress"),
    flow("g-fresh", "suspect", protocol="udp", path="egress"),
)


def drawn(state: WallState, width: int = 80, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(state, height))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_steady_line() -> None:
    up = tuple(flow(f"f{n}") for n in range(18))
    assert plain_line(WallState("steady", 3.24, 5.0, up)) == "steady 3.2/5.0 s, 18 flows up"


def test_steady_line_with_a_blemish() -> None:
    state = WallState("steady", 0.0, 5.0, (flow(), flow("g", "down")), note="agent a, flow g: state down")
    assert plain_line(state) == "steady 0.0/5.0 s, 2 flows (1 up)  agent a, flow g: state down"


def test_recovery_line() -> None:
    state = WallState("recovery", 1.53, flows=FLOWS, owner="fgt-b", held_s=0.5, needed_s=5.0, silent_agents=("jump",))
    assert plain_line(state) == (
        "trigger +1.5 s  1 up, 1 suspect, 1 down, 1 ended  active unit fgt-b  "
        "recovered for 0.5/5.0 s  no answer from jump"
    )


def test_an_owner_between_two_units_and_none_watched() -> None:
    assert "active unit changing" in plain_line(WallState("recovery", 1.0, flows=FLOWS, owner=""))
    assert "active unit" not in plain_line(WallState("recovery", 1.0, flows=FLOWS, owner=None))


def test_trigger_and_collect_lines() -> None:
    assert plain_line(WallState("trigger", 12.0, flows=(flow(),))) == "waiting for the trigger 12 s  1 up"
    assert plain_line(WallState("collect", 2.0, 2.3)) == "collecting 2.0 s"


def test_the_table_shows_old_and_new_session_of_each_path_side_by_side() -> None:
    lines = drawn(WallState("recovery", 1.0, flows=FLOWS)).splitlines()
    assert lines[1].split() == ["path", "probe", "old", "new"]
    assert lines[2].split() == ["east-west", "tcp", "●", "up", "✖", "down"]
    assert lines[3].split() == ["egress", "udp", "■", "ended", "◐", "suspect"]


def test_a_cell_shows_the_worst_of_its_flows_and_how_many_they_are() -> None:
    flows = (flow("a", "up"), flow("b", "down"), flow("c", "suspect"), flow("d-fresh"), flow("e-fresh"))
    assert drawn(WallState("recovery", 1.0, flows=flows)).splitlines()[2] == "east-west  udp    ✖ 1 of 3 down  ● 2 up"


def test_a_stream_is_a_row_of_its_own() -> None:
    flows = (flow("t", protocol="tcp"), flow("s", "down", protocol="tcp", stack="kernel"))
    rows = [line.split() for line in drawn(WallState("recovery", 1.0, flows=flows)).splitlines()[2:4]]
    assert rows == [["east-west", "tcp", "●", "up", "–"], ["east-west", "stream", "✖", "down", "–"]]


def test_what_a_newer_agent_says_is_shown_as_it_is() -> None:
    text = drawn(WallState("recovery", 1.0, flows=(flow("a", "frozen"), flow("b", protocol="sctp"))))
    assert "? frozen" in text and "sctp" in text


def test_what_happened_since_the_trigger() -> None:
    flows = (flow("a", lost=1_312, outages=3), flow("b", protocol="tcp", lost=2))
    before = {flows[0].key: flow("a", lost=12, outages=1), flows[1].key: flows[1]}
    rows = drawn(WallState("recovery", 1.0, flows=flows, before=before)).splitlines()[1:]
    assert [row.split()[-2:] for row in rows] == [["outages", "lost"], ["2", "1,300"], ["–", "–"]]


def test_flows_that_are_not_up_are_named_with_how_long_they_are_silent() -> None:
    text = drawn(WallState("recovery", 1.0, flows=(flow("a", "suspect"), flow("b", "down", silent_ns=1_240 * MS))))
    assert text.splitlines()[-2:] == ["✖ a/b down, nothing for 1.2 s", "◐ a/a suspect"]


def test_a_blind_watcher_is_told() -> None:
    assert "watcher blind: aws: timeout" in drawn(WallState("recovery", 1.0, flows=FLOWS, blind=("aws: timeout",)))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
@pytest.mark.parametrize("count", [3, 40, 300])
def test_it_fits_the_terminal(width: int, height: int, count: int) -> None:
    states = ("up", "up", "down", "suspect", "ended")
    flows = tuple(
        flow(f"a-rather-long-name-{n}", states[n % 5], protocol=("icmp", "udp", "tcp")[n % 3], path=f"path-{n % 15}")
        for n in range(count)
    )
    state = WallState("recovery", 1.0, flows=flows, owner="fgt-b", held_s=1, needed_s=5, blind=("aws: " + "x" * 300,))
    lines = drawn(state, width, height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_what_does_not_fit_is_counted_and_the_worst_is_not_among_it() -> None:
    flows = tuple(flow(f"f{n}", "down" if n == 39 else "up", path=f"path-{n}") for n in range(40))
    lines = drawn(WallState("recovery", 1.0, flows=flows)).splitlines()
    assert lines[2].split() == ["path-39", "udp", "✖", "down", "–"]
    assert lines[-1] == "and 21 more: 21 up"


def test_the_rate_of_answers_is_known_from_the_second_look_on() -> None:
    rate = AnswerRate()
    assert rate.update(poll(0.0, flow("a", received=100))) is None
    assert rate.update(poll(0.2, flow("a", received=150))) is None  # too soon to tell
    assert rate.update(poll(1.0, flow("a", received=200), flow("new", received=5_000))) == pytest.approx(100)
    assert "100 answers/s" in plain_line(WallState("steady", 1.0, 5.0, FLOWS, answered_pps=100.0))


def test_names_with_brackets_are_no_markup() -> None:
    state = WallState("recovery", 1.0, flows=(flow(path="[red]x[/red]"),), note="[bold]")
    assert "[red]x[/red]" in drawn(state)
    assert "[bold]" in drawn(state)


def test_no_line_is_wider_than_the_terminal() -> None:
    protocols = [flow(f"{p}{s}", session=s, protocol=p) for p in ("icmp", "udp", "tcp") for s in ("kept", "fresh")]
    assert max(map(len, drawn(WallState("recovery", 1.0, flows=tuple(protocols))).splitlines())) <= 80


def wall(terminal: bool = False, quiet: bool = False) -> tuple[Wall, io.StringIO, list[float]]:
    file, now = io.StringIO(), [0.0]
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None)
    return Wall(console, quiet=quiet, now=lambda: now[0]), file, now


def test_plain_lines_come_once_a_second_and_at_each_new_phase() -> None:
    view, file, now = wall()
    with view:
        for tenth in range(25):
            now[0] = tenth / 10
            view.show(WallState("steady", now[0], 5.0, (flow(),)))
        view.show(WallState("recovery", 0.0, flows=(flow(),)))
    heads = [line.split()[:2] for line in file.getvalue().splitlines()]
    assert heads == [["steady", "0.0/5.0"], ["steady", "1.0/5.0"], ["steady", "2.0/5.0"], ["trigger", "+0.0"]]


def test_a_log_line_is_never_folded() -> None:
    view, file, _ = wall()
    view.say("x" * 300)
    assert file.getvalue() == "x" * 300 + "\n"


def test_quiet_leaves_warnings() -> None:
    view, file, _ = wall(quiet=True)
    with view:
        view.say("raising")
        view.show(WallState("steady", 0.0, 5.0))
        view.warn("contradiction")
    assert file.getvalue() == "contradiction\n"


def test_on_a_terminal_lines_stay_above_the_live_view() -> None:
    view, file, _ = wall(terminal=True)
    with view:
        view.show(WallState("recovery", 1.0, flows=FLOWS))
        view.say("a line that stays")
        view.show(WallState("recovery", 2.0, flows=FLOWS))
    text = file.getvalue()
    assert "a line that stays" in text
    assert "trigger +2.0 s" in text
    assert "\x1b[?25h" in text, "the cursor is back"
