"""When an agent has its watchers look closely: from the first suspicion until recovery has held, and when told."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from probe.agent import Agent
from probe.clock import ManualClock
from probe.core.events import TimelineEvent
from probe.watch.poller import Vigil

S = 1_000_000_000


class Watcher:
    def __init__(self) -> None:
        self.until_ns = 0

    def arm(self, until_ns: int) -> None:
        self.until_ns = max(self.until_ns, until_ns)


class FortigateWatcher(Watcher):
    def __init__(self) -> None:
        super().__init__()
        self.captured_until_ns = 0

    def capture(self, until_ns: int) -> None:
        self.captured_until_ns = until_ns

    def end_captures(self) -> None:
        self.captured_until_ns = 0


@pytest.fixture
def agent() -> Agent:
    """The few parts of an agent that have to do with it, without sockets and processes."""
    bare: Any = object.__new__(Agent)
    bare._clock = ManualClock()
    bare._vigil = Vigil()
    bare._aws = Watcher()
    bare._fortigate = FortigateWatcher()
    bare._reflector = bare._echo = None
    bare._prober = SimpleNamespace(
        recorder=SimpleNamespace(sample=lambda: None),
        engine=SimpleNamespace(check=lambda: None, shared=SimpleNamespace(clock_step_ns=lambda: bare.step_ns)),
    )
    bare.step_ns = bare._told_step_ns = bare._anchor = 0
    bare._tables = SimpleNamespace(renew=lambda tracks: None)
    bare._ordered = lambda: bare.tracks
    bare.tracks = [SimpleNamespace(spec=SimpleNamespace(name=name), state="up") for name in ("a", "b")]
    return bare  # type: ignore[no-any-return]


def test_a_watcher_that_a_reload_takes_away_is_blind_no_more(agent: Any) -> None:
    agent._lock, agent._remote = threading.RLock(), None
    agent._journal = SimpleNamespace(append=lambda *_, **__: None)
    agent._listeners, agent._events = [], []
    agent._watching = lambda: []
    agent._start_watchers = lambda: None
    agent._watched(TimelineEvent(5, "aws", "watcher_down", 0, {"watcher": "aws", "reason": "x"}))
    agent._watched(TimelineEvent(6, "fortigate", "watcher_down", 0, {"watcher": "fortigate", "reason": "x"}))
    agent._watched(TimelineEvent(7, "fortigate", "watcher_up", 0, {"watcher": "fortigate", "reason": ""}))
    agent._clock.advance(S)
    agent._change_watchers(None)
    [*_, last] = agent._events
    assert (last.event, last.detail["watcher"], last.at_ns) == ("watcher_up", "aws", agent._clock.mono)
    assert len(agent._events) == 4
    agent._change_watchers(None)
    assert len(agent._events) == 4


def test_a_clock_that_is_set_is_told_once_and_widens_the_bound(agent: Any, caplog: pytest.LogCaptureFixture) -> None:
    agent._anchor = 5 * S
    before, bound = agent._now_ns(), agent.clock_max_error_ns()
    agent.sample()
    agent._clock.step_wall(8 * S)
    agent.step_ns = 8 * S
    for _ in range(3):
        agent.sample()
    assert caplog.text.count("the clock was set by +8.000 s") == 1
    assert agent._now_ns() == before, "on the clock of what it has measured"
    assert agent.clock_max_error_ns() >= 8 * S + (bound or 0) - S


def test_while_anything_is_dark_and_until_recovery_has_held(agent: Any) -> None:
    clock, watcher = agent._clock, agent._aws
    agent.sample()
    assert watcher.until_ns == 0
    agent.tracks[0].state = "suspect"
    agent.sample()
    assert watcher.until_ns == clock.mono_ns() + 10 * S
    agent.tracks[0].state = "down"
    for _ in range(480):  # two minutes: longer than any fixed time of the watcher
        clock.advance(S // 4)
        agent.sample()
    assert watcher.until_ns == clock.mono_ns() + 10 * S
    agent.tracks[0].state = "up"
    clock.advance(S)
    agent.sample()
    assert watcher.until_ns == clock.mono_ns() + 9 * S, "and no longer than recovery takes to count"
    assert agent._fortigate.until_ns == watcher.until_ns
    assert agent._fortigate.captured_until_ns == 0, "only for a drill is somebody logged in"


def test_a_drill_may_ask_for_it_and_no_watcher_is_fine(agent: Any) -> None:
    agent.watch(60)
    until_ns = agent._clock.mono_ns() + 60 * S
    assert (agent._aws.until_ns, agent._fortigate.until_ns) == (until_ns, until_ns)
    assert agent._fortigate.captured_until_ns == until_ns
    agent.watch(0)
    assert agent._fortigate.captured_until_ns == 0
    agent._aws = agent._fortigate = None
    agent.watch(60)
    agent.tracks[0].state = "down"
    agent.sample()


def ready(agent: Any, reason: str, age_s: float = 0) -> bool:
    agent._begun = True
    agent._started_ns = agent._now_ns() - round(age_s * S)
    agent._ordered = list
    agent.watchers = lambda: [SimpleNamespace(name="aws", reason=reason)]
    return bool(agent.ready()[0])


def test_an_agent_waits_for_a_watchers_first_answer_but_not_for_one_that_cannot_see(agent: Any) -> None:
    assert not ready(agent, "no answer yet")
    assert ready(agent, ""), "answered"
    assert ready(agent, "UnauthorizedOperation (DescribeAddresses)"), "failed, and says so"
    assert ready(agent, "no answer yet", age_s=11), "its question hangs"
