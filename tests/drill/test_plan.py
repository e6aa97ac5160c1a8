"""From arguments and config file to a plan; every mistake before anything is started."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from probe.core.diagnosis import RULES
from probe.drill.plan import S, check_out, from_args, labels
from probe.drill.scenarios import SCENARIOS
from probe.errors import ConfigError, UsageError
from probe.lab.faults import FaultRule


def args(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**given)


def test_the_lab_as_it_comes() -> None:
    plan = from_args(args(lab=True))
    assert (plan.trigger, plan.scenario, plan.repeat, plan.out) == ("graceful", "failover", 1, Path("runs"))
    assert plan.lab.session_pickup
    assert plan.steady_ns + plan.validation_ns < 60 * S


def test_options_win_over_the_scenario() -> None:
    plan = from_args(args(lab=True, scenario="reset-sessionless", reset_sessionless_tcp="off", trigger="crash"))
    assert not plan.lab.session_pickup
    assert not plan.lab.reset_sessionless_tcp
    assert plan.trigger == "crash"


def test_delays_of_the_lab_are_seconds_on_the_command_line() -> None:
    plan = from_args(args(lab=True, api_latency=0.5, propagation=0.0))
    assert (plan.lab.api_latency_ms, plan.lab.propagation_ms) == (500, 0)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_makes_a_plan(name: str) -> None:
    plan = from_args(args(lab=True, scenario=name))
    assert plan.scenario == name
    assert plan.limit_ns == SCENARIOS[name].limit_s * S
    for rule in plan.lab.api_faults:
        FaultRule.from_document(rule)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_says_what_its_diagnosis_is(name: str) -> None:
    scenario, known = SCENARIOS[name], {rule.code for rule in RULES}
    assert scenario.diagnosis in known
    assert scenario.also <= known
    assert scenario.diagnosis in scenario.expects or scenario.diagnosis == "failover_clean"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs either --lab or --config.file"),
        ({"lab": True, "config_file": "x"}, "needs either --lab or --config.file"),
        ({"lab": True, "scenario": "flood"}, "no such scenario; one of failover, crash"),
        ({"lab": True, "session_pickup": "maybe"}, "--session-pickup maybe: on or off"),
        ({"lab": True, "api_latency": 61.0}, "--api-latency 61.0: 0 to 60 seconds"),
        ({"lab": True, "repeat": -1}, "--repeat -1: at least 1"),
        ({"lab": True, "label": ["fortios"]}, "KEY=VALUE is needed"),
        ({"config_file": "x", "trigger": "crash", "keep_lab": True}, "--trigger, --keep-lab: only with --lab"),
    ],
)
def test_mistakes_say_what_is_allowed(given: dict, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_args(args(**given))
    assert said in str(caught.value)


def test_labels() -> None:
    assert labels(["fortios=7.6.4", "note=a=b", "empty="]) == {"fortios": "7.6.4", "note": "a=b", "empty": ""}
    with pytest.raises(UsageError, match="already 1"):
        labels(["k=1", "k=2"])


def test_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "drill.yml"
    file.write_text(
        "agents:\n"
        "  wl-b: {url: 'https://10.99.97.10:10862', username: drill, password_file: /etc/pw, ca_file: /etc/ca.pem}\n"
        "drill:\n"
        "  trigger: {kind: command, command: [ssh, fgt, 'execute ha failover set 1']}\n"
        "  steady: 2s\n  validation: 3s\n  limit: 5m\n"
    )
    plan = from_args(args(config_file=str(file), out="/tmp/x", label=["a=b"]))
    assert plan.lab is None
    assert (plan.trigger, plan.command) == ("command", ("ssh", "fgt", "execute ha failover set 1"))
    assert (plan.steady_ns, plan.validation_ns, plan.limit_ns) == (2 * S, 3 * S, 300 * S)
    (agent,) = plan.agents
    assert (agent.name, agent.url, agent.username) == ("wl-b", "https://10.99.97.10:10862", "drill")
    assert (agent.password_file, agent.ca_file, agent.cert_file) == (Path("/etc/pw"), Path("/etc/ca.pem"), None)


def test_a_config_file_without_agents(tmp_path: Path) -> None:
    file = tmp_path / "drill.yml"
    file.write_text("flows:\n  - {name: x, protocol: icmp, path: p, target: 127.0.0.1, rate: 1}\n")
    with pytest.raises(ConfigError, match="agents"):
        from_args(args(config_file=str(file)))


def test_the_plan_can_be_told_in_the_document() -> None:
    config = from_args(args(lab=True, scenario="crash")).config()
    assert config["lab"]["session_pickup"] is True
    assert config["trigger"] == {"kind": "crash", "command": []}
    assert config["validation_s"] == 5


def test_out_is_checked_beforehand(tmp_path: Path) -> None:
    check_out(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory"):
        check_out(tmp_path / "file" / "runs")
