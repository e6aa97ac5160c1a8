"""What a drill is to do, from the command line and, outside the lab, the config file. Nothing is started here.

Everything a user can get wrong is found before the lab is raised or an agent is asked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from probe.drill.client import AgentEndpoint
from probe.drill.scenarios import SCENARIOS, Step
from probe.errors import UsageError
from probe.lab.plan import LabOptions
from probe.watch.access import Account

S = 1_000_000_000

TriggerKind = Literal[
    "graceful",
    "crash",
    "split",
    "script",
    "manual",
    "command",
    "lab",
    "fortigate",
    "aws-stop-instance",
    "aws-reboot-instance",
]
"""`lab` is a graceful failover of a lab that somebody raised before, with agents of a config file; `script` is none
at all, but a scenario's steps."""

LAB_STEADY_NS = 5 * S
LAB_VALIDATION_NS = 5 * S  # RFC 6412, section 3.7.5: five probes of each flow, at least 5 s
LAB_PATIENCE_NS = 20 * S  # for the flows to come up and get clean, on top of the steady time
MAX_LAB_DELAY_S = 60
LAB_SWITCHES = ("session_pickup", "session_pickup_connectionless", "reset_sessionless_tcp", "single_az")
LAB_ONLY = ("scenario", "trigger", "keep_lab", *LAB_SWITCHES, "api_latency", "propagation")
DEFAULT_OUT = Path("runs")


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """One drill, or `repeat` of the same."""

    trigger: TriggerKind
    steady_ns: int
    patience_ns: int  # added to steady_ns: how long the flows may take to become clean
    validation_ns: int
    limit_ns: int  # from the trigger to sustained recovery
    command: tuple[str, ...] = ()  # of the trigger
    settings: Any = None  # of the trigger: `config.Trigger`
    account: Account = field(default_factory=Account)  # for triggers that go to AWS
    lab: LabOptions | None = None  # None: agents of a config file
    keep_lab: bool = False
    agents: tuple[AgentEndpoint, ...] = ()  # of the config file
    config_file: Path | None = None
    scenario: str = ""
    steps: tuple[Step, ...] = ()  # of the scenario, after the trigger
    repeat: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    budget: Path | None = None
    out: Path = DEFAULT_OUT
    quiet: bool = False
    yes: bool = False  # somebody has agreed to whatever the trigger changes
    dry_run: bool = False

    def config(self) -> dict[str, Any]:
        """What a reader of the stored run needs to know about how it was made."""
        seconds = {
            "steady_s": self.steady_ns / S,
            "validation_s": self.validation_ns / S,
            "limit_s": self.limit_ns / S,
        }
        lab = {name: getattr(self.lab, name) for name in LabOptions.__dataclass_fields__} if self.lab else None
        trigger: dict[str, Any] = {"kind": self.trigger, "command": list(self.command)}
        if self.settings is not None and self.trigger not in ("manual", "lab"):
            # Names of files that hold secrets, but no secret.
            trigger |= self.settings.model_dump(mode="json", exclude_defaults=True, exclude={"kind", "command"})
        return {"scenario": self.scenario, "trigger": trigger, "lab": lab, **seconds}


def from_args(args: argparse.Namespace) -> DrillPlan:
    """The plan for `haprobe drill`.

    Raises:
        UsageError: If the options do not fit together; the message says what is allowed.
        ConfigError: If the config file is bad.
    """
    lab, config_file = bool(getattr(args, "lab", False)), getattr(args, "config_file", None)
    if lab == bool(config_file):
        raise UsageError("drill needs either --lab or --config.file FILE")
    plan = _lab_plan(args) if lab else _configured_plan(args, Path(config_file or ""))
    repeat = int(getattr(args, "repeat", None) or 1)
    if repeat < 1:
        raise UsageError(f"--repeat {repeat}: at least 1")
    budget = getattr(args, "budget", None)
    return replace(
        plan,
        repeat=repeat,
        labels=labels(getattr(args, "label", None) or ()),
        budget=Path(budget) if budget else None,
        out=Path(getattr(args, "out", None) or DEFAULT_OUT),
        quiet=bool(getattr(args, "quiet", False)),
        yes=bool(getattr(args, "yes", False)),
        dry_run=bool(getattr(args, "dry_run", False)),
    )


