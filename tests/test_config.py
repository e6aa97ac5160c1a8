"""The config file: what a sound one becomes, and the exact words about each mistake."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import jsonschema
import pytest
import yaml

from probe import config, config_docs, yamlfile
from probe.core.events import FlowSpec
from probe.errors import ConfigError

ROOT = Path(__file__).parent.parent

# The example of the documented surface, word for word.
CONTRACT = """\
flows:
  - name: a-to-b
    protocol: udp
    session: both
    stack: packet
    path: east-west
    target: 10.99.97.10
    port: 862
    rate: 1000
    size: 64
reflector: {udp: 862, tcp: 8620, allow: [10.99.96.0/19], key_file: /etc/haprobe/stamp.key}
watchers:
  aws: {region: eu-west-2, addresses: [eipalloc-1], route_tables: [rtb-1], network_interfaces: [],
        units: {fgt-a: [eni-a1, eni-a2], fgt-b: [eni-b1]},
        endpoint_url: null, interval: 2s, fast_interval: 250ms}
  fortigate: {units: {fgt-a: {host: 10.99.99.122, token_file: /etc/haprobe/fgt-a.token}}}
agents: {workload-b: {url: "https://10.99.97.10:10862"}}
drill: {trigger: {kind: manual}, steady: 10s, validation: 10s, limit: 10m}
"""

FLOW = "flows:\n  - {name: f, protocol: udp, target: 10.0.0.1%s}\n"


def parse(text: str, need: config.Need = "agent") -> config.AgentConfig:
    return config.from_yaml(yamlfile.parse(text, "f.yml"), need=need)


def problems(text: str, need: config.Need = "agent") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, need)
    assert caught.value.exit_status == 2
    return caught.value.problems


def problem(text: str, need: config.Need = "agent") -> str:
    found = problems(text, need)
    assert len(found) == 1, found
    return found[0]


# --- sound files ---------------------------------------------------------------------------------------------------


def test_the_documented_example_loads() -> None:
    loaded = parse(CONTRACT)
    assert loaded.reflector is not None
    assert (loaded.reflector.udp, loaded.reflector.tcp) == (862, 8620)
    assert loaded.watchers.aws is not None
    assert (loaded.watchers.aws.interval, loaded.watchers.aws.fast_interval) == (2.0, 0.25)
    assert loaded.watchers.aws.units == {"fgt-a": ["eni-a1", "eni-a2"], "fgt-b": ["eni-b1"]}
    assert (loaded.drill.steady, loaded.drill.validation, loaded.drill.limit) == (10.0, 10.0, 600.0)
    assert loaded.agents["workload-b"].url == "https://10.99.97.10:10862"


def test_both_sessions_make_twins() -> None:
    common = {
        "protocol": "udp",
        "path": "east-west",
        "target": "10.99.97.10",
        "port": 862,
        "rate_pps": 1000.0,
        "size": 72,
    }
    assert parse(CONTRACT).flow_specs() == [
        FlowSpec(name="a-to-b", session="kept", **common),  # type: ignore[arg-type]
        FlowSpec(name="a-to-b-fresh", session="fresh", **common),  # type: ignore[arg-type]
    ]


def test_what_is_not_carried_out_to_the_letter_is_told() -> None:
    assert parse(CONTRACT).notices == [
        "f.yml:10: flows[0].size: 64 raised to 72, the next IP packet that carries a whole udp probe",
        "f.yml:16: watchers.fortigate.units: is one unit only; the other one's role will be unknown",
    ]


def test_every_option_of_a_flow_reaches_its_spec() -> None:
    options = "".join(
        f", {key}: {value}"
        for key, value in {
            "session": "fresh",
            "port": 9000,
            "rate": 0.5,
            "size": 200,
            "dscp": 46,
            "ttl": 9,
            "interface": "eth1",
            "source": "10.0.0.2",
            "loss_threshold": "250ms",
            "outage_min_probes": 5,
            "pacing": "coarse",
            "path": "ingress",
        }.items()
    )
    assert parse(FLOW % options).flow_specs() == [
        FlowSpec(
            name="f",
            protocol="udp",
            session="fresh",
            path="ingress",
            target="10.0.0.1",
            port=9000,
            rate_pps=0.5,
            size=200,
            dscp=46,
            ttl=9,
            interface="eth1",
            source="10.0.0.2",
            loss_threshold_ns=250_000_000,
            outage_min_probes=5,
            pacing="coarse",
        )
    ]


def test_ports_have_the_defaults_of_their_protocol() -> None:
    text = """\
