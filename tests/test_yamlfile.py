"""YAML with lines: what the parser and the file system complain about, and where things stood."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe import yamlfile
from probe.errors import ConfigError


def problem(raw: bytes | str) -> str:
    with pytest.raises(ConfigError) as caught:
        yamlfile.parse(raw, "f.yml")
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_every_value_knows_its_line() -> None:
    document = yamlfile.parse("a: 1\nb:\n  - x\n  - c: 2\n    d:\n      3\n", "f.yml")
    assert document.data == {"a": 1, "b": ["x", {"c": 2, "d": 3}]}
    assert [document.line(at) for at in [("a",), ("b",), ("b", 0), ("b", 1, "c"), ("b", 1, "d")]] == [1, 2, 3, 4, 5]


def test_what_is_not_there_stands_where_its_parent_does() -> None:
    document = yamlfile.parse("# comment\na:\n  b: 1\n", "f.yml")
    assert document.line(("a", "missing", 3)) == 2
    assert document.line(("missing",)) == 2
    assert yamlfile.parse("", "f.yml").line(("missing",)) == 1


def test_a_key_given_twice_is_told_with_both_lines() -> None:
    document = yamlfile.parse("a: 1\nb: {c: 1,\n  c: 2}\na: 3\n", "f.yml")
    assert str(document.errors(document.problems)) == (
        "f.yml:3: b.c: is given twice, first in line 2; allowed: b.c once\n"
        "f.yml:4: a: is given twice, first in line 1; allowed: a once"
    )


def test_merged_defaults_are_no_duplicates() -> None:
    document = yamlfile.parse("base: &base {x: 1, y: 2}\none:\n  <<: *base\n  y: 3\n", "f.yml")
    assert document.problems == []
    assert document.data["one"] == {"x": 1, "y": 3}


def test_problems_come_in_the_order_of_the_file_and_once() -> None:
    document = yamlfile.parse("a: 1\nb: 2\n", "f.yml")
    error = document.errors([(("b",), "late"), (("a",), "early"), (("b",), "late")])
    assert error.problems == ["f.yml:1: a: early", "f.yml:2: b: late"]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: b: c\n", 1),
        ("a: 1\n--- \nb: 2\n", 2),
        ("a: 1\nb: *nobody\n", 2),
        ("a: 1\nb: !!python/object:os.system x\n", 2),
        (b"a: 1\nb: \xff\n", 2),
        ("a: 1\nb: \x01\n", 2),
        ("a: &a [*a]\n", 1),
    ],
)
def test_broken_yaml_names_its_line_and_what_is_allowed(raw: bytes | str, line: int) -> None:
    text = problem(raw)
    assert text.startswith(f"f.yml:{line}: "), text
    assert "; allowed: " in text or "alias" in text


def test_hostile_files_end_in_a_message() -> None:
    assert "nested too deeply" in problem("[" * 5000)
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert "more than 100000 values" in problem(bomb)


@pytest.mark.parametrize(
    "value",
    [
        "2024-13-45",
        "!!timestamp soon",
        "!!bool perhaps",
        "!!int ''",
        ":".join(["1"] * 400) + ".5",
        "0x" + "f" * 5000,
        "9" * 5000,
        '"\\ud800"',
    ],
)
def test_what_no_value_can_hold_is_told_with_its_line(value: str) -> None:
    """A message could not quote the last three either."""
    text = problem(f"a: 1\nb: {value}\n")
    assert text.startswith("f.yml:2: is not valid YAML: "), text
    assert len(text) < 200


def test_an_escape_that_is_no_character_is_told() -> None:
    assert problem('a: "\\UFFFFFFFF"\n').startswith("f.yml:1: is not valid: ")


def test_keys_are_text() -> None:
    document = yamlfile.parse("a:\n  [1, 2]: 3\n", "f.yml")
    assert [text for _, text in document.problems] == ["has a key that is not text; allowed: plain names as keys"]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.yml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=what):
            yamlfile.read(path)
    big = tmp_path / "big.yml"
    big.write_bytes(b"#" * (yamlfile.MAX_OCTETS + 1))
    with pytest.raises(ConfigError, match="allowed: up to"):
        yamlfile.read(big)
