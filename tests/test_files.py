"""Files that a user names: what is refused before any work, and what is never replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from probe import cli, files
from probe.errors import UsageError


@pytest.mark.parametrize("place", [".", "no/such/file", ""])
def test_what_cannot_be_written_is_refused_beforehand(place: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        files.check_outputs("-", str(tmp_path / place) if place else "")


def test_what_we_may_not_look_at_cannot_be_written(closed: Path) -> None:
    for file in (closed / "inside" / "result", closed / "inside", closed / "result"):
        with pytest.raises(UsageError, match="cannot be written; allowed: "):
            files.check_outputs(str(file))
        assert not files.not_a_file(str(file))


def test_a_name_too_long_cannot_be_written(tmp_path: Path) -> None:
    for place in ("n" * 300, f"{'n' * 300}/result"):
        with pytest.raises(UsageError, match="cannot be written; allowed: "):
            files.check_outputs(str(tmp_path / place))


def test_what_is_no_text_does_not_cost_the_result(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A file's name may hold any octet."""
    name = os.fsdecode(b"r\xff.parquet")
    files.write(str(tmp_path / "result"), name)
    assert (tmp_path / "result").read_bytes() == b"r?.parquet"
    files.write("-", name)
    assert capfdbinary.readouterr().out == b"r?.parquet\n"


def test_two_results_do_not_share_a_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for pair in (("-", "-"), (str(tmp_path / "a"), str(tmp_path / "a")), (str(tmp_path / "a"), str(tmp_path / "link"))):
        with pytest.raises(UsageError, match="two results at once"):
            files.check_outputs(*pair, None)
    files.check_outputs("-", str(tmp_path / "a"), str(tmp_path / "b"), None)


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.check_outputs(str(pipe), str(pipe))  # one after the other
        files.replace(str(pipe), "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_recording_never_takes_the_place_of_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert cli.main(["measure", "icmp://192.0.2.1", "--record", str(tmp_path / "pipe")]) == 2
    assert "cannot be written to a pipe or device" in capsys.readouterr().err


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_text("old")
    before = file.stat().st_ino
    files.replace(str(file), "new")
    assert file.read_text() == "new"
    assert file.stat().st_ino != before  # who reads the old one goes on reading it
    assert [f.name for f in tmp_path.iterdir()] == ["result"]


def test_a_link_goes_on_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "1.om").write_text("old")
    (tmp_path / "latest").symlink_to("1.om")
    files.replace(str(tmp_path / "latest"), "new")
    assert (tmp_path / "latest").is_symlink() and (tmp_path / "1.om").read_text() == "new"
