"""Whole drills over real HTTP with scripted agents: what is stored, what is said, what stays behind."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from probe.config import Trigger
from probe.drill import run
from probe.drill.client import AgentEndpoint
from probe.drill.plan import DrillPlan
from probe.drill.stage import INTERRUPTS, ConfiguredStage, LabStage
from probe.drill.wall import Wall
from probe.drill.wall_view import WallState
from probe.errors import ConfigError, HaprobeError, NoFailoverError, PeerError, SteadyStateError, UsageError
from probe.lab.plan import LabOptions
from probe.report.document import laws

from .fakes import MS, FakeAgent, FakeFlow, FakeLab, S

PLAN = DrillPlan(
    trigger="graceful",
    steady_ns=400 * MS,
    patience_ns=1000 * MS,
    validation_ns=400 * MS,
    limit_ns=3000 * MS,
    lab=LabOptions(),
    labels={"fortios": "7.6.4"},
)


class Scene:
    """A lab of two fake agents, three paths' worth of flows, and captured output."""

    def __init__(self, tmp_path: Path):
        flows = [FakeFlow(f"ew{s}", session=k) for s, k in (("", "kept"), ("-fresh", "fresh"))]
        inward = [FakeFlow(f"in{s}", path="ingress", session=k) for s, k in (("", "kept"), ("-fresh", "fresh"))]
        self.wl = FakeAgent("workload-a", flows)
        self.jump = FakeAgent("jumphost", inward)
        self.jump.active_unit = "fgt-a"
        self.lab = FakeLab([self.wl, self.jump])
        self.out, self.err = io.StringIO(), io.StringIO()
        self.plan = replace(PLAN, out=tmp_path / "runs")

    def play(self, **changes: Any) -> int:
        plan = replace(self.plan, **changes)
        stage = LabStage(plan.lab or LabOptions(), "graceful", keep=plan.keep_lab, lab_type=self.lab)
        return self.play_on(plan, stage)

    def play_on(self, plan: DrillPlan, stage: Any) -> int:
        wall = Wall(Console(file=self.err, width=200), quiet=plan.quiet)
        return run.run_drills(plan, stage, wall, Console(file=self.out, width=100))

    def stored(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.plan.out.glob("*/report.json"))]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    with scene.wl, scene.jump:
        yield scene


