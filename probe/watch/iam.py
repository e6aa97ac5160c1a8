"""The permissions this program needs, by purpose: least privilege, as IAM policies.

A test drives every way into AWS and holds what was called against these tables, and another reads the code for calls
that no table has. `haprobe discover aws --policy` prints them, docs/iam holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Describe* and LookupEvents know no resource scope: "*" is the least there is.
WATCH = ("ec2:DescribeAddresses", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables")
DISCOVER = ("ec2:DescribeAddresses", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeRouteTables")
BACKFILL = ("cloudtrail:LookupEvents",)
TRIGGER = ("ec2:RebootInstances", "ec2:StartInstances", "ec2:StopInstances")
TRIGGER_WATCH = ("ec2:DescribeInstances",)
ASSUME = ("sts:AssumeRole",)
ACTIONS = frozenset((*WATCH, *DISCOVER, *BACKFILL, *TRIGGER, *TRIGGER_WATCH, *ASSUME))
DRILL_TAG = "haprobe"  # only instances tagged haprobe = drill may be stopped


def policies() -> dict[str, dict[str, Any]]:
    """Each policy by its name: what everybody needs who watches, what only a drill needs, and for an assumed role."""
    tagged = {"StringEquals": {f"aws:ResourceTag/{DRILL_TAG}": "drill"}}
    return {
        "watch": _policy(
            _statement("HaprobeWatch", WATCH),
            _statement("HaprobeDiscover", DISCOVER),
            _statement("HaprobeBackfill", BACKFILL),
        ),
        "drill": _policy(
            _statement("HaprobeDrillState", TRIGGER_WATCH),
            _statement("HaprobeDrill", TRIGGER, "arn:aws:ec2:*:*:instance/*", tagged),
        ),
        "assume-role": _policy(_statement("HaprobeAssume", ASSUME, "arn:aws:iam::123456789012:role/haprobe")),
    }


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _statement(
    name: str, actions: tuple[str, ...], resource: str = "*", condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": name, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return statement | ({"Condition": dict(condition)} if condition else {})
