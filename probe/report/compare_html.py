"""A comparison as one self-contained page: no network, no script, everything escaped; what got worse comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from markupsafe import Markup

from probe.core.verdict import shown
from probe.report import phrases as say
from probe.report.compare import Change, Kind, words
from probe.report.html import asset, digest, environment
from probe.report.lengths import lay_out, outages

# What became of a cell to (symbol, tone, words), in the order to be read. Symbol and words say it all.
KINDS: dict[Kind, tuple[str, str, str]] = {
    "worse": ("✗", "bad", "worse"),
    "gone": ("✗", "bad", "worse: no longer measured"),
    "untold": ("?", "none", "cannot be told: unobserved"),
    "mixed": ("≈", "warn", "another mix, worst as before"),
    "better": ("✓", "good", "better"),
    "new": ("+", "none", "not measured before"),
    "same": ("=", "none", "same"),
}
# A flapping path has thousands of outages, and each run's own report has all of its own.
MOST_OUTAGES = 1000
_MOST_VALUES = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One side: where its runs are, as the user named it, and their result documents."""

    place: str
    documents: Sequence[Mapping[str, Any]]


def render(baseline: Side, candidate: Side, changes: Sequence[Change], results: Sequence[Mapping[str, Any]]) -> str:
    """The page of a comparison.

    Args:
        baseline: What was before.
        candidate: What is held against it.
        changes: As `compare.compare` finds them.
        results: As `budgets.check` gives them, for the candidate.
    """
    both = (baseline.documents, candidate.documents)
    style = asset("report.css") + asset("compare.css")
    order = list(KINDS)
    told = list(islice(outages(*both), MOST_OUTAGES + 1))
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            sides=(("baseline", baseline), ("candidate", candidate)),
            headline=headline(changes, results),
            conditions=conditions(*both),
            changes=sorted(changes, key=lambda c: order.index(c.kind)),
            results=sorted(results, key=lambda r: bool(r["ok"])),
            protocols=[p for p in say.PROTOCOLS if any(c.protocol == p for c in changes)],
            matrix=matrix(changes),
            lengths=lay_out(*both),
            told=told[:MOST_OUTAGES],
            more_told=len(told) > MOST_OUTAGES,
            kinds=KINDS,
            say=say,
            shown=shown,
            words=words,
            length_change=length_change,
            style=Markup(style),
            style_hash=digest(style),
        )
    )


def headline(changes: Sequence[Change], results: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Tone and sentence that a person should read first; never better than the exit status."""
    worse, over = sum(c.worse for c in changes), sum(not r["ok"] for r in results)
    if not changes and not results:
        return "none", "Nothing was measured on either side."
    verdicts = f"{worse} of {len(changes)} verdicts got worse" if worse else "no verdict got worse"
    if not changes:
        verdicts = "no flow was measured on either side"
    untold = sum(c.kind == "untold" for c in changes)
    if untold:
        verdicts += f", {untold} cannot be told"
    kept = f"{over} of {len(results)} budgets exceeded" if over else f"{len(results)} of {len(results)} budgets kept"
    sentence = f"{verdicts}; {kept}." if results else f"{verdicts}."
    tone = "bad" if worse or over else "warn" if untold else "good" if changes else "none"
    return tone, sentence[0].upper() + sentence[1:]


def conditions(
    baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Labels of the runs and haprobe's version: name, values in the baseline, values in the candidate."""
    sides = [[{**d["run"]["labels"], "haprobe": d["run"]["version"]} for d in ds] for ds in (baseline, candidate)]
    names = dict.fromkeys(name for side in sides for labels in side for name in labels)
    return [(name, _values(sides[0], name), _values(sides[1], name)) for name in names]


def _values(side: Sequence[Mapping[str, str]], name: str) -> str:
    values = list(dict.fromkeys(labels.get(name) or "-" for labels in side))
    more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
    return ", ".join(values[:_MOST_VALUES]) + more or "-"


def matrix(changes: Sequence[Change]) -> dict[str, dict[tuple[str, str], Change]]:
    """Path to the changes of its cells, by protocol and session."""
    rows: dict[str, dict[tuple[str, str], Change]] = {}
    for change in changes:
        rows.setdefault(change.path, {})[change.protocol, change.session] = change
    return rows


def length_change(change: Change) -> str:
    """By how much the median of the longest absence changed, in words."""
    delta = change.delta_ns
    return f"{say.brief(abs(delta))} {'longer' if delta > 0 else 'shorter'}" if delta else ""
