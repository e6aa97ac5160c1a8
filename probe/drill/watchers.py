"""What a drill wants of the agents' watchers: a close look while it lasts, and what they captured.

An agent that will not take part is a warning, never the end of the drill: the probes measure without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from probe.drill.client import AgentPool
from probe.drill.status import Poll
from probe.drill.wall import Wall

LOOK_S = 60
"""A look that nobody prolongs ends by itself: a drill that was killed must not leave watchers at their fast pace."""
PROLONGED_NS = 20_000_000_000
CAPTURE_PATIENCE_NS = 10_000_000_000
"""For a FortiGate to let us in, before the trigger is pulled without."""


class Watchers:
    """The watchers of one drill's agents.

    Args:
        pool: The agents.
        wall: Gets the warnings.
    """

    def __init__(self, pool: AgentPool, wall: Wall):
        self._pool = pool
        self._wall = wall
        self._asked_ns: int | None = None
        self._capturing: set[str] = set()  # agents that watch FortiGates
        self._warned: set[str] = set()

    def look(self, poll: Poll) -> None:
        """Have them look closely: poll fast (which costs calls: not before it is needed), and capture awsd's output."""
        self._asked_ns = poll.mono_ns
        watching = {agent.agent for agent in poll.agents if agent.watchers}
        self._capturing |= {agent.agent for agent in poll.agents if "fortigate" in agent.watchers}
        if watching:
            self._warn(self._pool.watch(watching, LOOK_S))

    def prolong(self, poll: Poll) -> None:
        """To be called with every poll: a look goes on before it ends by itself."""
        if self._asked_ns is not None and poll.mono_ns - self._asked_ns >= PROLONGED_NS:
            self.look(poll)

    def await_captures(self, polls: Iterator[Poll]) -> None:
        """Wait for sessions that are being set up: what awsd prints before is printed to nobody."""
        if not self._capturing:
            return
        begun_ns = None
        for poll in polls:
            begun_ns = poll.mono_ns if begun_ns is None else begun_ns
            units = [unit for agent in poll.agents for unit in agent.connecting]
            if not units:
                for agent in poll.agents:
                    for note in agent.watcher_notes:
                        self._wall.warn(f"agent {agent.agent}: {note}")
                break
            if poll.mono_ns - begun_ns > CAPTURE_PATIENCE_NS:
                self._wall.warn(f"awsd of {', '.join(units)} is not captured yet; going on without waiting for it")
                break

    def collect(self, since_ns: int) -> dict[str, str]:
        """End the captures and fetch them: text by file name."""
        if not self._capturing:
            return {}
        agents, self._capturing = self._capturing, set()
        self._warn(self._pool.watch(agents, 0))
        found, missing = self._pool.captures(agents, since_ns)
        self._warn(missing)
        files: dict[str, str] = {}
        for captures in found.values():
            for one in captures:
                files[_free_name(one["unit"], files)] = one["text"]
        return files

    def rest(self) -> None:
        """End captures that nobody collected."""
        if self._capturing:
            self._pool.watch(self._capturing, 0)
            self._capturing = set()

    def _warn(self, refused: Mapping[str, object]) -> None:
        for agent, error in refused.items():
            if agent not in self._warned:
                self._warned.add(agent)
                self._wall.warn(f"{error}; the timeline may lack what its watcher would have told")


def told(captures: Mapping[str, str]) -> Iterable[str]:
    """One line per captured file: what it comes to."""
    from probe.watch.awsd import read
    from probe.watch.awsd_summary import summarise

    for name, text in captures.items():
        yield f"{name}: {summarise(read(text)).sentence}"


def _free_name(unit: str, taken: Mapping[str, str]) -> str:
    number = 1
    while (name := f"awsd-{unit}{'' if number == 1 else f'-{number}'}.log") in taken:
        number += 1
    return name
