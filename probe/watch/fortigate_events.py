"""From a live capture of awsd to timeline events: what the unit did in the cloud, when, and what was refused. Sans-IO.

`probe.watch.awsd` reads the lines; here they get the time at which they reached us, which is our own clock's and
finer than the console's stamps. A line can only arrive after it was printed: later by about a round trip, and by
what passes between a daemon's writing and the console's printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from probe.core.events import TimelineEvent
from probe.watch.awsd import Reader
from probe.watch.awsd_model import ACTIONS, CONFIRMED, FAILED, UNCONFIRMED, UPDATE, Capture, Operation
from probe.watch.awsd_summary import NEVER_CONFIRMED, reason

PRINT_DELAY_NS = 50_000_000  # nobody promises less


class CapturedLine(NamedTuple):
    """One line, as it came, with its ending, and when it had come: Unix epoch ns."""

    at_ns: int
    text: str
    ending: str = "\n"


def awsd_events(unit: str, lines: Sequence[CapturedLine], round_trip_ns: int) -> list[TimelineEvent]:
    """What a whole capture adds to the timeline, oldest first.

    Args:
        unit: Our name of the unit it was captured on.
        lines: In the order in which they came.
        round_trip_ns: Of the session, as measured when it was set up; part of each instant's uncertainty.

    Returns:
        `role_change` as awsd was told of it; an `api_call` for each elastic IP and route, at the time of the request
        (of the answer where the request is missing); `awsd_error` for each refusal of something else.
    """
    reader = Reader()
    for line in lines:
        reader.feed(line.text, line.ending)
    seen = reader.close()
    found = [*_roles(unit, seen), *_calls(unit, seen, lines), *_errors(unit, seen)]
    events = [
        TimelineEvent(lines[number - 1].at_ns, "fortigate", event, round_trip_ns + PRINT_DELAY_NS, detail)
        for number, event, detail in found
    ]
    return sorted(events, key=lambda event: event.at_ns)


_Told = tuple[int, str, dict[str, Any]]  # line number, event, detail


def _roles(unit: str, seen: Capture) -> Iterator[_Told]:
    for role in seen.roles:
        if role.role:
            yield role.line, "role_change", {"unit": unit, "role": role.role, "via": "awsd"}


def _calls(unit: str, seen: Capture, lines: Sequence[CapturedLine]) -> Iterator[_Told]:
    for one in seen.operations:
        line = one.asked_line or one.closed_line
        if line is None:
            continue
        detail: dict[str, Any] = {
            "unit": unit,
            "operation": ACTIONS[one.kind].removeprefix("ec2:"),
            "target": _target(one),
            "to": one.fields.get("eni", ""),
            "result": {CONFIRMED: "ok", FAILED: "error", UNCONFIRMED: "unconfirmed"}[one.state],
            "error": _why(one, seen),
            "via": "awsd",
        }
        if one.asked_line and one.closed_line:
            detail["duration_ms"] = round((lines[one.closed_line - 1].at_ns - lines[line - 1].at_ns) / 1e6, 3)
        yield line, "api_call", detail


def _target(one: Operation) -> str:
    fields = one.fields
    if one.kind == UPDATE:
        return " ".join(fields[name] for name in ("route_table", "destination") if name in fields)
    return fields.get("elastic_ip") or fields.get("allocation") or ""


def _why(one: Operation, seen: Capture) -> str:
    if one.state == CONFIRMED:
        return ""
    if one.state == FAILED and one.error:
        error = seen.errors[one.error - 1]
        return error.code or reason(error)
    return NEVER_CONFIRMED


def _errors(unit: str, seen: Capture) -> Iterator[_Told]:
    for error in seen.errors:
        if error.operation is None and not error.connector:
            detail = {"unit": unit, "error": reason(error), "meaning": error.meaning, "actions": list(error.actions)}
            yield error.line, "awsd_error", detail
