"""A drill that changes something outside the lab asks first, and says how to undo it; a dry run changes nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from probe.core.events import TimelineEvent
from probe.drill import consent, run
from probe.drill.client import AgentEndpoint
from probe.drill.plan import DrillPlan, S
from probe.drill.triggers import CommandTrigger, ManualTrigger, Trigger
from probe.drill.wall import Wall
from probe.errors import HaprobeError, UsageError

PLAN = DrillPlan(trigger="command", steady_ns=S, patience_ns=S, validation_ns=S, limit_ns=S)


class Switch(Trigger):
    """Changes something outside the lab."""

    kind = "switch"
    outside = True

    def __init__(self) -> None:
        self.done: list[str] = []

    def describe(self) -> str:
        return "turning the switch"

    def rehearse(self) -> str:
        self.done.append("rehearsed")
        return "the switch is there"

    def fire(self) -> int:
        self.done.append("fired")
        return 1

    def event(self, at_ns: int) -> TimelineEvent:
        return TimelineEvent(at_ns, "user", "trigger")

    def undo(self) -> str:
        return "turn it back"

    def close(self) -> None:
        self.done.append("closed")


class Stage:
    def __init__(self, trigger: Trigger):
        self._trigger = trigger
        self.prepared = False

    def trigger(self, first_loss: Any) -> Trigger:
        return self._trigger

    def prepare(self, tell: Any) -> None:
        self.prepared = True
        raise HaprobeError("far enough")

    def close(self, tell: Any) -> None:
        pass


def asked(plan: DrillPlan, trigger: Trigger, answer: str | None) -> str:
    said = io.StringIO()
    wall = Wall(Console(file=said, width=200), quiet=True)
    consent.ask(plan, trigger, wall, None if answer is None else io.StringIO(answer))
    return said.getvalue()


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " y \n"])
def test_a_person_is_told_what_and_how_to_undo_it_and_agrees(answer: str) -> None:
    said = asked(replace(PLAN, repeat=3), Switch(), answer)
    assert "turning the switch, 3 times" in said
    assert "undo: turn it back" in said


@pytest.mark.parametrize("answer", ["\n", "n\n", "", "yess\n"])
def test_anything_else_is_no(answer: str) -> None:
    with pytest.raises(UsageError, match="nothing was changed"):
        asked(PLAN, Switch(), answer)


def test_with_nobody_to_ask_it_takes_yes() -> None:
    with pytest.raises(UsageError, match=r"turning the switch.*give --yes"):
        asked(PLAN, Switch(), None)
    assert asked(replace(PLAN, yes=True), Switch(), None) == ""


def test_what_a_person_does_or_the_lab_has_takes_no_consent() -> None:
    assert asked(PLAN, ManualTrigger(lambda: None, 1), None) == ""
    assert CommandTrigger(["true"]).outside, "it may do anything"


def test_a_command_of_the_user_s_own_runs_unattended_and_is_asked_about_on_a_terminal() -> None:
    trigger = CommandTrigger(["switch-over"])
    assert asked(PLAN, trigger, None) == ""
    with pytest.raises(UsageError, match="nothing was changed"):
        asked(PLAN, trigger, "n\n")


def test_without_consent_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "terminal_input", lambda: None)
    switch = Switch()
    stage = Stage(switch)
    with pytest.raises(UsageError):
        run.run_drills(PLAN, stage, Wall(Console(file=io.StringIO())), Console(file=io.StringIO()))  # type: ignore[arg-type]
    assert not stage.prepared
    assert switch.done == ["closed"]


def test_a_dry_run_shows_all_of_it_and_starts_nothing() -> None:
    out, switch = io.StringIO(), Switch()
    stage = Stage(switch)
    plan = replace(PLAN, dry_run=True, agents=(AgentEndpoint("b", "http://b:10862"),))
    assert run.run_drills(plan, stage, Wall(quiet=True), Console(file=out, width=200)) == 0  # type: ignore[arg-type]
    text = out.getvalue()
    for part in (
        "b (http://b:10862)",
        "turning the switch",
        "turn it back",
        "the switch is there",
        "nothing was changed",
    ):
        assert part in text
    assert switch.done == ["rehearsed", "closed"]
    assert not stage.prepared
