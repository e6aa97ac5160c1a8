"""The flow families of a scrape against prometheus-client's own text of them."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from probe.core.events import VERDICTS, Counts
from probe.export import flow_text
from probe.export.collector import Exposition
from probe.export.flow_text import FLOW_FAMILIES, FLOW_STATES, FlowText
from probe.export.metrics import FAMILIES

from .fakes import KEPT, NEW, OUTAGE, FakeAgent, FakeFlow, table_of
from .oracle import Oracle

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text;version=1.0.0"
PARSERS = {TEXT: parse_text, OPENMETRICS: parse_openmetrics}
EDGES = (1e-05, 0.00025, 2.5, math.inf)

count = st.integers(0, 2**53)
seconds = st.floats(0, 1e7) | st.integers(0, 10**7).map(float)
words = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n{}=, %'), max_size=8)
outages = st.none() | st.builds(
    replace,
    st.just(OUTAGE),
    start_ns=st.integers(1, 2**61),
    end_ns=st.integers(1, 2**61),
    lower_ns=st.integers(0, 10**13),
    estimate_ns=st.integers(0, 10**13),
    upper_ns=st.integers(0, 10**13),
    lost=count,
    first_ok_ns=st.integers(0, 1),
)


@st.composite
def flow_lives(draw: st.DrawFn, name: str) -> FakeFlow:
    """A flow in some state; what tells it from others depends on the name alone, so that it can be drawn again."""
    kind = draw(st.sampled_from(["packet", "kernel"]))
    below = sorted(draw(st.lists(count, min_size=len(EDGES), max_size=len(EDGES))))
    return FakeFlow(
        name=name,
        protocol="tcp" if kind == "kernel" else "udp",
        session="kept",
        path='east\\"\n%s',
        target=draw(words),
        address=draw(words),
        port=draw(st.integers(0, 65535)),
        interface=draw(words),
        source=draw(words),
        interval_ns=draw(st.integers(1000, 10**10)),
        state=draw(st.sampled_from(FLOW_STATES)),
        counts=Counts(**{f.name: draw(count) for f in fields(Counts)}),
        resets=draw(st.dictionaries(st.sampled_from(["rst", "fin", "icmp", "silent"]), count)),
        rtt_buckets=list(zip(EDGES, below, strict=True)),
        rtt_sum_s=draw(seconds),
        rtt_ns={},
        outages_total=draw(count),
        outage_seconds_total=draw(seconds),
        unobserved_seconds_total=draw(seconds),
        last_outage=draw(outages),
        verdict=draw(st.sampled_from(VERDICTS)),
        stack=kind,
        stalls_total=draw(count),
        stall_seconds_total=draw(seconds),
        retransmissions_total=draw(count),
    )


@st.composite
def successions(draw: st.DrawFn) -> list[list[FakeFlow]]:
    """Sets of flows, one scrape after the other; flows come, stay as they are, change and go."""
    names = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    found: list[list[FakeFlow]] = []
    for _ in range(draw(st.integers(1, 4))):
        before = {flow.name: flow for flow in found[-1]} if found else {}
        there = draw(st.lists(st.sampled_from(names), unique=True))
        found.append([before[n] if n in before and draw(st.booleans()) else draw(flow_lives(n)) for n in there])
    return found


def samples(text: str, accept: str) -> dict[str, object]:
    """Each flow family with its samples in order."""
    found = {family.name: family for family in PARSERS[accept](text)}
    names = {FAMILIES[name].empty().name for name in FLOW_FAMILIES}
    return {
        name: (family.type, family.documentation, family.unit, [tuple(sample) for sample in family.samples])
        for name, family in found.items()
        if name in names
    }


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(successions(), st.sampled_from([1, 7, 5000]), st.sampled_from([TEXT, OPENMETRICS]))
@example([[KEPT, NEW], [NEW], [NEW, KEPT], [replace(KEPT, name="other"), NEW]], 5000, OPENMETRICS)
@example([[KEPT, NEW], [NEW]], 1, TEXT)
@example([[KEPT], [replace(KEPT, counts=Counts(scheduled=5, sent=5))]], 5000, TEXT)
def test_it_says_what_prometheus_client_says(scrapes, lines_at_once, accept):
    agent, oracle = FakeAgent(watcher_list=[]), Oracle()
    exposition = Exposition(agent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_text, "_LINES_AT_ONCE", lines_at_once * 40)
        for flows in scrapes:
            agent.flow_list = oracle.flows = flows
            ours = b"".join(exposition.render(accept)).decode()
            theirs = choose_encoder(accept)[0](oracle.registry).decode()
            assert samples(ours, accept) == samples(theirs, accept)
            # Heads and labels octet by octet, as the parser would forgive some.
            wanted = theirs.removesuffix("# EOF\n").split("\n")[:-1]
            shown = ours.split("\n")[: len(wanted)]
            assert [*map(_without_value, shown)] == [*map(_without_value, wanted)]


def _without_value(line: str) -> str:
    return line if line.startswith("#") else line.rpartition(" ")[0]


def test_families_of_flows_are_the_first_of_the_table_and_in_its_order():
    assert list(FLOW_FAMILIES) == list(FAMILIES)[: len(FLOW_FAMILIES)]
    of_flows = [name for name, family in FAMILIES.items() if "flow" in family.labels]
    assert of_flows == list(FLOW_FAMILIES)


def test_what_has_not_changed_is_not_made_again():
    text, agent = FlowText(), FakeAgent()
    first, again = (text.render(table_of(agent.flow_list)) for _ in range(2))
    assert all(one is other for name in FLOW_FAMILIES for one, other in zip(first[name], again[name], strict=True))
    later = replace(KEPT, counts=replace(KEPT.counts, scheduled=10_011, sent=10_001, pending=11))
    changed = text.render(table_of([later, NEW]))
    differing = {name for name in FLOW_FAMILIES if changed[name] != again[name]}
    assert differing == {f"haprobe_probes_{name}" for name in ("scheduled_total", "sent_total", "pending")}


def test_an_address_that_changes_concerns_one_family():
    text = FlowText()
    first, moved = (text.render(table_of([replace(KEPT, source=source), NEW])) for source in ("10.0.0.1", "10.0.0.2"))
    assert {name for name in FLOW_FAMILIES if first[name] != moved[name]} == {"haprobe_flow_info"}


def test_thousands_of_flows_come_in_pieces():
    flows = [replace(KEPT, name=f"f{n}") for n in range(2000)]
    pieces = FlowText().render(table_of(flows))["haprobe_flow_verdict"]
    lines = [piece.count(b"\n") for piece in pieces]
    assert sum(lines) == 8 * 2000 and max(lines) <= 5000
