"""The laws that every result document obeys (contract), checked on the document alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from probe.core.fate import FATE_WORD, GONE, MEANING, OK
from probe.core.verdict import matrix
from probe.report.assess import counts_of, record_of
from probe.report.model import problems

_FATE_OF = {word: fate for fate, word in FATE_WORD.items()}
_ANSWERED = ("received", "late")
# The losses that outages of each direction may claim: what is known to be lost forward is never `round_trip`.
_CLAIMS = {"forward": "lost_forward", "reverse": "lost_reverse", "round_trip": "lost_unattributed"}


def laws(document: Mapping[str, Any], *, settled: bool = False) -> list[str]:
    """Every law that a document breaks.

    Args:
        document: Anything; what is not even a result document is told field by field.
        settled: Whether the loss threshold has passed since the last probe, so that nothing may be pending.

    Returns:
        One line each, `AGENT/FLOW: law: figures`; empty when it is sound.
    """
    broken = problems(document)
    if broken:
        return [f"document: {line}" for line in broken]
    for flow in document["flows"]:
        where = f"{flow['agent']}/{flow['name']}" if flow["agent"] else flow["name"]
        broken += [f"{where}: {line}" for line in _flow(flow, settled)]
    names = Counter((f["agent"], f["name"]) for f in document["flows"])
    broken += [f"{agent}/{name}: {n} flows of this name" for (agent, name), n in names.items() if n > 1]
    return broken + _whole(document)


def _flow(flow: Mapping[str, Any], settled: bool) -> list[str]:
    counts = flow["counts"]
    lines = [f"{law}: {_figures(counts)}" for law in counts_of(counts).broken_laws()]
    if settled and counts["pending"]:
        lines.append(f"without pending once the loss threshold has passed: {counts['pending']} pending")
    for number, outage in enumerate(flow["outages"], 1):
        lines += [f"outage {number}: {line}" for line in _outage(outage)]
    lines += _claims(flow["outages"], counts)
    return lines + [f"unobserved {i}: ends before it starts" for i, u in enumerate(flow["unobserved"], 1) if _back(u)]


def _outage(outage: Mapping[str, Any]) -> list[str]:
    lines = []
    edges, length = outage["edges_ns"], outage["duration_ns"]
    if not length["lower"] <= length["estimate"] <= length["upper"]:
        lines.append(f"lower <= estimate <= upper: {length['lower']}, {length['estimate']}, {length['upper']}")
    known = [edges[k] for k in ("last_ok", "first_lost", "last_lost", "first_ok") if edges[k]]
    if known != sorted(known):
        lines.append(f"last_ok <= first_lost <= last_lost <= first_ok: {dict(edges)}")
    if outage["start_ns"] != edges["first_lost"]:
        lines.append(f"start_ns is the TX time of the first lost probe: {outage['start_ns']}, {edges['first_lost']}")
    end = edges["last_lost"] if outage["censored"] == "end" else edges["first_ok"]
    if outage["end_ns"] != end:
        lines.append(f"end_ns is the TX time of the first probe answered again: {outage['end_ns']}, {end}")
    width = outage["last_lost_seq"] - outage["first_lost_seq"] + 1
    if not 1 <= outage["lost"] <= width:
        lines.append(f"lost fits first_lost_seq..last_lost_seq: {outage['lost']} in {width}")
    return lines + [f"evidence: {line}" for line in _evidence(outage)]


def _evidence(outage: Mapping[str, Any]) -> list[str]:
    """The raw records are sound, and tell the same edges as the outage does."""
    records = outage.get("evidence", [])
    lines = [
        f"{name} ascends: {one[name]}, {other[name]}"
        for name in ("sequence", "tx_ns")
        for one, other in itertools.pairwise(records)
        if one[name] > other[name] or (name == "sequence" and one[name] == other[name])
    ]
    for record in records:
        number, arrived = record["sequence"], record["rx_ns"]
        if arrived is not None and arrived < record["tx_ns"]:
            lines.append(f"rx_ns >= tx_ns: {number} arrived at {arrived}, sent at {record['tx_ns']}")
        if arrived is not None and record["fate"] not in _ANSWERED:
            lines.append(f"only what was received has an rx_ns: {number} is {record['fate']}")
    return lines + _edges_in_evidence(outage, records)


def _edges_in_evidence(outage: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
    edges, closed, lines = outage["edges_ns"], outage["censored"] != "end", []
    first, last = outage["first_lost_seq"], outage["last_lost_seq"]
    for record in records:
        number, at = record["sequence"], record["tx_ns"]
        said = MEANING[outage["direction"]][_FATE_OF[record["fate"]]]
        if number == first and (at != edges["first_lost"] or said != GONE):
            lines.append(f"first_lost is the record of {first}: {edges['first_lost']}, {at} {record['fate']}")
        if closed and number == last and (at != edges["last_lost"] or said != GONE):
            lines.append(f"last_lost is the record of {last}: {edges['last_lost']}, {at} {record['fate']}")
        if said != OK:
            continue
        if first <= number <= last:
            lines.append(f"nothing passed between first_lost and last_lost: {number} {record['fate']}")
        if number < first and at > edges["last_ok"]:
            lines.append(f"nothing passed between last_ok and first_lost: {number} at {at}, {edges['last_ok']}")
        if closed and number > last and at < edges["first_ok"]:
            lines.append(f"nothing passed between last_lost and first_ok: {number} at {at}, {edges['first_ok']}")
    return lines


def _claims(outages: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> list[str]:
    """A lost probe is in at most one outage, of its own direction."""
    lines = []
    for direction, count in _CLAIMS.items():
        mine = sorted((o for o in outages if o["direction"] == direction), key=lambda o: int(o["first_lost_seq"]))
        claimed = sum(o["lost"] for o in mine)
        if claimed > counts[count]:
            lines.append(
                f"a lost probe is in one outage of its direction: {claimed} in {direction}, {count} {counts[count]}"
            )
        for one, other in itertools.pairwise(mine):
            if other["first_lost_seq"] <= one["last_lost_seq"]:
                lines.append(
                    f"a lost probe is in at most one outage: two {direction} ones share {other['first_lost_seq']}"
                )
    return lines


def _whole(document: Mapping[str, Any]) -> list[str]:
    lines = []
    expected = matrix([record_of(f) for f in document["flows"]])
    if document["matrix"] != expected:
        lines.append("matrix: is not what the flows' verdicts make")
    times = [e["at_ns"] for e in document["timeline"]]
    if times != sorted(times):
        lines.append("timeline: is not in order of time")
    return lines + [f"phases: {p['name']} ends before it starts" for p in document["phases"] if _back(p)]


def _back(span: Mapping[str, Any]) -> bool:
    return bool(span["end_ns"] < span["start_ns"])


def _figures(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items() if value)
