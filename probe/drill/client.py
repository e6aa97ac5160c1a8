"""The drill's client of the agents' HTTP API. Every failure becomes a PeerError that says who, where and what to do."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from probe import tls
from probe.clock import Clock, SystemClock
from probe.drill.offsets import ClockOffset, Offsets, compared, placed
from probe.drill.status import AgentStatus, Poll, parse
from probe.errors import ConfigError, PeerError
from probe.timesync import HostClock, host_clock

STATUS_TIMEOUT_S = 2.0
"""For what is asked several times a second: an agent behind the failing path must not hold up the others' polls."""
REPORT_TIMEOUT_S = 30.0
"""For a result document: the agent computes it from its whole history of the span."""
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """Where an agent answers, and how to be let in. Secrets are only ever named by file."""

    name: str
    url: str
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None  # our certificate, for agents that ask for one
    key_file: Path | None = None
    log: Path | None = None  # of an agent we started ourselves
    pid: int = 0  # likewise


class AgentClient:
    """One agent.

    Args:
        endpoint: Where it is.
        status_timeout_s: For status and readiness, each of connect and read.

    Raises:
        ConfigError: If a file that the endpoint names cannot be used.
    """

    def __init__(self, endpoint: AgentEndpoint, status_timeout_s: float = STATUS_TIMEOUT_S):
        self.endpoint = endpoint
        self._status_timeout_s = status_timeout_s
        self._http = httpx.Client(
            base_url=endpoint.url,
            auth=_auth(endpoint),
            verify=_tls(endpoint),
            # Agents are named by address; a proxy meant for the internet would only hide them.
            trust_env=False,
            timeout=status_timeout_s,
        )

    def ready(self) -> str:
        """Why the agent is not ready, in its own words; "" when it is.

        Raises:
            PeerError: If it does not answer.
        """
        response = self._get("/-/ready", self._status_timeout_s, allowed=(200, 503))
        return "" if response.status_code == 200 else response.text.strip() or "not ready"

    def status(self) -> AgentStatus:
        """What it measures right now.

        Raises:
            PeerError: If it does not answer, or not with a status.
        """
        path = "/api/v1/status"
        try:
            return parse(self.endpoint.name, self._get(path, self._status_timeout_s).json())
        except ValueError as error:
            raise self._unreadable(path, error) from error

    def renew(self) -> list[str]:
        """Have it begin new sessions where kept TCP sessions are over or dark; the flows it did so for.

        Raises:
            PeerError: If it does not answer, or will not.
        """
        path = "/api/v1/renew"
        try:
            return [str(name) for name in self._ask("POST", path, self._status_timeout_s).json()["renewed"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(path, ValueError(str(error))) from error

    def watch(self, seconds: int) -> None:
        """Have its watchers poll fast, and capture what only a live session shows, for so long; 0 ends the captures.

        Raises:
            PeerError: If it does not answer, or will not.
        """
        # Ending a capture says goodbye to a FortiGate, which may be the one that just died.
        timeout_s = self._status_timeout_s if seconds else REPORT_TIMEOUT_S
        self._ask("POST", f"/api/v1/watch?seconds={seconds}", timeout_s)

    def captures(self, since_ns: int) -> list[dict[str, Any]]:
        """What it captured that had not ended before (Unix epoch ns): unit, text and more.

        Raises:
            PeerError: If it does not answer, or not with captures.
        """
        path = f"/api/v1/captures?since_ns={since_ns}"
        try:
            found = self._get(path, REPORT_TIMEOUT_S).json()["captures"]
            return [{**one, "unit": str(one["unit"]), "text": str(one["text"])} for one in found]
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(path, ValueError(str(error))) from error

    def report(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        """Its result document for a span of Unix epoch nanoseconds.

        Raises:
            PeerError: If it does not answer, or not with a result document.
        """
        path = f"/api/v1/report?start_ns={start_ns}&end_ns={end_ns}"
        try:
            document = self._get(path, REPORT_TIMEOUT_S).json()
        except json.JSONDecodeError as error:
            raise self._unreadable(path, error) from error
        if not isinstance(document, dict) or not isinstance(document.get("flows"), list):
            raise self._unreadable(path, ValueError("no `flows` in it"))
        return document

    def close(self) -> None:
        """Give its connections back."""
        self._http.close()

    def _get(self, path: str, timeout_s: float, allowed: tuple[int, ...] = (200,)) -> httpx.Response:
        return self._ask("GET", path, timeout_s, allowed)

    def _ask(self, method: str, path: str, timeout_s: float, allowed: tuple[int, ...] = (200,)) -> httpx.Response:
        try:
            response = self._http.request(method, path, timeout=timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PeerError(f"{self._who(path)}: {_reason(error)}; {_advice(error, self.endpoint)}") from error
        if response.status_code in allowed:
            return response
        raise PeerError(
            f"{self._who(path)}: HTTP {response.status_code}{_said(response)}; {_http_advice(response, self.endpoint)}"
        )

    def _who(self, path: str) -> str:
        return f"agent {self.endpoint.name} ({self.endpoint.url.rstrip('/')}{path.partition('?')[0]})"

    def _unreadable(self, path: str, error: Exception) -> PeerError:
        return PeerError(
            f"{self._who(path)}: not an answer of haprobe ({error}); does this URL name an agent's web port?"
        )


class AgentPool:
    """All agents of a drill, asked at the same time. A context manager.

    Times that go in and reports that come out are on our clock, also where an agent's is another: each poll compares.

    Args:
        endpoints: Who to ask; names are unique.
        clock: Stamps the polls.
    """

    def __init__(self, endpoints: Sequence[AgentEndpoint], clock: Clock | None = None):
        self._clock = clock or SystemClock()
        self.clients = tuple(AgentClient(endpoint) for endpoint in endpoints)
        # More than one for each: a call that an interrupted wait left behind holds up none of those that follow.
        self._threads = ThreadPoolExecutor(max_workers=4 * max(1, len(self.clients)), thread_name_prefix="agent")
        self._reported: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
        self._offsets = Offsets()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the calls under way (each is bounded) and close the connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for client in self.clients:
            client.close()

    def poll(self) -> Poll:
        """One status of every agent. An agent that does not answer is in `failures`; nothing is raised for it."""
        answers, failures = self._each(self._compared)
        for name, (status, offset) in answers.items():
            if status.now_ns:
                self._offsets.add(name, offset)
        return Poll(
            mono_ns=self._clock.mono_ns(),
            wall_ns=self._clock.wall_ns(),
            agents=tuple(status for status, _ in answers.values()),
            failures={name: str(error) for name, error in failures.items()},
        )

    def _compared(self, client: AgentClient) -> tuple[AgentStatus, ClockOffset]:
        asked_ns, before_ns = self._clock.wall_ns(), self._clock.mono_ns()
        status = client.status()
        took_ns = self._clock.mono_ns() - before_ns
        return status, compared(asked_ns, took_ns, status.now_ns)

    def apart(self) -> dict[str, ClockOffset]:
        """Agents whose clock is another than ours, as far as the polls tell."""
        return self._offsets.apart()

    def ahead_ns(self, agent: str) -> int:
        """How much an agent's times are to be moved back for ours; 0 where the clocks count as one."""
        offset = self.apart().get(agent)
        return offset.ahead_ns if offset else 0

    @cached_property
    def _host_clock(self) -> HostClock:
        return host_clock()

    def renew(self, agents: Collection[str]) -> tuple[dict[str, list[str]], dict[str, PeerError]]:
        """Have the named agents begin new sessions where kept ones are over: flows by agent, and who would not."""
        return self._each(lambda client: client.renew() if client.endpoint.name in agents else [])

    def watch(self, agents: Collection[str], seconds: int) -> dict[str, PeerError]:
        """Have the watchers of the named agents look closely for so long; who would not, by agent."""
        return self._each(lambda client: client.watch(seconds) if client.endpoint.name in agents else None)[1]

    def captures(
        self, agents: Collection[str], since_ns: int
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, PeerError]]:
        """What the watchers of the named agents captured, by agent; and who would not tell."""

        def ask(client: AgentClient) -> list[dict[str, Any]]:
            name = client.endpoint.name
            return client.captures(since_ns + self.ahead_ns(name)) if name in agents else []

        return self._each(ask)

    def reports(self, start_ns: int, end_ns: int) -> tuple[dict[str, dict[str, Any]], dict[str, PeerError]]:
        """Every agent's result document of a span, by agent; and why there is none of the others.

        Span and documents are on our clock, Unix epoch ns.
        """
        so_far = self._reported.setdefault((start_ns, end_ns), {})

        def ask(client: AgentClient) -> dict[str, Any]:
            name = client.endpoint.name
            offset = self.apart().get(name)
            ahead_ns = offset.ahead_ns if offset else 0
            document = client.report(start_ns + ahead_ns, end_ns + ahead_ns)
            so_far[name] = placed(document, offset, self._host_clock) if offset else document
            return so_far[name]

        return self._each(ask)

    def reported(self, start_ns: int, end_ns: int) -> tuple[dict[str, dict[str, Any]], dict[str, PeerError]]:
        """As `reports`, without asking: what came of it so far, for who will not wait for the agents that hang."""
        so_far = dict(self._reported.get((start_ns, end_ns), {}))  # an agent may still answer, to nobody any more
        names = [client.endpoint.name for client in self.clients]
        missing = {n: PeerError(f"agent {n}: no report before the interruption") for n in names if n not in so_far}
        return {name: so_far[name] for name in names if name in so_far}, missing

    def wait_ready(self, timeout_s: float, tell: Callable[[str], None] = lambda text: None) -> None:
        """Wait until every agent says that it is ready.

        Raises:
            PeerError: When the time is over, or at once when an agent we started has died; names each agent that
                is not ready, why, and the end of its log where there is one.
        """
        deadline_ns = self._clock.mono_ns() + round(timeout_s * 1e9)
        told = ""
        while True:
            answers, failures = self._each(lambda client: client.ready())
            waiting = {name: why for name, why in answers.items() if why} | {n: str(e) for n, e in failures.items()}
            if not waiting:
                return
            dead = {c.endpoint.name for c in self.clients if c.endpoint.pid and not _alive(c.endpoint.pid)} & set(
                waiting
            )
            if dead or self._clock.mono_ns() >= deadline_ns:
                raise PeerError(self._not_ready(waiting, dead, timeout_s))
            text = "waiting for " + ", ".join(sorted(waiting))
            if text != told:
                tell(text)
                told = text
            time.sleep(0.1)

    def _not_ready(self, waiting: dict[str, str], dead: set[str], timeout_s: float) -> str:
        lines = []
        for client in self.clients:
            endpoint = client.endpoint
            if endpoint.name not in waiting:
                continue
            if endpoint.name in dead:
                lines.append(f"agent {endpoint.name} (process {endpoint.pid}) has ended before it was ready")
            else:
                lines.append(f"agent {endpoint.name} is not ready after {timeout_s:g} s: {waiting[endpoint.name]}")
            lines += [f"    {line}" for line in log_tail(endpoint.log)]
        return "\n".join(lines)

    def _each(self, ask: Callable[[AgentClient], Any]) -> tuple[dict[str, Any], dict[str, PeerError]]:
        calls = {client.endpoint.name: self._threads.submit(ask, client) for client in self.clients}
        answers: dict[str, Any] = {}
        failures: dict[str, PeerError] = {}
        for name, call in calls.items():
            try:
                answers[name] = call.result()
            except PeerError as error:
                failures[name] = error
        return answers, failures


def log_tail(log: Path | None, lines: int = LOG_TAIL_LINES) -> list[str]:
    """The last lines of an agent's log, for an error message; empty when there is no log to read."""
    if log is None:
        return []
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return [f"(its log {log} cannot be read: {error.strerror})"]
    return [f"last lines of {log}:", *text.splitlines()[-lines:]]


def _alive(pid: int) -> bool:
    try:
        # The state follows the name, which is in parentheses and may hold anything.
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def _auth(endpoint: AgentEndpoint) -> httpx.BasicAuth | None:
    if endpoint.password_file is None:
        return None
    try:
        password = endpoint.password_file.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{endpoint.password_file}:1: agents.{endpoint.name}.password_file: {error}; a readable text file"
        ) from error
    return httpx.BasicAuth(endpoint.username, password)


def _tls(endpoint: AgentEndpoint) -> ssl.SSLContext | bool:
    if not endpoint.url.startswith("https:"):
        return True
    try:
        return tls.client_context(endpoint.ca_file, endpoint.cert_file, endpoint.key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(f) for f in (endpoint.ca_file, endpoint.cert_file, endpoint.key_file) if f)
        raise ConfigError(f"{files}:1: agents.{endpoint.name}: {error}; readable PEM files") from error


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


def _advice(error: Exception, endpoint: AgentEndpoint) -> str:
    text = str(error).lower()
    if "certificate" in text:
        return f"name the CA that signed its certificate in agents.{endpoint.name}.ca_file"
    if "ssl" in text or "disconnected" in text:
        return "is it served over TLS? try the other of http:// and https:// in its url"
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return "its url must look like http://HOST:10862 or https://HOST:10862"
    if tail := log_tail(endpoint.log)[1:]:
        return f"the last words of its log {endpoint.log}: {tail[-1].strip()}"
    return "is `haprobe run` up there, and is its --web.listen-address reachable from here?"


def _http_advice(response: httpx.Response, endpoint: AgentEndpoint) -> str:
    if response.status_code in (401, 403):
        return f"name a user of its --web.config.file in agents.{endpoint.name}.username and .password_file"
    if response.status_code == 404:
        return "does this URL name an agent's web port, without a path?"
    return "its log says why"


def _said(response: httpx.Response) -> str:
    text = " ".join(response.text.split())
    return f" ({text[:200]})" if text and "<" not in text else ""
