"""Agents' clocks beside the drill's: how far apart they are, and an agent's times on the drill's clock.

An agent says what its clock shows (`now_ns` of its status) somewhere between our question and its answer. Clocks that
are kept agree within that, and then nothing is moved: what the agents themselves know of their clocks is the better
bound. A clock that is certainly off would tear an outage from the trigger that caused it: its times are moved onto
ours, where the trigger is, and their bound is then that of our clock and of the comparison.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probe.timesync import HostClock

APART_NS = 10_000_000
"""Nearer than this, clocks count as one: hosts that keep theirs agree to milliseconds."""
LOOKED_BACK = 40
"""Comparisons of which the tightest counts: some 10 s of polls, so that an agent that restarts is known anew."""
DRIFT = 500e-6
"""By how much two clocks may diverge, in seconds a second: as the kernel reckons (struct timex, maxerror)."""
LONGEST_NS = 10**18
"""No duration: 31 years. What is larger is an instant of the Unix epoch."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """An agent's clock against ours."""

    ahead_ns: int  # its clock less ours
    error_ns: int  # the true difference is within this of it
    at_ns: int  # when they were compared, Unix epoch of our clock

    @property
    def certain(self) -> bool:
        """Whether the clocks surely disagree by more than counts."""
        return abs(self.ahead_ns) - self.error_ns > APART_NS


def compared(asked_ns: int, took_ns: int, told_ns: int) -> ClockOffset:
    """What one question tells.

    Args:
        asked_ns: When it was asked, by our clock.
        took_ns: Until the answer had come.
        told_ns: What the agent's clock showed meanwhile.
    """
    middle_ns = asked_ns + took_ns // 2
    return ClockOffset(told_ns - middle_ns, took_ns - took_ns // 2, middle_ns)


class Offsets:
    """The newest comparisons of each agent."""

    def __init__(self) -> None:
        self._found: dict[str, deque[ClockOffset]] = defaultdict(lambda: deque(maxlen=LOOKED_BACK))

    def add(self, agent: str, offset: ClockOffset) -> None:
        """One more comparison."""
        self._found[agent].append(offset)

    def apart(self) -> dict[str, ClockOffset]:
        """Agents whose clock certainly is another than ours, each with its tightest comparison."""
        tightest = {agent: min(found, key=lambda one: one.error_ns) for agent, found in self._found.items()}
        return {agent: offset for agent, offset in tightest.items() if offset.certain}


def placed(document: Mapping[str, Any], offset: ClockOffset, ours: HostClock) -> dict[str, Any]:
    """An agent's result document with its times on our clock.

    Args:
        document: As the agent told it.
        offset: Its clock's.
        ours: What is known of our own.

    Returns:
        The same, moved, with `run.clock` as it then is; that also says by how much (`offset_ns`, what its clock was
        ahead). As it was: what the reflectors' and firewalls' clocks say, and the config.
    """
    by_ns = -offset.ahead_ns
    run = dict(document.get("run") or {})
    moved = {name: _moved(part, by_ns) for name, part in document.items() if name != "run"}
    moved_run = {name: part if name == "config" else _moved(part, by_ns) for name, part in run.items()}
    edges = [moved_run.get(edge, offset.at_ns) for edge in ("started_ns", "ended_ns")]
    error_ns = offset.error_ns + round(max(abs(edge - offset.at_ns) for edge in edges) * DRIFT)
    clock = {**ours.to_document(), "max_error_ns": ours.error_ns + error_ns}
    moved_run["clock"] = {**clock, "offset_ns": offset.ahead_ns, "offset_error_ns": error_ns}
    return {**moved, "run": moved_run}


def _moved(value: Any, by_ns: int) -> Any:
    """Every instant in it, moved."""
    if isinstance(value, dict):
        if _by_unit(value):
            return value
        return {key: one if str(key).startswith("reflector_") else _moved(one, by_ns) for key, one in value.items()}
    if isinstance(value, list):
        return [_moved(one, by_ns) for one in value]
    return value + by_ns if isinstance(value, int) and value > LONGEST_NS else value


def _by_unit(value: Mapping[str, Any]) -> bool:
    """Whether it is an event that a firewall's clock tells the time of."""
    detail = value.get("detail")
    return isinstance(detail, dict) and detail.get("clock") == "unit"
