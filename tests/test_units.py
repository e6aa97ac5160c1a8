"""Durations in, durations out."""

from __future__ import annotations

import pytest

from probe.units import format_duration, parse_duration_ns, parse_seconds_ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("250ms", 250_000_000),
        ("2s", 2_000_000_000),
        ("1.5s", 1_500_000_000),
        ("0.1s", 100_000_000),
        ("5m", 300_000_000_000),
        ("1h", 3_600_000_000_000),
        ("40us", 40_000),
    ],
)
def test_a_duration_has_a_unit(text: str, ns: int) -> None:
    assert parse_duration_ns(text) == ns
    assert parse_seconds_ns(text) == ns


@pytest.mark.parametrize("text", ["", "2", "s", "2 s", "-2s", "2S", "2sec", "1m30s", "1e3s", "٢s", "2s\n3s"])
def test_nothing_else_is_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; allowed: a number with a unit, such as 250ms"):
        parse_duration_ns(text)


def test_a_bare_number_means_seconds_on_the_command_line_only() -> None:
    assert parse_seconds_ns("10") == 10_000_000_000
    assert parse_seconds_ns("0.25") == 250_000_000
    for text in ("-1", "nan", "inf", "1e3", "ten"):
        with pytest.raises(ValueError, match="allowed: seconds, such as 10"):
            parse_seconds_ns(text)


@pytest.mark.parametrize("text", ["9" * 400 + "s", "9" * 5000 + ".5us", "99999999999999h"])
def test_the_longest_duration_is_one_that_no_bound_lets_pass(text: str) -> None:
    assert parse_duration_ns(text) == parse_seconds_ns(text) == 2**63


@pytest.mark.parametrize("text", ["250ms", "2s", "90s", "5m", "1h", "40us", "1500ms"])
def test_a_duration_is_printed_as_it_would_be_written(text: str) -> None:
    assert format_duration(parse_duration_ns(text) / 1e9) == text


def test_no_time_at_all_is_printed_in_seconds() -> None:
    assert format_duration(0) == "0s"
