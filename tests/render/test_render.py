"""The dashboards in Grafana's own hands: its types, transformations and panels, in a browser, over a Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from probe.core.events import Outage

from . import drawing, history

NEEDED = {program: shutil.which(program) for program in ("node", "npm", "prometheus", "promtool")}
NEEDED["chromium"] = drawing.chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not all(NEEDED.values()), reason=f"missing: {[name for name in NEEDED if not NEEDED[name]]}"),
]
SPAN = (history.BEGIN_S, history.END_S)
SPANS = {"drill": SPAN, "flow": SPAN, "fleet": SPAN, "releases": (history.END_S - 30 * 86_400, history.END_S)}
CHOSEN = {"flow": {"instance": "workload-a", "flow": "ew-udp"}}
# Agents of which the store holds nothing that was written remotely under the name they are scraped by.
ONLY_SCRAPED = "workload-b|10[.]99[.]97[.]20:10862"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Every dashboard, on a wall's screen, of a drill whose Prometheus scrapes every 15 s."""
    drawing.node_modules()
    directory = tmp_path_factory.mktemp("render")
    history.write(directory / "history.om")
    with drawing.prometheus_of(directory / "history.om", directory) as prometheus:
        pages = {name: drawing.page(prometheus, name, span, **CHOSEN.get(name, {})) for name, span in SPANS.items()}
        pages["only-scraped"] = drawing.page(prometheus, "drill", SPAN, instance=ONLY_SCRAPED)
        assert pages["only-scraped"]["variables"]["direction"] == ""
        yield drawing.draw(prometheus, pages, directory / "out", scrape_s=history.SCRAPE_S)


@pytest.mark.parametrize("name", drawing.BOARDS)
def test_every_query_finds_data_and_every_panel_is_drawn(drawn, name):
    assert drawing.complaints(drawn[name]) == []
    titles = [panel["title"] for panel in json.loads(drawing.BOARDS[name].read_text())["panels"]]
    assert [panel["title"] for panel in drawn[name]["drawn"]] == titles


def panel(result, title, part="drawn"):
    return next(one for one in result[part] if one["title"] == title)


