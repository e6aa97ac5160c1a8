"""How well the clock is kept, from stand-ins for ClockBound and chrony, and from this host's kernel."""

from __future__ import annotations

import contextlib
import stat
import struct
from pathlib import Path

import pytest

from probe import timesync
from probe.timesync import (
    UNKNOWN_ERROR_NS,
    HostClock,
    ask_chrony,
    ask_clockbound,
    chrony_tracking,
    host_clock,
    kernel_clock,
    phc_error_ns,
)
from probe.wire.tlv import SYNC_FREE_RUNNING, SYNC_GNSS, SYNC_NTP, SYNC_PTP, SYNC_UNKNOWN
from tests.wire import rfc

S = 1_000_000_000
# Printed by chrony 4.3 (`chronyc -c -n tracking`): following a server; referring to itself; the rest is derived.
FOLLOWING = "7F000001,127.0.0.1,3,1795359630.806683688,-0.000000647,-0.000000596,0.000000596,-2.509,-0.000,189.626,0.000005841,0.000096336,0.3,Normal\n"  # noqa: E501
ALONE = "7F7F0101,,10,1795359633.626637024,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,0.000000000,0.000000000,0.0,Normal\n"  # noqa: E501
SILENT = "506 Cannot talk to daemon\n"


def named(reference: str, name: str, leap: str = "Normal") -> str:
    fields = FOLLOWING.strip().split(",")
    return ",".join([reference, name, *fields[2:13], leap])


# --- chrony ----------------------------------------------------------------------------------------------------------


def test_chrony_s_bound_is_offset_dispersion_and_half_the_delay():
    clock = chrony_tracking(FOLLOWING)
    assert clock == HostClock(True, 647 + 96_336 + 2_920, "chrony", SYNC_NTP)
    assert clock.to_document() == {"synchronised": True, "max_error_ns": 99_903, "source": "chrony"}


@pytest.mark.parametrize("line", [ALONE, named("00000000", ""), named("7F000001", "127.0.0.1", "Not synchronised")])
def test_a_chrony_that_follows_nothing(line):
    clock = chrony_tracking(line)
    assert clock == HostClock(False, None, "chrony", SYNC_FREE_RUNNING)
    assert clock.to_document()["max_error_ns"] == 16 * S


@pytest.mark.parametrize(
    ("reference", "name", "kind", "more"),
    [
        ("A9FEA97B", "169.254.169.123", SYNC_NTP, 0),
        ("0A1B2C3D", "fd00:ec2::123", SYNC_NTP, 0),
        ("50484330", "PHC0", SYNC_PTP, 5_000),  # the clock of a network card
        ("47505300", "GPS", SYNC_GNSS, 0),
        ("50505330", "PPS0", SYNC_GNSS, 0),
        ("4B564D00", "KVM", SYNC_UNKNOWN, 0),
    ],
)
def test_what_chrony_follows(reference, name, kind, more):
    assert chrony_tracking(named(reference, name), phc_ns=5_000) == HostClock(True, 99_903 + more, "chrony", kind)


@pytest.mark.parametrize(
    "line", ["", SILENT, FOLLOWING.replace("0.000005841", "?"), FOLLOWING.replace(",0.3", ""), "inf," * 13 + "Normal"]
)
def test_what_is_no_tracking(line):
    assert chrony_tracking(line) is None


@pytest.fixture
def stand_in_chronyc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A `chronyc` that prints what it is told to, in place of any that is installed."""

    def install(prints: str, status: int = 0) -> None:
        script = tmp_path / "chronyc"
        script.write_text(
            f"#!/bin/sh\n[ \"$*\" = '-c -n tracking' ] || exit 9\nprintf '%s' '{prints}'\nexit {status}\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return install


def test_chrony_is_asked_by_its_own_client(stand_in_chronyc):
    stand_in_chronyc(FOLLOWING)
    assert ask_chrony() == HostClock(True, 99_903, "chrony", SYNC_NTP)
    stand_in_chronyc(SILENT, 1)
    assert ask_chrony() is None


def test_a_client_that_hangs_or_does_not_run_is_no_answer(stand_in_chronyc, tmp_path, monkeypatch):
    stand_in_chronyc(FOLLOWING)
    (tmp_path / "chronyc").write_text("#!/no/such/interpreter\n")
    assert ask_chrony() is None
    (tmp_path / "chronyc").write_text("#!/bin/sh\nexec sleep 100\n")
    monkeypatch.setattr(timesync, "CHRONYC_TIMEOUT_S", 0.2)
    assert ask_chrony() is None


def test_a_card_s_own_error(tmp_path):
    assert phc_error_ns(tmp_path / "none") == 0
    for name, text in {"0000:00:05.0": "1500\n", "0000:00:06.0": "2500\n", "0000:00:07.0": "n/a\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "phc_error_bound").write_text(text)
    assert phc_error_ns(tmp_path) == 2500


# --- ClockBound ------------------------------------------------------------------------------------------------------


def segment(
    *, version: int = 2, generation: int = 6, bound: int = 40_000, drift: int = 50_000, status: int = 1,
    as_of: int = 100 * S, void_after: int = 200 * S, magic: tuple[int, int] = (0x414D5A4E, 0x43420200),
) -> bytes:  # fmt: skip
    """ClockBound's shared memory as its protocol describes it, native byte order."""
    head = struct.pack("=IIIHH", *magic, 80, version, generation)
    head += struct.pack("=qqqqq", *divmod(as_of, S), *divmod(void_after, S), bound)
    if version == 1:
        return head + struct.pack("=IIi", drift, 0, status) + bytes(4)
    return head + struct.pack("=QIiB7x", 7, drift, status, 1)


