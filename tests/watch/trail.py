"""A stand-in for CloudTrail's LookupEvents over HTTP, which moto does not have: conditions, spans, pages, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

PAGE = 2


def record(operation: str, at_s: int, **fields: Any) -> dict[str, Any]:
    """A CloudTrail record as EC2 writes them; `by` is the role's session, an instance id for an instance role."""
    by = fields.pop("by", "i-0bbbbbbbbbbbbbbbb")
    return {
        "eventVersion": "1.10",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": f"AROAEXAMPLE:{by}",
            "arn": f"arn:aws:sts::123456789012:assumed-role/fgt/{by}",
        },
        "eventTime": datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "ec2.amazonaws.com",
        "eventName": operation,
        "eventID": f"{operation}-{at_s}-{len(fields)}",
        **fields,
    }


@dataclass
class Trail:
    """What the stand-in holds, and how it behaves. `asked` is every call's body."""

    records: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    throttled: int = 0  # so many calls from now on
    denied: bool = False
    url: str = ""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        assert request.headers["X-Amz-Target"].endswith(".LookupEvents")
        return self.answer(request.get_json(force=True))(environ, start_response)

    def answer(self, asked: dict[str, Any]) -> Response:
        self.asked.append(asked)
        if self.denied:
            return _refusal("AccessDeniedException", "not authorized to perform: cloudtrail:LookupEvents")
        if self.throttled:
            self.throttled -= 1
            return _refusal("ThrottlingException", "Rate exceeded")
        (condition,) = asked["LookupAttributes"]
        fitting = [
            one
            for one in self.records
            if one["eventName"] == condition["AttributeValue"]
            and asked["StartTime"] <= _seconds(one) <= asked["EndTime"]
        ]
        start = int(asked.get("NextToken", 0))
        events = [
            {"EventId": one["eventID"], "EventName": one["eventName"], "CloudTrailEvent": json.dumps(one)}
            for one in fitting[start : start + PAGE]
        ]
        more = {"NextToken": str(start + PAGE)} if len(fitting) > start + PAGE else {}
        return Response(json.dumps({"Events": events, **more}), content_type="application/x-amz-json-1.1")


def _seconds(one: dict[str, Any]) -> float:
    return datetime.strptime(one["eventTime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _refusal(code: str, message: str) -> Response:
    return Response(
        json.dumps({"__type": code, "message": message}), status=400, content_type="application/x-amz-json-1.1"
    )


@contextmanager
def a_trail(*records: dict[str, Any]) -> Iterator[Trail]:
    """A running stand-in."""
    trail = Trail(list(records))
    server = make_server("127.0.0.1", 0, trail, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    trail.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield trail
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
