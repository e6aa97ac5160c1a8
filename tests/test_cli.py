"""The command line: what each command is called with, its exit status, and what stays silent.

Where a test is about the command line alone, the callee is a stand-in.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from probe import __version__, cli, commands, errors
from probe.supervise import Placement
from probe.targets import Target
from tests.report import build
from tests.report.test_compare import run_with

ROOT = Path(__file__).parent.parent


class Callee:
    """Stands in for a function of a module: keeps how it was called, answers or raises as told."""

    def __init__(self, answer: Any = 0):
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    @property
    def only(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert len(self.calls) == 1
        return self.calls[0]


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Any:
    """replace("probe.x", "name", answer): puts a stand-in module with a stand-in function in place."""

    def put(module: str, name: str, answer: Any = 0) -> Callee:
        callee, stand_in = Callee(answer), ModuleType(module)
        setattr(stand_in, name, callee)
        monkeypatch.setitem(sys.modules, module, stand_in)
        package, _, last = module.rpartition(".")
        __import__(package)
        monkeypatch.setattr(sys.modules[package], last, stand_in, raising=False)
        return callee

    return put


# --- the program itself --------------------------------------------------------------------------------------------


def test_help_lists_every_command_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in commands.COMMANDS:
        assert f"\n    {command}" in text
    assert " ".join(text.split()).count("(not available in this version)") == 0


def test_help_is_quick() -> None:
    """Nothing heavy may be imported for it; the bound is generous, numpy or pydantic alone would break it."""
    code = "import sys; from probe import cli; cli.main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert not loaded & {"numpy", "pydantic", "scapy", "boto3", "rich", "yaml", "pyroute2", "starlette"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "probe.cli", "--help"], capture_output=True, check=True, cwd=ROOT)
    assert time.perf_counter() - began < 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"haprobe {__version__}\n"


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"usage: haprobe {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["measure"],
        ["run", "--config.fil", "x"],
        ["drill"],
        ["drill", "--lab", "--config.file", "x"],
        ["drill", "--lab", "--label", "novalue"],
        ["drill", "--lab", "--label", "k=\x1b[1m"],
        ["drill", "--lab", "--label", "k=\udcff"],
        ["drill", "--lab", "--repeat", "0"],
        ["drill", "--lab", "--session-pickup", "maybe"],
        ["drill", "--lab", "--api-latency", "soon"],
        ["lab"],
        ["lab", "failover", "--crash", "--unset"],
        ["reflect", "--udp", "70000"],
        ["reflect", "--key-file", "k"],
        ["measure", "http://host"],
        ["measure", "icmp://host", "--rate", "0"],
        ["measure", "icmp://host", "--rate", "1e-300"],
        ["measure", "icmp://host", "--rate", "2000001"],
        ["measure", "icmp://host", "--rate", "nan"],
        ["measure", "icmp://host", "--duration", "0"],
        ["measure", "icmp://host", "--duration", "-1"],
        ["measure", "icmp://host", "--duration", "9" * 400],
        ["measure", "icmp://host", "--duration", "9" * 400 + "s"],
        ["measure", "icmp://host", "--json", "n" * 300],
        ["measure", "icmp://host", "--loss-threshold", "61"],
        ["measure", "icmp://host", "--path", "a b"],
        ["measure", "icmp://host", "--session", "old"],
        ["report"],
        ["report", "n" * 300],
        ["report", str(build.GOLDEN), "--html", "n" * 300],
        ["bench", "--max-rate", "0"],
        ["bench", "--seconds-per-step", "0.5"],
        ["bench", "--json", "no/such/file"],
        ["explain"],
        ["explain", "awsd"],
        ["explain", "dnsd", "-"],
        ["explain", "awsd", "no/such/file"],
        ["explain", "awsd", "."],
        ["discover"],
        ["discover", "gcp"],
        ["discover", "aws", "--tag", "novalue"],
        ["discover", "aws", "--out", "n" * 300],
        ["compare", "a"],
        ["compare", "no/such/runs", "b", "--html", "f"],
        ["compare", "s3:///runs", "b"],
        ["report", "s3://bucket/run", "--backfill"],
    ],
)
def test_bad_usage_exits_2_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.HaprobeError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.ConfigError(["x", "y"]), 2),
        (errors.PrivilegeError("x"), 3),
        (errors.NoFailoverError("x"), 4),
        (errors.PeerError("x"), 5),
        (errors.SteadyStateError("x"), 5),
    ],
)
def test_errors_for_the_user_have_their_status_and_no_traceback(
    error: errors.HaprobeError, status: int, replace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    replace("probe.drill.run", "drill_command", error)
    assert cli.main(["drill", "--lab"]) == status
    assert capsys.readouterr().err == f"haprobe: {error}\n"


@pytest.mark.parametrize("where", ["full", "closed"])
def test_a_stdout_that_takes_nothing_ends_without_a_traceback(where: str) -> None:
    argv = [sys.executable, "-m", "probe.cli", "report", "--schema"]
    if where == "full":
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                argv, check=False, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True, timeout=60
            )
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert ended.stderr.startswith("haprobe: a result could not be written: ")
    else:
        shell = ["sh", "-c", 'exec "$@" >&-', "sh", *argv]
        ended = subprocess.run(shell, check=False, stderr=subprocess.PIPE, cwd=ROOT, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_without_our_signs_shows_the_rest(encoding: str) -> None:
    shown = run_with_encoding(encoding, "report", str(build.GOLDEN)).decode(encoding)
    assert ("↻ survived" if encoding == "utf-8" else r"\u21bb survived") in shown


@pytest.mark.parametrize("option", ["--html", "--json", "--openmetrics"])
def test_a_document_on_stdout_is_utf8_whatever_the_terminal(option: str, tmp_path: Path) -> None:
    document = json.loads(build.GOLDEN.read_text())
    document["run"]["labels"]["scenario"] = "Zoë ↻"
    (tmp_path / "run.json").write_text(json.dumps(document))
    written = run_with_encoding("latin-1", "report", str(tmp_path / "run.json"), option, "-")
    run_with_encoding("latin-1", "report", str(tmp_path / "run.json"), option, str(tmp_path / "file"))
    assert "Zoë ↻" in written.decode("utf-8")
    assert written.rstrip() == (tmp_path / "file").read_bytes().rstrip()


def run_with_encoding(encoding: str, *arguments: str) -> bytes:
    """What haprobe prints on a terminal of that encoding, 200 columns wide."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    argv = [sys.executable, "-m", "probe.cli", *arguments]
    done = subprocess.run(argv, check=False, capture_output=True, cwd=ROOT, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_ctrl_c_before_the_command_is_known_ends_as_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupted)
    assert cli.main(["drill", "--lab"]) == 130
    assert capsys.readouterr().err == "haprobe: interrupted\n"


