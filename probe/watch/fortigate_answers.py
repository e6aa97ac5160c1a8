"""What a FortiGate's REST API says of HA, in both of its dialects. Sans-IO: decoded JSON in, records out.

Which endpoint can be believed, and in which order it is asked (each unit on its own management address):

    monitor/system/ha-checksums    who is primary, by member: `is_manage_primary`, `is_root_primary` (true or absent);
                                   older: `is_manage_master`, `is_root_master` (1 or 0)
    monitor/system/ha-peer         the same by `primary` or `master`; some versions tell neither
    cmdb/system/ha                 whether there is a cluster at all

`ha-statistics` has no role, and "HA cluster index" is none. Every answer carries the serial number, version and build
of the unit that gave it at its top level: that, looked up among the members, is the unit's own role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["primary", "secondary", "standalone", "unknown"]

CHECKSUMS = "monitor/system/ha-checksums"
PEERS = "monitor/system/ha-peer"
HISTORY = "monitor/system/ha-history"
SETTINGS = "cmdb/system/ha"

_CHECKSUM_FLAGS = ("is_manage_primary", "is_manage_master", "is_root_primary", "is_root_master")
_PEER_FLAGS = ("primary", "master")


class AnswerError(Exception):
    """This is not what the API answers; the message says in which way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: who gave it, and what it holds."""

    serial: str
    version: str  # "7.6.4", without the v of the API
    build: str
    results: Any


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of a unit's own HA history. Its clock is the unit's, its resolution one second (Unix epoch)."""

    time_s: int
    text: str


def read(body: bytes | str) -> Answer:
    """Take an answer apart.

    Raises:
        AnswerError: If it is none.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # bad JSON, bytes that are no text, brackets without end
        raise AnswerError("not JSON: is this the management port of a FortiGate?") from error
    if not isinstance(document, dict):
        raise AnswerError("JSON, but not an answer of FortiOS")
    missing = [name for name in ("serial", "version", "results") if name not in document]
    if missing:
        raise AnswerError(f"JSON, but not an answer of FortiOS: no {', '.join(missing)}")
    if document.get("status", "success") != "success":
        raise AnswerError(f"status {str(document['status'])[:40]!r}")
    serial, version = document["serial"], document["version"]
    if not isinstance(serial, str) or not isinstance(version, str) or not serial:
        raise AnswerError("serial and version are no text")
    return Answer(serial, version.removeprefix("v"), str(document.get("build", "")), document["results"])


def role_by_checksums(answer: Answer) -> Role:
    """The role of the unit that answered `ha-checksums`; "unknown" when that does not tell."""
    return _role(answer.serial, _members(answer), _CHECKSUM_FLAGS)


def role_by_peers(answer: Answer) -> Role:
    """The role of the unit that answered `ha-peer`; "unknown" when that does not tell."""
    return _role(answer.serial, _members(answer), _PEER_FLAGS)


def standalone(answer: Answer) -> bool:
    """Whether `cmdb/system/ha` says that there is no cluster."""
    return isinstance(answer.results, dict) and answer.results.get("mode") == "standalone"


def history(answer: Answer) -> list[HistoryEntry]:
    """The entries of `ha-history`, oldest first; those of an unexpected shape are left out."""
    entries = answer.results.get("history") if isinstance(answer.results, dict) else None
    found = [
        HistoryEntry(entry["time"], entry["event"])
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and type(entry.get("time")) is int and isinstance(entry.get("event"), str)
    ]
    return sorted(found, key=lambda entry: entry.time_s)


def _members(answer: Answer) -> list[Mapping[str, Any]]:
    rows = answer.results if isinstance(answer.results, list) else []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("serial_no"), str)]


def _role(serial: str, members: Sequence[Mapping[str, Any]], flags: Sequence[str]) -> Role:
    """Find our own serial among the members. The first flag that any member carries decides for all of them."""
    own = [row for row in members if row["serial_no"] == serial]
    flag = next((name for name in flags if any(name in row for row in members)), None)
    if not own or flag is None:
        return "unknown"
    if any(_true(row.get(flag)) for row in own):
        return "primary"
    # A secondary leaves its flag out or denies it. Only where another member is primary does that mean anything.
    return "secondary" if any(_true(row.get(flag)) for row in members) else "unknown"


def _true(value: object) -> bool:
    return value in (True, 1)
