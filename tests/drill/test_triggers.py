"""Triggers: what they do, when they say they did it, and how they fail."""

from __future__ import annotations

import os
import sys
import time

import pytest

from probe.clock import ManualClock
from probe.drill.scenarios import Step
from probe.drill.triggers import CommandTrigger, LabTrigger, ManualTrigger
from probe.errors import NoFailoverError, PeerError, UsageError

from .fakes import FakeLab


def ended(trigger: LabTrigger) -> None:
    deadline = time.monotonic() + 10
    while trigger.pending():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("kind", ["graceful", "crash", "split"])
def test_the_labs_own(kind: str) -> None:
    lab = FakeLab([])
    trigger = LabTrigger(lab, kind)
    at_ns = trigger.fire()
    ended(trigger)
    trigger.look_back()
    trigger.close()
    assert lab.calls == [f"failover {kind}"]
    assert at_ns == lab.events()[1].at_ns
    event = trigger.event(42)
    assert (event.at_ns, event.source, event.event, event.detail) == (42, "lab", "trigger", {"kind": kind})
    moments = [one.detail["moment"] for one in lab.log if one.event == "sessions"]
    assert moments == ["before", "moved", "end"]


def test_steps_follow_the_failover_in_their_order_and_are_waited_for() -> None:
    lab = FakeLab([])
    steps = (Step("unset", 0.0), Step("failover", 0.0), Step("cut", 0.0, {"milliseconds": 40}))
    trigger = LabTrigger(lab, "graceful", steps)
    trigger.fire()
    ended(trigger)
    assert lab.calls == ["failover graceful", "unset", "failover graceful", "cut 40"]
    assert [one.detail["moment"] for one in lab.log if one.event == "sessions"] == ["before", *["moved"] * 3]
    assert trigger.failure() == ""
    trigger.close()


def test_a_script_is_no_failover() -> None:
    lab = FakeLab([])
    trigger = LabTrigger(lab, "script", (Step("restart_agent", 0.0, {"name": "b"}),))
    assert "no failover; 0 s later: restart agent b" in trigger.describe()
    before_ns = time.time_ns()
    assert before_ns <= trigger.fire() <= time.time_ns()
    ended(trigger)
    assert lab.calls == ["restart_agent b"]
    assert trigger.undo() == ""


def test_a_step_that_fails_ends_the_script_and_is_told() -> None:
    lab = FakeLab([])

    def refuse(name: str) -> None:
        raise PeerError(f"no agent {name}")

    lab.restart_agent = refuse
    trigger = LabTrigger(lab, "script", (Step("restart_agent", 0.0, {"name": "b"}), Step("drop", 0.0, {"percent": 1})))
    trigger.fire()
    ended(trigger)
    assert trigger.failure() == "the scenario's steps ended early: no agent b"
    assert lab.calls == []


def test_steps_to_come_are_given_up_when_the_drill_ends() -> None:
    lab = FakeLab([])
    trigger = LabTrigger(lab, "script", (Step("drop", 60.0, {"percent": 30}),))
    trigger.fire()
    assert trigger.pending()
    trigger.close()
    assert not trigger.pending()
    assert lab.calls == []


def wait_for_end(trigger: CommandTrigger) -> None:
    deadline = time.monotonic() + 10
    while trigger.event(0).detail["exit_status"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_runs_without_a_shell_and_is_stamped_before_it_starts(tmp_path) -> None:
    clock = ManualClock()
    target = tmp_path / "$HOME"
    trigger = CommandTrigger([sys.executable, "-c", "import sys; open(sys.argv[1], 'w').close()", str(target)], clock)
    assert trigger.fire() == clock.wall
    wait_for_end(trigger)
    assert target.exists()
    assert trigger.failure() == ""
    assert trigger.event(5).detail["exit_status"] == 0
    assert trigger.event(5).source == "user"
    trigger.close()


def test_a_command_that_fails_says_what_it_said() -> None:
    trigger = CommandTrigger([sys.executable, "-c", "import sys; sys.exit('permission denied')"])
    trigger.fire()
    wait_for_end(trigger)
    assert trigger.failure() == "the trigger command ended with exit status 1: permission denied"
    trigger.close()
    assert "permission denied" in trigger.failure()


def test_a_command_that_still_runs_is_no_failure_and_is_ended_at_close() -> None:
    trigger = CommandTrigger([sys.executable, "-c", "import time; time.sleep(600)"])
    trigger.fire()
    assert trigger.failure() == ""
    trigger.close()
    assert trigger.event(0).detail["exit_status"] is not None


def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="cannot run /no/such/program"):
        CommandTrigger(["/no/such/program"]).fire()
    with pytest.raises(UsageError):
        CommandTrigger([])


@pytest.fixture
def terminal():
    """(what a person types into, what the trigger reads from)."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as screen, os.fdopen(writing, "w") as keyboard:
        yield keyboard, screen


def test_manual_by_enter(terminal) -> None:
    keyboard, screen = terminal
    clock = ManualClock()
    trigger = ManualTrigger(lambda: None, 10, screen, clock)
    assert "execute ha failover set 1" in trigger.describe()
    keyboard.write("\n")
    keyboard.flush()
    assert trigger.fire() == clock.wall
    assert trigger.event(1).detail["seen_by"] == "enter"


def test_manual_by_the_first_loss(terminal) -> None:
    trigger = ManualTrigger(lambda: 77, 10, terminal[1])
    assert trigger.fire() == 77
    assert trigger.event(77).detail["seen_by"] == "first_loss"


def test_manual_without_a_terminal_waits_for_loss() -> None:
    answers = iter([None, None, 99])
    trigger = ManualTrigger(lambda: next(answers), 10)
    assert "press Enter" not in trigger.describe()
    assert trigger.fire() == 99


def test_end_of_input_is_not_enter(terminal) -> None:
    keyboard, screen = terminal
    keyboard.close()
    answers = iter([None, 99])
    assert ManualTrigger(lambda: next(answers), 10, screen).fire() == 99


def test_manual_gives_up() -> None:
    with pytest.raises(NoFailoverError, match=r"within 0\.3 s"):
        ManualTrigger(lambda: None, 0.3).fire()
