"""Faults in front of the cloud: calls that are denied, throttled, slow, lost or failing, per caller and action.

Rules are set while everything runs, at FAULTS_PATH of the cloud's own address:

    GET     the rules in force, with how often each has been applied and how often it still will be
    POST    a JSON list of rules, which replaces them
    DELETE  no rules

The first rule that matches a call decides. Besides, every call of a matching caller may have a plain latency: a
FortiGate in a VPC needs some time for each call, and makes them one after another.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from probe.lab.query import ApiError, Call, Environ, StartResponse, WsgiApp, read_body, read_call

FAULTS_PATH = "/_haprobe/faults"
MAX_HOLD_MS = 60_000  # no connection is held longer than this, whatever a rule says

FaultKind = Literal["denied", "throttled", "slow", "lost", "lost_answer", "error", "garbage"]


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What happens to which calls.

    Kinds: `denied` (403 UnauthorizedOperation), `throttled` (503 RequestLimitExceeded), `error` (500 with `code`),
    `slow` (carried out after `delay_ms`), `lost` (not carried out, no answer), `lost_answer` (carried out, no
    answer), `garbage` (200 with what is no answer of EC2, as of a captive portal). A lost call's connection closes
    after `delay_ms`, or after the longest hold when that is 0.
    """

    kind: FaultKind
    caller: str = "*"  # access key id; shell-style pattern
    actions: tuple[str, ...] = ("*",)  # API actions; shell-style patterns
    delay_ms: int = 0  # before anything else happens, for every kind
    count: int | None = None  # for how many calls; None: until replaced
    code: str = "InternalError"  # for `error`

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind {self.kind!r}: want one of {', '.join(get_args(FaultKind))}")
        if self.delay_ms < 0 or (self.count is not None and self.count < 0):
            raise ValueError("delay_ms and count must not be negative")

    def matches(self, call: Call) -> bool:
        return fnmatchcase(call.caller, self.caller) and any(fnmatchcase(call.action, a) for a in self.actions)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> FaultRule:
        """A rule from its JSON form; `action` with one name is accepted for `actions`.

        Raises:
            ValueError: If a field is unknown, missing or wrong.
        """
        fields = dict(document)
        actions = fields.pop("actions", fields.pop("action", "*"))
        actions = (actions,) if isinstance(actions, str) else tuple(actions)
        try:
            return cls(actions=actions, **fields)
        except TypeError as error:
            raise ValueError(str(error)) from error


class FaultBook:
    """The rules in force and what they did. Safe from any thread."""

    def __init__(self, rules: Sequence[FaultRule] = ()):
        self._lock = threading.Lock()
        self._rules: list[tuple[FaultRule, int]] = []
        self.replace(rules)

    def replace(self, rules: Sequence[FaultRule]) -> None:
        with self._lock:
            self._rules = [(rule, 0) for rule in rules]

    def take(self, call: Call) -> FaultRule | None:
        """The rule for this call, counted as applied."""
        with self._lock:
            for i, (rule, applied) in enumerate(self._rules):
                if rule.matches(call) and (rule.count is None or applied < rule.count):
                    self._rules[i] = (rule, applied + 1)
                    return rule
        return None

    def to_document(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {**asdict(rule), "applied": applied, "left": None if rule.count is None else rule.count - applied}
                for rule, applied in self._rules
            ]


_GARBAGE = b"<!doctype html><title>Welcome</title><p>Please log in to use this network.\n"
_ERRORS = {
    "denied": (403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
    "throttled": (503, "RequestLimitExceeded", "Request limit exceeded."),
}


class Faults:
    """WSGI middleware that applies a `FaultBook` and the callers' latency before `app` sees a call.

    Args:
        app: The cloud.
        book: The rules, shared with whoever sets them in this process.
        latency_ms: Caller pattern to milliseconds added to each of its calls.
    """

    def __init__(self, app: WsgiApp, book: FaultBook | None = None, latency_ms: Mapping[str, int] | None = None):
        self._app = app
        self.book = book or FaultBook()
        self._latency_ms = dict(latency_ms or {})
        self._closed = threading.Event()

    def close(self) -> None:
        """Let go of every call that is being held."""
        self._closed.set()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == FAULTS_PATH:
            return self._control(environ, start_response)
        call = read_call(environ)
        rule = self.book.take(call)
        latency_ms = next((ms for who, ms in self._latency_ms.items() if fnmatchcase(call.caller, who)), 0)
        if rule is not None and rule.kind in ("lost", "lost_answer"):
            self._lose(rule, environ)
        self._hold(latency_ms + (rule.delay_ms if rule else 0))
        if rule is None or rule.kind == "slow":
            return self._app(environ, start_response)
        if rule.kind == "garbage":
            start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(_GARBAGE)))])
            return [_GARBAGE]
        return ApiError(*_ERRORS.get(rule.kind, (500, rule.code, "An internal error."))).respond(start_response)

    def _lose(self, rule: FaultRule, environ: Environ) -> None:
        """Never answer: hold the connection, then drop it.

        Raises:
            ConnectionAbortedError: Always. The server takes it as a connection that went away, and closes it.
        """
        if rule.kind == "lost_answer":
            for _ in self._app(environ, lambda *_: None):
                pass
        self._hold(rule.delay_ms or MAX_HOLD_MS)
        # werkzeug would keep the connection for the client's next request.
        with contextlib.suppress(OSError):  # the client has given up first
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError("lost by a fault rule")

    def _hold(self, ms: int) -> None:
        if ms > 0:
            self._closed.wait(min(ms, MAX_HOLD_MS) / 1000)

    def _control(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        method, status, answer = environ["REQUEST_METHOD"], "200 OK", None
        try:
            if method == "POST":
                self.book.replace([FaultRule.from_document(one) for one in json.loads(read_body(environ))])
            elif method == "DELETE":
                self.book.replace([])
            elif method != "GET":
                raise ValueError(f"method {method}: want GET, POST or DELETE")
        except (ValueError, TypeError, AttributeError) as error:
            status, answer = "400 Bad Request", {"error": str(error)}
        body = json.dumps(self.book.to_document() if answer is None else answer).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