flows:
  - {name: a, protocol: udp, target: h}
  - {name: b, protocol: icmp, target: h}
  - {name: c, protocol: tcp, target: h, port: 22}
"""
    assert [spec.port for spec in parse(text).flow_specs()] == [862, 0, 22]


def test_one_part_is_enough_to_do_something() -> None:
    parse("reflector: {udp: 862}\n")
    parse("watchers: {aws: {region: eu-west-2, addresses: [eipalloc-1]}}\n")
    agents_only = "agents: {b: {url: 'http://[2001:db8::1]:10862'}}\n"
    assert parse(agents_only, need="drill").agents["b"].ca_file is None
    parse(agents_only, need="any")


def test_a_command_is_words_without_a_shell() -> None:
    text = "agents: {b: {url: 'http://b:1'}}\ndrill: {trigger: {kind: command, command: %s}}\n"
    assert parse(text % "ssh fw 'execute ha failover set 1'", "drill").drill.trigger.command == [
        "ssh",
        "fw",
        "execute ha failover set 1",
    ]
    assert parse(text % "[echo, x y]", "drill").drill.trigger.command == ["echo", "x y"]


FORTIGATE = """\
watchers:
  fortigate:
    fast_interval: 250ms
    units:
      fgt-a:
        host: 10.0.0.1
        token_file: /a
        ssh: {key_file: /k, fingerprint: "SHA256:%s"}
      fgt-b: {host: b.example, port: 8443, token_env: B_TOKEN, ca_file: /ca, tls_name: fgt-b}
