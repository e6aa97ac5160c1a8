"""`python -m tests.bench scenarios`: what it counts and keeps; its drills are for the bench itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probe.drill.scenarios import GROUPS, SCENARIOS
from probe.errors import PeerError, UsageError
from probe.lab.plan import LabOptions, Plan

from .bench import drills, scenarios
from .bench.drills import KeptLab, Shelf, reusable
from .bench.scenarios import Run, batches, claimed, perform, settle, stored, summary
from .bench.tally import Tally

SETTINGS = {"rate": 100, "steady": 2.0, "validation": 3.0}

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
    assert "| failover | 2 | 2 | 2 | 0 | 0 |" in text
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
    assert "| failover | 1 | 0 | 0 | 0 | 0 |" in tally.text()


def test_what_was_not_observed_is_counted_apart() -> None:
    tally = Tally()
    told = tally.add(FAILOVER, 1, document(egress_tcp="unobserved"))
    assert told == ["failover 1: spoiled by the host: unobserved: egress-tcp"]
    assert "| failover | 1 | 1 | 1 | 1 | 0 |" in tally.text()
    assert (tally.unobserved, sum(tally.confusion.values())) == (1, 0)


def test_stalls_over_an_outage_spoil_a_run() -> None:
    seen = document(egress_tcp="lost")
    seen["diagnosis"].append({"code": "probe_unreliable"})
    assert Tally().add(FAILOVER, 1, seen) == ["failover 1: spoiled by the host: stalls of its own overlap an outage"]


def test_scenarios_take_turns_in_small_batches() -> None:
    assert [[run.number for run in batch] for batch in batches(["crash", "failback"], 7)] == [
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5],
        [6, 7],
        [6, 7],
    ]
    assert [batch[0].scenario for batch in batches(["crash", "failback"], 7)] == ["crash", "failback"] * 2


def test_every_scenario_is_in_one_group() -> None:
    assert sorted([*GROUPS["sessions"], *GROUPS["cloud"]]) == sorted(SCENARIOS)


def test_a_lab_is_kept_only_where_nothing_but_sessions_is_left() -> None:
    kept = {name for name in GROUPS["sessions"] if reusable(SCENARIOS[name])}
    assert {"failover", "no-session-pickup", "single-az", "failback", "brown-out", "peer-reboot"} <= kept
    assert not kept & {"crash", "asymmetric-return", "double-failover"}
    assert not any(reusable(SCENARIOS[name]) for name in GROUPS["cloud"] if name != "vip-trap")


def test_a_lab_that_its_drill_took_down_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []

    def up(options: LabOptions, progress: Any, **settings: Any) -> KeptLab:
        lab = KeptLab.__new__(KeptLab)
        lab.plan = Plan(options=options)
        raised.append(lab)
        return lab

    monkeypatch.setattr(drills.KeptLab, "up", up)
    monkeypatch.setattr(drills.Lab, "down", lambda lab: None)
    monkeypatch.setattr(drills, "where", lambda lab: {})
    monkeypatch.setattr(drills, "as_new", lambda lab, home: "")
    shelf = Shelf("none-", tmp_path / "lab")
    for keep, new in ((True, 1), (False, 1), (False, 2), (True, 3), (True, 3)):  # the second takes the kept one down
        shelf.keep = keep
        assert shelf.up(LabOptions(), lambda text: None) is raised[-1] and len(raised) == new


def a_drill(gives: dict[str, Any] | Exception) -> Any:
    def drill(scenario: Any, out: Path, shelf: Any, **settings: Any) -> None:
        if isinstance(gives, Exception):
            raise gives
        (out / "20260101T000000Z").mkdir()
        (out / "20260101T000000Z/report.json").write_text(json.dumps(gives))

    return drill


def test_runs_are_kept_and_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf("none-", tmp_path / "lab")
    outcomes: list[dict[str, Any] | Exception] = [
        document(egress_tcp="lost"),
        PeerError("no steady state"),
        document(egress_tcp="survived"),
    ]
    for number, gives in enumerate(outcomes, 1):
        run = Run("failover", number)
        (run.place(tmp_path) / "half").mkdir(parents=True)  # of a run that was killed
        assert run.result(tmp_path) is None
        monkeypatch.setattr(scenarios, "drill", a_drill(gives))
        perform(run, tmp_path, shelf, SETTINGS)
        assert not (run.place(tmp_path) / "half").exists()
    assert stored(tmp_path) == [Run("failover", number) for number in (1, 2, 3)]
    tally, text = summary(tmp_path)
    assert "| failover | 3 | 1 | 1 | 0 | 1 |" in text
    assert tally.failed == ["failover 2: failed: no steady state"]
    assert not tally.good


def test_what_has_ended_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: list[list[Run]] = []

    def play(todo: list[list[Run]], out: Path, settings: Any, jobs: int) -> None:
        wanted.extend(todo)
        for batch in todo:
            for run in batch:
                perform(run, out, Shelf("none-", tmp_path / "lab"), settings)

    monkeypatch.setattr(scenarios, "drill", a_drill(document(egress_tcp="lost")))
    monkeypatch.setattr(scenarios, "play", play)
    argv = ["failover", "--out", str(tmp_path / "runs")]
    assert scenarios.main([*argv, "--runs", "2"]) == 0
    assert scenarios.main([*argv, "--runs", "3"]) == 0
    assert wanted == [[Run("failover", 1), Run("failover", 2)], [Run("failover", 3)]]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenarios, "play", interrupted)
    assert scenarios.main([*argv, "--runs", "4"]) == 130, "what is there is good, but not all is there"
    capsys.readouterr()
    assert scenarios.main(["--summary", str(tmp_path / "runs")]) == 0
    assert "| failover | 3 | 3 | 3 | 0 | 0 |" in capsys.readouterr().out


def test_runs_of_one_directory_are_made_alike_by_one_bench(tmp_path: Path) -> None:
    settle(tmp_path, SETTINGS)
    settle(tmp_path, SETTINGS)
    with pytest.raises(UsageError, match="made with --rate 100 --steady 2 --validation 3"):
        settle(tmp_path, {**SETTINGS, "rate": 50})
    with claimed(tmp_path), pytest.raises(UsageError, match="another bench writes to"), claimed(tmp_path):
        pass
    assert scenarios.main(["--summary", str(tmp_path / "nothing")]) == 2
