"""Remote write as a whole: what a store answers and what becomes of the samples; the real Prometheus, killed; a killed
agent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from probe.config import RemoteWrite
from probe.core.events import FlowSpec, Outage, TimelineEvent
from probe.errors import ConfigError
from probe.export import remote_write
from probe.export.remote_client import LONGEST_WAIT_S, Answer, Fate, RemoteClient, retry_after_s
from probe.export.remote_format import body, label_octets, series_octets
from probe.export.remote_lines import PAST, FlowPicture, Sample
from probe.export.remote_write import SAMPLES_PER_REQUEST, RemoteWriter, requests

from .prometheus import WITHIN_S, Prometheus, needs_prometheus
from .test_remote_format import unpacked

MS, SECOND = 1_000_000, 1_000_000_000


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


# --- an agent whose past is known ----------------------------------------------------------------------------------


class Script:
    """Flows whose probes have outages at known instants: 40 ms of every second, each way in turn, from `start_ns` on.

    Args:
        start_ns: Unix time of the first probe.
        flows: Number of flows.
        first_ns: When this process began to probe.
        speed: How fast its time passes, from `start_ns` on; 0: it is the present.
    """

    def __init__(self, start_ns: int, flows: int = 2, first_ns: int = 0, speed: int = 0):
        self.start_ns, self.first_ns, self._speed = start_ns, first_ns or start_ns, speed
        self.specs = [FlowSpec(f"f{n}", "udp", "kept", "egress", "target", 862, 1000.0) for n in range(flows)]
        self._made_ns = time.time_ns()

    def now_ns(self) -> int:
        now_ns = time.time_ns()
        return self.start_ns + (now_ns - self._made_ns) * self._speed if self._speed else now_ns

    def outages(self, flow: str, since_ns: int, until_ns: int, number: int | None = None) -> list[Outage]:
        """Those that begin from `since_ns` on and have ended by `until_ns`."""
        found = []
        for n in range(max(0, (since_ns - self.start_ns) // SECOND - 1), (until_ns - self.start_ns) // SECOND + 1):
            start = self.start_ns + n * SECOND + 500 * MS + int(flow[1:]) * MS
            if since_ns <= start and start + 40 * MS <= until_ns:
                way = "forward" if n % 2 else "reverse"
                end = start + 40 * MS
                edges = (start - MS, start, end - MS, end)
                bounds = (39 * MS, 40 * MS, 41 * MS)
                found.append(
                    Outage(flow, n + 1 if number is None else number, way, start, end, *edges, *bounds, 40, n, n + 39)
                )
        return found

    def seen(self, flow: str, lives: list[tuple[int, int]], number: int | None = None) -> list[Outage]:
        """Those that began and ended while an agent probed."""
        return [outage for first, last in lives for outage in self.outages(flow, first, last, number)]

    def look(self, since_ns: Any) -> list[FlowPicture]:
        settled = self.now_ns() - 100 * MS
        return [
            FlowPicture(
                spec,
                self.first_ns,
                settled,
                settled,
                self.outages(spec.name, max(self.first_ns, since_ns.get(spec.name, 0)), settled),
                [],
            )
            for spec in self.specs
        ]


def config(url: str, **more: Any) -> RemoteWrite:
    return RemoteWrite(url=f"{url}/api/v1/write", **{"send_interval": "100ms", "lag": "50ms", **more})


# --- a store that answers as told ----------------------------------------------------------------------------------


class Store:
    """Answers requests with the statuses of a list, then 204; keeps what came."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.came: list[tuple[int, dict[str, str], bytes]] = []  # (status given, headers, body)
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = store.answers.pop(0) if store.answers else (204, {})
                store.came.append((status, dict(self.headers), body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def taken(self) -> list[bytes]:
        return [body for status, _, body in self.came if status == 204]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


def test_a_store_in_trouble_gets_the_same_request_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_write, "FIRST_WAIT_S", 0.05)
    store.answers = [(503, {}), (429, {"Retry-After": "0"}), (401, {}), (500, {})]
    writer = RemoteWriter(config(store.url), tmp_path, "a", Script(time.time_ns() - SECOND).look)
    writer.start()
    wait_for(lambda: len(store.taken()) >= 2, "requests to be taken")
    writer.stop()
    assert {body for _, _, body in store.came[:5]} == {store.came[4][2]}
    state = writer.snapshot()
    assert (state.refused, state.dropped, state.reason) == (0, 0, "")
    assert state.last_success_ns > 0


def test_a_request_that_is_refused_is_counted_and_does_not_hold_up_the_others(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store.answers = [(400, {})]
    writer = RemoteWriter(config(store.url), tmp_path, "a", Script(time.time_ns() - SECOND).look)
    writer.start()
    wait_for(lambda: len(store.came) >= 3, "further requests")
    writer.stop()
    assert store.came[0][2] not in store.taken()
    assert writer.snapshot().refused > 0
    assert "samples refused: HTTP 400" in caplog.text


def test_a_fault_of_ours_ends_no_sending(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(remote_write, "FIRST_WAIT_S", 0.05)
    send, faults = RemoteClient.send, [RuntimeError("no such thing"), OSError(5, "Input/output error")]

    def faulty(self: RemoteClient, body: bytes) -> Answer:
        if faults:
            raise faults.pop(0)
        return send(self, body)

    monkeypatch.setattr(RemoteClient, "send", faulty)
    writer = RemoteWriter(config(store.url), tmp_path, "a", Script(time.time_ns() - SECOND).look)
    writer.start()
    wait_for(lambda: len(store.taken()) >= 2, "requests to be taken")
    writer.stop()
    assert "no such thing" in caplog.text
    state = writer.snapshot()
    assert (state.refused, state.dropped, state.reason) == (0, 0, "")


@pytest.mark.parametrize("url", ["http://xn--/", "http://a/\x7f", "http://a..b/"])
def test_an_address_that_cannot_be_asked_is_an_answer_with_a_reason(url: str):
    client = RemoteClient(RemoteWrite.model_construct(**{**config("http://a").model_dump(), "url": url}))
    answer = client.send(b"")
    client.close()
    assert answer.fate is Fate.AGAIN and answer.reason


def test_labels_headers_and_credentials_as_configured(store: Store, tmp_path: Path):
    (tmp_path / "password").write_text("s3cret\n")
    settings = config(
        store.url,
        username="haprobe",
        password_file=str(tmp_path / "password"),
        headers={"X-Scope-OrgID": "team"},
        external_labels={"cluster": "eu", "instance": "10.0.0.1:10862"},
    )
    writer = RemoteWriter(settings, tmp_path / "spool", "host", Script(time.time_ns() - SECOND).look)
    writer.heard(TimelineEvent(time.time_ns(), "fortigate", "role_change", 0, {"unit": "fgt-b", "role": "primary"}))
    writer.start()
    wait_for(store.taken, "a request")
    writer.stop()
    headers = store.came[0][1]
    assert headers["X-Scope-OrgID"] == "team"
    assert headers["Authorization"] == "Basic aGFwcm9iZTpzM2NyZXQ="
    assert headers["Content-Encoding"] == "snappy"
    content = b"".join(unpacked(body) for body in store.taken())
    for part in (b"10.0.0.1:10862", b"cluster", b"haprobe_flow_state", b"haprobe_ha_event_timestamp_seconds", b"fgt-b"):
        assert part in content
    assert b"host" not in content


def test_a_secret_that_is_not_there_is_said_before_anything_starts(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"remote_write\.token_file: .*nowhere cannot be read"):
        RemoteWriter(config("http://127.0.0.1:9", token_file=str(tmp_path / "nowhere")), tmp_path, "a", lambda _: [])


def test_a_full_disk_loses_nothing(store: Store, tmp_path: Path):
    script = Script(time.time_ns() - 2 * SECOND, flows=1)
    writer = RemoteWriter(config(store.url), tmp_path, "a", script.look)
    (tmp_path / "state.json.new").mkdir()  # nothing can be committed
    writer.start()
    wait_for(lambda: writer.snapshot().reason, "the disk to be found full")
    assert store.came == []
    (tmp_path / "state.json.new").rmdir()
    wait_for(store.taken, "a request")
    writer.stop()
    whole = b"".join(unpacked(body) for body in store.taken())
    assert whole.count(b"haprobe_flow_outage_seconds") >= 3
    assert writer.snapshot().dropped == 0


def test_a_removed_flow_is_written_to_its_end(store: Store, tmp_path: Path):
    script = Script(time.time_ns() - 2 * SECOND)
    writer = RemoteWriter(config(store.url, lag="1m"), tmp_path, "a", script.look)
    writer.retire({"f1"})
    writer.start()
    wait_for(store.taken, "a request")
    del script.specs[1]
    writer.stop()
    whole = b"".join(unpacked(body) for body in store.taken())
    assert b"f1" in whole
    assert bytes.fromhex("09 020000000000f07f") in whole  # the stale marker


def test_an_agent_killed_before_it_wrote_anything_loses_no_outage(store: Store, tmp_path: Path):
    before_ns = time.time_ns() - 60 * SECOND
    RemoteWriter(config(store.url), tmp_path, "a", lambda _: [])._spool.close()  # killed at once
    script = Script(time.time_ns() + SECOND, flows=1, first_ns=time.time_ns() + 30 * SECOND)
    past = script.outages("f0", script.start_ns, script.start_ns + 2 * SECOND, PAST)
    past += Script(before_ns).outages("f0", before_ns, before_ns + 2 * SECOND, PAST)  # older than remote write here
    script.now_ns = lambda: script.first_ns + 10 * SECOND
    writer = RemoteWriter(config(store.url), tmp_path, "a", script.look, {"f0": past})
    writer.start()
    wait_for(store.taken, "a request")
    writer.stop()
    whole = b"".join(unpacked(body) for body in store.taken())
    assert whole.count(b"estimate") == 2 + len(script.outages("f0", script.first_ns, script.now_ns() - 100 * MS))


def test_no_request_holds_two_samples_of_a_series():
    samples = [Sample(b"%d" % (n % 3000), n, 1.0) for n in range(7000)]
    sizes = [size for _, size in requests(samples)]
    assert sizes == [SAMPLES_PER_REQUEST, 1000, SAMPLES_PER_REQUEST, 1000, 1000]
    assert requests([]) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("", 0), ("7", 7), ("999999999", LONGEST_WAIT_S), ("-3", 0), ("soon", 0)),
        *(("Tue, 14 Nov 2023 22:13:30 GMT", 10), ("Tue, 14 Nov 2023 22:13:00 GMT", 0)),
    ],
)
def test_retry_after_in_both_forms(text: str, seconds: float):
    assert retry_after_s(text, 1_700_000_000.0) == seconds


