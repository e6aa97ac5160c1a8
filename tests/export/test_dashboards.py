"""The dashboard and rules: generated, valid, about metrics that exist, and answered by a real Prometheus."""

from __future__ import annotations

import importlib.util
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

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "dashboards/haprobe.dashboard.py"
COMMITTED = ROOT / "dashboards/haprobe-drill.json"
RULES = ROOT / "dashboards/haprobe.rules.yml"
REGENERATE = "generate-dashboard -o dashboards/haprobe-drill.json dashboards/haprobe.dashboard.py"

BOARD = json.loads(COMMITTED.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ANNOTATIONS = [(entry["name"], entry["expr"]) for entry in BOARD["annotations"]["list"]]
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}
SERIES = {name for family in FAMILIES.values() for name in family.sample_names()}
# What Grafana puts in for its variables, with everything chosen.
VARIABLES = {"$instance": ".+", "$path": ".+", "$flow": ".+", "$__rate_interval": "4s", "$__range": "60s"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def filled(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


def test_committed_dashboard_is_what_its_source_generates():
    core = pytest.importorskip("grafanalib._gen")
    spec = importlib.util.spec_from_file_location("drill_dashboard", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generated = json.loads(json.dumps(module.dashboard, cls=core.DashboardEncoder))
    assert generated == BOARD, REGENERATE


@pytest.mark.parametrize("query", [*QUERIES, *ANNOTATIONS], ids=lambda query: query[0])
def test_queries_name_metrics_that_exist(query):
    named = set(re.findall(r"\b(?:\w+:)*haprobe_\w+(?::\w+)*", query[1]))
    assert named and named <= SERIES | set(RECORDED)


def test_rules_name_metrics_that_exist():
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            named = set(re.findall(r"\b(?:\w+:)*haprobe[_:]\w+(?::\w+)*", rule["expr"]))
            assert named <= SERIES | set(RECORDED), rule
            assert named or "up{" in rule["expr"] or rule["expr"].startswith("vector("), rule


def test_every_part_of_a_drill_is_shown():
    titles = " ".join(panel["title"] for panel in PANELS)
    for part in ("Flow states", "Last outage", "Loss by direction", "Round-trip", "Verdict", "Active unit", "Watchers"):
        assert part in titles
    assert "Owners in AWS" in titles


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_panels_keep_the_house_rules(panel):
    assert len(panel["description"]) > 30
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${ds}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${ds}"
        assert target["instant"] != target["range"]
        for window in re.findall(r"\[([^\]]+)\]", target["expr"]):
            assert window in ("$__rate_interval", "$__range"), "a fixed window hides or invents data at other zooms"
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert "maxDataPoints" not in panel


def test_panels_do_not_overlap_and_ids_are_unique():
    taken = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_grafanas_own_types_know_every_field():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.models.dashboard import Dashboard

        plugins.register_default_plugins()
        back = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(BOARD)))
    lost = sorted(vanished(BOARD, back, ""))
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
        assert answer["data"]["result"] or title in RECORDED, f"{title}: no data for {filled(query)}"


@needs_prometheus
def test_outage_table_shows_the_exact_edges_after_a_scrape(prometheus):
    from .fakes import OUTAGE

    panel = next(panel for panel in PANELS if panel["title"].startswith("Last outage of each"))
    shown = []
    for target in panel["targets"][:2]:
        (row,) = prometheus.get("query", params={"query": filled(target["expr"])}).json()["data"]["result"]
        assert row["metric"]["flow"] == "a-to-b"
        shown.append(round(float(row["value"][1])))
    assert shown == [OUTAGE.start_ns // 1_000_000, OUTAGE.end_ns // 1_000_000]


@needs_prometheus
def test_flow_states_have_one_code_each(prometheus):
    query = next(query for title, query in QUERIES if title == "Flow states")
    rows = prometheus.get("query", params={"query": filled(query)}).json()["data"]["result"]
    words = next(p for p in PANELS if p["title"] == "Flow states")["fieldConfig"]["defaults"]["mappings"][0]["options"]
    states = {row["metric"]["flow"]: words[row["value"][1]]["text"] for row in rows}
    assert states == {"a-to-b": "up", "a-to-b-fresh": "connecting"}


@needs_prometheus
def test_openmetrics_is_what_prometheus_negotiates(prometheus):
    (target,) = prometheus.get("targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_write_copies_everything(tmp_path):
    written = dashboards.write(tmp_path / "new" / "out")
    assert {str(path.relative_to(tmp_path / "new/out")) for path in written} == set(dashboards.SHIPPED)
    assert (tmp_path / "new/out/haprobe-drill.json").read_bytes() == COMMITTED.read_bytes()
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


def test_provisioning_examples_fit_together():
    provisioning = ROOT / "dashboards/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/haprobe.yml").read_text())["datasources"]
    assert [source["type"] for source in sources] == ["prometheus"]
    scrape = yaml.safe_load((ROOT / "dashboards/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert sources[0]["jsonData"]["timeInterval"] == scrape
    providers = yaml.safe_load((provisioning / "dashboards/haprobe.yml").read_text())["providers"]
    assert providers[0]["options"]["path"]
