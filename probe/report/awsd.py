"""A capture of awsd explained: for a terminal by rich, and as JSON.

On a terminal every line of the input stands behind its number and a bar, what is said about it below, behind a colon.
Control characters are shown as symbols there, so that a capture cannot steer the terminal; JSON has them verbatim.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from probe.watch.awsd_grammar import Stamp
from probe.watch.awsd_model import CONFIRMED, ApiError, Capture, Line, Operation, Pair
from probe.watch.awsd_summary import Summary, name, outcome, reason, summarise

FORMAT = 1  # grows when a reader of the JSON would have to change
_TONES = {"complete": "green", "incomplete": "bold red", "nothing_moved": "bold red"}
# Control characters but the tab, line and paragraph separators, and what reorders text.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def decode(data: bytes) -> str:
    """The text of a captured file; what is no text becomes U+FFFD, and its line says so.

    UTF-16 is taken for what it is when a byte order mark says so: PowerShell writes it.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8", errors="replace")


def document(seen: Capture) -> dict[str, Any]:
    """All of it as JSON values. The lines' `text` and `ending`, joined, are the input."""
    return {
        "format": FORMAT,
        "summary": asdict(summarise(seen)),
        "identity": seen.identity,
        "roles": [{**asdict(role), "at": _at(role.at)} for role in seen.roles],
        "operations": [_operation(one, seen) for one in seen.operations],
        "errors": [{**asdict(error), "at": _at(error.at)} for error in seen.errors],
        "pairs": [asdict(pair) for pair in seen.pairs],
        "lines": [asdict(line) for line in seen.lines],
    }


def to_json(seen: Capture) -> str:
    """`document` as text, ASCII only: whatever a capture holds, any terminal and file can take it."""
    return json.dumps(document(seen), indent=2) + "\n"


def _operation(one: Operation, seen: Capture) -> dict[str, Any]:
    times = {"asked_at": _at(one.asked_at), "closed_at": _at(one.closed_at), "took_s": one.took_s}
    return {**asdict(one), **times, "outcome": outcome(one, seen)}


def _at(stamp: Stamp | None) -> str | None:
    return stamp.text if stamp else None


def render(seen: Capture, console: Console) -> None:
    """Print the annotated lines, then operations, refusals, what was shown of the pair, and the summary."""
    width = len(str(len(seen.lines)))
    for line in seen.lines:
        _print(console, f"{line.number:>{width}} | {visible(line.text)}", "bold")
        if line.kind != "blank":
            _annotate(console, " " * width + " : ", _says(line, seen), "yellow" if line.kind == "unknown" else "dim")
    summary = summarise(seen)
    _operations(seen, console)
    _errors(seen, console)
    for pair in seen.pairs:
        _pair(pair, console)
    _summary(seen, summary, console)


def visible(text: str) -> str:
    """A text that is safe to print: signs that would steer a terminal as symbols, or by their code."""
    return _UNSAFE.sub(_symbol, text)


