"""`haprobe measure` without a network: names of flows, Ctrl-C, and what is said about silence."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from probe.core.events import Counts, FlowSpec
from probe.errors import UsageError
from probe.interrupts import interruptible
from probe.measure import _silence, _state, _wait, _write, flow_specs
from probe.progress import Progress
from probe.recorder import FlowTrack
from probe.report.document import new_document
from probe.targets import Target, parse


def specs(*urls: str, sessions: tuple[str, ...] = ("kept",)) -> list[FlowSpec]:
    return flow_specs([parse(url) for url in urls], 250.0, sessions, "egress", "eth7", 300_000_000)  # type: ignore[arg-type]


def test_a_flow_is_named_after_its_target() -> None:
    made = specs("icmp://192.0.2.1", "udp://192.0.2.1", "tcp://[2001:db8::1]:443")
    assert [spec.name for spec in made] == ["icmp-192.0.2.1", "udp-192.0.2.1-862", "tcp-2001.db8..1-443"]
    assert {(s.rate_pps, s.path, s.interface, s.loss_threshold_ns) for s in made} == {
        (250.0, "egress", "eth7", 300_000_000)
    }


def test_twins_are_named_alike_and_the_same_target_twice_is_two_flows() -> None:
    made = specs("tcp://192.0.2.1:22", "tcp://192.0.2.1:22", "tcp://192.0.2.1:22", sessions=("kept", "fresh"))
    names = [spec.name for spec in made]
    assert names[:2] == ["tcp-192.0.2.1-22", "tcp-192.0.2.1-22-fresh"]
    assert len(set(names)) == 6
    for spec in made:
        assert (spec.session == "fresh") == ("-fresh" in spec.name)


def test_ctrl_c_halts_once_and_gives_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    halted: list[bool] = []
    with interruptible(lambda: halted.append(True)) as interrupted:
        assert not interrupted.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.is_set()
        assert halted == [True]
        with pytest.raises(KeyboardInterrupt):  # the user insists
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_elsewhere_than_in_the_main_thread_nobody_is_interrupted() -> None:
    seen: list[bool] = []

    def body() -> None:
        with interruptible(lambda: None) as interrupted:
            seen.append(interrupted.is_set())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(5)
    assert seen == [False]


def track(state: str) -> FlowTrack:
    made = FlowTrack(specs("icmp://192.0.2.1")[0], 0, "192.0.2.1")
    made.state = state  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["up", "up"], "all answering"),
        (["connecting", "up"], "no answer yet: icmp-192.0.2.1"),
        (["connecting", "down"], "dark: icmp-192.0.2.1"),
        (["suspect", "up"], "dark: icmp-192.0.2.1"),
        (["ended"], "ended: icmp-192.0.2.1"),
    ],
)
def test_the_progress_says_the_worst(states: list[str], said: str) -> None:
    assert _state([track(state) for state in states]) == said


class LastProbe:
    """A prober of one flow whose last probe leaves just after the counters were read, and is answered late.

    Args:
        after: After how many readings; also how many it takes from there until the answer is in.
    """

    def __init__(self, after: int):
        self.tracks = [track("up")]
        self.readings = self.halts = 0
        self._after = after
        self.recorder = SimpleNamespace(sample=self._sample, history=SimpleNamespace(counts=self._counts))
        self.engine = SimpleNamespace(alive=lambda: True)

    def halt(self) -> None:
        self.halts += 1

    def _sample(self) -> None:
        self.readings += 1

    def _counts(self, *_: Any) -> Counts:
        left, answered = self.readings > self._after, self.readings > 2 * self._after
        self.tracks[0].done = self.readings >= self._after
        return Counts(sent=9 + left, received=9 + answered, pending=left - answered)


@pytest.mark.parametrize("ended_by_hand", [False, True])
def test_it_waits_for_the_answer_to_the_last_probe(ended_by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.measure.time.sleep", lambda s: None)
    interrupted, prober = threading.Event(), LastProbe(after=3)
    if ended_by_hand:
        interrupted.set()
    _wait(prober, prober.tracks, 300.0, 2.0, Progress(quiet=True), interrupted)  # type: ignore[arg-type]
    assert prober._counts().pending == 0 and prober._counts().received == 10
    assert prober.halts == ended_by_hand


def test_silence_is_told_with_what_to_look_at() -> None:
    def said(url: str, **counts: int) -> str:
        flow = {"name": "x", "counts": {"sent": 0, "unsent": 0, **counts}}
        return _silence(flow, specs(url)[0])

    assert "no reply from 192.0.2.1 to any of 9 probes" in said("icmp://192.0.2.1", sent=9)
    assert "`haprobe reflect --udp 862`" in said("udp://192.0.2.1", sent=9)
    assert "listen on port 443" in said("tcp://192.0.2.1:443", sent=9)
    assert "is the interface up?" in said("icmp://192.0.2.1", unsent=9)
    assert "nothing was sent to 192.0.2.1 yet" in said("icmp://192.0.2.1")


def test_a_stream_is_one_kept_session_at_a_typists_pace() -> None:
    target = Target("tcp", "h", 7, "kernel")
    (spec,) = flow_specs([target], None, ("kept", "fresh"), "p", None, 1)
    assert (spec.name, spec.stack, spec.session, spec.rate_pps) == ("stream-h-7", "kernel", "kept", 10.0)
    (faster,) = flow_specs([target], 200.0, ("kept",), "p", None, 1)
    assert faster.rate_pps == 200.0
    with pytest.raises(UsageError, match="one kept session"):
        flow_specs([target], None, ("fresh",), "p", None, 1)
    with pytest.raises(UsageError, match="up to 1000"):
        flow_specs([target], 1001.0, ("kept",), "p", None, 1)


def test_packets_have_their_usual_rate_beside_a_stream() -> None:
    targets = [Target("udp", "h", 862), Target("tcp", "h", 7, "kernel")]
    assert [spec.rate_pps for spec in flow_specs(targets, None, ("kept",), "p", None, 1)] == [1000.0, 10.0]


def test_a_result_that_its_file_does_not_take_is_still_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = new_document(run={}, flows=[])
    with pytest.raises(UsageError, match="cannot be written"):
        _write(document, str(tmp_path / "report.json"), str(tmp_path))  # a directory where the page should be
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == document["schema"]
    assert "No outage" in capsys.readouterr().out
