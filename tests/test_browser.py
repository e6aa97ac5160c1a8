"""The report and an agent's page in real Chromium: no complaint on the console, nothing off the screen, and live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probe.core.events import FlowState
from probe.export.http import serve
from probe.report.document import new_document
from probe.report.html import render

from . import browser
from .browser import Browser, Tab
from .export.fakes import KEPT, OUTAGE, FakeAgent
from .report import build
from .report.test_streams import stall, stream

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")

WHERE = "document.getElementById('where').textContent"
LINK = "document.getElementById('link').textContent"
PATHS = ("east-west", "ingress", "egress", "vpn-to-the-branch-office")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def drill() -> dict[str, Any]:
    """18 flows with raw records, sessions that were reset, and a stream."""
    flows = [*build.flows(pickup=False, resets=True), stream(stall(7_900 * build.MS))]
    config = {"rate": 0.5, "large": 1e300, "big": 2**70}  # not every number in a document is a time
    return new_document(run={**build.RUN, "config": config}, flows=flows, timeline=build.events())


def many() -> dict[str, Any]:
    flows = []
    for n in range(300):
        path = PATHS[n % 4]
        faults = (build.Fault(build.DOWN, None),) if n == 250 else build.path_faults(path) if n % 3 else ()
        name, protocol = f"{path}-{n:03d}", ("icmp", "udp", "tcp")[n // 4 % 3]
        # Bounds are 20 ms wide: it is the page that is looked at here.
        more = {"interval_ns": 20 * build.MS, "phase_ns": n * 31_000}
        flows.append(build.flow(name, path=path, protocol=protocol, faults=faults, **more))
    return new_document(run=build.RUN, flows=flows, timeline=build.events())


def lanes(tab: Tab) -> list[str]:
    """Names of the flows that the drawing shows."""
    shown: list[str] = tab.js("[...document.querySelectorAll('.lane:not([hidden]) .label')].map((l) => l.textContent)")
    return shown


def search(tab: Tab, words: str) -> None:
    tab.js(
        f"(() => {{ const box = document.getElementById('find'); box.value = {words!r};"
        " box.dispatchEvent(new Event('input')); })()"
    )


@pytest.mark.parametrize("width", [390, 1920])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_report_fits_and_has_no_errors(chromium: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    for name, document in {"drill": drill(), "empty": new_document(run={}, flows=[])}.items():
        file = tmp_path / f"{name}.html"
        file.write_text(render(document))
        tab = chromium.page(width, dark=dark).open(file.as_uri())
        assert tab.js("matchMedia('(prefers-color-scheme: dark)').matches") is dark
        tab.js("document.querySelectorAll('details').forEach((fold) => fold.open = true)")
        assert (tab.overflow(), tab.covered("h2, .matrix td, .events td"), tab.errors) == ([], [], [])
        tab.close()


def test_edges_are_shown_to_the_microsecond(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "drill.html"
    file.write_text(render(drill()))
    tab = chromium.page(1280).open(file.as_uri())
    assert tab.js("document.querySelectorAll('.probe').length") == 0
    begins = "workload-a/east-west-icmp: the forward outage begins between the last answered probe and the first lost"
    ends = "workload-a/east-west-icmp: the forward outage ends between the last lost probe and the first answered"

    tab.click("button.edge")  # in the table of outages
    assert begins in tab.js(WHERE) and "12:00:05.012000 and 12:00:05.014000 UTC, 2.00 ms apart" in tab.js(WHERE)
    first = "[...document.querySelectorAll('.lane')][0]"
    assert tab.js(f"{first}.querySelectorAll('.probe .got').length") == 1
    assert tab.js(f"{first}.querySelectorAll('.probe .gone').length") == 2
    for _ in range(12):
        tab.key("+")
    assert "20.0 µs" in tab.js(WHERE)

    tab.key("0")
    assert tab.js(WHERE) == "Shown: 12:00:04.232 to 12:00:11.765 UTC, 7.533 s."
    tab.key("n")
    assert begins in tab.js(WHERE)
    tab.key("Escape")
    x, y = tab.js(
        f"(() => {{ const b = {first}.querySelector('rect.outage').getBoundingClientRect();"
        " return [b.right - 9, b.y + 3]; })()"
    )
    tab.click_at(x, y)
    assert ends in tab.js(WHERE)
    tab.key("1")
    assert "26.000 s" in tab.js(WHERE)
    assert tab.errors == []


def test_of_300_flows_the_broken_ones_are_found(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "many.html"
    file.write_text(render(many()))
    tab = chromium.page(390).open(file.as_uri())
    assert lanes(tab)[24] == "egress-250"  # the first of its path
    assert len(lanes(tab)) == 4 * 12
    assert tab.js("document.documentElement.scrollHeight") < 15_000
    assert tab.overflow() == []
    tab.click("#broken")
    assert lanes(tab) == ["egress-250"]
    assert tab.js("document.getElementById('found').textContent") == "1 of 300 flows"
    assert tab.js("[...document.querySelectorAll('details.path:not([hidden])')].every((fold) => fold.open)")
    tab.click("#broken")
    search(tab, "Ingress icmp")
    assert len(lanes(tab)) == 25 and all(name.startswith("ingress") for name in lanes(tab))
    search(tab, "")
    tab.click(".more")
    assert len(lanes(tab)) == 3 * 12 + 75
    assert tab.errors == []


def test_all_of_it_prints_on_white(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "drill.html"
    file.write_text(render(drill()))
    tab = chromium.page(1280, dark=True).open(file.as_uri())
    opened = "document.querySelectorAll('details').length === document.querySelectorAll('details[open]').length"
    tab.js("window.seen = []; addEventListener('beforeprint', () => seen.push(" + opened + "))")
    tab.pdf(tmp_path / "drill.pdf")
    assert tab.js("seen") == [True]
    assert not tab.js(opened)  # on the screen, what was folded is so again
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.js("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert tab.errors == []


class Living(FakeAgent):
    """An agent whose clock goes, and whose flows change on request."""

    def status(self) -> dict[str, Any]:
        return {**super().status(), "now_ns": time.time_ns()}

    def become(self, state: FlowState, *names: str) -> None:
        self.flow_list = [replace(f, state=state) if f.name in names else f for f in self.flow_list]
        for name in names:
            self.emit("flow_state", {"flow": name, "state": state})


def living(count: int) -> Living:
    flows = [replace(KEPT, name=f"{PATHS[n % 4]}-{n:03d}", path=PATHS[n % 4]) for n in range(count)]
    return Living(flow_list=flows)


def shows(text: str) -> str:
    return f"document.getElementById('live').innerText.includes({text!r})"


@pytest.mark.parametrize("count", [3, 300])
def test_an_agents_page_fits_and_has_no_errors(chromium: Browser, count: int) -> None:
    agent = living(count)
    agent.become("down", "ingress-001")
    with serve(agent, "127.0.0.1:0") as server:
        for width in (390, 1000, 1920):
            tab = chromium.page(width, dark=width == 390).open(server.url)
            tab.wait_for(f"{LINK} === 'live'")
            assert (tab.overflow(), tab.errors) == ([], [])
            assert "down" in tab.js("document.querySelector('.flows tbody tr').innerText")
            assert tab.js("document.documentElement.scrollHeight") < 6_000
            tab.close()


def test_an_agents_page_lives_through_an_outage_and_a_restart(chromium: Browser) -> None:
    agent = living(300)
    with serve(agent, "127.0.0.1:0") as server:
        port = server.port
        tab = chromium.page(390).open(server.url)
        tab.wait_for(f"{LINK} === 'live'")
        tab.wait_for(shows("All are up"))
        tab.click("details[data-key=ingress] summary")
        tab.wait_for(shows("ingress-009"), "for a fold's rows to be fetched")

        agent.become("down", "ingress-009", "egress-010")
        tab.wait_for(shows("2 down"), "for the outage to show")
        assert tab.js("document.title").startswith("✖ 2 down")
        agent.outages = lambda since_ns=0: [  # type: ignore[method-assign]
            {**OUTAGE.to_document(), "flow": "egress-010", "protocol": "udp", "session": "kept", "path": "egress"}
        ]
        agent.emit("outage", {"flow": "egress-010"})
        agent.become("up", "ingress-009", "egress-010")
        tab.wait_for(shows("All are up"), "for it to be over")
        assert tab.js("document.querySelector('.outages tbody').innerText").startswith("egress-010")
        assert tab.js("document.querySelector('details[data-key=ingress]').open")  # a refresh folds nothing
    tab.wait_for(f"{LINK}.startsWith('agent not reachable')", "for the cut to be told")
    assert tab.js("document.getElementById('live').classList.contains('stale')")
    assert "what you see is old" in tab.js(LINK)
    assert [error for error in tab.errors if "net::ERR_" not in error] == []  # of the network, not of the page

    with serve(living(300), f"127.0.0.1:{port}"):
        tab.wait_for(f"{LINK} === 'live'", "for the page to find the agent again")
        assert not tab.js("document.getElementById('live').classList.contains('stale')")


def test_a_page_left_open_does_not_grow(chromium: Browser) -> None:
    agent = living(100)
    with serve(agent, "127.0.0.1:0") as server:
        tab = chromium.page(1280).open(server.url)
        tab.wait_for(f"{LINK} === 'live'")
        tab.js("document.querySelectorAll('summary').forEach((fold) => fold.click())")
        tab.wait_for("document.querySelectorAll('.flows tbody tr').length >= 100")

        def nodes_after(refreshes: int) -> int:
            for n in range(refreshes):
                agent.become("down" if n % 2 == 0 else "up", "ingress-001")
                tab.wait_for(shows("1 down") if n % 2 == 0 else shows("All are up"))
            tab.call("HeapProfiler.collectGarbage")
            nodes: int = tab.call("Memory.getDOMCounters")["nodes"]
            return nodes

        before = nodes_after(4)
        assert nodes_after(10) < 1.5 * before
        assert tab.errors == []