def test_ctrl_c_ends_without_a_traceback(replace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    replace("probe.drill.run", "drill_command", KeyboardInterrupt())
    assert cli.main(["drill", "--lab"]) == 130
    assert capsys.readouterr().err == "haprobe: interrupted\n"


def test_a_mistake_of_ours_keeps_its_traceback(replace: Any) -> None:
    replace("probe.drill.run", "drill_command", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["drill", "--lab"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`haprobe ... | head`: silent, with the status of SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "probe.cli", "preflight"]
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, "")


@pytest.mark.parametrize(
    ("arguments", "quiet"),
    [(["drill", "--lab"], False), (["-q", "drill", "--lab"], True), (["drill", "--lab", "-q"], True)],
)
def test_quiet_may_stand_before_or_after_the_command(arguments: list[str], quiet: bool) -> None:
    assert cli.build_parser().parse_args(arguments).quiet is quiet


# --- commands ------------------------------------------------------------------------------------------------------


def test_run_hands_over_its_paths(replace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/haprobe")
    run = replace("probe.agent", "run", None)
    assert cli.main(["run", "--config.file", "f.yml"]) == 0
    assert run.only == ((Path("f.yml"), ":10862", None, Path("/var/lib/haprobe")), {})


def test_run_takes_every_option(replace: Any) -> None:
    run = replace("probe.agent", "run", 0)
    options = ["--web.listen-address", "127.0.0.1:9", "--web.config.file", "w.yml", "--journal.dir", "d"]
    assert cli.main(["run", "--config.file", "f.yml", *options]) == 0
    assert run.only == ((Path("f.yml"), "127.0.0.1:9", Path("w.yml"), Path("d")), {})


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/root"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/state", "HOME": "/root"}, "/state/haprobe/10862"),
        ({"HOME": "/home/u"}, "/home/u/.local/state/haprobe/10862"),
    ],
)
def test_the_journal_has_a_place_of_its_own(environment: dict[str, str], directory: str) -> None:
    assert commands.default_journal_dir(":10862", environment) == Path(directory)


