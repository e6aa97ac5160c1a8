"""When watchers were blind, each and all together."""

from __future__ import annotations

from typing import Any

from probe.core.events import TimelineEvent
from probe.core.sight import Blind, Sight, sights, still_down, untold_ups

END = 100


def turn(at_ns: int, up: bool = False, watcher: str = "aws", **detail: Any) -> TimelineEvent:
    name = "watcher_up" if up else "watcher_down"
    return TimelineEvent(at_ns, "aws", name, 0, {"watcher": watcher, "reason": "" if up else "timeout", **detail})


def sight(*events: TimelineEvent, watchers: int = 1) -> Sight:
    return sights(events, END, {"aws": watchers})["aws"]


def test_blind_from_the_last_answer_to_the_next_or_to_the_end() -> None:
    told = sight(turn(20, last_success_ns=15), turn(25), turn(30, up=True), turn(90))
    assert told.blind() == (Blind(15, 30, "timeout"), Blind(90, END, "timeout", lasting=True))
    assert told.lost and not told.whole_since(0)
    assert sight().blind() == () and not sight().lost and sight().whole_since(0)
    assert sights([], END, {}) == {}


def test_who_had_no_answer_before_cannot_compare() -> None:
    first = sight(turn(10, last_success_ns=0), turn(20, up=True))
    assert not first.whole_since(15) and first.whole_since(21)
    assert sight(turn(10, last_success_ns=5), turn(20, up=True)).whole_since(15)


def test_several_are_blind_where_all_of_them_are() -> None:
    one, other = turn(10, agent="a"), (turn(30, agent="b", reason="denied"), turn(40, up=True, agent="b"))
    both = sight(one, *other, watchers=2)
    assert both.blind() == (Blind(30, 40, "denied"),)
    assert not both.lost and both.whole_since(0), "the other one sees in the end"
    assert sight(one, *other, watchers=3).blind() == (), "of the third nothing was to be told"
    assert sight(one, watchers=2).blind() == ()
    assert len(sight(one, *other, watchers=0).watchers) == 2, "where the config does not tell, who was heard of"
    assert sight(one, turn(20, agent="b"), watchers=2).lost
    assert sight(turn(10), watchers=2).lost, "told without a name"


def test_one_unit_that_answers_is_sight_enough() -> None:
    alone = {"watcher": "fortigate", "answering": ["fgt-b"], "last_success_ns": 0, "last_answer_ns": 12}
    events = [turn(15, **alone), turn(50, watcher="fortigate", answering=[], last_answer_ns=40), turn(60, **alone)]
    assert sights(events, END, {})["fortigate"] == Sight(((Blind(40, 60, "timeout"),),))


def test_a_watcher_that_is_replaced_while_down_is_told_to_be_back() -> None:
    events = [turn(10), turn(20, watcher="fortigate"), turn(30, up=True)]
    assert still_down(events) == [events[1]]
    assert still_down([*events, turn(40)]) == [events[1], turn(40)]
    (up,) = untold_ups(events, 50, "new")
    assert (up.at_ns, up.source, up.event) == (50, "aws", "watcher_up")
    assert up.detail == {"watcher": "fortigate", "reason": "new"}
    assert still_down([*events, up]) == []
