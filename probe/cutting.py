"""What lies of an outage, a stall or an unobserved time within a span, for the result document of that span.

Times are Unix ns on the engine's clock. What was cut off is nobody's to tell: an edge outside the span is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from probe.core.events import Censored, Outage, Unobserved


def is_open(stall: dict[str, Any], first: int, last: int) -> bool:
    """Whether a stall had not ended when a span did."""
    return stall["end_ns"] > first and bool(stall_within(stall, first, last)["censored"] == "end")


def stall_within(stall: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """What lies of a stall within a span."""
    start, end = max(stall["start_ns"], first), min(stall["end_ns"], last)
    censored = "end" if end < stall["end_ns"] else "start" if start > stall["start_ns"] else stall["censored"]
    times = [at for at in stall["retransmitted_ns"] if start <= at <= end]
    return {
        **stall,
        "start_ns": start,
        "end_ns": end,
        "duration_ns": end - start,
        "censored": censored,
        "first_echo_ns": stall["first_echo_ns"] if stall["first_echo_ns"] <= end else 0,
        "caught_up_ns": stall["caught_up_ns"] if stall["caught_up_ns"] <= last else 0,
        "retransmitted_ns": times,
        "retransmissions": stall["retransmissions"] if censored == stall["censored"] else len(times),
    }


def unobserved_within(span: Unobserved, first: int, last: int) -> Unobserved | None:
    """What lies of an unobserved time within a span; None if nothing does."""
    start, end = max(span.start_ns, first), min(span.end_ns, last)
    return replace(span, start_ns=start, end_ns=end) if start < end else None


def blind_ns(unobserved: Iterable[Unobserved], start: int, end: int) -> int:
    """How much of a span went unobserved, for whatever cause."""
    blind, reached = 0, start
    for one in sorted(unobserved, key=lambda u: u.start_ns):
        upto = min(one.end_ns, end)
        blind += max(0, upto - max(one.start_ns, reached))
        reached = max(reached, upto)
    return blind


def outage_within(
    outage: Outage,
    begin: int | None,
    end: int | None,
    room: int,
    interval_ns: int,
    unobserved: Iterable[Unobserved],
) -> Outage | None:
    """What lies of an outage after `begin` and up to `end`, with at most `room` losses; None if nothing does.

    Only the probes at its own edges have known TX times: those at a cut are placed by `interval_ns`, to within one.
    `unobserved` are the flow's.
    """
    beyond = end is not None and outage.last_lost_ns > end
    # Where it ends beyond the span, the room there is no measure of how much lies after the beginning.
    part = outage if begin is None else _after(outage, begin, outage.lost if beyond else room, interval_ns)
    left = min(part.lost, room)
    if end is not None and beyond:
        left = min(left, (end - part.first_lost_ns) // interval_ns + 1)
    if left < 1:
        return None
    return _bounded(_upto(part, end, left, interval_ns), outage, unobserved)


def _after(outage: Outage, begin: int, most: int, interval_ns: int) -> Outage:
    """What lies of an outage after an instant, with at most so many losses, counted back from its end."""
    if outage.first_lost_ns > begin:
        return outage
    lost = min(outage.lost, -(-(outage.last_lost_ns - begin) // interval_ns), most)
    # Where there are fewer losses than instants (unsent, or silent about this direction), it was dark all the same.
    first = min(outage.last_lost_ns - (lost - 1) * interval_ns, begin + interval_ns)
    return replace(
        outage,
        start_ns=first,
        last_ok_ns=0,
        first_lost_ns=first,
        lost=lost,
        first_lost_seq=max(outage.first_lost_seq, outage.last_lost_seq - lost + 1),
        censored="end" if outage.censored == "end" else "start",
    )


def _upto(outage: Outage, end: int | None, left: int, interval_ns: int) -> Outage:
    """What lies of an outage up to an instant, which is known to have so many losses; None: all of it has."""
    first, last, last_seq = outage.first_lost_ns, outage.last_lost_ns, outage.last_lost_seq
    if left < outage.lost:
        last = min(last, first + (left - 1) * interval_ns)
        last_seq = min(last_seq, outage.first_lost_seq + left - 1)
    if end is not None and outage.last_lost_ns > end:  # dark up to there, see above
        on_time = outage.last_lost_ns - -(-(outage.last_lost_ns - end) // interval_ns) * interval_ns
        last = min(max(last, on_time), end)
    whole = left == outage.lost and outage.censored != "end" and (end is None or outage.end_ns <= end)
    censored: Censored = outage.censored if whole else "end"
    return replace(
        outage,
        end_ns=outage.end_ns if whole else last,
        last_lost_ns=last,
        first_ok_ns=outage.first_ok_ns if whole else 0,
        lost=left,
        last_lost_seq=last_seq,
        censored=censored,
    )


def _bounded(part: Outage, outage: Outage, unobserved: Iterable[Unobserved]) -> Outage:
    """The part of an outage with its own bounds, unobserved time and records."""
    first, last = part.first_lost_ns, part.last_lost_ns
    if (first, last, part.end_ns) == (outage.first_lost_ns, outage.last_lost_ns, outage.end_ns):
        return part
    blind = min(outage.unobserved_ns, blind_ns(unobserved, first, part.end_ns))
    inner, outer = max(0, last - first - blind), part.end_ns - (part.last_ok_ns or first)
    return replace(
        part,
        lower_ns=max(0, inner - outage.tx_error_ns),
        estimate_ns=(inner + outer) // 2,
        upper_ns=outer + outage.tx_error_ns,
        unobserved_ns=blind,
        evidence=tuple(
            record
            for record in outage.evidence
            if (first == outage.first_lost_ns or (record.sequence > part.first_lost_seq and record.tx_ns > first))
            and (part.censored != "end" or record.tx_ns <= last)
        ),
    )
