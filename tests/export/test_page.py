"""What the landing page says, to eyes that may not see colours and browsers that may not run scripts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import pytest

from probe.core.events import VERDICTS, FlowState
from probe.export import page
from probe.export.view import RemoteWriteSnapshot

from .fakes import AWS, FORTIGATE, KEPT, NEW, FakeAgent

VOID = {"meta", "link", "br", "input"}


class Balanced(HTMLParser):
    """Fails on an element that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def live(**fields):
    return text_of(page.render_live(FakeAgent(**fields)))


def test_document_is_well_formed_and_every_cell_has_a_label_for_narrow_screens():
    html, _ = page.render_page(FakeAgent())
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert parser.cells and all(cell.get("data-label") for cell in parser.cells)


def test_page_is_self_contained_and_for_both_colour_schemes():
    html, _ = page.render_page(FakeAgent())
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", html)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert '<noscript><meta http-equiv="refresh"' in html


@pytest.mark.parametrize("state", get_args(FlowState))
def test_states_are_told_by_word_and_sign(state):
    assert f"{page.STATE_SIGNS[state]} {state}" in live(flow_list=[replace(KEPT, state=state)])
    assert len(set(page.STATE_SIGNS.values())) == len(get_args(FlowState))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdicts_are_told_by_word_and_sign(verdict):
    assert f"{page.VERDICT_SIGNS[verdict]} {verdict}" in live(flow_list=[replace(KEPT, verdict=verdict)])


def test_a_flow_with_its_numbers():
    shown = live(flow_list=[KEPT])
    assert "a-to-b east-west udp kept b.example:862" in shown
    assert "10,000 500 5.01% 650 µs / 4.0 ms 500.0 ms" in shown
    assert "1 of 1 flows up" in shown


def test_a_flow_before_its_first_answer_shows_dashes_instead_of_zeros():
    assert "0 0 – – –" in live(flow_list=[NEW])


def test_flows_that_are_down_come_first_within_their_path():
    flows = [replace(KEPT, name="b-up"), replace(KEPT, name="c-down", state="down"), replace(KEPT, name="a-up")]
    shown = live(flow_list=flows)
    assert shown.index("c-down") < shown.index("a-up") < shown.index("b-up")


def test_an_outage_with_bounds_and_edges_to_the_millisecond():
    shown = live()
    assert "forward 2023-11-14 22:13:22.000 2023-11-14 22:13:22.500 500.0 ms 499.0 ms … 501.0 ms 500" in shown


def test_an_open_outage_has_no_end():
    agent = FakeAgent()
    record = {**agent.outages()[0], "censored": "end"}
    agent.outages = lambda since_ns=0: [record]
    assert "✖ not over" in text_of(page.render_live(agent))


def test_an_outage_that_nobody_saw_the_end_of_does_not_go_on_for_ever():
    """Open when its agent was killed, or a reload took its flow away."""
    agent = FakeAgent()
    past = {**agent.outages()[0], "censored": "end", "restored": True}
    agent.outages = lambda since_ns=0: [past]
    shown = text_of(page.render_live(agent))
    assert "2023-11-14 22:13:22.000 ◐ end not seen 500.0 ms" in shown and "not over" not in shown
    agent.outages = lambda since_ns=0: [{**past, "censored": "no"}]
    assert "2023-11-14 22:13:22.000 2023-11-14 22:13:22.500" in text_of(page.render_live(agent))


def test_the_newest_outages_come_first_and_are_limited():
    agent = FakeAgent()
    records = [{**agent.outages()[0], "flow": f"flow-{n:03d}"} for n in range(50)]
    agent.outages = lambda since_ns=0: records
    names = re.findall(r"flow-\d{3}", page.render_live(agent))
    assert names == [f"flow-{n:03d}" for n in range(49, 49 - page.OUTAGES_SHOWN, -1)]


def test_watchers():
    assert "aws ● sees fgt-b 203.0.113.10 eipalloc-1 → fgt-b" in live(watcher_list=[AWS])
    assert "✖ blind: connection refused" in live(watcher_list=[FORTIGATE])
    assert "◐ units disagree" in live(watcher_list=[replace(AWS, active_unit="")])
    assert "✖ blind: AccessDenied unknown" in live(
        watcher_list=[replace(AWS, up=False, active_unit="", ownership=(), reason="AccessDenied")]
    )


