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
    lost = outage.lost
    first, first_seq = outage.first_lost_ns, outage.first_lost_seq
    last, last_seq, upto = outage.last_lost_ns, outage.last_lost_seq, outage.end_ns
    beyond = end is not None and last > end
    censored: Censored = outage.censored
    if begin is not None and first <= begin:
        # Counted back from its own end; where that lies beyond the span, the room there is no measure.
        lost = min(lost, -(-(last - begin) // interval_ns), lost if beyond else room)
        # Where there are fewer losses than instants (unsent, or silent about this direction), it was dark all the same.
        first = min(last - (lost - 1) * interval_ns, begin + interval_ns)
        first_seq = max(first_seq, last_seq - lost + 1)
        censored = "start"
    left = min(lost, room)
    if end is not None and beyond:
        left = min(left, (end - first) // interval_ns + 1)
    if left < 1:
        return None
    if left < lost:
        last = min(last, first + (left - 1) * interval_ns)
        last_seq = min(last_seq, first_seq + left - 1)
    if end is not None and beyond:
        on_time = outage.last_lost_ns - -(-(outage.last_lost_ns - end) // interval_ns) * interval_ns
        last = min(max(last, on_time), end)
    if left < lost or outage.censored == "end" or (end is not None and upto > end):
        upto, censored = last, "end"
    blind = min(outage.unobserved_ns, blind_ns(unobserved, first, upto))
    inner = max(0, last - first - blind)
    outer = upto - (outage.last_ok_ns or first if first == outage.first_lost_ns else first)
    whole = (first, last, upto) == (outage.first_lost_ns, outage.last_lost_ns, outage.end_ns)
    return replace(
        outage,
        start_ns=first,
        end_ns=upto,
        last_ok_ns=outage.last_ok_ns if first == outage.first_lost_ns else 0,
        first_lost_ns=first,
        last_lost_ns=last,
        first_ok_ns=0 if censored == "end" else outage.first_ok_ns,
        lower_ns=outage.lower_ns if whole else max(0, inner - outage.tx_error_ns),
        estimate_ns=(inner + outer) // 2,
        upper_ns=outage.upper_ns if whole else outer + outage.tx_error_ns,
        lost=left,
        first_lost_seq=first_seq,
        last_lost_seq=last_seq,
        censored=censored,
        unobserved_ns=blind,
        evidence=tuple(
            record
            for record in outage.evidence
            if (first == outage.first_lost_ns or record.sequence > first_seq)
            and (censored != "end" or record.tx_ns <= last)
        ),
    )
