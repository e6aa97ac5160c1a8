"""What a capture of awsd's debug output holds: its lines, operations, refusals, role changes and what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from probe.watch.awsd_grammar import Stamp

ASSOCIATE, UPDATE = "associate elastic ip", "update route"
ACTIONS = {ASSOCIATE: "ec2:AssociateAddress", UPDATE: "ec2:ReplaceRoute"}
ASKED, CONFIRMED, FAILED, UNCONFIRMED = "asked", "confirmed", "failed", "unconfirmed"

NOTE_UNDECODABLE = "undecodable bytes, shown as \ufffd"
NOTE_CONTROL = "control sequences in the line"
NOTE_INSIDE = "printed behind other text"
NOTE_CUT = "its end is missing"
NOTE_LAST = "the capture ends inside this line"
NOTE_FIRST = "the capture may begin inside this line"
NOTE_EARLIER = "its request is not in the capture"
NOTE_AGAIN = "confirmed already"
NOTE_RETRIED = "confirmed after an error"
NOTE_CONNECTOR = "an SDN connector was updating: the error may be its"


@dataclass(slots=True)
class Line:
    """One line of the input.

    Args:
        number: From 1.
        text: Verbatim, without its end.
        ending: How it ends: a line feed with or without carriage returns, or nothing at the end of the input.
        kind: A rule's or one of `awsd_grammar.OTHER_KINDS`.
        meaning: In plain words.
        fields: What it names, such as `eni` or `destination`.
        unit: Host name of the prompt in front of it, empty without one.
        at: Console timestamp as printed, empty without one.
        operation: Number of the operation it opens, closes or is about.
        effect: What it does to that: `opens`, `confirms`, `fails` or nothing.
        notes: What is odd about it.
    """

    number: int
    text: str
    ending: str
    kind: str = "unknown"
    meaning: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    unit: str = ""
    at: str = ""
    operation: int | None = None
    effect: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Operation:
    """One request that changes something in the account. Line numbers are None where that line is not in the capture.

    `took_s` is the time from request to answer, known to the second, None without timestamps.
    """

    number: int
    kind: str
    fields: dict[str, str]
    failover: int
    asked_line: int | None
    asked_at: Stamp | None = None
    state: str = ASKED
    closed_line: int | None = None
    closed_at: Stamp | None = None
    error: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def took_s(self) -> float | None:
        return self.asked_at.until(self.closed_at) if self.asked_at else None


@dataclass(slots=True)
class ApiError:
    """One refusal. `operation` is None where no request was open; `actions` are what was, or may have been, asked."""

    number: int
    line: int
    at: Stamp | None
    status: int | None
    operation: int | None
    actions: tuple[str, ...]
    connector: str = ""
    code: str = ""
    message: str = ""
    meaning: str = ""
    check_first: tuple[str, ...] = ()
    last_line: int = 0


@dataclass(slots=True)
class Role:
    """The unit took a role. `failover` counts from 1; what stands before the first is 0."""

    failover: int
    line: int
    role: str
    unit: str
    at: Stamp | None


@dataclass(slots=True)
class Unit:
    """One unit of the pair as `diagnose test application awsd 4` shows it."""

    peer: bool
    role: str = ""
    instance: str = ""
    enis: list[dict[str, object]] = field(default_factory=list)


@dataclass(slots=True)
class Pair:
    """One output of `diagnose test application awsd 4`."""

    line: int
    status: str = ""
    vpc: str = ""
    units: list[Unit] = field(default_factory=list)
    routes: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Capture:
    """Everything that was read."""

    lines: list[Line] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    errors: list[ApiError] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)
    dialects: set[str] = field(default_factory=set)
    stamps: list[Stamp] = field(default_factory=list)
