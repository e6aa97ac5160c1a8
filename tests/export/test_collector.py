"""What a scrape shows of an agent."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from probe.core.events import VERDICTS, Counts
from probe.export.collector import Exposition, content_type
from probe.export.metrics import FAMILIES
from probe.export.view import RemoteWriteSnapshot

from .fakes import AWS, FORTIGATE, KEPT, NEW, OUTAGE, FakeAgent

FLOW = {"flow": "a-to-b", "protocol": "udp", "session": "kept", "path": "east-west"}
FRESH = {**FLOW, "flow": "a-to-b-fresh", "session": "fresh"}
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


class Scrape:
    """The samples of successive scrapes of one agent."""

    def __init__(self, agent: FakeAgent):
        self.exposition = Exposition(agent)
        self.again()

    def again(self) -> None:
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse_text(self.text())
            for sample in family.samples
        }

    def text(self) -> str:
        return b"".join(self.exposition.render()).decode()

    def value(self, name: str, labels: dict[str, str] | None = None, **more: str) -> float:
        return self.samples[name, frozenset({**(labels or {}), **more}.items())]

    def all(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for sample, labels in self.samples if sample == name]


def test_counts_by_name_and_by_direction():
    scrape = Scrape(FakeAgent())
    shown = {
        name.removeprefix("haprobe_probes_").removesuffix("_total"): scrape.value(name, FLOW)
        for name in FAMILIES
        if name.startswith("haprobe_probes_") and "direction" not in name
    }
    assert shown == {
        "scheduled": 10_010,
        "unsent": 10,
        "sent": 10_000,
        "received": 9_480,
        "lost": 500,
        "late": 2,
        "duplicate": 3,
        "reordered": 4,
        "corrupt": 5,
        "dropped_locally": 8,
        "pending": 10,
    }
    lost = {
        d: scrape.value("haprobe_probes_lost_by_direction_total", FLOW, direction=d) for d in ("forward", "reverse")
    }
    assert lost == {"forward": 300, "reverse": 150}
    assert scrape.value("haprobe_probes_lost_by_direction_total", FLOW, direction="unattributed") == 50
    assert scrape.value("haprobe_icmp_errors_total", FLOW) == 6


def test_every_series_of_a_new_flow_is_there_at_zero():
    scrape = Scrape(FakeAgent(flow_list=[NEW]))
    settled = Scrape(FakeAgent(flow_list=[replace(KEPT, name=NEW.name, session="fresh")]))
    of_flow = {key for key in settled.samples if ("flow", NEW.name) in key[1]}
    assert of_flow <= set(scrape.samples)
    not_zero = {name for (name, labels), value in scrape.samples.items() if ("flow", NEW.name) in labels and value}
    assert not_zero == {
        "haprobe_flow_info",
        "haprobe_flow_interval_seconds",
        "haprobe_flow_state",
        "haprobe_flow_verdict",
    }


def test_histogram_is_cumulative_and_ends_at_inf():
    scrape = Scrape(FakeAgent())
    assert [scrape.value("haprobe_rtt_seconds_bucket", FLOW, le=le) for le in ("0.001", "0.01", "+Inf")] == [
        9000,
        9470,
        9480,
    ]
    assert scrape.value("haprobe_rtt_seconds_count", FLOW) == 9480
    assert scrape.value("haprobe_rtt_seconds_sum", FLOW) == 6.5


@pytest.mark.parametrize(("state", "up"), [("up", 1), ("suspect", 1), ("down", 0), ("connecting", 0), ("ended", 0)])
def test_flow_up_and_state(state, up):
    scrape = Scrape(FakeAgent(flow_list=[replace(KEPT, state=state)]))
    assert scrape.value("haprobe_flow_up", FLOW) == up
    hot = {s["state"]: scrape.value("haprobe_flow_state", s) for s in scrape.all("haprobe_flow_state")}
    assert {name for name, value in hot.items() if value} == {state}
    assert len(hot) == 5


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdict_is_one_hot_over_all_verdicts(verdict):
    scrape = Scrape(FakeAgent(flow_list=[replace(KEPT, verdict=verdict)]))
    assert {v: scrape.value("haprobe_flow_verdict", FLOW, verdict=v) for v in VERDICTS} == {
        v: float(v == verdict) for v in VERDICTS
    }


def test_last_outage_keeps_its_edges_to_the_microsecond():
    scrape = Scrape(FakeAgent())
    for edge in ("start", "end"):
        shown = scrape.value(f"haprobe_last_outage_{edge}_timestamp_seconds", FLOW)
        assert abs(round(shown * 1e6) - getattr(OUTAGE, f"{edge}_ns") // 1000) <= 1
    bounds = [
        scrape.value("haprobe_last_outage_duration_seconds", FLOW, bound=b) for b in ("lower", "estimate", "upper")
    ]
    assert bounds == [0.499, 0.5, 0.501]
    assert scrape.value("haprobe_last_outage_lost_probes", FLOW) == 500
    assert scrape.value("haprobe_last_outage_open", FLOW) == 0
    still = replace(OUTAGE, first_ok_ns=0, censored="end")
    assert Scrape(FakeAgent(flow_list=[replace(KEPT, last_outage=still)])).value("haprobe_last_outage_open", FLOW) == 1


def test_counters_do_not_go_back_when_a_lost_probe_turns_out_late():
    agent = FakeAgent(flow_list=[KEPT])
    scrape = Scrape(agent)
    revised = replace(KEPT.counts, lost=490, lost_forward=290, late=12, scheduled=10_020)
    agent.flow_list = [replace(KEPT, counts=revised, outages_total=0, outage_seconds_total=0.4)]
    scrape.again()
    assert scrape.value("haprobe_probes_lost_total", FLOW) == 500
    assert scrape.value("haprobe_probes_late_total", FLOW) == 12
    assert scrape.value("haprobe_probes_lost_by_direction_total", FLOW, direction="forward") == 300
    assert scrape.value("haprobe_outages_total", FLOW) == 1
    assert scrape.value("haprobe_outage_seconds_total", FLOW) == 0.5


def test_counters_start_again_with_a_new_life_of_the_flow():
    agent = FakeAgent(flow_list=[KEPT])
    scrape = Scrape(agent)
    agent.flow_list = [replace(KEPT, counts=Counts(scheduled=5, sent=5, received=5))]
    scrape.again()
    assert scrape.value("haprobe_probes_lost_total", FLOW) == 0
    assert scrape.value("haprobe_probes_sent_total", FLOW) == 5


def test_aws_owners_active_unit_and_calls():
    scrape = Scrape(FakeAgent())
    owner = {"owner": "eni-b1", "unit": "fgt-b"}
    eip = {"address": "203.0.113.10", "allocation_id": "eipalloc-1"}
    assert scrape.value("haprobe_aws_eip_owner_info", eip, **owner) == 1
    route = {"route_table": "rtb-1", "destination": "0.0.0.0/0"}
    assert scrape.value("haprobe_aws_route_owner_info", route, owner="eni-b2", unit="fgt-b", state="active") == 1
    address = {"address": "10.0.1.10", "public_ip": "203.0.113.9"}
    assert scrape.value("haprobe_aws_private_ip_owner_info", address, **owner) == 1
    states = {"fgt-a": ("i-a", "stopping"), "fgt-b": ("i-b", "running")}
    for unit, (instance, state) in states.items():
        assert scrape.value("haprobe_aws_instance_info", unit=unit, instance=instance, state=state) == 1
    assert [scrape.value("haprobe_aws_signals", unit=u) for u in ("fgt-a", "fgt-b")] == [0, 3]
    assert [scrape.value("haprobe_aws_active_unit", unit=u) for u in ("fgt-a", "fgt-b")] == [0, 1]
    changed = scrape.value("haprobe_aws_last_change_timestamp_seconds", route, kind="route", address="")
    assert changed == 1_700_000_000
    calls = {"operation": "DescribeAddresses"}
    results = {r: scrape.value("haprobe_aws_api_requests_total", calls, result=r) for r in ("ok", "timeout")}
    assert results == {"ok": 20, "timeout": 0}
    assert scrape.value("haprobe_aws_api_requests_total", calls, result="RequestLimitExceeded") == 1
    assert scrape.value("haprobe_aws_api_seconds_count", calls) == 21


def test_a_blind_watcher_shows_no_owner_and_no_active_unit():
    blind = replace(AWS, up=False, ownership=(), active_unit="", reason="timeout")
    scrape = Scrape(FakeAgent(watcher_list=[blind]))
    assert scrape.value("haprobe_watcher_up", watcher="aws") == 0
    assert scrape.value("haprobe_watcher_last_success_timestamp_seconds", watcher="aws") == 1_700_000_005
    assert not scrape.all("haprobe_aws_eip_owner_info")
    assert [scrape.value("haprobe_aws_active_unit", unit=u) for u in ("fgt-a", "fgt-b")] == [0, 0]


def test_fortigate_roles_are_bounded():
    odd = replace(FORTIGATE, roles={"fgt-a": "primary", "fgt-b": "something new"})
    scrape = Scrape(FakeAgent(watcher_list=[odd]))
    hot = {
        (s["unit"], s["role"])
        for s in scrape.all("haprobe_fortigate_role")
        if scrape.value("haprobe_fortigate_role", s)
    }
    assert hot == {("fgt-a", "primary"), ("fgt-b", "unknown")}
    assert scrape.value("haprobe_fortigate_info", unit="fgt-a", version="v7.6.4", build="3596", serial="FGVM01") == 1


def test_unknown_clock_error_is_unbounded_rather_than_zero():
    assert Scrape(FakeAgent()).value("haprobe_clock_max_error_seconds") == 0.002
    assert Scrape(FakeAgent(clock_error_ns=None)).value("haprobe_clock_max_error_seconds") == math.inf


def test_agent_state():
    scrape = Scrape(FakeAgent(is_ready=(False, "x"), reload_error=ValueError()))
    assert scrape.value("haprobe_ready") == 0
    assert scrape.value("haprobe_config_last_reload_successful") == 0
    assert scrape.all("haprobe_build_info")[0]["version"] == "1.2.3"


def test_openmetrics_by_negotiation():
    made = Exposition(FakeAgent())
    text, text_type = b"".join(made.render("*/*")), content_type("*/*")
    assert text_type.startswith("text/plain; version=0.0.4")
    openmetrics, openmetrics_type = b"".join(made.render(OPENMETRICS)), content_type(OPENMETRICS)
    assert openmetrics_type.startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.endswith(b"# EOF\n") and not text.endswith(b"# EOF\n")
    families = {family.name: family for family in parse_openmetrics(openmetrics.decode())}
    assert families["haprobe_flow"].type == "info"
    assert families["haprobe_rtt_seconds"].unit == "seconds"


def test_every_declared_family_is_exposed_even_without_samples():
    text = Scrape(FakeAgent(flow_list=[], watcher_list=[])).text()
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE haprobe_")} == set(FAMILIES)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_about():
    body = b"".join(Exposition(FakeAgent()).render())
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_remote_write_shows_its_health_once_it_is_configured():
    assert Scrape(FakeAgent()).all("haprobe_remote_write_samples_total") == []
    scrape = Scrape(FakeAgent(remote=RemoteWriteSnapshot(100, 20, 3, 4, 5000, 1_700_000_000_500_000_000, "")))
    for result, count in (("sent", 100), ("refused", 20), ("dropped", 3)):
        assert scrape.value("haprobe_remote_write_samples_total", result=result) == count
    assert scrape.value("haprobe_remote_write_spool_bytes") == 5000
    assert scrape.value("haprobe_remote_write_last_success_timestamp_seconds") == 1_700_000_000.5
    assert scrape.value("haprobe_remote_write_revised_outages_total") == 4


def test_streams_have_series_of_their_own_and_others_have_not():
    stream = replace(
        KEPT, name="s", protocol="tcp", stack="kernel", stalls_total=2, stall_seconds_total=7.9, retransmissions_total=5
    )
    scrape = Scrape(FakeAgent(flow_list=[KEPT, stream]))
    for name, value in (("stalls", 2), ("stall_seconds", 7.9), ("retransmissions", 5)):
        assert scrape.value(f"haprobe_stream_{name}_total", {**FLOW, "flow": "s", "protocol": "tcp"}) == value
        assert [labels["flow"] for labels in scrape.all(f"haprobe_stream_{name}_total")] == ["s"]
