"""What an agent's `/api/v1/status` says, as frozen records; which flow is whose twin.

Reads the body and nothing else: no HTTP, no clock. `client` fetches it, `steady` and `recovery` judge it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probe.core.events import COUNT_NAMES, Counts

FlowKey = tuple[str, str]
"""(agent, flow name): what is unique over several agents."""

DEFAULT_LOSS_THRESHOLD_NS = 2_000_000_000
"""A flow's waiting time where its status does not tell (config default; RFC 6412, section 3.7.6 asks to report it)."""


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """One flow as its agent saw it when it answered."""

    agent: str
    name: str
    protocol: str
    session: str
    path: str
    target: str
    state: str  # connecting | up | suspect | down | ended
    detail: str
    interval_ns: int
    last_rx_ns: int  # Unix epoch, by the agent's clock; 0 when nothing was received yet
    counts: Counts
    loss_threshold_ns: int = DEFAULT_LOSS_THRESHOLD_NS
    stack: str = "packet"  # kernel: a stream
    outages: int = 0  # so far
    stalls: int = 0  # of a stream, so far
    silent_ns: int = 0  # since its last reply, when the agent answered; 0 when nothing was received yet

    @property
    def kind(self) -> str:
        """Its protocol, a stream being one of its own."""
        return "stream" if self.stack == "kernel" else self.protocol

    @property
    def key(self) -> FlowKey:
        """What names this flow among those of all agents."""
        return (self.agent, self.name)

    @property
    def up(self) -> bool:
        """Whether probes are answered now. A suspect flow is not up: its latest probes are overdue."""
        return self.state == "up"


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """One answer of one agent."""

    agent: str  # the name the drill knows it by
    now_ns: int  # Unix epoch, by the clock of everything that the agent measures; 0: not told
    ready: bool
    not_ready: str
    flows: tuple[FlowStatus, ...]
    active_units: tuple[str, ...] = ()  # of its watchers that are up; "" while a watcher sees a failover under way
    watchers_down: tuple[str, ...] = ()  # "aws: timeout"
    watcher_notes: tuple[str, ...] = ()  # "fgt-a: ssh: ...", of watchers that are up
    watchers: tuple[str, ...] = ()  # names
    connecting: tuple[str, ...] = ()  # units whose awsd is about to be captured


@dataclass(frozen=True, slots=True)
class Poll:
    """One round over all agents."""

    mono_ns: int
    wall_ns: int
    agents: tuple[AgentStatus, ...]
    failures: Mapping[str, str] = field(default_factory=dict)  # agent to why it did not answer

    @property
    def flows(self) -> tuple[FlowStatus, ...]:
        """Flows of every agent that answered."""
        return tuple(flow for agent in self.agents for flow in agent.flows)

    @property
    def by_key(self) -> dict[FlowKey, FlowStatus]:
        """The same, by key."""
        return {flow.key: flow for flow in self.flows}

    @property
    def owner(self) -> str:
        """The unit that AWS (or the firewalls) call active; "" when unknown or when watchers disagree."""
        units = {unit for agent in self.agents for unit in agent.active_units}
        return units.pop() if len(units) == 1 else ""

    @property
    def watched(self) -> bool:
        """Whether any watcher answers at all, so that an empty `owner` means a failover under way."""
        return any(agent.active_units for agent in self.agents)


def parse(agent: str, body: Any) -> AgentStatus:
    """Read the body of `/api/v1/status`.

    Args:
        agent: The name the drill gave this agent; it wins over the one in the body, so that a message names
            what the user wrote.
        body: The decoded JSON.

    Raises:
        ValueError: If this is not a status.
    """
    if not isinstance(body, dict) or not isinstance(body.get("flows"), list):
        raise ValueError("no `flows` in it")
    try:
        now_ns = int(body.get("now_ns", 0))
        flows = tuple(_flow(agent, flow, now_ns) for flow in body["flows"])
        watchers = body.get("watchers") or []
        return AgentStatus(
            agent=agent,
            now_ns=now_ns,
            ready=bool(body.get("ready", True)),
            not_ready=str(body.get("not_ready") or ""),
            flows=flows,
            active_units=tuple(str(w.get("active_unit") or "") for w in watchers if w.get("up")),
            watchers_down=tuple(
                f"{w.get('name')}: {w.get('reason') or 'unknown'}" for w in watchers if not w.get("up")
            ),
            watcher_notes=tuple(_notes(watchers)),
            watchers=tuple(str(w.get("name")) for w in watchers),
            connecting=tuple(
                str(c.get("unit"))
                for c in _captures(watchers)
                if c.get("state") == "connecting" and not c.get("reason")
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _captures(watchers: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return (capture for watcher in watchers for capture in watcher.get("captures") or ())


def _notes(watchers: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What is wrong with watchers that are up."""
    yield from (str(note) for watcher in watchers for note in watcher.get("notes") or ())
    for capture in _captures(watchers):
        if capture.get("reason"):
            yield f"awsd of {capture.get('unit')} is not captured: {capture['reason']}"


def _flow(agent: str, body: Mapping[str, Any], now_ns: int) -> FlowStatus:
    counts = body.get("counts") or {}
    last_rx_ns = int(body.get("last_rx_ns") or 0)
    return FlowStatus(
        agent=agent,
        name=str(body["name"]),
        protocol=str(body["protocol"]),
        session=str(body["session"]),
        path=str(body.get("path") or ""),
        target=str(body.get("target") or ""),
        state=str(body["state"]),
        detail=str(body.get("detail") or ""),
        interval_ns=int(body.get("interval_ns") or 0),
        last_rx_ns=last_rx_ns,
        counts=Counts(**{name: int(counts.get(name, 0)) for name in COUNT_NAMES}),
        loss_threshold_ns=int(body.get("loss_threshold_ns") or DEFAULT_LOSS_THRESHOLD_NS),
        stack=str(body.get("stack") or "packet"),
        outages=int(body.get("outages") or 0),
        stalls=int(body.get("stalls") or 0),
        silent_ns=max(0, now_ns - last_rx_ns) if last_rx_ns else 0,
    )


def twins(flows: Iterable[FlowStatus]) -> dict[FlowKey, FlowKey]:
    """Which fresh flow tells whether the way of a kept flow is open, and the other way round.

    A twin is found by name first (NAME and NAME-fresh, what `session: both` makes), else by the same agent,
    path, protocol and target with the opposite session. A flow without a twin is not in the answer.
    """
    flows = list(flows)
    by_key = {flow.key: flow for flow in flows}
    by_traits: dict[tuple[str, ...], FlowKey] = {}
    for flow in flows:
        by_traits.setdefault((flow.agent, flow.path, flow.protocol, flow.target, flow.session), flow.key)
    found: dict[FlowKey, FlowKey] = {}
    for flow in flows:
        opposite = "fresh" if flow.session == "kept" else "kept"
        named = f"{flow.name}-fresh" if flow.session == "kept" else flow.name.removesuffix("-fresh")
        by_name = by_key.get((flow.agent, named))
        if by_name is not None and by_name.session == opposite:
            found[flow.key] = by_name.key
            continue
        by_trait = by_traits.get((flow.agent, flow.path, flow.protocol, flow.target, opposite))
        if by_trait is not None:
            found[flow.key] = by_trait
    return found
