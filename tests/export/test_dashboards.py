"""The dashboards and rules: generated, valid, about metrics that exist, and answered by a real Prometheus.

How the dashboards look, and that every query of theirs finds data, is the matter of tests/render.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import warnings
from pathlib import Path

import httpx
import pytest
import yaml

from probe.errors import UsageError
from probe.export import dashboards
from probe.export.metrics import FAMILIES
from probe.export.run_metrics import RUN_FAMILIES

ROOT = Path(__file__).parents[2]
RULES = ROOT / "dashboards/haprobe.rules.yml"
REGENERATE = "python -m dashboards"

BOARDS = {path.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("dashboards/*.json"))}
DRILL = BOARDS["haprobe-drill.json"]
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"]
QUERIES = [(f"{name} {panel['title']}", target["expr"]) for name, panel in PANELS for target in panel["targets"]]
ANNOTATIONS = [
    (f"{name} {entry['name']}", entry["expr"])
    for name, board in BOARDS.items()
    for entry in board["annotations"]["list"]
]
VARIABLES_ASK = [
    (f"{name} ${variable['name']}", variable["query"])
    for name, board in BOARDS.items()
    for variable in board["templating"]["list"]
    if variable["type"] == "query"
]
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}
EXPOSED = {name for family in FAMILIES.values() for name in family.sample_names()}
SERIES = {*EXPOSED, *RUN_FAMILIES, "haprobe_ha_event_timestamp_seconds"}
# What Grafana puts in for its variables, with everything chosen.
CHOSEN = ("instance", "path", "flow", "fortios", "scenario", "direction")
VARIABLES = {f"${name}": ".*" for name in CHOSEN} | {"$__rate_interval": "4s", "$__range": "60s", "$__interval": "1s"}

WINDOWS = {"$__rate_interval", "$__range", "$__interval"}
TOP = {name.split("/")[0] for name in dashboards.SHIPPED}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def filled(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


def test_committed_dashboards_are_what_their_sources_generate():
    pytest.importorskip("grafanalib")
    from dashboards.__main__ import BOARDS as SOURCES
    from dashboards.board import as_json

    generated = {name: as_json(board) for name, board in SOURCES.items()}
    assert generated == {path.name: path.read_text() for path in ROOT.glob("dashboards/*.json")}, REGENERATE


@pytest.mark.parametrize("query", [*QUERIES, *ANNOTATIONS, *VARIABLES_ASK], ids=lambda query: query[0])
def test_queries_name_metrics_that_exist(query):
    named = set(re.findall(r"\b(?:\w+:)*haprobe_\w+(?::\w+)*", query[1]))
    assert named and named <= SERIES | set(RECORDED)


def test_rules_name_metrics_that_exist():
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            named = set(re.findall(r"\b(?:\w+:)*haprobe[_:]\w+(?::\w+)*", rule["expr"]))
            assert named <= SERIES | set(RECORDED), rule
            assert named or "up{" in rule["expr"] or rule["expr"].startswith("vector("), rule


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=lambda part: part if isinstance(part, str) else part["title"])
def test_panels_keep_the_house_rules(name, panel):
    assert len(panel["description"]) > 30
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${ds}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${ds}"
        assert target["instant"] != target["range"]
        for window in re.findall(r"\[([^\]]+)\]", target["expr"]):
            assert set(window.split(":")) <= {"$__rate_interval", "$__range", "$__interval"}, (
                "a fixed window hides data"
            )
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert "maxDataPoints" not in panel
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["id"] in ("byName", "byRegexp")


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_boards_are_linked_and_have_a_data_source_to_choose(board):
    assert board["links"][0]["tags"] == ["haprobe"] and "haprobe" in board["tags"]
    assert board["links"][0]["keepTime"] and board["links"][0]["includeVars"]
    first = board["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == ("ds", "datasource", "prometheus")
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$([a-z]\w*)", json.dumps([board["panels"], board["annotations"]])))
    assert used <= known
    targets = set(re.findall(r"/d/(haprobe-\w+)", json.dumps(board)))
    assert targets <= {other["uid"] for other in BOARDS.values()}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_do_not_overlap_and_ids_are_unique(board):
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_round_trip_through_grafanas_sdk_loses_no_field(board):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.models.dashboard import Dashboard

        plugins.register_default_plugins()
        back = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    lost = sorted(vanished(board, back, ""))
    # Prometheus annotations carry fields of their data source, which the general type does not list.
    assert [path for path in lost if not path.startswith(".annotations.list")] == []


def vanished(before, after, path):
    """Paths of what is in `before` only."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from vanished(value, after[key], f"{path}.{key}")
            elif value is not None:
                yield f"{path}.{key}"
    elif isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from vanished(one, other, f"{path}.{index}")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "--lint-fatal", "dashboards/haprobe.rules.yml"),
        ("check", "config", "dashboards/prometheus.yml"),
        ("test", "rules", "tests/export/rules.test.yml"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_is_content(arguments):
    done = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus on loopback that scrapes a fake agent, with our rules."""
    from probe.export.http import serve

    from .fakes import FakeAgent

    directory = tmp_path_factory.mktemp("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serve(FakeAgent(), "127.0.0.1:0") as agent:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "haprobe", "static_configs": [{"targets": [f"127.0.0.1:{agent.port}"]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
                    wait_for_scrapes(client, 3)
                    yield client
            finally:
                process.terminate()


def wait_for_scrapes(client, count):
    deadline = time.monotonic() + 30
    while True:
        try:
            found = client.get("query", params={"query": "count_over_time(haprobe_ready[1m])"}).json()
            if found["data"]["result"] and int(found["data"]["result"][0]["value"][1]) >= count:
                return
        except (httpx.HTTPError, KeyError, ValueError):
            pass
        assert time.monotonic() < deadline, "Prometheus did not scrape the agent"
        time.sleep(0.1)


@needs_prometheus
def test_a_real_prometheus_answers_every_query(prometheus):
    for title, query in [*QUERIES, *ANNOTATIONS, *RECORDED.items()]:
        answer = prometheus.get("query", params={"query": filled(query)}).json()
        assert answer["status"] == "success", (title, answer)


@needs_prometheus
def test_outage_table_shows_the_exact_edges_after_a_scrape(prometheus):
    from .fakes import OUTAGE

    panel = next(panel for _, panel in PANELS if panel["title"].startswith("Last outage of each"))
    shown = []
    for target in panel["targets"][:2]:
        (row,) = prometheus.get("query", params={"query": filled(target["expr"])}).json()["data"]["result"]
        assert row["metric"]["flow"] == "a-to-b"
        shown.append(float(row["value"][1]))
    assert shown == [OUTAGE.start_ns // 1_000_000, OUTAGE.end_ns // 1_000_000]


@needs_prometheus
def test_flow_states_have_one_code_each(prometheus):
    panel = next(panel for _, panel in PANELS if panel["title"] == "Live state of each flow")
    rows = prometheus.get("query", params={"query": filled(panel["targets"][0]["expr"])}).json()["data"]["result"]
    words = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    states = {row["metric"]["flow"]: words[row["value"][1]]["text"] for row in rows}
    assert states == {"a-to-b": "up", "a-to-b-fresh": "connecting"}


T0_S = 1_764_763_200
# The outage of each agent's flow, in s after T0_S. Three have one name. Some write remotely, as whom they say.
LAST_OUTAGE = {("a:1", "out"): (100, 105), ("b:1", "out"): (101, 103), ("c:1", "out"): (40, 42), ("d:1", "in"): (7, 9)}
WRITTEN_AS = {"a": "out", "c:1": "out", "d": "in"}
LOSES_ALL, SLOW = ("a:1", "out"), ("b:1", "out")
# Longest outages of two kinds of flow in two runs, by days before T0_S.
LONGEST = {20: {"ingress": 10.0, "egress": 1.0}, 10: {"ingress": 1.5, "egress": 10.0}}


def labels(instance, flow):
    return f'instance="{instance}",path="p",flow="{flow}",protocol="udp",session="kept"'


def gauges(who, outage, at_s):
    """What a scrape finds of a flow that had one outage."""
    begun = at_s >= outage[1]
    start, end = (T0_S + edge if begun else 0 for edge in outage)
    values = {"flow_up": 1, "last_outage_start_timestamp_seconds": start, "last_outage_end_timestamp_seconds": end}
    for name, value in {**values, "last_outage_open": 0}.items():
        yield f"haprobe_{name}{{{labels(*who)}}} {value} {T0_S + at_s}"
    sent, lost = 100 * at_s, 100 * at_s if who == LOSES_ALL else 0
    answered = sent - lost
    yield f"haprobe_probes_sent_total{{{labels(*who)}}} {sent} {T0_S + at_s}"
    yield f'haprobe_probes_lost_by_direction_total{{{labels(*who)},direction="forward"}} {lost} {T0_S + at_s}'
    for le in ("0.001", "0.1", "+Inf"):
        count = 0 if who == SLOW and le == "0.001" else answered
        yield f'haprobe_rtt_seconds_bucket{{{labels(*who)},le="{le}"}} {count} {T0_S + at_s}'


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    """A Prometheus that scraped agents that share a flow's name, and holds two runs of a release."""
    from tests.render import drawing

    directory = tmp_path_factory.mktemp("sharing")
    lines = [line for one in LAST_OUTAGE.items() for at_s in range(0, 200, 15) for line in gauges(*one, at_s)]
    lines += [
        f'haprobe_flow_state{{{labels(*who)},direction="any"}} 1 {T0_S + at_s}'
        for who in WRITTEN_AS.items()
        for at_s in (0, 150)
    ]
    lines += [
        f'haprobe_drill_outage_seconds{{fortios="7.6.4",scenario="crash",path="{path}",bound="estimate"}}'
        f" {value} {T0_S - days * 86_400}"
        for days, run in LONGEST.items()
        for path, value in run.items()
    ]
    (directory / "history.om").write_text("\n".join([*lines, "# EOF", ""]))
    with drawing.prometheus_of(directory / "history.om", directory) as client:
        yield client


def asked(client, expr, span_s=(T0_S + 5, T0_S + 185), **variables):
    """Rows of a panel's query over a range, as Grafana asks it."""
    values = {**VARIABLES, "$__range": f"{span_s[1] - span_s[0]}s", **variables}
    for variable, value in values.items():
        expr = expr.replace(variable, value)
    given = {"query": expr, "start": span_s[0], "end": span_s[1], "step": 5}
    answer = client.get("/api/v1/query_range", params=given).json()
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def windows(rows):
    """Edges by lane, in s after T0_S; the timeline draws an outage from each start to the end that follows."""
    lanes = {}
    for row in rows:
        edges = {float(value) / 1000 - T0_S for _, value in row["values"]}
        lanes.setdefault(row["metric"]["row"], {}).setdefault(row["metric"]["edge"], set()).update(edges)
    return {lane: (sorted(edges["start"]), sorted(edges["end"])) for lane, edges in lanes.items()}


def expression(board, title, ref="A"):
    panel = next(panel for name, panel in PANELS if (name, panel["title"]) == (f"haprobe-{board}.json", title))
    return next(target["expr"] for target in panel["targets"] if target["refId"] == ref)


EDGES = expression("drill", "Outage windows", "Edges")


@needs_prometheus
@needs_promtool
def test_agents_that_share_a_flows_name_have_windows_of_their_own(sharing):
    """One that writes remotely hides the gauges of no other, and its own where they can be told to be its own."""
    assert windows(asked(sharing, EDGES)) == {"p · out · a:1": ([100], [105]), "p · out · b:1": ([101], [103])}


@needs_prometheus
@needs_promtool
def test_an_agent_shown_by_itself_needs_no_name_in_its_lanes(sharing):
    assert windows(asked(sharing, EDGES, **{"$instance": "b:1"})) == {"p · out": ([101], [103])}


@needs_prometheus
@needs_promtool
def test_the_last_outage_is_that_of_one_agent(sharing):
    panel = next(panel for name, panel in PANELS if panel["title"] == "Last outage")
    shown = {}
    for target in panel["targets"]:
        for row in asked(sharing, target["expr"], **{"$flow": "out"}):
            shown.setdefault(row["metric"].get("instance"), []).append(float(row["values"][-1][1]) / 1000 - T0_S)
    assert {(agent, "out"): tuple(edges) for agent, edges in shown.items()} == {
        who: outage for who, outage in LAST_OUTAGE.items() if who[1] == "out"
    }


@needs_prometheus
@needs_promtool
def test_outages_are_marked_for_each_agent(sharing):
    (expr,) = [expr for title, expr in ANNOTATIONS if title == "haprobe-drill.json Outage begins"]
    marks = {float(value) / 1000 - T0_S for row in asked(sharing, expr) for _, value in row["values"]}
    assert marks == {start for start, _ in LAST_OUTAGE.values()}


@needs_prometheus
@needs_promtool
def test_loss_and_delay_are_those_of_one_agents_flow(sharing):
    shown = {}
    for title in ("Loss by direction", "Round-trip delay, 99th percentile"):
        expr = expression("drill", title).replace("$__rate_interval", "60s").replace("$flow", "out")
        shown[title] = {row["metric"].get("instance"): float(row["values"][-1][1]) for row in asked(sharing, expr)}
    loss, delay = shown.values()
    assert loss == {"a:1": 1}
    assert delay["b:1"] > 0.09 and delay["c:1"] <= 0.001


@needs_prometheus
@needs_promtool
def test_no_column_calls_a_run_better_than_any_was(sharing):
    """The minima of two kinds of flow may be of two runs."""
    panel = next(panel for _, panel in PANELS if panel["title"] == "Releases" and panel["type"] == "table")
    names = panel["transformations"][-1]["options"]["renameByName"]
    columns = {}
    for target in panel["targets"]:
        query = filled(target["expr"].replace("$__range", "90d"))
        rows = sharing.get("/api/v1/query", params={"query": query, "time": T0_S}).json()["data"]["result"]
        columns[names[f"Value #{target['refId']}"]] = [float(row["value"][1]) for row in rows]
    longest = [max(run.values()) for run in LONGEST.values()]
    assert columns["Worst"] == [max(longest)]
    assert columns["No run below"][0] <= min(longest)
    assert "Best" not in columns


@needs_prometheus
def test_openmetrics_is_what_prometheus_negotiates(prometheus):
    (target,) = prometheus.get("targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_write_copies_everything(tmp_path):
    written = dashboards.write(tmp_path / "new" / "out")
    assert {str(path.relative_to(tmp_path / "new/out")) for path in written} == set(dashboards.SHIPPED)
    assert {name for name in dashboards.SHIPPED if name.endswith(".json")} == set(BOARDS)
    for name in dashboards.SHIPPED:
        assert (tmp_path / "new/out" / name).read_bytes() == (ROOT / "dashboards" / name).read_bytes()
    assert dashboards.write(tmp_path / "new" / "out") == written


def test_write_to_an_impossible_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out: cannot write to"):
        dashboards.write(tmp_path / "file")


def test_an_installation_without_dashboards_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboards, "_PACKAGE", tmp_path / "site-packages/probe")
    with pytest.raises(UsageError, match="carries no dashboards"):
        dashboards.write(tmp_path)


def test_package_data_of_a_wheel_is_found(tmp_path, monkeypatch):
    package = tmp_path / "site-packages/probe"
    shutil.copytree(ROOT / "dashboards", package / "_dashboards")
    monkeypatch.setattr(dashboards, "_PACKAGE", package)
    assert dashboards.source_directory() == package / "_dashboards"


def test_provisioning_and_compose_fit_together():
    folder = ROOT / "dashboards"
    (source,) = yaml.safe_load((folder / "provisioning/datasources/haprobe.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    scrape = yaml.safe_load((folder / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((folder / "provisioning/dashboards/haprobe.yml").read_text())["providers"]
    services = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]
    mounted = {}
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), "a pinned version"
        for volume in service["volumes"]:
            here, there = volume.split(":")[:2]
            if here.startswith("./"):
                assert here.removeprefix("./").split("/")[0] in {"", *TOP}, f"{here} is not shipped"
                mounted[there] = here
    assert mounted[provider["options"]["path"]].startswith("./")
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in services["prometheus"]["command"]
