"""The landing page: one self-contained document with live flow states and the last outages.

The live part is rendered by the same template for the first view and for every refresh, so that the page says the
same with and without JavaScript. States are told by word and sign, and by colour only on top. What is not up comes
first; of many flows the rest is folded away by path, and a refresh leaves the rows of closed folds out.
"""

from __future__ import annotations

import functools
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2

from probe.export.view import AgentView, FlowSnapshot, RemoteWriteSnapshot

OUTAGES_SHOWN = 20
GROUPED_ABOVE = 24  # flows; fewer are one table
NOT_UP_SHOWN = 20
# Sign of each flow state; shapes differ, not only colours.
STATE_SIGNS = {"up": "●", "suspect": "◐", "down": "✖", "connecting": "…", "ended": "■"}
VERDICT_SIGNS = {
    "unaffected": "✔",
    "survived": "✔",
    "lost": "✖",
    "reset": "✖",
    "dark": "✖",
    "half": "◐",
    "rebound": "↻",
    "unobserved": "?",
}
_WORST_FIRST = {state: rank for rank, state in enumerate(("down", "ended", "suspect", "connecting", "up"))}


def render_page(view: AgentView) -> tuple[str, str]:
    """The whole page, and the Content-Security-Policy to send with it."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return _templates().get_template("page.html").render(nonce=nonce, whole=True, **_content(view)), policy


def render_live(view: AgentView, *, whole: bool = True) -> str:
    """The part of the page that is refreshed; `whole` False: without the rows that are folded away."""
    return _templates().get_template("live.html").render(**_content(view), whole=whole)


@dataclass(frozen=True, slots=True)
class Group:
    """The flows of one path, worst first, and how many are in each state."""

    flows: list[FlowSnapshot]

    @property
    def states(self) -> dict[str, int]:
        return states(self.flows)


@dataclass(frozen=True, slots=True)
class Health:
    """What all flows of this host have in common, summed over them."""

    rate: float  # probes per second, as configured
    received: int
    lost: int
    unsent: int
    dropped: int
    unobserved_s: float
    clock_ns: int | None
    remote: RemoteWriteSnapshot | None


def states(flows: Iterable[FlowSnapshot]) -> dict[str, int]:
    """Flows in each state that occurs, the worst state first."""
    counted = Counter(flow.state for flow in flows)
    return dict(sorted(counted.items(), key=lambda item: _rank(item[0])))


def _rank(state: str) -> int:
    return _WORST_FIRST.get(state, 9)


def _health(view: AgentView, flows: Sequence[FlowSnapshot]) -> Health:
    return Health(
        rate=sum(map(rate_of, flows)),
        received=sum(flow.counts.received + flow.counts.late for flow in flows),
        lost=sum(flow.counts.lost for flow in flows),
        unsent=sum(flow.counts.unsent for flow in flows),
        dropped=sum(flow.counts.dropped_locally for flow in flows),
        unobserved_s=sum(flow.unobserved_seconds_total for flow in flows),
        clock_ns=view.clock_max_error_ns(),
        remote=view.remote_write(),
    )


def _content(view: AgentView) -> dict[str, Any]:
    status = view.status()
    ready, not_ready = view.ready()
    flows = sorted(view.flows(), key=lambda flow: (_rank(flow.state), flow.path, flow.name))
    groups: dict[str, list[FlowSnapshot]] = {}
    if len(flows) > GROUPED_ABOVE:
        for flow in flows:
            groups.setdefault(flow.path, []).append(flow)
    return {
        "agent": status.get("agent", ""),
        "host": status.get("host", ""),
        "version": view.version,
        "now_ns": status.get("now_ns", 0),
        "started_ns": status.get("started_ns", 0),
        "ready": ready,
        "not_ready": not_ready,
        "flows": flows,
        "flows_up": sum(flow.state == "up" for flow in flows),
        "states": states(flows),
        "health": _health(view, flows),
        "grouped": {path: Group(members) for path, members in groups.items()},
        "not_up": [flow for flow in flows if flow.state != "up"],
        "not_up_shown": NOT_UP_SHOWN,
        "watchers": view.watchers(),
        "outages": view.outages()[: -OUTAGES_SHOWN - 1 : -1],
        "outages_shown": OUTAGES_SHOWN,
        "state_signs": STATE_SIGNS,
        "verdict_signs": VERDICT_SIGNS,
    }


def utc(ns: int) -> str:
    """Epoch nanoseconds as `2026-11-22 12:00:00.123`, UTC; a dash for 0, which stands for never."""
    if not ns:
        return "–"
    # Integer arithmetic: a float of today's epoch would already round the milliseconds of some instants.
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // 1_000_000:03d}"


def duration(ns: int) -> str:
    """Nanoseconds in the unit that reads best, to the microsecond below a second, else to the millisecond."""
    if ns < 1_000_000:
        return f"{ns / 1_000:.0f} µs"
    if ns < 1_000_000_000:
        return f"{ns / 1_000_000:.1f} ms"
    return f"{ns / 1_000_000_000:.3f} s"


def loss(flow: FlowSnapshot) -> str:
    """Lost share of the probes whose fate is known."""
    settled = flow.counts.received + flow.counts.late + flow.counts.lost
    return f"{flow.counts.lost / settled:.2%}" if settled else "–"


def rate_of(flow: FlowSnapshot) -> float:
    """Probes per second, as configured."""
    return 1e9 / flow.interval_ns if flow.interval_ns else 0.0


def rate(flow: FlowSnapshot) -> str:
    """The same in words: whole above ten, else with what matters behind the point."""
    per_s = rate_of(flow)
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.3g}"


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("probe.export"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(utc=utc, duration=duration, loss=loss, rate=rate)
    return made
