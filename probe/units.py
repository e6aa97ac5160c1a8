"""Durations as people write them (`250ms` `2s` `5m` `1h`), and as we print them.

Inside, times are integers of nanoseconds; a config or command line holds seconds as a float until it is handed on.
"""

from __future__ import annotations

import re

_UNITS_NS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h)$"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ENDLESS_NS = 2.0**63  # 292 years
DURATION_ALLOWED = "a number with a unit, such as 250ms, 2s, 5m or 1h"


def parse_duration_ns(text: str) -> int:
    """A duration with its unit, in nanoseconds; anything longer than 292 years as 2**63, which no bound lets pass.

    A bare number is refused: in a file nobody can see whether it meant seconds or milliseconds.

    Raises:
        ValueError: If the text is no duration; the message says what is allowed.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; allowed: {DURATION_ALLOWED}")
    return _ns(match[1], match[2])


def parse_seconds_ns(text: str) -> int:
    """A duration on the command line, where a bare number means seconds; in nanoseconds, at most 2**63 as above.

    Raises:
        ValueError: If the text is neither.
    """
    if _NUMBER.fullmatch(text.strip()):
        return _ns(text, "s")
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; allowed: seconds, such as 10 or 0.5, or {DURATION_ALLOWED}")
    return _ns(match[1], match[2])


def _ns(number: str, unit: str) -> int:
    # A number of hundreds of digits is infinite as a float, which no integer can be.
    return round(min(float(number) * _UNITS_NS[unit], _ENDLESS_NS))


def format_duration(seconds: float) -> str:
    """A duration in the largest unit that leaves it whole, as a config would write it."""
    ns = round(seconds * 1_000_000_000)
    for unit in ("h", "m", "s", "ms", "us"):
        if ns and ns % _UNITS_NS[unit] == 0:
            return f"{ns // _UNITS_NS[unit]}{unit}"
    return f"{seconds:g}s"
