"""How kept sessions ended, as rows of words for the text and HTML reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probe.core.ending import icmp_words
from probe.report.phrases import exact_utc, label, sent_by


@dataclass(frozen=True, slots=True)
class Ending:
    """One session that ended."""

    flow: str
    at: str  # UTC, to the microsecond
    how: str  # and by whom
    again: str  # when a session worked again, from then on


def endings(document: Mapping[str, Any]) -> list[Ending]:
    """The sessions that ended, in the order of the document."""
    ended = [
        (f, f["session_end"]) for f in document["flows"] if (f["session_end"] or {}).get("cause", "none") != "none"
    ]
    return [Ending(label(f), exact_utc(end["at_ns"])[:-3], _how(end), _again(end)) for f, end in ended]


def _how(end: Mapping[str, Any]) -> str:
    word = {"silent": "silence", "rst": "RST", "fin": "FIN", "icmp": "ICMP"}[end["cause"]]
    if end.get("icmp_type") is not None:
        word += " " + icmp_words(end["from"], end["icmp_type"], end["icmp_code"])
    return word + sent_by(end)


def _again(end: Mapping[str, Any]) -> str:
    again_ns = end.get("again_ns")
    return "not seen" if again_ns is None else f"{(again_ns - end['at_ns']) / 1e9:+.6f} s"
