"""When there is nothing left to wait for."""

from __future__ import annotations

import pytest

from probe.drill.recovery import Recovery, RecoveryProgress
from probe.drill.status import FlowStatus, Poll

from .fakes import S, flow, poll

KEPT, FRESH = flow("x"), flow("x-fresh")
BEFORE = poll(0, KEPT, FRESH, owner="fgt-a")


def play(*polls: Poll, before: Poll = BEFORE, validation_s: float = 2) -> list[RecoveryProgress]:
    """Progress after each poll; the trigger is at 0 s."""
    recovery = Recovery(before, before.mono_ns, round(validation_s * S))
    return [recovery.update(p) for p in polls]


def both(at_s: float, kept: str, fresh: str, *, lost: int = 0, kept_lost: int | None = None) -> Poll:
    return poll(at_s, flow("x", kept, lost=lost if kept_lost is None else kept_lost), flow("x-fresh", fresh, lost=lost))


def test_an_outage_that_ends_and_holds_is_done() -> None:
    steps = play(
        both(1, "down", "down"), both(2, "up", "up", lost=9), both(3, "up", "up", lost=9), both(4, "up", "up", lost=9)
    )
    assert [s.done for s in steps] == [False, False, False, True]
    assert steps[0].dark == 2
    assert steps[-1].since_trigger_ns == 4 * S


def test_what_is_still_to_come_is_waited_for_and_the_validation_starts_after_it() -> None:
    recovery = Recovery(BEFORE, BEFORE.mono_ns, 2 * S)
    recovery.update(both(1, "down", "down"), "a second failover")
    pending = [recovery.update(both(at, "up", "up", lost=9), "a second failover") for at in (2, 9)]
    assert [one.waiting_for for one in pending] == [("a second failover",)] * 2
    assert not recovery.update(both(10, "up", "up", lost=9)).done
    assert recovery.update(both(12, "up", "up", lost=9)).done


def test_new_loss_starts_the_validation_again() -> None:
    steps = play(
        both(1, "down", "down"), both(2, "up", "up", lost=9), both(3, "up", "up", lost=10), both(4, "up", "up", lost=10)
    )
    assert steps[-1].held_ns == S
    assert not steps[-1].done


def test_a_lost_session_is_settled_once_its_twin_is_back() -> None:
    steps = play(
        both(1, "down", "down"),
        both(2, "down", "up", lost=5, kept_lost=20),
        both(3, "down", "up", lost=5, kept_lost=90),
        both(4, "down", "up", lost=5, kept_lost=160),
    )
    assert steps[1].waiting_for == ()
    assert steps[-1].done, "loss of the dead session itself must not keep the drill waiting"


def test_a_session_that_comes_back_late_must_hold_as_well() -> None:
    steps = play(
        both(1, "down", "down"),
        both(2, "down", "up"),
        both(3.5, "up", "up"),
        both(4, "up", "up"),
        both(5.5, "up", "up"),
    )
    assert [s.done for s in steps] == [False, False, False, False, True]


def test_a_fresh_flow_in_the_dark_is_waited_for_whatever_its_twin_does() -> None:
    steps = play(both(1, "down", "down"), both(2, "up", "down"), both(60, "up", "down"))
    assert not steps[-1].done
    assert steps[-1].waiting_for == ("a/x-fresh: down",)


@pytest.mark.parametrize(("state", "settled"), [("ended", True), ("down", False)])
def test_a_kept_flow_without_twin_is_given_up_only_when_it_was_reset(state: str, settled: bool) -> None:
    before = poll(0, flow("alone"))
    steps = play(poll(1, flow("alone", state)), poll(4, flow("alone", state)), before=before)
    assert steps[-1].done is settled


def stream(at_s: float, state: str, stalls: int) -> Poll:
    return poll(at_s, flow("s", state, protocol="tcp", stack="kernel", stalls=stalls))


def test_a_stall_of_a_stream_is_an_outage_however_short() -> None:
    steps = play(
        stream(1, "suspect", 2), stream(2, "up", 2), stream(3, "up", 2), stream(4, "up", 2), before=stream(0, "up", 1)
    )
    assert [s.outage_seen for s in steps] == [True] * 4  # never so long that it was down
    assert [s.done for s in steps] == [False, False, False, True]


def test_a_new_stall_starts_the_validation_again() -> None:
    steps = play(
        stream(1, "down", 1), stream(2, "up", 1), stream(3, "up", 2), stream(4, "up", 2), before=stream(0, "up", 0)
    )
    assert not steps[-1].done and steps[-1].held_ns == S


def test_without_outage_it_is_never_done() -> None:
    steps = play(both(1, "up", "up"), both(30, "up", "up"))
    assert not steps[-1].failover_seen
    assert not steps[-1].done


def test_an_outage_between_two_polls_shows_in_the_count() -> None:
    steps = play(both(0.25, "up", "up", lost=3), both(2.25, "up", "up", lost=3))
    assert steps[0].outage_seen
    assert steps[-1].done


def test_a_few_single_losses_are_no_outage() -> None:
    assert not play(both(0.25, "up", "up", lost=2))[0].failover_seen


def test_a_hitless_move_is_a_failover_too() -> None:
    flows: tuple[FlowStatus, ...] = (flow("x"), flow("x-fresh"))
    steps = play(poll(1, *flows, owner="fgt-a"), poll(2, *flows, owner=""), poll(3, *flows, owner="fgt-b"))
    assert [s.failover_seen for s in steps] == [False, False, True]
    assert not steps[-1].outage_seen
    assert steps[-1].done


def test_an_agent_that_does_not_answer_is_waited_for() -> None:
    steps = play(
        both(1, "down", "down"),
        poll(2, failures={"a": "no answer in time"}),
        poll(5, failures={"a": "no answer in time"}),
        both(6, "up", "up"),
        both(8, "up", "up"),
    )
    assert "agent a: no answer in time" in steps[1].waiting_for
    assert steps[2].held_ns == 0
    assert [s.done for s in steps] == [False, False, False, False, True]


def test_suspect_is_not_yet_settled() -> None:
    steps = play(both(1, "down", "down"), both(2, "suspect", "up"), both(9, "suspect", "suspect"))
    assert steps[-1].suspect == 2
    assert not steps[-1].done
