"""Formats and codings by what clients ask for."""

from __future__ import annotations

import pytest

from probe.export.collector import content_type
from probe.export.negotiation import prefers_openmetrics, takes_gzip

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
PROMETHEUS = {
    "1.8": f"{PROTOBUF};q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
    "2.4": "text/plain;version=0.0.4;q=1,*/*;q=0.1",
    "2.30": "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "2.42": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "2.49": "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "3.0": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
}
PROMETHEUS["3.0, native histograms"] = f"{PROTOBUF};q=0.7,{PROMETHEUS['3.0']}"


@pytest.mark.parametrize("version", PROMETHEUS)
def test_prometheus_gets_what_it_prefers_of_what_there_is(version: str) -> None:
    wants_openmetrics = version.startswith("3") or version in ("2.42", "2.49")
    assert prefers_openmetrics(PROMETHEUS[version]) is wants_openmetrics


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "Application/OpenMetrics-Text ; VERSION = 1.0.0",
        'application/openmetrics-text;version="1.0.0"',
        'application/openmetrics-text;version="1.\\0.0"',
        "application/openmetrics-text; version=1.0.0; charset=utf-8, */*;q=0.9",
        'text/html;title="a, \\", b;q=0",application/openmetrics-text',
        "text/plain;q=0.5, application/openmetrics-text;q=0.500",
        "application/openmetrics-text;q=0.1, text/plain;q=0, */*",
        ",, ;, application/openmetrics-text,",
    ],
)
def test_who_wants_openmetrics_gets_it(accept: str) -> None:
    assert prefers_openmetrics(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "text/html,application/xhtml+xml,*/*;q=0.8",
        "text/plain;q=1,application/openmetrics-text;q=0.1",
        "text/plain,application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.9,*/*",
        "application/openmetrics-text;q=0.5,text/*;q=0.6,*/*;q=0.1",
        "application/openmetrics-text;version=foo",
        "application/openmetrics-text;version=1.0.0-rc",
        "application/openmetrics-text;version=99.0",
        "application/openmetrics-text;version=0.0.1",
        'application/openmetrics-text;version="1.0.0',
        "application/openmetrics-text;q=high",
        "application/openmetrics-text;q=1.1",
        "application/openmetrics-text;q=inf",
        "application/openmetrics-textual",
        "text/plain;version=x",
        '"',
        ";=;",
    ],
)
def test_everybody_else_gets_text(accept: str) -> None:
    assert not prefers_openmetrics(accept)
    assert content_type(accept) == "text/plain; version=0.0.4; charset=utf-8"


def test_the_format_that_is_told_is_the_one_that_there_is() -> None:
    assert content_type(PROMETHEUS["3.0"]) == "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    ("accept_encoding", "taken"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZip;q=0.2", True),
        ("x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, deflate", False),
        ("gzip;q=lots", False),
        ("bgzip", False),
    ],
)
def test_gzip_comes_only_to_who_takes_it(accept_encoding: str, taken: bool) -> None:
    assert takes_gzip(accept_encoding) is taken