""" % ("x" * 43)


def test_both_fortigates_with_their_command_line() -> None:
    loaded = parse(FORTIGATE)
    assert loaded.notices == []
    watcher = loaded.watchers.fortigate
    assert watcher is not None
    assert (watcher.interval, watcher.fast_interval) == (2.0, 0.25)
    a, b = watcher.units["fgt-a"], watcher.units["fgt-b"]
    assert a.ssh is not None
    assert (a.port, a.ssh.port, a.ssh.user, a.ssh.key_file) == (443, 22, "haprobe", "/k")
    assert (b.ssh, b.token_file, b.token_env, b.tls_name) == (None, None, "B_TOKEN", "fgt-b")


def test_units_that_the_aws_watcher_calls_otherwise_are_told() -> None:
    aws = "  aws: {region: eu-west-2, addresses: [eipalloc-1], units: {fgt-a: [eni-1], other: [eni-2]}}\n"
    assert parse(FORTIGATE.replace("watchers:\n", "watchers:\n" + aws)).notices == [
        "f.yml:10: watchers.fortigate.units.fgt-b: is no name of watchers.aws.units; who is active cannot be compared"
        " between the two"
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("token_file: /a", "port: 1", "fgt-a.token_file: is missing; allowed: one of token_file, token_env"),
        (
            "token_env: B_TOKEN",
            "token_env: B_TOKEN, token_file: /b",
            "fgt-b.token_env: stands beside token_file; allowed: one of token_file, token_env",
        ),
        (
            "key_file: /k",
            "port: 2222",
            "fgt-a.ssh.key_file: is missing; allowed: one of key_file, password_file, password_env",
        ),
        (
            "key_file: /k",
            "key_file: /k, password_env: P",
            "fgt-a.ssh.password_env: stands beside key_file; allowed: one of key_file, password_file, password_env",
        ),
        (
            "SHA256:",
            "MD5:",
            f"fgt-a.ssh.fingerprint: 'MD5:{'x' * 43}' does not fit; allowed: SHA256: and 43 characters, as `ssh-keygen",
        ),
        ("key_file: /k", "password: x", "fgt-a.ssh.password: unknown key"),
        ("token_env: B_TOKEN", "token: B_TOKEN", "fgt-b.token: unknown key"),
    ],
)
def test_a_mistake_about_a_fortigate(old: str, new: str, message: str) -> None:
    found = problems(FORTIGATE.replace(old, new))
    assert any(f": watchers.fortigate.units.{message}" in one for one in found), found


def test_no_fortigate_at_all_is_a_mistake() -> None:
    assert "watchers.fortigate.units: is empty; allowed: both units" in problem("watchers: {fortigate: {units: {}}}\n")


def test_the_sample_is_sound() -> None:
    sample = config.load(ROOT / "systemd/haprobe.yml")
    config.resolve_hosts(sample)
    assert sample.notices == []
    assert len(sample.flow_specs()) == 7


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}\n", "flows: []\n", "watchers: {}\n", "agents: {b: {url: 'http://b'}}\n"]
)
def test_a_file_with_nothing_to_do_is_a_mistake(text: str) -> None:
    assert problem(text).endswith("holds nothing to do; allowed: at least one of flows, reflector, watchers")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rate: 0", "flows[0].rate: 0 is out of range; allowed: 0.001 to 2000000 probes per second"),
        ("rate: -1", "flows[0].rate: -1 is out of range; allowed: 0.001 to 2000000 probes per second"),
        (
            "rate: 2000001",
            "flows[0].rate: 2000001 is out of range; allowed: 0.001 to 2000000 probes per second",
        ),
        ("rate: .nan", "flows[0].rate: nan is out of range; allowed: 0.001 to 2000000 probes per second"),
        (
            f"rate: {'9' * 400}",
            f"flows[0].rate: {'9' * 400} is out of range; allowed: 0.001 to 2000000 probes per second",
        ),
        (
            f"rate: -0x{'f' * 400}",
            f"flows[0].rate: {-(16**400 - 1)} is out of range; allowed: 0.001 to 2000000 probes per second",
        ),
        (
            "rate: fast",
            "flows[0].rate: 'fast' is not a number; allowed: 0.001 to 2000000 probes per second",
        ),
        ("rate: yes", "flows[0].rate: True is not a number; allowed: 0.001 to 2000000 probes per second"),
        ("port: 0", "flows[0].port: 0 is out of range; allowed: 1 to 65535"),
        ("port: '862'", "flows[0].port: '862' is not a whole number; allowed: 1 to 65535"),
        ("port: 8.5", "flows[0].port: 8.5 is not a whole number; allowed: 1 to 65535"),
        ("dscp: 64", "flows[0].dscp: 64 is out of range; allowed: 0 to 63"),
        ("ttl: 0", "flows[0].ttl: 0 is out of range; allowed: 1 to 255"),
        ("size: 1501", "flows[0].size: 1501 is out of range; allowed: 20 to 1500 octets of IP packet"),
        ("outage_min_probes: 0", "flows[0].outage_min_probes: 0 is out of range; allowed: 1 to 1000000 probes"),
        ("session: old", "flows[0].session: 'old' is not known; allowed: kept, fresh or both"),
        ("pacing: slow", "flows[0].pacing: 'slow' is not known; allowed: fine or coarse"),
        ("source: here", "flows[0].source: 'here' is no IP address; allowed: an IPv4 or IPv6 address"),
        ("source: '::1'", "flows[0].source: is IPv6 and target is IPv4; allowed: an IPv4 address"),
        ("path: a b", "flows[0].path: 'a b' does not fit; allowed: 1 to 64 of A-Z a-z 0-9 _ . -"),
        ("stack: kernel", "flows[0].stack: kernel is for tcp only, not for udp; allowed: packet"),
        (
            "interface: waytoolongname01",
            "flows[0].interface: 'waytoolongname01' does not fit;"
            " allowed: an interface name, such as eth0 (at most 15 characters)",
        ),
        (
            "loss_threshold: 2",
            "flows[0].loss_threshold: 2 is not a duration;"
            " allowed: 10ms to 60s: a number with a unit, such as 250ms, 2s, 5m or 1h",
        ),
        (
            f"loss_threshold: {'9' * 400}s",
            f"flows[0].loss_threshold: '{'9' * 400}s' is out of range;"
            " allowed: 10ms to 60s: a number with a unit, such as 250ms, 2s, 5m or 1h",
        ),
        (
            "loss_threshold: 9ms",
            "flows[0].loss_threshold: '9ms' is out of range;"
            " allowed: 10ms to 60s: a number with a unit, such as 250ms, 2s, 5m or 1h",
        ),
    ],
)
def test_a_wrong_value_names_line_field_and_what_is_allowed(option: str, message: str) -> None:
    assert problem(FLOW % f", {option}") == f"f.yml:2: {message}"


def test_an_unknown_key_is_told_with_the_likely_one() -> None:
    message = problem("flows:\n  - name: f\n    protocol: icmp\n    target: h\n    rat: 5\n")
    assert message.startswith("f.yml:5: flows[0].rat: unknown key (did you mean rate?); allowed: name, protocol, ")


def test_a_missing_key_is_told_in_the_line_of_its_parent() -> None:
    assert problems("reflector: {udp: 862}\nflows:\n  - {name: f}\n") == [
        "f.yml:3: flows[0].protocol: is missing; allowed: icmp, udp or tcp",
        "f.yml:3: flows[0].target: is missing; allowed: an IP address or a host name",
    ]


def test_ports_belong_to_protocols() -> None:
    assert problems(
        "flows:\n  - {name: a, protocol: icmp, target: h, port: 7}\n  - {name: b, protocol: tcp, target: h}\n"
    ) == [
        "f.yml:2: flows[0].port: icmp has no ports; allowed: leave it out",
        "f.yml:3: flows[1].port: is missing: tcp has no default port; allowed: 1 to 65535",
    ]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("session: fresh", "session: 'fresh' with stack kernel: a stream is one kept session; allowed: kept"),
        ("session: both", "session: 'both' with stack kernel: a stream is one kept session; allowed: kept"),
        ("size: 64", "size: is for packets; a stream's records have 36 octets; allowed: leave it out"),
        ("rate: 1001", "rate: 1001 with stack kernel; allowed: more than 0 and up to 1000 keystrokes"),
    ],
)
def test_a_stream_is_one_kept_session_of_the_kernels_own(more: str, what: str) -> None:
    text = "flows:\n  - {name: b, protocol: tcp, target: h, port: 22, stack: kernel, %s}\n"
    assert problem(text % more) == f"f.yml:2: flows[0].{what}"


def test_a_stream_types_as_a_person_would() -> None:
    text = "flows:\n  - {name: b, protocol: tcp, target: h, port: 22, stack: kernel}\n"
    (spec,) = config.from_yaml(yamlfile.parse(text, "f.yml")).flow_specs()
    assert (spec.stack, spec.session, spec.rate_pps) == ("kernel", "kept", 10.0)


def test_the_echo_service_has_a_port_of_its_own() -> None:
    text = "reflector: {tcp: 7, echo: 7}\n"
    assert problem(text) == "f.yml:1: reflector.echo: port 7 is tcp's already; allowed: another port"


def test_names_are_unique_with_the_derived_ones() -> None:
    text = """\
