"""Asks CloudTrail what was done to a pair during a run, minutes later: `haprobe report RUN --backfill`.

LookupEvents takes two calls per second and account and region, and one condition per question, so each operation is
asked for by itself, at that pace. A throttled call is repeated after a pause, a few times; nothing else is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from probe.watch.access import PATIENT, Access, explained, make_client, result_of
from probe.watch.trail_events import INSTANCE, TAKEOVER

ACTION = "cloudtrail:LookupEvents"
GAP_S = 0.5
PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # before each repetition of a throttled call
MARGIN_S = 2  # eventTime has whole seconds
DELIVERED_AFTER_S = 900  # usually five minutes
_THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})


def look_up(
    access: Access,
    start_ns: int,
    end_ns: int,
    *,
    tell: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
    client: Any = None,
) -> list[dict[str, Any]]:
    """Every record of the operations that move a pair, in a span.

    Args:
        access: Where and as whom to ask.
        start_ns: Unix epoch.
        end_ns: Likewise.
        tell: Gets a line of progress.
        sleep: Waits for the given seconds.
        client: A CloudTrail client instead of our own.

    Returns:
        The records as CloudTrail keeps them; unordered.

    Raises:
        PrivilegeError: Without credentials, or when the call is denied.
        PeerError: If CloudTrail cannot be reached, or throttles on.
        UsageError: Without a region.
    """
    span = {
        "StartTime": datetime.fromtimestamp(start_ns // 1_000_000_000 - MARGIN_S, UTC),
        "EndTime": datetime.fromtimestamp(end_ns // 1_000_000_000 + MARGIN_S + 1, UTC),
    }
    records: list[dict[str, Any]] = []
    try:
        asking = client or make_client(access, "cloudtrail", patience=PATIENT)
        for number, operation in enumerate((*TAKEOVER, *INSTANCE), 1):
            tell(f"asking CloudTrail for {operation} ({number} of {len(TAKEOVER) + len(INSTANCE)})")
            condition = {"AttributeKey": "EventName", "AttributeValue": operation}
            for answer in _answers(asking, {**span, "LookupAttributes": [condition], "MaxResults": 50}, sleep):
                records += [parsed for one in answer["Events"] if (parsed := _parsed(one)) is not None]
    except (ClientError, BotoCoreError) as error:
        raise explained(error, access, ACTION) from error
    return records


def _answers(client: Any, arguments: dict[str, Any], sleep: Callable[[float], None]) -> Iterator[Mapping[str, Any]]:
    token: dict[str, Any] = {}
    while True:
        answer = _patiently(client, {**arguments, **token}, sleep)
        yield answer
        sleep(GAP_S)
        if not answer.get("NextToken"):
            return
        token = {"NextToken": answer["NextToken"]}


def _patiently(client: Any, arguments: dict[str, Any], sleep: Callable[[float], None]) -> Mapping[str, Any]:
    for pause_s in PAUSES_S:
        try:
            answer: Mapping[str, Any] = client.lookup_events(**arguments)
            return answer
        except ClientError as error:
            if result_of(error) not in _THROTTLED:
                raise
        sleep(pause_s)
    last: Mapping[str, Any] = client.lookup_events(**arguments)
    return last


def _parsed(event: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(event.get("CloudTrailEvent") or "")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
