"""The checkout's own commands and locks: `make drill` and `make test` on a fresh machine lean on these."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "lock").glob("*.txt"))


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


def pins(lock: Path) -> dict[str, set[str]]:
    """Versions by project; a universal lock may hold several, for different Pythons."""
    found: dict[str, set[str]] = {}
    for project, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", lock.read_text(), re.MULTILINE):
        found.setdefault(project.lower(), set()).add(version)
    return found


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", text)[0].lower().replace("_", "-") for text in requirements}


# --- locks ---------------------------------------------------------------------------------------------------------


def test_there_is_a_lock_for_each_use() -> None:
    assert [lock.stem for lock in LOCKS] == ["agent", "build", "dev", "lab"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_everything_by_hash_and_names_no_place(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]*\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_locks_hold_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    agent = declared(project["project"]["dependencies"])
    lab = declared(project["project"]["optional-dependencies"]["lab"])
    groups = project["dependency-groups"]
    locked = {lock.stem: pins(lock) for lock in LOCKS}
    assert agent <= set(locked["agent"])
    assert not lab & set(locked["agent"]), "the lab's packages stay out of an agent"
    assert agent | lab | declared(groups["build"]) <= set(locked["lab"])
    assert declared(groups["dev"]) | set(locked["lab"]) <= set(locked["dev"])
    assert declared(groups["build"]) <= set(locked["build"])


def test_locks_agree() -> None:
    dev = pins(ROOT / "lock/dev.txt")
    for lock in LOCKS:
        differing = {name for name, versions in pins(lock).items() if dev[name] != versions}
        assert differing == set(), lock.stem


# --- scripts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", ["tools/packages", "tools/python", "tools/venv", "tools/node", "tools/lock", ".ci/run"]
)
def test_scripts_are_sound_bash_and_may_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert run("bash", "-n", script).returncode == 0
    assert "set -euo pipefail" in (ROOT / script).read_text()


def test_a_given_python_is_taken() -> None:
    done = run("tools/python", PYTHON=sys.executable)
    if "no module ensurepip" in done.stderr:
        pytest.skip("this Python came without venv")
    assert (done.returncode, done.stdout) == (0, f"{sys.executable}\n")


def test_a_python_that_does_not_do_is_refused_with_the_reason(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 'is Python 3.9' >&2\nexit 1\n")
    old.chmod(0o755)
    done = run("tools/python", PYTHON=str(old))
    assert done.returncode == 2
    assert "is Python 3.9" in done.stderr
    assert "allowed: Python 3.11 or newer with venv" in done.stderr


def test_without_any_python_the_message_says_what_to_install(tmp_path: Path) -> None:
    for program in ("bash", "env", "tail"):
        (tmp_path / program).symlink_to(
            f"/bin/{program}" if Path(f"/bin/{program}").exists() else f"/usr/bin/{program}"
        )
    done = run("/bin/bash", "tools/python", PATH=str(tmp_path), PYTHON="")
    assert done.returncode == 2
    assert "apt-get install python3 python3-venv" in done.stderr


def test_packages_leave_a_complete_machine_alone(tmp_path: Path) -> None:
    """All programs are there, apt-get is not: it must not be missed."""
    programs = "ip nft conntrack conntrackd ethtool sysctl promtool sshd ssh node npm chromium"
    for program in programs.split():
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for program in ("bash", "dirname", "env"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    done = run("/bin/bash", "tools/packages", "lab", "test", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_packages_know_their_groups() -> None:
    done = run("tools/packages", "kitchen")
    assert done.returncode == 2
    assert "allowed: python lab test" in done.stderr


def test_make_lists_its_commands() -> None:
    done = run("make", "--no-print-directory")
    assert done.returncode == 0
    for command in ("drill", "test", "check", "clean", "lock"):
        assert f"make {command} " in done.stdout
