"""What `haprobe run` says to a config that it does not take: exit status 2, and where to look."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe import cli

GOOD = "flows:\n  - name: a\n    protocol: udp\n    target: 127.0.0.1\n"
# mistake: (file, line, field, part of what is said, part of what is allowed)
MISTAKES = {
    "wrong type": (
        GOOD + "    rate: fast\n",
        5,
        "flows[0].rate",
        "'fast' is not a number",
        "2000000 probes per second",
    ),
    "impossible rate": (GOOD + "    rate: 3000000\n", 5, "flows[0].rate", "out of range", "2000000 probes per second"),
    "no rate at all": (GOOD + "    rate: 0\n", 5, "flows[0].rate", "out of range", "0.001 to 2000000"),
    "unknown key": (GOOD + "    ratee: 5\n", 5, "flows[0].ratee", "did you mean rate?", "name, protocol, session"),
    "unknown host": (
        GOOD.replace("127.0.0.1", "no-such-host.invalid"),
        4,
        "flows[0].target",
        "'no-such-host.invalid' is unknown",
        "an IP address",
    ),
    "duplicate flow": (GOOD + GOOD.partition("\n")[2], 5, "flows[1].name", "also the name of flows[0]", "used once"),
    "duplicate of a twin": (
        GOOD + "    session: both\n  - {name: a-fresh, protocol: icmp, target: 127.0.0.1}\n",
        6,
        "flows[1].name",
        "made by session: both",
        "used once",
    ),
    "no port": (GOOD.replace("udp", "tcp"), 2, "flows[0].port", "no default port", "1 to 65535"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_a_mistake_is_told_with_file_line_and_field(
    mistake: str, check: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, line, field, said, allowed = MISTAKES[mistake]
    file = tmp_path / "agent.yml"
    file.write_text(text)
    options = ["--config.check"] if check else ["--journal.dir", str(tmp_path / "journal")]
    assert cli.main(["run", "--config.file", str(file), *options]) == 2
    out, err = capsys.readouterr()
    (message,) = [text for text in err.splitlines() if text.startswith("haprobe: ")]
    assert message.startswith(f"haprobe: {file}:{line}: {field}: ")
    told, _, offer = message.partition("; allowed: ")
    assert said in told
    assert allowed in offer
    assert out == ""
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("text", ["", "{}\n", "flows: []\n"])
def test_nothing_to_do_is_a_mistake(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "agent.yml"
    file.write_text(text)
    assert cli.main(["run", "--config.file", str(file), "--config.check"]) == 2
    assert capsys.readouterr().err.startswith(f"haprobe: {file}:1: ")
