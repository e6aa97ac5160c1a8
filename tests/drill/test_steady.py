"""What counts as steady, and what is said when it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probe.drill.offsets import ClockOffset
from probe.drill.steady import SteadyState, blemishes, clock_warnings, silent, watcher_warnings

from .fakes import MS, S, flow, poll


def test_done_after_the_time_without_a_blemish() -> None:
    check = SteadyState(2 * S)
    for at_s in (0, 1, 1.9):
        assert not check.update(poll(at_s, flow(received=round(at_s * 100)))).done
    progress = check.update(poll(2, flow(received=200)))
    assert progress.done
    assert progress.held_ns == 2 * S
    assert progress.since_wall_ns == poll(0).wall_ns


def test_a_loss_starts_the_time_again() -> None:
    check = SteadyState(2 * S)
    check.update(poll(0, flow(received=1)))
    blemished = check.update(poll(1, flow(received=2, lost=1)))
    assert blemished.since_wall_ns == 0
    assert blemished.blemishes == ("agent a, flow f: 1 lost",)
    check.update(poll(1.25, flow(received=3, lost=1)))
    assert not check.update(poll(2.5, flow(received=4, lost=1))).done
    final = check.update(poll(3.25, flow(received=5, lost=1)))
    assert final.done
    assert final.since_wall_ns == poll(1.25).wall_ns


def test_losses_from_before_the_check_are_forgiven() -> None:
    check = SteadyState(S)
    check.update(poll(0, flow(lost=5, unsent=2, received=1)))
    assert check.update(poll(1, flow(lost=5, unsent=2, received=2))).done


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("lost", "3 lost"),
        ("late", "3 late"),
        ("unsent", "3 not sent by our own host"),
        ("dropped_locally", "3 dropped by our own host"),
        ("reset", "3 session resets"),
        ("icmp_error", "3 ICMP errors"),
    ],
)
def test_every_unclean_count_is_named(count: str, said: str) -> None:
    assert blemishes(poll(0, flow()), poll(1, flow(**{count: 3}))) == (f"agent a, flow f: {said}",)


@pytest.mark.parametrize("count", ["unsent", "dropped_locally"])
def test_a_host_that_misses_a_few_slots_may_measure_one_that_misses_many_may_not(count: str) -> None:
    before = poll(0, flow(scheduled=1000))
    assert blemishes(before, poll(1, flow(scheduled=1100, **{count: 20}))) == ()
    assert len(blemishes(before, poll(1, flow(scheduled=1100, **{count: 51})))) == 1


def test_a_single_loss_is_never_allowed() -> None:
    assert len(blemishes(poll(0, flow()), poll(1, flow(scheduled=1000, lost=1)))) == 1


@pytest.mark.parametrize("state", ["connecting", "suspect", "down", "ended"])
def test_a_flow_that_is_not_up_is_named_with_agent_state_and_last_reply(state: str) -> None:
    now = poll(10, flow("x", state, agent="wl", detail="no SYN/ACK", last_rx_ns=poll(7.5).wall_ns))
    assert blemishes(None, now) == (f"agent wl, flow x: state {state} (no SYN/ACK), last reply 2.5 s ago",)


def test_a_flow_that_never_had_a_reply_is_said_so() -> None:
    assert "no reply yet" in blemishes(None, poll(0, flow("x", "connecting")))[0]


def test_a_silent_agent_is_a_blemish() -> None:
    assert "agent b: does not answer (refused)" in blemishes(None, poll(0, flow(), failures={"b": "refused"}))


def test_an_agent_that_is_not_ready_is_a_blemish() -> None:
    now = poll(0, flow())
    now = replace(now, agents=(replace(now.agents[0], ready=False, not_ready="flow x has no path"),))
    assert blemishes(None, now) == ("agent a: not ready (flow x has no path)",)


def test_without_any_flow_nothing_is_steady() -> None:
    assert blemishes(None, poll(0)) == ("no agent has a flow to measure with",)


def test_an_agent_that_restarted_is_a_blemish() -> None:
    assert "restarted" in blemishes(poll(0, flow(scheduled=100)), poll(1, flow(scheduled=3)))[0]


def test_a_flow_without_replies_is_not_steady_however_up_it_calls_itself() -> None:
    check = SteadyState(S)
    check.update(poll(0, flow(received=5)))
    progress = check.update(poll(1, flow(received=5)))
    assert not progress.done
    assert progress.blemishes == ("agent a, flow f: no reply in 1.0 s",)


def test_a_flow_slower_than_the_check_may_be_silent() -> None:
    slow = flow(interval_ns=60 * S)
    assert silent(poll(0, slow), poll(1, slow)) == ()


def test_clocks_that_disagree_are_warned_about() -> None:
    (warning,) = clock_warnings({"off": ClockOffset(3 * S, 2 * MS, 0)})
    assert "agent off: its clock is +3.000 s off ours (± 0.002 s): its times are moved onto ours" in warning


def test_watchers_that_see_nothing_are_warned_about() -> None:
    now = poll(0, flow())
    now = replace(now, agents=(replace(now.agents[0], watchers_down=("aws: RequestLimitExceeded",)),))
    assert watcher_warnings(now) == ["agent a: watcher aws: RequestLimitExceeded; the timeline will lack its events"]
    assert watcher_warnings(poll(0, flow(), owner="fgt-a")) == []
