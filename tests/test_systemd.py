"""The systemd units and the Dockerfile: accepted by systemd, and starting commands that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from probe import cli

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def service() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / "haprobe.service")
    return parser


def installed(directory: Path, extra: str = "") -> list[str]:
    """Both units with an ExecStart that exists here; paths to hand to systemd-analyze."""
    text = (UNITS / "haprobe.service").read_text()
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
    (directory / "haprobe.service").write_text(text.replace("[Service]\n", f"[Service]\n{extra}"))
    shutil.copy(UNITS / "haprobe.socket", directory)
    return [str(directory / "haprobe.service"), str(directory / "haprobe.socket")]


def verify(files: list[str]) -> list[str]:
    """systemd's complaints about our units; its exit status is 0 even for unknown keys."""
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if "haprobe" in line]


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert verify(installed(tmp_path)) == []


@needs_systemd
def test_a_mistake_would_be_seen(tmp_path: Path) -> None:
    assert any("DynamicUsr" in line for line in verify(installed(tmp_path, "DynamicUsr=yes\n")))


@needs_systemd
def test_the_sandbox_stays_tight(tmp_path: Path) -> None:
    unit = installed(tmp_path)[0]
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "offline" in done.stderr and "unrecognized" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit offline")
    assert done.returncode == 0, done.stdout


def test_the_unit_grants_what_an_agent_needs_and_no_more() -> None:
    unit = service()["Service"]
    needed = {"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"}
    assert set(unit["AmbientCapabilities"].split()) == needed
    assert set(unit["CapabilityBoundingSet"].split()) == needed
    assert {"AF_PACKET", "AF_NETLINK"} <= set(unit["RestrictAddressFamilies"].split())
    # Reading the clock's error is a system call of the clock group, which @system-service lacks.
    assert "adjtimex" in unit["SystemCallFilter"]
    assert "ProtectClock" not in unit
    assert unit["LimitNICE"] == "-20", "or the engines could not come first"


def test_the_unit_starts_a_command_that_exists() -> None:
    program, *arguments = shlex.split(service()["Service"]["ExecStart"])
    assert Path(program).name == "haprobe"
    args = cli.build_parser().parse_args(arguments)
    assert (args.command, args.config_file) == ("run", "/etc/haprobe/haprobe.yml")


def test_the_socket_is_the_default_web_port() -> None:
    text = (UNITS / "haprobe.socket").read_text()
    assert f"ListenStream={cli.DEFAULT_WEB_ADDRESS.removeprefix(':')}\n" in text


def test_the_image_starts_a_command_that_exists() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["haprobe"\]$', text, re.MULTILINE)
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    assert cli.build_parser().parse_args(json.loads(command[1])).command == "run"


def test_the_image_copies_what_is_there_and_let_in() -> None:
    text = (ROOT / "Dockerfile").read_text()
    let_in = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in let_in, source
