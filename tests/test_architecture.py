"""The invariants of ARCHITECTURE.md, read from the imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROBE = ROOT / "probe"
MODULES = sorted(PROBE.rglob("*.py"))

# What each part must not import: these (and everything below them) are absent there.
CLOCKS_AND_SOCKETS = {"socket", "select", "selectors", "time", "probe.clock"}
THREADS = {"threading", "multiprocessing", "concurrent", "asyncio", "subprocess", "signal"}
OUTSIDE = {
    "boto3",
    "botocore",
    "pyroute2",
    "prometheus_client",
    "scapy",
    "starlette",
    "uvicorn",
    "httpx",
    "asyncssh",
    "rich",
    "pyarrow",
}
ABSENT = {
    "core": CLOCKS_AND_SOCKETS | THREADS | OUTSIDE,
    "wire": CLOCKS_AND_SOCKETS | THREADS | OUTSIDE,
    "session": OUTSIDE,
    "link": OUTSIDE,
    "engine.py": OUTSIDE,
}
EXCEPTIONS = {
    "link/path.py": {"pyroute2"},  # runs in the control process: routes and neighbours
    "link/neighbour.py": {"pyroute2"},  # the same, for path.py
    "link/offload.py": {"pyroute2"},  # runs in the control process: before an engine starts
    "wire/craft.py": {"scapy"},  # runs in the control process: builds each flow's template once
}

# What only these parts may import.
ONLY = {
    "boto3": ("watch/", "lab/", "drill/triggers"),
    "botocore": ("watch/", "lab/", "drill/triggers", "store/s3.py"),
    "moto": ("lab/",),
    "asyncssh": ("watch/", "lab/"),
    "httpx": ("watch/", "drill/", "export/remote_client.py"),
    "prometheus_client": ("export/",),
    "pyarrow": ("store/",),
    "pyroute2.netns": ("lab/",),
    "starlette": ("export/",),
    "uvicorn": ("export/",),
    "probe.lab": ("lab/", "drill/", "commands.py"),
    "probe.agent": ("agent.py", "commands.py"),
}

# Of our own packages, what these know.
KNOWS = {
    "core": ("probe.core", "probe.errors"),
    "wire": ("probe.wire", "probe.core", "probe.errors"),
}


def name(file: Path) -> str:
    return file.relative_to(PROBE).as_posix()


def imports(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file; `from a import b` counts as a and a.b."""
    package = ("probe", *file.relative_to(PROBE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(module: str, parents: set[str] | tuple[str, ...]) -> bool:
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


def test_there_is_something_to_read() -> None:
    assert len(MODULES) > 20
    assert "numpy" in {found for file in MODULES for found in imports(file)}


@pytest.mark.parametrize("part", ABSENT)
def test_what_is_absent_stays_absent(part: str) -> None:
    offenders = [
        f"{name(file)} imports {module}"
        for file in MODULES
        if name(file) == part or name(file).startswith(f"{part}/")
        for module in imports(file)
        if within(module, ABSENT[part] - EXCEPTIONS.get(name(file), set()))
    ]
    assert offenders == []


@pytest.mark.parametrize("module", ONLY)
def test_the_outside_is_known_where_it_belongs(module: str) -> None:
    offenders = {name(file) for file in MODULES if any(within(found, {module}) for found in imports(file))}
    assert {file for file in offenders if not file.startswith(ONLY[module])} == set()


@pytest.mark.parametrize("part", KNOWS)
def test_the_inside_does_not_know_the_outside(part: str) -> None:
    offenders = [
        f"{name(file)} imports {module}"
        for file in (PROBE / part).rglob("*.py")
        for module in imports(file)
        if within(module, {"probe"}) and module != "probe" and not within(module, KNOWS[part])
    ]
    assert offenders == []


def test_the_engine_loads_nothing_heavy() -> None:
    """Through all that its imports import: what the engine process holds is numpy and ours."""
    inner = [file for file in MODULES if name(file).startswith(("core/", "wire/", "session/", "link/"))]
    inner += [file for file in [PROBE / "engine.py"] if file.exists()]
    dotted = sorted(
        "probe." + name(file).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for file in inner
        if name(file) not in EXCEPTIONS
    )
    load = f"for module in {dotted!r}: importlib.import_module(module)"
    code = f"import importlib, json, sys\n{load}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {module.split(".")[0] for module in json.loads(done.stdout)} & (OUTSIDE | {"pydantic", "yaml", "moto"})
    assert heavy == set()
