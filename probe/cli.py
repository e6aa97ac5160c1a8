"""The command line: arguments to one call each.

Nothing heavy is imported until a command runs, so that `haprobe --help` answers at once. Exit statuses are those of
`probe.errors`; an error meant for the user is printed without a traceback.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Sequence

from probe import __version__
from probe.errors import HaprobeError

DEFAULT_WEB_ADDRESS = ":10862"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_NOT_TAKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what a full or failing disk says, also of stdout
BROKEN_PIPE = 141  # 128 + SIGPIPE

_EPILOG = """\
exit status:
  0 done   1 a budget or comparison failed   2 bad usage or config   3 a privilege is missing
  4 the drill saw no failover   5 a needed peer (agent, reflector, API) could not be reached

`haprobe COMMAND --help` tells each command's options, with units and defaults.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    _open_missing_streams()
    _print_anything()
    try:
        return _call(argv)
    except HaprobeError as error:
        print(f"haprobe: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("haprobe: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout went away (`| head`)
        _drop_stdout()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in _NOT_TAKEN:
            raise
        _drop_stdout()
        print(f"haprobe: a result could not be written: {error.strerror}", file=sys.stderr)
        return HaprobeError.exit_status


def _drop_stdout() -> None:
    """Python would complain once more while it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_missing_streams() -> None:
    """Started with `>&-` or `2>&-`: what goes there is dropped, and not sent to a socket of the same number."""
    for descriptor in (1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _print_anything() -> None:
    """A sign that the terminal's encoding lacks is shown by its number, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _call(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, version or usage
        return int(stop.code or 0)
    from probe import commands  # brings in what `--help` does not need

    status = commands.COMMANDS[args.command](args)
    sys.stdout.flush()  # here, where a broken pipe is still ours to answer
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line of the contract."""
    parser = _Parser(
        prog="haprobe",
        description="Measure what a FortiGate HA failover in AWS does to traffic:\n"
        "outage windows, surviving sessions, evidence.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"haprobe {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    adding = (_run, _measure, _reflect, _drill, _lab, _report, _compare, _explain, _discover, _preflight)
    for add in (*adding, _dashboards, _bench):
        add(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """No abbreviated options (a new option must not break a script), line breaks of texts kept."""

    def __init__(self, **settings: object):
        settings = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **settings}
        super().__init__(**settings)  # type: ignore[arg-type]


_Commands = argparse._SubParsersAction


def _command(commands: _Commands[_Parser], name: str, summary: str, details: str = "") -> _Parser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {details}".strip()
    )
    # SUPPRESS: without it the default here would undo a -q in front of the command.
    parser.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress on stderr")
    return parser


def _run(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands, "run", "run an agent: sender, reflector, watchers, web endpoints", "SIGHUP reloads the config."
    )
    parser.add_argument("--config.file", dest="config_file", metavar="F", required=True, help="config file (YAML)")
    parser.add_argument(
        "--config.check", dest="config_check", action="store_true", help="check the config file, and stop"
    )
    parser.add_argument(
        "--web.listen-address",
        dest="web_listen_address",
        metavar="A",
        default=DEFAULT_WEB_ADDRESS,
        help="[ADDRESS]:PORT of the web endpoints; a socket passed by systemd wins (default: %(default)s)",
    )
    parser.add_argument(
        "--web.config.file",
        dest="web_config_file",
        metavar="F",
        help="TLS and users, in the exporters' web configuration format (default: plain HTTP, no users)",
    )
    parser.add_argument(
        "--journal.dir",
        dest="journal_dir",
        metavar="D",
        help="where outages and HA changes are kept across restarts"
        " (default: $STATE_DIRECTORY, else ~/.local/state/haprobe/PORT)",
    )


def _measure(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "measure",
        "measure targets once, without a config file or daemon",
        "Ctrl-C ends it early and still prints the result.\n\n"
        "TARGET is icmp://HOST, udp://HOST[:PORT] (STAMP, default port 862), tcp://HOST:PORT or\n"
        "tcp+stream://HOST:PORT, IPv6 in brackets. tcp with a kept session needs a haprobe reflector there; with a\n"
        "fresh one any listener will do. tcp+stream is a session of the kernel's own, with keystrokes at --rate, and\n"
        "needs an echo service (`haprobe reflect --echo PORT`).",
    )
    parser.add_argument("targets", metavar="TARGET", nargs="+", type=_target, help="what to probe")
    parser.add_argument(
        "--rate",
        metavar="PPS",
        type=_rate,
        help="probes per second and target, up to 2000000 (default: 1000; keystrokes of a stream: 10, up to 1000)",
    )
    parser.add_argument(
        "--duration",
        metavar="S",
        type=_duration_s,
        default=10.0,
        help="seconds, or with a unit such as 5m (default: 10)",
    )
    parser.add_argument(
        "--session",
        choices=("kept", "fresh", "both"),
        default="kept",
        help="kept: one session for the whole run; fresh: a new one per probe (default: kept)",
    )
    parser.add_argument(
        "--path",
        metavar="NAME",
        type=_name,
        default="default",
        help="name of the path in the result (default: default)",
    )
    parser.add_argument("--interface", metavar="IF", help="interface to send by (default: as the kernel routes)")
    parser.add_argument(
        "--loss-threshold",
        metavar="S",
        type=_loss_threshold_ns,
        default=2_000_000_000,
        help="seconds after which an unanswered probe is lost, 0.01 to 60 (default: 2)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the result document; - for stdout, without the text report"
    )
    parser.add_argument("--html", metavar="FILE", help="write the report as one HTML file")
    _placement(parser)
    parser.add_argument(
        "--record", metavar="FILE", help="write every probe to a Parquet file: TX, RX, reflector times, TTL, fate"
    )


def _placement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu", metavar="N", type=_cpu, help="run the engine on this CPU only (default: any)")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="run it with SCHED_FIFO and keep the processors awake; for rates that do not take a whole CPU",
    )


def _reflect(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "reflect",
        "run a Session-Reflector alone",
        "Without --udp, --tcp and --echo it answers STAMP on UDP port 862.",
    )
    parser.add_argument("--udp", metavar="PORT", type=_port, help="UDP port for STAMP (RFC 8762)")
    parser.add_argument("--tcp", metavar="PORT", type=_port, help="TCP port for kept sessions")
    parser.add_argument(
        "--echo", metavar="PORT", type=_port, help="TCP port of an echo service (RFC 862), for tcp+stream targets"
    )
    parser.add_argument("--interface", metavar="IF", help="answer on this interface only (default: all)")
    parser.add_argument(
        "--key-file", metavar="F", help="file with the STAMP key; with it, only authenticated UDP is answered"
    )
    _placement(parser)


def _drill(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "drill",
        "rehearse a failover: steady state, trigger, recovery, report",
        "The run is stored as DIR/RUN-ID/report.json and report.html.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--lab", action="store_true", help="in a lab of network namespaces, raised for this drill (needs root)"
    )
    where.add_argument(
        "--config.file", dest="config_file", metavar="F", help="with the agents and the trigger of a config file"
    )
    parser.add_argument("--scenario", metavar="NAME", help="what the lab rehearses; `haprobe lab scenarios` lists them")
    parser.add_argument(
        "--trigger",
        choices=("graceful", "crash", "split"),
        help="how the lab's failover starts (default: the scenario's)",
    )
    parser.add_argument("--repeat", metavar="N", type=_count, default=1, help="drills in a row (default: 1)")
    parser.add_argument(
        "--label",
        metavar="K=V",
        action="append",
        default=[],
        type=_label,
        help="label of the run, may be repeated: fortios=7.6.4",
    )
    parser.add_argument(
        "--budget", metavar="F", help="limits to hold the run against (YAML); exit status 1 when one is broken"
    )
    parser.add_argument("--out", metavar="DIR", default="runs", help="where runs are stored (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="do not ask before something outside the lab is changed")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done and how to undo it; nothing is changed"
    )
    parser.add_argument("--keep-lab", action="store_true", help="leave the lab up afterwards")
    _lab_options(parser)


def _lab_options(parser: argparse.ArgumentParser) -> None:
    lab = parser.add_argument_group("lab")
    lab.add_argument(
        "--session-pickup", choices=("on", "off"), help="synchronise TCP sessions between the units (default: on)"
    )
    lab.add_argument(
        "--session-pickup-connectionless",
        choices=("on", "off"),
        help="synchronise UDP and ICMP sessions as well (default: off)",
    )
    lab.add_argument(
        "--single-az",
        choices=("on", "off"),
        help="both units in one zone: secondary addresses move instead of the elastic IP (default: off)",
    )
    lab.add_argument(
        "--reset-sessionless-tcp",
        choices=("on", "off"),
        help="answer TCP without a session by RST instead of silence (default: off)",
    )
    lab.add_argument(
        "--api-latency",
        metavar="S",
        type=_lab_delay_s,
        help="seconds each cloud call of a unit takes, or with a unit (default: 150ms)",
    )
    lab.add_argument(
        "--propagation",
        metavar="S",
        type=_lab_delay_s,
        help="seconds until the data plane obeys the cloud, or with a unit (default: 80ms)",
    )


def _lab(commands: _Commands[_Parser]) -> None:
    parser = _command(commands, "lab", "raise, inspect and fail over the lab of network namespaces", "Needs root.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    _lab_options(_command(actions, "up", "raise the lab, removing the left-overs of an earlier one"))
    _command(actions, "down", "remove the lab")
    status = _command(actions, "status", "tell the roles, owners and processes")
    status.add_argument("--json", action="store_true", help="as JSON")
    _command(actions, "scenarios", "list what can be rehearsed")
    truth = _command(actions, "truth", "tell what the firewalls' session tables imply for a run of the lab")
    truth.add_argument("run", metavar="RUN", help="directory of a stored run, or its report.json")
    failover = _command(
        actions, "failover", "fail over, gracefully unless told otherwise", "As `execute ha failover set`: sticky."
    )
    how = failover.add_mutually_exclusive_group()
    how.add_argument(
        "--crash", action="store_true", help="kill the active unit; its peer must miss the heartbeat first"
    )
    how.add_argument("--split", action="store_true", help="cut the heartbeat: both units become primary")
    how.add_argument("--unset", action="store_true", help="as `execute ha failover unset`: may fail back")


def _report(commands: _Commands[_Parser]) -> None:
    parser = _command(commands, "report", "render a stored run again")
    parser.add_argument("run", metavar="RUN", nargs="?", help="directory of a run, or its report.json")
    parser.add_argument("--json", metavar="F", help="write the result document; - for stdout, without the text report")
    parser.add_argument(
        "--html", metavar="F", help="write the report as one HTML file; - for stdout, without the text report"
    )
    parser.add_argument(
        "--openmetrics",
        metavar="F",
        help="write the run's results as metrics, as for node_exporter's textfile collector; - for stdout, without the "
        "text report",
    )
    parser.add_argument(
        "--stamped",
        action="store_true",
        help="with --openmetrics: stamp samples with the run's end, for promtool",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the result document, and stop")
    parser.add_argument(
        "--backfill",
        action="store_true",
        help="complete the run's timeline from CloudTrail first, and store it again; minutes after the drill",
    )
    _aws_account(parser)


def _compare(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "compare",
        "compare runs: verdicts, outages, budgets",
        "Exit status 1 when it got worse or a budget is broken.",
    )
    parser.add_argument("baseline", metavar="BASELINE", help="run, or directory of runs; s3://BUCKET/PREFIX as well")
    parser.add_argument("candidate", metavar="CANDIDATE", help="likewise")
    parser.add_argument("--budget", metavar="F", help="limits to hold the candidate against (YAML)")
    parser.add_argument("--junit", metavar="F", help="write the outcome as JUnit XML; - for stdout, without the text")
    parser.add_argument(
        "--html", metavar="F", help="write the outcome as one HTML file; - for stdout, without the text"
    )


def _explain(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "explain",
        "annotate a FortiGate's awsd debug output, line by line",
        "Tells which requests were confirmed, what a refusal means, and what to check first.\n"
        "How to capture it: docs/awsd.md. Exit status 0 whatever the capture says.",
    )
    parser.add_argument("what", choices=("awsd",), help="whose output it is")
    parser.add_argument("file", metavar="FILE|-", help="captured output; - for standard input")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _discover(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "discover",
        "write a config for the HA pair found in an account",
        "The pair is looked for among the account's instances by image and name, unless told otherwise.\n"
        "Nothing is changed. What was not certain stands as comments in the config.",
    )
    parser.add_argument("what", choices=("aws",), help="where to look")
    parser.add_argument(
        "--instance", metavar="ID", action="append", default=[], help="one of the two instances; give it twice"
    )
    parser.add_argument(
        "--tag", metavar="K=V", action="append", default=[], help="tag of both instances, may be repeated"
    )
    parser.add_argument("--name", metavar="PATTERN", help="their Name tag, with * and ?: 'aplab-fgt-*'")
    parser.add_argument("--out", metavar="F", help="where to write it; no file is overwritten (default: stdout)")
    parser.add_argument("--policy", action="store_true", help="print the IAM policies haprobe needs, and stop")
    _aws_account(parser)


def _aws_account(parser: _Parser) -> None:
    account = parser.add_argument_group("AWS account", "Credentials come by boto3's usual chain.")
    account.add_argument("--region", metavar="R", help="region (default: of the environment or the profile)")
    account.add_argument("--profile", metavar="NAME", help="profile of the AWS config files")
    account.add_argument("--role-arn", metavar="ARN", help="role to assume with those credentials")
    account.add_argument("--external-id", metavar="ID", help="external id to assume the role with")
    account.add_argument("--endpoint-url", metavar="URL", help="another endpoint than the region's")


def _preflight(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands, "preflight", "tell what would spoil a drill: privileges, clock, offloads, limits, reachability"
    )
    parser.add_argument(
        "--config.file", dest="config_file", metavar="F", help="also check this config, its hosts and its agents"
    )


def _dashboards(commands: _Commands[_Parser]) -> None:
    parser = _command(commands, "dashboards", "write the Grafana dashboards, Prometheus rules and provisioning")
    parser.add_argument("--out", metavar="DIR", default="dashboards-out", help="where to (default: %(default)s)")


def _bench(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "bench",
        "find how fast this host can probe without losing a probe itself, and what that costs",
        "Needs root: it runs in network namespaces of its own, and sends nothing to any interface.\n"
        "A rate is clean when no probe is lost or dropped here and fewer than 0.01 % were not sent in time.",
    )
    parser.add_argument(
        "--seconds-per-step",
        metavar="S",
        type=_step_s,
        default=2.0,
        help="seconds, or with a unit, for which each rate is tried, 1 to 600 (default: 2)",
    )
    parser.add_argument(
        "--max-rate",
        metavar="PPS",
        type=_rate,
        default=2_000_000.0,
        help="highest rate to try, up to 2000000 (default: 2000000)",
    )
    parser.add_argument(
        "--max-time",
        metavar="S",
        type=_duration_s,
        default=60.0,
        help="seconds, or with a unit, after which no further rate is tried (default: 60)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all steps; - for stdout, without the table")


# --- kinds of arguments ----------------------------------------------------------------------------------------------


def _target(text: str) -> object:
    from probe.targets import parse

    try:
        return parse(text)
    except HaprobeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _between(text: str, low: float, high: float, allowed: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # a NaN is in no range
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {allowed}")
    return value


def _rate(text: str) -> float:
    return _between(text, 0.001, 2_000_000, "0.001 to 2000000 probes per second")


def _port(text: str) -> int:
    return int(_between(text if text.isdecimal() else "", 1, 65535, "a port, 1 to 65535"))


def _cpu(text: str) -> int:
    return int(_between(text if text.isdecimal() else "", 0, 4095, "a CPU's number, from 0"))


def _count(text: str) -> int:
    return int(_between(text if text.isdecimal() else "", 1, 1000, "1 to 1000"))


def _nanoseconds(text: str, low_ns: int, high_ns: int, allowed: str) -> int:
    from probe.units import parse_seconds_ns

    try:
        ns = parse_seconds_ns(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not low_ns <= ns <= high_ns:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {allowed}")
    return ns


def _duration_s(text: str) -> float:
    return _nanoseconds(text, 1_000_000, 7 * 86_400 * 10**9, "1ms to 168h") / 1e9


def _step_s(text: str) -> float:
    return _nanoseconds(text, 10**9, 600 * 10**9, "1 to 600 seconds") / 1e9


def _loss_threshold_ns(text: str) -> int:
    return _nanoseconds(text, 10_000_000, 60 * 10**9, "0.01 to 60 seconds")


def _lab_delay_s(text: str) -> float:
    return _nanoseconds(text, 0, 60 * 10**9, "0 to 60 seconds") / 1e9


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 1 to 64 of A-Z a-z 0-9 _ . -")
    return text


def _label(text: str) -> str:
    key, sign, _ = text.partition("=")
    if not key or not sign or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: KEY=VALUE, such as fortios=7.6.4")
    return text


if __name__ == "__main__":
    sys.exit(main())
