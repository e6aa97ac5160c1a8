"""Agents and a lab that follow a script: real HTTP, invented measurements that obey the contract's laws."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from probe.core.events import COUNT_NAMES, Counts, TimelineEvent
from probe.drill.status import AgentStatus, FlowStatus, Poll

MS = 1_000_000
S = 1_000_000_000


# --- values ----------------------------------------------------------------------------------------------------------


def flow(name: str = "f", state: str = "up", agent: str = "a", **fields: Any) -> FlowStatus:
    """A flow's status; `lost=3` and the like set counts."""
    counts = Counts(**{key: fields.pop(key) for key in list(fields) if key in COUNT_NAMES})
    defaults: dict[str, Any] = {
        "protocol": "udp",
        "session": "fresh" if name.endswith("-fresh") else "kept",
        "path": "east-west",
        "target": "10.0.0.1",
        "detail": "",
        "interval_ns": 10 * MS,
        "last_rx_ns": 0,
    }
    return FlowStatus(agent=agent, name=name, state=state, counts=counts, **{**defaults, **fields})


def poll(at_s: float, *flows: FlowStatus, failures: dict[str, str] | None = None, owner: str | None = None) -> Poll:
    """A poll `at_s` seconds into a test, of as many agents as the flows name."""
    wall_ns = 1_700_000_000 * S + round(at_s * S)
    names = list(dict.fromkeys(f.agent for f in flows))
    agents = tuple(
        AgentStatus(
            agent=name,
            now_ns=wall_ns,
            ready=True,
            not_ready="",
            flows=tuple(f for f in flows if f.agent == name),
            active_units=() if owner is None else (owner,),
        )
        for name in names
    )
    return Poll(mono_ns=5_000 * S + round(at_s * S), wall_ns=wall_ns, agents=agents, failures=failures or {})


# --- an agent --------------------------------------------------------------------------------------------------------


