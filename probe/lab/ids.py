"""The cloud's ids of what the plan names: written by the cloud when it is ready, read by everyone else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CloudIds:
    """Ids by the plan's names, and the way back. The document of STATE/cloud.json has the same fields."""

    region: str
    vpc: str
    igw: str
    tgw: str
    subnets: dict[str, str] = field(default_factory=dict)  # "public-a" to subnet-...
    enis: dict[str, str] = field(default_factory=dict)  # "fgt-a-port1" to eni-...
    instances: dict[str, str] = field(default_factory=dict)  # "fgt-a" to i-...
    route_tables: dict[str, str] = field(default_factory=dict)  # "transit" to rtb-...
    allocations: dict[str, str] = field(default_factory=dict)  # "cluster" to eipalloc-...

    def target_name(self, target_id: str) -> str | None:
        """The plan's name of a route's target: an ENI name, "igw", "tgw"; None for anything else."""
        if target_id == self.igw:
            return "igw"
        if target_id == self.tgw:
            return "tgw"
        return self.eni_name(target_id)

    def eni_name(self, eni_id: str) -> str | None:
        return next((name for name, one in self.enis.items() if one == eni_id), None)

    def table_name(self, table_id: str) -> str | None:
        return next((name for name, one in self.route_tables.items() if one == table_id), None)

    def units(self) -> dict[str, list[str]]:
        """Interface ids of each unit, as the AWS watcher's configuration wants them."""
        found: dict[str, list[str]] = {unit: [] for unit in self.instances}
        for name, eni_id in self.enis.items():
            found[name.rsplit("-", 1)[0]].append(eni_id)
        return found

    def save(self, path: Path) -> None:
        """Write the document whole or not at all: its presence says that the cloud is ready."""
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> CloudIds:
        """Read what `save` wrote.

        Raises:
            OSError: If there is no such file: the cloud is not ready.
        """
        return cls(**json.loads(path.read_text()))
