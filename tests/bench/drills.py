"""Drills of the lab's scenarios, one after the other, on labs that are kept where that is as good as a new one.

A lab is used again only by the scenario that raised it, only where that leaves nothing behind but sessions and a
failover (`reusable`), and only after it has been shown to be as new (`as_new`): roles, routes and addresses as they
were when it was raised, and no session in any unit's table or conntrackd. Agents are always new.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from probe.drill.plan import LAB_PATIENCE_NS, DrillPlan, S
from probe.drill.run import run_drills
from probe.drill.scenarios import Scenario
from probe.drill.stage import LabStage, interrupts_ignored
from probe.drill.wall import Wall
from probe.errors import HaprobeError, NoFailoverError
from probe.lab import conntrackd, namespace, topology
from probe.lab.lab import Lab, LabError
from probe.lab.plan import UNITS, LabOptions

READY_S = 60.0  # for agents to start, on a machine that others use as well
_HARMLESS_STEPS = frozenset({"restart_agent", "drop", "unset"})
_SESSION_OPTIONS = frozenset({"session_pickup", "session_pickup_connectionless", "reset_sessionless_tcp", "single_az"})


def reusable(scenario: Scenario) -> bool:
    """Whether a drill leaves nothing in its lab but sessions and a failover that `unset` takes back."""
    alive = scenario.trigger in ("graceful", "script")
    steps = {step.do for step in scenario.steps}
    return alive and steps <= _HARMLESS_STEPS and set(scenario.options) <= _SESSION_OPTIONS


class KeptLab(Lab):
    """A lab that its stage cannot take down while it is to be kept."""

    keeping = False

    def down(self) -> None:
        """Take it down, or only its agents."""
        if self.keeping:
            self.stop_agents()
        else:
            super().down()


class Shelf:
    """At most one lab, under a prefix of its own: others may drill on this machine at the same time.

    Args:
        prefix: Of the namespaces.
        directory: For the lab's state.
    """

    def __init__(self, prefix: str, directory: Path):
        self._prefix, self._directory = prefix, directory
        self._lab: KeptLab | None = None
        self._home: dict[str, Any] = {}
        self.keep = False  # whether the next drill's lab may be used again
        self.used = ""  # "new" or "kept": the last drill's lab

    def up(self, options: LabOptions, progress: Any) -> Lab:
        """The kept lab if it has these options and is as new, else a new one."""
        if self._lab is not None and self._lab.keeping and self._lab.plan.options == options:
            progress("making the lab as new")
            why = as_new(self._lab, self._home)
            if not why:
                self._lab.keeping, self.used = self.keep, "kept"
                return self._lab
            progress(f"a new lab instead: {why}")
        self.clear()
        lab = KeptLab.up(options, progress, prefix=self._prefix, state_dir=self._directory)
        assert isinstance(lab, KeptLab)
        self._lab, self._home, self.used = lab, where(lab), "new"
        lab.keeping = self.keep
        return lab

    def clear(self) -> None:
        """Take the lab down."""
        lab, self._lab = self._lab, None
        if lab is not None:
            lab.keeping = False
            with interrupts_ignored():
                lab.down()


def where(lab: Lab) -> dict[str, Any]:
    """Who is active, and where the cloud sends packets."""
    units = lab.status()["units"]
    return {
        "roles": {name: (one["role"], one.get("failover_set"), one.get("forwarding")) for name, one in units.items()},
        "routes": topology.routes(lab.plan),
        "eips": topology.eips(lab.plan),
        "private_ips": topology.private_ips(lab.plan),
    }


def as_new(lab: Lab, home: dict[str, Any]) -> str:
    """Take a failover back and forget all sessions; why the lab is not as new then, empty if it is."""
    try:
        lab.unset()
        lab.forget_sessions()
        if left := _sessions(lab):
            return f"sessions left: {left}"
        lab.wait_settled()  # forgetting keeps a unit from its heartbeat for a while
        found = where(lab)
        if found != home:
            return "; ".join(f"{key} {found[key]} instead of {home[key]}" for key in home if found[key] != home[key])
    except (LabError, OSError) as error:
        return str(error)
    return ""


def _sessions(lab: Lab) -> str:
    """What the units still know of sessions."""
    for name in UNITS:
        if listed := namespace.inside(lab.plan.namespace_path(name), conntrackd.sessions):
            return f"{name}: {len(listed)}"
        if lab.plan.options.session_pickup:
            caches = conntrackd.Conntrackd(lab.plan, name).statistics()
            if any(caches.values()):
                return f"conntrackd of {name}: {caches}"
    return ""


def drill(
    scenario: Scenario, out: Path, shelf: Shelf, *, rate: int, steady_s: float, validation_s: float
) -> dict[str, Any]:
    """One drill of a scenario, stored below `out` with what was told on the way; its document.

    Raises:
        HaprobeError: If it gave none.
        KeyboardInterrupt: If it was interrupted.
    """
    plan = DrillPlan(
        trigger=scenario.trigger,
        steady_ns=round(steady_s * S),
        patience_ns=3 * LAB_PATIENCE_NS,
        validation_ns=round(validation_s * S),
        limit_ns=round(scenario.limit_s * S),
        lab=LabOptions(**{"agent_rate_pps": rate, **scenario.options}),
        scenario=scenario.name,
        steps=scenario.steps,
        out=out,
    )
    shelf.keep = reusable(scenario)
    stage = LabStage(plan.lab or LabOptions(), scenario.trigger, scenario.steps, lab_type=shelf)
    stage.ready_timeout_s = READY_S
    told = io.StringIO()
    try:
        run_drills(plan, stage, Wall(Console(file=told, width=200)), Console(file=told, width=160))
        if "ending early" in told.getvalue():  # a drill takes Ctrl-C as its own end
            raise KeyboardInterrupt
    except NoFailoverError:
        pass  # of some scenarios that is the point; the diagnosis has to say so
    finally:
        (out / "told.txt").write_text(told.getvalue())
    if "steps ended early" in told.getvalue():
        raise HaprobeError(f"what the scenario does to the lab was not done; see {out / 'told.txt'}")
    (stored,) = out.glob("*/report.json")
    document: dict[str, Any] = json.loads(stored.read_text())
    if not set(scenario.cells) <= set(document["matrix"]):
        raise HaprobeError("an agent gave no report")
    return document
