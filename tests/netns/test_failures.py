"""A drill whose cloud watcher is refused from beginning to end; other ways to fail are played back from recordings
(`tests/report/test_recorded.py`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from probe.drill.scenarios import SCENARIOS
from probe.errors import SteadyStateError
from probe.report.document import laws
from tests.bench.failures import play, wrong

TOOLS = ("ip", "nft", "conntrack", "conntrackd", "ethtool", "nsenter")
pytestmark = [
    pytest.mark.netns,
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"),
]


def test_a_watcher_that_may_not_read_the_cloud_costs_the_report_nothing_else(tmp_path: Path) -> None:
    try:
        document = play("watcher-denied", tmp_path, 50)
    except SteadyStateError as error:  # which is before any of it is tried
        pytest.skip(f"this machine is too busy for a steady state: {error}")
    assert laws(document, settled=True) == []
    assert len(document["flows"]) == 20
    scenario, codes = SCENARIOS["watcher-denied"], {d["code"] for d in document["diagnosis"]}
    assert codes <= {scenario.diagnosis, *scenario.also, "probe_unreliable"}
    blind = next(d for d in document["diagnosis"] if d["code"] == "watcher_blind")
    assert "UnauthorizedOperation" in blind["evidence"][0]
    trigger_ns = document["run"]["trigger"]["at_ns"]
    down = next(e for e in document["timeline"] if e["event"] == "watcher_down" and e["source"] == "aws")
    assert down["at_ns"] < trigger_ns, "blind from the start, and told although that was before the run"
    if "unobserved" not in {f["verdict"] for f in document["flows"]}:  # a machine with much else to do
        assert wrong(scenario, document) == []
        assert [p["name"] for p in document["phases"]][-1] == "full_recovery"
    # The unit's own output stands in for what the watcher could not see.
    told = [e["detail"] for e in document["timeline"] if e["event"] == "api_call" and e["source"] == "fortigate"]
    assert ("AssociateAddress", "ok") in [(d["operation"], d["result"]) for d in told]
