"""Turning mistakes in a config file into messages: where, what is wrong, what is allowed.

Pydantic finds what is wrong with one value. The rules here see several at once (two flows of one name, a port where
the protocol has none), and work on the raw data, so that they still speak when another field is wrong as well.
"""

from __future__ import annotations

import difflib
import ipaddress
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from probe.config_types import Allowed
from probe.core.events import MAX_STREAM_RATE_PPS
from probe.wire.sizes import effective_size
from probe.yamlfile import Location, field_name

Need = Literal["agent", "drill", "any"]
TriggerKind = Literal["manual", "command", "lab", "fortigate", "aws-stop-instance", "aws-reboot-instance"]
_SSH_SECRETS = ("key_file", "password_file", "password_env")
_SSH_HOST_KEYS = ("known_hosts", "fingerprint")
_AWS_TRIGGER = ("unit", "instance", "region", "profile", "role_arn", "external_id", "endpoint_url")
# Keys of drill.trigger that each kind has a use for.
TRIGGER_KEYS: dict[TriggerKind, tuple[str, ...]] = {
    "manual": (),
    "command": ("command", "undo_command", "undo"),
    "lab": (),
    "fortigate": ("unit", "host", "port", "user", *_SSH_SECRETS, *_SSH_HOST_KEYS, "vcluster", "undo"),
    "aws-stop-instance": (*_AWS_TRIGGER, "force", "undo"),
    "aws-reboot-instance": _AWS_TRIGGER,
}
Problem = tuple[Location, str]

MIN_RATE_PPS = 0.001  # a probe in a quarter of an hour
MAX_RATE_PPS = 2_000_000
FRESH_SUFFIX = "-fresh"


# --- one value -----------------------------------------------------------------------------------------------------


def model_problems(model: type[BaseModel], data: object) -> list[Problem]:
    """Every complaint of a model about raw data."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [_explain(model, entry["type"], entry["loc"], entry) for entry in error.errors(include_url=False)]
    return []


def _explain(model: type[BaseModel], kind: str, raw_location: tuple[str | int, ...], entry: Any) -> Problem:
    location, at = _resolve(model, raw_location)
    if kind == "extra_forbidden":
        known = list(at.owner.model_fields) if at.owner else []
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return location, f"unknown key{hint}; allowed: {', '.join(known)}"
    if kind == "missing":
        return location, f"is missing; allowed: {at.allowed or 'any value'}"
    if kind == "value_error":
        what = str(entry["ctx"]["error"])
    elif kind == "literal_error":
        what = f"{entry['input']!r} is not known"
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        what = f"{_shape(entry['input'])} where a mapping of keys is needed"
    elif kind == "list_type":
        what = f"{_shape(entry['input'])} where a list is needed"
    else:
        what = str(entry["msg"])
    return location, f"{what}; allowed: {at.allowed or 'see docs/config.md'}"


def _shape(value: object) -> str:
    names = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return names.get(type(value), repr(value))


@dataclass(slots=True)
class _At:
    """What the models know about a location."""

    owner: type[BaseModel] | None = None  # the model whose key it is
    allowed: str = ""


def _resolve(model: type[BaseModel], raw: tuple[str | int, ...]) -> tuple[Location, _At]:
    """A pydantic location without the names of union members, and what is allowed there."""
    location: list[str | int] = []
    at = _At()
    kind: Any = model
    for part in raw:
        kind = _unwrap(kind, at)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            at.owner, at.allowed = kind, ", ".join(kind.model_fields)
            field = kind.model_fields.get(str(part))
            if field is not None:
                at.allowed = next((item.text for item in field.metadata if isinstance(item, Allowed)), "")
                kind = field.annotation
        elif typing.get_origin(kind) is list and isinstance(part, int):
            kind = typing.get_args(kind)[0]
        elif typing.get_origin(kind) is dict:
            # Pydantic marks a complaint about the key itself by one more part.
            kind = typing.get_args(kind)[0 if raw[-1] == "[key]" else 1]
        else:
            continue  # the name of a union's member: no part of the file
        location.append(part)
    kind = _unwrap(kind, at)
    if not at.allowed:
        at.allowed = _describe(kind)
    return tuple(location), at


def _unwrap(kind: Any, at: _At) -> Any:
    """Strip Annotated and `| None`, picking up what is allowed on the way."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind, *metadata = typing.get_args(kind)
            at.allowed = next((item.text for item in metadata if isinstance(item, Allowed)), at.allowed)
        elif typing.get_origin(kind) in (typing.Union, types.UnionType):
            members = [member for member in typing.get_args(kind) if member is not type(None)]
            if len(members) != 1:
                return kind
            kind = members[0]
        else:
            return kind


