"""TARGET arguments: `icmp://HOST`, `udp://HOST[:PORT]`, `tcp://HOST:PORT`, `tcp+stream://HOST:PORT`.

IPv6 addresses stand in brackets.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NoReturn

from probe.core.events import Protocol, Stack
from probe.errors import UsageError

DEFAULT_STAMP_PORT = 862  # RFC 8762, section 4.1
ALLOWED = (
    "icmp://HOST, udp://HOST[:PORT] (default 862), tcp://HOST:PORT or tcp+stream://HOST:PORT, "
    "with IPv6 addresses in brackets"
)

_TARGET = re.compile(
    r"(?P<scheme>[a-z+]+)://(?P<host>\[[^\[\]]*\]|[^\[\]:/?#@]*)(?::(?P<port>[^:/?#@]*))?/?", re.IGNORECASE
)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# What ends in a number is an address of four: the system would take 10.1 for 10.0.0.1, and 010.1.1.1 for 8.1.1.1.
HOST = (
    rf"{_OCTET}(?:\.{_OCTET}){{3}}"
    r"|(?!(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?"
)
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{HOST})")


@dataclass(frozen=True, slots=True)
class Target:
    """What to probe: a protocol, a host that is not looked up yet, and a port (0 for icmp)."""

    protocol: Protocol
    host: str
    port: int = 0
    stack: Stack = "packet"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}{'+stream' if self.stack == 'kernel' else ''}://{host}" + (
            f":{self.port}" if self.port else ""
        )


def parse(text: str) -> Target:
    """Take a TARGET apart.

    Raises:
        UsageError: If it is none; the message says what is wrong and what is allowed.
    """
    match = _TARGET.fullmatch(text.strip())
    if match is None:
        if "::" in text.partition("//")[2] and "[" not in text:
            _refuse(text, "an IPv6 address stands in brackets, such as icmp://[2001:db8::1]")
        _refuse(text, "is no target" if "://" in text else "has no protocol")
    scheme, port = match["scheme"].lower(), match["port"]
    host = _host(text, match["host"])
    if scheme == "icmp":
        if port is not None:
            _refuse(text, "icmp has no ports")
        return Target("icmp", host)
    if scheme == "udp":
        return Target("udp", host, DEFAULT_STAMP_PORT if port is None else _port(text, port))
    if scheme in ("tcp", "tcp+stream"):
        if port is None:
            _refuse(text, f"{scheme} needs a port")
        return Target("tcp", host, _port(text, port), "kernel" if scheme == "tcp+stream" else "packet")
    _refuse(text, f"protocol {scheme!r} is not known")


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            _refuse(text, f"{host} holds no IPv6 address")
    if not _NAME.fullmatch(host):
        _refuse(text, f"{host!r} is no host" if host else "has no host")
    return host


def _port(text: str, port: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        _refuse(text, f"port {port!r} is not 1 to 65535")
    return int(port)


def _refuse(text: str, what: str) -> NoReturn:
    raise UsageError(f"{text or repr(text)}: {what}; allowed: {ALLOWED}")
