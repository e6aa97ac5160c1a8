"""One finding of a preflight, and what many of them make together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from probe.errors import ConfigError, PeerError, PrivilegeError

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy` says what to do and is empty when all is well; `exit_status` counts for a fail."""

    name: str
    level: Level
    finding: str
    remedy: str = ""
    exit_status: int = 1


def exit_status(checks: Iterable[Check]) -> int:
    """0 without a fail; else a missing privilege counts before a missing peer, and both before the rest."""
    failed = {check.exit_status for check in checks if check.level == "fail"}
    order = (PrivilegeError.exit_status, ConfigError.exit_status, PeerError.exit_status, 1)
    return next((status for status in order if status in failed), 0)


def table(checks: Iterable[Check]) -> str:
    """The checks as text, one per line, each remedy below its finding."""
    lines = []
    for check in checks:
        lines.append(f"{check.level:<5} {check.name:<22} {check.finding}")
        if check.remedy:
            lines.append(f"{'':<28} -> {check.remedy}")
    return "\n".join(lines)
