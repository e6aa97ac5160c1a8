"""Runs read from S3: a real moto server behind the real SDK."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from probe import cli
from probe.errors import PeerError, UsageError
from probe.store import runs, s3
from tests.report.build import GOLDEN

BUCKET = "drills"


@pytest.fixture(name="environment")
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "DEFAULT_REGION": "eu-west-2"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture(name="endpoint", scope="module")
def _endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture(name="bucket")
def _bucket(environment: None, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with contextlib.closing(boto3.client("s3")) as client:
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-2"})
        yield client
        for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=one["Key"])
        client.delete_bucket(Bucket=BUCKET)


def put(bucket: Any, key: str, run: str = "") -> None:
    document = json.loads(GOLDEN.read_text())
    document["run"]["id"] = run or key
    bucket.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document))


def ids(url: str) -> list[str]:
    return [str(document["run"]["id"]) for document in runs.load_all(url)]


def test_runs_of_a_prefix_oldest_first(bucket: Any) -> None:
    for run in ("3", "1", "2"):
        put(bucket, f"7.6/{run}/report.json", run)
        bucket.put_object(Bucket=BUCKET, Key=f"7.6/{run}/report.html", Body=b"<html>")
    put(bucket, "7.6/.4.half/report.json")
    put(bucket, "7.6/deep/er/report.json")
    put(bucket, "7.60/1/report.json")
    bucket.put_object(Bucket=BUCKET, Key="7.6/notes/readme.txt", Body=b"")
    assert ids("s3://drills/7.6") == ids("s3://drills/7.6/") == ["1", "2", "3"]
    assert ids("s3://drills/7.6/2") == ids("s3://drills/7.6/2/report.json") == ["2"]
    assert runs.load("s3://drills/7.6/2")["run"]["id"] == "2"
    with pytest.raises(UsageError, match=r"s3://drills/7\.6: holds 3 runs, name one of them; the newest are 1, 2, 3"):
        runs.load("s3://drills/7.6")


def test_runs_at_the_top_of_a_bucket(bucket: Any) -> None:
    put(bucket, "a/report.json", "a")
    assert ids("s3://drills") == ids("s3://drills/") == ["a"]


def test_more_runs_than_a_page_holds(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(bucket, f"{number}/report.json", str(number))
    make = s3.make_client

    def sparing(*given: Any, **more: Any) -> Any:
        client = make(*given, **more)
        client.list_objects_v2 = functools.partial(client.list_objects_v2, MaxKeys=2)
        return client

    monkeypatch.setattr(s3, "make_client", sparing)
    assert ids("s3://drills") == ["0", "1", "2", "3", "4"]


def test_what_is_not_there_or_no_document_is_told(bucket: Any) -> None:
    with pytest.raises(UsageError, match=r"s3://drills/none: holds no run \(neither report.json nor \*/report.json\)"):
        runs.load_all("s3://drills/none")
    with pytest.raises(UsageError, match="s3://elsewhere: no such bucket"):
        runs.load_all("s3://elsewhere/runs")
    bucket.put_object(Bucket=BUCKET, Key="x/report.json", Body=b"{")
    with pytest.raises(UsageError, match=r"s3://drills/x/report\.json: not JSON"):
        runs.load_all("s3://drills/x")


def test_a_store_that_cannot_be_reached_is_a_missing_peer(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(PeerError, match="could not be reached for s3:ListBucket"):
        runs.load_all("s3://drills/x")


def test_compare_takes_prefixes(bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    put(bucket, "old/1/report.json", "1")
    put(bucket, "new/2/report.json", "2")
    assert cli.main(["compare", "s3://drills/old", "s3://drills/new"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["report", "s3://drills/old", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["id"] == "1"