flows:
  - {name: a, protocol: icmp, target: h, session: both}
  - {name: a-fresh, protocol: icmp, target: h}
  - {name: b-fresh, protocol: icmp, target: h}
  - {name: b, protocol: icmp, target: h, session: both}
  - {name: a, protocol: icmp, target: h}
"""
    once = "; allowed: a name used once"
    assert problems(text) == [
        f"f.yml:3: flows[1].name: a-fresh is also the name of flows[0] (made by session: both){once}",
        f"f.yml:5: flows[3].name: b-fresh (made by session: both) is also the name of flows[2]{once}",
        f"f.yml:6: flows[4].name: a is also the name of flows[0]{once}",
    ]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
flows:
  - {name: a b, protocol: upd, target: h, port: 99999}
  - {name: t, protocol: tcp, target: h, rate: 0}
reflector: {allow: [10.0.0.1/8]}
watchers: {aws: {region: london, units: {a: [eni-1], b: [eni-1]}}}
agents: {b: {url: ftp://b}, c: {url: 'http://u:p@c', username: u}, d: {url: 'http://d..e'}}
drill: {trigger: {kind: command}, limit: 5}
more: 1
"""
    found = problems(text)
    assert [line.split(": ")[0:2] for line in found] == [
        ["f.yml:2", "flows[0].name"],
        ["f.yml:2", "flows[0].port"],
        ["f.yml:2", "flows[0].protocol"],
        ["f.yml:3", "flows[1].port"],
        ["f.yml:3", "flows[1].rate"],
        ["f.yml:4", "reflector"],
        ["f.yml:4", "reflector.allow[0]"],
        ["f.yml:5", "watchers.aws"],
        ["f.yml:5", "watchers.aws.region"],
        ["f.yml:5", "watchers.aws.units.b[0]"],
        ["f.yml:6", "agents.b.url"],
        ["f.yml:6", "agents.c.url"],
        ["f.yml:6", "agents.c.username"],
        ["f.yml:6", "agents.d.url"],
        ["f.yml:7", "drill.limit"],
        ["f.yml:7", "drill.trigger.command"],
        ["f.yml:8", "more"],
    ]
    assert all("; allowed: " in line for line in found)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("- a\n- b\n", "f.yml:1: a list where a mapping of keys is needed"),
        ("flows: 5\n", "f.yml:1: flows: 5 where a list is needed; allowed: a list of items, each keys name, "),
        ("flows:\n  - text\n", "f.yml:2: flows[0]: 'text' where a mapping of keys is needed; allowed: keys name, "),
        ("flows: {a: 1}\n", "f.yml:1: flows: a mapping where a list is needed"),
        ("reflector: 862\n", "f.yml:1: reflector: 862 where a mapping of keys is needed; allowed: keys udp, tcp"),
        ("reflector: {}\n", "f.yml:1: reflector: has no port to answer on; allowed: udp, tcp or echo"),
        (
            "reflector: {udp: 1}\nagents: {a b: {url: 'http://b'}}\n",
            "f.yml:2: agents.a b: 'a b' does not fit; allowed: 1 to 64 of A-Z a-z 0-9 _ . -",
        ),
    ],
)
def test_a_wrong_shape_is_told(text: str, start: str) -> None:
    assert any(line.startswith(start) for line in problems(text)), problems(text)


