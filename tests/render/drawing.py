"""A Prometheus filled from blocks, and dashboards drawn over it by Grafana's own packages in headless Chromium."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOARDS = {name: ROOT / f"dashboards/haprobe-{name}.json" for name in ("drill", "flow", "fleet", "releases")}
WALL, LAPTOP = (1920, 1080), (1366, 768)
WITHOUT_CHOICE = {"direction"}  # where no agent writes remotely; Grafana then puts nothing in for it


def chromium() -> str | None:
    """Debian's; Ubuntu's chromium-browser is a script that asks for a snap."""
    return shutil.which("chromium")


def node_modules() -> None:
    """What package-lock.json names, installed once per content."""
    subprocess.run([ROOT / "tools/node"], check=True)


@contextmanager
def prometheus_of(openmetrics: Path, directory: Path) -> Iterator[httpx.Client]:
    """A Prometheus on loopback that holds the samples of an OpenMetrics file and scrapes nobody."""
    data = directory / "data"
    blocks = ["promtool", "tsdb", "create-blocks-from", "--quiet", "openmetrics", str(openmetrics), str(data)]
    subprocess.run(blocks, check=True, capture_output=True)
    (directory / "prometheus.yml").write_text("{}\n")
    with running(directory, "--storage.tsdb.retention.time=10y") as client:
        yield client


@contextmanager
def running(directory: Path, *options: str) -> Iterator[httpx.Client]:
    """A Prometheus over DIRECTORY/prometheus.yml and DIRECTORY/data, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *("prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", *options),
    ]
    with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                wait_until_ready(client, process, directory / "log")
                yield client
        finally:
            process.terminate()


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if client.get("/-/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def choices(client: httpx.Client, board: dict[str, Any], from_ms: int, to_ms: int, **chosen: str) -> dict[str, str]:
    """What a dashboard's variables stand for in queries: all of each, but what is chosen.

    Every variable's query is asked of Prometheus as Grafana would; one that finds nothing is an error, but for those
    WITHOUT_CHOICE.
    """
    values: dict[str, str] = {}
    for variable in board["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "query":
            query = filled(variable["query"], {**values, "__range": f"{(to_ms - from_ms) // 1000}s"})
            found = options(client, query, variable, from_ms, to_ms)
            assert found or name in WITHOUT_CHOICE, f"no {name} by {query}"
            everything = variable.get("allValue") or "|".join(found)
            values[name] = chosen.get(name) or (everything if variable.get("includeAll") else found[0])
        elif variable["type"] == "textbox":
            values[name] = variable["query"]
    return values


def filled(text: str, values: dict[str, str]) -> str:
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    assert "$" not in text, text
    return text


def options(client: httpx.Client, query: str, variable: dict[str, Any], from_ms: int, to_ms: int) -> list[str]:
    kind, inside = query.removesuffix(")").split("(", 1)
    if kind == "label_values":
        match, _, label = inside.rpartition(",")
        given = {"match[]": match, "start": from_ms / 1000, "end": to_ms / 1000}
        answer = client.get(f"/api/v1/label/{label.strip()}/values", params=given).json()
        assert answer["status"] == "success", answer
        return [str(value) for value in answer["data"]]
    assert kind == "query_result", query
    answer = client.get("/api/v1/query", params={"query": inside, "time": to_ms / 1000}).json()
    assert answer["status"] == "success", answer
    label = variable["regex"].split('="')[0].removeprefix("/")
    return sorted(row["metric"][label] for row in answer["data"]["result"])


def page(
    client: httpx.Client, name: str, span_s: tuple[float, float], size: tuple[int, int] = WALL, **chosen: str
) -> dict[str, Any]:
    """A page for `draw`: one dashboard over a time range at a screen's size."""
    board = json.loads(BOARDS[name].read_text())
    times = (round(span_s[0] * 1000), round(span_s[1] * 1000))
    variables = choices(client, board, *times, **chosen)
    return {
        **{"board": board, "from": times[0], "to": times[1], "variables": variables},
        **{"width": size[0], "height": size[1]},
    }


def draw(client: httpx.Client, pages: dict[str, Any], out: Path, *, scrape_s: int, whole: bool = False) -> Any:
    """Draw pages by name into PNG files; returns what stands on each."""
    job = {
        **{"chromium": chromium(), "prometheus": str(client.base_url).rstrip("/"), "scrapeMs": scrape_s * 1000},
        **{"out": str(out), "whole": whole, "pages": [{"name": name, **one} for name, one in pages.items()]},
    }
    command = ["node", str(HERE / "render.mjs")]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complaints(result: Any) -> list[str]:
    """Everything wrong with a drawn page: errors, queries without data, panels that show nothing."""
    if "fatal" in result:
        return [result["fatal"]]
    found = [f"{title}: {error}" for title, error in result["errors"].items()] + result["complaints"]
    shown = {one["title"]: one for one in result["drawn"]}
    for panel in result["panels"]:
        title = panel["title"]
        found += [f"{title}: {panel['error']}"] if panel["error"] else []
        found += [f"{title}: no data by query {ref}" for ref, rows in panel["answered"].items() if not rows]
        drawn = shown[title]
        empty = {
            "timeseries": not drawn["graphs"],
            "state-timeline": not any(lane["spans"] for lane in drawn["lanes"]),
        }.get(panel["type"], len(drawn["text"]) <= len(title))
        found += [f"{title}: drew nothing"] if empty or "No data" in drawn["text"] else []
    return found
