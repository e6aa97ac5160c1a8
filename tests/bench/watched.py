"""A lab drill as a user watches it: a Prometheus that scrapes the lab's agents and takes what they write remotely.

Prometheus listens on this machine's loopback, where the agents answer as well. But they send from namespaces from which
nothing leads there: a `Relay` in each hands their remote write over. Its config is the shipped `prometheus.yml`, with
the lab's agents in the place of its targets. All are scraped under the name under which they write but the jumphost, as
a user may have forgotten to see to that.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml

from probe.drill.scenarios import Step
from probe.drill.stage import LabStage, Tell
from probe.errors import HaprobeError
from probe.export.run_metrics import openmetrics
from probe.lab import agents
from probe.lab.agents import AgentHandle
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions
from tests.export.prometheus import Prometheus

from .bed import ROOT
from .relay import Relay, RunMetrics

WITHIN_S = 240.0  # for what is under way to arrive, on a machine that others use as well
MISNAMED = "jumphost"  # is scraped as ADDRESS:PORT, as every target without a label of its own
SCRAPES = 2  # of each agent after the last event: what the panels' rates need


class Watch:
    """The Prometheus of one drill, and what became of it.

    Args:
        directory: Its config and data.
        down_s: For how long it is dead, from just before the failover on; 0: not at all.

    Attributes:
        began_s: When it was given the agents to scrape, Unix epoch.
        killed_s, back_s: When it was killed and answered again, Unix epoch; 0: it was not.
        names: As what each agent is scraped.
        until_s: Up to when there is something to see.
        states: What each agent says of its remote write then.
    """

    def __init__(self, directory: Path, down_s: float = 0.0):
        self._down_s = down_s
        self._targets = directory / "agents.json"
        self._runs = RunMetrics()
        directory.mkdir(parents=True, exist_ok=True)
        self._targets.write_text("[]")
        self.prometheus = Prometheus(directory, config=self._config())
        self.began_s = self.killed_s = self.back_s = self.until_s = 0.0
        self.names: dict[str, str] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self._revival: threading.Thread | None = None
        self._closing = threading.Event()

    def _config(self) -> str:
        config = yaml.safe_load((ROOT / "dashboards/prometheus.yml").read_text())
        config["rule_files"] = [str(ROOT / "dashboards" / name) for name in config["rule_files"]]
        found: dict[str, dict[str, Any]] = {
            "haprobe": {"file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}]},
            "haprobe-runs": {"static_configs": [{"targets": [self._runs.target]}]},
        }
        names = [job["job_name"] for job in config["scrape_configs"]]
        assert names == list(found), f"the shipped prometheus.yml has other jobs: {names}"
        config["scrape_configs"] = [{"job_name": name, **targets} for name, targets in found.items()]
        return str(yaml.safe_dump(config))

    def scrape(self, handles: Sequence[AgentHandle]) -> None:
        """Have it scrape these agents."""
        self.names = {
            one.name: one.url.removeprefix("http://") if one.name == MISNAMED else one.name for one in handles
        }
        targets = [
            {"targets": [one.url.removeprefix("http://")], "labels": {"instance": self.names[one.name]}}
            for one in handles
        ]
        scratch = self._targets.with_suffix(".new")
        scratch.write_text(json.dumps(targets))
        scratch.replace(self._targets)
        self.began_s = time.time()

    def strike(self) -> None:
        """Kill it, if it is to be, and start it again in time."""
        if not self._down_s:
            return
        self.prometheus.kill()
        self.killed_s = time.time()
        self._revival = threading.Thread(target=self._revive, name="revival")
        self._revival.start()

    def _revive(self) -> None:
        if not self._closing.wait(self._down_s):
            self.prometheus.start()
            self.back_s = time.time()

    def finish(self, endpoints: dict[str, str], document: dict[str, Any]) -> None:
        """Wait until it holds all that a person would look at after the drill, while the agents still run.

        Args:
            endpoints: The agents' URLs by name.
            document: The stored run.
        """
        if self._revival is not None:
            self._revival.join()
        self._runs.text = openmetrics(document)
        since_s = time.time()
        ended_ms = document["run"]["ended_ns"] // 1_000_000
        flows = len(document["flows"])

        def scraped() -> bool:
            query = f"min(changes(timestamp(up)[{round(time.time() - since_s) + 1}s:1s]))"
            (row,) = self._ask(query) or [{"value": [0, "0"]}]
            return float(row["value"][1]) >= SCRAPES

        def written() -> bool:
            self.states = {name: _remote_state(url) for name, url in endpoints.items()}
            lines = self.prometheus.samples('haprobe_flow_state{direction="any"}[10m]').values()
            all_in = len(lines) == flows and all(samples[-1][0] > ended_ms for samples in lines)
            return all_in and not any(state["spooled_octets"] for state in self.states.values())

        _wait_for(scraped, f"{SCRAPES} scrapes of everything")
        _wait_for(written, "everything that was written remotely")
        self.until_s = time.time()

    def _ask(self, query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.prometheus.url}/api/v1/query", params={"query": query}, trust_env=False, timeout=30)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def close(self) -> None:
        self._closing.set()
        if self._revival is not None:
            self._revival.join()
        self.prometheus.kill()
        self._runs.close()


def _remote_state(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/api/v1/status", trust_env=False, timeout=30)
    state: dict[str, Any] = answer.json()["remote_write"]
    return state


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise HaprobeError(f"waited {WITHIN_S:g} s in vain for {what}")
        time.sleep(1.0)


class WatchedLab(Lab):
    """A lab whose agents write to a Prometheus out here, and are scraped by it."""

    watch: Watch

    def start_agents(
        self, directory: Path, command: Callable[[Path, str, Path], Sequence[str]] = agents.agent_command
    ) -> list[AgentHandle]:
        port = self.watch.prometheus.port
        self._relays = {name: Relay(self.plan.namespace_path(host), port) for name, host in agents.HOST_OF.items()}

        def writing(config: Path, address: str, journal: Path) -> Sequence[str]:
            document = yaml.safe_load(config.read_text())
            url = f"{self._relays[config.stem].url}/api/v1/write"
            document["remote_write"] = {"url": url, "external_labels": {"instance": config.stem}}
            config.write_text(yaml.safe_dump(document, sort_keys=False))
            return command(config, address, journal)

        handles = super().start_agents(directory, writing)
        self.watch.scrape(handles)
        return handles

    def failover(self, kind: Literal["graceful", "crash", "split"] = "graceful") -> int:
        self.watch.strike()
        return super().failover(kind)

    def down(self) -> None:
        super().down()
        for relay in self.__dict__.pop("_relays", {}).values():
            relay.close()


class WatchedStage(LabStage):
    """Plays one drill in such a lab, and leaves it standing until all of it can be seen.

    Args:
        options: Of the lab.
        steps: After its graceful failover.
        watch: Who sees it.
        prefix: Of the lab's namespaces.
        out: Where the drill stores its run.
    """

    def __init__(self, options: LabOptions, steps: Sequence[Step], watch: Watch, prefix: str, out: Path):
        self._watch, self._prefix, self._out = watch, prefix, out
        super().__init__(options, "graceful", steps, lab_type=self)

    def up(self, options: LabOptions, progress: Callable[[str], None]) -> WatchedLab:
        """As `Lab.up`."""
        lab = WatchedLab.up(options, progress, prefix=self._prefix, state_dir=self._out / "lab")
        assert isinstance(lab, WatchedLab)
        lab.watch = self._watch
        return lab

    def close(self, tell: Tell) -> None:
        try:
            stored = list(self._out.glob("*/report.json"))
            if stored and self._endpoints:
                tell("waiting until Prometheus has seen all of it")
                urls = {endpoint.name: endpoint.url for endpoint in self._endpoints}
                self._watch.finish(urls, json.loads(stored[0].read_text()))
        finally:
            super().close(tell)


@contextmanager
def watching(directory: Path, down_s: float) -> Iterator[Watch]:
    """A Prometheus that runs, and is gone afterwards."""
    watch = Watch(directory, down_s)
    try:
        watch.prometheus.start()
        yield watch
    finally:
        print("ending Prometheus", file=sys.stderr)
        watch.close()
