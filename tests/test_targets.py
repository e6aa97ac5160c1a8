"""TARGET arguments, and what is said about those that are none."""

from __future__ import annotations

import pytest

from probe.errors import UsageError
from probe.targets import ALLOWED, Target, parse


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("icmp://192.0.2.1", Target("icmp", "192.0.2.1")),
        ("icmp://host.example", Target("icmp", "host.example")),
        ("icmp://10.example.", Target("icmp", "10.example.")),
        ("icmp://fgt1", Target("icmp", "fgt1")),
        ("icmp://[2001:db8::1]", Target("icmp", "2001:db8::1")),
        ("icmp://[fe80::1%eth0]", Target("icmp", "fe80::1%eth0")),
        ("udp://192.0.2.1", Target("udp", "192.0.2.1", 862)),
        ("udp://[2001:DB8:0::1]:9000", Target("udp", "2001:db8::1", 9000)),
        ("tcp://host:22", Target("tcp", "host", 22)),
        ("TCP://host:65535/", Target("tcp", "host", 65535)),
    ],
)
def test_a_target_is_taken_apart(text: str, target: Target) -> None:
    assert parse(text) == target
    assert parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("192.0.2.1", "has no protocol"),
        ("", "has no protocol"),
        ("http://host", "protocol 'http' is not known"),
        ("icmp://", "has no host"),
        ("icmp://host:7", "icmp has no ports"),
        ("icmp://2001:db8::1", "an IPv6 address stands in brackets"),
        ("icmp://[192.0.2.1]", "holds no IPv6 address"),
        ("icmp://a b", "'a b' is no host"),
        ("icmp://-host", "'-host' is no host"),
        ("icmp://1", "'1' is no host"),
        ("icmp://10.1", "'10.1' is no host"),  # the system would ask 10.0.0.1
        ("icmp://010.1.1.1", "'010.1.1.1' is no host"),  # and 8.1.1.1
        ("icmp://256.1.1.1", "'256.1.1.1' is no host"),
        ("icmp://0x7f000001", "'0x7f000001' is no host"),
        ("tcp://host", "tcp needs a port"),
        ("tcp://host:", "port '' is not 1 to 65535"),
        ("tcp://host:0", "port '0' is not 1 to 65535"),
        ("tcp://host:65536", "port '65536' is not 1 to 65535"),
        ("tcp://host:٢٢", "is not 1 to 65535"),
        ("tcp://host:ssh", "port 'ssh' is not 1 to 65535"),
        ("udp://host:" + "9" * 5000, "is not 1 to 65535"),
        ("udp://user@host", "is no target"),
        ("udp://host/path", "is no target"),
        ("tcp+stream://host", "tcp+stream needs a port"),
    ],
)
def test_anything_else_is_told_what_is_allowed(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert what in str(caught.value)
    assert str(caught.value).endswith(f"; allowed: {ALLOWED}")
