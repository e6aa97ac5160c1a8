"""The page: self-contained, escaped, complete without script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from probe.report.document import new_document
from probe.report.html import render

from . import build
from .page import Page


@pytest.fixture(scope="module")
def html() -> str:
    return render(build.drill())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_offline(html: str, page: Page) -> None:
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)[a-z]*:?//""", html)
    assert [a for _, a in page.elements if "src" in a or "style" in a] == []
    there = {a["id"] for _, a in page.elements if "id" in a}
    assert {str(a["href"]) for a in page.all("a")} <= {f"#{name}" for name in there}


def test_policy_allows_exactly_the_page_itself(html: str, page: Page) -> None:
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    for tag in ("style", "script"):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_embedded_document_is_the_document(html: str) -> None:
    body = re.search(r'<script type="application/json" id="document">(.*?)</script>', html, re.S)
    assert body is not None
    assert json.loads(body[1]) == build.drill()


def test_one_lane_per_flow_with_its_outages(page: Page) -> None:
    assert len(page.all("div", css="lane")) == 18
    outages = sum(len(f["outages"]) for f in build.drill()["flows"])
    assert len(page.all("rect", css="outage")) == outages
    assert len(page.all("line", css="mark")) == 6
    assert len(page.all("rect", css="unobserved")) == 6


def test_readable_without_script(html: str, page: Page) -> None:
    without = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    for words in ("5.062 s ± 2.0 ms", "failover_clean", "full_recovery", "12:00:05.014", "recovered", "eu-west-2"):
        assert words in without, words
    assert [a for a in page.all("div", css="tools") if "hidden" in a]  # buttons that would do nothing are not shown


def test_the_raw_records_are_folded_away_under_their_outage(html: str, page: Page) -> None:
    outages = [o for f in build.drill()["flows"] for o in f["outages"]]
    assert len(page.all("tr", css="evidence")) == len(outages)
    folded = page.all("details")
    assert sum("open" not in attributes for attributes in folded) == len(outages) + 1  # and the configuration
    assert sum("open" in attributes for attributes in folded) == 2 * 3  # outages and probes of each path
    probe = outages[0]["evidence"][0]
    assert f'<td class="n">{probe["sequence"]}</td><td>12:00:05.{probe["tx_ns"] % 10**9:09d}</td>' in html
    lost = sum(record["rx_ns"] is None for o in outages for record in o["evidence"])
    assert len(page.all("tr", css="lost")) == lost


def test_a_document_of_before_there_was_evidence_has_a_page_too() -> None:
    document = build.drill()
    for flow in document["flows"]:
        for outage in flow["outages"]:
            del outage["evidence"]
    assert Page(render(document)).all("tr", css="evidence") == []


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def hostile_document() -> dict[str, Any]:
    flow = build.flow(
        HOSTILE, path=HOSTILE, target=HOSTILE, agent=HOSTILE, faults=(build.Fault(build.DOWN, build.ROUTE),)
    )
    flow["session_end"] = {"cause": "rst", "at_ns": build.ROUTE, "from": HOSTILE, "ttl": 1}
    events = [*build.events(), build.moved("eip_moved", build.EIP, address=HOSTILE), build.role(build.PRIMARY, HOSTILE)]
    run = {**build.RUN, "id": HOSTILE, "labels": {HOSTILE: HOSTILE}, "config": {HOSTILE: HOSTILE}, "host": HOSTILE}
    return new_document(run=run, flows=[flow], timeline=events)


def test_hostile_names_stay_text() -> None:
    html = render(hostile_document())
    page = Page(html)
    assert len(page.all("script")) == 2
    assert page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE not in html


@pytest.mark.parametrize(
    "document",
    [
        new_document(run={}, flows=[]),
        new_document(run=build.RUN, flows=[build.flow("quiet")]),
        new_document(run=build.RUN, flows=[], timeline=build.events()),
        new_document(run={"id": "x"}, flows=[{"name": "never-sent", "protocol": "tcp"}]),
        new_document(run=build.RUN, flows=build.flows(pickup=False, resets=True), timeline=build.events()),
    ],
    ids=["empty", "quiet", "events-only", "nothing-sent", "resets"],
)
def test_every_kind_of_run_has_a_page(document: dict[str, Any]) -> None:
    assert Page(render(document)).all("h1")


def test_outages_of_several_agents_can_be_told_apart() -> None:
    html = render(build.alike())
    rows = re.findall(r"<tr><td>([^<]*)</td>", html[html.index('id="outages"') : html.index('id="timeline"')])
    assert rows == ["a/u", "a/u-fresh", "b/u", "b/u-fresh"]
