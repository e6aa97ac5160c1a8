"""The table of families against the contract, the docs and the naming rules."""

from __future__ import annotations

import re
from pathlib import Path

from probe.export.metrics import FAMILIES, FLOW, PROBE_COUNTS, WRITTEN, markdown_table

ROOT = Path(__file__).parents[2]

# The metrics that users, dashboards and rules were promised, with the labels each promise names.
PROMISED = {
    **{f"haprobe_probes_{count}_total": () for count in PROBE_COUNTS},
    "haprobe_probes_lost_by_direction_total": ("direction",),
    "haprobe_resets_total": ("cause",),
    "haprobe_rtt_seconds": (),
    "haprobe_flow_up": (),
    "haprobe_outages_total": (),
    "haprobe_outage_seconds_total": (),
    "haprobe_unobserved_seconds_total": (),
    "haprobe_last_outage_start_timestamp_seconds": (),
    "haprobe_last_outage_end_timestamp_seconds": (),
    "haprobe_last_outage_duration_seconds": ("bound",),
    "haprobe_last_outage_lost_probes": (),
    "haprobe_flow_verdict": ("verdict",),
    "haprobe_flow_info": (),
    "haprobe_aws_eip_owner_info": (),
    "haprobe_aws_route_owner_info": (),
    "haprobe_aws_private_ip_owner_info": (),
    "haprobe_aws_active_unit": ("unit",),
    "haprobe_aws_last_change_timestamp_seconds": (),
    "haprobe_aws_api_requests_total": ("operation", "result"),
    "haprobe_aws_api_seconds": (),
    "haprobe_fortigate_role": ("unit", "role"),
    "haprobe_fortigate_info": ("unit", "version", "build", "serial"),
    "haprobe_watcher_up": ("watcher",),
    "haprobe_watcher_last_success_timestamp_seconds": ("watcher",),
    "haprobe_clock_max_error_seconds": (),
    "haprobe_build_info": (),
    "haprobe_config_last_reload_successful": (),
}
ADDRESSES = {"target", "address", "port", "interface", "source"}


def test_every_promised_metric_is_declared_with_its_labels():
    for name, labels in PROMISED.items():
        assert name in FAMILIES
        assert set(labels) <= set(FAMILIES[name].labels), name


def test_the_ten_probe_counts_are_those_promised():
    assert " ".join(PROBE_COUNTS) == (
        "scheduled unsent sent received lost late duplicate reordered corrupt dropped_locally"
    )


def test_addresses_of_a_flow_are_on_its_info_only():
    for family in FAMILIES.values():
        if family.labels[: len(FLOW)] == FLOW:
            assert bool(ADDRESSES & set(family.labels)) == (family.name == "haprobe_flow_info"), family.name


def test_names_tell_type_and_carry_the_prefix():
    for family in FAMILIES.values():
        assert re.fullmatch(r"haprobe_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.name.endswith("_info") == (family.kind == "info"), family.name
        assert family.help.endswith("."), family.name


def test_committed_docs_are_current():
    assert (ROOT / "docs/metrics.md").read_text() == markdown_table(), "run `make docs`"


def test_docs_hold_a_row_per_family():
    rows = [line for line in markdown_table().splitlines() if line.startswith("| `haprobe_")]
    assert [row.split("`")[1] for row in rows] == [*FAMILIES, *(family.name for family in WRITTEN)]
