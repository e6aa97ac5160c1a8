"""The landing page: one self-contained document with live flow states and the last outages.

The live part is rendered by the same template for the first view and for every refresh, so that the page says the
same with and without JavaScript. States are told by word and sign, and by colour only on top.
"""

from __future__ import annotations

import functools
import secrets
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np

from probe.export.flow_text import FLOW_STATES
from probe.export.view import AgentView, FlowSnapshot, FlowTable

OUTAGES_SHOWN = 20
FLOWS_SHOWN = 250
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
_WORST_FIRST = {state: rank for rank, state in enumerate(("down", "suspect", "connecting", "ended", "up"))}
_RANKS = np.array([_WORST_FIRST[state] for state in FLOW_STATES])


def render_page(view: AgentView) -> tuple[str, str]:
    """The whole page, and the Content-Security-Policy to send with it."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return _templates().get_template("page.html").render(nonce=nonce, **_content(view)), policy


def render_live(view: AgentView) -> str:
    """The part of the page that is refreshed."""
    return _templates().get_template("live.html").render(**_content(view))


def _content(view: AgentView) -> dict[str, Any]:
    about = view.about()
    ready, not_ready = view.ready()
    table = view.table()
    flows = sorted(view.flows(_worst(table)), key=lambda flow: (flow.path, _WORST_FIRST.get(flow.state, 9), flow.name))
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
        "flows_up": int((table.told["state"] == FLOW_STATES.index("up")).sum()),
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


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("probe.export"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(utc=utc, duration=duration, loss=loss)
    return made
