"""Looks an HA pair up in an account: `haprobe discover aws`. Asks few questions, each once; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from probe.errors import UsageError
from probe.watch.access import PATIENT, Access, explained, make_client
from probe.watch.ec2 import pages
from probe.watch.pair import Pair, analyse, candidates, choose

_ALIVE = ["pending", "running", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to tell the pair's instances from the rest of the account. Nothing given: by image and name."""

    instances: tuple[str, ...] = ()  # ids
    tags: tuple[tuple[str, str], ...] = ()  # all have to match
    name: str = ""  # shell-style pattern of the Name tag

    def how(self) -> str:
        """In words."""
        if self.instances:
            return f"called {', '.join(self.instances)}"
        parts = [f"tagged {key}={value}" for key, value in self.tags]
        parts += [f"named {self.name}"] if self.name else []
        return " and ".join(parts) or "with a FortiGate image, or FortiGate, fgt or fgcp in its name,"


def discover(access: Access, wanted: Wanted, tell: Callable[[str], None] = lambda text: None) -> Pair:
    """Find the pair.

    Args:
        access: Where and as whom to ask.
        wanted: Which instances.
        tell: Gets a line of progress.

    Raises:
        PrivilegeError: Without credentials, or when a call is denied; names the action.
        PeerError: If AWS cannot be reached.
        UsageError: If there is no such pair, or more than one.
    """
    with _asking(access, "ec2:DescribeInstances"):
        client = make_client(access, patience=PATIENT)
        tell("asking EC2 for instances")
        found = _instances(client, wanted)
    if not (wanted.instances or wanted.tags or wanted.name):
        with _asking(access, "ec2:DescribeImages"):
            found = candidates(found, _image_names(client, found))
    first, second = choose(found, wanted.how())
    with _asking(access, "ec2:DescribeAddresses"):
        tell("asking for elastic IPs")
        addresses = client.describe_addresses()["Addresses"]
    with _asking(access, "ec2:DescribeRouteTables"):
        tell("asking for route tables")
        tables = list(pages(client.describe_route_tables, {"MaxResults": 100}, "RouteTables"))
    return analyse(client.meta.region_name, (first, second), addresses, tables)


@contextmanager
def _asking(access: Access, action: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise explained(error, access, action) from error


def _instances(client: Any, wanted: Wanted) -> list[Mapping[str, Any]]:
    asked: dict[str, Any] = {}
    if wanted.instances:
        asked["InstanceIds"] = list(wanted.instances)
    else:
        asked["MaxResults"] = 500  # EC2 takes none beside ids
        filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.tags]
        filters += [{"Name": "tag:Name", "Values": [wanted.name]}] if wanted.name else []
        asked["Filters"] = [*filters, {"Name": "instance-state-name", "Values": _ALIVE}]
    reservations = pages(client.describe_instances, asked, "Reservations")
    return [one for reservation in reservations for one in reservation["Instances"]]


def _image_names(client: Any, instances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names of the images, as far as they still exist and may be seen."""
    ids = sorted({str(one["ImageId"]) for one in instances if one.get("ImageId")})
    if not ids:
        return {}
    # By filter and not by id: an image that is gone would be an error there.
    found = pages(client.describe_images, {"Filters": [{"Name": "image-id", "Values": ids[:200]}]}, "Images")
    return {str(image["ImageId"]): str(image.get("Name", "")) for image in found}


def parse_tag(text: str) -> tuple[str, str]:
    """`KEY=VALUE` of `--tag`.

    Raises:
        UsageError: If it is none.
    """
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise UsageError(f"--tag {text}: KEY=VALUE is needed, such as --tag Environment=lab")
    return key, value