REMOTE = "reflector: {udp: 862}\nremote_write:\n  url: https://mimir.example/api/v1/push\n"


def test_remote_write_with_its_defaults() -> None:
    remote = parse(REMOTE).remote_write
    assert remote is not None
    assert (remote.send_interval, remote.lag, remote.spool, remote.spool_limit) == (5.0, 2.0, None, 256)
    assert remote.external_labels == remote.headers == {}


@pytest.mark.parametrize(
    ("line", "field", "what"),
    [
        ("cert_file: c.pem", "cert_file", "needs key_file as well; allowed: both or neither"),
        ("password_file: p", "password_file", "needs username as well; allowed: both or neither"),
        ("external_labels: {a-b: c}", "external_labels.a-b", "'a-b' does not fit; allowed: a label name"),
        ("external_labels: {__name__: c}", "external_labels.__name__", "is the name of a metric; allowed: other"),
        ("send_interval: 1ms", "send_interval", "'1ms' is out of range; allowed: 100ms to 1m"),
        ("spool_limit: 0", "spool_limit", "0 is out of range; allowed: 1 to 1000000 MiB"),
    ],
)
def test_a_mistake_in_remote_write_is_told(line: str, field: str, what: str) -> None:
    assert problem(f"{REMOTE}  {line}\n").startswith(f"f.yml:4: remote_write.{field}: {what}")


