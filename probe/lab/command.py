"""`haprobe lab up | down | status | scenarios | failover | truth`."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from probe.errors import PeerError, UsageError
from probe.lab import state
from probe.lab.lab import Lab
from probe.lab.plan import CLUSTER_EIP, ENIS, LabOptions, Plan
from probe.lab.truth import agrees, truths
from probe.progress import Progress
from probe.store import runs


def run(args: argparse.Namespace) -> int:
    """Carry out one action (`args.action`). Progress goes to stderr, the result to stdout.

    Raises:
        HaprobeError: If it cannot be done; says why.
    """
    progress = Progress(quiet=bool(getattr(args, "quiet", False)))
    actions = {
        "up": _up,
        "down": _down,
        "status": _status,
        "scenarios": _scenarios,
        "failover": _failover,
        "truth": _truth,
    }
    return actions[args.action](args, progress)


def options_of(args: argparse.Namespace) -> LabOptions:
    """The lab's options from the command line: switches are "on" or "off", times are seconds, None is the default."""
    found: dict[str, Any] = {}
    for name in ("session_pickup", "session_pickup_connectionless", "reset_sessionless_tcp", "single_az"):
        value = getattr(args, name, None)
        if value is not None:
            found[name] = value in ("on", True)
    for name in ("api_latency", "propagation"):
        seconds = getattr(args, name, None)
        if seconds is not None:
            found[f"{name}_ms"] = round(seconds * 1000)
    return LabOptions(**found)


def summary(status: dict[str, Any]) -> str:
    """A lab's status for people."""
    shared = status.get("private_ips", {})
    owner = {one.address: one.unit for one in ENIS} | {one: name.rpartition("-")[0] for one, name in shared.items()}
    eip = status["eips"].get(CLUSTER_EIP, "")
    lines = [f"active unit   {status['active_unit'] or 'none'}"]
    for name, unit in status["units"].items():
        flags = ", ".join(flag for flag in ("forwarding", "failover_set", "session_pickup") if unit.get(flag))
        lines.append(f"{name:13} {unit['role']}" + (f" ({flags})" if flags else ""))
    lines.append(f"cluster EIP   {CLUSTER_EIP} -> {eip or 'nobody'}" + (f" ({owner[eip]})" if eip in owner else ""))
    lines += [f"shared IP     {address} -> {name}" for address, name in shared.items()]
    lines.append(f"transit route 0.0.0.0/0 -> {status['routes']['transit'].get('0.0.0.0/0', 'none')}")
    lines.append(f"cloud API     {status['endpoint_url'] or 'none'}")
    for name, at in status["ssh"].items():
        lines.append(f"{name:13} ssh -p {at['port']} -i {at['key_file']} {at['user']}@{at['host']}")
    lines += [f"agent         {name} {url}" for name, url in status["agents"].items()]
    dead = [one["name"] for one in status["processes"] if not one["alive"]]
    lines += [f"dead process  {name}" for name in dead]
    lines.append(f"state         {status['state']}")
    return "\n".join(lines)


def _up(args: argparse.Namespace, progress: Progress) -> int:
    lab = Lab.up(options_of(args), progress)
    print(summary(lab.status()))
    return 0


def _down(args: argparse.Namespace, progress: Progress) -> int:
    """Also what a killed `up` left, of which no state tells."""
    plan = Plan()
    with state.Claim(plan):
        if not state.leftovers(plan):
            progress("no lab is up")
        state.clear(plan, grace_s=5.0)
    return 0


def _status(args: argparse.Namespace, progress: Progress) -> int:
    lab = _loaded()
    print(summary(lab.status()))
    return 0


def _scenarios(args: argparse.Namespace, progress: Progress) -> int:
    from probe.drill.scenarios import SCENARIOS

    width = max(len(name) for name in SCENARIOS)
    for name, scenario in SCENARIOS.items():
        print(f"{name:{width}}  {scenario.summary}\n{'':{width}}    gives: {scenario.expects}")
    return 0


def _failover(args: argparse.Namespace, progress: Progress) -> int:
    lab = _loaded()
    if getattr(args, "unset", False):
        progress("execute ha failover unset 1")
        lab.unset()
    else:
        kind: Literal["graceful", "crash", "split"] = "graceful"
        if getattr(args, "crash", False):
            kind = "crash"
        elif getattr(args, "split", False):
            kind = "split"
        before = lab.active_unit()
        said = {"graceful": "execute ha failover set 1", "crash": "crash", "split": "heartbeat cut"}
        progress(f"{before}: {said[kind]}")
        lab.failover(kind)
        lab.wait_moved(before)
    print(summary(lab.status()))
    return 0


def _truth(args: argparse.Namespace, progress: Progress) -> int:
    """What the firewalls' session tables imply for a stored run, beside what its probes say."""
    document = runs.load(args.run)
    options = ((document["run"].get("config") or {}).get("lab")) or {}
    told = truths(document["timeline"], resets=bool(options.get("reset_sessionless_tcp")))
    if not told:
        raise UsageError(f"{args.run}: the session tables were not read in this run; drills with --lab do that")
    for flow in (one for one in document["flows"] if one["session"] == "kept" and one["name"] in told):
        truth = told[flow["name"]]
        fits = "" if agrees(flow["name"], truth.implied, flow["verdict"]) else "   DIFFERENT"
        print(f"{flow['name']:16} {flow['verdict']:11} tables: {truth.implied:11} {truth.because}{fits}")
    return 0


def _loaded() -> Lab:
    lab = Lab.load()
    if lab is None:
        left = state.leftovers(Plan())
        raise PeerError(
            "no lab is up; raise it with: haprobe lab up"
            + (f" (there are left-overs of an earlier one, which that removes: {left[0]} ...)" if left else "")
        )
    return lab