def _describe(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"keys {', '.join(kind.model_fields)}"
    if typing.get_origin(kind) is list:
        return f"a list of items, each {_described_item(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict:
        return f"names, each with {_described_item(typing.get_args(kind)[1])}"
    return ""


def _described_item(kind: Any) -> str:
    at = _At()
    kind = _unwrap(kind, at)
    return at.allowed or _describe(kind) or "a value"


# --- several values ------------------------------------------------------------------------------------------------


def cross_problems(data: object, need: Need, bad: set[Location]) -> list[Problem]:
    """Rules over several fields, each field taken only when it is not wrong already (`bad`)."""
    if not isinstance(data, dict):
        return []
    problems: list[Problem] = []
    names: dict[str, str] = {}
    for index, flow in enumerate(_list(data.get("flows"))):
        if isinstance(flow, dict):
            here: Location = ("flows", index)
            good = {key: value for key, value in flow.items() if (*here, key) not in bad}
            problems += [((*here, key), text) for key, text in _flow_problems(good)]
            problems += _name_problems(here, good, names)
    problems += _reflector_problems(data)
    problems += _aws_problems(data)
    problems += _fortigate_problems(data)
    problems += _remote_write_problems(data)
    problems += _agents_problems(data)
    problems += _drill_problems(data)
    problems += _empty_problems(data, need)
    return [(location, text) for location, text in problems if location not in bad]


def _flow_problems(flow: dict[str, Any]) -> Iterator[tuple[str, str]]:
    protocol, port = flow.get("protocol"), flow.get("port")
    if protocol == "icmp" and port is not None:
        yield "port", "icmp has no ports; allowed: leave it out"
    if protocol == "tcp" and port is None and "port" not in flow:
        yield "port", "is missing: tcp has no default port; allowed: 1 to 65535"
    if flow.get("stack") == "kernel":
        if protocol in ("icmp", "udp"):
            yield "stack", f"kernel is for tcp only, not for {protocol}; allowed: packet"
        if flow.get("session", "kept") != "kept":
            yield "session", f"{flow['session']!r} with stack kernel: a stream is one kept session; allowed: kept"
        if flow.get("size") is not None:
            yield "size", "is for packets; a stream's records have 36 octets; allowed: leave it out"
        rate = flow.get("rate")
        if isinstance(rate, int | float) and rate > MAX_STREAM_RATE_PPS:
            yield "rate", f"{rate:g} with stack kernel; allowed: more than 0 and up to {MAX_STREAM_RATE_PPS} keystrokes"
    if protocol in ("icmp", "tcp") and flow.get("key_file") is not None:
        yield "key_file", f"is for authenticated STAMP; allowed: with protocol udp only, not with {protocol}"
    target, source = _ip(flow.get("target")), _ip(flow.get("source"))
    if target and source and target.version != source.version:
        yield (
            "source",
            f"is IPv{source.version} and target is IPv{target.version}; allowed: an IPv{target.version} address",
        )


def _name_problems(here: Location, flow: dict[str, Any], names: dict[str, str]) -> Iterator[Problem]:
    """Two flows of one name, counting the NAME-fresh that `session: both` adds."""
    name = flow.get("name")
    if not isinstance(name, str):
        return
    taken = [name, name + FRESH_SUFFIX] if flow.get("session") == "both" else [name]
    for one in taken:
        if one in names:
            derived = " (made by session: both)" if one != name else ""
            yield (*here, "name"), f"{one}{derived} is also the name of {names[one]}; allowed: a name used once"
        names.setdefault(one, f"{field_name(here)}" + (" (made by session: both)" if one != name else ""))


def _reflector_problems(data: dict[str, Any]) -> Iterator[Problem]:
    reflector = data.get("reflector")
    if not isinstance(reflector, dict):
        return
    if all(reflector.get(kind) is None for kind in ("udp", "tcp", "echo")):
        yield ("reflector",), "has no port to answer on; allowed: udp, tcp or echo, such as {udp: 862, tcp: 8620}"
    if reflector.get("echo") is not None and reflector.get("echo") == reflector.get("tcp"):
        yield ("reflector", "echo"), f"port {reflector['echo']} is tcp's already; allowed: another port"


def _aws_problems(data: dict[str, Any]) -> Iterator[Problem]:
    aws = _dict(_dict(data.get("watchers")).get("aws"))
    here: Location = ("watchers", "aws")
    kinds = ("addresses", "route_tables", "network_interfaces", "instances")
    if aws and not any(aws.get(kind) for kind in kinds):
        yield here, f"has nothing to watch; allowed: one or more of {', '.join(kinds)}"
    owner: dict[str, str] = {}
    for unit, interfaces in _dict(aws.get("units")).items():
        for index, interface in enumerate(_list(interfaces)):
            if isinstance(interface, str) and owner.setdefault(interface, unit) != unit:
                text = f"{interface} belongs to {owner[interface]} already; allowed: an interface of one unit"
                yield (*here, "units", unit, index), text


def _fortigate_problems(data: dict[str, Any]) -> Iterator[Problem]:
    fortigate = _dict(_dict(data.get("watchers")).get("fortigate"))
    here: Location = ("watchers", "fortigate", "units")
    if fortigate.get("units") == {}:
        yield here, "is empty; allowed: both units, such as fgt-a: {host: 10.0.0.1, token_file: /etc/haprobe/a.token}"
    for name, unit in _dict(fortigate.get("units")).items():
        if isinstance(unit, dict):
            yield from _one_of((*here, name), unit, ("token_file", "token_env"))
        if isinstance(_dict(unit).get("ssh"), dict):
            yield from _one_of((*here, name, "ssh"), unit["ssh"], _SSH_SECRETS)


def _one_of(here: Location, part: dict[str, Any], keys: tuple[str, ...]) -> Iterator[Problem]:
    given = [key for key in keys if part.get(key) is not None]
    if not given:
        yield (*here, keys[0]), f"is missing; allowed: one of {', '.join(keys)}"
    for key in given[1:]:
        yield (*here, key), f"stands beside {given[0]}; allowed: one of {', '.join(keys)}"


def _remote_write_problems(data: dict[str, Any]) -> Iterator[Problem]:
    remote = _dict(data.get("remote_write"))
    pairs = (("cert_file", "key_file"), ("username", "password_file"))
    for one, other in (pair for a, b in pairs for pair in ((a, b), (b, a))):
        if remote.get(one) and not remote.get(other):
            yield ("remote_write", one), f"needs {other} as well; allowed: both or neither"
    if remote.get("token_file") and remote.get("username"):
        yield ("remote_write", "token_file"), "stands beside username; allowed: one of them"
    if "__name__" in _dict(remote.get("external_labels")):
        yield ("remote_write", "external_labels", "__name__"), "is the name of a metric; allowed: other labels"


def _agents_problems(data: dict[str, Any]) -> Iterator[Problem]:
    for name, agent in _dict(data.get("agents")).items():
        for one, other in (("cert_file", "key_file"), ("key_file", "cert_file"), ("username", "password_file")):
            if _dict(agent).get(one) and not _dict(agent).get(other):
                yield ("agents", name, one), f"needs {other} as well; allowed: both or neither"


def _drill_problems(data: dict[str, Any]) -> Iterator[Problem]:
    trigger = _dict(_dict(data.get("drill")).get("trigger"))
    kind = trigger.get("kind", "manual")
    if not isinstance(kind, str) or kind not in TRIGGER_KEYS:
        return
    here: Location = ("drill", "trigger")
    for key in trigger:
        owners = [one for one, keys in TRIGGER_KEYS.items() if key in keys]
        if owners and kind not in owners and trigger[key] not in (None, False):
            yield (*here, key), f"is only for kind {' or '.join(owners)}; allowed: leave it out"
    if kind == "command":
        if not trigger.get("command"):
            yield (*here, "command"), "is missing for kind command; allowed: a command line or a list of words"
        if trigger.get("undo") and not trigger.get("undo_command"):
            yield (*here, "undo"), "needs undo_command as well; allowed: a command that undoes the other"
    elif kind == "fortigate":
        yield from _fortigate_trigger_problems(here, trigger)
    elif kind.startswith("aws-"):
        yield from _aws_trigger_problems(here, trigger, _dict(_dict(data.get("watchers")).get("aws")))


def _fortigate_trigger_problems(here: Location, trigger: dict[str, Any]) -> Iterator[Problem]:
    for key, allowed in (("unit", "the active unit's name"), ("host", "its address"), ("user", "an administrator")):
        if not trigger.get(key):
            yield (*here, key), f"is missing for kind fortigate; allowed: {allowed}"
    yield from _one_of(here, trigger, _SSH_SECRETS)
    yield from _one_of(here, trigger, _SSH_HOST_KEYS)


def _aws_trigger_problems(here: Location, trigger: dict[str, Any], watcher: dict[str, Any]) -> Iterator[Problem]:
    if not trigger.get("region") and not watcher.get("region"):
        yield (*here, "region"), "is missing, and there is no watchers.aws to take it of; allowed: a region"
    known = _dict(watcher.get("instances"))
    if not trigger.get("instance") and trigger.get("unit") not in known:
        names = ", ".join(known) or "none is there"
        yield (
            (*here, "unit"),
            f"or instance must say which; allowed: an instance id, or of watchers.aws.instances: {names}",
        )


def _empty_problems(data: dict[str, Any], need: Need) -> Iterator[Problem]:
    watchers = [value for value in _dict(data.get("watchers")).values() if value is not None]
    something = data.get("flows") or data.get("reflector") is not None or watchers
    if not something and (need == "agent" or (need == "any" and not data.get("agents"))):
        yield (), "holds nothing to do; allowed: at least one of flows, reflector, watchers"
    if need == "drill" and not data.get("agents"):
        yield ("agents",), "a drill needs agents to ask; allowed: agents: {NAME: {url: http://HOST:10862}}"


# --- notices -------------------------------------------------------------------------------------------------------


def notices(data: dict[str, Any]) -> Iterable[Problem]:
    """What a sound config says that is not carried out to the letter."""
    for index, flow in enumerate(_list(data.get("flows"))):
        size = flow.get("size")
        sent = effective_size(flow["protocol"], size)
        if size is not None and sent != size:
            text = f"{size} raised to {sent}, the next IP packet that carries a whole {flow['protocol']} probe"
            yield ("flows", index, "size"), text
    watchers = _dict(data.get("watchers"))
    units = _dict(_dict(watchers.get("fortigate")).get("units"))
    here: Location = ("watchers", "fortigate", "units")
    if len(units) == 1:
        yield here, "is one unit only; the other one's role will be unknown"
    known = _dict(_dict(watchers.get("aws")).get("units"))
    for name in units:
        if known and name not in known:
            yield (*here, name), "is no name of watchers.aws.units; who is active cannot be compared between the two"


def _ip(value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