@pytest.fixture
def stand_in_clockbound(tmp_path: Path):
    def write(**fields) -> Path:
        file = tmp_path / "shm0"
        file.write_bytes(segment(**fields))
        return file

    return write


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("age_s", "grown"), [(0, 0), (1, 50_000), (90, 4_500_000), (-1, 0)])
def test_clockbound_s_bound_grows_by_the_drift(stand_in_clockbound, version, age_s, grown):
    file = stand_in_clockbound(version=version)
    assert ask_clockbound(file, 100 * S + age_s * S) == HostClock(True, 40_000 + grown, "clockbound", SYNC_UNKNOWN)


def test_clockbound_in_free_run_has_a_bound_and_nobody_to_follow(stand_in_clockbound):
    clock = ask_clockbound(stand_in_clockbound(status=2), 100 * S)
    assert clock == HostClock(False, 40_000, "clockbound", SYNC_FREE_RUNNING)
    assert clock.error_estimate() & 0x8000 == 0 and 40_000 <= rfc.error_ns(clock.error_estimate()) < 41_000


def test_a_machine_that_was_moved_has_a_clock_that_nobody_knows(stand_in_clockbound, stand_in_chronyc, monkeypatch):
    # chrony does not see it and would go on telling its bound of before.
    stand_in_chronyc(FOLLOWING)
    monkeypatch.setattr(timesync, "CLOCKBOUND", (stand_in_clockbound(status=3),))
    assert host_clock() == HostClock(False, None, "clockbound", SYNC_FREE_RUNNING)


@pytest.mark.parametrize(
    "fields", [{"status": 0}, {"generation": 0}, {"generation": 7}, {"version": 3}, {"magic": (1, 2)}, {"bound": -1}]
)
def test_what_clockbound_does_not_know_it_does_not_say(stand_in_clockbound, fields):
    assert ask_clockbound(stand_in_clockbound(**fields), 100 * S) is None


def test_a_stale_or_cut_or_missing_segment_says_nothing(stand_in_clockbound, tmp_path):
    file = stand_in_clockbound()
    assert ask_clockbound(file, 200 * S) is not None and ask_clockbound(file, 200 * S + 1) is None
    for octets in (0, 15, 71):
        file.write_bytes(segment()[:octets])
        assert ask_clockbound(file, 100 * S) is None
    assert ask_clockbound(tmp_path / "none") is None and ask_clockbound(tmp_path) is None


class StandInSegment:
    """A segment that is another at each look."""

    def __init__(self, *states: bytes):
        self._states = list(states)

    def open(self, *_args, **_more):
        return contextlib.nullcontext(self)

    def seek(self, _place: int) -> None: ...

    def read(self, octets: int) -> bytes:
        return self._states.pop(0)[:octets]


def test_a_segment_that_is_being_written_is_read_again():
    """The daemon makes the generation odd, writes, and makes it even: one more than before at the least."""
    torn, writing, done = (segment(generation=n, bound=bound) for n, bound in ((6, 1), (7, 2), (8, 3)))
    looks = StandInSegment(torn, done, writing, writing, done, done)
    assert ask_clockbound(looks, 100 * S).max_error_ns == 3
    assert ask_clockbound(StandInSegment(*[writing] * 1000), 100 * S) is None


# --- who is believed -------------------------------------------------------------------------------------------------


def test_clockbound_comes_before_chrony_and_chrony_before_the_kernel(
    stand_in_clockbound, stand_in_chronyc, monkeypatch, tmp_path
):
    monkeypatch.setattr(timesync, "CLOCKBOUND", (tmp_path / "none", stand_in_clockbound(void_after=1 << 60)))
    stand_in_chronyc(FOLLOWING)
    clock = host_clock()
    assert (clock.source, clock.synchronised, clock.reference) == ("clockbound", True, SYNC_NTP)
    (tmp_path / "shm0").unlink()
    assert host_clock().source == "chrony"
    stand_in_chronyc(SILENT, 1)
    assert host_clock() == kernel_clock() and host_clock().source == "adjtimex"


def test_the_kernel_tells_about_its_clock():
    clock = kernel_clock()
    assert clock.synchronised == (clock.max_error_ns is not None)
    assert clock.max_error_ns is None or clock.max_error_ns > 0
    assert clock.reference == (SYNC_UNKNOWN if clock.synchronised else SYNC_FREE_RUNNING)


@pytest.mark.parametrize("error", [0, 1, 99_903, 16 * S])
def test_the_error_estimate_is_that_of_the_bound(error):
    encoded = HostClock(True, error).error_estimate()
    assert encoded & 0xC000 == 0x8000 and error <= rfc.error_ns(encoded) <= error * 1.02 + 1
    unknown = HostClock(False, None).error_estimate()
    assert unknown & 0xC000 == 0 and rfc.error_ns(unknown) == 16 * S


@pytest.mark.parametrize(
    ("bound", "step", "grown"), [(812_000, 0, 812_000), (812_000, -8, 812_008), (None, 5, UNKNOWN_ERROR_NS + 5)]
)
def test_a_step_adds_to_the_bound(bound, step, grown):
    stepped = HostClock(synchronised=True, max_error_ns=bound).stepped(step)
    assert stepped.to_document()["max_error_ns"] == grown
