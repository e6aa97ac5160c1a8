"""A drill's wishes of the watchers: asked of those that watch FortiGates, and never in the way."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from probe.drill.collect import assemble
from probe.drill.plan import DrillPlan
from probe.drill.status import AgentStatus, Poll, parse
from probe.drill.wall import Wall
from probe.drill.watchers import CAPTURE_PATIENCE_NS, LOOK_S, PROLONGED_NS, Watchers, told
from probe.errors import PeerError

S = 1_000_000_000
AWSD = "HA event\nHA state: primary\nawsd update route table rtb-1, replace route of dst 0.0.0.0/0 to eni-1\n"


class Pool:
    """Notes what is asked of it."""

    def __init__(self, captures: dict[str, list[dict[str, Any]]], refuses: tuple[str, ...] = ()):
        self.asked: list[tuple[set[str], float]] = []
        self._captures = captures
        self._refuses = {name: PeerError(f"agent {name}: no") for name in refuses}

    def watch(self, agents: set[str], seconds: float) -> dict[str, PeerError]:
        self.asked.append((set(agents), seconds))
        return self._refuses

    def captures(self, agents: set[str], since_ns: int) -> tuple[dict[str, Any], dict[str, PeerError]]:
        return {name: found for name, found in self._captures.items() if name in agents}, self._refuses


def poll(at_s: float, *agents: AgentStatus) -> Poll:
    return Poll(round(at_s * S), 0, agents)


JUMP = AgentStatus("jump", 0, True, "", (), watchers=("aws", "fortigate"))
WORKLOAD = AgentStatus("wl", 0, True, "", (), watchers=("aws",))
PLAIN = AgentStatus("inet", 0, True, "", ())
PLAN = DrillPlan(
    trigger="graceful",
    steady_ns=S,
    patience_ns=10 * S,
    validation_ns=S,
    limit_ns=60 * S,
    lab=None,
    repeat=1,
    out=Path("unused"),
)


def watchers(pool: Pool) -> tuple[Watchers, io.StringIO]:
    err = io.StringIO()
    return Watchers(pool, Wall(Console(file=err, width=200))), err  # type: ignore[arg-type]


def test_every_watcher_is_asked_and_again_before_its_look_ends() -> None:
    pool = Pool({})
    wanted, _ = watchers(pool)
    wanted.prolong(poll(0, JUMP))
    assert pool.asked == [], "not before the steady state"
    wanted.look(poll(1, JUMP, WORKLOAD, PLAIN))
    for second in range(2, 51):
        wanted.prolong(poll(second, JUMP, WORKLOAD, PLAIN))
    assert pool.asked == [({"jump", "wl"}, LOOK_S)] * 3
    assert 2 * PROLONGED_NS / S < LOOK_S, "one request may go astray"


def test_an_agent_that_is_silent_for_a_while_is_remembered() -> None:
    pool = Pool({"jump": [{"unit": "fgt-b", "text": AWSD}]})
    wanted, _ = watchers(pool)
    wanted.look(poll(0, JUMP))
    wanted.look(poll(30, WORKLOAD))
    assert set(wanted.collect(0)) == {"awsd-fgt-b.log"}


def test_without_fortigates_there_is_nothing_to_wait_for_nor_to_fetch() -> None:
    pool = Pool({})
    wanted, _ = watchers(pool)
    wanted.look(poll(0, WORKLOAD))
    wanted.await_captures(iter([]))
    assert wanted.collect(0) == {}
    wanted.rest()
    assert pool.asked == [({"wl"}, LOOK_S)]


def test_the_trigger_waits_for_sessions_being_set_up_but_not_for_ever() -> None:
    wanted, err = watchers(Pool({}))
    wanted.look(poll(0, JUMP))
    busy = replace(JUMP, connecting=("fgt-b",))
    polls = iter([poll(0, busy), poll(1, busy), poll(2, JUMP), poll(3, JUMP)])
    wanted.await_captures(polls)
    assert next(polls).mono_ns == 3 * S
    assert err.getvalue() == ""
    late_s = CAPTURE_PATIENCE_NS / S + 1
    wanted.await_captures(iter([poll(0, busy), poll(late_s, busy)]))
    assert "awsd of fgt-b is not captured yet" in err.getvalue()


def test_captures_become_files_beside_the_report() -> None:
    one = {"unit": "fgt-b", "text": AWSD}
    pool = Pool({"jump": [one, {**one, "text": "second"}], "other": [one]})
    wanted, _ = watchers(pool)
    wanted.look(poll(0, JUMP))
    assert wanted.collect(5) == {"awsd-fgt-b.log": AWSD, "awsd-fgt-b-2.log": "second"}
    assert pool.asked[-1] == ({"jump"}, 0), "ended before it is fetched"
    wanted.rest()
    assert len(pool.asked) == 2, "and not ended twice"
    assert next(iter(told({"awsd-fgt-b.log": AWSD}))).startswith("awsd-fgt-b.log: The unit became primary")


def test_who_will_not_take_part_is_a_warning() -> None:
    wanted, err = watchers(Pool({}, refuses=("jump",)))
    wanted.look(poll(0, JUMP))
    wanted.look(poll(30, JUMP))
    assert wanted.collect(0) == {}
    assert err.getvalue().count("agent jump: no; the timeline may lack") == 1


def test_status_tells_captures_that_are_set_up_or_came_to_nothing() -> None:
    def seen(**capture: Any) -> AgentStatus:
        fortigate = {"name": "fortigate", "up": True, "notes": ["fgt-a: ssh: x"], "captures": [capture]}
        return parse("jump", {"flows": [], "watchers": [fortigate]})

    assert seen(unit="fgt-b", state="connecting").connecting == ("fgt-b",)
    refused = seen(unit="fgt-b", state="connecting", reason="no")
    assert refused.connecting == (), "a second attempt is not waited for"
    assert refused.watcher_notes == ("fgt-a: ssh: x", "awsd of fgt-b is not captured: no")
    assert seen(unit="fgt-b", state="running").watcher_notes == ("fgt-a: ssh: x",)


@pytest.mark.parametrize(
    ("own", "user", "result"),
    [
        ([{"fortios": "7.6.4"}, {}], {}, {"fortios": "7.6.4"}),
        ([{"fortios": "7.6.4"}, {"fortios": "7.4.8"}], {}, {"fortios": "7.6.4, 7.4.8"}),
        ([{"fortios": "7.6.4"}], {"fortios": "mine", "x": "y"}, {"fortios": "mine", "x": "y"}),
    ],
)
def test_firmware_labels_the_run_unless_the_user_did(
    own: list[dict[str, str]], user: dict[str, str], result: dict[str, str]
) -> None:
    from probe.drill.collect import Span

    documents = {f"a{i}": {"run": {"labels": labels}, "flows": []} for i, labels in enumerate(own)}
    plan = replace(PLAN, labels=user)
    made = assemble(documents, plan, Span(1, 2, "lab", 1), [], merge=lambda found, run, extra_events: run)
    assert made["labels"] == result
