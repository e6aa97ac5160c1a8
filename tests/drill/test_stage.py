"""The lab around a drill: what is called when, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from probe.drill.client import AgentEndpoint
from probe.drill.plan import DrillPlan
from probe.drill.stage import ConfiguredStage, LabStage, interrupts_ignored, stage_for, termination_as_interrupt
from probe.drill.triggers import CommandTrigger, LabTrigger, ManualTrigger
from probe.errors import PeerError
from probe.lab.plan import LabOptions

from .fakes import FakeAgent, FakeLab, S

OPTIONS = LabOptions(session_pickup=False)


def nothing(text: str) -> None:
    pass


def configured(kind: str, **fields: object) -> DrillPlan:
    plan = DrillPlan(trigger=kind, steady_ns=S, patience_ns=S, validation_ns=S, limit_ns=S)
    return replace(plan, agents=(AgentEndpoint("a", "http://127.0.0.1:1"),), **fields)


@pytest.fixture
def lab():
    with FakeAgent("wl-a", []) as one, FakeAgent("jump", []) as other:
        yield FakeLab([one, other])


def test_up_agents_and_down(lab: FakeLab) -> None:
    told: list[str] = []
    stage = LabStage(OPTIONS, "graceful", lab_type=lab)
    stage.prepare(told.append)
    assert lab.options is OPTIONS
    assert [endpoint.name for endpoint in stage.endpoints()] == ["wl-a", "jump"]
    assert stage.endpoints()[0].url == lab.agents[0].url
    assert stage.endpoints()[0].log == lab.directories[0] / "agent.log"
    assert told == ["raising the lab", "namespaces", "starting the agents"]
    stage.close(nothing)
    assert lab.calls == ["up", "start_agents", "down"]
    assert not lab.directories[0].exists()


def test_agents_that_do_not_start_leave_no_lab(lab: FakeLab) -> None:
    lab.fail_in = "start_agents"
    stage = LabStage(OPTIONS, "graceful", lab_type=lab)
    with pytest.raises(RuntimeError):
        stage.prepare(nothing)
    stage.close(nothing)
    assert lab.calls[-1] == "down"


def test_close_twice_or_before_prepare_does_no_harm(lab: FakeLab) -> None:
    stage = LabStage(OPTIONS, "graceful", lab_type=lab)
    stage.close(nothing)
    stage.prepare(nothing)
    stage.close(nothing)
    stage.close(nothing)
    assert lab.calls.count("down") == 1


def test_a_lab_that_is_kept_says_how_to_reach_it_and_how_to_remove_it(
    lab: FakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the agents' directory stays as well
    told: list[str] = []
    stage = LabStage(OPTIONS, "graceful", keep=True, lab_type=lab)
    stage.prepare(nothing)
    stage.close(told.append)
    assert "down" not in lab.calls
    assert "haprobe lab down" in told[0]
    assert lab.agents[1].url in told[0]


def test_a_lab_to_keep_that_never_came_up_is_taken_down(lab: FakeLab) -> None:
    lab.fail_in = "start_agents"
    stage = LabStage(OPTIONS, "graceful", keep=True, lab_type=lab)
    with pytest.raises(RuntimeError):
        stage.prepare(nothing)
    stage.close(nothing)
    assert lab.calls[-1] == "down"


def test_between_graceful_drills_fail_back_and_open_new_sessions(lab: FakeLab) -> None:
    stage = LabStage(OPTIONS, "graceful", lab_type=lab)
    stage.prepare(nothing)
    stage.renew(nothing)
    assert lab.calls == ["up", "start_agents", "unset", "stop_agents", "start_agents"]
    assert not lab.directories[0].exists()
    stage.close(nothing)


@pytest.mark.parametrize("kind", ["crash", "split"])
def test_after_a_crash_or_a_split_only_a_new_lab_will_do(lab: FakeLab, kind: str) -> None:
    stage = LabStage(OPTIONS, kind, lab_type=lab)
    stage.prepare(nothing)
    stage.renew(nothing)
    assert lab.calls == ["up", "start_agents", "down", "up", "start_agents"]
    stage.close(nothing)


def test_the_labs_trigger_and_events(lab: FakeLab) -> None:
    stage = LabStage(OPTIONS, "crash", lab_type=lab)
    stage.prepare(nothing)
    trigger = stage.trigger(lambda: None)
    assert isinstance(trigger, LabTrigger)
    at_ns = trigger.fire()
    trigger.close()
    assert [event.event for event in stage.events(at_ns)] == ["trigger", "sessions"]
    stage.close(nothing)


def test_a_configured_stage_takes_its_trigger_from_the_file() -> None:
    assert isinstance(ConfiguredStage(configured("manual")).trigger(lambda: None), ManualTrigger)
    assert isinstance(ConfiguredStage(configured("command", command=("true",))).trigger(lambda: None), CommandTrigger)


def test_the_lab_as_trigger_of_configured_agents(lab: FakeLab) -> None:
    stage = ConfiguredStage(configured("lab"), lab_type=lab)
    with pytest.raises(PeerError, match="haprobe lab up"):
        stage.prepare(nothing)
    lab.up(OPTIONS, nothing)
    stage.prepare(nothing)
    trigger = stage.trigger(lambda: None)
    trigger.fire()
    trigger.close()
    assert [event.event for event in stage.events(0)] == ["sessions", "trigger", "sessions"]
    stage.close(nothing)
    assert "down" not in lab.calls, "it was up before, it stays up"


def test_stage_for() -> None:
    assert isinstance(stage_for(configured("manual")), ConfiguredStage)
    assert isinstance(stage_for(configured("graceful", lab=OPTIONS)), LabStage)


def test_interrupts_wait_while_the_lab_is_taken_down() -> None:
    with interrupts_ignored():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        Path("/proc/self").exists()  # a bytecode boundary for the handler to run at


def test_termination_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), termination_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        Path("/proc/self").exists()
    assert signal.getsignal(signal.SIGTERM) == before
