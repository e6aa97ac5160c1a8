"""The kinds of values a config file holds, each with a check, the words an error offers, and its JSON Schema.

The checks are ours and not pydantic's own, so that a message says what the user wrote and what is allowed instead.
Each stands beside the type of its field: `Annotated[int, number(...)]`.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from probe import units
from probe.targets import HOST


@dataclass(frozen=True)
class Allowed:
    """What a field may hold, in words."""

    text: str


@dataclass(frozen=True, eq=False)  # one per field, told apart by identity: annotations must be hashable
class Checked(Allowed):
    """A check that runs before pydantic's own, and the JSON Schema of what passes it.

    `check` returns the value to keep, or raises ValueError with what is wrong, without saying what is allowed.
    """

    check: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)  # pydantic adds title and default to what it is given


def text(pattern: str, allowed: str, limit: int = 255) -> Checked:
    """A text that matches a pattern as a whole."""
    compiled = re.compile(pattern)

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not text")
        if not compiled.fullmatch(value) or len(value) > limit:
            raise ValueError(f"{value!r} does not fit")
        return value

    schema = {"type": "string", "pattern": f"^(?:{pattern})$", "maxLength": limit}
    return Checked(allowed, check, schema)


def number(kind: type, low: float, high: float, allowed: str, *, above: bool = False) -> Checked:
    """A number between two bounds; `above` leaves the lower one out."""

    def check(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
            raise ValueError(f"{value!r} is not a {'whole ' if kind is int else ''}number")
        # Nothing but comparisons: an integer may be larger than any float, and NaN is in no range.
        if not low <= value <= high or (above and value == low):
            raise ValueError(f"{value!r} is out of range")
        return value

    lower = {"exclusiveMinimum": low} if above else {"minimum": low}
    return Checked(allowed, check, {"type": "integer" if kind is int else "number", **lower, "maximum": high})


def duration(low: str, high: str) -> Checked:
    """A duration with its unit, between two bounds; becomes seconds."""
    low_ns, high_ns = units.parse_duration_ns(low), units.parse_duration_ns(high)

    def check(value: object) -> float:
        try:
            ns = units.parse_duration_ns(value if isinstance(value, str) else "")
        except ValueError:
            raise ValueError(f"{value!r} is not a duration") from None
        if not low_ns <= ns <= high_ns:
            raise ValueError(f"{value!r} is out of range")
        return ns / 1e9

    schema = {"type": "string", "pattern": units.DURATION_PATTERN, "examples": [low, high]}
    return Checked(f"{low} to {high}: {units.DURATION_ALLOWED}", check, schema)


def aws_id(prefix: str) -> Checked:
    """An AWS resource id of one kind."""
    return text(rf"{prefix}-[0-9A-Za-z]+", f"an id such as {prefix}-0123456789abcdef0")


def _network(value: object) -> object:
    try:
        if not isinstance(value, str):
            raise ValueError("it is not text")
        ipaddress.ip_network(value, strict=True)
    except ValueError as error:
        raise ValueError(f"{value!r} is no network: {error}") from None
    return value


def _address(value: object) -> object:
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"{value!r} is no IP address") from None
    return value


def _url(value: object) -> object:
    problem = f"{value!r} is no http or https URL"
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is none, a bracket left open, a host name that DNS cannot hold
        raise ValueError(problem) from None
    if parts.username or parts.password:
        raise ValueError("has credentials in the URL")
    if not usable:
        raise ValueError(problem)
    return value


def _command(value: object) -> object:
    """A command line taken apart as a shell would, or the list of words as it is."""
    words = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"{value!r} cannot be taken apart: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{value!r} is no command")
    return words


_WORDS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_HOST = HOST + r"|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[^\s/]+)?"

Name = Annotated[str, text(r"[A-Za-z0-9_.-]+", "1 to 64 of A-Z a-z 0-9 _ . -", limit=64)]
Host = Annotated[str, text(_HOST, "an IP address or a host name")]
Interface = Annotated[str, text(r"[^\s/]+", "an interface name, such as eth0 (at most 15 characters)", limit=15)]
File = Annotated[str, text(r"[^\x00]+", "a path to a file", limit=4096)]
EnvironmentName = Annotated[str, text(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
Port = Annotated[int, number(int, 1, 65535, "1 to 65535")]
Network = Annotated[
    str,
    Checked(
        "a network in CIDR form without host bits, such as 10.99.96.0/19 or 2001:db8::/32", _network, {"type": "string"}
    ),
]
Address = Annotated[str, Checked("an IPv4 or IPv6 address", _address, {"type": "string"})]
Url = Annotated[
    str,
    Checked(
        "http://HOST:PORT or https://HOST:PORT; passwords only by password_file",
        _url,
        {"type": "string", "pattern": "^https?://"},
    ),
]
LabelName = Annotated[str, text(r"[A-Za-z_][A-Za-z0-9_]*", "a label name: A-Z a-z 0-9 _, not beginning with a digit")]
LabelValue = Annotated[str, text(r"[^\x00-\x1f\x7f]+", "1 to 255 printable characters")]
HeaderName = Annotated[str, text(r"[A-Za-z0-9-]+", "the name of an HTTP header")]
HeaderValue = Annotated[str, text(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", "one line of ASCII", limit=1024)]
Directory = Annotated[str, text(r"[^\x00]+", "a path to a directory", limit=4096)]
Command = Annotated[list[str], Checked("a command line, or a list of words; run without a shell", _command, _WORDS)]
UserName = Annotated[str, text(r"[^:\s]+", "a user name without colon")]
Fingerprint = Annotated[
    str, text(r"SHA256:[A-Za-z0-9+/]{43}", "SHA256: and 43 characters, as `ssh-keygen -lf` prints it")
]
EipallocId = Annotated[str, aws_id("eipalloc")]
RouteTableId = Annotated[str, aws_id("rtb")]
InterfaceId = Annotated[str, aws_id("eni")]
InstanceId = Annotated[str, aws_id("i")]
Region = Annotated[str, text(r"[a-z]{2,}(-[a-z]+)+-\d+", "a region, such as eu-west-2")]
Profile = Annotated[str, text(r"[^\x00]+", "the name of a profile in the AWS config files")]
RoleArn = Annotated[
    str, text(r"arn:[a-z-]+:iam::\d{12}:role/[\w+=,.@/-]+", "a role, such as arn:aws:iam::123456789012:role/haprobe")
]
ExternalId = Annotated[str, text(r"[\w+=,.@:/-]{2,}", "an external id, as the role's trust policy asks for it", 1224)]
