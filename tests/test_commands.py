from __future__ import annotations

import os
from pathlib import Path

from probe.commands import replace


def test_a_result_takes_the_place_of_a_file_whole(tmp_path: Path) -> None:
    result = tmp_path / "result"
    result.write_text("old")
    with result.open() as reader:
        replace(str(result), "new\n")
        assert reader.read() == "old"
    assert result.read_text() == "new\n" and [p.name for p in tmp_path.iterdir()] == ["result"]


def test_a_link_goes_on_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "1.om").write_text("old")
    (tmp_path / "latest").symlink_to("1.om")
    replace(str(tmp_path / "latest"), "new\n")
    assert (tmp_path / "latest").is_symlink() and (tmp_path / "1.om").read_text() == "new\n"


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace(str(pipe), "to whom it may concern\n")
        assert os.read(reader, 100) == b"to whom it may concern\n" and pipe.is_fifo()
    finally:
        os.close(reader)
