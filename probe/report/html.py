"""The report as one self-contained page: no network, no script needed to read it, everything escaped.

The page carries a content security policy that allows its own style and script by hash and nothing else, so that
a hostile name in a document can at worst look odd.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from probe.core.verdict import shown
from probe.report import listing
from probe.report import phrases as say
from probe.report.drawing import LABEL_ROW, LANE, draw
from probe.report.endings import endings
from probe.report.questions import answers


def render(document: Mapping[str, Any]) -> str:
    """The page of a complete result document."""
    lines = say.timeline_lines(document)
    drawn = [line for line in lines if line.event in say.HA_EVENTS]
    numbers = dict(enumerate(drawn, 1))
    protocols, rows = say.matrix_rows(document)
    style, script = asset("report.css"), asset("report.js")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            run=document["run"],
            headline=say.headline(document),
            protocols=protocols,
            rows=rows,
            drawing=draw(document, numbers),
            sizes={"lane": LANE, "label": LABEL_ROW},
            listing=listing,
            scale=listing.delays(document),
            sections=_sections(document),
            lines=[(next((n for n, d in numbers.items() if d is line), None), line) for line in lines],
            zero=say.origin_ns(document),
            say=say,
            answers=answers(document),
            shown=shown,
            endings=endings,
            style=Markup(style),
            script=Markup(script),
            style_hash=digest(style),
            script_hash=digest(script),
            embedded=embed(document),
            config=json.dumps(document["run"]["config"], indent=2, ensure_ascii=False, default=str),
        )
    )


def _sections(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the page has, by the section's id and a word."""
    flows = document["flows"]
    there = {
        ("matrix", "Verdicts"): flows,
        ("drawing", "Drawing"): flows,
        ("diagnosis", "Diagnosis"): document["diagnosis"],
        ("budgets", "Budgets"): document["budgets"],
        ("outages", "Outages"): True,
        ("endings", "Session ends"): endings(document),
        ("streams", "Streams"): say.frozen(document),
        ("phases", "Phases"): document["phases"],
        ("timeline", "Timeline"): document["timeline"],
        ("absences", "Absences"): listing.strips(document)[0],
        ("probes", "Probes"): True,
        ("clock", "Clock and configuration"): True,
    }
    return [section for section, content in there.items() if content]


def embed(document: Mapping[str, Any]) -> Markup:
    """The document as JSON that no HTML parser can mistake for markup."""
    text = json.dumps(document, separators=(",", ":"), default=str)
    # Inside <script> only "</script" and "<!--" matter, but escaping every such character leaves nothing to argue.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def digest(text: str) -> str:
    """A style or script as the page's policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def environment() -> Environment:
    """Where the templates are; everything that they print is escaped."""
    made = Environment(
        loader=PackageLoader("probe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["broken"] = listing.broken
    return made


@cache
def asset(name: str) -> str:
    """A file beside the template, byte for byte as the page's policy hashes it."""
    loader = PackageLoader("probe.report")
    return loader.get_source(environment(), name)[0]
