"""A comparison's page: what it says, in which order, and that it stands alone."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import unescape
from typing import Any

import pytest

from probe.report import compare_html
from probe.report.budgets import Budget, check
from probe.report.compare import compare
from probe.report.document import new_document

from . import build
from .page import Page
from .test_compare import blind, run_with
from .test_html import HOSTILE, hostile_document

BUDGETS = (
    Budget("three seconds", path="east-west", max_outage_ns=3 * build.S),
    Budget("sessions live", session="kept", verdicts=("survived", "unaffected")),
)


def render(
    baseline: Sequence[dict[str, Any]], candidate: Sequence[dict[str, Any]], budgets: Sequence[Budget] = ()
) -> str:
    sides = (compare_html.Side("runs/before", baseline), compare_html.Side("runs/after", candidate))
    return compare_html.render(*sides, compare(baseline, candidate), check(candidate, budgets))


def labelled(document: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {**document, "run": {**document["run"], "labels": labels}}


@pytest.fixture(scope="module")
def html() -> str:
    """A drill after an upgrade that lost the synchronised TCP sessions east-west."""
    before = labelled(build.drill(), fortios="7.4.8", scenario="crash")
    after = labelled(build.drill(pickup=False), fortios="7.6.4", scenario="crash")
    return render([before], [after], BUDGETS)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def section(html: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', html, re.S)
    assert found is not None
    return found[1]


def words(html: str) -> str:
    """What a person reads without pointing at anything, with single spaces."""
    return unescape(" ".join(re.sub(r"<title>.*?</title>|<[^>]+>", " ", html).split()))


def rows(html: str) -> list[str]:
    return [words(row) for row in re.findall(r"<tr\b.*?</tr>", html, re.S)]


def test_stands_alone(html: str, page: Page) -> None:
    assert "http:" not in html and "https:" not in html and "//" not in re.sub(r"<style>.*?</style>", "", html)
    assert not re.search(r"@import|url\((?!#)", html)
    assert [a for _, a in page.elements if {"src", "style", "href"} & a.keys()] == []
    assert page.all("script") == [] and page.all("link") == []


def test_policy_allows_its_style_and_nothing_else(html: str, page: Page) -> None:
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    [style] = re.findall(r"<style>(.*?)</style>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_the_head_says_what_came_of_it_and_under_which_conditions(html: str, page: Page) -> None:
    assert page.texts["h1"] == ["1 of 18 verdicts got worse; 2 of 2 budgets exceeded."]
    head = words(html[html.index("<header>") : html.index("</header>")])
    assert "baseline runs/before: 1 run candidate runs/after: 1 run" in head
    assert "fortios 7.4.8 → 7.6.4 scenario crash haprobe 0.1.0" in head


def test_what_got_worse_comes_first(html: str) -> None:
    _, first, *rest = rows(section(html, "changes"))
    assert first == "east-west TCP old survived, 5.06 s lost ✗ worse"
    assert len(rest) == 17
    assert all(row.endswith("= same") for row in rest)


def test_the_change_of_a_length_is_in_words() -> None:
    one, two = run_with(build.DOWN + build.S), run_with(build.DOWN + 2 * build.S)
    assert "= same 1.00 s longer" in words(section(render([one], [two]), "changes"))
    assert "= same 1.00 s shorter" in words(section(render([two], [one]), "changes"))


def test_budgets_have_limit_value_and_verdict() -> None:
    two = run_with(build.DOWN + 2 * build.S)
    strict = Budget("strict", max_outage_ns=1500 * build.MS)
    _, first, second, third = rows(section(render([two], [two], (*BUDGETS, strict)), "budgets"))
    assert first == "strict 1.500 s 2.002 s ✗ exceeded"  # before what is kept
    assert second == "three seconds 3.000 s 2.002 s ✓ ok"
    assert third == "sessions live survived or unaffected survived ✓ ok"
    assert 'id="budgets"' not in render([two], [two])


def test_the_matrix_has_both_sides_of_every_cell(html: str, page: Page) -> None:
    matrix = section(html, "matrix")
    assert words(matrix).count("→") == 18 + 1  # and one in the note
    assert "old ↻ survived → ✗ lost ✗ worse" in words(matrix)
    assert words(matrix).count("same") == 17
    assert [row.split()[0] for row in rows(matrix)] == ["path", "east-west", "ingress", "egress"]


def test_each_flow_has_a_lane_per_side_with_its_bounds(html: str, page: Page) -> None:
    flows = [*build.drill()["flows"], *build.drill(pickup=False)["flows"]]
    away = [f for f in flows if f["outages"]]
    assert len(page.all("rect", css="range")) == len(away)
    still = [f for f in away if f["outages"][-1]["censored"] == "end"]
    assert len(page.all("line", css="open")) == len(still)
    found = rows(section(html, "lengths"))
    edges = build.drill()["flows"][4]["outages"][0]["duration_ns"]
    expected = f"baseline survived, 5.06 s, {edges['lower'] / 1e9:.4f} .. {edges['upper'] / 1e9:.4f} s"
    at = next(i for i, row in enumerate(found) if row.startswith("workload-a/east-west-tcp TCP old"))
    assert expected in found[at]
    assert re.search(r"candidate lost, > 20\.\d{4} s, not back$", found[at + 1])


def test_bars_end_where_their_lengths_are() -> None:
    page = Page(render([run_with(build.DOWN + build.S)], [run_with(build.DOWN + 2 * build.S)]))
    [before], [after] = page.all("rect", css="baseline"), page.all("rect", css="candidate")
    widths = [float((a["width"] or "").rstrip("%")) for a in (before, after)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert 90 < widths[1] < 100
    for bar, mark in zip(widths, page.all("rect", css="range"), strict=True):
        x, width = (float((mark[key] or "").rstrip("%")) for key in ("x", "width"))
        assert x <= bar <= x + width
    assert x + width == pytest.approx(100 / 1.04, abs=0.01)  # the longest upper bound, and a margin beyond it


def test_flows_without_an_outage_are_named_and_not_drawn() -> None:
    html = render([run_with(build.DOWN + build.S)], [run_with(build.DOWN + build.S)])
    lengths = words(section(html, "lengths"))
    assert "No outage in any run of either side: workload-a/e-fresh." in lengths
    assert "workload-a/e-fresh UDP" not in lengths


def test_an_unobserved_flow_is_never_told_as_up() -> None:
    html = render([run_with(build.DOWN + build.S)], [blind()])
    lengths = words(section(html, "lengths"))
    assert "candidate unobserved" in lengths
    assert "No outage" not in words(section(render([blind()], [blind()]), "lengths"))
    assert "No verdict got worse, 1 cannot be told." in render([blind()], [blind()])


def test_many_runs() -> None:
    before = [run_with(build.DOWN + build.S + n * 10 * build.MS, f"before-{n}") for n in range(30)]
    after = [*before[:27], *(run_with(None, f"after-{n}") for n in range(3))]
    html = render(before, after, BUDGETS)
    page = Page(html)
    assert len(page.all("rect", css="length")) == 2
    assert len(page.all("rect", css="range")) == 60
    assert "lost in 3 of 30" in words(section(html, "changes"))
    assert "not back in 3 of 30" in words(section(html, "lengths"))
    assert "old ↻ survived 30 of 30 → ✗ lost 3 of 30 ✗ worse" in words(section(html, "matrix"))
    runs = rows(section(html, "runs"))
    assert len(runs) == 1 + 60
    assert "before-29" in runs[30] and "after-2" in runs[60] and "fortios=7.6.4 scenario=crash" in runs[60]


def test_every_outage_is_folded_away_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_with(build.DOWN + build.S, name) for name in ("a", "b")]
    html = render(runs, runs)
    assert len(rows(html[html.index("<details>") : html.index("</details>")])) == 1 + 4
    assert "are shown" not in html
    monkeypatch.setattr(compare_html, "MOST_OUTAGES", 3)
    html = render(runs, runs)
    assert len(rows(html[html.index("<details>") : html.index("</details>")])) == 1 + 3
    assert "The first 3 are shown" in html


def test_hostile_names_stay_text() -> None:
    document = hostile_document()
    sides = (compare_html.Side(HOSTILE, [document]), compare_html.Side(HOSTILE, [document]))
    results = check([document], [Budget(HOSTILE, max_outage_ns=1)])
    html = compare_html.render(*sides, compare([document], [document]), results)
    page = Page(html)
    assert page.all("script") == [] and page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE not in html
    assert "&lt;img src=x" in html


EMPTY = new_document(run={}, flows=[])


@pytest.mark.parametrize(
    ("baseline", "candidate", "headline"),
    [
        ([EMPTY], [EMPTY], "Nothing was measured on either side."),
        ([], [], "Nothing was measured on either side."),
        ([EMPTY], [build.drill()], "No verdict got worse."),
        ([build.drill()], [EMPTY], "18 of 18 verdicts got worse."),
        (
            [new_document(run={}, flows=[build.flow("quiet")])] * 2,
            [new_document(run={}, flows=[{"name": "never-sent"}])],
            None,
        ),
        (
            [new_document(run={}, flows=[build.flow("quiet")])],
            [new_document(run={}, flows=[build.flow("quiet")])],
            None,
        ),
    ],
    ids=["empty", "none", "only after", "only before", "nothing sent", "quiet"],
)
def test_every_pair_of_sides_has_a_page(
    baseline: list[dict[str, Any]], candidate: list[dict[str, Any]], headline: str | None
) -> None:
    page = Page(render(baseline, candidate))
    assert len(page.texts["h1"]) == 1
    assert headline in (None, page.texts["h1"][0])


def test_budgets_of_nothing_measured_are_exceeded() -> None:
    html = render([EMPTY], [EMPTY], BUDGETS)
    assert "No flow was measured on either side; 2 of 2 budgets exceeded." in html
    assert "nothing was measured that it applies to" in section(html, "budgets")
