"""What a capture of awsd comes to: who took over, what was asked for and confirmed, what was not, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field

from probe.watch.awsd_model import (
    ASSOCIATE,
    CONFIRMED,
    FAILED,
    NOTE_EARLIER,
    UPDATE,
    ApiError,
    Capture,
    Operation,
    Pair,
    Role,
)

NEVER_CONFIRMED = "never confirmed: cut off, timed out or refused"
# Nothing about awsd is known from lines of these kinds alone.
_SAY_NOTHING = {"unknown", "blank", "prompt", "pager", "command", "menu", "pair_rule"}


@dataclass(slots=True)
class Tally:
    """Targets of one kind: a request that was repeated counts once, by its last outcome."""

    asked: int = 0
    confirmed: int = 0
    failed: int = 0
    unconfirmed: int = 0


@dataclass(slots=True)
class Summary:
    """The whole in short.

    Args:
        outcome: `complete` (all that was asked for was confirmed), `incomplete`, `nothing_moved` (a unit became
            primary and asked for nothing), `no_failover`, or `not_awsd` (no line is known).
        sentence: The same for a reader.
        unit: The unit the capture is from, by its prompt or else its instance; empty when neither is there.
        dialect: `old`, `new`, `both`, or empty when no line tells.
        took_s: From the first role change to primary until the last confirmation of that failover.
        not_confirmed: Each target that was asked for in vain, and why.
        never_asked: What `diagnose test application awsd 4` showed beforehand and the failover did not touch.
    """

    outcome: str = "not_awsd"
    sentence: str = ""
    unit: str = ""
    dialect: str = ""
    elastic_ips: Tally = field(default_factory=Tally)
    routes: Tally = field(default_factory=Tally)
    first_at: str = ""
    last_at: str = ""
    took_s: float | None = None
    not_confirmed: list[str] = field(default_factory=list)
    never_asked: list[str] = field(default_factory=list)
    unknown_lines: int = 0
    unknown_awsd_lines: int = 0


def summarise(seen: Capture) -> Summary:
    """Sum up a capture that has been read to its end."""
    summary = Summary(unit=_unit(seen), dialect="both" if len(seen.dialects) > 1 else "".join(seen.dialects))
    last = _last_attempts(seen)
    summary.elastic_ips, summary.routes = _tally(last, ASSOCIATE), _tally(last, UPDATE)
    summary.not_confirmed = [f"{name(one)}: {outcome(one, seen)}" for one in last if one.state != CONFIRMED]
    summary.never_asked = _never_asked(seen)
    if seen.stamps:
        summary.first_at, summary.last_at = seen.stamps[0].text, seen.stamps[-1].text
    summary.took_s = _took_s(seen)
    unknown = [line for line in seen.lines if line.kind == "unknown"]
    summary.unknown_lines = len(unknown)
    summary.unknown_awsd_lines = sum("awsd " in line.text for line in unknown)
    summary.outcome = _outcome(seen, last)
    summary.sentence = " ".join(_sentences(seen, summary, last))
    return summary


def name(operation: Operation) -> str:
    """What an operation is about, as far as the capture tells."""
    fields = operation.fields
    if operation.kind == ASSOCIATE:
        return f"elastic IP {fields.get('elastic_ip') or fields.get('allocation') or '(not named)'}"
    if "route_table" not in fields:
        return "route (not named)"
    return f"route {fields.get('destination', '(not named)')} in {fields['route_table']}"


def outcome(operation: Operation, seen: Capture) -> str:
    """How an operation ended, in words."""
    if operation.state == CONFIRMED:
        return "confirmed"
    if operation.state == FAILED and operation.error:
        return f"failed: {reason(seen.errors[operation.error - 1])}"
    return NEVER_CONFIRMED


def reason(error: ApiError) -> str:
    """Status and code of a refusal, in short."""
    if error.status is not None and error.status <= 0:
        return "no answer from the API"
    return " ".join(str(part) for part in (error.status, error.code) if part) or "reason not in the capture"


def became_primary(seen: Capture) -> list[Role]:
    """The times the unit became primary."""
    return [role for role in seen.roles if role.role == "primary"]


def _unit(seen: Capture) -> str:
    named = [role.unit for role in seen.roles if role.unit] + [line.unit for line in seen.lines if line.unit]
    return next(iter(named), "") or seen.identity.get("instance id", "")


def _last_attempts(seen: Capture) -> list[Operation]:
    """The last attempt at each target of each failover, in the order in which they were asked for first."""
    last: dict[tuple[object, ...], Operation] = {}
    for one in seen.operations:
        target = one.fields.get("elastic_ip") or one.fields.get("allocation")
        if one.kind == UPDATE and "destination" in one.fields:
            target = f"{one.fields.get('route_table')} {one.fields['destination']}"
        last[one.failover, one.kind, target or one.number] = one
    return list(last.values())


def _tally(last: list[Operation], kind: str) -> Tally:
    states = [one.state for one in last if one.kind == kind]
    failed, confirmed = states.count(FAILED), states.count(CONFIRMED)
    return Tally(len(states), confirmed, failed, len(states) - confirmed - failed)


def _took_s(seen: Capture) -> float | None:
    for role in became_primary(seen):
        closed = [one for one in seen.operations if one.failover == role.failover and one.state == CONFIRMED]
        if role.at and closed:
            return role.at.until(closed[-1].closed_at)
    return None


def _never_asked(seen: Capture) -> list[str]:
    """Elastic IPs and routes that were shown before the failover, and not asked for in it.

    Says nothing where the capture is no good witness: an operation's request is missing, or only allocations are named.
    """
    first = next(iter(became_primary(seen)), None)
    shown = [pair for pair in seen.pairs if first and pair.line < first.line]
    if not first or not shown or not seen.operations:
        return []
    blind = any(NOTE_EARLIER in one.notes or not one.fields or "allocation" in one.fields for one in seen.operations)
    if blind:
        return []
    asked = {name(one) for one in seen.operations}
    return [target for target in in_scope(shown[-1]) if target not in asked]


def in_scope(pair: Pair) -> list[str]:
    """What a failover to the secondary would have to move, as `name` names it.

    An interface at whose index both units hold an elastic IP is taken for the management one: those stay.
    """
    own = {eni.get("index") for unit in pair.units if not unit.peer for eni in unit.enis if eni.get("elastic_ip")}
    targets = []
    for unit in pair.units:
        for eni in unit.enis:
            if not unit.peer or eni.get("index") in own:
                continue
            secondary = eni["secondary"]
            assert isinstance(secondary, list)
            addresses = [eni.get("elastic_ip"), *(one.get("elastic_ip") for one in secondary)]
            targets += [f"elastic IP {address}" for address in addresses if address]
    targets += [
        f"route {route['destination']} in {route['route_table']}"
        for route in pair.routes
        if "destination" in route and "route_table" in route
    ]
    return targets


def _outcome(seen: Capture, last: list[Operation]) -> str:
    if last:
        return "complete" if all(one.state == CONFIRMED for one in last) else "incomplete"
    if became_primary(seen):
        return "nothing_moved"
    return "not_awsd" if all(line.kind in _SAY_NOTHING for line in seen.lines) else "no_failover"


def _sentences(seen: Capture, summary: Summary, last: list[Operation]) -> list[str]:
    refused = [error for error in seen.errors if error.operation is None and not error.connector]
    aside = [f"Besides, the API refused: {reason(error)}. {error.meaning}" for error in refused[:1]]
    if summary.outcome == "not_awsd":
        return ["No line of this text is awsd output known to this version."]
    if summary.outcome == "no_failover":
        return [_no_failover(seen), *aside]
    who = _who(seen, summary)
    if summary.outcome == "nothing_moved":
        if refused:
            return [f"{who}, but moved nothing: {reason(refused[0])}. {refused[0].meaning}"]
        return [
            f"{who}; no elastic IP and no route was asked for by the end of the capture: cut off, still waiting for"
            " the API, or nothing pointed at the peer."
        ]
    count = f"{_of(summary.elastic_ips, 'elastic IP')} and {_of(summary.routes, 'route')} confirmed"
    if summary.outcome == "complete":
        missing = [f"Never asked for: {', '.join(summary.never_asked)}."] if summary.never_asked else []
        none = [] if summary.routes.asked else ["No route was asked for: is the capture complete?"]
        return [f"{who}: {count}. All that was asked for was accepted by the API.", *none, *missing, *aside]
    first = next(one for one in last if one.state != CONFIRMED)
    why = seen.errors[first.error - 1].meaning if first.state == FAILED and first.error else ""
    more = f" And {len(summary.not_confirmed) - 1} more." if len(summary.not_confirmed) > 1 else ""
    stop = "" if summary.not_confirmed[0].endswith(".") else "."
    return [f"{who}: {count}.", f"{_capital(summary.not_confirmed[0])}{stop} {why}".rstrip() + more, *_effect(summary)]


def _effect(summary: Summary) -> list[str]:
    eips, routes = summary.elastic_ips, summary.routes
    if eips.asked and eips.confirmed == eips.asked and routes.confirmed < routes.asked:
        return ["Ingress may work; what goes by these routes (egress, east-west) goes to the peer until they move."]
    if routes.asked and routes.confirmed == routes.asked and eips.confirmed < eips.asked:
        return ["East-west may work; what comes by these elastic IPs goes to the peer until they move."]
    return []


def _who(seen: Capture, summary: Summary) -> str:
    primary = became_primary(seen)
    unit = summary.unit or "The unit"
    if not primary:
        return f"{unit} moved addresses and routes (its role change is not in the capture)"
    at = f" at {primary[0].at.text}" if primary[0].at else ""
    again = f" ({len(primary)} times in this capture)" if len(primary) > 1 else ""
    return f"{unit} became primary{at}{again}"


def _no_failover(seen: Capture) -> str:
    kinds = {line.kind for line in seen.lines}
    if any(role.role == "secondary" for role in seen.roles):
        return "This unit became secondary: the work of a failover is done by the other one."
    if seen.pairs:
        return "No failover in this capture: it shows what awsd would work on."
    if "idle" in kinds:
        return "No failover in this capture: this unit was secondary, and idle."
    if any(kind.startswith("connector") for kind in kinds):
        return "No failover in this capture: only an SDN connector at work."
    return "No role change and no request in this capture."


def _of(tally: Tally, what: str) -> str:
    return f"{tally.confirmed} of {tally.asked} {what}{'' if tally.asked == 1 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
