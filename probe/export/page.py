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

from probe.export.view import AgentView, FlowSnapshot

OUTAGES_SHOWN = 20
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
    status = view.status()
    ready, not_ready = view.ready()
    flows = sorted(view.flows(), key=lambda flow: (flow.path, _WORST_FIRST.get(flow.state, 9), flow.name))
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