# --- a real Prometheus ---------------------------------------------------------------------------------------------


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path / "prometheus")
    server.start()
    yield server
    server.kill()


def told(prometheus: Prometheus, at_ns: int) -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[int]]]:
    """By flow and direction: samples of the state, and stamps of outages' estimated lengths."""

    def by_flow(query: str) -> dict[str, list[tuple[int, float]]]:
        found = prometheus.samples(query, at_ns / 1e9)
        return {
            f"{labels.partition(',flow=')[2][:2]} {labels.partition('direction=')[2].partition(',')[0]}": values
            for labels, values in found.items()
        }

    lengths = by_flow('haprobe_flow_outage_seconds{bound="estimate"}[10m]')
    return by_flow("haprobe_flow_state[10m]"), {key: [at for at, _ in values] for key, values in lengths.items()}


def check(prometheus: Prometheus, expected: list[Outage], upto_ns: int) -> None:
    """Every edge of every outage is there at its millisecond, and there is no other."""
    states, lengths = told(prometheus, upto_ns)
    for key in {f"{outage.flow} {outage.direction}" for outage in expected}:
        mine = [o for o in expected if f"{o.flow} {o.direction}" == key]
        samples = dict(states[key])
        assert len(samples) == len(states[key])
        begins = {at for at, value in samples.items() if value == 0 and samples.get(at - 1, 0) != 0}
        assert begins == {o.start_ns // MS for o in mine}
        for outage in mine:
            start, end = outage.start_ns // MS, outage.end_ns // MS
            # A process that takes over in the middle says once more what holds.
            assert {value for at, value in samples.items() if start <= at < end} == {0}
            assert {start, end - 1, end} <= set(samples)
            assert samples[end] != 0
        assert lengths[key] == [o.end_ns // MS for o in mine]


@needs_prometheus
def test_what_is_older_than_prometheus_takes_is_refused_and_holds_up_nothing(tmp_path: Path):
    """With an out-of-order window it answers as if it were its own fault, and would for ever."""
    server = Prometheus(tmp_path, config="storage: {tsdb: {out_of_order_time_window: 30m}}\n")
    server.start()
    try:
        client = RemoteClient(config(server.url))
        answers = {}
        for series, age_s in ((b"new", 0), (b"late", 600), (b"old", 7200)):
            labels = label_octets({"__name__": "haprobe_flow_state", "flow": series.decode()})
            answers[series] = client.send(body([series_octets(labels, (time.time_ns() - age_s * SECOND) // MS, 1.0)]))
        client.close()
    finally:
        server.kill()
    fates = {series: answer.fate for series, answer in answers.items()}
    assert fates == {b"new": Fate.TAKEN, b"late": Fate.TAKEN, b"old": Fate.REFUSED}
    assert "too old" in answers[b"old"].reason


@needs_prometheus
def test_prometheus_killed_in_the_middle_loses_no_edge(prometheus: Prometheus, tmp_path: Path):
    script = Script(time.time_ns() - 600 * SECOND, speed=10)
    writer = RemoteWriter(config(prometheus.url), tmp_path / "spool", "a", script.look)
    writer.start()
    wait_for(lambda: writer.snapshot().sent > 20, "samples to be taken")
    prometheus.kill()
    wait_for(lambda: writer.snapshot().reason, "the failure to be seen")
    dark_ns = script.now_ns()
    wait_for(lambda: writer.snapshot().spooled_octets > 10_000 and script.now_ns() > dark_ns + 20 * SECOND, "a spool")
    prometheus.start()
    back_ns = script.now_ns()
    wait_for(lambda: writer.snapshot().spooled_octets == 0 and script.now_ns() > back_ns + 5 * SECOND, "it to catch up")
    writer.stop()
    state = writer.snapshot()
    assert (state.refused, state.dropped, state.revised) == (0, 0, 0)
    upto_ns = writer._lines[script.specs[0]].written_ms * MS
    expected = [o for spec in script.specs for o in script.outages(spec.name, script.start_ns, upto_ns)]
    assert len(expected) > 40
    check(prometheus, expected, script.now_ns())


AGENT = """
import json, sys, time
from pathlib import Path
from tests.export.test_remote_write import PAST, Script, config
from probe.export.remote_write import RemoteWriter
url, spool, start_ns, lives = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
script = Script(start_ns, first_ns=time.time_ns() if lives else start_ns)
past = {s.name: script.seen(s.name, lives, PAST) for s in script.specs}
writer = RemoteWriter(config(url), spool, "a", script.look, past)
writer.start()
print(script.first_ns, flush=True)
time.sleep(600)
"""


def start_agent(url: str, spool: Path, start_ns: int, lives: list[Any]) -> tuple[subprocess.Popen[str], int]:
    """An agent in a process of its own, whose journal holds what earlier ones saw; and when it began to probe."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, url, str(spool), str(start_ns), json.dumps(lives)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@needs_prometheus
def test_an_agent_that_is_killed_again_and_again_writes_every_outage_once(prometheus: Prometheus, tmp_path: Path):
    spool, start_ns = tmp_path / "spool", time.time_ns() - 3 * SECOND
    lives: list[tuple[int, int]] = []  # when an agent probed
    for life in range(2):
        if life == 1:
            prometheus.kill()  # what it finds in this life, the next one must send
        process, first_ns = start_agent(prometheus.url, spool, start_ns, lives)
        began_ns = time.time_ns()
        wait_for(lambda since=began_ns: time.time_ns() > since + 2 * SECOND, "some outages")
        process.send_signal(signal.SIGKILL)
        process.wait()
        lives.append((first_ns, time.time_ns()))
        assert process.stdout is not None
        process.stdout.close()
        if life == 1:
            prometheus.start()
    script = Script(start_ns, first_ns=time.time_ns())
    past = {s.name: script.seen(s.name, lives, PAST) for s in script.specs}
    writer = RemoteWriter(config(prometheus.url), spool, "a", script.look, past)
    writer.start()
    wait_for(lambda: writer.snapshot().spooled_octets == 0 and time.time_ns() > script.first_ns + SECOND, "the rest")
    writer.stop()
    assert writer.snapshot().refused == 0
    upto_ns = writer._lines[script.specs[0]].written_ms * MS
    expected = [o for s in script.specs for o in script.seen(s.name, [*lives, (script.first_ns, upto_ns)])]
    assert len(expected) > 8
    check(prometheus, expected, time.time_ns())
