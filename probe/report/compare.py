"""Two sets of runs side by side: what got worse, and which budgets the candidate breaks.

The unit of comparison is a cell: path, protocol and session. A cell's absence in one run is the longest time one
of its flows was away (outages that touch count as one); over several runs the median is compared, and runs in
which it never came back are counted apart instead of being given an invented length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from probe.core.events import Verdict
from probe.core.verdict import WORST_FIRST, shown, worst
from probe.report import phrases as say
from probe.report.text import table_for

Key = tuple[str, str, str]
"""Path, protocol, session."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
Kind = Literal["gone", "worse", "untold", "mixed", "better", "new", "same"]


@dataclass(frozen=True, slots=True)
class Summary:
    """A cell over several runs."""

    runs: int
    verdicts: dict[Verdict, int]  # word to number of runs; the worst flow's in each
    median_ns: float | None  # of the longest absence, over runs in which it ended; None if it never did
    open_runs: int  # runs in which it did not come back

    @property
    def worst(self) -> Verdict:
        return min(self.verdicts, key=WORST_FIRST.index)

    @property
    def shares(self) -> dict[Verdict, float]:
        """Word to share of the runs."""
        return {verdict: n / self.runs for verdict, n in self.verdicts.items()}


@dataclass(frozen=True, slots=True)
class Change:
    """One cell before and after; None on the side where nothing was measured."""

    path: str
    protocol: str
    session: str
    baseline: Summary | None
    candidate: Summary | None

    @property
    def worse(self) -> bool:
        """Whether the worst verdict got worse. Lengths are for budgets to judge: they vary from run to run."""
        if self.baseline is None or self.candidate is None:
            return self.candidate is None
        before, after = self.baseline.worst, self.candidate.worst
        return WORST_FIRST.index(after) < WORST_FIRST.index(before)

    @property
    def kind(self) -> Kind:
        """What became of the verdicts; `gone` and `worse` are what `worse` says."""
        if self.baseline is None or self.candidate is None:
            return "gone" if self.candidate is None else "new"
        if self.worse:
            return "worse"
        before, after = self.baseline.worst, self.candidate.worst
        if "unobserved" in (before, after):
            return "untold"
        if before != after:
            return "better"
        return "same" if self.baseline.shares == self.candidate.shares else "mixed"

    @property
    def delta_ns(self) -> float | None:
        """Candidate's median absence minus the baseline's."""
        if self.baseline is None or self.candidate is None:
            return None
        before, after = self.baseline.median_ns, self.candidate.median_ns
        return None if before is None or after is None else after - before


def compare(baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Every cell of either set of result documents, in the order the baseline shows them."""
    before, after = summarise(baseline), summarise(candidate)
    return [Change(*key, before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]


def summarise(documents: Sequence[Mapping[str, Any]]) -> dict[Key, Summary]:
    """Cells over all documents."""
    cells: dict[Key, list[list[Mapping[str, Any]]]] = {}
    for document in documents:
        mine: dict[Key, list[Mapping[str, Any]]] = {}
        for flow in document["flows"]:
            mine.setdefault((flow["path"], say.kind(flow), flow["session"]), []).append(flow)
        for key, flows in mine.items():
            cells.setdefault(key, []).append(flows)
    return {key: summary_of(runs) for key, runs in cells.items()}


def summary_of(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Summary:
    """Flows of one cell, per run, as one."""
    gone = [any(say.away(f).still or say.ended(f) for f in flows) for flows in runs]
    back = [flows for flows, never in zip(runs, gone, strict=True) if not never and any(map(say.observed, flows))]
    closed = [max(say.away(f).ns for f in flows) for flows in back]
    verdicts = Counter(worst(f["verdict"] for f in flows) for flows in runs)
    return Summary(len(runs), dict(verdicts), median(closed) if closed else None, sum(gone))


def junit(results: Sequence[Mapping[str, Any]], changes: Sequence[Change] = ()) -> str:
    """Budgets and verdict changes as JUnit XML: one test case each, so that a CI server shows them."""
    failures = sum(not r["ok"] for r in results) + sum(c.worse for c in changes)
    suite = ElementTree.Element(
        "testsuite", name="haprobe", tests=str(len(results) + len(changes)), failures=str(failures), errors="0"
    )
    for result in results:
        name = f"{result['name']}: {say.budget_kind(result)}"  # a budget may have both, which are a case each
        _case(suite, "budget", name, "" if result["ok"] else say.budget(result))
    for change in changes:
        name = f"{change.path} {change.protocol} {change.session}"
        sides = (words(change.baseline, change.session), words(change.candidate, change.session))
        failure = " became ".join(sides) if change.worse else ""
        _case(suite, "verdict", name, failure)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, kind: str, name: str, failure: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"haprobe.{kind}", name=_for_xml(name))
    if failure:
        ElementTree.SubElement(case, "failure", message=_for_xml(failure)).text = _for_xml(failure)


def _for_xml(text: str) -> str:
    """Text without the characters that no XML document may hold, not even escaped: a foreign document may name so."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def render(changes: Sequence[Change], results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a comparison: one row per cell, what got worse marked in words."""
    table = table_for(console, "Baseline and candidate: verdicts, median of the longest absence")
    for title in ("path", "protocol", "session", "baseline", "candidate"):
        table.add_column(title, overflow="fold")
    table.add_column("change", justify="right")
    for c in changes:
        delta = c.delta_ns
        change = "" if not delta else f"{'+' if delta > 0 else '-'}{say.brief(abs(delta))}"
        note = Text("worse " if c.worse else "", style="bold red").append(change, style="default")
        table.add_row(
            Text(c.path), c.protocol, c.session, words(c.baseline, c.session), words(c.candidate, c.session), note
        )
    console.print(table)
    for result in results:
        word, style = ("ok", "green") if result["ok"] else ("EXCEEDED", "bold red")
        console.print(Text(f"budget {say.budget(result)}: {word}", style=style))


def words(summary: Summary | None, session: str) -> str:
    """One side of a cell: its verdicts, and the median of the longest absence."""
    if summary is None:
        return "not measured"
    said = {shown(v, session == "fresh"): n for v, n in summary.verdicts.items()}
    verdicts = ", ".join(v if n == summary.runs else f"{v} in {n} of {summary.runs}" for v, n in said.items())
    return verdicts + (f", {say.brief(summary.median_ns)}" if summary.median_ns else "")
