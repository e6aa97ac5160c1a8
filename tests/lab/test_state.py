from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from probe.core.events import TimelineEvent
from probe.lab import processes, state
from probe.lab.namespace import LabError
from probe.lab.plan import Plan

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def plan(tmp_path):
    plan = Plan("nolab-", tmp_path / "lab")
    plan.save()
    return plan


@pytest.fixture
def sleeper():
    process = subprocess.Popen(SLEEPER)
    yield process
    process.kill()
    process.wait()


def event(at_ns: int, name: str = "x", **detail) -> TimelineEvent:
    return TimelineEvent(at_ns, "lab", name, detail=detail)


def test_events_come_back_in_order_of_time_and_from_an_instant_on(plan):
    for at_ns in (30, 10, 20):
        state.append_event(plan, event(at_ns, unit="fgt-a"))
    assert [one.at_ns for one in state.read_events(plan)] == [10, 20, 30]
    assert state.read_events(plan, 20) == [event(20, unit="fgt-a"), event(30, unit="fgt-a")]


def test_a_line_being_written_is_left_out(plan):
    state.append_event(plan, event(1))
    with plan.events_file.open("a") as file:
        file.write('{"at_ns": 2, "sou')
    assert [one.at_ns for one in state.read_events(plan)] == [1]


def test_writers_at_the_same_time_do_not_mix_their_lines(plan):
    def write(start: int) -> None:
        for number in range(200):
            state.append_event(plan, event(start + number, filler="x" * 300))

    threads = [threading.Thread(target=write, args=(1000 * one,)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(state.read_events(plan)) == 800


def test_no_log_means_no_events(tmp_path):
    assert state.read_events(Plan(state=tmp_path / "nothing")) == []


def test_only_one_may_raise_or_remove_a_lab(plan):
    with state.Claim(plan):
        with pytest.raises(LabError, match=f"another haprobe .pid {os.getpid()}."):
            state.Claim(plan)
    state.Claim(plan).release()


def test_a_process_is_known_by_its_start_time_too(sleeper):
    one = processes.identify("x", sleeper.pid)
    assert one.alive
    other = replace(one, started=one.started - 1)  # an earlier owner of the same pid
    assert not other.alive
    other.signal(signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_killed_process_is_not_alive_even_before_it_is_reaped(sleeper):
    one = processes.identify("x", sleeper.pid)
    assert processes.kill([one]) == []
    assert not one.alive
    assert sleeper.wait() == -signal.SIGKILL


def test_a_process_that_obeys_in_time_is_not_killed(sleeper):
    processes.kill([processes.identify("x", sleeper.pid)], grace_s=5)
    assert sleeper.wait() == -signal.SIGTERM


def test_a_process_that_does_not_obey_is_killed():
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True)\nwhile True: signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        processes.kill([processes.identify("x", process.pid)], grace_s=0.05)
        assert process.wait() == -signal.SIGKILL


def test_nothing_of_the_users_cloud_reaches_a_process_of_the_lab(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    monkeypatch.setenv("LISTEN_FDS", "3")
    environment = processes.environment({"MORE": "1"})
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "https_proxy", "LISTEN_FDS"} & set(environment)
    assert environment["AWS_EC2_METADATA_DISABLED"] == "true"
    assert environment["MORE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


def test_a_record_is_read_back(plan):
    record = state.Record("http://127.0.0.1:1", [processes.Process("cloud", 1, 2)], {"jumphost": "http://127.0.0.1:2"})
    record.save(plan)
    assert state.Record.load(plan) == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": [{"pid": 1}]}'])
def test_a_damaged_record_is_no_record(plan, text):
    (plan.state / "lab.json").write_text(text)
    assert state.Record.load(plan) is None


def test_clear_ends_what_the_record_names_and_removes_the_files(plan, sleeper):
    state.Record(processes=[processes.identify("agent x", sleeper.pid)]).save(plan)
    assert state.leftovers(plan) == [f"process {sleeper.pid} (agent x)"]
    state.clear(plan)
    assert sleeper.wait() == -signal.SIGKILL
    assert not plan.state.exists()
    assert state.leftovers(plan) == []
    state.clear(plan)  # nothing there: nothing to do
