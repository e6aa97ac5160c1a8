"""What the page lists: the worst first where there are many, and nothing of a few reordered."""

from __future__ import annotations

from typing import Any

import pytest

from probe.report import html, listing
from probe.report import phrases as say
from probe.report.document import new_document

from . import build
from .page import Page

DARK = (build.Fault(build.DOWN, None),)
BACK = (build.Fault(build.DOWN, build.ROUTE),)


def many(count: int = 60) -> dict[str, Any]:
    """Flows of two paths; every tenth is dark, of the others every second had an outage."""
    flows = []
    for n in range(count):
        faults = DARK if n % 10 == 7 else BACK if n % 2 else ()
        path = "ingress" if n < count // 2 else "egress"
        flows.append(build.flow(f"f{n:03d}", path=path, faults=faults, phase_ns=n * 7_000, interval_ns=20 * build.MS))
    return new_document(run=build.RUN, flows=flows, timeline=build.events())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return many()


def test_of_many_flows_the_worst_come_first(document: dict[str, Any]) -> None:
    ingress = listing.worst_first(say.by_path(document)["ingress"])
    assert [flow["verdict"] for flow in ingress] == ["dark"] * 3 + ["survived"] * 12 + ["unaffected"] * 15
    lengths = [say.away(flow).ns for flow in ingress[3:15]]
    assert lengths == sorted(lengths, reverse=True)


def test_a_few_stay_in_their_order() -> None:
    flows = build.flows(ingress_dark=True)[:6]
    assert listing.worst_first(flows) == flows


def test_outages_still_open_come_first_then_the_longest() -> None:
    ingress, egress = listing.outages(many(120))
    assert [row.outage["censored"] for row in ingress.rows] == ["end"] * 6 + ["no"] * 24
    assert ingress.summary == "30 outages on 30 flows, longest 20.950 s, 6 still open"
    lengths = [row.outage["duration_ns"]["estimate"] for row in ingress.rows[6:]]
    assert egress.path == "egress" and lengths == sorted(lengths, reverse=True)
    for row in (*ingress.rows, *egress.rows):
        assert row.flow["outages"][row.place] is row.outage


def test_a_flow_is_found_by_what_a_person_would_type() -> None:
    flow = new_document(run=build.RUN, flows=[build.flow("Web-1", path="ingress", session="fresh", faults=DARK)])
    words = listing.found_by(flow["flows"][0]).split()
    assert {"web-1", "ingress", "udp", "new", "fresh", "dark", "broken", "outage", "workload-a"} <= set(words)
    quiet = new_document(run=build.RUN, flows=[build.flow("quiet")])["flows"][0]
    assert "broken" not in listing.found_by(quiet) and "outage" not in listing.found_by(quiet)


def test_counts_are_told_where_there_are_any() -> None:
    flow = build.drill()["flows"][6]
    assert listing.told(flow) == "17 unsent"
    assert listing.lost_where(flow) == "2,368 forward, 163 reverse"
    assert listing.told(build.drill()["flows"][0]) == ""


def test_delays_stand_on_one_logarithmic_scale() -> None:
    scale = listing.delays(build.drill())
    assert scale is not None
    assert (scale.percent(412_000), scale.percent(4_120_000)) == (0, 100)
    assert scale.percent(1_302_858) == pytest.approx(50, abs=0.01)  # sqrt(10) times the lowest
    assert listing.delays(new_document(run={}, flows=[])) is None


def test_absences_by_path_and_session() -> None:
    (ingress, egress), high_ns = listing.strips(many())
    assert (ingress.path, ingress.kind, ingress.which) == ("ingress", "udp", "old")
    assert (ingress.flows, ingress.gone, ingress.longest) == (30, 15, "> 20.940 s")
    assert ingress.dots[-1][:2] == (100.0, True)
    assert sum(still for _, still, _ in egress.dots) == 1  # three flows, at one place
    assert high_ns > 20 * build.S
    assert listing.strips(new_document(run=build.RUN, flows=[build.flow("quiet")]))[0] == []


def test_a_mark_names_its_flows_with_their_agents() -> None:
    (old, new), _ = listing.strips(build.alike())
    assert [words for _, _, words in (*old.dots, *new.dots)] == ["1.000 s: a/u, b/u", "1.000 s: a/u-fresh, b/u-fresh"]


def test_a_page_of_many_flows_folds_what_is_well(document: dict[str, Any]) -> None:
    page = Page(html.render(document))
    lanes = page.all("div", css="lane")
    folded = page.all("div", css="folded")
    assert (len(lanes), len(folded)) == (60, 60 - 2 * listing.FEW)
    assert page.texts["button"][-2:] == ["18 more flows, none worse than survived"] * 2
    assert not any(a.get("open") == "" for a in page.all("details", css="path", **{"data-rows": "30"}))
    assert all("broken" in str(lane["data-find"]) for lane in lanes[:3])
    assert {str(lane["data-flow"]) for lane in lanes} == {str(n) for n in range(60)}


def test_sessions_that_end_together_are_one_line() -> None:
    document = build.drill(pickup=False, resets=True)
    told = [line.text for line in say.timeline_lines(document) if line.event == "session_end"]
    assert told == [
        "session ended (rst from 10.99.97.10, TTL 63: by whom is not known) on 3 of 18 flows: "
        "east-west-tcp, ingress-tcp, egress-tcp"
    ]
