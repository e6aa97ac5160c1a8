"""The documentation: links lead somewhere, commands parse, configs load, pictures are there.

What a command line of the documentation does is shown by the tests of that command; here it has to be one.
"""

from __future__ import annotations

import argparse
import re
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from probe import cli, config
from probe.report import model_page
from probe.report.budgets import load_budgets

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.yml"))
PICTURES = ROOT / "docs/pictures"
MOST_OCTETS = 200_000  # of one picture
SECRETS = "/etc/haprobe/"  # where the example configs keep them

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
OPTIONS_OF_YAML = {"flows", "reflector", "engines", "watchers", "remote_write", "agents", "drill"}

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def fences(page: Path, *languages: str) -> Iterator[str]:
    """Its code blocks of some languages."""
    yield from (body for language, body in FENCE.findall(page.read_text()) if language in languages)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    found = set()
    for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower())
        found.add(words.strip().replace(" ", "-"))
    return found


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of every `haprobe` command line in a block."""
    for block in fences(page, "", "sh", "console"):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if re.match(r"\s*(\$ )?(sudo )?haprobe ", line):
                yield shlex.split(line.split("haprobe ", 1)[1], comments=True)


def mentions(page: Path) -> Iterator[list[str]]:
    """The words after `haprobe` of every mention in the text: perhaps a command without what it needs."""
    for span in re.findall(r"`haprobe ([a-z][^`]*)`", prose(page).replace("\n", " ")):
        yield span.split()


def vocabulary(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Options of each command, those of its own commands included."""
    (commands,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found = {}
    for name, command in commands.items():
        inner = [a.choices.values() for a in command._actions if isinstance(a, argparse._SubParsersAction)]
        parsers = [command, *(one for ones in inner for one in ones)]
        found[name] = {option for one in parsers for action in one._actions for option in action.option_strings}
    return found


# --- links and commands ----------------------------------------------------------------------------------------------


@by_name
def test_links_lead_somewhere(page: Path) -> None:
    for _, text, target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: [{text}]({target})"
        assert not anchor or anchor in anchors(file), f"{page.name}: [{text}]({target}) among {anchors(file)}"


@by_name
def test_command_lines_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.build_parser()
    for arguments in command_lines(page):
        try:
            parser.parse_args(arguments)
        except SystemExit as stop:
            assert not stop.code, f"{page.name}: haprobe {shlex.join(arguments)}: {capsys.readouterr().err}"


@by_name
def test_commands_and_options_that_are_mentioned_exist(page: Path) -> None:
    known = vocabulary(cli.build_parser())
    for name, *words in mentions(page):
        assert name in known, f"{page.name}: haprobe {name}"
        options = {word.split("=")[0] for word in words if word.startswith("-")} - {"-"}
        assert options <= known[name], f"{page.name}: haprobe {name} {' '.join(words)}"


def test_a_wrong_command_would_be_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `haprobe lab up --keep`.\n\n```\nsudo haprobe drill --lab \\\n    --scenari x  # no such\n```\n"
    )
    assert list(command_lines(page)) == [["drill", "--lab", "--scenari", "x"]]
    with pytest.raises(AssertionError, match="scenari"):
        test_command_lines_parse(page, capsys)
    with pytest.raises(AssertionError, match="keep"):
        test_commands_and_options_that_are_mentioned_exist(page)


@by_name
def test_make_has_what_is_named(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", prose(page)))
    named |= {name for block in fences(page, "") for name in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)}
    assert named <= targets


# --- configs ---------------------------------------------------------------------------------------------------------


def yaml_blocks() -> list[Any]:
    """YAML in the pages, whole files or parts of one."""
    return [
        pytest.param(body, id=f"{page.name}-{number}")
        for page in PAGES
        for number, body in enumerate(fences(page, "yaml"))
    ]