def _symbol(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def _says(line: Line, seen: Capture) -> str:
    """One line's annotation."""
    parts = [f"{line.kind}: {line.meaning}"]
    if line.fields:
        parts.append("[" + ", ".join(f"{key} {value}" for key, value in line.fields.items()) + "]")
    if line.operation:
        parts.append(_about(line, seen.operations[line.operation - 1], seen))
    if line.notes:
        parts.append(f"({'; '.join(line.notes)})")
    return " ".join(parts)


def _about(line: Line, operation: Operation, seen: Capture) -> str:
    what = f"{line.effect} operation {operation.number}" if line.effect else f"of operation {operation.number}"
    if line.effect == "opens":
        where = f" in line {operation.closed_line}" if operation.closed_line else ""
        return f"-> {what}: {outcome(operation, seen)}{where}"
    took = f" after {_seconds(operation.took_s)}" if line.effect and operation.took_s is not None else ""
    return f"-> {what}{took}"


def _operations(seen: Capture, console: Console) -> None:
    if not seen.operations:
        return
    _title(console, "Operations")
    for one in seen.operations:
        # One line per fact instead of a table: an identifier that a column breaks cannot be copied.
        to = " of ".join(one.fields[key] for key in ("ip", "eni") if key in one.fields)
        tone = "green" if one.state == CONFIRMED else "bold red"
        _print(console, f"{one.number}. {name(one)}" + (f" to {to}" if to else ""), tone)
        asked = f"asked in line {one.asked_line}" if one.asked_line else "asked before the capture, or in a lost line"
        where = f" in line {one.closed_line}" if one.closed_line else ""
        took = "" if one.took_s is None else f" after {_seconds(one.took_s)}"
        _annotate(console, "    ", "; ".join((f"{asked}, {outcome(one, seen)}{where}{took}", *one.notes)))


def _errors(seen: Capture, console: Console) -> None:
    if not seen.errors:
        return
    _title(console, "Refusals, and what to check first")
    for error in seen.errors:
        _print(console, f"line {error.line}: {reason(error)}{_whose(error)}", "bold red")
        _annotate(console, "    ", error.meaning)
        if error.message:
            _annotate(console, "    ", f"The API says: {error.message}")
        for text in error.check_first:
            _annotate(console, "    check: ", text)


def _whose(error: ApiError) -> str:
    if error.connector:
        return f", to the SDN connector {error.connector}"
    if error.operation:
        return f", operation {error.operation}, {' or '.join(error.actions)}"
    return f", no request open; probably {' or '.join(error.actions)}"


def _pair(pair: Pair, console: Console) -> None:
    _title(console, f"The pair, as shown in line {pair.line}")
    if pair.vpc:
        _print(console, f"VPC {pair.vpc}")
    for unit in pair.units:
        whose = "the other unit" if unit.peer else "this unit"
        _print(console, f"{whose}: {unit.role or 'role not shown'}, {unit.instance or 'instance not shown'}")
        for eni in unit.enis:
            _print(console, "    " + " ".join(_addresses(eni)))
    for route in pair.routes:
        target = f"{route.get('route_table', 'table not shown')}: {route.get('destination', 'no route shown')}"
        _print(console, f"route table {target} via {route.get('eni', '-')}")


def _addresses(eni: dict[str, Any]) -> Iterator[str]:
    yield f"index {eni.get('index', '?')} {eni['eni']}"
    for one in (eni, *eni["secondary"]):
        yield one["ip"] + (f" (elastic IP {one['elastic_ip']})" if one.get("elastic_ip") else "")


def _summary(seen: Capture, summary: Summary, console: Console) -> None:
    _title(console, "Summary")
    for role in seen.roles:
        at = f" at {role.at.text}" if role.at else ""
        _print(console, f"line {role.line}: {role.unit or 'this unit'} {role.role or 'had an HA event'}{at}")
    for text in summary.not_confirmed:
        _annotate(console, "not confirmed: ", text)
    for text in summary.never_asked:
        _annotate(console, "shown before, never asked for: ", text)
    if summary.first_at:
        took = f"; role change to last confirmation {_seconds(summary.took_s)}" if summary.took_s is not None else ""
        _print(console, f"console time {summary.first_at} to {summary.last_at}, in whole seconds, local{took}")
    if summary.unknown_lines:
        own = f", {summary.unknown_awsd_lines} of them awsd's" if summary.unknown_awsd_lines else ""
        _print(console, f"lines not known to this version: {summary.unknown_lines}{own}")
    _annotate(console, "", summary.sentence, _TONES.get(summary.outcome, "bold"))


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"


def _title(console: Console, text: str) -> None:
    _print(console, "")
    _print(console, text, "bold underline" if console.is_terminal else "")
    if not console.is_terminal:
        _print(console, "-" * len(text))


def _annotate(console: Console, indent: str, text: str, style: str = "") -> None:
    """Say something below a line: wrapped to a terminal's width, in one piece where a program may read it."""
    room = max(console.width - len(indent), 40) if console.is_terminal else 0
    rows = textwrap.wrap(text, room, break_on_hyphens=False) if room else [text]
    for number, row in enumerate(rows):
        _print(console, (indent if number == 0 else " " * len(indent)) + row, style)


def _print(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is. Rich's own text would expand its tabs and drop some of its signs."""
    segment = Segment(visible(text), Style.parse(style) if style else None)
    console.print(Segments([segment, Segment.line()]), soft_wrap=True, end="")
