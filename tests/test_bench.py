"""`haprobe bench` and the benchmarks beside other tools: what is decided without sending a packet."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from probe import bench, bench_step, cli
from probe.bench import Search
from probe.bench_step import Reading, Step
from probe.errors import HaprobeError, PrivilegeError
from probe.lab import namespace, testbed

from .bench import dark, peers, plan, rate, results, soak, timed, truth
from .bench.__main__ import options
from .bench.bed import Finished
from .bench.results import Row

STEP = Step(
    rate_pps=1000.0,
    seconds=2.0,
    flows=1,
    protocols=("udp",),
    pacing="fine",
    scheduled=20_000,
    sent=20_000,
    unsent=0,
    received=20_000,
    lost=0,
    late=0,
    dropped_locally=0,
    outages=0,
    unobserved=0,
    sender_cpu=0.25,
    sender_us=2.5,
    reflector_cpu=0.125,
    control_cpu=0.01,
    lateness_p99_ns=70_000,
    lateness_max_ns=90_000,
)


# --- the search ------------------------------------------------------------------------------------------------------


def searched(limit: float, search: Search) -> list[float]:
    """The rates it tries on a host that is clean up to `limit`."""
    tried = []
    while (pps := search.next_pps()) is not None:
        tried.append(pps)
        assert len(tried) < 40
        search.note(pps, pps <= limit)
    return tried


@pytest.mark.parametrize("limit", [1_500, 24_999, 25_000, 137_000, 999_000, 1_999_999])
def test_the_limit_is_found_within_the_resolution(limit: float):
    search = Search(25_000, 2_000_000)
    tried = searched(limit, search)
    assert search.clean <= limit < search.unclean
    assert search.unclean <= search.clean * search.resolution
    assert len(tried) <= 14
    assert max(tried) <= 2_000_000


def test_rates_rise_until_one_fails_and_are_halved_after_that():
    tried = searched(450_000, Search(25_000, 2_000_000))
    assert tried[:6] == [25_000, 100_000, 400_000, 1_600_000, 1_600_000, 800_000]
    assert all(400_000 <= pps <= 800_000 for pps in tried[5:])


def test_one_hiccup_on_the_way_up_is_forgiven():
    search = Search(25_000, 2_000_000)
    hiccups = {25_000}

    def is_clean(pps: float) -> bool:
        if pps in hiccups:
            hiccups.remove(pps)
            return False
        return pps <= 500_000

    while (pps := search.next_pps()) is not None:
        search.note(pps, is_clean(pps))
    assert 450_000 < search.clean <= 500_000


def test_a_host_that_can_do_all_that_is_asked_is_not_searched_further():
    search = Search(25_000, 200_000)
    assert searched(1e9, search) == [25_000, 100_000, 200_000]
    assert (search.clean, search.unclean) == (200_000, 0)


def test_a_host_that_can_do_nothing_ends_the_search():
    search = Search(25_000, 200_000)
    tried = searched(0, search)
    assert search.clean == 0
    assert tried[-1] == search.unclean == bench.LEAST_PPS


def test_a_search_stops_before_a_step_that_would_not_be_over_in_time():
    now = [0.0]

    def attempt(kind: str, pps: float) -> Step:
        now[0] += 3.0
        return replace(STEP, rate_pps=pps, lost=int(pps > 300_000))

    outcome = bench.explore("udp", Search(25_000, 2_000_000), attempt, until=10.0, now=lambda: now[0])
    assert now[0] == 9.0
    assert not outcome.complete
    assert "time" in outcome.note
    assert [step.rate_pps for step in outcome.steps] == [25_000, 100_000, 400_000]
    assert outcome.clean_pps == outcome.best.rate_pps == 100_000


def test_a_search_that_ends_is_complete_and_one_that_fails_says_why():
    def attempt(kind: str, pps: float) -> Step:
        return replace(STEP, rate_pps=pps)

    whole = bench.explore("udp", Search(25_000, 100_000), attempt, until=1e9, now=lambda: 0.0)
    assert (whole.complete, whole.clean_pps, whole.unclean_pps) == (True, 100_000, 0)

    def broken(kind: str, pps: float) -> Step:
        raise HaprobeError("tcp at 25,000/s: the reflector accepts no TCP session")

    failed = bench.explore("tcp", Search(25_000, 100_000), broken, until=1e9, now=lambda: 0.0)
    assert (failed.complete, failed.steps, failed.note) == (
        False,
        [],
        "tcp at 25,000/s: the reflector accepts no TCP session",
    )


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"unsent": 1}, ""),
        ({"unsent": 2}, "2 unsent (0.01 %)"),
        ({"lost": 1}, "1 lost"),
        ({"dropped_locally": 7, "lost": 2}, "2 lost, 7 dropped here"),
    ],
)
def test_a_step_is_clean_when_nothing_was_lost_here(changes: dict[str, int], why: str):
    step = replace(STEP, **changes)
    assert bench.clean(step) == (why == "")
    assert bench.why_unclean(step) == why


def test_a_step_crosses_the_process_border_unchanged():
    assert Step.from_dict(json.loads(json.dumps(bench.Outcome("udp", steps=[STEP]).to_document()))["steps"][0]) == STEP


def test_costs_are_taken_while_probes_are_being_sent():
    """Starting up costs a second of CPU, settling half of one: neither is the price of a probe."""
    at = [0, 10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9]
    sent = [0, 1000, 2000, 3000, 3000]
    cpu = [1.0, 1.1, 1.3, 1.4, 1.9]
    readings = [Reading(t, s, (round(c * 1e9), None, 0), (0, 0)) for t, s, c in zip(at, sent, cpu, strict=True)]
    assert bench_step.busy(readings) == (readings[1], readings[2])
    assert bench_step._cores(readings, 0) == pytest.approx(0.2)
    assert bench_step._cores(readings, 1) is None
    assert bench_step._per_probe_us(readings) == pytest.approx(200)
    assert bench_step._cores(readings[:2], 0) is None


def test_the_cpu_clock_of_a_process_is_its_own():
    before, mine = bench_step.process_cpu_ns(os.getpid()), time.process_time_ns()
    assert before is not None
    assert 0 <= mine - before < 50_000_000
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert bench_step.process_cpu_ns(gone.pid) is None
    assert bench_step.process_cpu_ns(0) is None


def test_the_table_tells_limits_and_costs_and_leaves_out_what_is_not_known():
    outcomes = [
        bench.Outcome("udp", 1000.0, 2000.0, True, steps=[STEP, replace(STEP, rate_pps=2000.0, lost=1)]),
        bench.Outcome("icmp", 1000.0, 0.0, False, "time was up", steps=[replace(STEP, reflector_cpu=0.0)]),
        bench.Outcome("tcp", note="not tried: time was up"),
    ]
    head, udp, icmp, tcp = bench.table(outcomes).splitlines()
    assert head.split("  ")[0] == "probes"
    assert udp.split() == ["udp", "1,000/s", "2,000/s", "0.25", "CPU", "2.50", "us", "0.12", "CPU", "70", "us"]
    assert "the kernel" in icmp
    assert icmp.endswith("time was up")
    assert tcp.split() == ["tcp", *"------", "not", "tried:", "time", "was", "up"]
    assert bench.document(outcomes, 2.0)["kinds"][0]["steps"][1]["clean"] is False


def test_a_host_that_is_never_clean_is_told_what_broke_and_that_the_rate_is_not_to_blame():
    steps = [replace(STEP, rate_pps=4000.0, lost=9), replace(STEP, rate_pps=1000.0, unsent=40)]
    line = bench.table([bench.Outcome("udp", 0.0, 1000.0, True, steps=steps)]).splitlines()[1]
    assert "40 unsent (0.2 %) even at 1,000/s" in line
    assert "busy" in line


def test_without_root_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["bench"]) == PrivilegeError.exit_status == 3
    assert "root" in capsys.readouterr().err


# --- other tools' words ----------------------------------------------------------------------------------------------

IRTT = """
                duration: 1.2s (wait 200ms)
   packets sent/received: 6148/6140 (0.13% loss)
 server packets received: 6148/6148 (0.00%/0.00% loss up/down)
             timer stats: 3852/10000 (38.52%) missed, 55.70% error
