"""`python -m tests.bench scenarios`: what it counts, from documents; its drills are for the bench itself."""

from __future__ import annotations

from typing import Any

from probe.drill.scenarios import SCENARIOS

from .bench.scenarios import Tally

FAILOVER = SCENARIOS["failover"]
ALIVE = {"known": "kept", "state": "ESTABLISHED", "seen_as": "x:1", "translated": "x", "way": True, "out": 9, "back": 9}


def reading(moment: str, unit: str, **flows: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): entry for name, entry in flows.items()}
    return {"event": "sessions", "detail": {"moment": moment, "unit": unit, "flows": named}}


def document(**verdicts: str) -> dict[str, Any]:
    """As expected of a failover but for the kept flows named (`egress_tcp="lost"`), which alone it holds."""
    matrix = {path: {column: right[0] for column, right in row.items()} for path, row in FAILOVER.cells.items()}
    flows = []
    for name, verdict in verdicts.items():
        path, _, protocol = name.rpartition("_")
        matrix[path][protocol] = verdict
        flows.append({"name": f"{path}-{protocol}", "session": "kept", "path": path, "protocol": protocol})
        flows[-1]["verdict"] = verdict
    before = reading("before", "fgt-a", egress_tcp=ALIVE, egress_udp=ALIVE)
    after = reading("end", "fgt-b", egress_tcp=None, egress_udp={**ALIVE, "known": "anew"})
    return {"matrix": matrix, "flows": flows, "diagnosis": [{"code": "failover_clean"}], "timeline": [before, after]}


def test_runs_that_agree_with_both() -> None:
    tally = Tally()
    for number in (1, 2):
        assert tally.add(FAILOVER, number, document(egress_tcp="lost", egress_udp="survived")) == []
    assert tally.confusion == {("egress tcp", "lost", "lost"): 2, ("egress udp", "survived", "survived"): 2}
    text = tally.text()
    assert "| failover | 2 | 2 | 2 |" in text
    assert "| egress tcp | lost |  | 2 |" in text
    assert "4 kept sessions judged by both, 0 disagreements; 0 unobserved, 0 without a reading" in text


def test_a_run_that_does_not_says_how() -> None:
    tally = Tally()
    told = tally.add(FAILOVER, 3, document(egress_tcp="survived", egress_udp="survived", ingress_icmp="survived"))
    assert told == [
        "failover 3: egress tcp: survived instead of lost",
        "failover 3: egress-tcp: survived, but fgt-b does not know the session (lost)",
    ]
    assert tally.unjudged == 1
    assert tally.document()["confusion"][0] == {
        "class": "egress tcp",
        "implied": "lost",
        "given": "survived",
        "count": 1,
    }
    assert "| failover | 1 | 0 | 0 |" in tally.text()


def test_what_was_not_observed_is_counted_apart() -> None:
    tally = Tally()
    assert tally.add(FAILOVER, 1, document(egress_tcp="unobserved")) == []
    assert (tally.unobserved, sum(tally.confusion.values())) == (1, 0)
