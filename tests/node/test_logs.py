"""A log is cut while its writer goes on, and a link in its place leads nowhere."""

import os
from pathlib import Path

import pytest

from tenantry.node.effects.logs import trim_log, trim_logs
from tenantry.node.layout import Layout


def test_a_log_below_the_limit_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "blog.log"
    log.write_bytes(b"x" * 99)
    assert trim_log(log, 100) is False
    assert log.stat().st_size == 99
    assert not (tmp_path / "blog.log.1").exists()


def test_the_writer_of_a_cut_log_goes_on_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "blog.log"
    writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    os.write(writer, b"old line\n" * 20)
    assert trim_log(log, 18) is True
    os.write(writer, b"new line\n")
    os.close(writer)
    assert log.read_bytes() == b"new line\n"
    assert (tmp_path / "blog.log.1").read_bytes() == b"old line\n" * 2, "the last bytes are what is kept"
    assert (tmp_path / "blog.log.1").stat().st_mode & 0o777 == 0o640


def test_a_second_cut_replaces_the_older_piece(tmp_path: Path) -> None:
    log = tmp_path / "blog.log"
    for text in (b"first!", b"second"):
        log.write_bytes(text)
        assert trim_log(log, 6)
    assert (tmp_path / "blog.log.1").read_bytes() == b"second"


def test_a_log_is_emptied_also_when_its_copy_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / ("b" * 251 + ".log")  # the copy's name would be longer than any file's may be
    log.write_bytes(b"x" * 50)
    assert trim_log(log, 10) is True
    assert log.stat().st_size == 0, "on a full disk it would stay full"
    assert ".log is emptied without a copy" in caplog.text
    assert list(tmp_path.iterdir()) == [log]


def test_a_link_in_a_logs_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * 50)
    log = tmp_path / "blog.log"
    log.symlink_to(victim)
    with pytest.raises(OSError):
        trim_log(log, 10)
    assert victim.stat().st_size == 50


def test_a_log_that_is_gone_is_nothing_to_cut(tmp_path: Path) -> None:
    assert trim_log(tmp_path / "gone.log", 1) is False


def test_only_logs_that_have_grown_are_cut(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    trim_logs(layout, 10)  # before anything is there
    layout.site_logs.mkdir(parents=True)
    for name, size in (("flood.log", 50), ("quiet.log", 9), ("flood.migrate", 50)):
        (layout.site_logs / name).write_bytes(b"x" * size)
    (layout.site_logs / "link.log").symlink_to(layout.site_logs / "flood.migrate")
    trim_logs(layout, 10)
    sizes = {path.name: path.stat().st_size for path in layout.site_logs.iterdir()}
    assert sizes == {"flood.log": 0, "flood.log.1": 10, "quiet.log": 9, "flood.migrate": 50, "link.log": 50}