def test_a_token_and_a_user_are_one_too_many() -> None:
    found = problem(f"{REMOTE}  username: u\n  password_file: p\n  token_file: t\n")
    assert found == "f.yml:6: remote_write.token_file: stands beside username; allowed: one of them"


def test_a_drill_needs_agents() -> None:
    assert problem("reflector: {udp: 862}\n", need="drill").startswith(
        "f.yml:1: agents: a drill needs agents to ask; allowed: "
    )


def test_a_key_given_twice_comes_with_the_other_mistakes() -> None:
    found = problems("flows:\n  - {name: f, protocol: icmp, target: h, ttl: 0}\nflows: []\n")
    assert any("f.yml:3: flows: is given twice, first in line 1" in line for line in found)


# --- hosts and files -----------------------------------------------------------------------------------------------


def test_addresses_need_no_resolver() -> None:
    flow = "  - {name: %s, protocol: icmp, target: '%s'}\n"
    text = "flows:\n" + flow % ("a", "192.0.2.1") + flow % ("b", "2001:db8::1")
    assert config.resolve_hosts(parse(text)) == {("192.0.2.1", None): "192.0.2.1", ("2001:db8::1", None): "2001:db8::1"}


@pytest.mark.parametrize("zone", ["lo", "1"])
def test_a_link_local_address_keeps_its_interface(zone: str) -> None:
    assert config.look_up(f"fe80::1%{zone}") == "fe80::1%lo"
    assert config.look_up("fe80::1") == "fe80::1"


def test_unknown_hosts_are_told_with_line_and_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, *_: object) -> list[tuple[object, ...]]:
        if host.startswith("known"):
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.7", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    text = """\
flows:
  - {name: a, protocol: icmp, target: known.example}
  - name: b
    protocol: icmp
    target: nobody.invalid
  - {name: c, protocol: icmp, target: nothing.invalid}