def test_what_is_not_up_comes_first_and_many_flows_are_folded_by_path():
    flows = [replace(KEPT, name=f"f{n:02d}", path=f"path-{n % 3}") for n in range(30)]
    flows[17] = replace(flows[17], state="down")
    whole, brief = (page.render_live(FakeAgent(flow_list=flows), whole=whole) for whole in (True, False))
    for html in (whole, brief):
        assert "✖ 1 down ● 29 up" in text_of(html)
        assert re.findall(r"<strong>(f\d\d)</strong>", html)[0] == "f17"
        assert re.findall(r'<details data-key="([^"]+)"', html) == ["path-2", "path-0", "path-1"]
    assert len(re.findall(r"<strong>f\d\d</strong>", whole)) == 31
    assert len(re.findall(r"<strong>f\d\d</strong>", brief)) == 1  # closed folds are asked for when they are opened
    few = page.render_live(FakeAgent(flow_list=flows[:20]))
    assert "<details" not in few and re.findall(r"<strong>(f\d\d)</strong>", few)[0] == "f17"


def test_more_flows_that_are_not_up_than_fit_are_counted():
    flows = [replace(KEPT, name=f"f{n:02d}", state="down") for n in range(30)]
    assert "Not up now: the worst 20 of 30" in live(flow_list=flows)


def test_rates_and_health():
    shown = live(flow_list=[KEPT, replace(KEPT, name="slow", interval_ns=400_000_000)])
    assert "of 1,000/s" in shown and "of 2.5/s" in shown
    assert "answered now – of 1,002/s lost 1,000 not sent on schedule 20 dropped by this host 16" in shown
    assert "unobserved, all flows 0.500 s clock within 2.0 ms of UTC" in shown
    assert "offset from UTC unknown" in live(clock_error_ns=None)
    remote = RemoteWriteSnapshot(1, 0, 0, 0, 4096, 0, "timeout")
    assert "✖ timeout , 4,096 octets wait" in live(remote=remote)
    assert "● sends , 0 octets wait" in live(remote=replace(remote, reason="", spooled_octets=0))


def test_what_is_wrong_with_a_watcher_that_sees_is_told():
    assert "◐ aws: ssh: login refused" in live(watcher_list=[replace(AWS, notes=["ssh: login refused"])])


def test_not_ready_says_why():
    assert "✖ not ready: flow x: no route" in live(is_ready=(False, "flow x: no route"))


def test_of_thousands_of_flows_the_worst_are_shown():
    flows = [replace(KEPT, name=f"f{n}") for n in range(page.FLOWS_SHOWN)]
    dark = replace(KEPT, name="dark", state="down")
    html = page.render_live(FakeAgent(flow_list=[*flows, dark, replace(KEPT, name="fine")]))
    shown = text_of(html)
    rows = re.findall(
        r'"Flow"><strong>([^<]+)</strong></td>\s*<td data-label="Path">[^<]*</td>\s*<td data-label="Pr', html
    )
    assert rows == ["dark", "dark", *sorted(flow.name for flow in flows[:-1])], "first by itself, then by path"
    assert f"{page.FLOWS_SHOWN + 1} of {page.FLOWS_SHOWN + 2} flows up" in shown
    assert f"The {page.FLOWS_SHOWN} in the worst states" in shown
    assert "in the worst states" not in live(flow_list=flows)


def test_an_agent_without_flows_or_outages():
    agent = FakeAgent(flow_list=[], watcher_list=[])
    agent.outages = lambda since_ns=0: []
    shown = text_of(page.render_live(agent))
    assert "No flows" in shown and "None so far" in shown


def test_names_from_outside_are_escaped():
    flow = replace(KEPT, path="<script>alert(1)</script>", target='"><img src=x>')
    html = page.render_live(FakeAgent(flow_list=[flow]))
    assert "<script>" not in html and "<img" not in html


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "–"), (1_700_000_000_999_999_999, "2023-11-14 22:13:20.999"), (1, "1970-01-01 00:00:00.000")],
)
def test_utc(ns, text):
    assert page.utc(ns) == text


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0 µs"), (999_000, "999 µs"), (1_500_000, "1.5 ms"), (12_345_600_000, "12.346 s")]
)
def test_duration(ns, text):
    assert page.duration(ns) == text