@pytest.mark.parametrize("body", yaml_blocks())
def test_yaml_in_the_text_is_understood(body: str, tmp_path: Path) -> None:
    """Parts are completed with the agents that a drill needs, or something to write of, and else loaded as they are."""
    parsed = yaml.safe_load(body)
    file = tmp_path / "part.yml"
    if isinstance(parsed, list):
        file.write_text(body)
        assert load_budgets(file)
        return
    assert set(parsed) <= OPTIONS_OF_YAML
    if "drill" in parsed and "agents" not in parsed:
        body += "\nagents: {workload-a: {url: 'http://10.99.98.10:10862'}}\n"
    if set(parsed) == {"remote_write"}:
        body += "\nreflector: {udp: 862}\n"
    file.write_text(body)
    assert config.load(file, need="any")


def installed(example: Path, directory: Path) -> Path:
    """An example with the files that it names."""
    text = example.read_text()
    for name in re.findall(rf"{SECRETS}([\w.-]+)", text):
        (directory / name).write_text("secret")
    file = directory / example.name
    file.write_text(text.replace(SECRETS, f"{directory}/"))
    return file


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.stem != "budget"], ids=lambda example: example.stem)
def test_the_runbooks_configs_pass_the_check(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = installed(example, tmp_path)
    assert cli.main(["run", "--config.file", str(file), "--config.check"]) == 0, capsys.readouterr().err
    assert "ok" in capsys.readouterr().out


def test_the_runbooks_drill_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = installed(ROOT / "docs/examples/jumphost.yml", tmp_path)
    command = ["drill", "--config.file", str(file), "--dry-run", "--out", str(tmp_path / "runs")]
    assert cli.main([*command, "--budget", str(ROOT / "docs/examples/budget.yml")]) == 0
    assert "execute ha failover set 1" in capsys.readouterr().out


def test_the_runbooks_configs_fit_together(tmp_path: Path) -> None:
    """Each flow's target has the reflector that answers it, on that port, and lets the path's sources in."""
    loaded = {e.stem: config.load(installed(e, tmp_path), need="any") for e in EXAMPLES if e.stem != "budget"}
    host_of = {
        "10.99.98.10": "workload-a",
        "10.99.97.10": "workload-b",
        "198.51.100.20": "jumphost",
        "203.0.113.10": "workload-a",  # behind the cluster's address, by the runbook's VIPs
    }
    for name, agent in loaded.items():
        for flow in agent.flows:
            reflector = loaded[host_of[flow.target]].reflector
            assert reflector is not None
            wanted = {"icmp": None, "udp": reflector.udp, "tcp": reflector.tcp}[flow.protocol]
            if flow.stack == "kernel":
                wanted = reflector.echo
            assert flow.port == wanted or (flow.protocol == "udp" and flow.port is None and wanted == 862), flow.name
            assert host_of[flow.target] != name
    assert set(loaded) <= set(loaded["jumphost"].agents)


# --- generated pages and pictures ------------------------------------------------------------------------------------


def test_the_page_of_fields_is_current() -> None:
    assert (ROOT / "docs/result.md").read_text() == model_page.markdown(), "run `make docs`"


def test_pictures_are_small_described_and_fetch_nothing() -> None:
    files = {file.name: file for file in PICTURES.iterdir()}
    shown = {}
    for page in PAGES:
        for sign, text, target in LINK.findall(prose(page)):
            if sign:
                shown[Path(target).name] = text
    assert set(files) == set(shown), "a picture that no page shows, or the other way round"
    for name, file in files.items():
        assert len(shown[name]) > 40, f"{name}: says what is to be seen to whoever does not see it"
        content = file.read_bytes()
        assert 1_000 < len(content) < MOST_OCTETS
        if file.suffix == ".png":
            assert content.startswith(b"\x89PNG")
            assert struct.unpack(">II", content[16:24]) > (600, 300)
        else:
            assert not re.search(r"url\([\"']?http|href|@import|<script", content.decode())
