"""Who ended a session, and which ICMP errors stand for its end."""

from __future__ import annotations

import pytest

from probe.core.ending import ICMP_QUIET_NS, IcmpRun, ended_by, hops, standing
from tests.core.test_verdict import T0, S, outage

PEER, ROUTER = "192.0.2.2", "198.51.100.9"


@pytest.mark.parametrize(
    ("ttl", "passed"), [(64, 0), (63, 1), (1, 63), (65, 63), (128, 0), (125, 3), (129, 126), (252, 3)]
)
def test_routers_passed(ttl: int, passed: int) -> None:
    assert hops(ttl) == passed


@pytest.mark.parametrize(
    ("source", "ttl", "peer_ttl", "who"),
    [
        (PEER, 252, 252, "peer"),  # our reflector, three routers away
        (PEER, 61, 252, "peer"),  # the kernel of its host, as far away, with another initial value
        (PEER, 125, 61, "peer"),
        (PEER, 63, 252, "firewall"),  # one router away, in the peer's name
        (PEER, 254, 252, "firewall"),
        (PEER, 64, 63, "firewall"),
        (PEER, 60, 252, "unknown"),  # from farther away than the peer has been
        (PEER, 63, 0, "unknown"),  # no reply ever came
        (PEER, 0, 252, "unknown"),
        ("", 0, 252, "unknown"),
        (ROUTER, 61, 252, "firewall"),  # an ICMP error under a router's own name, as far as the peer
        (ROUTER, 63, 0, "firewall"),
    ],
)
def test_who_ended_it(source: str, ttl: int, peer_ttl: int, who: str) -> None:
    assert ended_by(source, PEER, ttl, peer_ttl) == who


def errors(first_s: float, last_s: float, code: int = 13) -> IcmpRun:
    return IcmpRun(T0 + round(first_s * S), T0 + round(last_s * S), 3, code, ROUTER, 63, 252)


def test_errors_of_one_kind_without_a_long_pause_are_a_run() -> None:
    run, pause = errors(1, 2), ICMP_QUIET_NS / S
    assert run.goes_on(errors(2 + pause, 9)) and not run.goes_on(errors(2.001 + pause, 9))
    assert not run.goes_on(errors(2.5, 3, code=1))


DARK = outage(5, None)  # open from 5 s to the end, at 20 s


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], None),
        ([errors(5.1, 19)], 5.1),
        ([errors(5.1, 15)], 5.1),  # Linux sends one a second at most, others fewer
        ([errors(5.1, 14.9)], None),  # passing noise: silence went on for longer
        ([errors(1, 4.9)], None),  # before it
        ([errors(1, 19)], 1),
        ([errors(5.1, 6, code=1), errors(12, 19)], 12),  # host unreachable until the route moved, then refused for good
        ([errors(12, 19), errors(11, 18, code=1)], 11),
    ],
)
def test_which_errors_stand_for_the_end(runs: list[IcmpRun], expected: float | None) -> None:
    run = standing(runs, DARK)
    assert (None if run is None else (run.first_ns - T0) / S) == expected


def test_an_error_just_before_a_short_outage_is_not_of_it() -> None:
    assert standing([errors(4, 4.9)], outage(5, None)) is None
    just = [errors(18, 18.9)]
    assert standing(just, outage(19, None)) is None and standing(just, outage(18.5, None)) is not None
