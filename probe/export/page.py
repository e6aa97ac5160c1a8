"""The landing page: one self-contained document with live flow states and the last outages.

The live part is rendered by the same template for the first view and for every refresh, so that the page says the
same with and without JavaScript. States are told by word and sign, and by colour only on top. What is not up comes
first; of many flows the rest is folded away by path, and a refresh leaves the rows of closed folds out.
"""

from __future__ import annotations

import functools
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from probe.core.events import COUNT_NAMES
from probe.export.flow_text import FLOW_STATES
from probe.export.view import AgentView, FlowSnapshot, FlowTable, RemoteWriteSnapshot

OUTAGES_SHOWN = 20
GROUPED_ABOVE = 24  # flows; fewer are one table
NOT_UP_SHOWN = 20
FLOWS_SHOWN = 400
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
_RANKS = np.array([_WORST_FIRST[state] for state in FLOW_STATES])


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
    """The flows of one path that are shown, worst first, and how many of it are in each state."""

    flows: list[FlowSnapshot]
    states: dict[str, int]


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


def states(codes: npt.NDArray[np.integer[Any]]) -> dict[str, int]:
    """Flows in each state that occurs, by its number in FLOW_STATES; the worst state first."""
    counted = {FLOW_STATES[code]: n for code, n in enumerate(np.bincount(codes).tolist()) if n}
    return dict(sorted(counted.items(), key=lambda item: _rank(item[0])))


def _rank(state: str) -> int:
    return _WORST_FIRST.get(state, 9)


def _health(view: AgentView, table: FlowTable) -> Health:
    sums = dict(zip(COUNT_NAMES, table.counts.sum(axis=0).tolist(), strict=True))
    return Health(
        rate=float((1e9 / table.interval_ns[table.interval_ns > 0]).sum()),
        received=sums["received"] + sums["late"],
        lost=sums["lost"],
        unsent=sums["unsent"],
        dropped=sums["dropped_locally"],
        unobserved_s=float(table.told["unobserved_s"].sum()),
        clock_ns=view.clock_max_error_ns(),
        remote=view.remote_write(),
    )


def _content(view: AgentView) -> dict[str, Any]:
    about = view.about()
    ready, not_ready = view.ready()
    table = view.table()
    flows = sorted(view.flows(_worst(table)), key=lambda flow: (_rank(flow.state), flow.path, flow.name))
    groups: dict[str, list[FlowSnapshot]] = {}
    if len(table.flows) > GROUPED_ABOVE:
        for flow in flows:
            groups.setdefault(flow.path, []).append(flow)
    state_of = table.told["state"]
    path_of = np.array([path for *_, path in table.flows])
    counted = states(state_of)
    return {
        "agent": about["agent"],
        "host": about["host"],
        "version": view.version,
        "now_ns": about["now_ns"],
        "started_ns": about["started_ns"],
        "ready": ready,
        "not_ready": not_ready,
        "flows": flows,
        "flows_all": len(table.flows),
        "flows_up": counted.get("up", 0),
        "states": counted,
        "health": _health(view, table),
        "grouped": {path: Group(members, states(state_of[path_of == path])) for path, members in groups.items()},
        "not_up": [flow for flow in flows if flow.state != "up"],
        "not_up_all": len(table.flows) - counted.get("up", 0),
        "not_up_shown": NOT_UP_SHOWN,
        "watchers": view.watchers(),
        "outages": view.last_outages(OUTAGES_SHOWN),
        "outages_shown": OUTAGES_SHOWN,
        "state_signs": STATE_SIGNS,
        "verdict_signs": VERDICT_SIGNS,
    }


def _worst(table: FlowTable) -> set[str]:
    """The names of the flows to show: those in the worst states, the first ones among equals."""
    rows = np.argsort(_RANKS[table.told["state"]], kind="stable")[:FLOWS_SHOWN]
    return {table.flows[row][0] for row in rows.tolist()}


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
