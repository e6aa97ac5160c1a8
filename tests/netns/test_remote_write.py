"""An agent's outages in a real Prometheus, to the millisecond: over a kill of the one, and of the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probe.lab import namespace
from tests.export.prometheus import Prometheus, needs_prometheus

from .test_agent import config, make_outage
from .triple import NETNS, Agent, Run, Triple, inside, wait_for

pytestmark = [pytest.mark.netns, needs_prometheus]
MS = 1_000_000


@pytest.fixture
def prometheus(triple: Triple, tmp_path: Path) -> Iterator[Prometheus]:
    """On the loopback of the sender's namespace."""
    near = partial(namespace.inside, NETNS / triple.sender)
    server = Prometheus(tmp_path / "prometheus", wrap=inside(triple.sender, []), near=near)
    server.start()
    yield server
    server.kill()


def edges(prometheus: Prometheus) -> list[tuple[int, int]]:
    """Start and end of every outage of the flow `udp` on its way out, in ms."""
    series = prometheus.samples('haprobe_flow_state{flow="udp",direction="forward"}[30m]')
    (samples,) = series.values() or [[]]
    found, start = [], None
    for at, value in samples:
        if value == 0 and start is None:
            start = at
        elif value != 0 and start is not None:
            found.append((start, at))
            start = None
    return found


def in_ms(outages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(o["start_ns"] // MS, o["end_ns"] // MS) for o in outages]


def test_every_outage_is_read_back_at_its_millisecond(
    triple: Triple, reflector: Run, prometheus: Prometheus, tmp_path: Path
):
    agent: Agent = triple.agent(tmp_path)
    remote = {"url": f"{prometheus.url}/api/v1/write", "send_interval": "200ms", "lag": "500ms"}
    agent.configure(config({"name": "udp", "protocol": "udp"}, remote_write=remote))
    agent.start().wait_ready()
    outages = [make_outage(agent, triple)]
    wait_for(lambda: edges(prometheus) == in_ms(outages), 30, "for the first outage")
    (samples,) = prometheus.samples('haprobe_flow_state{direction="forward"}[5m]').values()
    assert samples[0][1] == 1  # up before it
    prometheus.kill()
    outages.append(make_outage(agent, triple))
    wait_for(lambda: agent.get("/api/v1/status")["remote_write"]["reason"], 30, "for a refused request")
    agent.kill()
    prometheus.start()
    agent.start().wait_ready()
    outages.append(make_outage(agent, triple))
    wait_for(lambda: edges(prometheus) == in_ms(outages), 30, f"for all three: {in_ms(outages)}")
    lengths = prometheus.samples('haprobe_flow_outage_seconds{bound="estimate"}[30m]')
    assert [[value for _, value in values] for values in lengths.values()] == [
        [o["duration_ns"]["estimate"] / 1e9 for o in outages]
    ]
    state = agent.get("/api/v1/status")["remote_write"]
    assert (state["refused"], state["dropped"], state["revised"]) == (0, 0, 0)
    assert agent.stop() == 0
