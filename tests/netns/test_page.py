"""An agent's page in real Chromium, while a real agent goes through an outage."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.report.html import render

from .. import browser
from .test_agent import FLOWS, block, config
from .triple import Run, Triple

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium"),
]

LINK = "document.getElementById('link').textContent"
UDP = "[...document.querySelectorAll('.flows tr')].find((r) => r.cells[1].innerText.trim() === 'udp').innerText"
OUTAGES = "(document.querySelector('.outages tbody') || {innerText: ''}).innerText"
ANSWERED = "parseInt(document.querySelector('.health [data-rate]').textContent.replace(',', ''))"


def test_the_page_and_its_stream_stay_live_through_an_outage(triple: Triple, reflector: Run, tmp_path: Path) -> None:
    agent = triple.agent(tmp_path)
    agent.configure(config(*({**flow, "rate": 100} for flow in FLOWS)))
    agent.start().wait_ready()
    with browser.opened(tmp_path / "profile") as chromium:
        tab = chromium.page(390).open(f"http://{agent.address}/")
        tab.wait_for(f"{LINK} === 'live'")
        tab.js(
            "window.told = []; new EventSource('api/v1/events').addEventListener('outage', (e) => told.push(e.data))"
        )
        tab.wait_for(f"{ANSWERED} > 20", "for the rate of answers, known from the second look on")

        block(triple)
        tab.wait_for(f"{UDP}.includes('down')", "for the outage")
        tab.wait_for(f"{OUTAGES}.includes('not over')")
        tab.wait_for("told.length > 0", "for the event itself")
        triple.drop()
        tab.wait_for(f"{UDP}.includes('up')", "for its end")
        tab.wait_for(f"{OUTAGES} && !{OUTAGES}.includes('not over')")
        assert (tab.overflow(), tab.errors) == ([], [])

        report = tmp_path / "report.html"
        report.write_text(render(agent.get("/api/v1/report")))
        page = chromium.page(390).open(report.as_uri())
        page.js("document.querySelectorAll('details').forEach((fold) => fold.open = true)")
        page.click("button.edge")
        assert "outage begins between the last answered probe" in page.js("document.getElementById('where').innerText")
        assert page.js("document.querySelectorAll('.probe').length") > 0
        assert (page.overflow(), page.errors) == ([], [])

        tab.call("Page.bringToFront")  # a hidden page does not ask
        tab.wait_for("!document.hidden")
        agent.kill()
        tab.wait_for(f"{LINK}.includes('what you see is old')")
