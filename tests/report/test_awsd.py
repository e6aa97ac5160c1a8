"""A capture of awsd as text and JSON, its page of documentation, and the command from end to end."""

from __future__ import annotations

import io
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from probe import cli
from probe.report import awsd as report
from probe.report import awsd_page
from probe.watch import awsd

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "tests/watch/awsd").glob("*.txt"))
TWO_EIPS = (ROOT / "tests/watch/awsd/two-eips.txt").read_text()
REFUSED = TWO_EIPS.replace(
    "awsd update route successfully\n",
    "aws curl response err, 403\n"
    "<Response><Errors><Error><Code>Unauthorized\nOperation</Code><Message>You are not auth\norized.</Message>"
    "</Error></Errors></Response>\n",
)
SHOWN = re.compile(r" *(\d+) \| (.*)")


def printed(text: str, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    report.render(awsd.read(text), console)
    return file.getvalue()


def shown_lines(output: str) -> list[tuple[int, str]]:
    return [(int(found[1]), found[2]) for line in output.split("\n") if (found := SHOWN.fullmatch(line))]


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["explain", "awsd", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_is_printed_once_and_verbatim(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert shown_lines(printed(file.read_text())) == list(enumerate(lines, 1))


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"], include_characters="\t\n")))
def test_any_printable_text_is_printed_once_and_verbatim(text: str) -> None:
    lines = text.split("\n")[: text.count("\n") + (text[-1:] not in ("", "\n"))]
    assert shown_lines(printed(text)) == list(enumerate(lines, 1))


@given(st.text())
def test_no_text_can_steer_the_terminal(text: str) -> None:
    output = printed(text)
    assert len(shown_lines(output)) == len(awsd.read(text).lines)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", output)


def test_control_characters_are_shown_and_said_to_be_there() -> None:
    output = printed("\x1b[31mHA\x00 event\n")
    assert "1 | \u241b[31mHA\u2400 event" in output
    assert "ha_event" in output
    assert "control sequences in the line" in output


def test_each_annotation_stands_below_its_line() -> None:
    lines = printed(REFUSED).split("\n")
    below = dict(pairwise(lines))
    asked = next(line for line in lines if "replace route of dst" in line)
    assert ": route_asked: ReplaceRoute is sent" in below[asked]
    assert "[route_table rtb-0ddbb1a18adf410da, destination 0.0.0.0/0, eni eni-0a873113b231370aa]" in below[asked]
    assert "-> opens operation 3: failed: 403 UnauthorizedOperation in line 22" in below[asked]
    assert "-> fails operation 3" in below["22 | aws curl response err, 403"]


def test_a_refusal_comes_with_what_to_check_and_the_sentence_is_last() -> None:
    output = printed(REFUSED)
    assert "line 22: 403 UnauthorizedOperation, operation 3, ec2:ReplaceRoute" in output
    assert "The API says: You are not authorized." in output
    assert "check: IAM: does the role poc-fgcp-stack-InstanceRole-135R7XTP0VI9T allow ec2:ReplaceRoute" in output
    assert "2 of 2 elastic IPs and 0 of 1 route confirmed" in output.rstrip().split("\n")[-1]


def test_operations_tell_their_lines_and_times() -> None:
    stamped = "".join(f"2024-09-06 21:28:{n:02} {line}\n" for n, line in enumerate(TWO_EIPS.splitlines()) if line)
    output = printed(stamped)
    assert "1. elastic IP 52.9.98.191 to 10.0.10.10 of eni-08bfa15d84e7cdea8" in output
    assert "asked in line 14, confirmed in line 15 after 1 s" in output
    assert "console time 2024-09-06 21:28:00 to 2024-09-06 21:28:21" in output
    assert "role change to last confirmation 19 s" in output


def test_the_pair_is_shown() -> None:
    output = printed((ROOT / "tests/watch/awsd/pair.txt").read_text())
    assert "this unit: secondary, i-0546a8af26dd17c3a" in output
    assert "10.0.1.11 (elastic IP 54.241.9.229)" in output
    assert "route table rtb-0ddbb1a18adf410da: 0.0.0.0/0 via eni-06afe987156a7f801" in output


def test_on_a_terminal_annotations_are_wrapped_and_lines_are_not() -> None:
    output = re.sub(r"\x1b\[[0-9;]*m", "", printed(REFUSED, 60, terminal=True))
    assert shown_lines(output) == list(enumerate(REFUSED.splitlines(), 1))
    assert max(len(line) for line in output.split("\n") if re.match(" +:", line)) <= 60


def test_json_holds_the_input_and_everything_said_about_it() -> None:
    text = REFUSED.replace("\n", "\r\n") + "\x00\x1b[0m\ufffd end"
    document: dict[str, Any] = json.loads(report.to_json(awsd.read(text)))
    assert "".join(line["text"] + line["ending"] for line in document["lines"]) == text
    assert [(one["kind"], one["state"]) for one in document["operations"]] == [
        ("associate elastic ip", "confirmed"),
        ("associate elastic ip", "confirmed"),
        ("update route", "failed"),
    ]
    assert document["operations"][2]["outcome"] == "failed: 403 UnauthorizedOperation"
    assert document["errors"][0]["code"] == "UnauthorizedOperation"
    assert document["errors"][0]["actions"] == ["ec2:ReplaceRoute"]
    assert document["summary"]["outcome"] == "incomplete"
    assert document["roles"][0]["role"] == "primary"
    assert document["format"] == report.FORMAT


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "capture"
    file.write_bytes(TWO_EIPS.removeprefix("Fgt2 # awsd").encode(encoding))
    status, out, _ = explain(capsys, str(file), "--json")
    document = json.loads(out)
    assert (status, [one["state"] for one in document["operations"]]) == (0, ["confirmed"] * 3)
    assert [line["text"] for line in document["lines"]][1:] == TWO_EIPS.splitlines()[1:]


def test_undecodable_bytes_are_replaced_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "capture"
    file.write_bytes(b"HA event\nawsd \xff\xfe\nHA state: primary\n")
    status, out, _ = explain(capsys, str(file))
    assert status == 0
    assert "2 | awsd \ufffd\ufffd\n" in out
    assert out.count("undecodable bytes") == 1


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(REFUSED.encode())))
    status, out, _ = explain(capsys, "-")
    assert (status, shown_lines(out)) == (0, list(enumerate(REFUSED.splitlines(), 1)))


@pytest.mark.parametrize("content", [b"", b"\x00" * 99, bytes(range(256)), b"nothing of the kind"])
def test_whatever_is_readable_ends_in_0(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "capture"
    file.write_bytes(content)
    status, out, err = explain(capsys, str(file))
    assert (status, err) == (0, "")
    assert "No line of this text is awsd output" in out


def test_what_is_not_readable_ends_in_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as a service without one has it
    for file in (tmp_path, tmp_path / "none", Path("-")):
        status, out, err = explain(capsys, str(file))
        assert (status, out) == (2, "")
        assert f"{file} cannot be read: " in err
        assert "allowed: " in err


def test_other_words_end_in_2_and_tell_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "azd", "-"]) == 2
    assert "invalid choice: 'azd' (choose from" in capsys.readouterr().err


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/awsd.md").read_text() == awsd_page.markdown(), "run `make docs`"