def labels(texts: Sequence[str]) -> dict[str, str]:
    """`K=V` arguments as a mapping.

    Raises:
        UsageError: If one has no `=`, no key, or comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--label {text}: KEY=VALUE is needed, such as --label fortios=7.6.4")
        if key in found:
            raise UsageError(f"--label {text}: {key} is already {found[key]}")
        found[key] = value
    return found


def check_out(out: Path) -> None:
    """Find out whether runs can be stored in a directory, before there is one to store.

    Raises:
        UsageError: If not.
    """
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(f"--out {out}: {place} is not a directory that can be written")


def _lab_plan(args: argparse.Namespace) -> DrillPlan:
    name = getattr(args, "scenario", None) or "failover"
    if name not in SCENARIOS:
        known = ", ".join(SCENARIOS)
        raise UsageError(f"--scenario {name}: there is no such scenario; one of {known}")
    scenario = SCENARIOS[name]
    return DrillPlan(
        trigger=getattr(args, "trigger", None) or scenario.trigger,
        steady_ns=LAB_STEADY_NS,
        patience_ns=LAB_PATIENCE_NS,
        validation_ns=LAB_VALIDATION_NS,
        limit_ns=round(scenario.limit_s * S),
        lab=replace(LabOptions(), **{**scenario.options, **_lab_options(args)}),
        keep_lab=bool(getattr(args, "keep_lab", False)),
        scenario=name,
        steps=scenario.steps,
    )


def _lab_options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of LabOptions that the command line names."""
    found: dict[str, Any] = {}
    for option in LAB_SWITCHES:
        value = getattr(args, option, None)
        if value is not None:
            found[option] = value if isinstance(value, bool) else _switch(option, value)
    for option, name in (("api_latency", "api_latency_ms"), ("propagation", "propagation_ms")):
        value = getattr(args, option, None)
        if value is not None:
            found[name] = _milliseconds(option, float(value))
    return found


def _switch(option: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise UsageError(f"--{option.replace('_', '-')} {value}: on or off")
    return value == "on"


def _milliseconds(option: str, seconds: float) -> int:
    if not 0 <= seconds <= MAX_LAB_DELAY_S:
        raise UsageError(f"--{option.replace('_', '-')} {seconds}: 0 to {MAX_LAB_DELAY_S} seconds")
    return round(seconds * 1000)


def _configured_plan(args: argparse.Namespace, file: Path) -> DrillPlan:
    given = [f"--{name.replace('_', '-')}" for name in LAB_ONLY if getattr(args, name, None)]
    if given:
        raise UsageError(
            f"{', '.join(given)}: only with --lab; with --config.file the trigger is in the file (drill.trigger)"
        )
    from probe.config import load

    config = load(file, need="drill")
    drill = config.drill
    return DrillPlan(
        trigger=drill.trigger.kind,
        command=tuple(drill.trigger.command or ()),
        settings=_with_instance(drill.trigger, config.watchers.aws),
        account=_account(drill.trigger, config.watchers.aws),
        steady_ns=round(drill.steady * S),
        patience_ns=max(round(drill.steady * S), 10 * S),
        validation_ns=round(drill.validation * S),
        limit_ns=round(drill.limit * S),
        agents=tuple(_endpoint(name, agent) for name, agent in config.agents.items()),
        config_file=file,
    )


def _with_instance(trigger: Any, watcher: Any) -> Any:
    """The trigger with the instance that its unit stands for."""
    if trigger.instance or watcher is None or trigger.unit not in watcher.instances:
        return trigger
    return trigger.model_copy(update={"instance": watcher.instances[trigger.unit]})


def _account(trigger: Any, watcher: Any) -> Account:
    """Where and as whom a trigger asks AWS: what it leaves open is as the watcher has it."""

    def found(name: str) -> str | None:
        return getattr(trigger, name) or getattr(watcher, name, None)

    return Account(
        region=found("region") or "",
        profile=found("profile"),
        role_arn=found("role_arn"),
        external_id=found("external_id"),
        endpoint_url=found("endpoint_url"),
    )


def _endpoint(name: str, agent: Any) -> AgentEndpoint:
    def file(field: str) -> Path | None:
        value = getattr(agent, field)
        return Path(value) if value else None

    return AgentEndpoint(
        name=name,
        url=str(agent.url),
        username=agent.username or "",
        password_file=file("password_file"),
        ca_file=file("ca_file"),
        cert_file=file("cert_file"),
        key_file=file("key_file"),
    )