def test_config_check_is_quiet_about_a_sound_file(capsys: pytest.CaptureFixture[str]) -> None:
    sample = str(ROOT / "systemd/haprobe.yml")
    assert cli.main(["run", "--config.file", sample, "--config.check"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"{sample}: ok, 7 flows\n", "")


def test_config_check_tells_every_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.yml"
    file.write_text(
        "flows:\n  - {name: a, protocol: icmp, target: 192.0.2.1, ttl: 0}\n  - {name: a, protocol: icmp, target: h}\n"
    )
    assert cli.main(["run", "--config.file", str(file), "--config.check"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"haprobe: {file}:2: flows[0].ttl: 0 is out of range; allowed: 1 to 255"
    assert second == f"{file}:3: flows[1].name: a is also the name of flows[0]; allowed: a name used once"


def test_measure_has_defaults(replace: Any) -> None:
    measure = replace("probe.measure", "measure", 0)
    assert cli.main(["measure", "icmp://192.0.2.1", "udp://[::1]", "tcp://host:22"]) == 0
    args, named = measure.only
    assert args == ([Target("icmp", "192.0.2.1"), Target("udp", "::1", 862), Target("tcp", "host", 22)],)
    assert named == {
        "rate_pps": None,
        "duration_s": 10.0,
        "sessions": ("kept",),
        "path": "default",
        "interface": None,
        "loss_threshold_ns": 2_000_000_000,
        "json_path": None,
        "html_path": None,
        "quiet": False,
        "record_path": None,
        "placement": Placement(),
    }


def test_measure_takes_every_option(replace: Any, tmp_path: Path) -> None:
    measure = replace("probe.measure", "measure", 5)
    html = str(tmp_path / "r.html")
    options = (
        "--rate 0.5 --duration 2m --session both --path egress --interface eth1 --loss-threshold 250ms -q --json -"
        " --cpu 1 --realtime"
    )
    assert cli.main(["measure", "icmp://h", *options.split(), "--html", html, "--record", "r.parquet"]) == 5
    assert measure.only[1] == {
        "rate_pps": 0.5,
        "duration_s": 120.0,
        "sessions": ("kept", "fresh"),
        "path": "egress",
        "interface": "eth1",
        "loss_threshold_ns": 250_000_000,
        "json_path": "-",
        "html_path": html,
        "quiet": True,
        "record_path": "r.parquet",
        "placement": Placement(cpu=1, realtime=True),
    }


def test_a_parquet_file_goes_to_no_pipe(replace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    measure = replace("probe.measure", "measure", 0)
    assert cli.main(["measure", "icmp://h", "--record", "-"]) == 2
    assert "--record needs a file" in capsys.readouterr().err
    assert measure.calls == []


@pytest.mark.parametrize("option", ["--json", "--html", "--record"])
def test_measure_finds_out_early_that_it_cannot_write(
    option: str, replace: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = replace("probe.measure", "measure", 0)
    for file in (tmp_path / "none" / "r", tmp_path):
        assert cli.main(["measure", "icmp://h", option, str(file)]) == 2
        assert f"{file} cannot be written; allowed: " in capsys.readouterr().err
    assert measure.calls == []


@pytest.mark.parametrize(
    ("options", "ports"),
    [
        ([], (862, None, None)),
        (["--tcp", "8620"], (None, 8620, None)),
        (["--udp", "9", "--tcp", "8"], (9, 8, None)),
        (["--echo", "7"], (None, None, 7)),
    ],
)
def test_reflect_answers_stamp_unless_told_otherwise(options: list[str], ports: Any, replace: Any) -> None:
    reflect = replace("probe.reflect", "reflect", None)
    assert cli.main(["reflect", *options]) == 0
    assert reflect.only[1] == {
        "udp_port": ports[0],
        "tcp_port": ports[1],
        "echo_port": ports[2],
        "interface": None,
        "key_file": None,
        "placement": Placement(),
    }


def test_drill_gets_all_of_its_options(replace: Any) -> None:
    drill = replace("probe.drill.run", "drill_command", 4)
    options = "--scenario s --repeat 3 --label a=b --label c=d=e --budget f --out o --keep-lab --trigger crash"
    lab = "--session-pickup off --reset-sessionless-tcp on --api-latency 0.5 --propagation 80ms"
    lab += " --session-pickup-connectionless on --single-az on"
    assert cli.main(["drill", "--lab", *options.split(), *lab.split()]) == 4
    (args,), _ = drill.only
    assert isinstance(args, argparse.Namespace)
    assert vars(args) == {
        "command": "drill",
        "quiet": False,
        "lab": True,
        "config_file": None,
        "scenario": "s",
        "repeat": 3,
        "label": ["a=b", "c=d=e"],
        "budget": "f",
        "out": "o",
        "keep_lab": True,
        "yes": False,
        "dry_run": False,
        "trigger": "crash",
        "session_pickup": "off",
        "session_pickup_connectionless": "on",
        "single_az": "on",
        "reset_sessionless_tcp": "on",
        "api_latency": 0.5,
        "propagation": 0.08,
    }


@pytest.mark.parametrize("action", ["up", "down", "status", "scenarios", "failover"])
def test_lab_gets_its_action(action: str, replace: Any) -> None:
    lab = replace("probe.lab.command", "run", 0)
    assert cli.main(["lab", action, "-q"]) == 0
    (args,), _ = lab.only
    assert (args.action, args.quiet) == (action, True)
    if action == "failover":
        assert (args.crash, args.unset) == (False, False)
    if action == "up":
        assert (args.session_pickup, args.api_latency) == (None, None)


def test_dashboards_tells_what_it_wrote(replace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    written = replace("probe.export.dashboards", "write", [Path("d/a.json"), Path("d/b.yml")])
    assert cli.main(["dashboards", "--out", "d"]) == 0
    assert written.only == ((Path("d"),), {})
    assert capsys.readouterr().out == "d/a.json\nd/b.yml\n"


def test_preflight_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["preflight"])
    text = capsys.readouterr().out
    assert status in (0, 3)
    assert "CAP_NET_RAW" in text
    assert "ip_local_port_range" in text


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, str]:
    """Three runs on disk: away for one second, for two, for good."""
    places = {}
    for name, up in (("one", build.DOWN + build.S), ("two", build.DOWN + 2 * build.S), ("never", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(run_with(up, name)))
        places[name] = str(tmp_path / name)
    return places


def test_compare_says_by_status_whether_anything_got_worse(
    stored: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit, page = tmp_path / "out.xml", tmp_path / "out.html"
    assert cli.main(["compare", stored["one"], stored["never"], "--junit", str(junit), "--html", str(page)]) == 1
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert "1 of 2 verdicts got worse." in page.read_text("utf-8")
    assert "lost" in capsys.readouterr().out
    assert cli.main(["compare", stored["one"], stored["one"], "--html", str(page)]) == 0
    assert "No verdict got worse." in page.read_text("utf-8")


def test_compare_holds_the_candidate_to_budgets(
    stored: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = tmp_path / "budget.yml"
    budget.write_text("- {name: strict, path: east-west, max_outage: 1500ms}\n")
    arguments = ["compare", stored["one"], stored["two"], "--budget", str(budget)]
    assert cli.main(arguments) == 1
    assert "EXCEEDED" in capsys.readouterr().out
    assert cli.main([*arguments, "--html", "-"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("<!doctype html>") and out.endswith("</html>\n")  # the page and nothing else
    assert "1 of 1 budgets exceeded" in out and "✗ exceeded" in out
    budget.write_text("- {name: strict, path: east-west, max_outage: 3s}\n")
    assert cli.main([*arguments, "--html", "-"]) == 0
    assert "✓ ok" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--html", "--junit"])
def test_compare_says_that_it_cannot_write(
    option: str, stored: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", stored["one"], stored["one"], option, str(tmp_path / "no" / "file")]) == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err and "Traceback" not in captured.err
