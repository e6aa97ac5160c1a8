"""Triggers: what they do, when they say they did it, and how they fail."""

from __future__ import annotations

import os
import sys
import time

import pytest

from probe.clock import ManualClock
from probe.drill.triggers import CommandTrigger, LabTrigger, ManualTrigger
from probe.errors import NoFailoverError, UsageError


class Lab:
    def failover(self, kind: str) -> int:
        self.kind = kind
        return 42


@pytest.mark.parametrize("kind", ["graceful", "crash", "split"])
def test_the_labs_own(kind: str) -> None:
    lab = Lab()
    trigger = LabTrigger(lab, kind)
    assert trigger.fire() == 42
    assert lab.kind == kind
    event = trigger.event(42)
    assert (event.at_ns, event.source, event.event, event.detail) == (42, "lab", "trigger", {"kind": kind})


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
