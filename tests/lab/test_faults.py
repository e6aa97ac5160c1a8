"""Fault rules: which calls they hit, and what boto3 makes of each kind of fault over a real connection."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from werkzeug.serving import WSGIRequestHandler, make_server

from probe.lab.client import lab_client
from probe.lab.faults import FAULTS_PATH, FaultBook, FaultRule, Faults
from probe.lab.query import Call, read_call

ANSWER = b"<DescribeAddressesResponse><addressesSet/></DescribeAddressesResponse>"


class Server:
    """A cloud that answers every call alike and remembers it, behind `Faults`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults = Faults(self._app, latency_ms={"slow-*": 120})
        self._server = make_server("127.0.0.1", 0, self.faults, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.port}"

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls.append(read_call(environ))
        start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(ANSWER)))])
        return [ANSWER]

    def close(self) -> None:
        self.faults.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def client(self, caller: str = "fgt-a", read_timeout_s: float = 5.0) -> Any:
        return lab_client(self.url, caller, read_timeout_s=read_timeout_s)

    def control(self, method: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + FAULTS_PATH, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as answer:
            return json.load(answer)


class Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_without_rules_a_call_passes_with_its_caller_and_fields(server: Server) -> None:
    server.client().describe_addresses(AllocationIds=["eipalloc-1"])
    (call,) = server.calls
    assert (call.caller, call.action, call.mutating) == ("fgt-a", "DescribeAddresses", False)
    assert call.fields["AllocationId.1"] == "eipalloc-1"


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("denied", 403, "UnauthorizedOperation"), ("throttled", 503, "RequestLimitExceeded"), ("error", 500, "Boom")],
)
def test_refusals_look_like_ec2s_and_are_not_carried_out(server: Server, kind: Any, status: int, code: str) -> None:
    server.faults.book.replace([FaultRule(kind, code="Boom")])
    with pytest.raises(ClientError) as refused:
        server.client().describe_addresses()
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert server.calls == []


def test_garbage_is_no_answer_of_ec2(server: Server) -> None:
    server.faults.book.replace([FaultRule("garbage")])
    with pytest.raises(ResponseParserError):
        server.client().describe_addresses()
    assert server.calls == []


def test_a_slow_call_is_carried_out_late(server: Server) -> None:
    server.faults.book.replace([FaultRule("slow", delay_ms=150)])
    started = time.monotonic()
    server.client().describe_addresses()
    assert time.monotonic() - started >= 0.15
    assert len(server.calls) == 1


def test_latency_is_per_caller(server: Server) -> None:
    started = time.monotonic()
    server.client("slow-unit").describe_addresses()
    assert time.monotonic() - started >= 0.12
    assert server.faults.book.to_document() == [], "latency is no rule, and survives a change of the rules"


@pytest.mark.parametrize(("kind", "carried_out"), [("lost", 0), ("lost_answer", 1)])
def test_a_lost_call_is_never_answered(server: Server, kind: Any, carried_out: int) -> None:
    server.faults.book.replace([FaultRule(kind, delay_ms=5_000)])
    with pytest.raises(ReadTimeoutError):
        server.client(read_timeout_s=0.2).describe_addresses()
    assert len(server.calls) == carried_out


def test_a_lost_call_is_not_held_for_ever(server: Server) -> None:
    server.faults.book.replace([FaultRule("lost", delay_ms=50)])
    with pytest.raises(ConnectionClosedError):
        server.client().describe_addresses()


def test_a_rule_aims_by_caller_and_action_and_counts_down(server: Server) -> None:
    server.faults.book.replace([FaultRule("denied", "fgt-b", ("Associate*", "ReplaceRoute"), count=1)])
    server.client("fgt-a").replace_route(RouteTableId="rtb-1", DestinationCidrBlock="0.0.0.0/0")
    server.client("fgt-b").describe_addresses()
    with pytest.raises(ClientError):
        server.client("fgt-b").replace_route(RouteTableId="rtb-1", DestinationCidrBlock="0.0.0.0/0")
    server.client("fgt-b").replace_route(RouteTableId="rtb-1", DestinationCidrBlock="0.0.0.0/0")
    assert [call.action for call in server.calls] == ["ReplaceRoute", "DescribeAddresses", "ReplaceRoute"]


def test_the_first_matching_rule_decides() -> None:
    book = FaultBook([FaultRule("denied", actions=("ReplaceRoute",), count=1), FaultRule("throttled")])
    call = Call("fgt-a", "ReplaceRoute", {})
    assert [rule.kind for _ in range(2) if (rule := book.take(call))] == ["denied", "throttled"]


def test_rules_are_set_and_read_over_http(server: Server) -> None:
    rules = [{"kind": "throttled", "caller": "watcher", "action": "DescribeAddresses", "count": 2}]
    (stored,) = server.control("POST", rules)
    assert (stored["actions"], stored["applied"], stored["left"]) == (["DescribeAddresses"], 0, 2)
    with pytest.raises(ClientError):
        server.client("watcher").describe_addresses()
    assert server.control("GET")[0]["left"] == 1
    assert server.control("DELETE") == []


@pytest.mark.parametrize(
    "body",
    [
        [{"kind": "haunted"}],
        [{"caller": "fgt-a"}],
        [{"kind": "slow", "delay": 3}],
        [{"kind": "slow", "delay_ms": -1}],
        [3],
    ],
)
def test_a_wrong_rule_is_refused_and_the_old_ones_stay(server: Server, body: Any) -> None:
    server.control("POST", [{"kind": "denied"}])
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.control("POST", body)
    with refused.value as answer:
        assert answer.code == 400
        assert "error" in json.load(answer)
    assert [rule["kind"] for rule in server.control("GET")] == ["denied"]


def test_closing_lets_go_of_held_calls() -> None:
    server = Server()
    server.faults.book.replace([FaultRule("lost")])  # held for a minute
    raw = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    raw.sendall(b"POST / HTTP/1.0\r\nContent-Length: 8\r\n\r\nAction=A")
    raw.settimeout(5)
    deadline = time.monotonic() + 5
    while not server.faults.book.to_document()[0]["applied"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    server.close()
    assert raw.recv(100) == b""
    raw.close()