@dataclass
class FakeFlow:
    """Probes at a fixed rate, of which those in `outages` are lost; measured in real time."""

    name: str
    path: str = "east-west"
    protocol: str = "udp"
    session: str = "kept"
    target: str = "10.0.0.1"
    interval_ns: int = 10 * MS
    loss_threshold_ns: int = 300 * MS
    outages: list[tuple[int, int | None]] = field(default_factory=list)  # Unix epoch ns; None: for ever
    unsent: int = 0
    started_ns: int = field(default_factory=time.time_ns)

    def status(self, now_ns: int) -> dict[str, Any]:
        counts = self._counts(self.started_ns, now_ns, now_ns)
        dark = self._lost_at(now_ns) and self._lost_at(now_ns - 3 * self.interval_ns)
        answered = [t for t in self._sent(self.started_ns, now_ns) if not self._lost_at(t)]
        return {
            "name": self.name,
            "protocol": self.protocol,
            "session": self.session,
            "path": self.path,
            "target": self.target,
            "address": self.target,
            "port": 862,
            "state": "down" if dark else "up",
            "detail": "",
            "interval_ns": self.interval_ns,
            "loss_threshold_ns": self.loss_threshold_ns,
            "last_rx_ns": max(answered, default=0),
            "counts": {name: getattr(counts, name) for name in COUNT_NAMES},
            "verdict": "unaffected",
        }

    def report(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Any]:
        counts = self._counts(start_ns, end_ns, now_ns)
        return {
            "name": self.name,
            "agent": "",
            "target": self.target,
            "protocol": self.protocol,
            "session": self.session,
            "path": self.path,
            "interval_ns": self.interval_ns,
            "counts": {name: getattr(counts, name) for name in COUNT_NAMES},
            "rtt_ns": {"min": 1, "p50": 1, "p99": 1, "max": 1},
            "outages": [o for span in self.outages if (o := self._outage(span, start_ns, end_ns))],
            "unobserved": [],
            "session_end": {"cause": "none", "at_ns": 0, "from": "", "ttl": 0},
            "verdict": "unaffected",
        }

    def _sent(self, start_ns: int, end_ns: int) -> list[int]:
        first = -(-(max(start_ns, self.started_ns) - self.started_ns) // self.interval_ns)
        last = (end_ns - self.started_ns) // self.interval_ns
        return [self.started_ns + k * self.interval_ns for k in range(first, last + 1)]

    def _lost_at(self, at_ns: int) -> bool:
        return any(start <= at_ns and (end is None or at_ns < end) for start, end in self.outages)

    def _counts(self, start_ns: int, end_ns: int, now_ns: int) -> Counts:
        sent = self._sent(start_ns, end_ns)
        missing = [t for t in sent if self._lost_at(t)]
        lost = sum(t + self.loss_threshold_ns <= now_ns for t in missing)
        return Counts(
            scheduled=len(sent) + self.unsent,
            unsent=self.unsent,
            sent=len(sent),
            received=len(sent) - len(missing),
            lost=lost,
            lost_unattributed=lost,
            pending=len(missing) - lost,
        )

    def _outage(self, span: tuple[int, int | None], start_ns: int, end_ns: int) -> dict[str, Any] | None:
        sent = self._sent(start_ns, end_ns)
        lost = [t for t in sent if span[0] <= t and (span[1] is None or t < span[1])]
        if len(lost) < 3:
            return None
        before = max((t for t in sent if t < lost[0]), default=0)
        after = min((t for t in sent if t > lost[-1]), default=0)
        lower, upper = lost[-1] - lost[0], (after or lost[-1] + self.interval_ns) - before
        sequence = [(t - self.started_ns) // self.interval_ns for t in lost]
        return {
            "direction": "round_trip",
            "start_ns": lost[0],
            "end_ns": after or lost[-1],
            "edges_ns": {"last_ok": before, "first_lost": lost[0], "last_lost": lost[-1], "first_ok": after},
            "duration_ns": {"lower": lower, "estimate": (lower + upper) // 2, "upper": upper},
            "episode": 1,
            "lost": len(lost),
            "first_lost_seq": sequence[0],
            "last_lost_seq": sequence[-1],
            "censored": "no" if after else "end",
            "unobserved_ns": 0,
        }


def by_its_clock(value: Any, ahead_ns: int) -> Any:
    """An answer as a clock that is ahead would tell it: every instant in it is a number of ns beyond 10^18."""
    if isinstance(value, dict):
        return {key: by_its_clock(one, ahead_ns) for key, one in value.items()}
    if isinstance(value, list):
        return [by_its_clock(one, ahead_ns) for one in value]
    return value + ahead_ns if isinstance(value, int) and value > 10**18 else value


class FakeAgent:
    """An agent's web port on loopback. A context manager.

    Args:
        name: As it calls itself.
        flows: What it measures.
        not_ready: What /-/ready says; "" is ready. May be changed while it runs.
        password: Asked of user `drill` when given.
    """

    def __init__(self, name: str, flows: list[FakeFlow], *, not_ready: str = "", password: str = ""):
        self.name = name
        self.flows = flows
        self.not_ready = not_ready
        self.password = password
        self.active_unit = "fgt-a"
        self.watcher = "aws"
        self.ahead_ns = 0  # its clock's, of everybody else's
        self.timeline: list[TimelineEvent] = []
        self.posts: list[str] = []  # what was asked for by POST, in order
        self.answers: dict[str, tuple[int, str]] = {}  # path to (status, body), instead of the real answer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeAgent:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, url: str) -> tuple[int, str]:
        parts = urlsplit(url)
        if parts.path in self.answers:
            return self.answers[parts.path]
        now_ns = time.time_ns()
        if parts.path == "/-/ready":
            return (503, self.not_ready) if self.not_ready else (200, "ready")
        if parts.path == "/api/v1/status":
            return 200, json.dumps(by_its_clock(self._status(now_ns), self.ahead_ns))
        if parts.path == "/api/v1/report":
            start_ns, end_ns = (int(parse_qs(parts.query)[edge][0]) - self.ahead_ns for edge in ("start_ns", "end_ns"))
            return 200, json.dumps(by_its_clock(self._report(start_ns, end_ns, now_ns), self.ahead_ns))
        if parts.path == "/api/v1/watch":
            return 200, "{}"
        return 404, "no such page"

    def _status(self, now_ns: int) -> dict[str, Any]:
        watcher = {"name": self.watcher, "up": True, "reason": "", "active_unit": self.active_unit, "ownership": []}
        return {
            "agent": self.name,
            "now_ns": now_ns,
            "ready": not self.not_ready,
            "not_ready": self.not_ready,
            "flows": [f.status(now_ns) for f in self.flows],
            "watchers": [watcher] if self.active_unit != "none" else [],
            "reflector": None,
        }

    def _report(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Any]:
        return {
            "schema": "haprobe.report/1",
            "run": {
                "id": "",
                "started_ns": start_ns,
                "ended_ns": end_ns,
                "host": "testhost",
                "version": "0",
                "labels": {},
                "config": {},
                "clock": {"synchronised": True, "max_error_ns": 1000, "source": "test"},
                "trigger": {"kind": "", "at_ns": 0},
            },
            "flows": [f.report(start_ns, end_ns, now_ns) for f in self.flows],
            "matrix": {},
            "timeline": [e.to_document() for e in self.timeline if start_ns <= e.at_ns <= end_ns],
            "phases": [],
            "diagnosis": [],
            "budgets": [],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = base64.b64encode(f"drill:{agent.password}".encode()).decode()
                if agent.password and self.headers.get("Authorization") != f"Basic {wanted}":
                    status, text = 401, "who are you?"
                else:
                    status, text = agent.answer(self.path)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                agent.posts.append(self.path)
                self.do_GET()

            def log_message(self, *args: object) -> None:
                pass

        return Handler


# --- a lab -----------------------------------------------------------------------------------------------------------


class FakeLab:
    """Stands in for both `probe.lab.lab.Lab` the class (`up`, `load`) and the lab it raises.

    Args:
        agents: Running fake agents.
        dark_s: Outage of every flow after a failover, by flow name; None: for ever. Flows not named stay clean.
        fail_in: Name of the method that raises `RuntimeError`.
    """

    def __init__(self, agents: list[FakeAgent], dark_s: dict[str, float | None] | None = None, fail_in: str = ""):
        self.agents = agents
        self.dark_s = dark_s or {}
        self.fail_in = fail_in
        self.calls: list[str] = []
        self.options: Any = None
        self.directories: list[Path] = []
        self.log: list[TimelineEvent] = []
        self.after_failover = lambda: None

    def up(self, options: Any, progress: Any) -> FakeLab:
        self._called("up")
        self.options = options
        progress("namespaces")
        return self

    def load(self) -> FakeLab | None:
        return self if "up" in self.calls else None

    def start_agents(self, directory: Path) -> list[Any]:
        self._called("start_agents")
        self.directories.append(Path(directory))
        log = Path(directory) / "agent.log"
        log.write_text("started\n")
        return [SimpleNamespace(name=a.name, url=a.url, pid=0, log=log) for a in self.agents]

    def stop_agents(self) -> None:
        self._called("stop_agents")
        for agent in self.agents:
            for f in agent.flows:
                f.outages.clear()

    def failover(self, kind: str = "graceful") -> int:
        self._called(f"failover {kind}")
        at_ns = time.time_ns()
        self.log.append(TimelineEvent(at_ns, "lab", "trigger", detail={"kind": kind}))
        for agent in self.agents:
            for f in agent.flows:
                if f.name in self.dark_s:
                    dark_s = self.dark_s[f.name]
                    start_ns = at_ns + 20 * MS
                    f.outages.append((start_ns, None if dark_s is None else start_ns + round(dark_s * S)))
            if self.dark_s:
                agent.active_unit = "fgt-b"
        if self.dark_s:
            detail = {"unit": "fgt-b", "role": "primary"}
            self.log.append(TimelineEvent(at_ns + 5 * MS, "lab", "role_change", detail=detail))
        self.after_failover()
        return at_ns

    def active_unit(self) -> str:
        return self.agents[0].active_unit if self.agents else "fgt-a"

    def wait_moved(self, before: str, limit_s: float = 30.0) -> None:
        pass

    def note_sessions(self, moment: str) -> None:
        self.log.append(TimelineEvent(time.time_ns(), "lab", "sessions", detail={"moment": moment, "flows": {}}))

    def restart_agent(self, name: str) -> None:
        self._called(f"restart_agent {name}")

    def drop(self, percent: int) -> None:
        self._called(f"drop {percent}")

    def cut(self, milliseconds: float) -> None:
        self._called(f"cut {milliseconds:g}")

    def set_route(self, destination: str, target: str, table: str = "transit") -> None:
        self._called(f"set_route {destination} {target} {table}")

    def restore_watchers(self) -> None:
        self._called("restore_watchers")

    def unset(self) -> None:
        self._called("unset")
        for agent in self.agents:
            agent.active_unit = "fgt-a"

    def events(self, since_ns: int = 0) -> list[TimelineEvent]:
        return [event for event in self.log if event.at_ns >= since_ns]

    def down(self) -> None:
        self._called("down")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name.partition(" ")[0] == self.fail_in:
            raise RuntimeError(f"{name} failed")
