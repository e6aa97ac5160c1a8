"""The drill's side of the real lab: raise, fail over, fail back, take down. Its agents are scripted ones."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from probe import cli
from probe.drill.plan import DrillPlan
from probe.drill.run import run_drills
from probe.drill.stage import LabStage
from probe.drill.wall import Wall
from probe.lab import state
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions, Plan

from .fakes import MS, FakeAgent, FakeFlow

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("nft", "conntrackd", "ethtool", "nsenter")),
        reason="needs nftables, conntrackd, ethtool and util-linux",
    ),
]

PREFIX = "hpdr-"


class RealLab:
    """The real lab under a prefix of its own, whose agents are given.

    Their flows go dark when the trigger is pulled and come back 700 ms later.
    """

    def __init__(self, directory: Path, agents: list[FakeAgent]):
        self._directory = directory
        self._agents = agents
        self._lab: Lab | None = None

    def up(self, options: LabOptions, progress: Callable[[str], None]) -> RealLab:
        self._lab = Lab.up(options, progress, prefix=PREFIX, state_dir=self._directory)
        return self

    def start_agents(self, directory: Path) -> list[Any]:
        for agent in self._agents:
            agent.flows = [FakeFlow(f.name, path=f.path, session=f.session) for f in agent.flows]
        return [SimpleNamespace(name=a.name, url=a.url, pid=0, log=directory / "x") for a in self._agents]

    def stop_agents(self) -> None:
        self._lab.stop_agents()

    def failover(self, kind: str) -> int:
        at_ns = self._lab.failover(kind)
        for agent in self._agents:
            for flow in agent.flows:
                flow.outages.append((time.time_ns(), time.time_ns() + 700 * MS))
        return at_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab, name)


@pytest.mark.parametrize("kind", ["graceful", "crash"])
def test_two_drills_and_nothing_left(tmp_path: Path, kind: str) -> None:
    plan = DrillPlan(
        trigger=kind,
        steady_ns=300 * MS,
        patience_ns=3000 * MS,
        validation_ns=4000 * MS,  # long enough for the cloud's part, which scripted agents do not wait for
        limit_ns=20_000 * MS,
        lab=LabOptions(heartbeat_lost=5),
        repeat=2 if kind == "graceful" else 1,
        out=tmp_path / "runs",
    )
    err, out = io.StringIO(), io.StringIO()
    with FakeAgent("workload-a", [FakeFlow("ew"), FakeFlow("ew-fresh", session="fresh")]) as agent:
        agent.active_unit = "none"
        stage = LabStage(plan.lab, kind, lab_type=RealLab(tmp_path / "lab", [agent]))
        wall = Wall(Console(file=err, width=200))
        assert run_drills(plan, stage, wall, Console(file=out, width=120)) == 0, err.getvalue()
    documents = [json.loads(path.read_text()) for path in sorted(plan.out.glob("*/report.json"))]
    assert len(documents) == plan.repeat
    for document in documents:
        trigger_ns = document["run"]["trigger"]["at_ns"]
        lab = [e for e in document["timeline"] if e["source"] == "lab" and e["at_ns"] >= trigger_ns]
        names = [e["event"] for e in lab]
        assert names[0] == "trigger"
        assert lab[0]["at_ns"] == trigger_ns
        assert names.count("trigger") == 1
        order = [names.index(name) for name in ("trigger", "role_change", "api_call", "applied")]
        assert order == sorted(order)
    plan_of_lab = Plan(PREFIX, tmp_path / "lab", plan.lab)
    assert state.leftovers(plan_of_lab) == []


@contextmanager
def dark_when_failed_over(lab: Lab, agent: FakeAgent) -> Iterator[None]:
    """The agent's flows go dark when the lab really fails over, and its watcher sees the other unit."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.02):
            if any(event.event == "failover_set" for event in lab.events()):
                agent.active_unit = "fgt-b"
                for flow in agent.flows:
                    flow.outages.append((time.time_ns(), time.time_ns() + 700 * MS))
                return

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def test_a_drill_types_the_failover_into_a_unit_and_takes_it_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab.up(LabOptions(heartbeat_lost=20), prefix=PREFIX, state_dir=tmp_path / "lab")
    try:
        with FakeAgent("workload-a", [FakeFlow("ew"), FakeFlow("ew-fresh", session="fresh")]) as agent:
            trigger = {"kind": "fortigate", "unit": "fgt-a", "undo": True, **lab.ssh_login("fgt-a")}
            drill = {"trigger": trigger, "steady": "1s", "validation": "1s", "limit": "2m"}
            config = tmp_path / "drill.yml"
            config.write_text(yaml.safe_dump({"agents": {"workload-a": {"url": agent.url}}, "drill": drill}))
            with dark_when_failed_over(lab, agent):
                command = ["drill", "--config.file", str(config), "--yes", "--out", str(tmp_path / "runs")]
                status = cli.main(command)
        said = capsys.readouterr()
        assert status == 0, said.err
        events = {event.event: event for event in lab.events() if event.detail.get("unit") == "fgt-a"}
        assert "undone: execute ha failover unset 1 on fgt-a" in said.out
        assert events["failover_set"].at_ns < events["failover_unset"].at_ns
        assert any(
            event.event == "role_change" and event.detail == {**event.detail, "unit": "fgt-b", "role": "primary"}
            for event in lab.events(events["failover_set"].at_ns)
        )
    finally:
        lab.down()
    (stored,) = (tmp_path / "runs").glob("*/report.json")
    document = json.loads(stored.read_text())
    (pulled,) = [event for event in document["timeline"] if event["event"] == "trigger"]
    assert (pulled["source"], document["run"]["trigger"]["kind"]) == ("fortigate", "fortigate")
    assert pulled["at_ns"] <= events["failover_set"].at_ns <= pulled["detail"]["answered_ns"]
    assert state.leftovers(lab.plan) == []
