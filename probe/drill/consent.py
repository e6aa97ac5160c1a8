"""Before something outside the lab is changed: say what, say how to undo it, and let a person decide."""

from __future__ import annotations

from typing import IO

from rich.console import Console

from probe.drill.plan import DrillPlan, S
from probe.drill.triggers import Trigger
from probe.drill.wall import Wall
from probe.errors import UsageError

_YES = frozenset({"y", "yes"})


def ask(plan: DrillPlan, trigger: Trigger, wall: Wall, terminal: IO[str] | None) -> None:
    """Get consent to what a trigger will do, if it takes any.

    Args:
        plan: Says whether consent was given on the command line.
        trigger: What is to be fired, as often as the plan repeats it.
        wall: Where the question is put; it comes through `-q` as well.
        terminal: Where the answer comes from; None: nobody is there to ask.

    Raises:
        UsageError: Without consent. Nothing has been changed by then.
    """
    if not trigger.outside or plan.yes or (terminal is None and trigger.unattended):
        return
    times = f", {plan.repeat} times" if plan.repeat > 1 else ""
    if terminal is None:
        raise UsageError(
            f"this drill changes something outside the lab ({trigger.describe()}{times});"
            " give --yes if that is wanted, or --dry-run to see more"
        )
    wall.warn(f"this drill changes something outside the lab: {trigger.describe()}{times}")
    wall.warn(f"undo: {trigger.undo()}")
    wall.warn("go on? [y/N]")
    if terminal.readline().strip().lower() not in _YES:
        raise UsageError("not confirmed; nothing was changed")


def rehearse(plan: DrillPlan, trigger: Trigger, out: Console) -> None:
    """`--dry-run`: what would be done, what can be found out about it without changing anything, and how to undo it.

    Raises:
        HaprobeError: If it could not be done.
    """
    lines = [f"agents: {', '.join(f'{agent.name} ({agent.url})' for agent in plan.agents)}"] if plan.agents else []
    if plan.lab is not None:
        lines.append(
            f"a lab of network namespaces is raised for it and {'stays' if plan.keep_lab else 'goes'} afterwards"
        )
    lines += [
        f"steady state for {plan.steady_ns / S:g} s before anything is touched",
        f"then: {trigger.describe()}" + (f", {plan.repeat} times" if plan.repeat > 1 else ""),
        f"then: recovery that holds for {plan.validation_ns / S:g} s, for up to {plan.limit_ns / S:g} s",
    ]
    if plan.settings is not None and plan.settings.undo:
        lines.append(f"then: {trigger.undo()}")
    elif trigger.undo():
        lines.append(f"undo, left to you: {trigger.undo()}")
    found = trigger.rehearse()
    lines += [f"checked: {found}"] if found else []
    for line in (*lines, "dry run: nothing was changed"):
        out.print(line, soft_wrap=True, markup=False)
