"""What is done before the first probe goes the whole way that a probe goes."""

from __future__ import annotations

import pytest

from probe.core.events import FlowSpec
from probe.prepare import prepare
from probe.session.rehearsal import rehearse
from probe.wire import layout

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def command(protocol: str, session: str, family: int, **more):
    spec = FlowSpec(protocol, protocol, session, "p", LOOPBACK[family], 862 if protocol != "icmp" else 0, 1000, **more)
    return prepare(spec, 5, error_estimate=1, address=LOOPBACK[family]).add_command(limit=10, lead_ns=7)


@pytest.mark.parametrize("family", [4, 6])
def test_every_kind_that_a_reflector_answers_is_answered(family):
    kinds = [command("udp", "kept", family), command("udp", "fresh", family), command("tcp", "kept", family)]
    kinds += [command("udp", "kept", family, size=72), command("icmp", "kept", family)]
    answered = rehearse(kinds)
    assert set(answered) == {layout.UDP, layout.UDP_BASE, layout.TCP, layout.ICMP4 if family == 4 else layout.ICMP6}
    assert min(answered[kind] for kind in (layout.UDP, layout.UDP_BASE, layout.TCP)) > 100


def test_it_changes_nothing_in_the_commands():
    first = command("udp", "kept", 4)
    before = dict(first)
    rehearse([first])
    assert first == before
