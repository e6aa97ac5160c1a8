"""A real Prometheus on the loopback, for as long as a test needs it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

WITHIN_S = 60.0
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


class Prometheus:
    """A server that takes remote write. Its data outlives `kill`, as does its port.

    Args:
        directory: Its config and data.
        config: Its config file's content.
        wrap: Command line before its own, such as one that enters a namespace.
        near: Calls a function where the server can be reached.
    """

    def __init__(
        self,
        directory: Path,
        wrap: Sequence[str] = (),
        near: Callable[..., Any] = lambda call, *args: call(*args),
        config: str = "global: {}\n",
    ):
        self._directory, self._wrap, self._near = directory, wrap, near
        directory.mkdir(exist_ok=True)
        self.port = near(_free_port)
        self.url = f"http://127.0.0.1:{self.port}"
        (directory / "prometheus.yml").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *self._wrap,
                "prometheus",
                f"--config.file={self._directory}/prometheus.yml",
                f"--storage.tsdb.path={self._directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-remote-write-receiver",
                "--log.level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            try:
                if self._get("/-/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError("prometheus did not start")

    def kill(self) -> None:
        """End it at once (SIGKILL), without a chance to write anything more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def samples(self, query: str, at_s: float | None = None) -> dict[str, list[tuple[int, float]]]:
        """Raw samples of `series[range]`, as (ms, value), by the labels joined."""
        answer = self._get("/api/v1/query", {"query": query, **({"time": str(at_s)} if at_s else {})}).json()
        assert answer["status"] == "success", answer
        return {
            ",".join(f"{k}={v}" for k, v in sorted(one["metric"].items()) if k not in ("job", "instance")): [
                (round(float(at) * 1000), float(value)) for at, value in one["values"]
            ]
            for one in answer["data"]["result"]
        }

    def _get(self, path: str, parameters: dict[str, str] | None = None) -> httpx.Response:
        return self._near(lambda: httpx.get(f"{self.url}{path}", params=parameters, trust_env=False, timeout=30))


def _free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])