def edges(outages: list[Outage]) -> list[tuple[int, int]]:
    """In ms; those that are open at the end are drawn up to it."""
    return [(one.start_ns // 1_000_000, min(one.end_ns // 1_000_000, history.END_S * 1000)) for one in outages]


@pytest.mark.parametrize("agent", history.AGENTS)
def test_outages_stand_on_the_timeline_at_their_milliseconds(drawn, agent):
    """Whether written remotely or read from gauges that are scraped every 15 s; one of them lasts 40 ms."""
    lanes = {lane["name"]: lane["spans"] for lane in panel(drawn["drill"], "Outage windows")["lanes"]}
    for flow, outages in history.outages(agent).items():
        about = history.FLOWS_OF[agent][flow]
        spans = lanes[f"{about['path']} · {flow}"]
        dark = [(span["from"], span["to"]) for span in spans if span["text"] == "OUTAGE"]
        assert dark == edges(outages), flow
        assert {span["text"] for span in spans} == {"up", *(("OUTAGE",) if outages else ())}
    lengths = {end - start for outages in history.outages(agent).values() for start, end in edges(outages)}
    assert 40 in lengths


def test_no_flow_has_two_lanes(drawn):
    """Also of an agent that writes remotely under another name than it is scraped by."""
    names = [lane["name"] for lane in panel(drawn["drill"], "Outage windows")["lanes"]]
    assert sorted(names) == sorted(
        {f"{one['path']} · {flow}" for of in history.FLOWS_OF.values() for flow, one in of.items()}
    )


def test_outages_are_shown_without_any_remote_write(drawn):
    """Where the variable for their direction has no choice; nothing but the gauges' edges may take part then."""
    start, end = (history.BEGIN_S * 1000 + at // 1_000_000 for at in history.BLINK)
    lanes = panel(drawn["only-scraped"], "Outage windows")["lanes"]
    dark = {lane["name"]: [(s["from"], s["to"]) for s in lane["spans"] if s["text"] == "OUTAGE"] for lane in lanes}
    endless = [(history.BEGIN_S * 1000 + 3200, history.END_S * 1000)]
    assert dark == {"egress · b-udp": [(start, end)], "egress · c-udp": [(start, end)], "egress · b-icmp": endless}


def test_outage_table_says_the_same(drawn):
    fields = panel(drawn["drill"], "Last outage of each flow, with bounds", "panels")["fields"][0]
    columns = {field["name"]: field["texts"] for field in fields}
    row = columns["Flow"].index("b-udp")
    assert columns["Start (UTC)"][row] == "2025-12-03 12:04:04.123"
    assert columns["End (UTC)"][row] == "2025-12-03 12:04:04.163"
    bounds = [columns[name][row] for name in ("At least", "Estimate", "At most", "Lost", "Open")]
    assert bounds == ["39.000 ms", "40.000 ms", "41.000 ms", "40", "no"]


def test_outages_are_counted_not_extrapolated(drawn):
    happened = sum(len(found) for agent in history.AGENTS for found in history.outages(agent).values())
    assert panel(drawn["drill"], "Outages")["text"].split() == ["Outages", str(happened)]


def test_phases_begin_and_end_where_the_report_says(drawn):
    golden = json.loads(history.GOLDEN.read_text())
    by_ns = (history.BEGIN_S + 396) * history.SECOND - golden["run"]["started_ns"]
    lanes = {lane["name"]: lane["spans"] for lane in panel(drawn["drill"], "Phases of the failover")["lanes"]}
    for phase in golden["phases"]:
        (span,) = [span for span in lanes[phase["name"]] if span["text"] == phase["name"]]
        wanted = [(phase[edge] + by_ns) // 1_000_000 for edge in ("start_ns", "end_ns")]
        assert [span["from"], span["to"]] == wanted, phase["name"]


def test_ha_events_are_marked_at_their_instants(drawn):
    marks = {(mark["name"], mark["at"]) for mark in drawn["drill"]["marks"]}
    assert ("AWS change", history.CHANGED_NS // 1_000_000) in marks
    assert ("HA event", history.BEGIN_S * 1000 + 404_987) in marks
    assert ("Outage begins", history.BEGIN_S * 1000 + history.BLINK[0] // 1_000_000) in marks


def test_survival_matrix_shows_the_worst_of_each_kind(drawn):
    fields = panel(drawn["drill"], "Survival", "panels")["fields"][0]
    columns = {field["name"]: field["texts"] for field in fields}
    ingress = columns["path"].index("ingress")
    assert (columns["tcp kept"][ingress], columns["tcp fresh"][ingress]) == ("lost", "survived")


def test_releases_stand_side_by_side(drawn):
    fields = panel(drawn["releases"], "Survival, release by release", "panels")["fields"][0]
    assert [field["name"] for field in fields] == ["probe", "7.2.11", "7.4.8", "7.6.4"]
    assert panel(drawn["releases"], "Budgets broken")["text"].split()[-1] == "1"


def test_grafanas_types_know_every_field():
    drawing.node_modules()
    command = ["node", str(drawing.HERE / "types.mjs"), *map(str, drawing.BOARDS.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafanas_types_would_tell_of_a_mistake(tmp_path):
    drawing.node_modules()
    text = drawing.BOARDS["fleet"].read_text()
    wrong = text.replace('"placement": "bottom"', '"placement": "botom"').replace('"showLegend"', '"showLegends"')
    (tmp_path / "wrong.json").write_text(wrong)
    command = ["node", str(drawing.HERE / "types.mjs"), str(tmp_path / "wrong.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "botom" in done.stdout and "showLegends" in done.stdout