"""
    with pytest.raises(ConfigError) as caught:
        config.resolve_hosts(parse(text))
    what = "is unknown (Name or service not known); allowed: an IP address, or a name that can be looked up"
    assert caught.value.problems == [
        f"f.yml:5: flows[1].target: host 'nobody.invalid' {what}",
        f"f.yml:6: flows[2].target: host 'nothing.invalid' {what}",
    ]


def test_a_name_that_dns_cannot_hold_is_unknown() -> None:
    text = f"flows:\n  - {{name: a, protocol: icmp, target: {'x' * 70}.example}}\n"
    with pytest.raises(ConfigError, match=r"f.yml:2: flows\[0\].target: host .* is unknown"):
        config.resolve_hosts(parse(text))


def test_files_that_cannot_be_read_are_told_with_line_and_field(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    text = f"reflector: {{udp: 862, key_file: {key}}}\nagents:\n  b:\n    url: http://b\n    ca_file: {tmp_path}/none\n"
    with pytest.raises(ConfigError) as caught:
        config.check_files(parse(text))
    what = f"{tmp_path}/none cannot be read: No such file or directory; allowed: a readable file"
    assert caught.value.problems == [f"f.yml:5: agents.b.ca_file: {what}"]
    with pytest.raises(ConfigError) as caught:
        config.check_files(
            parse(f"flows:\n  - {{name: a, protocol: udp, target: 192.0.2.1, key_file: {tmp_path}/none}}\n")
        )
    assert caught.value.problems == [f"f.yml:2: flows[0].key_file: {what}"]


# --- documentation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config_docs.files())
def test_generated_documentation_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == config_docs.files()[name], "run `make docs`"


def test_the_schema_agrees_with_the_models() -> None:
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / "docs/haprobe.schema.json").read_text()))
    for text in (CONTRACT, (ROOT / "systemd/haprobe.yml").read_text()):
        assert list(validator.iter_errors(yaml.safe_load(text))) == []
    for option in ("rate: 0", "rat: 5", "port: 0", "session: old", "loss_threshold: 2", "size: 1501"):
        assert list(validator.iter_errors(yaml.safe_load(FLOW % f", {option}"))), option


def test_the_schema_gives_defaults_as_they_are_written() -> None:
    schema = config.json_schema()
    assert schema["$defs"]["Flow"]["properties"]["loss_threshold"]["default"] == "2s"


# --- triggers of a drill ---------------------------------------------------------------------------------------------

AGENTS = "agents: {b: {url: 'http://b:1'}}\n"
WATCHED = "watchers: {aws: {region: eu-west-2, instances: {fgt-a: i-0a}}}\n"
SSH = "kind: fortigate, unit: fgt-a, host: 10.0.0.1, user: admin"


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (f"{{{SSH}, key_file: k, known_hosts: h}}", {"port": 22, "vcluster": 1, "undo": False}),
        (f"{{{SSH}, password_file: p, fingerprint: 'SHA256:{'A' * 43}', undo: true}}", {"undo": True}),
        (f"{{{SSH}, password_env: P, known_hosts: h}}", {"password_env": "P"}),
        ("{kind: aws-stop-instance, unit: fgt-a, force: true}", {"force": True}),
        ("{kind: aws-reboot-instance, instance: i-1, region: us-gov-west-1}", {"instance": "i-1"}),
        ("{kind: command, command: a b, undo_command: c, undo: true}", {"undo_command": ["c"]}),
    ],
)
def test_sound_triggers(trigger: str, expected: dict[str, object]) -> None:
    loaded = parse(f"{AGENTS}{WATCHED}drill: {{trigger: {trigger}}}\n", "drill").drill.trigger
    assert {key: getattr(loaded, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        ("{kind: tickle}", "kind: 'tickle' is not known; allowed: manual, command, lab, fortigate, aws-stop-instance"),
        ("{kind: fortigate, unit: a, host: h, key_file: k, known_hosts: h}", "user: is missing for kind fortigate"),
        (f"{{{SSH}, key_file: k}}", "known_hosts: is missing; allowed: one of known_hosts, fingerprint"),
        (
            f"{{{SSH}, key_file: k, password_file: p, known_hosts: h}}",
            "password_file: stands beside key_file; allowed: one of",
        ),
        (f"{{{SSH}, key_file: k, fingerprint: md5}}", "fingerprint: 'md5' does not fit"),
        ("{kind: aws-stop-instance, unit: fgt-c}", "allowed: an instance id, or of watchers.aws.instances: fgt-a"),
        ("{kind: aws-stop-instance, instance: eni-1}", "instance: 'eni-1' does not fit"),
        ("{kind: aws-reboot-instance, unit: fgt-a, force: true}", "force: is only for kind aws-stop-instance"),
        ("{kind: manual, undo: true}", "undo: is only for kind command or fortigate or aws-stop-instance"),
        ("{kind: command, command: a, undo: true}", "undo: needs undo_command"),
        ("{kind: aws-stop-instance, unit: fgt-a, role_arn: me}", "role_arn: 'me' does not fit"),
        ("{kind: [manual]}", "kind: ['manual'] is not known"),
    ],
)
def test_triggers_that_cannot_be(trigger: str, said: str) -> None:
    assert any(
        f"drill.trigger.{said}" in one or said in one
        for one in problems(f"{AGENTS}{WATCHED}drill: {{trigger: {trigger}}}\n", "drill")
    )


def test_an_aws_trigger_needs_a_region_from_somewhere() -> None:
    text = f"{AGENTS}drill: {{trigger: {{kind: aws-stop-instance, instance: i-1}}}}\n"
    assert "there is no watchers.aws to take it of" in problem(text, "drill")
