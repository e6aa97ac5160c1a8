"""What each command calls. Imports stand inside, so that a command loads only what it needs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import UsageError
from probe.files import check_outputs, not_a_file, read_bytes, replace, write

LAWS_TOLD = 5  # of those that a document breaks

if TYPE_CHECKING:
    from probe.watch.access import Account


def run(args: argparse.Namespace) -> int:
    if args.config_check:
        return _check_config(args.config_file)
    # A pool of numpy's BLAS threads, which nothing here uses, would be started on import and keep the privileges that
    # the agent gives up later: capabilities are a thread's own.
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    from probe import agent

    journal = Path(args.journal_dir) if args.journal_dir else default_journal_dir(args.web_listen_address, os.environ)
    web_config = Path(args.web_config_file) if args.web_config_file else None
    return _status(agent.run(Path(args.config_file), args.web_listen_address, web_config, journal))


def _check_config(file: str) -> int:
    from probe import config

    loaded = config.load(file)
    config.resolve_hosts(loaded)
    config.check_files(loaded)
    for notice in loaded.notices:
        print(f"haprobe: {notice}", file=sys.stderr)
    print(f"{file}: ok, {len(loaded.flow_specs())} flows")
    return 0


def default_journal_dir(listen_address: str, environment: Mapping[str, str]) -> Path:
    """Where an agent keeps its journal unless told: one directory per port, as several agents may share a host."""
    if environment.get("STATE_DIRECTORY"):  # systemd's StateDirectory=
        return Path(environment["STATE_DIRECTORY"].split(":")[0])
    state = environment.get("XDG_STATE_HOME") or Path(environment.get("HOME") or "~").expanduser() / ".local/state"
    return Path(state) / "haprobe" / (listen_address.rpartition(":")[2] or "default")


def measure(args: argparse.Namespace) -> int:
    from probe import measure as measuring
    from probe.supervise import Placement

    check_outputs(args.json, args.html, args.record)  # before ten seconds of measuring, not after
    if args.record and (args.record == "-" or not_a_file(args.record)):
        raise UsageError(f"--record needs a file: a Parquet file cannot be written to a pipe or device ({args.record})")
    return measuring.measure(
        args.targets,
        rate_pps=args.rate,
        duration_s=args.duration,
        sessions=("kept", "fresh") if args.session == "both" else (args.session,),
        path=args.path,
        interface=args.interface,
        loss_threshold_ns=args.loss_threshold,
        json_path=args.json,
        html_path=args.html,
        quiet=args.quiet,
        record_path=args.record,
        placement=Placement(args.cpu, args.realtime),
    )


def reflect(args: argparse.Namespace) -> int:
    from probe import reflect as reflecting
    from probe.supervise import Placement
    from probe.targets import DEFAULT_STAMP_PORT

    nothing = args.udp is None and args.tcp is None and args.echo is None
    udp = DEFAULT_STAMP_PORT if nothing else args.udp
    return _status(
        reflecting.reflect(
            udp_port=udp,
            tcp_port=args.tcp,
            echo_port=args.echo,
            interface=args.interface,
            key_file=args.key_file,
            placement=Placement(args.cpu, args.realtime),
        )
    )


def drill(args: argparse.Namespace) -> int:
    from probe.drill.run import drill_command

    return drill_command(args)


def lab(args: argparse.Namespace) -> int:
    from probe.lab.command import run

    return run(args)


def report(args: argparse.Namespace) -> int:
    from probe.report import document as documents

    if args.schema:
        print(json.dumps(documents.json_schema(), indent=2))
        return 0
    account_given = args.region or args.profile or args.role_arn or args.external_id or args.endpoint_url
    if account_given and not args.backfill:
        raise UsageError("--region, --profile, --role-arn, --external-id and --endpoint-url are for --backfill only")
    if args.stamped and not args.openmetrics:
        raise UsageError("--stamped is for --openmetrics only")
    check_outputs(args.json, args.html, args.openmetrics)
    if args.run is None:
        raise UsageError("report needs a RUN: a directory of a stored run, or its report.json")
    if args.backfill and args.run.startswith("s3://"):
        raise UsageError(f"{args.run}: --backfill stores the run again, which it can on disk only: copy it there first")
    from probe.store import runs

    document = runs.load(args.run)
    _warn_of_broken_laws(args.run, document)
    if args.backfill:
        document = _backfill(args, document)
    if args.json:
        write(args.json, runs.to_json(document))
    if args.html:
        from probe.report import html

        write(args.html, html.render(document))
    if args.openmetrics:
        from probe.export.run_metrics import openmetrics

        replace(args.openmetrics, openmetrics(document, stamped=args.stamped))
    if "-" not in (args.json, args.html, args.openmetrics):
        from rich.console import Console

        from probe.report import text

        text.render(document, Console())
    return 0


def _warn_of_broken_laws(place: str, document: dict[str, Any]) -> None:
    """Say so where a document contradicts itself: it is shown as it is, but not all of it can be true."""
    from probe.report.laws import laws

    broken = laws(document)
    for line in broken[:LAWS_TOLD]:
        print(f"haprobe: {place}: not all of its figures can be true: {line}", file=sys.stderr)
    if len(broken) > LAWS_TOLD:
        print(f"haprobe: {place}: and {len(broken) - LAWS_TOLD} more like that", file=sys.stderr)


def _backfill(args: argparse.Namespace, document: dict[str, Any]) -> dict[str, Any]:
    """Complete a stored run from CloudTrail and store it again; the new document."""
    import time
    from dataclasses import replace

    from probe.report.backfill import backfilled
    from probe.store import runs
    from probe.watch import cloudtrail, trail_events

    scope, account = trail_events.scope_of(document), _account(args)
    if not scope.ids:
        raise UsageError(f"{args.run}: this run had no AWS watcher, so there is nothing to look up in CloudTrail")
    if not account.region and scope.regions:
        account = replace(account, region=scope.regions[0])
    start_ns, end_ns = document["run"]["started_ns"], document["run"]["ended_ns"]
    records = cloudtrail.look_up(account, start_ns, end_ns, tell=_telling(args.quiet))
    clock_error_ns = document["run"]["clock"]["max_error_ns"] or 0
    events = trail_events.timeline_events(records, scope, start_ns, end_ns, clock_error_ns)
    file = runs.find(args.run)[0]
    if events:
        document = backfilled(document, events, trail_events.VIA)
        runs.replace(document, file)
    refused = sum(event.detail["result"] != "ok" for event in events)
    told = f"{len(events)} calls in CloudTrail concern this run, {refused} of them refused; {file} holds them"
    if not events:
        told = f"CloudTrail has nothing about this run; {file} stays as it was"
    if (time.time_ns() - end_ns) / 1e9 < cloudtrail.DELIVERED_AFTER_S:
        told += "; it delivers after five minutes, sometimes fifteen: do this again later"
    print(f"haprobe: {told}", file=sys.stderr)
    return document


def compare(args: argparse.Namespace) -> int:
    from probe.report import budgets
    from probe.report import compare as comparing
    from probe.store import runs

    check_outputs(args.junit, args.html)
    limits = budgets.load_budgets(args.budget) if args.budget else []
    baseline, candidate = runs.load_all(args.baseline), runs.load_all(args.candidate)
    for place, documents in ((args.baseline, baseline), (args.candidate, candidate)):
        for document in documents:
            _warn_of_broken_laws(f"{place} (run {document['run']['id']})", document)
    changes, results = comparing.compare(baseline, candidate), budgets.check(candidate, limits)
    if args.junit:
        write(args.junit, comparing.junit(results, changes))
    if args.html:
        from probe.report import compare_html

        sides = (compare_html.Side(args.baseline, baseline), compare_html.Side(args.candidate, candidate))
        write(args.html, compare_html.render(*sides, changes, results))
    if "-" not in (args.junit, args.html):
        from rich.console import Console

        comparing.render(changes, results, Console())
    return int(any(c.worse for c in changes) or not all(r["ok"] for r in results))


def explain(args: argparse.Namespace) -> int:
    from probe.report import awsd as explained
    from probe.watch import awsd

    seen = awsd.read(explained.decode(read_bytes(args.file)))
    if args.json:
        write("-", explained.to_json(seen))
        return 0
    from rich.console import Console

    explained.render(seen, Console())
    return 0


def preflight(args: argparse.Namespace) -> int:
    from probe.preflight import check
    from probe.preflight.run import preflight as checks_of

    checks = checks_of(args.config_file)
    print(check.table(checks))
    return check.exit_status(checks)


def dashboards(args: argparse.Namespace) -> int:
    from probe.export import dashboards as drawn

    for file in drawn.write(Path(args.out)) or ():
        print(file)
    return 0


def bench(args: argparse.Namespace) -> int:
    check_outputs(args.json)
    from probe import bench as benching
    from probe.lab import testbed

    with testbed.opened() as network:
        return benching.bench(
            network,
            seconds_per_step=args.seconds_per_step,
            max_rate_pps=args.max_rate,
            max_time_s=args.max_time,
            json_path=args.json,
            quiet=args.quiet,
        )


def discover(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from probe.watch import discover as discovering
    from probe.watch import iam, pair_config

    if args.policy:
        print(json.dumps(iam.policies(), indent=2))
        return 0
    check_outputs(args.out)
    if args.out and Path(args.out).exists():
        raise UsageError(f"{args.out} exists; allowed: a new file, so that no config is lost")
    tags = tuple(discovering.parse_tag(text) for text in args.tag)
    wanted = discovering.Wanted(tuple(args.instance), tags, args.name or "")
    account = _account(args)
    pair = discovering.discover(account, wanted, _telling(args.quiet))
    text = pair_config.config_text(pair, account, datetime.now(UTC))
    write(args.out or "-", text)
    for doubt in pair.doubts:
        print(f"haprobe: not certain: {doubt}", file=sys.stderr)
    return 0


def _account(args: argparse.Namespace) -> Account:
    from probe.watch.access import Account

    return Account(args.region or "", args.profile, args.role_arn, args.external_id, args.endpoint_url)


def _telling(quiet: bool) -> Callable[[str], None]:
    """Progress, a line at a time, to stderr."""
    return (lambda text: None) if quiet else (lambda text: print(f"haprobe: {text}", file=sys.stderr))


def _status(result: int | None) -> int:
    """A command that runs until it is stopped need not return a status."""
    return result or 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "measure": measure,
    "reflect": reflect,
    "drill": drill,
    "lab": lab,
    "report": report,
    "compare": compare,
    "explain": explain,
    "preflight": preflight,
    "dashboards": dashboards,
    "discover": discover,
    "bench": bench,
}
