"""The report on a terminal, by rich: from 80 columns up, and as plain text where there is no terminal.

Symbol and word carry every meaning; colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probe.core.verdict import shown
from probe.report import phrases as say
from probe.report.endings import endings
from probe.report.questions import answers

WIDE, WIDE_STREAMS = 120, 160
# A flapping path has thousands of outages; a terminal shows the first, the stored page all of them.
MOST_ROWS = 100
_STYLE = {"good": "green", "warn": "yellow", "bad": "bold red", "none": "dim", "ha": "cyan"}
_COUNTS = (
    ("sent", "sent"),
    ("received", "received"),
    ("lost", "lost"),
    ("lost_forward", "fwd"),
    ("lost_reverse", "rev"),
    ("lost_unattributed", "unk."),
)
_MORE_COUNTS = (
    ("unsent", "unsent"),
    ("dropped_locally", "dropped here"),
    ("late", "late"),
    ("duplicate", "dup"),
    ("reordered", "reord"),
    ("corrupt", "corrupt"),
    ("pending", "pending"),
)


def render(document: Mapping[str, Any], console: Console) -> None:
    """Print a whole run: what came of it, when, and why.

    Args:
        document: A complete result document.
        console: Decides width and colour.
    """
    _head(document, console)
    _matrix(document, console)
    _diagnosis(document, console)
    _questions(document, console)
    _outages(document, console)
    _endings(document, console)
    _streams(document, console)
    _phases(document, console)
    _timeline(document, console)
    _counts(document, console)
    _warnings(document, console)
    _budgets(document, console)


def render_measure(document: Mapping[str, Any], console: Console) -> None:
    """Print a one-off measurement: one block per flow, its outages, warnings. No HA, no phases."""
    table = table_for(console, "")
    for title in ("flow", "verdict"):
        table.add_column(title, no_wrap=title == "verdict", overflow="fold")
    percentiles = ("min", "p50", "p99", "max") if console.width >= WIDE else ("p50", "p99", "max")
    for title in ("sent", "lost", "loss", *percentiles):
        table.add_column(title, justify="right", no_wrap=True)
    for flow in document["flows"]:
        counts, rtt = flow["counts"], flow["rtt_ns"]
        times = [_ms(rtt[key]) if rtt["max"] else "-" for key in percentiles]
        verdict = _verdict(shown(flow["verdict"], flow["session"] == "fresh"))
        table.add_row(_plain(flow["name"]), verdict, str(counts["sent"]), str(counts["lost"]), _loss(counts), *times)
    console.print(table)
    console.print(Text("round-trip times in ms", style="dim"))
    _outages(document, console)
    _endings(document, console)
    _streams(document, console)
    _counts(document, console, only_odd=True)
    _warnings(document, console)


def _head(document: Mapping[str, Any], console: Console) -> None:
    run = document["run"]
    tone, sentence = say.headline(document)
    console.print()
    console.print(Text(sentence, style="bold " + _STYLE[tone].removeprefix("bold ")))
    labels = "".join(f"  {k}={v}" for k, v in run["labels"].items())
    trigger = f"  trigger {run['trigger']['kind']}" if run["trigger"]["at_ns"] else ""
    began = say.utc(run["started_ns"], date=True)
    length = say.duration(run["ended_ns"] - run["started_ns"])
    console.print(Text(f"run {run['id'] or '-'}  {began} UTC  {length}{trigger}{labels}", style="dim"))


def _matrix(document: Mapping[str, Any], console: Console) -> None:
    protocols, rows = say.matrix_rows(document)
    if not rows:
        return
    # Streams have a column where there is room, else a line of their own, under the last protocol.
    wide = console.width >= (WIDE_STREAMS if "stream" in protocols else WIDE)
    columns = [p for p in protocols if wide or p != "stream"] or protocols
    table = table_for(console, "Verdicts: old and new sessions, longest absence")
    table.add_column("path", no_wrap=True)
    if not wide:
        table.add_column("", no_wrap=True)
    for protocol in columns:
        for title in _titles(protocol) if wide else (protocol,):
            table.add_column(title, no_wrap=True)
    for row in rows:
        if wide:
            halves = [(p, key) for p in columns for key in ("kept", "fresh")[: len(_titles(p))]]
            cells = [_cell(row.cells.get(half)) for half in halves]
            table.add_row(_plain(row.path), *cells)
            continue
        for key, word in (("kept", "old"), ("fresh", "new")):
            cells = [_cell(row.cells.get((protocol, key))) for protocol in columns]
            table.add_row(_plain(row.path) if key == "kept" else "", word, *cells)
        stream = row.cells.get(("stream", "kept"))
        if stream is not None and columns != protocols:
            table.add_row("", "stream", *[""] * (len(columns) - 1), _cell(stream))
    console.print(table)


def _titles(protocol: str) -> tuple[str, ...]:
    """The columns of a protocol where there is room; a stream is one session."""
    return ("stream",) if protocol == "stream" else (f"{protocol} old", f"{protocol} new")


def _cell(cell: say.Cell | None) -> Text:
    if cell is None:
        return Text("-", style="dim")
    text = _verdict(cell.verdict)
    return text.append(f" {cell.figure}", style="default") if cell.figure else text


def _verdict(word: str) -> Text:
    symbol, tone, _ = say.VERDICTS[word]
    return Text(f"{symbol} {word}", style=_STYLE[tone])


def _diagnosis(document: Mapping[str, Any], console: Console) -> None:
    if not document["diagnosis"]:
        return
    _title("Diagnosis", console)
    for number, finding in enumerate(document["diagnosis"]):
        tone = _STYLE["good"] if finding["code"] == "failover_clean" else _STYLE["warn"]
        console.print(Text(finding["code"], style=f"bold {tone}").append(f"  {finding['summary']}", style="default"))
        for line in finding["evidence"][:8]:
            console.print(Padding(Text(line), (0, 0, 0, 4)))
        if len(finding["evidence"]) > 8:
            console.print(Text(f"    and {len(finding['evidence']) - 8} more", style="dim"))
        for line in finding.get("check_first", ()):
            console.print(Padding(Text(f"check: {line}", style="dim"), (0, 0, 0, 4)))
        if number + 1 < len(document["diagnosis"]):
            console.print()


def _questions(document: Mapping[str, Any], console: Console) -> None:
    found = answers(document)
    if found:
        _title("Five questions", console)
    for one in found:
        console.print(Text(one.question, style="bold"))
        for line in one.lines:
            console.print(Padding(Text(line), (0, 0, 0, 4)))
        console.print(Padding(Text(f"from: {one.source}", style="dim"), (0, 0, 0, 4)))


def _outages(document: Mapping[str, Any], console: Console) -> None:
    if say.quiet(document):
        console.print(Text("No outage.", style=_STYLE["good"]))
    if not any(f["outages"] for f in document["flows"]):
        return
    wide = console.width >= WIDE
    table = table_for(console, "Outages: bounds from the TX times of the probes around each edge (UTC)")
    table.add_column("flow", overflow="fold")
    table.add_column("direction" if wide else "dir", no_wrap=True)
    table.add_column("start", no_wrap=True)
    if wide:
        table.add_column("end", no_wrap=True)
        table.add_column("estimate", no_wrap=True)
        table.add_column("lower .. upper", no_wrap=True, justify="right")
    else:
        table.add_column("estimate, lower .. upper", no_wrap=True)
    table.add_column("lost", justify="right", no_wrap=True)
    named, shown_rows = say.naming(document), 0
    for path, flows in say.by_path(document).items():
        pairs = [(flow, outage) for flow in flows for outage in flow["outages"]]
        if pairs and shown_rows < MOST_ROWS:
            table.add_row(Text(path, style="bold"))
        for flow, outage in pairs[: max(0, MOST_ROWS - shown_rows)]:
            table.add_row(_plain(f"  {named(flow)}"), *_outage_cells(outage, wide))
        shown_rows += len(pairs)
    console.print(table)
    _more(shown_rows, console)


def _outage_cells(outage: Mapping[str, Any], wide: bool) -> list[str | Text]:
    symbol, word = say.DIRECTIONS[outage["direction"]]
    # Symbols alone would leave a reader without the legend guessing; short words do not.
    short = {"round trip": "both", "forward": "fwd", "reverse": "rev"}[word]
    direction = f"{symbol} {word if wide else short}"
    start = ("< " if outage["censored"] == "start" else "") + say.utc(outage["start_ns"])
    estimate = Text(say.estimate(outage), style=_STYLE["bad"] if outage["censored"] == "end" else "")
    bounds, lost = say.bounds(outage), str(outage["lost"])
    if wide:
        end = "-" if outage["censored"] == "end" else say.utc(outage["end_ns"])
        return [direction, start, end, estimate, bounds, lost]
    if outage["censored"] == "no":
        estimate.append("\n" + bounds, style="dim")
    return [direction, start, estimate, lost]


def _endings(document: Mapping[str, Any], console: Console) -> None:
    rows = endings(document)
    if not rows:
        return
    table = table_for(console, "Sessions that ended (UTC), and when one worked again")
    for title in ("flow", "ended", "by", "again"):
        table.add_column(title, no_wrap=title in ("ended", "again"), overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(_plain(row.flow), row.at, row.how, row.again)
    console.print(table)
    _more(len(rows), console)


def _streams(document: Mapping[str, Any], console: Console) -> None:
    streams = say.frozen(document)
    if not streams:
        return
    _title("Streams: what a person at a terminal felt", console)
    for stream in streams:
        console.print(Text(f"{stream.name}: {stream.text}"))
        for line in stream.stalls[:MOST_ROWS]:
            console.print(Padding(Text(line, style="dim"), (0, 0, 0, 4)))
        _more(len(stream.stalls), console)


def _phases(document: Mapping[str, Any], console: Console) -> None:
    if not document["phases"]:
        return
    table = table_for(console, f"Phases, relative to {say.origin_word(document)}")
    rights = [(title, "right") for title in ("start", "length", "±", "share")]
    for title, justify in (("phase", "left"), *rights, ("", "left")):
        table.add_column(title, justify=justify, no_wrap=title != "")  # type: ignore[arg-type]
    for name, meaning, start, length, uncertainty, share in say.phase_rows(document):
        table.add_row(name, start, length, uncertainty, share, Text(meaning, style="dim"))
    console.print(table)
    for line in say.phase_gaps(document):
        console.print(Text(line, style="dim"))


def _timeline(document: Mapping[str, Any], console: Console) -> None:
    lines = say.timeline_lines(document)
    if not lines:
        return
    zero = say.origin_ns(document)
    table = table_for(console, f"Timeline, relative to {say.origin_word(document)}")
    for title, justify in (("time", "right"), ("±", "right"), ("source", "left")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("what", overflow="fold")
    for line in lines[:MOST_ROWS]:
        uncertainty = say.duration(line.uncertainty_ns) if line.uncertainty_ns else ""
        style = _STYLE[line.tone] if line.tone != "none" else ""
        table.add_row(say.relative(line.at_ns, zero), uncertainty, line.source, Text(line.text, style=style))
    console.print(table)
    _more(len(lines), console)


def _counts(document: Mapping[str, Any], console: Console, *, only_odd: bool = False) -> None:
    """Counts per flow. Rare counts appear as columns only where some flow has them.

    Args:
        document: The document.
        console: Where to.
        only_odd: Leave the table out when it would only repeat sent and lost.
    """
    flows, named = document["flows"], say.naming(document)
    more = [(key, title) for key, title in _MORE_COUNTS if any(f["counts"][key] for f in flows)]
    if not flows or (only_odd and not more and not any(f["counts"]["lost"] for f in flows)):
        return
    table = table_for(console, "Probes")
    table.add_column("flow", overflow="fold")
    for _, title in (*_COUNTS, *more):
        table.add_column(title, justify="right", overflow="fold")
    for flow in flows:
        table.add_row(_plain(named(flow)), *(str(flow["counts"][key]) for key, _ in (*_COUNTS, *more)))
    console.print(table)


def _warnings(document: Mapping[str, Any], console: Console) -> None:
    for line in say.unobserved_lines(document):
        console.print(Text(f"! {line}", style=_STYLE["warn"]))
    pending = sum(f["counts"]["pending"] for f in document["flows"])
    if pending:
        console.print(Text(f"! {pending} probes were still pending: their fate is not settled", style=_STYLE["warn"]))
    console.print(Text(say.clock_statement(document), style="dim"))


def _budgets(document: Mapping[str, Any], console: Console) -> None:
    for budget in document["budgets"]:
        word, tone = ("ok", "good") if budget["ok"] else ("EXCEEDED", "bad")
        console.print(Text(f"budget {say.budget(budget)}: {word}", style=_STYLE[tone]))


def table_for(console: Console, title: str) -> Table:
    """An empty table in the house style, under its printed title."""
    if title:
        _title(title, console)
    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 2 if console.width >= WIDE else 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )


def _title(title: str, console: Console) -> None:
    console.print()
    console.print(Text(title, style="bold underline" if console.is_terminal else ""))
    if not console.is_terminal:
        console.print(Text("-" * min(len(title), console.width)))


def _more(rows: int, console: Console) -> None:
    if rows > MOST_ROWS:
        console.print(Text(f"and {rows - MOST_ROWS} more, in the stored report", style="dim"))


def _plain(word: str) -> Text:
    """A name from the document: never read as rich markup."""
    return Text(word)


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.3f}"


def _loss(counts: Mapping[str, Any]) -> str:
    settled = counts["sent"] - counts["pending"] - counts["dropped_locally"]
    return f"{100 * counts['lost'] / settled:.3f} %" if settled else "-"
