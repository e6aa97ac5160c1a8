"""Evidence against truth: a ledger and its witness see a network whose every probe is known."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core import evidence as evidence_module
from probe.core import ledger as ledger_module
from probe.core.evidence import AROUND
from probe.core.fate import EMPTY
from probe.core.ledger import Ledger
from probe.core.told import Reports
from probe.session import witness as witness_module
from probe.session.flows import FlowTable
from probe.session.peers import Answer, Peers
from probe.session.witness import Witness
from probe.wire.stamp import ntp_from_unix_ns
from tests.core.network import exact

from .flow import add as make_flow

MS, S = 1_000_000, 1_000_000_000
T0 = 10**12
ANCHOR = 1_700_000_000 * S - T0
THRESHOLD = 100 * MS
INTERVAL = MS
RTT = 300_000


@dataclass
class Bench:
    """One flow, a probe a millisecond, settled every 20 ms; `lost` says which are lost and where."""

    name: str = "udp"
    lost: dict[int, str] = field(default_factory=dict)  # sequence to "forward", "reverse" or "" (not told which)
    reports: bool = False  # whether a reflector of ours tells what it missed
    told: dict[int, dict[str, Any]] = field(default_factory=dict)  # by id: the newest statement of each outage
    messages: list[tuple[int, bool, bool]] = field(default_factory=list)  # (id, still open, carries evidence)
    late: dict[int, int] = field(default_factory=dict)  # sequence to how long its reply takes
    sent: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(2)
        self.ledger.add(0, "f", 1000, THRESHOLD, 3)
        self.witness = Witness(self.ledger, ANCHOR, self.events.append)
        self.flow = make_flow(FlowTable(2, 1600), 0, self.name, 4, [7])
        self.witness.add(self.flow)
        self.now = T0
        self.flying: list[tuple[int, int, Answer]] = []
        self.peers = Peers(random.Random(1))

    def run(self, probes: int) -> None:
        for _ in range(probes):
            self.step()

    def step(self, send: bool = True) -> None:
        zero = np.zeros(1, np.int64)
        if send:
            sequence = self.ledger.allocate(zero, np.array([self.now]))
            self.ledger.stamp(zero, sequence, np.array([self.now]))
            at = np.array([self.now])
            self.witness.evidence.sent(zero, sequence, at, at, exact(1))
            number = int(sequence[0])
            self.sent.append(self.now)
            if self.lost.get(number) in (None, "reverse"):
                answer = self.peers.answer(np.array([7], np.uint64), sequence, self.now)
                if number not in self.lost:
                    self.flying.append((self.now + self.late.get(number, RTT), number, answer))
        self.now += INTERVAL
        for arrival, number, answer in sorted(self.flying, key=lambda reply: reply[:2]):
            if arrival <= self.now:
                self.arrive(number, arrival, answer)
        self.flying = [reply for reply in self.flying if reply[0] > self.now]
        if (self.now - T0) // INTERVAL % 20 == 0:
            self.tick(again=(self.now - T0) // INTERVAL % 1000 == 0)

    def arrive(self, number: int, at: int, answer: Answer) -> None:
        flow, sequence, when = np.zeros(1, np.int64), np.array([number]), np.array([at])
        arrivals = self.ledger.receive(flow, sequence, when)
        times = tuple(ntp_from_unix_ns(np.array([self.sent[number] + ANCHOR + after])) for after in (100_000, 110_000))
        self.witness.received(flow, sequence, when, arrivals, np.array([61]), times if self.name == "udp" else None)
        if self.reports:
            columns = ("boot", "q", "gap_total", "gap_index", "gap_start", "gap_length")
            self.ledger.reports(flow, sequence, Reports(*(getattr(answer, name).astype(np.int64) for name in columns)))

    def tick(self, *, again: bool = False) -> None:
        self.ledger.settle(self.now)
        found = self.ledger.drain_outages(open_too=again)
        for _, outage, more in self.witness.attest(found, self.now, again=again):
            self.messages.append((outage.id, outage.censored == "end", "evidence" in more))
            if outage.withdrawn:
                self.told.pop(outage.id, None)
                continue
            evidence = more.get("evidence", self.told.get(outage.id, {}).get("evidence"))
            self.told[outage.id] = {"outage": outage, "evidence": evidence}

    def rows(self, number: int) -> dict[int, list[Any]]:
        return {row[0]: row[1:] for row in self.told[number]["evidence"]}

    def row(self, sequence: int, fate: str) -> list[Any]:
        """What is true of a probe."""
        tx = self.sent[sequence] + ANCHOR
        if fate not in ("received", "late"):
            return [tx, None, None, None, None, fate]
        there = [tx + 100_000, tx + 110_000] if self.name.startswith("udp") else [None, None]
        return [tx, tx + self.late.get(sequence, RTT), *there, 61, fate]


def around(first: int, last: int, n: int = AROUND) -> list[int]:
    return sorted(s for s in {*range(first - n, first + n), *range(last - n + 1, last + n + 1)} if s >= 0)


def test_a_blackout_carries_the_probes_around_both_its_edges() -> None:
    bench = Bench(lost=dict.fromkeys(range(300, 600), ""))
    bench.run(1000)
    rows = bench.rows(1)
    assert list(rows) == around(300, 599)
    for sequence, row in rows.items():
        assert row == bench.row(sequence, "lost" if 300 <= sequence < 600 else "received")


def test_its_start_is_still_there_when_the_logs_have_moved_on(monkeypatch) -> None:
    monkeypatch.setattr(evidence_module, "FEWEST_ROWS", 64)
    monkeypatch.setattr(evidence_module, "MARGIN_S", 0.0)
    bench = Bench(lost=dict.fromkeys(range(300, 3000), ""))
    bench.run(4000)
    assert bench.witness.evidence.sent_log.rows < 1000
    rows = bench.rows(1)
    assert list(rows) == around(300, 2999)
    for sequence, row in rows.items():
        assert row == bench.row(sequence, "lost" if 300 <= sequence < 3000 else "received")


def test_an_open_outage_carries_its_start_once_and_again_when_it_is_whole() -> None:
    bench = Bench(lost=dict.fromkeys(range(300, 10_000), ""))
    bench.run(6000)
    assert list(bench.rows(1)) == list(range(292, 308))
    assert {row[-1] for row in bench.rows(1).values()} == {"received", "lost"}
    assert bench.messages[0] == (1, True, True)
    # Told every second as it grows, but its start is the same.
    assert sum(carries for *_, carries in bench.messages) <= 3 < len(bench.messages)


def test_of_many_at_once_some_are_told_before_their_evidence(monkeypatch) -> None:
    monkeypatch.setattr(witness_module, "MOST_AT_ONCE", 0)
    bench = Bench(lost=dict.fromkeys(range(300, 10_000), ""))
    bench.run(460)
    assert bench.messages == [(1, True, False)]
    monkeypatch.undo()
    bench.run(20)
    assert bench.messages[1:] == [(1, True, True)]
    assert list(bench.rows(1)) == list(range(292, 308))


def test_evidence_that_an_outage_no_longer_agrees_with_is_taken_back_until_it_is_looked_up_again(monkeypatch) -> None:
    bench = Bench(lost=dict.fromkeys(range(300, 700), "forward"), reports=True)
    bench.run(460)
    assert bench.rows(1)[300][-1] == "lost"
    monkeypatch.setattr(witness_module, "MOST_AT_ONCE", 0)
    bench.run(1000)
    ((number, told),) = bench.told.items()
    assert told["outage"].direction == "forward" and told["evidence"] == []
    monkeypatch.undo()
    bench.run(20)
    assert bench.rows(number)[300][-1] == bench.rows(number)[699][-1] == "lost_forward"


def test_a_probe_whose_fate_was_open_when_the_outage_ended_is_told_once_it_is_known() -> None:
    bench = Bench(lost={**dict.fromkeys(range(300, 600), ""), 606: ""})
    bench.run(2001)
    assert bench.rows(1)[606] == bench.row(606, "lost")
    assert not bench.witness._owed
    assert [carries for *_, carries in bench.messages][-1]


def test_a_reply_that_comes_after_all_is_in_the_evidence() -> None:
    bench = Bench(lost=dict.fromkeys(range(300, 600), ""))
    bench.lost.pop(302)
    bench.late[302] = 500 * MS
    bench.run(1200)
    (found,) = bench.told.values()
    assert found["outage"].first_lost_seq == 303
    rows = {row[0]: row[1:] for row in found["evidence"]}
    assert rows[302] == bench.row(302, "late")


def test_directions_are_those_that_became_known_afterwards() -> None:
    bench = Bench(
        lost=dict.fromkeys(range(300, 500), "forward") | dict.fromkeys(range(500, 700), "reverse"), reports=True
    )
    bench.run(1500)
    found = {t["outage"].direction: t for t in bench.told.values()}
    assert sorted(found) == ["forward", "reverse"]
    out = {row[0]: row[-1] for row in found["forward"]["evidence"]}
    assert out[299] == "received" and {out[s] for s in range(300, 308)} == {"lost_forward"}
    assert {out[s] for s in range(500, 508)} == {"lost_reverse"}  # those got through on the way out
    back = {row[0]: row[-1] for row in found["reverse"]["evidence"]}
    # The last that passed on the way back was sent long before: nothing told of it meanwhile.
    assert back[299] == "received" and back[500] == back[699] == "lost_reverse" and back[700] == "received"
    assert 400 not in back


def test_a_run_that_outlasts_the_ledger_takes_its_direction_as_a_whole(monkeypatch) -> None:
    monkeypatch.setattr(ledger_module, "RETENTION_S", 1)
    bench = Bench(lost=dict.fromkeys(range(300, 6000), "forward"), reports=True)
    bench.run(5900)
    assert (bench.ledger.fates(0, np.arange(300, 308)) == EMPTY).all()
    assert bench.rows(1)[300] == bench.row(300, "lost")
    bench.run(600)
    ((number, found),) = bench.told.items()
    assert found["outage"].direction == "forward"
    rows = bench.rows(number)
    assert list(rows) == around(300, 5999)
    for sequence, row in rows.items():
        assert row == bench.row(sequence, "lost_forward" if 300 <= sequence < 6000 else "received")


def test_echo_has_no_reflector_times() -> None:
    bench = Bench(name="icmp", lost=dict.fromkeys(range(300, 600), ""))
    bench.run(1000)
    assert bench.rows(1)[299] == bench.row(299, "received")


def test_a_removed_flow_leaves_nothing_behind() -> None:
    bench = Bench(lost=dict.fromkeys(range(300, 10_000), ""))
    bench.run(700)
    bench.ledger.remove(0)
    bench.witness.remove(0)
    assert not bench.witness._kept and not bench.witness._owed and not bench.witness._told
    bench.tick(again=True)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_every_outage_carries_the_truth_around_its_edges(seed: int) -> None:
    """Random losses, all unattributed: every outage's evidence is what is true of exactly the probes expected."""
    rng = random.Random(seed)
    lost: dict[int, str] = {}
    at = 0
    while at < 1500:
        at += rng.choice([1, 2, 5, 30, 200])
        run = rng.choice([1, 2, 3, 4, 9, 40, 300])
        lost |= dict.fromkeys(range(at, at + run), "")
        at += run
    bench = Bench(lost=lost)
    bench.run(2600)
    while bench.witness._owed:
        bench.step(send=False)
    assert bench.told
    for number, told in bench.told.items():
        outage = told["outage"]
        assert outage.censored in ("no", "start")
        rows = bench.rows(number)
        assert list(rows) == around(outage.first_lost_seq, outage.last_lost_seq)
        for sequence, row in rows.items():
            assert row == bench.row(sequence, "lost" if sequence in lost else "received"), sequence
