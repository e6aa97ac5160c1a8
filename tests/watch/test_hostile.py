"""Both watchers against servers that mean no good: a reason each time, nothing read without end, nobody held up."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.parsers import ResponseParserError

from probe.core.events import TimelineEvent
from probe.lab.credentials import Credentials, make
from probe.tls import server_context
from probe.watch import access, aws, ec2, fortigate_rest
from probe.watch.aws import AwsWatcher
from probe.watch.fortigate_unit import UnitPoller
from tests.bench.hostile import HostileServer, Mode

from .account import Config
from .test_aws import HangingClient, named, wait_for

# What may be said of each, or "timeout": a busy machine may take longer to read than is waited for.
SAID: dict[Mode, tuple[str, ...]] = {
    "silent": (),
    "denied": ("UnauthorizedOperation", "HTTP 403"),
    "throttled": ("RequestLimitExceeded", "HTTP 503"),
    "random": ("connection_closed", "unreachable", "HTTPClientError"),
    "endless": ("too_long", "garbage"),
    "huge": ("too_long", "garbage"),
    "deep": ("ResponseParserError", "garbage"),
    "bomb": ("ResponseParserError", "garbage", "connection_closed"),
    "headers": (),
    "drip": (),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "TOTAL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(aws, "QUESTION_LIMIT_S", 4.0)
    monkeypatch.setattr(fortigate_rest, "TOTAL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(fortigate_rest, "QUESTION_LIMIT_S", 3.0)


@contextmanager
def hostile(mode: Mode, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server of that mode."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    server = HostileServer(listener, mode, xml=tls is None, tls=tls)
    try:
        yield port
    finally:
        server.close()


@pytest.mark.parametrize("mode", SAID)
def test_the_aws_watcher_is_down_with_a_reason(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    events: list[TimelineEvent] = []
    with hostile(mode) as port:
        watcher = AwsWatcher(Config(addresses=["eipalloc-1"], endpoint_url=f"http://127.0.0.1:{port}"), events.append)
        state = watcher.poll()
        watcher.stop()
    assert not state.up
    assert state.reason.startswith((*SAID[mode], "timeout")), state.reason
    assert [one.event for one in events] == ["watcher_down"]
    assert len(caplog.text) < 2000, "the answer itself is nothing for a log"


@pytest.fixture(name="keys", scope="module")
def _keys(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make(tmp_path_factory.mktemp("keys"), {"fgt-a": ["127.0.0.1"]})


class Unit:
    """As `watchers.fortigate.units.NAME`."""

    host, tls_name, token_env, ssh = "127.0.0.1", None, None, None

    def __init__(self, keys: Credentials, port: int):
        self.port, self.ca_file, self.token_file = port, str(keys.ca), str(keys.token("fgt-a"))


@pytest.mark.parametrize("mode", ["random", "deep", "bomb", "headers"])  # more of them in test_fortigate.py
def test_a_unit_does_not_answer_with_a_reason(keys: Credentials, mode: Mode) -> None:
    context = server_context(keys.certificate("fgt-a"))
    clock = aws.SystemClock()
    with hostile(mode, context) as port:
        poller = UnitPoller("fgt-a", fortigate_rest.RestClient("fgt-a", Unit(keys, port)), 10**9, clock, 0)
        poll = poller.poll()
        poller.close()
    assert poll.answer is None
    assert poll.failure.startswith((*SAID[mode], "timeout")), poll.failure


def test_no_more_of_an_answer_is_read_than_one_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "TOTAL_TIMEOUT_S", 60.0)
    monkeypatch.setattr(aws, "QUESTION_LIMIT_S", 60.0)
    read: list[int] = []
    body = access._BoundedSession._body

    def counted(self: Any, raw: Any, deadline: float, url: str) -> bytes:
        try:
            return body(self, raw, deadline, url)
        finally:
            read.append(raw.tell())

    monkeypatch.setattr(access._BoundedSession, "_body", counted)
    with hostile("endless") as port:
        watcher = AwsWatcher(Config(addresses=["eipalloc-1"], endpoint_url=f"http://127.0.0.1:{port}"))
        assert watcher.poll().reason == "too_long (DescribeAddresses)"
    assert access.MAX_BODY < read[0] <= access.MAX_BODY + 65_536


def test_what_is_nested_too_deep_is_not_parsed() -> None:
    access.refuse_depth(b"<a>" * access.MAX_DEPTH + b"</a>" * access.MAX_DEPTH)
    access.refuse_depth(b"<r>" + b"<a><b/></a>" * 1000 + b"</r>")
    access.refuse_depth(b"<a> no end")
    with pytest.raises(ResponseParserError, match="more than 100 deep"):
        access.refuse_depth(b"<a>" * (access.MAX_DEPTH + 1))


def test_pages_without_end_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2, "MAX_PAGES", 3)
    asked: list[Any] = []

    def page(**arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {"RouteTables": [], "NextToken": f"{len(asked)}"}

    with pytest.raises(access.TooLongError, match="more than 3 pages"):
        list(ec2.pages(page, {}, "RouteTables"))
    assert len(asked) == 4


def test_a_stranger_s_addresses_are_not_taken_for_ours() -> None:
    class Generous:
        def describe_addresses(self, **_: Any) -> dict[str, Any]:
            return {"Addresses": [{"AllocationId": one, "PublicIp": "192.0.2.1"} for one in ("ours", "theirs")]}

    watcher = AwsWatcher(Config(addresses=["ours"]), client=Generous())
    assert [one.labels["allocation_id"] for one in watcher.poll().ownership] == ["ours"]


def test_a_call_that_never_ends_is_told_and_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a resolver: no timeout of a socket applies."""
    monkeypatch.setattr(aws, "QUESTION_LIMIT_S", 0.3)
    client, events = HangingClient(), []
    watcher = AwsWatcher(Config(addresses=["e"], interval=0.01, fast_interval=0.01), events.append, client=client)
    watcher.start()
    try:
        wait_for(lambda: named(events, "watcher_down"), 60.0)
        assert named(events, "watcher_down")[0].detail["reason"].startswith("timeout")
        monkeypatch.setattr(aws, "QUESTION_LIMIT_S", 600.0)
        watcher.stop()
        assert watcher._thread is not None and not watcher._thread.is_alive()
    finally:
        client.released.set()


def test_a_login_that_never_ends_holds_up_no_end(tmp_path: Path, keys: Credentials) -> None:
    from probe import config, yamlfile
    from probe.watch.fortigate import FortigateWatcher

    with hostile("silent") as port:
        settings = f"""
watchers:
  fortigate:
    units:
      fgt-a:
        host: 127.0.0.1
        port: {port}
        token_file: {keys.token("fgt-a")}
        ca_file: {keys.ca}
        ssh: {{port: {port}, key_file: {keys.client_key}, known_hosts: {keys.known_hosts}}}
"""
        watcher = FortigateWatcher(config.from_yaml(yamlfile.parse(settings, "f.yml")).watchers.fortigate)
        watcher.start()
        wait_for(lambda: any(one.name == "ssh-fgt-a" for one in threading.enumerate()), 60.0)
        watcher.stop()
        assert all(one.daemon for one in threading.enumerate() if one.name in ("ssh-fgt-a", "ask-fgt-a", "watch-fgt-a"))
        assert not [one for one in watcher._threads if one.is_alive()]
