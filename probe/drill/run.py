"""A drill from steady state to stored report (contract: `haprobe drill`).

Whatever ends it (done, limit, Ctrl-C, an error), the stage is taken down, and what was measured since the
trigger is stored first. After the trigger each Ctrl-C (or SIGTERM, SIGHUP) ends one wait, and no further drill begins.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from probe.clock import SystemClock
from probe.core.events import TimelineEvent
from probe.drill import consent
from probe.drill.client import AgentPool
from probe.drill.collect import Span, assemble, fetch, settle_s, shows_failover
from probe.drill.plan import DrillPlan, check_out, from_args
from probe.drill.recovery import OUTAGE_PROBES, Recovery, RecoveryProgress
from probe.drill.stage import INTERRUPTS, Stage, stage_for, termination_as_interrupt
from probe.drill.status import Poll
from probe.drill.steady import SteadyState, clock_warnings, over, watcher_warnings
from probe.drill.summary import summarise, table
from probe.drill.triggers import Trigger, terminal_input
from probe.drill.wall import Wall
from probe.drill.wall_view import AnswerRate, WallState
from probe.drill.watchers import Watchers, told
from probe.errors import (
    HaprobeError,
    NoFailoverError,
    PeerError,
    PrivilegeError,
    SteadyStateError,
    UsageError,
)
from probe.interrupts import interruptible

if TYPE_CHECKING:
    from probe.report.budgets import Budget

T = TypeVar("T")

POLL_GAP_S = 0.25
POLL_GAP_NS = 250_000_000


@dataclass(frozen=True, slots=True)
class DrillResult:
    """One drill that got past its trigger, and what there is to say about it."""

    document: dict[str, Any]
    path: Path  # the stored run
    problem: HaprobeError | None  # the gravest; decides the exit status
    within_budget: bool
    interrupted: bool


def drill_command(args: argparse.Namespace) -> int:
    """`haprobe drill`.

    Returns:
        Exit status: 0 done, 1 a budget failed.

    Raises:
        HaprobeError: For everything else, with its own exit status; after the lab is down and the run stored.
    """
    plan = from_args(args)
    wall = Wall(quiet=plan.quiet)
    return run_drills(plan, stage_for(plan), wall, Console(highlight=False))


def run_drills(plan: DrillPlan, stage: Stage, wall: Wall, out: Console) -> int:
    """Play a plan on a stage; `out` gets the results. See `drill_command`."""
    budgets = _load_budgets(plan)  # a mistake in the file shows before a firewall is failed over for it
    check_out(plan.out)
    trigger = stage.trigger(lambda: None)
    try:
        if plan.dry_run:
            consent.rehearse(plan, trigger, out)
            return 0
        consent.ask(plan, trigger, wall, terminal_input())
    finally:
        trigger.close()
    results: list[DrillResult] = []
    try:
        with termination_as_interrupt():
            try:
                stage.prepare(wall.say)
                for number in range(1, plan.repeat + 1):
                    if number > 1:
                        stage.renew(wall.say)
                    if plan.repeat > 1:
                        wall.say(f"drill {number} of {plan.repeat}")
                    results.append(Drill(plan, stage, wall, out, budgets, first=number == 1).run())
                    if results[-1].interrupted:
                        break
            finally:
                stage.close(wall.say)
    finally:
        if len(results) > 1:
            out.print(table(summarise(result.document for result in results), len(results)))
    for result in results:
        if result.problem is not None:
            raise result.problem
    return 0 if all(result.within_budget for result in results) else 1


class Drill:
    """One drill on a stage that is prepared.

    Args:
        plan: What to do.
        stage: Where.
        wall: Gets the progress.
        out: Gets the report.
        budgets: What the run is held to.
        first: False after `stage.renew`: people may need longer to get back to a steady state.
    """

    _clock = SystemClock()

    def __init__(
        self,
        plan: DrillPlan,
        stage: Stage,
        wall: Wall,
        out: Console,
        budgets: Sequence[Budget] = (),
        *,
        first: bool = True,
    ):
        self._plan = plan
        self._stage = stage
        self._wall = wall
        self._out = out
        self._budgets = budgets
        self._patience_ns = plan.patience_ns if first or plan.lab else max(plan.patience_ns, plan.limit_ns)
        self._last: Poll | None = None
        self._clean: Poll | None = None  # the last one before anything was lost
        self._progress: RecoveryProgress | None = None
        self._rate = AnswerRate()
        self._fired = False  # or perhaps so: a call that got no answer may have been carried out
        self._watchers: Watchers
        self._captures: dict[str, str] = {}
        self._interrupted = False  # since the trigger

    def run(self) -> DrillResult:
        """Steady state, trigger, recovery, report.

        Raises:
            PeerError: If an agent is not ready, or none could be asked for its report.
            SteadyStateError: If the flows were not clean beforehand.
        """
        with AgentPool(self._stage.endpoints()) as pool, self._wall:
            pool.wait_ready(self._stage.ready_timeout_s, self._wall.say)
            self._watchers = Watchers(pool, self._wall)
            start_ns = self._hold_steady(pool)
            self._watchers.look(self._latest())
            self._watchers.await_captures(self._polls(pool))
            self._clean = steady = self._latest()
            trigger = self._stage.trigger(lambda: self._first_loss(pool, steady))
            try:
                _check_unit(trigger, steady)
                return self._from_trigger_on(pool, trigger, start_ns)
            finally:
                try:
                    if self._fired:
                        self._undo(trigger)
                finally:
                    trigger.close()
                    self._watchers.rest()

    def _pull(self, pool: AgentPool, trigger: Trigger) -> tuple[int, str]:
        """Trigger and recovery: when it was pulled (Unix epoch ns; 0: never), and what kept it from being so."""
        self._wall.say(trigger.describe())
        trigger_ns = 0
        try:
            self._fired = trigger.outside
            trigger_ns = trigger.fire()
            self._fired = True
            self._watch_recovery(pool, trigger)
            trigger.look_back()
        except NoFailoverError as error:
            return trigger_ns, str(error)
        except (UsageError, PrivilegeError):
            self._fired = False  # refused before anything happened
            raise
        except KeyboardInterrupt:
            if not trigger_ns:
                raise
            self._interrupted = True
            self._wall.say("ending early; collecting what was measured (Ctrl-C again: do not wait for the last probes)")
        return trigger_ns, ""

    def _from_trigger_on(self, pool: AgentPool, trigger: Trigger, start_ns: int) -> DrillResult:
        trigger_ns, unfired = self._pull(pool, trigger)
        span = Span(start_ns, self._clock.wall_ns(), trigger.kind, trigger_ns)
        documents, missing = self._collect(pool, span)
        # Half a run on a disk is none; nothing in here waits for anybody.
        with interruptible(numbers=INTERRUPTS) as interrupted:
            document = self._assemble(documents, trigger, span)
            self._wall.rest()
            if not self._interrupted and not unfired:
                self._say_recovery()
            if unfired or not shows_failover(document, trigger_ns):
                unfired = unfired or trigger.failure() or _no_sign(span)
            elif trigger.failure():
                self._wall.warn(trigger.failure())
            result = self._finish(document, missing, unfired)
        return replace(result, interrupted=self._interrupted or interrupted.is_set())

    def _undo(self, trigger: Trigger) -> None:
        """Say how to undo the trigger, or do it where that was asked for; either is a result and comes through -q."""
        done = trigger.revert()
        if done:
            self._out.print(f"undone: {done}", soft_wrap=True, markup=False)
        elif trigger.undo():
            self._out.print(f"to undo it: {trigger.undo()}", soft_wrap=True, markup=False)

    # --- steady state ------------------------------------------------------------------------------------------

    def _hold_steady(self, pool: AgentPool) -> int:
        """Wait for the steady state; Unix epoch nanoseconds of its start."""
        check = SteadyState(self._plan.steady_ns)
        begun_ns = self._clock.mono_ns()
        renewed = False
        for poll in self._polls(pool):
            if not renewed:
                renewed = True
                self._renew_ended(pool, poll)
            progress = check.update(poll)
            note = progress.blemishes[0] if progress.blemishes and not progress.since_wall_ns else ""
            self._show(WallState("steady", progress.held_ns / 1e9, progress.needed_ns / 1e9, note=note), poll)
            if progress.done:
                for warning in (*clock_warnings(pool.apart()), *watcher_warnings(poll)):
                    self._wall.warn(warning)
                return progress.since_wall_ns
            waited_ns = poll.mono_ns - begun_ns
            if not progress.since_wall_ns and waited_ns > self._patience_ns:
                raise SteadyStateError(
                    f"no steady state after {waited_ns / 1e9:.0f} s, nothing was triggered:\n"
                    + "\n".join(f"  {blemish}" for blemish in progress.blemishes)
                    + "\nhaprobe preflight may tell why"
                )
        raise AssertionError("polls do not end")

    def _renew_ended(self, pool: AgentPool, poll: Poll) -> None:
        """Sessions that an earlier failover ended do not come back by themselves: begin new ones."""
        agents = {flow.agent for flow in poll.flows if over(flow, poll)}
        if not agents:
            return
        renewed, refused = pool.renew(agents)
        for agent, names in renewed.items():
            if names:
                self._wall.say(f"agent {agent}: new sessions for {', '.join(names)}")
        for error in refused.values():
            self._wall.warn(str(error))

    # --- trigger and recovery ----------------------------------------------------------------------------------

    def _first_loss(self, pool: AgentPool, steady: Poll) -> int | None:
        """For a trigger pulled by somebody else: when the first outage began, from one more poll."""
        before = self._latest().by_key
        poll = self._poll(pool)
        self._show(WallState("trigger", (poll.mono_ns - steady.mono_ns) / 1e9), poll)
        out = [
            flow
            for flow in poll.flows
            if flow.state in ("down", "ended")
            # Single losses are no failover, however long one waits for it.
            or (flow.key in before and flow.counts.lost - before[flow.key].counts.lost >= OUTAGE_PROBES)
        ]
        if not out:
            self._clean = poll
        last_ns = (flow.last_rx_ns - pool.ahead_ns(flow.agent) if flow.last_rx_ns else poll.wall_ns for flow in out)
        return min(last_ns, default=None)

    def _watch_recovery(self, pool: AgentPool, trigger: Trigger) -> None:
        """Poll until recovered, until the limit, or until the trigger is known to have failed."""
        begun_ns = self._clock.mono_ns()
        assert self._clean is not None, "triggered before the steady state"
        recovery = Recovery(self._clean, begun_ns, self._plan.validation_ns)
        for poll in self._polls(pool):
            progress = recovery.update(poll, trigger.pending())
            state = WallState(
                "recovery",
                progress.since_trigger_ns / 1e9,
                owner=progress.owner if poll.watched else None,
                silent_agents=tuple(poll.failures),
                held_s=progress.held_ns / 1e9 if progress.failover_seen else 0.0,
                needed_s=progress.needed_ns / 1e9,
            )
            self._show(state, poll)
            self._progress = progress
            if progress.done or progress.since_trigger_ns >= self._plan.limit_ns:
                return
            if trigger.failure() and not progress.failover_seen:
                return

    def _say_recovery(self) -> None:
        progress = self._progress
        if progress is None or progress.done or not progress.failover_seen:
            return
        shown = list(progress.waiting_for[:6])
        if len(progress.waiting_for) > len(shown):
            shown.append(f"and {len(progress.waiting_for) - len(shown)} more")
        what = ", ".join(shown) or "new loss again and again"
        self._wall.warn(f"not recovered {progress.since_trigger_ns / 1e9:.0f} s after the trigger: {what}")

    # --- report ------------------------------------------------------------------------------------------------

    def _collect(self, pool: AgentPool, span: Span) -> tuple[dict[str, dict[str, Any]], dict[str, PeerError]]:
        self._unless_interrupted(self._wait_settled, lambda: None)  # else it is fetched with probes still pending
        # Before the reports: what it told is in them.
        self._captures = self._unless_interrupted(lambda: self._watchers.collect(span.start_ns), dict)
        documents, missing = self._unless_interrupted(
            lambda: fetch(pool, span.start_ns, span.end_ns), lambda: pool.reported(span.start_ns, span.end_ns)
        )
        if not documents:
            raise PeerError("\n".join(str(error) for error in missing.values()))
        return documents, missing

    def _unless_interrupted(self, wait: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What a wait comes to; when it is interrupted, which the drill remembers, what there is without it."""
        try:
            return wait()
        except KeyboardInterrupt:
            self._interrupted = True
            self._wall.say("not waiting any longer; going on with what there is")
            return otherwise()

    def _assemble(self, documents: dict[str, dict[str, Any]], trigger: Trigger, span: Span) -> dict[str, Any]:
        events: list[TimelineEvent] = self._stage.events(span.start_ns)
        if span.trigger_ns and not any(event.event == "trigger" for event in events):
            events.append(trigger.event(span.trigger_ns))
        return assemble(documents, self._plan, span, events)

    def _wait_settled(self) -> None:
        begun_ns, needed_s = self._clock.mono_ns(), settle_s(self._latest())
        while (elapsed_s := (self._clock.mono_ns() - begun_ns) / 1e9) < needed_s:
            self._show(WallState("collect", elapsed_s, needed_s), self._latest())
            time.sleep(min(POLL_GAP_S, needed_s - elapsed_s))

    def _finish(self, document: dict[str, Any], missing: dict[str, PeerError], unfired: str) -> DrillResult:
        """Judge, store and print."""
        from probe.report import text
        from probe.report.budgets import check
        from probe.report.document import laws
        from probe.store.runs import store

        document["budgets"] = check([document], self._budgets)
        broken = laws(document, settled=not self._interrupted)
        try:
            path = store(document, self._plan.out, self._captures)
        finally:  # a full disk must not cost the person in front of it the result
            text.render(document, self._out)
        for line in told(self._captures):
            self._out.print(line, soft_wrap=True, markup=False)
        self._out.print(f"run stored: {path}", soft_wrap=True)
        within = all(budget["ok"] for budget in document["budgets"])
        for law in broken:
            self._wall.warn(f"the measurement contradicts itself: {law}")
        for error in missing.values():
            self._wall.warn(f"missing in this run: {error}")
        problem: HaprobeError | None = None
        if unfired:
            problem = NoFailoverError(f"{unfired} (run stored: {path})")
        elif missing:
            problem = PeerError("\n".join(str(error) for error in missing.values()))
        elif broken:
            problem = HaprobeError(
                f"{len(broken)} laws of the result document are broken, do not trust this run: {path}"
            )
        return DrillResult(document, path, problem, within, self._interrupted)

    # --- polling -----------------------------------------------------------------------------------------------

    def _polls(self, pool: AgentPool) -> Iterator[Poll]:
        """A poll now and then every POLL_GAP_S, or as fast as the agents answer."""
        next_ns = self._clock.mono_ns()
        while True:
            yield self._poll(pool)
            next_ns = max(next_ns + POLL_GAP_NS, self._clock.mono_ns())
            time.sleep(max(0, next_ns - self._clock.mono_ns()) / 1e9)

    def _poll(self, pool: AgentPool) -> Poll:
        self._last = pool.poll()
        self._watchers.prolong(self._last)
        return self._last

    def _latest(self) -> Poll:
        assert self._last is not None, "asked for before the first poll"
        return self._last

    def _show(self, state: WallState, poll: Poll) -> None:
        before = self._clean.by_key if self._clean else None
        blind = tuple(down for agent in poll.agents for down in agent.watchers_down)
        answered = self._rate.update(poll)
        self._wall.show(replace(state, flows=poll.flows, before=before, blind=blind, answered_pps=answered))


def _check_unit(trigger: Trigger, steady: Poll) -> None:
    """Taking the passive unit away is no failover: find out before, where anybody watches.

    Raises:
        SteadyStateError: If another unit than the trigger's is active.
    """
    if trigger.unit and steady.owner and steady.owner != trigger.unit:
        raise SteadyStateError(
            f"nothing was triggered: drill.trigger.unit is {trigger.unit}, but {steady.owner} is active;"
            " name that one, or fail back first"
        )


def _no_sign(span: Span) -> str:
    waited_s = (span.end_ns - span.trigger_ns) / 1e9
    return (
        f"no failover seen within {waited_s:.0f} s of the trigger ({span.trigger_kind}): no outage, and nothing moved"
    )


def _load_budgets(plan: DrillPlan) -> Sequence[Budget]:
    if plan.budget is None:
        return ()
    from probe.report.budgets import load_budgets

    return load_budgets(plan.budget)