"""
FPING = """\
10.213.2.2  : xmt/rcv/%loss = 1000/996/0%, outage(ms) = 4, min/avg/max = 0.002/0.002/0.009
10.213.2.10 : xmt/rcv/%loss = 1000/992/0%, outage(ms) = 8, min/avg/max = 0.002/0.002/0.010
"""


def test_what_the_others_print_is_understood():
    assert peers.parse_irtt(IRTT) == peers.Sent(6148, 6140, pytest.approx(1.0))
    assert peers.parse_irtt_missed(IRTT) == 38.52
    assert peers.parse_ping("20000 packets transmitted, 19999 received, 0.005% packet loss, time 206ms") == peers.Sent(
        20_000, 19_999, 0.206
    )
    assert peers.parse_fping(FPING, 2.0) == peers.Sent(2000, 1988, 2.0)
    assert peers.parse_outage_ms(FPING) == 4
    assert peers.parse_hping("457460 packets transmitted, 0 packets received") == 457_460
    assert peers.parse_hping("457460 packets tramitted, 0 packets received") == 457_460
    text = "      200000 packets outgoing\n    1 sec, 500000 usec on CPU0 (200000 packets)\n"
    assert peers.parse_trafgen(text) == (200_000, 1.5)
    for parse in (peers.parse_irtt, peers.parse_ping, peers.parse_hping, peers.parse_outage_ms):
        assert parse("command not found") is None


@pytest.mark.parametrize(("text", "seconds"), [("1m0.5s", 60.5), ("200ms", 0.2), ("10µs", 1e-5), ("2h", 7200)])
def test_durations_as_go_prints_them(text: str, seconds: float):
    assert peers.go_seconds(text) == pytest.approx(seconds)


def test_what_irtt_says_of_an_outage_only_its_raw_data_tell():
    def trip(at_ms: int, lost: str) -> dict:
        return {"lost": lost, "timestamps": {"client": {"send": {"monotonic": at_ms * 1_000_000}}}}

    fates = ["false"] * 3 + ["true"] + ["false"] * 2 + ["true", "true_down", "true"] + ["false"]
    assert timed.irtt_outage_ms([trip(ms, fate) for ms, fate in enumerate(fates)]) == 3
    assert timed.irtt_outage_ms([trip(0, "false"), trip(1, "true")]) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, True),
        ({"same_entry": False}, False),
        ({"invalid": 1}, False),
        ({"verdict": "reset"}, False),
        ({"cause": "rst"}, False),
        ({"censored": "end"}, False),
    ],
    ids=str,
)
def test_a_session_survived_a_long_outage_only_if_nothing_speaks_against_it(change: dict, told: bool):
    seen = {"same_entry": True, "invalid": 0, "verdict": "survived", "cause": "none", "censored": "no", **change}
    outage = {"duration_ns": {"lower": 60_000e6, "estimate": 60_001e6, "upper": 60_002e6}, "censored": seen["censored"]}
    flow = {"verdict": seen["verdict"], "outages": [outage], "session_end": {"cause": seen["cause"]}}
    flow["counts"] = {"reset": 0, "sent": 68_000, "lost": 60_001, "unsent": 0}
    done = Finished(0, json.dumps({"flows": [flow]}), "", 70.0, 1.0, False)
    switched = timed.Switched((0, 1_000_000), (60_000_000_000, 60_002_000_000))
    row = dark.judge("behind", done, switched, same_entry=seen["same_entry"], invalid=seen["invalid"])
    assert row.figures["survived"] is told
    assert row.figures["within its bounds"] is True
    assert row.figures["error ms"] == pytest.approx(0.5)
    beside = timed.Switched((0, 0), (59_000_000_000, 59_000_000_000))
    off = dark.judge("behind", done, beside, same_entry=True, invalid=0)
    assert off.figures["within its bounds"] is False


# --- ratios and tables -----------------------------------------------------------------------------------------------


def test_a_ratio_needs_both_sides():
    assert results.ratio(10.0, 4.0) == 2.5
    assert results.ratio(None, 4.0) is results.ratio(10.0, None) is results.ratio(10.0, 0.0) is None


def test_our_best_clean_rate_is_compared_with_their_best():
    rows = [
        Row("rate", "haprobe", "udp, 1 flow", {"achieved/s": 600_000.0, "clean": True}),
        Row("rate", "haprobe", "udp, 1 flow", {"achieved/s": 900_000.0, "clean": False}),
        Row("rate", "haprobe", "icmp+udp+tcp", _unclean(900_000.0, 0.5)),
        Row("rate", "haprobe", "icmp+udp+tcp", {**_unclean(999_000.0, 0.1), "dropped here": 1}),
        Row("rate", "irtt", "--timer=busy, 100,000/s", {"achieved/s": 20_000.0}),
        Row("rate", "ping", "-f", {"achieved/s": 400_000.0}),
        results.missing("rate", "trafgen"),
    ]
    found = {row.case: row for row in rate.rate_ratios(rows)}
    busy = found["udp, 1 flow / irtt --timer=busy"]
    assert (busy.figures["ratio"], busy.figures["met"]) == (30, True)
    assert found["udp, 1 flow / ping -f"].figures["met"] is False
    absent = found["udp, 1 flow / trafgen"]
    assert absent.figures["ratio"] is None
    assert "no figure" in absent.note
    assert "no clean rate" in found["udp, 100 flows / ping -f"].note
    lossless = found["icmp+udp+tcp / irtt --timer=busy"]
    assert (lossless.figures["ratio"], lossless.figures["met"]) == (45, False)
    assert lossless.note == "not clean: nothing lost, 0.5 % unsent"


def _unclean(achieved: float, unsent: float) -> dict[str, results.Figure]:
    return {"achieved/s": achieved, "clean": False, "lost": 0, "dropped here": 0, "unsent %": unsent}


def test_cpu_is_compared_at_the_same_rate():
    rows = [
        Row("cpu", "haprobe", "udp, 10,000/s, fine", {"us/probe": 6.0}),
        Row("cpu", "haprobe", "udp, 100,000/s, fine", {"us/probe": 1.2}),
        Row("cpu", "fping", "10 targets, -p 1", {"us/probe": 3.0}),
        Row("cpu", "fping", "100 targets, -p 1", {"us/probe": 2.0}),
        Row("cpu", "irtt", "--timer=busy, 10,000/s", {"us/probe": 100.0}),
        Row("cpu", "irtt", "--timer=busy, 100,000/s", {"us/probe": 20.0}),
    ]
    found = {row.case: row.figures for row in rate.cpu_ratios(rows)}
    assert found["udp, 10,000/s, fine / irtt busy"] == {"ratio": 0.06, "wanted": "<= 0.1", "met": True}
    assert found["udp, 100,000/s, fine / irtt busy"]["ratio"] == pytest.approx(0.06)
    assert found["udp, 100,000/s, fine / fping at 10,000/s"]["met"] is True
    assert found["udp, 10,000/s, fine / fping at 10,000/s"] == {"ratio": 2.0}


def test_a_missing_tool_has_no_figures_in_the_table():
    rows = [
        Row("rate", "haprobe", "udp", {"achieved/s": 1e6, "lost": 0, "clean": True}),
        results.missing("rate", "irtt"),
    ]
    heading, _, head, _, ours, theirs = results.markdown(rows).splitlines()
    assert heading == "## rate"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, ours, theirs)]
    assert cells[0] == ["tool", "case", "achieved/s", "lost", "clean", "note"]
    assert cells[1][:5] == ["haprobe", "udp", "1,000,000", "0", "yes"]
    assert cells[2][:5] == ["irtt", "", "-", "-", "-"]
    assert "missing" in cells[2][5]


def test_results_are_stored_as_json_with_the_table_beside_it(tmp_path: Path):
    file = tmp_path / "deep" / "peers.json"
    results.save([Row("cpu", "haprobe", "udp", {"us/probe": 1.5})], {"quick": True}, file)
    stored = json.loads(file.read_text())
    assert stored["rows"] == [
        {"bench": "cpu", "tool": "haprobe", "case": "udp", "figures": {"us/probe": 1.5}, "note": ""}
    ]
    assert stored["host"]["cpus"] > 0
    assert "us/probe" in file.with_suffix(".md").read_text()


def test_quick_shortens_what_was_not_given():
    assert options([]).name == ["rate", "cpu", "lateness", "scrape", "truth", "watchers", "soak"]
    assert options(["soak"]).soak_seconds == 600
    quick = options(["truth", "--quick", "--outages", "200"])
    assert (quick.name, quick.outages, quick.timed_outages) == (["truth"], 200, 2)
    assert options(["--rates", "10k,1.5M"]).rates == [10_000, 1_500_000]


# --- outages of known probes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_plans_hold_what_was_asked_for(seed: int):
    runs = plan.plans(random.Random(seed), 23)
    drops = [drop for one in runs for drop in one.drops]
    assert len(drops) == 23
    assert runs == plan.plans(random.Random(seed), 23)
    for one in runs:
        assert 100 <= one.rate_pps <= 50_000
        assert one.drops[0].first > 0
        assert one.drops[-1].last < one.probes - 1
        for drop in one.drops:
            assert drop.count >= 3
            assert drop.count / one.rate_pps <= max(3.0 + 1 / one.rate_pps, 3 / one.rate_pps)
        for left, right in zip(one.drops, one.drops[1:], strict=False):
            passing = right.first - left.last - 1
            same = left.group == right.group
            assert passing >= (3 if same else 40)
            assert not same or left.direction == right.direction


def test_plans_differ_in_direction_length_and_flapping():
    drops = [drop for one in plan.plans(random.Random(1), 200) for drop in one.drops]
    assert {drop.direction for drop in drops} == {"forward", "reverse"}
    groups = [[d for d in one.drops if d.group == g] for one in plan.plans(random.Random(1), 200) for g in range(1, 6)]
    assert any(len(group) > 1 for group in groups)


def test_the_router_is_told_to_drop_exactly_these():
    text = truth.rules(
        [plan.Drop("forward", 10, 12, 1), plan.Drop("reverse", 50, 59, 2), plan.Drop("forward", 90, 99, 3)]
    )
    assert 'iifname "a1" udp dport 862 @th,64,32 { 10-12, 90-99 } counter drop' in text
    assert 'iifname "b0" udp sport 862 @th,256,32 { 50-59 } counter drop' in text


def run_filter(program: bytes, frame: bytes) -> int:
    """A classic BPF machine of the instructions that are used."""
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        opcode, if_true, if_false, value = code[at]
        at += 1
        if opcode == 0x06:
            return value
        if opcode == 0x15:
            at += if_true if accumulator == value else if_false
        else:
            layout = {0x20: "!I", 0x28: "!H", 0x30: "!B"}[opcode]
            accumulator = struct.unpack_from(layout, frame, value)[0]


def stamp_frame(sequence: int, *, port: int = 862, protocol: int = 17) -> bytes:
    ether = bytes(12) + b"\x08\x00"
    ip = bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(10)
    return ether + ip + struct.pack("!HHHH", 40_000, port, 0, 0) + struct.pack("!I", sequence) + bytes(40)


def test_the_filter_lets_the_probes_around_the_edges_through_and_no_other():
    wanted = [9, 10, 12, 13, 4_000_000_000]
    program = truth.edge_filter(36, 42, wanted)
    for sequence in (*range(20), 4_000_000_000, 4_000_000_001):
        assert bool(run_filter(program, stamp_frame(sequence))) == (sequence in wanted)
    assert run_filter(program, stamp_frame(9, port=863)) == 0
    assert run_filter(program, stamp_frame(9, protocol=6)) == 0
    with pytest.raises(ValueError, match="255"):
        truth.edge_filter(36, 42, range(300))


DROP = plan.Drop("forward", 100, 149, 1)
MS = 1_000_000
ARRIVALS = {sequence: sequence * MS for sequence in truth.edges(DROP)}


def told(**changes) -> dict:
    """What haprobe says of DROP at 1000/s, in full."""
    outage = {"direction": "forward", "first_lost_seq": 100, "last_lost_seq": 149}
    duration = {"lower": 49 * MS, "estimate": 50 * MS, "upper": 51 * MS}
    return {**outage, "duration_ns": duration, **changes}


def judged(*outages: dict, arrivals: dict[int, int] = ARRIVALS) -> truth.Found:
    return truth.judge(DROP, 1000.0, outages, {"forward": arrivals, "reverse": {}}, random.Random(3))


def test_an_outage_told_as_it_was_is_found_true():
    found = judged(told())
    assert (found.exact, found.direction, found.inside) == (True, True, True)
    assert abs(found.error) <= 1
    assert found.bias == pytest.approx(0)


def test_an_outage_that_was_longer_than_its_bounds_is_found_out():
    later = {**ARRIVALS, 149: 160 * MS, 150: 161 * MS}
    found = judged(told(), arrivals=later)
    assert not found.inside
    assert found.outside_us > 8_000
    assert found.bias == pytest.approx(-11, abs=0.01)


@pytest.mark.parametrize(
    "outages",
    [
        [],
        [told(last_lost_seq=150)],
        [told(last_lost_seq=120), told(first_lost_seq=122)],
        [told(), told(direction="reverse", first_lost_seq=149, last_lost_seq=152)],
    ],
)
def test_an_outage_told_otherwise_counts_as_not_told(outages: list[dict]):
    found = judged(*outages)
    assert not found.exact
    assert found.error is None


def test_the_wrong_direction_is_seen():
    assert not judged(told(direction="round_trip")).direction


def test_the_summary_is_met_only_when_everything_is():
    good = judged(told())
    assert truth.summary([good], 1, 0, 1, "").figures["met"] is True
    assert truth.summary([good], 2, 0, 1, "").figures["met"] is False
    assert truth.summary([good], 1, 1, 1, "").figures["met"] is False
    assert truth.summary([good, judged()], 2, 0, 1, "").figures["met"] is False
    assert truth.summary([], 1, 0, 1, "").figures["met"] is False


def test_a_soak_is_met_without_outages():
    counts = dict.fromkeys(("scheduled", "sent", "unsent", "lost", "dropped_locally", "late"), 0)
    flow = {"counts": counts, "outages": [], "unobserved": [{"start_ns": 0, "end_ns": 5 * MS}]}
    figures = soak.soak_figures({"flows": [flow]}, [1 << 20, 3 << 20])
    assert (figures["met"], figures["unobserved ms"], figures["engine MiB, end"]) == (True, 5, 3)
    assert soak.soak_figures({"flows": [{**flow, "outages": [told()]}]}, [])["met"] is False


# --- the namespaces --------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_namespaces_go_with_their_run_and_those_of_a_killed_one_with_the_next():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    code = "import time\nfrom probe.lab import testbed\n"
    code += "with testbed.opened() as t:\n    print(*t.names, flush=True)\n    time.sleep(60)"
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout is not None
        left = victim.stdout.readline().split()
    finally:
        victim.kill()
        victim.wait()
        victim.stdout.close()
    assert len(left) == 3
    assert set(left) <= set(namespace.existing(testbed.PREFIX))
    with testbed.opened() as network:
        there = set(namespace.existing(testbed.PREFIX))
        assert set(network.names) <= there
        assert not set(left) & there
        child = subprocess.Popen(network.command("far", ["sleep", "60"]))
        inside = {Path("/run/netns", name).stat().st_ino for name in network.names}
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/ns/net").stat().st_ino not in inside:  # it enters a moment after it was started
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert child.wait(5) != 0
    assert not set(network.names) & set(namespace.existing(testbed.PREFIX))


@pytest.mark.netns
def test_a_step_measures_through_them(capfd):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with testbed.opened() as network, bench.reflecting(network) as reflector:
        step = bench.run_step(network, bench.KINDS["mix"], 300, 1.0, reflector)
        with pytest.raises(HaprobeError, match="unknown"):
            bench.run_step(replace_target(network), ["udp"], 300, 1.0, reflector)
    assert (step.scheduled, step.lost, step.dropped_locally) == (300, 0, 0)
    assert step.received + step.late == step.sent
    assert step.flows == 3
    assert step.sender_cpu > 0
    assert step.reflector_cpu is not None


@pytest.mark.netns
def test_what_goes_to_the_kernel_in_one_piece_is_many_packets_on_the_way():
    """Of each probe that is told as sent, the router sees a packet, and of each answer."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    rules = "add table ip t; add counter ip t out; add counter ip t back; add counter ip t long;"
    rules += "add chain ip t c { type filter hook forward priority 0; };"
    rules += "add rule ip t c udp dport 862 counter name out; add rule ip t c udp sport 862 counter name back;"
    rules += "add rule ip t c udp length > 1000 counter name long"

    def counted(name: str) -> int:
        command = network.command("router", ["nft", "-j", "list", "counter", "ip", "t", name])
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return int(told["nftables"][1]["counter"]["packets"])

    with testbed.opened() as network, bench.reflecting(network) as reflector:
        subprocess.run(network.command("router", ["nft", rules]), check=True)
        step = bench.run_step(network, ["udp"], 60_000, 1.0, reflector)
        out, back = counted("out"), counted("back")
        assert counted("long") == 0
    assert step.sent == out > 10_000
    assert step.received + step.late + step.dropped_locally == back
    assert (step.lost, step.outages) == (0, 0)


def replace_target(network: testbed.Testbed) -> testbed.Testbed:
    return replace(network, target="no-such-host.invalid")
