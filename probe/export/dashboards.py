"""Writes out the Grafana dashboards, the Prometheus rules and the provisioning examples.

They are generated or written beforehand and shipped as they are; nothing here needs grafanalib. A wheel carries them
as package data, a checkout in `dashboards/`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from probe.errors import UsageError

_PACKAGE = Path(__file__).parents[1]
SHIPPED = (
    "haprobe-drill.json",
    "haprobe-flow.json",
    "haprobe-fleet.json",
    "haprobe-releases.json",
    "haprobe.rules.yml",
    "prometheus.yml",
    "docker-compose.yml",
    "provisioning/dashboards/haprobe.yml",
    "provisioning/datasources/haprobe.yml",
)


def source_directory() -> Path:
    """Where the files are: package data of a wheel, or the checkout's directory.

    Raises:
        UsageError: If this installation has neither.
    """
    for candidate in (_PACKAGE / "_dashboards", _PACKAGE.parent / "dashboards"):
        if (candidate / SHIPPED[0]).is_file():
            return candidate
    raise UsageError("this installation of haprobe carries no dashboards; install it from a wheel or run a checkout")


def write(out_dir: Path | str) -> list[Path]:
    """Copy everything into a directory, which is created; files of the same names are replaced.

    Returns:
        The files written.

    Raises:
        UsageError: If the directory cannot be written to.
    """
    source, target = source_directory(), Path(out_dir)
    try:
        return [_copied(source / name, target / name) for name in SHIPPED]
    except OSError as error:
        raise UsageError(f"--out: cannot write to {error.filename or target}: {error.strerror}") from error


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
