"""What the session tables imply for each kept session, whatever the probes say. Sans-IO.

    the last primary's table            implied verdict
    nothing, UDP or ICMP                dark: a packet that came through would have made an entry
    nothing, TCP; it once knew it       reset: one of its ends has closed it
    nothing, TCP; it never did          lost, or reset where unknown TCP is answered by a reset
    an entry, closed                    reset
    an entry, its translation leads     lost: packets leave by an address that is the other unit's
      nowhere
    an entry, packets in one direction  half
    an entry, no packets                as nothing
    an entry, packets both ways         rebound if the far end has seen another address or port for it meanwhile,
                                        survived if the primary has changed, else unaffected

The tables know nothing of loss: a session that they call unaffected may have been dark for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ALIVE = ("unaffected", "survived")
_CLOSED = ("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE")


@dataclass(frozen=True, slots=True)
class Truth:
    """One kept session."""

    flow: str
    implied: str  # a verdict
    because: str


def readings(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The details of a timeline's `sessions` events that could be read, in their order."""
    return [e["detail"] for e in events if e["event"] == "sessions" and "flows" in e["detail"]]


def truths(events: Iterable[Mapping[str, Any]], *, resets: bool = False) -> dict[str, Truth]:
    """What the session tables imply, by flow; empty where they were not read before the trigger and at the end.

    Args:
        events: The timeline of a run, as in its document.
        resets: Whether the firewalls answer TCP without a session by a reset (`reset_sessionless_tcp`).
    """
    events = list(events)
    told = readings(events)
    if any(event["event"] == "two_primaries" for event in events):
        return {}  # both units forward: one's table is half of the truth
    if len(told) < 2 or told[0]["moment"] != "before" or told[-1]["moment"] != "end":
        return {}
    return {flow: _truth(flow, told, resets) for flow in told[0]["flows"]}


def agrees(flow: str, implied: str, given: str) -> bool:
    """Whether a verdict of the probes fits what the tables imply.

    Of a session that lived, the tables cannot tell whether it was dark for a while. Of ICMP the probes cannot tell
    whether it is translated otherwise than before: the far end's kernel answers, and says nothing about the source.
    And without any reply they cannot tell that packets arrive at the far end. Whether new sessions fail as well is in
    no old one's entry.
    """
    if given == "unobserved":
        return True
    if implied in _ALIVE:
        return given in _ALIVE
    if implied == "rebound" and flow.endswith("-icmp"):
        return given in (*_ALIVE, "rebound")
    return given == implied or (implied in ("half", "lost") and given == "dark")


def _truth(flow: str, told: Sequence[Mapping[str, Any]], resets: bool) -> Truth:
    before, last = told[0], told[-1]
    seen = [(reading["unit"], reading["flows"].get(flow)) for reading in told]
    entry = last["flows"].get(flow)
    tcp = flow.endswith("-tcp")
    unit = last["unit"]
    if entry is None:
        if not tcp:
            return Truth(flow, "dark", f"{unit} has no session, so no packet of it came through")
        if any(one is not None and _passes(one) for who, one in seen if who == unit):
            return Truth(flow, "reset", f"{unit} had the session and has not any more: one of its ends has closed it")
        return Truth(flow, "reset" if resets else "lost", f"{unit} does not know the session")
    if tcp and entry["state"] in _CLOSED:
        return Truth(flow, "reset", f"{unit} has seen its end ({entry['state']})")
    if not entry["way"]:
        return Truth(flow, "lost", f"{unit} has it, with a translation of its peer's, which leads elsewhere")
    if not entry["out"] and not entry["back"]:
        return Truth(flow, "lost" if tcp else "dark", f"{unit} has it, but no packet passes")
    if not entry["out"] or not entry["back"]:
        return Truth(flow, "half", f"{unit} has it, packets pass {'out' if entry['out'] else 'back'} only")
    faces = list(dict.fromkeys(one["seen_as"] for _, one in seen if one is not None and one["way"]))
    if len(faces) > 1:
        return Truth(flow, "rebound", "the far end has seen it as " + ", then ".join(faces))
    if unit == before["unit"] and all(who == unit for who, _ in seen):
        return Truth(flow, "unaffected", f"{unit} has had it all the time")
    how = "was handed it" if entry["known"] == "kept" else "made it anew, alike"
    return Truth(flow, "survived", f"{unit} {how}, still seen as {faces[0]}")


def _passes(entry: Mapping[str, Any]) -> bool:
    return bool(entry["way"])