def test_a_drill_from_end_to_end(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": 0.4, "ew-fresh": 0.4, "in": None, "in-fresh": 0.6}
    assert scene.play() == 0
    (document,) = scene.stored()
    assert laws(document, settled=True) == []
    verdicts = {f["name"]: f["verdict"] for f in document["flows"]}
    assert verdicts["ew"] == "survived"
    assert verdicts["in"] == "lost"
    outages = {f["name"]: f["outages"][0] for f in document["flows"]}
    assert outages["ew"]["duration_ns"]["lower"] <= 400 * MS <= outages["ew"]["duration_ns"]["upper"]
    assert {f["agent"] for f in document["flows"]} == {"workload-a", "jumphost"}
    events = [e["event"] for e in document["timeline"] if e["source"] == "lab"]
    assert events.count("trigger") == 1, "the lab told of it: once is enough"
    assert [event for event in events if event != "sessions"] == ["trigger", "role_change"]
    assert (events[0], events[-1]) == ("sessions", "sessions"), "the tables are read before, and at the end"
    trigger = document["run"]["trigger"]
    assert trigger["kind"] == "graceful"
    assert document["run"]["started_ns"] + PLAN.steady_ns <= trigger["at_ns"] < outages["ew"]["start_ns"]
    assert document["run"]["labels"] == {"fortios": "7.6.4"}
    assert scene.lab.calls == ["up", "start_agents", "failover graceful", "down"]
    text, said = scene.out.getvalue(), scene.err.getvalue()
    assert f"run stored: {scene.plan.out}" in text
    assert "east-west" in text
    assert "steady" in said
    assert "trigger +" in said
    assert "active unit fgt-b" in said


def test_no_failover_is_stored_and_exits_4(scene: Scene) -> None:
    with pytest.raises(NoFailoverError) as caught:
        scene.play(limit_ns=600 * MS)
    assert "no failover seen within" in str(caught.value)
    assert caught.value.exit_status == 4
    (document,) = scene.stored()
    assert document["run"]["id"] in str(caught.value)
    assert all(f["verdict"] == "unaffected" for f in document["flows"])
    assert scene.lab.calls[-1] == "down"


def test_what_never_recovers_is_reported_at_the_limit(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": None, "ew-fresh": None}
    assert scene.play(limit_ns=1500 * MS) == 0
    assert "not recovered" in scene.err.getvalue()
    assert "workload-a/ew-fresh: down" in scene.err.getvalue()
    (document,) = scene.stored()
    assert {f["name"]: f["verdict"] for f in document["flows"]}["ew"] == "dark"


def test_without_steady_state_nothing_is_triggered(scene: Scene) -> None:
    scene.jump.flows[0].outages.append((0, None))
    with pytest.raises(SteadyStateError) as caught:
        scene.play()
    assert "agent jumphost, flow in: state down" in str(caught.value)
    assert caught.value.exit_status == 5
    assert scene.stored() == []
    assert scene.lab.calls == ["up", "start_agents", "down"]


def test_our_own_stalls_are_no_steady_state(scene: Scene) -> None:
    sender = scene.wl.flows[0]
    real = sender.status

    def stalling(now_ns: int) -> dict[str, Any]:
        sender.unsent += 100
        return real(now_ns)

    sender.status = stalling
    with pytest.raises(SteadyStateError, match="agent workload-a, flow ew: 100 not sent by our own host"):
        scene.play()


def test_an_agent_that_does_not_start_is_named_with_its_log(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LabStage, "ready_timeout_s", 0.3)
    scene.jump.not_ready = "no route to 203.0.113.10"
    with pytest.raises(PeerError, match=r"agent jumphost is not ready(.|\n)*no route(.|\n)*started"):
        scene.play()
    assert scene.lab.calls[-1] == "down"


@pytest.mark.parametrize("method", ["up", "start_agents", "failover"])
def test_the_lab_is_down_whatever_fails(scene: Scene, method: str) -> None:
    scene.lab.fail_in = method
    with pytest.raises(RuntimeError):
        scene.play()
    assert scene.lab.calls[-1] == ("down" if method != "up" else "up")


def interrupt_soon(delay_s: float = 0.3, number: signal.Signals = signal.SIGINT) -> None:
    threading.Timer(delay_s, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_after_the_trigger_what_was_measured_is_stored(scene: Scene, number: signal.Signals) -> None:
    scene.lab.dark_s = {"ew": None, "ew-fresh": None, "in": None, "in-fresh": None}
    scene.lab.after_failover = lambda: interrupt_soon(0.6, number)
    assert scene.play(limit_ns=60_000 * MS, repeat=3) == 0
    (document,) = scene.stored()
    assert document["run"]["ended_ns"] - document["run"]["trigger"]["at_ns"] < 20_000 * MS
    assert all(f["outages"] for f in document["flows"])
    assert "ending early" in scene.err.getvalue()
    assert scene.lab.calls[-1] == "down"


@pytest.mark.parametrize("number", INTERRUPTS)
def test_interrupted_while_the_last_probes_are_waited_for_no_further_drill_begins(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    real = Wall.show

    def show(wall: Wall, state: WallState) -> None:
        real(wall, state)
        if state.phase == "collect":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Wall, "show", show)
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    assert scene.play(repeat=3) == 0
    assert len(scene.stored()) == 1
    assert scene.lab.calls.count("failover graceful") == 1
    assert "not waiting any longer" in scene.err.getvalue()


def interrupt_when_asked(scene: Scene, agents: list[FakeAgent], path: str) -> list[str]:
    """Agents that do not answer one question before the run is stored; Ctrl-C when the last of them is asked.

    Returns:
        Those that were waited for all the same; grows.
    """
    asked: set[str] = set()
    waited_for: list[str] = []

    def hang(agent: FakeAgent, real: Callable[[str], tuple[int, str]], url: str) -> tuple[int, str]:
        if not url.startswith(path):
            return real(url)
        asked.add(agent.name)
        if len(asked) == len(agents):
            interrupt_soon(0.2)
        deadline = time.monotonic() + 5
        while not scene.stored() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not scene.stored():
            waited_for.append(agent.name)
        return 503, "too late"

    for agent in agents:
        agent.answer = partial(hang, agent, agent.answer)  # type: ignore[method-assign]
    return waited_for


def test_interrupted_while_an_agent_hangs_the_reports_of_the_others_are_stored(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    waited_for = interrupt_when_asked(scene, [scene.jump], "/api/v1/report")
    with pytest.raises(PeerError, match="agent jumphost: no report before the interruption"):
        scene.play(repeat=2)
    (document,) = scene.stored()
    assert {f["agent"] for f in document["flows"]} == {"workload-a"}
    assert (waited_for, scene.lab.calls.count("failover graceful")) == ([], 1)


def test_interrupted_while_captures_are_fetched_the_run_is_stored_without(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    scene.wl.watcher = scene.jump.watcher = "fortigate"
    waited_for = interrupt_when_asked(scene, [scene.wl, scene.jump], "/api/v1/watch?seconds=0")
    assert scene.play(repeat=2) == 0
    (document,) = scene.stored()
    assert {f["agent"] for f in document["flows"]} == {"workload-a", "jumphost"}
    assert (waited_for, scene.lab.calls.count("failover graceful")) == ([], 1)


def test_interrupted_while_it_is_stored_the_run_is_whole_and_the_last(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(document: dict[str, Any]) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return json.dumps(document)

    monkeypatch.setattr("probe.store.runs.to_json", interrupted)
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    assert scene.play(repeat=2) == 0
    assert len(scene.stored()) == 1
    assert scene.lab.calls.count("failover graceful") == 1


def test_interrupted_before_the_trigger_nothing_is_stored(scene: Scene) -> None:
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        scene.play(steady_ns=60_000 * MS)
    assert scene.stored() == []
    assert scene.lab.calls == ["up", "start_agents", "down"]


def test_a_document_that_breaks_a_law_is_stored_and_shouted_about(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    sender = scene.wl.flows[0]
    real = sender.report

    def miscounting(*span: int) -> dict[str, Any]:
        flow = real(*span)
        flow["counts"]["sent"] += 1
        return flow

    sender.report = miscounting
    with pytest.raises(HaprobeError, match="do not trust this run") as caught:
        scene.play(quiet=True)
    assert caught.value.exit_status == 1
    assert "workload-a/ew: scheduled = sent + unsent" in scene.err.getvalue(), "even with -q"
    assert len(scene.stored()) == 1


def test_an_agent_that_is_gone_at_the_end_is_missing_not_fatal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fetch", fetch_briefly)
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    scene.jump.answers["/api/v1/report"] = (500, "out of memory")
    with pytest.raises(PeerError, match=r"agent jumphost .* out of memory|agent jumphost \(.*HTTP 500"):
        scene.play()
    (document,) = scene.stored()
    assert {f["agent"] for f in document["flows"]} == {"workload-a"}


def fetch_briefly(pool: Any, start_ns: int, end_ns: int) -> Any:
    from probe.drill.collect import fetch

    return fetch(pool, start_ns, end_ns, patience_s=0.3)


def test_three_drills_and_their_summary(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    assert scene.play(repeat=3, quiet=True) == 0
    assert len(scene.stored()) == 3
    assert "3 drills" in scene.out.getvalue()
    assert scene.lab.calls.count("failover graceful") == 3
    assert scene.lab.calls.count("unset") == 2
    assert scene.lab.calls.count("down") == 1
    row = next(line for line in scene.out.getvalue().splitlines() if line.split()[:3] == ["east-west", "udp", "3"])
    assert 0.29 <= float(row.split()[3]) <= 0.32
    assert scene.err.getvalue() == ""


def test_a_budget_decides_the_exit_status(scene: Scene, tmp_path: Path) -> None:
    scene.lab.dark_s = {"ew": 0.4, "ew-fresh": 0.4}
    budget = tmp_path / "budget.yml"
    limits = [("generous", "5s"), ("strict", "100ms")]
    budget.write_text("".join(f"- {{name: {name}, path: east-west, max_outage: {limit}}}\n" for name, limit in limits))
    assert scene.play(budget=budget) == 1
    (document,) = scene.stored()
    assert {b["name"]: b["ok"] for b in document["budgets"]} == {"generous": True, "strict": False}


def test_a_bad_budget_file_is_told_before_anything_starts(scene: Scene, tmp_path: Path) -> None:
    budget = tmp_path / "budget.yml"
    budget.write_text("- {name: x, max_outage: 5}\n")
    with pytest.raises(ConfigError, match=r"budget\.yml:1: \[0\]\.max_outage"):
        scene.play(budget=budget)
    assert scene.lab.calls == []


def test_a_run_directory_that_cannot_be_is_told_before_anything_starts(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        scene.play(out=tmp_path / "file")
    assert scene.lab.calls == []


def configured(scene: Scene, **changes: Any) -> DrillPlan:
    agents = tuple(AgentEndpoint(agent.name, agent.url) for agent in (scene.wl, scene.jump))
    return replace(scene.plan, lab=None, agents=agents, **changes)


def test_configured_agents_with_a_command(scene: Scene, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    plan = configured(scene, trigger="command", command=("touch", str(marker)), yes=True)
    real = scene.wl.answer

    def answer(url: str) -> tuple[int, str]:
        if marker.exists() and "failover graceful" not in scene.lab.calls:
            scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
            scene.lab.failover("graceful")
        return real(url)

    scene.wl.answer = answer
    assert scene.play_on(plan, ConfiguredStage(plan)) == 0
    (document,) = scene.stored()
    (event,) = [e for e in document["timeline"] if e["event"] == "trigger"]
    assert event["source"] == "user"
    assert event["detail"]["command"] == ["touch", str(marker)]
    assert event["detail"]["exit_status"] == 0
    assert event["at_ns"] == document["run"]["trigger"]["at_ns"]


def test_a_drill_says_how_to_undo_it_or_does_so(scene: Scene, tmp_path: Path) -> None:
    marker, undone = tmp_path / "marker", tmp_path / "undone"
    settings = Trigger(kind="command", command=["touch", str(marker)], undo_command=["touch", str(undone)])
    plan = configured(scene, trigger="command", command=("touch", str(marker)), yes=True, quiet=True, limit_ns=S)
    for undo, said in ((False, f"to undo it: touch {undone}"), (True, f"undone: ran touch {undone}")):
        chosen = replace(plan, settings=settings.model_copy(update={"undo": undo}))
        with pytest.raises(NoFailoverError):  # that nothing failed over does not mean that nothing was done
            scene.play_on(chosen, ConfiguredStage(chosen))
        assert said in scene.out.getvalue()
        assert undone.exists() is undo


def test_a_trigger_for_the_passive_unit_is_not_pulled(scene: Scene) -> None:
    settings = Trigger(kind="aws-stop-instance", unit="fgt-b", instance="i-1", region="eu-west-2")
    plan = configured(scene, trigger="aws-stop-instance", settings=settings, yes=True)
    with pytest.raises(SteadyStateError, match=r"drill.trigger.unit is fgt-b, but fgt-a is active"):
        scene.play_on(plan, ConfiguredStage(plan))
    assert scene.stored() == []


def test_the_watchers_are_told_before_the_trigger_is_pulled(scene: Scene) -> None:
    scene.lab.dark_s = {"ew": 0.3, "ew-fresh": 0.3}
    told: list[int] = []
    scene.lab.after_failover = lambda: told.append(len(scene.jump.posts))
    assert scene.play() == 0
    assert told == [1]
    assert scene.jump.posts[0] == "/api/v1/watch?seconds=60"


def test_a_command_that_fails_ends_the_wait(scene: Scene) -> None:
    plan = configured(scene, trigger="command", command=("false",), yes=True, limit_ns=100_000 * MS)
    with pytest.raises(NoFailoverError, match="trigger command ended with exit status 1"):
        scene.play_on(plan, ConfiguredStage(plan))
    assert len(scene.stored()) == 1


def test_manual_by_the_first_loss(scene: Scene) -> None:
    plan = configured(scene, trigger="manual", limit_ns=20_000 * MS)
    scene.lab.dark_s = {"ew": 0.5, "ew-fresh": 0.5}
    threading.Timer(1.5, scene.lab.failover, ("graceful",)).start()
    assert scene.play_on(plan, ConfiguredStage(plan)) == 0
    (document,) = scene.stored()
    assert "execute ha failover set 1" in scene.err.getvalue()
    (event,) = [e for e in document["timeline"] if e["event"] == "trigger"]
    assert event["detail"]["seen_by"] == "first_loss"
    start_ns = next(f for f in document["flows"] if f["name"] == "ew")["outages"][0]["start_ns"]
    assert 0 <= start_ns - event["at_ns"] <= 20 * MS, "the moment of the last reply"


@pytest.mark.parametrize("ahead_s", [-8, 8])
def test_an_agent_whose_clock_is_off_sees_the_same_failover(scene: Scene, ahead_s: int) -> None:
    plan = configured(scene, trigger="manual", limit_ns=20_000 * MS)
    scene.wl.ahead_ns = ahead_s * S
    scene.lab.dark_s = {"ew": 0.5, "ew-fresh": 0.5}
    threading.Timer(1.5, scene.lab.failover, ("graceful",)).start()
    assert scene.play_on(plan, ConfiguredStage(plan)) == 0
    (document,) = scene.stored()
    (pulled,) = [event.at_ns for event in scene.lab.log if event.event == "trigger"]
    (outage,) = next(f for f in document["flows"] if f["name"] == "ew")["outages"]
    assert abs(outage["start_ns"] - 20 * MS - pulled) < 100 * MS
    assert abs(document["run"]["trigger"]["at_ns"] - pulled) < 100 * MS, "by the first loss, on the drill's clock"
    assert document["run"]["started_ns"] < outage["start_ns"] < outage["end_ns"] < document["run"]["ended_ns"]
    assert laws(document, settled=True) == []
    clock = document["run"]["agents"]["workload-a"]["clock"]
    assert abs(clock["offset_ns"] - ahead_s * S) <= clock["offset_error_ns"] <= document["run"]["clock"]["max_error_ns"]
    assert f"agent workload-a: its clock is {ahead_s:+}.0" in scene.err.getvalue()


def test_manual_that_never_comes(scene: Scene) -> None:
    plan = configured(scene, trigger="manual", limit_ns=500 * MS)
    with pytest.raises(NoFailoverError, match="no failover was started"):
        scene.play_on(plan, ConfiguredStage(plan))
    (document,) = scene.stored()
    assert document["run"]["trigger"]["at_ns"] == 0


def test_the_command_line_builds_all_of_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    seen: list[Any] = []
    monkeypatch.setattr(run, "run_drills", lambda plan, stage, wall, out: seen.append((plan, stage)) or 0)
    args = argparse.Namespace(lab=True, scenario="crash", out="x", quiet=True)
    assert run.drill_command(args) == 0
    plan, stage = seen[0]
    assert (plan.trigger, plan.quiet) == ("crash", True)
    assert isinstance(stage, LabStage)
